"""What the CUDA source computes, without a GPU: run on the CPU, thread by thread, by tests/emulator.

Nothing here says how fast the kernels are, and nothing replaces `-m gpu` (see ci/gpu_check.sh).
"""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pathconv
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
)
from pathconv import cupy_backend, ops, reference, reference_depthwise
from pathconv._common import device_code
from pathconv.cupy_backend import depthwise, traversal

PACKAGE = Path(__file__).resolve().parents[1]
MODULES = {"traversal": traversal, "depthwise": depthwise}
SOURCES = {"traversal": "emulated_traverse.cpp", "depthwise": "emulated_depthwise_conv1d.cpp"}
lasts = pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """The CUDA source as libraries for the CPU."""
    sources = {part: Path(__file__).parent / source for part, source in SOURCES.items()}
    return build(sources, PACKAGE / "csrc", tmp_path_factory.mktemp("emulator"))


@pytest.fixture
def kernels(libraries, monkeypatch):
    """`cupy_backend`, launching on the emulator; what no kernel writes is NaN, and results lie between margins."""
    outputs = Outputs()

    def launch(part, name, params, blocks, shared_bytes, device):
        if blocks > 0:
            libraries[part].launch(name.encode(), ctypes.byref(params), ctypes.c_longlong(blocks), shared_bytes)
        outputs.check(name)

    for module in MODULES.values():
        monkeypatch.setattr(module, "empty", lambda like, *args: outputs.empty_images(args[0], like.dtype, args[1]))
        monkeypatch.setattr(module, "launch", launch)
    torch.use_deterministic_algorithms(True)  # fills what `new_empty` makes with NaN
    yield cupy_backend
    torch.use_deterministic_algorithms(False)
    for library in libraries.values():
        library.set_order(0)


def tables(paths, height, width, seed=0):
    """Random paths, the first one row by row from right to left, and their inverses."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.stack([torch.randperm(height * width, generator=generator) for _ in range(paths)])
    index[0] = torch.arange(height * width).view(height, width).flip(1).flatten()
    return index.int(), index.argsort(1).int()


def check(got, expected, dtype):
    assert len(got) == len(expected)
    for name, (a, b) in enumerate(zip(got, expected)):
        assert a.shape == b.shape and a.dtype == dtype
        assert error(a, b) <= TOLERANCE[dtype], f"result {name} is off by {error(a, b)}"  # also when it is NaN


def run_traversal(kernels, shape, paths, outputs, dtype, last=False, layout=None):
    """All five ops, each beside its float64 reference."""
    n, c, h, w = shape
    layout = layout or ("last" if last else "first")
    index, inverse = tables(paths, h, w)
    x, y = draw(shape, dtype, layout), draw((n, paths * c, h * w), dtype, layout, seed=1)
    grad, weight = draw((n, outputs, h * w), dtype, layout, seed=2), draw((outputs, paths * c), dtype, seed=3)
    bias = draw((1, outputs), dtype, seed=4)[0]
    X, Y, G, W, B = (t.double() for t in (x, y, grad, weight, bias))
    got = [
        kernels.traverse(x, index, inverse, last),
        kernels.traverse_adjoint(y, index, inverse, h, w, last),
        kernels.traverse_conv1d(x, index, inverse, weight, bias, last),
        kernels.traverse_conv1d_grad_input(grad, index, inverse, weight, h, w, last),
        *kernels.traverse_conv1d_grad_weight(grad, x, index, inverse),
    ]
    expected = [
        reference.gather(X, index, inverse, last),
        reference.gather_adjoint(Y, index, inverse, h, w, last),
        reference.gather_conv1d(X, index, inverse, W, B, last),
        reference.gather_conv1d_grad_input(G, index, inverse, W, h, w, last),
        *reference.gather_conv1d_grad_weight(G, X, index, inverse),
    ]
    assert torch.equal(got[0], reference.gather(x, index, inverse, last))  # copies are exact
    assert all((a.movedim(1, -1) if last else a).is_contiguous() for a in got[:4])
    return got, expected


TRAVERSALS = {  # shape, paths, outputs
    "stem": ((3, 3, 16, 16), 3, 48),
    "odd": ((2, 5, 7, 9), 2, 10),
    "one path": ((2, 3, 8, 8), 1, 60),
    "many paths": ((2, 2, 5, 6), 9, 7),
    "many terms": ((2, 37, 6, 6), 2, 33),
    "many outputs": ((1, 3, 6, 10), 3, 300),
    "one channel": ((5, 1, 4, 4), 3, 1),
    "one pixel": ((70, 3, 1, 1), 2, 4),
    "one row": ((3, 4, 1, 300), 2, 3),
    "many images": ((40, 2, 4, 4), 2, 8),
}


@by_dtype()
@lasts
@pytest.mark.parametrize("case", TRAVERSALS)
def test_traversal_agrees_with_the_reference(kernels, case, last, dtype):
    check(*run_traversal(kernels, *TRAVERSALS[case], dtype, last), dtype)


@by_dtype(torch.float32, torch.bfloat16)
@lasts
@pytest.mark.parametrize("layout", ["slice", "slice_last", "reversed"])
def test_traversal_takes_any_strides(kernels, layout, last, dtype):
    check(*run_traversal(kernels, (3, 4, 6, 10), 2, 12, dtype, last, layout), dtype)
    check(*run_traversal(kernels, (2, 3, 5, 7), 3, 6, dtype, last, layout), dtype)


@lasts
def test_traversal_agrees_on_drawn_cases(kernels, last):
    """Sizes drawn at random, in the dtype in which any mistake shows."""
    number = drawing(3)
    for _ in range(15):
        shape = number(1, 6), number(1, 20), number(1, 12), number(1, 12)
        layout = LAYOUTS[number(0, 4)]
        check(*run_traversal(kernels, shape, number(1, 8), number(1, 70), torch.float64, last, layout), torch.float64)


def run_depthwise(kernels, shape, multiplier, taps, stride, padding, dtype, *, per_sample=False, layout="first"):
    """All three ops, each beside what autograd makes of the formula in float64."""
    n, c, length = shape
    x, outputs = draw(shape, dtype, layout), c * multiplier
    weight = draw((n if per_sample else 1, outputs, taps), dtype, seed=1)
    bias = draw((1, outputs), dtype, seed=2)[0]
    X, W, B = (t.double().requires_grad_() for t in (x, weight, bias))
    Y = reference_depthwise.forward(X, W, B, stride, padding)
    grad = draw(Y.shape, dtype, layout, seed=3)
    got = [
        kernels.depthwise_conv1d(x, weight, bias, stride, padding),
        kernels.depthwise_conv1d_grad_input(grad, weight, c, length, stride, padding),
        *kernels.depthwise_conv1d_grad_weight(grad, x, taps, stride, padding, per_sample),
    ]
    expected = [Y.detach(), *torch.autograd.grad(Y, (X, W, B), grad.double())]
    assert all((a.mT if reference.lies_last(t) else a).is_contiguous() for a, t in zip(got, (x, grad)))
    return got, expected


DEPTHWISE = {  # shape, multiplier, taps, stride, padding
    "stem": ((2, 48, 70), 1, 11, 1, 5),
    "block": ((2, 20, 33), 1, 9, 1, 4),
    "down": ((2, 24, 32), 2, 9, 2, 4),
    "long": ((1, 3, 500), 1, 9, 1, 4),
    "many channels": ((2, 150, 9), 1, 9, 1, 4),
    "many taps": ((1, 5, 90), 1, 75, 1, 3),
    "many taps, strided": ((1, 5, 90), 3, 50, 3, 20),
    "single tap": ((2, 7, 10), 1, 1, 1, 0),
    "one channel": ((9, 1, 40), 1, 5, 1, 2),
    "one position": ((5, 6, 1), 2, 3, 1, 1),
    "large stride": ((2, 5, 30), 1, 4, 7, 0),
    "stride beyond the sequence": ((2, 5, 6), 2, 4, 1000, 1),
    "wide padding": ((2, 3, 4), 1, 3, 2, 9),
    "no padding": ((2, 3, 12), 4, 5, 3, 0),
}


@by_dtype()
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per_sample"])
@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise_agrees_with_the_reference(kernels, case, per_sample, layout, dtype):
    check(*run_depthwise(kernels, *DEPTHWISE[case], dtype, per_sample=per_sample, layout=layout), dtype)


@by_dtype(torch.float32, torch.bfloat16)
@pytest.mark.parametrize("layout", ["slice", "slice_last", "reversed"])
def test_depthwise_takes_any_strides(kernels, layout, dtype):
    check(*run_depthwise(kernels, (3, 5, 11), 2, 4, 2, 1, dtype, layout=layout), dtype)


def test_depthwise_agrees_on_drawn_cases(kernels):
    number = drawing(4)
    for _ in range(40):
        taps, padding = number(1, 30), number(0, 12)
        shape = number(1, 5), number(1, 70), number(max(taps - 2 * padding, 1), 60)
        layout = LAYOUTS[number(0, 4)]
        options = {"per_sample": bool(number(0, 1)), "layout": layout}
        check(
            *run_depthwise(kernels, shape, number(1, 3), taps, number(1, 5), padding, torch.float64, **options),
            torch.float64,
        )


@by_dtype(torch.float32, torch.float16)
@lasts
def test_no_order_of_threads_changes_a_bit(kernels, libraries, last, dtype):
    """A race would: between barriers the emulator runs threads, and blocks, in whatever order it is told."""
    layout = "last" if last else "first"

    def all_ops():
        results = run_traversal(kernels, *TRAVERSALS["stem"], dtype, last)[0]
        for case in ("down", "many taps"):
            results += run_depthwise(kernels, *DEPTHWISE[case], dtype, per_sample=True, layout=layout)[0]
        return results

    first = all_ops()
    for order in (1, 2, 3):
        for library in libraries.values():
            library.set_order(order)
        assert all(torch.equal(a, b) for a, b in zip(first, all_ops()))


@lasts
def test_blocks_with_several_shares_of_the_work(kernels, monkeypatch, last):
    """As with large batches: a block serves several images, and sums over many tiles."""
    monkeypatch.setattr(traversal, "BLOCKS_WANTED", 5)
    monkeypatch.setattr(traversal, "SUM_BLOCKS_WANTED", 3)
    monkeypatch.setattr(depthwise, "BLOCKS_WANTED", 3)
    layout = "last" if last else "first"
    for dtype in (torch.float64, torch.float16):
        check(*run_traversal(kernels, (37, 3, 8, 8), 3, 12, dtype, last), dtype)
    for multiplier, stride in ((1, 1), (2, 2)):
        got, expected = run_depthwise(kernels, (7, 10, 90), multiplier, 9, stride, 4, torch.float64, layout=layout)
        check(got, expected, torch.float64)


@lasts
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)], ids=str)
def test_empty_images(kernels, shape, last):
    got, expected = run_traversal(kernels, shape, 2, 5, torch.float32, last)
    check(got, expected, torch.float32)


@pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per_sample"])
def test_empty_sequences(kernels, per_sample):
    got, expected = run_depthwise(kernels, (0, 3, 8), 1, 3, 1, 1, torch.float32, per_sample=per_sample)
    check(got, expected, torch.float32)
    assert not got[3].any()  # a sum over nothing


@lasts
def test_infinities_stay_where_they_belong(kernels, last):
    layout = "last" if last else "first"
    x = draw((3, 9, 24), torch.float16, layout)
    x[1, 4, 20] = torch.inf
    weight = torch.ones(1, 9, 7).half()
    y = kernels.depthwise_conv1d(x, weight, None, 1, 3)
    assert y.isinf().nonzero().tolist() == [[1, 4, position] for position in range(17, 24)] and not y.isnan().any()
    # Taps reach behind the last output: only the later ones read position 22, and position 23.
    x[1, 4, 20], x[1, 4, 22] = 0, torch.inf
    grad_weight, _ = kernels.depthwise_conv1d_grad_weight(torch.ones(3, 9, 22).half(), x, 3, 1, 0, False)
    assert grad_weight.isinf().nonzero().tolist() == [[0, 4, 1], [0, 4, 2]] and not grad_weight.isnan().any()


def test_refuses_what_an_int_cannot_count():
    x, index = torch.zeros(1, dtype=torch.float16).expand(2**31, 1, 1, 1), torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(ValueError, match="32 bits"):
        traversal.params(x, index, 1, 1)
    with pytest.raises(ValueError, match="32 bits"):
        traversal.params(x[:1], index.expand(2**16, 1), 2**16, 1)
    with pytest.raises(ValueError, match="supported"):
        depthwise.params(x[..., 0], x[..., 0], 1, 1, 1, 1, 0)


def test_params_go_to_cupy_by_value():
    pytest.importorskip("numpy")
    p = depthwise.Params(batch=3, splits=7)
    argument = device_code.by_value(p)
    assert argument.size == 1 and argument.tobytes() == bytes(p)  # CuPy refuses arrays of more


@pytest.mark.parametrize("part", MODULES)
def test_python_plans_as_the_library_does(libraries, part):
    """Byte for byte, over sizes, layouts and dtypes."""
    library, module, number = libraries[part], MODULES[part], drawing(0)
    assert ctypes.sizeof(module.Params) == library.params_size()
    for _ in range(2000):
        values = SimpleNamespace(
            batch=number(1, 600),
            channels=number(1, 9 if number(0, 3) else 700),
            length=number(1, 70000),
            dtype=number(0, 3),
        )
        last, bytes_ = number(0, 1), (4, 8, 2, 2)[values.dtype]
        python, native = module.Params(), module.Params()
        for p in (python, native):
            p.batch, p.channels = values.batch, values.channels
        if part == "traversal":
            paths, outputs, aligned = number(1, 9), number(1, 600), number(0, 1)
            for p in (python, native):
                p.paths, p.outputs, p.length, p.grad = paths, outputs, values.length, 1024 + 8 * aligned
                p.grad_c, p.grad_l = (1, outputs) if last else (values.length, 1)
                p.grad_n = outputs * values.length
            module.plan_images(python)
            module.plan_convolve(python, bytes_, bool(last))
            library.plan(ctypes.byref(native), values.dtype, last)
        else:
            taps, stride, padding, grad_input = number(1, 90), number(1, 12), number(0, 9), number(0, 1)
            multiplier, aligned = number(1, 2), number(0, 1)
            for p in (python, native):
                p.taps, p.stride, p.padding, p.grad_input = taps, stride, padding, grad_input
                p.target_length, p.source_length = values.length, values.length * stride
                p.multiplier, p.source, p.target = multiplier, 1024 + 8 * aligned, 1024
                for side, length in ((p.source_stride, p.source_length), (p.target_stride, p.target_length)):
                    side[:] = length * p.channels, *((1, p.channels) if last else (length, 1))
                p.samples = values.batch if last else 1
            module.plan_correlate(python, bytes_)
            library.plan(ctypes.byref(native), values.dtype)
        assert bytes(python) == bytes(native)
        assert python.shared_bytes <= 64 * 1024  # all that some GPUs have
        if part == "traversal" or not python.grad_input:
            module.plan_weight_sums(python, bytes_)
            library.plan_sums(ctypes.byref(native), values.dtype)
            assert bytes(python) == bytes(native)
            assert python.shared_bytes <= 64 * 1024


@by_dtype()
@lasts
def test_the_library_launches_as_python_does(kernels, libraries, monkeypatch, last, dtype):
    layout = "last" if last else "first"

    def all_ops():
        return [
            *run_traversal(kernels, *TRAVERSALS["odd"], dtype, last)[0],
            *run_depthwise(kernels, *DEPTHWISE["down"], dtype, layout=layout)[0],
        ]

    expected = all_ops()

    def launch(part, name, params, *_):
        kernel = name.split("<")[0]
        if kernel == "finish":  # the library adds the blocks' sums in the same call
            return
        arguments = (ctypes.byref(params), CODES[dtype], *([last] if part == "traversal" else []))
        libraries[part].native(kernel.encode(), *arguments)

    for module in MODULES.values():
        monkeypatch.setattr(module, "launch", launch)
    assert all(torch.equal(a, b) for a, b in zip(all_ops(), expected))


@pytest.mark.slow
@by_dtype(torch.float32, torch.bfloat16)
def test_the_contract_holds(kernels, monkeypatch, dtype):
    """All samples of tests/contract, forward and backward, through the public functions."""
    monkeypatch.syspath_prepend(REPOSITORY / "tests/contract")
    contract = importlib.import_module("contract")
    samples = [op for op in contract.discover() if op.package is pathconv]
    contract.assert_kernels_hold(samples, {name: getattr(kernels, name) for name in ops.SCHEMAS}, dtype)
