"""Loading, choosing and reporting backends; what needs a fresh process runs a copy without libraries."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pix
from pix import PiX, backend_info, ops, use_backend

needs_native = pytest.mark.skipif(bool(ops.backends.why["cpu"]), reason=ops.backends.why["cpu"])


@pytest.fixture
def calls(monkeypatch):
    """Names of the reference kernels that ran."""
    names: list[str] = []

    def spy(op, kernel):
        return lambda *args: (names.append(op), kernel(*args))[1]

    monkeypatch.setattr(ops.backends, "reference", {op: spy(op, kernel) for op, kernel in ops.KERNELS.items()})
    return names


@needs_native
def test_use_backend_as_statement_and_as_context(calls):
    layer, x = PiX(8, 2), torch.randn(1, 8, 5, 5, requires_grad=True)
    native = layer(x)
    assert calls == []
    with use_backend("reference"):
        assert backend_info()["active_cpu"] == "reference"
        torch.testing.assert_close(layer(x), native)
        with use_backend("native"):
            layer(x)
        layer(x).sum().backward()
    assert calls == ["pix", "pix", "pix_backward"]
    layer(x)
    use_backend("reference")
    layer(x)
    use_backend("auto")
    layer(x)
    assert len(calls) == 4
    assert backend_info()["chosen"] == "auto"


@needs_native
def test_previous_backend_comes_back_after_an_error(calls):
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    PiX(8, 2)(torch.randn(1, 8, 5, 5))
    assert calls == []
    assert backend_info()["chosen"] == "auto"


@needs_native
def test_compiled_code_follows_the_backend(calls):
    torch._dynamo.reset()
    layer, x = PiX(8, 2), torch.randn(1, 8, 5, 5)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    compiled(x)
    assert calls == []
    with use_backend("reference"):
        compiled(x)
    assert calls == ["pix"]


def test_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="must be one of auto, native, cupy, reference, but it is 'fast'"):
        use_backend("fast")


@pytest.mark.skipif(not ops.backends.why["cupy"], reason="CuPy is there")
def test_missing_backend_says_why():
    with pytest.raises(RuntimeError, match=r"'cupy' is not available: ."):
        use_backend("cupy")
    assert backend_info()["chosen"] == "auto"


def test_a_stray_folder_named_cupy_is_no_cupy(monkeypatch, tmp_path):
    if importlib.util.find_spec("cupy") is not None:
        pytest.skip("CuPy is there")
    (tmp_path / "cupy").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert importlib.util.find_spec("cupy") is not None
    assert "CuPy for CUDA 13 is not installed" in ops.backends._why_no_cupy()


def test_info_names_every_backend():
    info = backend_info()
    assert {"chosen", "active_cpu", "active_cuda", "native_cpu", "native_cuda", "cupy", "reference"} <= info.keys()
    assert all(isinstance(value, str) and value for value in info.values())


def run(code: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    path = {"PYTHONPATH": str(folder)} if folder else {}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIX_", "PYTHONWARNINGS"))}
    return subprocess.run(
        [sys.executable, "-c", code], env={**kept, **path, **environment}, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A folder with the package as it is installed where no compiler was found."""
    folder = tmp_path_factory.mktemp("bare")
    ignore = shutil.ignore_patterns("*.so", "*.pyd", "_csrc", "__pycache__")
    shutil.copytree(Path(pix.__file__).parent, folder / "pix", ignore=ignore)
    return folder


USE = """
import sys, warnings
import torch, pix
assert pix.__file__.startswith(sys.path[1]), pix.__file__
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    layer = pix.PiX(8, 2)
    for _ in range(3):
        layer(torch.ones(1, 8, 5, 5)).sum().backward()
print(len(caught), *(warning.message for warning in caught))
print(pix.backend_info()["active_cpu"])
"""


def test_without_library_the_import_is_silent_and_the_first_call_says_why(bare):
    done = run(USE, bare)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said, active = done.stdout.strip().splitlines()
    assert said.startswith("1 pix runs its slow reference in plain PyTorch on cpu:")
    assert all(part in said for part in ("C++ compiler", "PIX_REQUIRE_NATIVE", 'use_backend("reference")'))
    assert active == "reference"


def test_chosen_reference_says_nothing(bare):
    done = run(USE, bare, PIX_BACKEND="reference")
    assert (done.stdout.split()[0], done.stderr) == ("0", "")


def test_wish_that_cannot_be_met_warns_and_never_fails(bare):
    done = run(USE, bare, PIX_BACKEND="native")
    assert done.returncode == 0
    assert "PIX_BACKEND is ignored. The backend 'native' is not available: pix was installed" in done.stderr


def test_broken_library_is_reported(bare, tmp_path):
    shutil.copytree(bare / "pix", tmp_path / "pix")
    (tmp_path / "pix" / "_C.abi3.so").write_bytes(b"not a library")
    done = run("import pix; print(pix.backend_info()['native_cpu'])", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"does not load beside torch {torch.__version__}" in done.stdout
    assert done.stderr == ""


@needs_native
def test_import_needs_torch_alone_and_loads_no_library_twice():
    code = """
import importlib.util, pathlib, sys
import torch
package = pathlib.Path(importlib.util.find_spec("pix").origin).parent
(library,) = package.glob("_C.*")
torch.ops.load_library(str(library))
import pix
print(pix.backend_info()["active_cpu"], {"timm", "torchvision", "cupy"} & set(sys.modules))
"""
    done = run(code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "native set()", "")


def test_command_prints_the_backends():
    done = subprocess.run([sys.executable, "-m", "pix"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert done.stderr == ""
    first, *lines = done.stdout.splitlines()
    assert first == f"pix {pix.__version__}"
    assert [line.split()[0] for line in lines] == list(backend_info())
