"""The experiments' scripts, imported and run, for the tests beside."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[2]
FEW = ["epochs=1", "train_images=640", "test_images=200", "batch_size=64"]


def script(name: str):
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), ROOT / "experiments" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where worker processes look for it
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "experiments" / f"{name}.py", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def refused(name: str, *arguments, code: int) -> str:
    """What a script says that cannot do what it is told: in this process, as a new one takes five seconds to start."""
    file, said = ROOT / "experiments" / f"{name}.py", io.StringIO()
    typed = mock.patch.object(sys, "argv", list(map(str, (file, *arguments))))
    with typed, contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
        runpy.run_path(str(file), run_name="__main__")
    assert end.value.code == code, said.getvalue()
    return said.getvalue()
