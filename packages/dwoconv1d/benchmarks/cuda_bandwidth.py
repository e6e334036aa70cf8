"""Times the CUDA kernels against the bytes they must move: every input read once, every output written once.

Medians of CUDA events over several sets of inputs, together larger than the cache; `of copy` is the share of the
bandwidth that a large copy reaches in the same run. Beside the forward pass stands `F.conv2d` with a horizontal (1, K)
depthwise kernel: not the same result, but what cuDNN does with as many taps. The shapes are those of the paper's
runtime table and of its stem.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

import dwoconv1d
from leanconv.benchmark import SETS, copy_bandwidth, environment, milliseconds, write

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


def measure(
    shape: tuple[int, int, int, int], kernel_size: int, dtype: torch.dtype, layout: str, repeats: int, copy: float
) -> dict:
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
    calls = {
        "forward": lambda i: op.oriented_conv1d(x[i], weight, offsets, bias, *steps, False),
        "grad_input": lambda i: op.oriented_conv1d_grad_input(grad[i], weight, offsets, size, size, *steps, False),
        "grad_weight": lambda i: op.oriented_conv1d_grad_weight(grad[i], x[i], offsets, *steps),
        "conv 1xK": lambda i: F.conv2d(
            x[i], weight[:, None, None], bias, stride=stride, padding=(0, kernel_size // 2), groups=channels
        ),
    }
    least = x[0].nbytes + grad[0].nbytes
    result = {"shape": shape, "kernel_size": kernel_size, "dtype": str(dtype)[6:], "layout": layout, "bytes": least}
    with torch.no_grad():
        for name, call in calls.items():
            time = milliseconds(call, repeats)
            result[name] = {"ms": time, "of copy": least / time * 1e3 / copy}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results/cuda_bandwidth.json")
    args, _ = parser.parse_known_args()  # the options of the other benchmarks do not concern this one
    if not torch.cuda.is_available():
        print("cuda_bandwidth: not measured, there is no GPU here.")
        return
    torch.backends.cudnn.benchmark = True
    copy = copy_bandwidth()
    where = {**environment(args, dwoconv1d.backend_info()), "copy GB/s": copy / 1e9}
    print(f"{where['hardware']}, copy {copy / 1e9:.0f} GB/s; ms (share of copy bandwidth)")
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        for layout in LAYOUTS:
            for shape in SHAPES:
                for kernel_size in KERNEL_SIZES:
                    result = measure(shape, kernel_size, dtype, layout, 10 if args.quick else 50, copy)
                    results.append(result)
                    times = ", ".join(
                        f"{k} {v['ms']:.3f} ({v['of copy']:.0%})" for k, v in result.items() if isinstance(v, dict)
                    )
                    print(f"{result['dtype']} {layout} {shape} K={kernel_size}: {times}")
            # After every layout: a time limit then costs only what was not measured.
            write(args.json, {"environment": where, "results": results})


if __name__ == "__main__":
    main()
