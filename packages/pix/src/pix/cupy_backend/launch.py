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
    "maps": DeviceCode(SOURCES, "cuda/pick_or_mix_grad.cuh", "pix::maps", THREADS),
    "gates": DeviceCode(SOURCES, "cuda/pix_kernel.cuh", "pix::gates", THREADS),
}


def empty(like: Tensor, channels: int, last: bool, dtype: torch.dtype | None = None) -> Tensor:
    """A result (N, channels, H, W) for the images `like`, with its channels last or first in memory."""
    batch, _, height, width = like.shape
    if last:
        return like.new_empty((batch, height, width, channels), dtype=dtype).movedim(-1, 1)
    return like.new_empty((batch, channels, height, width), dtype=dtype)


def numbers(like: Tensor, *shape: int) -> Tensor:
    """A result, or room for sums, in accumulation precision."""
    return like.new_empty(shape, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32)


def dense(t: Tensor, last: bool) -> Tensor:
    """`t` with nothing between its elements, copied if need be."""
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if last else t.contiguous()


def launch(part: str, kernel: str, p: ctypes.Structure, blocks: int, shared_bytes: int, device: torch.device) -> None:
    """Queues a kernel of CODE[part]; no blocks are no work."""
    if blocks > 0:
        CODE[part].launch(kernel, p, blocks, shared_bytes, device)


def instance(kernel: str, dtype: torch.dtype, *arguments: int) -> str:
    """The name of a kernel's instance, such as "pick_planes<float, 4>"."""
    return f"{kernel}<{', '.join([C_TYPES[dtype], *map(str, arguments)])}>"


def address(t: Tensor | None) -> int | None:
    """Of the first element; null if there is no tensor."""
    return None if t is None else t.data_ptr()


def ceil_ratio(a: int, b: int) -> int:
    return -(-a // b)


def even_part(count: int, limit: int) -> int:
    """The largest part when `count` is cut into as few equal parts of at most `limit` as can be."""
    return max(ceil_ratio(count, max(ceil_ratio(count, limit), 1)), 1)
