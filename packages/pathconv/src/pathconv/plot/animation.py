"""`animate`: paths walked in a GIF."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from PIL import Image  # comes with matplotlib

from .panels import FAINT, WORSE
from .subject import canvas, figure_of, points, subject_of


def animate(
    path: Any,
    file: str | os.PathLike[str],
    height: int | None = None,
    width: int | None = None,
    *,
    seconds: float = 6.0,
    frames_per_second: int = 20,
    columns: int | None = None,
) -> None:
    """Writes a GIF in which the paths are walked in step, side by side; colours tell early from late.

    Args:
        path: as in `draw`.
        file: where to; an existing file is replaced.
        height: as in `draw`.
        width: as in `draw`.
        seconds: for the way, after which the whole path stays for a moment; then it begins again.
        frames_per_second: at most 50, which is all that a GIF can do.
        columns: drawings per row.

    Raises:
        TypeError, ValueError: as `draw` does; times out of range.

    Example:
        >>> animate("g", "g.gif", 32)  # doctest: +SKIP
    """
    if not (seconds > 0 and 1 <= frames_per_second <= 50):
        raise ValueError(
            "seconds must be positive and frames_per_second between 1 and 50, but they are "
            f"{seconds} and {frames_per_second}."
        )
    subject = subject_of(path, height, width)
    figure, places = figure_of(subject, len(subject.paths), columns, inches=3.0)
    figure.set_dpi(100)
    paper = FigureCanvasAgg(figure)
    walks = []
    for p, axes in enumerate(places):
        canvas(axes, subject.height, subject.width, subject.title(p))
        way = subject.paths[p].flip(1)
        steps = list(torch.stack((way[:-1], way[1:]), 1).double().numpy())
        axes.add_collection(LineCollection(steps, colors=FAINT, linewidths=0.6))
        line = LineCollection([], cmap="viridis_r", linewidths=points(axes, 0.3), capstyle="round", animated=True)
        line.set_clim(0, len(steps))
        axes.add_collection(line)
        (head,) = axes.plot([], [], "o", color=WORSE, mew=0, markersize=max(points(axes, 0.9), 4.0), animated=True)
        walks.append((axes, way.tolist(), steps, line, head))

    def advance(first: int, last: int) -> None:
        for axes, _, steps, line, _ in walks:
            line.set_segments(steps[first:last])
            line.set_array(np.arange(first, last))
            axes.draw_artist(line)

    def picture() -> np.ndarray:
        return np.asarray(paper.buffer_rgba())[..., :3].copy()

    paper.draw()
    empty, before = paper.copy_from_bbox(figure.bbox), picture()
    length = subject.height * subject.width - 1
    advance(0, length)
    # One palette for all frames, so that what does not change between two of them is not stored again.
    palette = Image.fromarray(np.concatenate((before, picture()))).quantize(128)
    paper.restore_region(empty)
    count = max(2, round(seconds * frames_per_second))
    images, drawn = [], 0
    for frame in range(count):
        last = round(frame / (count - 1) * length)
        advance(max(drawn - 1, 0), last)
        drawn, behind = last, paper.copy_from_bbox(figure.bbox)
        for axes, stations, _, _, head in walks:
            head.set_data(*([place] for place in stations[last]))
            axes.draw_artist(head)
        images.append(Image.fromarray(picture()).quantize(palette=palette, dither=Image.Dither.NONE))
        paper.restore_region(behind)
    pause = [1000 // frames_per_second] * (count - 1) + [1500]
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=pause, loop=0)
