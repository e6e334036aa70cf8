"""What the CuPy kernels of all ops share: results, launches, sums of plans."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from .._common.device_code import C_TYPES, DeviceCode

THREADS = 256
WARPS = THREADS // 32
SOURCES = Path(__file__).parents[1] / "_csrc"
CODE = {
    "traversal": DeviceCode(SOURCES, "cuda/traverse_conv1d_kernel.cuh", "pathconv::traversal", THREADS),
    "depthwise": DeviceCode(SOURCES, "cuda/depthwise_conv1d_kernel.cuh", "pathconv::depthwise", THREADS),
}


def empty(like: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """A result (N, C, L) or (N, C, H, W), with its channels last or first in memory."""
    if channels_last:
        return like.new_empty((shape[0], *shape[2:], shape[1])).movedim(-1, 1)
    return like.new_empty(shape)


def partial(like: Tensor, count: int) -> Tensor:
    """Room for sums in accumulation precision."""
    return like.new_empty(count, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32)


def launch(part: str, kernel: str, p: ctypes.Structure, blocks: int, shared_bytes: int, device: torch.device) -> None:
    """Queues a kernel of CODE[part]; no blocks are no work."""
    if blocks > 0:
        CODE[part].launch(kernel, p, blocks, shared_bytes, device)


def instance(kernel: str, dtype: torch.dtype, *arguments: bool) -> str:
    """The name of a kernel's instance, such as "convolve<float, true>"."""
    return f"{kernel}<{', '.join([C_TYPES[dtype], *(str(argument).lower() for argument in arguments)])}>"


def sum_bytes(t: Tensor) -> int:
    """Bytes of a sum."""
    return max(t.element_size(), 4)


def ceil_ratio(a: int, b: int) -> int:
    return -(-a // b)


def even_part(count: int, limit: int) -> int:
    """The largest part when `count` is cut into as few equal parts of at most `limit` as can be."""
    return max(ceil_ratio(count, max(ceil_ratio(count, limit), 1)), 1)
