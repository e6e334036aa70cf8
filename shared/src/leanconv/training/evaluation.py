"""Scoring a network on a data set's test images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.data import IGNORED
from leanconv.data.dense import DenseViews
from leanconv.metrics import Accuracy, ConfusionMatrix, Mean
from leanconv.training import build, dense, detection
from leanconv.training.recipe import Recipe


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], recipe: Recipe | None = None, *, alone: bool = False
) -> dict[str, float]:
    """Accuracies (``top1``, ``top5``, as fractions) and cross-entropy (``loss``) over ``loader``.

    Where each pixel has a label, what :class:`leanconv.metrics.ConfusionMatrix` computes stands for the accuracies.
    Where there are objects to find, what :class:`leanconv.average_precision.AveragePrecision` does stands for all.
    Under torchrun the loaders of all processes together hold every sample exactly once, and so does the result. With
    ``alone`` this process's loader holds all, and no other need take part.
    """
    if hasattr(loader, "objects"):
        return detection.evaluate(model, loader, recipe or Recipe(), alone=alone)
    scores: Accuracy | ConfusionMatrix = Accuracy(topk=(1, 5))
    loss = Mean()
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    for images, labels in loader:
        with build.autocast(recipe or Recipe(), device):
            output = model(images)
        if labels.ndim == 1:
            logits = output.float()
            loss.update(F.cross_entropy(logits, labels), len(labels))
        else:
            logits = dense.logits(output, labels.shape[-2:])
            loss.update(dense.cross_entropy(logits, labels), int((labels != IGNORED).sum()))
            if scores.total is None:
                scores = ConfusionMatrix(logits.shape[1], IGNORED)
        scores.update(logits, labels)
    model.train(training)
    if not alone:
        scores.sync()
        loss.sync()
    return {**scores.compute(), "loss": loss.compute()}


@torch.no_grad()
def evaluate_views(model: nn.Module, loader: DenseViews, recipe: Recipe | None = None) -> dict[str, float]:
    """Mean IoU (``miou_multiscale``) of the probabilities' mean over several views of each image.

    Under torchrun all processes must ask for it.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    scores: ConfusionMatrix | None = None
    for views, mask in loader:
        with build.autocast(recipe or Recipe(), device):
            found = dense.averaged(model, views, mask.shape[-2:], loader.flip)
        scores = scores or ConfusionMatrix(found.shape[1], IGNORED)
        scores.update(found, mask)
    model.train(training)
    if scores is None:
        raise ValueError("a process got no test image: there must be as many as processes")
    scores.sync()
    return {"miou_multiscale": scores.compute()["miou"]}
