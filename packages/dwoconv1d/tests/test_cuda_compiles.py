"""The CUDA source compiles wherever it must, without a GPU: by nvcc, by NVRTC as CuPy calls it, and beside torch."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from dwoconv1d import cupy_backend, ops
from dwoconv1d._common.device_code import C_TYPES

CSRC = Path(__file__).resolve().parents[1] / "csrc"
NVCC = shutil.which(
    "nvcc", path=f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin{os.pathsep}{os.environ['PATH']}"
)
KERNELS = [
    f"dwoconv1d::{kernel}"
    for t in C_TYPES.values()
    for kernel in (
        *(f"gather<{t}, {layout}>" for layout in ("false", "true")),
        *(f"reduce<{t}, {layout}, {taps}>" for layout in ("false", "true") for taps in (8, 32)),
        f"finish<{t}>",
    )
]


def nvrtc() -> ctypes.CDLL:
    """NVRTC from the wheels that a CUDA build of torch depends on."""
    found = sorted(Path(torch.__file__).parents[1].glob("nvidia/*/lib/libnvrtc.so.*"))
    if not found:
        pytest.skip("this torch brings no NVRTC")
    return ctypes.CDLL(str(found[0]))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["compute_75", "compute_80", "compute_90"])
def test_nvrtc_compiles_every_kernel(arch):
    library, program = nvrtc(), ctypes.c_void_p()
    assert (
        library.nvrtcCreateProgram(
            ctypes.byref(program), cupy_backend.CODE.source().encode(), b"dwoconv1d.cu", 0, None, None
        )
        == 0
    )
    for kernel in KERNELS:
        assert library.nvrtcAddNameExpression(program, kernel.encode()) == 0
    options = [b"-std=c++17", f"--gpu-architecture={arch}".encode()]
    result = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert result == 0 and not log.value.strip(), log.value.decode()


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("arch", ["75", "80", "90"])
def test_nvcc_compiles_without_spilling(arch, tmp_path):
    """On sm_90 not a register, on older ones a few addresses outside the loops."""
    source = CSRC / "cuda/oriented_conv1d_kernel.cu"
    command = [
        NVCC,
        "-std=c++17",
        "-O3",
        f"-I{CSRC}",
        f"-gencode=arch=compute_{arch},code=sm_{arch}",
        "-Xptxas=-v",
        "-cubin",
    ]
    result = subprocess.run(
        [*command, str(source), "-o", str(tmp_path / "k.cubin")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert "warning" not in result.stderr
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", result.stderr)
    assert len(frames) >= len(KERNELS)
    assert all(int(size) <= (0 if arch == "90" else 32) for frame in frames for size in frame), frames


def test_device_sources_include_no_host_header():
    assert not re.findall(r"#include <.*>", cupy_backend.CODE.source())
    assert "torch" not in (CSRC / "cuda/oriented_conv1d_kernel.cu").read_text().replace("No torch header", "")


def test_the_library_registers_cuda_kernels():
    """Loaded beside a CUDA build of torch, with or without a GPU."""
    if ops.backends.why["cuda"]:
        pytest.skip(ops.backends.why["cuda"])
    for op in ops.SCHEMAS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"dwoconv1d::{op}", "CUDA")
    assert re.fullmatch(r"sm_\d+(, sm_\d+)*", torch.ops.dwoconv1d.cuda_archs())
