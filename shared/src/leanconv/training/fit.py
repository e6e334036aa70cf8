"""The public calls: train by a recipe, continue a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leanconv import models
from leanconv.data import Data
from leanconv.training import build, checkpoint
from leanconv.training.recipe import Recipe
from leanconv.training.run_folder import RunFolder, read_recipe
from leanconv.training.trainer import Interrupted, Trainer, Watch
from leanconv.training.world import Interrupt, join


@dataclass(frozen=True)
class Result:
    """What :func:`fit` hands back: the run folder, its summary, and the weights, plain and averaged."""

    folder: Path
    summary: dict[str, Any]
    model: nn.Module
    ema: nn.Module | None


def fit(
    model: nn.Module | str | None,
    recipe: Recipe,
    data: Data | None = None,
    *,
    out: str | Path,
    resume: bool = False,
    device: str | torch.device | None = None,
    card: dict[str, Any] | None = None,
    watch: Watch | None = None,
) -> Result:
    """Train by a recipe and leave a run folder; the same call runs unchanged under torchrun.

    The result is the accuracy after the last epoch: ``top1``, and ``ema_top1`` of the averaged weights. Of dense
    prediction it is the mean IoU, and ``miou`` stands in these names and those that follow for ``top1``. Where the data
    have a validation split, by the recipe or of their own, best.pt holds the epoch that did best on it, and
    ``picked_top1`` its accuracy on the test split: a result too. Without one, best.pt was chosen by the test split
    itself, so its score, ``best_test_top1``, flatters: it tells that a run got worse towards its end and is no number
    to report.

    Every random choice depends only on the recipe's seed, the step and the process, so a run that was killed and
    resumed ends with bitwise the weights of an unbroken one (same machine, same number of processes and threads; on
    CUDA with ``deterministic=True``).

    Args:
        model: a module, a name, or None for the recipe's own.
        recipe: the hyperparameters.
        data: what to train on; None loads ``recipe.data``.
        out: the run folder.
        resume: continue from the folder's last checkpoint, if it has one.
        device: "cpu", "cuda", ...; None takes a GPU where there is one.
        card: JSON-ready facts to keep in the summary, such as the paper's number for this row.
        watch: called by one process as ``watch(network, step, steps_in_all, folder)``, before the first step of a new
            or resumed run and after each step.

    Raises:
        ConfigError: the recipe cannot be used here, ``out`` holds another run, or processes would resume from
            different steps.
        ValueError: no network or data set has the recipe's name.
        DataNotFound: the data set is absent and could not be fetched.
        Diverged: the loss became infinite or NaN.
        Interrupted: SIGINT (Ctrl-C) or SIGTERM arrived; a checkpoint was written, or the run is finished.

    Example:
        >>> from leanconv import training
        >>> recipe = training.Recipe(model="convnext_tiny_1d", data="fashion_mnist", epochs=1)  # doctest: +SKIP
        >>> training.fit(None, recipe, out="runs/first").summary["top1"]  # doctest: +SKIP
    """
    if isinstance(model, str):
        recipe = recipe.override({"model": model})
        model = None
    with join(device) as world, Interrupt() as interrupt:
        if recipe.deterministic:
            torch.use_deterministic_algorithms(True, warn_only=True)
        # Whatever can be refused is, before gigabytes of data are fetched.
        build.local_batch(recipe, world.size)
        if model is None:
            models.check(recipe.model)
        folder = RunFolder(Path(out), recipe, resume=resume, active=world.main)
        data = data or build.data(recipe)
        network = build.model(recipe, data) if model is None else model
        folder.open()
        try:
            trainer = Trainer(network, recipe, data, folder, world, interrupt, card or {}, watch)
        except BaseException:
            folder.discard()
            raise
        try:
            result = Result(folder.path, trainer.run(), trainer.network, trainer.ema and trainer.ema.module)
        finally:
            folder.close()
        if world.any(interrupt.asked):  # after the last step: there is nothing left to stop here, but in what calls us
            raise Interrupted(f"stopped; the run in {folder.path} is finished and needs no resuming")
        return result


def resume(run: str | Path, model: nn.Module | None = None, data: Data | None = None, **kwargs: Any) -> Result:
    """Continue the run in a folder; a model or data set that the recipe cannot name must be given again."""
    return fit(model, read_recipe(run), data, out=run, resume=True, **kwargs)


def load(run: str | Path, *, ema: bool = False) -> tuple[nn.Module, Data]:
    """The network of the run in a folder with its newest weights, or their moving average, and the data it saw.

    Raises:
        FileNotFoundError: no run lies there, or none that has saved weights.
        ValueError: the averaged weights are wanted and the run has none.

    Example:
        >>> network, data = load("runs/first")  # doctest: +SKIP
    """
    recipe, state = read_recipe(run), checkpoint.load(run)
    weights = state["ema" if ema else "model"]
    if weights is None:
        raise ValueError(f"{run} has no averaged weights: its recipe has ema_decay=None")
    data = build.data(recipe)
    network = build.model(recipe, data)
    network.load_state_dict(weights)
    return network, data
