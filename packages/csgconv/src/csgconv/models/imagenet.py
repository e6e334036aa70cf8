"""timm entry points of the residual networks for ImageNet: timm's ResNet, with the 3x3 convolutions generated.

No weights are downloaded: the authors have published none of these.
"""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from ..generator import SliceGenerator
from .blocks import generate_all
from .registry import cfg, create

_SIZES: dict[str, dict[str, Any]] = {
    "csg_resnet18": {"block": BasicBlock, "layers": (2, 2, 2, 2), "first_only": True},
    "csg_resnet26": {"block": Bottleneck, "layers": (2, 2, 2, 2)},
    "csg_resnet34": {"block": BasicBlock, "layers": (3, 4, 6, 3)},
    "csg_resnet50": {"block": Bottleneck, "layers": (3, 4, 6, 3)},
    "csg_resnet101": {"block": Bottleneck, "layers": (3, 4, 23, 3)},
    "csg_resnet152": {"block": Bottleneck, "layers": (3, 8, 36, 3)},
    "csg_wide_resnet50_2": {"block": Bottleneck, "layers": (3, 4, 6, 3), "base_width": 128},
}
default_cfgs = generate_default_cfgs({name: cfg() for name in _SIZES})


def resnet(
    *, generator: SliceGenerator | None = None, stem: str = "imagenet", first_only: bool = False, **kwargs: Any
) -> nn.Module:
    """timm's `ResNet` whose 3x3 convolutions `generator` makes; the projections, 1x1, and the stem stay ordinary.

    Args:
        generator: of the kernels; None for the ordinary network.
        stem: "imagenet", a 7x7 convolution of stride 2 and max pooling; or "lowres", a 3x3 convolution, for small
            images.
        first_only: generate the first convolution of a basic block alone.
        kwargs: as timm's `ResNet`; `zero_init_last` is False here, as in the authors' code.
    """
    if stem not in ("imagenet", "lowres"):
        raise ValueError(f"stem must be 'imagenet' or 'lowres', got {stem!r}")
    model: Any = ResNet(**{"zero_init_last": False, **kwargs})
    if stem == "lowres":
        old = model.conv1
        place: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
        model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False, **place)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
        for index, info in enumerate(model.feature_info):
            info["reduction"] = max(1, 2 ** (index - 1))
    generate_all(model, generator, first_only=first_only)
    return model


def _create(name: str, pretrained: bool, /, **kwargs: Any) -> nn.Module:
    generator = {"code_size": 128, "slice_shape": (16, 16, 3, 3)}
    return create(resnet, name, pretrained, **{**generator, **_SIZES[name], **kwargs})


@register_model
def csg_resnet18(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18: 7,527,976 parameters instead of 11,689,512, or 1,609,256 with first_only=False.

    Args:
        code_size, slice_shape, layout, binary, init: see :class:`csgconv.SliceGenerator`; by default 128 and
            (16, 16, 3, 3). The authors start with init="uniform".
        generated: False for the ordinary network.
        generator, frozen: as of `csg_resnet20`.
        first_only: generate only the first convolution of a block, as the authors do for this network alone.
        stem: "imagenet", or "lowres" for small images.
        kwargs: as timm's `ResNet`.
    """
    return _create("csg_resnet18", pretrained, **kwargs)


@register_model
def csg_resnet26(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-26, with bottlenecks: 10,371,368 parameters instead of 15,995,176.

    By these sizes, what a table that the authors published in 2019 calls ResNet-18. Arguments are those of
    `csg_resnet18`.
    """
    return _create("csg_resnet26", pretrained, **kwargs)


@register_model
def csg_resnet34(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34, both convolutions of its blocks generated: 2,177,832 parameters instead of 21,797,672.

    Arguments are those of `csg_resnet18`.
    """
    return _create("csg_resnet34", pretrained, **kwargs)


@register_model
def csg_resnet50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50: 15,163,432 parameters instead of 25,557,032. Arguments are those of `csg_resnet18`."""
    return _create("csg_resnet50", pretrained, **kwargs)


@register_model
def csg_resnet101(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-101: 24,685,608 parameters instead of 44,549,160. Arguments are those of `csg_resnet18`."""
    return _create("csg_resnet101", pretrained, **kwargs)


@register_model
def csg_resnet152(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-152: 32,530,472 parameters instead of 60,192,808. Arguments are those of `csg_resnet18`."""
    return _create("csg_resnet152", pretrained, **kwargs)


@register_model
def csg_wide_resnet50_2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Wide ResNet-50-2: 26,424,104 parameters instead of 68,883,240. Arguments are those of `csg_resnet18`."""
    return _create("csg_wide_resnet50_2", pretrained, **kwargs)
