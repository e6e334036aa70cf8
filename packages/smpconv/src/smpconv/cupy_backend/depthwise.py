"""The depthwise convolution: `csrc/cuda/depthwise*`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..reference import channels_last
from .launch import THREADS, address, ceil_ratio, dense, empty, empty_images, even_part, instance, launch, numbers

MAX_COUNT = 1 << 30
MAX_SIDE = 1023  # of a kernel
MAX_SHARED = 64 * 1024
MAX_SEGMENTS = 4
MAX_ROWS = 32
LAST_CHANNELS = 4
FEW_ROWS = 8
FEW_BLOCKS = 256
BLOCKS_WANTED = 1024
SUM_BLOCKS_WANTED = 2048
SUM_ROWS = 1024
SUM_COLUMNS = 256
PART_COLUMNS = 24
MAX_SPLITS = 256


class Params(ctypes.Structure):
    """`smpconv::depthwise::Params`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "grad", "weight", "bias", "y", "partial")),
        *((name, ctypes.c_void_p) for name in ("grad_weight", "grad_bias")),
        *((name, ctypes.c_int) for name in ("batch", "channels", "height", "width", "kernel_h", "kernel_w")),
        *((name, ctypes.c_int) for name in ("turned", "last", "sums", "copies", "crossed", "segments", "rows")),
        *((name, ctypes.c_int) for name in ("columns", "images", "group", "kernel_rows", "parts", "splits")),
        ("shared_bytes", ctypes.c_int),
    ]


class Instance(NamedTuple):
    sums: int
    copies: int
    crossed: bool


ALONG, CROSSED = False, True
CONVOLVE = [
    *(Instance(sums, copies, ALONG) for sums, copies in ((28, 1), (16, 2), (8, 4))),
    *(Instance(sums, copies, CROSSED) for sums, copies in ((28, 1), (14, 2), (8, 4))),
]
GRAD_WEIGHT = [
    *(Instance(sums, 1, ALONG) for sums in (32, 16, 8)),
    *(Instance(sums, 1, CROSSED) for sums in (16, 14, 8)),
]


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """y[n, c, i, j] = bias[c] + sum_{a, b} weight[c, a, b] * x[n, c, i + a - Kh // 2, j + b - Kw // 2]."""
    return _convolve(x, weight, bias, turned=False)


def depthwise_conv2d_grad_input(grad: Tensor, weight: Tensor) -> Tensor:
    """The convolution with the reversed kernel."""
    return _convolve(grad, weight, None, turned=True)


def depthwise_conv2d_grad_weight(grad: Tensor, x: Tensor, kernel_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The gradients of weight (C, Kh, Kw) and bias (C,)."""
    channels, last = x.shape[1], channels_last(x)
    p = params(x, *kernel_size)
    grad_weight, grad_bias = empty(grad, (channels, *kernel_size)), empty(grad, (channels,))
    if not x.numel():
        return grad_weight.zero_(), grad_bias.zero_()
    x, grad = dense(x, last), dense(grad, last)
    p.x, p.grad = address(x), address(grad)
    p.grad_weight, p.grad_bias = address(grad_weight), address(grad_bias)
    plan_grad_weight(p, x.element_size(), last)
    taps = p.kernel_h * p.kernel_w + 1
    partial = numbers(x, p.splits * channels * taps)
    p.partial = address(partial)
    blocks = channels * _chunks(p) * p.splits
    name = instance("grad_weight", x.dtype, p.sums, _bool(p.crossed))
    launch("depthwise", name, p, blocks, p.shared_bytes, x.device)
    launch("depthwise", instance("finish", x.dtype), p, ceil_ratio(channels * taps, THREADS), 0, x.device)
    return grad_weight, grad_bias


def params(images: Tensor, kernel_h: int, kernel_w: int) -> Params:
    """What all launches are told."""
    batch, channels, height, width = images.shape
    if (
        max(batch, channels, height, width) > MAX_COUNT
    ):  # ctypes would cut off what an int does not hold, without a word
        raise ValueError(
            f"{batch} images of {channels} channels and {height}x{width} pixels are too many to count with 32 bits."
        )
    if max(kernel_h, kernel_w) > MAX_SIDE:
        raise ValueError(f"kernel_size must be at most {MAX_SIDE} on CUDA, but is ({kernel_h}, {kernel_w}).")
    return Params(batch=batch, channels=channels, height=height, width=width, kernel_h=kernel_h, kernel_w=kernel_w)


def plan_convolve(p: Params, bytes_: int, last: bool) -> None:
    """The instance and the tile of a block: `plan_convolve` in C++."""
    size = max(bytes_, 4)
    p.last = last
    _choose(CONVOLVE, p, _cost)
    p.segments = even_part(ceil_ratio(p.width, p.sums), MAX_SEGMENTS)
    threads = min(THREADS, MAX_SHARED // ((p.sums * p.copies | 1) * size)) // p.segments
    p.group = min(p.channels, LAST_CHANNELS) if last else 1
    _plan_tile(p, threads)
    if _convolve_blocks(p) < FEW_BLOCKS:
        p.group = 1
        _plan_tile(p, threads)
    p.kernel_rows = p.kernel_h
    spare = min(threads // (p.rows * p.images), _convolve_blocks(p) * p.group // BLOCKS_WANTED)
    p.group = even_part(p.channels, max(spare, p.group))
    while _convolve_numbers(p) * size > MAX_SHARED:
        if p.kernel_rows > FEW_ROWS:
            _halve(p, "kernel_rows")
        elif p.images > 1:
            p.images -= 1
        elif not _halve(p, "group", "kernel_rows", "rows"):
            break
    p.shared_bytes = _convolve_numbers(p) * size


def plan_grad_weight(p: Params, bytes_: int, last: bool) -> None:
    """The instance, the tile of a block and the splits: `plan_grad_weight` in C++."""
    size = max(bytes_, 4)
    p.last = last
    _choose(GRAD_WEIGHT, p, _sum_cost)
    p.segments = 1 if p.crossed else ceil_ratio(p.kernel_w, p.sums)
    p.rows, p.columns = even_part(p.height, SUM_ROWS), even_part(p.width, SUM_COLUMNS)
    p.kernel_rows, p.parts = p.kernel_h, 1
    while not p.crossed and p.parts < 4 and p.columns >= 2 * PART_COLUMNS * p.parts:
        p.parts *= 2
    p.images = 32 // p.parts
    while p.images >= 2 * p.batch:
        p.images //= 2
    while _sum_numbers(p) * size > MAX_SHARED and _halve(
        p, "images", *(("rows",) if p.rows > p.kernel_rows else ("kernel_rows",))
    ):
        pass
    p.shared_bytes = _sum_numbers(p) * size
    units = ceil_ratio(p.batch, p.images) * ceil_ratio(p.height, p.rows) * ceil_ratio(p.width, p.columns)
    wanted = max(SUM_BLOCKS_WANTED // (p.channels * _chunks(p)), 1)
    p.splits = ceil_ratio(units, max(ceil_ratio(units, wanted), ceil_ratio(units, MAX_SPLITS)))


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, turned: bool) -> Tensor:
    y, last = empty_images(x), channels_last(x)
    p = params(x, *weight.shape[1:])
    if not y.numel():
        return y
    x, weight, bias = dense(x, last), weight.contiguous(), None if bias is None else bias.contiguous()
    p.x, p.weight, p.bias, p.y, p.turned = address(x), address(weight), address(bias), address(y), turned
    plan_convolve(p, x.element_size(), last)
    name = instance("convolve", x.dtype, p.sums, p.copies, _bool(p.crossed))
    launch("depthwise", name, p, _convolve_blocks(p), p.shared_bytes, x.device)
    return y


def _plan_tile(p: Params, threads: int) -> None:
    p.rows = even_part(p.height, min(MAX_ROWS, threads // p.group))
    p.images = even_part(ceil_ratio(p.batch, p.copies), threads // (p.group * p.rows))


def _choose(instances: list[Instance], p: Params, cost: Callable[[Instance, Params], int | None]) -> None:
    costs = [cost(i, p) for i in instances]
    least = min(c for c in costs if c is not None)
    p.sums, p.copies, p.crossed = instances[costs.index(least)]


def _cost(i: Instance, p: Params) -> int | None:
    segments = ceil_ratio(p.width, i.sums)
    if i.crossed and (segments > 1 or p.kernel_w < 2 * p.width - 1):
        return None
    steps = p.width if i.crossed else p.kernel_w
    read = steps + _pad(steps)
    slid = read + _ring(i.sums)
    words = 4 * read + 4 * slid // i.copies if i.crossed else segments * (4 * slid + 4 * read // i.copies)
    return (4 * segments * i.sums * steps + 2 * words) * ceil_ratio(p.batch, i.copies) * i.copies


def _sum_cost(i: Instance, p: Params) -> int | None:
    if i.crossed:
        return None if p.width > i.sums else 4 * i.sums * i.sums + 16 * _whole(i.sums)
    read = p.width + _pad(p.width)
    return ceil_ratio(p.kernel_w, i.sums) * (4 * i.sums * p.width + 8 * (2 * read + _ring(i.sums)))


def _rows_met(p: Params) -> int:
    edges = p.kernel_rows == p.kernel_h and 2 * p.rows >= p.height
    return min(p.rows + (p.kernel_h // 2 if edges else p.kernel_rows - 1), p.height)


def _halve(p: Params, *names: str) -> bool:
    """Halves the first of these numbers that is not 1; returns whether there was one."""
    name = next((name for name in names if getattr(p, name) > 1), None)
    if name:
        setattr(p, name, (getattr(p, name) + 1) // 2)
    return name is not None


def _convolve_blocks(p: Params) -> int:
    return (
        ceil_ratio(p.channels, p.group)
        * ceil_ratio(p.width, p.segments * p.sums)
        * ceil_ratio(p.height, p.rows)
        * ceil_ratio(p.batch, p.images * p.copies)
    )


def _chunks(p: Params) -> int:
    return ceil_ratio(p.kernel_h, p.kernel_rows)


def _convolve_numbers(p: Params) -> int:
    """`ConvolveLayout` in C++."""
    side, ring = p.kernel_w // 2, _ring(p.sums)
    steps = p.width if p.crossed else p.kernel_w
    columns, pad = min(p.segments * p.sums, p.width), _pad(steps)
    pitch = _whole(pad + (0 if p.crossed else side) + columns + (side if columns < p.width else 0))
    plane = _bank_aligned(_rows_met(p) * pitch, -p.segments)
    weights = p.group * _bank_aligned(p.kernel_rows * _odd_whole(steps + pad + (ring - 4 if p.crossed else 0)), 1)
    units = p.rows * p.group * p.images * p.segments
    return max(weights + p.images * p.copies * p.group * plane + steps + pad + ring, units * (p.sums * p.copies | 1))


def _sum_numbers(p: Params) -> int:
    """`SumLayout` in C++."""
    side = p.kernel_w // 2
    steps = p.columns if p.parts == 1 else _whole(ceil_ratio(p.columns, p.parts))
    pad = 0 if p.crossed else _pad(steps)
    phases = 32 // (p.images * p.parts)
    grad_pitch = _odd_whole(p.sums if p.crossed else pad + p.parts * steps)
    pitch = _odd_whole(p.sums if p.crossed else pad + side + p.columns + (side if p.columns < p.width else 0))
    grad_plane = _bank_aligned(p.rows * grad_pitch, phases * (grad_pitch // 4))
    plane = _bank_aligned(_rows_met(p) * pitch, phases * (pitch // 4))
    zeros = _whole(p.sums if p.crossed else steps + pad + _ring(p.sums) + p.segments * p.sums)
    return p.images * (grad_plane + plane) + zeros + p.kernel_rows * p.kernel_w + 1


def _ring(sums: int) -> int:
    return (sums + 6) // 4 * 4


def _pad(steps: int) -> int:
    return 4 - steps % 4


def _whole(count: int) -> int:
    return ceil_ratio(count, 4) * 4


def _odd_whole(count: int) -> int:
    return (ceil_ratio(count, 4) | 1) * 4


def _bank_aligned(count: int, vectors: int) -> int:
    units = ceil_ratio(count, 4)
    return (units + (vectors - units) % 8) * 4


def _bool(value: int) -> str:
    return "true" if value else "false"
