"""Small networks for the tests of conversion and of what follows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from csgconv import convert

SMALL: dict[str, Any] = {"code_size": 8, "slice_shape": (4, 4, 3, 3)}  # slices of 144 numbers


def net(**options: Any) -> nn.Sequential:
    """Its 3x3 convolutions have codes that reach nothing, in layout "raster"."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 10, 3, stride=2, padding=1, **options),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.Conv2d(10, 12, 3, padding=2, dilation=2, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


def generated(**options: Any) -> nn.Module:
    """`net` converted and trained for two steps, so that norms have seen something."""
    model = convert(net(), **{**SMALL, **options})
    for _ in range(2):  # without an optimizer, whose import takes seconds
        model.zero_grad()
        model(images()).square().mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * parameter.grad
    return model


def images(size: int = 9) -> torch.Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
