"""The command line's ``train``, ``eval`` and ``report``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from datetime import datetime
from pathlib import Path

import torch

from leanconv import data as datasets
from leanconv import report
from leanconv.training import build, checkpoint, evaluate, fit
from leanconv.training.evaluation import evaluate_views
from leanconv.training.recipe import ConfigError, Recipe
from leanconv.training.run_folder import read_recipe
from leanconv.training.world import join


def add(commands: argparse._SubParsersAction) -> None:
    """Add the three sub-commands; each sets ``run`` to a function of the parsed arguments."""
    train = commands.add_parser("train", help="train a network by a recipe", description=_train.__doc__)
    train.add_argument("model", nargs="?", help="a name that `leanconv models` lists")
    train.add_argument("--data", metavar="NAME", help="a name that `leanconv datasets` lists")
    train.add_argument("--config", type=Path, metavar="FILE", help="a recipe.json to start from; flags win over it")
    train.add_argument("--out", type=Path, metavar="FOLDER", help="run folder (default: runs/MODEL-DATA-TIME)")
    train.add_argument("--resume", type=Path, metavar="RUN", help="continue the run in this folder, unchanged")
    known = ", ".join(f.name for f in dataclasses.fields(Recipe))
    train.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend", help=f"any of {known}")
    train.set_defaults(run=_train, refuse=train.error)

    score = commands.add_parser("eval", help="score a run or a checkpoint", description=_eval.__doc__)
    score.add_argument("run_or_checkpoint", type=Path)
    score.set_defaults(run=_eval)

    table = commands.add_parser("report", help="gather run folders into a table", description=_report.__doc__)
    table.add_argument("runs", nargs="+", type=Path, help="run folders, or folders that hold them")
    table.add_argument("--out", type=Path, metavar="FOLDER", help="also write report.md, report.json and report.png")
    table.set_defaults(run=_report)
    for command in (train, score):
        command.add_argument("--root", dest="data_root", metavar="PATH", help="where the data set lies")
        command.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")


def _train(args: argparse.Namespace) -> int:
    """Train a network by a recipe; the run folder holds everything needed to repeat or resume it."""
    if args.resume:
        if args.model or args.data or args.config or args.out or args.set:
            raise ConfigError("--resume continues a run unchanged: leave out MODEL, --data, --config, --out and --set")
        recipe, out = read_recipe(args.resume), args.resume
        if args.data_root:
            recipe = recipe.override({"data_root": args.data_root})
        return _fit(recipe, out, args.device, resume=True)
    if args.data:
        datasets.check(args.data)
    if not (args.model or args.config or any(text.startswith("model=") for text in args.set)):
        args.refuse("name a network, such as convnext_tiny_1d; `leanconv models` lists them")
    named = {key: getattr(args, key) for key in ("model", "data", "data_root") if getattr(args, key)}
    recipe = (_read_config(args.config) if args.config else Recipe()).override(named).override(args.set)
    out = args.out or Path("runs", f"{recipe.model}-{recipe.data}-{datetime.now():%Y%m%d-%H%M%S}")
    return _fit(recipe, out, args.device, resume=False)


def _read_config(file: Path) -> Recipe:
    try:
        changes = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"--config: {file} is not JSON: {error}") from error
    if not isinstance(changes, dict):
        raise ConfigError(f"--config: {file} holds no recipe: it must be one JSON object of names and values")
    return Recipe().override(changes)


def _fit(recipe: Recipe, out: Path, device: str | None, *, resume: bool) -> int:
    with join(device) as world:
        if not (resume and (out / "summary.json").is_file()):
            fit(None, recipe, out=out, resume=resume, device=world.device)
        elif world.main:
            sys.stderr.write(
                f"{out} is finished: {out}/summary.json holds its numbers, `leanconv report {out}` prints\n"
            )
        if world.main:
            sys.stdout.write(report.gather([out]).text())
    return 0


def _eval(args: argparse.Namespace) -> int:
    """Accuracy of a finished or unfinished run's weights, plain and averaged, on its test images."""
    path = args.run_or_checkpoint
    recipe = read_recipe(path)
    with join(args.device) as world:
        data = build.data(recipe.override({"data_root": args.data_root}) if args.data_root else recipe)
        state = checkpoint.load(path, world.device)
        network = build.model(recipe, data).to(world.device)
        _, loader, _ = build.loaders(recipe, data, world)
        views = build.views(recipe, data, world)
        for name in ("model", "ema"):
            if state[name] is None:
                continue
            network.load_state_dict(state[name])
            network.to(memory_format=torch.channels_last if recipe.channels_last else torch.contiguous_format)
            scores = evaluate(network, loader, recipe)
            if views is not None:
                scores |= evaluate_views(network, views, recipe)
            text = "  ".join(f"{key} {value:.4f}" for key, value in scores.items())
            if world.main:
                title = {"model": "weights", "ema": "averaged weights"}[name]
                sys.stdout.write(f"{title} at step {state['step']}: {text}\n")
    return 0


def _report(args: argparse.Namespace) -> int:
    """One table over run folders: the paper's number beside ours, and what was not run."""
    gathered = report.gather(args.runs)
    sys.stdout.write(gathered.text())
    if args.out:
        gathered.save(args.out)
    return 0
