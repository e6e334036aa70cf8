# edit in shared/common/build/extension.py
"""Builds `csrc/` into `<package>._C` (CPU) and `<package>._C_cuda`, both stable-ABI libraries without Python in them.

<PACKAGE>_CUDA=0|1            leave CUDA out or insist on it; else it is built when nvcc and a CUDA torch are found
<PACKAGE>_REQUIRE_NATIVE=1    fail when a library cannot be built; else the reference runs in its place
TORCH_CUDA_ARCH_LIST          instead of the visible GPU's architectures (or `CUDA_ARCHS` where there is no GPU)
MAX_JOBS                      compiler processes at once
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

# Binary code runs on later minor versions (8.0 covers 8.6 and 8.9), and the PTX of 9.0 on every later architecture.
CUDA_ARCHS = "7.5;8.0;9.0+PTX"
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # 2.10
FLAGS = ["-O3", "-g0", "-fvisibility=hidden", TORCH_TARGET]


def native(package: str) -> dict:
    """Return what `setuptools.setup` needs to build the native libraries of `package`; nothing without torch."""
    if "dist_info" in sys.argv:  # metadata alone is wanted, and torch takes two seconds to import
        return {}
    _name_cuda_home()
    try:
        from torch.utils import cpp_extension
    except ImportError:  # other metadata can be asked for before the build requirements are there
        return {}
    required = os.environ.get(f"{package.upper()}_REQUIRE_NATIVE") == "1"
    options = {
        "include_dirs": [os.path.abspath("csrc")],
        "py_limited_api": True,
        "depends": _sources("csrc", "*.h", "*.cuh"),
    }
    compile_args = {"cxx": FLAGS, "nvcc": ["-O3", "-Xcompiler=-g0,-fvisibility=hidden", TORCH_TARGET]}

    cpu = _sources("csrc", "*.cpp", recursive=False) + _sources("csrc/cpu", "*.cpp")
    modules = [cpp_extension.CppExtension(f"{package}._C", cpu, extra_compile_args=compile_args, **options)]
    cuda = _sources("csrc/cuda", "*.cu", "*.cpp")
    if cuda and _wants_cuda(package, cpp_extension.CUDA_HOME):
        modules.append(
            cpp_extension.CUDAExtension(f"{package}._C_cuda", cuda, extra_compile_args=compile_args, **options)
        )

    class BuildNative(cpp_extension.BuildExtension):
        """One library at a time, so that a failing CUDA build leaves the CPU library standing."""

        def build_extensions(self):
            wanted, built = self.extensions, []
            for extension in wanted:
                self.extensions = [extension]
                try:
                    super().build_extensions()
                    built.append(extension)
                except Exception as error:
                    if required:
                        raise
                    warnings.warn(
                        f"{extension.name} was not built, so plain PyTorch runs in its place: {error}. Install "
                        f"GCC or Clang, and nvcc for CUDA, and repeat; {package.upper()}_REQUIRE_NATIVE=1 makes this "
                        "an error.",
                        stacklevel=1,
                    )
            self.extensions = built

    return {
        "ext_modules": modules,
        "cmdclass": {"build_ext": BuildNative},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def _sources(folder: str, *patterns: str, recursive: bool = True) -> list[str]:
    """List files in sorted order, so that equal trees give equal libraries."""
    find = Path(folder).rglob if recursive else Path(folder).glob
    return sorted(str(path) for pattern in patterns for path in find(pattern))


def _name_cuda_home() -> None:
    """Ask nvcc where its toolkit is: the one on PATH may be a wrapper elsewhere, and torch guesses from its path."""
    nvcc = shutil.which("nvcc")
    if nvcc and not (os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")):
        answer = subprocess.run([nvcc, "--dryrun", "-c", "none.cu"], capture_output=True, text=True).stderr
        if top := re.search(r"TOP=(\S+)", answer):
            os.environ["CUDA_HOME"] = os.path.realpath(top[1])


def _wants_cuda(package: str, cuda_home: str | None) -> bool:
    import torch

    choice = os.environ.get(f"{package.upper()}_CUDA", "auto")
    nvcc = cuda_home is not None and shutil.which("nvcc", path=os.path.join(cuda_home, "bin")) is not None
    if choice == "1" and not (nvcc and torch.version.cuda):
        missing = "a CUDA build of torch" if nvcc else "nvcc (set CUDA_HOME or PATH)"
        sys.exit(f"{package.upper()}_CUDA=1, but {missing} was not found")
    if choice == "0" or not (nvcc and torch.version.cuda):
        return False
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_ARCHS)
    return True
