"""Pictures of runs: curves of one or several, bars of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLORS = ("#2a6fbb", "#d9692c", "#2e8b57", "#8a5fb4", "#b8912a", "#4d4d4d")
INK, FAINT = "#333333", "#dddddd"

Records = Sequence[Mapping[str, Any]]


def curves(runs: Mapping[str, Records], path: Path) -> None:
    """Loss, accuracy and learning rate over the epochs; ``runs`` maps a label to the lines of ``metrics.jsonl``."""
    figure = Figure(figsize=(12, 3.8), dpi=130, layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    for index, (label, records) in enumerate(runs.items()):
        color, other = COLORS[index % len(COLORS)], COLORS[(index + 1) % len(COLORS)]
        several = len(runs) > 1
        other = color if several else other
        epochs = [r for r in records if r["kind"] == "epoch"]
        steps = [r for r in records if r["kind"] == "step"]
        per_epoch = epochs[0]["step"] / epochs[0]["epoch"]
        scale = [r["step"] / per_epoch for r in steps]
        loss.plot(scale, [r["loss"] for r in steps], color=color, alpha=0.3, lw=1)
        _line(loss, epochs, "train_loss", color, f"{label}, train" if several else "train")
        _line(loss, epochs, "val_loss", other, f"{label}, test" if several else "test", dash=several)
        _line(accuracy, epochs, "top1", color, f"{label}" if several else "weights", percent=True)
        _line(accuracy, epochs, "ema_top1", other, f"{label}, averaged" if several else "averaged weights",
              dash=several, percent=True)  # fmt: skip
        rate.plot(scale, [r["lr"] for r in steps], color=color, lw=1.8, label=label)
    for axes, title in ((loss, "Loss"), (accuracy, "Test accuracy (top-1, %)"), (rate, "Learning rate")):
        _style(axes, title)
        axes.set_xlabel("epoch", color=INK)
    for axes in (loss, accuracy):
        axes.legend(frameon=False, fontsize=8)
    for axes in (loss, accuracy, rate):
        axes.set_xlim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    rate.yaxis.set_major_formatter("{x:g}")
    figure.suptitle(", ".join(runs), x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    figure.savefig(path)


def bars(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Accuracy of each row of a report: faint dots are seeds, bars their mean; rows carry ``label`` and ``values``."""
    figure = Figure(figsize=(8, 1.3 + 0.55 * len(rows)), dpi=130, layout="constrained")
    axes = figure.subplots()
    low = min(value for row in rows for value in row["values"])
    left = max(0.0, low - max(2.0, 0.5 * (100 - low)))
    for place, row in enumerate(rows):
        mean = sum(row["values"]) / len(row["values"])
        axes.barh(place, mean - left, left=left, height=0.55, color=COLORS[place % len(COLORS)])
        axes.plot(row["values"], [place] * len(row["values"]), "o", ms=4, color="white", mec=INK, mew=0.8)
        axes.annotate(row["text"], (max(row["values"]), place), (8, 0), textcoords="offset points", va="center", color=INK)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(left, left + 1.25 * (max(v for row in rows for v in row["values"]) - left))
    _style(axes, f"Test accuracy (top-1, %; axis starts at {left:.0f})")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    figure.savefig(path)


def _line(axes: Axes, records: Records, key: str, color: str, label: str, *, dash=False, percent=False) -> None:
    points = [(r["epoch"], r[key] * (100 if percent else 1)) for r in records if key in r]
    if points:
        x, y = zip(*points)
        axes.plot(x, y, color=color, lw=1.8, ls="--" if dash else "-", marker="o", ms=3 if len(x) < 40 else 0, label=label)
        if percent:
            axes.annotate(f"{y[-1]:.1f}", (x[-1], y[-1]), (4, 3), textcoords="offset points", color=color, fontsize=8)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(visible=True, color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
