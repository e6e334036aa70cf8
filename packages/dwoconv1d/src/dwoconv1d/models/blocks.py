"""Parts of the paper's ConvNeXt variants: the oriented stem and the residual blocks (figure 3).

The layers work on (N, C, H, W) and hand (N, H, W, C) *views* to LayerNorm and Linear. LayerNorm writes its result in
channels-last order, so from the stem's norm on every activation is channels-last in memory and no permute below copies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath, LayerNorm2d
from torch import Tensor, nn

from ..modules import OrientedConv1d

LAYER_NORM_EPS = 1e-6
_STEM_STRIDES = {1: (1, 1), 2: (2, 1), 4: (2, 2)}


def channels_last(x: Tensor) -> Tensor:
    """View (N, C, H, W) as (N, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def channels_first(x: Tensor) -> Tensor:
    """View (N, H, W, C) as (N, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def sizes_can_be_checked(x: Tensor) -> bool:
    """Not while a graph is traced, which would bind it to the sizes of the example."""
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing() or isinstance(x, torch.fx.Proxy))


class Stem1D(nn.Module):
    """The fully 1D stem (figure 3c): two strided oriented convolutions between two linear layers.

    Linear, oriented (directions from 0), LN, GELU, oriented (directions from 90 degrees), LN, GELU, Linear, LN;
    (N, in_chans, H, W) -> (N, dim, ceil(ceil(H/s0)/s1), ceil(ceil(W/s0)/s1)) for `strides = (s0, s1)`.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        kernel_size: int,
        *,
        width: int = 64,
        strides: tuple[int, int] = (2, 2),
        directions: int = 8,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.pw1 = nn.Linear(in_chans, width, **dd)
        self.dw1 = OrientedConv1d(width, kernel_size, directions=directions, stride=strides[0], **dd)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS, **dd)
        self.dw2 = OrientedConv1d(width, kernel_size, directions=directions, offset=0.5, stride=strides[1], **dd)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS, **dd)
        self.pw2 = nn.Linear(width, dim, **dd)
        self.norm3 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS, **dd)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:  # (N, in_chans, H, W)
        in_chans = self.pw1.in_features
        if sizes_can_be_checked(x) and (x.dim() != 4 or x.shape[1] != in_chans):
            raise ValueError(f"images must have shape (N, {in_chans}, H, W), but they have shape {tuple(x.shape)}.")
        x = channels_first(self.pw1(channels_last(x)))
        x = self.act(self.norm1(channels_last(self.dw1(x))))
        x = self.act(self.norm2(channels_last(self.dw2(channels_first(x)))))
        return channels_first(self.norm3(self.pw2(x)))


class ResidualBlock(nn.Module):
    """What all blocks share: x + drop_path(gamma * Linear(mix(GELU(Linear(LN(depthwise(x)))))))."""

    def __init__(
        self,
        dim: int,
        *,
        drop_path: float = 0.0,
        layer_scale_init_value: float | None = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS, **dd)
        self.pwconv1 = nn.Linear(dim, 4 * dim, **dd)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim, **dd)
        self.layer_scale_init_value = layer_scale_init_value or 0.0
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale_init_value, **dd)) if layer_scale_init_value else None
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def depthwise(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def mix(self, x: Tensor) -> Tensor:  # (N, H, W, 4 dim)
        return x

    def forward(self, x: Tensor) -> Tensor:  # (N, dim, H, W)
        shortcut = channels_last(x)
        x = channels_last(self.depthwise(x))
        x = self.mix(self.act(self.pwconv1(self.norm(x))))
        x = self.drop_path(self.pwconv2(x))
        # drop_path only scales whole samples, so gamma commutes with it and both join the addition in one pass.
        x = shortcut + x if self.gamma is None else torch.addcmul(shortcut, x, self.gamma)
        return channels_first(x)


class Block(ResidualBlock):
    """ConvNeXt block (figures 3d and 3e): `dwconv` is one depthwise convolution, dense 2D or oriented 1D."""

    def __init__(self, dim: int, dwconv: nn.Module, **kwargs: Any) -> None:
        super().__init__(dim, **kwargs)
        self.dwconv = dwconv

    def depthwise(self, x: Tensor) -> Tensor:
        return self.dwconv(x)


class PlusBlock(ResidualBlock):
    """Augmented block (figures 3f and 3g): a second, oriented convolution with an identity tap in the hidden layer.

    It follows the GELU and has neither norm nor activation of its own.
    """

    def __init__(self, dim: int, dwconv1: nn.Module, dwconv2: nn.Module, **kwargs: Any) -> None:
        super().__init__(dim, **kwargs)
        self.dwconv1 = dwconv1
        self.dwconv2 = dwconv2

    def depthwise(self, x: Tensor) -> Tensor:
        return self.dwconv1(x)

    def mix(self, x: Tensor) -> Tensor:
        return channels_last(self.dwconv2(channels_first(x)))


def make_stem(
    stem: str, in_chans: int, dim: int, patch_size: int, kernel_size: int, width: int, directions: int, dd: dict
) -> nn.Module:
    """The layer before the first stage: (N, in_chans, H, W) -> (N, dim, H / patch_size, W / patch_size)."""
    if stem == "patch":
        conv = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size, **dd)
        return nn.Sequential(conv, LayerNorm2d(dim, eps=LAYER_NORM_EPS, **dd))
    if stem != "oriented":
        raise ValueError(f"stem must be 'patch' or 'oriented', got {stem!r}")
    if patch_size not in _STEM_STRIDES:
        raise ValueError(f"patch_size must be 1, 2 or 4 with an oriented stem, got {patch_size}")
    return Stem1D(
        in_chans, dim, kernel_size, width=width, strides=_STEM_STRIDES[patch_size], directions=directions, **dd
    )


def make_block(
    dim: int, kernel_sizes: tuple[int, ...], *, oriented: bool, directions: int, offset: float, **kwargs: Any
) -> nn.Module:
    """A block with as many depthwise convolutions as `kernel_sizes` has entries; `kwargs` as `ResidualBlock` takes."""
    dd: dict[str, Any] = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
    turned: Callable[..., nn.Module] = partial(OrientedConv1d, directions=directions, offset=offset, **dd)
    size = kernel_sizes[0]
    first: nn.Module
    if oriented:
        first = turned(dim, size)
    else:
        first = nn.Conv2d(dim, dim, size, padding=size // 2, groups=dim, **dd)
    if len(kernel_sizes) == 1:
        return Block(dim, first, **kwargs)
    return PlusBlock(dim, first, turned(4 * dim, kernel_sizes[1], residual=True), **kwargs)
