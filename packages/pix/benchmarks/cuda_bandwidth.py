"""Times the CUDA kernels against the bytes they must move: every input read once, every output written once.

Medians of CUDA events over several sets of inputs, together larger than the cache; `of copy` is the share of the
bandwidth that a large copy reaches in the same run. The layer reads its input twice, and its gradient that of its
output, since every gate needs all pixels of an image. Beside them stand what plain torch makes of the formula, the same
through torch.compile unless `--quick`, and what the layer replaces: the 1x1 convolution and its gradients. The shapes
are those of ResNet-50.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import pix
from leanconv.benchmark import SETS, Calls, bandwidth

SHAPES = [  # N C H zeta
    (128, 64, 56, 1),
    (128, 256, 56, 2),
    (128, 256, 56, 4),
    (128, 512, 28, 4),
    (128, 1024, 14, 4),
    (128, 1024, 14, 8),
    (128, 2048, 7, 4),
    (1, 256, 56, 4),
]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TAU = 0.5
op = torch.ops.pix


def composed(x: Tensor, p: Tensor, zeta: int) -> Tensor:
    """Pick-or-mix of whole subsets in plain torch."""
    subsets, gates = x.unflatten(1, (-1, zeta)), p[:, :, None, None]
    return (gates * torch.where(gates < TAU, subsets.amax(2), subsets.mean(2))).to(x.dtype)


def operator(shape: tuple[int, ...], dtype: torch.dtype, layout: str, quick: bool) -> Calls:
    n, c, size, zeta = shape
    x, grad = images(n, c, size, dtype, layout), images(n, c // zeta, size, dtype, layout)
    p = torch.rand(n, c // zeta, device="cuda")
    saved = [op.pick_or_mix(t, p, zeta, TAU, False, True) for t in x]
    wide, slim, choice = x[0].nbytes, grad[0].nbytes, saved[0][1].nbytes

    def backward(i: int) -> object:
        y, chosen = saved[i]
        return op.pick_or_mix_backward(grad[i], y, p, chosen, c, zeta, TAU, False)

    calls: Calls = {
        "forward": (lambda i: op.pick_or_mix(x[i], p, zeta, TAU, False, True), wide + slim + choice),
        "inference": (lambda i: op.pick_or_mix(x[i], p, zeta, TAU, False, False), wide + slim),
        "backward": (backward, wide + 2 * slim + choice),
        "plain torch": (lambda i: composed(x[i], p, zeta), wide + slim),
    }
    if not quick:
        compiled = torch.compile(composed, dynamic=False)
        calls["torch.compile"] = (lambda i: compiled(x[i], p, zeta), wide + slim)
    return calls


def layer(shape: tuple[int, ...], dtype: torch.dtype, layout: str, quick: bool) -> Calls:
    n, c, size, zeta = shape
    x, grad = images(n, c, size, dtype, layout), images(n, c // zeta, size, dtype, layout)
    weight = torch.randn(c // zeta, c, device="cuda", dtype=dtype) / c**0.5
    kernel = weight[:, :, None, None]
    saved = [op.pix(t, weight, None, zeta, TAU, False, False, True) for t in x]
    wide, slim, choice = x[0].nbytes, grad[0].nbytes, saved[0][3].nbytes

    def backward(i: int) -> object:
        y, z, p, chosen = saved[i]
        return op.pix_backward(grad[i], None, y, z, p, chosen, weight, None, zeta, TAU, False)

    def convolution_backward(i: int) -> object:
        conv = torch.ops.aten.convolution_backward
        return conv(grad[i], x[i], kernel, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False])

    return {
        "forward": (lambda i: op.pix(x[i], weight, None, zeta, TAU, False, False, True), 2 * wide + slim + choice),
        "inference": (lambda i: op.pix(x[i], weight, None, zeta, TAU, False, False, False), 2 * wide + slim),
        "backward": (backward, wide + 3 * slim + choice),
        "conv 1x1": (lambda i: F.conv2d(x[i], kernel), wide + slim),
        "conv 1x1 backward": (convolution_backward, 2 * wide + slim),
    }


def images(n: int, c: int, size: int, dtype: torch.dtype, layout: str) -> list[Tensor]:
    """Sets of inputs; those of a single image fit into the cache, as they do in use."""
    draw = (torch.randn(n, c, size, size, device="cuda", dtype=dtype) for _ in range(SETS))
    return [t.to(memory_format=LAYOUTS[layout]) for t in draw]


def cases(quick: bool) -> Iterator[tuple[dict[str, Any], Callable[[], Calls]]]:
    for dtype, layout in itertools.product((torch.float32, torch.bfloat16), LAYOUTS):
        for shape in SHAPES:
            for kind, make in {"operator": operator, "layer": layer}.items():
                case = {"dtype": str(dtype)[6:], "layout": layout, "kind": kind, "shape": shape}
                yield case, functools.partial(make, shape, dtype, layout, quick)


if __name__ == "__main__":
    bandwidth(__file__, __doc__, pix.backend_info, cases)
