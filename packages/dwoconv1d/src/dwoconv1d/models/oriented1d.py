"""timm entry points of the paper's eight networks.

No weights are downloaded: the authors publish theirs as files. `dwoconv1d.checkpoints.load_original` reads them, and
so does `timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": path})`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from ..checkpoints import from_original
from .convnext import VARIANTS, ConvNeXt

_SIZES = {
    "tiny": {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768)},
    "base": {"depths": (3, 3, 27, 3), "dims": (128, 256, 512, 1024)},
}


def _cfg(variant: str) -> dict:
    first_conv = "downsample_layers.0.pw1" if VARIANTS[variant].stem == "oriented" else "downsample_layers.0.0"
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": first_conv,
        "classifier": "head",
        "license": "mit",
        "paper_ids": "arXiv:2309.15812",
        "paper_name": "Convolutional Networks with Oriented 1D Kernels",
        "origin_url": "https://github.com/princeton-vl/Oriented1D",
    }


default_cfgs = generate_default_cfgs(
    {f"convnext_{size}_{variant}": _cfg(variant) for size in _SIZES for variant in VARIANTS}
)


def _create(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    _, size, variant = name.split("_")
    arguments = {**_SIZES[size], **kwargs}
    return build_model_with_cfg(
        partial(ConvNeXt, variant),
        name,
        pretrained,
        pretrained_filter_fn=lambda state_dict, model: from_original(state_dict),
        feature_cfg={"out_indices": tuple(range(len(arguments["depths"]))), "feature_cls": "getter"},
        **arguments,
    )


@register_model
def convnext_tiny_2d(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ConvNeXt-T as the paper replicates it: 28.6 M parameters, 4.5 GMACs at 224 pixels."""
    return _create("convnext_tiny_2d", pretrained, **kwargs)


@register_model
def convnext_tiny_1d(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ConvNeXt-T-1D: oriented kernels of 31 taps in stem and blocks, 28.5 M parameters, 4.5 GMACs."""
    return _create("convnext_tiny_1d", pretrained, **kwargs)


@register_model
def convnext_tiny_1dpp(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ConvNeXt-T-1D++: 15 taps, then 31 taps in the hidden layer, 29.2 M parameters, 4.7 GMACs."""
    return _create("convnext_tiny_1dpp", pretrained, **kwargs)


@register_model
def convnext_tiny_2dpp(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ConvNeXt-T-2D++: 7x7, then 31 oriented taps in the hidden layer, 29.4 M parameters, 4.7 GMACs."""
    return _create("convnext_tiny_2dpp", pretrained, **kwargs)


@register_model
def convnext_base_2d(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ConvNeXt-B as the paper replicates it: 88.6 M parameters, 15.4 GMACs at 224 pixels."""
    return _create("convnext_base_2d", pretrained, **kwargs)


@register_model
def convnext_base_1d(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ConvNeXt-B-1D: oriented kernels of 31 taps in stem and blocks, 88.3 M parameters, 15.3 GMACs."""
    return _create("convnext_base_1d", pretrained, **kwargs)


@register_model
def convnext_base_1dpp(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ConvNeXt-B-1D++: 15 taps, then 31 taps in the hidden layer, 90.3 M parameters, 15.8 GMACs."""
    return _create("convnext_base_1dpp", pretrained, **kwargs)


@register_model
def convnext_base_2dpp(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ConvNeXt-B-2D++: 7x7, then 31 oriented taps in the hidden layer, 90.9 M parameters, 16.0 GMACs."""
    return _create("convnext_base_2dpp", pretrained, **kwargs)
