"""Cascade Mask R-CNN over any backbone: `cascade_mask_rcnn`, registered with timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from leanconv.networks.backbones import Features, features
from leanconv.networks.cascade import CascadeHeads, Targets
from leanconv.networks.regions import RATIOS, Anchors

DIVISOR = 32  # of the sides that a batch of images is padded to


class CascadeMaskRCNN(nn.Module):
    """Objects with boxes and masks: a backbone, a feature pyramid, region proposals and the cascade's three stages.

    In training ``network(images, targets)`` gives losses by name, whose sum is to be made small: "objectness" and
    "proposal" of the proposals, and what :class:`leanconv.networks.cascade.CascadeHeads` says. In evaluation
    ``network(images)`` gives of each image "boxes" (n, 4), "labels", "scores" (n,) and "masks" (n, 1, H, W),
    probabilities. `images` are normalised (3, H, W), of any sizes; `targets` have "boxes" (n, 4), left, top, right,
    bottom in pixels, "labels" (n,) from 1, "masks" (n, H, W) and perhaps "crowd" (n,): such are left out.

    An image for which nothing is proposed is looked at as a whole. So every parameter takes part in each step, and
    every loss is finite, whatever there is in the images.

    Args:
        backbone: gives maps whose strides double.
        num_classes: counting the background, class 0.
        width: channels of the pyramid and of all heads.
        proposals: for training and for testing, how many of an image's proposals each map may have before, and all
            maps together after those that overlap are left out.
        anchor_scale: side of the anchors in pixels of their map.
        anchor_samples: anchors of each image that the proposals learn from.
        heads: for :class:`CascadeHeads`.
    """

    def __init__(
        self,
        backbone: Features,
        num_classes: int,
        width: int = 256,
        *,
        proposals: tuple[int, int] = (2000, 1000),
        anchor_scale: int = 8,
        anchor_samples: int = 256,
        **heads: Any,
    ) -> None:
        super().__init__()
        strides = list(backbone.reductions)
        if any(2 * fine != coarse for fine, coarse in pairwise(strides)):
            raise ValueError(f"the strides of the backbone's maps must double from each to the next, got {strides}")
        self.backbone = backbone
        self.pyramid = FeaturePyramidNetwork(backbone.channels, width, LastLevelMaxPool())
        most = dict(zip(("training", "testing"), proposals))
        self.proposals = RegionProposalNetwork(
            Anchors([*strides, 2 * strides[-1]], anchor_scale),
            _ProposalHead(width, len(RATIOS)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=anchor_samples,
            positive_fraction=0.5,
            pre_nms_top_n=most,
            post_nms_top_n=most,
            nms_thresh=0.7,
        )
        self.heads = CascadeHeads(num_classes, width, strides=strides, **heads)
        self.counted: tuple[int, int] = proposals[1], self.heads.stages[0].detections_per_img

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Targets | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        batch = batched(images)
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        maps = self._maps(batch)
        if not self.training:
            boxes, _ = self._proposed(batch, sizes, maps)
            return self.heads.detect(list(maps.values()), boxes, sizes)
        if targets is None:
            raise ValueError("a detector learns from targets: network(images, targets), or network.eval() first")
        classes = self.heads.num_classes
        objects = [checked(target, size, classes) for target, size in zip(targets, sizes, strict=True)]
        boxes, found = self._proposed(batch, sizes, maps, objects)
        losses = {"objectness": found["loss_objectness"], "proposal": found["loss_rpn_box_reg"]}
        return losses | self.heads.losses(list(maps.values()), boxes, sizes, objects)

    def forward_counted(self, x: Tensor) -> None:
        """What `leanconv.profiling.count` counts for an image: as many proposals and detections as there may be.

        So mmdetection counts too: how many there really are depends on the image.
        """
        maps = self._maps(x)
        self.proposals.head(list(maps.values()))
        whole = x.new_tensor([[0, 0, x.shape[-1], x.shape[-2]]])
        boxes, detections = ([whole.expand(count, 4)] * len(x) for count in self.counted)
        self.heads.work(list(maps.values()), boxes, detections)

    def _maps(self, batch: Tensor) -> dict[str, Tensor]:
        return self.pyramid({str(index): each for index, each in enumerate(self.backbone(batch))})

    def _proposed(
        self,
        batch: Tensor,
        sizes: list[tuple[int, int]],
        maps: dict[str, Tensor],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        boxes, losses = self.proposals(ImageList(batch, sizes), maps, targets)
        wholes = [each.new_tensor([[0, 0, width, height]]) for each, (height, width) in zip(boxes, sizes)]
        return [each if len(each) else whole for each, whole in zip(boxes, wholes)], losses


class _ProposalHead(RPNHead):
    """torchvision's, in float32 after autocast: boxes are decoded from what it says."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, codes = super().forward(x)
        return [each.float() for each in logits], [each.float() for each in codes]


def batched(images: Sequence[Tensor] | Tensor) -> Tensor:
    """Images (C, H, W) as one tensor (N, C, H', W'): zeros on the right and below, sides being multiples of 32.

    Raises:
        ValueError: there is no image, or what is no (C, H, W).
    """
    odd = [tuple(image.shape) for image in images if image.ndim != 3]
    if odd or not len(images):
        raise ValueError(f"a detector takes images (C, H, W), one at least; got {odd[0] if odd else 'none'}")
    height, width = (-(-max(image.shape[axis] for image in images) // DIVISOR) * DIVISOR for axis in (-2, -1))
    return torch.stack([F.pad(i, (0, width - i.shape[-1], 0, height - i.shape[-2])) for i in images])


def checked(target: Mapping[str, Any], size: tuple[int, int], num_classes: int) -> dict[str, Tensor]:
    """The objects of an image that there is something to learn from: crowds are left out.

    Raises:
        ValueError: a target lacks a part, or its parts do not fit each other, the image or the classes.
    """
    missing = {"boxes", "labels", "masks"} - target.keys()
    if missing:
        raise ValueError(f"a target must have boxes, labels and masks; this one lacks {', '.join(sorted(missing))}")
    parts = {name: target[name] for name in ("boxes", "labels", "masks")}
    count = len(parts["labels"])
    wanted = {"boxes": (count, 4), "labels": (count,), "masks": (count, *size)}
    for name, shape in wanted.items():
        if tuple(parts[name].shape) != shape:
            raise ValueError(f"a target's {name} must be {shape} for this image, got {tuple(parts[name].shape)}")
    boxes, labels = parts["boxes"].float(), parts["labels"]
    parts["boxes"] = boxes
    if not (boxes[:, 2:] > boxes[:, :2]).all():
        raise ValueError("a target has a box without width or height: leave such objects out")
    # Maps inside a box that is not in the image would be read from anywhere.
    if not ((boxes >= 0) & (boxes <= boxes.new_tensor([*size[::-1], *size[::-1]]))).all():
        raise ValueError(f"a target has a box that reaches beyond its image of {size[0]}x{size[1]} pixels")
    if not ((labels >= 1) & (labels < num_classes)).all():
        raise ValueError(f"a target's labels must lie in [1, {num_classes - 1}], 0 being the background")
    if "crowd" in target:
        parts = {name: value[~target["crowd"]] for name, value in parts.items()}
    return parts


@register_model
def cascade_mask_rcnn(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    *,
    num_classes: int = 81,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    backbone: str = "convnext_tiny",
    backbone_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> CascadeMaskRCNN:
    """Cascade Mask R-CNN as the papers of ConvNeXt and of oriented 1D kernels train it on COCO.

    With 81 classes over the latter's backbones it has 86 M (T) and 146 M (B) parameters, as published. Those counts
    tell that boxes are coded for each class and that each stage has a mask head of its own.

    Args:
        num_classes: counting the background, class 0.
        backbone, backbone_kwargs, in_chans, drop_path_rate: for :func:`leanconv.networks.features`.
        kwargs: for :class:`CascadeMaskRCNN` and :class:`leanconv.networks.cascade.CascadeHeads`.

    Raises:
        ValueError: weights are asked for (there are none), or the backbone cannot be one.
    """
    if pretrained:
        raise ValueError("cascade_mask_rcnn has no published weights: start its backbone from a classifier's")
    maps = features(backbone, in_chans, drop_path_rate, **(backbone_kwargs or {}))
    return CascadeMaskRCNN(maps, num_classes, **kwargs)
