"""Times PiX-ResNet-50 beside ResNet-50, each as a user would run it: `nox -s bench -- pix [options]`.

Both networks are built of the same blocks and differ in what squeezes the channels. Inference is a forward pass without
gradients, in four forms of each network:

    contiguous      as built
    channels_last   the same in the layout that convolutions prefer
    folded          channels_last, every batch norm folded into its convolution
    compiled        folded, through `torch.compile` with frozen weights (--no-compile leaves it out)

What counts is the best form of ours by the best form of ResNet-50. A training step is forward, loss, backward and SGD,
as built and in channels_last. All forms are called in turn, round after round, and medians compared. First the folded
networks are asked for the same results as the unfolded ones.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from leanconv.benchmark import environment, interleave, keep_freed_memory, summary, write
from pix import backend_info
from pix.models import pix_resnet50

RESULTS = Path(__file__).parent / "results"

NETWORKS = {"PiX-ResNet-50": True, "ResNet-50": False}  # whether PiX squeezes


def build(pix: bool, args: argparse.Namespace) -> nn.Module:
    """A network whose batch norms have seen something."""
    torch.manual_seed(0)
    model = pix_resnet50(pix=pix)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1)
            nn.init.uniform_(norm.bias, -0.1, 0.1)
    return model.to(args.device, getattr(torch, args.dtype))


def folded(model: nn.Module) -> nn.Module:
    """A copy for inference without batch norm."""
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        for name, norm in list(module.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                conv = name.replace("bn_", "conv_")
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), norm))
                setattr(module, name, nn.Identity())
    return model


def inferring(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    model.eval()

    def infer() -> Tensor:
        with torch.no_grad():
            return model(x)

    return infer


def stepping(model: nn.Module, x: Tensor, target: Tensor) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x).float(), target).backward()
        optimizer.step()

    return step


def forms(model: nn.Module, x: Tensor, args: argparse.Namespace) -> dict[str, Callable[[], Tensor]]:
    """Every way to infer; refused where one gives something else."""
    last = x.contiguous(memory_format=torch.channels_last)
    plain = copy.deepcopy(model).to(memory_format=torch.channels_last)
    short = folded(plain)
    calls = {
        "contiguous": inferring(model, x),
        "channels_last": inferring(plain, last),
        "folded": inferring(short, last),
    }
    if args.compile:
        calls["compiled"] = inferring(torch.compile(short, dynamic=False), last)
    expected = calls["contiguous"]().double()
    for name, call in calls.items():
        difference = ((call().double() - expected).norm() / expected.norm()).item()
        if difference > (1e-3 if args.dtype == "float32" else 0.1):
            raise SystemExit(f"{name} differs from the network as built by {difference:.2g}")
    return calls


def measure(batch: int, args: argparse.Namespace) -> dict:
    """Both networks, in turn."""
    torch.compiler.reset()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, args.size, args.size, generator=generator).to(args.device, getattr(torch, args.dtype))
    target = torch.randint(1000, (batch,), generator=generator).to(args.device)
    models = {name: build(pix, args) for name, pix in NETWORKS.items()}
    calls: dict[str, Callable[[], object]] = {
        f"{name}, {form}": call for name, model in models.items() for form, call in forms(model, x, args).items()
    }
    least, seconds = (3, 0.0) if args.quick else (7, 4.0)
    result: dict = {"batch": batch, "inference": timed(calls, args, seconds, least)}
    if args.training:
        calls = {}
        for name, model in models.items():
            calls[f"{name}, contiguous"] = stepping(copy.deepcopy(model), x, target)
            last = copy.deepcopy(model).to(memory_format=torch.channels_last)
            calls[f"{name}, channels_last"] = stepping(last, x.contiguous(memory_format=torch.channels_last), target)
        result["training step"] = timed(calls, args, seconds, 3)
    return result


def timed(calls: dict[str, Callable[[], object]], args: argparse.Namespace, seconds: float, least: int) -> dict:
    return {name: summary(values) for name, values in interleave(calls, args.device, seconds, least).items()}


def best(times: dict[str, dict], network: str) -> tuple[str, float]:
    """Form and milliseconds of the fastest form of a network."""
    found = {name.split(", ")[1]: value["ms"] for name, value in times.items() if name.startswith(f"{network},")}
    return min(found.items(), key=lambda item: item[1])


def table(results: list[dict]) -> str:
    """Markdown: milliseconds of every form, and the best of both compared."""
    head = ["batch", "threads", "pass", "form", "PiX-ResNet-50 ms", "ResNet-50 ms", "ResNet-50 / PiX"]
    rows = [head, ["---"] * len(head)]
    for result in results:
        for phase in ("inference", "training step"):
            times = result.get(phase, {})
            start = [str(result["batch"]), str(result["threads"]), phase]
            for name, value in times.items():
                network, form = name.split(", ")
                if network == "PiX-ResNet-50":
                    ours, theirs = value["ms"], times[f"ResNet-50, {form}"]["ms"]
                    rows.append([*start, form, f"{ours:.0f}", f"{theirs:.0f}", f"{theirs / ours:.3f}"])
            if times:
                (form, ours), (other, theirs) = (best(times, network) for network in NETWORKS)
                rows.append(
                    [*start, f"best: {form} by {other}", f"{ours:.0f}", f"{theirs:.0f}", f"{theirs / ours:.3f}"]
                )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds, batch 8")
    parser.add_argument("--batch", type=int, nargs="+", help="images; by default 8 and 1")
    parser.add_argument("--size", type=int, default=224, help="of the images")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--training", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path, help="where the numbers go; by default benchmarks/results/")
    args = parser.parse_args()
    args.batch = args.batch or ([8] if args.quick else [8, 1])
    keep_freed_memory()
    import torch._inductor.config as inductor

    inductor.freezing = True
    results = []
    for count in args.threads if args.device == "cpu" else [torch.get_num_threads()]:
        torch.set_num_threads(count)
        results += [{"threads": count, **measure(batch, args)} for batch in args.batch]
    report = {"environment": environment(args, backend_info()), "results": results}
    print(json.dumps(report["environment"], indent=2))
    print(table(results))
    path = args.json or RESULTS / f"networks_{args.device}_{args.dtype}.json"
    write(path, report)


if __name__ == "__main__":
    main()
