"""Parts of the networks: a generated twin of a convolution, residual blocks, stages."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models import checkpoint_seq
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from ..generator import SliceGenerator
from ..modules import CSGConv2d


def generated(conv: nn.Conv2d, generator: SliceGenerator | None) -> nn.Module:
    """A convolution like `conv` whose kernel `generator` makes; `conv` itself where there is no generator."""
    if generator is None:
        return conv
    options: dict[str, Any] = {"device": conv.weight.device, "dtype": conv.weight.dtype, "bias": conv.bias is not None}
    for name in ("stride", "padding", "dilation", "groups", "padding_mode"):
        options[name] = getattr(conv, name)
    height, width = conv.kernel_size
    return CSGConv2d(conv.in_channels, conv.out_channels, (height, width), generator, **options)


def generate_all(model: nn.Module, generator: SliceGenerator | None, *, first_only: bool = False) -> None:
    """Puts generated convolutions in the place of the 3x3 ones in timm's residual blocks.

    Those are both of a basic block, or the first alone; and the middle one of a bottleneck.
    """
    names = {Bottleneck: ("conv2",), BasicBlock: ("conv1",) if first_only else ("conv1", "conv2")}
    blocks = [block for block in model.modules() if type(block) in names]
    if not blocks and generator is not None:
        raise ValueError("block must be timm's BasicBlock or Bottleneck: no kernel of another is generated.")
    for block in blocks:
        for name in names[type(block)]:
            setattr(block, name, generated(getattr(block, name), generator))


class PadShortcut(nn.Module):
    """Every `stride`-th pixel, and zeros for the channels that are new: a shortcut without parameters."""

    def __init__(self, stride: int, new_channels: int) -> None:
        super().__init__()
        self.stride, self.new_channels = stride, new_channels

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C + new_channels, H / stride, W / stride)
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, new_channels={self.new_channels}"


def basic_block(
    before: int,
    channels: int,
    stride: int,
    generator: SliceGenerator | None,
    *,
    drop_path: float = 0.0,
    **dd: Any,
) -> nn.Module:
    """relu(drop_path(bn(conv(relu(bn(conv(x)))))) + shortcut(x)), both convolutions generated."""
    shortcut = PadShortcut(stride, channels - before) if (stride, channels) != (1, before) else None
    path = DropPath(drop_path) if drop_path else None
    block = BasicBlock(before, channels, stride, shortcut, drop_path=path, **dd)
    generate_all(block, generator)
    return block


class Stage(nn.Sequential):
    """Blocks one after another."""

    grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint_seq(self, x)
        return super().forward(x)
