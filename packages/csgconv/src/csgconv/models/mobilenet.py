"""`CSGMobileNetV2`: the MobileNetV2 for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..generator import SliceGenerator
from .base import StagedNetwork, conv_norm, drop_path_rates
from .blocks import Stage, generated
from .registry import cifar_cfg, create_staged

# Of the blocks of each stage: expansion, channels; a stage's first block has a stride of 2, but not that of the first.
_STAGES = (
    ((1, 16), *((6, 24),) * 2),
    ((6, 32),) * 3,
    ((6, 64),) * 4 + ((6, 96),) * 3,
    ((6, 160),) * 3 + ((6, 320),),
)


class InvertedResidual(nn.Module):
    """drop_path(bn(project(relu(bn(depthwise(relu(bn(expand(x)))))))) + shortcut(x), with `expand` generated.

    The shortcut is the input, or a 1x1 convolution and a norm where the channels change; with a stride there is none.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        expansion: int,
        stride: int,
        generator: SliceGenerator | None,
        *,
        drop_path: float = 0.0,
        **dd: Any,
    ) -> None:
        super().__init__()
        inner, conv = expansion * in_channels, {"bias": False, **dd}
        self.conv1 = generated(nn.Conv2d(in_channels, inner, 1, **conv), generator)
        self.bn1 = nn.BatchNorm2d(inner, **dd)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, **conv)
        self.bn2 = nn.BatchNorm2d(inner, **dd)
        self.conv3 = nn.Conv2d(inner, channels, 1, **conv)
        self.bn3 = nn.BatchNorm2d(channels, **dd)
        self.act = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = nn.Identity() if stride == 1 else None
        if stride == 1 and in_channels != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, **conv), nn.BatchNorm2d(channels, **dd))
        self.drop_path = DropPath(drop_path) if drop_path and stride == 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)
        y = self.act(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.act(self.bn2(self.conv2(y)))))
        return y if self.shortcut is None else self.drop_path(y) + self.shortcut(x)


class CSGMobileNetV2(StagedNetwork):
    """MobileNetV2 for small images; the 1x1 convolutions that expand its blocks are generated.

    Input (N, in_chans, H, W) of any size, output (N, num_classes). Blocks that change channels but not the map's size
    have a projection as their shortcut, as in the network that the authors took.

    Args:
        layers: of each stage, the blocks as pairs (expansion, channels).
        stem_channels: of the stem.
        neck_channels: of the 1x1 convolution before the pooling.
        generator: of the kernels; None for the ordinary network.
        in_chans: channels of the images.
        num_classes: number of classes; 0 for no classifier.
        global_pool: "avg", or "" to keep the map: the head then works on every pixel.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0 over all blocks.

    Raises:
        TypeError, ValueError: an argument that does not fit.

    Example:
        >>> small = CSGMobileNetV2([[(1, 16), (6, 16)], [(6, 32)]], generator=SliceGenerator(16, (16, 16, 1, 1)))
        >>> small(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        layers: Sequence[Sequence[tuple[int, int]]] = _STAGES,
        stem_channels: int = 32,
        neck_channels: int = 1280,
        generator: SliceGenerator | None = None,
        *,
        in_chans: int = 3,
        num_classes: int = 10,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not layers or not all(layers):
            raise ValueError(f"layers must have one block or more in each stage, got {layers!r}")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        width = stem_channels
        self.stem = nn.Sequential(*conv_norm(in_chans, width, 3, **dd))
        rates = iter(drop_path_rates(drop_path_rate, sum(map(len, layers))))
        stages, widths = [], []
        for index, stage in enumerate(layers):
            blocks = []
            for block, (expansion, after) in enumerate(stage):
                stride = 2 if index and not block else 1
                path: dict[str, Any] = {"drop_path": next(rates)}
                blocks.append(InvertedResidual(width, after, expansion, stride, generator, **path, **dd))
                width = after
            stages.append(Stage(*blocks))
            widths.append(width)
        self.stages = nn.Sequential(*stages)
        self.neck = nn.Sequential(*conv_norm(width, neck_channels, 1, **dd))
        self._finish(widths, neck_channels, num_classes, global_pool, drop_rate)


default_cfgs = generate_default_cfgs({"csg_mobilenetv2": cifar_cfg(pool_size=(4, 4))})


@register_model
def csg_mobilenetv2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileNetV2 for CIFAR: 1,595,322 parameters instead of 2,296,922.

    Args:
        code_size, slice_shape, layout, binary, init: see :class:`csgconv.SliceGenerator`; by default 16 and
            (16, 16, 1, 1). The authors start with init="uniform".
        generated: False for the ordinary network.
        generator, frozen: as of `csg_resnet20`.
        kwargs: those of :class:`CSGMobileNetV2`, without `generator`.
    """
    sizes = {"layers": _STAGES, "code_size": 16, "slice_shape": (16, 16, 1, 1)}
    return create_staged(CSGMobileNetV2, "csg_mobilenetv2", pretrained, **{**sizes, **kwargs})
