"""How often the layers of a trained network pick and how often they mix, as a picture in its run folder."""

from __future__ import annotations

from pathlib import Path

import torch

from leanconv import plots, training
from leanconv.training.run_folder import read_recipe, write_json
from pix import PiX
from pix.statistics import pick_share

IMAGES = 1000
PARTS = ("channels that pick in every image", "that pick in some", "that mix in every image")


def draw(run: Path) -> None:
    """Write picks.json and picks.png for a run whose network decides by the image; others and old pictures are left.

    They are taken from up to 1 000 test images, with the weights after the last step.
    """
    if (run / "picks.png").is_file():
        return
    network, data = training.load(run)
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, PiX)}
    if not any(0 < layer.tau <= 1 for layer in layers.values()):
        return
    recipe = read_recipe(run)
    data = data.subset(test=min(IMAGES, len(data.test)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    _, loader = data.loaders(
        50, augment=recipe.augment, device=device, image_size=recipe.image_size, workers=recipe.workers
    )
    shares = pick_share(network.to(device).eval(), loader)
    rows, record = {}, {}
    for name, share in shares.items():
        mean, always, never = (value.double().mean().item() for value in (share, share == 1, share == 0))
        zeta = layers[name].zeta
        rows[f"{name}, zeta {zeta}"] = (always, 1 - always - never, never)
        record[name] = {"zeta": zeta, "picks": mean, "always": always, "never": never}
    write_json(run / "picks.json", {"images": len(data.test), "layers": record})
    title = f"{run.name}: what the channels of each layer do in {len(data.test)} test images"
    means = [layer["picks"] for layer in record.values()]
    plots.shares(rows, PARTS, title, run / "picks.png", ("share of picks over channels and images", means))
