"""timm entry points of the networks in which PiX squeezes bottlenecks.

No weights are downloaded: the authors publish theirs as files. `pix.checkpoints.load_original` reads them, and so does
`timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": path})`.
"""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from ..checkpoints import read_original
from .network import PixResNet

_SIZES: dict[str, dict[str, Any]] = {
    "pix_resnet50": {"layers": (3, 4, 6, 3)},
    "pix_resnet101": {"layers": (3, 4, 23, 3)},
    "pix_resnet152": {"layers": (3, 8, 36, 3)},
    "pix_resnet50_half": {"layers": (3, 4, 6, 3), "zeta": 8},
}


def cfg(**kwargs: Any) -> dict:
    """timm's description of a network of the paper."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "paper_ids": "arXiv:2406.10935",
        "paper_name": "Pick-or-Mix: Dynamic Channel Sampling for ConvNets",
        "origin_url": "https://github.com/ashishkumar822/PiX",
        **kwargs,
    }


default_cfgs = generate_default_cfgs({name: cfg(first_conv="conv_stem", classifier="classifier") for name in _SIZES})


def _create(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    arguments = {**_SIZES[name], **kwargs}
    return build_model_with_cfg(
        PixResNet,
        name,
        pretrained,
        pretrained_filter_fn=lambda state_dict, model: read_original(state_dict),
        feature_cfg={"out_indices": tuple(range(len(arguments["layers"]) + 1)), "feature_cls": "getter"},
        **arguments,
    )


@register_model
def pix_resnet50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PiX-ResNet-50: 25.5 M parameters, 3.16 GMACs at 224 pixels instead of 4.09."""
    return _create("pix_resnet50", pretrained, **kwargs)


@register_model
def pix_resnet101(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PiX-ResNet-101: 44.5 M parameters, 6.00 GMACs instead of 7.80."""
    return _create("pix_resnet101", pretrained, **kwargs)


@register_model
def pix_resnet152(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PiX-ResNet-152: 60.2 M parameters, 8.84 GMACs instead of 11.51."""
    return _create("pix_resnet152", pretrained, **kwargs)


@register_model
def pix_resnet50_half(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PiX-ResNet-50 of half the inner width (zeta = 8): 12.4 M parameters, 1.36 GMACs instead of 1.82."""
    return _create("pix_resnet50_half", pretrained, **kwargs)
