"""Parts of `PixResNet`: stem, bottleneck, stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath, SEModule
from timm.models import checkpoint_seq
from torch import Tensor, nn

from ..modules import PiX


def make_stem(stem: str, in_chans: int, channels: int, **dd: Any) -> tuple[nn.Conv2d, nn.Module]:
    """First convolution, without bias, and pooling."""
    if stem == "imagenet":
        return nn.Conv2d(in_chans, channels, 7, 2, 3, bias=False, **dd), nn.MaxPool2d(3, 2, 1)
    if stem == "lowres":
        return nn.Conv2d(in_chans, channels, 3, 1, 1, bias=False, **dd), nn.Identity()
    raise ValueError(f"stem must be 'imagenet' or 'lowres', got {stem!r}")


class Bottleneck(nn.Module):
    """relu(shortcut(x) + drop_path(bn(conv1x1(relu(bn(conv3x3(PiX(x)))))))): no norm and no activation behind PiX.

    The 3x3 convolution has the stride. `pix=False` squeezes by convolution, norm and ReLU, as ResNet does.
    """

    def __init__(
        self,
        in_channels: int,
        squeezed: int,
        channels: int,
        stride: int = 1,
        *,
        project: bool = False,
        pix: bool = True,
        se: bool = False,
        drop_path: float = 0.0,
        gate: dict[str, Any],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        conv: dict[str, Any] = {"bias": False, **dd}
        if pix:
            self.conv_sqz: nn.Module = PiX(in_channels, in_channels // squeezed, **gate, **dd)
            self.bn_sqz: nn.Module | None = None
        else:
            self.conv_sqz, self.bn_sqz = nn.Conv2d(in_channels, squeezed, 1, **conv), nn.BatchNorm2d(squeezed, **dd)
        self.conv_ce = nn.Conv2d(squeezed, squeezed, 3, stride, 1, **conv)
        self.bn_ce = nn.BatchNorm2d(squeezed, **dd)
        self.conv_exp = nn.Conv2d(squeezed, channels, 1, **conv)
        self.bn_exp = nn.BatchNorm2d(channels, **dd)
        self.se = SEModule(channels, rd_ratio=1 / 16, **dd) if se else None
        self.conv_proj = nn.Conv2d(in_channels, channels, 1, stride, **conv) if project else None
        self.bn_proj = nn.BatchNorm2d(channels, **dd) if project else None
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:  # (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)
        shortcut = x if self.conv_proj is None or self.bn_proj is None else self.bn_proj(self.conv_proj(x))
        x = self.conv_sqz(x)
        if self.bn_sqz is not None:
            x = self.act(self.bn_sqz(x))
        x = self.act(self.bn_ce(self.conv_ce(x)))
        x = self.bn_exp(self.conv_exp(x))
        if self.se is not None:
            x = self.se(x)
        return self.act(self.drop_path(x) + shortcut)


class Stage(nn.Module):
    """Bottlenecks one after another; the first has the stride and a projection as its shortcut."""

    def __init__(self, blocks: Sequence[Bottleneck]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)
