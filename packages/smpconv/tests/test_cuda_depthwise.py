"""What the CUDA source of depthwise_conv2d computes, without a GPU: run on the CPU by tests/emulator.

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
from smpconv import ops, reference
from smpconv._common import device_code
from smpconv.cupy_backend import depthwise, launch

PACKAGE = Path(__file__).resolve().parents[1]
EMULATOR = PACKAGE.parents[1] / "tests/emulator/__init__.py"
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
# Largest error over the largest value, sums of some thousand terms included.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 4e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
MARGIN = 64  # elements around a tensor
LAYOUTS = ["first", "last", "slice", "slice_last", "reversed"]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
layouts = pytest.mark.parametrize("layout", ["first", "last"])
CASES = {  # N, C, H, W, kernel
    "stage 1": ((1, 2, 56, 56), (31, 31)),
    "stage 2": ((3, 1, 28, 28), (29, 29)),
    "stage 3": ((5, 2, 14, 14), (27, 27)),
    "stage 4": ((6, 5, 7, 7), (13, 13)),
    "small kernel": ((3, 3, 14, 14), (7, 7)),
    "small kernel, small image": ((5, 9, 8, 8), (3, 3)),
    "small kernel, large image": ((1, 1, 30, 130), (5, 7)),
    "sixteen": ((3, 2, 16, 16), (31, 31)),
    "twenty": ((2, 2, 20, 20), (41, 41)),
    "beyond": ((2, 1, 6, 5), (63, 63)),
    "one tap": ((2, 3, 9, 11), (1, 1)),
    "one pixel": ((9, 3, 1, 1), (3, 5)),
    "one row": ((3, 2, 1, 40), (1, 9)),
    "one column": ((3, 2, 90, 1), (9, 1)),
    "high": ((1, 1, 300, 3), (63, 3)),
    "wide": ((1, 1, 3, 500), (5, 63)),
    "oblong": ((2, 3, 13, 30), (9, 21)),
    "many images": ((70, 1, 5, 6), (5, 5)),
    "many channels": ((2, 70, 4, 5), (3, 7)),
}
SMALL = [case for case, (shape, kernel) in CASES.items() if math.prod(shape) * math.prod(kernel) < 500_000]


def instances(dtype: torch.dtype) -> list[str]:
    """Every kernel that can be launched for tensors of one dtype."""
    crossed = {True: "true", False: "false"}
    return [
        *(launch.instance("convolve", dtype, i.sums, i.copies, crossed[i.crossed]) for i in depthwise.CONVOLVE),
        *(launch.instance("grad_weight", dtype, i.sums, crossed[i.crossed]) for i in depthwise.GRAD_WEIGHT),
        launch.instance("finish", dtype),
    ]


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
    source = Path(__file__).parent / "emulated_depthwise.cpp"
    return emulator.build(source, PACKAGE / "csrc", tmp_path_factory.mktemp("emulator") / "depthwise.so")


@pytest.fixture
def kernels(library, monkeypatch):
    """`cupy_backend`, launching on the emulator; what no kernel writes is NaN, and results lie between margins."""
    buffers = []

    def between_margins(shape, dtype):
        buffers.append(torch.full([math.prod(shape) + 2 * MARGIN], torch.nan, dtype=dtype))
        del buffers[:-3]
        return buffers[-1][MARGIN:-MARGIN].view(shape)

    def empty(like, shape):
        return between_margins(shape, like.dtype)

    def empty_images(like):
        n, c, h, w = like.shape
        return empty(like, (n, h, w, c)).movedim(-1, 1) if reference.channels_last(like) else empty(like, like.shape)

    def numbers(like, count):
        return between_margins([count], torch.float64 if like.dtype == torch.float64 else torch.float32)

    def run_kernel(part, name, params, blocks, shared_bytes, device):
        assert shared_bytes <= depthwise.MAX_SHARED
        library.launch(name.encode(), ctypes.byref(params), ctypes.c_longlong(blocks), shared_bytes)
        for buffer in buffers:
            for margin in (buffer[:MARGIN], buffer[-MARGIN:]):
                assert margin.isnan().all(), f"{name} wrote outside a tensor"

    for function in (empty, empty_images, numbers):
        monkeypatch.setattr(depthwise, function.__name__, function)
    monkeypatch.setattr(depthwise, "launch", run_kernel)
    yield depthwise
    library.set_order(0)


def draw(shape, dtype, layout="first", seed=0):
    """Random numbers with NaN all around and between them, wherever no element lies."""
    n, c, h, w = shape
    inner = slice(1, -2)
    around, cut = {
        "first": ((n, c, h, w), lambda t: t),
        "last": ((n, h, w, c), lambda t: t.movedim(-1, 1)),
        "slice": ((n + 1, c + 2, h + 3, w + 3), lambda t: t[1:, 1:-1, inner, inner]),
        "slice_last": ((n + 1, h + 3, w + 3, c + 3), lambda t: t[1:, inner, inner, 2:-1].movedim(-1, 1)),
        "reversed": ((w, h, c, n), lambda t: t.permute(3, 2, 1, 0)),
    }[layout]
    buffer = torch.full([math.prod(around) + 2 * MARGIN], torch.nan, dtype=dtype)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return cut(buffer[MARGIN:-MARGIN].view(around)).copy_(values)


def check(got, expected, dtype):
    for name, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.shape == b.shape and a.dtype == dtype
        error = ((a.double() - b).abs().max() / b.abs().max().clamp(min=1)).item() if b.numel() else 0.0
        assert error <= TOLERANCE[dtype], f"result {name} is off by {error}"  # also when it is NaN


def run(kernels, shape, kernel, dtype, layout="first", bias=True):
    """All three ops, each beside its float64 reference."""
    x, grad = draw(shape, dtype, layout), draw(shape, dtype, layout, seed=1)
    weight = draw((1, shape[1], *kernel), dtype, seed=2)[0]
    start = draw((1, 1, 1, shape[1]), dtype, seed=3)[0, 0, 0] if bias else None
    y, grad_x = kernels.depthwise_conv2d(x, weight, start), kernels.depthwise_conv2d_grad_input(grad, weight)
    grads = kernels.depthwise_conv2d_grad_weight(grad, x, kernel)
    assert reference.channels_last(y) == reference.channels_last(x)
    X, G, W, B = (None if t is None else t.double() for t in (x, grad, weight, start))
    expected = [reference.conv(X, W, B), reference.conv_grad_input(G, W), *reference.conv_grad_weight(G, X, kernel)]
    return [y, grad_x, *grads], expected


@layouts
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(kernels, case, layout):
    check(*run(kernels, *CASES[case], torch.float64, layout), torch.float64)


@dtypes
@layouts
@pytest.mark.parametrize("case", SMALL)
def test_agrees_in_every_dtype(kernels, case, layout, dtype):
    check(*run(kernels, *CASES[case], dtype, layout, bias=layout == "first"), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("layout", LAYOUTS[2:])
def test_takes_any_strides(kernels, layout, dtype):
    check(*run(kernels, (3, 5, 11, 9), (5, 7), dtype, layout), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=lambda d: str(d)[6:])
def test_drawn_cases(kernels, dtype):
    """Sizes drawn at random."""
    number = drawing(5)
    for _ in range(60):
        shape, kernel = drawn_sizes(number)
        while math.prod(shape) * math.prod(kernel) > 300_000:
            shape, kernel = drawn_sizes(number)
        check(*run(kernels, shape, kernel, dtype, LAYOUTS[number(0, 1)]), dtype)


@layouts
@pytest.mark.parametrize("shared", [6, 9, 16], ids=lambda kib: f"{kib} KiB")
def test_images_and_kernels_in_parts(kernels, monkeypatch, shared, layout):
    """With little shared memory, as for images and kernels that are too large for it: fewer rows of both at once."""
    monkeypatch.setattr(depthwise, "MAX_SHARED", shared * 1024)
    for shape, kernel in (((2, 3, 30, 17), (15, 13)), ((3, 2, 14, 14), (27, 27)), ((1, 2, 20, 60), (9, 9))):
        check(*run(kernels, shape, kernel, torch.float32, layout), torch.float32)


@layouts
def test_blocks_with_several_shares_of_the_work(kernels, monkeypatch, layout):
    """As with large layers: several channels in a block, several blocks for the sums of a tap."""
    monkeypatch.setattr(depthwise, "MAX_SHARED", 24 * 1024)
    for wanted in (1, 7, 1 << 20):
        for name in ("BLOCKS_WANTED", "FEW_BLOCKS"):
            monkeypatch.setattr(depthwise, name, wanted)
        monkeypatch.setattr(depthwise, "SUM_BLOCKS_WANTED", wanted)
        check(*run(kernels, (21, 6, 14, 14), (5, 5), torch.float64, layout), torch.float64)
        check(*run(kernels, (3, 5, 31, 9), (7, 17), torch.float64, layout), torch.float64)


@pytest.mark.parametrize("case", ["stage 2", "stage 3", "stage 4", "small kernel", "oblong"])
def test_an_infinite_pixel_reaches_as_far_as_the_kernel(kernels, case):
    """Padding and other images are not multiplied by it: NaN would stand there."""
    shape, (rows, columns) = CASES[case]
    x, row, column = draw(shape, torch.float32), shape[2] // 2, shape[3] - 1
    x[1, 0, row, column] = math.inf
    y = kernels.depthwise_conv2d(x, draw((1, shape[1], rows, columns), torch.float32)[0], None)
    reached = torch.zeros(shape, dtype=torch.bool)
    low, left = max(row - rows // 2, 0), max(column - columns // 2, 0)
    reached[1, 0, low : row + rows // 2 + 1, left : column + columns // 2 + 1] = True
    assert torch.equal(y.isinf(), reached) and not y.isnan().any()


def test_no_order_of_threads_changes_a_bit(kernels, library):
    """A race would: between barriers the emulator runs threads, and blocks, in whatever order it is told."""

    def all_results():
        results = []
        for case in ("small kernel", "stage 4", "oblong", "many images"):
            for layout in LAYOUTS[:2]:
                results += run(kernels, *CASES[case], torch.float32, layout)[0]
        return results

    first = all_results()
    for order in (1, 2, 3):
        library.set_order(order)
        assert all(torch.equal(a, b) for a, b in zip(first, all_results()))


def test_no_images_and_no_channels(kernels):
    for shape in ((0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8)):
        got, expected = run(kernels, shape, (3, 3), torch.float32)
        check(got, expected, torch.float32)


def test_refuses_what_it_cannot_count_or_hold():
    for shape in ((2**31, 1, 1, 1), (1, 2**31, 1, 1), (1, 1, 2**31, 1), (1, 1, 1, 2**31)):
        with pytest.raises(ValueError, match="32 bits"):
            depthwise.params(torch.zeros(1, 1, 1, 1).expand(shape), 3, 3)
    with pytest.raises(ValueError, match="at most 1023"):
        depthwise.params(torch.zeros(1, 1, 1, 1), 1025, 3)


def test_the_largest_images_and_kernels_fit(library):
    for dtype in (torch.float64, torch.float32):
        for last in (False, True):
            for shape in ((1, 1, 2000, 2000), (1, 1, 1 << 30, 5), (1, 1, 5, 1 << 30), (64, 96, 56, 56), (64, 9, 7, 7)):
                for name in ("convolve", "grad_weight"):
                    p = depthwise.params(torch.zeros(1, dtype=dtype).expand(shape), 1023, 1023)
                    native = depthwise.params(torch.zeros(1, dtype=dtype).expand(shape), 1023, 1023)
                    getattr(depthwise, f"plan_{name}")(p, dtype.itemsize, last)
                    library.plan(name.encode(), ctypes.byref(native), CODES[dtype], last)
                    assert 0 < p.shared_bytes <= depthwise.MAX_SHARED and bytes(p) == bytes(native)


def test_params_go_to_cupy_by_value():
    pytest.importorskip("numpy")
    a = depthwise.Params(batch=3, splits=7)
    argument = device_code.by_value(a)
    assert argument.size == 1 and argument.tobytes() == bytes(a)  # CuPy refuses arrays of more


@dtypes
def test_python_plans_as_the_library_does(library, dtype):
    """Byte for byte, over sizes; and every instance is somewhere the best one."""
    number, chosen = drawing(0), set()
    assert ctypes.sizeof(depthwise.Params) == library.params_size()
    for _ in range(1500):
        shape, kernel = drawn_sizes(number)
        if number(0, 1):
            shape = (number(1, 300), number(1, 800), *shape[2:])
        images = torch.zeros(1, dtype=dtype).expand(shape)
        last = number(0, 1)
        for name in ("convolve", "grad_weight"):
            python, native = depthwise.params(images, *kernel), depthwise.params(images, *kernel)
            getattr(depthwise, f"plan_{name}")(python, dtype.itemsize, last)
            library.plan(name.encode(), ctypes.byref(native), CODES[dtype], last)
            assert bytes(python) == bytes(native)
            chosen.add((name, python.sums, bool(python.crossed)))
    assert chosen == {
        *(("convolve", i.sums, i.crossed) for i in depthwise.CONVOLVE),
        *(("grad_weight", i.sums, i.crossed) for i in depthwise.GRAD_WEIGHT),
    }


@dtypes
def test_the_library_launches_as_python_does(kernels, monkeypatch, library, dtype):
    cases = [*SMALL, "sixteen", "twenty"]

    def all_results():
        return [t for case in cases for t in run(kernels, *CASES[case], dtype, LAYOUTS[len(case) % 2])[0]]

    expected, launched = all_results(), set()

    def run_native(part, name, params, *_):
        kernel = name.split("<")[0]
        launched.add(name)
        if kernel != "finish":  # which comes with the sums
            library.native(kernel.encode(), ctypes.byref(params), CODES[dtype], params.last)

    monkeypatch.setattr(depthwise, "launch", run_native)
    assert all(torch.equal(a, b) for a, b in zip(all_results(), expected))
    assert launched <= set(instances(dtype)) and len(launched) > 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "numbers"), [(torch.float32, "integers"), (torch.bfloat16, "normal")], ids=["integers", "normal"]
)
def test_the_contract_holds(kernels, monkeypatch, dtype, numbers):
    """The samples of tests/contract, forward and backward, through the public function."""
    monkeypatch.syspath_prepend(EMULATOR.parents[1] / "contract")
    contract = importlib.import_module("contract")
    samples = [op for op in contract.discover() if op.function is smpconv.depthwise_conv2d]
    found = {name: getattr(kernels, name) for name in ops.KERNELS if name.startswith("depthwise_conv2d")}
    contract.assert_kernels_hold(samples, found, dtype, getattr(contract, numbers))


def drawing(seed):
    """A function that draws integers between two, both included."""
    generator = torch.Generator().manual_seed(seed)
    return lambda low, high: int(torch.randint(low, high + 1, (), generator=generator))


def drawn_sizes(number):
    """Images (N, C, H, W) and a kernel."""
    side = (8, 17, 33, 130)[number(0, 3)]
    shape = number(1, 9), number(1, 9), number(1, side), number(1, side)
    return shape, (2 * number(0, 31) + 1, 2 * number(0, 31) + 1)
