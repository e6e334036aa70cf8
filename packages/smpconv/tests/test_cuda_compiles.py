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

from smpconv import ops
from smpconv._common.device_code import C_TYPES
from smpconv.cupy_backend.depthwise import CONVOLVE, GRAD_WEIGHT
from smpconv.cupy_backend.launch import CODE, instance

CSRC = Path(__file__).resolve().parents[1] / "csrc"
NVCC = shutil.which(
    "nvcc", path=f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin{os.pathsep}{os.environ['PATH']}"
)
SOURCES = {"points": ["rasterize_kernel.cu"], "depthwise": ["depthwise_kernel.cu", "depthwise_sums.cu"]}


def instances(part: str, dtype: torch.dtype) -> list[str]:
    """Every kernel that can be launched for tensors of one dtype."""
    if part == "points":
        return [*(instance("spread", dtype, depth) for depth in (1, 4)), instance("gather", dtype)]
    crossed = {True: "true", False: "false"}
    return [
        *(instance("convolve", dtype, i.sums, i.copies, crossed[i.crossed]) for i in CONVOLVE),
        *(instance("grad_weight", dtype, i.sums, crossed[i.crossed]) for i in GRAD_WEIGHT),
        instance("finish", dtype),
    ]


KERNELS = {part: [f"smpconv::{part}::{kernel}" for t in C_TYPES for kernel in instances(part, t)] for part in SOURCES}
parts = pytest.mark.parametrize("part", SOURCES)


def nvrtc() -> ctypes.CDLL:
    """NVRTC from the wheels that a CUDA build of torch depends on."""
    found = sorted(Path(torch.__file__).parents[1].glob("nvidia/*/lib/libnvrtc.so.*"))
    if not found:
        pytest.skip("this torch brings no NVRTC")
    return ctypes.CDLL(str(found[0]))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["compute_75", "compute_80", "compute_90"])
@parts
def test_nvrtc_compiles_every_kernel(part, arch):
    library, program = nvrtc(), ctypes.c_void_p()
    source = CODE[part].source().encode()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source, b"smpconv.cu", 0, None, None) == 0
    for kernel in KERNELS[part]:
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
@parts
def test_nvcc_compiles_without_spilling(part, arch, tmp_path):
    target = f"-gencode=arch=compute_{arch},code=sm_{arch}"
    command = [NVCC, "-std=c++17", "-O3", f"-I{CSRC}", target, "-Xptxas=-v", "-cubin"]
    frames = []
    for source in SOURCES[part]:
        files = [str(CSRC / "cuda" / source), "-o", str(tmp_path / "k.cubin")]
        result = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-4000:]
        assert "warning" not in result.stderr
        report = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        frames += re.findall(report, result.stderr)
    assert len(frames) == len(KERNELS[part])
    assert not any(int(size) for frame in frames for size in frame), frames


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
def test_points_are_read_from_shared_memory_sixteen_bytes_at_a_time(tmp_path):
    """In the inner loops of both directions, as their PTX shows."""
    ptx = tmp_path / "k.ptx"
    command = [NVCC, "-std=c++17", "-O3", f"-I{CSRC}", "-arch=compute_90", "-ptx"]
    subprocess.run([*command, str(CSRC / "cuda" / SOURCES["points"][0]), "-o", str(ptx)], check=True)
    code = dict(re.findall(r"\.entry (\w+)\((.*?)(?=\.entry |\Z)", ptx.read_text(), flags=re.DOTALL))
    assert len(code) == len(KERNELS["points"])
    for name, text in code.items():
        assert re.search(r"ld\.shared\.(v4\.[bf]32|v2\.[bf]64)", text), name


@parts
def test_device_sources_include_no_host_header(part):
    assert not re.findall(r"#include <.*>", CODE[part].source())
    for source in SOURCES[part]:
        assert "torch" not in (CSRC / "cuda" / source).read_text().replace("No torch header", "")


def test_the_library_registers_cuda_kernels():
    """Loaded beside a CUDA build of torch, with or without a GPU."""
    if ops.backends.why["cuda"]:
        pytest.skip(ops.backends.why["cuda"])
    for op in ops.SCHEMAS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"smpconv::{op}", "CUDA")
    assert re.fullmatch(r"sm_\d+(, sm_\d+)*", torch.ops.smpconv.cuda_archs())
