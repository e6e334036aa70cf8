"""All kernels of a network and their gradients, beside the published construction layer by layer.

Three ways to the same kernels, called in turn; medians, on a CPU with one thread by default:

    published   each layer's slices by the linear layer, viewed, cut out, made contiguous; gradients by autograd
    ours        `SliceGenerator`, in all layouts: one product, one copy where kernels do not lie in one piece
    floor       the bare products of the slices that reach a kernel: one forward, two backward, nothing else. They make
                whole slices; ours make less where all slices of some layers end in numbers that no kernel has, and
                "flat" has fewer slices, so that neither is bound by it.

Gradients are those of the codes and of W for given gradients of the kernels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import prod
from pathlib import Path

import torch
from _as_published import kernel
from torch import Tensor, nn

import csgconv
from csgconv.layouts import LAYOUTS, Layer
from leanconv.benchmark import environment, interleave, keep_freed_memory, summary, write

RESULTS = Path(__file__).parent / "results"
RESNET56 = [(16, 16)] * 18 + [(32, 16)] + [(32, 32)] * 17 + [(64, 32)] + [(64, 64)] * 17
RESNET50 = [(64, 64)] * 3 + [(128, 128)] * 4 + [(256, 256)] * 6 + [(512, 512)] * 3
NETWORKS = {  # (O, I) of all generated 3x3 convolutions, side of a slice, code size, most of the published time
    "ResNet-56 12-72": (RESNET56, 12, 72, 0.5),
    "ResNet-56 16-128": (RESNET56, 16, 128, 0.5),
    "DenseNet-BC-40-12 12-72": ([(12, 48)] * 18, 12, 72, 0.5),
    "DenseNet-BC-40-48 12-72": ([(48, 192)] * 18, 12, 72, 1.0),
    "ResNet-50 16-128": (RESNET50, 16, 128, None),
}
Call = Callable[[], object]


def published(layers: list[Layer], codes: list[Tensor], weight: Tensor) -> Callable[[], list[Tensor]]:
    csg = nn.Linear(*reversed(weight.shape), bias=False, device=weight.device)
    csg.weight = nn.Parameter(weight)
    parameters = [nn.Parameter(c) for c in codes]

    def make() -> list[Tensor]:
        return [kernel(c, csg, layer).contiguous() for c, layer in zip(parameters, layers)]

    make.parameters = [*parameters, csg.weight]  # type: ignore[attr-defined]
    return make


def ours(
    shapes: list[tuple[int, ...]], layout: str, side: int, size: int, device: str
) -> tuple[csgconv.SliceGenerator, Callable[[], tuple[Tensor, ...]]]:
    generator = csgconv.SliceGenerator(size, (side, side, 3, 3), layout=layout, device=device)
    for shape in shapes:
        generator.add(Layer(shape, generator.slice_shape, layout))

    def make() -> tuple[Tensor, ...]:
        generator.invalidate()
        return generator.kernels()

    return generator, make


def training(make: Callable, parameters: list[Tensor], grads: list[Tensor]) -> Call:
    return lambda: torch.autograd.grad(make(), parameters, grads)


def inference(make: Callable) -> Call:
    def call() -> None:
        with torch.no_grad():
            make()

    return call


def floor(generator: csgconv.SliceGenerator) -> dict[str, Call]:
    live = sum(layer.live for layer in generator.layers)
    codes, weight = generator.codes.detach()[:live], generator.weight.detach()
    slices = codes @ weight.t()
    forward = torch.empty_like(slices)
    grads = torch.empty_like(codes), torch.empty_like(weight)

    def inference() -> None:
        torch.mm(codes, weight.t(), out=forward)

    def training() -> None:
        inference()
        torch.mm(slices, weight, out=grads[0])
        torch.mm(slices.t(), codes, out=grads[1])

    return {"floor inference": inference, "floor training": training}


def measure(name: str, seconds: float, device: str) -> dict:
    channels, side, size, bar = NETWORKS[name]
    shapes = [(o, i, 3, 3) for o, i in channels]
    grads = [torch.randn(shape, device=device) for shape in shapes]
    generator, make = ours(shapes, "raster", side, size, device)
    rows = [torch.tensor([n for part in generator.rows(i) for n in part]) for i in range(len(shapes))]
    theirs = published(
        list(generator.layers), [generator.codes.detach()[r] for r in rows], generator.weight.detach().clone()
    )
    for a, b in zip(make(), theirs()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    calls: dict[str, Call] = {
        "published inference": inference(theirs),
        "published training": training(theirs, theirs.parameters, grads),  # type: ignore[attr-defined]
    }
    for layout in LAYOUTS:
        generator, make = ours(shapes, layout, side, size, device)
        parameters: list[Tensor] = [generator.codes, generator.weight]
        calls[f"{layout} inference"] = inference(make)
        calls[f"{layout} training"] = training(make, parameters, grads)
        if layout == "raster":
            calls |= floor(generator)
    times = {key: summary(values) for key, values in interleave(calls, device, seconds, most=2000).items()}
    share = {
        way: {
            part: times[f"{way} {part}"]["ms"] / times[f"published {part}"]["ms"] for part in ("inference", "training")
        }
        for way in (*LAYOUTS, "floor")
    }
    numbers = {"layers": len(shapes), "weights": sum(map(prod, shapes))}
    return {"network": name, **numbers, "bar": bar, "of published": share, "times": times}


def row(r: dict) -> str:
    ways = ("published", *LAYOUTS, "floor")
    shown = {
        part: " / ".join(f"{r['times'][f'{way} {part}']['ms']:.2f}" for way in ways)
        for part in ("inference", "training")
    }
    bar = f" (bar {r['bar']})" if r["bar"] else ""
    return (
        f"{r['network']:24} forward {shown['inference']} ms, with gradients {shown['training']} ms: raster "
        f"{r['of published']['raster']['training']:.2f} of published{bar}"
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
    print(f"published / {' / '.join(LAYOUTS)} / floor")
    path, results = args.json or RESULTS / f"generation_{args.device}.json", []
    where = environment(args, csgconv.backend_info())  # before the first write, which changes the tree
    for name in NETWORKS:
        results.append(measure(name, 0.1 if args.quick else 0.5, args.device))
        print(row(results[-1]), flush=True)
        write(path, {"environment": where, "results": results})


if __name__ == "__main__":
    main()
