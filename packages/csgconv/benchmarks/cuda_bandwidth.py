"""Times the CUDA kernels against the bytes they must move: every number of a kernel read once, every output written.

Medians of CUDA events over several sets of inputs; `of copy` is the share of the bandwidth that a large copy reaches in
the same run. Beside the two copies stand what plain torch makes of them, a view and a contiguous copy for each layer,
and all kernels of a network with their gradients, as `generation.py` has them: the products count there too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
from _as_published import kernel
from generation import NETWORKS
from torch import Tensor, nn

import csgconv
from csgconv.layouts import Layer, table
from leanconv.benchmark import SETS, Calls, bandwidth

op = torch.ops.csgconv


def copies(layers: list[Layer], dtype: torch.dtype) -> Calls:
    numbers, rows, size = table(layers), sum(layer.rows for layer in layers), prod(layers[0].slice_shape)
    slices = [torch.randn(rows, size, device="cuda", dtype=dtype) for _ in range(SETS)]
    kernels = [op.crop(s, numbers) for s in slices]
    sizes, part = [layer.rows for layer in layers], kernels[0].nbytes

    def views(i: int) -> list[Tensor]:
        made = []
        for layer, s in zip(layers, slices[i].split(sizes)):
            outputs, inputs, k, _ = layer.shape
            s0, s1, *_ = layer.slice_shape
            padded = s.view(-(-outputs // s0) * s0, -(-inputs // s1) * s1, k, k)
            made.append(padded[:outputs, :inputs].contiguous())
        return made

    return {
        "crop": (lambda i: op.crop(slices[i], numbers), 2 * part),
        "uncrop": (lambda i: op.uncrop(kernels[i], numbers, rows, size), part + slices[0].nbytes),
        "plain torch": (views, 2 * part),
    }


def training(layers: list[Layer], code_size: int, dtype: torch.dtype) -> Calls:
    generator = csgconv.SliceGenerator(code_size, layers[0].slice_shape, device="cuda", dtype=dtype)
    for layer in layers:
        generator.add(layer)
    csg = nn.Linear(*reversed(generator.weight.shape), bias=False, device="cuda", dtype=dtype)
    codes = [nn.Parameter(torch.randn(layer.rows, code_size, device="cuda", dtype=dtype)) for layer in layers]
    grads = [torch.randn(layer.shape, device="cuda", dtype=dtype) for layer in layers]
    moved = 4 * sum(grad.nbytes for grad in grads)  # kernels and their gradients, written and read

    @torch.enable_grad()
    def ours(i: int) -> object:
        generator.invalidate()
        return torch.autograd.grad(generator.kernels(), [generator.codes, generator.weight], grads)

    @torch.enable_grad()
    def published(i: int) -> object:
        made = [kernel(c, csg, layer).contiguous() for c, layer in zip(codes, layers)]
        return torch.autograd.grad(made, [*codes, csg.weight], grads)

    return {"ours": (ours, moved), "published": (published, moved)}


def cases(quick: bool) -> Iterator[tuple[dict[str, Any], Callable[[], Calls]]]:
    for dtype in (torch.float32, torch.bfloat16):
        for name, (channels, side, code_size, _) in NETWORKS.items():
            layers = [Layer((o, i, 3, 3), (side, side, 3, 3)) for o, i in channels]
            case = {"dtype": str(dtype)[6:], "network": name}
            yield {**case, "kind": "copies"}, functools.partial(copies, layers, dtype)
            yield {**case, "kind": "training"}, functools.partial(training, layers, code_size, dtype)


if __name__ == "__main__":
    bandwidth(__file__, __doc__, csgconv.backend_info, cases)
