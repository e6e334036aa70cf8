"""The networks of "One-dimensional Path Convolution" (ICML 2025), registered with timm.

Importing this module registers `pathconv_s` and `pathconv_b`, and what the paper compares with: `resnet18_lowres`,
`resnet50_lowres`, `wrn_40_2`, `wrn_40_5`. It needs timm: `pip install pathconv[models]`.

Example:
    >>> import timm, pathconv.models
    >>> model = timm.create_model("pathconv_s", img_size=32, path="g", num_classes=10)
    >>> backbone = timm.create_model("pathconv_s", features_only=True)
"""

from __future__ import annotations

try:
    import timm as _timm  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "timm":
        raise
    raise ModuleNotFoundError(
        "pathconv.models needs timm, which is not installed: run `pip install pathconv[models]`", name="timm"
    ) from None

from .low_resolution import LowResolutionResNet
from .network import PathConvNet
from .pathconv import pathconv_b, pathconv_s, resnet18_lowres, resnet50_lowres, wrn_40_2, wrn_40_5
from .wide_resnet import WideResNet

__all__ = [
    "LowResolutionResNet",
    "PathConvNet",
    "WideResNet",
    "pathconv_b",
    "pathconv_s",
    "resnet18_lowres",
    "resnet50_lowres",
    "wrn_40_2",
    "wrn_40_5",
]
