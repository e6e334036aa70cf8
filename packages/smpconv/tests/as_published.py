"""The authors' networks, rebuilt from the description of their code in plain torch: weights under their names, logits.

Nothing here is shared with the package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


class Weights:
    """Random weights under the authors' names."""

    def __init__(self, dtype: torch.dtype, seed: int = 1) -> None:
        self.state: State = {}
        self.dtype, self.generator = dtype, torch.Generator().manual_seed(seed)

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=self.dtype)

    def conv(self, name: str, *shape: int, bias: bool = False) -> None:
        self.state[f"{name}.weight"] = self.draw(*shape) * math.sqrt(2 / math.prod(shape[1:]))
        if bias:
            self.state[f"{name}.bias"] = 0.3 * self.draw(shape[0])

    def norm(self, name: str, channels: int) -> None:
        self.state[f"{name}.weight"] = 1 + 0.3 * self.draw(channels)
        self.state[f"{name}.bias"] = 0.3 * self.draw(channels)
        self.state[f"{name}.running_mean"] = 0.3 * self.draw(channels)
        self.state[f"{name}.running_var"] = 0.5 + self.draw(channels) ** 2
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(1251)

    def points(self, name: str, sets: int, kernels: int, count: int, dims: int, radius: float) -> None:
        """Spread over the kernel and beyond, so that they overlap, leave it, and lie between taps."""
        ones = (1,) * dims
        self.state[f"{name}.weight_coord"] = 0.6 * self.draw(sets, count, dims)
        self.state[f"{name}.radius"] = radius * (0.5 + self.draw(sets, count, *ones).abs())
        self.state[f"{name}.weights"] = self.draw(sets, kernels, count) / math.sqrt(count)


def kernel(state: State, name: str, taps: int, *, count: bool) -> Tensor:
    """Every pair of a point and a tap, as their code builds them: (G, C, T) or (G, C, T, T)."""
    p, r, w = (state[f"{name}.{leaf}"] for leaf in ("weight_coord", "radius", "weights"))
    grid = torch.linspace(-1, 1, taps, dtype=p.dtype)
    if p.shape[2] == 1:
        distance = (grid - p).abs()
    else:
        distance = (grid[:, None] - p[..., :1, None]).abs() + (grid - p[..., 1:, None]).abs()
    phi = (1 - distance / r).relu()
    if count:
        phi = phi / ((phi != 0).sum(1, keepdim=True).to(p.dtype) + 1e-6)
    k = (w @ phi.flatten(2)).unflatten(2, phi.shape[2:])
    return k if k.dim() == 3 else k.transpose(2, 3).flip(2)


def batch_norm(state: State, name: str, x: Tensor) -> Tensor:
    shape = (-1, *[1] * (x.dim() - 2))
    leaves = ("running_mean", "running_var", "weight", "bias")
    mean, var, weight, bias = (state[f"{name}.{leaf}"].view(shape) for leaf in leaves)
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def causal(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv1d(F.pad(x, (weight.shape[2] - 1, 0)), weight, bias)


def same(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(x, weight, bias, stride, weight.shape[2] // 2, groups=groups)


# CIFAR and sequences.


def dense_state(
    widths: Sequence[int],
    taps: int,
    *,
    inputs: int,
    classes: int,
    points: int = 6,
    bias: bool = False,
    dims: int = 1,
    dtype: torch.dtype = torch.float64,
) -> State:
    """The network for sequences, or with `dims=2` that for CIFAR, which has a stem."""
    weights, small = Weights(dtype), (5,) if dims == 1 else (3, 3)

    def pair(prefix: str, number: int, before: int, after: int, small_bias: bool = False) -> None:
        weights.points(f"{prefix}cconv{number}.Kernel", after, before, points, dims, 6 / taps)
        weights.state[f"{prefix}cconv{number}.train_length"] = torch.tensor([taps])
        if bias:
            weights.state[f"{prefix}cconv{number}.bias"] = 0.3 * weights.draw(after)
        weights.conv(f"{prefix}cconv{number}s", after, before, *small, bias=small_bias)
        weights.norm(f"{prefix}norm{number}", after)
        weights.norm(f"{prefix}norm{number}s", after)

    before = inputs
    if dims == 2:
        pair("", 1, inputs, widths[0], small_bias=True)
        before = widths[0]
    for index, after in enumerate(widths):
        block = f"{'backbone' if dims == 1 else 'blocks'}.{index}."
        pair(block, 1, before, after)
        pair(block, 2, after, after)
        if before != after:
            weights.conv(f"{block}shortcut.0", after, before, *(1,) * dims, bias=True)
        before = after
    weights.conv("finallyr" if dims == 1 else "out_layer", classes, before, *(1,) * (2 * dims - 2), bias=True)
    return weights.state


def dense_logits(state: State, x: Tensor, taps: int) -> Tensor:
    dims = x.dim() - 2
    conv = causal if dims == 1 else same

    def pair(x: Tensor, prefix: str, number: int) -> Tensor:
        name, norm = f"{prefix}cconv{number}", f"{prefix}norm{number}"
        large = conv(x, kernel(state, f"{name}.Kernel", taps, count=True), state.get(f"{name}.bias"))
        small = conv(x, state[f"{name}s.weight"], state.get(f"{name}s.bias"))
        return batch_norm(state, norm, large) + batch_norm(state, f"{norm}s", small)

    if dims == 2:
        x = pair(x, "", 1).relu()
    index = 0
    while (block := f"{'backbone' if dims == 1 else 'blocks'}.{index}.") + "cconv1s.weight" in state:
        shortcut = x
        if f"{block}shortcut.0.weight" in state:
            shortcut = conv(x, state[f"{block}shortcut.0.weight"], state[f"{block}shortcut.0.bias"])
        y = pair(pair(x, block, 1).relu(), block, 2)
        x = ((y.relu() if dims == 1 else y) + shortcut).relu()
        index += 1
    if dims == 1:
        return F.linear(x[:, :, -1], state["finallyr.weight"], state["finallyr.bias"])
    return F.conv2d(x.mean((2, 3), keepdim=True), state["out_layer.weight"], state["out_layer.bias"]).flatten(1)


# ImageNet.


def imagenet_state(
    layers: Sequence[int],
    channels: Sequence[int],
    sizes: Sequence[int],
    *,
    classes: int = 1000,
    dtype: torch.dtype = torch.float64,
) -> State:
    weights = Weights(dtype)

    def conv_bn(name: str, *shape: int) -> None:
        weights.conv(f"{name}.conv", *shape)
        weights.norm(f"{name}.bn", shape[0])

    width = channels[0]
    for index, shape in enumerate(((width, 3, 3, 3), (width, 1, 3, 3), (width, width, 1, 1), (width, 1, 3, 3))):
        conv_bn(f"stem.{index}", *shape)
    for stage, (depth, width, size) in enumerate(zip(layers, channels, sizes)):
        if stage:
            conv_bn(f"transitions.{stage - 1}.0", width, channels[stage - 1], 1, 1)
            conv_bn(f"transitions.{stage - 1}.1", width, 1, 3, 3)
        for index in range(depth):
            block = f"stages.{stage}.blocks.{2 * index}"
            weights.norm(f"{block}.prelkb_bn", width)
            conv_bn(f"{block}.pw1", width, width, 1, 1)
            conv_bn(f"{block}.pw2", width, width, 1, 1)
            weights.points(f"{block}.large_kernel.smp.conv", 1, width, size * size // 4, 2, 4 / size)
            weights.state[f"{block}.large_kernel.smp.conv.kernel_coord"] = torch.zeros(1, 2, size, size)
            weights.norm(f"{block}.large_kernel.smp.bn", width)
            conv_bn(f"{block}.large_kernel.small_conv", width, 1, 5, 5)
            block = f"stages.{stage}.blocks.{2 * index + 1}"
            weights.norm(f"{block}.preffn_bn", width)
            conv_bn(f"{block}.pw1", 4 * width, width, 1, 1)
            conv_bn(f"{block}.pw2", width, 4 * width, 1, 1)
    weights.norm("norm", width)
    weights.conv("head", classes, width, bias=True)
    return weights.state


def imagenet_logits(state: State, x: Tensor, sizes: Sequence[int]) -> Tensor:
    def conv_bn(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return batch_norm(state, f"{name}.bn", same(x, state[f"{name}.conv.weight"], stride=stride))

    for index, stride in enumerate((2, 1, 1, 2)):
        x = conv_bn(x, f"stem.{index}", stride).relu()
    for stage, size in enumerate(sizes):
        if stage:
            x = conv_bn(x, f"transitions.{stage - 1}.0").relu()
            x = conv_bn(x, f"transitions.{stage - 1}.1", 2).relu()
        index = 0
        while (block := f"stages.{stage}.blocks.{index}") + ".pw1.conv.weight" in state:
            if index % 2 == 0:
                y = conv_bn(batch_norm(state, f"{block}.prelkb_bn", x), f"{block}.pw1").relu()
                taps = kernel(state, f"{block}.large_kernel.smp.conv", size, count=False)[0]
                large = batch_norm(state, f"{block}.large_kernel.smp.bn", same(y, taps.unsqueeze(1)))
                y = (large + conv_bn(y, f"{block}.large_kernel.small_conv")).relu()
            else:
                y = F.gelu(conv_bn(batch_norm(state, f"{block}.preffn_bn", x), f"{block}.pw1"))
            x = x + conv_bn(y, f"{block}.pw2")
            index += 1
    x = batch_norm(state, "norm", x).mean((2, 3))
    return F.linear(x, state["head.weight"], state["head.bias"])
