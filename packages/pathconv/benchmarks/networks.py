"""Times the networks beside the same ones as the paper's code writes them: `nox -s bench -- pathconv [options]`.

A training step is forward, loss, backward and AdamW; inference is a forward pass without gradients. Both networks have
the same weights and get the same images, and first the same results are asked of them: logits, loss and gradients.
They are called in turn, round after round, and medians compared. `_as_published.py` is the rival, `--compile` adds
both networks through `torch.compile`.

Activations kept are the bytes of all tensors that a forward pass in training saves for its backward pass.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from _as_published import AsPublished
from torch import Tensor, nn

import pathconv.models
from leanconv.benchmark import environment, interleave, keep_freed_memory, summary, write

RESULTS = Path(__file__).parent / "results"

SIZES = {
    "pathconv_s": ((2, 2, 2, 2), (48, 96, 192, 384)),
    "pathconv_b": ((2, 2, 3, 3), (60, 120, 240, 480)),
}
CLASSES = 10
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.5}  # relative, in the norm


def pair(name: str, args: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """Ours and the paper's with equal weights; layer scales large enough for the blocks to matter."""
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    ours = timm.create_model(name, img_size=args.size, path=args.path, num_classes=CLASSES)
    with torch.no_grad():
        for key, parameter in ours.named_parameters():
            if key.endswith("scaling"):
                parameter.uniform_(0.5, 1)
    theirs = AsPublished(*SIZES[name], ours.pathSampling.paths, CLASSES)
    theirs.load_state_dict(ours.state_dict())
    return ours.to(args.device, dtype), theirs.to(args.device, dtype)


def loss(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(model(x).float(), target, label_smoothing=0.05)


def differences(ours: nn.Module, theirs: nn.Module, x: Tensor, target: Tensor) -> dict[str, float]:
    """Largest relative differences of logits, loss and gradients, with the same drop paths; refused where too large."""
    found = []
    for model in (ours, theirs):
        with torch.no_grad():
            logits = model.eval()(x)
        torch.manual_seed(1)
        value = loss(model.train(), x, target)
        gradients = torch.autograd.grad(value, list(model.parameters()))
        found.append((logits, value.detach(), dict(zip(dict(model.named_parameters()), gradients))))

    def relative(a: Tensor, b: Tensor) -> float:
        return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item()

    (logits, value, gradients), (their_logits, their_value, their_gradients) = found
    total = torch.cat([g.flatten() for g in their_gradients.values()])
    ordered = torch.cat([gradients[name].flatten() for name in their_gradients])
    result = {
        "logits": relative(logits, their_logits),
        "loss": relative(value, their_value),
        "gradients": relative(ordered, total),
    }
    if max(result.values()) > TOLERANCE[x.dtype]:
        raise SystemExit(f"The networks differ by more than {TOLERANCE[x.dtype]}: {result}")
    return result


def kept(model: nn.Module, x: Tensor, target: Tensor) -> int:
    """Bytes that a forward pass saves for the backward pass, parameters not counted."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        value = loss(model, x, target)  # held until all storages are counted, so that none is reused
        total = sum(storage.nbytes() for storage in storages.values())
    del value
    return total


def stepping(model: nn.Module, x: Tensor, target: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        loss(model, x, target).backward()
        optimizer.step()

    return step


def inferring(model: nn.Module, x: Tensor) -> Callable[[], None]:
    def infer() -> None:
        model.eval()
        with torch.no_grad():
            model(x)

    return infer


def measure(name: str, args: argparse.Namespace) -> dict:
    """One network: results compared, memory counted, both passes timed."""
    ours, theirs = pair(name, args)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(args.batch, 3, args.size, args.size, generator=generator).to(args.device, ours.head.weight.dtype)
    target = torch.randint(CLASSES, (args.batch,), generator=generator).to(args.device)
    few = slice(0, min(args.batch, 16))
    result: dict = {"network": name, "batch": args.batch, "differences": differences(ours, theirs, x[few], target[few])}
    result["kept_bytes_per_image"] = {
        "ours": kept(ours, x[few], target[few]) // len(x[few]),
        "as published": kept(theirs, x[few], target[few]) // len(x[few]),
    }
    models = {"ours": ours, "as published": theirs}
    if args.compile:
        models |= {f"{key}, compiled": torch.compile(model) for key, model in models.items()}
    least = 3 if args.quick else 5
    for phase, calls in (
        ("inference", {key: inferring(model, x) for key, model in models.items()}),
        ("training step", {key: stepping(model, x, target) for key, model in models.items()}),
    ):
        times = interleave(calls, args.device, 0.0 if args.quick else 10.0, least)
        result[phase] = {key: summary(values) for key, values in times.items()}
    return result


def table(results: list[dict]) -> str:
    """Markdown: milliseconds, and how many times faster ours is."""
    head = ["network", "batch", "threads", "pass", "ours ms", "as published ms", "times faster", "kept MB per image"]
    compiled = any("ours, compiled" in result["inference"] for result in results)
    head += ["ours compiled ms", "as published compiled ms"] if compiled else []
    rows = [head, ["---"] * len(head)]
    for result in results:
        for phase in ("inference", "training step"):
            ms = {key: value["ms"] for key, value in result[phase].items()}
            row = [result["network"], str(result["batch"]), str(result["threads"]), phase]
            row += [f"{ms['ours']:.0f}", f"{ms['as published']:.0f}", f"{ms['as published'] / ms['ours']:.2f}"]
            memory = [f"{value / 1e6:.0f}" for value in result["kept_bytes_per_image"].values()]
            row += [" against ".join(memory) if phase == "training step" else ""]
            if compiled:
                row += [f"{ms['ours, compiled']:.0f}", f"{ms['as published, compiled']:.0f}"]
            rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="batch 32 and three rounds, unless said otherwise")
    parser.add_argument("--batch", type=int, help="images; by default 128")
    parser.add_argument("--size", type=int, default=32, help="of the images")
    parser.add_argument("--path", default="g", help="name of the paths")
    parser.add_argument("--networks", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="also both networks through torch.compile")
    parser.add_argument("--json", type=Path, help="where the numbers go; by default benchmarks/results/")
    args = parser.parse_args()
    args.batch = args.batch or (32 if args.quick else 128)
    keep_freed_memory()
    results = []
    for count in args.threads if args.device == "cpu" else [torch.get_num_threads()]:
        torch.set_num_threads(count)
        for name in args.networks:
            results.append({"threads": count, **measure(name, args)})
    report = {"environment": environment(args, pathconv.backend_info()), "results": results}
    print(json.dumps(report["environment"], indent=2))
    print(table(results))
    path = args.json or RESULTS / f"networks_{args.device}_{args.dtype}.json"
    write(path, report)


if __name__ == "__main__":
    main()
