"""The ops of the package as torch sees them: schemas, fake kernels, autograd, vmap, what they count.

`rasterize` turns points into kernels and keeps nothing but the points for its gradients. `depthwise_conv2d` and its two
gradients are linear in each of their tensors and each other's gradients, so any number of backward passes needs nothing
else. Kernels come from `csrc/`, `cupy_backend` or `reference`; `_common.backends` says which.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

from . import reference
from ._common.autograd import call, register
from ._common.backends import Backends

SCHEMAS = {
    "rasterize": "(Tensor coords, Tensor radius, Tensor weight, SymInt[] size, bool average, bool flip) -> Tensor",
    "rasterize_backward": "(Tensor grad, Tensor coords, Tensor radius, Tensor weight, bool average, bool flip) -> "
    "(Tensor grad_coords, Tensor grad_radius, Tensor grad_weight)",
    "depthwise_conv2d": "(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    "depthwise_conv2d_grad_input": "(Tensor grad, Tensor weight) -> Tensor",
    "depthwise_conv2d_grad_weight": "(Tensor grad, Tensor x, SymInt[] kernel_size) -> "
    "(Tensor grad_weight, Tensor grad_bias)",
}
KERNELS: dict[str, Callable] = {
    "rasterize": reference.forward,
    "rasterize_backward": reference.backward,
    "depthwise_conv2d": reference.conv,
    "depthwise_conv2d_grad_input": reference.conv_grad_input,
    "depthwise_conv2d_grad_weight": reference.conv_grad_weight,
}
_FAKE = torch._C._TorchDispatchModeKey.FAKE
backends = Backends("smpconv", SCHEMAS, KERNELS)
_rasterize = torch.ops.smpconv.rasterize.default
_rasterize_backward = torch.ops.smpconv.rasterize_backward.default
_rasterize_sound = torch.ops.smpconv.rasterize_sound.default if not backends.why["cpu"] else None
_conv = torch.ops.smpconv.depthwise_conv2d.default
_grad_input = torch.ops.smpconv.depthwise_conv2d_grad_input.default
_grad_weight = torch.ops.smpconv.depthwise_conv2d_grad_weight.default


def rasterize(
    coords: Tensor,  # (G, N, d)
    radius: Tensor,  # (G, N)
    weight: Tensor,  # (G, C, N)
    size: tuple[int, ...],
    average: bool,
    flip: bool,
) -> Tensor:  # (G, C, *size)
    """Runs the op."""
    return call(_rasterize, coords, radius, weight, size, average, flip)


def shows_values(*tensors: Tensor) -> bool:
    """Whether Python may look at values, at little cost: on a CPU, and not while a program is made or transformed."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    if torch._C._get_dispatch_mode(_FAKE) is not None:
        return False
    return all(type(t) in (Tensor, torch.nn.Parameter) and t.is_cpu for t in tensors)


def rasterize_sound(coords: Any, radius: Any, weight: Any, size: Any, average: bool, flip: bool) -> Tensor | None:
    """Runs the op at once where the native library takes these arguments and finds nothing wrong with the points.

    Else None: then a closer look is needed. The library looks at the points on its way, and there are fewer questions
    here than in `call`: kernels are small, and drawn in the time of some Python.
    """
    if _rasterize_sound is None or backends.chosen == "reference" or not shows_values(coords, radius, weight):
        return None
    if torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() or forward_ad._current_level >= 0:
        return None  # the program shall hold `rasterize`
    try:
        if type(size) is int:
            size = (size,) * coords.shape[2]
        elif not all(type(taps) is int for taps in size):
            return None
        if torch.is_grad_enabled() and (coords.requires_grad or radius.requires_grad or weight.requires_grad):
            return _apply(coords, radius, weight, size, average, flip)
        return _rasterize_sound(coords, radius, weight, size, average, flip)
    except (RuntimeError, TypeError, IndexError):  # on a closer look there will be a sentence
        return None


def depthwise_conv2d(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C, Kh, Kw)
    bias: Tensor | None,  # (C,)
) -> Tensor:  # (N, C, H, W)
    """Runs the op."""
    return call(_conv, x, weight, bias)


def _layout(t: Tensor) -> torch.memory_format:
    return torch.channels_last if reference.channels_last(t) else torch.contiguous_format


def _like(t: Tensor) -> Tensor:
    return torch.empty(t.shape, dtype=t.dtype, device=t.device, memory_format=_layout(t))


@torch.library.register_fake("smpconv::rasterize")
def _(coords, radius, weight, size, average, flip):
    return weight.new_empty((*weight.shape[:2], *size))


@torch.library.register_fake("smpconv::rasterize_backward")
def _(grad, coords, radius, weight, average, flip):
    return tuple(t.new_empty(t.shape) for t in (coords, radius, weight))


@torch.library.register_fake("smpconv::depthwise_conv2d")
def _(x, weight, bias):
    return _like(x)


@torch.library.register_fake("smpconv::depthwise_conv2d_grad_input")
def _(grad, weight):
    return _like(grad)


@torch.library.register_fake("smpconv::depthwise_conv2d_grad_weight")
def _(grad, x, kernel_size):
    return grad.new_empty((grad.shape[1], *kernel_size)), grad.new_empty(grad.shape[1])


# Gradients of the points.


def _rasterize_setup(ctx, inputs, output):
    coords, radius, weight, _, *ctx.options = inputs
    ctx.save_for_backward(coords, radius, weight)


def _rasterize_grad(ctx, grad):
    grads = call(_rasterize_backward, grad, *ctx.saved_tensors, *ctx.options)
    return *(g if needed else None for g, needed in zip(grads, ctx.needs_input_grad)), None, None, None


class _Rasterize(torch.autograd.Function):
    """`rasterize` for `rasterize_sound`: as `call` would run it, with fewer questions and steps."""

    @staticmethod
    def forward(ctx, coords, radius, weight, size, average, flip):
        ctx.save_for_backward(coords, radius, weight)
        ctx.options = average, flip
        return _rasterize_sound(coords, radius, weight, size, average, flip)

    @staticmethod
    def backward(ctx, grad):
        if type(grad) is not Tensor or torch.is_grad_enabled() or not shows_values(grad):
            return _rasterize_grad(ctx, grad)
        with torch._C._AutoDispatchBelowAutograd():
            return *_rasterize_backward(grad, *ctx.saved_tensors, *ctx.options), None, None, None


# That of the base class in C: what Python puts around it serves tensors of torch.func.
_apply = super(torch.autograd.Function, _Rasterize).apply
if _rasterize_sound is not None:
    _below = torch.library.Library("smpconv", "IMPL")  # autograd is above, in `_Rasterize`
    _below.impl("rasterize_sound", torch.library.fallthrough_kernel, "AutogradCPU")


def _rasterize_backward_setup(ctx, inputs, output):
    pass


def _refuse(ctx, *grads):
    raise NotImplementedError(
        "smpconv.rasterize has no second derivative: use smpconv.reference.rasterize, which is dense and has all."
    )


# Gradients of the convolution. That of an image takes the layout of the image, as in torch's convolutions: it often
# arrives expanded or transposed. Only what a wanted gradient reads is kept.


def _conv_setup(ctx, inputs, output):
    x, weight, _ = inputs
    ctx.layout, ctx.kernel_size = _layout(x), tuple(weight.shape[1:])
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)


def _conv_grad(ctx, grad):
    (x, weight), needs = ctx.saved_tensors, ctx.needs_input_grad
    grad = grad.contiguous(memory_format=ctx.layout)
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        grad_x = call(_grad_input, grad, weight).contiguous(memory_format=ctx.layout)  # one pixel shows no layout
    if needs[1]:
        grad_weight, grad_bias = call(_grad_weight, grad, x, ctx.kernel_size)
    elif needs[2]:
        grad_bias = reference.wide(grad).sum((0, 2, 3)).to(grad.dtype)
    return grad_x, grad_weight, grad_bias if needs[2] else None


def _grad_input_setup(ctx, inputs, output):
    grad, weight = inputs
    ctx.layout, ctx.kernel_size = _layout(grad), tuple(weight.shape[1:])
    ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)


def _grad_input_grad(ctx, image):
    (grad, weight), needs = ctx.saved_tensors, ctx.needs_input_grad
    image = image.contiguous(memory_format=ctx.layout)
    grad_grad = call(_conv, image, weight, None).contiguous(memory_format=ctx.layout) if needs[0] else None
    return grad_grad, call(_grad_weight, grad, image, ctx.kernel_size)[0] if needs[1] else None


def _grad_weight_setup(ctx, inputs, output):
    grad, x, _ = inputs
    ctx.layouts = _layout(grad), _layout(x)
    ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, x if ctx.needs_input_grad[0] else None)


def _grad_weight_grad(ctx, weight, bias):
    (grad, x), needs = ctx.saved_tensors, ctx.needs_input_grad
    grad_grad = call(_conv, x, weight, bias).contiguous(memory_format=ctx.layouts[0]) if needs[0] else None
    grad_x = call(_grad_input, grad, weight).contiguous(memory_format=ctx.layouts[1]) if needs[1] else None
    return grad_grad, grad_x, None


# vmap: a mapped dimension joins the groups of points. Channels of a convolution never mix: there it joins the batch
# where only images under one kernel carry it, else the channels.

_CHANNELS = {"x": 1, "grad": 1, "weight": 0, "bias": 0}  # dimension of an argument that counts channels


def _joined(size: int, t: Tensor, dim: int | None, at: int) -> Tensor:
    """`t` with the mapped dimension as a part, the slower one, of dimension `at`."""
    shape = (*t.shape[:at], size, *t.shape[at:])
    return (t.unsqueeze(at).expand(shape) if dim is None else t.movedim(dim, at)).flatten(at, at + 1)


def _rasterize_rule(op, count: int):
    """The rule for `op`, whose first `count` arguments are tensors, groups first."""

    def rule(info, in_dims, *args):
        tensors = [_joined(info.batch_size, t, dim, 0) for t, dim in zip(args[:count], in_dims)]
        out = call(op, *tensors, *args[count:])
        if isinstance(out, tuple):
            return tuple(t.unflatten(0, (info.batch_size, -1)) for t in out), (0, 0, 0)
        return out.unflatten(0, (info.batch_size, -1)), 0

    return rule


def _conv_rule(op, names: tuple[str, ...]):
    """The rule for `op`, whose leading arguments are the tensors `names`."""

    def into_batch(size, in_dims, tensors):
        tensors = [t if dim is None else t.movedim(dim, 0).flatten(0, 1) for t, dim in zip(tensors, in_dims)]
        return call(op, *tensors).unflatten(0, (size, -1)), 0

    def into_channels(size, in_dims, tensors, rest):
        tensors = [
            t if t is None else _joined(size, t, dim, _CHANNELS[name]) for name, t, dim in zip(names, tensors, in_dims)
        ]
        out = call(op, *tensors, *rest)
        if isinstance(out, tuple):  # gradients of weight and bias
            return tuple(t.unflatten(0, (size, -1)) for t in out), (0, 0)
        return out.unflatten(1, (size, -1)), 1

    def rule(info, in_dims, *args):
        tensors, rest = args[: len(names)], args[len(names) :]
        mapped = {name for name, dim in zip(names, in_dims) if dim is not None}
        if mapped <= {"x", "grad"} and op is not _grad_weight:
            return into_batch(info.batch_size, in_dims, tensors)
        return into_channels(info.batch_size, in_dims, tensors, rest)

    return rule


register(_rasterize, _rasterize_setup, _rasterize_grad, _rasterize_rule(_rasterize, 3))
register(_rasterize_backward, _rasterize_backward_setup, _refuse, _rasterize_rule(_rasterize_backward, 4))
register(_conv, _conv_setup, _conv_grad, _conv_rule(_conv, ("x", "weight", "bias")))
register(_grad_input, _grad_input_setup, _grad_input_grad, _conv_rule(_grad_input, ("grad", "weight")))
register(_grad_weight, _grad_weight_setup, _grad_weight_grad, _conv_rule(_grad_weight, ("grad", "x")))


# What `torch.utils.flop_counter` counts, from shapes: a multiplication and an addition per tap and output, zeros
# outside included, as for torch's convolutions. What points cost depends on their radii: they count nothing.


@register_flop_formula(torch.ops.smpconv.depthwise_conv2d)
def _conv_flops(x, weight, *_, **__) -> int:
    return 2 * prod(x) * prod(weight[1:])


@register_flop_formula(torch.ops.smpconv.depthwise_conv2d_grad_input)
def _grad_input_flops(grad, weight, *_, **__) -> int:
    return 2 * prod(grad) * prod(weight[1:])


@register_flop_formula(torch.ops.smpconv.depthwise_conv2d_grad_weight)
def _grad_weight_flops(grad, x, kernel_size, *_, **__) -> int:
    return 2 * prod(grad) * prod(kernel_size)
