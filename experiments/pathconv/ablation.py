"""What attention and position embedding are worth: table 5 of "One-dimensional Path Convolution" (ICML 2025).

    python experiments/pathconv/ablation.py --smoke
    python experiments/pathconv/ablation.py --dataset in64 --data /data/imagenet-64

Four networks with the paper's three Hilbert paths: whole, without the path-aware attention, without the position
embedding, without both. The recipe is that of `train.py`. (The table's whole network on SVHN has 97.12, which tables 3
and 4 give to the small network; the large one has 97.81 there.)
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from train import DATASETS, TITLES, recipe, smoke_recipe

from leanconv.training import Recipe, experiment

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("whole", {}),
    "no-attention": ("without attention", {"attention": False}),
    "no-position": ("without position embedding", {"position_embedding": False}),
    "neither": ("without both", {"attention": False, "position_embedding": False}),
}
RESULTS = {  # top-1 of table 5: CIFAR-10, SVHN, ImageNet-64
    "full": (93.97, 97.12, 68.46),
    "no-attention": (90.13, 94.20, 60.93),
    "no-position": (92.34, 95.91, 63.85),
    "neither": (86.23, 89.77, 52.91),
}
SOURCE = "table 5, PathConvB-HC*, the best epoch by test accuracy, one run each"


def planned(variant: str, dataset: str, smoke: bool) -> Recipe:
    """The recipe of one variant."""
    whole = smoke_recipe("s", "g").override({"epochs": 1}) if smoke else recipe(dataset, "b", "g")
    return whole.override({"model_kwargs": {**whole.model_kwargs, **VARIANTS[variant][1]}})


def card(ran: Recipe, *, variant: str, dataset: str) -> dict[str, Any]:
    """What the report says beside our numbers."""
    column, title = list(TITLES).index(dataset), TITLES[dataset]
    plan = planned(variant, dataset, ran.smoke)
    unchanged = (ran.model, ran.model_kwargs) == (plan.model, plan.model_kwargs)
    published = not ran.smoke and ran.data == plan.data
    name = f"{'narrow PathConvS' if ran.smoke else 'PathConvB'}-HC* {VARIANTS[variant][0]}" if unchanged else ran.model
    found: dict[str, Any] = {"row": f"{name} on {title}" if published else name}
    found["table"] = {f"PathConvB-HC* {VARIANTS[key][0]} on {title}": f"{top[column]}" for key, top in RESULTS.items()}
    if unchanged and (published or ran.smoke):
        found["paper"] = {"top1": RESULTS[variant][column], "on": title, "source": SOURCE}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=DATASETS, default="cf10", help="CIFAR-10, SVHN or ImageNet-64")
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    experiment.add_arguments(parser, out="runs/pathconv/ablation")
    args = parser.parse_args()
    plans: list[experiment.Plan] = []
    for variant in args.variant:
        name = variant if args.smoke else f"{args.dataset}-{variant}"
        chosen = planned(variant, args.dataset, args.smoke)
        plans.append((name, chosen, partial(card, variant=variant, dataset=args.dataset)))
    return experiment.run(plans, args)


if __name__ == "__main__":
    sys.exit(main())
