"""Detection: from what a network says of images with objects to its loss and its score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.average_precision import AveragePrecision
from leanconv.training import build
from leanconv.training.recipe import Recipe


def total(losses: Mapping[str, Tensor], targets: Any = None) -> Tensor:
    """The loss of a network that has seen images and targets, as torchvision's detectors say it: the sum of its parts.

    Raises:
        ValueError: the network says something else, as one that does not find objects does.
    """
    if not isinstance(losses, Mapping):
        raise ValueError("to learn to find objects, network(images, targets) must give a dictionary of losses")
    return torch.stack(list(losses.values())).sum()


@torch.no_grad()
def evaluate(model: nn.Module, loader: Any, recipe: Recipe, *, alone: bool = False) -> dict[str, float]:
    """What :class:`leanconv.average_precision.AveragePrecision` computes over a loader of images with objects."""
    scores = AveragePrecision(loader.objects)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    for images, targets in loader:
        with build.autocast(recipe, device):
            found = model(images)
        scores.update(found, targets)
    model.train(training)
    if not alone:
        scores.sync()
    return scores.compute()
