"""The paper's layers as its published code computes them: the rival in `networks.py`. Own words for the same steps.

Every forward pass, in evaluation too, makes the distance of every point to every tap, and from it the kernels, by a
dense matrix product. Depthwise kernels go to `F.conv2d` (the authors' own CUDA kernel has no CPU side), those of
sequences through transforms as long as the padded sequence.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smpconv import SMPBranches, SMPConv1d, SMPDepthwiseConv2d
from smpconv.branches import LargeConv
from smpconv.points import PointKernel


class Written(nn.Module):
    """A layer of points with the parameters of `layer`; `kept` makes the kernel once, which the authors never do."""

    def __init__(self, layer: PointKernel, kept: bool = False) -> None:
        super().__init__()
        self.coords, self.radius, self.weight, self.bias = layer.coords, layer.radius, layer.weight, layer.bias
        self.average, self.kept = layer.average, kept
        axes = torch.meshgrid(*(torch.linspace(-1, 1, taps) for taps in layer.kernel_size), indexing="ij")
        self.grid = torch.stack(axes)[None].to(layer.coords.device)  # (1, d, *kernel_size)
        self.made: Tensor | None = None

    def kernel(self) -> Tensor:  # (G, C, *kernel_size)
        sizes, (groups, points, dims) = self.grid.shape[2:], self.coords.shape
        diff = self.coords.unsqueeze(-2) - self.grid.reshape(1, dims, -1).transpose(1, 2)
        diff = diff.transpose(2, 3).reshape(groups, points, dims, *sizes)
        diff = F.relu(1 - torch.sum(torch.abs(diff), dim=2) / self.radius.view(groups, points, *[1] * dims))
        if self.average:
            diff = diff * (1 / ((diff != 0).sum(1, keepdim=True) + 1e-6))
        kernels = torch.matmul(self.weight, diff.reshape(groups, points, -1)).reshape(groups, -1, *sizes)
        return kernels if dims == 1 else torch.flip(kernels.transpose(2, 3), dims=(2,))

    def forward(self, x: Tensor) -> Tensor:
        if self.kept and self.made is None:
            self.made = self.kernel().detach()
        kernel = self.kernel() if self.made is None else self.made
        if kernel.dim() == 3:
            return spectral(x, kernel, self.bias)
        kernel = kernel.squeeze(0).unsqueeze(1)
        return F.conv2d(x, kernel, self.bias, padding=kernel.shape[-1] // 2, groups=len(kernel))


def spectral(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:  # (N, I, L), (O, I, T) -> (N, O, L)
    """The causal convolution of sequences of even length; the authors' is wrong for odd ones."""
    length = x.shape[-1]
    if kernel.shape[-1] % 2 == 0:
        kernel = F.pad(kernel, (1, 0))
    x = F.pad(x, (kernel.shape[-1] - 1, 0))
    kernel = F.pad(kernel, (0, x.shape[-1] - kernel.shape[-1]))
    product = torch.einsum("nif,oif->nof", torch.fft.rfft(x), torch.conj(torch.fft.rfft(kernel)))
    y = torch.fft.irfft(product).float()[..., :length]
    return y if bias is None else y + bias.view(1, -1, 1)


class Branches(nn.Module):
    """Both branches with their norms."""

    def __init__(self, branches: SMPBranches, kept: bool) -> None:
        super().__init__()
        self.smp = Written(branches.smp, kept)
        self.small, self.norm, self.small_norm = branches.small, branches.norm, branches.small_norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.smp(x)) + self.small_norm(self.small(x))


def as_published(model: nn.Module, kept: bool = False) -> nn.Module:
    """A copy of `model` with the same parameters that computes as the published code does."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, SMPBranches):
                setattr(module, name, Branches(child, kept))
            elif isinstance(child, (SMPConv1d, SMPDepthwiseConv2d)) and not isinstance(module, SMPBranches):
                setattr(module, name, Written(child, kept))
    return model


def stock(fused: nn.Module) -> nn.Module:
    """A copy of a fused network whose large depthwise convolutions are those of torch."""
    fused = copy.deepcopy(fused)
    for module in list(fused.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LargeConv):
                channels, _, *size = child.weight.shape
                conv = nn.Conv2d(channels, channels, size, padding=[taps // 2 for taps in size], groups=channels)
                conv.weight, conv.bias = child.weight, child.bias
                setattr(module, name, conv)
    return fused
