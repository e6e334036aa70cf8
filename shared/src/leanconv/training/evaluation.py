"""Scoring a network on a data set's test images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.metrics import Accuracy, Mean
from leanconv.training import build
from leanconv.training.recipe import Recipe


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], recipe: Recipe | None = None
) -> dict[str, float]:
    """Accuracies (``top1``, ``top5``, as fractions) and cross-entropy (``loss``) over ``loader``.

    Under torchrun the loaders of all processes together hold every sample exactly once, and so does the result.
    """
    accuracy, loss = Accuracy(topk=(1, 5)), Mean()
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    for images, labels in loader:
        with build.autocast(recipe or Recipe(), device):
            logits = model(images)
        accuracy.update(logits.float(), labels)
        loss.update(F.cross_entropy(logits.float(), labels), len(labels))
    model.train(training)
    accuracy.sync()
    loss.sync()
    return {**accuracy.compute(), "loss": loss.compute()}
