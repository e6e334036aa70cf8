"""UPerNet over any backbone: `upernet`, registered with timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation

from leanconv.networks.backbones import Features, features

POOLS = (1, 2, 3, 6)

_conv = partial(Conv2dNormActivation, inplace=None)  # convolution without bias, batch norm, ReLU


class UPerNet(nn.Module):
    """Classes of every pixel: a backbone, pyramid pooling of its last map, a feature pyramid, and one map of all.

    "Unified Perceptual Parsing for Scene Understanding", Xiao et al. 2018, as mmsegmentation has it and as the papers
    of Swin and ConvNeXt use it: x (N, in_chans, H, W) -> {"out": (N, num_classes, H, W)}, and in training "aux" of the
    same shape, which an auxiliary head of one convolution says of an earlier map.

    segmentation_models_pytorch has a UPerNet too. It lacks the auxiliary head and the dropout, norms the maps once more
    where the paper's backbones have normed them, and takes backbones through an encoder of its own that wants maps of
    strides 4 to 32; the rest is the same.

    Args:
        backbone: gives two maps or more, from fine to coarse.
        width: channels of pooling, pyramid and the map of all.
        aux_width: channels of the auxiliary head; 0 for none.
        aux_map: which of the backbone's maps that head sees; the last but one is the paper's third.
        dropout: rate of channels dropped before the classes.
        pools: sides of the maps that pyramid pooling makes.
    """

    def __init__(
        self,
        backbone: Features,
        num_classes: int,
        width: int = 512,
        *,
        aux_width: int = 256,
        aux_map: int = -2,
        dropout: float = 0.1,
        pools: Sequence[int] = POOLS,
    ) -> None:
        super().__init__()
        *finer, last = backbone.channels
        if not finer:
            raise ValueError("UPerNet needs a backbone of two maps or more")
        self.backbone, self.aux_map = backbone, aux_map
        self.pooling = PyramidPooling(last, width, pools)
        self.laterals = nn.ModuleList([_conv(channels, width, 1) for channels in finer])
        self.smooth = nn.ModuleList([_conv(width, width, 3) for _ in finer])
        self.fuse = _conv(len(backbone.channels) * width, width, 3)
        self.classifier = _classifier(width, num_classes, dropout)
        self.aux: nn.Module | None = None
        if aux_width:
            before = _conv(backbone.channels[aux_map], aux_width, 3)
            self.aux = nn.Sequential(before, _classifier(aux_width, num_classes, dropout))
        for part in self.children():
            if part is not backbone:
                part.apply(_reset)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(x)
        coarse = self.pooling(maps[-1])
        pyramid = [coarse]
        for lateral, smooth, finer in zip(reversed(self.laterals), reversed(self.smooth), reversed(maps[:-1])):
            side = lateral(finer)
            coarse = side + _resized(coarse, side)
            pyramid.insert(0, smooth(coarse))
        fused = self.fuse(torch.cat([_resized(each, pyramid[0]) for each in pyramid], dim=1))
        found = {"out": _resized(self.classifier(fused), x)}
        if self.training and self.aux is not None:
            found["aux"] = _resized(self.aux(maps[self.aux_map]), x)
        return found


class PyramidPooling(nn.Module):
    """A map beside its means over ever finer grids: (N, channels, H, W) -> (N, width, H, W).

    "Pyramid Scene Parsing Network", Zhao et al. 2017. The grid of one cell has a batch norm, too, so a process must see
    two images or more at once when training, unless norms are shared among processes.
    """

    def __init__(self, channels: int, width: int, pools: Sequence[int] = POOLS) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            [nn.Sequential(nn.AdaptiveAvgPool2d(side), _conv(channels, width, 1)) for side in pools]
        )
        self.join = _conv(channels + len(pools) * width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([x, *(_resized(pool(x), x) for pool in self.pools)], dim=1))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def _classifier(width: int, num_classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, num_classes, 1))


def _reset(module: nn.Module) -> None:
    """As mmsegmentation starts: He's deviations by what goes out, 0.01 for classes."""
    if isinstance(module, nn.Conv2d) and module.bias is None:
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Conv2d) and module.bias is not None:
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


@register_model
def upernet(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    *,
    num_classes: int = 150,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    backbone: str = "convnext_tiny",
    backbone_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> UPerNet:
    """UPerNet as the papers of ConvNeXt and of oriented 1D kernels train it on ADE20K.

    Args:
        backbone, backbone_kwargs, in_chans, drop_path_rate: for :func:`leanconv.networks.features`.
        kwargs: for :class:`UPerNet`.

    Raises:
        ValueError: weights are asked for (there are none), or the backbone cannot be one.

    Example:
        >>> network = upernet(num_classes=5, backbone="resnet18", width=32).eval()
        >>> network(torch.zeros(1, 3, 64, 96))["out"].shape
        torch.Size([1, 5, 64, 96])
    """
    if pretrained:
        raise ValueError("upernet has no published weights: start its backbone from a classifier's")
    maps = features(backbone, in_chans, drop_path_rate, **(backbone_kwargs or {}))
    return UPerNet(maps, num_classes, **kwargs)
