"""The experiments' scripts, imported and run, for the tests beside."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
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


def forget_siblings() -> None:
    """Scripts import their neighbours by bare names, of which several folders have the same."""
    for file in (ROOT / "experiments").glob("*/*.py"):
        sys.modules.pop(file.stem, None)


def here(name: str, *arguments, code: int = 0) -> subprocess.CompletedProcess:
    """The same in this process: for what trains nothing, as a new one takes five seconds to start."""
    file, out, said, level = ROOT / "experiments" / f"{name}.py", io.StringIO(), io.StringIO(), logging.root.level
    command = [str(word) for word in (file, *arguments)]
    with contextlib.ExitStack() as stack:
        forget_siblings()
        stack.callback(forget_siblings)
        stack.enter_context(mock.patch.object(sys, "argv", command))
        stack.enter_context(mock.patch.object(sys, "path", [str(file.parent), *sys.path]))
        stack.enter_context(mock.patch.object(logging.root, "handlers", []))  # it configures its own
        stack.callback(logging.root.setLevel, level)
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(said))
        end = stack.enter_context(pytest.raises(SystemExit))
        runpy.run_path(str(file), run_name="__main__")
    assert end.value.code == code, said.getvalue()
    return subprocess.CompletedProcess(command, code, out.getvalue(), said.getvalue())
