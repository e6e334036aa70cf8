"""Times the paper's CIFAR networks beside ordinary ones: `nox -s bench -- csgconv [options]`.

Each network computes in several forms with the same kernels, called in turn:

    plain       ordinary convolutions, which is what `csgconv.export` gives
    published   kernels made anew in every pass, layer by layer, as the authors' code does
    ours        one product per training step; in evaluation kernels are made once and kept
    bare        training alone: plain, and beside it the bare products of `generation.py`, whole slices of live codes
    again       evaluation alone: plain once more, which tells what of a difference is chance

In evaluation plain has its numbers where ours has them: equal networks in other memory differ by some percent. An
evaluation pass is one under `torch.no_grad()`; a training step is forward, loss, backward and SGD with momentum. All
forms are asked for the same results first. The table says what share of plain's time each of the others takes more.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _as_published import as_published
from generation import floor
from torch import Tensor, nn

import csgconv
from csgconv.models import csg_densenet_bc, csg_resnet56
from leanconv.benchmark import environment, interleave, keep_freed_memory, summary, write

RESULTS = Path(__file__).parent / "results"
WIDE = {"code_size": 128, "slice_shape": (16, 16, 3, 3)}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-56 12-72": csg_resnet56,
    "ResNet-56 16-128": lambda: csg_resnet56(**WIDE),
    "DenseNet-BC-40-12 12-72": lambda: csg_densenet_bc(growth_rate=12),
}
EVAL, TRAIN = (1, 32, 128), (8, 128)
BAR = 0.03  # in evaluation, over plain

Call = Callable[[], Tensor]


def settled(model: nn.Module) -> nn.Module:
    """`model` with norms that have seen something."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return model


def forms(model: nn.Module) -> dict[str, nn.Module]:
    return {"plain": csgconv.export(model), "published": as_published(model), "ours": copy.deepcopy(model)}


@torch.no_grad()
def kept_kernels(model: nn.Module) -> dict[str, Tensor]:
    """Those that a network which evaluates computes with, by what an ordinary network calls them."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, csgconv.CSGConv2d)}
    return {f"{name}.weight": layer.generator.in_pass(layer.index) for name, layer in layers.items()}


def in_memory_of(ours: nn.Module, plain: nn.Module) -> nn.Module:
    """A copy of `plain`, evaluating, that reads the parameters and the kept kernels of `ours`, which evaluates."""
    numbers = ours.state_dict(keep_vars=True) | kept_kernels(ours)
    plain = copy.deepcopy(plain).eval()
    for name, number in plain.state_dict(keep_vars=True).items():
        number.data = numbers[name].detach()
    return plain


def inferring(model: nn.Module, x: Tensor) -> Call:
    """A pass of a network that evaluates."""

    def infer() -> Tensor:
        with torch.no_grad():
            return model(x)

    return infer


def stepping(model: nn.Module, x: Tensor, target: Tensor) -> Call:
    """A training step; returns the loss."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def same(calls: dict[str, Call]) -> dict[str, Call]:
    """`calls`, all of which give what the first one gives."""
    expected = next(iter(calls.values()))()
    for name, call in calls.items():
        if not torch.allclose(call(), expected, rtol=1e-2, atol=1e-3):
            raise SystemExit(f"{name} computes something else.")
    return calls


def measure(name: str, part: str, batch: int, seconds: float, args: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    model = settled(NETWORKS[name]()).to(args.device)
    x, target = torch.randn(batch, 3, 32, 32).to(args.device), torch.randint(10, (batch,)).to(args.device)
    calls: dict[str, Callable[[], object]]
    if part == "evaluation":
        nets = forms(model.eval())
        nets["again"], nets["plain"] = (in_memory_of(nets["ours"], nets["plain"]) for _ in range(2))
        calls = {**same({form: inferring(net, x) for form, net in nets.items()})}
        for weight, kernel in kept_kernels(nets["ours"]).items():
            assert kernel.data_ptr() == nets["plain"].get_parameter(weight).data_ptr(), weight
    else:
        calls = {**same({form: stepping(net, x, target) for form, net in forms(model).items()})}
        calls["products"] = floor(csgconv.generators(model)[0])["floor training"]
    least = 30 if part == "evaluation" and seconds > 0 else 3  # differences of a few percent are looked for
    seen = interleave(calls, args.device, seconds, least, most=500)

    def over(form: str) -> float:
        """Round by round, as a machine shared with others is slow for seconds."""
        return statistics.median(time / plain for time, plain in zip(seen[form], seen["plain"]))

    found = {form: over(form) - 1 for form in ("published", "ours", "again") if form in seen}
    if "products" in seen:
        found["bare"] = over("products")
    times = {key: summary(values) for key, values in seen.items()}
    return {"network": name, "part": part, "batch": batch, "over plain": found, "times": times}


def row(r: dict) -> str:
    over = ", ".join(f"{form} {share:+.1%}" for form, share in r["over plain"].items())
    bar = f" (bar {BAR:+.0%})" if r["part"] == "evaluation" else ""
    return (
        f"{r['network']:24} {r['part']:10} batch {r['batch']:<4} plain {r['times']['plain']['ms']:8.1f} ms, {over}{bar}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest batches, three rounds")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--batch", type=int, nargs="+", help=f"by default {EVAL} in evaluation, {TRAIN} in training")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each form")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="where the numbers go; by default benchmarks/results/")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    path, results = args.json or RESULTS / f"networks_{args.device}.json", []
    report = {"environment": environment(args, csgconv.backend_info()), "results": results}
    for part, batches in (("evaluation", EVAL), ("training", TRAIN)):
        for batch in args.batch or (batches[:1] if args.quick else batches):
            for name in args.networks:
                results.append(measure(name, part, batch, 0.0 if args.quick else args.seconds, args))
                print(row(results[-1]), flush=True)
                write(path, report)


if __name__ == "__main__":
    main()
