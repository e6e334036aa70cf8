"""Times oriented_conv1d beside everything stock torch offers, all in one run: `nox -s bench -- dwoconv1d [options]`.

Routes are called in turn, round after round, and medians compared. On one CPU thread the clock is the thread's CPU
time, else the wall. The rivals:

    conv 1xK     `F.conv2d` with a horizontal (1, K) kernel: another result, but the cheapest kernel of as many taps
    dense        the lines rasterised into one (Kh, Kw) kernel per channel, one depthwise `F.conv2d`
    directions   the same with one `F.conv2d`, and the tightest kernel, per direction
    shifts       a sum of shifted, weighted images, plain tensor arithmetic
    compiled     the shifts through `torch.compile` (--compile: takes minutes)

Both layouts of every rival run and the better one counts. `floor` is the time of copying the input to an output.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import dwoconv1d
from leanconv.benchmark import clock, environment, keep_freed_memory, summary, write

RESULTS = Path(__file__).parent / "results"
SHAPES = [(8, 96, 56), (8, 384, 14), (1, 96, 224)]
KERNEL_SIZES = [7, 15, 31]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SLOW = 0.15  # seconds: a rival slower than this is timed once, and left out at larger K

Route = Callable[[Tensor, Tensor, Tensor], Tensor]


def routes(angle: Tensor, kernel_size: int, compiled: bool) -> dict[str, tuple[Route, Callable[[Tensor], Tensor]]]:
    """Map each route to its forward, of (x, parameter, bias), and to what makes its parameter of a (C, K) weight."""
    pad = kernel_size // 2

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return dwoconv1d.oriented_conv1d_at(
            x, weight, offsets, bias
        )  # as the layer calls it, whose offsets are made once

    def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        height, width = weight.shape[2:]
        return F.conv2d(x, weight, bias, padding=(height // 2, width // 2), groups=len(bias))

    def directions(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parts = []
        for box, first, last in boxes:
            kernel = weight[first:last, :, pad - box[0] : pad + box[0] + 1, pad - box[1] : pad + box[1] + 1]
            parts.append(conv(x[:, first:last], kernel, bias[first:last]))
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def shifts(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = F.pad(x, (pad, pad, pad, pad))
        parts = []
        for taps, first, last in lines:
            total = bias[first:last, None, None]
            for s, (dy, dx) in enumerate(taps):
                window = padded[:, first:last, pad + dy : pad + dy + height, pad + dx : pad + dx + width]
                total = total + weight[first:last, s, None, None] * window
            parts.append(total)
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    dy, dx = dwoconv1d.tap_offsets(kernel_size, angle)
    offsets = torch.stack((dy, dx)).int()
    new = [c for c in range(len(angle)) if c == 0 or angle[c] != angle[c - 1]]
    runs = list(zip(new, new[1:] + [len(angle)]))
    boxes = [((int(dy[a].abs().max()), int(dx[a].abs().max())), a, b) for a, b in runs]
    lines = [(list(zip(dy[a].tolist(), dx[a].tolist())), a, b) for a, b in runs]

    def square(weight: Tensor) -> Tensor:
        kernel = weight.new_zeros(len(weight), 1, kernel_size, kernel_size)
        for s in range(kernel_size):
            kernel[torch.arange(len(weight)), 0, pad + dy[:, s], pad + dx[:, s]] += weight[:, s]
        return kernel

    found: dict[str, tuple[Route, Callable[[Tensor], Tensor]]] = {
        "ours": (ours, lambda weight: weight),
        "conv 1xK": (conv, lambda weight: weight[:, None, None]),
        "dense": (conv, lambda weight: dwoconv1d.rasterize(weight, angle)),
        "directions": (directions, square),
        "shifts": (shifts, lambda weight: weight),
    }
    if compiled:
        found["compiled"] = (torch.compile(shifts), lambda weight: weight)
    return found


def interleave(calls: dict[str, Callable[[], object]], device: torch.device, seconds: float) -> dict[str, list[float]]:
    """Time every call in turn until each has had its share of `seconds`; one that is slow at first is not repeated."""
    times: dict[str, list[float]] = {}
    for name, call in calls.items():
        for _ in range(2):  # the first call may compile or allocate
            start = clock(device)
            call()
            times[name] = [clock(device) - start]
            if times[name][0] > 10 * SLOW:
                break
    slow = {name for name, values in times.items() if values[0] > SLOW}
    fast = [name for name in calls if name not in slow]
    times.update({name: [] for name in fast})

    def wants_more(values: list[float]) -> bool:
        return len(values) < 5 or (sum(values) < seconds and len(values) < 100)

    while active := [name for name in fast if wants_more(times[name])]:
        for name in active:
            start = clock(device)
            calls[name]()
            times[name].append(clock(device) - start)
    return times


def measure(shape: tuple[int, int, int], kernel_size: int, args: argparse.Namespace, skip: set[str]) -> dict:
    """Time one case in both layouts; `skip` collects rivals too slow to be tried at larger K."""
    batch, channels, size = shape
    dtype, device = getattr(torch, args.dtype), torch.device(args.device)

    torch.manual_seed(0)
    single = args.angles != "eight"
    angle = (
        torch.full((channels,), torch.pi * float(args.angles) / 180) if single else dwoconv1d.assign_angles(channels)
    )
    x = torch.randn(batch, channels, size, size, device=device).to(dtype)
    weight = torch.randn(channels, kernel_size, device=device).to(dtype)
    bias = torch.randn(channels, device=device).to(dtype)
    angle = angle.to(device)

    forward: dict[str, Callable[[], object]] = {}
    training: dict[str, Callable[[], object]] = {}
    target = torch.empty_like(x)
    forward["copy"] = lambda: target.copy_(x)
    for name, (route, prepare) in routes(angle, kernel_size, args.compile).items():
        for place, memory_format in LAYOUTS.items():
            label = f"{name}, {place}"
            image = x.to(memory_format=memory_format)
            parameter = prepare(weight).contiguous()
            grad = torch.ones_like(image)
            leaves = [t.clone().requires_grad_() for t in (image, parameter, bias)]

            def infer(route=route, inputs=(image, parameter, bias)):
                with torch.no_grad():
                    route(*inputs)

            def train(route=route, leaves=leaves, grad=grad):
                torch.autograd.grad(route(*leaves), leaves, grad)

            if f"forward {label}" not in skip:
                forward[label] = infer
            if f"training {label}" not in skip:
                training[label] = train
    result: dict = {"shape": shape, "kernel_size": kernel_size}
    for phase, calls in (("forward", forward), ("training", training)):
        times = interleave(calls, device, 0.1 if args.quick else 0.4)
        skip.update(
            f"{phase} {name}" for name, values in times.items() if values[0] > SLOW and name[:4] not in ("ours", "conv")
        )
        result[phase] = {name: summary(values) for name, values in times.items()}
    result["bytes"] = 2 * x.numel() * x.element_size()
    return result


def best(times: dict[str, dict], *names: str) -> tuple[str, float]:
    """The fastest of some routes over both layouts: its label and milliseconds."""
    found = {label: value["ms"] for label, value in times.items() if label.split(",")[0] in names}
    label = min(found, key=found.__getitem__) if found else ""
    return label, found.get(label, float("nan"))


def table(results: list[dict]) -> str:
    """Markdown: ours in milliseconds, and ours divided by each rival (below 1 is faster than the rival)."""
    head = ["N x C x H x W", "K", "layout", "threads", "forward ms", "/ conv 1xK", "/ best stock route", "dense / ours",
            "share of copy bandwidth", "fwd+bwd ms", "/ conv 1xK", "/ best stock route", "that route"]  # fmt: skip
    rows = [head, ["---"] * len(head)]
    stock = ("dense", "directions", "shifts", "compiled")
    for result, layout in itertools.product(results, LAYOUTS):
        forward, training = result["forward"], result["training"]
        ours, step = forward[f"ours, {layout}"]["ms"], training[f"ours, {layout}"]["ms"]
        dense, copy = best(forward, "dense")[1], forward["copy"]["ms"]
        route, stock_step = best(training, *stock)
        batch, channels, size = result["shape"]
        rows.append(
            [f"{batch} x {channels} x {size} x {size}", str(result["kernel_size"]), layout, str(result["threads"])]
            + [f"{ours:.2f}", f"{ours / best(forward, 'conv 1xK')[1]:.2f}", f"{ours / best(forward, *stock)[1]:.2f}"]
            + [f"{dense / ours:.0f}x", f"{copy / ours:.0%}"]
            + [f"{step:.2f}", f"{step / best(training, 'conv 1xK')[1]:.2f}", f"{step / stock_step:.2f}", route]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats; only conv 1xK at K = 31")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "float16", "bfloat16"])
    parser.add_argument("--angles", default="eight", help='"eight" directions as in the paper, or one angle in degrees')
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="also torch.compile of the shifts")
    parser.add_argument("--json", type=Path, help="where the numbers go; by default benchmarks/results/")
    args = parser.parse_args()
    keep_freed_memory()
    threads = args.threads if args.device == "cpu" else [torch.get_num_threads()]
    results = []
    for count in threads:
        torch.set_num_threads(count)
        for shape in SHAPES:
            skip: set[str] = set()
            for kernel_size in KERNEL_SIZES:
                if args.quick and kernel_size == 31:
                    rivals = itertools.product(("forward", "training"), ("dense", "directions", "shifts"), LAYOUTS)
                    skip |= {f"{phase} {name}, {place}" for phase, name, place in rivals}
                results.append({"threads": count, **measure(shape, kernel_size, args, skip)})
    report = {"environment": environment(args, dwoconv1d.backend_info()), "results": results}
    print(json.dumps(report["environment"], indent=2))
    print(table(results))
    name = f"oriented_conv1d_{args.device}_{args.dtype}_{args.angles}.json"
    path = args.json or RESULTS / name
    write(path, report)


if __name__ == "__main__":
    main()
