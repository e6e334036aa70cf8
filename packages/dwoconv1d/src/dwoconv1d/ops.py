"""The three ops of the package as torch sees them: schemas, fake kernels, autograd, vmap, autocast.

`oriented_conv1d` and its two gradients are linear in each of their arguments and are each other's gradients, so any
number of backward passes needs nothing but these three. Kernels come from `csrc/`, `cupy_backend` or `reference`;
`_common.backends` says which. Geometry arrives as integer offsets (2, C, K), rows and columns, so all kernels see the
same pixels.
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
    "oriented_conv1d": "(Tensor x, Tensor weight, Tensor offsets, Tensor? bias, int stride_h, int stride_w, "
    "bool residual) -> Tensor",
    "oriented_conv1d_grad_input": "(Tensor grad, Tensor weight, Tensor offsets, SymInt height, SymInt width, "
    "int stride_h, int stride_w, bool residual) -> Tensor",
    "oriented_conv1d_grad_weight": "(Tensor grad, Tensor x, Tensor offsets, int stride_h, int stride_w) -> "
    "(Tensor grad_weight, Tensor grad_bias)",
}
KERNELS: dict[str, Callable] = {
    "oriented_conv1d": reference.forward,
    "oriented_conv1d_grad_input": reference.grad_input,
    "oriented_conv1d_grad_weight": reference.grad_weight,
}
backends = Backends("dwoconv1d", SCHEMAS, KERNELS)
_forward = torch.ops.dwoconv1d.oriented_conv1d.default
_grad_input = torch.ops.dwoconv1d.oriented_conv1d_grad_input.default
_grad_weight = torch.ops.dwoconv1d.oriented_conv1d_grad_weight.default


def oriented_conv1d(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C, K)
    offsets: Tensor,  # int32 (2, C, K)
    bias: Tensor | None,  # (C,)
    stride: tuple[int, int],
    residual: bool,
) -> Tensor:  # (N, C, ceil(H / stride), ceil(W / stride))
    """Runs the op."""
    return call(_forward, x, weight, offsets, bias, *stride, residual)


def _layout(t: Tensor) -> torch.memory_format:
    return torch.channels_last if reference.channels_last(t) else torch.contiguous_format


@torch.library.register_fake("dwoconv1d::oriented_conv1d")
def _(x, weight, offsets, bias, stride_h, stride_w, residual):
    shape = (*x.shape[:2], -(-x.shape[2] // stride_h), -(-x.shape[3] // stride_w))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))


@torch.library.register_fake("dwoconv1d::oriented_conv1d_grad_input")
def _(grad, weight, offsets, height, width, stride_h, stride_w, residual):
    shape = (*grad.shape[:2], height, width)
    return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=_layout(grad))


@torch.library.register_fake("dwoconv1d::oriented_conv1d_grad_weight")
def _(grad, x, offsets, stride_h, stride_w):
    return grad.new_empty(offsets.shape[1:]), grad.new_empty(offsets.shape[1])


# Gradients. An image gradient takes the layout of the image it belongs to, as in torch's convolutions: it often
# arrives expanded or transposed. Only what a wanted gradient reads is kept for the backward pass.


def _forward_setup(ctx, inputs, output):
    x, weight, offsets, _, *ctx.stride, ctx.residual = inputs
    ctx.size, ctx.layout = x.shape[2:], _layout(x)
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None, offsets)


def _forward_backward(ctx, grad):
    (x, weight, offsets), needs = ctx.saved_tensors, ctx.needs_input_grad
    grad = grad.contiguous(memory_format=ctx.layout)
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        grad_x = call(_grad_input, grad, weight, offsets, *ctx.size, *ctx.stride, ctx.residual)
        grad_x = grad_x.contiguous(memory_format=ctx.layout)  # a gradient of one pixel shows no layout
    if needs[1]:
        grad_weight, grad_bias = call(_grad_weight, grad, x, offsets, *ctx.stride)
    elif needs[3]:
        grad_bias = grad.sum((0, 2, 3))
    return grad_x, grad_weight, None, grad_bias if needs[3] else None, None, None, None


def _grad_input_setup(ctx, inputs, output):
    grad, weight, offsets, _, _, *ctx.stride, ctx.residual = inputs
    ctx.layout = _layout(grad)
    ctx.save_for_backward(
        grad if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None, offsets
    )


def _grad_input_backward(ctx, image):
    (grad, weight, offsets), needs = ctx.saved_tensors, ctx.needs_input_grad
    image = image.contiguous(memory_format=ctx.layout)
    grad_grad = call(_forward, image, weight, offsets, None, *ctx.stride, ctx.residual) if needs[0] else None
    grad_weight = call(_grad_weight, grad, image, offsets, *ctx.stride)[0] if needs[1] else None
    return grad_grad, grad_weight, *[None] * 6


def _grad_weight_setup(ctx, inputs, output):
    grad, x, offsets, *ctx.stride = inputs
    ctx.size = x.shape[2:]
    ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, x if ctx.needs_input_grad[0] else None, offsets)


def _grad_weight_backward(ctx, weight, bias):
    (grad, x, offsets), needs = ctx.saved_tensors, ctx.needs_input_grad
    grad_grad = call(_forward, x, weight, offsets, bias, *ctx.stride, False) if needs[0] else None
    grad_x = call(_grad_input, grad, weight, offsets, *ctx.size, *ctx.stride, False) if needs[1] else None
    return grad_grad, grad_x, None, None, None


# vmap: channels never mix, so a mapped dimension joins the batch where only images carry it, else the channels.

_CHANNELS = {"x": 1, "grad": 1, "weight": 0, "offsets": 1, "bias": 0}  # dimension of an argument that counts channels


def _vmap_rule(op, names: tuple[str, ...]):
    """The rule for `op`, whose leading arguments are the tensors `names`."""

    def into_batch(size, in_dims, tensors, rest):
        tensors = [t if dim is None else t.movedim(dim, 0).flatten(0, 1) for t, dim in zip(tensors, in_dims)]
        return call(op, *tensors, *rest).unflatten(0, (size, -1)), 0

    def into_channels(size, in_dims, tensors, rest):
        folded = []
        for name, t, dim in zip(names, tensors, in_dims):
            if t is not None:
                at = _CHANNELS[name]
                shape = (*t.shape[:at], size, *t.shape[at:])
                t = (t.unsqueeze(at).expand(shape) if dim is None else t.movedim(dim, at)).flatten(at, at + 1)
            folded.append(t)
        out = call(op, *folded, *rest)
        if isinstance(out, tuple):  # gradients of weight and bias
            return tuple(t.unflatten(0, (size, -1)) for t in out), (0, 0)
        return out.unflatten(1, (size, -1)), 1

    def rule(info, in_dims, *args):
        tensors, rest = args[: len(names)], args[len(names) :]
        mapped = {name for name, dim in zip(names, in_dims) if dim is not None}
        images_only = mapped <= {"x", "grad"} and op is not _grad_weight  # whose result has no batch
        return (into_batch if images_only else into_channels)(info.batch_size, in_dims, tensors, rest)

    return rule


register(_forward, _forward_setup, _forward_backward, _vmap_rule(_forward, ("x", "weight", "offsets", "bias")))
register(_grad_input, _grad_input_setup, _grad_input_backward, _vmap_rule(_grad_input, ("grad", "weight", "offsets")))
register(_grad_weight, _grad_weight_setup, _grad_weight_backward, _vmap_rule(_grad_weight, ("grad", "x", "offsets")))


# What `torch.utils.flop_counter` counts, from shapes: a multiplication and an addition per tap and output pixel, taps
# outside the image included, as for torch's convolutions.


@register_flop_formula(torch.ops.dwoconv1d.oriented_conv1d)
def _forward_flops(x, weight, *_, out_shape=None, **__) -> int:
    return 2 * prod(out_shape) * weight[1]


@register_flop_formula(torch.ops.dwoconv1d.oriented_conv1d_grad_input)
def _grad_input_flops(grad, weight, *_, **__) -> int:
    return 2 * prod(grad) * weight[1]


@register_flop_formula(torch.ops.dwoconv1d.oriented_conv1d_grad_weight)
def _grad_weight_flops(grad, x, offsets, *_, **__) -> int:
    return 2 * prod(grad) * offsets[2]
