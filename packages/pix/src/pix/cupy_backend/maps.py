"""The kernels over feature maps, and the ops that need no others: `csrc/cuda/pick_or_mix*`."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ..reference import channels_last, choice_dtype
from .launch import THREADS, WARPS, ceil_ratio, dense, empty, even_part, instance, launch, numbers

BLOCKS_WANTED = 1024
MAX_COUNT = 1 << 30
MAX_PIECES = 64
MAX_READS = 8
MAX_COLUMNS = 64
MAX_SUM_COLUMNS = 32
MAX_ONE_WARP = 1024
MAX_ALONE = 256
MAX_SUMMED = 512
MAX_PACKED = 256
PACKED_PIXELS = 1024
MAX_ALIGNED = 16


class Params(ctypes.Structure):
    """`pix::maps::Params`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "grad", "y", "gates", "choice", "grad_x", "shift")),
        *((name, ctypes.c_void_p) for name in ("partial", "grad_gates")),
        *((name, ctypes.c_int) for name in ("batch", "channels", "outputs", "pixels")),
        *((name, ctypes.c_int) for name in ("zeta", "count_short", "wide", "product", "absolute")),
        ("tau", ctypes.c_float),
        *((name, ctypes.c_int) for name in ("width", "team", "columns", "pieces", "span")),
    ]


def pick_or_mix(x: Tensor, p: Tensor, zeta: int, tau: float, count_short: bool, keep: bool) -> tuple[Tensor, Tensor]:
    """y, and which channel of its subset every picked pixel came from."""
    last, a = channels_last(x), params(x, x.shape[1], zeta, tau, count_short)
    y, choice = results(x, a, last, zeta, keep)
    if y.numel():
        x, p = dense(x, last), p.contiguous()
        a.x, a.gates = x.data_ptr(), p.data_ptr()
        pick(a, x, last)
    return y, choice


def pick_or_mix_backward(
    grad: Tensor, y: Tensor, p: Tensor, choice: Tensor, channels: int, zeta: int, tau: float, count_short: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of x and p."""
    last, a = channels_last(grad), params(grad, channels, zeta, tau, count_short)
    grad_x, grad_p = empty(grad, channels, last), numbers(grad, *p.shape)
    if grad_p.numel():
        grad, y, choice, p = *(dense(t, last) for t in (grad, y, choice)), p.contiguous()
        upstream(a, grad, y, p, choice, grad_x)
        a.grad_gates = grad_p.data_ptr()
        plan_scatter(a, grad.element_size(), last)
        sums = numbers(grad, a.batch * a.pieces * a.outputs if a.pieces > 1 else 0)
        a.partial = sums.data_ptr()
        scatter(a, grad, last)
    return grad_x, grad_p


def params(like: Tensor, channels: int, zeta: int, tau: float, count_short: bool) -> Params:
    """What all launches over the feature maps of an op are told; `like` is one of them."""
    batch, pixels = len(like), like.shape[2] * like.shape[3]
    if max(batch, channels, pixels, batch * channels) > MAX_COUNT:
        raise ValueError(  # ctypes would cut off what an int does not hold, without a word
            f"{batch} images of {channels} channels and {pixels} pixels are too many to count with 32 bits."
        )
    a = Params(batch=batch, channels=channels, outputs=ceil_ratio(channels, zeta), pixels=pixels, zeta=zeta, tau=tau)
    a.count_short, a.wide = count_short, choice_dtype(zeta) == torch.int32
    return a


def results(x: Tensor, a: Params, last: bool, zeta: int, keep: bool) -> tuple[Tensor, Tensor]:
    """y and the choice, which is empty unless `keep`."""
    y = empty(x, a.outputs, last)
    choice = empty(x, a.outputs, last, choice_dtype(zeta)) if keep else x.new_empty(0, dtype=torch.uint8)
    a.y, a.choice = y.data_ptr(), choice.data_ptr() if keep else None
    return y, choice


def upstream(a: Params, grad: Tensor, y: Tensor, p: Tensor, choice: Tensor, grad_x: Tensor) -> None:
    """What the backward pass reads and writes."""
    a.grad, a.y, a.gates = grad.data_ptr(), y.data_ptr(), p.data_ptr()
    a.choice, a.grad_x = choice.data_ptr(), grad_x.data_ptr()


def pick(a: Params, like: Tensor, last: bool) -> None:
    """The forward pass, as `launch_pick` in C++; `like` has the dtype and device."""
    bytes_ = like.element_size()
    plan_subsets(a, bytes_, last, False)
    _launch_subsets("pick", a, like, last, 0)


def scatter(a: Params, like: Tensor, last: bool) -> None:
    """The gradient, whose plan is made, as `launch_scatter` in C++."""
    columns = THREADS * _subsets(a.width, like.element_size())
    _launch_subsets("scatter", a, like, last, (columns if last else WARPS) * max(like.element_size(), 4))
    if a.grad_gates and a.pieces > 1:
        blocks = ceil_ratio(a.batch * a.outputs, THREADS)
        launch("maps", instance("finish", like.dtype), a, blocks, 0, like.device)


def sums(a: Params, like: Tensor, last: bool) -> None:
    """Sums over pixels, whose plan is made, as `launch_sums` in C++."""
    channels, bytes_ = _summed(a), max(like.element_size(), 4)
    if last:
        kernel, blocks, shared = "sum_pixels", _column_blocks(a, channels // a.width), THREADS * a.width * bytes_
    elif a.team == THREADS:
        kernel, blocks, shared = "sum_planes", _plane_blocks(a, channels), WARPS * bytes_
    else:
        at_once = THREADS // a.team * (2 if a.width == 8 else 4)
        kernel, blocks, shared = "sum_small_planes", ceil_ratio(a.batch * channels, at_once), 0
    launch("maps", instance(kernel, like.dtype, a.width), a, blocks, shared, like.device)


def plan_sums(a: Params, bytes_: int, last: bool) -> None:
    """Pieces of the sums, which do not depend on the batch: `plan_sums` in C++."""
    channels, wide = _summed(a), 8 if bytes_ == 2 else 4
    if last:
        a.width = wide if channels % wide == 0 and _aligned(a, wide, bytes_) else 1
        a.columns = even_part(channels // a.width, MAX_SUM_COLUMNS)
        a.pieces = _sum_pieces(a.pixels, 2 * THREADS // a.columns)
        a.span = ceil_ratio(a.pixels, a.pieces)
    else:
        a.width = _plane_width(a, bytes_)
        reads = a.pixels // a.width
        a.team = _team(reads, MAX_SUMMED)
        a.pieces = 1 if a.team < THREADS else _sum_pieces(reads, THREADS)
        a.span = ceil_ratio(reads, a.pieces)


def plan_scatter(a: Params, bytes_: int, last: bool) -> None:
    """Pieces of the gradient: `plan_scatter` in C++."""
    plan_subsets(a, bytes_, last, bool(a.grad_gates))


def plan_subsets(a: Params, bytes_: int, last: bool, sums: bool) -> None:
    """`plan_subsets` in C++."""
    if not last:
        return _plan_planes(a, bytes_, sums)
    subsets = _subsets(a.zeta, bytes_)
    fits = a.zeta in (1, 2, 4, 8) and a.channels % (a.zeta * subsets) == 0
    fits = fits and _aligned(a, a.zeta * subsets, bytes_) and (a.choice or 0) % subsets == 0
    a.width = a.zeta if fits else 0
    items = a.outputs // _subsets(a.width, bytes_)
    a.columns = even_part(items, MAX_COLUMNS)
    a.pieces = _pieces(a.batch * ceil_ratio(items, a.columns), a.pixels, THREADS // a.columns, sums)
    a.span = ceil_ratio(a.pixels, a.pieces)


def _launch_subsets(kernel: str, a: Params, like: Tensor, last: bool, shared: int) -> None:
    if last:
        blocks = _column_blocks(a, a.outputs // _subsets(a.width, like.element_size()))
        name = instance(f"{kernel}_pixels", like.dtype, a.width)
    elif a.team == 0:
        blocks, name = _plane_blocks(a, a.outputs), instance(f"{kernel}_packed", like.dtype)
    else:
        blocks, name = _plane_blocks(a, a.outputs), instance(f"{kernel}_planes", like.dtype, a.width)
    launch("maps", name, a, blocks, shared, like.device)


def _plan_planes(a: Params, bytes_: int, sums: bool) -> None:
    a.width = _plane_width(a, bytes_)
    reads, planes = a.pixels // a.width, a.batch * a.outputs
    if a.width == 1 and 1 < a.pixels <= MAX_PACKED and not sums:
        a.pieces, a.span = 1, PACKED_PIXELS // a.pixels
        return
    a.team = _team(reads, MAX_ONE_WARP if planes >= BLOCKS_WANTED * WARPS else MAX_ALONE)
    a.pieces = 1 if a.team < THREADS else _pieces(planes, reads, THREADS, sums)
    a.span = ceil_ratio(reads, a.pieces)


def _plane_width(a: Params, bytes_: int) -> int:
    for width in (8 if bytes_ == 2 else 4, 4):
        fits = a.wide or (a.choice or 0) % width == 0
        if a.pixels % width == 0 and _aligned(a, width, bytes_) and fits:
            return width
    return 1


def _team(reads: int, limit: int) -> int:
    if reads > limit:
        return THREADS
    team = 1
    while team < 32 and team < reads:
        team *= 2
    return team


def _pieces(units: int, reads: int, step: int, sums: bool) -> int:
    wanted = max(ceil_ratio(reads, MAX_READS * step), BLOCKS_WANTED // max(units, 1))
    most = min(ceil_ratio(reads, step), MAX_PIECES) if sums else ceil_ratio(reads, step)
    return max(min(wanted, most), 1)


def _sum_pieces(reads: int, step: int) -> int:
    return max(min(ceil_ratio(reads, MAX_READS * step), MAX_PIECES), 1)


def _plane_blocks(a: Params, channels: int) -> int:
    if a.team == 0:
        return ceil_ratio(a.batch * channels, a.span)
    return ceil_ratio(a.batch * channels * a.pieces, THREADS // a.team)


def _column_blocks(a: Params, items: int) -> int:
    return ceil_ratio(items, a.columns) * a.batch * a.pieces


def _subsets(zeta: int, bytes_: int) -> int:
    return 16 // (zeta * bytes_) if zeta > 0 and zeta * bytes_ < 16 else 1


def _summed(a: Params) -> int:
    return a.outputs if a.product else a.channels


def _aligned(a: Params, width: int, bytes_: int) -> bool:
    maps = (a.x or 0) | (a.grad or 0) | (a.y or 0) | (a.grad_x or 0)
    return maps % min(width * bytes_, MAX_ALIGNED) == 0
