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
import importlib.util
import io
import logging
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import torch
from imagenet import KINDS, NETWORKS, label, recipe
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from leanconv import environment, models
from leanconv.profiling import count, latency
from leanconv.training.run_folder import write_json
from pix import backend_info

log = logging.getLogger("leanconv")

SMOKE: dict[str, Any] = {"layers": (2, 2, 2, 2)}  # each zeta of ResNet-50
SIDE, ROUNDS = 224, 5

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


def settle(model: nn.Module, x: Tensor) -> None:
    """Give the norms the statistics of `x`, so that values are as large as in a trained network."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def folded(model: nn.Module) -> nn.Module:
    """A copy for inference with the norms inside the convolutions."""
    return fuse(model.eval())


def compiled(model: nn.Module, x: Tensor, **options: Any) -> Callable[[Tensor], Any]:
    return torch.compile(model, fullgraph=True, dynamic=False, **options)


def exported(model: nn.Module, x: Tensor) -> Callable[[Tensor], Any]:
    return torch.export.export(model, (x,)).module()


def onnx(model: nn.Module, x: Tensor) -> Callable[[Tensor], Any]:
    """onnxruntime with as many threads as torch; ONNX knows contiguous tensors alone."""
    import onnxruntime

    file = io.BytesIO()
    torch.onnx.export(model, (x.contiguous(),), file, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: torch.from_numpy(session.run(None, {name: image.numpy()})[0])


def step(model: nn.Module) -> Callable[[Tensor], None]:
    def forward_and_backward(x: Tensor) -> None:
        model.zero_grad()
        model(x).sum().backward()

    return forward_and_backward


INFERENCE: dict[str, Callable[[nn.Module, Tensor], Callable[[Tensor], Any]]] = {
    "eager": lambda model, x: model,
    "compiled": compiled,
    "graphs": lambda model, x: compiled(model, x, mode="reduce-overhead"),
    "exported": exported,
    "ONNX": onnx,
}
TRAINING: dict[str, Callable[[nn.Module, Tensor], Callable[[Tensor], Any]]] = {
    "training": lambda model, x: step(model),
    "compiled training": lambda model, x: step(compiled(model, x)),
}


def ways(args: argparse.Namespace) -> list[str]:
    """What is wanted and can be timed here."""
    absent = {"graphs": args.device == "cpu", "compiled training": args.smoke}
    absent["ONNX"] = args.device != "cpu" or args.dtype != "float32" or not importlib.util.find_spec("onnxruntime")
    return [way for way in args.ways or (*INFERENCE, *TRAINING) if not absent.get(way)]


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
            settle(model, x)
            found[kind] = {"batch": batch, "kind": kind, "params": counts.params, "macs": counts.macs}
        times = {way: timed(way, networks, x, args.seconds) for way in ways(args)}
        cells += [{**cell, "milliseconds": {way: times[way][kind] for way in times}} for kind, cell in found.items()]
    return cells


def timed(way: str, networks: dict[str, nn.Module], x: Tensor, seconds: float) -> dict[str, float]:
    """Median milliseconds of each network run in one way. They take turns: a busy minute shall hit all of them."""
    torch.compiler.reset()
    with torch.set_grad_enabled(way in TRAINING):
        functions = {kind: ready(way, model, x) for kind, model in networks.items()}
        taken: dict[str, list[float]] = {kind: [] for kind in functions}
        for _ in range(ROUNDS):
            for kind, function in functions.items():
                taken[kind].append(latency(function, x, min_seconds=seconds / ROUNDS).median * 1e3)
    medians = {kind: statistics.median(each) for kind, each in taken.items()}
    log.info("batch %d, %s: %s", len(x), way, ", ".join(f"{kind} {ms(time)} ms" for kind, time in medians.items()))
    return medians


def ready(way: str, model: nn.Module, x: Tensor) -> Callable[[Tensor], Any]:
    """The function to time; in inference its result is compared with the plain network's first."""
    if way in TRAINING:
        return TRAINING[way](model.train(), x)
    expected = model.eval()(x).float()
    function = INFERENCE[way](folded(model), x)
    # Loose, as a gate within rounding of tau may fall to the other side.
    if not (function(x).float() - expected).norm() <= 0.05 * expected.norm():
        raise ArithmeticError(f"{way}: the logits differ from those of the plain network")
    return function


def ms(time: float) -> str:
    return f"{time:.3g}" if time < 1000 else f"{time:.0f}"


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
            shown.append(f"{ms(time)}{ratio}")
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
        "--ways", nargs="+", choices=(*INFERENCE, *TRAINING), help="default: all that can be timed here"
    )
    parser.add_argument("--seconds", type=float, help="per measurement")
    parser.add_argument("--out", type=Path, help="default: runs/pix/latency, or latency-smoke")
    parser.add_argument("--data", help="not used: random numbers will do here")
    parser.add_argument("--resume", action="store_true", help="not used: all is measured again, which takes minutes")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch sees no GPU here; leave it out to measure the CPU")
    args.out = args.out or Path("runs/pix", "latency-smoke" if args.smoke else "latency")
    args.batch = args.batch or ([1] if args.smoke else [1, 8])
    args.seconds = args.seconds or (0.3 if args.smoke else 2.0)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)

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
