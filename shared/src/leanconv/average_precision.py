"""COCO's average precision of boxes and masks, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import Tensor

from leanconv.data.detection import restored
from leanconv.data.objects import Objects, Target, coco_tools

# What COCOeval computes, in its order: over IoU 0.5 to 0.95, at one of them, of objects of one size; then the recall
# with so many detections an image.
NAMES = (
    "map", "map50", "map75", "map_small", "map_medium", "map_large",
    "recall1", "recall10", "recall100", "recall_small", "recall_medium", "recall_large",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What was found in one image, in pixels of its file."""

    boxes: np.ndarray  # (n, 4): left, top, width, height
    labels: list[int]
    scores: list[float]
    masks: list[dict[str, Any]] | None  # run lengths


class AveragePrecision:
    """Average precision and recall of what a network finds in a split's images.

    As the meters of :mod:`leanconv.metrics`: `update` on each batch, `sync` once at the end, then `compute`. Each
    image must be scored once.

    Example:
        >>> scores = AveragePrecision(data.test)
        >>> for images, targets in test_loader:
        ...     scores.update(network(images), targets)
        >>> scores.sync()
        >>> scores.compute()["box_map"]
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.found: dict[int, Found] = {}

    def update(self, found: Sequence[Mapping[str, Tensor]], targets: Sequence[Target]) -> None:
        """Take what a network found in a batch of images.

        Args:
            found: of each image "boxes" (n, 4), left, top, right, bottom in pixels of the image that the network saw;
                "labels" (n,) from 1; "scores" (n,); where there are masks, "masks", probabilities (n, 1, h, w) or
                (n, h, w). What is not finite is taken as not found.
            targets: as the loader gives them.

        Raises:
            ValueError: an image was there already, or a label is none of the data set's.
        """
        for each, target in zip(found, targets, strict=True):
            self._add({target["image_id"]: self._of_image(each, target)})

    def _of_image(self, found: Mapping[str, Tensor], target: Target) -> Found:
        sound = found["boxes"].isfinite().all(1) & found["scores"].isfinite()
        boxes, masks = restored({key: value[sound] for key, value in found.items()}, target)
        labels = found["labels"][sound].tolist()
        odd = [label for label in labels if not 1 <= label <= len(self.objects.categories)]
        if odd:
            raise ValueError(f"labels must lie in [1, {len(self.objects.categories)}], got {odd[0]}")
        corners = boxes.double().cpu().numpy()
        corners[:, 2:] -= corners[:, :2]
        encode = coco_tools("mask").encode
        runs = None if masks is None else [encode(np.asfortranarray(mask)) for mask in masks.byte().cpu().numpy()]
        return Found(corners, labels, found["scores"][sound].tolist(), runs)

    def _add(self, found: dict[int, Found]) -> None:
        twice = self.found.keys() & found.keys()
        if twice:
            raise ValueError(f"image {min(twice)} was scored twice")
        self.found |= found

    def sync(self) -> None:
        """Take what all processes found; call it once, on every rank, after the last update."""
        if dist.is_initialized():
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, self.found)
            self.found = {}
            for part in parts:
                self._add(part)

    def compute(self) -> dict[str, float]:
        """COCO's twelve numbers as ``box_map``, ``box_map50``, ..., and as ``mask_map``, ... where there are masks.

        Those of small, medium or large objects are left out where the split has no such object.

        Raises:
            ValueError: an image of the split was not scored, or there is no object in any.
        """
        missing = {record.number for record in self.objects} - self.found.keys()
        if missing:
            raise ValueError(
                f"{len(missing)} of the {len(self.objects)} images were not scored, such as {min(missing)}"
            )
        scores = self._scores("box", "bbox")
        if all(found.masks is not None for found in self.found.values()):
            scores |= self._scores("mask", "segm")
        return scores

    def _scores(self, name: str, kind: str) -> dict[str, float]:
        annotations = [
            self._annotation(image, i, kind) for image in self.found for i in range(len(self.found[image].labels))
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports every step
            evaluation = coco_tools("cocoeval").COCOeval(self._truth, self._indexed(annotations), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        # -1 where there is nothing to find
        scores = {f"{name}_{key}": float(value) for key, value in zip(NAMES, evaluation.stats) if value >= 0}
        if not scores:
            raise ValueError("there is no object in these images, so there is no average precision")
        return scores

    def _annotation(self, image: int, index: int, kind: str) -> dict[str, Any]:
        found = self.found[image]
        annotation = {
            "image_id": image,
            "category_id": self.objects.categories[found.labels[index] - 1],
            "score": found.scores[index],
            "bbox": found.boxes[index].tolist(),
            "area": float(found.boxes[index, 2:].prod()),
            "iscrowd": 0,
        }
        if kind == "segm":
            assert found.masks is not None
            annotation |= {
                "segmentation": found.masks[index],
                "area": float(coco_tools("mask").area(found.masks[index])),
            }
        return annotation

    @cached_property
    def _truth(self) -> Any:
        annotations = [
            {
                "image_id": record.number,
                "category_id": self.objects.categories[thing.label - 1],
                "bbox": list(thing.box),
                "area": thing.area,
                "iscrowd": int(thing.crowd),
                "segmentation": thing.runs(record.height, record.width),
            }
            for record in self.objects
            for thing in record.things
        ]
        return self._indexed(annotations)

    def _indexed(self, annotations: list[dict[str, Any]]) -> Any:
        """COCO's index of annotations, made without its `loadRes`, which cannot do with none."""
        with contextlib.redirect_stdout(io.StringIO()):
            index = coco_tools("coco").COCO()
            index.dataset = {
                "images": [
                    {"id": record.number, "height": record.height, "width": record.width} for record in self.objects
                ],
                "categories": [{"id": category} for category in self.objects.categories],
                # To COCOeval the number 0 says that there is no match.
                "annotations": [{"id": number, **each} for number, each in enumerate(annotations, start=1)],
            }
            index.createIndex()
        return index
