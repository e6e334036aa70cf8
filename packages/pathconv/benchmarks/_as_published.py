"""The paper's network as its published code writes it: the rival in `networks.py`. Own words for the same operations.

Activations are (N, C, L) throughout. Layer norm over the channels is nine operations of elementwise arithmetic, the
attention visits one path after the other, the residual scale is an operation of its own, and every path of the image is
an advanced index. Names of parameters and the order of random numbers are those of `pathconv.models`, so that weights
and drop paths agree. Two things of the original run on a GPU alone and are left out, to its advantage: its traversal
kernel without a gradient (the CPU module beside it is what is written here), and a wait for the device in every forward
pass.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from timm.layers import DropPath
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Layer norm over dimension 1, one operation after the other."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + self.eps)
        return self.weight[:, None] * x + self.bias[:, None]


class PathAttention(nn.Module):
    """Path-aware channel attention, path by path."""

    def __init__(self, channels: int, paths: int) -> None:
        super().__init__()
        self.paths, group = paths, channels // paths
        size = int(abs(math.log2(group) / 2 + 0.5))
        size += size % 2 == 0
        self.path_convs = nn.ModuleList(
            nn.ModuleList(nn.Conv1d(1, 1, k, padding=k // 2, bias=False) for k in (size, 2 * size - 1))
            for _ in range(paths)
        )
        self.cross_path_mlp = nn.Sequential(
            nn.LayerNorm(paths), nn.Linear(paths, 2 * paths), nn.GELU(), nn.Linear(2 * paths, paths), nn.Sigmoid()
        )
        self.combine = nn.Conv1d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, length = x.shape
        x = x.view(batch, self.paths, channels // self.paths, length)
        inner = []
        for path, convs in enumerate(self.path_convs):
            mean = x[:, path].mean(-1, keepdim=True).transpose(1, 2)  # (N, 1, G)
            both = torch.cat([conv(mean) for conv in convs], 1)
            inner.append(torch.sigmoid(self.combine(both)).transpose(1, 2))  # (N, G, 1)
        summary = torch.cat([weights.mean(1) for weights in inner], 1)  # (N, P)
        outer = self.cross_path_mlp(summary)
        parts = [x[:, path] * weights * outer[:, path, None, None] for path, weights in enumerate(inner)]
        return torch.stack(parts, 1).view(batch, channels, length)


class Block(nn.Module):
    def __init__(self, dim: int, paths: int, drop_path: float) -> None:
        super().__init__()
        self.attn = PathAttention(dim, paths)
        self.dwconv = nn.Sequential(nn.Conv1d(dim, dim, 9, padding=4, groups=dim), ChannelNorm(dim))
        self.invBot = nn.Sequential(
            nn.Conv1d(dim, 4 * dim, 1), ChannelNorm(4 * dim), nn.GELU(), nn.Conv1d(4 * dim, dim, 1)
        )
        self.scaling = nn.Parameter(torch.full((dim,), 1e-6))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.attn(x)
        y = self.scaling[:, None] * self.invBot(self.dwconv(y))
        return x + self.drop_path(y)


class Traversal(nn.Module):
    def __init__(self, paths: Tensor) -> None:
        super().__init__()
        self.register_buffer("paths", paths.int())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :, path[:, 0].long(), path[:, 1].long()] for path in self.paths], 1)


class Stem(nn.Module):
    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, dim, 1)
        self.conv2 = nn.Sequential(nn.Conv1d(dim, dim, 11, padding=5, groups=dim), ChannelNorm(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class AsPublished(nn.Module):
    """The network of `depths` and `dims` along `paths` (P, L, 2)."""

    def __init__(
        self,
        depths: tuple[int, ...],
        dims: tuple[int, ...],
        paths: Tensor,
        num_classes: int = 10,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        count, length, _ = paths.shape
        self.pathSampling = Traversal(paths)
        self.posEmbedding = nn.Parameter(torch.randn(1, dims[0], length))
        self.stem = Stem(3 * count, dims[0])
        self.downsample = nn.ModuleList(
            nn.Sequential(nn.Conv1d(before, after, 9, stride=2, padding=4, groups=before), ChannelNorm(after))
            for before, after in pairwise(dims)
        )
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.stage = nn.ModuleList(
            nn.Sequential(*(Block(dim, count, next(rates)) for _ in range(depth))) for dim, depth in zip(dims, depths)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.pathSampling(x)) + self.posEmbedding
        for index, stage in enumerate(self.stage):
            x = stage(x if index == 0 else self.downsample[index - 1](x))
        return self.head(self.norm(x.mean(-1)))
