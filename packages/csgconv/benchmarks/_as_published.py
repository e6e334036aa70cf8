"""Kernels as the paper's published code makes them: the rival of the other programs here. Own words for the same steps.

Every layer has a matrix of codes of its own. In every forward pass, in evaluation too, it asks the one linear layer of
the network for its slices, views them as a kernel of padded channels, and cuts the kernel out; the convolution then
makes that contiguous.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csgconv import CSGConv2d
from csgconv.layouts import Layer


def kernel(codes: Tensor, csg: nn.Linear, layer: Layer) -> Tensor:  # (N, d) -> (O, I, k, k), not contiguous
    """Of one layer, in raster."""
    outputs, inputs, k, _ = layer.shape
    s0, s1, *_ = layer.slice_shape
    padded = csg(codes).view(-(-outputs // s0) * s0, -(-inputs // s1) * s1, k, k)
    return padded[:outputs, :inputs, :k, :k]


class Written(nn.Module):
    """A layer with the kernel of `layer`, and the linear layer that all layers share."""

    def __init__(self, layer: CSGConv2d, csg: nn.Linear) -> None:
        super().__init__()
        live, dead = layer.generator.rows(layer.index)
        rows = torch.tensor([*live, *dead])
        self.codes, self.csg = nn.Parameter(layer.generator.codes.detach()[rows]), csg
        self.bias, self.stride, self.padding, self.dilation = layer.bias, layer.stride, layer.padding, layer.dilation
        self.layer = layer.generator.layers[layer.index]

    def forward(self, x: Tensor) -> Tensor:
        weight = kernel(self.codes, self.csg, self.layer)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation)


def as_published(model: nn.Module) -> nn.Module:
    """A copy of `model` with the same kernels that computes as the published code does."""
    model, csg = copy.deepcopy(model), None
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, CSGConv2d):
                if csg is None:
                    csg = nn.Linear(*reversed(child.generator.weight.shape), bias=False)
                    csg.weight = child.generator.weight
                setattr(module, name, Written(child, csg))
    return model
