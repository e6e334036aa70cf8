"""A narrow detector and made-up objects, for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from leanconv import models

NARROW = {
    "backbone": "convnext_atto",
    "backbone_kwargs": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "width": 16,
    "convs": 1,
    "hidden": 32,
    "proposals": (60, 30),
    "samples": 24,
    "points": 2,
}


def narrow(**options):
    torch.manual_seed(0)
    return models.build("cascade_mask_rcnn", **{"num_classes": 4, **NARROW, **options})


def objects(height: int, width: int, count: int) -> dict[str, Tensor]:
    """Rectangles, whose masks fill them."""
    chance = torch.Generator().manual_seed(height * width + count)
    corners = torch.stack([torch.randint(0, side - 40, (count,), generator=chance) for side in (width, height)], 1)
    boxes = torch.cat((corners, corners + torch.randint(20, 40, (count, 2), generator=chance)), 1)
    masks = torch.zeros(count, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.tolist()):
        mask[top:bottom, left:right] = 1
    labels = torch.randint(1, 4, (count,), generator=chance)
    return {"boxes": boxes.float(), "labels": labels, "masks": masks}
