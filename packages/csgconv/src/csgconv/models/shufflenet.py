"""`CSGShuffleNetV2`: the ShuffleNetV2 for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..generator import SliceGenerator
from .base import StagedNetwork, check_stages, conv_norm
from .blocks import Stage, generated
from .registry import cifar_cfg, create_staged

_CHANNELS = {
    0.5: (48, 96, 192, 1024),
    1: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2: (224, 488, 976, 2048),
}


class Unit(nn.Module):
    """Half of the channels as they are, half through relu(bn(conv1x1(bn(depthwise(relu(bn(conv1x1)))))); shuffled."""

    def __init__(self, channels: int, **dd: Any) -> None:
        super().__init__()
        half, conv = channels // 2, {"bias": False, **dd}
        self.conv1, self.bn1 = nn.Conv2d(half, half, 1, **conv), nn.BatchNorm2d(half, **dd)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, **conv), nn.BatchNorm2d(half, **dd)
        self.conv3, self.bn3 = nn.Conv2d(half, half, 1, **conv), nn.BatchNorm2d(half, **dd)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:  # (N, channels, H, W)
        same, y = x.chunk(2, 1)
        y = self.bn2(self.conv2(self.act(self.bn1(self.conv1(y)))))
        y = self.act(self.bn3(self.conv3(y)))
        return F.channel_shuffle(torch.cat((same, y), 1), 2)


class DownUnit(nn.Module):
    """Two branches with a stride of 2 that read all channels and make half of the new ones each; shuffled."""

    def __init__(self, in_channels: int, channels: int, **dd: Any) -> None:
        super().__init__()
        half, conv = channels // 2, {"bias": False, **dd}
        depthwise = nn.Conv2d(in_channels, in_channels, 3, 2, 1, groups=in_channels, **conv)
        self.conv1, self.bn1 = depthwise, nn.BatchNorm2d(in_channels, **dd)
        self.conv2, self.bn2 = nn.Conv2d(in_channels, half, 1, **conv), nn.BatchNorm2d(half, **dd)
        self.conv3, self.bn3 = nn.Conv2d(in_channels, half, 1, **conv), nn.BatchNorm2d(half, **dd)
        self.conv4, self.bn4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, **conv), nn.BatchNorm2d(half, **dd)
        self.conv5, self.bn5 = nn.Conv2d(half, half, 1, **conv), nn.BatchNorm2d(half, **dd)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:  # (N, in_channels, H, W) -> (N, channels, H / 2, W / 2)
        left = self.act(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(self.act(self.bn3(self.conv3(x)))))
        right = self.act(self.bn5(self.conv5(right)))
        return F.channel_shuffle(torch.cat((left, right), 1), 2)


class CSGShuffleNetV2(StagedNetwork):
    """ShuffleNetV2 for small images; the last 1x1 convolution alone is generated, as in the authors' code.

    So is nothing in a backbone of `features_only`, which ends before it. Input (N, in_chans, H, W) of any size, output
    (N, num_classes).

    Args:
        layers: number of units in each stage, behind the one that makes the map smaller.
        channels: of each stage, even; then of the generated convolution.
        stem_channels: of the stem.
        generator: of the kernel; None for the ordinary network.
        in_chans: channels of the images.
        num_classes: number of classes; 0 for no classifier.
        global_pool: "avg", or "" to keep the map: the head then works on every pixel.
        drop_rate: dropout before the classifier.

    Raises:
        TypeError, ValueError: an argument that does not fit.

    Example:
        >>> model = CSGShuffleNetV2((1, 1), (16, 32, 64), generator=SliceGenerator(16, (16, 16, 1, 1)))
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 7, 3),
        channels: Sequence[int] = _CHANNELS[0.5],
        stem_channels: int = 24,
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
        *widths, last = channels
        check_stages(layers=layers, channels=widths)
        if any(width % 2 for width in widths):
            raise ValueError(f"channels of the stages must be even, got {tuple(channels)}")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        before = stem_channels
        self.stem = nn.Sequential(*conv_norm(in_chans, before, 3, **dd))
        stages = []
        for depth, width in zip(layers, widths):
            stages.append(Stage(DownUnit(before, width, **dd), *(Unit(width, **dd) for _ in range(depth))))
            before = width
        self.stages = nn.Sequential(*stages)
        self.neck = nn.Sequential(*conv_norm(before, last, 1, **dd))
        self.neck[0] = generated(self.neck[0], generator)  # type: ignore[arg-type]
        self._finish(widths, last, num_classes, global_pool, drop_rate, first_reduction=2)


default_cfgs = generate_default_cfgs({"csg_shufflenetv2": cifar_cfg(pool_size=(4, 4))})


@register_model
def csg_shufflenetv2(pretrained: bool = False, *, width: float = 0.5, **kwargs: Any) -> nn.Module:
    """ShuffleNetV2 for CIFAR: 171,818 parameters instead of 352,042.

    Args:
        width: 0.5, 1, 1.5 or 2, the published sizes.
        code_size, slice_shape, layout, binary, init: see :class:`csgconv.SliceGenerator`; by default 16 and
            (16, 16, 1, 1). The authors start with init="uniform".
        generated: False for the ordinary network.
        generator, frozen: as of `csg_resnet20`.
        kwargs: those of :class:`CSGShuffleNetV2`, without `generator`.

    Raises:
        ValueError: another `width`; :class:`CSGShuffleNetV2` takes any channels.
    """
    if width not in _CHANNELS:
        raise ValueError(f"width must be 0.5, 1, 1.5 or 2, got {width!r}; for other sizes give channels")
    sizes = {"layers": (3, 7, 3), "channels": _CHANNELS[width], "code_size": 16, "slice_shape": (16, 16, 1, 1)}
    return create_staged(CSGShuffleNetV2, "csg_shufflenetv2", pretrained, **{**sizes, **kwargs})
