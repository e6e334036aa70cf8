"""Runs every sample of the ops' contract once on the GPU, forward and backward, for compute-sanitizer to watch.

compute-sanitizer --tool memcheck python ci/gpu_sanitize.py float32 float16
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/contract"))

from contract import LAYOUTS, convert, discover, normal, with_gradients


def main(dtypes: list[str]) -> None:
    count = 0
    for op in discover():
        op.package.use_backend("native")
        for name in dtypes:
            for layout in ("contiguous", "channels_last", "slice"):
                for sample in op.samples(normal()).values():
                    inputs = convert(sample, "cuda", getattr(torch, name))
                    image = op.differentiable[0]
                    inputs[image] = LAYOUTS[layout](inputs[image])
                    with_gradients(op, op.function, inputs, torch.ones_like)
                    torch.cuda.synchronize()
                    count += 1
    print(f"{count} samples ran.")


if __name__ == "__main__":
    main(sys.argv[1:] or ["float32"])
