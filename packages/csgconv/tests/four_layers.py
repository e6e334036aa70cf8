"""A network of four generated layers, and what it computes without anything kept."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from csgconv import CSGConv2d, SliceGenerator

# Products of a layer's own rows are summed in another order than those of all.
close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)


def network(**options) -> nn.Sequential:
    generator = SliceGenerator(6, (4, 4, 3, 3), **options)
    return nn.Sequential(*(CSGConv2d(5, 5, 3, generator, padding=1) for _ in range(4)))


X = torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(0))


def anew(net: nn.Sequential, x: Tensor = X) -> Tensor:
    """The output of kernels by products of each layer's own rows."""
    for layer in net:
        weight = layer.generator._alone(layer.index)
        x = nn.functional.conv2d(x, weight, layer.bias, padding=1)
    return x
