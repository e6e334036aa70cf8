"""The CUDA source compiles wherever it must, without a GPU: by nvcc, by NVRTC as CuPy calls it, and beside torch."""

from __future__ import annotations

from pathlib import Path

import pytest

import pathconv
from leanconv.testing import cuda
from pathconv._common.device_code import C_TYPES
from pathconv.cupy_backend.launch import CODE

CSRC = Path(__file__).resolve().parents[1] / "csrc"
SOURCES = {"traversal": "traverse_kernel.cu", "depthwise": "depthwise_conv1d_kernel.cu"}
LAYERED = {"traversal": ("traverse", "traverse_adjoint", "convolve", "reduce"), "depthwise": ("correlate", "reduce")}
KERNELS = {
    part: [
        f"pathconv::{part}::{kernel}"
        for t in C_TYPES.values()
        for kernel in (*(f"{name}<{t}, {last}>" for name in names for last in ("false", "true")), f"finish<{t}>")
    ]
    for part, names in LAYERED.items()
}
parts = pytest.mark.parametrize("part", CODE)


@pytest.mark.slow
@cuda.architectures
@parts
def test_nvrtc_compiles_every_kernel(part, arch):
    cuda.nvrtc_compile(CODE[part].source(), KERNELS[part], arch)


@pytest.mark.slow
@cuda.needs_nvcc
@cuda.architectures
@parts
def test_nvcc_compiles_without_spilling(part, arch, tmp_path):
    """On sm_90 not a register, on older ones a few addresses outside the loops."""
    frames = cuda.nvcc_frames(CSRC / "cuda" / SOURCES[part], CSRC, arch, tmp_path)
    assert len(frames) >= len(KERNELS[part])
    assert all(size <= (0 if arch == "90" else 32) for frame in frames for size in frame), frames


@parts
def test_device_sources_include_no_host_header(part):
    cuda.assert_no_host_header(CODE[part].source(), CSRC / "cuda" / SOURCES[part])


def test_the_library_registers_cuda_kernels():
    cuda.assert_registers_cuda(pathconv)
