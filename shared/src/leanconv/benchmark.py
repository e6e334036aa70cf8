"""What the packages' benchmarks share: calls timed in turn, on a GPU by events, and where the numbers come from.

`profiling.latency` times one call; here routes to the same result are compared, so a busy minute shall hit all of them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from .environment import commit, cpu_name

Calls = dict[str, tuple[Callable[[int], object], int]]  # name -> call of a set of inputs, bytes it must move
SETS = 3  # of inputs, taken in turn on a GPU, so that they do not stay in its cache


def clock(device: torch.device | str) -> float:
    """Seconds: of this thread's CPU where one thread runs, so that other programs do not count, else of the wall."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def interleave(
    calls: dict[str, Callable[[], object]], device: torch.device | str, seconds: float, least: int = 5, most: int = 100
) -> dict[str, list[float]]:
    """Time every call in turn, round after round, until each has had its share of `seconds`.

    Each round has an order of its own: what a call leaves in the caches must not fall on the same neighbour always.

    Example:
        >>> {name: len(times) for name, times in interleave({"sum": torch.ones(9).sum}, "cpu", 0.0, least=2).items()}
        {'sum': 2}
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # the first call may compile or allocate
    active, orders = list(calls), random.Random(0)
    while active:
        orders.shuffle(active)
        for name in active:
            start = clock(device)
            calls[name]()
            times[name].append(clock(device) - start)
        active = [
            name
            for name in active
            if len(times[name]) < least or (sum(times[name]) < seconds and len(times[name]) < most)
        ]
    return times


def summary(values: list[float]) -> dict[str, float]:
    """Median and spread of seconds, in milliseconds."""
    return {
        "ms": 1e3 * statistics.median(values),
        "spread_ms": 1e3 * (max(values) - min(values)),
        "n": len(values),
    }


def milliseconds(call: Callable[[int], object], repeats: int) -> float:
    """Median time of call(set of inputs) on the GPU, by its events."""
    for i in range(SETS):
        call(i)
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for i, (start, end) in enumerate(events):
        start.record()
        call(i % SETS)
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events)


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of a copy much larger than the GPU's cache."""
    source = [torch.randn(1 << 28, device="cuda") for _ in range(SETS)]
    target = torch.empty_like(source[0])
    return 2 * source[0].nbytes / milliseconds(lambda i: target.copy_(source[i]), 20) * 1e3


def bandwidth(
    script: str,
    doc: str | None,
    backend_info: Callable[[], dict[str, object]],
    cases: Callable[[bool], Iterable[tuple[dict[str, Any], Callable[[], Calls]]]],
) -> None:
    """The program of a package's `cuda_bandwidth.py`: its calls beside a large copy, as lines and as JSON.

    Args:
        script: the program's file; results go to the folder `results` beside it.
        doc: what it does.
        backend_info: of the package.
        cases: `cases(quick)` gives what describes each case, and what makes its calls.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--json", type=Path, default=Path(script).parent / "results/cuda_bandwidth.json")
    args, _ = parser.parse_known_args()  # the options of the other benchmarks do not concern this one
    if not torch.cuda.is_available():
        print("cuda_bandwidth: not measured, there is no GPU here.")  # noqa: T201
        return
    torch.backends.cudnn.benchmark = True
    copy = copy_bandwidth()
    where = {**environment(args, backend_info()), "copy GB/s": copy / 1e9}
    print(f"{where['hardware']}, copy {copy / 1e9:.0f} GB/s; ms (share of copy bandwidth)")  # noqa: T201
    results: list[dict[str, Any]] = []
    for case, make in cases(args.quick):
        times = _times(make, 10 if args.quick else 50, copy)
        results.append({**case, **times})
        shown = ", ".join(f"{name} {found['ms']:.3f} ({found['of copy']:.0%})" for name, found in times.items())
        print(f"{' '.join(map(str, case.values()))}: {shown}")  # noqa: T201
        # After every case: a time limit then costs only what was not measured.
        write(args.json, {"environment": where, "results": results})


def _times(make: Callable[[], Calls], repeats: int, copy: float) -> dict[str, dict[str, float]]:
    """A function, so that inputs of one case are gone before those of the next are made."""
    times = {}
    with torch.no_grad():
        for name, (call, moved) in make().items():
            time = milliseconds(call, repeats)
            times[name] = {"ms": time, "bytes": moved, "of copy": moved / time * 1e3 / copy}
    return times


def environment(args: argparse.Namespace, backends: dict[str, object]) -> dict[str, Any]:
    """Hardware, versions, commit, date and arguments; `backends` is what the package's `backend_info` says."""
    device = getattr(args, "device", "cuda")
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit() or "unknown",
        "hardware": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "backend": {key: str(value) for key, value in backends.items()},
        "torch": torch.__version__,
        "python": platform.python_version(),
        "clock": "CUDA events; medians" if device == "cuda" else "thread CPU time with 1 thread, else wall; medians",
        "arguments": {
            key: value if isinstance(value, (int, float, list)) else str(value)
            for key, value in vars(args).items()
            if key != "json"
        },
    }


def write(path: Path, report: dict[str, Any]) -> None:
    """Leave a report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def keep_freed_memory() -> None:
    """Let malloc reuse outputs: else page faults of some routes, by chance, would be most of what is measured."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
    except (AttributeError, OSError, TypeError):
        return
