"""The CUDA source compiles wherever it must, without a GPU: by NVRTC as CuPy calls it, and beside torch.

tests/install does it by nvcc, and sees what the compiler says of every kernel.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import dwoconv1d
from dwoconv1d import cupy_backend
from dwoconv1d._common.device_code import C_TYPES
from leanconv.testing import cuda

CSRC = Path(__file__).resolve().parents[1] / "csrc"
KERNELS = [
    f"dwoconv1d::{kernel}"
    for t in C_TYPES.values()
    for kernel in (
        *(f"gather<{t}, {layout}>" for layout in ("false", "true")),
        *(f"reduce<{t}, {layout}, {taps}>" for layout in ("false", "true") for taps in (8, 32)),
        f"finish<{t}>",
    )
]


@pytest.mark.slow
def test_nvrtc_compiles_every_kernel():
    cuda.nvrtc_compile(cupy_backend.CODE.source(), KERNELS, "75")  # the oldest, which lacks most


def test_device_sources_include_no_host_header():
    cuda.assert_no_host_header(cupy_backend.CODE.source(), CSRC / "cuda/oriented_conv1d_kernel.cu")


def test_the_library_registers_cuda_kernels():
    cuda.assert_registers_cuda(dwoconv1d)
