"""CIFAR-10 and CIFAR-100 with the networks of "Pick-or-Mix: Dynamic Channel Sampling for ConvNets" (CVPR 2024).

    python experiments/pix/cifar.py --smoke
    python experiments/pix/cifar.py --dataset cifar100 --network 50 --kind pix resnet --data /data/cifar
    python experiments/pix/cifar.py --network 18 --kind resnet pix2 pix4 --stem imagenet --data /data/cifar

ResNet-50 and deeper are squeezed: PiX stands in the place of their squeezing convolutions, as on ImageNet. ResNet-18
and -34 are downscaled: PiX comes before their 3x3 convolutions, with zeta 2 or 4. ("pix" is the published zeta for the
former, 2 for the latter.)

The paper reports both data sets, but neither its settings nor its numbers could be had, so none stand beside ours. The
authors' script trains CIFAR-100 alone, on a network whose stem, made for 224 pixels, leaves single pixels for the last
stage: that is ``--stem imagenet --recipe readme``. The default recipe and stem are what is usual for images this small.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import _picks
from imagenet import README, SMOKE

from leanconv.data import Augment
from leanconv.training import Recipe, experiment

USUAL = Recipe(
    epochs=200,
    batch_size=128,
    optimizer="sgd",  # timm's is Nesterov's
    lr=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="cosine",
    min_lr=0.0,
    augment=Augment(padding=4, hflip=0.5, eval_crop=1.0),
    channels_last=True,
)
RECIPES = {
    "usual": USUAL,
    # Their crop of padded images takes the place of the one at random scale. They normalise by ImageNet's mean and
    # deviation, we by CIFAR's.
    "readme": README.override({"image_size": None, "augment.padding": 4, "augment.eval_crop": 1.0}),
}
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
SQUEEZED, DOWNSCALED = ("50", "101", "152"), ("18", "34")
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("", {"pix": False}),
    "pix": (" + PiX", {}),
    "avg": (" + PiX(Avg)", {"tau": 0.0}),
    "max": (" + PiX(Max)", {"tau": 2.0}),
    "pix2": (" + PiX, zeta 2", {"zeta": 2}),
    "pix4": (" + PiX, zeta 4", {"zeta": 4}),
}
NARROW: dict[str, Any] = {"layers": (1, 1, 1, 1), "channels": (8, 16, 32, 64)}
SMOKE_KINDS = ("resnet", "pix2", "pix4")


def recipe(name: str, dataset: str, network: str, kind: str, stem: str) -> Recipe:
    """The recipe of one network on one data set."""
    chosen = RECIPES[name]
    kwargs = {**chosen.model_kwargs, "stem": stem, **KINDS[kind][1]}
    return chosen.override({"data": dataset, "model": f"pix_resnet{network}", "model_kwargs": kwargs})


def smoke_recipe(kind: str) -> Recipe:
    """A narrow ResNet of basic blocks on Fashion-MNIST, downscaled or not, half a minute on two cores."""
    network = {**NARROW, "stem": "lowres", **KINDS[kind][1]}
    changes = {
        **SMOKE,
        "image_size": None,
        "train_images": 16_000,
        "augment.padding": 0,
        "model": "pix_resnet18",
        "model_kwargs": network,
    }
    return USUAL.override(changes)


def card(ran: Recipe, *, planned: Recipe, network: str, kind: str) -> dict[str, Any]:
    """The name of what ran, with its data set and stem."""
    if (ran.model, ran.model_kwargs) != (planned.model, planned.model_kwargs):
        return {"row": ran.model}
    if ran.smoke:
        return {"row": f"narrow basic ResNet{KINDS[kind][0]}"}
    where = f" on {TITLES[ran.data]}" if ran.data in TITLES else ""
    return {"row": f"ResNet-{network}{KINDS[kind][0]}, {ran.model_kwargs['stem']} stem{where}"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=TITLES, default="cifar10")
    parser.add_argument("--network", choices=(*DOWNSCALED, *SQUEEZED), default="50", help="default: 50")
    parser.add_argument("--kind", nargs="+", choices=KINDS, help="default: pix; for --smoke resnet, pix2 and pix4")
    parser.add_argument("--stem", choices=("lowres", "imagenet"), default="lowres")
    parser.add_argument("--recipe", choices=RECIPES, default="usual")
    experiment.add_arguments(parser, out="runs/pix/cifar")
    args = parser.parse_args()

    plans: list[experiment.Plan] = []
    for kind in args.kind or (SMOKE_KINDS if args.smoke else ["pix"]):
        if not args.smoke and args.network in SQUEEZED and "zeta" in KINDS[kind][1]:
            parser.error(f"--kind {kind} is for ResNet-18 and -34: ResNet-{args.network} has its zeta from its widths")
        chosen = recipe(args.recipe, args.dataset, args.network, kind, args.stem)
        chosen = smoke_recipe(kind) if args.smoke else chosen
        folder = kind if args.smoke else f"{args.dataset}-{args.recipe}-{args.stem}-{args.network}-{kind}"
        plans.append((folder, chosen, partial(card, planned=chosen, network=args.network, kind=kind)))
    return experiment.run(plans, args, after=_picks.draw)


if __name__ == "__main__":
    sys.exit(main())
