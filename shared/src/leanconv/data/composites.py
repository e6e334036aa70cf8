"""A small set of scenes with exact masks, made where no data set is: garments of Fashion-MNIST upon photographs.

The photographs are those that come with scikit-image, the garments of the training and the test split Fashion-MNIST's
own, and no photograph is in both splits. What is made is a pure function of these. It lies on the disk as PASCAL VOC
does, so that all that reads VOC reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from leanconv.data import sources
from leanconv.data.order import stream
from leanconv.data.scenes import VOC, Scenes, read_voc
from leanconv.data.series import find_files, opened

KINDS = {0: "T-shirt", 1: "trouser", 3: "dress", 8: "bag", 9: "ankle boot"}  # those that differ in their shape
CLASSES = ("background", *KINDS.values())
TRAIN, VAL = 480, 120
FOLDER = "skimage/data"
PHOTOGRAPHS = {
    "train": (
        "astronaut.png", "brick.png", "coffee.png", "coins.png", "grass.png", "motorcycle_left.png", "rocket.jpg",
    ),
    "val": ("camera.png", "chelsea.png", "gravel.png"),
}  # fmt: skip
SIDES = (96, 128)  # of the scenes, from and to
GARMENT = (40, 72)  # the side of a garment's square
HEAPED, HEAP = (20, 32), 12  # the same in a heap, and how many lie there
FAINT = 12  # a garment's pixels are brighter; darker ones inside it belong to it as well


@dataclass(frozen=True)
class Scene:
    """An image, and which of its pixels show which object."""

    image: np.ndarray  # (H, W, 3) uint8
    objects: np.ndarray  # (H, W) uint8: 0 where there is none, else its number, from 1
    labels: tuple[int, ...]  # of the objects, from 0
    heaped: bool = False  # whether object 1 is a heap of objects of its label

    @property
    def mask(self) -> np.ndarray:
        """Class of each pixel, 0 where there is no object."""
        return np.array([0, *(label + 1 for label in self.labels)], dtype=np.uint8)[self.objects]


def compose(
    photographs: Sequence[Image.Image],
    garments: np.ndarray,
    labels: np.ndarray,
    seed: int,
    side: tuple[int, int],
    count: tuple[int, int] = (1, 3),
    heaps: float = 0.0,
) -> Scene:
    """Some garments, tinted, turned and as large as chance has it, upon a part of a photograph.

    Args:
        garments, labels: (N, 28, 28) uint8 and (N,).
        side: from and to how many pixels the sides of the scene may have.
        count: from and to how many garments there are.
        heaps: probability of a heap of small garments of one kind behind them.
    """
    chance = np.random.default_rng(seed)
    height, width = chance.integers(side[0], side[1] + 1, 2).tolist()
    image = _part(photographs[int(chance.integers(len(photographs)))], width, height, chance)
    objects, named = Image.new("L", image.size), []
    heaped = bool(heaps and chance.random() < heaps)
    if heaped:
        named.append(_pile(image, objects, garments, labels, chance))
    for _ in range(count[0] + int(chance.integers(count[1] - count[0] + 1))):
        chosen = int(chance.integers(len(garments)))
        look, shape = _garment(garments[chosen], chance, GARMENT)
        size = look.width
        left, top = (int(chance.integers(-size // 4, room - size + size // 4 + 1)) for room in image.size)
        named.append(int(labels[chosen]))
        image.paste(look, (left, top), shape)
        objects.paste(len(named), (left, top, left + size, top + size), shape)
    return Scene(np.asarray(image), np.asarray(objects), tuple(named), heaped)


def _pile(
    image: Image.Image, objects: Image.Image, garments: np.ndarray, labels: np.ndarray, chance: np.random.Generator
) -> int:
    """Draw a heap as object 1, and return its label."""
    label = int(labels[chance.integers(len(labels))])
    kind = np.flatnonzero(labels == label)
    middle = [chance.uniform(0.2, 0.8) * side for side in image.size]
    for _ in range(HEAP):
        look, shape = _garment(garments[kind[chance.integers(len(kind))]], chance, HEAPED)
        left, top = (round(at + chance.normal() * look.width / 2 - look.width / 2) for at in middle)
        image.paste(look, (left, top), shape)
        objects.paste(1, (left, top, left + look.width, top + look.width), shape)
    return label


def _part(photograph: Image.Image, width: int, height: int, chance: np.random.Generator) -> Image.Image:
    share = chance.uniform(0.4, 1.0) * min(photograph.width / width, photograph.height / height)
    left = chance.uniform(0, photograph.width - share * width)
    top = chance.uniform(0, photograph.height - share * height)
    box = (left, top, left + share * width, top + share * height)
    return photograph.resize((width, height), Image.Resampling.BILINEAR, box)


def _garment(
    pixels: np.ndarray, chance: np.random.Generator, sides: tuple[int, int]
) -> tuple[Image.Image, Image.Image]:
    """Its looks, and which pixels are its own: 255, others 0."""
    side, angle = int(chance.integers(sides[0], sides[1] + 1)), chance.uniform(-15, 15)

    def drawn(image: Image.Image) -> Image.Image:
        return image.resize((side, side), Image.Resampling.BILINEAR).rotate(angle, Image.Resampling.BILINEAR)

    outside = Image.fromarray(np.pad(np.where(pixels > FAINT, 255, 0).astype(np.uint8), 1)).copy()  # to write upon
    ImageDraw.floodfill(outside, (0, 0), 128)
    inside = Image.fromarray(np.where(np.asarray(outside)[1:-1, 1:-1] == 128, 0, 255).astype(np.uint8))
    tint = chance.uniform(0.4, 1.0, 3)
    bright = np.asarray(drawn(Image.fromarray(pixels)), dtype=np.float64)
    look = Image.fromarray((bright[:, :, None] * tint).astype(np.uint8))
    return look, drawn(inside).point(lambda value: 255 * (value > 127))


# Files ---------------------------------------------------------------------------------------------------------------


def find(root: Path) -> Path | None:
    return sources.first_with((root / "composites",), f"{VOC}/SegmentationClass")


def make(photographs: Path, garments: tuple[sources.Arrays, sources.Arrays], folder: Path) -> None:
    """Write the set into a folder, as VOC lies there.

    Args:
        photographs: scikit-image's folder of data, or its wheel.
        garments: Fashion-MNIST, its training and its test split.
    """
    home = folder / VOC
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (home / name).mkdir(parents=True)
    for number, (split, arrays) in enumerate(zip(("train", "val"), garments)):
        pictures = [read_photograph(photographs, name) for name in PHOTOGRAPHS[split]]
        chosen = choose(*arrays)
        names = [f"{split}_{index:04d}" for index in range((TRAIN, VAL)[number])]
        for index, name in enumerate(names):
            scene = compose(pictures, *chosen, seed=stream(number, index), side=SIDES)
            Image.fromarray(scene.image).save(home / "JPEGImages" / f"{name}.jpg", quality=95)
            Image.fromarray(scene.mask).save(home / "SegmentationClass" / f"{name}.png")
        (home / "ImageSets/Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def choose(garments: np.ndarray, labels: np.ndarray) -> sources.Arrays:
    """Those of the set's kinds, labelled from 0."""
    kinds = np.array(list(KINDS))
    kept = np.isin(labels, kinds)
    return garments[kept], kinds.searchsorted(labels[kept])


def find_photographs(root: Path) -> Path | None:
    """Scikit-image's folder of data where it is installed, else its wheel."""
    return find_files("scikit_image", FOLDER, [*PHOTOGRAPHS["train"], *PHOTOGRAPHS["val"]], "photographs", root)


def read_photograph(place: Path, name: str) -> Image.Image:
    """One of scikit-image's photographs, in colours."""
    with opened(place, FOLDER, name) as file, Image.open(file) as image:
        return image.convert("RGB")


def read(place: Path) -> tuple[Scenes, Scenes]:
    return read_voc(place, len(CLASSES))
