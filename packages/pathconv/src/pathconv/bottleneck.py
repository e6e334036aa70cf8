"""The second half of `PathConvBlock` as one operation, where it runs on a CPU and nothing watches its parts."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module
from torch.utils.flop_counter import register_flop_formula

from .ops import backends

_NATIVE = hasattr(torch.ops.pathconv, "bottleneck")
DTYPES = (torch.float32, torch.float64)  # in which no weight is lost when a small layer scale is multiplied into it


def formula(
    x: Tensor,  # (R, e)
    y: Tensor,  # (R, d)
    factor: Tensor | None,  # (N,), R a multiple of N
    widen: Tensor,  # (h, d)
    shift: Tensor,  # (h,)
    weight: Tensor,  # (h,)
    bias: Tensor,  # (h,)
    narrow: Tensor,  # (e, h)
    end: Tensor,  # (e,)
    eps: float,
    hidden_eps: float,
) -> Tensor:  # (R, e)
    """x + factor * (gelu(norm(norm(y) widen^T + shift) * weight + bias) narrow^T + end); norms have no weights.

    This is what `Bottleneck` computes: row r takes the factor r N // R, and without factors all are 1.
    """
    hidden = F.linear(F.layer_norm(y, y.shape[1:], eps=eps), widen, shift)
    z = F.linear(F.gelu(F.layer_norm(hidden, hidden.shape[1:], weight, bias, hidden_eps)), narrow, end)
    return x + z if factor is None else torch.addcmul(x, z, factor.repeat_interleave(len(y) // len(factor))[:, None])


def onednn() -> bool:
    """Whether float32 is multiplied by oneDNN: where torch has MKL on a processor with AVX-512 that Intel did not make.

    On an AMD EPYC (family 26), the only one of them that was tried, MKL took twice as long.
    """
    return _mkl_is_slow() and bool(torch.backends.mkldnn.enabled)


@functools.cache
def _mkl_is_slow() -> bool:
    has = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return has and bool(torch.ops.pathconv.mkl_is_slow())


class Bottleneck(torch.autograd.Function):
    """`formula` by native code, a few rows at a time: of the h numbers per row, those before the inner norm are kept
    for the backward pass, and no others leave the caches. A backward pass that is differentiated itself takes
    `formula`. Erf is known to 2e-7 in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, *rest: Any) -> Tensor:
        keep = any(ctx.needs_input_grad[1:])
        out, hidden = torch.ops.pathconv.bottleneck(x, y, *rest, keep, onednn())
        ctx.epsilons = rest[-2:]
        ctx.save_for_backward(x, y, *rest[:-2], hidden)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *given, hidden = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if torch.is_grad_enabled():
            # Aliases end the search for gradients where this op began: its y may have been computed from its x.
            given = [t if t is None else t.view_as(t) for t in given]
            wanted = [t for t, needed in zip(given, needs) if needed]
            found = iter(torch.autograd.grad(formula(*given, *ctx.epsilons), wanted, grad, create_graph=True))
            return (*(next(found) if needed else None for needed in needs[:9]), None, None)
        if not any(needs[1:]):
            return (grad, *[None] * 10)
        first, *others = torch.ops.pathconv.bottleneck_backward(
            grad.contiguous(), given[1], hidden, *given[2:8], *ctx.epsilons, onednn()
        )
        return grad, first, None, *others, None, None


def applies(x: Tensor, modules: Sequence[nn.Module], kinds: Sequence[type[nn.Module]], scale: Tensor) -> bool:
    """Whether `residual` may run: plain tensors of one dtype on a CPU with native kernels, modules of these `kinds`
    that no hook watches, and neither autocast nor transforms nor a graph of the calls."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor:
        return False
    if x.device.type != "cpu" or x.dtype not in DTYPES or torch.is_autocast_enabled("cpu"):
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    if not _NATIVE or backends.active("cpu") != "native" or [type(m) for m in modules] != list(kinds):
        return False
    if any(_watched(m) or getattr(m, "approximate", "none") != "none" for m in modules):
        return False  # a hook would see nothing, and the op knows no tanh for GELU
    numbers: list[Any] = [
        scale,
        *(p for m in modules for p in (getattr(m, "weight", scale), getattr(m, "bias", scale))),
    ]
    return all(p is not None and p.dtype == x.dtype and p.device == x.device for p in numbers)


def _watched(m: nn.Module) -> bool:
    own = m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
    return bool(own or module._has_any_global_hook())


def residual(x: Tensor, y: Tensor, factor: Tensor | None, norm: Any, bottleneck: Any, scale: Tensor) -> Tensor:
    """x + factor * scale * bottleneck(norm(y)) for (N, d, L), factors (N,), as (N, L, d) in memory.

    The weights of the first norm join the product behind it, the layer scale the one before.
    """
    widen, inner, _, narrow = bottleneck
    first, last = widen.weight.flatten(1), narrow.weight.flatten(1)
    shift, end = torch.addmv(widen.bias, first, norm.bias), scale * narrow.bias
    numbers = (first * norm.weight, shift, inner.weight, inner.bias, scale[:, None] * last, end)
    rows = (t.mT.contiguous().flatten(0, 1) for t in (x, y))
    return Bottleneck.apply(*rows, factor, *numbers, norm.eps, inner.eps).view_as(x.mT).mT


def _flops(y: Any, widen: Any, narrow: Any) -> int:
    return 2 * y[0] * (prod(widen) + prod(narrow))


if _NATIVE:

    @register_flop_formula(torch.ops.pathconv.bottleneck)
    def _(*shapes: Any, **_: Any) -> int:
        return _flops(shapes[1], shapes[3], shapes[7])

    @register_flop_formula(torch.ops.pathconv.bottleneck_backward)
    def _(*shapes: Any, **_: Any) -> int:
        return 2 * _flops(shapes[1], shapes[4], shapes[8])
