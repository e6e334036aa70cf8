"""timm entry points of ResNet-18, ResNet-34 and VGG-16 with PiX before their 3x3 convolutions.

The paper names the networks and the two modes, downscaling and dynamic pruning; the sites are a reconstruction, see
`pix.convert`. There are no weights to download: the authors have published none.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vgg import VGG, cfgs
from torch import nn

from ..convert import convert
from ..modules import PiX
from .blocks import make_stem
from .squeezed import cfg

_resnet = cfg(first_conv="conv1", classifier="fc")
_vgg = cfg(first_conv="features.0", classifier="head.fc")
default_cfgs = generate_default_cfgs({"pix_resnet18": _resnet, "pix_resnet34": _resnet, "pix_vgg16": _vgg})


def _with_pix(
    build: Any,
    *,
    zeta: int = 2,
    mode: str = "downscale",
    tau: float = 0.5,
    bias: bool = False,
    context: str = "mean",
    pix: bool = True,
    **kwargs: Any,
) -> nn.Module:
    if mode not in ("downscale", "prune"):
        raise ValueError(f"mode must be 'downscale' or 'prune', got {mode!r}")
    model = build(**kwargs)
    if not pix:
        return model
    example = next(model.parameters()).new_zeros(1, model.in_chans, 64, 64)
    convert(model, mode, zeta, tau=tau, bias=bias, context=context, example_input=example, inplace=True)
    del model.convert_report  # of images that are smaller than those it is for
    if mode == "downscale":
        for module in model.modules():
            if isinstance(module, PiX):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Conv2d):  # as in timm's networks
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def _resnet_with_stem(stem: str = "imagenet", in_chans: int = 3, **kwargs: Any) -> nn.Module:
    model: Any = ResNet(BasicBlock, in_chans=in_chans, **kwargs)  # type: ignore[arg-type]
    if stem != "imagenet":
        dd: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
        conv, pool = make_stem(stem, in_chans, model.conv1.out_channels, **dd)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        model.conv1, model.maxpool = conv, pool
        reductions = (1, *(2**index for index in range(len(model.feature_info))))  # of the stem, then of the stages
        model.feature_info = [{**info, "reduction": by} for info, by in zip(model.feature_info, reductions)]
    return model


def _create(build: Any, name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(partial(_with_pix, build), name, pretrained, **kwargs)


@register_model
def pix_resnet18(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with PiX (zeta = 2) before its 3x3 convolutions: 6.8 M parameters, 0.98 GMACs instead of 1.81.

    Args:
        zeta: by which the convolutions read fewer channels.
        mode: "downscale", or "prune" for the start that `convert` gives a trained network.
        tau, bias, context: see `PiX`.
        pix: False for the network without PiX.
        stem: "imagenet" or "lowres", see `PixResNet`.
        kwargs: as timm's `ResNet`.
    """
    return _create(_resnet_with_stem, "pix_resnet18", pretrained, **{"layers": (2, 2, 2, 2), **kwargs})


@register_model
def pix_resnet34(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34 likewise: 12.4 M parameters, 1.90 GMACs instead of 3.66. Arguments are those of `pix_resnet18`."""
    return _create(_resnet_with_stem, "pix_resnet34", pretrained, **{"layers": (3, 4, 6, 3), **kwargs})


@register_model
def pix_vgg16(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VGG-16 with batch norm likewise: 131.8 M parameters, 7.84 GMACs instead of 15.47.

    Arguments are those of `pix_resnet18`, without `stem`, and of timm's `VGG`.
    """
    build = partial(VGG, cfgs["vgg16"], norm_layer=nn.BatchNorm2d)
    features = {"flatten_sequential": True, "out_indices": tuple(range(5))}
    return _create(build, "pix_vgg16", pretrained, feature_cfg=features, **kwargs)
