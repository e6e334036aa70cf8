"""timm entry points of the networks.

No weights are downloaded: the authors publish theirs as files. `smpconv.checkpoints.load_original` reads them, and so
does `timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": path})`.
"""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from ..checkpoints import from_original
from .network import SMPNet
from .resnet import SMPResNet
from .tcn import SMPTCN

_SIZES: dict[str, dict[str, Any]] = {
    "smp_tiny": {"layers": (2, 2, 8, 2), "channels": (96, 192, 384, 768), "drop_path_rate": 0.1},
    "smp_base": {"layers": (2, 2, 20, 2), "channels": (128, 256, 512, 1024), "drop_path_rate": 0.5},
    "smp_resnet": {"radius": 0.12, "dropout": 0.1},
    "smp_tcn": {},
}


def _cfg(**kwargs: Any) -> dict:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.0.conv",
        "classifier": "head",
        "license": "mit",
        "paper_ids": "arXiv:2304.02330",
        "paper_name": "SMPConv: Self-moving Point Representations for Continuous Convolution",
        "origin_url": "https://github.com/sangnekim/SMPConv",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        "smp_tiny": _cfg(),
        "smp_base": _cfg(),
        "smp_resnet": _cfg(num_classes=10, input_size=(3, 32, 32), pool_size=(32, 32), crop_pct=1.0, first_conv=()),
        "smp_tcn": _cfg(
            num_classes=10, input_size=(1, 1, 784), pool_size=(1, 784), first_conv=()
        ),  # timm knows images alone
    }
)


def _create(network: type[nn.Module], name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        network,
        name,
        pretrained,
        pretrained_filter_fn=from_original,
        feature_cfg={"out_indices": None, "feature_cls": "getter"},  # None: all stages
        **{**_SIZES[name], **kwargs},
    )


@register_model
def smp_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SMPConv-T: kernels of 31, 29, 27 and 13, 26.7 M parameters, 5.7 GMACs at 224 pixels.

    Arguments are those of :class:`SMPNet`; drop path grows to 0.1.
    """
    return _create(SMPNet, "smp_tiny", pretrained, **kwargs)


@register_model
def smp_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SMPConv-B: 79.5 M parameters, 16.6 GMACs; drop path grows to 0.5."""
    return _create(SMPNet, "smp_base", pretrained, **kwargs)


@register_model
def smp_resnet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The paper's network for CIFAR: dense kernels of 33x33, 489,646 parameters, 20.6 GMACs at 32 pixels.

    (Counted as direct convolutions. By FFT, which `algorithm="auto"` takes, far fewer, and counters do not see them.)

    Arguments are those of :class:`SMPResNet`; radii start at 0.12, and dropout is 0.1.
    """
    return _create(SMPResNet, "smp_resnet", pretrained, **kwargs)


@register_model
def smp_tcn(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The paper's network for sequences: 6 blocks of 30 channels, 30 points per channel, 370,960 parameters.

    Arguments are those of :class:`SMPTCN`; `TASKS` has the paper's for each task. There is no `features_only`.

    Example:
        >>> from smpconv.models import TASKS
        >>> smp_tcn(**TASKS["character_trajectories"])(torch.zeros(2, 3, 182)).shape
        torch.Size([2, 20])
    """
    return _create(SMPTCN, "smp_tcn", pretrained, **kwargs)
