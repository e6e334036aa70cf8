"""ImageNet-1K of "Associative Convolutional Layers" (AISTATS 2021).

    python experiments/csgconv/imagenet.py --smoke
    python experiments/csgconv/imagenet.py --network 50 --kind plain csg --data /data/imagenet
    torchrun --nproc-per-node=8 experiments/csgconv/imagenet.py --network 26 --start published --data /data/imagenet

Of ResNet-50 and deeper the 3x3 convolutions of the bottlenecks are generated, of ResNet-34 all 3x3 of its blocks, of
ResNet-18 the first of each block, as the authors do; "flat" wastes none of a slice, "plain" is the ordinary network.

The recipe is that of the authors' script. Their kernels start 10 to 28 times as large as He et al. recommend, with
``--start published`` so do ours. By default they start at He's scale.

What the authors' table of 2019 calls ResNet-18 has bottlenecks, by its 10,371,368 parameters: here it is ResNet-26.
The ordinary networks in that table are copied from the ResNet paper, so they do not stand beside ours.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import _spectrum
import _storage

from leanconv.data import Augment
from leanconv.training import Recipe, experiment

PAPER = Recipe(
    data="imagenet",
    image_size=224,
    epochs=100,
    batch_size=256,
    optimizer="momentum",  # timm's name of SGD without Nesterov's look-ahead
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,  # of everything
    decay_biases=True,
    decay_norms=True,
    schedule="multistep",
    milestones=(30, 60, 90),
    decay_rate=0.1,
    augment=Augment(hflip=0.5, interpolation="bilinear"),
    # The original trains contiguous; channels-last changes the speed alone.
    channels_last=True,
    workers=8,
)
Options = dict[str, Any]
NETWORKS: dict[str, tuple[str, str]] = {
    **{depth: (f"ResNet-{depth}", f"csg_resnet{depth}") for depth in ("18", "26", "34", "50", "101", "152")},
    "wide50": ("Wide ResNet-50-2", "csg_wide_resnet50_2"),
}
KINDS: dict[str, tuple[str, Options]] = {
    "plain": ("", {"generated": False}),
    "csg": (" CSG 16-128", {}),
    "flat": (" CSG 16-128 flat", {"layout": "flat"}),
}
RESULTS = {("26", "csg"): 71.5, ("50", "csg"): 75.1}
SOURCE = "ImageNet-1K validation, 100 epochs, a table that the authors published in 2019, one run each"

# Maps of 28 to 4 pixels; slices of 12x12, as the generator of those of 16x16 would outgrow what it makes.
NARROW: Options = {
    "layers": (1, 1, 1, 1),
    "channels": (16, 32, 64, 96),
    "stem": "lowres",
    "first_only": False,
}
NARROW_SLICES: Options = {"slice_shape": (12, 12, 3, 3), "code_size": 72}
SMOKE: Options = {
    "data": "fashion_mnist",
    "smoke": True,
    "image_size": None,
    "epochs": 4,
    "milestones": (2, 3),
    "batch_size": 32,
    "augment": {"hflip": 0.0, "interpolation": "bicubic"},
    "train_images": 2_500,
    "test_images": 2_000,
    "workers": 0,
    "log_every": 26,
}


def label(network: str, kind: str) -> str:
    """Name in the tables: 50 and csg make "ResNet-50 CSG 16-128"."""
    return NETWORKS[network][0] + KINDS[kind][0]


def recipe(network: str, kind: str, start: str = "he") -> Recipe:
    """The paper's recipe of one network."""
    init = {"init": "uniform"} if start == "published" and kind != "plain" else {}
    return PAPER.override({"model": NETWORKS[network][1], "model_kwargs": {**KINDS[kind][1], **init}})


def smoke_recipe(kind: str, start: str = "he") -> Recipe:
    """A narrow ResNet of basic blocks on few images of Fashion-MNIST, about half a minute on two cores."""
    full = recipe("18", kind, start)
    return full.override({**SMOKE, "model_kwargs": {**NARROW, **NARROW_SLICES, **full.model_kwargs}})


def card(ran: Recipe, *, planned: Recipe, network: str, kind: str, start: str) -> dict[str, Any]:
    """What the report says beside our numbers: the paper's, for its networks, however they start."""
    unchanged = (ran.model, ran.model_kwargs) == (planned.model, planned.model_kwargs)
    imagenet = ran.data == "imagenet" and not ran.smoke
    row = ran.model
    if unchanged:
        row = f"narrow ResNet{KINDS[kind][0]}".replace("16-128", "12-72") if ran.smoke else label(network, kind)
        row += ", published start" if start == "published" and kind != "plain" else ""
    found: dict[str, Any] = {
        "row": f"{row} on ImageNet-1K" if imagenet else row,
        "table": {f"{label(*key)} on ImageNet-1K": f"{top1}" for key, top1 in RESULTS.items()},
    }
    if unchanged and imagenet and (network, kind) in RESULTS:
        found["paper"] = {"top1": RESULTS[network, kind], "on": "ImageNet-1K", "source": SOURCE}
    return found


def after(run: Path) -> None:
    """What is left beside a finished run: what it takes to store its network, and the spectrum of its kernels."""
    _storage.measure(run)
    _spectrum.draw(run)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="50", help="default: 50; --smoke has one of its own")
    parser.add_argument("--kind", nargs="+", choices=KINDS, help="default: csg; for --smoke with plain")
    parser.add_argument("--start", choices=("he", "published"), default="he")
    experiment.add_arguments(parser, out="runs/csgconv/imagenet")
    args = parser.parse_args()

    plans: list[experiment.Plan] = []
    for kind in args.kind or (("plain", "csg") if args.smoke else ("csg",)):
        network = "18" if args.smoke else args.network
        chosen = smoke_recipe(kind, args.start) if args.smoke else recipe(network, kind, args.start)
        folder = (kind if args.smoke else f"{network}-{kind}") + ("-published" if args.start == "published" else "")
        plans.append((folder, chosen, partial(card, planned=chosen, network=network, kind=kind, start=args.start)))
    return experiment.run(plans, args, after=after)


if __name__ == "__main__":
    sys.exit(main())
