"""`pip install packages/<p>` as a user would beside torch, with pip's build isolation on, and what is in a wheel.

Each `test_<p>.py` runs these for its package: processes share out the tests by files.
"""

from __future__ import annotations

import re
import shutil
import sysconfig
import zipfile
from pathlib import Path

import pytest
from installing import LEFTOVERS, PACKAGES, ROOT, new_environment, pip, run, try_out

from leanconv.testing.cuda import frames

CUDA = shutil.which("nvcc") is not None
ARCHS = {"75": "7.5", "80": "8.0", "90": "9.0+PTX"}  # of a build without a GPU
STACK = {"dwoconv1d": 32, "pathconv": 32, "pix": 32}  # bytes of a kernel that may lie there, before sm_90

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def package(request):
    return request.path.stem.removeprefix("test_")


@pytest.fixture(scope="module")
def tree(package, tmp_path_factory):
    """The package as a fresh clone holds it, outside the monorepo."""
    folder = tmp_path_factory.mktemp("clone") / package
    return Path(shutil.copytree(ROOT / "packages" / package, folder, symlinks=True, ignore=LEFTOVERS))


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The Python of a throw-away environment for all tests: making one takes longer than installing into it.

    A .pth line lends it our torch: the same to pip and to Python, and no copy of 5 GB.
    """
    python = new_environment(tmp_path_factory.mktemp("env"))
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    Path(purelib, "torch_of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
    return python


@pytest.fixture
def python(environment, package):
    """The Python of an environment that has not got the package."""
    run(environment, "-m", "pip", "uninstall", "-q", "-y", package)
    return environment


def check_native(package: str, python: Path, cwd: Path, *, cuda: bool) -> Path:
    """It runs natively, and has what it needs to run; return where it lies."""
    info, warnings = try_out(package, python, cwd)
    assert info["native_cpu"].startswith("available")
    assert info["active_cpu"] == "native"
    assert "Warning" not in warnings
    folder = Path(info["file"]).parent
    assert (folder / "_C_cuda.abi3.so").exists() == cuda
    assert list((folder / "_csrc" / "cuda").glob("*.cu")), "CuPy compiles these where there is no nvcc"
    return folder


@pytest.fixture(scope="module")
def installed(package):
    """What the compilers said in the environment of the tests; of every kernel where .ci/run asks nvcc to."""
    log = ROOT / "packages" / package / "build" / "install.log"
    return log.read_text() if log.exists() else ""


@pytest.fixture(scope="module")
def archs(installed):
    """The architectures that are still to be built."""
    return ";".join(name for arch, name in ARCHS.items() if arch == "90" or f"' for 'sm_{arch}'" not in installed)


@pytest.fixture(scope="module")
def wheel(environment, tree, archs, tmp_path_factory):
    """A wheel as `pip install` makes it, and the log of its build, whose objects later builds of the clone take."""
    folder = tmp_path_factory.mktemp("wheel")
    settings = {"TORCH_CUDA_ARCH_LIST": archs, "NVCC_APPEND_FLAGS": "-Xptxas=-v"}  # which tells of every kernel
    done = pip(environment, "wheel", "-v", "--no-deps", "-w", folder, tree, **settings)
    (file,) = folder.glob("*.whl")
    return file, done.stdout + done.stderr  # pip passes the compiler's lines on to stderr


def test_wheel_fits_every_python_and_torch(package, wheel, installed, tree, tmp_path):
    file, log = wheel
    assert "Collecting torch" not in log
    assert re.search(r"-cp310-abi3-\w+\.whl$", file.name)
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path / "wheel")
    libraries = sorted((tmp_path / "wheel" / package).glob("_C*.so"))
    assert [library.name for library in libraries] == ["_C.abi3.so", "_C_cuda.abi3.so"][: 1 + CUDA]
    for library in libraries:
        symbols = run("nm", "-DC", "--undefined-only", library).stdout
        assert "aoti_torch" in symbols or "torch_" in symbols
        assert not re.findall(r"\b(?:c10|at|torch)::.*", symbols)
    if CUDA:
        assert all(f"code=sm_{arch}" in log + installed for arch in ARCHS)

    # A weak symbol compiled for AVX-512 could take the place of its twin in the baseline and end older machines.
    objects = {path.stem: path for path in tree.glob("build/temp.*/csrc/cpu/*avx*.o")}
    assert objects.keys() == {path.stem for path in tree.glob("csrc/cpu/*avx*.cpp")}
    assert objects or package == "csgconv"  # which only copies
    for path in objects.values():
        symbols = run("nm", "-C", "--defined-only", path).stdout
        assert not re.findall(r"^\S* [WVu] .*", symbols, re.MULTILINE)


@pytest.mark.skipif(not CUDA, reason="nvcc is not installed")
def test_kernels_keep_their_numbers_in_registers(package, wheel, installed):
    """On sm_90 all of them, on older ones all but a few addresses outside the loops; and nvcc warns of nothing."""
    log = wheel[1] + installed
    assert not re.findall(r".*(?:\.cuh?[(:]\d.*|ptxas|nvcc) ?: ?warning.*|.*(?:ptxas|nvcc) warning.*", log)
    found = frames(log)
    kernels = [{kernel for arch, kernel in found if arch == wanted} for wanted in ARCHS]
    assert kernels[0] == kernels[1] == kernels[2] != set()
    for (arch, kernel), sizes in found.items():
        assert max(sizes) <= (0 if arch == "90" else STACK.get(package, 0)), (arch, kernel, sizes)


def test_wheel_installs_beside_torch(package, wheel, python, tmp_path):
    done = pip(python, "install", wheel[0])
    assert "Collecting torch" not in done.stdout + done.stderr
    assert check_native(package, python, tmp_path, cuda=CUDA).is_relative_to(python.parents[1])


def test_pip_install_beside_torch(package, python, tree, archs, tmp_path):
    """By the oldest pip for one package and the newest for the next: what builds them is the same."""
    version = ("pip==23.2", "pip")[PACKAGES.index(package) % 2]
    done = pip(python, "install", "-v", tree, version=version, TORCH_CUDA_ARCH_LIST=archs)
    assert "Collecting torch" not in done.stdout + done.stderr  # neither to build with nor to run with
    assert check_native(package, python, tmp_path, cuda=CUDA).is_relative_to(python.parents[1])


def test_without_a_compiler_it_installs_and_says_so_once(package, python, tree, tmp_path):
    tree = Path(shutil.copytree(tree, tmp_path / package, symlinks=True, ignore=LEFTOVERS))  # without what is built
    bare = {"PATH": str(python.parent), "CC": "no-such-compiler", "CXX": "no-such-compiler", "CUDA_HOME": "/no/cuda"}
    required = {f"{package.upper()}_REQUIRE_NATIVE": "1"}
    assert pip(python, "install", tree, check=False, **bare, **required).returncode != 0
    pip(python, "install", tree, **bare)
    info, warnings = try_out(package, python, tmp_path)
    assert info["active_cpu"] == "reference"
    assert "C++ compiler" in info["native_cpu"]
    assert warnings.count("RuntimeWarning") == 1
    assert "C++ compiler" in warnings
    assert "C++ compiler" in run(python, "-m", package, cwd=tmp_path).stdout
