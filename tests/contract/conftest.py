"""Where the contract runs: every op on every device and backend that this machine has."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for `contract` and `samples`, whatever way pytest imports

from contract import Op, discover

from leanconv.testing.cpu import cpu_level

OPS = discover()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`op` is every op; with `place` or `device`, every op everywhere it can run."""
    if not {"place", "device"} & set(metafunc.fixturenames):
        if "op" in metafunc.fixturenames:
            metafunc.parametrize("op", OPS, ids=str)
        return
    name = "place" if "place" in metafunc.fixturenames else "device"
    cases = []
    for op in OPS:
        levels = op.cpu_levels if name == "place" else ("",)
        places = [("cpu", "reference", ""), *(("cpu", "native", level) for level in levels)]
        places += [("cuda", backend, "") for backend in ("native", "cupy", "reference")]
        for place in places:
            marks = [pytest.mark.gpu] if place[0] == "cuda" else []
            cases.append(pytest.param(op, place, id=f"{op}-{'-'.join(filter(None, place))}", marks=marks))
    metafunc.parametrize(("op", name), cases, indirect=[name])


@pytest.fixture
def place(request, op):
    """Runs the test on one device, backend and CPU level, for what may differ between kernels; yields the device."""
    with _running(op, *request.param) as device:
        yield device


@pytest.fixture
def device(request, op):
    """The same at the CPU level of this machine, for what only torch's machinery decides."""
    with _running(op, *request.param) as device:
        yield device


@contextlib.contextmanager
def _running(op: Op, device: str, backend: str, level: str) -> Iterator[str]:
    name, why = op.package.__name__, op.package.ops.backends.why
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    missing = {"native": why[device], "cupy": why["cupy"]}.get(backend)
    if missing and backend == "native" and os.environ.get(f"{name.upper()}_REQUIRE_NATIVE") == "1":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    with cpu_level(op.package, level) if level else contextlib.nullcontext(), op.package.use_backend(backend):
        yield device
