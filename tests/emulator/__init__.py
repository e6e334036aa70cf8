"""Compiles CUDA source into a library for the CPU, with `cuda_runtime.h` of this folder in the place of CUDA's.

For tests of what kernels compute on machines without a GPU; it says nothing about speed. A package brings a source file
with C functions that call its launchers, and ctypes calls those.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMPILER = shutil.which("g++")


def build(source: Path, include: Path, library: Path, *flags: str) -> ctypes.CDLL:
    """Compile `source`, which includes `.cu` files of the folder `include`, into `library` and load it.

    Raises:
        RuntimeError: it does not compile; the message is the compiler's.
    """
    command = [
        COMPILER,
        "-std=c++17",
        "-O1",
        "-U_FORTIFY_SOURCE",  # which takes a jump to another stack for a mistake
        "-g0",
        "-shared",
        "-fPIC",
        "-Wno-unknown-pragmas",
        *flags,
        f"-I{HERE}",
        f"-I{include}",
    ]
    result = subprocess.run([*command, str(source), "-o", str(library)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{source.name} does not compile for the emulator:\n{result.stderr[-4000:]}")
    return ctypes.CDLL(str(library))
