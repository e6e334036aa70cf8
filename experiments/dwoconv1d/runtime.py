"""Run time of the oriented convolution against PyTorch's horizontal one: table 5 of the ICCV 2023 paper.

    python experiments/dwoconv1d/runtime.py                # the paper's shapes: N 64, C 512, float32, contiguous
    python experiments/dwoconv1d/runtime.py --smoke        # N 1: minutes on two cores

"as published" repeats what the authors timed: forward, ``y.mean() * 1024``, backward, with an input that asks for no
gradient, so the input gradient is never computed, for either method. The columns beside it take the three passes
apart. Angles here are the eight directions in radians. The authors' script passed 0, 22.5, 45, 66.75 ... degrees to a
layer that takes radians; their timings are of eight other directions (22.5 rad is 209 degrees), of the same kind.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dwoconv1d import OrientedConv1d, backend_info
from leanconv import environment
from leanconv.profiling import latency
from leanconv.training.run_folder import write_json

SIDES, KERNEL_SIZES, CHANNELS = (14, 28, 56), (7, 31), 512
DIRECTIONS = tuple(math.pi * i / 8 for i in range(8))

# Milliseconds on an RTX 3090, "as published": (side, K) -> PyTorch's (1, K), the authors' oriented kernel.
PAPER = {
    (14, 7): (0.4, 0.3),
    (14, 31): (1.1, 0.8),
    (28, 7): (1.4, 0.9),
    (28, 31): (3.8, 2.6),
    (56, 7): (5.5, 3.2),
    (56, 31): (15.0, 9.9),
}
PASSES = ("as published", "forward", "input gradient", "weight gradient")
NOTE = (
    "Milliseconds, medians; ours: median over the directions, and their range. Angles are radians. The paper's script "
    "fed degrees where radians are expected, so its oriented rows are of other, equally generic directions."
)


def horizontal(kernel_size: int) -> nn.Module:
    """PyTorch's depthwise (1, K) convolution, the paper's yardstick."""
    return nn.Conv2d(CHANNELS, CHANNELS, (1, kernel_size), padding=(0, kernel_size // 2), groups=CHANNELS, bias=False)


def oriented(kernel_size: int, angle: float) -> nn.Module:
    """Ours, with every channel in one direction as in the paper's script."""
    return OrientedConv1d(CHANNELS, kernel_size, angle=torch.full((CHANNELS,), angle), bias=False)


def passes(layer: nn.Module, x: Tensor) -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """What is timed: name, function, arguments."""
    asks, of_weight = x.clone().requires_grad_(), layer(x)
    layer.weight.requires_grad_(False)  # an op registered from Python computes every gradient its inputs ask for
    through = layer(asks)
    layer.weight.requires_grad_(True)
    grad = torch.randn_like(through)

    def published() -> None:
        layer.zero_grad()
        (layer(x).mean() * 1024).backward()

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            return layer(x)

    def gradient(of: Tensor, output: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(output, of, grad, retain_graph=True)

    yield PASSES[0], published, ()
    yield PASSES[1], forward, (x,)
    yield PASSES[2], gradient, (asks, through)
    yield PASSES[3], gradient, (layer.weight, of_weight)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time every cell; one dictionary for each, milliseconds."""
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    cells = []
    for side, kernel_size in itertools.product(args.sides, args.kernel_sizes):
        x = torch.randn(args.batch, CHANNELS, side, side, device=args.device).to(memory_format=layout)
        layers = {"PyTorch (1, K)": [horizontal(kernel_size)]}
        layers["oriented"] = [oriented(kernel_size, angle) for angle in args.directions]
        for method, candidates in layers.items():
            times: dict[str, list[float]] = {}
            for layer in candidates:
                for name, function, arguments in passes(layer.to(args.device), x):
                    timing = latency(function, *arguments, min_seconds=args.seconds)
                    times.setdefault(name, []).append(timing.median * 1e3)
            logging.info("%dx%d K=%d %s: %s", side, side, kernel_size, method,
                         ", ".join(f"{name} {statistics.median(ms):.3g} ms" for name, ms in times.items()))  # fmt: skip
            cells.append({"side": side, "kernel_size": kernel_size, "method": method, "milliseconds": times})
    return cells


def table(cells: list[dict[str, Any]], title: str) -> str:
    """Markdown, the paper's RTX 3090 beside ours."""
    lines = [title, "", f"| map | K | method | {' | '.join(PASSES)} | paper, as published |", "|" + " --- |" * 8]
    for cell in cells:
        key, ours = (cell["side"], cell["kernel_size"]), cell["method"] == "oriented"
        shown = []
        for name in PASSES:
            values = cell["milliseconds"][name]
            span = f" ({min(values):.3g}-{max(values):.3g})" if len(values) > 1 else ""
            shown.append(f"{statistics.median(values):.3g}{span}")
        paper = f"{PAPER[key][ours]} (N 64)" if key in PAPER else "-"
        lines.append(f"| {key[0]}x{key[0]} | {key[1]} | {cell['method']} | {' | '.join(shown)} | {paper} |")
    return "\n".join([*lines, "", NOTE]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="batch 1, three directions, short measurements")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="default: 64 as in the paper, 1 with --smoke")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--kernel-sizes", type=int, nargs="+", default=KERNEL_SIZES)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--seconds", type=float, help="per measurement")
    parser.add_argument("--out", type=Path, help="default: runs/dwoconv1d/runtime, or runtime-smoke")
    parser.add_argument("--data", help="not used: random numbers will do here")
    parser.add_argument("--resume", action="store_true", help="not used: all is measured again, which takes minutes")
    parser.add_argument("--set", "--seeds", nargs="+", help="not used: nothing is trained here")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch sees no GPU here; leave it out to measure the CPU")
    args.out = args.out or Path("runs/dwoconv1d", "runtime-smoke" if args.smoke else "runtime")
    args.batch = args.batch or (1 if args.smoke else 64)
    args.seconds = args.seconds or (0.05 if args.smoke else 1.0)
    args.directions = (DIRECTIONS[0], DIRECTIONS[1], DIRECTIONS[4]) if args.smoke else DIRECTIONS
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    torch.backends.cudnn.benchmark = True
    cells = measure(args)
    birth = environment.describe()
    layout = "channels_last" if args.channels_last else "contiguous"
    title = (
        f"Table 5 shapes, N {args.batch}, C {CHANNELS}, float32, {layout}, {len(args.directions)} directions, on "
        f"{environment.hardware(args.device)}, {birth['date'][:10]}; the paper's on an RTX 3090"
    )
    args.out.mkdir(parents=True, exist_ok=True)
    record = {"batch": args.batch, "channels": CHANNELS, "layout": layout, "device": environment.hardware(args.device)}
    record |= {"directions": list(args.directions), "cells": cells, "backend": backend_info(), "environment": birth}
    write_json(args.out / "runtime.json", record)
    (args.out / "runtime.md").write_text(table(cells, title))
    sys.stdout.write(table(cells, title))
    return 0


if __name__ == "__main__":
    sys.exit(main())
