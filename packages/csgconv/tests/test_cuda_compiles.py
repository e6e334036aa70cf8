"""The CUDA source compiles wherever it must, without a GPU: by nvcc, by NVRTC as CuPy calls it, and beside torch."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

import csgconv
from csgconv.cupy_backend import C_TYPES, CODE, Params
from leanconv.testing import cuda

CSRC = Path(__file__).resolve().parents[1] / "csrc"
SOURCE = CSRC / "cuda/crop_kernel.cu"
KERNELS = [f"csgconv::copies::{kernel}<{t}>" for kernel in ("crop", "uncrop") for t in C_TYPES.values()]


@pytest.mark.slow
def test_nvrtc_compiles_every_kernel():
    cuda.nvrtc_compile(CODE.source(), KERNELS, "75")


@pytest.mark.slow
@cuda.needs_nvcc
def test_memory_is_read_and_written_sixteen_bytes_at_a_time(tmp_path):
    """As the PTX shows."""
    code = cuda.nvcc_ptx(SOURCE, CSRC, "90", tmp_path)
    assert len(code) == len(KERNELS)
    for name, text in code.items():
        for access in ("ld", "st"):
            assert re.search(rf"{access}\.global\.(v4\.[bu]32|v2\.[bu]64)", text), (name, access)


def test_parameters_fit_every_launch():
    assert ctypes.sizeof(Params) <= 4096


def test_device_sources_include_no_host_header():
    cuda.assert_no_host_header(CODE.source(), SOURCE)


def test_the_library_registers_cuda_kernels():
    cuda.assert_registers_cuda(csgconv)
