"""What a data set is once it is loaded: splits, and what they share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

if TYPE_CHECKING:
    from leanconv.data.loaders import EvalLoader, TrainLoader
    from leanconv.data.objects import Objects
    from leanconv.data.scenes import Scenes
    from leanconv.data.sequences import Series

HELD_OUT = 0  # seed of the choice of examples that are held out: the same in every run

SomeData = TypeVar("SomeData", bound="Data")
Task = Literal["classes", "masks", "objects"]  # what is to be told: the class of an example, that of each pixel, ...
Examples = TypeVar("Examples", "Split", "Series", "Scenes", "Objects")


@dataclass(frozen=True)
class Split:
    """Images with labels: two tensors for small images, a torch data set of (PIL image, label) for photographs."""

    images: Tensor | None = None  # (N, C, H, W) uint8
    labels: Tensor | None = None  # (N,) int64
    dataset: Dataset | None = None

    def __len__(self) -> int:
        return len(self.dataset if self.images is None else self.images)  # type: ignore[arg-type]

    def pick(self, chosen: Tensor) -> Split:
        """The images of these indices (M,)."""
        if self.dataset is not None:
            return Split(dataset=Subset(self.dataset, chosen.tolist()))
        return Split(self.images[chosen], self.labels[chosen])  # type: ignore[index]


class Data:
    """A data set ready for training; `source` says in one sentence which files these are and where they lie."""

    unit: ClassVar[str]  # what its examples are, in the plural
    score: ClassVar[str] = "top1"  # the number that tells which network is better
    task: ClassVar[Task] = "classes"
    name: str
    source: str
    num_classes: int
    in_chans: int
    train: Any
    test: Any
    val: Any = None

    def input_size(self, image_size: int | None = None) -> tuple[int, ...]:
        """Shape of one example: (C, H, W) or (C, L)."""
        raise NotImplementedError

    def loaders(self, batch_size: int, **options: Any) -> tuple[TrainLoader, EvalLoader]:
        """Loaders of the training and the test split; see :func:`leanconv.data.loaders.make_loaders`."""
        raise NotImplementedError

    def subset(self: SomeData, train: int | None = None, test: int | None = None) -> SomeData:
        """The same data with fewer examples; `source` tells."""
        counts = {name: count for name, count in (("train", train), ("test", test)) if count is not None}
        splits = {name: take(getattr(self, name), count, self.unit) for name, count in counts.items()}
        text = ", ".join(f"{count} {name}" for name, count in counts.items())
        return replace(self, source=f"{self.source}; of these {text} {self.unit}", **splits) if splits else self  # type: ignore[type-var]

    def hold_out(self: SomeData, count: int) -> SomeData:
        """The same data with `count` training examples as validation split, drawn once for all runs.

        Raises:
            ValueError: there is a validation split already, or nothing would be left to train on.
        """
        if self.val is not None:
            raise ValueError(f"{self.name} has a validation split of its own: leave out validation")
        if not 0 < count < len(self.train):
            raise ValueError(f"cannot hold {count} of {len(self.train)} training {self.unit} out for validation")
        drawn = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(HELD_OUT))
        val, train = (self.train.pick(part.sort().values) for part in (drawn[:count], drawn[count:]))
        text = f"{self.source}; {count} of the training {self.unit} are held out for validation"
        return replace(self, source=text, train=train, val=val)  # type: ignore[type-var]

    def chance(self) -> float:
        """Accuracy on the test split of naming its largest class always; of photographs, of guessing."""
        labels = self.test.labels
        return 1 / self.num_classes if labels is None else labels.bincount().max().item() / len(labels)


class Images(Data):
    """Data whose examples are images."""

    unit: ClassVar[str] = "images"
    image_size: int

    def input_size(self, image_size: int | None = None) -> tuple[int, ...]:
        side = image_size or self.image_size
        return self.in_chans, side, side


@dataclass(frozen=True)
class VisionData(Images):
    """Images."""

    name: str
    source: str
    num_classes: int
    in_chans: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    test: Split
    val: Split | None = None

    def loaders(self, batch_size: int, **options: Any) -> tuple[TrainLoader, EvalLoader]:
        from leanconv.data.loaders import make_loaders

        return make_loaders(self, batch_size, **options)


def take(split: Examples, count: int, unit: str) -> Examples:
    """`count` examples spread evenly over the split (sorted files would otherwise give the first classes only)."""
    if not 0 < count <= len(split):
        raise ValueError(f"cannot take {count} of {len(split)} {unit}")
    return split.pick(torch.arange(count) * len(split) // count)
