"""Times the CUDA kernels against the bytes they must move: every input read once, every output written once.

Medians of CUDA events over several sets of inputs, together larger than the cache; `of copy` is the share of the
bandwidth that a large copy reaches in the same run. Beside each op stands what torch offers for it: `torch.gather` with
an expanded index, the same and a convolution of kernel size 1, and the depthwise `F.conv1d`. The traversal has the
batches and sizes of the paper's table 7, the convolutions are those of PathConv-S at 32 x 32 and 64 x 64.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import pathconv
from leanconv.benchmark import SETS, Calls, bandwidth

TRAVERSALS = [(128, 32, 3), (1024, 32, 3), (128, 64, 3), (1024, 64, 3), (1024, 64, 5), (512, 224, 3)]  # N size P
STEMS = [(128, 32, 48), (512, 64, 48), (512, 64, 60)]  # N size D
DEPTHWISE = [  # N C M L K stride
    (512, 48, 1, 1024, 11, 1),
    (512, 48, 1, 1024, 9, 1),
    (512, 48, 2, 1024, 9, 2),
    (512, 192, 1, 256, 9, 1),
    (512, 384, 1, 128, 9, 1),
    (128, 48, 1, 4096, 9, 1),
]
op = torch.ops.pathconv


def draw(*shape: int, dtype: torch.dtype, last: bool) -> list[Tensor]:
    """Sets of inputs (N, C, ...), with the channels last in memory or first."""
    sets = [torch.randn(shape, device="cuda", dtype=dtype) for _ in range(SETS)]
    return [t.movedim(1, -1).contiguous().movedim(-1, 1) for t in sets] if last else sets


def paths_of(size: int, count: int) -> pathconv.PathTables:
    """`count` Hilbert curves, turned differently."""
    configs = [pathconv.PathConfig("hilbert", rotation=90 * (i % 4)) for i in range(count)]
    return pathconv.path_tables(configs, size, size, "cuda")


def traversal(shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> Calls:
    n, size, count = shape
    tables = paths_of(size, count)
    x, y = draw(n, 3, size, size, dtype=dtype, last=last), draw(n, 3 * count, size**2, dtype=dtype, last=last)
    index, inverse = tables.index, tables.inverse
    wide = index.long()[None, :, None].expand(n, count, 3, size**2)
    moved = x[0].nbytes + y[0].nbytes
    return {
        "traverse": (lambda i: op.traverse(x[i], index, inverse, last), moved),
        "adjoint": (lambda i: op.traverse_adjoint(y[i], index, inverse, size, size, last), moved),
        "torch.gather": (
            lambda i: x[i].flatten(2)[:, None].expand(n, count, 3, size**2).gather(3, wide).flatten(1, 2),
            moved,
        ),
    }


def stem(shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> Calls:
    n, size, outputs = shape
    index, inverse, *_ = paths_of(size, 3)
    x, grad = draw(n, 3, size, size, dtype=dtype, last=last), draw(n, outputs, size**2, dtype=dtype, last=last)
    weight = torch.randn(outputs, 9, device="cuda", dtype=dtype)
    bias = torch.randn(outputs, device="cuda", dtype=dtype)
    wide = index.long()[None, :, None].expand(n, 3, 3, size**2)

    def unfused(i: int) -> Tensor:
        y = x[i].flatten(2)[:, None].expand(n, 3, 3, size**2).gather(3, wide).flatten(1, 2)
        return F.conv1d(y, weight[..., None], bias)

    moved = x[0].nbytes + grad[0].nbytes
    return {
        "forward": (lambda i: op.traverse_conv1d(x[i], index, inverse, weight, bias, last), moved),
        "grad_input": (
            lambda i: op.traverse_conv1d_grad_input(grad[i], index, inverse, weight, size, size, last),
            moved,
        ),
        "grad_weight": (lambda i: op.traverse_conv1d_grad_weight(grad[i], x[i], index, inverse), moved),
        "gather and conv1d": (unfused, moved),
    }


def depthwise(shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> Calls:
    n, channels, multiplier, length, taps, stride = shape
    outputs, padding = channels * multiplier, taps // 2
    x = draw(n, channels, length, dtype=dtype, last=last)
    grad = draw(n, outputs, length // stride, dtype=dtype, last=last)
    weight = torch.randn(n, outputs, taps, device="cuda", dtype=dtype)
    bias = torch.randn(outputs, device="cuda", dtype=dtype)
    shared, dense = weight[:1], x if not last else [t.contiguous() for t in x]  # the layout that cuDNN prefers
    moved = x[0].nbytes + grad[0].nbytes
    return {
        "forward": (lambda i: op.depthwise_conv1d(x[i], shared, bias, stride, padding), moved),
        "per sample": (lambda i: op.depthwise_conv1d(x[i], weight, bias, stride, padding), moved),
        "grad_input": (
            lambda i: op.depthwise_conv1d_grad_input(grad[i], shared, channels, length, stride, padding),
            moved,
        ),
        "grad_weight": (
            lambda i: op.depthwise_conv1d_grad_weight(grad[i], x[i], taps, stride, padding, False),
            moved,
        ),
        "F.conv1d": (
            lambda i: F.conv1d(dense[i], shared[0, :, None], bias, stride=stride, padding=padding, groups=channels),
            moved,
        ),
    }


def cases(quick: bool) -> Iterator[tuple[dict[str, Any], Callable[[], Calls]]]:
    groups = {"traversal": (traversal, TRAVERSALS), "stem": (stem, STEMS), "depthwise": (depthwise, DEPTHWISE)}
    for dtype, last in itertools.product((torch.float32, torch.bfloat16), (False, True)):
        for kind, (make, shapes) in groups.items():
            for shape in shapes:
                layout = "channels_last" if last else "contiguous"
                case = {"dtype": str(dtype)[6:], "layout": layout, "kind": kind, "shape": shape}
                yield case, functools.partial(make, shape, dtype, last)


if __name__ == "__main__":
    bandwidth(__file__, __doc__, pathconv.backend_info, cases)
