"""The networks of "Associative Convolutional Layers" (AISTATS 2021), registered with timm.

Importing this module registers, for CIFAR, `csg_resnet{20,32,44,56,110}`, `csg_densenet_bc`, `csg_mobilenetv2` and
`csg_shufflenetv2`; for ImageNet, `csg_resnet{18,26,34,50,101,152}` and `csg_wide_resnet50_2`. `csg_deeplabv3` makes the
network for segmentation. It needs timm: `pip install csgconv[models]`.

All of them take `code_size`, `slice_shape`, `layout`, `binary` and `init` of :class:`csgconv.SliceGenerator`, and
`generated=False` for the ordinary twin. A backbone of `features_only` keeps the codes of layers that timm drops, and
makes their kernels with the others; `csgconv.export` leaves neither.

Example:
    >>> import timm, csgconv.models
    >>> model = timm.create_model("csg_resnet56", code_size=128, slice_shape=(16, 16, 3, 3))
    >>> twin = timm.create_model("csg_resnet56", generated=False)
    >>> backbone = timm.create_model("csg_resnet50", features_only=True)
"""

from __future__ import annotations

try:
    import timm as _timm  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "timm":
        raise
    raise ModuleNotFoundError(
        "csgconv.models needs timm, which is not installed: run `pip install csgconv[models]`", name="timm"
    ) from None

from .deeplab import DeepLabV3Plus, csg_deeplabv3
from .densenet import CSGDenseNet, csg_densenet_bc
from .imagenet import (
    csg_resnet18,
    csg_resnet26,
    csg_resnet34,
    csg_resnet50,
    csg_resnet101,
    csg_resnet152,
    csg_wide_resnet50_2,
)
from .mobilenet import CSGMobileNetV2, csg_mobilenetv2
from .resnet import CSGResNet, csg_resnet20, csg_resnet32, csg_resnet44, csg_resnet56, csg_resnet110
from .shufflenet import CSGShuffleNetV2, csg_shufflenetv2

__all__ = [
    "CSGDenseNet",
    "CSGMobileNetV2",
    "CSGResNet",
    "CSGShuffleNetV2",
    "DeepLabV3Plus",
    "csg_deeplabv3",
    "csg_densenet_bc",
    "csg_mobilenetv2",
    "csg_resnet18",
    "csg_resnet20",
    "csg_resnet26",
    "csg_resnet32",
    "csg_resnet34",
    "csg_resnet44",
    "csg_resnet50",
    "csg_resnet56",
    "csg_resnet101",
    "csg_resnet110",
    "csg_resnet152",
    "csg_shufflenetv2",
    "csg_wide_resnet50_2",
]
