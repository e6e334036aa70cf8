"""The chores of the house. Each session makes what it needs first, so any of them works from nothing, in any order.

    nox -s test                   every test that needs no GPU (the slow ones too where CI is set)
    nox -s test -- dwoconv1d -k x package names narrow every session, the rest goes to pytest or to the scripts;
                                  tests share out the cores but for `-- -n0`, `-- --pdb` and the path of a test
    nox -s reproduce              the papers' experiments at smoke size; `-- dwoconv1d --data PATH` goes full size,
                                  `-- dwoconv1d classification --set epochs=2` runs one of them
    nox -s build_ext lint sync bench cuda_check

All share one environment in .nox/, made from ci/constraints.txt. LEANCONV_PYTHON=/path/to/python names another one,
which is used as it is: only our packages are installed into it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = ROOT / "ci" / "constraints.txt"
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "test"]


def digest(files: Iterable[Path], *words: str) -> str:
    """Hash the names and contents of `files`, and `words`."""
    total = hashlib.sha256("\0".join(words).encode())
    for file in sorted(files):
        total.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return total.hexdigest()


def run(session: nox.Session, python: Path, *args: str | Path, **env: str) -> None:
    """Run `python *args` with the tools of its environment (ninja, clang-format) on PATH."""
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    session.run(str(python), *map(str, args), external=True, env={**env, "PATH": path})


def environment(session: nox.Session) -> Path:
    """Return the shared environment's Python; make or update it where the constraints have changed since."""
    if given := os.environ.get("LEANCONV_PYTHON"):
        return Path(given).absolute()
    folder = ROOT / ".nox" / "python{}.{}".format(*sys.version_info[:2])
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp, wanted = folder / "made-from", digest([CONSTRAINTS], sys.version)
    if not (stamp.exists() and stamp.read_text() == wanted):
        session.run(sys.executable, "-m", "virtualenv", "-q", str(folder), external=True)
        # Python compiles what it imports; pip would compile 12,000 files.
        run(session, python, "-m", "pip", "install", "-q", "--no-compile", "-r", CONSTRAINTS)
        stamp.write_text(wanted)
    return python


def install(session: nox.Session, packages: list[str]) -> Path:
    """Make `packages` and leanconv editable in the environment; build an extension only if its sources have changed."""
    python = environment(session)
    for folder in [*(ROOT / "packages" / name for name in packages), ROOT / "shared"]:
        sources = [folder / "pyproject.toml", *folder.glob("setup.py"), *folder.glob("_build/*.py")]
        sources += [file for file in folder.glob("csrc/**/*") if file.is_file()]
        settings = ("_CUDA", "_REQUIRE_NATIVE", "_ARCH_LIST")
        choices = [f"{key}={value}" for key, value in sorted(os.environ.items()) if key.endswith(settings)]
        # What was left out for want of a compiler is built once there is one.
        choices += [f"{tool}={shutil.which(tool)}" for tool in ("c++", "nvcc")]
        wanted = digest(sources, str(python), *choices)
        # Two stamps: the environment may have changed hands between clones, and the clone may have been cleaned.
        stamps = [python.parent / f".{folder.name}-built-from", folder / "build" / f"built-from-{folder.name}"]
        if not all(stamp.exists() and stamp.read_text() == wanted for stamp in stamps):
            log = folder / "build" / "install.log"  # what the compilers say
            log.unlink(missing_ok=True)
            options = ("-q", "--log", log, "--no-build-isolation", "--no-deps")
            run(session, python, "-m", "pip", "install", *options, "-e", folder)
            for stamp in stamps:
                stamp.parent.mkdir(exist_ok=True)
                stamp.write_text(wanted)
    return python


def arguments(session: nox.Session) -> tuple[list[str], list[str]]:
    """Split the arguments after `--` into our packages (all of them where none is named) and the rest."""
    rest = [argument for argument in session.posargs if argument not in PACKAGES]
    return [name for name in PACKAGES if name in session.posargs] or PACKAGES, rest


@nox.session
def build_ext(session: nox.Session) -> None:
    """Build the native libraries."""
    install(session, arguments(session)[0])


@nox.session
def test(session: nox.Session) -> None:
    """Run the tests of the packages, of leanconv and of the house."""
    packages, rest = arguments(session)
    python = install(session, PACKAGES)
    where = [f"packages/{name}/tests" for name in packages]
    if packages == PACKAGES:
        # Those that take minutes come first, or one process ends long after the others.
        where = ["tests", *where, "shared/tests"]
    how, env = [], {}
    if any(Path(argument.split("::")[0]).exists() for argument in rest):
        where = []  # the arguments say where
    elif subprocess.run([python, "-c", "import xdist"], capture_output=True).returncode == 0:
        # A process for each core, each with one thread; a file's tests stay together, for what its fixtures build.
        how, env = ["-n", "auto", "--maxprocesses=8", "--dist=loadfile", "--no-loadscope-reorder"], ONE_THREAD
    if os.environ.get("CI"):
        how += ["-m", "not gpu"]
        session.notify("lint", posargs=[])
    run(session, python, "-m", "pytest", "--durations=15", *how, *where, *rest, **env)


@nox.session
def lint(session: nox.Session) -> None:
    """Judge format, rules, types of the public API, and whether the copies of shared/common are equal."""
    python = environment(session)
    native = [
        file for suffix in ("h", "cpp", "cu", "cuh") for file in sorted(ROOT.glob(f"packages/*/csrc/**/*.{suffix}"))
    ]
    run(session, python, "-m", "ruff", "format", "--check", ".")
    run(session, python, "-m", "ruff", "check", ".")
    session.run(
        str(python.parent / "clang-format"), "--dry-run", "-Werror", *map(str, native), external=True, silent=True
    )
    run(session, python, "-m", "mypy")
    run(session, python, "shared/common/sync.py", "--check")


@nox.session
def sync(session: nox.Session) -> None:
    """Copy shared/common into the packages."""
    session.run(sys.executable, "shared/common/sync.py", external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the packages' operators against what torch offers."""
    packages, rest = arguments(session)
    python = install(session, packages)
    for script in sorted(file for name in packages for file in ROOT.glob(f"packages/{name}/benchmarks/[!_]*.py")):
        run(session, python, script, *rest)


@nox.session
def reproduce(session: nox.Session) -> None:
    """Run the papers' experiments, then print their numbers beside the papers'."""
    packages, rest = arguments(session)
    scripts = sorted(file for name in packages for file in ROOT.glob(f"experiments/{name}/[!_]*.py"))
    scripts = [script for script in scripts if not script.stem.startswith("prepare_")]  # those make data sets ready
    chosen = []
    while rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        found = [script for script in scripts if script.stem == name]
        if not found:
            stems, known = ", ".join(script.stem for script in scripts), ", ".join(PACKAGES)
            session.error(f"no package is called {name!r}, and no experiment; there are: {known}; {stems}")
        chosen += found
    python = install(session, packages)
    size = rest if "--data" in rest else ["--smoke", *rest]
    for script in chosen or scripts:
        run(session, python, script, *size)
    run(session, python, "-m", "leanconv", "report", "runs")


@nox.session
def cuda_check(session: nox.Session) -> None:
    """Do everything that needs a GPU; without one, compile the CUDA libraries and say that nothing ran."""
    packages, rest = arguments(session)
    if shutil.which("nvidia-smi"):
        python = environment(session)
        session.run(
            "bash", "ci/gpu_check.sh", *(rest or ["runs/gpu_check"]), external=True, env={"PYTHON": str(python)}
        )
        return
    os.environ.update({f"{name.upper()}_CUDA": "1" for name in packages})
    os.environ.update({f"{name.upper()}_REQUIRE_NATIVE": "1" for name in packages})
    install(session, packages)
    session.warn("No GPU here: the CUDA libraries were compiled and linked, and nothing was run.")
