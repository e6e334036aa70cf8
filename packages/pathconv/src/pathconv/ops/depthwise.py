"""Autograd, vmap and fake kernels of `depthwise_conv1d` and its gradients.

The three are linear in each of their tensors and each other's gradients. Kernels are (B, M * C, K) here, B = 1 for all
samples or B = N for one each.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .._common.autograd import call, register
from ..reference import lies_last

_forward = torch.ops.pathconv.depthwise_conv1d.default
_grad_input = torch.ops.pathconv.depthwise_conv1d_grad_input.default
_grad_weight = torch.ops.pathconv.depthwise_conv1d_grad_weight.default


def depthwise_conv1d(
    x: Tensor,  # (N, C, L)
    weight: Tensor,  # (B, M * C, K)
    bias: Tensor | None,  # (M * C,)
    stride: int,
    padding: int,
) -> Tensor:  # (N, M * C, (L + 2 * padding - K) // stride + 1)
    """Runs the op."""
    return call(_forward, x, weight, bias, stride, padding)


def _empty(like: Tensor, channels: int, length: int) -> Tensor:
    if lies_last(like):
        return like.new_empty((like.shape[0], length, channels)).transpose(1, 2)
    return like.new_empty((like.shape[0], channels, length))


@torch.library.register_fake("pathconv::depthwise_conv1d")
def _(x, weight, bias, stride, padding):
    return _empty(x, weight.shape[1], (x.shape[2] + 2 * padding - weight.shape[2]) // stride + 1)


@torch.library.register_fake("pathconv::depthwise_conv1d_grad_input")
def _(grad, weight, channels, length, stride, padding):
    return _empty(grad, channels, length)


@torch.library.register_fake("pathconv::depthwise_conv1d_grad_weight")
def _(grad, x, kernel_size, stride, padding, per_sample):
    kernels = grad.shape[0] if per_sample else 1
    return grad.new_empty((kernels, grad.shape[1], kernel_size)), grad.new_empty(grad.shape[1])


# Gradients. That of a sequence takes the layout of the sequence, as in torch's convolutions: it often arrives expanded
# or transposed. Only what a wanted gradient reads is kept for the backward pass.


def _laid_out(t: Tensor, last: bool) -> Tensor:
    return t.mT.contiguous().mT if last else t.contiguous()


def _per_sample(weight: Tensor) -> bool:
    return weight.shape[0] != 1


def _forward_setup(ctx, inputs, output):
    x, weight, _, ctx.stride, ctx.padding = inputs
    ctx.size, ctx.last, ctx.taps, ctx.per_sample = x.shape[1:], lies_last(x), weight.shape[2], _per_sample(weight)
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)


def _forward_backward(ctx, grad):
    (x, weight), needs = ctx.saved_tensors, ctx.needs_input_grad
    grad = _laid_out(grad, ctx.last)
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        grad_x = call(_grad_input, grad, weight, *ctx.size, ctx.stride, ctx.padding)
        grad_x = _laid_out(grad_x, ctx.last)  # a gradient of one position shows no layout
    if needs[1]:
        grad_weight, grad_bias = call(_grad_weight, grad, x, ctx.taps, ctx.stride, ctx.padding, ctx.per_sample)
    elif needs[2]:
        grad_bias = grad.sum((0, 2))
    return grad_x, grad_weight, grad_bias if needs[2] else None, None, None


def _grad_input_setup(ctx, inputs, output):
    grad, weight, _, _, ctx.stride, ctx.padding = inputs
    ctx.last, ctx.taps, ctx.per_sample = lies_last(grad), weight.shape[2], _per_sample(weight)
    ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)


def _grad_input_backward(ctx, sequence):
    (grad, weight), needs = ctx.saved_tensors, ctx.needs_input_grad
    sequence = _laid_out(sequence, ctx.last)
    grad_grad = grad_weight = None
    if needs[0]:
        grad_grad = _laid_out(call(_forward, sequence, weight, None, ctx.stride, ctx.padding), ctx.last)
    if needs[1]:
        grad_weight = call(_grad_weight, grad, sequence, ctx.taps, ctx.stride, ctx.padding, ctx.per_sample)[0]
    return grad_grad, grad_weight, *[None] * 4


def _grad_weight_setup(ctx, inputs, output):
    grad, x, _, ctx.stride, ctx.padding, _ = inputs
    ctx.size, ctx.lasts = x.shape[1:], (lies_last(grad), lies_last(x))
    ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, x if ctx.needs_input_grad[0] else None)


def _grad_weight_backward(ctx, weight, bias):
    (grad, x), needs = ctx.saved_tensors, ctx.needs_input_grad
    grad_grad = grad_x = None
    if needs[0]:
        grad_grad = _laid_out(call(_forward, x, weight, bias, ctx.stride, ctx.padding), ctx.lasts[0])
    if needs[1]:
        grad_x = _laid_out(call(_grad_input, grad, weight, *ctx.size, ctx.stride, ctx.padding), ctx.lasts[1])
    return grad_grad, grad_x, *[None] * 4


# vmap: channels never mix, so a mapped dimension joins the batch where only sequences under one kernel carry it, else
# the channels.

_CHANNELS = {"x": 1, "grad": 1, "weight": 1, "bias": 0}  # dimension of an argument that counts channels


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
        if op is _grad_input:
            rest = (size * rest[0], *rest[1:])  # the number of channels
        out = call(op, *folded, *rest)
        if isinstance(out, tuple):  # gradients of weight and bias
            return (out[0].unflatten(1, (size, -1)), out[1].unflatten(0, (size, -1))), (1, 0)
        return out.unflatten(1, (size, -1)), 1

    def rule(info, in_dims, *args):
        tensors, rest = args[: len(names)], args[len(names) :]
        mapped = {name for name, dim in zip(names, in_dims) if dim is not None}
        sequences_only = mapped <= {"x", "grad"} and op is not _grad_weight and not _per_sample(tensors[1])
        return (into_batch if sequences_only else into_channels)(info.batch_size, in_dims, tensors, rest)

    return rule


register(_forward, _forward_setup, _forward_backward, _vmap_rule(_forward, ("x", "weight", "bias")))
register(_grad_input, _grad_input_setup, _grad_input_backward, _vmap_rule(_grad_input, ("grad", "weight")))
register(_grad_weight, _grad_weight_setup, _grad_weight_backward, _vmap_rule(_grad_weight, ("grad", "x")))


# What `torch.utils.flop_counter` counts, from shapes: a multiplication and an addition per tap and output, zeros
# outside included, as for torch's convolutions.


@register_flop_formula(torch.ops.pathconv.depthwise_conv1d)
def _forward_flops(x, weight, *_, out_shape=None, **__) -> int:
    return 2 * prod(out_shape) * weight[2]


@register_flop_formula(torch.ops.pathconv.depthwise_conv1d_grad_input)
def _grad_input_flops(grad, weight, *_, **__) -> int:
    return 2 * prod(grad) * weight[2]


@register_flop_formula(torch.ops.pathconv.depthwise_conv1d_grad_weight)
def _grad_weight_flops(grad, x, kernel_size, *_, **__) -> int:
    return 2 * prod(grad) * kernel_size
