"""What the CuPy kernels of all ops share: results, launches, sums of plans."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from .._common.device_code import C_TYPES, DeviceCode
from ..reference import channels_last

THREADS = 256
WARPS = THREADS // 32
SOURCES = Path(__file__).parents[1] / "_csrc"
CODE = {
    "points": DeviceCode(SOURCES, "cuda/rasterize_kernel.cuh", "smpconv::points", THREADS),
    "depthwise": DeviceCode(SOURCES, "cuda/depthwise_kernel.cuh", "smpconv::depthwise", THREADS),
}


def empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A dense result in the dtype of `like`."""
    return like.new_empty(shape)


def empty_images(like: Tensor) -> Tensor:
    """A dense result of the shape and layout of `like`, (N, C, H, W)."""
    n, c, h, w = like.shape
    return empty(like, (n, h, w, c)).movedim(-1, 1) if channels_last(like) else empty(like, (n, c, h, w))


def numbers(like: Tensor, count: int) -> Tensor:
    """Room for `count` sums, in accumulation precision."""
    return like.new_empty(count, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32)


def dense(t: Tensor, last: bool) -> Tensor:
    """`t` with nothing between its elements, copied if need be."""
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if last else t.contiguous()


def launch(part: str, kernel: str, p: ctypes.Structure, blocks: int, shared_bytes: int, device: torch.device) -> None:
    """Queues a kernel of CODE[part]; no blocks are no work."""
    if blocks > 0:
        CODE[part].launch(kernel, p, blocks, shared_bytes, device)


def instance(kernel: str, dtype: torch.dtype, *arguments: int | str) -> str:
    """The name of a kernel's instance, such as "spread<float, 4>"."""
    return f"{kernel}<{', '.join([C_TYPES[dtype], *map(str, arguments)])}>"


def address(t: Tensor | None) -> int | None:
    """Of the first element; null if there is no tensor."""
    return None if t is None else t.data_ptr()


def ceil_ratio(a: int, b: int) -> int:
    return -(-a // b)


def even_part(count: int, limit: int) -> int:
    """The largest part when `count` is cut into as few equal parts of at most `limit` as can be."""
    return max(ceil_ratio(count, max(ceil_ratio(count, limit), 1)), 1)
