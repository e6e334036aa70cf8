"""One drawing each."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from ..curves import PathConfig
from .subject import Subject, canvas, points

INK, FAINT = "#54494b", "#d8d3d4"
BETTER, TIED, WORSE = "#fdb863", "#b5aeb0", "#5e3c99"  # the paper's apricot and purple
SPREAD = 4  # "distance" ends at 2**-4 and 2**4 times the raster's
_SHADES = ("#fee8c8", "#fdd49e", "#fdb863", "#f08a3c", "#d95f0e", "#a63603")


def path(axes: Axes, subject: Subject, p: int) -> None:
    """The path from its first pixel, a ring, to its last, a dot."""
    canvas(axes, subject.height, subject.width, subject.title(p))
    _curve(axes, subject, p)
    _ends(axes, subject.paths[p])


def better(axes: Axes, subject: Subject, p: int) -> None:
    """The path, and for each pixel whether it is better than the raster there."""
    measured = subject.measured
    good, tied = int(measured.better[p]), int(measured.tied[p])
    words = f"{good} better, {tied} tied, {measured.raster.numel() - good - tied} worse: {measured.share[p]:.2%}"
    canvas(axes, subject.height, subject.width, f"{subject.title(p)}\n{words}")
    if dots(subject):
        _curve(axes, subject, p)
    _pixels(
        axes, subject, torch.where(measured.mask[p], 0, torch.where(measured.distances[p] == measured.raster, 1, 2))
    )


def union(axes: Axes, subject: Subject) -> None:
    """The pixels that at least one path is better at."""
    measured = subject.measured
    words = f"{int(measured.union.sum())} of {measured.raster.numel()}: {measured.coverage:.2%}"
    canvas(axes, subject.height, subject.width, f"union: better in at least one\n{words}")
    _pixels(axes, subject, torch.where(measured.union, 0, 2))


def distance(axes: Axes, subject: Subject, p: int) -> None:
    """D(q) of the path over D(q) of the raster, on a logarithmic scale."""
    measured = subject.measured
    words = f"total {int(measured.total[p]):,}, raster {int(measured.raster.sum()):,}"
    canvas(axes, subject.height, subject.width, f"{subject.title(p)}\n{words}")
    ratio = measured.distances[p].clamp(min=1) / measured.raster.clamp(min=1)  # a single pixel has no neighbours
    axes.imshow(ratio.log2().numpy(), cmap="PuOr", vmin=-SPREAD, vmax=SPREAD, interpolation="nearest")


def coverage(axes: Axes, subject: Subject) -> None:
    """How many of the paths are better at each pixel."""
    measured, number = subject.measured, len(subject.paths)
    count = measured.mask.sum(0)
    canvas(axes, subject.height, subject.width, f"how many of {number} are better\ncoverage {measured.coverage:.2%}")
    shades = LinearSegmentedColormap.from_list("shades", _SHADES)(np.linspace(0, 1, number))
    axes.imshow(count.numpy(), cmap=ListedColormap([WORSE, *shades]), vmin=0, vmax=number, interpolation="nearest")
    handles = [Patch(color=shade) for shade in (WORSE, *shades)]
    words = [f"{k}: {int((count == k).sum())} pixels" for k in range(number + 1)]
    axes.legend(handles, words, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8, labelcolor=INK)


def window(axes: Axes, subject: Subject, p: int) -> None:
    """The curve on its grid, before the turn, and the part of it in the window."""
    config = subject.configs[p]
    if config is None:
        raise ValueError('show="window" needs the configuration of the path, but path is a tensor: pass a PathConfig.')
    turned = config.rotation in (90, 270)
    height, width = (subject.width, subject.height) if turned else (subject.height, subject.width)
    sides = [height + config.pad, width + config.pad]
    if config.curve == "zorder":
        sides = [1 << (max(sides) - 1).bit_length()] * 2
    curve, (top, left) = PathConfig(config.curve).path(*sides), config.offset
    canvas(axes, sides[0], sides[1], f"{config}\nwindow of {height} x {width} in {sides[0]} x {sides[1]}")
    _line(axes, curve, FAINT)
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, color=BETTER, alpha=0.3, lw=0, zorder=0))
    corner = curve.new_tensor(config.offset)
    kept = curve[((curve >= corner) & (curve < corner + curve.new_tensor((height, width)))).all(1)]
    centre = (left + (width - 1) / 2, top + (height - 1) / 2)
    _line(axes, kept, INK, centre if config.curve == "hilbert" else None)
    _ends(axes, kept)


def _curve(axes: Axes, subject: Subject, p: int) -> None:
    config = subject.configs[p]
    bent = config is not None and config.curve == "hilbert"
    _line(axes, subject.paths[p], INK, ((subject.width - 1) / 2, (subject.height - 1) / 2) if bent else None)


def _line(axes: Axes, path: Tensor, color: str, centre: tuple[float, float] | None = None) -> None:
    """Steps to neighbours as strokes; jumps thin and straight or, away from `centre`, bent.

    A Hilbert curve jumps where it leaves its window and comes back: bent, such a jump runs outside the window.
    """
    places = path.flip(1).double()
    jump = ((places[1:] - places[:-1]).abs().amax(1) > 1).nonzero()[:, 0]
    runs = [run.numpy() for run in places.tensor_split(jump + 1)]
    stroke = points(axes, 0.17)
    axes.add_collection(LineCollection(runs, colors=color, linewidths=stroke, capstyle="round", joinstyle="round"))
    start, end = places[jump], places[jump + 1]
    jumps = torch.stack((start, end), 1)
    if centre is not None and len(start):
        way, middle = end - start, (start + end) / 2
        across = torch.stack((-way[:, 1], way[:, 0]), 1)
        outside = ((middle - middle.new_tensor(centre)) * across).sum(1, keepdim=True).sign()
        length = way.norm(dim=1, keepdim=True)
        bend = middle + outside * across / length * (0.25 * length).clamp(max=1.2)
        t = torch.linspace(0, 1, 17, dtype=torch.double, device="cpu")[:, None, None]
        jumps = ((1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end).transpose(0, 1)  # Bézier
    axes.add_collection(LineCollection(list(jumps.numpy()), colors=color, linewidths=0.5 * stroke, alpha=0.8))


def _ends(axes: Axes, path: Tensor) -> None:
    size, (first, last) = max(points(axes, 0.55), 3.0), path[[0, -1]].tolist()
    axes.plot(*first[::-1], "o", mfc="white", mec=WORSE, mew=0.25 * size, markersize=0.85 * size, zorder=4)
    axes.plot(*last[::-1], "o", color=WORSE, markersize=size, mew=0, zorder=4)


def dots(subject: Subject) -> bool:
    """Whether "better" has room for the path and a dot per pixel."""
    return max(subject.height, subject.width) <= 64


def _pixels(axes: Axes, subject: Subject, kind: Tensor) -> None:
    colors = ListedColormap([BETTER, TIED, WORSE])
    if not dots(subject):
        axes.imshow(kind.numpy(), cmap=colors, vmin=0, vmax=2, interpolation="nearest", zorder=3)
        return
    row, column = np.indices(kind.shape)
    size = points(axes, 0.64)
    axes.scatter(column, row, size**2, kind.ravel(), cmap=colors, vmin=0, vmax=2, linewidths=0, zorder=3)
