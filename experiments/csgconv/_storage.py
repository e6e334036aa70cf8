"""What it takes to store the networks of finished runs, and what storing them smaller costs: a table beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from csgconv import generators, load_compact, save_compact
from leanconv import training
from leanconv.training import build
from leanconv.training.run_folder import read_json, read_recipe, write_json

DTYPES = ("fp32", "fp16", "int8")
COLUMNS = ("network", "parameters", "learned", "top-1", "state dict", *DTYPES)


def measure(run: Path) -> None:
    """Write storage.json and, where the network has a generator, its compact files; then the table of all runs beside.

    A file's accuracy is that of the network loaded from it, on the test images of the run. What is there is left.
    """
    file = run / "storage.json"
    if not file.is_file():
        write_json(file, _measured(run))
    runs = sorted(run.parent.glob("*/storage.json"), key=lambda found: found.stat().st_mtime)
    (run.parent / "storage.md").write_text(table([json.loads(found.read_text()) for found in runs]))


def _measured(run: Path) -> dict[str, Any]:
    recipe, (network, data) = read_recipe(run), training.load(run)
    summary = read_json(run / "summary.json", {})
    torch.save(network.state_dict(), run / "weights.pt")
    found: dict[str, Any] = {
        "row": summary["row"],
        "parameters": numbers(network),
        "learned": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "top1": summary["top1"],
        "state dict": {"bytes": (run / "weights.pt").stat().st_size},
    }
    if not generators(network):
        return found
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options: dict[str, Any] = {"augment": recipe.augment, "image_size": recipe.image_size, "workers": recipe.workers}
    _, loader = data.loaders(recipe.batch_size, device=device, **options)
    for dtype in DTYPES:
        saved = save_compact(network, run / f"compact-{dtype}.pt", dtype)
        read = load_compact(build.model(recipe, data), saved.path).to(device)
        errors = list(saved.errors.values())
        found[dtype] = {"bytes": saved.size, "kernel_error": max(errors)}
        found[dtype]["top1"] = training.evaluate(read, loader, recipe, alone=True)["top1"]
    return found


def numbers(network: nn.Module) -> int:
    """All parameters; those of a binary generator too, which are bits and never learn."""
    binary = sum(generator.weight.numel() for generator in generators(network) if generator.binary)
    return sum(p.numel() for p in network.parameters()) + binary


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: parameters, accuracy, and the bytes of each file with its accuracy where the bytes are fewer."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for run in runs:
        cells = [run["row"], f"{run['parameters']:,}", f"{run['learned']:,}", f"{100 * run['top1']:.2f}"]
        for name in COLUMNS[4:]:
            kept = run.get(name)
            accuracy = f", {100 * kept['top1']:.2f}" if kept and "top1" in kept and name != "fp32" else ""
            cells.append(f"{kept['bytes'] / 1e6:.3f} MB{accuracy}" if kept else "-")
        lines.append("| " + " | ".join(cells) + " |")
    note = (
        "Sizes are those of files: the state dict as torch.save writes it, and compact ones in three precisions, with "
        "the top-1 accuracy (%) of the network that is loaded from them."
    )
    return "\n".join([*lines, "", note]) + "\n"
