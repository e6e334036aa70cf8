"""The CUDA source compiles wherever it must, without a GPU: by NVRTC as CuPy calls it, and beside torch.

tests/install does it by nvcc, and sees what the compiler says of every kernel.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import smpconv
from leanconv.testing import cuda
from smpconv._common.device_code import C_TYPES
from smpconv.cupy_backend.depthwise import CONVOLVE, GRAD_WEIGHT
from smpconv.cupy_backend.launch import CODE, instance

CSRC = Path(__file__).resolve().parents[1] / "csrc"
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


@pytest.mark.slow
@parts
def test_nvrtc_compiles_every_kernel(part):
    cuda.nvrtc_compile(CODE[part].source(), KERNELS[part], "75")  # the oldest, which lacks most


@pytest.mark.slow
@cuda.needs_nvcc
def test_points_are_read_from_shared_memory_sixteen_bytes_at_a_time(tmp_path):
    """In the inner loops of both directions, as their PTX shows."""
    code = cuda.nvcc_ptx(CSRC / "cuda" / SOURCES["points"][0], CSRC, "90", tmp_path)
    assert len(code) == len(KERNELS["points"])
    for name, text in code.items():
        assert re.search(r"ld\.shared\.(v4\.[bf]32|v2\.[bf]64)", text), name


@pytest.mark.slow
@cuda.needs_nvcc
def test_threads_multiply_much_and_read_little(tmp_path):
    """A processor does 128 products while it reads 32 numbers, and four numbers of a thread in one instruction."""
    products = {}
    for source in SOURCES["depthwise"]:
        for name, text in cuda.nvcc_ptx(CSRC / "cuda" / source, CSRC, "90", tmp_path).items():
            reads = re.findall(r"ld\.shared\.(?:v4\.[bf]32)", text)
            if re.search("(convolve|grad_weight)I(f|N)", name):
                products[name] = len(re.findall(r"fma\.rn\.f32", text)) / len(reads)
    assert len(products) == 3 * (len(CONVOLVE) + len(GRAD_WEIGHT))
    for name, ratio in products.items():
        assert ratio > (16 if "convolve" in name else 8), name


@parts
def test_device_sources_include_no_host_header(part):
    for source in SOURCES[part]:
        cuda.assert_no_host_header(CODE[part].source(), CSRC / "cuda" / source)


def test_the_library_registers_cuda_kernels():
    cuda.assert_registers_cuda(smpconv)
