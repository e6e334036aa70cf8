"""Autograd, vmap and fake kernels of the traversal: `traverse`, `traverse_conv1d` and their gradients."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .._common.autograd import call, register
from ..reference import lies_last

_traverse = torch.ops.pathconv.traverse.default
_adjoint = torch.ops.pathconv.traverse_adjoint.default
_conv1d = torch.ops.pathconv.traverse_conv1d.default
_grad_input = torch.ops.pathconv.traverse_conv1d_grad_input.default
_grad_weight = torch.ops.pathconv.traverse_conv1d_grad_weight.default


def traverse(
    x: Tensor,  # (N, C, H, W)
    index: Tensor,  # int32 (P, L)
    inverse: Tensor,  # int32 (P, L)
    channels_last: bool,
) -> Tensor:  # (N, P * C, L)
    """y[n, p * C + c, l] = x[n, c, index[p, l]]."""
    return call(_traverse, x, index, inverse, channels_last)


def traverse_adjoint(
    grad: Tensor,  # (N, P * C, L)
    index: Tensor,
    inverse: Tensor,
    size: tuple[int, int],  # (H, W)
    channels_last: bool,
) -> Tensor:  # (N, C, H, W)
    """x[n, c, q] = sum_p grad[n, p * C + c, inverse[p, q]]."""
    return call(_adjoint, grad, index, inverse, *size, channels_last)


def traverse_conv1d(
    x: Tensor,  # (N, C, H, W)
    index: Tensor,
    inverse: Tensor,
    weight: Tensor,  # (D, P * C)
    bias: Tensor | None,  # (D,)
    channels_last: bool,
) -> Tensor:  # (N, D, L)
    """y[n, o, l] = bias[o] + sum_{p, c} weight[o, p * C + c] * x[n, c, index[p, l]]."""
    return call(_conv1d, x, index, inverse, weight, bias, channels_last)


def _empty(like: Tensor, shape: tuple[int, ...], last: bool) -> Tensor:
    """A result with its channels last or first in memory; shape is (N, C, L) or (N, C, H, W)."""
    if last:
        return like.new_empty((shape[0], *shape[2:], shape[1])).movedim(-1, 1)
    return like.new_empty(shape)


@torch.library.register_fake("pathconv::traverse")
def _(x, index, inverse, channels_last):
    return _empty(x, (x.shape[0], index.shape[0] * x.shape[1], index.shape[1]), channels_last)


@torch.library.register_fake("pathconv::traverse_adjoint")
def _(grad, index, inverse, height, width, channels_last):
    return _empty(grad, (grad.shape[0], grad.shape[1] // index.shape[0], height, width), channels_last)


@torch.library.register_fake("pathconv::traverse_conv1d")
def _(x, index, inverse, weight, bias, channels_last):
    return _empty(x, (x.shape[0], weight.shape[0], index.shape[1]), channels_last)


@torch.library.register_fake("pathconv::traverse_conv1d_grad_input")
def _(grad, index, inverse, weight, height, width, channels_last):
    return _empty(grad, (grad.shape[0], weight.shape[1] // index.shape[0], height, width), channels_last)


@torch.library.register_fake("pathconv::traverse_conv1d_grad_weight")
def _(grad, x, index, inverse):
    return grad.new_empty((grad.shape[1], index.shape[0] * x.shape[1])), grad.new_empty(grad.shape[1])


# Gradients. That of a tensor takes the layout of the tensor, whatever the layout of what arrives. Only what a wanted
# gradient reads is kept for the backward pass.


def _traverse_setup(ctx, inputs, output):
    x, index, inverse, _ = inputs
    ctx.size, ctx.last = x.shape[2:], lies_last(x)
    ctx.save_for_backward(index, inverse)


def _traverse_backward(ctx, grad):
    return call(_adjoint, grad, *ctx.saved_tensors, *ctx.size, ctx.last), None, None, None


def _adjoint_setup(ctx, inputs, output):
    grad, index, inverse, *_ = inputs
    ctx.last = lies_last(grad)
    ctx.save_for_backward(index, inverse)


def _adjoint_backward(ctx, image):
    return call(_traverse, image, *ctx.saved_tensors, ctx.last), *[None] * 5


def _conv1d_setup(ctx, inputs, output):
    x, index, inverse, weight, *_ = inputs
    ctx.size, ctx.last, needs = x.shape[2:], lies_last(x), ctx.needs_input_grad
    ctx.save_for_backward(x if needs[3] else None, index, inverse, weight if needs[0] else None)


def _conv1d_backward(ctx, grad):
    (x, index, inverse, weight), needs = ctx.saved_tensors, ctx.needs_input_grad
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        grad_x = call(_grad_input, grad, index, inverse, weight, *ctx.size, ctx.last)
    if needs[3]:
        grad_weight, grad_bias = call(_grad_weight, grad, x, index, inverse)
    elif needs[4]:
        grad_bias = grad.sum((0, 2))
    return grad_x, None, None, grad_weight, grad_bias if needs[4] else None, None


def _grad_input_setup(ctx, inputs, output):
    grad, index, inverse, weight, *_ = inputs
    ctx.last, needs = lies_last(grad), ctx.needs_input_grad
    ctx.save_for_backward(grad if needs[3] else None, index, inverse, weight if needs[0] else None)


def _grad_input_backward(ctx, image):
    (grad, index, inverse, weight), needs = ctx.saved_tensors, ctx.needs_input_grad
    grad_grad = call(_conv1d, image, index, inverse, weight, None, ctx.last) if needs[0] else None
    grad_weight = call(_grad_weight, grad, image, index, inverse)[0] if needs[3] else None
    return grad_grad, None, None, grad_weight, None, None, None


def _grad_weight_setup(ctx, inputs, output):
    grad, x, index, inverse = inputs
    ctx.size, ctx.lasts, needs = x.shape[2:], (lies_last(grad), lies_last(x)), ctx.needs_input_grad
    ctx.save_for_backward(grad if needs[1] else None, x if needs[0] else None, index, inverse)


def _grad_weight_backward(ctx, weight, bias):
    (grad, x, index, inverse), needs = ctx.saved_tensors, ctx.needs_input_grad
    grad_grad = call(_conv1d, x, index, inverse, weight, bias, ctx.lasts[0]) if needs[0] else None
    grad_x = call(_grad_input, grad, index, inverse, weight, *ctx.size, ctx.lasts[1]) if needs[1] else None
    return grad_grad, grad_x, None, None


# vmap: a mapped dimension of images alone joins the batch; anything else is one call per entry.


def _vmap_rule(op, batched: tuple[int, ...]):
    """The rule for `op`, in which the arguments at `batched` have a batch, and so does the result."""

    def rule(info, in_dims, *args):
        mapped = [i for i, dim in enumerate(in_dims) if dim is not None]
        if batched and all(i in batched for i in mapped):
            args = [arg.movedim(in_dims[i], 0).flatten(0, 1) if i in mapped else arg for i, arg in enumerate(args)]
            return call(op, *args).unflatten(0, (info.batch_size, -1)), 0
        calls = [
            call(op, *(arg.select(in_dims[i], k) if i in mapped else arg for i, arg in enumerate(args)))
            for k in range(info.batch_size)
        ]
        if isinstance(calls[0], tuple):
            return tuple(map(torch.stack, zip(*calls))), (0, 0)
        return torch.stack(calls), 0

    return rule


register(_traverse, _traverse_setup, _traverse_backward, _vmap_rule(_traverse, (0,)))
register(_adjoint, _adjoint_setup, _adjoint_backward, _vmap_rule(_adjoint, (0,)))
register(_conv1d, _conv1d_setup, _conv1d_backward, _vmap_rule(_conv1d, (0,)))
register(_grad_input, _grad_input_setup, _grad_input_backward, _vmap_rule(_grad_input, (0,)))
register(_grad_weight, _grad_weight_setup, _grad_weight_backward, _vmap_rule(_grad_weight, ()))


# What `torch.utils.flop_counter` counts, as for torch's convolutions; a traversal alone computes nothing.


@register_flop_formula(torch.ops.pathconv.traverse_conv1d)
def _conv1d_flops(x, index, inverse, weight, *_, out_shape=None, **__) -> int:
    return 2 * prod(out_shape) * weight[1]


@register_flop_formula(torch.ops.pathconv.traverse_conv1d_grad_input)
def _grad_input_flops(grad, index, inverse, weight, *_, **__) -> int:
    return 2 * prod(grad) * weight[1]


@register_flop_formula(torch.ops.pathconv.traverse_conv1d_grad_weight)
def _grad_weight_flops(grad, x, index, *_, **__) -> int:
    return 2 * prod(grad) * index[0] * x[1]
