"""`pip install packages/<p>` where there is no torch yet."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from installing import LEFTOVERS, PACKAGES, ROOT, new_environment, pip, try_out


@pytest.mark.slow
def test_pip_install_into_an_empty_environment(tmp_path):
    """pip fetches the newest torch, to build with and to run with: the only test that leaves the tested set.

    It installs one package: what builds the others is the same (`test_packages_are_twins`).
    """
    python, package = new_environment(tmp_path / "env"), PACKAGES[0]
    clone = shutil.copytree(ROOT / "packages" / package, tmp_path / package, symlinks=True, ignore=LEFTOVERS)
    pip(python, "install", "-q", clone, **{f"{package.upper()}_CUDA": "0"})
    info, _ = try_out(package, python, tmp_path)
    assert info["active_cpu"] == "native"
    shutil.rmtree(tmp_path / "env")  # 5 GB that pytest would keep


def test_every_package_has_its_file():
    files = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert files == {*PACKAGES, "editable", "empty_environment"}
