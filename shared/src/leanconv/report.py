"""Reports: run folders gathered into one table, the paper's number beside ours."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanconv import plots
from leanconv.training.run_folder import INCIDENTAL, read_metrics


@dataclass(frozen=True)
class Row:
    """Runs that differ in the seed alone, and what the paper says about them."""

    label: str
    runs: list[dict[str, Any]]

    @property
    def score(self) -> str:
        """Key of the number that tells which network is better."""
        return self.runs[0].get("score", "top1")

    def spread(self, key: str) -> str:
        """Mean +- sample standard deviation over seeds, in percent; a single run has no spread to show."""
        values = self.values(key)
        if not values:
            return "-"
        deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.2f}{deviation}"

    def values(self, key: str) -> list[float]:
        return [100 * run[key] for run in self.runs if key in run]


@dataclass(frozen=True)
class Report:
    """Rows, unfinished run folders, and what was not run at all."""

    rows: list[Row]
    unfinished: list[str]
    not_run: list[str]

    def markdown(self) -> str:
        """The table and its notes."""
        return self._render(padded=False)

    def text(self) -> str:
        """The same for a terminal, columns aligned."""
        return self._render(padded=True)

    def _render(self, *, padded: bool) -> str:
        scores = _unique(row.score for row in self.rows) or ["top1"]
        titles = [f"{SCORES[key]}{kind}" for score in scores for key in _with(score) for kind in _KINDS.values()]
        table = [[*_FIRST, *titles, *_LAST], *(_cells(row, scores) for row in self.rows)]
        rare = [title.endswith(_RARE) for title in table[0]]
        kept = [i for i, (_, *cells) in enumerate(zip(*table)) if not rare[i] or {*cells} - {"-"}]
        table = [[line[i] for i in kept] for line in table]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        if padded:
            lines = [
                "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                for line in table
            ]
            lines.insert(1, "  ".join("-" * width for width in widths))
        else:
            lines = ["| " + " | ".join(line) + " |" for line in table]
            lines.insert(1, "| " + " | ".join(["---"] * len(kept)) + " |")
        return "\n".join(lines + ["", *self._notes()]) + "\n"

    def _notes(self) -> list[str]:
        runs = [run for row in self.rows for run in row.runs]
        scores = _unique(row.score for row in self.rows) or ["top1"]
        names = " and ".join(_IN_WORDS[score] for score in scores)
        notes = [
            f"{names} in percent after the last epoch (none was picked by its test accuracy); time includes evaluation."
        ]
        if any(row.values(f"picked_{row.score}") for row in self.rows):
            notes.append(
                "Picked: the epoch that did best on training examples held out for it, scored on the test ones."
            )
        if any(row.values("miou_multiscale") for row in self.rows):
            notes.append("Multi-scale: by the mean of what the network says of an image at several sizes and mirrored.")
        chances = {row.score for row in self.rows if row.values("chance")}
        notes += [f"Chance: {_CHANCE[score]}." for score in scores if score in chances]
        single = [row for row in self.rows if row.score == "top1"]
        notes += [_luck(single)] if single else []
        notes += [f"Data: {text}." for text in _unique(run["data_source"].rstrip(".") for run in runs)]
        notes += [f"Paper: {text}." for text in _unique(run["paper"]["source"] for run in runs if "paper" in run)]
        notes += [f"Measured on {birth}." for birth in _unique(map(_birth, runs))]
        notes += [f"Not finished: {text}" for text in self.unfinished]
        if self.not_run:
            notes.append(f"Not run here (paper's numbers in brackets): {'; '.join(self.not_run)}.")
        return [f"- {note}" for note in notes]

    def save(self, folder: str | Path) -> None:
        """Write ``report.md``, ``report.json`` and, where a run is finished, ``report.png``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(self.markdown())
        (folder / "report.json").write_text(json.dumps({row.label: row.runs for row in self.rows}, indent=2) + "\n")
        if self.rows:
            plots.comparison([_pictured(row) for row in self.rows], folder / "report.png")


SCORES = {
    "top1": "top-1",
    "miou": "mIoU",
    "miou_multiscale": "mIoU multi-scale",
    "box_map": "box mAP",
    "mask_map": "mask mAP",
}
_BESIDE = {"box_map": ("mask_map",), "miou": ("miou_multiscale",)}  # what has columns beside a score
_KINDS = {"": "", "ema_": " EMA", "picked_": " picked"}
_IN_WORDS = {"top1": "Top-1", "miou": "Mean IoU", "box_map": "COCO's mean average precision of boxes and masks"}
_CHANCE = {
    "top1": "the share of the largest class among the test examples",
    "miou": "the mean IoU of naming everywhere the class that has most pixels of the test images",
    "box_map": "the box mAP of finding in each test image the usual box of the training images' commonest class",
}
_FIRST, _LAST = ("network", "data", "epochs", "seeds", "params", "MACs", "chance"), ("time", "paper")
# Left out of tables that have none:
_RARE = ("chance", " picked", "mask mAP", "mask mAP EMA", "multi-scale", "multi-scale EMA")


def gather(folders: Iterable[str | Path]) -> Report:
    """Read every run folder at or below ``folders``.

    Runs of the same recipe form one row over their seeds; of runs repeated with one seed the newest counts.

    Raises:
        FileNotFoundError: a folder is missing or holds no run.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    unfinished: list[str] = []
    for folder in map(Path, folders):
        found = sorted(path.parent for path in folder.rglob("recipe.json"))
        if not found:
            raise FileNotFoundError(f"no run at or below {folder}: a run folder holds a recipe.json")
        for run in found:
            if not (run / "summary.json").is_file():
                unfinished.append(f"{run}, {_progress(run)}")
                continue
            summary = json.loads((run / "summary.json").read_text()) | {"folder": str(run)}
            recipe = json.loads((run / "recipe.json").read_text()) | dict.fromkeys(("seed", *INCIDENTAL))
            rows.setdefault(json.dumps(recipe, sort_keys=True), []).append(summary)
    merged = [Row(runs[0].get("row", runs[0]["model"]), _newest(runs)) for runs in rows.values()]
    table = {label: text for row in merged for label, text in row.runs[0].get("table", {}).items()}
    not_run = [f"{label} ({text})" for label, text in table.items() if label not in {row.label for row in merged}]
    return Report(merged, unfinished, not_run)


def _newest(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One run of each seed: of several the last, or repeating a run would pass for a second seed."""
    by_seed = {run["seed"]: run for run in sorted(runs, key=lambda run: run["environment"]["date"])}
    return [by_seed[seed] for seed in sorted(by_seed)]


def _cells(row: Row, scores: list[str]) -> list[str]:
    first = row.runs[0]
    return [
        row.label,
        first["data"],
        str(first["epochs"]),
        str(len(row.runs)),
        f"{first['params'] / 1e6:.3g} M",
        f"{first['macs'] / 1e6:.4g} M",
        row.spread("chance"),
        *(row.spread(f"{kind}{key}") for score in scores for key in _with(score) for kind in _KINDS),
        _duration(statistics.mean(run["seconds"] for run in row.runs)),
        _published(first["paper"], row.score) if "paper" in first else "-",
    ]


def _published(paper: dict[str, Any], score: str) -> str:
    names = {score: "", f"ema_{score}": " EMA", **{key: f" {SCORES[key]}" for key in _with(score)[1:]}}
    return f"{' / '.join(f'{paper[key]}{name}' for key, name in names.items() if key in paper)}, {paper['on']}"


def _with(score: str) -> tuple[str, ...]:
    return (score, *_BESIDE.get(score, ()))


def _pictured(row: Row) -> dict[str, Any]:
    key = f"ema_{row.score}" if row.values(f"ema_{row.score}") else row.score
    runs = [read_metrics(Path(run["folder"])) for run in row.runs]
    return {"label": row.label, "runs": runs, "values": row.values(key), "text": row.spread(key), "score": row.score}


def _luck(rows: list[Row]) -> str:
    """How far apart equal networks may lie by the luck of the test examples: two standard deviations."""
    shares = [(row.runs[0]["test_images"], statistics.mean(row.values("top1")) / 100) for row in rows]
    points, count = max((200 * (2 * share * (1 - share) / count) ** 0.5, count) for count, share in shares)
    unit = next(row.runs[0].get("unit", "images") for row in rows if row.runs[0]["test_images"] == count)
    return f"With {count} test {unit}, chance alone may part two equally good networks by {points:.1f} points."


def _progress(run: Path) -> str:
    records = read_metrics(run)
    return f"last logged step {records[-1]['step']}" if records else "no step logged"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _birth(run: dict[str, Any]) -> str:
    environment = run["environment"]
    commit = environment["commit"] or "unknown"
    versions, date = environment["versions"], environment["date"][:10]
    return f"{run['hardware']}, torch {versions['torch']}, {date}, commit {commit[:8]}{commit[40:]}"
