"""The networks of "Pick-or-Mix: Dynamic Channel Sampling for ConvNets" (CVPR 2024), registered with timm.

Importing this module registers `pix_resnet{50,101,152}` and `pix_resnet50_half`, where PiX squeezes the channels of
bottlenecks, and `pix_resnet{18,34}` and `pix_vgg16`, where it comes before the 3x3 convolutions. It needs timm: `pip
install pix[models]`.

Example:
    >>> import timm, pix.models
    >>> model = timm.create_model("pix_resnet50", num_classes=10)
    >>> backbone = timm.create_model("pix_resnet18", zeta=4, features_only=True)
"""

from __future__ import annotations

try:
    import timm as _timm  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "timm":
        raise
    raise ModuleNotFoundError(
        "pix.models needs timm, which is not installed: run `pip install pix[models]`", name="timm"
    ) from None

from .downscaled import pix_resnet18, pix_resnet34, pix_vgg16
from .network import PixResNet
from .squeezed import pix_resnet50, pix_resnet50_half, pix_resnet101, pix_resnet152

__all__ = [
    "PixResNet",
    "pix_resnet18",
    "pix_resnet34",
    "pix_resnet50",
    "pix_resnet50_half",
    "pix_resnet101",
    "pix_resnet152",
    "pix_vgg16",
]
