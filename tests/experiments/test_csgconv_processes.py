"""The experiments of csgconv under torchrun: what follows a run is done once, and nobody waits for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from scripts import ROOT

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
FEW = ["epochs=1", "train_images=64", "test_images=50", "batch_size=32", "milestones=(1,)"]


def test_csgconv_reuse_trains_stores_and_takes_a_generator_in_two_processes(tmp_path):
    """Without --out, so that both processes must agree on a folder named after the time."""
    flags = ["--smoke", "--kind", "trained", "--device", "cpu", "--set", *FEW]
    command = [*TORCHRUN, ROOT / "experiments/csgconv/reuse.py", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (out,) = tmp_path.glob("runs/csgconv/reuse-smoke-*")
    assert (out / "storage.md").read_text().count("| ResNet-") == 2
    for run in ("resnet32-donor", "resnet20-trained"):
        stored = json.loads((out / f"{run}-seed0" / "storage.json").read_text())
        assert stored["fp32"]["top1"] == stored["top1"], "one process has seen all test images"
