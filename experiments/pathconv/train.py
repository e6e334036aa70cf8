"""Classification of "One-dimensional Path Convolution" (ICML 2025, tables 3 and 4): CIFAR-10, SVHN, ImageNet-64.

    python experiments/pathconv/train.py --smoke
    python experiments/pathconv/train.py --dataset cf10 --path r --model s --bs 128 --data /data/cifar10
    torchrun --nproc-per-node=4 experiments/pathconv/train.py --dataset in64 --path g --model b --data /data/imagenet-64

Flags and short names are those of the authors' script; the defaults are the paper's recipe (its table 8), which theirs
are not. Where the two part or ours differs, it is said at the line. The accuracy reported is that of the last epoch.
(The authors kept the best epoch by test accuracy.)
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from leanconv.data import Augment
from leanconv.training import Recipe, experiment

PAPER = Recipe(
    epochs=300,
    batch_size=512,
    optimizer="adamw",
    lr=4e-3,
    weight_decay=2e-4,
    decay_biases=True,  # all but norms, also the position embedding and the layer scales
    betas=(0.9, 0.999),
    schedule="cosine",  # stepped at every optimizer step, theirs at every epoch
    warmup_epochs=10,
    warmup_lr=0.2 * 4e-3,
    min_lr=0.0,
    label_smoothing=0.05,
    drop_path=0.1,
    augment=Augment(padding=4, hflip=0.5, rand_augment="torchvision-m7-n2", eval_crop=1.0),  # SVHN's digits flip too
    workers=4,
)
DATASETS = {  # short name: what differs from PAPER
    "cf10": {"data": "cifar10"},
    "svhn": {"data": "svhn"},
    "in64": {
        "data": "imagenet64",
        "batch_size": 384,
        "lr": 1e-2,
        "warmup_lr": 2e-3,
        "augment.rand_augment": "torchvision-m9-n2",
        "mixup": 0.2,
        "cutmix": 0.6,
    },
}
SGD = {"optimizer": "sgd", "momentum": 0.9, "lr": 2e-2, "warmup_lr": 4e-3, "drop_path": 0.0}  # timm's sgd is Nesterov's
BASELINES = {
    "r18": "resnet18_lowres",
    "r50": "resnet50_lowres",
    "wrn-40-2": "wrn_40_2",
    "wrn-40-5": "wrn_40_5",
}
MODELS = {"s": "pathconv_s", "b": "pathconv_b", **BASELINES}
LABELS = {"s": "PathConvS", "b": "PathConvB", "r18": "ResNet-18", "r50": "ResNet-50", "wrn-40-2": "WRN-40-2"}
LABELS["wrn-40-5"] = "WRN-40-5"
PATHS = {  # short name: as in the paper's tables, whose C* is g and z; g* and z* are our cheaper sets of three
    "r": "R",
    "og": "H",
    "oz": "Z",
    "g": "HC*",
    "z": "ZC*",
    "mg": "HC+",
    "mz": "ZC+",
    "g*": "H-ours",
    "z*": "Z-ours",
}
TITLES = {"cf10": "CIFAR-10", "svhn": "SVHN", "in64": "ImageNet-64"}

RESULTS = {  # top-1 of tables 3 and 4: (model, path) -> CIFAR-10, SVHN, ImageNet-64
    ("s", "g"): (92.45, 97.12, 62.26),
    ("s", "z"): (92.66, 96.57, 62.73),
    ("s", "r"): (89.56, 91.60, 58.04),
    ("b", "g"): (93.97, 97.81, 68.46),
    ("b", "z"): (93.56, 97.58, 68.83),
    ("b", "r"): (90.02, 94.36, 60.40),
    ("b", "mg"): (91.01, 96.57, 62.23),
    ("b", "mz"): (90.98, 97.04, 63.07),
    ("b", "og"): (94.12, 97.23, 60.53),
    ("b", "oz"): (93.23, 97.31, 60.01),
    ("r18", ""): (93.17, 97.66, 63.43),
    ("r50", ""): (93.95, 97.86, 68.43),
    ("wrn-40-2", ""): (None, None, 61.23),
    ("wrn-40-5", ""): (None, None, 70.32),
}
SOURCE = "tables 3 and 4, the best epoch by test accuracy, one run each"

# Tens of thousands of parameters, on images enlarged from 28 to 32 pixels, for which the paper's path sets are made.
# A layer scale of 1e-6 needs long runs.
NARROW: dict[str, Any] = {
    "depths": (1, 1, 1, 1),
    "dims": (12, 24, 24, 48),
    "layer_scale_init_value": 1.0,
    "drop_path_rate": 0.0,
}
NARROW_RESNET: dict[str, Any] = {"layers": (1, 1, 1, 1), "channels": (8, 16, 32, 64)}
SMOKE: dict[str, Any] = {
    "data": "fashion_mnist",
    "smoke": True,
    "image_size": 32,
    "train_images": 20_000,
    "epochs": 2,
    "batch_size": 64,
    "lr": 3e-3,
    "warmup_lr": 0.0,
    "warmup_epochs": 0.25,
    "label_smoothing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "drop_path": 0.0,
    "augment": {"padding": 0, "hflip": 0.0, "rand_augment": ""},  # too short to overfit
    "workers": 0,
    "log_every": 100,
}
SMOKE_PLANS = (("s", "r"), ("s", "og"), ("s", "g"), ("r18", ""))


def label(model: str, path: str) -> str:
    """Name in the tables: s and g make "PathConvS-HC*"."""
    return LABELS[model] + (f"-{PATHS.get(path, path)}" if path else "")


def recipe(dataset: str, model: str, path: str) -> Recipe:
    """The paper's recipe of one network on one data set."""
    side = 64 if dataset == "in64" else 32
    changes = {**DATASETS[dataset], "model": MODELS[model]}
    if model in BASELINES:
        changes |= SGD
        changes["model_kwargs"] = {"img_size": side} if model.startswith("wrn") else {}
    else:
        changes["model_kwargs"] = {"img_size": side, "path": path}
    return PAPER.override(changes)


def smoke_recipe(model: str, path: str) -> Recipe:
    """A narrow stand-in on Fashion-MNIST, a minute or two on two cores; all take the same recipe."""
    network = NARROW_RESNET if model in BASELINES else {**NARROW, "img_size": 32, "path": path}
    return PAPER.override({**SMOKE, "model": MODELS[model], "model_kwargs": network})


def card(ran: Recipe, *, dataset: str, model: str, path: str) -> dict[str, Any]:
    """What the report says beside our numbers: the paper's, for the networks it trained and their narrow stand-ins."""
    column = list(TITLES).index(dataset)
    planned = smoke_recipe(model, path) if ran.smoke else recipe(dataset, model, path)
    unchanged = (ran.model, ran.model_kwargs) == (planned.model, planned.model_kwargs)
    row = f"{'narrow ' * ran.smoke}{label(model, path)}" if unchanged else ran.model
    published = not ran.smoke and ran.data == PAPER.override(DATASETS[dataset]).data
    found: dict[str, Any] = {
        "row": f"{row} on {TITLES[dataset]}" if published else row,
        "table": {
            f"{label(*key)} on {TITLES[dataset]}": f"{top[column]}" for key, top in RESULTS.items() if top[column]
        },
    }
    top1 = RESULTS.get((model, path), (None,) * 3)[column]
    if unchanged and (published or ran.smoke) and top1:
        found["paper"] = {"top1": top1, "on": TITLES[dataset], "source": SOURCE}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=DATASETS, default="cf10", help="CIFAR-10, SVHN or ImageNet-64")
    parser.add_argument("--model", choices=MODELS, help="PathConv-S or -B, or a baseline (default: s)")
    parser.add_argument(
        "--path",
        choices=PATHS,
        help="r raster; og, oz one Hilbert or Z path; g, z the paper's three shifted, its HC* and ZC*; mg, mz its six, "
        "HC+ and ZC+; g*, z* three that are ours and cheaper (default: g)",
    )
    parser.add_argument("--bs", type=int, help="batch size (default: the paper's, 512 or 384)")
    parser.add_argument("--epochs", type=int, help="default: the paper's 300")
    parser.add_argument("--lr", type=float, help="after the warm-up, which starts at a fifth of it")
    experiment.add_arguments(parser, out="runs/pathconv/train")
    args = parser.parse_args()

    flags = {"batch_size": args.bs, "epochs": args.epochs, "lr": args.lr, "warmup_lr": args.lr and 0.2 * args.lr}
    changes = {key: value for key, value in flags.items() if value is not None}
    chosen = [(args.model or "s", "" if args.model in BASELINES else args.path or "g")]
    if args.smoke and not (args.model or args.path):
        chosen = list(SMOKE_PLANS)
    plans: list[experiment.Plan] = []
    try:
        for model, path in chosen:
            planned = smoke_recipe(model, path) if args.smoke else recipe(args.dataset, model, path)
            name = "-".join(filter(None, ("" if args.smoke else args.dataset, model, path.replace("*", "_ours"))))
            plans.append((name, planned.override(changes), partial(card, dataset=args.dataset, model=model, path=path)))
    except ValueError as error:
        parser.error(str(error))
    return experiment.run(plans, args)


if __name__ == "__main__":
    sys.exit(main())
