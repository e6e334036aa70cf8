"""`CSGDenseNet`: the DenseNet-BC for CIFAR."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from .._common.checks import positive_int
from ..generator import SliceGenerator
from .base import StagedNetwork, check_stages
from .blocks import Stage, generated
from .registry import cifar_cfg, create_staged


class DenseLayer(nn.Module):
    """The input behind `growth_rate` new channels: conv3x3(relu(bn(conv1x1(relu(bn(x)))))), the 3x3 generated."""

    def __init__(self, in_channels: int, growth_rate: int, generator: SliceGenerator | None, **dd: Any) -> None:
        super().__init__()
        inner = 4 * growth_rate
        self.bn1, self.conv1 = nn.BatchNorm2d(in_channels, **dd), nn.Conv2d(in_channels, inner, 1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(inner, **dd)
        self.conv2 = generated(nn.Conv2d(inner, growth_rate, 3, padding=1, bias=False, **dd), generator)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, growth_rate + C, H, W)
        new = self.conv2(self.act(self.bn2(self.conv1(self.act(self.bn1(x))))))
        return torch.cat((new, x), 1)


class Transition(nn.Sequential):
    """Halves channels, height and width: pool(conv1x1(relu(bn(x))))."""

    def __init__(self, in_channels: int, **dd: Any) -> None:
        conv = nn.Conv2d(in_channels, in_channels // 2, 1, bias=False, **dd)
        super().__init__(nn.BatchNorm2d(in_channels, **dd), nn.ReLU(inplace=True), conv, nn.AvgPool2d(2))


class CSGDenseNet(StagedNetwork):
    """DenseNet-BC for small images; the 3x3 convolutions of its layers are generated.

    Input (N, in_chans, H, W) of 4x4 pixels or more, output (N, num_classes). The new channels of a layer come before
    those that it read, as in the authors' code.

    Args:
        layers: number of layers in each stage; the paper's depth of 40 counts two convolutions in each of 18.
        growth_rate: new channels of a layer; the stem has twice as many.
        generator: of the kernels; None for the ordinary network.
        in_chans: channels of the images.
        num_classes: number of classes; 0 for no classifier.
        global_pool: "avg", or "" to keep the map: the head then works on every pixel.
        drop_rate: dropout before the classifier.

    Raises:
        TypeError, ValueError: an argument that does not fit.

    Example:
        >>> model = CSGDenseNet((2, 2), 12, SliceGenerator(72, (12, 12, 3, 3)))
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (6, 6, 6),
        growth_rate: int = 48,
        generator: SliceGenerator | None = None,
        *,
        in_chans: int = 3,
        num_classes: int = 10,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_stages(layers=layers)
        growth_rate = positive_int("growth_rate", growth_rate)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        width = 2 * growth_rate
        self.stem = nn.Sequential(nn.Conv2d(in_chans, width, 3, padding=1, bias=False, **dd))
        stages, widths = [], []
        for index, depth in enumerate(layers):
            stage = Stage()
            if index:
                stage.add_module("transition", Transition(width, **dd))
                width //= 2
            for layer in range(depth):
                stage.add_module(str(layer), DenseLayer(width, growth_rate, generator, **dd))
                width += growth_rate
            stages.append(stage)
            widths.append(width)
        self.stages = nn.Sequential(*stages)
        self.neck = nn.Sequential(nn.BatchNorm2d(width, **dd), nn.ReLU(inplace=True))
        self._finish(widths, width, num_classes, global_pool, drop_rate)


default_cfgs = generate_default_cfgs({"csg_densenet_bc": cifar_cfg()})


@register_model
def csg_densenet_bc(pretrained: bool = False, *, depth: int = 40, **kwargs: Any) -> nn.Module:
    """DenseNet-BC-40-48 for CIFAR: 1,416,394 parameters instead of 2,733,130.

    With growth_rate=36, 842,842 instead of 1,542,682; with 12, more than the ordinary one: 181,306 and 176,122.

    Args:
        depth: 6 times the number of layers in each of three stages, and 4.
        growth_rate: new channels of a layer: 48, 36, 24 or 12 in the paper.
        code_size, slice_shape, layout, binary, init: see :class:`csgconv.SliceGenerator`; by default 72 and
            (12, 12, 3, 3). The authors start with init="uniform".
        generated: False for the ordinary network.
        generator, frozen: as of `csg_resnet20`.
        kwargs: those of :class:`CSGDenseNet`, without `generator`.

    Raises:
        ValueError: an argument that does not fit.
    """
    if positive_int("depth", depth) < 10 or depth % 6 != 4:
        raise ValueError(f"depth must be 4 more than a multiple of 6, got {depth!r}")
    sizes = {"layers": ((depth - 4) // 6,) * 3, "code_size": 72, "slice_shape": (12, 12, 3, 3)}
    return create_staged(CSGDenseNet, "csg_densenet_bc", pretrained, **{**sizes, **kwargs})
