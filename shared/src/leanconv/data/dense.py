"""Data of dense prediction: photographs with masks, and the loaders that transform both alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2.functional import resize

from leanconv.data.distort import Crop, Distort
from leanconv.data.loaders import Augment, EvalLoader, TrainLoader
from leanconv.data.order import Order, Place, Shares, stream
from leanconv.data.photographs import WorkerEval, WorkerTrain, seeded, worker_loader
from leanconv.data.scenes import IGNORED, Scenes
from leanconv.data.splits import Images, Task

KNOWN = ("hflip", "resize", "blur", "color_jitter", "share", "distort")  # augmentation that images with masks can have

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DenseData(Images):
    """Images with masks. For training they are cropped to squares of `image_size` pixels.

    `scored` says how they are tested: "whole", each image as it is; "crop", the middle square of an image whose
    shorter side is brought to `image_size` (so do the authors of DeepLab's port to PyTorch, and others after them);
    "resized", images whose shorter side is brought to `image_size`, while masks stay as they are, as mmsegmentation
    does. (That one resizes images without antialiasing, here it is with.)

    Where there are `scales` or `flip`, what a network says may also be tested as the mean over several views of an
    image, see :meth:`views`.

    Attributes:
        aspect: the longer side is at most so many times what the shorter is asked to be; then the latter is shorter.
        scales: of `image_size`, at which an image is seen.
        flip: whether it is seen mirrored, too.
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
    scored: Literal["whole", "crop", "resized"] = "whole"
    aspect: float | None = None
    scales: tuple[float, ...] = ()
    flip: bool = False

    score: ClassVar[str] = "miou"
    task: ClassVar[Task] = "masks"
    in_chans: ClassVar[int] = 3  # type: ignore[misc]

    def __post_init__(self) -> None:
        check_scored(self.scored, self.aspect, self.scales, self.flip)

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return len(self.classes)

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
        augment.check_only(KNOWN, "images with masks")
        order = Order(len(self.train), batch_size, seed, rank, world_size)
        # Whole images differ in size, so each is a batch of its own.
        together = batch_size // world_size if self.scored == "crop" else 1
        shares = Shares(len(self.test), together, rank, world_size)
        place = Place(torch.device(device), torch.channels_last if channels_last else torch.contiguous_format)
        size = image_size or self.image_size
        train = _Transformed(self.train, _train_transform(self, augment, size), seed)
        test = _Transformed(self.test, self.eval_transform(size), seed=0)
        return WorkerTrain(train, order, place, workers), WorkerEval(test, shares, place, workers)

    def views(
        self,
        *,
        workers: int = 2,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        image_size: int | None = None,
        channels_last: bool = False,
    ) -> DenseViews | None:
        """A loader of each test image at all `scales`, with its mask; None where there are no scales and no flip."""
        if not (self.scales or self.flip):
            return None
        place = Place(torch.device(device), torch.channels_last if channels_last else torch.contiguous_format)
        transforms = [self.eval_transform(image_size, scale) for scale in self.scales or (1.0,)]
        shares = Shares(len(self.test), 1, rank, world_size)
        return DenseViews(worker_loader(_Views(self.test, transforms), shares, place, workers), place, self.flip)

    def eval_transform(self, image_size: int | None = None, scale: float = 1.0) -> v2.Compose:
        """From an image and its mask, as `Scenes.read` gives them, to what a network is tested on."""
        size = max(1, round((image_size or self.image_size) * scale))
        first = {
            "whole": [],
            "crop": [_Resize(size, size, self.aspect), v2.CenterCrop(size)],
            "resized": [_Resize(size, size, self.aspect, masks=False)],
        }
        return v2.Compose([*first[self.scored], *_normalise(self)])


def check_scored(
    scored: str = "whole", aspect: float | None = None, scales: Sequence[float] = (), flip: bool = False
) -> None:
    """Raise a ValueError unless images can be tested so."""
    if scored not in ("whole", "crop", "resized"):
        raise ValueError(f"scored must be whole, crop or resized, got {scored!r}")
    if aspect is not None and not aspect > 1:
        raise ValueError(f"aspect must be above 1, got {aspect!r}")
    if not all(isinstance(scale, int | float) and 0 < scale < inf for scale in scales):
        raise ValueError(f"scales must be positive factors, got {scales!r}")
    if (scales or flip) and scored != "resized":
        raise ValueError(f"scales and flip are for images that are scored resized, not {scored}")


class _Resize(v2.RandomResize):
    """The shorter side to so many pixels, from and to. Each pixel of the mask has the label at its middle.

    Torchvision's own takes the label at the pixel's corner: masks would lie half a pixel beside their images.
    """

    def __init__(self, low: int, high: int, aspect: float | None = None, *, masks: bool = True) -> None:
        super().__init__(low, high + 1)  # the end is exclusive
        self.aspect, self.masks = aspect, masks

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        (side,) = params["size"]
        longest = None if self.aspect is None else max(side + 1, round(self.aspect * side))
        if not isinstance(inpt, tv_tensors.Mask):
            return resize(inpt, [side], InterpolationMode.BILINEAR, longest, antialias=True)
        if not self.masks:
            return inpt
        image = inpt.as_subclass(Tensor)[None]
        return tv_tensors.Mask(resize(image, [side], InterpolationMode.NEAREST_EXACT, longest)[0])


def _train_transform(data: DenseData, augment: Augment, size: int) -> v2.Compose:
    """Flip, resize, crop, blur: image and mask alike, as far as a mask takes part."""
    low, high = (max(1, round(factor * size)) for factor in augment.resize)
    jitter, distort = augment.color_jitter, augment.distort
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(augment.hflip),
            _Resize(low, high, data.aspect),
            Crop(size, augment.share),
            *([v2.ColorJitter(jitter, jitter, jitter)] if jitter else []),
            *([Distort(*distort)] if any(distort) else []),
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


class _Views(Dataset):
    """Scenes seen through several transforms: the images of all, and the mask, which they leave as it is."""

    def __init__(self, scenes: Scenes, transforms: list[v2.Compose]) -> None:
        self.scenes, self.transforms = scenes, transforms

    def __getitem__(self, key: tuple[int, int]) -> tuple[list[Tensor], Tensor]:
        image, mask = self.scenes.read(key[1])
        return [transform(tv_tensors.Image(image)) for transform in self.transforms], mask.long()


class DenseViews:
    """Batches of one test image: its views, each (1, 3, h, w), and its mask (1, H, W); `flip` as the data say."""

    def __init__(self, loader: Iterable[tuple[list[Tensor], Tensor]], place: Place, flip: bool) -> None:
        self.loader, self.place, self.flip = loader, place, flip

    def __iter__(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        for views, mask in self.loader:
            placed = [self.place.put(view, mask) for view in views]
            yield [view for view, _ in placed], placed[0][1]
