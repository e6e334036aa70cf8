"""How the points of a layer move while a network trains: kept in the run folder, and drawn from there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image
from torch import Tensor, nn

from leanconv.plots import COLORS, FAINT, INK
from smpconv import diagnose, rasterize
from smpconv.points import PointKernel

Moment = tuple[int, Tensor, Tensor, Tensor]  # step, coords (G, N, d), radius (G, N), weight (G, C, N)

MOMENTS = 24  # of a run, and its beginning
SHOWN = 4  # of them side by side
WEIGHTS = "viridis_r"


def record(network: nn.Module, step: int, steps: int, folder: Path) -> None:
    """Add the points of the first and the last layer to points.pt, if `step` of `steps` is one to keep.

    A run that is resumed from further back than it had come overwrites what it had kept.
    """
    if step % max(steps // MOMENTS, 1) and step != steps:
        return
    found = {name: layer for name, layer in network.named_modules() if isinstance(layer, PointKernel)}
    if not found:
        return
    file = folder / "points.pt"
    kept = torch.load(file) if step and file.is_file() else {}
    names = list(found)
    for name in dict.fromkeys((names[0], names[-1])):
        layer = found[name]
        now = (step, *(t.detach().cpu().clone() for t in (layer.coords, layer.radius, layer.weight)))
        before = [moment for moment in kept.get(name, {}).get("history", []) if moment[0] < step]
        kept[name] = {"size": layer.kernel_size, "average": layer.average, "history": [*before, now]}
    torch.save(kept, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)


def draw(run: Path) -> None:
    """Draw what `record` has kept of a run: points-first.png and points-last.png, of images also points-first.gif.

    Pictures that are there are left.
    """
    if not (run / "points.pt").is_file():
        return
    for place, (name, layer) in zip(("first", "last"), torch.load(run / "points.pt").items()):
        options = {"average": layer["average"], "title": f"{run.name}: the points of {name}"}
        for path, function in ((run / f"points-{place}.png", draw_movement), (run / f"points-{place}.gif", animate)):
            wanted = path.suffix == ".png" or (place == "first" and len(layer["size"]) == 2)
            if wanted and not path.is_file():
                function(layer["history"], path, layer["size"], **options)


def draw_movement(
    history: Sequence[Moment], path: Path, size: Sequence[int], *, average: bool, title: str = ""
) -> None:
    """Draw how the points of one layer have moved, and the kernel of `size` taps that they make.

    Of several sets of points, those of output channels, the one that has moved most is shown. A kernel is the root mean
    square over its channels.
    """
    history, title = _one_set(history, title)
    figure = Figure(figsize=(12, 5.6 if len(size) == 2 else 4.6), dpi=130, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    (_image if len(size) == 2 else _sequence)(figure, history, tuple(size), average)
    figure.savefig(path)


def animate(history: Sequence[Moment], path: Path, size: Sequence[int], *, average: bool, title: str = "") -> None:
    """The same for images as an animation, a GIF."""
    history, title = _one_set(history, title)
    kernels = [_kernel(moment, tuple(size), average) for moment in history]
    colors, light = _range(_strength(moment) for moment in history), _range(kernels)
    shown = _shown(history, tuple(size))
    frames = []
    for index, taps in enumerate(kernels):
        figure = Figure(figsize=(8, 4.2), dpi=72, layout="constrained")
        figure.suptitle(f"{title}, step {history[index][0]:,}", x=0.01, ha="left", fontsize=10, color=INK)
        left, right = figure.subplots(1, 2)
        _draw_points(left, history[: index + 1], shown, colors)
        _draw_taps(right, taps, shown, light)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        frames.append(
            Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64, dither=Image.Dither.NONE)
        )
    pauses = [200] * (len(frames) - 1) + [1500]  # milliseconds
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=pauses, loop=0)


def _image(figure: Figure, history: Sequence[Moment], size: tuple[int, ...], average: bool) -> None:
    """Above the points and the ways they have come, below the kernels."""
    chosen = [round(index * (len(history) - 1) / (SHOWN - 1)) for index in range(SHOWN)]
    kernels = [_kernel(history[index], size, average) for index in chosen]
    colors, light = _range(_strength(history[index]) for index in chosen), _range(kernels)
    shown, rows = _shown(history, size), figure.subplots(2, SHOWN)
    for column, (index, taps) in enumerate(zip(chosen, kernels)):
        points = _draw_points(rows[0, column], history[: index + 1], shown, colors)
        rows[0, column].set_title(_caption(history[index], size), loc="left", fontsize=9, color=INK)
        image = _draw_taps(rows[1, column], taps, shown, light)
    rows[1, 0].set_xlabel(f"{shown * (size[1] - 1):.0f} of {size[1]} taps across", color=INK, fontsize=8)
    _bar(figure, points, rows[0], "weight of the points")
    _bar(figure, image, rows[1], "kernel")


def _sequence(figure: Figure, history: Sequence[Moment], size: tuple[int, ...], average: bool) -> None:
    """On the left how far back each point lies, over the steps; on the right the first kernel and the last."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    steps = torch.tensor([moment[0] for moment in history], dtype=torch.float32)
    lags = torch.stack([_lag(moment[1][0, :, 0], size[0]) for moment in history])  # (moments, N)
    weights = torch.stack([_strength(moment) for moment in history])
    norm = Normalize(0, float(weights.max()))
    for lag, weight in zip(lags.T, weights.T):
        line = torch.stack([steps, lag], dim=1)
        pieces = torch.stack([line[:-1], line[1:]], dim=1).numpy()
        lines = left.add_collection(LineCollection(pieces, cmap=WEIGHTS, norm=norm, lw=1.6))
        lines.set_array(weight[1:].numpy())
    left.set_xlim(0, float(steps[-1]))
    low, high = min(0.0, float(lags.min())), max(1.0, float(lags.max()))
    left.set_ylim(high + 0.03 * (high - low), low - 0.03 * (high - low))
    taps = _lag(torch.linspace(-1, 1, size[0]), size[0])
    for moment, color, width in ((history[0], "#bbbbbb", 1.2), (history[-1], INK, 1.2)):
        values = _kernel(moment, size, average)
        right.plot(values.numpy(), taps.numpy(), color=color, lw=width, label=_caption(moment, size))
    right.set_xlim(0, None)
    right.legend(frameon=False, fontsize=8, loc="lower right")
    for axes, text in ((left, "Points"), (right, "Kernel")):
        _style(axes)
        axes.set_title(text, loc="left", fontsize=10, color=INK)
    left.set_xlabel("step", color=INK)
    left.set_ylabel("samples before the present", color=INK)
    _bar(figure, lines, [left], "weight")


def _draw_points(axes: Axes, past: Sequence[Moment], shown: float, colors: Normalize) -> PathCollection:
    """The points of the last moment, as far as their tents reach, and the ways they have come; x right and y up."""
    _, coords, radius, _ = past[-1]
    tips = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    tents = coords[0, :, None] + radius[0, :, None, None] * tips
    axes.add_collection(PolyCollection(list(tents.numpy()), fc="#00000006", ec="#00000014", lw=0.5))
    ways = torch.stack([moment[1][0] for moment in past], dim=1)  # (N, moments, 2)
    axes.add_collection(LineCollection(list(ways.numpy()), colors=COLORS[1], lw=0.9))
    weight = _strength(past[-1])
    drawn = axes.scatter(*coords[0].T.numpy(), s=9, c=weight.numpy(), cmap=WEIGHTS, norm=colors, lw=0, zorder=3)
    _frame(axes, shown)
    return drawn


def _draw_taps(axes: Axes, taps: Tensor, shown: float, light: Normalize) -> AxesImage:
    rows, columns = (_edge(count) for count in taps.shape)
    image = axes.imshow(taps.numpy(), cmap="magma", norm=light, extent=(-columns, columns, -rows, rows), aspect="auto")
    _frame(axes, shown)
    return image


def _frame(axes: Axes, shown: float) -> None:
    axes.set(xlim=(-shown, shown), ylim=(-shown, shown), box_aspect=1, xticks=[], yticks=[])
    axes.spines[:].set_color("#999999")


def _shown(history: Sequence[Moment], size: tuple[int, ...]) -> float:
    """How far from the middle points have ever touched taps, and a tap more."""
    touched = max(float((coords[0].abs() + radius[0, :, None]).max()) for _, coords, radius, _ in history)
    return min(max(_edge(taps) for taps in size), touched + 2 / max(size))


def _edge(taps: int) -> float:
    """Where the outermost tap ends, which lies at 1."""
    return 1 + 1 / max(taps - 1, 1)


def _one_set(history: Sequence[Moment], title: str) -> tuple[list[Moment], str]:
    """The history of the set of points that has moved most, and the title with its number."""
    moved = (history[-1][1] - history[0][1]).square().sum(dim=(1, 2))
    group = int(moved.argmax())
    own = [(step, *(t[group : group + 1].float() for t in points)) for step, *points in history]
    return own, f"{title}, output channel {group}" if len(moved) > 1 else title


def _caption(moment: Moment, size: tuple[int, ...]) -> str:
    step, coords, radius, _ = moment
    dead = int(diagnose(coords, radius, size).dead.sum())
    return f"step {step:,}" + (f", {dead} of {radius.numel()} points touch no tap" if dead else "")


def _strength(moment: Moment) -> Tensor:  # (N,)
    return moment[3][0].square().mean(dim=0).sqrt()


def _kernel(moment: Moment, size: tuple[int, ...], average: bool) -> Tensor:  # size
    return rasterize(*moment[1:], size, average=average, flip=len(size) == 2)[0].square().mean(dim=0).sqrt()


def _lag(position: Tensor, taps: int) -> Tensor:
    return (1 - position) * (taps - 1) / 2


def _range(values: Iterable[Tensor]) -> Normalize:
    return Normalize(0, max(float(each.max()) for each in values) or 1.0)


def _bar(figure: Figure, drawn: ScalarMappable, axes: Sequence[Axes], text: str) -> None:
    bar = figure.colorbar(drawn, ax=list(axes), shrink=0.8, pad=0.01)
    bar.set_label(text, color=INK, fontsize=8)
    bar.ax.tick_params(colors=INK, labelsize=7)
    bar.outline.set_visible(False)


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(visible=True, color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
