"""The layer in three launches, and the kernels over vectors among them: `csrc/cuda/pix*`."""

from __future__ import annotations

import ctypes

from torch import Tensor

from ..reference import channels_last
from . import maps
from .launch import WARPS, address, ceil_ratio, dense, empty, instance, launch, numbers

LANE = 4  # neighbours of a lane
COLUMNS = 32 * LANE
ROWS = 8
ADDED = 4
WARPS_WANTED = 1024


class Params(ctypes.Structure):
    """`pix::gates::Params`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "partial", "z", "p", "grad_p", "shift")),
        *((name, ctypes.c_void_p) for name in ("grad_weight", "grad_bias")),
        *((name, ctypes.c_int) for name in ("batch", "channels", "outputs", "pixels", "pieces", "vectors", "tile")),
    ]


def pix(
    x: Tensor, weight: Tensor, bias: Tensor | None, zeta: int, tau: float, l1: bool, count_short: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the context z, the gates p and the choice."""
    last, a = channels_last(x), maps.params(x, x.shape[1], zeta, tau, count_short)
    y, choice = maps.results(x, a, last, zeta, keep)
    z, p = numbers(x, a.batch, a.channels), numbers(x, a.batch, a.outputs)
    if p.numel():
        x, weight, bias = dense(x, last), weight.contiguous(), None if bias is None else bias.contiguous()
        s = maps.Params.from_buffer_copy(a)
        s.x, s.y, s.choice, s.absolute = x.data_ptr(), None, None, l1
        maps.plan_sums(s, x.element_size(), last)
        partial = numbers(x, s.batch * s.pieces * s.channels)
        s.partial = partial.data_ptr()
        maps.sums(s, x, last)

        g = params(s, weight)
        g.bias, g.z, g.p = address(bias), z.data_ptr(), p.data_ptr()
        plan(g)
        across = 1 if g.tile == 1 else 2
        blocks = ceil_ratio(g.batch, across * g.tile) * ceil_ratio(g.outputs, WARPS // across * g.tile)
        launch("gates", instance("gate", x.dtype, g.tile), g, blocks, 0, x.device)

        a.x, a.gates = x.data_ptr(), p.data_ptr()
        if y.numel():
            maps.pick(a, x, last)
    return y, z, p, choice


def pix_backward(
    grad: Tensor,
    grad_p: Tensor | None,
    y: Tensor,
    z: Tensor,
    p: Tensor,
    choice: Tensor,
    weight: Tensor,
    x: Tensor | None,
    zeta: int,
    tau: float,
    count_short: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias."""
    last, channels = channels_last(grad), z.shape[1]
    a = maps.params(grad, channels, zeta, tau, count_short)
    grad_x = empty(grad, channels, last)
    grad_weight, grad_bias = grad.new_empty(a.outputs, channels), grad.new_empty(a.outputs)
    if grad_weight.numel():
        grad, y, choice = (dense(t, last) for t in (grad, y, choice))
        x, grad_p = None if x is None else dense(x, last), None if grad_p is None else grad_p.contiguous()
        z, p, weight = (t.contiguous() for t in (z, p, weight))
        maps.upstream(a, grad, y, p, choice, grad_x)
        s = maps.Params.from_buffer_copy(a)
        s.choice = s.grad_x = None
        s.product = True
        maps.plan_sums(s, grad.element_size(), last)
        partial = numbers(grad, s.batch * s.pieces * s.outputs)
        s.partial = partial.data_ptr()
        maps.sums(s, grad, last)

        shift, g = numbers(grad, z.numel()), params(s, weight)
        g.z, g.p, g.grad_p, g.shift = z.data_ptr(), p.data_ptr(), address(grad_p), shift.data_ptr()
        g.grad_weight, g.grad_bias = grad_weight.data_ptr(), grad_bias.data_ptr()
        plan(g)
        blocks = (ceil_ratio(g.batch, ROWS) + ceil_ratio(g.outputs, ROWS)) * ceil_ratio(g.channels, COLUMNS)
        shared = WARPS * ADDED * COLUMNS * max(grad.element_size(), 4)
        launch("gates", instance("products", grad.dtype), g, blocks, shared, grad.device)

        a.x, a.shift = address(x), shift.data_ptr()
        if grad_x.numel():
            maps.plan_scatter(a, grad.element_size(), last)
            maps.scatter(a, grad, last)
    return grad_x, grad_weight, grad_bias


def params(s: maps.Params, weight: Tensor) -> Params:
    """What the launches over vectors are told, beside those over feature maps."""
    g = Params(batch=s.batch, channels=s.channels, outputs=s.outputs, pixels=s.pixels, pieces=s.pieces)
    g.weight, g.partial = weight.data_ptr(), s.partial
    return g


def plan(g: Params) -> None:
    """`plan` in C++."""
    g.vectors = g.channels % LANE == 0 and ((g.weight or 0) | (g.z or 0)) % 16 == 0
    outcomes = g.batch * g.outputs
    g.tile = 4 if outcomes >= 16 * WARPS_WANTED else 2 if outcomes >= 4 * WARPS_WANTED else 1
