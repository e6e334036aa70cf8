"""Runs the contract's samples of one package on the GPU, forward and backward, for compute-sanitizer to watch.

compute-sanitizer --tool memcheck python ci/gpu_sanitize.py pathconv --seconds 60

Every op comes first in every dtype and layout, then the rest of its samples as far as the seconds last; the last line
says how many of them ran.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/contract"))

from contract import LAYOUTS, Inputs, Op, convert, discover, normal, with_gradients

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHOWN = ("contiguous", "channels_last", "slice")  # of the layouts


def run(op: Op, sample: Inputs, dtype: torch.dtype, layout: str) -> None:
    inputs = convert(sample, "cuda", dtype)
    image = op.differentiable[0]
    inputs[image] = LAYOUTS[layout](inputs[image])
    with_gradients(op, op.function, inputs, torch.ones_like)
    torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package")
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    ops = [op for op in discover() if op.package.__name__ == args.package]
    samples = [(number, op, s) for op in ops for number, s in enumerate(op.samples(normal()).values())]
    cases = list(product(sorted(samples, key=lambda entry: entry[0]), DTYPES, SHOWN))
    ran, end = 0, time.monotonic() + args.seconds
    for (_, op, sample), dtype, layout in cases:
        if time.monotonic() > end:
            break
        op.package.use_backend("native")
        run(op, sample, dtype, layout)
        ran += 1
    print(f"{args.package}: {ran} of {len(cases)} samples ran.")
    sys.exit(0 if ran else 1)


if __name__ == "__main__":
    main()
