"""Points to kernels and back: `csrc/cuda/rasterize*`."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .launch import THREADS, WARPS, ceil_ratio, empty, instance, launch

MAX_COUNT = 1 << 30
BLOCKS_WANTED = 512
DEEP = 4
CHANNELS = 8
MAX_SEGMENTS = 8
TOUCHES = 1024


class Params(ctypes.Structure):
    """`smpconv::points::Params`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("coords", "radius", "weight", "grad", "kernel")),
        *((name, ctypes.c_void_p) for name in ("grad_coords", "grad_radius", "grad_weight")),
        *((name, ctypes.c_int) for name in ("groups", "channels", "points", "dims", "height", "width")),
        *((name, ctypes.c_int) for name in ("average", "flip", "across", "depth")),
    ]


def rasterize(
    coords: Tensor, radius: Tensor, weight: Tensor, size: tuple[int, ...], average: bool, flip: bool
) -> Tensor:
    """The kernels of all groups and channels."""
    a = params(weight, size, average, flip)
    kernel = empty(weight, (a.groups, a.channels, *size))
    if kernel.numel():
        coords, radius, weight = (t.contiguous() for t in (coords, radius, weight))
        a.coords, a.radius, a.weight = coords.data_ptr(), radius.data_ptr(), weight.data_ptr()
        a.kernel = kernel.data_ptr()
        plan_spread(a)
        name = instance("spread", weight.dtype, a.depth)
        launch("points", name, a, spread_blocks(a), stage_bytes(weight.dtype), weight.device)
    return kernel


def rasterize_backward(
    grad: Tensor, coords: Tensor, radius: Tensor, weight: Tensor, average: bool, flip: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of coords, radius and weight."""
    a = params(weight, tuple(grad.shape[2:]), average, flip)
    grads = tuple(empty(t, tuple(t.shape)) for t in (coords, radius, weight))
    if grads[1].numel():
        grad, coords, radius, weight = (t.contiguous() for t in (grad, coords, radius, weight))
        a.coords, a.radius, a.weight = coords.data_ptr(), radius.data_ptr(), weight.data_ptr()
        a.grad = grad.data_ptr()
        a.grad_coords, a.grad_radius, a.grad_weight = (t.data_ptr() for t in grads)
        name, blocks = instance("gather", weight.dtype), a.groups * a.points
        launch("points", name, a, blocks, list_bytes(weight.dtype), weight.device)
    return grads[0], grads[1], grads[2]


def params(weight: Tensor, size: tuple[int, ...], average: bool, flip: bool) -> Params:
    """What both launches are told."""
    groups, channels, points = weight.shape
    height, width = size if len(size) == 2 else (1, size[0])
    if max(groups, channels, points, height * width) > MAX_COUNT:
        raise ValueError(  # ctypes would cut off what an int does not hold, without a word
            f"{groups} groups of {channels} channels and {points} points over {height}x{width} taps are too many to "
            "count with 32 bits."
        )
    a = Params(groups=groups, channels=channels, points=points, dims=len(size), height=height, width=width)
    a.average, a.flip = average, flip
    return a


def plan_spread(a: Params) -> None:
    """`plan_spread` in C++."""
    a.across = WARPS
    while a.across > 1 and WARPS // a.across * CHANNELS < a.channels:
        a.across //= 2
    a.depth = DEEP
    if a.across * a.depth > MAX_SEGMENTS or spread_blocks(a) < BLOCKS_WANTED:
        a.depth = 1


def spread_blocks(a: Params) -> int:
    tiles = ceil_ratio(a.height * a.width, 32 * a.across * a.depth)
    return tiles * a.groups * ceil_ratio(a.channels, WARPS // a.across * CHANNELS)


def stage_bytes(dtype: torch.dtype) -> int:
    """Of `Stage` in C++."""
    bytes_ = _sum_bytes(dtype)
    points = 256 // bytes_
    listed = THREADS * (3 * 8 + 4) + WARPS * 4
    return listed + points * (MAX_SEGMENTS * 4 + (64 + WARPS * CHANNELS + 4) * bytes_)


def list_bytes(dtype: torch.dtype) -> int:
    """Of `List` in C++."""
    bytes_ = _sum_bytes(dtype)
    return TOUCHES * (4 * bytes_ + 4) + WARPS * 4 + 3 * WARPS * bytes_


def _sum_bytes(dtype: torch.dtype) -> int:
    return 8 if dtype == torch.float64 else 4
