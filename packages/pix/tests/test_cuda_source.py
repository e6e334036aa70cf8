"""What the CUDA source computes, without a GPU: run on the CPU, thread by thread, by tests/emulator.

Nothing here says how fast the kernels are, and nothing replaces `-m gpu` (see ci/gpu_check.sh).
"""

from __future__ import annotations

import ctypes
import importlib
import math
from pathlib import Path

import pytest
import torch

import pix
from leanconv.testing.emulator import (
    CODES,
    LAYOUTS,
    REPOSITORY,
    TOLERANCE,
    Outputs,
    build,
    by_dtype,
    draw,
    drawing,
    error,
    place,
)
from pix import cupy_backend, ops, reference
from pix._common import device_code
from pix.cupy_backend import gates, maps

PACKAGE = Path(__file__).resolve().parents[1]
SOURCES = {"maps": "emulated_pick_or_mix.cpp", "gates": "emulated_pix.cpp"}
layouts = pytest.mark.parametrize("layout", ["first", "last"])


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """The CUDA source as libraries for the CPU."""
    sources = {part: Path(__file__).parent / source for part, source in SOURCES.items()}
    return build(sources, PACKAGE / "csrc", tmp_path_factory.mktemp("emulator"))


@pytest.fixture
def kernels(libraries, monkeypatch):
    """`cupy_backend`, launching on the emulator; what no kernel writes is NaN, and results lie between margins."""
    outputs = Outputs()

    def empty(like, channels, last, dtype=None):
        n, _, h, w = like.shape
        return outputs.empty_images((n, channels, h, w), dtype or like.dtype, last)

    def numbers(like, *shape):
        return outputs.empty(shape, torch.float64 if like.dtype == torch.float64 else torch.float32)

    def launch(part, name, params, blocks, shared_bytes, device):
        if blocks > 0:
            libraries[part].launch(name.encode(), ctypes.byref(params), ctypes.c_longlong(blocks), shared_bytes)
        outputs.check(name)

    for module in (maps, gates):
        monkeypatch.setattr(module, "empty", empty)
        monkeypatch.setattr(module, "numbers", numbers)
        monkeypatch.setattr(module, "launch", launch)
    torch.use_deterministic_algorithms(True)  # fills what `new_empty` makes with NaN
    yield cupy_backend
    torch.use_deterministic_algorithms(False)
    for library in libraries.values():
        library.set_order(0)


def draw_gates(batch, outputs, dtype, seed=0):
    """Gates on both sides of 1/2, in accumulation precision."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.rand(batch, outputs, generator=torch.Generator().manual_seed(seed + 100), dtype=wide)


def check(got, expected, dtype):
    assert len(got) == len(expected)
    for name, (a, b) in enumerate(zip(got, expected)):
        assert a.shape == b.shape
        assert error(a, b) <= TOLERANCE[dtype], f"result {name} is off by {error(a, b)}"  # also when it is NaN


def lies_as(t, like):
    """Whether `t` is dense and has the layout of results computed from `like`."""
    return (t.movedim(1, -1) if reference.channels_last(like) else t).is_contiguous()


def run_pick_or_mix(kernels, shape, zeta, dtype, layout="first", tau=0.5, count_short=False):
    """Both ops, each beside its float64 reference."""
    n, c, h, w = shape
    outputs = -(-c // zeta)
    x, p, options = draw(shape, dtype, layout), draw_gates(n, outputs, dtype), (zeta, tau, count_short)
    y, choice = kernels.pick_or_mix(x, p, *options, True)
    alone, nothing = kernels.pick_or_mix(x, p, *options, False)
    assert torch.equal(alone, y) and nothing.shape == (0,) and nothing.dtype == torch.uint8
    Y, expected_choice = reference.forward(x.double(), p.double(), *options, True)
    assert choice.dtype == expected_choice.dtype and torch.equal(choice, expected_choice) and lies_as(choice, x)
    grad = draw((n, outputs, h, w), dtype, layout, seed=1)
    given = [place(t, t.dtype, layout) for t in (y, choice)]
    grad_x, grad_p = kernels.pick_or_mix_backward(grad, given[0], p, given[1], c, *options)
    expected = reference.backward(grad.double(), y.double(), p.double(), choice, c, *options)
    assert y.dtype == grad_x.dtype == dtype and grad_p.dtype == p.dtype
    assert lies_as(y, x) and lies_as(grad_x, grad)
    return [y, grad_x, grad_p], [Y, *expected], [choice]


def run_pix(kernels, shape, zeta, dtype, layout="first", *, bias=True, l1=False, through_p=True, count_short=False):
    """Both ops, each beside its float64 reference, which takes the gates as they were found: decisions jump."""
    n, c, h, w = shape
    outputs = -(-c // zeta)
    x, weight = draw(shape, dtype, layout), draw((1, 1, outputs, c), dtype, seed=3)[0, 0]
    start = draw((1, 1, 1, outputs), dtype, seed=4)[0, 0, 0] if bias else None
    options = zeta, 0.5, count_short
    y, z, p, choice = kernels.pix(x, weight, start, zeta, 0.5, l1, count_short, True)
    alone = kernels.pix(x, weight, start, zeta, 0.5, l1, count_short, False)
    assert all(torch.equal(a, b) for a, b in zip(alone[:3], (y, z, p))) and alone[3].shape == (0,)
    X, W, B = x.double(), weight.double(), None if start is None else start.double()
    _, Z, P, _ = reference.pix_forward(X, W, B, zeta, 0.5, l1, count_short, True)
    Y, expected_choice = reference.forward(X, p.double(), *options, True)
    assert torch.equal(choice, expected_choice) and y.dtype == dtype and lies_as(y, x) and lies_as(choice, x)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert z.dtype == p.dtype == wide
    grad, grad_p = draw((n, outputs, h, w), dtype, layout, seed=1), draw((1, 1, n, outputs), wide, seed=2)[0, 0]
    grad_p = grad_p if through_p else None
    given_y, given_choice = place(y, dtype, layout), place(choice, choice.dtype, layout)
    grads = kernels.pix_backward(grad, grad_p, given_y, z, p, given_choice, weight, x if l1 else None, *options)
    GP = None if grad_p is None else grad_p.double()
    expected = reference.pix_backward(
        grad.double(), GP, y.double(), z.double(), p.double(), choice, W, X if l1 else None, *options
    )
    assert all(t.dtype == dtype for t in grads) and lies_as(grads[0], grad)
    # z and p are sums of many terms, rounded to float32 also for half precision.
    check([z, p], [Z, P], wide)
    return [y, *grads], [Y, *expected], [z, p, choice]


SHAPES = {  # shape, zeta
    "block": ((2, 64, 14, 14), 4),
    "pairs": ((2, 32, 12, 12), 2),
    "odd": ((3, 24, 7, 7), 4),
    "odd pairs": ((2, 12, 9, 9), 2),
    "odd and large": ((1, 8, 51, 51), 3),
    "eights": ((2, 64, 7, 7), 8),
    "gate": ((3, 16, 10, 10), 1),
    "large": ((1, 8, 70, 70), 4),
    "small maps": ((3, 32, 4, 4), 4),
    "one pixel": ((5, 24, 1, 1), 4),
    "threes": ((2, 12, 9, 5), 3),
    "short": ((2, 19, 6, 7), 4),
    "one channel": ((3, 1, 6, 6), 2),
    "one subset": ((2, 5, 8, 8), 9),
    "many channels": ((1, 600, 3, 3), 4),
    "far": ((1, 700, 3, 2), 300),
    "many images": ((40, 8, 5, 5), 4),
}


@by_dtype()
@layouts
@pytest.mark.parametrize("case", SHAPES)
def test_pick_or_mix_agrees_with_the_reference(kernels, case, layout, dtype):
    for count_short in (False, True):
        got, expected, _ = run_pick_or_mix(kernels, *SHAPES[case], dtype, layout, count_short=count_short)
        check(got, expected, dtype)


@by_dtype()
@layouts
@pytest.mark.parametrize("case", SHAPES)
def test_pix_agrees_with_the_reference(kernels, case, layout, dtype):
    check(*run_pix(kernels, *SHAPES[case], dtype, layout)[:2], dtype)
    check(*run_pix(kernels, *SHAPES[case], dtype, layout, bias=False, l1=True, through_p=False)[:2], dtype)


@by_dtype(torch.float32, torch.bfloat16)
@pytest.mark.parametrize("layout", ["slice", "slice_last", "reversed", "odd", "odd_last"])
def test_any_strides_and_any_alignment(kernels, layout, dtype):
    for shape, zeta in (((3, 16, 6, 10), 4), ((2, 12, 4, 8), 2), ((2, 8, 5, 7), 1), ((2, 10, 4, 4), 3)):
        check(*run_pick_or_mix(kernels, shape, zeta, dtype, layout)[:2], dtype)
        check(*run_pix(kernels, shape, zeta, dtype, layout, l1=True)[:2], dtype)


@by_dtype(torch.float64, torch.float16)
def test_drawn_cases(kernels, dtype):
    """Sizes drawn at random."""
    number = drawing(3)
    for _ in range(40):
        shape, zeta = (number(1, 6), number(1, 40), number(1, 12), number(1, 12)), number(1, 12)
        layout, count_short = LAYOUTS[number(0, 4)], bool(number(0, 1))
        check(*run_pick_or_mix(kernels, shape, zeta, dtype, layout, count_short=count_short)[:2], dtype)
        options = {name: bool(number(0, 1)) for name in ("bias", "l1", "through_p")}
        check(*run_pix(kernels, shape, zeta, dtype, layout, count_short=count_short, **options)[:2], dtype)


@layouts
@pytest.mark.parametrize("zeta", [2, 3, 4])
def test_a_sample_has_the_same_gates_in_any_batch(kernels, monkeypatch, zeta, layout):
    """To the bit, whichever plan the size of the batch leads to: else a decision could depend on other images."""
    x, weight = draw((9, 36, 50, 48), torch.float32, layout), draw((1, 1, 36 // zeta, 36), torch.float32, seed=3)[0, 0]
    whole = kernels.pix(x, weight, None, zeta, 0.5, False, False, True)
    for wanted in (1, 4, 1024):  # tiles of four, two and one
        monkeypatch.setattr(gates, "WARPS_WANTED", wanted)
        monkeypatch.setattr(maps, "BLOCKS_WANTED", wanted)
        for i in (0, 8):
            alone = kernels.pix(x[i : i + 1], weight, None, zeta, 0.5, False, False, True)
            assert all(torch.equal(a, b[i : i + 1]) for a, b in zip(alone, whole))
        again = kernels.pix(x, weight, None, zeta, 0.5, False, False, True)
        assert all(torch.equal(a, b) for a, b in zip(again, whole))


@layouts
@pytest.mark.parametrize("zeta", [4, 5])
def test_ties_infinities_and_what_is_no_number(kernels, zeta, layout):
    """As in the authors' kernels: the first of equals, and never NaN."""
    x = torch.randint(-1, 2, (2, 4 * zeta, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    x[0, :zeta] = -torch.inf
    x[0, zeta : 2 * zeta] = torch.nan
    x[1, 0], x[1, zeta + 1, 1] = torch.nan, torch.inf
    p = torch.tensor([[0.2, 0.3, 0.5, torch.nan], [0.1, 0.4, 0.0, 0.7]])
    x = place(x, torch.float32, layout)
    y, choice = kernels.pick_or_mix(x, p, zeta, 0.5, False, True)
    expected = reference.forward(x, p, zeta, 0.5, False, True)
    torch.testing.assert_close(y, expected[0], equal_nan=True)
    assert torch.equal(choice, expected[1])
    grad = torch.ones_like(y)
    got = kernels.pick_or_mix_backward(grad, y, p, choice, 4 * zeta, zeta, 0.5, False)
    wanted = reference.backward(grad, y, p, choice, 4 * zeta, zeta, 0.5, False)
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a, b, equal_nan=True)
    assert got[1][1, 2] == 0  # nothing is known of the gradient there


@pytest.mark.parametrize("tau", [0.1, 0.7, 0.0, 1.5])
def test_the_threshold_is_that_of_float32(kernels, tau):
    p = torch.tensor([[tau, reference.float32(tau), math.nextafter(tau, 2), math.nextafter(tau, -2)]]).double()
    x = draw((1, 8, 2, 2), torch.float64)
    for dtype in (torch.float64, torch.float32):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        y, choice = kernels.pick_or_mix(x.to(dtype), p.to(wide), 2, tau, False, True)
        Y, expected = reference.forward(x.to(dtype), p.to(wide), 2, tau, False, True)
        assert torch.equal(choice, expected)
        check([y], [Y.double()], dtype)


@by_dtype(torch.float32, torch.float16)
@layouts
def test_no_order_of_threads_changes_a_bit(kernels, libraries, layout, dtype):
    """A race would: between barriers the emulator runs threads, and blocks, in whatever order it is told."""

    def all_ops():
        results = []
        for case in ("pairs", "threes", "many channels", "large"):
            for run in (run_pick_or_mix, run_pix):
                got, _, more = run(kernels, *SHAPES[case], dtype, layout)
                results += got + more
        return results

    first = all_ops()
    for order in (1, 2, 3):
        for library in libraries.values():
            library.set_order(order)
        assert all(torch.equal(a, b) for a, b in zip(first, all_ops()))


@layouts
def test_blocks_with_several_shares_of_the_work(kernels, monkeypatch, layout):
    """As with large batches: one piece for an image, many channels for a warp, many pixels for a thread."""
    for wanted in (1, 20):
        monkeypatch.setattr(maps, "BLOCKS_WANTED", wanted)
        monkeypatch.setattr(gates, "WARPS_WANTED", wanted)
        for dtype in (torch.float64, torch.float16):
            for shape, zeta in (((7, 16, 20, 20), 4), ((5, 40, 17, 3), 8), ((9, 30, 6, 6), 2)):
                check(*run_pick_or_mix(kernels, shape, zeta, dtype, layout)[:2], dtype)
                check(*run_pix(kernels, shape, zeta, dtype, layout)[:2], dtype)


@layouts
@pytest.mark.parametrize("shape", [(0, 8, 4, 4), (2, 0, 4, 4), (2, 8, 0, 4), (2, 8, 4, 0)], ids=str)
def test_empty_images(kernels, shape, layout):
    n, c, h, w = shape
    x, p = draw(shape, torch.float32, layout), draw_gates(n, c // 4, torch.float32)
    y, choice = kernels.pick_or_mix(x, p, 4, 0.5, False, True)
    assert y.shape == choice.shape == (n, c // 4, h, w)
    grad_x, grad_p = kernels.pick_or_mix_backward(y, y, p, choice, c, 4, 0.5, False)
    assert grad_x.shape == shape and grad_p.shape == p.shape and not grad_p.any()
    weight = draw((1, 1, c // 4, c), torch.float32)[0, 0]
    if c == 0:
        assert [t.shape for t in kernels.pix(x, weight, None, 4, 0.5, False, False, True)][1:3] == [(n, 0), (n, 0)]
        return
    got = kernels.pix(x, weight, None, 4, 0.5, False, False, True)
    expected = reference.pix_forward(x, weight, None, 4, 0.5, False, False, True)
    assert all(torch.equal(a.isnan(), b.isnan()) and a.shape == b.shape for a, b in zip(got, expected))
    y, z, p, choice = got
    got = kernels.pix_backward(y, None, y, z, p, choice, weight, None, 4, 0.5, False)
    expected = reference.pix_backward(y, None, y, z, p, choice, weight, None, 4, 0.5, False)
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_refuses_what_an_int_cannot_count():
    x = torch.zeros(1, dtype=torch.float16).expand(2**31, 1, 1, 1)
    for shape in ((2**31, 1, 1, 1), (2**16, 2**15, 1, 1), (1, 1, 2**16, 2**15)):
        with pytest.raises(ValueError, match="32 bits"):
            maps.params(x[:1].expand(shape), shape[1], 1, 0.5, False)


def test_params_go_to_cupy_by_value():
    pytest.importorskip("numpy")
    a = maps.Params(batch=3, span=7)
    argument = device_code.by_value(a)
    assert argument.size == 1 and argument.tobytes() == bytes(a)  # CuPy refuses arrays of more


def test_python_plans_as_the_library_does(libraries):
    """Byte for byte, over sizes, layouts, alignments and dtypes."""
    number = drawing(0)
    assert ctypes.sizeof(maps.Params) == libraries["maps"].params_size()
    assert ctypes.sizeof(gates.Params) == libraries["gates"].params_size()
    for _ in range(5000):
        batch, channels = number(1, 600 if number(0, 1) else 4), number(1, 300) * (1, 8)[number(0, 1)]
        pixels = number(1, 60) ** 2 * (1, 4)[number(0, 1)]
        zeta = (1, 2, 4, 8, number(1, 400))[number(0, 4)]
        last, kind, dtype = bool(number(0, 1)), ("pick", "scatter", "sums")[number(0, 2)], number(0, 3)
        addresses = [1024 + (0, 0, number(0, 32))[number(0, 2)] for _ in range(5)]
        python, native = maps.Params(), maps.Params()
        for a in (python, native):
            a.batch, a.channels, a.outputs, a.pixels, a.zeta = batch, channels, -(-channels // zeta), pixels, zeta
            a.wide = zeta > 256
            a.y, a.choice = addresses[:2]
            a.product = kind == "sums" and batch % 2
            if kind == "pick" or (kind == "sums" and not a.product):
                a.x = addresses[2]
            else:
                a.grad, a.grad_x = addresses[3:]
            if kind == "scatter" and addresses[4] == 1024:
                a.grad_gates = 1024
        bytes_ = (4, 8, 2, 2)[dtype]
        if kind == "pick":
            maps.plan_subsets(python, bytes_, last, False)
        else:
            {"scatter": maps.plan_scatter, "sums": maps.plan_sums}[kind](python, bytes_, last)
        libraries["maps"].plan(kind.encode(), ctypes.byref(native), dtype, last)
        assert bytes(python) == bytes(native)
        python, native = gates.Params(), gates.Params()
        for g in (python, native):
            g.batch, g.channels, g.outputs, g.weight, g.z = batch, channels, -(-channels // zeta), *addresses[:2]
        gates.plan(python)
        libraries["gates"].plan_gates(ctypes.byref(native))
        assert bytes(python) == bytes(native)


@by_dtype()
@layouts
def test_the_library_launches_as_python_does(kernels, libraries, monkeypatch, layout, dtype):
    cases = [SHAPES[name] for name in ("block", "threes", "large", "gate")]

    def all_ops():
        results = []
        for shape, zeta in cases:
            for run in (run_pick_or_mix, run_pix):
                got, _, more = run(kernels, shape, zeta, dtype, layout)
                results += got + more
        return results

    expected, launched = all_ops(), set()

    def launch(part, name, params, *_):
        kernel = name.split("<")[0]
        launched.add(kernel)
        if kernel == "finish":  # the library adds the pieces in the same call
            return
        if part == "gates":
            return libraries[part].native(kernel.encode(), ctypes.byref(params), CODES[dtype])
        kernel, walk = kernel.split("_", 1)
        libraries[part].native(kernel.encode(), ctypes.byref(params), CODES[dtype], walk == "pixels")

    for module in (maps, gates):
        monkeypatch.setattr(module, "launch", launch)
    assert all(torch.equal(a, b) for a, b in zip(all_ops(), expected))
    kinds = ("planes", "packed") if layout == "first" else ("pixels",)
    walks = {f"{kernel}_{kind}" for kernel in ("pick", "scatter") for kind in kinds}
    sums = {"sum_planes", "sum_small_planes"} if layout == "first" else {"sum_pixels"}
    assert launched == {*walks, *sums, "finish", "gate", "products"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "numbers"), [(torch.float32, "integers"), (torch.bfloat16, "normal")], ids=["integers", "normal"]
)
def test_the_contract_holds(kernels, monkeypatch, dtype, numbers):
    """All samples of tests/contract, forward and backward, through the public functions."""
    monkeypatch.syspath_prepend(REPOSITORY / "tests/contract")
    contract = importlib.import_module("contract")
    samples = [op for op in contract.discover() if op.package is pix]
    found = {name: getattr(kernels, name) for name in ops.SCHEMAS}
    contract.assert_kernels_hold(samples, found, dtype, getattr(contract, numbers))
