"""Predictions drawn over images: beside the image what it shows, and what a network says that it shows."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import resize

from leanconv import training
from leanconv.data import IGNORED, Data, DenseData
from leanconv.metrics import ConfusionMatrix
from leanconv.plots import INK
from leanconv.training import dense
from leanconv.training.run_folder import read_recipe

WEIGHT = 0.6  # of a class's colour over the image
VOID = (0.5, 0.5, 0.5)


def draw(run: str | Path, count: int = 6) -> None:
    """Draw ``predictions.png`` into the folder of a run of dense prediction: `count` of its test images.

    The weights are the run's newest, averaged ones where it has them.
    """
    network, data = trained(run)
    assert isinstance(data, DenseData)
    overlays(network, data, Path(run) / "predictions.png", count, read_recipe(run).image_size)


def trained(run: str | Path) -> tuple[nn.Module, Data]:
    """The network of a run with its newest weights, averaged ones where it has them, and the run's data."""
    try:
        return training.load(run, ema=True)
    except ValueError:  # there are no averaged ones
        return training.load(run)


@torch.no_grad()
def overlays(network: nn.Module, data: DenseData, path: Path, count: int = 6, image_size: int | None = None) -> None:
    """Draw `count` test images, spread over the split, with their masks and with what the network says.

    They are of the size that they are tested at, see :meth:`leanconv.data.DenseData.eval_transform`. Over each
    prediction stands the mean IoU of its classes in this image.
    """
    count = min(count, len(data.test))
    device = next(network.parameters()).device
    transform, colours = data.eval_transform(image_size), palette(data.num_classes)
    figure = Figure(figsize=(9, 3 * count), dpi=110, layout="constrained")
    rows = figure.subplots(count, 3, squeeze=False)
    seen: set[int] = set()
    network.eval()
    for row, number in zip(rows, range(count)):
        image, mask = data.test.read(number * len(data.test) // count)
        x, mask = transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
        predicted = dense.logits(network(x[None].to(device)), mask.shape)[0].argmax(0).cpu()
        matrix = ConfusionMatrix(data.num_classes, IGNORED)
        matrix.update(predicted, mask)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
        shown = (x * std + mean).clamp(0, 1)
        if shown.shape[1:] != mask.shape:  # tested at another size than the mask's
            shown = resize(shown, list(mask.shape), antialias=True)
        titles = ("image", "mask", f"predicted, mIoU {100 * matrix.compute()['miou']:.0f} %")
        for axes, picture, title in zip(row, (shown, *(blend(shown, m, colours) for m in (mask, predicted))), titles):
            axes.imshow(picture.permute(1, 2, 0).numpy())
            axes.set_title(title, loc="left", fontsize=9, color=INK)
            axes.set_axis_off()
        seen |= {*mask.unique().tolist(), *predicted.unique().tolist()} - {IGNORED, 0}
    patches = [Patch(color=(*colours[label].tolist(), 1.0), label=data.classes[label]) for label in sorted(seen)]
    figure.legend(handles=patches, loc="outside lower left", ncols=5, frameon=False, fontsize=9)
    figure.savefig(path)


def blend(image: Tensor, mask: Tensor, colours: Tensor) -> Tensor:
    """Image (3, H, W) in [0, 1], coloured where its mask (H, W) says other than class 0; grey where nothing counts."""
    table = torch.cat((colours, torch.tensor([VOID])))
    paint = table[mask.masked_fill(mask == IGNORED, len(colours))].permute(2, 0, 1)
    return torch.where(mask == 0, image, (1 - WEIGHT) * image + WEIGHT * paint)


def palette(count: int) -> Tensor:
    """As many colours (count, 3): hues around the circle, each second one darker."""
    hues: Sequence[tuple[float, float, float]] = [
        colorsys.hsv_to_rgb(i / count, 0.9, (1.0, 0.65)[i % 2]) for i in range(count)
    ]
    return torch.tensor(hues)
