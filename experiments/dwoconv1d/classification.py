"""ImageNet-1K classification of "Convolutional Networks with Oriented 1D Kernels" (ICCV 2023, tables 1 and 2).

The paper's recipe for its four variants in two sizes, on one machine or many GPUs:

    python experiments/dwoconv1d/classification.py --smoke
    torchrun --nproc-per-node=8 experiments/dwoconv1d/classification.py --variant 1d --size tiny --data /data/imagenet

The recipe is the authors' training script; where theirs and ours part, it is said at the line. The accuracy reported is
that of the last epoch. (The authors kept the best of the last 50 epochs by validation accuracy.)
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from leanconv.data import Augment
from leanconv.training import Recipe, experiment

PAPER = Recipe(
    data="imagenet",
    image_size=224,
    epochs=300,
    batch_size=4096,  # on few GPUs give --set accumulate=...
    optimizer="adamw",
    lr=4e-3,
    weight_decay=0.05,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_epochs=20,
    warmup_lr=0.0,
    min_lr=1e-6,
    label_smoothing=0.1,
    mixup=0.8,
    cutmix=1.0,
    augment=Augment(hflip=0.5, rand_augment="rand-m9-mstd0.5-inc1", erase=0.25, erase_mode="pixel"),
    ema_decay=0.9999,
    # The original trains in float32, contiguous; channels-last changes the speed alone.
    channels_last=True,
    workers=8,
)
DROP_PATH = {"tiny": 0.1, "base": 0.5}

RESULTS = {  # ImageNet-1K top-1: last weights, averaged weights
    ("tiny", "2d"): (81.8, 82.0),
    ("tiny", "1d"): (82.2, 82.2),
    ("tiny", "1dpp"): (82.4, 82.7),
    ("tiny", "2dpp"): (82.3, 82.5),
    ("base", "2d"): (83.6, 83.7),
    ("base", "1d"): (83.6, 83.8),
    ("base", "1dpp"): (83.5, 83.8),
    ("base", "2dpp"): (83.6, 84.0),
}
SOURCE = "ImageNet-1K validation, 224 pixels, 300 epochs, as the authors publish it beside their code"

# Three stages on maps of 14, 7 and 3 pixels, where 31 taps would mostly lie outside. A layer scale of 1e-6 needs long
# runs; 5 makes up for weights drawn with std 0.02 in a net this narrow.
NARROW: dict[str, Any] = {"depths": (1, 2, 1), "dims": (16, 48, 96), "patch_size": 2, "layer_scale_init_value": 5.0}
NARROW_KERNELS = {
    "2d": (7, 7, 3),
    "1d": (13, 7, 5),
    "1dpp": ((7, 13), (7, 7), (5, 5)),
    "2dpp": ((7, 13), (7, 7), (3, 5)),
}
NARROW_1D_STEM: dict[str, Any] = {"stem_width": 16, "stem_kernel_size": 7}
SMOKE: dict[str, Any] = {
    "data": "fashion_mnist",
    "smoke": True,
    "image_size": None,
    "epochs": 4,
    "batch_size": 64,
    "warmup_epochs": 0.25,
    "mixup": 0.0,
    "cutmix": 0.0,
    "label_smoothing": 0.0,
    "augment": {"rand_augment": "", "erase": 0.0, "hflip": 0.0},  # too short to overfit
    "drop_path": 0.0,
    "ema_decay": 0.998,  # remembers 500 of 3 748 steps
    "ema_warmup": True,
    "workers": 0,
    "log_every": 200,
}


def label(size: str, variant: str) -> str:
    """Name in the tables: tiny and 1dpp make "ConvNeXt-T 1D++"."""
    return f"ConvNeXt-{size[0].upper()} {variant.replace('pp', '++').upper()}"


def recipe(size: str, variant: str) -> Recipe:
    """The paper's recipe of one network."""
    return PAPER.override({"model": f"convnext_{size}_{variant}", "drop_path": DROP_PATH[size]})


def smoke_recipe(variant: str) -> Recipe:
    """A narrow network of the variant, trained on Fashion-MNIST for a minute or two on two cores."""
    stem = NARROW_1D_STEM if variant.startswith("1d") else {}
    network = {**NARROW, **stem, "kernel_sizes": NARROW_KERNELS[variant]}
    return recipe("tiny", variant).override({**SMOKE, "model_kwargs": network})


def card(ran: Recipe, *, size: str, variant: str) -> dict[str, Any]:
    """What the report says beside our numbers: the row bears the name of what ran, whatever --set has made of it, and
    the paper's numbers stand beside the paper's networks on ImageNet and beside their narrow stand-ins.
    """
    table = {f"{label(*key)} on ImageNet-1K": f"{weights} / {averaged}" for key, (weights, averaged) in RESULTS.items()}
    planned = smoke_recipe(variant) if ran.smoke else recipe(size, variant)
    unchanged = (ran.model, ran.model_kwargs) == (planned.model, planned.model_kwargs)
    if not unchanged:
        name = f"{ran.model}, own {', '.join(ran.model_kwargs)}" if ran.model_kwargs else ran.model
    else:
        name = f"narrow ConvNeXt {label(size, variant).split()[1]}" if ran.smoke else label(size, variant)
    imagenet = ran.data == "imagenet" and not ran.smoke
    found = {"row": f"{name} on ImageNet-1K" if imagenet else name, "table": table}
    if unchanged and (imagenet or ran.smoke):
        top1, ema = RESULTS[size, variant]
        found["paper"] = {"top1": top1, "ema_top1": ema, "on": "ImageNet-1K", "source": SOURCE}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--variant", nargs="+", choices=NARROW_KERNELS, help="default: 1d; for --smoke with its 2d twin"
    )
    parser.add_argument("--size", choices=DROP_PATH, default="tiny")
    experiment.add_arguments(parser, out="runs/dwoconv1d/classification")
    args = parser.parse_args()

    plans = []
    for variant in args.variant or (["1d", "2d"] if args.smoke else ["1d"]):
        size = "tiny" if args.smoke else args.size
        chosen = smoke_recipe(variant) if args.smoke else recipe(size, variant)
        plans.append((variant, chosen, partial(card, size=size, variant=variant)))
    return experiment.run(plans, args)


if __name__ == "__main__":
    sys.exit(main())
