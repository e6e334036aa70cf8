"""Loaders whose every random choice is a pure function of (seed, epoch, step or sample).

So a resumed run sees what the unbroken one saw, and neither the number of processes nor of workers changes the data:
a step's global batch is drawn once, and each rank takes its own contiguous slice of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import torch

from leanconv import ranges
from leanconv.data.order import Order, Place, Shares
from leanconv.data.photographs import photograph_loaders
from leanconv.data.tensors import TensorEval, TensorTrain

if TYPE_CHECKING:
    from leanconv.data.splits import VisionData

Batch = tuple[Any, Any]  # images and labels or masks: two tensors; images and objects: two lists

RANGES = {
    "padding cutout color_jitter": "[0, inf)",
    "rotate": "[0, 180]",
    "shift": "[0, inf)",
    "hflip erase chance blur": "[0, 1]",
    "distort": "[0, inf)",
    "scale eval_crop shrink share": "(0, 1]",
    "ratio resize": "(0, inf)",
    "sides first_sides crop": "[1, inf)",
}
CHOICES = {"erase_mode": ("const", "pixel"), "interpolation": ("bicubic", "bilinear", "lanczos", "nearest", "random")}


@dataclass(frozen=True)
class Augment:
    """What is done to training images at random; mixup and cutmix belong to training.

    `cutout`, `rotate`, `shift`, `shrink` work on small images in memory; `scale`, `ratio`, `color_jitter`,
    `rand_augment`, `interpolation`, `eval_crop` on photographs, and on small images once `rand_augment` is asked for.
    `padding` works on both and takes the place of `scale` and `ratio`, as is usual for images of 32 or 64 pixels.
    Images with masks take `resize`, `hflip`, `blur`, `color_jitter`, `share` and `distort`, and are cropped to squares
    anyway. Images with objects take `sides`, `first_sides`, `crop` and `hflip`.
    """

    padding: int = 0  # pad with black, then crop back at random
    hflip: float = 0.0  # probability
    erase: float = 0.0  # probability of erasing one rectangle, 2 % to 1/3 of the image
    erase_mode: str = "const"  # what comes in its place: "const", the mean colour, or "pixel", normal noise
    cutout: int = 0  # side of a square around a random centre, replaced likewise
    rotate: float = 0.0  # degrees at most, either way; black comes in
    shift: int = 0  # pixels at most, in each direction
    shrink: float = 1.0  # smallest scale
    chance: float = 1.0  # probability of each: rotate, shift, shrink and cutout
    scale: tuple[float, float] = (0.08, 1.0)  # share of the area that a random crop takes
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    color_jitter: float = 0.0
    rand_augment: str = ""  # timm's, such as "rand-m9-mstd0.5-inc1", or torchvision's, such as "torchvision-m9-n2"
    interpolation: str = "bicubic"
    eval_crop: float = 0.875  # share of the side kept when testing
    resize: tuple[float, float] = (1.0, 1.0)  # length of the shorter side before the crop, as multiples of the crop's
    blur: float = 0.0  # probability of a Gaussian's, of a deviation up to one pixel
    share: float = 1.0  # of a crop that one class may fill: where it is more, another is drawn, ten times at most
    # Brightness (levels of 255), contrast and saturation (factors beside 1), hue (degrees), each with probability 1/2.
    distort: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    sides: tuple[int, ...] = ()  # the shorter side is brought to one of these; if there are none, to image_size
    first_sides: tuple[int, ...] = ()  # of half of the images to one of these before; then they are cropped
    crop: tuple[int, int] = (384, 600)  # to height and width between these

    def __post_init__(self) -> None:
        ranges.check(self, RANGES)
        for name in ("scale", "ratio", "resize", "crop"):
            low_high = getattr(self, name)
            if not (isinstance(low_high, list | tuple) and len(low_high) == 2 and low_high[0] <= low_high[1]):
                raise ValueError(f"{name} must be a pair (low, high), got {low_high!r}")
        if len(self.distort) != 4:
            raise ValueError(f"distort must hold brightness, contrast, saturation and hue, got {self.distort!r}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    def check_only(self, known: tuple[str, ...], kind: str) -> None:
        """Raise a ValueError if it asks for more than images of a kind can have."""
        odd = [f.name for f in fields(self) if f.name not in known and getattr(self, f.name) != f.default]
        if odd:
            raise ValueError(f"{kind} do not take {', '.join(odd)}: augment them by {', '.join(known)}")


class TrainLoader(Protocol):
    """``len(loader)`` steps per epoch; the last incomplete batch is dropped."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches (images, labels) of this rank from `start_step` to the end of `epoch`."""
        ...


class EvalLoader(Protocol):
    """Batches (images, labels) of this rank's share; over all ranks every image comes exactly once."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


def make_loaders(
    data: VisionData,
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
    """Loaders of the training and the test split, giving normalised float32 images (B, C, H, W) on `device`.

    Args:
        batch_size: images per step over all ranks together; `world_size` must divide it.
        augment: default: none, except the random crop (`scale`, `ratio`) that photographs always get.
        workers: processes that decode photographs; images in memory need none.
        image_size: side of the images given out; default `data.image_size`.

    Raises:
        ValueError: an argument is out of range or `augment` asks for what this kind of image cannot have.
    """
    augment = augment or Augment()
    if augment.blur or augment.share < 1 or any(augment.distort) or tuple(augment.resize) != Augment.resize:
        raise ValueError("resize, blur, share and distort are for images with masks; photographs take scale")
    if augment.sides or augment.first_sides:
        raise ValueError("sides and first_sides are for images with objects; photographs take scale")
    order = Order(len(data.train), batch_size, seed, rank, world_size)
    shares = Shares(len(data.test), batch_size // world_size, rank, world_size)
    place = Place(torch.device(device), torch.channels_last if channels_last else torch.contiguous_format)
    size = image_size or data.image_size
    if data.train.images is not None and not augment.rand_augment:
        return TensorTrain(data, order, augment, size, place), TensorEval(data, shares, size, place)
    return photograph_loaders(data, order, shares, augment, size, place, workers)
