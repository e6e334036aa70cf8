"""Times the paper's networks beside the same ones as its code computes them: `nox -s bench -- smpconv [options]`.

SMP-T infers, in these forms of theirs, with the kernels in either layout of `F.conv2d`, and of ours:

    as written            kernels made anew in each pass, contiguous images
    channels_last         the same in the layout that convolutions prefer
    ..., kernels kept     channels_last, kernels made once
    ..., fused            channels_last, kernels made once, all norms folded into convolutions
    ours                  as built, channels_last
    ours, fused           `smpconv.fuse`, channels_last
    ours, fused, NCHW     the same with contiguous images
    ..., compiled         fused, through `torch.compile` with frozen weights (--no-compile leaves it out)

It also takes a training step (forward, loss, backward, AdamW), in both layouts of theirs. SMP-TCN for sequential MNIST
takes a training step with Adam and the clipping of radii, and infers. All forms have the same weights, and are asked
for the same results first; they are called in turn, round after round, and medians compared.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _as_published import as_published, stock
from torch import Tensor, nn

import smpconv
from leanconv.benchmark import environment, interleave, keep_freed_memory, summary, write
from smpconv.models import TASKS, smp_tcn, smp_tiny

RESULTS = Path(__file__).parent / "results"
LAST = torch.channels_last
BARS = {  # how many times faster ours shall be
    ("SMP-T inference", 1): [("ours, fused", "as written", 4.0), ("ours, fused", "channels_last, kernels kept", 1.2)],
    ("SMP-TCN training step", 8): [("ours", "as written", 1.3)],
    ("SMP-TCN training step", 64): [("ours", "as written", 1.3)],
}

Calls = dict[str, Callable[[], object]]


def settled(model: nn.Module) -> nn.Module:
    """`model` with norms that have seen something."""
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1)
            nn.init.uniform_(norm.bias, -0.1, 0.1)
    return model


def inferring(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    model.eval()

    def infer() -> Tensor:
        with torch.no_grad():
            return model(x)

    return infer


def stepping(model: nn.Module, x: Tensor, target: Tensor, optimizer: type, decay: float) -> Callable[[], Tensor]:
    """A training step; returns the loss."""
    model = copy.deepcopy(model).train()
    layers = [module for module in model.modules() if hasattr(module, "radius")]
    radii = {id(layer.radius) for layer in layers}
    slow = [p for p in model.parameters() if id(p) in radii]
    groups = [{"params": [p for p in model.parameters() if id(p) not in radii]}, {"params": slow, "lr": 1e-5}]
    optimizer = optimizer(groups, lr=1e-4, weight_decay=decay)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for layer in layers:
                layer.radius.clamp_(1e-4, 1)
        return loss.detach()

    return step


def same(calls: dict[str, Callable[[], Tensor]], tolerance: float = 5e-3) -> Calls:
    """`calls`, all of which give what the first one gives."""
    expected = None
    for name, call in calls.items():
        found = call().double()
        expected = found if expected is None else expected
        if not (found - expected).norm() <= tolerance * expected.norm():
            raise SystemExit(f"{name} differs: {found} where {expected} was expected")
    return dict(calls)


def images(args: argparse.Namespace) -> tuple[nn.Module, Callable[[int], Tensor]]:
    torch.manual_seed(0)
    model = settled(smp_tiny(drop_path_rate=0.0)).to(args.device)
    return model, lambda batch: torch.randn(batch, 3, args.size, args.size).to(args.device)


def sequences(args: argparse.Namespace) -> tuple[nn.Module, Callable[[int], Tensor]]:
    torch.manual_seed(0)
    options = {**TASKS["smnist"], "input_dropout": 0.0}  # which would draw another loss for each form
    return settled(smp_tcn(**options)).to(args.device), lambda batch: torch.randn(batch, 1, 784).to(args.device)


def image_inference(batch: int, args: argparse.Namespace) -> Calls:
    model, draw = images(args)
    x = draw(batch)
    last = x.contiguous(memory_format=LAST)
    fused = smpconv.fuse(model)
    theirs = {
        "as written": (as_published(model), x),
        "channels_last": (as_published(model).to(memory_format=LAST), last),
        "channels_last, kernels kept": (as_published(model, kept=True).to(memory_format=LAST), last),
        "channels_last, fused": (stock(fused).to(memory_format=LAST), last),
    }
    ours = {
        "ours": (copy.deepcopy(model).to(memory_format=LAST), last),
        "ours, fused": (copy.deepcopy(fused).to(memory_format=LAST), last),
        "ours, fused, NCHW": (fused, x),
    }
    if args.compile:
        torch.compiler.reset()
        theirs["channels_last, compiled"] = (torch.compile(stock(fused).to(memory_format=LAST), dynamic=False), last)
        ours["ours, compiled"] = (torch.compile(copy.deepcopy(fused).to(memory_format=LAST), dynamic=False), last)
    return same({name: inferring(*form) for name, form in {**theirs, **ours}.items()})


def image_training(batch: int, args: argparse.Namespace) -> Calls:
    model, draw = images(args)
    x, target = draw(batch), torch.randint(1000, (batch,)).to(args.device)
    last = x.contiguous(memory_format=LAST)
    forms = {
        "as written": (as_published(model), x),
        "channels_last": (as_published(model).to(memory_format=LAST), last),
        "ours": (model.to(memory_format=LAST), last),
    }
    return same({name: stepping(*form, target, torch.optim.AdamW, 0.05) for name, form in forms.items()})


def sequence_inference(batch: int, args: argparse.Namespace) -> Calls:
    model, draw = sequences(args)
    x = draw(batch)
    forms = {
        "as written": as_published(model),
        "kernels kept": as_published(model, kept=True),
        "ours": model,
        "ours, fused": smpconv.fuse(model),
    }
    return same({name: inferring(form, x) for name, form in forms.items()})


def sequence_training(batch: int, args: argparse.Namespace) -> Calls:
    model, draw = sequences(args)
    x, target = draw(batch), torch.randint(10, (batch,)).to(args.device)
    forms = {"as written": as_published(model), "ours": model}
    return same({name: stepping(form, x, target, torch.optim.Adam, 1e-5) for name, form in forms.items()})


CASES: dict[str, tuple[Callable[[int, argparse.Namespace], Calls], list[int]]] = {
    "SMP-T inference": (image_inference, [1, 8]),
    "SMP-T training step": (image_training, [2]),
    "SMP-TCN inference": (sequence_inference, [1, 64]),
    "SMP-TCN training step": (sequence_training, [8, 64]),
}


def table(results: list[dict]) -> str:
    """Markdown: milliseconds of every form, and how many times faster the best form of ours is."""
    rows = [["what", "batch", "threads", "form", "ms", "best of ours is faster by"], ["---"] * 6]
    for result in results:
        ms = {name: value["ms"] for name, value in result["times"].items()}
        best = min(value for name, value in ms.items() if name.startswith("ours"))
        start = [result["what"], str(result["batch"]), str(result["threads"])]
        for name, value in ms.items():
            rows.append([*start, name, f"{value:.1f}", f"{value / best:.2f}"])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    for result in results:
        for ours, theirs, bar in BARS.get((result["what"], result["batch"]), []):
            ratio = result["times"][theirs]["ms"] / result["times"][ours]["ms"]
            where = f"{result['what']}, batch {result['batch']}, {result['threads']} threads"
            lines.append(f"{where}: {ours} {ratio:.2f} times faster than {theirs} (bar {bar})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest batches, three rounds, nothing compiled")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--batch", type=int, nargs="+", help="of all cases; by default each has its own")
    parser.add_argument("--size", type=int, default=224, help="of the images")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path, help="where the numbers go; by default benchmarks/results/")
    args = parser.parse_args()
    args.compile = args.compile and not args.quick
    path = args.json or RESULTS / f"networks_{args.device}.json"
    keep_freed_memory()
    import torch._inductor.config as inductor

    inductor.freezing = True
    results: list[dict] = []
    report = {"environment": environment(args, smpconv.backend_info()), "results": results}
    print(json.dumps(report["environment"], indent=2))
    for threads in args.threads if args.device == "cpu" else [torch.get_num_threads()]:
        torch.set_num_threads(threads)
        for what in args.cases:
            build, batches = CASES[what]
            for batch in args.batch or (batches[:1] if args.quick else batches):
                times = interleave(build(batch, args), args.device, 0.0 if args.quick else 4.0, least=3)
                summaries = {name: summary(values) for name, values in times.items()}
                results.append({"what": what, "batch": batch, "threads": threads, "times": summaries})
                write(path, report)
    print(table(results))


if __name__ == "__main__":
    main()
