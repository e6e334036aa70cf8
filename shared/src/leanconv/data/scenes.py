"""Photographs with masks: where they lie and how they are read.

As in :mod:`leanconv.data.sources`, a ``find_*`` returns a path or None, a ``fetch_*`` fills a folder. A ``read_*``
returns the training and the test split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import VOCSegmentation

from leanconv.data import sources

IGNORED = 255  # label of pixels that do not count: borders of objects, and what a crop has beyond the image


@dataclass(frozen=True)
class Scenes:
    """Photographs and their masks, read when asked for."""

    images: tuple[Path, ...]
    masks: tuple[Path, ...]  # PNG of one channel or with a palette, or SBD's .mat
    num_classes: int
    first: int = 0  # what the files call the first class; what lies before it does not count

    def __len__(self) -> int:
        return len(self.images)

    def pick(self, chosen: Tensor) -> Scenes:
        """The images of these indices (M,)."""
        numbers = chosen.tolist()
        images, masks = (tuple(paths[i] for i in numbers) for paths in (self.images, self.masks))
        return Scenes(images, masks, self.num_classes, self.first)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, H, W) and mask (H, W), both uint8.

        Raises:
            OSError: a file is absent or damaged.
            ValueError: mask and image differ in size, or the mask holds a class that there is not.
        """
        image = np.asarray(sources.read_photograph(str(self.images[index])))
        mask = self.mask(index)
        if mask.shape != image.shape[:2]:
            sizes = " and ".join("x".join(map(str, a.shape[:2])) for a in (mask, image))
            raise ValueError(f"{self.masks[index]} and its image differ in size: {sizes} pixels")
        return torch.tensor(image).permute(2, 0, 1), torch.tensor(mask)

    def mask(self, index: int) -> np.ndarray:
        path = self.masks[index]
        mask = _read_sbd(path) if path.suffix == ".mat" else _read_png(path)
        end = self.first + self.num_classes
        odd = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[end:IGNORED])
        if odd.size:
            begin = f", from {self.first}" if self.first else ""
            raise ValueError(f"{path} holds class {odd[0] + end}; there are {self.num_classes} classes{begin}")
        if self.first:
            mask = np.where((mask < self.first) | (mask == IGNORED), IGNORED, mask - self.first).astype(np.uint8)
        return mask


# PASCAL VOC ----------------------------------------------------------------------------------------------------------

VOC = "VOCdevkit/VOC2012"
SBD = "benchmark_RELEASE/dataset"
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table",
    "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip


def find_voc(root: Path) -> Path | None:
    """The folder that VOCdevkit lies in; `root` may also be that folder, or VOC2012."""
    return sources.first_with((root, root / "voc2012", root.parent, root.parent.parent), f"{VOC}/SegmentationClass")


def find_voc_sbd(root: Path) -> Path | None:
    """The same, where SBD's benchmark_RELEASE lies beside it."""
    place = find_voc(root)
    return place if place and (place / SBD / "cls").is_dir() else None


def fetch_voc(folder: Path) -> None:
    with sources.impatient():
        VOCSegmentation(folder, download=True)
    for archive in folder.glob("*.tar"):
        archive.unlink()


def read_voc(place: Path, num_classes: int = len(VOC_CLASSES)) -> tuple[Scenes, Scenes]:
    train, val = (VOCSegmentation(place, image_set=name) for name in ("train", "val"))
    return tuple(Scenes(_paths(split.images), _paths(split.masks), num_classes) for split in (train, val))  # type: ignore[return-value]


def read_voc_sbd(place: Path) -> tuple[Scenes, Scenes]:
    """VOC's own, and for training also those of SBD that are in neither of VOC's splits."""
    train, val = read_voc(place)
    taken = {path.stem for path in train.images + val.images}
    lists = [(place / SBD / name).read_text().split() for name in ("train.txt", "val.txt")]
    more = [name for name in sorted({*lists[0], *lists[1]}) if name not in taken]
    images = train.images + tuple(place / SBD / "img" / f"{name}.jpg" for name in more)
    masks = train.masks + tuple(place / SBD / "cls" / f"{name}.mat" for name in more)
    return Scenes(images, masks, len(VOC_CLASSES)), val


def _paths(names: list[str]) -> tuple[Path, ...]:
    return tuple(map(Path, names))


# Masks ---------------------------------------------------------------------------------------------------------------


def _read_png(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as file:
            mask = np.array(file)  # of a palette's file the numbers, not the colours
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(f"cannot read the mask {path}: {error}") from error
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f"{path} is no mask: it must have one channel of bytes, or a palette")
    return mask


def _read_sbd(path: Path) -> np.ndarray:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ValueError("SBD's masks are MATLAB files: pip install scipy") from error
    try:
        return loadmat(path)["GTcls"][0]["Segmentation"][0].astype(np.uint8)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no mask of SBD: {error!r}") from error
