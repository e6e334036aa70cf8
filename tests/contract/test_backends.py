"""Loading, choosing and reporting backends; what needs a fresh process runs a copy without libraries."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import fresh
import pytest
import torch


@dataclass(frozen=True)
class Layer:
    """One layer of a package, and the ops that it calls."""

    package: ModuleType
    make: str
    shape: tuple[int, ...]
    forward: tuple[str, ...]
    backward: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.package.__name__

    @property
    def backends(self) -> Any:
        return self.package.ops.backends

    def __call__(self) -> torch.nn.Module:
        return eval(f"{self.name}.{self.make}", {self.name: self.package})


LAYERS = {
    "csgconv": (
        "CSGConv2d(16, 16, 3, csgconv.SliceGenerator(8, (12, 12, 3, 3), layout='tile'))",
        (1, 16, 5, 5),
        ("crop",),
        ("uncrop",),
    ),
    "dwoconv1d": (
        "OrientedConv1d(8, 7)",
        (1, 8, 5, 5),
        ("oriented_conv1d",),
        ("oriented_conv1d_grad_input", "oriented_conv1d_grad_weight"),
    ),
    "pathconv": (
        "DepthwiseConv1d(8, 3)",
        (1, 8, 5),
        ("depthwise_conv1d",),
        ("depthwise_conv1d_grad_input", "depthwise_conv1d_grad_weight"),
    ),
    "pix": ("PiX(8, 2)", (1, 8, 5, 5), ("pix",), ("pix_backward",)),
    "smpconv": (
        "SMPDepthwiseConv2d(8, 5)",
        (1, 8, 5, 5),
        ("rasterize", "depthwise_conv2d"),
        ("depthwise_conv2d_grad_input", "depthwise_conv2d_grad_weight", "rasterize_backward"),
    ),
}


def test_every_package_has_its_layer():
    packages = Path(__file__).parents[2].glob("packages/*/pyproject.toml")
    assert set(LAYERS) == {path.parent.name for path in packages}


@pytest.fixture(scope="module", params=LAYERS)
def layer(request) -> Layer:
    return Layer(importlib.import_module(request.param), *LAYERS[request.param])


@pytest.fixture
def native(layer):
    if why := layer.backends.why["cpu"]:
        pytest.skip(why)


@pytest.fixture
def calls(layer, monkeypatch):
    """Names of the reference kernels that ran."""
    names: list[str] = []

    def spy(op, kernel):
        return lambda *args: (names.append(op), kernel(*args))[1]

    kernels = {op: spy(op, kernel) for op, kernel in layer.package.ops.KERNELS.items()}
    monkeypatch.setattr(layer.backends, "reference", kernels)
    return names


def test_use_backend_as_statement_and_as_context(layer, native, calls):
    use_backend, backend_info = layer.package.use_backend, layer.package.backend_info
    module, x, forward = layer(), torch.randn(layer.shape, requires_grad=True), list(layer.forward)
    wanted = module(x)
    assert calls == []
    with use_backend("reference"):
        assert backend_info()["active_cpu"] == "reference"
        torch.testing.assert_close(module(x), wanted)
        with use_backend("native"):
            module(x)
        module(x).sum().backward()
    assert calls == forward + forward + list(layer.backward)
    calls.clear()
    module(x)
    use_backend("reference")
    module(x)
    use_backend("auto")
    module(x)
    assert calls == forward
    assert backend_info()["chosen"] == "auto"


def test_previous_backend_comes_back_after_an_error(layer, native, calls):
    with pytest.raises(KeyError), layer.package.use_backend("reference"):
        raise KeyError
    layer()(torch.randn(layer.shape))
    assert calls == []
    assert layer.package.backend_info()["chosen"] == "auto"


def test_compiled_code_follows_the_backend(layer, native, calls):
    torch._dynamo.reset()
    module, x = layer(), torch.randn(layer.shape)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    compiled(x)
    assert calls == []
    with layer.package.use_backend("reference"):
        compiled(x)
    assert calls == list(layer.forward)


def test_unknown_backend_is_refused(layer):
    with pytest.raises(ValueError, match="must be one of auto, native, cupy, reference, but it is 'fast'"):
        layer.package.use_backend("fast")


def test_missing_backend_says_why(layer):
    if not layer.backends.why["cupy"]:
        pytest.skip("CuPy is there")
    with pytest.raises(RuntimeError, match=r"'cupy' is not available: ."):
        layer.package.use_backend("cupy")
    assert layer.package.backend_info()["chosen"] == "auto"


def test_a_stray_folder_named_cupy_is_no_cupy(layer, monkeypatch, tmp_path):
    if importlib.util.find_spec("cupy") is not None:
        pytest.skip("CuPy is there")
    (tmp_path / "cupy").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert importlib.util.find_spec("cupy") is not None
    assert "CuPy for CUDA 13 is not installed" in layer.backends._why_no_cupy()


def test_info_names_every_backend(layer):
    info = layer.package.backend_info()
    assert {"chosen", "active_cpu", "active_cuda", "native_cpu", "native_cuda", "cupy", "reference"} <= info.keys()
    assert all(isinstance(value, str) and value for value in info.values())


def run(layer: Layer, code: str, folder: Path | None = None, backend: str = "") -> subprocess.CompletedProcess[str]:
    """Runs Python that finds the package in `folder`, and no wishes but `backend` in the environment."""
    prefix = f"{layer.name.upper()}_"
    environment = {key: value for key, value in os.environ.items() if not key.startswith((prefix, "PYTHONWARNINGS"))}
    if backend:
        environment[f"{prefix}BACKEND"] = backend
    return fresh.run(code, environment, folder)


@pytest.fixture(scope="module")
def bare(layer, tmp_path_factory) -> Path:
    """A folder with the package as it is installed where no compiler was found."""
    folder = tmp_path_factory.mktemp("bare")
    ignore = shutil.ignore_patterns("*.so", "*.pyd", "_csrc", "__pycache__")
    shutil.copytree(Path(layer.package.__file__).parent, folder / layer.name, ignore=ignore)
    return folder


def use(layer: Layer) -> str:
    return f"""
import sys, warnings
import torch, {layer.name}
assert {layer.name}.__file__.startswith(sys.path[1]), {layer.name}.__file__
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    layer = {layer.name}.{layer.make}
    for _ in range(3):
        layer(torch.ones{layer.shape}).sum().backward()
print(len(caught), *(warning.message for warning in caught))
print({layer.name}.backend_info()["active_cpu"])
"""


def test_without_library_the_import_is_silent_and_the_first_call_says_why(layer, bare):
    done = run(layer, use(layer), bare)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said, active = done.stdout.strip().splitlines()
    assert said.startswith(f"1 {layer.name} runs its slow reference in plain PyTorch on cpu:")
    remedies = ("C++ compiler", f"{layer.name.upper()}_REQUIRE_NATIVE", 'use_backend("reference")')
    assert all(part in said for part in remedies)
    assert active == "reference"


def test_chosen_reference_says_nothing(layer, bare):
    done = run(layer, use(layer), bare, backend="reference")
    assert (done.stdout.split()[0], done.stderr) == ("0", "")


def test_wish_that_cannot_be_met_warns_and_never_fails(layer, bare):
    done = run(layer, use(layer), bare, backend="native")
    assert done.returncode == 0
    wanted = f"The backend 'native' is not available: {layer.name} was installed"
    assert f"{layer.name.upper()}_BACKEND is ignored. {wanted}" in done.stderr


def test_broken_library_is_reported(layer, bare, tmp_path):
    shutil.copytree(bare / layer.name, tmp_path / layer.name)
    (tmp_path / layer.name / "_C.abi3.so").write_bytes(b"not a library")
    done = run(layer, f"import {layer.name}; print({layer.name}.backend_info()['native_cpu'])", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"does not load beside torch {torch.__version__}" in done.stdout
    assert done.stderr == ""


def test_import_needs_torch_alone_and_loads_no_library_twice(layer, native):
    code = f"""
import importlib.util, pathlib, sys
import torch
package = pathlib.Path(importlib.util.find_spec("{layer.name}").origin).parent
(library,) = package.glob("_C.*")
torch.ops.load_library(str(library))
import {layer.name}
print({layer.name}.backend_info()["active_cpu"], {{"timm", "torchvision", "cupy"}} & set(sys.modules))
"""
    done = run(layer, code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "native set()", "")


def command(layer: Layer, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m package`; tests/install types it."""
    code = f"import runpy, sys; sys.argv = ['', *{arguments}]; runpy.run_module({layer.name!r}, run_name='__main__')"
    return fresh.run(code, dict(os.environ))


def test_command_prints_the_backends(layer):
    done = command(layer)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, *lines = done.stdout.splitlines()
    assert first == f"{layer.name} {layer.package.__version__}"
    assert [line.split()[0] for line in lines] == list(layer.package.backend_info())


def test_command_refuses_what_it_does_not_know(layer):
    done = command(layer, "draww")
    assert done.returncode == 2
    assert "draww" in done.stderr and "Traceback" not in done.stderr
