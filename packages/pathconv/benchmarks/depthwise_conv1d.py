"""Times depthwise_conv1d beside what stock torch offers, on the layers of the networks: `nox -s bench -- pathconv`.

Routes are called in turn, round after round, and medians compared. The rivals:

    conv1d       `F.conv1d` with groups, with (N, C, L) and with (N, L, C) in memory; the better one counts
    scaled       the layer with channel attention before it: a product per sample and channel, then `F.conv1d`; ours
                 has the scale in its kernels, one per sample
    compiled     the same through `torch.compile` (--compile: takes minutes)

`copy` is the time of copying the input to an output of its size: the bandwidth of memory. The backward pass reads twice
as much. `kernels` are the three ops alone, without autograd.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from leanconv.benchmark import environment, interleave, keep_freed_memory, summary, write
from pathconv import backend_info, depthwise_conv1d

RESULTS = Path(__file__).parent / "results"

# Channels, positions, K, stride, M: stem, blocks and downsamplings at 32 x 32 pixels.
LAYERS = [
    (48, 1024, 11, 1, 1),
    (48, 1024, 9, 1, 1),
    (96, 512, 9, 1, 1),
    (192, 256, 9, 1, 1),
    (384, 128, 9, 1, 1),
    (60, 1024, 9, 1, 1),
    (480, 128, 9, 1, 1),
    (48, 1024, 9, 2, 2),
    (192, 256, 9, 2, 2),
    (240, 256, 9, 2, 2),
]
QUICK = [(48, 1024, 9, 1, 1), (384, 128, 9, 1, 1), (48, 1024, 9, 2, 2)]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "(N, C, L)": Tensor.contiguous,
    "(N, L, C)": lambda t: t.mT.contiguous().mT,
}


def measure(layer: tuple[int, ...], args: argparse.Namespace) -> dict:
    """Time one layer in both layouts."""
    channels, length, taps, stride, multiplier = layer
    padding, outputs = taps // 2, channels * multiplier
    options = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    torch.manual_seed(0)
    x, weight, bias = torch.randn(args.batch, channels, length), torch.randn(outputs, 1, taps), torch.randn(outputs)
    scale = torch.rand(args.batch, channels)
    x, weight, bias, scale = (t.to(**options) for t in (x, weight, bias, scale))

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return depthwise_conv1d(x, weight, bias, stride=stride, padding=padding)

    def ours_scaled(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
        kernels = (1 + scale)[:, :, None, None] * weight.view(1, channels, multiplier, taps)
        return depthwise_conv1d(x, kernels.flatten(1, 2), bias, stride=stride, padding=padding)

    def conv1d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv1d(x, weight, bias, stride, padding, groups=channels)

    def conv1d_scaled(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
        return conv1d(x + x * scale[:, :, None], weight, bias)

    routes: dict[str, Callable[..., Tensor]] = {"ours": ours, "conv1d": conv1d}
    routes |= {"ours scaled": ours_scaled, "conv1d scaled": conv1d_scaled}
    if args.compile:
        routes |= {f"{name} compiled": torch.compile(route) for name, route in list(routes.items())[1:]}
    target = torch.empty_like(x)
    forward: dict[str, Callable[[], object]] = {"copy": lambda: target.copy_(x)}
    training: dict[str, Callable[[], object]] = {}
    kernels: dict[str, Callable[[], object]] = {"copy": lambda: target.copy_(x)}
    for (name, route), (place, lay) in ((r, p) for r in routes.items() for p in LAYOUTS.items()):
        tensors = [lay(x), weight, bias] + ([scale] if "scaled" in name else [])
        leaves = [t.clone().requires_grad_() for t in tensors]
        grad = lay(torch.ones_like(ours(x, weight, bias)))

        def infer(route=route, tensors=tensors):
            with torch.no_grad():
                route(*tensors)

        def train(route=route, leaves=leaves, grad=grad):
            torch.autograd.grad(route(*leaves), leaves, grad)

        forward[f"{name}, {place}"], training[f"{name}, {place}"] = infer, train
    ops = torch.ops.pathconv
    for place, lay in LAYOUTS.items():
        image, taps_of, grad = lay(x), weight.transpose(0, 1), lay(torch.ones_like(ours(x, weight, bias)))
        kernels[f"depthwise_conv1d, {place}"] = lambda a=(image, taps_of): ops.depthwise_conv1d(
            *a, bias, stride, padding
        )
        kernels[f"grad_input, {place}"] = lambda a=(grad, taps_of): ops.depthwise_conv1d_grad_input(
            *a, channels, length, stride, padding
        )
        kernels[f"grad_weight, {place}"] = lambda a=(grad, image): ops.depthwise_conv1d_grad_weight(
            *a, taps, stride, padding, False
        )
    result: dict = {"layer": layer, "batch": args.batch, "bytes": 2 * x.numel() * x.element_size()}
    for phase, calls in (("forward", forward), ("training", training), ("kernels", kernels)):
        times = interleave(calls, args.device, 0.1 if args.quick else 0.4)
        result[phase] = {name: summary(values) for name, values in times.items()}
    return result


def best(times: dict[str, dict], name: str) -> float:
    """Milliseconds of a rival in its better layout, compiled or not."""
    return min(value["ms"] for key, value in times.items() if key.split(",")[0] in (name, f"{name} compiled"))


def table(results: list[dict]) -> str:
    """Markdown: ours in milliseconds, its share of copy bandwidth, and how many times faster than the best rival."""
    head = ["C x L", "K", "stride", "M", "layout", "threads", "forward ms", "copy / ours", "conv1d / ours",
            "fwd+bwd ms", "conv1d / ours", "scaled: forward ms", "conv1d / ours", "fwd+bwd ms", "conv1d / ours",
            "grad_input: copy / ours", "grad_weight: copy / ours"]  # fmt: skip
    rows = [head, ["---"] * len(head)]
    for result in results:
        channels, length, taps, stride, multiplier = result["layer"]
        for place in LAYOUTS:
            row = [f"{channels} x {length}", str(taps), str(stride), str(multiplier), place, str(result["threads"])]
            for name in ("", " scaled"):
                for phase in ("forward", "training"):
                    times = result[phase]
                    ms = times[f"ours{name}, {place}"]["ms"]
                    row.append(f"{ms:.2f}")
                    if phase == "forward" and not name:
                        row.append(f"{times['copy']['ms'] / ms:.0%}")
                    row.append(f"{best(times, f'conv1d{name}') / ms:.1f}x")
            times = result["kernels"]
            row += [f"{times['copy']['ms'] / times[f'grad_{of}, {place}']['ms']:.0%}" for of in ("input", "weight")]
            rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three layers and fewer repeats")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "float16", "bfloat16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="also torch.compile of the rivals, and of ours scaled")
    parser.add_argument("--json", type=Path, help="where the numbers go; by default benchmarks/results/")
    args = parser.parse_args()
    keep_freed_memory()
    results = []
    for count in args.threads if args.device == "cpu" else [torch.get_num_threads()]:
        torch.set_num_threads(count)
        results += [{"threads": count, **measure(layer, args)} for layer in (QUICK if args.quick else LAYERS)]
    report = {"environment": environment(args, backend_info()), "results": results}
    print(json.dumps(report["environment"], indent=2))
    print(table(results))
    path = args.json or RESULTS / f"depthwise_conv1d_{args.device}_{args.dtype}.json"
    write(path, report)


if __name__ == "__main__":
    main()
