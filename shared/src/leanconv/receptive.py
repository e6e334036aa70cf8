"""Effective receptive fields, as RepLKNet's authors and those of the oriented 1D kernels measure them.

How much each pixel of the image moves the middle of a network's last map: its mean over many images, and the smallest
squares around the middle that hold given shares of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from leanconv.plots import INK

SHARES = (0.2, 0.3, 0.5, 0.99)


@dataclass(frozen=True)
class Square:
    """The smallest square around the middle that holds `share` of a field: its side in pixels, and its part of all."""

    share: float
    side: int
    area: float


def contributions(network: nn.Module, images: Tensor) -> Tensor:
    """What each pixel adds to the middle of the last map.

    The map F (N, C, h, w) is what the network's `forward_features` gives, else the last of the maps that it returns.
    A pixel's contribution is relu(d sum_c relu(F[:, c, h // 2, w // 2]) / d pixel), summed over images and channels.

    Args:
        network: in evaluation mode; its parameters get no gradient.
        images: (N, channels, H, W).

    Returns:
        (H, W) float64.

    Raises:
        ValueError: the network gives no map (N, C, h, w).
    """
    images = images.detach().requires_grad_()
    found = network.forward_features(images) if hasattr(network, "forward_features") else network(images)  # type: ignore[operator]
    last = found[-1] if isinstance(found, (list, tuple)) else found
    if not (isinstance(last, Tensor) and last.ndim == 4):
        shape = tuple(last.shape) if isinstance(last, Tensor) else type(last).__name__
        raise ValueError(
            f"the network must give a map (N, C, h, w), it gives {shape}: build it with features_only=True"
        )
    middle = last[:, :, last.shape[2] // 2, last.shape[3] // 2]
    (gradient,) = torch.autograd.grad(middle.relu().sum(), images)
    return gradient.relu().double().sum((0, 1))


def squares(field: Tensor, shares: Sequence[float] = SHARES) -> list[Square]:
    """The smallest centred squares that hold more than `shares` of log10(field + 1).

    As published, sides are odd and at least 3, and below the field's; where none is large enough, the whole field.

    Args:
        field: (H, W), not negative; the middle is row H // 2, column W // 2.

    Raises:
        ValueError: the field has no positive value, so that nothing is moved by any pixel, or it is not finite.
    """
    if not bool(torch.isfinite(field).all()) or not field.max() > 0:
        raise ValueError("the field must be finite and positive somewhere: does the network pass gradients?")
    height, width = field.shape
    heights = (field.double() + 1).log10()
    sums = torch.nn.functional.pad(heights, (1, 0, 1, 0)).cumsum(0).cumsum(1)
    row, column = height // 2, width // 2
    found = []
    for share in shares:
        for reach in range(1, min(height, width) // 2):
            top, left, bottom, right = row - reach, column - reach, row + reach + 1, column + reach + 1
            inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
            if inside > share * sums[-1, -1]:
                side = 2 * reach + 1
                found.append(Square(share, side, side**2 / (height * width)))
                break
        else:
            found.append(Square(share, min(height, width), 1.0))
    return found


class Mean:
    """The mean of many images' contributions, kept on the disk so that a stopped measurement goes on.

    Args:
        path: of the file (.npz) that holds sum and count.
        what: says what is measured; a file of another measurement is not gone on with.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self.total: np.ndarray | None = None
        self.count = self.skipped = 0
        if path.is_file():
            with np.load(path) as kept:
                if str(kept["what"]) != what:
                    raise ValueError(f"{path} holds another measurement, of {kept['what']}: remove it or choose --out")
                self.total, self.count, self.skipped = kept["total"], int(kept["count"]), int(kept["skipped"])

    @property
    def seen(self) -> int:
        """Images, those left out included."""
        return self.count + self.skipped

    def add(self, field: Tensor) -> None:
        """Count one image; one whose gradient is not finite is left out, as published."""
        if not bool(torch.isfinite(field).all()):
            self.skipped += 1
            return
        array = field.cpu().numpy()
        self.total = array if self.total is None else self.total + array
        self.count += 1

    def save(self) -> None:
        """Write the file whole or not at all."""
        partial = self.path.with_suffix(".partial.npz")
        total = np.zeros(0) if self.total is None else self.total
        np.savez(partial, total=total, count=self.count, skipped=self.skipped, what=self.what)
        partial.replace(self.path)

    def compute(self) -> Tensor:
        """The mean field.

        Raises:
            ValueError: no image had a finite gradient.
        """
        if self.total is None or not self.count:
            raise ValueError(f"none of the {self.seen} images has a finite gradient")
        return torch.from_numpy(self.total / self.count)


def draw(fields: Iterable[tuple[str, Tensor, Sequence[Square]]], path: Path) -> None:
    """Heat maps side by side: log10(field + 1) over its largest value, and the squares with the shares they hold."""
    fields = list(fields)
    figure = Figure(figsize=(3.4 * len(fields), 3.9), dpi=130, layout="constrained")
    for axes, (title, field, found) in zip(figure.subplots(1, len(fields), squeeze=False)[0], fields):
        heights = (field.double() + 1).log10()
        axes.imshow((heights / heights.max()).numpy(), cmap="viridis", vmin=0, vmax=1)
        for square in found:
            start = [middle // 2 - square.side / 2 for middle in field.shape]
            outline = Rectangle((start[1], start[0]), square.side, square.side, fill=False, ec="white", lw=0.8)
            axes.add_patch(outline)
            axes.text(start[1] + square.side, start[0], f" {square.share:.0%}", color="white", fontsize=7, va="top")
        axes.set_title(title, loc="left", fontsize=9, color=INK)
        axes.set_axis_off()
    figure.savefig(path)
