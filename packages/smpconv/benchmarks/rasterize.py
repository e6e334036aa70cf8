"""Building a layer's kernel and its gradients, beside the construction as the authors' code writes it.

On a CPU one thread by default; medians of calls timed in turn. "saved" is what autograd keeps for the backward pass
besides the parameters, in MiB. One thread is timed by its CPU, more by the wall: to see what sharing out brings, runs
with more threads also time ours held to one of them, in turn with ours on all, by the wall both ("held").
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import smpconv
from leanconv.benchmark import environment, interleave, keep_freed_memory, summary, write

RESULTS = Path(__file__).parent / "results"

# K, C, N: the stages of the authors' smallest image network, and SLaK's kernel.
CASES = [(31, 96, 240), (29, 192, 210), (27, 384, 182), (13, 768, 42), (51, 96, 650), (51, 384, 650)]
BARS = {(31, 96): 20, (27, 384): 7, (51, 96): 40}  # times faster, forward and backward


def as_written(coords: Tensor, radius: Tensor, weight: Tensor, grid: Tensor) -> Tensor:  # -> (C, K, K)
    """The authors' depthwise layer."""
    k = grid.shape[-1]
    diff = coords.unsqueeze(-2) - grid.reshape(1, 2, -1).transpose(1, 2)
    diff = diff.transpose(2, 3).reshape(1, -1, 2, k, k)
    diff = F.relu(1 - torch.sum(torch.abs(diff), dim=2) / radius[:, :, None, None])
    kernels = torch.matmul(weight, diff.reshape(1, coords.shape[1], -1))
    return torch.flip(kernels.reshape(1, -1, k, k).squeeze(0).permute(0, 2, 1), dims=(1,))


def saved(call) -> float:
    """MiB that a call's graph keeps, parameters aside."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if not (t.is_leaf and t.requires_grad):
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        call()
    return sum(kept.values()) / 2**20


def held_to_one(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, dict[str, float]]:
    """Medians of each call in milliseconds, on one thread and on all, in turn."""
    threads = torch.get_num_threads()
    found = {}
    for name, call in calls.items():
        times: dict[int, list[float]] = {1: [], threads: []}
        while sum(map(sum, times.values())) < seconds:
            for count, values in times.items():
                torch.set_num_threads(count)
                start = time.perf_counter()
                call()
                values.append(time.perf_counter() - start)
        found[name] = {which: 1e3 * statistics.median(v) for which, v in zip(("one_ms", "all_ms"), times.values())}
    torch.set_num_threads(threads)
    return found


def measure(k: int, channels: int, points: int, seconds: float, device: str) -> dict:
    coords = (0.2 * torch.randn(1, points, 2, device=device)).requires_grad_()
    radius = torch.full((1, points), 4 / k, device=device, requires_grad=True)
    weight = (0.02 * torch.randn(1, channels, points, device=device)).requires_grad_()
    line, grad = torch.linspace(-1, 1, k, device=device), torch.randn(channels, k, k, device=device)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"))[None]

    def eager() -> Tensor:
        return as_written(coords, radius, weight, grid)

    def ours() -> Tensor:
        return smpconv.rasterize(coords, radius, weight, k, average=False, flip=True)

    torch.testing.assert_close(ours()[0], eager(), rtol=1e-4, atol=1e-5)

    def training(build):
        upstream = grad.view_as(build())

        def step() -> None:
            torch.autograd.grad(build(), (coords, radius, weight), upstream)

        return step

    def inference(build):
        def step() -> None:
            with torch.no_grad():
                build()

        return step

    calls = {"eager training": training(eager), "ours training": training(ours)}
    calls |= {"eager inference": inference(eager), "ours inference": inference(ours)}
    times = {name: summary(values) for name, values in interleave(calls, device, seconds, most=2000).items()}
    ratios = {p: times[f"eager {p}"]["ms"] / times[f"ours {p}"]["ms"] for p in ("inference", "training")}
    kept = {"eager": saved(eager), "ours": saved(ours)}
    found = {"K": k, "C": channels, "N": points, "ratios": ratios, "saved_MiB": kept, "times": times}
    if device == "cpu" and torch.get_num_threads() > 1:
        found["held"] = held_to_one({p: calls[f"ours {p}"] for p in ratios}, seconds)
    return found


def row(r: dict) -> str:
    t, bar = r["times"], BARS.get((r["K"], r["C"]))
    return (
        f"K{r['K']} C{r['C']:<4} inference {t['eager inference']['ms']:7.3f} / {t['ours inference']['ms']:6.3f} ms "
        f"{r['ratios']['inference']:6.1f}x   training {t['eager training']['ms']:7.3f} / "
        f"{t['ours training']['ms']:6.3f} ms {r['ratios']['training']:6.1f}x{f' (bar {bar}x)' if bar else '':11} "
        f"saved {r['saved_MiB']['eager']:5.1f} / {r['saved_MiB']['ours']:.1f} MiB"
        + "".join(f"   {p} held to one {h['one_ms']:.3f}, all {h['all_ms']:.3f}" for p, h in r.get("held", {}).items())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="where the numbers go; by default benchmarks/results/")
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    results = []
    for case in CASES:
        results.append(measure(*case, 0.1 if args.quick else 0.5, args.device))
        print(row(results[-1]), flush=True)
    path = args.json or RESULTS / f"rasterize_{args.device}.json"
    write(path, {"environment": environment(args, smpconv.backend_info()), "results": results})


if __name__ == "__main__":
    main()
