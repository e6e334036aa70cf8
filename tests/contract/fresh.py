"""Fresh processes that have imported torch and nothing of ours: forked from one that has, as that takes two seconds.

A module of its own, since they import it by name.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch"])


def work(code: str, environment: dict[str, str], folder: str | None, streams: tuple[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if folder:
        sys.path.insert(1, folder)
    for number, file in enumerate(streams, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})


def run(code: str, environment: dict[str, str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in such a process; it finds what is in `folder` first."""
    with tempfile.TemporaryDirectory() as streams:
        files = f"{streams}/stdout", f"{streams}/stderr"
        process = CONTEXT.Process(target=work, args=(code, environment, folder and str(folder), files))
        process.start()
        process.join(300)
        assert process.exitcode is not None, "it does not end"
        return subprocess.CompletedProcess(code, process.exitcode, *(Path(file).read_text() for file in files))
