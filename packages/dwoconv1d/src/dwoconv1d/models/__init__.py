"""The networks of "Convolutional Networks with Oriented 1D Kernels" (ICCV 2023), registered with timm.

Importing this module registers `convnext_{tiny,base}_{1d,2d,1dpp,2dpp}`. It needs timm: `pip install
dwoconv1d[models]`.

Example:
    >>> import timm, dwoconv1d.models
    >>> model = timm.create_model("convnext_tiny_1dpp", num_classes=10)
    >>> backbone = timm.create_model("convnext_tiny_1d", features_only=True)
"""

from __future__ import annotations

try:
    import timm as _timm  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "timm":
        raise
    raise ModuleNotFoundError(
        "dwoconv1d.models needs timm, which is not installed: run `pip install dwoconv1d[models]`", name="timm"
    ) from None

from .backbone import Crop, kernel_crops, to_backbone
from .convnext import ConvNeXt
from .oriented1d import (
    convnext_base_1d,
    convnext_base_1dpp,
    convnext_base_2d,
    convnext_base_2dpp,
    convnext_tiny_1d,
    convnext_tiny_1dpp,
    convnext_tiny_2d,
    convnext_tiny_2dpp,
)
from .variants import BACKBONE_KERNEL_SIZES, VARIANTS

__all__ = [
    "BACKBONE_KERNEL_SIZES",
    "VARIANTS",
    "ConvNeXt",
    "Crop",
    "convnext_base_1d",
    "convnext_base_1dpp",
    "convnext_base_2d",
    "convnext_base_2dpp",
    "convnext_tiny_1d",
    "convnext_tiny_1dpp",
    "convnext_tiny_2d",
    "convnext_tiny_2dpp",
    "kernel_crops",
    "to_backbone",
]
