"""Times the CUDA kernels against what bounds them: memory for points, arithmetic for the convolution.

Medians of CUDA events over several sets of inputs. Making kernels of points reads the points and writes the kernels:
`of copy` is the share of the bandwidth that a large copy reaches in the same run; beside it stands the construction as
the authors' code writes it. A large depthwise convolution multiplies every pixel by hundreds of taps: `of matmul` is
the share of the multiply-adds per second, those with pixels of the image alone, that a large float32 matrix product
reaches in the same run, without tensor cores; beside it stand torch's convolution and the product of spectra.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import smpconv
from leanconv.benchmark import SETS, copy_bandwidth, environment, milliseconds, write

POINTS = [  # G C N size radius averaged
    (1, 96, 240, (31, 31), 4 / 31, False),
    (1, 384, 182, (27, 27), 4 / 27, False),
    (1, 768, 42, (13, 13), 4 / 13, False),
    (1, 384, 650, (51, 51), 4 / 51, False),
    (1, 96, 240, (31, 31), 1.0, False),
    (30, 30, 30, (784,), 0.002, True),
    (30, 30, 30, (16000,), 0.0002, True),
    (24, 24, 16, (33, 33), 0.12, True),
]
IMAGES = [  # N C H=W K
    (64, 96, 56, 31),
    (64, 192, 28, 29),
    (64, 384, 14, 27),
    (64, 768, 7, 13),
    (64, 96, 56, 51),
    (64, 96, 56, 7),
    (1, 96, 56, 31),
]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
op = torch.ops.smpconv
Calls = dict[str, tuple[Callable[[int], object], int]]  # name -> call of a set of inputs, bytes or multiply-adds


def as_written(coords: Tensor, radius: Tensor, weight: Tensor, grid: Tensor, average: bool) -> Tensor:  # (G, C, taps)
    """The authors' layers: tents of all points over all taps."""
    tents = F.relu(1 - (coords[:, :, None] - grid).abs().sum(-1) / radius[:, :, None])
    if average:
        tents = tents / ((tents != 0).sum(1, keepdim=True) + 1e-6)
    return weight @ tents


def points(case: tuple, dtype: torch.dtype) -> Calls:
    groups, channels, count, size, reach, average = case
    place, flip = {"device": "cuda", "dtype": dtype}, len(size) == 2
    grid = smpconv.reference.tap_coordinates(size, flip).to(**place)
    coords = [0.4 * torch.randn(groups, count, len(size), **place) for _ in range(SETS)]
    weight = [torch.randn(groups, channels, count, **place) for _ in range(SETS)]
    radius = torch.full((groups, count), reach, **place)
    grad = [torch.randn(groups, channels, *size, **place) for _ in range(SETS)]
    leaves = [[t.clone().requires_grad_() for t in (coords[i], radius, weight[i])] for i in range(SETS)]
    small, large = coords[0].nbytes + radius.nbytes + weight[0].nbytes, grad[0].nbytes

    def eager_training(i: int) -> object:
        with torch.enable_grad():
            return torch.autograd.grad(as_written(*leaves[i], grid, average), leaves[i], grad[i].flatten(2))

    def training(i: int) -> object:
        with torch.enable_grad():
            return torch.autograd.grad(op.rasterize(*leaves[i], size, average, flip), leaves[i], grad[i])

    return {
        "forward": (lambda i: op.rasterize(coords[i], radius, weight[i], size, average, flip), small + large),
        "backward": (
            lambda i: op.rasterize_backward(grad[i], coords[i], radius, weight[i], average, flip),
            2 * small + large,
        ),
        "as written": (lambda i: as_written(coords[i], radius, weight[i], grid, average), small + large),
        "training": (training, 3 * small + 2 * large),
        "as written training": (eager_training, 3 * small + 2 * large),
    }


def convolution(case: tuple[int, ...], dtype: torch.dtype, layout: str) -> Calls:
    n, c, side, k = case
    place = {"device": "cuda", "dtype": dtype}

    def images() -> list[Tensor]:
        draw = (torch.randn(n, c, side, side, **place) for _ in range(SETS))
        return [t.contiguous(memory_format=LAYOUTS[layout]) for t in draw]

    x, grad, weight = images(), images(), torch.randn(c, k, k, **place) / k
    dense, work = weight[:, None], valid(n, c, side, k)

    def stock_backward(i: int) -> object:
        conv, half = torch.ops.aten.convolution_backward, [k // 2, k // 2]
        return conv(grad[i], x[i], dense, None, [1, 1], half, [1, 1], False, [0, 0], c, [True, True, False])

    return {
        "forward": (lambda i: op.depthwise_conv2d(x[i], weight, None), work),
        "grad_input": (lambda i: op.depthwise_conv2d_grad_input(grad[i], weight), work),
        "grad_weight": (lambda i: op.depthwise_conv2d_grad_weight(grad[i], x[i], (k, k)), work),
        "stock": (lambda i: F.conv2d(x[i], dense, padding=k // 2, groups=c), work),
        "fft": (lambda i: smpconv.depthwise_conv2d(x[i], weight, algorithm="fft"), work),
        "stock backward": (stock_backward, 2 * work),
    }


def valid(n: int, c: int, side: int, k: int) -> int:
    """Multiply-adds with pixels of the image."""
    taps = sum(min(side, i + k // 2 + 1) - max(0, i - k // 2) for i in range(side))
    return n * c * taps * taps


def matmul_rate() -> float:
    """Multiply-adds per second of a large float32 matrix product on the ordinary cores."""
    side = 8192
    a, b = (torch.randn(side, side, device="cuda") for _ in range(2))
    return side**3 / milliseconds(lambda i: a @ b, 5) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, float32 alone")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results/cuda_bandwidth.json")
    args, _ = parser.parse_known_args()  # the options of the other benchmarks do not concern this one
    if not torch.cuda.is_available():
        print("cuda_bandwidth: not measured, there is no GPU here.")
        return
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    limits = {"points": copy_bandwidth(), "convolution": matmul_rate()}
    where = {
        **environment(args, smpconv.backend_info()),
        "copy GB/s": limits["points"] / 1e9,
        "matmul TMAC/s": limits["convolution"] / 1e12,
    }
    print(f"{where['hardware']}, copy {where['copy GB/s']:.0f} GB/s, matmul {where['matmul TMAC/s']:.1f} TMAC/s; ms")
    shares, results = {"points": "of copy", "convolution": "of matmul"}, []
    for dtype in (torch.float32,) if args.quick else (torch.float32, torch.bfloat16):
        cases = [("convolution", case, layout) for case in IMAGES for layout in LAYOUTS]
        for kind, case, layout in [*(("points", case, "contiguous") for case in POINTS), *cases]:
            calls = points(case, dtype) if kind == "points" else convolution(case, dtype, layout)
            result = {"kind": kind, "case": case, "dtype": str(dtype)[6:], "layout": layout}
            with torch.no_grad():
                for name, (call, amount) in calls.items():
                    time = milliseconds(call, 5 if args.quick else 30)
                    share = amount / time * 1e3 / limits[kind]
                    result[name] = {"ms": time, "amount": amount, shares[kind]: share}
            results.append(result)
            times = ", ".join(
                f"{k} {v['ms']:.4f} ({v[shares[kind]]:.0%})" for k, v in result.items() if isinstance(v, dict)
            )
            print(f"{result['dtype']} {layout} {kind} {case}: {times}", flush=True)
            # After every case: a time limit then costs only what was not measured.
            write(args.json, {"environment": where, "results": results})


if __name__ == "__main__":
    main()
