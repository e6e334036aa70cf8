"""Loaders whose every random choice is a pure function of (seed, epoch, step or sample).

So a resumed run sees what the unbroken one saw, and neither the number of processes nor of workers changes the data:
a step's global batch is drawn once, and each rank takes its own contiguous slice of it.
"""

from __future__ import annotations

import math
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import timm.data
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.functional import to_pil_image

if TYPE_CHECKING:
    from leanconv.data.sets import Split, VisionData

LARGEST_IN_MEMORY = 64


@dataclass(frozen=True)
class Augment:
    """What is done to training images at random; mixup and cutmix belong to training.

    `padding`, `cutout` work on small images in memory; `scale`, `ratio`, `color_jitter`, `rand_augment`,
    `interpolation`, `eval_crop` on photographs, and on small images once `rand_augment` is asked for.
    """

    padding: int = 0  # pad with black, then crop back at random
    hflip: float = 0.0  # probability
    erase: float = 0.0  # probability of erasing one rectangle (2 % to 1/3 of the image) with the mean colour
    cutout: int = 0  # side of a square of the mean colour around a random centre
    scale: tuple[float, float] = (0.08, 1.0)  # share of the area that a random crop takes
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    color_jitter: float = 0.0
    rand_augment: str = ""  # timm's notation, such as "rand-m9-mstd0.5-inc1"
    interpolation: str = "bicubic"
    eval_crop: float = 0.875  # share of the side kept when testing


class TrainLoader(Protocol):
    """``len(loader)`` steps per epoch; the last incomplete batch is dropped."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (images, labels) of this rank from `start_step` to the end of `epoch`."""
        ...


class EvalLoader(Protocol):
    """Batches (images, labels) of this rank's share; over all ranks every image comes exactly once."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


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
        augment: default: none, except the random crop and flip that timm always applies to photographs.
        workers: processes that decode photographs; images in memory need none.
        image_size: side of the images given out; default `data.image_size`.

    Raises:
        ValueError: an argument is out of range or `augment` asks for what this kind of image cannot have.
    """
    augment = augment or Augment()
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie in [0, world_size={world_size}), got {rank}")
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(
            f"batch_size counts all ranks: {batch_size} is not a positive multiple of world_size={world_size}"
        )
    order = Order(len(data.train), batch_size, seed, rank, world_size)
    shares = Shares(len(data.test), batch_size // world_size, rank, world_size)
    place = Place(torch.device(device), torch.channels_last if channels_last else torch.contiguous_format)
    size = image_size or data.image_size
    if data.train.images is not None and not augment.rand_augment:
        return TensorTrain(data, order, augment, size, place), TensorEval(data, shares, size, place)
    return WorkerTrain(data, order, augment, size, place, workers), WorkerEval(
        data, shares, augment, size, place, workers
    )


@dataclass(frozen=True)
class Place:
    device: torch.device
    memory_format: torch.memory_format

    def put(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=self.memory_format)
        return images, labels.to(self.device, non_blocking=True)


class Order:
    """Which images make up the global batch of each step, and which part of it is this rank's."""

    def __init__(self, count: int, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        if batch_size > count:
            raise ValueError(f"batch_size={batch_size} exceeds the {count} training images")
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.share = slice(batch_size // world_size * rank, batch_size // world_size * (rank + 1))

    def __len__(self) -> int:
        return self.count // self.batch_size

    def steps(self, epoch: int, start_step: int) -> Iterator[tuple[int, Tensor]]:
        """Pairs of step and global batch, as indices (batch_size,)."""
        if not 0 <= start_step <= len(self):
            raise ValueError(f"start_step must lie in [0, {len(self)}], got {start_step}")
        permutation = torch.randperm(self.count, generator=generator(self.seed, epoch))
        for step in range(start_step, len(self)):
            yield step, permutation[step * self.batch_size : (step + 1) * self.batch_size]


class Shares(Sampler[list[tuple[int, int]]]):
    """The test images of one rank, in batches: contiguous shares whose lengths differ by at most one."""

    def __init__(self, count: int, batch_size: int, rank: int, world_size: int) -> None:
        self.indices = range(count * rank // world_size, count * (rank + 1) // world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for first in range(0, len(self.indices), self.batch_size):
            yield [(0, index) for index in self.indices[first : first + self.batch_size]]


def stream(*keys: int) -> int:
    """A seed that differs for every tuple of keys (numpy's SeedSequence mixes them)."""
    return int(np.random.SeedSequence([key % 2**64 for key in keys]).generate_state(1, np.uint64)[0])


def generator(*keys: int) -> torch.Generator:
    return torch.Generator().manual_seed(stream(*keys))


# Small images: the whole split is one tensor on the device -----------------------------------------------------------


class TensorImages:
    """Normalisation and resizing shared by the two loaders of images in memory."""

    def __init__(self, split: Split, data: VisionData, size: int, place: Place) -> None:
        assert split.images is not None and split.labels is not None
        self.images, self.labels = split.images.to(place.device), split.labels.to(place.device)
        self.size, self.place = size, place
        mean, std = (torch.tensor(values, device=place.device).view(1, -1, 1, 1) for values in (data.mean, data.std))
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def normalise(self, images: Tensor) -> Tensor:
        images = torch.addcmul(self.shift, images.float(), self.scale)
        if images.shape[-1] != self.size:
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        return images


class TensorTrain(TensorImages):
    def __init__(self, data: VisionData, order: Order, augment: Augment, size: int, place: Place) -> None:
        super().__init__(data.train, data, size, place)
        if augment.color_jitter:
            raise ValueError("color_jitter is for photographs; images in memory take padding, hflip, erase and cutout")
        self.order, self.augment = order, augment

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for step, batch in self.order.steps(epoch, start_step):
            choices = self.draw(generator(self.order.seed, epoch, step + 1))
            chosen = batch[self.order.share].to(self.place.device)
            yield self.place.put(self.transform(self.images[chosen], *choices), self.labels[chosen])

    def draw(self, random_source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Random choices for the global batch, cut to this rank: corners (B, 2), flips (B,), boxes (B, K, 4)."""
        augment, count, side = self.augment, self.order.batch_size, self.images.shape[-1]
        uniform = torch.rand(count, 9, generator=random_source)
        corners = (uniform[:, :2] * (2 * augment.padding + 1)).long()
        flips = uniform[:, 2] < augment.hflip
        top_left = (uniform[:, 3:5] * side).long() - augment.cutout // 2
        boxes = [torch.cat([top_left, top_left + augment.cutout], dim=1)] if augment.cutout else []
        if augment.erase:  # area and side ratio as in random erasing (Zhong et al. 2020), the ratio uniform in its log
            area = (0.02 + uniform[:, 5] * (1 / 3 - 0.02)) * side * side
            ratio = torch.exp((2 * uniform[:, 6] - 1) * math.log(1 / 0.3))
            extent = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1).round().clamp(1, side)
            start = (uniform[:, 7:9] * (side - extent + 1)).floor()
            erased = torch.rand(count, 1, generator=random_source) < augment.erase
            boxes.append((torch.cat([start, start + extent], dim=1) * erased).long())
        stacked = torch.stack(boxes, dim=1) if boxes else torch.empty(count, 0, 4, dtype=torch.long)
        corners, flips, stacked = (t[self.order.share].to(self.place.device) for t in (corners, flips, stacked))
        return corners, flips, stacked

    def transform(self, images: Tensor, corners: Tensor, flips: Tensor, boxes: Tensor) -> Tensor:
        side, pad = images.shape[-1], self.augment.padding
        along = torch.arange(side, device=images.device)
        if pad or self.augment.hflip:  # crop and flip in one gather
            rows = (corners[:, :1] + along)[:, :, None]
            columns = (corners[:, 1:] + torch.where(flips[:, None], along.flip(0), along))[:, None, :]
            sample = torch.arange(len(images), device=images.device)[:, None, None]
            images = F.pad(images, [pad] * 4).permute(0, 2, 3, 1)[sample, rows, columns].permute(0, 3, 1, 2)
        images = self.normalise(images)
        if boxes.shape[1]:
            along = torch.arange(self.size, device=images.device)
            top, left, bottom, right = (boxes * self.size // side).unsqueeze(-1).unbind(2)  # each (B, K, 1)
            rows, columns = (top <= along) & (along < bottom), (left <= along) & (along < right)
            inside = (rows.unsqueeze(-1) & columns.unsqueeze(-2)).any(dim=1, keepdim=True)
            images = images.masked_fill(inside, 0.0)
        return images


class TensorEval(TensorImages):
    def __init__(self, data: VisionData, shares: Shares, size: int, place: Place) -> None:
        super().__init__(data.test, data, size, place)
        self.shares = shares

    def __len__(self) -> int:
        return len(self.shares)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.shares:
            chosen = slice(batch[0][1], batch[-1][1] + 1)
            yield self.place.put(self.normalise(self.images[chosen]), self.labels[chosen])


# Photographs: timm's transforms in worker processes ------------------------------------------------------------------


class Transformed(Dataset):
    """A split seen through a timm transform; the key (epoch, index) alone decides what the transform draws."""

    def __init__(self, split: Split, transform: Any, seed: int) -> None:
        self.split, self.transform, self.seed = split, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        if self.split.images is None:
            image, label = self.split.dataset[index]  # type: ignore[index]
        else:
            image, label = to_pil_image(self.split.images[index]), int(self.split.labels[index])  # type: ignore[index]
        with seeded(stream(self.seed, epoch, index)):
            return self.transform(image), label


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the three global generators timm's transforms draw from, and give them back as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also queue a CUDA seed in every worker
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


class Steps(Sampler[list[tuple[int, int]]]):
    """Keys (epoch, index) of this rank, step by step; the keys carry the epoch into workers that live on."""

    def __init__(self, order: Order) -> None:
        self.order, self.epoch, self.start_step = order, 0, 0

    def __len__(self) -> int:
        return len(self.order) - self.start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for _, batch in self.order.steps(self.epoch, self.start_step):
            yield [(self.epoch, index) for index in batch[self.order.share].tolist()]


class WorkerTrain:
    def __init__(self, data: VisionData, order: Order, augment: Augment, size: int, place: Place, workers: int) -> None:
        if augment.padding or augment.cutout:
            raise ValueError("padding and cutout are for images in memory; photographs take scale, ratio and erase")
        transform = timm.data.create_transform(
            (data.in_chans, size, size), is_training=True, hflip=augment.hflip, color_jitter=augment.color_jitter or None,
            auto_augment=augment.rand_augment or None, re_prob=augment.erase, re_mode="const", scale=augment.scale,
            ratio=augment.ratio, interpolation=augment.interpolation, mean=data.mean, std=data.std,
        )  # fmt: skip
        self.place, self.steps = place, Steps(order)
        self.loader = _worker_loader(Transformed(data.train, transform, order.seed), self.steps, place, workers)

    def __len__(self) -> int:
        return len(self.steps.order)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        self.steps.epoch, self.steps.start_step = epoch, start_step
        for images, labels in self.loader:
            yield self.place.put(images, labels)


class WorkerEval:
    def __init__(
        self, data: VisionData, shares: Shares, augment: Augment, size: int, place: Place, workers: int
    ) -> None:
        transform = timm.data.create_transform(
            (data.in_chans, size, size), interpolation=augment.interpolation, crop_pct=augment.eval_crop,
            mean=data.mean, std=data.std,
        )  # fmt: skip
        self.place = place
        self.loader = _worker_loader(Transformed(data.test, transform, seed=0), shares, place, workers)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.loader:
            yield self.place.put(images, labels)


def _worker_loader(dataset: Dataset, batches: Sampler, place: Place, workers: int) -> DataLoader:
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=place.device.type == "cuda", worker_init_fn=_quiet_worker,
    )  # fmt: skip


def _quiet_worker(_: int) -> None:
    """Ctrl-C reaches every process of the group; only the main one should answer, and it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
