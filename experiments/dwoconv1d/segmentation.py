"""ADE20K segmentation of "Convolutional Networks with Oriented 1D Kernels" (ICCV 2023, table 4).

    python experiments/dwoconv1d/segmentation.py --smoke
    python experiments/dwoconv1d/segmentation.py --variant 1d --data /data/ade --backbone 1d=runs/1d-seed0
    torchrun --nproc-per-node=4 experiments/dwoconv1d/segmentation.py --variant 1dpp 2dpp --size base --data /data/ade

UPerNet over the paper's networks, which start from what classification.py (``--backbone VARIANT=RUN``) or the authors'
own training has left: oriented kernels are shortened as the paper does it, and what each of them loses is said. In a
smoke run the narrow backbone starts from the newest finished smoke run of classification.py, where there is one.

The authors train for 160,000 steps of 16 images. Of the 20,210 images an epoch takes 1,263 full steps, so 127 epochs
are 160,401. The rate falls from the end of the warm-up on, theirs from the first step: they are within 1 % of each
other. Tested are whole images, their shorter side at 512 pixels: once as they are ("mIoU"), and at the end over
six sizes and mirrored ("mIoU multi-scale"), as the paper's numbers are.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import _backbone
from classification import label

from leanconv import overlays
from leanconv.data import Augment
from leanconv.training import Recipe

STEPS_PER_EPOCH = 20_210 // 16
VIEWS = {"scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "flip": True}
PAPER = Recipe(
    model="upernet",
    data="ade20k",
    data_kwargs={"scored": "resized", "aspect": 4.0, **VIEWS},
    image_size=512,
    epochs=127,
    batch_size=16,
    optimizer="adamw",
    lr=1e-4,
    weight_decay=0.05,
    betas=(0.9, 0.999),
    layer_decay=0.9,
    layer_decay_by="stage",
    schedule="poly",
    decay_rate=1.0,
    min_lr=0.0,
    warmup_epochs=1500 / STEPS_PER_EPOCH,
    warmup_lr=1e-10,  # a millionth of lr
    aux_loss=0.4,
    drop_path=0.4,
    # 2048 x 512 pixels times 0.5 to 2; hue turns by 18 of 180
    augment=Augment(hflip=0.5, resize=(0.5, 2.0), share=0.75, distort=(32.0, 0.5, 0.5, 36.0)),
    sync_norms=True,
    channels_last=True,
    workers=4,
    eval_every=10,
)
RESULTS = {  # ADE20K validation: mIoU, multi-scale
    ("tiny", "2d"): 46.6,
    ("tiny", "1d"): 45.2,
    ("tiny", "1dpp"): 47.4,
    ("tiny", "2dpp"): 48.1,
    ("base", "2d"): 49.4,
    ("base", "1d"): 49.4,
    ("base", "1dpp"): 50.7,
    ("base", "2dpp"): 50.2,
}
SOURCE = "ADE20K validation, multi-scale, 160,000 steps from ImageNet-1K, as the authors publish it beside their code"

SMOKE: dict[str, Any] = {
    "smoke": True,
    # Garments are then about as large as those that the backbone has classified, and a step takes a third of the time.
    "image_size": 64,
    "epochs": 24,  # where garments are is learned in 500 steps, and which they are in all the others
    "batch_size": 8,
    "lr": 4e-3,  # few steps, most of the network from scratch
    "warmup_epochs": 0.5,
    "layer_decay": None,  # the backbone has next to nothing to keep
    "clip_grad": 5.0,  # some steps have gradients of 50 and more
    "drop_path": 0.0,
    "data_kwargs": {"scored": "resized", "aspect": 4.0, "scales": (0.75, 1.0, 1.25), "flip": True},
    "augment": {"resize": (0.8, 1.5), "distort": (0.0, 0.0, 0.0, 0.0)},  # colours changed, learning takes twice as long
    "channels_last": False,
    "workers": 0,
    "eval_every": 8,
    "log_every": 30,
}
NARROW_HEADS = {"width": 64, "aux_width": 32}  # in 24 channels, garments that differ in their kind stay alike


def recipe(size: str, variant: str, start: str | None = None) -> Recipe:
    """The paper's recipe of one network; `start` is the file of weights that its backbone starts from."""
    changes: dict[str, Any] = {"model_kwargs": _backbone.network(size, variant)}
    return PAPER.override({**changes, **({"start": {"backbone": start}} if start else {})})


def smoke_recipe(variant: str, start: str | None = None) -> Recipe:
    """A narrow network on photographs with garments upon them, minutes on two cores."""
    network = {**_backbone.network("tiny", variant, smoke=True), **NARROW_HEADS}
    return recipe("tiny", variant, start).override({**SMOKE, "model_kwargs": network})


def card(ran: Recipe, *, planned: Recipe, size: str, variant: str) -> dict[str, Any]:
    """What the report says beside our numbers: the name of what ran, and the paper's numbers beside its networks."""
    table = {f"UPerNet, {label(*key)} on ADE20K": str(miou) for key, miou in RESULTS.items()}
    if (ran.model, ran.model_kwargs) != (planned.model, planned.model_kwargs):
        return {"row": f"{ran.model}, changed", "table": table}
    name = f"narrow UPerNet {label(size, variant).split()[-1]}" if ran.smoke else f"UPerNet, {label(size, variant)}"
    scratch = "" if ran.start else ", from scratch"
    full = ran.data == "ade20k" and not ran.smoke
    found: dict[str, Any] = {"row": f"{name}{' on ADE20K' * full}{scratch}", "table": table}
    if full or ran.smoke:
        found["paper"] = {"miou_multiscale": RESULTS[size, variant], "on": "ADE20K", "source": SOURCE}
    return found


def main() -> int:
    return _backbone.main(__doc__, "runs/dwoconv1d/segmentation", recipe, smoke_recipe, card, overlays.draw)


if __name__ == "__main__":
    sys.exit(main())
