"""Times the traversal and the fused stem beside what stock torch offers: `nox -s bench -- pathconv [options]`.

Routes are called in turn, round after round, and medians compared. The rivals:

    gather       `torch.gather` on the flattened image, with an index expanded over batch and channels without a copy
    index        advanced indexing, as the authors' CPU code
    conv1d       one of both, then `F.conv1d` with kernel size 1: the stem unfused
    linear       one of both with the channels last, then `F.linear`
    compiled     all of these through `torch.compile` (--compile: takes minutes)

`copy` is the time of copying the sequences into memory that is there: 2 P C L numbers move. A traversal, which makes
its result, and its backward pass move (P + 1) C L, so `bandwidth` compares numbers per second. `backward` is the op
alone; training is the forward and the backward pass through autograd, to the image for the traversal and to weight and
bias for the stem, whose images need no gradient.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import pathconv
from leanconv.benchmark import environment, interleave, keep_freed_memory, summary, write
from pathconv.ops.traverse import traverse_adjoint

RESULTS = Path(__file__).parent / "results"

CASES = [(1, 32), (128, 32), (1024, 32), (128, 64), (512, 64), (128, 224)]  # images, and their side
QUICK = [(128, 32), (128, 64)]
STEM_CASES = [(1, 32), (128, 32), (128, 64)]
WIDTHS = [48, 60]  # of the stems of PathConv-S and PathConv-B
CHANNELS, PATHS = 3, "g"
Call = Callable[[], object]


def channels_last(t: Tensor) -> Tensor:
    return t.movedim(1, -1).contiguous().movedim(-1, 1)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {"channels first": Tensor.contiguous, "channels last": channels_last}


def reading(tables: pathconv.PathTables, compiled: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """Ways of torch to read an image along paths: (N, C, H, W) -> (N, P * C, L)."""
    num_paths, index = len(tables.index), tables.index.long().flatten()

    def by_path(y: Tensor) -> Tensor:
        return y.unflatten(2, (num_paths, -1)).transpose(1, 2).flatten(1, 2)

    def gather(x: Tensor) -> Tensor:
        return by_path(x.flatten(2).gather(2, index.expand(*x.shape[:2], -1)))

    def indexed(x: Tensor) -> Tensor:
        return by_path(x.flatten(2)[:, :, index])

    ways = {"gather": gather, "index": indexed}
    return ways | ({f"{name} compiled": torch.compile(way) for name, way in ways.items()} if compiled else {})


def stems(tables: pathconv.PathTables, compiled: bool) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Ways of torch to compute the stem, (N, D, L) with the channels first or last in memory."""
    found: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {}
    for name, way in reading(tables, False).items():
        found[f"{name}, conv1d"] = lambda x, w, b, way=way: F.conv1d(way(x), w[:, :, None], b)
        found[f"{name}, linear"] = lambda x, w, b, way=way: F.linear(way(x).mT, w, b).mT
    return found | ({f"{name}, compiled": torch.compile(way) for name, way in found.items()} if compiled else {})


def without_gradients(call: Callable[..., object], *args: object) -> Call:
    def run() -> None:
        with torch.no_grad():
            call(*args)

    return run


def with_gradients(call: Callable[..., Tensor], args: tuple, wanted: list[Tensor], grad: Tensor) -> Call:
    return lambda: torch.autograd.grad(call(*args), wanted, grad)


def backward(grad: Tensor, tables: pathconv.PathTables, channels_last: bool) -> Tensor:
    """As the backward pass calls the op."""
    return traverse_adjoint(grad, tables.index, tables.inverse, (tables.height, tables.width), channels_last)


def measure_traverse(batch: int, size: int, args: argparse.Namespace) -> dict:
    tables = pathconv.path_tables(PATHS, size, size, args.device)
    dtype = getattr(torch, args.dtype)
    x = torch.randn(batch, CHANNELS, size, size, device=args.device).to(dtype)
    y = torch.randn(batch, len(tables.index) * CHANNELS, size * size, device=args.device).to(dtype)
    target = torch.empty_like(y)
    phases: dict[str, dict[str, Call]] = {phase: {} for phase in ("forward", "backward", "training")}
    for phase in ("forward", "backward"):
        phases[phase]["copy"] = without_gradients(target.copy_, y)
    for place, lay in LAYOUTS.items():
        image, grad, last = lay(x), lay(y), place == "channels last"
        ways = {"ours": lambda x: pathconv.traverse(x, tables), **reading(tables, args.compile)}
        for name, way in ways.items():
            leaf = image.clone().requires_grad_()
            phases["forward"][f"{name}, {place}"] = without_gradients(way, image)
            phases["training"][f"{name}, {place}"] = with_gradients(way, (leaf,), [leaf], grad)
        phases["backward"][f"ours, {place}"] = without_gradients(backward, grad, tables, last)
    moved = (len(tables.index) + 1) / (2 * len(tables.index))  # numbers, by those that the copy moves
    return {"op": "traverse", "batch": batch, "size": size, "moved": moved, **timed(phases, args)}


def measure_stem(batch: int, size: int, width: int, args: argparse.Namespace) -> dict:
    tables = pathconv.path_tables(PATHS, size, size, args.device)
    options = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    x = torch.randn(batch, CHANNELS, size, size).to(**options)
    weight = torch.randn(width, len(tables.index) * CHANNELS).to(**options).requires_grad_()
    bias = torch.randn(width).to(**options).requires_grad_()
    grad = torch.randn(batch, width, size * size).to(**options)
    phases: dict[str, dict[str, Call]] = {"forward": {}, "training": {}}
    for place, lay in LAYOUTS.items():
        last = place == "channels last"
        ways = {"ours": lambda x, w, b, last=last: pathconv.traverse_conv1d(x, tables, w, b, channels_last=last)}
        ways |= {name: way for name, way in stems(tables, args.compile).items() if ("linear" in name) == last}
        for name, way in ways.items():
            phases["forward"][f"{name}, {place}"] = without_gradients(way, x, weight, bias)
            phases["training"][f"{name}, {place}"] = with_gradients(way, (x, weight, bias), [weight, bias], lay(grad))
    return {"op": "stem", "batch": batch, "size": size, "width": width, **timed(phases, args)}


def timed(phases: dict[str, dict[str, Call]], args: argparse.Namespace) -> dict:
    seconds = 0.1 if args.quick else 0.4
    return {
        phase: {name: summary(values) for name, values in interleave(calls, args.device, seconds).items()}
        for phase, calls in phases.items()
    }


def rival(times: dict[str, dict], *names: str) -> float:
    """Milliseconds of the best of some routes of torch, of all where none are named, whatever the layout."""
    return min(
        value["ms"]
        for key, value in times.items()
        if key.split(",")[0] not in ("ours", "copy") and (not names or key.split(",")[0] in names)
    )


def tables_of(results: list[dict]) -> str:
    """Markdown: ours in milliseconds, its bandwidth by that of a copy, and how many times the rivals' time is ours."""
    head = ["N x size", "layout", "threads", "forward ms", "bandwidth / copy", "gather / ours", "best / ours",
            "backward ms", "bandwidth / copy", "training ms", "best / ours"]  # fmt: skip
    moves = [head, ["---"] * len(head)]
    head = ["N x size", "D", "output", "threads", "forward ms", "best unfused / ours", "training ms",
            "best unfused / ours"]  # fmt: skip
    fused = [head, ["---"] * len(head)]
    for result in results:
        for place in LAYOUTS:
            ms = {phase: result[phase][f"ours, {place}"]["ms"] for phase in result if isinstance(result[phase], dict)}
            forward, training = result["forward"], result["training"]
            best = [f"{ms['training']:.3f}", f"{rival(training) / ms['training']:.1f}x"]
            start = [f"{result['batch']} x {result['size']}²", place, str(result["threads"]), f"{ms['forward']:.3f}"]
            if result["op"] == "stem":
                start.insert(1, str(result["width"]))
                fused.append([*start, f"{rival(forward) / ms['forward']:.1f}x", *best])
                continue
            shares = [result["moved"] * result[phase]["copy"]["ms"] / ms[phase] for phase in ("forward", "backward")]
            moves.append(
                [*start, f"{shares[0]:.0%}", f"{rival(forward, 'gather') / ms['forward']:.1f}x"]
                + [f"{rival(forward) / ms['forward']:.1f}x", f"{ms['backward']:.3f}", f"{shares[1]:.0%}", *best]
            )
    return "\n\n".join("\n".join("| " + " | ".join(row) + " |" for row in rows) for rows in (moves, fused))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "float16", "bfloat16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="also torch.compile of the rivals")
    parser.add_argument("--json", type=Path, help="where the numbers go; by default benchmarks/results/")
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    results = []
    for count in args.threads if args.device == "cpu" else [torch.get_num_threads()]:
        torch.set_num_threads(count)
        moves = [measure_traverse(*case, args) for case in (QUICK if args.quick else CASES)]
        fused = [measure_stem(*case, width, args) for case in (QUICK if args.quick else STEM_CASES) for width in WIDTHS]
        results += [{"threads": count, **result} for result in moves + fused]
    report = {"environment": environment(args, pathconv.backend_info()), "results": results}
    print(json.dumps(report["environment"], indent=2))
    print(tables_of(results))
    path = args.json or RESULTS / f"traverse_{args.device}_{args.dtype}.json"
    write(path, report)


if __name__ == "__main__":
    main()
