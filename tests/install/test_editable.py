"""`pip install -e packages/<p>` beside torch: of one package, what builds the others is the same."""

import pytest
from beside_torch import check_native, environment, python, tree  # noqa: F401
from installing import PACKAGES, pip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def package():
    return PACKAGES[0]


@pytest.mark.parametrize("version", ["pip==23.2", "pip"])
def test_editable_install_beside_torch(package, version, python, tree, tmp_path):  # noqa: F811
    """It compiles all again, with CUDA where `nox` makes it: here without."""
    without = {f"{package.upper()}_CUDA": "0"}
    done = pip(python, "install", "-v", "-e", tree, version=version, **without)
    assert "Collecting torch" not in done.stdout + done.stderr
    assert check_native(package, python, tmp_path, cuda=False).is_relative_to(tree)
