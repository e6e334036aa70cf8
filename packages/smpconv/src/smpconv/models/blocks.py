"""Parts of the networks: a convolution with its norms, and the blocks made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import DropPath
from timm.models import checkpoint_seq
from torch import Tensor, nn

from .._common.checks import positive_int
from ..branches import CausalConv1d, PointwiseConv, scale_and_shift
from ..points import PointKernel

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "gelu": nn.GELU,
    "": nn.Identity,
}


class ConvNorm(nn.Module):
    """act(norm(conv(x))) with a convolution of `padding = kernel_size // 2`; with `pre_norm`, act(norm(conv(norm(x)))).

    `fuse` makes one convolution of it.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        act: str = "relu",
        pre_norm: bool = False,
        **dd: Any,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that the image keeps its size, but it is {kernel_size}.")
        if pre_norm and (kernel_size > 1 or groups > 1):
            raise ValueError(f"pre_norm goes with kernel_size=1 and groups=1, but they are {kernel_size} and {groups}.")
        self.pre_norm = nn.BatchNorm2d(in_channels, **dd) if pre_norm else None
        options: dict[str, Any] = {"padding": kernel_size // 2, "groups": groups, "bias": False, **dd}
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, stride, **options)
        self.norm = nn.BatchNorm2d(channels, **dd)
        self.act = ACTIVATIONS[act]()

    def forward(self, x: Tensor) -> Tensor:  # (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        return self.act(self.norm(self.conv(x)))

    @torch.no_grad()
    def fused(self) -> nn.Module:
        """The convolution with bias, and the activation, that this is in evaluation."""
        conv, (scale, shift) = self.conv, scale_and_shift(self.norm)
        weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
        if self.pre_norm is not None:
            before, offset = scale_and_shift(self.pre_norm)
            shift = shift + (weight * offset.view(-1, 1, 1)).sum((1, 2, 3))
            weight = weight * before.view(-1, 1, 1)
        place: dict[str, Any] = {"device": conv.weight.device, "dtype": conv.weight.dtype}
        merged: nn.Module
        if conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1:
            merged = PointwiseConv(weight[:, :, 0, 0].to(**place), shift.to(**place))
        else:
            options: dict[str, Any] = {"padding": conv.padding, "groups": conv.groups, **place}
            merged = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, **options)  # type: ignore[arg-type]
            merged.weight.copy_(weight)
            merged.bias.copy_(shift)  # type: ignore[union-attr]
        return merged if isinstance(self.act, nn.Identity) else nn.Sequential(merged, self.act)


class CausalNorm(nn.Module):
    """norm(conv(x)) of sequences, where the convolution reads the past alone."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int, **dd: Any) -> None:
        super().__init__()
        self.conv = CausalConv1d(in_channels, channels, kernel_size, bias=False, **dd)
        self.norm = nn.BatchNorm1d(channels, **dd)

    def forward(self, x: Tensor) -> Tensor:  # (N, in_channels, L) -> (N, channels, L)
        return self.norm(self.conv(x))

    @torch.no_grad()
    def fused(self) -> CausalConv1d:
        """The convolution with bias that this is in evaluation."""
        conv, (scale, shift) = self.conv, scale_and_shift(self.norm)
        merged = CausalConv1d(conv.in_channels, conv.out_channels, conv.kernel_size)  # type: ignore[arg-type]
        merged.to(conv.weight.device, conv.weight.dtype)
        merged.weight.copy_(conv.weight * scale.view(-1, 1, 1))
        merged.bias.copy_(shift)  # type: ignore[union-attr]
        return merged


class SMPBlock(nn.Module):
    """x + drop_path(pw2(relu(large(pw1(x))))): a large depthwise convolution between two pointwise ones.

    pw1 has a norm before it, one behind it, and a ReLU; pw2 has a norm behind it. `large` holds its own norms.
    """

    def __init__(self, channels: int, large: nn.Module, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        self.pw1 = ConvNorm(channels, channels, pre_norm=True, **dd)
        self.large = large
        self.act = nn.ReLU(inplace=True)
        self.pw2 = ConvNorm(channels, channels, act="", **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W)
        return x + self.drop_path(self.pw2(self.act(self.large(self.pw1(x)))))


class ConvFFN(nn.Module):
    """x + drop_path(pw2(pw1(x))): two pointwise convolutions with GELU between, `ratio` times as wide inside."""

    def __init__(self, channels: int, ratio: int = 4, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        ratio = positive_int("ffn_ratio", ratio)
        self.pw1 = ConvNorm(channels, ratio * channels, pre_norm=True, act="gelu", **dd)
        self.pw2 = ConvNorm(ratio * channels, channels, act="", **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W)
        return x + self.drop_path(self.pw2(self.pw1(x)))


class ResidualBlock(nn.Module):
    """relu(drop_path(b) + shortcut(x)) with a = dropout(relu(conv1(x))) and b = conv2(a): what images take.

    With `act_last`, b = dropout(relu(conv2(a))): what sequences take. `shortcut` is a pointwise convolution with bias
    where the number of channels changes. `times` are those of samples, handed on to the convolutions.
    """

    def __init__(
        self,
        conv1: nn.Module,
        conv2: nn.Module,
        shortcut: nn.Module,
        *,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        act_last: bool = False,
    ) -> None:
        super().__init__()
        self.conv1, self.conv2, self.shortcut = conv1, conv2, shortcut
        self.act, self.act_last = nn.ReLU(), act_last
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, *times: Tensor) -> Tensor:  # (N, I, ...) -> (N, O, ...)
        y = self.conv2(self.dropout(self.act(self.conv1(x, *times))), *times)
        if self.act_last:
            y = self.dropout(self.act(y))
        return self.act(self.drop_path(y) + self.shortcut(x))


class Stage(nn.Module):
    """Blocks one after another, behind what makes the map smaller."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


def init_weights(module: nn.Module) -> None:
    """Starts one layer as the authors do: weights from N(0, 0.02^2), biases 0, norms and points as built."""
    if isinstance(module, (nn.modules.batchnorm._BatchNorm, PointKernel)):
        module.reset_parameters()
    elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, 0, 0.02, -2, 2)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
