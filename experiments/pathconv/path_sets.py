"""The paper's tables 1, 2 and 6: locality of the curves, the cheapest sets of shifted paths, and the time to find them.

    python experiments/pathconv/path_sets.py            # sides 32, 64 and 224: minutes
    python experiments/pathconv/path_sets.py --smoke    # side 32

The published sets are measured by the same code as those found here. The paper's seconds are of its solvers alone, on
costs that took (for 32 and 64, Z-order then Hilbert) about 10 s, 2 min, 10 min and 4 h on 128 cores, by the comments in
its code; ours have their own column for these. A set "proven" is the cheapest of all sets of the candidates.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from leanconv import environment
from leanconv.training.run_folder import write_json
from pathconv import plot, search
from pathconv.paths import PathConfig, PathSet, locality, preset_set

SIDES, SMOKE_SIDES, TABLE_1_SIDES = (32, 64, 224), (32,), (8, 16, 32, 64, 128, 256)
CURVES = {"zorder": "Z-order", "hilbert": "Hilbert"}
SOLVERS = ("greedy", "exact", "rounding")

# Seconds of table 6: (curve, side) -> randomised rounding, greedy.
PAPER = {
    ("hilbert", 32): {"rounding": 67.1, "greedy": 8.3},
    ("zorder", 32): {"rounding": 2.0, "greedy": 0.1},
    ("hilbert", 64): {"rounding": 7134.6, "greedy": 634.6},
    ("zorder", 64): {"rounding": 321.7, "greedy": 51.9},
}


def table_1(sides: Sequence[int]) -> list[dict[str, Any]]:
    """Totals and shares of the plain curves."""
    rows = []
    for side in sides:
        row: dict[str, Any] = {"side": side}
        for curve in CURVES:
            measured = locality(PathConfig(curve), side, side)
            row["raster"] = int(measured.raster.sum())
            row[curve] = {"total": measured.cost, "better": int(measured.better), "share": measured.share.item()}
        rows.append(row)
    return rows


def timed(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, float]:
    """What a function returns, and its seconds."""
    start = time.perf_counter()
    result = function(*arguments, **options)
    return result, time.perf_counter() - start


def solve(curve: str, side: int, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per solver, after the published set; the cheapest set is drawn."""
    published = preset_set(PathConfig(curve).code, side, side)
    yield {"curve": curve, "side": side, "method": "published", **_of(published)}
    universe, seconds = timed(search.candidates, side, side, curve)
    logging.info("%s %d: %d candidates evaluated in %.3g s", curve, side, len(universe), seconds)
    options: dict[str, dict[str, Any]] = {
        "greedy": {},
        "rounding": {"seed": args.seed},
        "exact": {"time_limit": args.time_limit, "progress": False},
    }
    best: PathSet | None = None
    functions = {"greedy": search.greedy, "rounding": search.randomized_rounding, "exact": search.exact}
    for method in args.solvers or SOLVERS:
        found, own = timed(functions[method], side, side, curve, universe=universe, **options[method])
        found.save(args.out / f"{curve}_{side}_{method}.json")
        logging.info("%s %d: %s found %s paths of cost %s in %.3g s",
                     curve, side, method, found.num_paths, f"{found.cost:,}", own)  # fmt: skip
        row = {"curve": curve, "side": side, "method": method, **_of(found), "seconds": own}
        yield row | {"candidates": len(universe), "evaluation_seconds": seconds}
        if best is None or found.cost < best.cost:
            best = found
            plot.draw(found, show="better").savefig(args.out / f"{curve}_{side}.png")


def _of(paths: PathSet) -> dict[str, Any]:
    return {
        "cost": paths.cost,
        "bound": paths.bound,
        "proven": paths.proven,
        "coverage": paths.coverage,
        "paths": [str(config) for config in paths.configs],
    }


def markdown(curves: list[dict[str, Any]], sets: list[dict[str, Any]], title: str) -> str:
    """The tables."""
    lines = [title, "", "Table 1: sum of distances, and the share of pixels strictly better than in the raster", ""]
    lines += ["| side | raster | Hilbert | P_sd | Z-order | P_sd |", "|" + " --- |" * 6]
    for row in curves:
        cells = [f"{row[curve]['total']:,} | {row[curve]['share']:.3%}" for curve in ("hilbert", "zorder")]
        lines.append(f"| {row['side']} | {row['raster']:,} | {' | '.join(cells)} |")
    lines += ["", "Tables 2 and 6: sets in which each pixel is better than in the raster along one path at least", ""]
    head = ["curve", "side", "found by", "paths", "cost", "cheaper than the paper's", "lower bound", "s", "paper's s"]
    lines += [f"| {' | '.join([*head, 'candidates', 'their evaluation, s'])} |", "|" + " --- |" * 11]
    for row in sets:
        if row["method"] == "published":
            published = row["cost"]
            lines.append(f"| {CURVES[row['curve']]} | {row['side']} | the paper | {len(row['paths'])} "
                         f"| {published:,} | | | | | | |")  # fmt: skip
            continue
        bound = "proven" if row["proven"] else f"{row['bound']:,.0f}" if row["bound"] else "-"
        paper = PAPER.get((row["curve"], row["side"]), {}).get(row["method"], "-")
        lines.append(
            f"| {CURVES[row['curve']]} | {row['side']} | {row['method']} | {len(row['paths'])} | {row['cost']:,} "
            f"| {1 - row['cost'] / published:.2%} | {bound} | {row['seconds']:.3g} | {paper} "
            f"| {row['candidates']:,} | {row['evaluation_seconds']:.3g} |"
        )
    lines += [
        "",
        *(f"* {CURVES[row['curve']]} {row['side']}, {row['method']}: {', '.join(row['paths'])}" for row in sets),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="side 32 alone")
    parser.add_argument("--sides", type=int, nargs="+", choices=SIDES, help="default: all three, 32 with --smoke")
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, help="default: all")
    parser.add_argument("--time-limit", type=float, help="seconds for each exact search (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="of randomised rounding")
    parser.add_argument("--out", type=Path, help="default: runs/pathconv/path_sets, or path_sets-smoke")
    parser.add_argument("--data", help="not used: paths need no data")
    parser.add_argument("--resume", action="store_true", help="not used: all starts again, which takes minutes")
    args = parser.parse_args()
    args.out = args.out or Path("runs/pathconv", "path_sets-smoke" if args.smoke else "path_sets")
    args.sides = args.sides or (SMOKE_SIDES if args.smoke else SIDES)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    args.out.mkdir(parents=True, exist_ok=True)
    birth = environment.describe()
    title = f"Path sets, on {environment.hardware('cpu')}, {birth['date'][:10]}"
    curves, sets, text = table_1(TABLE_1_SIDES), [], ""
    for side, curve in itertools.product(args.sides, args.curves):
        for row in solve(curve, side, args):
            sets.append(row)  # written one by one: the slow solvers may be cut short
            text = markdown(curves, sets, title)
            write_json(args.out / "path_sets.json", {"table_1": curves, "sets": sets, "environment": birth})
            (args.out / "path_sets.md").write_text(text)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
