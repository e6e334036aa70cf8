"""Objects of COCO by "Convolutional Networks with Oriented 1D Kernels" (ICCV 2023): Cascade Mask R-CNN.

    python experiments/dwoconv1d/detection.py --smoke
    torchrun --nproc-per-node=8 experiments/dwoconv1d/detection.py --variant 1d --data /data/coco --backbone 1d=runs/a

The backbone starts from classification weights, ``--backbone VARIANT=RUN_OR_FILE``: a run of `classification.py` or a
checkpoint of the authors', whose longest kernels are shortened, which is said kernel by kernel. Without it, it starts
at random; a smoke run takes what `classification.py --smoke` has left last, where there is something. Another network
that timm knows becomes the backbone by

    --set model_kwargs.backbone=resnet50 model_kwargs.backbone_kwargs={} layer_decay=none

The recipe is that of the authors' configuration. It builds upon Swin's detection code, which is not beside theirs: the
batch of 16, the warm-up of 500 steps from a thousandth of the rate and mmdetection 2's samples, thresholds and losses
are as that code has them, as far as we know. ``--data`` is a folder that holds COCO, or holds it in coco/.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import _backbone
from classification import label

from leanconv import detections
from leanconv.data import Augment
from leanconv.training import Recipe

BATCH, IMAGES = 16, 117_266  # of COCO's images as many show objects to learn from
PAPER = Recipe(
    model="cascade_mask_rcnn",
    data="coco",
    image_size=800,
    epochs=36,
    batch_size=BATCH,  # on few GPUs give --set accumulate=..., which shrinks the batches of the heads' norms
    optimizer="adamw",
    lr=2e-4,
    weight_decay=0.05,
    betas=(0.9, 0.999),
    layer_decay_by="thirds",
    schedule="multistep",
    milestones=(27, 33),
    decay_rate=0.1,
    warmup_epochs=500 * BATCH / IMAGES,
    warmup_lr=2e-7,
    augment=Augment(hflip=0.5, sides=tuple(range(480, 801, 32)), first_sides=(400, 500, 600), crop=(384, 600)),
    sync_norms=True,
    workers=4,
)
DROP_PATH = {"tiny": 0.4, "base": 0.7}
LAYER_DECAY = {"tiny": 0.7, "base": 0.8}

RESULTS = {  # COCO val2017: mAP of boxes, of masks
    ("tiny", "2d"): (50.2, 43.6),
    ("tiny", "1d"): (50.3, 43.6),
    ("tiny", "1dpp"): (51.3, 44.5),
    ("tiny", "2dpp"): (51.2, 44.4),
    ("base", "2d"): (52.4, 45.2),
    ("base", "1d"): (52.8, 45.7),
    ("base", "1dpp"): (52.9, 46.0),
    ("base", "2dpp"): (52.9, 45.8),
}
SOURCE = "COCO val2017, Cascade Mask R-CNN, 36 epochs, as the authors publish it beside their code"

NARROW: dict[str, Any] = {
    "width": 32,
    "convs": 1,
    "hidden": 128,
    "proposals": (100, 50),
    "samples": 32,
    "points": 2,
}
SMOKE: dict[str, Any] = {
    "smoke": True,
    "image_size": 96,
    "epochs": 10,  # what is inside the boxes is learned in the second half
    "batch_size": 8,
    "lr": 3e-3,
    "layer_decay": None,  # the backbone has next to nothing to keep
    "schedule": "cosine",
    "milestones": (),
    "warmup_epochs": 0.5,
    "clip_grad": 10.0,
    "drop_path": 0.0,
    "augment": {"sides": (), "first_sides": ()},
    "workers": 0,
    "log_every": 20,
    "eval_every": 5,
}


def recipe(size: str, variant: str, start: str | None = None) -> Recipe:
    """The paper's recipe of one network; `start` is a file of weights for its backbone."""
    return PAPER.override(
        {
            "model_kwargs": _backbone.network(size, variant),
            "start": {} if start is None else {"backbone": start},
            "drop_path": DROP_PATH[size],
            "layer_decay": LAYER_DECAY[size],
        }
    )


def smoke_recipe(variant: str, start: str | None = None) -> Recipe:
    """A narrow detector of the variant on photographs with garments upon them, minutes on two cores."""
    planned = recipe("tiny", variant, start).override(SMOKE)
    network = _backbone.network("tiny", variant, smoke=True)
    # Maps of strides 4 and 8: that of stride 2 would take most of the time.
    network["backbone_kwargs"]["out_indices"] = (1, 2)
    return planned.override({"model_kwargs": {**NARROW, **network}})


def card(ran: Recipe, *, planned: Recipe, size: str, variant: str) -> dict[str, Any]:
    """The name of what ran, and the paper's numbers beside its networks on COCO and beside their narrow stand-ins."""
    table = {f"{label(*key)}, COCO": f"{boxes} / {masks}" for key, (boxes, masks) in RESULTS.items()}
    if (ran.model, ran.model_kwargs) != (planned.model, planned.model_kwargs):
        return {"row": f"{ran.model}, {ran.model_kwargs.get('backbone', 'own')} backbone", "table": table}
    name = f"narrow ConvNeXt {label(size, variant).split()[1]}" if ran.smoke else label(size, variant)
    scratch = "" if ran.start else ", from scratch"
    coco = ran.data == "coco" and not ran.smoke
    found = {"row": f"{name}{', COCO' * coco}{scratch}", "table": table}
    if coco or ran.smoke:
        boxes, masks = RESULTS[size, variant]
        found["paper"] = {"box_map": boxes, "mask_map": masks, "on": "COCO", "source": SOURCE}
    return found


def main() -> int:
    return _backbone.main(__doc__, "runs/dwoconv1d/detection", recipe, smoke_recipe, card, detections.draw)


if __name__ == "__main__":
    sys.exit(main())
