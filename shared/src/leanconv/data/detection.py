"""Data of detection: photographs with objects, and the loaders that transform boxes and masks alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from leanconv.data.loaders import Augment, EvalLoader, TrainLoader
from leanconv.data.objects import Objects, Record, Target
from leanconv.data.order import Order, Place, Shares, stream
from leanconv.data.photographs import WorkerEval, WorkerTrain, seeded
from leanconv.data.splits import Images, Task

KNOWN = ("hflip", "sides", "first_sides", "crop")  # augmentation that images with objects can have

Batch = tuple[list[Tensor], list[Target]]


@dataclass(frozen=True)
class DetectionData(Images):
    """Images with objects, whose shorter side is brought to `image_size` pixels, but the longer to `longest` at most.

    Class 0 is none of them, "background", and has no objects. The training split holds no image without an object to
    learn from; the test split holds all.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Objects
    test: Objects
    val: Objects | None = None
    longest: int = 1333

    score: ClassVar[str] = "box_map"
    task: ClassVar[Task] = "objects"
    in_chans: ClassVar[int] = 3  # type: ignore[misc]

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return len(self.classes)

    def chance(self) -> float:
        """Box mAP on the test split of finding in each image the training split's usual box, as of its commonest class.

        That box is, relative to the image, the median of each side over the boxes of this class.
        """
        from leanconv.average_precision import AveragePrecision

        boxes, labels = zip(*(each for record in self.train for each in _relative_boxes(record)))
        label, _ = Counter(labels).most_common(1)[0]
        usual = torch.tensor([box for box, of in zip(boxes, labels) if of == label]).median(0).values
        scores = AveragePrecision(self.test)
        for record in self.test:
            size = record.height, record.width
            box = usual * torch.tensor([*size[::-1], *size[::-1]])
            found = {"boxes": box[None], "labels": torch.tensor([label]), "scores": torch.ones(1)}
            scores.update([found], [{"image_id": record.number, "size": size, "original_size": size}])
        return scores.compute()["box_map"]

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
        """Loaders of lists of normalised images (3, h, w) and of targets; arguments are those of `make_loaders`.

        Images differ in size, so the network is to pad them to one tensor, and `channels_last` is left to it.

        Targets are dictionaries. For training: "boxes" (n, 4), left, top, right, bottom in pixels of the image given;
        "labels" (n,) int64 from 1; "masks" (n, h, w) uint8; "image_id". Crowds are left out, and after a crop n may be
        0. For testing, one image at a time: "image_id", "size", the (height, width) of the image given, and
        "original_size", that of its file. `restored` brings what was found from the one to the other.

        Raises:
            ValueError: an argument is out of range, or `augment` asks for what objects cannot follow.
        """
        augment = augment or Augment()
        augment.check_only(KNOWN, "images with objects")
        if self.longest <= (image_size or self.image_size):
            raise ValueError(
                f"longest must exceed the image_size of {image_size or self.image_size}, got {self.longest}"
            )
        order = Order(len(self.train), batch_size, seed, rank, world_size)
        shares = Shares(len(self.test), 1, rank, world_size)
        place = Place(torch.device(device), torch.contiguous_format)
        train = _Train(self.train, _train_transform(self, augment, image_size or self.image_size), seed)
        test = _Test(self.test, self.eval_transform(image_size))
        ways: dict[str, Any] = {"together": _lists, "put": partial(_put, device=place.device)}
        return WorkerTrain(train, order, place, workers, **ways), _DetectionEval(test, shares, place, workers, **ways)

    def eval_transform(self, image_size: int | None = None) -> v2.Compose:
        """From an image, as `Objects.image` gives it, to what a network is tested on."""
        resize = v2.Resize(image_size or self.image_size, max_size=self.longest, antialias=True)
        return v2.Compose([resize, *_normalise(self)])


def restored(found: Mapping[str, Tensor], target: Target) -> tuple[Tensor, Tensor | None]:
    """What a network found in a test image, in pixels of the image's file.

    Args:
        found: "boxes" (n, 4) and, where there are, "masks", probabilities (n, 1, h, w) or (n, h, w).
        target: "size" (h, w) and "original_size" (H, W), as the loader gives them.

    Returns:
        Boxes (n, 4) and masks (n, H, W), bool, or None.
    """
    (height, width), original = target["size"], target["original_size"]
    across, down = original[1] / width, original[0] / height
    boxes = found["boxes"] * found["boxes"].new_tensor([across, down, across, down])
    if "masks" not in found:
        return boxes, None
    masks = found["masks"].reshape(len(boxes), 1, height, width)
    # In parts: a hundred whole images of floats would be a lot.
    parts = [interpolate(part.float(), original, mode="bilinear") > 0.5 for part in masks.split(8)]
    return boxes, torch.cat(parts)[:, 0]


def _relative_boxes(record: Record) -> list[tuple[tuple[float, ...], int]]:
    """Of the objects to learn from the box, in shares of the image, and the label."""
    sides = (record.width, record.height) * 2
    boxes = ((thing.corners(record.height, record.width), thing.label) for thing in record.learnable())
    return [(tuple(corner / side for corner, side in zip(box, sides)), label) for box, label in boxes]


def _train_transform(data: DetectionData, augment: Augment, size: int) -> v2.Compose:
    """Flip, and bring to one of several sizes; half of the images are cropped before, if asked for (DETR's way)."""
    resize: v2.Transform = _Resize(list(augment.sides or (size,)), data.longest, antialias=True)
    if augment.first_sides:
        first = _Resize(list(augment.first_sides), data.longest, antialias=True)
        resize = v2.RandomChoice([resize, v2.Compose([first, _CropBetween(*augment.crop), resize])])
    return v2.Compose(
        [v2.RandomHorizontalFlip(augment.hflip), resize, v2.ClampBoundingBoxes(), _Visible(), *_normalise(data)]
    )


def _normalise(data: DetectionData) -> list[Any]:
    types = {tv_tensors.Image: torch.float32, "others": None}
    return [v2.ToDtype(types, scale=True), v2.Normalize(data.mean, data.std), v2.ToPureTensor()]


class _Resize(v2.RandomShortestSize):
    """Each pixel of a mask has the value at its middle; torchvision's own takes that at its corner."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Mask):
            return super().transform(inpt, params)
        return tv_tensors.Mask(F.resize(inpt.as_subclass(Tensor), params["size"], InterpolationMode.NEAREST_EXACT))


class _CropBetween(v2.Transform):
    """A crop anywhere, its height and width drawn between `low` and `high`, and the image's where that is less."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        sides = next(F.get_size(each) for each in flat_inputs if isinstance(each, tv_tensors.Image))
        kept = [_integer(min(side, self.low), min(side, self.high)) for side in sides]
        top, left = (_integer(0, side - part) for side, part in zip(sides, kept))
        return {"top": top, "left": left, "height": kept[0], "width": kept[1]}

    def transform(self, inpt: Any, params: dict[str, int]) -> Any:
        return self._call_kernel(F.crop, inpt, **params)


def _integer(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()))


class _Visible(v2.Transform):
    """Leave out objects whose box or mask a crop has left nothing of.

    The original keeps those with a rest of the box, whose mask may be empty, and teaches its masks from them as well.
    """

    def forward(self, image: tv_tensors.Image, target: Target) -> tuple[tv_tensors.Image, Target]:
        sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
        kept = (sides >= 1).all(1) & target["masks"].flatten(1).any(1).bool()
        chosen = {key: tv_tensors.wrap(value[kept], like=value) for key, value in target.items() if key != "image_id"}
        return image, target | chosen


class _Train(Dataset):
    """Images and their objects seen through a transform; the key (epoch, index) alone decides what it draws."""

    def __init__(self, objects: Objects, transform: v2.Compose, seed: int) -> None:
        self.objects, self.transform, self.seed = objects, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Target]:
        epoch, index = key
        image, target = self.objects.image(index), self.objects.target(index)
        del target["crowd"]
        size = tuple(image.shape[-2:])
        target["boxes"] = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size)
        target["masks"] = tv_tensors.Mask(target["masks"])
        with seeded(stream(self.seed, epoch, index)):
            return self.transform(tv_tensors.Image(image), target)


class _Test(Dataset):
    def __init__(self, objects: Objects, transform: v2.Compose) -> None:
        self.objects, self.transform = objects, transform

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Target]:
        record, image = self.objects.records[key[1]], self.objects.image(key[1])
        image = self.transform(tv_tensors.Image(image))
        size, original = tuple(image.shape[-2:]), (record.height, record.width)
        return image, {"image_id": record.number, "size": size, "original_size": original}


class _DetectionEval(WorkerEval):
    def __init__(self, dataset: _Test, shares: Shares, place: Place, workers: int, **ways: Any) -> None:
        super().__init__(dataset, shares, place, workers, **ways)
        self.objects = dataset.objects  # all that there is to find, in no process's share alone


def _lists(samples: list[tuple[Tensor, Target]]) -> Batch:
    return [image for image, _ in samples], [target for _, target in samples]


def _put(batch: Batch, device: torch.device) -> Batch:
    def put(value: Any) -> Any:
        return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

    images, targets = batch
    return [put(image) for image in images], [{key: put(value) for key, value in t.items()} for t in targets]
