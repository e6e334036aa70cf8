"""What the CUDA source of rasterize computes, without a GPU: run on the CPU, thread by thread, by tests/emulator.

Nothing here says how fast the kernels are, and nothing replaces `-m gpu` (see ci/gpu_check.sh).
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

import smpconv
from smpconv import reference
from smpconv._common import device_code
from smpconv.cupy_backend import points

PACKAGE = Path(__file__).resolve().parents[1]
EMULATOR = PACKAGE.parents[1] / "tests/emulator/__init__.py"
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
# Largest error over the largest value.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
MARGIN = 64  # elements around a tensor
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
averages = pytest.mark.parametrize("average", [False, True], ids=["plain", "averaged"])
CASES = {  # G, C, N, size, largest radius
    "one tap": (1, 1, 1, (1, 1), 0.5),
    "small image": (1, 40, 20, (13, 13), 0.3),
    "sequences": (3, 5, 7, (9,), 0.4),
    "oblong": (2, 16, 33, (5, 8), 0.6),
    "image": (1, 70, 40, (31, 31), 0.15),
    "wide radii": (1, 17, 17, (31, 31), 2.0),
    "long sequences": (4, 30, 30, (700,), 0.02),
    "all of a long sequence": (2, 5, 9, (2500,), 2.0),
    "one row": (1, 17, 9, (1, 7), 2.0),
    "one column": (2, 3, 9, (7, 1), 0.7),
    "one place": (2, 3, 5, (1,), 1.0),
    "many points": (1, 3, 300, (9, 5), 0.3),
    "many channels": (1, 300, 5, (5, 5), 0.6),
    "many groups": (40, 2, 3, (6,), 0.6),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The CUDA source as a library for the CPU."""
    if not EMULATOR.exists():
        pytest.skip("tests/emulator is not beside this package")
    spec = importlib.util.spec_from_file_location("emulator", EMULATOR)
    emulator = sys.modules["emulator"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(emulator)
    if emulator.COMPILER is None:
        pytest.skip("g++ is not installed")
    source = Path(__file__).parent / "emulated_rasterize.cpp"
    library = emulator.build(source, PACKAGE / "csrc", tmp_path_factory.mktemp("emulator") / "rasterize.so")
    library.blocks.restype = ctypes.c_longlong
    return library


@pytest.fixture
def kernels(library, monkeypatch):
    """`cupy_backend`, launching on the emulator; what no kernel writes is NaN, and results lie between margins."""
    buffers = []

    def empty(like, shape):
        buffers.append(torch.full([math.prod(shape) + 2 * MARGIN], torch.nan, dtype=like.dtype))
        del buffers[:-3]
        return buffers[-1][MARGIN:-MARGIN].view(shape)

    def launch(part, name, params, blocks, shared_bytes, device):
        if blocks > 0:
            library.launch(name.encode(), ctypes.byref(params), ctypes.c_longlong(blocks), shared_bytes)
        for buffer in buffers:
            for margin in (buffer[:MARGIN], buffer[-MARGIN:]):
                assert margin.isnan().all(), f"{name} wrote outside a tensor"

    monkeypatch.setattr(points, "empty", empty)
    monkeypatch.setattr(points, "launch", launch)
    yield points
    library.set_order(0)


def draw(groups, channels, count, dims, most, dtype=torch.float32):
    """Positions, some outside of the grid; radii; weights."""
    generator = torch.Generator().manual_seed(count)
    coords = torch.randn(groups, count, dims, generator=generator) * 0.6
    radius = torch.rand(groups, count, generator=generator) * most + 0.05 * min(most, 1)
    weight = torch.randn(groups, channels, count, generator=generator)
    return tuple(place(t, dtype) for t in (coords, radius, weight))


def place(values, dtype):
    """`values` with NaN before and after them in memory."""
    buffer = torch.full([values.numel() + 2 * MARGIN], torch.nan, dtype=dtype)
    return buffer[MARGIN:-MARGIN].view(values.shape).copy_(values)


def check(got, expected, dtype):
    for name, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.shape == b.shape
        assert a.dtype == dtype
        assert torch.equal(a.isnan(), b.isnan()), f"result {name} is NaN elsewhere"
        a, b = a.nan_to_num(), b.nan_to_num()
        scale = b.abs().max().clamp(min=1) if b.numel() else 1
        error = ((a.double() - b).abs().max() / scale).item() if b.numel() else 0.0
        assert error <= TOLERANCE[dtype], f"result {name} is off by {error}"


def run(kernels, tensors, size, average, flip):
    """Both ops, each beside its float64 reference."""
    weight = tensors[-1]
    wide = [t.double() for t in tensors]
    kernel = kernels.rasterize(*tensors, size, average, flip)
    generator = torch.Generator().manual_seed(9)
    grad = place(torch.randn(kernel.shape, generator=generator), weight.dtype)
    got = kernels.rasterize_backward(grad, *tensors, average, flip)
    expected = reference.backward(grad.double(), *wide, average, flip)
    return [kernel, *got], [reference.forward(*wide, size, average, flip), *expected]


@dtypes
@averages
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(kernels, case, average, dtype):
    groups, channels, count, size, most = CASES[case]
    tensors = draw(groups, channels, count, len(size), most, dtype)
    for flip in (False, True)[: len(size)]:
        check(*run(kernels, tensors, size, average, flip), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=lambda d: str(d)[6:])
def test_drawn_cases(kernels, dtype):
    """Sizes drawn at random."""
    number = drawing(3)
    for _ in range(24):
        size = tuple(number(1, 40) for _ in range(number(1, 2)))
        tensors = draw(number(1, 4), number(1, 70), number(1, 40), len(size), number(1, 20) / 10, dtype)
        check(*run(kernels, tensors, size, bool(number(0, 1)), len(size) == 2 and bool(number(0, 1))), dtype)


@averages
@pytest.mark.parametrize("wanted", [1, 1 << 20], ids=["deep", "flat"])
def test_blocks_with_several_shares_of_the_work(kernels, monkeypatch, wanted, average):
    """As with large layers, and with small ones: more taps or fewer for a thread."""
    monkeypatch.setattr(points, "BLOCKS_WANTED", wanted)
    for dtype in (torch.float64, torch.float32):
        for case in ("image", "sequences", "many channels", "wide radii"):
            groups, channels, count, size, most = CASES[case]
            tensors = draw(groups, channels, count, len(size), most, dtype)
            check(*run(kernels, tensors, size, average, len(size) == 2), dtype)


@averages
def test_points_on_taps_and_edges(kernels, average):
    """Distances that are 0 or exactly the radius, in both dimensions."""
    taps = torch.linspace(-1, 1, 9)
    coords = torch.cartesian_prod(taps[1:-1], taps[::3])[None]
    radius = torch.tensor([0.25, 0.5, 0.75]).repeat(7)[None]
    for size, flip in (((9, 9), True), ((9, 5), False)):
        check(*run(kernels, (coords, radius, torch.randn(1, 5, 21)), size, average, flip), torch.float32)


@averages
def test_dead_points_and_no_points(kernels, average):
    coords, radius, weight = draw(2, 20, 6, 2, 0.3)
    radius[:, 0], radius[:, 1], coords[:, 2] = -0.5, 0.0, 5.0
    got, expected = run(kernels, (coords, radius, weight), (7, 7), average, False)
    check(got, expected, torch.float32)
    assert not got[1][:, :3].any() and not got[2][:, :3].any() and not got[3][:, :, :3].any()
    for part in (
        (coords[:, :0], radius[:, :0], weight[:, :, :0]),
        (coords, radius, weight[:, :0]),
        (coords[:0], radius[:0], weight[:0]),
    ):
        check(*run(kernels, part, (7, 7), average, False), torch.float32)


@averages
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_spoils_its_group_alone(kernels, bad, average):
    for part in (0, 1):
        tensors = draw(3, 9, 40, 2, 0.3)
        tensors[part][1, 35] = bad
        got, expected = run(kernels, tensors, (7, 7), average, True)
        check(got, expected, torch.float32)
        assert all(t[1].isnan().all() and t[::2].isfinite().all() for t in got)


def test_what_is_not_finite_is_found_behind_many_points(kernels):
    tensors = draw(1, 2, 300, 1, 0.3)
    tensors[1][0, 280] = math.nan
    got, _ = run(kernels, tensors, (4,), False, False)
    assert all(t.isnan().all() for t in got)


def test_slices_and_shared_points(kernels):
    coords, radius, weight = draw(2, 20, 12, 2, 0.3)
    halves = coords[:, ::2], radius[:, ::2], weight[:, 1::2, ::2]
    check(*run(kernels, halves, (7, 7), True, True), torch.float32)
    shared = coords[:1].expand(2, -1, -1), radius[:1].expand(2, -1), weight
    check(*run(kernels, shared, (7, 7), True, True), torch.float32)


def test_points_far_away_are_no_danger(kernels):
    coords, radius, weight = draw(1, 3, 6, 2, 0.3)
    coords[0, 0], coords[0, 1], radius[0, 2] = 3e38, -3e38, 3e38
    check(*run(kernels, (coords, radius, weight), (7, 7), False, False), torch.float32)


@averages
def test_no_order_of_threads_changes_a_bit(kernels, library, average):
    """A race would: between barriers the emulator runs threads, and blocks, in whatever order it is told."""

    def all_results():
        results = []
        for case in ("oblong", "many channels", "all of a long sequence"):
            groups, channels, count, size, most = CASES[case]
            tensors = draw(groups, channels, count, len(size), most)
            results += run(kernels, tensors, size, average, len(size) == 2)[0]
        return results

    first = all_results()
    for order in (1, 2, 3):
        library.set_order(order)
        assert all(torch.equal(a, b) for a, b in zip(first, all_results()))


def test_refuses_what_an_int_cannot_count():
    for shape in ((2**31, 1, 1), (1, 2**31, 1), (1, 1, 2**31)):
        with pytest.raises(ValueError, match="32 bits"):
            points.params(torch.zeros(1, 1, 1).expand(shape), (3,), False, False)
    with pytest.raises(ValueError, match="32 bits"):
        points.params(torch.zeros(1, 1, 1), (2**16, 2**15), False, False)


def test_params_go_to_cupy_by_value():
    pytest.importorskip("numpy")
    a = points.Params(groups=3, depth=7)
    argument = device_code.by_value(a)
    assert argument.size == 1 and argument.tobytes() == bytes(a)  # CuPy refuses arrays of more


def test_python_plans_as_the_library_does(library):
    """Byte for byte, over sizes."""
    number = drawing(0)
    assert ctypes.sizeof(points.Params) == library.params_size()
    for dtype in DTYPES:
        assert points.stage_bytes(dtype) == library.stage_bytes(dtype == torch.float64)
        assert points.list_bytes(dtype) == library.list_bytes(dtype == torch.float64)
    for _ in range(2000):
        python, native = points.Params(), points.Params()
        sizes = [number(1, 60), number(1, 600 if number(0, 1) else 20), number(1, 100), number(1, 100)]
        for a in (python, native):
            a.groups, a.channels, a.height, a.width = sizes
        points.plan_spread(python)
        library.plan(ctypes.byref(native))
        assert bytes(python) == bytes(native)
        assert points.spread_blocks(python) == library.blocks(ctypes.byref(native))


@dtypes
def test_the_library_launches_as_python_does(kernels, library, monkeypatch, dtype):
    def all_results():
        results = []
        for case in ("small image", "long sequences", "many groups", "many channels"):
            groups, channels, count, size, most = CASES[case]
            tensors = draw(groups, channels, count, len(size), most, dtype)
            results += run(kernels, tensors, size, True, len(size) == 2)[0]
        large = draw(30, 20, 3, 1, 0.2, dtype)  # deep
        return [*results, *run(kernels, large, (4400,), False, False)[0]]

    expected, launched = all_results(), set()

    def launch(part, name, params, *_):
        kernel = name.split("<")[0]
        launched.add((kernel, params.depth))
        library.native(kernel.encode(), ctypes.byref(params), CODES[dtype])

    monkeypatch.setattr(points, "launch", launch)
    assert all(torch.equal(a, b) for a, b in zip(all_results(), expected))
    assert launched == {("spread", 1), ("spread", 4), ("gather", 0)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "numbers"), [(torch.float32, "integers"), (torch.bfloat16, "normal")], ids=["integers", "normal"]
)
def test_the_contract_holds(kernels, monkeypatch, dtype, numbers):
    """The samples of tests/contract, forward and backward, through the public function."""
    monkeypatch.syspath_prepend(EMULATOR.parents[1] / "contract")
    contract = importlib.import_module("contract")
    samples = [op for op in contract.discover() if op.function is smpconv.rasterize]
    found = {name: getattr(kernels, name) for name in ("rasterize", "rasterize_backward")}
    contract.assert_kernels_hold(samples, found, dtype, getattr(contract, numbers))


def drawing(seed):
    """number(low, high): an integer drawn from low to high."""
    draws = torch.Generator().manual_seed(seed)
    return lambda low, high: int(torch.randint(low, high + 1, (), generator=draws))
