"""`csg_deeplabv3`: DeepLab over a generated ResNet, of torchvision's parts: the paper's network for Pascal VOC."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import ASPP, ASPPConv, DeepLabV3

from .._common.checks import positive_int
from ..generator import SliceGenerator
from .blocks import generate_all, generated
from .imagenet import resnet
from .registry import cfg, create

_MULTI_GRID = (1, 2, 4)
default_cfgs = generate_default_cfgs(
    {
        "csg_deeplabv3": cfg(
            num_classes=21,
            input_size=(3, 513, 513),
            pool_size=None,
            crop_pct=1.0,
            first_conv="backbone.conv1",
            classifier="classifier.layers.8",
        )
    }
)


class DecoderHead(nn.Module):
    """Classes of every pixel of an early map, from it and from a late one: DeepLabV3+.

    The late map goes through atrous spatial pyramid pooling, the early one is reduced to 48 channels; two 3x3
    convolutions and a 1x1 one read both.
    """

    def __init__(self, aspp: nn.Module, low_channels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.aspp = aspp
        self.low = nn.Sequential(nn.Conv2d(low_channels, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        layers: list[nn.Module] = []
        for before, rate in ((channels + 48, 0.5), (channels, 0.1)):
            conv = nn.Conv2d(before, channels, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(channels), nn.ReLU(), nn.Dropout(rate)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, num_classes, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, low: Tensor, x: Tensor) -> Tensor:  # (N, low_channels, H, W), (N, C, h, w) -> (N, K, H, W)
        low, x = self.low(low), self.aspp(x)
        x = F.interpolate(x, low.shape[-2:], mode="bilinear", align_corners=True)
        return self.layers(torch.cat((x, low), 1))


class DeepLabV3Plus(nn.Module):
    """DeepLab as the authors have it: a backbone that returns maps "low" and "out", and a classifier of both.

    Input (N, in_chans, H, W), output {"out": (N, num_classes, H, W)}, as torchvision's networks for segmentation.
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, classifier

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(x)
        y = self.classifier(maps["low"], maps["out"])
        return {"out": F.interpolate(y, x.shape[-2:], mode="bilinear", align_corners=True)}


def deeplab(
    *,
    generator: SliceGenerator | None = None,
    generators: int = 2,
    num_classes: int = 21,
    decoder: bool = True,
    output_stride: int | None = None,
    rates: Sequence[int] = (6, 12, 18),
    width: int = 256,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> nn.Module:
    """The network of :func:`csg_deeplabv3`, whose kernels `generator` makes; with `generators=2`, and one like it."""
    stride = output_stride or (16 if decoder else 8)
    if stride not in (8, 16):
        raise ValueError(f"output_stride must be 8 or 16, got {output_stride!r}")
    if generators not in (1, 2):
        raise ValueError(f"generators must be 1 or 2, got {generators!r}")
    positive_int("num_classes", num_classes)
    with nullcontext() if device is None else torch.device(device):
        sizes = {"block": Bottleneck, "layers": (3, 4, 23, 3), **kwargs}
        body: Any = resnet(output_stride=stride, num_classes=0, **sizes)
        if decoder:
            _dilate_as_published(body, stride)
        generate_all(body, generator)
        aspp = ASPP(body.num_features, [rate * 16 // stride for rate in rates], width)
        other = _like(generator) if generator is not None and generators == 2 else generator
        for conv in aspp.convs:
            if isinstance(conv, ASPPConv):
                conv[0] = generated(conv[0], other)
        model: nn.Module
        if decoder:
            backbone = IntermediateLayerGetter(body, {"layer1": "low", "layer4": "out"})
            low = body.feature_info[1]["num_chs"]
            model = DeepLabV3Plus(backbone, DecoderHead(aspp, low, width, num_classes))
        else:
            convs = [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            head = nn.Sequential(aspp, *convs, nn.Conv2d(width, num_classes, 1))
            model = DeepLabV3(IntermediateLayerGetter(body, {"layer4": "out"}), head)
    return model.to(dtype=dtype)


def _dilate_as_published(model: Any, output_stride: int) -> None:
    """Gives all blocks of a stage without stride its dilation, the first too, and those of the last a multi-grid."""
    stages = {model.layer4: 32 // output_stride}
    if output_stride == 8:
        stages[model.layer3] = 2
    for stage, dilation in stages.items():
        for index, block in enumerate(stage):
            grid = _MULTI_GRID[min(index, 2)] if stage is model.layer4 else 1
            block.conv2.dilation = block.conv2.padding = (dilation * grid,) * 2


def _like(generator: SliceGenerator) -> SliceGenerator:
    """Another generator of the same kind."""
    names = ("layout", "binary", "init")
    options = {name: getattr(generator, name) for name in names}
    return SliceGenerator(generator.code_size, generator.slice_shape, **options)


@register_model
def csg_deeplabv3(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DeepLab over a ResNet-101: 26,406,325 parameters instead of 59,344,309.

    Generated are the 3x3 convolutions of the backbone and, by another generator, the three dilated ones of the pyramid.
    Input (N, in_chans, H, W), output {"out": (N, num_classes, H, W)}; children `backbone` and `classifier`. There is no
    `features_only`.

    Args:
        decoder: DeepLabV3+ as published; False for torchvision's `DeepLabV3`, names and all.
        output_stride: of the backbone's last map: 16, by default with a decoder, or 8, by default without. With a
            decoder, the last stage's blocks are further dilated by 1, 2 and 4.
        rates: dilations of the pyramid at an output stride of 16; twice that at 8.
        width: channels of the pyramid and behind it.
        generators: 2 as published, or 1 for all kernels; then the backbone's codes are not those of `csg_resnet101`.
        code_size, slice_shape, layout, binary, init, generator, frozen: as of `csg_resnet20`; by default 128 and
            (16, 16, 3, 3).
        generated: False for the ordinary network.
        kwargs: of the backbone, as timm's `ResNet` and `stem` of `csg_resnet18`; smaller `layers` and `channels` too.

    Raises:
        ValueError: an argument that does not fit.

    Example:
        >>> model = csg_deeplabv3(layers=(1, 1, 1, 1), channels=(16, 16, 32, 32), width=32).eval()
        >>> model(torch.zeros(1, 3, 65, 65))["out"].shape
        torch.Size([1, 21, 65, 65])
    """
    if kwargs.get("features_only"):
        raise ValueError("csg_deeplabv3 has no features_only: csg_resnet101 has.")
    return create(deeplab, "csg_deeplabv3", pretrained, **{"code_size": 128, "slice_shape": (16, 16, 3, 3), **kwargs})
