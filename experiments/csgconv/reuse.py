"""A generator trained in one network, frozen in another: CIFAR-10 of "Associative Convolutional Layers" (AISTATS 2021).

    python experiments/csgconv/reuse.py --smoke
    python experiments/csgconv/reuse.py --pair resnet20-resnet56 --data /data/cifar
    python experiments/csgconv/reuse.py --pair densenet48-densenet36 --kind trained --data /data/cifar --from FILE

The first network of a pair is trained, as `cifar10.py` does it; the second takes its generator ("trained"), or one at
random that learns as little: of normal numbers ("random"), of +-0.5 ("binary"), or one that learns along ("own").

The authors' script means to do the first and does the second: it looks for the generator at the wrong level of the
checkpoint, loads nothing and says nothing. So their published numbers, which stand beside "trained", may be those of
random generators, from the start that `cifar10.py` calls published.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import _storage
from cifar10 import NETWORKS, label, recipe, smoke_recipe

from leanconv.training import ConfigError, Recipe, experiment
from leanconv.training.world import join

# The network that trains the generator, the one that takes it, and the slices of both.
PAIRS = {
    "resnet20-resnet56": ("resnet20", "resnet56", "csg16-72"),
    "densenet48-densenet36": ("densenet48", "densenet36", "csg"),
    "densenet36-densenet48": ("densenet36", "densenet48", "csg"),
    "densenet48-densenet48": ("densenet48", "densenet48", "csg"),
}
SMOKE_PAIR = ("resnet32", "resnet20", "csg")
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "trained": ("generator of {}", {}),
    "random": ("random generator", {"frozen": True}),
    "binary": ("random binary generator", {"binary": True}),
    "own": ("own generator", {}),
}
USUAL = ("trained", "random", "binary")  # of which the smoke runs of cifar10.py have the last
RESULTS = {
    "resnet20-resnet56": 88.24,
    "densenet48-densenet36": 94.43,
    "densenet36-densenet48": 95.04,
    "densenet48-densenet48": 95.05,
}
SOURCE = "CIFAR-10 test images, last epoch in the authors' logs, one run each; what the generator was, they do not tell"

Pair = tuple[str, str, str]


def planned(pair: Pair, kind: str, generator: Path, smoke: bool) -> Recipe:
    """The recipe of the network that takes a generator."""
    chosen = (smoke_recipe if smoke else recipe)(*pair[1:])
    own = {"generator": str(generator)} if kind == "trained" else KINDS[kind][1]
    return chosen.override({"model_kwargs": {**chosen.model_kwargs, **own}})


def name(pair: Pair, kind: str) -> str:
    """Name in the tables."""
    return f"{label(*pair[1:])}, {KINDS[kind][0].format(NETWORKS[pair[0]][0])}"


def card(ran: Recipe, *, plan: Recipe, pair: Pair, kind: str) -> dict[str, Any]:
    """What the report says beside our numbers."""
    unchanged = (ran.model, ran.model_kwargs) == (plan.model, plan.model_kwargs)
    published = ran.data == "cifar10" and not ran.smoke
    found: dict[str, Any] = {"row": (name(pair, kind) if unchanged else ran.model) + " on CIFAR-10" * published}
    found["table"] = {f"{name(PAIRS[key], 'trained')} on CIFAR-10": f"{top1}" for key, top1 in RESULTS.items()}
    key = "-".join(pair[:2])
    if unchanged and published and kind == "trained" and PAIRS.get(key) == pair:
        found["paper"] = {"top1": RESULTS[key], "on": "CIFAR-10", "source": SOURCE}
    return found


def donor(pair: Pair, smoke: bool) -> experiment.Plan:
    """The run that trains the generator."""
    row = f"{label(pair[0], pair[2])}, which trains the generator"
    return f"{pair[0]}-donor", (smoke_recipe if smoke else recipe)(pair[0], pair[2]), lambda ran: {"row": row}


def run(args: argparse.Namespace) -> int:
    """Train a generator where none is given, then what takes it. Returns the exit code."""
    pair = SMOKE_PAIR if args.smoke else PAIRS[args.pair]
    kinds = args.kind or (USUAL[:-1] if args.smoke else USUAL)

    if not args.file and "trained" in kinds:
        first = argparse.Namespace(**{**vars(args), "seeds": args.seeds[:1]})
        code = experiment.run([donor(pair, args.smoke)], first, after=_storage.measure)
        if code:
            return code
        args.out = first.out
        args.file = args.out / f"{pair[0]}-donor-seed{args.seeds[0]}" / "compact-fp32.pt"
    plans: list[experiment.Plan] = []
    for kind in kinds:
        chosen = planned(pair, kind, args.file, args.smoke)
        plans.append((f"{pair[1]}-{kind}", chosen, partial(card, plan=chosen, pair=pair, kind=kind)))
    return experiment.run(plans, args, after=_storage.measure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=PAIRS, default="resnet20-resnet56", help="--smoke has one of its own")
    parser.add_argument("--kind", nargs="+", choices=KINDS, help="default: trained, random, without --smoke binary")
    parser.add_argument(
        "--from", dest="file", type=Path, metavar="FILE", help="a trained generator, instead of training one"
    )
    experiment.add_arguments(parser, out="runs/csgconv/reuse")
    args = parser.parse_args()
    if args.file and not args.file.is_file():
        parser.error(f"--from {args.file}: no such file")
    try:
        with join(args.device):  # one group of processes for both runs: torchrun's do not join a second one reliably
            return run(args)
    except ConfigError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
