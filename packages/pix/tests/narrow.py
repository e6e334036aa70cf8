"""Narrow networks of the paper's kinds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

timm = pytest.importorskip("timm")

import pix.models  # noqa: E402, F401
from pix import PiX  # noqa: E402

SMALL = {"layers": (2, 1, 1, 1), "channels": (8, 16, 32, 64), "num_classes": 5}


def small(name: str = "pix_resnet50", **kwargs) -> nn.Module:
    """A narrow network whose norms do something in evaluation, too."""
    model = timm.create_model(name, **{**SMALL, **kwargs})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return model


def images(height: int = 64, width: int = 64, batch: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


def layers(model: nn.Module) -> list[PiX]:
    return [module for module in model.modules() if isinstance(module, PiX)]
