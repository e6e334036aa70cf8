"""The heads of Cascade Mask R-CNN: three stages, each of which looks at the boxes that the one before has refined.

"Cascade R-CNN: High Quality Object Detection and Instance Segmentation", Cai and Vasconcelos, 2019, as mmdetection
trains it and as the papers of Swin and ConvNeXt use it. What a stage does with boxes is torchvision's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import clip_boxes_to_image, generalized_box_iou_loss, roi_align

from leanconv.networks.regions import RegionAlign, Size, paste

IOUS = (0.5, 0.6, 0.7)  # with an object's box, from which on a box is an example of it
CODING = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))  # factors on x, y, width, height
WEIGHTS = (1.0, 0.5, 0.25)  # of the stages' losses
BOX_LOSS = 10.0
POSITIVE = 0.25  # share of a stage's boxes that are examples of objects, at most
BOX_SIZE, MASK_SIZE = 7, 14  # of the maps that box and mask heads see; masks are twice as large
NORMS = {"batch": nn.BatchNorm2d, "group": lambda width: nn.GroupNorm(min(32, width // 4), width), "none": None}

Targets = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Sample:
    """Boxes that a stage learns from, image by image, and what each of them shows."""

    boxes: list[Tensor]  # (n, 4)
    labels: list[Tensor]  # (n,), 0 where it is background
    matched: list[Tensor]  # (n,), the index of the object
    given: list[Tensor]  # (n,), whether it is an object's own box


class Stage(RoIHeads):
    """What one stage has for boxes: shared convolutions, one hidden layer, scores and a refined box for each class.

    The box loss is 1 - GIoU of the decoded boxes with the objects', summed over those of objects and divided by the
    number of all.
    """

    def __init__(
        self, number: int, num_classes: int, width: int, convs: int, hidden: int, norm: str, **options: Any
    ) -> None:
        head = FastRCNNConvFCHead((width, BOX_SIZE, BOX_SIZE), [width] * convs, [hidden], NORMS[norm])
        predictor = FastRCNNPredictor(hidden, num_classes)
        super().__init__(
            None,  # maps in boxes are cut out for all stages by the cascade
            head,
            predictor,
            fg_iou_thresh=IOUS[number],
            bg_iou_thresh=IOUS[number],
            positive_fraction=POSITIVE,
            bbox_reg_weights=CODING[number],
            **options,
        )
        for layer, deviation in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:  # (n, width, 7, 7) -> (n, classes), (n, 4 classes)
        logits, codes = self.box_predictor(self.box_head(regions))
        return logits.float(), codes.float()

    @torch.no_grad()
    def sample(self, boxes: list[Tensor], targets: Targets) -> Sample:
        """Of these boxes and the objects' own some at random, with what they show by the stage's IoU."""
        objects, kinds = [t["boxes"] for t in targets], [t["labels"] for t in targets]
        given = [torch.arange(len(a) + len(b), device=a.device) >= len(a) for a, b in zip(boxes, objects)]
        boxes = self.add_gt_proposals(boxes, objects)
        matched, labels = self.assign_targets_to_proposals(boxes, objects, kinds)
        kept = self.subsample(labels)
        return Sample(*([x[i] for x, i in zip(each, kept)] for each in (boxes, labels, matched, given)))

    @torch.no_grad()
    def refine(
        self, boxes: list[Tensor], logits: Tensor, codes: Tensor, sizes: list[Size], sample: Sample | None = None
    ) -> list[Tensor]:
        """The boxes as this stage sees them, of the true or else the likeliest class; without those given to it."""
        chosen = logits[:, 1:].argmax(1) + 1
        if sample is not None:
            known = torch.cat(sample.labels)
            chosen = torch.where(known > 0, known, chosen)
        # Maps inside boxes of NaN would be read from anywhere; when a loss is NaN, training says so by itself.
        parts = self._decoded(boxes, codes.nan_to_num(), chosen).split([len(each) for each in boxes])
        refined = [clip_boxes_to_image(each, size) for each, size in zip(parts, sizes)]
        return refined if sample is None else [each[~own] for each, own in zip(refined, sample.given)]

    def losses(self, sample: Sample, logits: Tensor, codes: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the classes, and of the boxes the loss above."""
        labels = torch.cat(sample.labels)
        true = torch.cat([_of(t["boxes"], index) for t, index in zip(targets, sample.matched)])
        (shown,) = torch.where(labels > 0)
        found = self._decoded([torch.cat(sample.boxes)[shown]], codes[shown], labels[shown])
        box_loss = generalized_box_iou_loss(found, true[shown].to(found), reduction="sum") / len(labels)
        return F.cross_entropy(logits, labels), BOX_LOSS * box_loss

    def _decoded(self, boxes: list[Tensor], codes: Tensor, classes: Tensor) -> Tensor:
        codes = codes.unflatten(1, (-1, 4))[torch.arange(len(codes), device=codes.device), classes]
        return self.box_coder.decode_single(codes, torch.cat(boxes))


class MaskHead(nn.Sequential):
    """Convolutions and, at twice the resolution, logits for each class: (n, width, 14, 14) -> (n, classes, 28, 28)."""

    def __init__(self, num_classes: int, width: int, convs: int) -> None:
        super().__init__(MaskRCNNHeads(width, [width] * convs, 1), MaskRCNNPredictor(width, width, num_classes))

    def forward(self, regions: Tensor) -> Tensor:
        return super().forward(regions).float()


class CascadeHeads(nn.Module):
    """Three stages with losses of weights 1, 1/2, 1/4, each with a box head and a mask head of its own.

    When testing, the class scores are those of the mean of the three stages' logits, for the boxes that the third
    stage sees and refines; masks are the mean of the three mask heads' probabilities.

    Args:
        num_classes: counting the background, class 0.
        width: channels of the pyramid and of the heads' convolutions.
        convs, hidden: convolutions in each head and channels of a box head's hidden layer.
        norm: after the convolutions of box heads: "batch", "group" or "none".
        strides: of the maps that are looked at.
        samples: boxes of each image that a stage learns from.
        points: for :class:`RegionAlign`.
        detections, score_threshold, nms_threshold: what is told of an image at most, at which score, and at which IoU
            with a better box of the same class not.

    Raises:
        ValueError: no such norm, or no class besides the background.
    """

    def __init__(
        self,
        num_classes: int,
        width: int = 256,
        *,
        strides: Sequence[int],
        convs: int = 4,
        hidden: int = 1024,
        norm: str = "batch",
        samples: int = 512,
        points: int = 0,
        detections: int = 100,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        if num_classes < 2:
            raise ValueError(f"num_classes counts the background and must be at least 2, got {num_classes}")
        options = {
            "batch_size_per_image": samples,
            "score_thresh": score_threshold,
            "nms_thresh": nms_threshold,
            "detections_per_img": detections,
        }
        self.num_classes = num_classes
        self.box_regions, self.mask_regions = (RegionAlign(side, strides, points) for side in (BOX_SIZE, MASK_SIZE))
        self.stages: Any = nn.ModuleList(
            Stage(number, num_classes, width, convs, hidden, norm, **options) for number in range(len(IOUS))
        )
        self.masks = nn.ModuleList(MaskHead(num_classes, width, convs) for _ in self.stages)

    def losses(
        self, maps: Sequence[Tensor], boxes: list[Tensor], sizes: list[Size], targets: Targets
    ) -> dict[str, Tensor]:
        """Train on these boxes: losses "class_0", "box_0", "mask_0" and so on; no gradient passes through boxes."""
        found: dict[str, Tensor] = {}
        for number, (stage, mask, weight) in enumerate(zip(self.stages, self.masks, WEIGHTS)):
            sample = stage.sample(boxes, targets)
            logits, codes = stage(self.box_regions(maps, sample.boxes))
            parts = (*stage.losses(sample, logits, codes, targets), self._mask_loss(mask, maps, sample, targets))
            found |= {f"{name}_{number}": weight * loss for name, loss in zip(("class", "box", "mask"), parts)}
            boxes = stage.refine(sample.boxes, logits, codes, sizes, sample)
        return found

    def _mask_loss(self, head: nn.Module, maps: Sequence[Tensor], sample: Sample, targets: Targets) -> Tensor:
        """Mean binary cross-entropy over the pixels of the objects' boxes, of the objects' own classes; 0 if none."""
        shown = [labels > 0 for labels in sample.labels]
        boxes, labels, matched = (
            [x[i] for x, i in zip(each, shown)] for each in (sample.boxes, sample.labels, sample.matched)
        )
        logits = head(self.mask_regions(maps, boxes))
        logits = logits[torch.arange(len(logits), device=logits.device), torch.cat(labels)]
        true = [
            roi_align(t["masks"][:, None].float(), _with(index, each), logits.shape[-1], aligned=True)[:, 0]
            for t, index, each in zip(targets, matched, boxes)
        ]
        total = F.binary_cross_entropy_with_logits(logits, (torch.cat(true) >= 0.5).float(), reduction="sum")
        return total / max(logits.numel(), 1)

    def detect(self, maps: Sequence[Tensor], boxes: list[Tensor], sizes: list[Size]) -> list[dict[str, Tensor]]:
        """What is in these boxes: of each image "boxes" (n, 4), "labels", "scores" (n,) and "masks" (n, 1, H, W)."""
        logits, codes = self.stages[0](self.box_regions(maps, boxes))
        every = [logits]
        for before, stage in pairwise(self.stages):
            boxes = before.refine(boxes, logits, codes, sizes)
            logits, codes = stage(self.box_regions(maps, boxes))
            every.append(logits)
        mean = torch.stack(every).mean(0)
        boxes, scores, kinds = self.stages[-1].postprocess_detections(mean, codes, boxes, sizes)
        counts = [len(each) for each in kinds]
        of_all = self._probabilities(maps, boxes)
        masks = of_all[torch.arange(len(of_all), device=mean.device), torch.cat(kinds)].split(counts)
        return [
            {"boxes": box, "labels": kind, "scores": score, "masks": paste(mask, box, size)}
            for box, kind, score, mask, size in zip(boxes, kinds, scores, masks, sizes)
        ]

    def _probabilities(self, maps: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        regions = self.mask_regions(maps, boxes)
        return torch.stack([head(regions).sigmoid() for head in self.masks]).mean(0)

    def work(self, maps: Sequence[Tensor], boxes: list[Tensor], detections: list[Tensor]) -> None:
        """All that is computed for so many boxes and detections, whatever they show: for counting."""
        for stage in self.stages:
            stage(self.box_regions(maps, boxes))
        self._probabilities(maps, detections)


def _of(boxes: Tensor, index: Tensor) -> Tensor:
    """The boxes of these indices; anything where there are none, as then none of them is asked for."""
    return boxes[index] if len(boxes) else boxes.new_zeros(len(index), 4)


def _with(index: Tensor, boxes: Tensor) -> Tensor:
    return torch.cat((index[:, None].to(boxes), boxes), 1)
