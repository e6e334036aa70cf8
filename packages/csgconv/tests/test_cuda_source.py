"""What the CUDA source computes, without a GPU: run on the CPU, thread by thread, by tests/emulator.

Nothing here says how fast the kernels are, and nothing replaces `-m gpu` (see ci/gpu_check.sh).
"""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path

import pytest
import torch
from drawn_layers import NETWORKS, draw_table, network

import csgconv
from csgconv import cupy_backend, ops, reference
from csgconv._common import device_code
from csgconv.cupy_backend import PARTS, Layer, Params, Part
from csgconv.layouts import entry_span
from leanconv.testing.emulator import REPOSITORY, Outputs, build, by_dtype, draw, drawing, place

PACKAGE = Path(__file__).resolve().parents[1]


class Copy(ctypes.Structure):
    """`csgconv::copies::Copy`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("source", "target")),
        *((name, ctypes.c_int64) for name in ("elements", "bytes")),
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The CUDA source as a library for the CPU."""
    sources = {"crop": Path(__file__).parent / "emulated_crop.cpp"}
    library = build(sources, PACKAGE / "csrc", tmp_path_factory.mktemp("emulator"))["crop"]
    library.place.restype = ctypes.c_longlong
    return library


@pytest.fixture
def kernels(library, monkeypatch):
    """`cupy_backend`, launching on the emulator; what no kernel writes is NaN, and results lie between margins."""
    outputs = Outputs()

    def launch(name, params, blocks, device):
        library.launch(name.encode(), ctypes.byref(params), ctypes.c_longlong(blocks))
        outputs.check(name)

    monkeypatch.setattr(cupy_backend, "empty", lambda like, shape: outputs.empty(shape, like.dtype))
    monkeypatch.setattr(cupy_backend, "launch", launch)
    yield cupy_backend
    library.set_order(0)


def compare(kernels, numbers, rows, size, dtype=torch.float32, layout="first"):
    """Both ways, to the bit; an "odd" layout has no element where a vector begins."""
    where, slices = reference.positions(numbers), draw((rows, size), dtype, layout)
    found = kernels.crop(slices, numbers)
    assert torch.equal(found, slices.reshape(-1)[where])
    expected = torch.zeros(rows * size, dtype=dtype).index_copy(0, where, found).view(rows, size)
    back = kernels.uncrop(place(found, dtype, layout), numbers, rows, size)
    assert torch.equal(back, expected)
    assert found.dtype == back.dtype == dtype
    return found, back


@by_dtype()
@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_the_formula(kernels, name, dtype):
    numbers, rows, size = network(name)
    compare(kernels, numbers, rows, size, dtype)
    compare(kernels, numbers, rows, size, dtype, "odd")


@by_dtype(torch.float64, torch.float16)
def test_drawn_layers(kernels, dtype):
    number = drawing(1)
    for _ in range(60):
        compare(kernels, *draw_table(number), dtype)


def test_no_order_of_threads_changes_a_bit(kernels, library):
    results = []
    for order in range(4):
        library.set_order(order)
        results.append([t for name in ("published", "tiles") for t in compare(kernels, *network(name))])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_places_beyond_two_to_the_32(library):
    """Of layers too large for this machine's memory, found by the device's arithmetic alone."""
    number = drawing(3)
    outputs, inputs, taps, down, wide = 2**20, 2**13, 9, 12, 12
    for rows, columns in ((1, inputs), (1, inputs + 4), (down, wide)):
        entry = [2**31, outputs, inputs, taps, rows, columns]
        (layer,) = cupy_backend.read(entry, 2**31 + entry_span(entry))
        crops, uncrops = cupy_backend.plan_crop([layer])[0], cupy_backend.plan_uncrop([layer], 0)[1]
        for _ in range(50):
            o, i, t = (number(0, most - 1) for most in (outputs, inputs, taps))
            block = o // rows * -(-inputs // columns) + i // columns
            slices = (block * rows * columns + o % rows * columns + i % columns) * taps + t
            kernels = (o * inputs + i) * taps + t
            assert library.place(ctypes.byref(crops), ctypes.c_longlong(kernels), 1) == slices
            assert library.place(ctypes.byref(uncrops), ctypes.c_longlong(slices), 0) == kernels


def test_refuses_what_an_int_cannot_count():
    with pytest.raises(ValueError, match="2\\^30"):
        cupy_backend.read([0, 2**31, 1, 1, 1, 1], 2**31)
    with pytest.raises(ValueError, match="2\\^30"):
        cupy_backend.read([0, 1, 2**31, 2, 1, 2**31], 2**33)


def test_refuses_tables_and_tensors_as_the_library_does():
    with pytest.raises(ValueError, match="layers"):
        cupy_backend.crop(torch.zeros(3, 4), [4, 3, 3, 1, 1, 3])
    with pytest.raises(ValueError, match="kernels"):
        cupy_backend.uncrop(torch.zeros(5), [0, 2, 2, 1, 1, 2], 3, 4)


def test_params_go_to_cupy_by_value():
    pytest.importorskip("numpy")
    params = Params(1, 2, 3)
    argument = device_code.by_value(params)
    assert argument.size == 1 and argument.tobytes() == bytes(params)  # CuPy refuses arrays of more


def fields(part):
    return [getattr(part, name) for name, _ in Part._fields_]


@by_dtype(torch.float64, torch.float32, torch.float16)
def test_python_plans_as_the_library_does(library, dtype):
    """Part by part, over networks and drawn layers, aligned or not."""
    number, offsets = drawing(2), (0, 1)
    assert ctypes.sizeof(Params) == library.params_size()
    tables = [network(name) for name in NETWORKS] + [draw_table(number) for _ in range(100)]
    for numbers, rows, size in tables:
        layers = cupy_backend.read(numbers, rows * size)
        array = (Layer * max(len(layers), 1))(*layers)
        for offset in offsets:
            source, target = torch.empty(8, dtype=dtype)[offset:], torch.empty(8, dtype=dtype)
            copy = Copy(source.data_ptr(), target.data_ptr(), rows * size, dtype.itemsize)
            for crops in (1, 0):
                parts = cupy_backend.plan_crop(layers) if crops else cupy_backend.plan_uncrop(layers, rows * size)
                python = cupy_backend.launches(parts, source, target)
                params, blocks = (Params * 5)(), (ctypes.c_longlong * 5)()
                count = library.plan(array, len(layers), ctypes.byref(copy), crops, params, blocks)
                assert count == len(python)
                for (a, wanted), b, found in zip(python, params, blocks):
                    assert (a.source, a.target, a.parts, wanted) == (b.source, b.target, b.parts, found)
                    assert all(fields(a.part[i]) == fields(b.part[i]) for i in range(a.parts))


@by_dtype()
def test_the_library_launches_as_python_does(kernels, library, dtype):
    for name in ("published", "tiles", "many layers"):
        numbers, rows, size = network(name)
        slices = draw((rows, size), dtype)
        expected = kernels.crop(slices, numbers), kernels.uncrop(kernels.crop(slices, numbers), numbers, rows, size)
        layers = kernels.read(numbers, rows * size)
        assert (len(layers) > PARTS) == (name == "many layers")
        array, made = (Layer * len(layers))(*layers), torch.empty_like(expected[0])
        library.native(array, len(layers), ctypes.byref(_copy(slices, made, slices)), 1)
        back = torch.empty_like(slices)
        library.native(array, len(layers), ctypes.byref(_copy(made, back, slices)), 0)
        assert torch.equal(made, expected[0]) and torch.equal(back, expected[1])


def _copy(source, target, slices):
    return Copy(source.data_ptr(), target.data_ptr(), slices.numel(), slices.element_size())


@pytest.mark.slow
@by_dtype(torch.float32, torch.bfloat16)
def test_the_contract_holds(kernels, monkeypatch, dtype):
    """All samples of tests/contract, forward and backward, through the public functions."""
    monkeypatch.syspath_prepend(REPOSITORY / "tests/contract")
    contract = importlib.import_module("contract")
    samples = [op for op in contract.discover() if op.package is csgconv]
    found = {name: getattr(kernels, name) for name in ops.SCHEMAS}
    contract.assert_kernels_hold(samples, found, dtype, contract.normal)
