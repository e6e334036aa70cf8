"""Tools that tests rely on find what they are made to find."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from leanconv.testing import cpu, cuda, emulator, models

LAYOUTS = [*emulator.LAYOUTS, "odd", "odd_last"]


@pytest.mark.parametrize("end", [False, True], ids=["begin", "end"])
def test_memory_beside_a_guarded_tensor_cannot_be_touched(end):
    program = """
import ctypes, sys, torch
from leanconv.testing.cpu import guarded
t = torch.randn(3, 5, 2).movedim(0, 2)
copy = guarded(t, sys.argv[1] == "True")
assert copy.equal(t) and copy.stride() == t.stride()
ctypes.string_at(copy.data_ptr() - int(sys.argv[2]), t.nbytes + int(sys.argv[2]) + int(sys.argv[3]))
"""
    cpu.run_guarded(program, str(end), "0", "0")
    with pytest.raises(AssertionError):
        cpu.run_guarded(program, str(end), *("01" if end else "10"))


@pytest.fixture
def package(monkeypatch):
    """With kernels up to avx2."""
    state = {"level": "avx2", "backend": "auto"}

    @contextlib.contextmanager
    def use_backend(name):
        state["backend"] = name
        yield
        state["backend"] = "auto"

    def set_cpu_level(level):
        state["level"] = cpu.LEVELS[min(cpu.LEVELS.index(level), 1)]

    ops = SimpleNamespace(cpu_level=lambda: state["level"], set_cpu_level=set_cpu_level)
    monkeypatch.setattr(torch.ops, "leanconv_testing", ops, raising=False)
    backends = SimpleNamespace(why={"cpu": ""})
    return SimpleNamespace(
        __name__="leanconv_testing", ops=SimpleNamespace(backends=backends), use_backend=use_backend, state=state
    )


@pytest.mark.parametrize(
    ("name", "level", "backend"),
    [("reference", "avx2", "reference"), ("baseline", "baseline", "native"), ("avx2", "avx2", "native")],
)
def test_kernels_are_chosen_and_put_back(package, name, level, backend):
    with cpu.cpu_kernels(package, name) as chosen:
        assert chosen == name and package.state == {"level": level, "backend": backend}
    assert package.state == {"level": "avx2", "backend": "auto"}


def test_kernels_that_are_not_there_skip_the_test(package):
    with pytest.raises(pytest.skip.Exception, match="this processor ends at avx2"), cpu.cpu_kernels(package, "avx512"):
        pass
    assert package.state == {"level": "avx2", "backend": "auto"}
    package.ops.backends.why["cpu"] = "it was not built"
    with pytest.raises(pytest.skip.Exception, match="it was not built"), cpu.cpu_kernels(package, "baseline"):
        pass


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8], ids=["float16", "uint8"])
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_are_placed_where_all_else_is_unseen(layout, shape, dtype):
    values = torch.arange(torch.Size(shape).numel()).view(shape) % 90
    t = emulator.place(values, dtype, layout)
    assert torch.equal(t, values.to(dtype))
    assert t.movedim(1, -1).is_contiguous() == layout.endswith("last") * ("slice" not in layout)
    assert t.is_contiguous() == (layout in ("first", "odd"))
    memory = torch.empty(0, dtype=dtype).set_(t.untyped_storage())
    unseen = memory.isnan() if dtype.is_floating_point else memory == 99
    assert (~unseen).sum() == values.numel()
    assert unseen[: emulator.MARGIN].all() and unseen[-emulator.MARGIN + 1 :].all()
    assert t.storage_offset() % 2 == ("odd" in layout) or "slice" in layout


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=["float32", "uint8"])
def test_what_is_written_beside_an_output_is_seen(dtype, last):
    outputs = emulator.Outputs()
    t = outputs.empty_images((2, 3, 4, 5), dtype, last)
    assert t.shape == (2, 3, 4, 5) and (t.movedim(1, -1) if last else t).is_contiguous()
    t.zero_()
    outputs.check("kernel")
    t.as_strided((1,), (1,), t.storage_offset() + t.numel()).zero_()
    with pytest.raises(AssertionError, match="kernel wrote outside"):
        outputs.check("kernel")


def test_errors_are_relative_to_large_values_and_nan_is_one():
    expected = torch.tensor([0.5, -8.0]).double()
    assert emulator.error(torch.tensor([1.5, -8.0]), expected) == 1 / 8
    assert emulator.error(torch.tensor([0.25, 0.0]), torch.tensor([0.5, 0.0]).double()) == 0.25
    assert not emulator.error(torch.tensor([torch.nan, -8.0]), expected) <= 1
    assert emulator.error(torch.empty(0), torch.empty(0).double()) == 0


def test_nvrtc_says_what_is_wrong():
    source = "template <typename T> __global__ void f(T* x) { x[threadIdx.x] = 0; }"
    cuda.nvrtc_compile(source, ["f<float>", "f<double>"], "75")
    with pytest.raises(AssertionError, match=r"identifier \"y\" is undefined"):
        cuda.nvrtc_compile(source.replace("x[", "y["), ["f<float>"], "75")


@pytest.mark.slow
@cuda.needs_nvcc
def test_nvcc_says_what_is_wrong(tmp_path):
    source = tmp_path / "f.cu"
    source.write_text("__global__ void f(float* x) { x[threadIdx.x] = 0; }\n__global__ void g(float* x) { f(x); }\n")
    with pytest.raises(AssertionError, match="error"):
        cuda.nvcc(source, tmp_path, tmp_path / "f.cubin", "-cubin")
    source.write_text("__global__ void f(float* x, int n) { float t[9]; t[n] = *x; *x = t[x[1] > 0]; }\n")
    assert cuda.nvcc_frames(source, tmp_path, "80", tmp_path) == [(40, 0, 0)]
    assert all("st.local" in code for code in cuda.nvcc_ptx(source, tmp_path, "80", tmp_path).values())
    source.write_text("__global__ void f(float* x) { int unused; }\n")
    with pytest.raises(AssertionError, match="never referenced"):
        cuda.nvcc_frames(source, tmp_path, "80", tmp_path)


def test_host_headers_are_found(tmp_path):
    file = tmp_path / "kernel.cu"
    file.write_text("// No torch header: it is compiled alone.\n")
    cuda.assert_no_host_header('#include "tile.cuh"', file)
    with pytest.raises(AssertionError):
        cuda.assert_no_host_header("#include <cmath>", file)
    file.write_text("#include <torch/all.h>\n")
    with pytest.raises(AssertionError):
        cuda.assert_no_host_header("", file)


def test_copies_are_counted():
    x = torch.randn(3, 4)
    with models.Copies() as copies:
        x.mT + 1
        assert copies.found == []
        x.mT.contiguous()
    assert copies.found == ["aten.clone.default"]


class Net(torch.nn.Module):
    def __init__(self, noise: bool = False):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
        self.noise, self.checkpointing = noise, False

    def set_grad_checkpointing(self):
        self.checkpointing = True

    def forward(self, x):
        return self.layer(x) * (2 if self.checkpointing and self.noise else 1)


def test_checkpointing_that_changes_gradients_is_seen():
    models.assert_checkpointing_changes_nothing(Net(), torch.ones(2, 3))
    with pytest.raises(AssertionError, match=r"layer\.weight"):
        models.assert_checkpointing_changes_nothing(Net(noise=True), torch.ones(2, 3))


def test_a_loader_of_anything_is_no_loader_of_checkpoints(tmp_path):
    def load(path: Path) -> object:
        return torch.load(path, weights_only=True)

    with pytest.raises(Exception, match=r"Weights only load failed|DID NOT RAISE"):
        models.assert_refuses_what_is_no_checkpoint(load, {"model": {"w": torch.ones(2)}}, tmp_path)
