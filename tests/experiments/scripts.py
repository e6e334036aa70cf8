"""The experiments' scripts, imported and run, for the tests beside."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FEW = ["epochs=1", "train_images=640", "test_images=200", "batch_size=64"]


def script(name: str):
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), ROOT / "experiments" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where worker processes look for it
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments, code: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "experiments" / f"{name}.py", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done
