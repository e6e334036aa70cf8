"""The run folder: everything a run leaves behind besides its checkpoints."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from leanconv import environment, plots
from leanconv.training.recipe import ConfigError, Recipe

log = logging.getLogger("leanconv")

INCIDENTAL = ("data_root", "workers", "save_seconds")  # may change between the start of a run and its resumption


class RunFolder:
    """Writes ``recipe.json``, ``environment.json``, ``metrics.jsonl``, ``summary.json``, ``curves.png``, ``run.log``
    and tensorboard events under ``path``. Processes other than the main one get ``active=False`` and write nothing.

    Beside them lie the checkpoints: ``last.pt``, to resume from, and ``best.pt``, the weights of the epoch with the
    highest accuracy on the validation split, or where there is none, on the test split. As that chose it, its accuracy,
    the summary's ``best_test_top1``, is no result to report; ``top1`` and ``ema_top1`` are, those of the last epoch.

    Nothing is written before :meth:`open`.

    Raises:
        ConfigError: a run lies there already and ``resume`` is false, or it was made by another recipe.
    """

    def __init__(self, path: Path, recipe: Recipe, *, resume: bool, active: bool) -> None:
        self.path, self.active = path, active
        self.records: list[dict[str, Any]] = []
        self._recipe = new = json.loads(json.dumps(recipe.to_dict()))
        if not active:
            return
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path} is a file: a run needs a folder")
        old = read_json(path / "recipe.json", new)
        if (path / "recipe.json").is_file() and not resume:
            raise ConfigError(f"{path} already holds a run: resume it or choose another folder")
        changed = [key for key in new if old.get(key) != new[key] and key not in INCIDENTAL]
        if changed:
            said = ", ".join(f"{key} {old.get(key)!r} there, {new[key]!r} here" for key in changed)
            raise ConfigError(f"{path} was made by another recipe ({said}): resume unchanged or start a new folder")

    def open(self) -> None:
        """Make the folder, say what runs where, and start the log."""
        if not self.active:
            return
        self._new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "recipe.json", self._recipe)
        # One entry per start: a run may be resumed on another machine.
        starts = read_json(self.path / "environment.json", [])
        write_json(self.path / "environment.json", [*starts, environment.describe()])
        self._handler = logging.FileHandler(self.path / "run.log")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(self._handler)
        log.setLevel(min(log.getEffectiveLevel(), logging.INFO))
        self._events: Any = None

    def rewind(self, step: int, evaluated: int) -> None:
        """Forget what was logged after these steps of training and evaluation: a resumed run writes it again."""
        if self.active:
            file = self.path / "metrics.jsonl"
            until = {"step": step, "epoch": evaluated}
            self.records = [record for record in read_metrics(self.path) if record["step"] <= until[record["kind"]]]
            file.write_text("".join(json.dumps(record) + "\n" for record in self.records))

    def write(self, record: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl`` and its numbers to tensorboard."""
        self.records.append(record)
        if not self.active:
            return
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

            self._events = SummaryWriter(str(self.path), purge_step=record["step"])
        for key, value in record.items():
            if isinstance(value, float):
                self._events.add_scalar(f"{record['kind']}/{key}", value, record["step"])

    def draw(self) -> None:
        if self.active and any(record["kind"] == "epoch" for record in self.records):
            plots.curves(self.records, self.path.name, self.path / "curves.png")

    def finish(self, summary: dict[str, Any]) -> None:
        if self.active:
            write_json(self.path / "summary.json", summary)
            self.draw()

    def discard(self) -> None:
        """Close, and remove what :meth:`open` has made: nothing could begin, and the folder is free for another try."""
        self.close()
        if self.active and self._new:
            shutil.rmtree(self.path)

    def close(self) -> None:
        if self.active:
            log.removeHandler(self._handler)
            self._handler.close()
            if self._events is not None:
                self._events.close()


def read_recipe(path: str | Path) -> Recipe:
    """The recipe a run folder, or a checkpoint that lies in one, was made by."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    file = (path if path.is_dir() else path.parent) / "recipe.json"
    if not file.is_file():
        missing = "a run folder: it has no" if path.is_dir() else "a run's checkpoint: beside it lies no"
        raise FileNotFoundError(f"{path} is not {missing} recipe.json")
    return Recipe().override(json.loads(file.read_text()))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last one cut short by a kill is left out."""
    file = path / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def read_json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.is_file() else default


def write_json(path: Path, value: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(path)
