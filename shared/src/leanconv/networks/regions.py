"""Boxes in images: anchors, the maps inside boxes, and masks of boxes pasted into images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

Size = tuple[int, int]

RATIOS = (0.5, 1.0, 2.0)  # height to width of the anchors
FINEST = 14  # pixels of the finest map: boxes of less than twice as many a side are seen in that map


class Anchors(AnchorGenerator):
    """Three anchors at each pixel of each map, `scale` times the map's stride a side, in float32 under any autocast.

    torchvision finds a stride by dividing the image's size by the map's; of maps whose sizes are rounded up that is
    less than it should be, so the strides are given here. The anchors' sides are rounded to whole pixels, as
    torchvision rounds them and mmdetection does not.
    """

    def __init__(self, strides: Sequence[int], scale: int) -> None:
        super().__init__(tuple((scale * stride,) for stride in strides), (RATIOS,) * len(strides))
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        device = feature_maps[0].device
        strides = [[torch.tensor(stride, device=device)] * 2 for stride in self.strides]
        self.set_cell_anchors(torch.float32, device)
        anchors = torch.cat(self.grid_anchors([list(each.shape[-2:]) for each in feature_maps], strides))
        return [anchors] * len(image_list.image_sizes)


class RegionAlign(nn.Module):
    """RoIAlign over a pyramid: maps of (N, C, H_l, W_l) and N times boxes (n, 4) -> (sum of n, C, size, size), float32.

    A box of w x h pixels is seen in map floor(log2(sqrt(w h) / (14 s))), s being the finest map's stride (equation 1 of
    "Feature Pyramid Networks"). Unlike in torchvision's `MultiScaleRoIAlign` pixels are where their middles are
    (``aligned=True``), as in mmdetection.

    Args:
        size: of the result's maps.
        strides: of the maps.
        points: of a map that one pixel of the result is the mean of, each way; 0 for as many as the box has pixels
            there. A small number, such as torchvision's 2, saves much time on the CPU.
    """

    def __init__(self, size: int, strides: Sequence[int], points: int = 0) -> None:
        super().__init__()
        self.size, self.strides, self.points = size, tuple(strides), points

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        regions = with_index(boxes)
        sides = (regions[:, 3:] - regions[:, 1:3]).clamp_min(0).prod(1).sqrt()
        level = (sides / (FINEST * self.strides[0]) + 1e-6).log2().floor().clamp(0, len(self.strides) - 1)
        out = regions.new_zeros(len(regions), maps[0].shape[1], self.size, self.size)
        for index, (each, stride) in enumerate(zip(maps, self.strides)):
            (chosen,) = torch.where(level == index)
            # An empty choice is pooled as well: every map is part of the graph, whatever the boxes.
            out[chosen] = roi_align(each.float(), regions[chosen], self.size, 1 / stride, self.points, aligned=True)
        return out

    def extra_repr(self) -> str:
        return f"size={self.size}, strides={self.strides}, points={self.points}"


def with_index(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes of several images as roi_align takes them: (sum of n, 5), the image's index before each."""
    index = torch.cat([each.new_full((len(each), 1), number) for number, each in enumerate(boxes)])
    return torch.cat((index, torch.cat(list(boxes)).to(index)), 1)


@torch.no_grad()
def paste(masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Masks (n, M, M) of boxes (n, 4), each brought to its box's size, in images (n, 1, *size) that are 0 elsewhere."""
    images = masks.new_zeros(len(masks), 1, *size)
    for mask, image, (left, top, right, bottom) in zip(masks, images[:, 0].unbind(), boxes.tolist()):
        rows, columns = _inside(top, bottom, size[0]), _inside(left, right, size[1])
        if not (rows and columns):
            continue
        y, x = (
            (torch.arange(line.start, line.stop, device=mask.device) + 0.5 - low) * (2 / (high - low)) - 1
            for line, low, high in ((rows, top, bottom), (columns, left, right))
        )
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).to(mask.dtype)
        pasted = F.grid_sample(mask[None, None], grid[None], align_corners=False)
        image[rows.start : rows.stop, columns.start : columns.stop] = pasted[0, 0]
    return images


def _inside(low: float, high: float, side: int) -> range:
    """The pixels that a mask between `low` and `high` may touch."""
    return range(max(int(low) - 1, 0), min(int(high) + 2, side)) if high > low else range(0)
