"""CIFAR-10 of "Associative Convolutional Layers" (AISTATS 2021).

    python experiments/csgconv/cifar10.py --smoke
    python experiments/csgconv/cifar10.py --network resnet56 --kind plain csg csg16 --data /data/cifar
    python experiments/csgconv/cifar10.py --network densenet36 --kind csg --start published --data /data/cifar

One generator makes the kernels of a network: "csg" has the published slices, 12x12 filters of 3x3 from codes of 72
numbers (for MobileNetV2 and ShuffleNetV2 16x16 of 1x1 from 16), "csg16" the larger ones of ResNets, "flat" wastes none
of a slice, the generator of "binary" is +-0.5 at random and never learns, and "plain" is the ordinary network.

The recipe is that of the authors' script, the same for all networks but for the batch. Their start has a slip,
``--start published``: a deviation is given as a mean, and kernels of ResNets start 12 to 24 times as large as He et al.
recommend. Those of the other networks start 4 to 13 times as large. By default kernels start at He's scale.

They report the best epoch by accuracy on the test images; here all epochs run and the accuracy is that of the last, and
so are the published numbers beside it, which are from the authors' logs. They normalise by a deviation of 0.20 in each
channel, we by CIFAR's. MACs in the report are those of one image and of making the kernels once.
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
    data="cifar10",
    epochs=200,
    batch_size=128,  # of ResNets 192, by a comment in the script
    optimizer="momentum",  # timm's name of SGD without Nesterov's look-ahead
    lr=0.05,
    momentum=0.9,
    weight_decay=5e-4,  # of everything
    decay_biases=True,
    decay_norms=True,
    schedule="multistep",
    milestones=(100, 150),
    decay_rate=0.1,
    augment=Augment(padding=4, hflip=0.5),
)
Options = dict[str, Any]
NETWORKS: dict[str, tuple[str, str, Options]] = {  # title, name, what it takes
    **{f"resnet{depth}": (f"ResNet-{depth}", f"csg_resnet{depth}", {}) for depth in (20, 32, 44, 56, 110)},
    **{f"densenet{k}": (f"DenseNet-BC-40-{k}", "csg_densenet_bc", {"growth_rate": k}) for k in (36, 48)},
    "mobilenetv2": ("MobileNetV2", "csg_mobilenetv2", {}),
    "shufflenetv2": ("ShuffleNetV2 0.5", "csg_shufflenetv2", {}),
}
LARGE = {"slice_shape": (16, 16, 3, 3)}
KINDS: dict[str, tuple[str, Options]] = {
    "plain": ("", {"generated": False}),
    "csg": (" CSG {}", {}),
    "csg16": (" CSG 16-128", {**LARGE, "code_size": 128}),
    "csg16-72": (" CSG 16-72", {**LARGE, "code_size": 72}),
    "flat": (" CSG {} flat", {"layout": "flat"}),
    "binary": (" CSG {} binary", {"binary": True}),
}
SMOKE_KINDS = ("plain", "csg", "flat", "binary")

RESULTS = {  # the last of 200 to 216 epochs
    ("resnet20", "plain"): 91.73,
    ("resnet20", "csg16-72"): 91.49,  # in a folder that says 16-128
    ("resnet56", "plain"): 93.88,
    ("resnet56", "csg"): 92.22,
    ("resnet56", "csg16"): 92.75,
    ("densenet36", "plain"): 94.88,
    ("densenet36", "csg"): 94.88,
    ("densenet48", "plain"): 94.91,
    ("densenet48", "csg"): 95.00,
}
SOURCE = "CIFAR-10 test images, last epoch in the authors' logs (their best ones are 0.07 to 0.25 higher), one run each"

SMOKE: Options = {
    "data": "fashion_mnist",
    "smoke": True,
    "epochs": 4,
    "milestones": (2, 3),
    "batch_size": 32,
    "augment": {"padding": 0, "hflip": 0.0},  # too short to overfit
    "train_images": 2_500,
    "test_images": 2_000,
    "workers": 0,
    "log_every": 26,
}


def label(network: str, kind: str) -> str:
    """Name in the tables: resnet56 and csg16 make "ResNet-56 CSG 16-128"."""
    return NETWORKS[network][0] + KINDS[kind][0].format("12-72" if of_3x3(network) else "16-16")


def of_3x3(network: str) -> bool:
    """Whether its generated kernels are 3x3, so that it takes slices of other sizes."""
    return network.startswith(("resnet", "densenet"))


def recipe(network: str, kind: str, start: str = "he") -> Recipe:
    """The paper's recipe of one network."""
    _, model, kwargs = NETWORKS[network]
    kwargs = {**kwargs, **KINDS[kind][1]}
    if start == "published" and kind != "plain":
        kwargs["init"] = "reference" if network.startswith("resnet") else "uniform"
    batch = 192 if network.startswith("resnet") else 128
    return PAPER.override({"model": model, "model_kwargs": kwargs, "batch_size": batch})


def smoke_recipe(network: str, kind: str, start: str = "he") -> Recipe:
    """The same on few images of Fashion-MNIST, about a minute on two cores for ResNet-20."""
    return recipe(network, kind, start).override(SMOKE)


def card(ran: Recipe, *, planned: Recipe, network: str, kind: str, start: str) -> dict[str, Any]:
    """What the report says beside our numbers: the paper's, for its networks, however they start."""
    unchanged = (ran.model, ran.model_kwargs) == (planned.model, planned.model_kwargs)
    published = ran.data == "cifar10" and not ran.smoke
    row = label(network, kind) if unchanged else ran.model
    row += ", published start" if unchanged and start == "published" and kind != "plain" else ""
    found: dict[str, Any] = {
        "row": f"{row} on CIFAR-10" if published else row,
        "table": {f"{label(*key)} on CIFAR-10": f"{top1}" for key, top1 in RESULTS.items()},
    }
    if unchanged and (published or ran.smoke) and (network, kind) in RESULTS:
        found["paper"] = {"top1": RESULTS[network, kind], "on": "CIFAR-10", "source": SOURCE}
    return found


def plan(network: str, kind: str, start: str, smoke: bool) -> experiment.Plan:
    """Folder, recipe and card of one run."""
    chosen = (smoke_recipe if smoke else recipe)(network, kind, start)
    folder = f"{network}-{kind}" + (f"-{start}" if start != "he" and kind != "plain" else "")
    return folder, chosen, partial(card, planned=chosen, network=network, kind=kind, start=start)


def after(run: Path) -> None:
    """What is left beside a finished run: what it takes to store its network, and the spectrum of its kernels."""
    _storage.measure(run)
    _spectrum.draw(run)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, help="default: resnet56; for --smoke resnet20")
    parser.add_argument("--kind", nargs="+", choices=KINDS, help="default: csg; for --smoke plain, csg, flat, binary")
    parser.add_argument("--start", choices=("he", "published"), default="he")
    experiment.add_arguments(parser, out="runs/csgconv/cifar10")
    args = parser.parse_args()

    network = args.network or ("resnet20" if args.smoke else "resnet56")
    kinds = args.kind or (SMOKE_KINDS if args.smoke else ("csg",))
    for kind in kinds:
        if "slice_shape" in KINDS[kind][1] and not of_3x3(network):
            parser.error(f"--kind {kind} has slices of 3x3, and the generated kernels of {network} are 1x1")
    return experiment.run([plan(network, kind, args.start, args.smoke) for kind in kinds], args, after=after)


if __name__ == "__main__":
    sys.exit(main())
