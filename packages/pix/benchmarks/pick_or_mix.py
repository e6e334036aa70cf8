"""Times pick-or-mix and the layer beside what stock torch offers: `nox -s bench -- pix [options]`.

Routes are called in turn, round after round, and medians compared, at the shapes of ResNet-50's squeezing convolutions:

    eager       the formula composed of torch's ops, with `amax`, the fastest that torch has for the maximum
    compiled    the same through `torch.compile` (--no-compile leaves it out: it takes most of the time)
    conv        the 1x1 convolution that the layer replaces: with ReLU, and with batch norm in training

`op` is pick-or-mix with given gates, `layer` is all of PiX. Inference is the forward pass without gradients, training
the forward and the backward pass through autograd, to x and gates or to x and weight.

`copy` is the time of copying x. The op has to move C + C' numbers forwards, C + 2 C' numbers backwards, and one byte
per output each way in training; `bandwidth` is that floor per second by the bytes per second of the copy. The layer has
the same floor where a sample stays in the cache between the mean and its use.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import pix
from leanconv.benchmark import environment, interleave, keep_freed_memory, summary, write

RESULTS = Path(__file__).parent / "results"

CASES = [(256, 56, 4), (512, 28, 4), (1024, 14, 4), (2048, 7, 4), (256, 56, 2)]  # channels, side, zeta
QUICK = [(256, 56, 4), (1024, 14, 4)]
TAU = 0.5
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Call = Callable[[], object]


def composed(x: Tensor, p: Tensor, zeta: int) -> Tensor:
    """The formula in torch's ops."""
    subsets, gate = x.unflatten(1, (-1, zeta)), p[:, :, None, None]
    return gate * torch.where(gate < TAU, subsets.amax(2), subsets.mean(2))


def composed_layer(x: Tensor, weight: Tensor, zeta: int) -> Tensor:
    return composed(x, torch.sigmoid(F.linear(x.mean((2, 3)), weight)), zeta)


def without_gradients(call: Callable[..., object], *args: object) -> Call:
    def run() -> None:
        with torch.no_grad():
            call(*args)

    return run


def with_gradients(call: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor, *rest: object) -> Call:
    leaves = [t.detach().requires_grad_() for t in inputs]
    return lambda: torch.autograd.grad(call(*leaves, *rest), leaves, grad)


def convolution(x: Tensor, outputs: int, layout: torch.memory_format, training: bool) -> torch.nn.Module:
    """What the layer replaces; batch norm is folded into the convolution for inference."""
    conv = torch.nn.Conv2d(x.shape[1], outputs, 1, bias=not training)
    norm = [torch.nn.BatchNorm2d(outputs)] if training else []
    return torch.nn.Sequential(conv, *norm, torch.nn.ReLU(inplace=True)).to(x.device, x.dtype, memory_format=layout)


def routes(call: Callable[..., Tensor], args: argparse.Namespace) -> dict[str, Callable[..., Tensor]]:
    torch.compiler.reset()  # graphs of other shapes and numbers of threads
    return {"eager": call} | ({"compiled": torch.compile(call, dynamic=False)} if args.compile else {})


def measure(batch: int, channels: int, size: int, zeta: int, place: str, args: argparse.Namespace) -> dict:
    dtype, layout, outputs = getattr(torch, args.dtype), LAYOUTS[place], channels // zeta
    x = torch.randn(batch, channels, size, size, device=args.device).to(dtype).contiguous(memory_format=layout)
    grad = torch.randn(batch, outputs, size, size, device=args.device).to(dtype).contiguous(memory_format=layout)
    p = torch.rand(batch, outputs, device=args.device).to(torch.promote_types(dtype, torch.float32))
    weight = (torch.randn(outputs, channels, device=args.device) / channels**0.5).to(dtype)
    copy, calls = torch.empty_like(x), routes(composed, args)
    phases: dict[str, dict[str, Call]] = {
        "op inference": {"copy": lambda: copy.copy_(x), "ours": without_gradients(pix.pick_or_mix, x, p, zeta)}
        | {name: without_gradients(call, x, p, zeta) for name, call in calls.items()},
        "op training": {"copy": lambda: copy.copy_(x), "ours": with_gradients(pix.pick_or_mix, [x, p], grad, zeta)}
        | {name: with_gradients(call, [x, p], grad, zeta) for name, call in calls.items()},
    }
    result = {"batch": batch, "channels": channels, "size": size, "zeta": zeta, "layout": place} | timed(phases, args)
    calls = routes(composed_layer, args)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return pix.functional.pix(x, weight, zeta=zeta)

    frozen, trained = (convolution(x, outputs, layout, training) for training in (False, True))
    learned = x.detach().requires_grad_(), *trained.parameters()
    phases = {
        "layer inference": {"ours": without_gradients(ours, x, weight), "conv": without_gradients(frozen, x)}
        | {name: without_gradients(call, x, weight, zeta) for name, call in calls.items()},
        "layer training": {
            "ours": with_gradients(ours, [x, weight], grad),
            "conv": lambda: torch.autograd.grad(trained(learned[0]), learned, grad),
        }
        | {name: with_gradients(call, [x, weight], grad, zeta) for name, call in calls.items()},
    }
    return result | timed(phases, args)


def timed(phases: dict[str, dict[str, Call]], args: argparse.Namespace) -> dict:
    seconds = 0.1 if args.quick else 0.3
    return {
        phase: {name: summary(values) for name, values in interleave(calls, args.device, seconds).items()}
        for phase, calls in phases.items()
    }


def floor(result: dict, training: bool, number: int) -> float:
    """Bytes that the op has to move, by those that the copy of x moves."""
    channels, outputs = result["channels"], result["channels"] // result["zeta"]
    moved = (channels + outputs) * number
    if training:
        moved += (channels + 2 * outputs) * number + 2 * outputs
    return moved / (2 * channels * number)


def ratio(result: dict, phase: str, rival: str) -> float:
    """How many times the rival's time is ours."""
    times = result[phase]
    return times[rival]["ms"] / times["ours"]["ms"] if rival in times else math.nan


def table(results: list[dict], number: int) -> str:
    """Markdown: ours in milliseconds, the floor's bandwidth by a copy's, and the rivals' times by ours."""
    head = ["", "N x C x H x W", "zeta", "layout", "threads", "inference ms", "bandwidth / copy", "eager", "compiled",
            "conv", "training ms", "bandwidth / copy", "eager", "compiled", "conv"]  # fmt: skip
    rows = [head, ["---"] * len(head)]
    for kind in ("op", "layer"):
        for r in results:
            row = [kind, f"{r['batch']} x {r['channels']} x {r['size']} x {r['size']}", str(r["zeta"]), r["layout"]]
            row.append(str(r["threads"]))
            for name in ("inference", "training"):
                phase, ms = f"{kind} {name}", r[f"{kind} {name}"]["ours"]["ms"]
                share = floor(r, name == "training", number) * r[f"op {name}"]["copy"]["ms"] / ms
                factors = [ratio(r, phase, rival) for rival in ("eager", "compiled", "conv")]
                row += [f"{ms:.3f}", f"{share:.0%}", *("" if math.isnan(f) else f"{f:.2f}x" for f in factors)]
            rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def worst(results: list[dict]) -> dict[str, float]:
    """The least ratio of every kind: below 1 where a rival is faster."""
    kinds = [f"{kind} {phase}" for kind in ("op", "layer") for phase in ("inference", "training")]
    least = {
        f"{phase}, {rival} / ours": min(ratio(r, phase, rival) for r in results)
        for phase in kinds
        for rival in ("eager", "compiled", "conv")
    }
    return {name: value for name, value in least.items() if not math.isnan(value)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats, batch 8")
    parser.add_argument("--batch", type=int, nargs="+", help="images; by default 8 and 1")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "float16", "bfloat16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path, help="where the numbers go; by default benchmarks/results/")
    args = parser.parse_args()
    args.batch = args.batch or ([8] if args.quick else [8, 1])
    keep_freed_memory()
    torch.manual_seed(0)
    results = []
    for count in args.threads if args.device == "cpu" else [torch.get_num_threads()]:
        torch.set_num_threads(count)
        for batch in args.batch:
            for case in QUICK if args.quick else CASES:
                results += [{"threads": count, **measure(batch, *case, place, args)} for place in LAYOUTS]
    report = {"environment": environment(args, pix.backend_info()), "worst": worst(results), "results": results}
    print(json.dumps(report["environment"], indent=2))
    print(table(results, getattr(torch, args.dtype).itemsize))
    print("\n".join(f"{name}: at least {value:.2f}" for name, value in report["worst"].items()))
    path = args.json or RESULTS / f"pick_or_mix_{args.device}_{args.dtype}.json"
    write(path, report)


if __name__ == "__main__":
    main()
