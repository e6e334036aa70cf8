"""Time of SMPConv networks and of their twins with depthwise kernels of 7x7 weights.

    python experiments/smpconv/latency.py                          # SMPConv-T of 224 pixels, batch 1 and 8, on the CPU
    python experiments/smpconv/latency.py --device cuda --batch 1 64 256 --dtype float16
    python experiments/smpconv/latency.py --smoke                  # the narrow networks of imagenet.py: a minute

Both run channels-last. "as trained" is the network in evaluation, whose kernels are made of their points once. The
other ways of inference run what `smpconv.fuse` leaves, without points, small branches and norms, as it is ("eager"),
through torch.compile ("compiled"; on a GPU also with CUDA graphs, "graphs"), as the program that torch.export makes
("exported") and, on the CPU and where onnxruntime is installed, as ONNX ("ONNX"). "training" is forward and backward of
one batch, in which every kernel is made of its points again; "compiled training" the same compiled.

The paper has no such times. Weights are random, and radii as at the start of a training.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import torch
from imagenet import KINDS, NETWORKS, label, recipe, smoke_recipe
from torch import nn

from leanconv import environment, models, routes
from leanconv.profiling import count
from leanconv.training.run_folder import write_json
from smpconv import backend_info, fuse

AS_TRAINED = "as trained"
# Norms of a random network lose digits, in both networks alike: 16 bits round another way once norms are folded.
TOLERANCE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.6}
SMOKE_SHAPE, SHAPE = (1, 28), (3, 224)  # channels, side


def build(size: str, kind: str, smoke: bool) -> nn.Module:
    """The network with fresh weights; the same seed for both kinds."""
    torch.manual_seed(0)
    planned = smoke_recipe(kind) if smoke else recipe(size, kind)
    kwargs = {**planned.model_kwargs, **({"in_chans": SMOKE_SHAPE[0], "num_classes": 10} if smoke else {})}
    return models.build(planned.model, **kwargs)


def ways(args: argparse.Namespace) -> list[str]:
    """What is wanted and can be timed here."""
    absent = {"compiled training"} if args.smoke else set()
    possible = [AS_TRAINED, *(way for way in routes.possible(args.device, args.dtype) if way not in absent)]
    return [way for way in args.ways or possible if way in possible]


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time every cell; one dictionary for each batch and network, milliseconds."""
    cells = []
    channels = SMOKE_SHAPE[0] if args.smoke else SHAPE[0]
    for batch in args.batch:
        torch.manual_seed(1)
        x = torch.randn(batch, channels, args.side, args.side).to(args.device, getattr(torch, args.dtype))
        x = x.to(memory_format=torch.channels_last)
        networks, found, times = {}, {}, {}
        for kind in KINDS:
            model = build(args.size, kind, args.smoke)
            counts = count(model, (channels, args.side, args.side))
            networks[kind] = model.to(x.device, x.dtype, memory_format=torch.channels_last)
            routes.settle(model, x)
            found[kind] = {"batch": batch, "kind": kind, "params": counts.params, "macs": counts.macs}
        for way in ways(args):
            route, deploy = ("eager", nn.Module.eval) if way == AS_TRAINED else (way, fuse)
            options: dict[str, Any] = {"deploy": deploy, "tolerance": TOLERANCE[args.dtype], "label": way}
            times[way] = routes.timed(route, networks, x, args.seconds, **options)
        cells += [{**cell, "milliseconds": {way: times[way][kind] for way in times}} for kind, cell in found.items()]
    return cells


def table(cells: list[dict[str, Any]], size: str, title: str, smoke: bool) -> str:
    """Markdown: milliseconds and, in brackets, the ratio to the twin."""
    columns = list(cells[0]["milliseconds"])
    lines = [title, "", f"| batch | network | params | MACs | {' | '.join(columns)} |"]
    lines.append("|" + " --- |" * (len(columns) + 4))
    for cell in cells:
        twin = next(other for other in cells if (other["batch"], other["kind"]) == (cell["batch"], "7x7"))
        shown = []
        for way, time in cell["milliseconds"].items():
            ratio = f" ({time / twin['milliseconds'][way]:.2f})" if cell is not twin else ""
            shown.append(f"{routes.ms(time)}{ratio}")
        name = f"narrow SMPConv{KINDS[cell['kind']][0]}" if smoke else label(size, cell["kind"])
        size_and_work = f"{cell['params'] / 1e6:.3g} M | {cell['macs'] / 1e9:.3g} G"
        lines.append(f"| {cell['batch']} | {name} | {size_and_work} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", "Milliseconds, medians; in brackets the ratio to the twin."]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="narrow networks, batch 1, short measurements")
    parser.add_argument("--size", choices=NETWORKS, default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, nargs="+", help="default: 1 8; with --smoke 1")
    parser.add_argument("--side", type=int, help="of the images, in pixels; default: 224, with --smoke 28")
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=(AS_TRAINED, *routes.INFERENCE, *routes.TRAINING),
        help="default: all that can be timed here",
    )
    parser.add_argument("--seconds", type=float, help="per measurement")
    parser.add_argument("--out", type=Path, help="default: runs/smpconv/latency, or latency-smoke")
    parser.add_argument("--data", help="not used: random numbers will do here")
    parser.add_argument("--resume", action="store_true", help="not used: all is measured again, which takes minutes")
    parser.add_argument("--set", "--seeds", nargs="+", help="not used: nothing is trained here")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch sees no GPU here; leave it out to measure the CPU")
    if args.batch and min(args.batch) < 1:
        parser.error(f"--batch must be at least 1, but it is {min(args.batch)}")
    args.out = args.out or Path("runs/smpconv", "latency-smoke" if args.smoke else "latency")
    args.batch = args.batch or ([1] if args.smoke else [1, 8])
    args.side = args.side or (SMOKE_SHAPE if args.smoke else SHAPE)[1]
    args.seconds = args.seconds or (0.3 if args.smoke else 2.0)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("leanconv").setLevel(logging.INFO)

    torch.backends.cudnn.benchmark = True
    cells = measure(args)
    birth = environment.describe()
    title = (
        f"{args.side} pixels, {args.dtype}, channels_last, on {environment.hardware(args.device)}, {birth['date'][:10]}"
    )
    args.out.mkdir(parents=True, exist_ok=True)
    record = {"size": args.size, "side": args.side, "dtype": args.dtype, "smoke": args.smoke}
    record |= {"device": environment.hardware(args.device), "cells": cells}
    record |= {"backend": backend_info(), "environment": birth}
    write_json(args.out / "latency.json", record)
    text = table(cells, args.size, title, args.smoke)
    (args.out / "latency.md").write_text(text)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
