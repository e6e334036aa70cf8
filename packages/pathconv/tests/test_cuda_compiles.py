"""The CUDA source compiles wherever it must, without a GPU: by NVRTC as CuPy calls it, and beside torch.

tests/install does it by nvcc, and sees what the compiler says of every kernel.
"""

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
@parts
def test_nvrtc_compiles_every_kernel(part):
    cuda.nvrtc_compile(CODE[part].source(), KERNELS[part], "75")  # the oldest, which lacks most


@parts
def test_device_sources_include_no_host_header(part):
    cuda.assert_no_host_header(CODE[part].source(), CSRC / "cuda" / SOURCES[part])


def test_the_library_registers_cuda_kernels():
    cuda.assert_registers_cuda(pathconv)
