"""Loaders of small images: the whole split is one tensor on the device, augmented batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from leanconv.data.order import Order, Place, Shares, generator

if TYPE_CHECKING:
    from leanconv.data.loaders import Augment
    from leanconv.data.splits import Split, VisionData


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

    def draw(self, random_source: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor | float, Tensor | None]:
        """Random choices for this rank's part of the batch.

        They are corners (B, 2), flips (B,), boxes (B, K, 4), their fill, and where anything turns, moves or shrinks,
        affine maps (B, 2, 3).

        They are drawn for the global batch and then cut, so that no rank's choices depend on the number of ranks.
        """
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
        choices = [corners, flips, stacked]
        if boxes and augment.erase_mode == "pixel":
            choices.append(torch.randn(count, self.images.shape[1], self.size, self.size, generator=random_source))
        maps = self.affine(random_source)
        if augment.chance < 1:
            stacked[:, : augment.cutout > 0] *= (
                torch.rand(count, 1, 1, generator=random_source) < augment.chance
            ).long()
        corners, flips, stacked, *fill = (choice[self.order.share].to(self.place.device) for choice in choices)
        return (
            corners, flips, stacked, fill[0] if fill else 0.0,
            None if maps is None else maps[self.order.share].to(self.place.device),
        )  # fmt: skip

    def affine(self, random_source: torch.Generator) -> Tensor | None:
        """Maps from places in the new image to places in the old, (batch, 2, 3), in units of half its side."""
        augment, count = self.augment, self.order.batch_size
        if not (augment.rotate or augment.shift or augment.shrink < 1):
            return None
        amount = torch.rand(count, 4, generator=random_source) * 2 - 1
        drawn = torch.rand(count, 3, generator=random_source) < augment.chance
        angle = torch.deg2rad(amount[:, 0] * augment.rotate * drawn[:, 0])
        scale = 1 - (1 - augment.shrink) * (amount[:, 1] + 1) / 2 * drawn[:, 1]
        move = amount[:, 2:] * augment.shift * drawn[:, 2:] * 2 / self.images.shape[-1]
        turn = (
            torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), 1).view(-1, 2, 2) / scale[:, None, None]
        )
        return torch.cat((turn, -turn @ move[:, :, None]), 2)

    def transform(
        self,
        images: Tensor,
        corners: Tensor,
        flips: Tensor,
        boxes: Tensor,
        fill: Tensor | float,
        maps: Tensor | None = None,
    ) -> Tensor:
        side, pad = images.shape[-1], self.augment.padding
        along = torch.arange(side, device=images.device)
        if pad or self.augment.hflip:  # crop and flip in one gather
            rows = (corners[:, :1] + along)[:, :, None]
            columns = (corners[:, 1:] + torch.where(flips[:, None], along.flip(0), along))[:, None, :]
            sample = torch.arange(len(images), device=images.device)[:, None, None]
            images = F.pad(images, [pad] * 4).permute(0, 2, 3, 1)[sample, rows, columns].permute(0, 3, 1, 2)
        if maps is not None:
            grid = F.affine_grid(maps, list(images.shape), align_corners=False)
            images = F.grid_sample(images.float(), grid, align_corners=False)
        images = self.normalise(images)
        if boxes.shape[1]:
            along = torch.arange(self.size, device=images.device)
            top, left, bottom, right = (boxes * self.size // side).unsqueeze(-1).unbind(2)  # each (B, K, 1)
            rows, columns = (top <= along) & (along < bottom), (left <= along) & (along < right)
            inside = (rows.unsqueeze(-1) & columns.unsqueeze(-2)).any(dim=1, keepdim=True)
            images = torch.where(inside, fill, images)
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
