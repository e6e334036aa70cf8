"""Narrow networks of each kind, for the tests beside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

timm = pytest.importorskip("timm")


from smpconv.points import PointKernel  # noqa: E402

SMALL = {"layers": (2, 1), "channels": (8, 16), "kernel_sizes": (13, 9), "stem_stride": 2, "num_classes": 5}
SMALL_RESNET = {"channels": (8, 12, 12), "kernel_size": 9, "num_classes": 5}
KINDS = ("image", "resnet", "sequence")
NAMES = {"image": "smp_tiny", "resnet": "smp_resnet"}
kinds = pytest.mark.parametrize("kind", KINDS)
image_kinds = pytest.mark.parametrize("kind", NAMES)


def build(kind: str, **kwargs) -> nn.Module:
    if kind == "image":
        return timm.create_model("smp_tiny", **{**SMALL, **kwargs})
    if kind == "resnet":
        return timm.create_model("smp_resnet", **{**SMALL_RESNET, **kwargs})
    return timm.create_model(
        "smp_tcn", **{"in_chans": 3, "num_classes": 5, "length": 40, "channels": (8, 12, 12), **kwargs}
    )


def small(kind: str, **kwargs) -> nn.Module:
    """A narrow network as after some training: norms do something in evaluation, too, and outputs are not tiny."""
    model = build(kind, **kwargs)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, PointKernel):
            nn.init.normal_(module.weight, 0, 0.2)
    return model


def inputs(kind: str = "image", *size: int, batch: int = 2, channels: int = 3) -> Tensor:
    size = size or ((40,) if kind == "sequence" else (24, 24))
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
