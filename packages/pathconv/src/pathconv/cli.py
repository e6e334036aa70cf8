"""`python -m pathconv`: backends, drawings, measures and searches; results on stdout, messages on stderr.

Exit code 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .curves import CURVES, PathConfig
from .locality import Locality, locality, raster_distances
from .path_set import PathSet
from .presets import ABOUT, PRESETS, preset_set

_PATHS = """
PATH is a curve ({curves}),
a window of a curve with pad, row, column and rotation, such as hilbert:24,14,1,180,
a .json file of a path set, such as `search` writes, or a preset:
{presets}
Write 'g*' and 'z*' in quotes, or the shell looks for files of such names.
"""
_INTERRUPTED = 130  # as shells report a program ended by Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        for line in args.run(args):
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"{str(stop) or 'interrupted'}\n")
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError, TypeError, ImportError, RuntimeError) as error:
        if args.traceback:
            raise
        sys.stderr.write(f"pathconv: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m pathconv", description="Paths over images; without a command, what can run the ops here and why."
    )
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    parser.set_defaults(run=_backends)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    text: dict[str, Any] = {
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "epilog": _PATHS.format(
            presets="\n".join(f"  {name:3} {about}" for name, about in ABOUT.items()), curves=", ".join(CURVES)
        ),
    }

    command = commands.add_parser("draw", help="draw paths: PNG, SVG, PDF or an animated GIF", **text)
    command.add_argument("paths", nargs="+", metavar="PATH", help="see below; several come side by side in one file")
    _add_size(command)
    command.add_argument(
        "--show",
        default="path",
        choices=("path", "better", "distance", "window", "coverage"),
        help="the path (default), which pixels are better than in the raster, the distance of each pixel's neighbours "
        "over the raster's, the window in its larger grid, or how many paths are better at each pixel",
    )
    command.add_argument("--columns", type=_positive, metavar="N", help="drawings per row")
    command.add_argument("--seconds", type=float, default=6.0, help="how long a GIF takes for the way (default: 6)")
    command.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        help="the one file to write, replaced if it is there; its ending says what: .png, .svg, .pdf, or .gif, which "
        "is animated and shows paths alone (default: a PNG here, named after the paths and the size)",
    )
    command.set_defaults(run=_draw)

    command = commands.add_parser(
        "locality", help="how near neighbours stay along paths, against the raster: table 1 of the paper", **text
    )
    command.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="see below; of several, each is measured, then all as one set (default: table 1)",
    )
    _add_size(command)
    command.set_defaults(run=_locality)

    command = commands.add_parser("search", help="find the cheapest set of shifted paths that loses no pixel")
    command.add_argument("curve", choices=("hilbert", "zorder"))
    _add_size(command)
    command.add_argument(
        "--solver",
        default="exact",
        choices=("greedy", "rounding", "exact", "cbc", "highs"),
        help="greedy and (randomised) rounding are the paper's; exact (default) proves its optimum or prints its "
        "bound; cbc and highs do so by independent programmes, for small sizes",
    )
    command.add_argument(
        "--max-pad", type=int, metavar="N", help="largest pad of the windows (default: as in the authors' code)"
    )
    command.add_argument(
        "--diagonal-windows",
        action="store_true",
        help="also windows at |row - column| <= 1, which the authors' code leaves out",
    )
    command.add_argument("--seed", type=int, default=0, help="of rounding (default: 0)")
    command.add_argument("--rounds", type=_positive, default=30, help="of rounding (default: 30)")
    command.add_argument(
        "--time-limit", type=float, metavar="SECONDS", help="stop exact then, with the best set so far"
    )
    command.add_argument(
        "--resume", type=Path, metavar="FILE", help="keep the state of exact here, and go on from it if it is there"
    )
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the set as JSON")
    command.set_defaults(run=_search)
    return parser


def _add_size(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--size", type=_positive, nargs="+", metavar="N", help="side of the image, or height and width (default: 32)"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but it is {value}")
    return value


def _size(args: argparse.Namespace) -> tuple[int, int]:
    size = args.size or [32]
    if len(size) > 2:
        raise ValueError(f"--size takes one or two numbers here, but there are {len(size)}.")
    return size[0], size[-1]


def _paths(args: argparse.Namespace) -> list[PathSet]:
    """What each PATH names, over images of one size."""
    files = {name: PathSet.load(name) for name in args.paths if name.endswith(".json")}
    first = next(iter(files.values()), None)
    height, width = (first.height, first.width) if first and not args.size else _size(args)
    for name, known in files.items():
        if (known.height, known.width) != (height, width):
            raise ValueError(f"{name} is for {known.height} x {known.width} pixels, not for {height} x {width}.")
    sets = []
    for name in args.paths:
        if name in files:
            sets.append(files[name])
        elif name in PRESETS:
            sets.append(preset_set(name, height, width))
        else:
            sets.append(PathSet.of([_config(name)], height, width))
    return sets


def _together(sets: Sequence[PathSet]) -> PathSet:
    return PathSet.of([config for paths in sets for config in paths.configs], sets[0].height, sets[0].width)


def _config(text: str) -> PathConfig:
    curve, _, window = text.partition(":")
    if curve not in CURVES:
        raise ValueError(f"{text!r} is no preset, no curve and no .json file; --help says what there is.")
    if not window:
        return PathConfig(curve)
    try:
        pad, row, column, rotation = map(int, window.split(","))
    except ValueError:
        raise ValueError(f"{text!r} must be {curve}:pad,row,column,rotation, such as {curve}:24,14,1,180.") from None
    return PathConfig(curve, pad, (row, column), rotation)


def _backends(args: argparse.Namespace) -> list[str]:
    from . import __version__, ops

    return [f"pathconv {__version__}", *(f"{name:12} {value}" for name, value in ops.backends.info().items())]


def _draw(args: argparse.Namespace) -> list[str]:
    from .plot import animate, draw

    paths = _together(_paths(args))
    names = [Path(path).stem if path.endswith(".json") else path.replace("*", "star") for path in args.paths]
    name = re.sub(r"[^\w.-]+", "-", "_".join(names if args.show == "path" else [*names, args.show]))
    file = args.out or Path(f"{name}_{paths.height}x{paths.width}.png")
    if not file.suffix:
        raise ValueError(f"--out {file} has no ending that says what to write: .png, .svg, .pdf or .gif.")
    if file.suffix.lower() == ".gif":
        if args.show != "path":
            raise ValueError(f"--show {args.show} has no animation, but --out {file} is one: write a .png or .svg.")
        animate(paths, file, seconds=args.seconds, columns=args.columns)
    else:
        draw(paths, show=args.show, columns=args.columns).savefig(file)
    return [str(file)]


def _locality(args: argparse.Namespace) -> list[str]:
    if not args.paths:
        return _table_1(args.size or [8, 16, 32, 64, 128, 256])
    names = [Path(name).name if name.endswith(".json") else name for name in args.paths]
    return _measures(names, _paths(args))


def _table_1(sides: Sequence[int]) -> list[str]:
    """Locality of the curves themselves; the paper truncates its percentages."""
    head = f"{'size':>9} {'raster':>13}"
    lines = [
        head + "".join(f" | {curve:>13} {'better':>7} {'tied':>5} {'P_sd':>8}" for curve in ("Hilbert", "Z-order"))
    ]
    for side in sides:
        line = f"{f'{side} x {side}':>9} {int(raster_distances(side, side).sum()):>13,}"
        for curve in ("hilbert", "zorder"):
            measured = locality(PathConfig(curve), side, side)
            line += f" | {int(measured.total):>13,} {int(measured.better):>7,} {int(measured.tied):>5} "
            line += f"{measured.share.item():>8.3%}"
        lines.append(line)
    return lines


def _measures(names: Sequence[str], sets: Sequence[PathSet]) -> list[str]:
    """Each set's paths and their union; of several sets also the union of all."""
    together = _together(sets)
    height, width, several = together.height, together.width, len(sets) > 1
    unions = [*(f"all of {name}" for name in names), "all together"] if several else ["all"]
    wide = max(map(len, ["raster", *map(str, together.configs), *unions]))
    lines = [f"{f'{height} x {width}':{wide}} {'total':>13} {'better':>7} {'tied':>6} {'worse':>7} {'P_sd':>8}"]
    lines.append(f"{'raster':{wide}} {int(raster_distances(height, width).sum()):>13,}")
    for union, paths in zip(unions, sets):
        measured = locality(paths, height, width)
        rows = zip(paths.configs, measured.total, measured.better, measured.tied, measured.sacrificed, measured.share)
        for config, total, better, tied, lost, share in rows:
            numbers = f"{int(total):>13,} {int(better):>7,} {int(tied):>6,} {int(lost - tied):>7,}"
            lines.append(f"{config!s:{wide}} {numbers} {float(share):>8.3%}")
        if several and paths.num_paths > 1:
            lines.append(_union(f"{union:{wide}}", measured))
    return [*lines, _union(f"{unions[-1]:{wide}}", locality(together, height, width))]


def _union(label: str, measured: Locality) -> str:
    """The row of a set: what it costs, and where one of its paths at least is better."""
    better = int(measured.union.sum())
    numbers = f"{measured.cost:>13,} {better:>7,} {'':>6} {measured.raster.numel() - better:>7,}"
    return f"{label} {numbers} {measured.coverage:>8.3%}"


def _search(args: argparse.Namespace) -> list[str]:
    from . import search

    height, width = _size(args)
    if args.solver in ("greedy", "rounding"):
        for option, value in (("--time-limit", args.time_limit), ("--resume", args.resume)):
            if value is not None:
                raise ValueError(f"{option} is for exact searches, but --solver is {args.solver}.")
    for file in (args.out, args.resume):  # not after an hour's search
        if file is not None and not file.absolute().parent.is_dir():
            raise FileNotFoundError(f"there is no folder {file.parent} to write {file.name} into: make it first.")
    where = (height, width, args.curve)
    universe = search.candidates(
        *where, max_pad=args.max_pad, diagonal_windows=args.diagonal_windows, progress=not args.quiet
    )
    if args.solver == "greedy":
        found = search.greedy(*where, universe=universe)
    elif args.solver == "rounding":
        found = search.randomized_rounding(*where, universe=universe, rounds=args.rounds, seed=args.seed)
    else:
        try:
            found = search.exact(
                *where,
                universe=universe,
                solver="native" if args.solver == "exact" else args.solver,
                time_limit=args.time_limit,
                resume=args.resume,
                progress=not args.quiet,
            )
        except KeyboardInterrupt as stop:
            again = "; run the same command again to continue" if args.resume else ""
            raise KeyboardInterrupt(f"{str(stop) or 'interrupted'}{again}") from None
    if args.out:
        found.save(args.out)
    verdict = "no set of the" if found.proven else f"at least {found.bound:,.0f} for any set of the"
    verdict = f"cost {found.cost:,}; {verdict} {len(universe):,} candidates{' costs less' if found.proven else ''}"
    return [*_measures(["found"], [found]), verdict]
