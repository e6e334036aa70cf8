"""Checkpoints: written whole or not at all, loadable with ``weights_only=True``.

``last.pt`` holds the newest state of a run. ``best.pt`` holds the weights that did best on the validation split. Where
there is none, they are those that did best on the *test* split: good for looking at, but their accuracy is optimistic,
and no report uses it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

LAST, BEST = "last.pt", "best.pt"


def save(state: dict[str, Any], path: Path) -> None:
    """Write beside ``path``, flush to disk, rename: a reader or a power cut never meets half a file."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint; ``path`` may be a run folder, whose newest state is then meant.

    Raises:
        FileNotFoundError: there is none, with a sentence saying what was looked for.
        ValueError: the file is damaged or no checkpoint of a run.
    """
    path = Path(path)
    path = path / LAST if path.is_dir() else path
    state = _read(path, device)
    if not _of_a_run(state):
        raise ValueError(f"{path} is not a checkpoint of a run: it lacks model, ema or step")
    return state


def weights(path: str | Path) -> dict[str, torch.Tensor]:
    """The weights in a run folder or checkpoint, averaged where there are such, or those that are all of a file.

    Raises:
        FileNotFoundError, ValueError: as for :func:`load`.
    """
    path = Path(path)
    path = path / LAST if path.is_dir() else path
    state = _read(path, "cpu")
    found = (state["ema"] or state["model"]) if _of_a_run(state) else state
    if not (isinstance(found, dict) and all(isinstance(value, torch.Tensor) for value in found.values())):
        raise ValueError(f"{path} holds neither a run's checkpoint nor weights alone")
    return found


def _read(path: Path, device: str | torch.device) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: the run was never started or stopped before its first save")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # what a damaged file brings about is up to chance
        raise ValueError(f"{path} cannot be read as a checkpoint: {error!r:.200}") from error


def _of_a_run(state: Any) -> bool:
    return isinstance(state, dict) and {"model", "ema", "step"} <= state.keys()
