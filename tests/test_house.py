"""The house keeps its own rules: equal copies, the same furniture in each package, libraries that fit any torch."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
FURNITURE = """
    pyproject.toml setup.py README.md CITATION.cff LICENSE _build/backend.py _build/extension.py
    csrc/cpu csrc/cuda csrc/common
    src/{p}/__init__.py src/{p}/__main__.py src/{p}/functional.py src/{p}/reference.py src/{p}/modules.py
    src/{p}/checkpoints.py src/{p}/models src/{p}/py.typed src/{p}/_csrc src/{p}/_common tests benchmarks
"""

packages = pytest.mark.parametrize("package", PACKAGES)


@packages
def test_furniture(package):
    missing = [
        item for item in FURNITURE.format(p=package).split() if not (ROOT / "packages" / package / item).exists()
    ]
    assert not missing


@packages
def test_packages_are_twins(package):
    """What builds a package is the same in all of them but for its name."""
    first = PACKAGES[0]
    for file in ("setup.py", "MANIFEST.in"):
        text = (ROOT / "packages" / package / file).read_text()
        assert text == (ROOT / "packages" / first / file).read_text().replace(first, package)
    systems = [(ROOT / "packages" / name / "pyproject.toml").read_text().split("\n[project]")[0] for name in PACKAGES]
    assert "[build-system]" in systems[0] and len(set(systems)) == 1


def test_helpers_of_tests_have_names_of_their_own():
    """Tests import them by their bare names: of two with one name, a process would find the first for both."""
    files = [*ROOT.glob("packages/*/tests/*.py"), *ROOT.glob("shared/tests/*.py"), *ROOT.glob("tests/**/*.py")]
    helpers = [file.name for file in files if not file.name.startswith(("test_", "conftest", "__init__"))]
    assert len(helpers) == len(set(helpers))


def test_copies_equal_their_source():
    done = subprocess.run(
        [sys.executable, "shared/common/sync.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_sync_sees_an_edited_copy_and_a_stray(tmp_path):
    for folder in ("shared/common/build", "packages/p/_build"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "packages/p/pyproject.toml").touch()
    (tmp_path / "shared/common/build/backend.py").write_text("source\n")
    (tmp_path / "packages/p/_build/stray.py").touch()
    script = tmp_path / "shared/common/sync.py"
    script.write_text((ROOT / "shared/common/sync.py").read_text())

    def sync(*flags):
        return subprocess.run([sys.executable, script, *flags], capture_output=True, text=True)

    assert sync("--check").returncode == 1
    assert sync().returncode == 0
    copy = tmp_path / "packages/p/_build/backend.py"
    assert copy.read_text() == "# edit in shared/common/build/backend.py\nsource\n"
    assert not (tmp_path / "packages/p/_build/stray.py").exists()
    assert sync("--check").returncode == 0
    copy.write_text("edited\n")
    assert sync("--check").returncode == 1


def test_packages_import_neither_leanconv_nor_each_other():
    for package in PACKAGES:
        others = "|".join({*PACKAGES, "leanconv"} - {package})
        pattern = re.compile(rf"^\s*(from|import) ({others})\b", re.MULTILINE)
        for file in (ROOT / "packages" / package / "src").rglob("*.py"):
            assert not pattern.search(file.read_text()), file


@packages
def test_schemas_are_the_same_in_cpp_and_python(package):
    sources = "".join(file.read_text() for file in (ROOT / "packages" / package / "csrc").glob("*.cpp"))
    compiled = {"".join(re.findall(r'"([^"]*)"', call)) for call in re.findall(r"m\.def\((.*?)\);", sources, re.DOTALL)}
    schemas = importlib.import_module(f"{package}.ops").SCHEMAS
    assert schemas
    assert {name + schema for name, schema in schemas.items()} <= compiled


@packages
def test_native_library_is_here_and_registered(package):
    """A silent fall-back to the reference would let every other test pass."""
    ops = importlib.import_module(f"{package}.ops")
    for op in ops.SCHEMAS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"{package}::{op}", "CPU")


@packages
def test_libraries_leak_no_torch_symbols(package):
    """Only the C functions of the stable ABI may be undefined: anything in a torch namespace ties us to one torch."""
    folder = Path(importlib.import_module(package).__file__).parent
    libraries = sorted(folder.glob("_C*.abi3.so"))
    assert libraries
    for library in libraries:
        symbols = subprocess.run(["nm", "-DC", "--undefined-only", library], capture_output=True, text=True, check=True)
        assert "aoti_torch" in symbols.stdout or "torch_" in symbols.stdout
        assert not re.findall(r"\b(?:c10|at|torch)::.*", symbols.stdout)


def test_readme_commands_are_what_ci_runs():
    """`.ci/run` takes its command from the README, so that the README cannot go stale."""
    commands = re.findall(
        r"^\s*(python3 -m venv .* -s (?:test|reproduce))$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert {command.rsplit(" ", 1)[1] for command in commands} == {"test", "reproduce"}
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_reproduce_names_the_packages_there_are():
    command = [sys.executable, "-m", "nox", "-s", "reproduce", "--", "no_such_package"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert (
        f"no package is called 'no_such_package', and no experiment; there are: {', '.join(PACKAGES)};" in done.stderr
    )
