"""Photographs with objects: which are in an image, their boxes and their masks.

Annotations are COCO's. What one needs of pycocotools is loaded here, so that all else goes without it.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leanconv.data import sources

SMALLEST = 1.0  # pixels of a box's side inside its image; what is smaller is nothing to learn from

Target = dict[str, Any]


def coco_tools(part: str) -> Any:
    """A module of pycocotools, such as "mask".

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(f"pycocotools.{part}")
    except ImportError as error:
        raise ValueError("objects in images need pycocotools: pip install pycocotools") from error


@dataclass(frozen=True)
class Thing:
    """An object of an image as its annotation says it, or a region full of such, a crowd."""

    number: int  # of the annotation
    label: int  # from 1
    box: tuple[float, float, float, float]  # left, top, width, height
    area: float  # of its mask; COCO's measure of small, medium and large
    crowd: bool
    shape: Any  # polygons or run lengths

    def corners(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom, inside the image."""
        left, top, wide, high = self.box
        within = (min(max(left, 0), width), min(max(top, 0), height))
        return *within, min(max(left + wide, 0), width), min(max(top + high, 0), height)

    def flat(self, height: int, width: int) -> bool:
        """Whether its box has next to no part in the image."""
        left, top, right, bottom = self.corners(height, width)
        return min(right - left, bottom - top, *self.box[2:]) < SMALLEST

    def runs(self, height: int, width: int) -> dict[str, Any]:
        """Its mask as pycocotools' compressed run lengths."""
        mask = coco_tools("mask")
        if isinstance(self.shape, list):
            # Of fewer than three corners nothing is filled, and four numbers would be taken for a box.
            polygons = [polygon for polygon in self.shape if len(polygon) >= 6]
            if not polygons:
                return mask.encode(np.zeros((height, width), np.uint8, order="F"))
            return mask.merge(mask.frPyObjects(polygons, height, width))
        if isinstance(self.shape["counts"], list):
            return mask.frPyObjects(self.shape, height, width)
        return self.shape

    def mask(self, height: int, width: int) -> Tensor:
        """Its mask (H, W), uint8.

        Raises:
            ValueError: the run lengths are damaged.
        """
        try:
            return torch.from_numpy(coco_tools("mask").decode(self.runs(height, width)))
        except ValueError as error:
            raise ValueError(f"the mask of annotation {self.number} is damaged: {error}") from error


@dataclass(frozen=True)
class Record:
    """What is known of an image before it is read."""

    number: int  # COCO's image_id
    path: str
    height: int
    width: int
    things: tuple[Thing, ...]

    def learnable(self, crowds: bool = False) -> list[Thing]:
        """The objects to learn from: no crowds, unless asked for, and none whose box has no part in the image."""
        shown = [thing for thing in self.things if not thing.flat(self.height, self.width)]
        return [thing for thing in shown if crowds or not thing.crowd]


class Packed(Sequence[Record]):
    """Records, pickled into one array: worker processes share its pages, as they would not those of many objects."""

    def __init__(self, records: Iterable[Record]) -> None:
        parts = [pickle.dumps(record, pickle.HIGHEST_PROTOCOL) for record in records]
        self.ends = np.cumsum([len(part) for part in parts])
        self.starts = self.ends - [len(part) for part in parts]
        self.bytes = np.frombuffer(b"".join(parts), np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        return pickle.loads(self.bytes[self.starts[index] : self.ends[index]].data)

    def pick(self, chosen: np.ndarray) -> Packed:
        """Those of these indices; the bytes are shared."""
        picked = object.__new__(Packed)
        picked.bytes, picked.starts, picked.ends = self.bytes, self.starts[chosen], self.ends[chosen]
        return picked


@dataclass(frozen=True)
class Objects:
    """Photographs and the objects in them, read when asked for."""

    folder: Path
    records: Packed
    categories: tuple[int, ...]  # the file's own number of label 1, of label 2, ...

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def pick(self, chosen: Tensor) -> Objects:
        """The images of these indices (M,)."""
        return replace(self, records=self.records.pick(chosen.numpy()))

    def useful(self) -> Objects:
        """Those in which there is an object to learn from."""
        kept = np.flatnonzero([bool(record.learnable()) for record in self.records])
        return replace(self, records=self.records.pick(kept))

    def image(self, index: int) -> Tensor:
        """Image (3, H, W) uint8.

        Raises:
            OSError: the file is absent or damaged.
            ValueError: it is not as large as the annotations say.
        """
        record = self.records[index]
        image = np.asarray(sources.read_photograph(str(self.folder / record.path)))
        if image.shape[:2] != (record.height, record.width):
            sizes = "x".join(map(str, image.shape[:2])), f"{record.height}x{record.width}"
            raise ValueError(
                f"{self.folder / record.path} has {sizes[0]} pixels, and its annotations are for {sizes[1]}"
            )
        return torch.tensor(image).permute(2, 0, 1)

    def target(self, index: int, crowds: bool = False) -> Target:
        """The objects of an image to learn from; with its crowds where asked for.

        Returns:
            "boxes" (n, 4), left, top, right, bottom in pixels; "labels" (n,) from 1; "masks" (n, H, W) uint8; "crowd"
            (n,) bool; "image_id", the file's number of the image.
        """
        record = self.records[index]
        size = record.height, record.width
        things = record.learnable(crowds)
        masks = [thing.mask(*size) for thing in things]
        return {
            "boxes": torch.tensor([thing.corners(*size) for thing in things]).reshape(-1, 4),
            "labels": torch.tensor([thing.label for thing in things], dtype=torch.int64),
            "masks": torch.stack(masks) if masks else torch.zeros((0, *size), dtype=torch.uint8),
            "crowd": torch.tensor([thing.crowd for thing in things], dtype=torch.bool),
            "image_id": record.number,
        }
