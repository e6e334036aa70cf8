"""What a network costs: parameters, multiply-accumulates (MACs), time and memory."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """One module: its name and type, and what it has itself, outside the modules in it; MACs are for one image."""

    name: str
    type: str
    params: int
    macs: int


@dataclass(frozen=True)
class Counts:
    """Sizes of a network; `modules` lists those with parameters or MACs of their own, which add up to the totals."""

    params: int
    buffers: int
    macs: int
    modules: tuple[Cost, ...]

    def __str__(self) -> str:
        width = max([len(cost.name) for cost in self.modules] + [5])
        lines = [f"{'module':{width}}  {'type':16}  {'params':>12}  {'MACs':>15}"]
        for cost in (*self.modules, Cost("total", "", self.params, self.macs)):
            lines.append(f"{cost.name:{width}}  {cost.type:16}  {cost.params:12,}  {cost.macs:15,}")
        return "\n".join(lines)


def count(model: nn.Module, input_size: tuple[int, ...]) -> Counts:
    """Count parameters, buffer elements, and the MACs of one input of `input_size` (C, H, W).

    MACs are half of what `torch.utils.flop_counter` counts: convolutions, matrix products, attention and the packages'
    operators, not normalisation, activations and additions. A network whose work depends on what it sees, such as a
    detector, says by a method ``forward_counted(x)`` what is to be counted. The model stays as it was.

    Raises:
        ValueError: the model cannot take such an input.
    """
    first = next((t for t in model.parameters()), torch.empty(0))
    sample = torch.zeros(1, *input_size, device=first.device, dtype=first.dtype)
    training = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False)
    whole = getattr(model, "forward_counted", None)
    try:
        if whole is not None:
            model.forward = whole  # called as the forward is, so that the counter sees which module works
        with torch.no_grad(), counter:
            model.eval()(sample)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"{type(model).__name__} cannot take an input of {tuple(input_size)}: {error}") from error
    finally:
        if whole is not None:
            del model.forward
        for module, mode in training.items():
            module.training = mode
    macs = _own_macs(counter, model)
    costs = (
        Cost(name, type(module).__name__, sum(p.numel() for p in module.parameters(recurse=False)), macs.get(name, 0))
        for name, module in model.named_modules()
    )
    return Counts(
        params=sum(p.numel() for p in model.parameters()),
        buffers=sum(b.numel() for b in model.buffers()),
        macs=counter.get_total_flops() // 2,
        modules=tuple(cost for cost in costs if cost.params or cost.macs),
    )


def _own_macs(counter: FlopCounterMode, model: nn.Module) -> dict[str, int]:
    """MACs by module name; the counter's include those of the modules inside, which are taken off here."""
    prefix = f"{type(model).__name__}."
    inclusive = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items() if name != "Global"}
    inclusive = {name.removeprefix(prefix) if name != prefix[:-1] else "": macs for name, macs in inclusive.items()}
    own = dict(inclusive)
    for name, macs in inclusive.items():
        above = name
        while above:
            above = above.rpartition(".")[0]
            if above in own:
                own[above] -= macs
                break
    return own


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and interquartile range over `n` measurements of `calls` calls each."""

    median: float
    iqr: float
    n: int
    calls: int
    threads: int
    device: str

    def __str__(self) -> str:
        return f"{self.median * 1e3:.3f} ms (IQR {self.iqr * 1e3:.3f}, n={self.n}x{self.calls}, {self.threads} threads)"


def latency(
    function: Callable[..., Any],
    *arguments: Any,
    min_seconds: float = 1.0,
    threads: int | None = None,
) -> Timing:
    """Time ``function(*arguments)`` with torch.utils.benchmark, which warms up and waits for the GPU.

    Args:
        min_seconds: how long to measure.
        threads: of torch on the CPU; default as many as it uses now.

    Example:
        >>> x = torch.randn(64, 64)
        >>> latency(torch.mm, x, x, min_seconds=0.01).median < 1
        True
    """
    from torch.utils.benchmark import Timer  # here, because importing it may warn about CUDA

    threads = threads or torch.get_num_threads()
    timer = Timer("function(*arguments)", globals={"function": function, "arguments": arguments}, num_threads=threads)
    timer.timeit(1)  # first calls compile, allocate, choose algorithms
    measured = timer.blocked_autorange(min_run_time=min_seconds)
    device = next((str(a.device) for a in arguments if isinstance(a, Tensor)), "cpu")
    return Timing(measured.median, measured.iqr, len(measured.times), measured.number_per_run, threads, device)


def memory(function: Callable[..., Any], *arguments: Any) -> int:
    """Most bytes that ``function(*arguments)`` had allocated at one time through torch, beyond what was there before.

    On the GPU when an argument lies there, else on the CPU, where torch's profiler reports every allocation. What
    libraries allocate for themselves is not seen.

    Example:
        >>> memory(torch.add, torch.zeros(1000), 1)
        4000
    """
    device = next((a.device for a in arguments if isinstance(a, Tensor) and a.is_cuda), None)
    if device is not None:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function(*arguments)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports each step of its own on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        kept = function(*arguments)
    del kept
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    peak = held = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak
