"""Detections drawn over images: what there is on the left, what a network finds on the right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.utils import draw_segmentation_masks

from leanconv.data import DetectionData
from leanconv.data.detection import restored
from leanconv.overlays import palette, trained
from leanconv.plots import INK
from leanconv.training.run_folder import read_recipe

WEIGHT = 0.5  # of a class's colour over the image


def draw(run: str | Path, count: int = 6) -> None:
    """Draw ``predictions.png`` into the folder of a run of detection: `count` of its test images.

    The weights are the run's newest, averaged ones where it has them.
    """
    network, data = trained(run)
    assert isinstance(data, DetectionData)
    data = replace(data, image_size=read_recipe(run).image_size or data.image_size)
    detections(network, data, Path(run) / "predictions.png", count)


@torch.no_grad()
def detections(network: nn.Module, data: DetectionData, path: Path, count: int = 6, least: float = 0.5) -> None:
    """Draw `count` test images, spread over the split, with their objects and with what the network finds.

    Around a crowd the line is dashed. Of what is found is drawn what has a score of `least` or more, the surest on top.
    """
    count = min(count, len(data.test))
    device = next(network.parameters()).device
    transform, colours = data.eval_transform(), palette(data.num_classes)
    figure = Figure(figsize=(9, 4 * count), dpi=110, layout="constrained")
    network.eval()
    for row, number in zip(figure.subplots(count, 2, squeeze=False), range(count)):
        index = number * len(data.test) // count
        image, truth = data.test.image(index), data.test.target(index, crowds=True)
        x = transform(tv_tensors.Image(image))
        found = {key: value.cpu() for key, value in network([x.to(device)])[0].items()}
        sizes = {"size": tuple(x.shape[-2:]), "original_size": tuple(image.shape[-2:])}
        boxes, masks = restored(found, sizes)
        shown = (found["scores"] >= least).nonzero()[:, 0]
        shown = shown[found["scores"][shown].argsort()]  # what comes last is drawn on top
        names = [data.classes[label] for label in truth["labels"]]
        _show(row[0], image, truth["boxes"], truth["masks"].bool(), colours[truth["labels"]], names, truth["crowd"])
        row[0].set_title("what there is", loc="left", fontsize=9, color=INK)
        labels, scores = found["labels"][shown], found["scores"][shown]
        names = [f"{data.classes[label]} {score:.2f}" for label, score in zip(labels, scores)]
        masks = None if masks is None else masks[shown]
        _show(row[1], image, boxes[shown], masks, colours[labels], names, torch.zeros(len(shown)).bool())
        title = f"found, {len(shown)} with a score of {least} or more"
        row[1].set_title(title, loc="left", fontsize=9, color=INK)
    figure.savefig(path)


def _show(
    axes: Any, image: Tensor, boxes: Tensor, masks: Tensor | None, colours: Tensor, names: Iterable[str], crowd: Tensor
) -> None:
    """An image (3, H, W) with objects: boxes (n, 4), masks (n, H, W), colours (n, 3), and which are crowds (n,)."""
    if masks is not None and len(masks):
        tints = [tuple(tint) for tint in (255 * colours).round().int().tolist()]
        image = draw_segmentation_masks(image, masks, alpha=WEIGHT, colors=tints)
    axes.imshow(image.permute(1, 2, 0).numpy())
    axes.set_axis_off()
    for box, colour, name, dashed in zip(boxes.tolist(), colours.tolist(), names, crowd.tolist()):
        left, top, right, bottom = box
        line = "--" if dashed else "-"
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, ec=colour, lw=1.5, ls=line))
        axes.text(
            left, top, name, fontsize=7, color="white", va="top", clip_on=True,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
