"""Times the CUDA kernels against the bytes they must move: every input read once, every output written once.

Medians of CUDA events over several sets of inputs, together larger than the cache; `of copy` is the share of the
bandwidth that a large copy reaches in the same run. Beside the forward pass stands `F.conv2d` with a horizontal (1, K)
depthwise kernel: not the same result, but what cuDNN does with as many taps. The shapes are those of the paper's
runtime table and of its stem.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

import dwoconv1d
from leanconv.benchmark import SETS, Calls, bandwidth

SHAPES = [
    (64, 512, 56, 1),
    (64, 512, 28, 1),
    (64, 512, 14, 1),
    (64, 512, 7, 1),
    (64, 64, 224, 2),
    (64, 64, 112, 2),
]  # N C H stride
KERNEL_SIZES = [7, 15, 31]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def calls(shape: tuple[int, int, int, int], kernel_size: int, dtype: torch.dtype, layout: str) -> Calls:
    batch, channels, size, stride = shape
    angle = dwoconv1d.assign_angles(channels)
    offsets = torch.stack(dwoconv1d.tap_offsets(kernel_size, angle)).int().contiguous().cuda()

    def images(side: int) -> list[torch.Tensor]:
        return [
            torch.randn(batch, channels, side, side, device="cuda", dtype=dtype).to(memory_format=LAYOUTS[layout])
            for _ in range(SETS)
        ]

    x, grad = images(size), images(-(-size // stride))
    weight, bias = (
        torch.randn(channels, kernel_size, device="cuda", dtype=dtype),
        torch.zeros(channels, device="cuda", dtype=dtype),
    )
    op, steps = torch.ops.dwoconv1d, (stride, stride)
    functions: dict[str, Callable[[int], object]] = {
        "forward": lambda i: op.oriented_conv1d(x[i], weight, offsets, bias, *steps, False),
        "grad_input": lambda i: op.oriented_conv1d_grad_input(grad[i], weight, offsets, size, size, *steps, False),
        "grad_weight": lambda i: op.oriented_conv1d_grad_weight(grad[i], x[i], offsets, *steps),
        "conv 1xK": lambda i: F.conv2d(
            x[i], weight[:, None, None], bias, stride=stride, padding=(0, kernel_size // 2), groups=channels
        ),
    }
    least = x[0].nbytes + grad[0].nbytes
    return {name: (function, least) for name, function in functions.items()}


def cases(quick: bool) -> Iterator[tuple[dict[str, Any], Callable[[], Calls]]]:
    for dtype, layout in itertools.product((torch.float32, torch.bfloat16), LAYOUTS):
        for shape, kernel_size in itertools.product(SHAPES, KERNEL_SIZES):
            case = {"dtype": str(dtype)[6:], "layout": layout, "shape": shape, "kernel_size": kernel_size}
            yield case, functools.partial(calls, shape, kernel_size, dtype, layout)


if __name__ == "__main__":
    bandwidth(__file__, __doc__, dwoconv1d.backend_info, cases)
