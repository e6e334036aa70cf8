"""timm entry points of the paper's networks and of those that it compares with.

There are no weights to download: the authors have published none. `pathconv.checkpoints.load_original` reads what their
training script saves, and so does `timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": path})`.
"""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from ..checkpoints import fit, read_original
from .low_resolution import LowResolutionResNet
from .network import PathConvNet
from .wide_resnet import WideResNet

_SIZES = {
    "pathconv_s": {"depths": (2, 2, 2, 2), "dims": (48, 96, 192, 384)},
    "pathconv_b": {"depths": (2, 2, 3, 3), "dims": (60, 120, 240, 480)},
}


def _cfg(**kwargs: Any) -> dict:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 32, 32),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "paper_name": "One-dimensional Path Convolution",
        "origin_url": "https://github.com/tum-bgd/2025-ICML-1DPathConv",
        "license": "apache-2.0",
        **kwargs,
    }


_pathconv = _cfg(fixed_input_size=True, first_conv="stem.conv1", classifier="head")
_resnet = _cfg(first_conv="conv1", classifier="fc")
_wide = _cfg(fixed_input_size=True, first_conv="conv1", classifier="fc")
default_cfgs = generate_default_cfgs(
    {
        "pathconv_s": _pathconv,
        "pathconv_b": _pathconv,
        "resnet18_lowres": _resnet,
        "resnet50_lowres": _resnet,
        "wrn_40_2": _wide,
        "wrn_40_5": _wide,
    }
)


def _pathconv_net(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    arguments = {**_SIZES[name], **kwargs}
    return build_model_with_cfg(
        PathConvNet,
        name,
        pretrained,
        pretrained_filter_fn=lambda state_dict, model: fit(read_original(state_dict), model),
        feature_cfg={
            "out_indices": tuple(range(len(arguments["depths"]))),
            "feature_cls": "getter",
            "output_fmt": "NCL",
        },
        **arguments,
    )


@register_model
def pathconv_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PathConv-S: 3.2 M parameters and 0.57 GMACs for 10 classes of 32x32 images along three paths."""
    return _pathconv_net("pathconv_s", pretrained, **kwargs)


@register_model
def pathconv_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PathConv-B: 7.3 M parameters and 1.25 GMACs for 10 classes of 32x32 images along three paths."""
    return _pathconv_net("pathconv_b", pretrained, **kwargs)


@register_model
def resnet18_lowres(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 for small images: 11.2 M parameters and 0.56 GMACs for 10 classes of 32x32 images."""
    arguments = {"block": BasicBlock, "layers": (2, 2, 2, 2), **kwargs}
    return build_model_with_cfg(LowResolutionResNet, "resnet18_lowres", pretrained, **arguments)


@register_model
def resnet50_lowres(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 for small images: 23.5 M parameters and 1.30 GMACs for 10 classes of 32x32 images."""
    arguments = {"block": Bottleneck, "layers": (3, 4, 6, 3), **kwargs}
    return build_model_with_cfg(LowResolutionResNet, "resnet50_lowres", pretrained, **arguments)


def _wide_resnet(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    features = {"out_indices": (0, 1, 2), "flatten_sequential": True}
    return build_model_with_cfg(WideResNet, name, pretrained, feature_cfg=features, depth=40, **kwargs)


@register_model
def wrn_40_2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WRN-40-2 as in the paper: 9.3 M parameters and 1.92 GMACs for 1000 classes of 64x64 images, 2.2 M at 32x32."""
    return _wide_resnet("wrn_40_2", pretrained, width=2, **kwargs)


@register_model
def wrn_40_5(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WRN-40-5 as in the paper: 57.2 M parameters and 11.9 GMACs for 1000 classes of 64x64 images, 14.0 M at 32x32."""
    return _wide_resnet("wrn_40_5", pretrained, width=5, **kwargs)
