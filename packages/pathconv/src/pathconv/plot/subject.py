"""What is drawn, and the paper for it."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from .._common.checks import positive_int
from ..curves import PathConfig
from ..locality import Locality, locality
from ..path_set import PathSet
from ..paths import resolve
from ..presets import preset_set


@dataclass(frozen=True, eq=False)
class Subject:
    """Paths over an image, and how they were made where that is known."""

    paths: Tensor  # (P, H * W, 2)
    height: int
    width: int
    configs: tuple[PathConfig | None, ...]

    @functools.cached_property
    def measured(self) -> Locality:
        """Their locality."""
        return locality(self.paths, self.height, self.width)

    def title(self, p: int) -> str:
        """Of the drawing of path `p`."""
        config = self.configs[p]
        return str(config) if config is not None else "path" if len(self.paths) == 1 else f"path {p}"


def subject_of(path: Any, height: int | None, width: int | None) -> Subject:
    """Resolves the arguments of `draw`."""
    if height is None and width is None:
        if isinstance(path, PathSet):
            height, width = path.height, path.width
        elif isinstance(path, Tensor) and path.numel() and path.shape[-1] == 2:
            height, width = (path.reshape(-1, 2).amax(0).long() + 1).tolist()
    if height is None:
        raise ValueError("height is needed to draw a preset or configurations: pass height, and width if it differs.")
    width = height if width is None else width
    paths = resolve(path, height, width).cpu()
    if isinstance(path, Tensor):
        return Subject(paths, height, width, (None,) * len(paths))
    if isinstance(path, str):
        path = preset_set(path, height, width)
    if isinstance(path, PathSet):
        return Subject(paths, height, width, path.configs)
    return Subject(paths, height, width, (path,) if isinstance(path, PathConfig) else tuple(path))


def figure_of(
    subject: Subject,
    count: int,
    columns: int | None,
    *,
    inches: float = 4.2,
    fine: bool = True,  # shows lines or dots, which need room
    beside: float = 0.0,  # inches for a legend
    below: float = 0.0,
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` drawings, each large enough for its pixels."""
    if columns is not None:
        columns = positive_int("columns", columns)
    else:
        columns = count if count <= 4 else math.ceil(math.sqrt(count))
    columns = min(count, columns)
    rows = math.ceil(count / columns)
    longer = max(subject.height, subject.width)
    if fine:
        inches = max(inches, min(2 * inches, longer / 14))
    wide, high = inches * max(subject.width / longer, 0.6), inches * max(subject.height / longer, 0.1)
    size = (columns * (wide + 0.2) + beside, rows * (high + 0.55) + 0.3 + below)
    figure = Figure(figsize=size, dpi=130, layout=ConstrainedLayoutEngine(w_pad=0.1), facecolor="white")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for place in axes:
        place.set(xticks=[], yticks=[], frame_on=False)
    return figure, axes[:count]


def canvas(axes: Axes, height: int, width: int, title: str) -> None:
    """Coordinates of an image, row 0 on top."""
    axes.set_aspect("equal")
    axes.set_xlim(-1.2, width + 0.2)
    axes.set_ylim(height + 0.2, -1.2)
    axes.set_title(title, fontsize=9, color="#54494b")


def points(axes: Axes, pixels: float) -> float:
    """So many pixels of the image in the unit of line widths and markers, which are kept from growing clumsy."""
    grid, paper = axes.get_gridspec(), axes.figure.bbox
    assert grid is not None
    per_point = axes.figure.dpi / 72
    across = paper.width / per_point / grid.ncols / abs(axes.get_xlim()[1] - axes.get_xlim()[0])
    down = paper.height / per_point / grid.nrows / abs(axes.get_ylim()[1] - axes.get_ylim()[0])
    return pixels * min(0.95 * across, 0.9 * down, 16.0)
