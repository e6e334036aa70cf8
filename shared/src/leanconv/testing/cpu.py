"""The levels of native CPU kernels, and memory that ends at a page which may not be touched."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

LEVELS = ("baseline", "avx2", "avx512")
KERNELS = ("reference", *LEVELS)  # all that can run on a CPU


@contextlib.contextmanager
def cpu_level(package: ModuleType, level: str) -> Iterator[str]:
    """Let the native library of `package` use the kernels of one level; skip the test where it cannot."""
    if why := package.ops.backends.why["cpu"]:
        pytest.skip(why)
    ops = getattr(torch.ops, package.__name__)
    best = ops.cpu_level()
    try:
        ops.set_cpu_level(level)
        if ops.cpu_level() != level:
            pytest.skip(f"this processor ends at {best}")
        yield level
    finally:
        ops.set_cpu_level(best)


@contextlib.contextmanager
def cpu_kernels(package: ModuleType, name: str) -> Iterator[str]:
    """Run the ops of `package` by one of `KERNELS`; skip the test where that is not there."""
    native = name != "reference"
    with contextlib.ExitStack() as stack:
        if native:
            stack.enter_context(cpu_level(package, name))
        stack.enter_context(package.use_backend("native" if native else "reference"))
        yield name


def guarded(t: Tensor, end: bool) -> Tensor:
    """A copy of a dense tensor between two pages that may not be touched, at the last byte in between or the first.

    Touching one of them ends the process, hence `run_guarded`. The memory is never given back.
    """
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size, page = t.numel() * t.element_size(), mmap.PAGESIZE
    room = -(-max(size, 1) // page) * page
    base = libc.mmap(None, room + 2 * page, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    for at in (0, room + page):
        assert libc.mprotect(base + at, page, 0) == 0
    memory = (ctypes.c_char * size).from_address(base + page + (room - size if end else 0))
    return torch.frombuffer(memory, dtype=t.dtype).as_strided(t.shape, t.stride()).copy_(t)


def run_guarded(program: str, *arguments: str) -> None:
    """Run Python code in a process of its own, which must come to its end; skip where pages cannot be protected."""
    if sys.platform != "linux":
        pytest.skip("protects pages by Linux' calls")
    command = [sys.executable, "-c", f"{program}\nprint('untouched')", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "untouched"), done.stderr
