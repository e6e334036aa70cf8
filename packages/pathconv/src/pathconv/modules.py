"""Layers around `functional`, and the block of the paper's networks (sections 4.1 to 4.3).

Sequences are (N, C, L). Every layer takes any memory layout; `PathConvBlock` works on (N, L, C) in memory, where a
layer norm over the channels and a convolution of kernel size 1 are the library's own, and returns its result so.

Names of parameters are those of the authors, so that their checkpoints load.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import bottleneck
from ._common.checks import integer, positive_int
from .functional import depthwise_conv1d
from .traversal import Traverse, TraverseConv1d, reset_as_conv

__all__ = [
    "ChannelNorm",
    "DepthwiseConv1d",
    "InvertedBottleneck",
    "PathAwareECA",
    "PathConvBlock",
    "PointwiseConv1d",
    "Traverse",
    "TraverseConv1d",
    "kernel_sizes",
]

LAYER_NORM_EPS = 1e-6
CACHE_BYTES = 2 << 20  # of one core


class DepthwiseConv1d(nn.Module):
    """Depthwise 1D convolution: see :func:`pathconv.depthwise_conv1d`.

    Weights are those of `nn.Conv1d(channels, multiplier * channels, kernel_size, groups=channels, ...)`.

    Args:
        channels: C of the input.
        kernel_size: K.
        multiplier: M, outputs per channel.
        stride: step along the sequence.
        padding: zeros at each end; by default K // 2, which keeps the length for an odd K.
        bias: learns one number per output channel to be added.

    Example:
        >>> DepthwiseConv1d(48, 9, multiplier=2, stride=2)(torch.randn(1, 48, 1024)).shape
        torch.Size([1, 96, 512])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        *,
        multiplier: int = 1,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.kernel_size = positive_int("channels", channels), positive_int("kernel_size", kernel_size)
        self.multiplier, self.stride = positive_int("multiplier", multiplier), positive_int("stride", stride)
        self.padding = kernel_size // 2 if padding is None else integer("padding", padding, 0)
        out = channels * multiplier
        self.weight = nn.Parameter(torch.empty(out, 1, kernel_size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias as `nn.Conv1d` does."""
        reset_as_conv(self.weight, self.bias)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:  # (N, C, L) -> (N, M * C, L')
        """The convolution of `x`; with `scale` (N, C) that of `scale[..., None] * x`, without forming that product."""
        weight: Tensor = self.weight
        if scale is not None and len(weight) == 1:  # a kernel per sample would be read as one per output
            x = scale[..., None] * x
        elif scale is not None:  # kernels per sample, (N, C, 1) * (C, M, K)
            weight = (scale[..., None, None] * weight.view(self.channels, self.multiplier, -1)).flatten(1, 2)
        return depthwise_conv1d(x, weight, self.bias, stride=self.stride, padding=self.padding)

    def extra_repr(self) -> str:
        text = f"{self.channels}, {self.kernel_size}"
        defaults = {"multiplier": 1, "stride": 1, "padding": self.kernel_size // 2}
        values = {name: getattr(self, name) for name in defaults}
        text += "".join(f", {name}={value}" for name, value in values.items() if value != defaults[name])
        return text if self.bias is not None else f"{text}, bias=False"


class PathAwareECA(nn.Module):
    """Path-aware channel attention (section 4.2): one number in (0, 1) per sample and channel.

    The channels are P groups of G. With m the means over the sequence, (N, P, G), the weights of a group are

        e[n, p] = sigmoid(combine([conv_k1(m[n, p]), conv_k2(m[n, p])])),   zero padding, own kernels per group
        f[n]    = sigmoid(linear(gelu(linear(layer_norm(mean_g e[n, p])))))

    and the result is x[n, (p, g), l] * e[n, p, g] * f[n, p]. (The paper multiplies f by the mean of e instead; this is
    what the authors' code does.) t = int(|log2(G) / 2 + 1 / 2|), k1 is t if that is odd, else t + 1, and
    k2 = 2 k1 - 1. Both convolutions and `combine` are linear, so here they are one convolution with P groups.

    With one path the layer norm sees one number, so f is a constant that depends on no input, as in the original.

    Args:
        channels: a multiple of `num_paths`.
        num_paths: P.

    Raises:
        ValueError: `channels` is no multiple of `num_paths`.

    Example:
        >>> PathAwareECA(48, 3)(torch.randn(2, 48, 1024)).shape
        torch.Size([2, 48, 1024])
    """

    def __init__(
        self,
        channels: int,
        num_paths: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.num_paths = positive_int("channels", channels), positive_int("num_paths", num_paths)
        if channels % num_paths:
            raise ValueError(
                f"num_paths must divide the channels, but there are {num_paths} paths and {channels} channels."
            )
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.kernel_sizes = kernel_sizes(channels // num_paths)
        self.path_convs = nn.ModuleList(
            nn.ModuleList(nn.Conv1d(1, 1, k, padding=k // 2, bias=False, **dd) for k in self.kernel_sizes)
            for _ in range(num_paths)
        )
        self.cross_path_mlp = nn.Sequential(
            nn.LayerNorm(num_paths, **dd),
            nn.Linear(num_paths, 2 * num_paths, **dd),
            nn.GELU(),
            nn.Linear(2 * num_paths, num_paths, **dd),
            nn.Sigmoid(),
        )
        self.combine = nn.Conv1d(2, 1, 1, **dd)

    def kernel(self) -> Tensor:  # (P, 1, k2)
        """The two convolutions of each group and `combine`, as one kernel per group."""
        short, long = map(torch.cat, zip(*(pair.parameters() for pair in self.path_convs)))
        margin = (long.shape[2] - short.shape[2]) // 2
        first, second = self.combine.weight.unbind(1)
        return first * F.pad(short, (margin, margin)) + second * long

    def weights(self, x: Tensor) -> Tensor:  # (N, C, L) -> (N, C)
        """The attention e * f, by which `forward` multiplies."""
        if x.dim() != 3 or x.shape[1] != self.channels:
            raise ValueError(f"x must have shape (N, {self.channels}, L), but it has shape {tuple(x.shape)}.")
        mean = x.mean(2).unflatten(1, (self.num_paths, -1))
        kernel, (_, bias) = self.kernel(), self.combine.parameters()
        inner = depthwise_conv1d(mean, kernel, bias.expand(self.num_paths), padding=kernel.shape[2] // 2).sigmoid()
        outer = self.cross_path_mlp(inner.mean(2))
        return (inner * outer[..., None]).flatten(1)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, L)
        return x * self.weights(x)[..., None]

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.num_paths}"


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, L), position by position; the result lies as (N, L, C) in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT).mT


class PointwiseConv1d(nn.Conv1d):
    """`nn.Conv1d` of kernel size 1 as a matrix product on (N, L, C) memory, in which the result lies too."""

    def __init__(self, in_channels: int, out_channels: int, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, 1, **kwargs)

    def forward(self, x: Tensor) -> Tensor:  # (N, in_channels, L) -> (N, out_channels, L)
        return F.linear(x.mT, self.weight.flatten(1), self.bias).mT


class InvertedBottleneck(nn.Sequential):
    """conv_1(gelu(norm(conv_1(x)))), d -> 4 d -> d channels, where conv_1 is a convolution of kernel size 1."""

    def __init__(self, dim: int, **dd: Any) -> None:
        widen, narrow = PointwiseConv1d(dim, 4 * dim, **dd), PointwiseConv1d(4 * dim, dim, **dd)
        super().__init__(widen, ChannelNorm(4 * dim, eps=LAYER_NORM_EPS, **dd), nn.GELU(), narrow)

    def forward(self, x: Tensor) -> Tensor:  # (N, d, L)
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        watched = any(part._forward_hooks or part._forward_pre_hooks for part in self)  # who expect all of a sequence
        if torch.is_grad_enabled() or traced or watched or x.device.type != "cpu":
            return super().forward(x)
        # Inference on a CPU: positions do not mix, so as many go together as keep 4 d channels of them in the caches.
        samples, dim, length = x.shape
        together = max(1, torch.get_num_threads() * CACHE_BYTES // (4 * dim * x.element_size()))
        if samples * length <= together:
            return super().forward(x)
        positions = x.mT.reshape(1, -1, dim).split(together, 1)
        return (
            torch.cat([super(InvertedBottleneck, self).forward(part.mT).mT for part in positions], 1).view_as(x.mT).mT
        )


BLOCK_PARTS = (InvertedBottleneck, ChannelNorm, PointwiseConv1d, ChannelNorm, nn.GELU, PointwiseConv1d)


class PathConvBlock(nn.Module):
    """Residual block (figure 7): attention, depthwise convolution, inverted bottleneck.

        y = x + attn(x)                                          section 4.2
        z = conv_1(gelu(norm(conv_1(norm(conv_9(y))))))          d -> d -> 4 d -> d channels
        out = x + drop_path(scaling * z)                         the residual is x, not y

    conv_9 is depthwise, so it takes 1 + attention as a factor of its kernels, and y is never stored.

    Args:
        dim: d, a multiple of `num_paths`.
        num_paths: groups of the attention.
        drop_path: probability that a sample skips the block in training.
        attention: False leaves it out, y = x, as in the paper's ablation (table 5).
        layer_scale_init_value: of `scaling`.

    Raises:
        ValueError: `dim` is no multiple of `num_paths`, or `drop_path` is no probability below 1.

    Example:
        >>> PathConvBlock(48, 3)(torch.randn(2, 48, 1024)).shape
        torch.Size([2, 48, 1024])
    """

    def __init__(
        self,
        dim: int,
        num_paths: int,
        drop_path: float = 0.0,
        *,
        attention: bool = True,
        layer_scale_init_value: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be at least 0 and below 1, but it is {drop_path}.")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.drop_path, self.layer_scale_init_value = float(drop_path), layer_scale_init_value
        self.attn = PathAwareECA(dim, num_paths, **dd) if attention else None
        self.dwconv = nn.Sequential(DepthwiseConv1d(dim, 9, **dd), ChannelNorm(dim, eps=LAYER_NORM_EPS, **dd))
        self.invBot = InvertedBottleneck(dim, **dd)
        self.scaling = nn.Parameter(torch.full((dim,), layer_scale_init_value, **dd))

    def forward(self, x: Tensor) -> Tensor:  # (N, dim, L)
        x = x.mT.contiguous().mT  # no copy inside a network
        conv, norm = self.dwconv
        y = conv(x, None if self.attn is None else 1 + self.attn.weights(x))
        parts = (self.invBot, norm, *self.invBot)
        factor = None
        if self.drop_path and self.training:
            keep = 1 - self.drop_path
            factor = y.new_empty(len(y)).bernoulli_(keep).div_(keep)
        if bottleneck.applies(x, parts, BLOCK_PARTS, self.scaling):
            return bottleneck.residual(x, y, factor, norm, self.invBot, self.scaling)
        scale = self.scaling[:, None] if factor is None else self.scaling[:, None] * factor[:, None, None]
        return torch.addcmul(x, self.invBot(norm(y)), scale)

    def extra_repr(self) -> str:
        return f"drop_path={self.drop_path:g}" if self.drop_path else ""


def kernel_sizes(group: int) -> tuple[int, int]:
    """k1 and k2 of `PathAwareECA` for G channels per path.

    Example:
        >>> [kernel_sizes(g) for g in (4, 16, 128)]
        [(1, 1), (3, 5), (5, 9)]
    """
    size = int(abs(math.log2(group) / 2 + 0.5))
    size += size % 2 == 0
    return size, 2 * size - 1
