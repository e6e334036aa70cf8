"""The scenes of :mod:`leanconv.data.composites` as files of COCO and of ADE20K, read by what reads those.

They have more in them than those in VOC's format: images without any object, and heaps, which are crowds for COCO and
"other" for ADE20K, whose pixels do not count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leanconv.data import coco, composites, sources
from leanconv.data.composites import KINDS, Scene
from leanconv.data.objects import coco_tools
from leanconv.data.order import stream

SIDES = (112, 160)
COUNT = (0, 4)  # of garments in a scene
HEAPS = 0.1
ADE = "ADEChallengeData2016"
ADE_FOLDERS = {"train": "training", "val": "validation"}
ADE_CLASSES = ("photograph", *KINDS.values())  # 1, 2, ... in the files
GAP = 3  # the categories are 3, 6, ..., with gaps as COCO's have

Garments = tuple[sources.Arrays, sources.Arrays]


def find_coco(root: Path) -> Path | None:
    return sources.first_with((root / "composites_coco",), coco.FILES["train"])


def make_coco(photographs: Path, garments: Garments, folder: Path) -> None:
    """Write the set into a folder, as COCO lies there; arguments are those of `composites.make`."""
    (folder / "annotations").mkdir(parents=True)
    for split, images_folder in coco.FOLDERS.items():
        (folder / images_folder).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index, scene in enumerate(_scenes(photographs, garments, split), start=1):
            name, (height, width) = f"{index:012d}.jpg", scene.objects.shape
            Image.fromarray(scene.image).save(folder / images_folder / name, quality=95)
            images.append({"id": index, "file_name": name, "height": height, "width": width})
            for annotation in _annotations(scene):
                annotations.append({"id": len(annotations) + 1, "image_id": index, **annotation})
        categories = [{"id": GAP * label, "name": name} for label, name in enumerate(KINDS.values(), start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / coco.FILES[split]).write_text(json.dumps(content))


def _annotations(scene: Scene) -> Iterator[dict[str, Any]]:
    """Of each object what is seen of it; what lies hidden wholly has none."""
    for number, label in enumerate(scene.labels, start=1):
        seen = scene.objects == number
        if not seen.any():
            continue
        rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
        runs = coco_tools("mask").encode(np.asfortranarray(seen, dtype=np.uint8))
        yield {
            "category_id": GAP * (label + 1),
            "bbox": [int(n) for n in (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1)],
            "area": int(seen.sum()),
            "iscrowd": int(scene.heaped and number == 1),
            "segmentation": {"size": list(seen.shape), "counts": runs["counts"].decode()},
        }


def make_ade(photographs: Path, garments: Garments, folder: Path) -> None:
    """Write the set into a folder, as ADE20K lies there, with `ADE_CLASSES`; arguments are those of `make_coco`."""
    for split, name in ADE_FOLDERS.items():
        places = [folder / ADE / kind / name for kind in ("images", "annotations")]
        for place in places:
            place.mkdir(parents=True)
        for index, scene in enumerate(_scenes(photographs, garments, split), start=1):
            title = f"ADE_{split}_{index:08d}"
            mask = scene.mask + np.uint8(1)
            mask[(scene.objects == 1) & scene.heaped] = 0
            Image.fromarray(scene.image).save(places[0] / f"{title}.jpg", quality=95)
            Image.fromarray(mask).save(places[1] / f"{title}.png")


def _scenes(photographs: Path, garments: Garments, split: str) -> Iterator[Scene]:
    number = list(composites.PHOTOGRAPHS).index(split)
    pictures = [composites.read_photograph(photographs, name) for name in composites.PHOTOGRAPHS[split]]
    chosen = composites.choose(*garments[number])
    for index in range((composites.TRAIN, composites.VAL)[number]):
        yield composites.compose(pictures, *chosen, stream(2, number, index), SIDES, COUNT, HEAPS)
