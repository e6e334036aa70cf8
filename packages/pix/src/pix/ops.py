"""The ops of the package as torch sees them: schemas, fake kernels, autograd, vmap, what they count.

`pick_or_mix` gives the channels, `pix` finds its gates p from the input too. Their gradients are ops of their own,
which read the output and, for picked pixels, where in its subset the maximum was: the input is not kept, unless the
signs of it are asked for by a context of absolute values. Kernels come from `csrc/`, `cupy_backend` or `reference`;
`_common.backends` says which.

`pick_or_mix` has gradients of any order: from the second on they are composed of torch's own ops.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import reference
from ._common.autograd import call, register
from ._common.backends import Backends

SCHEMAS = {
    "pick_or_mix": "(Tensor x, Tensor p, int zeta, float tau, bool count_short, bool keep) -> "
    "(Tensor y, Tensor choice)",
    "pick_or_mix_backward": "(Tensor grad, Tensor y, Tensor p, Tensor choice, SymInt channels, int zeta, float tau, "
    "bool count_short) -> (Tensor grad_x, Tensor grad_p)",
    "pix": "(Tensor x, Tensor weight, Tensor? bias, int zeta, float tau, bool l1, bool count_short, bool keep) -> "
    "(Tensor y, Tensor z, Tensor p, Tensor choice)",
    "pix_backward": "(Tensor grad, Tensor? grad_p, Tensor y, Tensor z, Tensor p, Tensor choice, Tensor weight, "
    "Tensor? x, int zeta, float tau, bool count_short) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)",
}
KERNELS: dict[str, Callable] = {
    "pick_or_mix": reference.forward,
    "pick_or_mix_backward": reference.backward,
    "pix": reference.pix_forward,
    "pix_backward": reference.pix_backward,
}
backends = Backends("pix", SCHEMAS, KERNELS)
_pick_or_mix = torch.ops.pix.pick_or_mix.default
_pick_or_mix_backward = torch.ops.pix.pick_or_mix_backward.default
_pix = torch.ops.pix.pix.default
_pix_backward = torch.ops.pix.pix_backward.default


def pick_or_mix(
    x: Tensor,  # (N, C, H, W)
    p: Tensor,  # (N, C'), float64 for float64, else float32
    zeta: int,
    tau: float,
    count_short: bool,
) -> Tensor:  # (N, C', H, W)
    """Runs the op."""
    return call(_pick_or_mix, x, p, zeta, tau, count_short, _wanted(x))[0]


def pix(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C', C)
    bias: Tensor | None,  # (C',)
    zeta: int,
    tau: float,
    l1: bool,
    count_short: bool,
) -> tuple[Tensor, Tensor]:  # y (N, C', H, W), p (N, C')
    """Runs the op."""
    y, _, p, _ = call(_pix, x, weight, bias, zeta, tau, l1, count_short, _wanted(x))
    return y, p


def _wanted(x: Tensor) -> bool:
    """Whether a gradient of `x` may be asked for, so that the choices must be kept."""
    transformed = not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None
    return torch.is_grad_enabled() and (transformed or x.requires_grad)


def _layout(t: Tensor) -> torch.memory_format:
    return torch.channels_last if reference.channels_last(t) else torch.contiguous_format


def _empty(like: Tensor, channels: int, dtype: torch.dtype | None = None) -> Tensor:
    shape = (like.shape[0], channels, *like.shape[2:])
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=_layout(like))


@torch.library.register_fake("pix::pick_or_mix")
def _(x, p, zeta, tau, count_short, keep):
    if not keep:
        return _empty(x, p.shape[1]), x.new_empty(0, dtype=torch.uint8)
    return _empty(x, p.shape[1]), _empty(x, p.shape[1], reference.choice_dtype(zeta))


@torch.library.register_fake("pix::pick_or_mix_backward")
def _(grad, y, p, choice, channels, zeta, tau, count_short):
    return _empty(grad, channels), torch.empty_like(p, memory_format=torch.contiguous_format)


@torch.library.register_fake("pix::pix")
def _(x, weight, bias, zeta, tau, l1, count_short, keep):
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    z, p = (x.new_empty(x.shape[0], channels, dtype=wide) for channels in (x.shape[1], weight.shape[0]))
    choice = _empty(x, len(weight), reference.choice_dtype(zeta)) if keep else x.new_empty(0, dtype=torch.uint8)
    return _empty(x, len(weight)), z, p, choice


@torch.library.register_fake("pix::pix_backward")
def _(grad, grad_p, y, z, p, choice, weight, x, zeta, tau, count_short):
    return _empty(grad, weight.shape[1]), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


# Gradients. That of an image takes the layout of the image, as in torch's convolutions: it often arrives expanded or
# transposed.


def _check_kept(choice: Tensor) -> None:
    if choice.dim() == 1:
        raise ValueError(
            "keep must be true where x requires a gradient: a model that will learn must be exported or traced outside "
            "torch.no_grad()."
        )


def _pick_or_mix_setup(ctx, inputs, output):
    x, p, *ctx.options, _ = inputs
    y, choice = output
    ctx.channels, ctx.layout = x.shape[1], _layout(x)
    ctx.mark_non_differentiable(choice)
    ctx.save_for_backward(y, p, choice if ctx.needs_input_grad[0] else None)


def _pick_or_mix_grad(ctx, grad, _):
    y, p, choice = ctx.saved_tensors
    if not ctx.needs_input_grad[0]:
        return None, _over_p(reference.wide(grad).mul(reference.wide(y)).sum((2, 3)), p), *[None] * 4
    _check_kept(choice)
    grad = grad.contiguous(memory_format=ctx.layout)
    grad_x, grad_p = call(_pick_or_mix_backward, grad, y, p, choice, ctx.channels, *ctx.options)
    return grad_x.contiguous(memory_format=ctx.layout), grad_p, *[None] * 4  # one channel or pixel shows no layout


def _over_p(t: Tensor, p: Tensor) -> Tensor:
    """t / p, and 0 where p is."""
    none = p == 0
    return t.masked_fill(none, 0) / p.masked_fill(none, 1)


def _pick_or_mix_backward_setup(ctx, inputs, output):
    grad, y, p, choice, _, *ctx.options = inputs
    ctx.save_for_backward(grad, y, p, choice)


def _pick_or_mix_backward_grad(ctx, image, gate):
    """With h the adjoint of the scattering, of `image`: grad_x = scatter(p * grad), grad_p = sum(grad * y) / p."""
    grad, y, p, choice = ctx.saved_tensors
    upstream, out = reference.wide(grad), reference.wide(y)
    h = reference.collect(reference.wide(image), p, choice, *ctx.options)
    per_p = _over_p(gate, p)
    grad_grad = p[:, :, None, None] * h + per_p[:, :, None, None] * out
    grad_y = per_p[:, :, None, None] * upstream
    grad_p = (upstream * h).sum((2, 3)) - _over_p(per_p * (upstream * out).sum((2, 3)), p)
    return grad_grad.to(grad.dtype), grad_y.to(y.dtype), grad_p, *[None] * 5


def _pix_setup(ctx, inputs, output):
    x, weight, _, zeta, tau, ctx.l1, count_short, _ = inputs
    y, z, p, choice = output
    ctx.options, ctx.layout = (zeta, tau, count_short), _layout(x)
    ctx.mark_non_differentiable(choice)
    ctx.set_materialize_grads(False)
    needed = ctx.needs_input_grad[0]
    ctx.save_for_backward(
        y, z, p, choice if needed else None, weight if needed else None, x if needed and ctx.l1 else None
    )


def _pix_grad(ctx, grad, grad_z, grad_p, _):
    (y, z, p, choice, weight, x), needs = ctx.saved_tensors, ctx.needs_input_grad
    grad = torch.zeros_like(y) if grad is None else grad
    if needs[0]:
        _check_kept(choice)
        grad = grad.contiguous(memory_format=ctx.layout)
        grad_x, *grads = call(_pix_backward, grad, grad_p, y, z, p, choice, weight, x, *ctx.options)
        if grad_z is not None:  # of a gradient of the weight, by torch.func, where x had none
            grad_x = grad_x + reference.mean_gradient(grad_z, x, *y.shape[2:]).to(grad_x.dtype)
        grad_x = grad_x.contiguous(memory_format=ctx.layout)
    else:
        grad_x, grads = None, reference.parameter_gradients(reference.logit_gradient(grad, grad_p, y, p), z, y.dtype)
    return grad_x, *(g if needed else None for g, needed in zip(grads, needs[1:3])), *[None] * 5


def _pix_backward_setup(ctx, inputs, output):
    pass


def _refuse(ctx, *grads):
    raise NotImplementedError(
        "pix.pix has no second derivative: pass fused=False to the function or to PiX, which takes ops that have one."
    )


# vmap: a mapped dimension joins the batch, unless it maps weights: the layer is its parts then.


def _fronted(size: int, in_dims, tensors) -> list:
    """The tensors, each with the mapped dimension in front."""
    return [
        t if t is None else t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(tensors, in_dims)
    ]


def _folded(op, size: int, tensors, rest) -> tuple:
    """Results of `op` with the mapped dimension, which all tensors have in front, as a part of the batch."""
    batch = tensors[0].shape[1]
    out = call(op, *(t if t is None else t.flatten(0, 1) for t in tensors), *rest)
    return tuple(t.unflatten(0, (size, batch)) if t.dim() > 1 else t for t in out)


def _mapped(out: tuple) -> tuple[tuple, tuple]:
    return out, tuple(0 if t.dim() > 1 else None for t in out)  # choices that are not kept have one dimension


def _pick_or_mix_vmap(info, in_dims, x, p, *rest):
    return _mapped(_folded(_pick_or_mix, info.batch_size, _fronted(info.batch_size, in_dims, (x, p)), rest))


def _pick_or_mix_backward_vmap(info, in_dims, grad, y, p, choice, *rest):
    tensors = _fronted(info.batch_size, in_dims, (grad, y, p, choice))
    return _mapped(_folded(_pick_or_mix_backward, info.batch_size, tensors, rest))


def _pix_vmap(info, in_dims, x, weight, bias, zeta, tau, l1, count_short, keep):
    if in_dims[1:3] == (None, None):
        (x,) = _fronted(info.batch_size, in_dims, (x,))
        shared = (weight, bias, zeta, tau, l1, count_short, keep)
        return _mapped(_folded(_pix, info.batch_size, (x,), shared))
    x, weight, bias = _fronted(info.batch_size, in_dims, (x, weight, bias))
    z, p = reference.gates(x, weight, bias, l1)
    y, choice = _folded(_pick_or_mix, info.batch_size, (x, p), (zeta, tau, count_short, keep))
    return _mapped((y, z, p, choice))


def _pix_backward_vmap(info, in_dims, *args):
    grad, grad_p, y, z, p, choice, weight, x = _fronted(info.batch_size, in_dims, args[:8])
    options = weight.shape[2], *args[8:]
    (grad_x, _) = _folded(_pick_or_mix_backward, info.batch_size, (grad, y, p, choice), options)
    grad_logits = reference.logit_gradient(grad, grad_p, y, p)
    spread = reference.context_gradient(grad_logits, weight, x, *grad.shape[3:])
    grads = reference.parameter_gradients(grad_logits, z, weight.dtype)
    return ((grad_x + spread).to(grad.dtype), *grads), (0, 0, 0)


register(_pick_or_mix, _pick_or_mix_setup, _pick_or_mix_grad, _pick_or_mix_vmap)
register(_pick_or_mix_backward, _pick_or_mix_backward_setup, _pick_or_mix_backward_grad, _pick_or_mix_backward_vmap)
register(_pix, _pix_setup, _pix_grad, _pix_vmap)
register(_pix_backward, _pix_backward_setup, _refuse, _pix_backward_vmap)


# What `torch.utils.flop_counter` counts, from shapes: the product with the weight, as for a linear layer. As torch's
# pooling, picking and mixing count nothing.


@register_flop_formula(torch.ops.pix.pix)
def _pix_flops(x, weight, *_, **__) -> int:
    return 2 * x[0] * prod(weight)


@register_flop_formula(torch.ops.pix.pix_backward)
def _pix_backward_flops(grad, grad_p, y, z, p, choice, weight, *_, **__) -> int:
    return 4 * z[0] * prod(weight)
