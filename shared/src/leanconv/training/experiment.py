"""What every experiment script shares: its flags, its seeds, its report, its exit code."""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from leanconv import report
from leanconv.training.fit import fit
from leanconv.training.recipe import ConfigError, Recipe
from leanconv.training.trainer import Diverged, Interrupted, Watch
from leanconv.training.world import join

# Name of the run folder, recipe, and the card of what really ran: --set may have changed the recipe.
Plan = tuple[str, Recipe, Callable[[Recipe], dict[str, Any]]]


def add_arguments(parser: argparse.ArgumentParser, out: str, *, folders: bool = True) -> None:
    """Add the flags that every experiment takes; ``folders`` says that it may train on one's own folders of images."""
    own = "; a folder of your own images, one in it for each class, also needs --set data=imagefolder"
    parser.add_argument("--smoke", action="store_true", help="a small network on real data, minutes on two cores")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="the data set's folder, or one with it under its name (imagenet/, coco/, ADEChallengeData2016/, ...)"
        f"{own if folders else ''}",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"for run folders and report (default: {out}-TIME)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue in --out, by default the newest, what is unfinished; start where there is nothing",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend", help="change the recipe")
    parser.set_defaults(default_out=Path(out))


def paths(
    flag: str, texts: Iterable[str], reads: str, known: Iterable[str], running: tuple[str, Sequence[str]] | None = None
) -> dict[str, str]:
    """What a flag gives for some of several names: ``["csg=runs/b"]`` as ``{"csg": "runs/b"}``.

    Args:
        flag: Its name, for the messages.
        texts: What was given.
        reads: What each must read, such as "KIND=RUN".
        known: The names that there are.
        running: The flag that chooses among the names, and those that it chose.

    Raises:
        ConfigError: a text that does not read so, a name that there is not or that does not run, or one twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if name not in known or not equals or not path:
            what = reads.partition("=")[0].lower()
            raise ConfigError(f"{flag} must read {reads}, a {what} being one of {', '.join(known)}, got {text!r}")
        if running and name not in running[1]:
            chosen = f"{running[0]} is {' '.join(running[1])}"
            raise ConfigError(f"{flag} {name}=... is for what does not run: {chosen}")
        if name in found:
            raise ConfigError(f"{flag} {name}=... is given twice, {found[name]!r} and {path!r}")
        found[name] = path
    return found


def run(
    plans: Sequence[Plan],
    args: argparse.Namespace,
    after: Callable[[Path], None] | None = None,
    watch: Watch | None = None,
) -> int:
    """Train every plan for every seed, then save the report and say where it lies. Returns the exit code.

    ``after`` is told the folder of each finished run, those finished before ``--resume`` included, by one process.
    ``watch`` sees each step, as :func:`leanconv.training.fit` says. ``args.out`` becomes the folder that was taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if not (args.smoke or args.data):
            raise ConfigError("give --data PATH for the full experiment, or --smoke for a small one on real data")
        with join(args.device) as world:
            # Processes may read the clock in different seconds.
            args.out = out = Path(world.same(str(args.out or folder(args))))
            for seed, (name, recipe, card) in itertools.product(args.seeds, plans):
                chosen = recipe.override({"data_root": args.data, "seed": seed}).override(args.set)
                place = out / f"{name}-seed{seed}"
                if not (args.resume and (place / "summary.json").is_file()):
                    options = {"resume": args.resume, "device": world.device, "card": card(chosen), "watch": watch}
                    fit(None, chosen, out=place, **options)
                if after and world.main:
                    after(place)
                world.barrier()  # what comes next may read what has been left
            if world.main:
                report.gather([out]).save(out)
                sys.stdout.write(f"{out}/report.md holds the numbers; `leanconv report {out}` prints them\n")
    except Interrupted as stop:
        sys.stderr.write(f"{stop}; {_how_to_go_on(args.resume)}\n")
        return 130
    except (Diverged, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _how_to_go_on(resuming: bool) -> str:
    """What to type for all that this experiment has left. A launcher's or nox's own words are not known here."""
    if "WORLD_SIZE" in os.environ:
        return "the same launch with --resume goes on with all that is left"
    command = shlex.join([*sys.orig_argv, *([] if resuming else ["--resume"])])
    return f"`{command}` goes on with all that this experiment has left"


def folder(args: argparse.Namespace) -> Path:
    """A new folder named after the time, or with ``--resume`` the newest if there is one."""
    stem = f"{args.default_out.name}{'-smoke' if args.smoke else ''}"
    new = args.default_out.with_name(f"{stem}-{datetime.now():%Y%m%d-%H%M%S}")
    if not args.resume:
        return new
    found = sorted(args.default_out.parent.glob(f"{stem}-[0-9]*"))
    if not found:
        logging.info("nothing to resume: there is no %s-*; starting in %s", args.default_out.with_name(stem), new)
    return found[-1] if found else new
