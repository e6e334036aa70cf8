"""CUDA source compiled by nvcc and NVRTC, without a GPU."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

NVCC = shutil.which(
    "nvcc", path=f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin{os.pathsep}{os.environ['PATH']}"
)
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
architectures = pytest.mark.parametrize("arch", ["75", "80", "90"])


def nvcc(source: Path, csrc: Path, output: Path, *flags: str) -> str:
    """Compile a file of the folder `csrc` into `output`, and return what the compiler says."""
    command = [str(NVCC), "-std=c++17", "-O3", f"-I{csrc}", *flags, str(source), "-o", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stderr


def nvcc_frames(source: Path, csrc: Path, arch: str, folder: Path) -> list[tuple[int, int, int]]:
    """Of each kernel the bytes of its stack frame, spill stores and spill loads; the compiler may not warn."""
    target = f"-gencode=arch=compute_{arch},code=sm_{arch}"
    says = nvcc(source, csrc, folder / "kernels.cubin", target, "-Xptxas=-v", "-cubin")
    assert "warning" not in says, says[-4000:]
    return list(frames(says).values())


def frames(log: str) -> dict[tuple[str, str], tuple[int, int, int]]:
    """The same by architecture and mangled name, with what a kernel calls, from what `-Xptxas=-v` says."""
    sizes, found = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", {}
    for says in log.split("Compiling entry function ")[1:]:
        kernel, arch = re.findall(r"^'(\w+)' for 'sm_(\d+)'", says)[0]
        frame, stores, loads = (max(map(int, column)) for column in zip(*re.findall(sizes, says)))
        found[arch, kernel] = (frame, stores, loads)
    return found


def nvcc_ptx(source: Path, csrc: Path, arch: str, folder: Path) -> dict[str, str]:
    """The PTX of each kernel, by its mangled name."""
    output = folder / "kernels.ptx"
    nvcc(source, csrc, output, f"-arch=compute_{arch}", "-ptx")
    return dict(re.findall(r"\.entry (\w+)\((.*?)(?=\.entry |\Z)", output.read_text(), flags=re.DOTALL))


def nvrtc_compile(source: str, kernels: Sequence[str], arch: str) -> None:
    """Compile `kernels`, which are C++ expressions, as CuPy does; NVRTC may have nothing to say about them."""
    found = sorted(Path(torch.__file__).parents[1].glob("nvidia/*/lib/libnvrtc.so.*"))
    if not found:
        pytest.skip("this torch brings no NVRTC")
    library, program = ctypes.CDLL(str(found[0])), ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
    for kernel in kernels:
        assert library.nvrtcAddNameExpression(program, kernel.encode()) == 0
    options = [b"-std=c++17", f"--gpu-architecture=compute_{arch}".encode()]
    result = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert result == 0 and not log.value.strip(), log.value.decode()


def assert_no_host_header(source: str, file: Path) -> None:
    """Of device code: neither in `source`, all of what NVRTC gets, nor torch in the `file` that nvcc compiles."""
    assert not re.findall(r"#include <.*>", source)
    assert "torch" not in file.read_text().replace("No torch header", "")


def assert_registers_cuda(package: ModuleType) -> None:
    """The library of `package`, loaded beside a CUDA build of torch with or without a GPU, brings every op."""
    if why := package.ops.backends.why["cuda"]:
        pytest.skip(why)
    for op in package.ops.SCHEMAS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"{package.__name__}::{op}", "CUDA"), op
    assert re.fullmatch(r"sm_\d+(, sm_\d+)*", getattr(torch.ops, package.__name__).cuda_archs())
