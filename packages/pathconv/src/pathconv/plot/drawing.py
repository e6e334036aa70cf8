"""`draw`: one path or several, side by side."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from . import panels
from .panels import INK
from .subject import figure_of, subject_of

_PAINTERS: dict[str, Callable[..., None]] = {
    "path": panels.path,
    "better": panels.better,
    "distance": panels.distance,
    "window": panels.window,
}
SHOWS = (*_PAINTERS, "coverage")


def draw(
    path: Any,
    height: int | None = None,
    width: int | None = None,
    *,
    show: str = "path",
    columns: int | None = None,
) -> Figure:
    """Draws one path or several, side by side; `figure.savefig("set.png")` or `"set.svg"` keeps the drawing.

    * "path": the path, from the ring to the dot. Steps to pixels that are no neighbours are thin.
    * "better": each pixel coloured by whether its neighbours are nearer along the path than along the raster (apricot),
      as near (grey) or farther (purple); of several paths also the union, the pixels that any of them is better at.
    * "distance": how many times farther than in the raster the neighbours of each pixel are, D(q) over D(q).
    * "window": the curve on its larger grid, and the window that a path is cut from.
    * "coverage": how many of the paths are better than the raster at each pixel.

    Args:
        path: all that `paths.resolve` takes.
        height: of the image; not needed with a `PathSet` or a tensor.
        width: of the image, `height` where it is not given.
        show: what to draw, see above.
        columns: drawings per row.

    Raises:
        TypeError, ValueError: as `paths.resolve` does; an unknown `show`, "window" of a tensor, no height where it is
            needed.

    Example:
        >>> figure = draw("g", 32, show="better")
        >>> len(figure.axes)
        4
    """
    if show not in SHOWS:
        raise ValueError(f"show must be one of {', '.join(SHOWS)}, but it is {show!r}.")
    subject = subject_of(path, height, width)
    if show == "coverage":
        painters = [partial(panels.coverage, subject=subject)]
    else:
        painters = [partial(_PAINTERS[show], subject=subject, p=p) for p in range(len(subject.paths))]
    if show == "better" and len(subject.paths) > 1:
        painters.append(partial(panels.union, subject=subject))
    fine = show in ("path", "window") or (show == "better" and panels.dots(subject))
    # The drawing beside a legend must be bounded by the width: the layout shifts the legend of a lower one outwards.
    legends = {"distance": (1.5, 0.0), "coverage": (1.3, 0.2), "better": (0.0, 0.5)}
    beside, below = legends.get(show, (0.0, 0.0))
    figure, axes = figure_of(subject, len(painters), columns, fine=fine, beside=beside, below=below)
    for place, paint in zip(axes, painters):
        paint(place)
    if show == "better":
        handles = [Patch(color=color) for color in (panels.BETTER, panels.TIED, panels.WORSE)]
        words = ["nearer than in the raster", "as near", "farther"]
        figure.legend(handles, words, loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    if show == "distance":
        powers = range(-panels.SPREAD, panels.SPREAD + 1)
        bar = figure.colorbar(axes[0].images[0], ax=axes, shrink=0.7, extend="both")
        bar.set_ticks(powers, labels=[f"{2**k}" if k >= 0 else f"1/{2**-k}" for k in powers])
        bar.set_label("times the raster's distance", color=INK, fontsize=9)
        bar.ax.tick_params(labelsize=8, labelcolor=INK, color=INK)
        bar.outline.set_visible(False)
    return figure
