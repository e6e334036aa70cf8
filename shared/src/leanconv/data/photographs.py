"""Loaders of photographs and of what RandAugment needs as pictures: transforms in worker processes."""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms
from torchvision.transforms.functional import InterpolationMode, to_pil_image

from leanconv.data.order import Order, Place, Shares, stream

if TYPE_CHECKING:
    from leanconv.data.loaders import Augment
    from leanconv.data.splits import Split, VisionData


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


Together = Callable[[list[Any]], Any]  # samples -> a batch
Put = Callable[[Any], Any]  # a batch -> the same where it is wanted


class WorkerTrain:
    """Batches of a data set with keys (epoch, index), transformed by worker processes; a `loaders.TrainLoader`."""

    def __init__(
        self, dataset: Dataset, order: Order, place: Place, workers: int, *, together: Together | None = None,
        put: Put | None = None,
    ) -> None:  # fmt: skip
        self.steps, self.put = Steps(order), put or (lambda batch: place.put(*batch))
        self.loader = worker_loader(dataset, self.steps, place, workers, together)

    def __len__(self) -> int:
        return len(self.steps.order)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Any]:
        self.steps.epoch, self.steps.start_step = epoch, start_step
        for batch in self.loader:
            yield self.put(batch)


class WorkerEval:
    """The same for one rank's share of a test split; a `loaders.EvalLoader`."""

    def __init__(
        self, dataset: Dataset, shares: Shares, place: Place, workers: int, *, together: Together | None = None,
        put: Put | None = None,
    ) -> None:  # fmt: skip
        self.put = put or (lambda batch: place.put(*batch))
        self.loader = worker_loader(dataset, shares, place, workers, together)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            yield self.put(batch)


def photograph_loaders(
    data: VisionData, order: Order, shares: Shares, augment: Augment, size: int, place: Place, workers: int
) -> tuple[WorkerTrain, WorkerEval]:
    """Loaders of photographs and of what RandAugment needs as pictures.

    Raises:
        ValueError: `augment` asks for what such images cannot have.
    """
    if augment.cutout:
        raise ValueError("cutout is for images in memory without rand_augment; photographs take erase")
    if augment.rotate or augment.shift or augment.shrink < 1:
        raise ValueError("rotate, shift and shrink are for images in memory without rand_augment")
    train = Transformed(data.train, _train_transform(data, augment, size), order.seed)
    transform = create_transform(
        (data.in_chans, size, size), interpolation=augment.interpolation, crop_pct=augment.eval_crop,
        mean=data.mean, std=data.std,
    )  # fmt: skip
    test = Transformed(data.test, transform, seed=0)
    return WorkerTrain(train, order, place, workers), WorkerEval(test, shares, place, workers)


def _train_transform(data: VisionData, augment: Augment, size: int) -> Callable[[Image.Image], Tensor]:
    """timm's transform; where `padding` is asked for, its random crop of any scale becomes the one of small images."""
    ours = augment.rand_augment.startswith("torchvision-")
    transform = create_transform(
        (data.in_chans, size, size), is_training=True, mean=data.mean, std=data.std, scale=augment.scale,
        ratio=augment.ratio, interpolation=augment.interpolation, hflip=augment.hflip,
        color_jitter=augment.color_jitter, auto_augment=None if ours else augment.rand_augment or None,
        re_prob=augment.erase, re_mode=augment.erase_mode,
    )  # fmt: skip
    _let_posterize_go_black(transform)
    steps = transform.transforms
    if augment.padding:
        steps[0] = transforms.RandomCrop(size, padding=augment.padding, pad_if_needed=True)
    if ours:
        steps.insert(1 + (augment.hflip > 0), _torchvision_rand_augment(augment.rand_augment))
    return transform


def _torchvision_rand_augment(text: str) -> transforms.RandAugment:
    """ "torchvision-m7-n2": torchvision's RandAugment of magnitude 7 of 31 and 2 operations, which is not timm's."""
    found = re.fullmatch(r"torchvision-m(\d+)(?:-n(\d+))?", text)
    if not found or int(found[1]) > 30:
        raise ValueError(f"rand_augment must read like torchvision-m9-n2, magnitude 0 to 30, got {text!r}")
    return transforms.RandAugment(int(found[2] or 2), int(found[1]), interpolation=InterpolationMode.BILINEAR)


def posterize(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    """timm's posterize, and black where it keeps no bits: as older pillow made it, which newer refuses to."""
    return auto_augment.posterize(image, bits, **options) if bits > 0 else image.point(lambda _: 0)


def _let_posterize_go_black(transform: Any) -> None:
    """timm asks for 0 bits at its top level ("inc1") or at level 0, so RandAugment would soon stop a training."""
    for step in transform.transforms:
        # RandAugment and AugMix hold operations, AutoAugment a policy of tuples of them.
        for operation in [*getattr(step, "ops", ()), *chain.from_iterable(getattr(step, "policy", ()))]:
            if getattr(operation, "aug_fn", None) is auto_augment.posterize:
                operation.aug_fn = posterize


class _Loader(DataLoader):
    """Workers' errors are told in their own words: torch puts the traceback of the worker into the message."""

    def __iter__(self) -> Any:
        batches = super().__iter__()  # at once: the sampler may be set anew before the first batch is asked for

        def told() -> Iterator[Any]:
            try:
                yield from batches
            except (OSError, ValueError) as error:
                kind = re.escape(type(error).__name__)
                found = re.fullmatch(rf"Caught .*^[\w.]*{kind}: (.*)", str(error), re.DOTALL | re.MULTILINE)
                if not found:
                    raise
                raise type(error)(found[1].strip()) from error

        return told()


def worker_loader(
    dataset: Dataset, batches: Sampler, place: Place, workers: int, together: Callable[[list[Any]], Any] | None = None
) -> DataLoader:
    """Batches made by worker processes; `together` makes one of a list of examples, where torch's way would not do."""
    # A generator of its own: DataLoader would draw the workers' base seed, unused here, from the global one.
    return _Loader(
        dataset, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=place.device.type == "cuda", worker_init_fn=_quiet_worker, collate_fn=together,
        generator=torch.Generator(),
    )  # fmt: skip


def _quiet_worker(_: int) -> None:
    """Ctrl-C reaches every process of the group; only the main one should answer, and it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
