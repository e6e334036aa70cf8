"""Narrow networks of each kind, and their like by the authors' code, for the tests beside."""

from __future__ import annotations

import originals
import pytest
import torch
from originals import Published
from torch import Tensor, nn

timm = pytest.importorskip("timm")

import csgconv.models  # noqa: E402, F401

THREE, ONE = (12, 12, 3, 3), (16, 16, 1, 1)
_LOW, _STAGES = {"layers": (2, 1, 1), "channels": (8, 16, 32)}, {"layers": (1, 2, 1, 1), "channels": (8, 16, 16, 24)}
_MOBILE = {"layers": (((1, 16), (6, 24)), ((6, 32), (6, 32)), ((6, 40), (6, 48))), "neck_channels": 80}
_MOBILE_BLOCKS = [(1, 16, 1, 1), (6, 24, 1, 1), (6, 32, 2, 2), (6, 40, 1, 2), (6, 48, 1, 1)]
_SHUFFLE = {"layers": (2, 1, 1), "channels": (16, 24, 40, 72)}
_SEGMENT = {"layers": (1, 1, 2, 4), "channels": (8, 8, 16, 16), "width": 16}
_BASIC = {"layers": _STAGES["layers"], "channels": _STAGES["channels"], "kind": "basic"}
# Its name, its sizes, its slices and codes, the authors' function and what that is told, the entry's classes.
NETWORKS = {
    "resnet": ("csg_resnet20", _LOW, THREE, originals.resnet, _LOW),
    "densenet": ("csg_densenet_bc", {"depth": 10, "growth_rate": 12}, THREE, originals.densenet,
                 {"layers": (1, 1, 1), "growth": 12}),
    "mobilenet": ("csg_mobilenetv2", _MOBILE, ONE, originals.mobilenet, {"blocks": _MOBILE_BLOCKS, "last": 80}),
    "shufflenet": ("csg_shufflenetv2", _SHUFFLE, ONE, originals.shufflenet, _SHUFFLE),
    "basic": ("csg_resnet34", _STAGES, THREE, originals.imagenet, _BASIC),
    "first": ("csg_resnet18", _STAGES, THREE, originals.imagenet, {**_BASIC, "kind": "first"}),
    "bottleneck": ("csg_resnet50", _STAGES, THREE, originals.imagenet, {**_BASIC, "kind": "bottleneck"}),
    "deeplab": ("csg_deeplabv3", _SEGMENT, THREE, originals.deeplab, {**_SEGMENT, "stride": 16}),
    "deeplab8": ("csg_deeplabv3", {**_SEGMENT, "output_stride": 8}, THREE, originals.deeplab,
                 {**_SEGMENT, "stride": 8}),
}  # fmt: skip
STAGED = ("resnet", "densenet", "mobilenet", "shufflenet")
CLASSIFIERS = (*STAGED, "bottleneck", "first")
CODES = 20  # numbers of a code, fewer than published


def build(kind: str, **kwargs) -> nn.Module:
    name, sizes, slice_shape, *_ = NETWORKS[kind]
    return timm.create_model(name, **{**sizes, "slice_shape": slice_shape, "code_size": CODES, **kwargs})


def published(
    kind: str, x: Tensor, *, generated: bool = True, binary: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """The authors' weights and logits."""
    *_, slice_shape, function, options = NETWORKS[kind]
    net = Published(slice_shape, CODES if generated else 0, binary=binary)
    logits = function(net, x, **options)
    return net.state, logits


def small(kind: str, **kwargs) -> nn.Module:
    """A narrow network as after some training: norms do something in evaluation, too."""
    model = build(kind, **kwargs)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def images(height: int = 32, width: int = 32, batch: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


def output(y: Tensor | dict[str, Tensor]) -> Tensor:
    return y["out"] if isinstance(y, dict) else y


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())
