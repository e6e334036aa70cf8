"""Semantic segmentation of PASCAL VOC 2012 by "Associative Convolutional Layers" (AISTATS 2021).

    python experiments/csgconv/voc.py --smoke
    python experiments/csgconv/voc.py --kind plain csg --data /data/voc --backbone plain=runs/a csg=runs/b
    python experiments/csgconv/voc.py --kind published --data /data/voc --set data=voc2012_sbd

DeepLabV3+ over a ResNet-101. In "csg" one generator makes the 3x3 kernels of the backbone and another the three dilated
ones of the pyramid; in "one" a single generator makes all; "plain" is the ordinary network. The backbone starts from
weights trained on ImageNet, such as `imagenet.py` leaves: ``--backbone KIND=RUN``.

The authors' script gives its optimizer the weights of convolutions and norms by their types, and so neither generators
nor codes: 2,562,048 parameters never learn, and the pyramid's kernels stay what they were at random. "published" does
so. All the others optimise everything.

The recipe is otherwise that of the script, on one GPU. It divides the loss, a mean over pixels, by the batch of 4: for
SGD that is the same as a quarter of its rate of 0.007, and four times its decay of 5e-4. It tests on the middle square
of each image; ``--set data_kwargs.scored=whole`` tests on whole images. Crops that reach beyond an image are black
there: for the script that it is a fork of, that is background; here it does not count. The paper says that the mean
IoU of the generated network is about 3 points lower; the figures themselves are not known to us, so none stand beside
ours.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from leanconv import overlays
from leanconv.data import Augment
from leanconv.training import ConfigError, Recipe, experiment

BATCH = 4
PAPER = Recipe(
    model="csg_deeplabv3",
    data="voc2012",
    data_kwargs={"scored": "crop"},
    image_size=513,
    epochs=50,
    batch_size=BATCH,
    optimizer="momentum",  # timm's name of SGD without Nesterov's look-ahead
    lr=0.007 / BATCH,
    lr_factors={"classifier": 10.0},  # of pyramid and decoder
    momentum=0.9,
    weight_decay=5e-4 * BATCH,  # of everything
    decay_biases=True,
    decay_norms=True,
    schedule="poly",
    decay_rate=0.9,
    min_lr=0.0,
    augment=Augment(hflip=0.5, resize=(0.5, 2.0), blur=0.5),
    channels_last=True,
    workers=4,
)
Options = dict[str, Any]
KINDS: dict[str, tuple[str, Options]] = {
    "plain": ("", {"model_kwargs": {"generated": False}}),
    "csg": (" CSG", {}),
    "one": (" CSG, one generator", {"model_kwargs": {"generators": 1}}),
    # Their codes in the pyramid have a mean of 0.001 as well.
    "published": (" CSG as published", {"model_kwargs": {"init": "uniform"}, "frozen": ("generator",)}),
}
NARROW: Options = {"layers": (1, 1, 1, 1), "channels": (16, 16, 32, 32), "width": 32, "rates": (1, 2, 3)}
NARROW_CODES: Options = {"code_size": 32, "slice_shape": (8, 8, 3, 3)}
SMOKE: Options = {
    "smoke": True,
    "image_size": None,
    "epochs": 16,
    "batch_size": 8,
    "optimizer": "adamw",  # so few steps from scratch are too few for SGD
    "lr": 4e-3,
    "lr_factors": {"classifier": 1.0},
    "weight_decay": 0.01,
    "data_kwargs": {"scored": "whole"},
    "augment": {"resize": (0.8, 1.5), "blur": 0.0},
    "channels_last": False,
    "workers": 0,
    "log_every": 10,
}
SMOKE_KINDS = ("plain", "csg", "one")


def recipe(kind: str, backbone: str | None = None) -> Recipe:
    """The paper's recipe; `backbone` is the run or file that the backbone starts from."""
    start = {} if backbone is None else {"start": {"backbone": backbone}}
    return PAPER.override({**KINDS[kind][1], **start})


def smoke_recipe(kind: str, backbone: str | None = None) -> Recipe:
    """A narrow network on photographs with garments upon them, minutes on two cores."""
    codes = {} if kind == "plain" else NARROW_CODES
    planned = recipe(kind, backbone).override(SMOKE)
    return planned.override({"model_kwargs": {**NARROW, **codes, **planned.model_kwargs}})


def card(ran: Recipe, *, planned: Recipe, kind: str) -> dict[str, Any]:
    """The name of what ran."""
    if (ran.model, ran.model_kwargs) != (planned.model, planned.model_kwargs):
        return {"row": ran.model}
    name = ("narrow DeepLab" if ran.smoke else "DeepLab R-101") + KINDS[kind][0]
    scratch = "" if ran.start or ran.smoke else ", from scratch"
    return {"row": f"{name}{scratch}"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", choices=KINDS, help="default: csg; for --smoke plain, csg and one")
    parser.add_argument(
        "--backbone", nargs="+", default=[], metavar="KIND=RUN", help="a run folder, checkpoint or file of weights"
    )
    experiment.add_arguments(parser, out="runs/csgconv/voc", folders=False)
    args = parser.parse_args()
    kinds = args.kind or (SMOKE_KINDS if args.smoke else ["csg"])
    try:
        starts = experiment.paths("--backbone", args.backbone, "KIND=RUN", KINDS, ("--kind", kinds))
    except ConfigError as error:
        parser.error(str(error))
    plans: list[experiment.Plan] = []
    for kind in kinds:
        chosen = (smoke_recipe if args.smoke else recipe)(kind, starts.get(kind))
        plans.append((kind, chosen, partial(card, planned=chosen, kind=kind)))
    return experiment.run(plans, args, after=overlays.draw)


if __name__ == "__main__":
    sys.exit(main())
