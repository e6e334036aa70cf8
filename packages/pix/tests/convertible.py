"""Networks that `convert` may change, and what is asked of them afterwards."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def conv(before: int, after: int, kernel_size: int = 1, **options) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size, **{"padding": kernel_size // 2, "bias": False, **options})


class Bottleneck(nn.Module):
    """conv1 -> bn1 -> act1 -> conv2 -> conv3, and the shortcut; `shared` uses one ReLU twice, as torchvision does."""

    def __init__(self, channels: int = 16, squeezed: int = 4, shared: bool = False, act=nn.ReLU, **options):
        super().__init__()
        self.stem = conv(3, channels, 3)
        self.conv1, self.bn1 = conv(channels, squeezed, **options), nn.BatchNorm2d(squeezed)
        self.conv2, self.conv3 = conv(squeezed, squeezed, 3), conv(squeezed, channels)
        self.act1, self.shared = act(inplace=True), shared
        self.act2 = self.act1 if shared else act(inplace=True)

    def forward(self, x):
        x = self.act2(self.stem(x))
        out = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.conv3(self.conv2(out)) + x)


class Follows(nn.Module):
    """A 3x3 convolution, ReLU, a 1x1 convolution, and then the function `after` of its result and of `layers`."""

    def __init__(self, after, squeeze: nn.Module | None = None, **layers: nn.Module):
        super().__init__()
        self.stem, self.squeeze = conv(3, 16, 3), squeeze or conv(16, 4)
        self.layers, self.after = nn.ModuleDict(layers), after

    def forward(self, x):
        return self.after(self.squeeze(self.stem(x).relu()), self.layers)


def images(batch: int = 2, size: int = 12, **options) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(**options)


def macs(model: nn.Module, *args: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).eval()(*args)
    return counter.get_total_flops() // 2


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def swapped(model: nn.Module) -> list[str]:
    return [row.names[0] for row in model.convert_report.swapped]


def reasons(model: nn.Module) -> dict[str, str]:
    return {row.names[0]: row.reason for row in model.convert_report.left}
