"""What the benchmarks of this package share: where numbers come from, and calls timed in turn."""

from __future__ import annotations

import argparse
import ctypes
import datetime
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

import smpconv

RESULTS = Path(__file__).parent / "results"


def clock(device: torch.device | str) -> float:
    """Seconds: of this thread's CPU where one thread runs, so that other programs do not count, else of the wall."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def interleave(
    calls: dict[str, Callable[[], object]], device: torch.device | str, seconds: float, least: int = 5, most: int = 100
) -> dict[str, list[float]]:
    """Time every call in turn, round after round, until each has had its share of `seconds`."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # the first call may compile or allocate
    active = list(calls)
    while active:
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
    """Median and spread in milliseconds."""
    return {
        "ms": 1e3 * statistics.median(values),
        "spread_ms": 1e3 * (max(values) - min(values)),
        "n": len(values),
    }


def environment(args: argparse.Namespace) -> dict:
    """Hardware, versions, commit, date and arguments."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if "model name" in line]
        processor = names[0] if names else processor
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown",
        "hardware": torch.cuda.get_device_name() if args.device == "cuda" else processor,
        "backend": {key: str(value) for key, value in smpconv.backend_info().items()},
        "torch": torch.__version__,
        "python": platform.python_version(),
        "clock": "thread CPU time with 1 thread, else wall time; medians",
        "arguments": {
            key: value if isinstance(value, (int, float, list)) else str(value)
            for key, value in vars(args).items()
            if key != "json"
        },
    }


def keep_freed_memory() -> None:
    """Let malloc reuse outputs: else page faults of some routes, by chance, would be most of what is measured."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
    except (AttributeError, OSError, TypeError):
        return
