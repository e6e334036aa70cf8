"""The CUDA source compiles wherever it must, without a GPU: by NVRTC as CuPy calls it, and beside torch.

tests/install does it by nvcc, and sees what the compiler says of every kernel.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import pix
from leanconv.testing import cuda
from pix._common.device_code import C_TYPES
from pix.cupy_backend.launch import CODE

CSRC = Path(__file__).resolve().parents[1] / "csrc"
SOURCES = {"maps": "pick_or_mix_kernel.cu", "gates": "pix_kernel.cu"}


def instances(part: str, dtype: torch.dtype) -> list[str]:
    """Every kernel that can be launched for tensors of one dtype."""
    widths = (1, 4, 8) if dtype.itemsize == 2 else (1, 4)
    t, zetas = C_TYPES[dtype], (0, 1, 2, 4, 8)
    if part == "gates":
        return [*(f"gate<{t}, {tile}>" for tile in (1, 2, 4)), f"products<{t}>"]
    by_width = ("pick_planes", "scatter_planes", "sum_planes", "sum_small_planes", "sum_pixels")
    return [
        *(f"{kernel}<{t}, {width}>" for kernel in by_width for width in widths),
        *(f"{kernel}<{t}, {zeta}>" for kernel in ("pick_pixels", "scatter_pixels") for zeta in zetas),
        *(f"{kernel}<{t}>" for kernel in ("pick_packed", "scatter_packed", "finish")),
    ]


KERNELS = {part: [f"pix::{part}::{kernel}" for t in C_TYPES for kernel in instances(part, t)] for part in SOURCES}
parts = pytest.mark.parametrize("part", CODE)


@pytest.mark.slow
@parts
def test_nvrtc_compiles_every_kernel(part):
    cuda.nvrtc_compile(CODE[part].source(), KERNELS[part], "75")  # the oldest, which lacks most


@pytest.mark.slow
@cuda.needs_nvcc
def test_memory_is_read_and_written_sixteen_bytes_at_a_time(tmp_path):
    """In the kernels for whole vectors, as their PTX shows."""
    code = cuda.nvcc_ptx(CSRC / "cuda" / SOURCES["maps"], CSRC, "90", tmp_path)
    assert len(code) == len(KERNELS["maps"])
    reads, writes = (rf"{access}\.global\.(v4\.[buf]32|v2\.[buf]64)" for access in ("ld", "st"))
    for kernel, accesses in {
        r"pick_planesI(fLi4|\w*HalfELi8)": (reads, writes),
        r"pick_pixelsI(f|\w*Half|d)E?Li[1248]": (reads,),
        r"scatter_planesI(fLi4|\w*HalfELi8)": (reads, writes),
        r"scatter_pixelsI(f|\w*Half|d)E?Li[1248]": (writes,),
        r"sum_(planes|small_planes|pixels)I(fLi4|\w*HalfELi8)": (reads,),
    }.items():
        found = [text for name, text in code.items() if re.search(kernel, name)]
        assert found
        assert all(re.search(access, text) for text in found for access in accesses), kernel


@parts
def test_device_sources_include_no_host_header(part):
    cuda.assert_no_host_header(CODE[part].source(), CSRC / "cuda" / SOURCES[part])


def test_the_library_registers_cuda_kernels():
    cuda.assert_registers_cuda(pix)
