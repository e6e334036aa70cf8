"""Small data sets in COCO's format, for the tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leanconv.data import Objects, coco

CATEGORIES = {90: "dog", 3: "cat"}  # with gaps, and in no order: a cat is label 1, a dog 2
CAT, DOG = 3, 90


def rectangle(box: Sequence[float]) -> list[list[float]]:
    left, top, width, height = box
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(category: int, box: Sequence[float], **changes: Any) -> dict[str, Any]:
    """Of an object that fills its box: left, top, width, height."""
    area = box[2] * box[3]
    return {"category_id": category, "bbox": list(box), "area": area, "segmentation": rectangle(box), **changes}


Images = Sequence[tuple[tuple[int, int], Sequence[dict[str, Any]]]]  # size and annotations of each


def write(root: Path, train: Images, val: Images) -> Path:
    """Write a data set; image i of a split has the number 10 i + 7, and its colour tells the category."""
    (root / "annotations").mkdir(parents=True)
    for split, contents in (("train", train), ("val", val)):
        folder = root / coco.FOLDERS[split]
        folder.mkdir()
        images, annotations = [], []
        for index, ((height, width), things) in enumerate(contents):
            number, pixels = 10 * index + 7, np.zeros((height, width, 3), np.uint8)
            for thing in things:
                left, top, wide, high = map(round, thing["bbox"])
                pixels[max(top, 0) : top + high, max(left, 0) : left + wide] = 2 * thing["category_id"]
                annotations.append({"id": len(annotations), "image_id": number, "iscrowd": 0, **thing})
            images.append({"id": number, "file_name": f"{index}.png", "height": height, "width": width})
            Image.fromarray(pixels).save(folder / f"{index}.png")
        categories = [{"id": number, "name": name} for number, name in CATEGORIES.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / coco.FILES[split]).write_text(json.dumps(content))
    return root


def objects(root: Path, images: Images) -> Objects:
    """A split of these images."""
    return coco.read(write(root, images, images))[2]


def edit(root: Path, **changes: Any) -> None:
    """Change entries of the validation split's file; None takes one away."""
    path = root / coco.FILES["val"]
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
