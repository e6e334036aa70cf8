"""The second half of `PathConvBlock` where nothing but its result is wanted: on a CPU, without gradients or graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from .ops import backends

CACHE_BYTES = 2 << 20  # of one core
_NATIVE = hasattr(torch.ops.pathconv, "norm_gelu")
DTYPES = (torch.float32, torch.float64)  # in which no weight is lost when a small layer scale is multiplied into it


def norm_gelu(x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """gelu(layer_norm(x + shift) * weight + bias) over the last dimension; what the op of that name computes.

    The op is native code for a CPU alone and has no gradient. It knows erf to 2e-7 and sums in float32, float64 for
    float64. Its result is contiguous.
    """
    x = x if shift is None else x + shift
    return F.gelu(F.layer_norm(x, x.shape[-1:], weight, bias, eps))


def applies(x: Tensor, modules: Sequence[nn.Module], kinds: Sequence[type[nn.Module]], scale: Tensor) -> bool:
    """Whether `residual` may run: plain tensors of one dtype on a CPU with native kernels, modules of these `kinds`
    that no hook watches, and neither gradients nor autocast nor a graph of the calls."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor:
        return False
    if x.device.type != "cpu" or x.dtype not in DTYPES or torch.is_autocast_enabled("cpu"):
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    if not _NATIVE or backends.active("cpu") != "native" or [type(m) for m in modules] != list(kinds):
        return False
    if any(m._forward_hooks or m._forward_pre_hooks or getattr(m, "approximate", "none") != "none" for m in modules):
        return False  # a hook would see nothing, and the op knows no tanh for GELU
    numbers: list[Any] = [
        scale,
        *(p for m in modules for p in (getattr(m, "weight", scale), getattr(m, "bias", scale))),
    ]
    return all(p is not None and p.dtype == x.dtype and p.device == x.device for p in numbers)


def residual(x: Tensor, y: Tensor, norm: Any, bottleneck: Iterable[Any], scale: Tensor) -> Tensor:
    """x + scale * bottleneck(norm(y)) for (N, d, L), as many positions at a time as fit into the caches.

    The bias of the first product joins the norm behind it; the layer scale joins the second product, which adds itself
    to x. The result lies as (N, L, d) in memory.
    """
    widen, inner, _, narrow = bottleneck
    dim = x.shape[1]
    first, second = widen.weight.flatten(1).T, (scale[:, None] * narrow.weight.flatten(1)).T
    shift = scale * narrow.bias
    together = max(1, torch.get_num_threads() * CACHE_BYTES // (4 * dim * x.element_size()))
    rows = x.mT.reshape(-1, dim)
    out = torch.empty_like(rows)
    parts = (t.split(together) for t in (y.mT.reshape(-1, dim), rows, out))
    for source, start, to in zip(*parts):
        hidden = F.layer_norm(source, (dim,), norm.weight, norm.bias, norm.eps) @ first
        hidden = torch.ops.pathconv.norm_gelu(hidden, widen.bias, inner.weight, inner.bias, inner.eps)
        torch.add(start, shift, out=to)
        torch.addmm(to, hidden, second, out=to)  # in place, and in the sight of torch's counter of operations
    return out.view_as(x.mT).mT


if _NATIVE:

    @torch.library.register_fake("pathconv::norm_gelu")
    def _(x: Tensor, *_: object) -> Tensor:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
