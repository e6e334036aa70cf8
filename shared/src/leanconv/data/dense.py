"""Data of dense prediction: photographs with masks, and the loaders that transform both alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2.functional import resize

from leanconv.data.loaders import Augment, EvalLoader, TrainLoader
from leanconv.data.order import Order, Place, Shares, stream
from leanconv.data.photographs import Steps, seeded, worker_loader
from leanconv.data.scenes import IGNORED, Scenes
from leanconv.data.splits import Data, Task

KNOWN = ("hflip", "resize", "blur", "color_jitter")  # augmentation that images with masks can have

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DenseData(Data):
    """Images with masks. For training they are cropped to squares of `image_size` pixels.

    `scored` says how they are tested: "whole", each image as it is, or "crop", the middle square of an image whose
    shorter side is brought to `image_size` (so do the authors of DeepLab's port to PyTorch, and others after them).
    """

    name: str
    source: str
    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Scenes
    test: Scenes
    val: Scenes | None = None
    scored: Literal["whole", "crop"] = "whole"

    unit: ClassVar[str] = "images"
    score: ClassVar[str] = "miou"
    task: ClassVar[Task] = "masks"
    in_chans: ClassVar[int] = 3  # type: ignore[misc]

    def __post_init__(self) -> None:
        check_scored(self.scored)

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return len(self.classes)

    def input_size(self, image_size: int | None = None) -> tuple[int, ...]:
        side = image_size or self.image_size
        return self.in_chans, side, side

    def chance(self) -> float:
        """Mean IoU on the test split, as it is scored, of naming everywhere the class that has most pixels."""
        transform = self.eval_transform()
        masks = (transform(tv_tensors.Mask(self.test.mask(i))) for i in range(len(self.test)))
        counts = sum(np.bincount(mask.numpy().ravel(), minlength=256)[:IGNORED] for mask in masks)
        counts = np.asarray(counts)
        return float(counts.max() / counts.sum() / (counts > 0).sum())

    def loaders(  # type: ignore[override]
        self,
        batch_size: int,
        *,
        augment: Augment | None = None,
        seed: int = 0,
        workers: int = 2,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        image_size: int | None = None,
        channels_last: bool = False,
    ) -> tuple[TrainLoader, EvalLoader]:
        """Loaders of images (B, 3, H, W) and masks (B, H, W) int64; arguments are those of `make_loaders`.

        Raises:
            ValueError: an argument is out of range, or `augment` asks for what a mask cannot follow.
        """
        augment = augment or Augment()
        odd = [f.name for f in fields(Augment) if f.name not in KNOWN and getattr(augment, f.name) != f.default]
        if odd:
            raise ValueError(f"images with masks do not take {', '.join(odd)}: augment them by {', '.join(KNOWN)}")
        order = Order(len(self.train), batch_size, seed, rank, world_size)
        # Whole images differ in size, so each is a batch of its own.
        together = batch_size // world_size if self.scored == "crop" else 1
        shares = Shares(len(self.test), together, rank, world_size)
        place = Place(torch.device(device), torch.channels_last if channels_last else torch.contiguous_format)
        size = image_size or self.image_size
        train = _Transformed(self.train, _train_transform(self, augment, size), seed)
        test = _Transformed(self.test, self.eval_transform(size), seed=0)
        return _DenseTrain(train, order, place, workers), _DenseEval(test, shares, place, workers)

    def eval_transform(self, image_size: int | None = None) -> v2.Compose:
        """From an image and its mask, as `Scenes.read` gives them, to what a network is tested on."""
        size = image_size or self.image_size
        crop = [_Resize(size, size), v2.CenterCrop(size)] if self.scored == "crop" else []
        return v2.Compose([*crop, *_normalise(self)])


def check_scored(scored: str = "whole") -> None:
    """Raise a ValueError unless images can be tested so."""
    if scored not in ("whole", "crop"):
        raise ValueError(f"scored must be whole or crop, got {scored!r}")


class _Resize(v2.RandomResize):
    """The shorter side to so many pixels, from and to. Each pixel of the mask has the label at its middle.

    Torchvision's own takes the label at the pixel's corner: masks would lie half a pixel beside their images.
    """

    def __init__(self, low: int, high: int) -> None:
        super().__init__(low, high + 1, antialias=True)  # the end is exclusive

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Mask):
            return super().transform(inpt, params)
        image = inpt.as_subclass(Tensor)[None]
        return tv_tensors.Mask(resize(image, params["size"], InterpolationMode.NEAREST_EXACT)[0])


def _train_transform(data: DenseData, augment: Augment, size: int) -> v2.Compose:
    """Flip, resize, crop, blur: image and mask alike, as far as a mask takes part."""
    low, high = (max(1, round(factor * size)) for factor in augment.resize)
    jitter = augment.color_jitter
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(augment.hflip),
            _Resize(low, high),
            v2.RandomCrop(size, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORED}),
            *([v2.ColorJitter(jitter, jitter, jitter)] if jitter else []),
            *([v2.RandomApply([v2.GaussianBlur(7, (0.01, 1.0))], augment.blur)] if augment.blur else []),
            *_normalise(data),
        ]
    )


def _normalise(data: DenseData) -> list[Any]:
    types = {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}
    return [v2.ToDtype(types, scale=True), v2.Normalize(data.mean, data.std), v2.ToPureTensor()]


class _Transformed(Dataset):
    """Scenes seen through a transform; the key (epoch, index) alone decides what it draws."""

    def __init__(self, scenes: Scenes, transform: v2.Compose, seed: int) -> None:
        self.scenes, self.transform, self.seed = scenes, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        image, mask = self.scenes.read(index)
        with seeded(stream(self.seed, epoch, index)):
            return self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))


class _DenseTrain:
    def __init__(self, dataset: _Transformed, order: Order, place: Place, workers: int) -> None:
        self.place, self.steps = place, Steps(order)
        self.loader = worker_loader(dataset, self.steps, place, workers)

    def __len__(self) -> int:
        return len(self.steps.order)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        self.steps.epoch, self.steps.start_step = epoch, start_step
        return (self.place.put(*batch) for batch in self.loader)


class _DenseEval:
    def __init__(self, dataset: _Transformed, shares: Shares, place: Place, workers: int) -> None:
        self.place, self.loader = place, worker_loader(dataset, shares, place, workers)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return (self.place.put(*batch) for batch in self.loader)
