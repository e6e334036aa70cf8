"""Pictures of runs: the curves of one, the comparison of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLORS = ("#2a6fbb", "#d9692c", "#2e8b57", "#8a5fb4", "#b8912a", "#4d4d4d", "#c2508f", "#3f9d9d")
INK, FAINT = "#333333", "#dddddd"
SCORES = {
    "top1": "Test accuracy (top-1, %)",
    "miou": "Mean IoU on the test images (%)",
    "box_map": "Box mAP on the test images (%)",
}
LEGIBLE = 5  # rows that a legend between curves can name; the labels beside have the colours too

Records = Sequence[Mapping[str, Any]]


def curves(records: Records, title: str, path: Path) -> None:
    """Loss, accuracy, mean IoU or mAP, and learning rate over the epochs, from the lines of ``metrics.jsonl``."""
    figure = Figure(figsize=(12, 3.8), dpi=130, layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs = [r for r in records if r["kind"] == "epoch"]
    steps = [r for r in records if r["kind"] == "step"]
    per_epoch = epochs[0]["step"] / epochs[0]["epoch"]
    when = [r["step"] / per_epoch for r in steps]
    loss.plot(when, [r["loss"] for r in steps], color=COLORS[0], alpha=0.3, lw=1)
    _line(loss, epochs, "train_loss", COLORS[0], "training, as augmented")
    _line(loss, epochs, "val_loss", COLORS[1], "test")
    _line(loss, epochs, "validation_loss", COLORS[3], "validation")
    score = _score(epochs)
    _line(accuracy, epochs, score, COLORS[1], "weights", percent=True)
    _line(accuracy, epochs, f"validation_{score}", COLORS[3], "weights, on the validation split", percent=True)
    _line(accuracy, epochs, f"ema_{score}", COLORS[2], "averaged weights", percent=True)
    for line in accuracy.lines:
        line.set_label(f"{line.get_label()}, {line.get_ydata()[-1]:.2f} at the end")
    rate.plot(when, [r["lr"] for r in steps], color=COLORS[0], lw=1.8)
    rate.yaxis.set_major_formatter("{x:g}")
    for axes, text in ((loss, "Loss"), (accuracy, SCORES[score]), (rate, "Learning rate")):
        _style(axes, text)
        axes.set_xlabel("epoch", color=INK)
        axes.set_xlim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (loss, *([accuracy] if accuracy.lines else [])):  # nothing may have been evaluated yet
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    figure.savefig(path)


def comparison(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Test accuracy or mean IoU of a report's rows: over the epochs, and after the last one with a dot for every seed.

    A row has a ``label``, ``runs`` (one list of records per seed), final ``values`` in percent, their ``text``, and
    ``score``, which says what they are.
    """
    figure = Figure(figsize=(12, max(3.6, 1.2 + 0.5 * len(rows))), dpi=130, layout="constrained")
    over, final = figure.subplots(1, 2, width_ratios=(3, 2))
    for place, row in enumerate(rows):
        color, values = COLORS[place % len(COLORS)], row["values"]
        for index, records in enumerate(row["runs"]):
            score = row["score"]
            key = f"ema_{score}" if any(f"ema_{score}" in record for record in records) else score
            _line(over, records, key, color, row["label"] if index == 0 else None, percent=True)
        final.plot([min(values), max(values)], [place, place], color=color, lw=6, alpha=0.25, solid_capstyle="round")
        final.plot(values, [place] * len(values), "o", ms=8, color=color, mec="white", mew=1.2)
        text = (sum(values) / len(values), place)
        final.annotate(row["text"], text, (0, 9), textcoords="offset points", ha="center", color=INK, fontsize=9)
    if len(rows) <= LEGIBLE:
        over.legend(frameon=False, fontsize=8)
    over.set_xlabel("epoch", color=INK)
    over.xaxis.set_major_locator(MaxNLocator(integer=True))
    final.set_yticks(range(len(rows)), [row["label"] for row in rows])
    final.set_ylim(len(rows) - 0.4, -0.6)
    low, high = (extreme(value for row in rows for value in row["values"]) for extreme in (min, max))
    room = max(2.5, 0.35 * (high - low))  # points; a hair's breadth must not fill the picture
    final.set_xlim(low - room, high + room)
    names = dict.fromkeys(SCORES[row["score"]] for row in rows)
    _style(over, f"{'; '.join(names)}, of averaged weights where there are any")
    _style(final, "After the last epoch (%)")
    final.tick_params(axis="y", length=0)
    for place, label in enumerate(final.get_yticklabels()):
        label.set_color(COLORS[place % len(COLORS)])
    figure.savefig(path)


def shares(
    rows: Mapping[str, Sequence[float]],
    parts: Sequence[str],
    title: str,
    path: Path,
    marks: tuple[str, Sequence[float]] | None = None,
) -> None:
    """Bars of parts that add up to 1: each row's shares, in the order of `parts`, beside one another.

    `marks` are a name and one more share for each row, shown as a dot.
    """
    figure = Figure(figsize=(12, 1.2 + 0.3 * len(rows)), dpi=130, layout="constrained")
    axes = figure.subplots()
    start = [0.0] * len(rows)
    for index, (part, color) in enumerate(zip(parts, COLORS)):
        widths = [100 * row[index] for row in rows.values()]
        axes.barh(range(len(rows)), widths, left=start, color=color, label=part, height=0.75, ec="white")
        start = [left + width for left, width in zip(start, widths, strict=True)]
    if marks:
        values = [100 * value for value in marks[1]]
        axes.plot(values, range(len(rows)), "o", ms=7, color=INK, mec="white", mew=1.2, label=marks[0])
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.legend(frameon=False, fontsize=8, ncols=len(parts) + 1, loc="lower left", bbox_to_anchor=(0, 1))
    _style(axes, "")
    axes.tick_params(axis="y", length=0)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    figure.savefig(path)


def _score(epochs: Records) -> str:
    return next((score for score in SCORES if any(score in record for record in epochs)), "top1")


def _line(axes: Axes, records: Records, key: str, color: str, label: str | None, *, percent: bool = False) -> None:
    points = [(r["epoch"], r[key] * (100 if percent else 1)) for r in records if r["kind"] == "epoch" and key in r]
    if not points:
        return
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=color, lw=1.8, marker="o", ms=3 if len(x) < 40 else 0, label=label)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(visible=True, color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
