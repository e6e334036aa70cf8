"""Time of a PiX network, of the network it came from, and of PiX that always averages or always takes the maximum.

    python experiments/pix/latency.py                              # ResNet-50 of 224 pixels, batch 1 and 8, on the CPU
    python experiments/pix/latency.py --device cuda --batch 1 64 256 --dtype float16
    python experiments/pix/latency.py --smoke                      # networks of 8 blocks: a minute on two cores

Inference runs as it would be deployed: norms folded into the convolutions of all networks alike, channels-last. It is
timed as it is ("eager"), through torch.compile ("compiled"; on a GPU also with CUDA graphs, "graphs"), as the program
that torch.export makes ("exported") and, on the CPU and where onnxruntime is installed, as ONNX ("ONNX"). "training" is
forward and backward of one batch, eager, with norms; "compiled training" the same compiled.

Table 1 of the paper has the time of a training iteration of 256 images on a GPU it does not name. Its other latencies
could not be had, and the authors' own script times PiX alone. Weights are random: about half of the channels pick.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import torch
from imagenet import KINDS, NETWORKS, label, recipe
from torch import nn
from torch.fx.experimental.optimization import fuse

from leanconv import environment, models, routes
from leanconv.profiling import count
from leanconv.training.run_folder import write_json
from pix import backend_info

SMOKE: dict[str, Any] = {"layers": (2, 2, 2, 2)}  # each zeta of ResNet-50
SIDE = 224

PAPER = {  # table 1: milliseconds per training iteration
    ("50", "resnet"): 575,
    ("50", "pix"): 359,
    ("50", "avg"): 359,
    ("50", "max"): 359,
    ("101", "resnet"): 575,  # as printed, the same as ResNet-50's
    ("101", "pix"): 431,
    ("152", "resnet"): 863,
    ("152", "pix"): 575,
    ("50-half", "resnet"): 260,
    ("50-half", "pix"): 180,
    ("50-se", "resnet"): 575,
    ("50-se", "pix"): 359,
}


def build(network: str, kind: str, smoke: bool) -> nn.Module:
    """The network of table 1 with fresh weights; the same seed for all kinds."""
    torch.manual_seed(0)
    planned = recipe("table1", network, kind)
    return models.build(planned.model, **planned.model_kwargs, **(SMOKE if smoke else {}))


def folded(model: nn.Module) -> nn.Module:
    """A copy for inference with the norms inside the convolutions."""
    return fuse(model.eval())


def ways(args: argparse.Namespace) -> list[str]:
    """What is wanted and can be timed here."""
    absent = {"compiled training"} if args.smoke else set()
    possible = [way for way in routes.possible(args.device, args.dtype) if way not in absent]
    return [way for way in args.ways or possible if way in possible]


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time every cell; one dictionary for each batch and network, milliseconds."""
    cells = []
    for batch in args.batch:
        torch.manual_seed(1)
        x = torch.randn(batch, 3, args.side, args.side).to(args.device, getattr(torch, args.dtype))
        x = x.to(memory_format=torch.channels_last)
        networks, found = {}, {}
        for kind in KINDS:
            model = build(args.network, kind, args.smoke)
            counts = count(model, (3, args.side, args.side))
            networks[kind] = model.to(x.device, x.dtype, memory_format=torch.channels_last)
            routes.settle(model, x)
            found[kind] = {"batch": batch, "kind": kind, "params": counts.params, "macs": counts.macs}
        # The tolerance is loose, as a gate within rounding of tau may fall to the other side.
        options: dict[str, Any] = {"deploy": folded, "tolerance": 0.05}
        times = {way: routes.timed(way, networks, x, args.seconds, **options) for way in ways(args)}
        cells += [{**cell, "milliseconds": {way: times[way][kind] for way in times}} for kind, cell in found.items()]
    return cells


def table(cells: list[dict[str, Any]], network: str, title: str, smoke: bool) -> str:
    """Markdown: milliseconds and, in brackets, the ratio to the network without PiX; the paper's beside ours."""
    columns = list(cells[0]["milliseconds"])
    lines = [title, "", f"| batch | network | MACs | {' | '.join(columns)} | paper, training |"]
    lines.append("|" + " --- |" * (len(columns) + 4))
    for cell in cells:
        base = next(other for other in cells if (other["batch"], other["kind"]) == (cell["batch"], "resnet"))
        shown = []
        for way, time in cell["milliseconds"].items():
            ratio = f" ({time / base['milliseconds'][way]:.2f})" if cell is not base else ""
            shown.append(f"{routes.ms(time)}{ratio}")
        paper = PAPER.get((network, cell["kind"]))
        published = (
            "-"
            if paper is None
            else f"{paper}"
            if cell is base
            else f"{paper} ({paper / PAPER[network, 'resnet']:.2f})"
        )
        name = ("8-block " if smoke else "") + label(network, cell["kind"])
        lines.append(f"| {cell['batch']} | {name} | {cell['macs'] / 1e9:.3f} G | {' | '.join(shown)} | {published} |")
    note = (
        "Milliseconds, medians; in brackets the ratio to the network without PiX. Paper: table 1, a training iteration "
        "of 256 images, GPU not named."
    )
    return "\n".join([*lines, "", note]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="networks of 8 blocks, batch 1, short measurements")
    parser.add_argument("--network", choices=NETWORKS, default="50")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, nargs="+", help="default: 1 8; with --smoke 1")
    parser.add_argument("--side", type=int, default=SIDE, help="of the images, in pixels")
    parser.add_argument(
        "--ways", nargs="+", choices=(*routes.INFERENCE, *routes.TRAINING), help="default: all that can be timed here"
    )
    parser.add_argument("--seconds", type=float, help="per measurement")
    parser.add_argument("--out", type=Path, help="default: runs/pix/latency, or latency-smoke")
    parser.add_argument("--data", help="not used: random numbers will do here")
    parser.add_argument("--resume", action="store_true", help="not used: all is measured again, which takes minutes")
    parser.add_argument("--set", "--seeds", nargs="+", help="not used: nothing is trained here")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch sees no GPU here; leave it out to measure the CPU")
    args.out = args.out or Path("runs/pix", "latency-smoke" if args.smoke else "latency")
    args.batch = args.batch or ([1] if args.smoke else [1, 8])
    args.seconds = args.seconds or (0.3 if args.smoke else 2.0)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("leanconv").setLevel(logging.INFO)

    torch.backends.cudnn.benchmark = True
    cells = measure(args)
    birth = environment.describe()
    title = (
        f"{args.side} pixels, {args.dtype}, channels_last, norms folded for inference, on "
        f"{environment.hardware(args.device)}, {birth['date'][:10]}"
    )
    args.out.mkdir(parents=True, exist_ok=True)
    record = {"network": args.network, "side": args.side, "dtype": args.dtype, "smoke": args.smoke}
    record |= {"device": environment.hardware(args.device), "cells": cells}
    record |= {"backend": backend_info(), "environment": birth}
    write_json(args.out / "latency.json", record)
    text = table(cells, args.network, title, args.smoke)
    (args.out / "latency.md").write_text(text)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
