"""Meters with exact counts: `update` on each batch, `sync` once at the end, `compute` when a number is wanted.

Unlike torchmetrics' they hold one small tensor each, reduce only when told to (so that one rank may read without
waiting for the others), and sum means in float64.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class Meter:
    """A total that adds up over batches and over processes."""

    total: Tensor | None = None

    def add(self, amount: Tensor) -> None:
        self.total = amount if self.total is None else self.total + amount

    def sync(self) -> None:
        """Add up over all processes, in place; call it once, on every rank, after the last update.

        Raises:
            ValueError: nothing was counted on this rank.
        """
        if dist.is_initialized():
            dist.all_reduce(self.counted())

    def counted(self) -> Tensor:
        if self.total is None:
            raise ValueError(f"{type(self).__name__} has seen no data")
        return self.total


class Mean(Meter):
    """Mean of values that stand for several images each, such as losses of batches."""

    def update(self, value: Tensor | float, count: int = 1) -> None:
        value = torch.as_tensor(value).detach().double()
        self.add(torch.stack([value * count, torch.full_like(value, count)]))

    def compute(self) -> float:
        total, count = self.counted().tolist()
        return total / count


class Accuracy(Meter):
    """Share of images whose label is among the k largest logits, for each k that is at most the number of classes.

    Example:
        >>> accuracy = Accuracy(topk=(1, 5))
        >>> accuracy.update(torch.eye(10), torch.arange(10))
        >>> accuracy.compute()
        {'top1': 1.0, 'top5': 1.0}
    """

    def __init__(self, topk: tuple[int, ...] = (1, 5)) -> None:
        self.topk = topk

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (N, classes), labels (N,). A NaN in the logits counts as wrong."""
        self.ks = [k for k in self.topk if k <= logits.shape[1]]
        if not self.ks:
            raise ValueError(f"topk={self.topk} all exceed the {logits.shape[1]} classes")
        best = logits.detach().topk(max(self.ks), dim=1).indices
        hits = (best == labels[:, None]) & ~logits.isnan().any(dim=1, keepdim=True)
        self.add(torch.stack([hits[:, :k].sum() for k in self.ks] + [torch.tensor(len(labels), device=hits.device)]))

    def compute(self) -> dict[str, float]:
        *hits, count = self.counted().tolist()
        return {f"top{k}": hit / count for k, hit in zip(self.ks, hits, strict=True)}


class ConfusionMatrix(Meter):
    """Counts (true class, predicted class), for accuracies and intersections over unions.

    Args:
        ignore_index: label of pixels that do not count.
    """

    def __init__(self, num_classes: int, ignore_index: int | None = None) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Count a batch: labels (N, ...) and predicted classes of that shape or logits (N, classes, ...)."""
        if predicted.ndim == labels.ndim + 1:
            predicted = predicted.argmax(dim=1)
        if predicted.shape != labels.shape:
            raise ValueError(f"predicted {tuple(predicted.shape)} does not fit labels {tuple(labels.shape)}")
        if self.ignore_index is not None:
            kept = labels != self.ignore_index
            predicted, labels = predicted[kept], labels[kept]
        for name, classes in (("predicted", predicted), ("labels", labels)):
            if classes.numel() and not 0 <= classes.min() <= classes.max() < self.num_classes:
                raise ValueError(f"{name} must lie in [0, {self.num_classes}), got {classes.min()} to {classes.max()}")
        pairs = labels.flatten().long() * self.num_classes + predicted.flatten().long()
        self.add(pairs.bincount(minlength=self.num_classes**2).view(self.num_classes, self.num_classes))

    def compute(self) -> dict[str, float]:
        """Means over classes, of the IoU over those that occur in labels or predictions, and over pixels.

        They are ``miou``, ``pixel_accuracy``, ``class_accuracy`` (the mean of the classes' own) and ``fwiou`` (the IoU
        weighted by how often a class occurs in the labels).
        """
        matrix = self.counted().double()
        right, true = matrix.diag(), matrix.sum(1)
        union = matrix.sum(0) + true - right
        iou = right / union.clamp_min(1)
        return {
            "miou": iou[union > 0].mean().item(),
            "pixel_accuracy": (right.sum() / matrix.sum()).item(),
            "class_accuracy": (right / true)[true > 0].mean().item(),
            "fwiou": (iou * true / true.sum()).sum().item(),
        }
