"""Data of sequences (N, C, L): images pixel by pixel, and series, sampled regularly or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from leanconv.data.loaders import Augment, EvalLoader, TrainLoader
from leanconv.data.order import Order, Place, Shares, generator
from leanconv.data.splits import Data, VisionData

DROPPED = 56789  # seed of which samples a series lacks; the number is the authors'
PERMUTATION = 0  # seed of the one order of pixels that training and test share

Batch = tuple[Tensor, Tensor]


# Images, pixel by pixel ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pixels(VisionData):
    """Images as sequences of their pixels: row by row, or in one random order that is always the same."""

    permuted: bool = False

    unit: ClassVar[str] = "sequences"

    def input_size(self, image_size: int | None = None) -> tuple[int, ...]:
        return self.in_chans, (image_size or self.image_size) ** 2

    def loaders(self, batch_size: int, **options: Any) -> tuple[TrainLoader, EvalLoader]:
        """Those of the images; what augmentation does to them, it does before they become sequences."""
        train, test = super().loaders(batch_size, **options)
        length = self.input_size(options.get("image_size"))[1]
        order = torch.randperm(length, generator=torch.Generator().manual_seed(PERMUTATION)) if self.permuted else None
        return _FlatTrain(train, order), _FlatEval(test, order)


@dataclass(frozen=True)
class _FlatTrain:
    images: TrainLoader
    order: Tensor | None

    def __len__(self) -> int:
        return len(self.images)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        return (_flat(*batch, self.order) for batch in self.images.epoch(epoch, start_step))


@dataclass(frozen=True)
class _FlatEval:
    images: EvalLoader
    order: Tensor | None

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Batch]:
        return (_flat(*batch, self.order) for batch in self.images)


def _flat(images: Tensor, labels: Tensor, order: Tensor | None) -> Batch:
    pixels = images.flatten(2).contiguous()
    return pixels if order is None else pixels[:, :, order.to(pixels.device)], labels


# Series --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """Series with labels; NaN stands before the first sample of those that are shorter than the longest."""

    values: Tensor  # (N, C, L) float32, or int16
    labels: Tensor  # (N,) int64
    keys: Tensor  # (N,) int64: what number each has in the whole set

    def __len__(self) -> int:
        return len(self.values)

    def pick(self, chosen: Tensor) -> Series:
        """The series of these indices (M,)."""
        return Series(self.values[chosen], self.labels[chosen], self.keys[chosen])

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, over all samples there are."""
        sums = torch.zeros(3, self.values.shape[1], dtype=torch.float64)
        for part in self.values.split(1024):  # as float64 a gigabyte of int16 would be four
            known = part.isfinite()
            samples = part.double().where(known, torch.zeros((), dtype=torch.float64))
            for total, moment in zip(sums, (known, samples, samples.square())):
                total += moment.sum((0, 2))
        mean = sums[1] / sums[0]
        return tuple(mean.tolist()), tuple((sums[2] / sums[0] - mean.square()).clamp_min(1e-12).sqrt().tolist())


@dataclass(frozen=True)
class SeriesData(Data):
    """Series of one length, standardised channel by channel; 0, the mean, stands where there is no sample.

    With a `drop_rate` each series loses that share of its samples, always the same ones. They are then sampled
    irregularly, and a last channel is added, which tells how. `irregular` "mask": the samples keep their places, zeros
    come in those of the lost, and the channel is 1 where there is a sample (so do the authors). "times": the samples
    that are left stand side by side, and the channel holds their times, in steps.
    """

    name: str
    source: str
    num_classes: int
    chans: int
    length: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Series
    test: Series
    val: Series | None = None
    drop_rate: float = 0.0
    irregular: Literal["mask", "times"] = "mask"

    unit: ClassVar[str] = "sequences"

    def __post_init__(self) -> None:
        check_irregular(self.drop_rate, self.irregular)

    @property
    def in_chans(self) -> int:  # type: ignore[override]
        return self.chans + (self.drop_rate > 0)

    @property
    def kept(self) -> int:
        """How many samples each series keeps."""
        return self.length - int(self.drop_rate * self.length)

    def input_size(self, image_size: int | None = None) -> tuple[int, ...]:
        if image_size is not None:
            raise ValueError(f"image_size is for images, and {self.name} has none")
        return self.in_chans, self.kept if self.irregular == "times" else self.length

    def loaders(  # type: ignore[override]
        self,
        batch_size: int,
        *,
        augment: Augment | None = None,
        seed: int = 0,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        image_size: int | None = None,
        channels_last: bool = False,
    ) -> tuple[TrainLoader, EvalLoader]:
        """Loaders of the training and the test split; `workers` are not needed.

        Raises:
            ValueError: an argument is out of range, or is for images.
        """
        if augment not in (None, Augment()) or channels_last or image_size is not None:
            raise ValueError(f"augment, image_size and channels_last are for images, and {self.name} has none")
        order = Order(len(self.train), batch_size, seed, rank, world_size)
        shares = Shares(len(self.test), batch_size // world_size, rank, world_size)
        place = Place(torch.device(device), torch.contiguous_format)
        return _SeriesTrain(self, order, place), _SeriesEval(self, shares, place)

    def examples(self, split: Series, chosen: Tensor) -> Batch:
        """Series of these indices as networks see them, (B, C, L) float32, and their labels."""
        mean, std = (torch.tensor(values).view(-1, 1) for values in (self.mean, self.std))
        values = split.values[chosen].float()
        x = ((values - mean) / std).nan_to_num(0.0)
        if self.drop_rate > 0:
            keep = torch.stack([self._kept_samples(int(key)) for key in split.keys[chosen]])[:, None]  # (B, 1, M)
            if self.irregular == "times":
                x = torch.cat((x.gather(2, keep.expand(-1, self.chans, -1)), keep.float()), 1)
            else:
                mask = torch.zeros(len(x), 1, self.length).scatter_(2, keep, 1.0) * values.isfinite().all(
                    1, keepdim=True
                )
                x = torch.cat((x * mask, mask), 1)
        return x, split.labels[chosen]

    def _kept_samples(self, key: int) -> Tensor:
        return torch.randperm(self.length, generator=generator(DROPPED, key))[: self.kept].sort().values


def check_irregular(drop_rate: float = 0.0, irregular: str = "mask") -> None:
    """Raise a ValueError unless series can be sampled so."""
    if not 0 <= drop_rate < 1:
        raise ValueError(f"drop_rate must lie in [0, 1), got {drop_rate!r}")
    if irregular not in ("mask", "times"):
        raise ValueError(f"irregular must be mask or times, got {irregular!r}")
    if irregular == "times" and not drop_rate:
        raise ValueError("irregular='times' needs a drop_rate above 0: without one all series are sampled regularly")


@dataclass(frozen=True)
class _SeriesTrain:
    data: SeriesData
    order: Order
    place: Place

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        for _, batch in self.order.steps(epoch, start_step):
            yield self.place.put(*self.data.examples(self.data.train, batch[self.order.share]))


@dataclass(frozen=True)
class _SeriesEval:
    data: SeriesData
    shares: Shares
    place: Place

    def __len__(self) -> int:
        return len(self.shares)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.shares:
            yield self.place.put(*self.data.examples(self.data.test, torch.tensor([index for _, index in batch])))
