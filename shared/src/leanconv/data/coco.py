"""Data sets in COCO's format: where they lie, how they are read, and what is said of files that are wrong."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from leanconv.data.objects import Objects, Packed, Record, Thing, coco_tools

FOLDERS = {"train": "train2017", "val": "val2017"}
FILES = {split: f"annotations/instances_{folder}.json" for split, folder in FOLDERS.items()}
FAR = 1e5  # pixels; pycocotools walks along a polygon pixel by pixel, wherever it leads


def find(name: str, root: Path) -> Path | None:
    """The folder in which there is any part of the set; `read` says what it lacks."""
    parts = (*FILES.values(), *FOLDERS.values())
    return next((place for place in (root, root / name) if any((place / part).exists() for part in parts)), None)


def read(place: Path) -> tuple[tuple[str, ...], Objects, Objects]:
    """Names of the classes, "background" the first; the training and the validation split, with all their images.

    The file's categories, whose numbers may have gaps, become labels 1, 2, ... in the order of their numbers.

    Raises:
        FileNotFoundError: a file or an image is absent.
        ValueError: a file is no JSON, or not COCO's, or does not fit itself or the other.
    """
    coco_tools("mask")  # where it is not installed, better said now
    absent = [part for part in (*FILES.values(), *FOLDERS.values()) if not (place / part).exists()]
    if absent:
        raise FileNotFoundError(f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} absent")
    (named, train), (others, val) = (_read(place, split) for split in FILES)
    if named != others:
        raise ValueError(f"{FILES['train']} and {FILES['val']} differ in their categories")
    return ("background", *named.values()), train, val


def _read(place: Path, split: str) -> tuple[dict[int, str], Objects]:
    path, folder = place / FILES[split], place / FOLDERS[split]
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged, no JSON: {error}") from error
    try:
        named = {int(each["id"]): str(each["name"]) for each in content["categories"]}
        named = dict(sorted(named.items()))
        records = _records(content, {category: label for label, category in enumerate(named, start=1)})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not of COCO's format: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    present = set(os.listdir(folder))
    absent = [r.path for r in records if r.path not in present and not (folder / r.path).is_file()]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of the {len(records)} images that {FILES[split]} lists are not in {folder}, such as "
            f"{absent[0]}"
        )
    return named, Objects(folder, Packed(records), tuple(named))


def _records(content: dict[str, Any], labels: dict[int, int]) -> list[Record]:
    images = {int(each["id"]): each for each in content["images"]}
    if len(images) != len(content["images"]):
        raise ValueError("two images have the same id")
    for number, image in images.items():
        size = image["height"], image["width"]
        if not all(isinstance(side, int) and side > 0 for side in size):
            raise ValueError(f"image {number} has height and width {size}; they must be whole numbers of pixels")
        if not isinstance(image["file_name"], str):
            raise ValueError(f"image {number} has the file_name {image['file_name']!r}")
    things = defaultdict(list)
    for each in content["annotations"]:
        what = f"annotation {each['id']}"
        if each["image_id"] not in images:
            raise ValueError(f"{what} is of image {each['image_id']}, which is not listed")
        if each["category_id"] not in labels:
            raise ValueError(f"{what} is of category {each['category_id']}, which is not listed")
        image = images[each["image_id"]]
        things[each["image_id"]].append(
            _thing(each, what, labels[each["category_id"]], (image["height"], image["width"]))
        )
    return [
        Record(number, each["file_name"], each["height"], each["width"], tuple(things[number]))
        for number, each in sorted(images.items())
    ]


def _thing(each: dict[str, Any], what: str, label: int, size: tuple[int, int]) -> Thing:
    box, shape = tuple(map(float, each["bbox"])), each.get("segmentation")
    if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
        raise ValueError(f"{what} has the box {each['bbox']}; it must be left, top, width, height")
    _check_shape(shape, what, size)
    area, crowd = float(each["area"]), each.get("iscrowd", 0)
    if not 0 <= area < math.inf or crowd not in (0, 1):
        raise ValueError(f"{what} has area {area} and iscrowd {crowd!r}; they must be a number of pixels, and 0 or 1")
    return Thing(int(each["id"]), label, box, area, bool(crowd), shape)


def _check_shape(shape: Any, what: str, size: tuple[int, int]) -> None:
    if not isinstance(shape, list | dict):
        raise ValueError(f"{what} has no segmentation, neither polygons nor run lengths")
    if isinstance(shape, list):
        if any(len(polygon) % 2 for polygon in shape):
            raise ValueError(f"{what} has a polygon with half a corner")
        if not all(-FAR < number < FAR for polygon in shape for number in polygon):
            raise ValueError(f"{what} has a polygon that leads far beyond its image")
        return
    if tuple(shape["size"]) != size:
        sizes = ["x".join(map(str, pair)) for pair in (shape["size"], size)]
        raise ValueError(f"{what} has a mask of {sizes[0]} pixels in an image of {sizes[1]}")
    if not shape["counts"]:  # decoded, these would be whatever lay in memory
        raise ValueError(f"{what} has a mask without run lengths")
    counts = shape["counts"]
    if not isinstance(counts, str) and not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError(f"{what} has run lengths that are no numbers of pixels")
    if isinstance(counts, list) and sum(counts) != size[0] * size[1]:
        raise ValueError(f"{what} has run lengths of {sum(counts)} pixels in an image of {size[0] * size[1]}")
