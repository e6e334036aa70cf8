"""What the CUDA source computes, without a GPU: run on the CPU by tests/emulator, and compiled by nvcc and NVRTC.

Nothing here says how fast the kernels are, and nothing replaces `-m gpu` (see ci/gpu_check.sh).
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from dwoconv1d import cupy_backend, reference, tap_offsets
from dwoconv1d._common import device_code
from leanconv.testing.emulator import CODES, LAYOUTS, TOLERANCE, Outputs, build, by_dtype, draw, drawing, error

PACKAGE = Path(__file__).resolve().parents[1]
SHARED = 227 * 1024  # bytes a block may ask for on an H200
layouts = pytest.mark.parametrize("layout", ["first", "last"])


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The CUDA source as a library for the CPU."""
    sources = {"oriented_conv1d": Path(__file__).parent / "emulated_oriented_conv1d.cpp"}
    return build(sources, PACKAGE / "csrc", tmp_path_factory.mktemp("emulator"))["oriented_conv1d"]


@pytest.fixture
def kernels(library, monkeypatch):
    """The functions of `cupy_backend`, launching on the emulator; outputs are poisoned and lie between margins."""
    outputs = Outputs()

    def empty(like, height, width):
        shape = (*like.shape[:2], height, width)
        return outputs.empty_images(shape, like.dtype, reference.channels_last(like))

    def launch(name, params, blocks, shared_bytes, device):
        library.launch(name.encode(), ctypes.byref(params), ctypes.c_longlong(blocks), shared_bytes)
        outputs.check(name)

    monkeypatch.setattr(cupy_backend, "_empty", empty)
    monkeypatch.setattr(cupy_backend, "_launch", launch)
    monkeypatch.setattr(cupy_backend, "shared_limit", lambda device: SHARED)
    yield cupy_backend
    library.set_order(0)
    library.set_shared_limit(SHARED)


def lines(channels, kernel_size, dilation=1):
    angle = torch.arange(channels) * torch.pi / 8
    return torch.stack(tap_offsets(kernel_size, angle, dilation=dilation)).int().contiguous()


def scattered(channels, kernel_size, reach):
    """Any table is legal: far outside, equal neighbours, the ends of int32."""
    offsets = torch.randint(
        -reach, reach + 1, (2, channels, kernel_size), generator=torch.Generator().manual_seed(1)
    ).int()
    offsets[:, :, 1::3] = offsets[:, :, 0::3][:, :, : offsets[:, :, 1::3].shape[2]]
    offsets[0, 0, -1], offsets[1, -1, 0] = -(2**31), 2**31 - 1
    return offsets


def run(kernels, shape, offsets, dtype, layout="first", stride=(1, 1), residual=True):
    """All three ops, each beside its float64 reference."""
    n, c, h, w = shape
    k = offsets.shape[2]
    x = draw(shape, dtype, layout)
    grad = draw((n, c, -(-h // stride[0]), -(-w // stride[1])), dtype, layout, seed=1)
    weight, bias = draw((1, 1, c, k), dtype, seed=2)[0, 0], draw((1, 1, 1, c), dtype, seed=3)[0, 0, 0]
    X, G, W, B = (t.double() for t in (x, grad, weight, bias))
    sizes = (h, w, *stride)
    got = [
        kernels.oriented_conv1d(x, weight, offsets, bias, *stride, residual),
        kernels.oriented_conv1d_grad_input(grad, weight, offsets, *sizes, residual),
        *kernels.oriented_conv1d_grad_weight(grad, x, offsets, *stride),
    ]
    expected = [
        reference.forward(X, W, offsets, B, *stride, residual),
        reference.grad_input(G, W, offsets, *sizes, residual),
        *reference.grad_weight(G, X, offsets, *stride),
    ]
    return got, expected


def check(got, expected, dtype):
    for name, a, b in zip(("output", "grad_input", "grad_weight", "grad_bias"), got, expected):
        assert a.shape == b.shape and a.dtype == dtype
        assert error(a, b) <= TOLERANCE[dtype], f"{name} is off by {error(a, b)}"  # also when it is NaN


CASES = {
    "model": ((2, 9, 14, 14), lines(9, 31), (1, 1)),
    "stem": ((1, 8, 34, 38), lines(8, 15), (2, 2)),
    "small planes": ((5, 17, 7, 7), lines(17, 7), (1, 1)),
    "tiles": ((1, 2, 70, 131), lines(2, 7), (1, 1)),
    "odd stride": ((3, 3, 11, 10), lines(3, 5), (3, 2)),
    "large stride": ((2, 3, 6, 9), lines(3, 4), (7, 50)),
    "single pixels": ((33, 3, 1, 1), lines(3, 3), (1, 1)),
    "single tap": ((2, 3, 4, 5), lines(3, 1), (1, 1)),
    "any offsets": ((2, 5, 9, 8), scattered(5, 11, 12), (1, 1)),
    "any offsets, strided": ((2, 5, 9, 8), scattered(5, 11, 12), (2, 3)),
    "many taps": ((1, 2, 5, 40), scattered(2, 150, 30), (1, 1)),
}


@by_dtype()
@layouts
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(kernels, case, layout, dtype):
    shape, offsets, stride = CASES[case]
    check(*run(kernels, shape, offsets, dtype, layout, stride), dtype)


@by_dtype(torch.float64, torch.float16)
@layouts
@pytest.mark.parametrize(
    ("size", "dilation", "stride"), [((16, 26), 4, (1, 1)), ((12, 40), 8, (1, 1)), ((30, 40), 7, (2, 2))]
)
def test_agrees_where_shared_memory_is_short(kernels, library, monkeypatch, size, dilation, stride, layout, dtype):
    """Tiles are cut into bands of rows, and where the halo alone is too large, taps come in several rounds."""
    library.set_shared_limit(24000)
    monkeypatch.setattr(cupy_backend, "shared_limit", lambda device: 24000)
    check(*run(kernels, (1, 9, *size), lines(9, 9, dilation), dtype, layout, stride), dtype)


@by_dtype(torch.float32, torch.bfloat16)
@pytest.mark.parametrize("layout", LAYOUTS[2:])
@pytest.mark.parametrize("shape", [(3, 5, 9, 11), (2, 1, 6, 7), (2, 4, 5, 1)], ids=str)
def test_takes_any_strides(kernels, shape, layout, dtype):
    check(*run(kernels, shape, lines(shape[1], 5), dtype, layout, (1, 2)), dtype)


def test_agrees_on_drawn_cases(kernels):
    """Sizes, strides and tables drawn at random, in the dtype in which any mistake shows."""
    number = drawing(0)
    for _ in range(40):
        shape = number(1, 5), number(1, 12), number(1, 20), number(1, 20)
        offsets = (
            scattered(shape[1], number(1, 40), number(0, 25))
            if number(0, 1)
            else lines(shape[1], number(1, 33), number(1, 3))
        )
        stride = number(1, 4), number(1, 4)
        check(
            *run(kernels, shape, offsets, torch.float64, LAYOUTS[number(0, 4)], stride, bool(number(0, 1))),
            torch.float64,
        )


@by_dtype(torch.float32, torch.float16)
@layouts
@pytest.mark.parametrize("case", ["model", "stem", "any offsets, strided", "many taps"])
def test_no_order_of_threads_changes_a_bit(kernels, library, case, layout, dtype):
    """A race would: between barriers the emulator runs threads, and blocks, in whatever order it is told."""
    shape, offsets, stride = CASES[case]
    first, _ = run(kernels, shape, offsets, dtype, layout, stride)
    for order in (1, 2, 3):
        library.set_order(order)
        again, _ = run(kernels, shape, offsets, dtype, layout, stride)
        assert all(torch.equal(a, b) for a, b in zip(first, again))


@layouts
def test_a_stride_beyond_shared_memory(kernels, layout):
    x, weight, offsets = draw((1, 2, 2, 90000), torch.float32, layout), torch.ones(2, 5), lines(2, 5)
    y = kernels.oriented_conv1d(x, weight, offsets, None, 1, 89999, False)
    check([y], [reference.forward(x.double(), weight.double(), offsets, None, 1, 89999, False)], torch.float32)


@pytest.mark.parametrize("shape", [(0, 3, 5, 6), (2, 0, 5, 6), (2, 3, 0, 6), (2, 3, 5, 0)], ids=str)
def test_empty(kernels, shape):
    got, expected = run(kernels, shape, lines(shape[1], 5), torch.float32)
    assert [t.shape for t in got] == [t.shape for t in expected]
    assert all(not t.any() for t in got[2:])  # sums over nothing


@layouts
def test_infinities_stay_where_they_belong(kernels, layout):
    x, weight, offsets = draw((3, 9, 6, 7), torch.float16, layout), torch.ones(9, 7).half(), lines(9, 7)
    x[1, 4, 2, 3] = torch.inf
    y = kernels.oriented_conv1d(x, weight, offsets, None, 1, 1, False)
    assert (
        torch.equal(y.isinf(), reference.forward(x, weight, offsets, None, 1, 1, False).isinf()) and not y.isnan().any()
    )


@pytest.mark.parametrize("shape", [(2**31, 1, 1, 1), (1, 1, 2**29 + 1, 1)], ids=str)
def test_refuses_what_an_int_cannot_count(shape):
    x, weight = torch.zeros(1, dtype=torch.float16).expand(shape), torch.zeros(1, 3, dtype=torch.float16)
    with pytest.raises(ValueError, match="are supported"):
        cupy_backend.oriented_conv1d_grad_weight(x, x, lines(1, 3), 1, 1)
    with pytest.raises(ValueError, match="are supported"):
        cupy_backend._params(x, x, lines(1, 3), x.shape[2:], (1, 1), weight=weight)


def test_params_go_to_cupy_by_value():
    pytest.importorskip("numpy")
    p = cupy_backend.Params(batch=3, splits=7)
    argument = device_code.by_value(p)
    assert argument.size == 1 and argument.tobytes() == bytes(p)  # CuPy refuses arrays of more


@pytest.mark.parametrize("weight_sums", [False, True])
def test_python_plans_as_the_library_does(kernels, library, weight_sums):
    """`cupy_backend.plan` and `make_plan`, byte for byte, over sizes, layouts, dtypes and GPUs."""
    assert ctypes.sizeof(cupy_backend.Params) == library.params_size()
    draws = torch.Generator().manual_seed(0)
    for _ in range(2000):
        values = [int(v) for v in torch.randint(0, 2**20, (12,), generator=draws)]
        python, native = cupy_backend.Params(), cupy_backend.Params()
        for p in (python, native):
            p.batch, p.channels, p.taps = (
                values[0] % 70,
                values[1] % 600,
                values[2] % (40 if values[3] % 4 else 4000) + 1,
            )
            p.source_h, p.source_w = (v % (64 if values[4] % 2 else 3000) for v in values[5:7])
            p.stride_h, p.stride_w = (
                min(v % 4 + 1, max(side, 1)) for v, side in zip(values[7:9], (p.source_h, p.source_w))
            )
            p.cells_h, p.cells_w = -(-p.source_h // p.stride_h), -(-p.source_w // p.stride_w)
            p.grad_input = values[9] % 2 and not weight_sums
            p.source_stride[:] = (0, 1, 7, p.channels) if values[10] % 2 else (0, 7, 7, 1)
        dtype, limit = values[11] % 4, (64, 99, 227)[values[11] % 3] * 1024
        library.set_shared_limit(limit)
        library.plan(ctypes.byref(native), dtype, weight_sums)
        cupy_backend.plan(python, (4, 8, 2, 2)[dtype], weight_sums, limit)
        assert bytes(python) == bytes(native)
        assert python.shared_bytes <= limit


@by_dtype()
@layouts
def test_the_library_launches_as_python_does(kernels, library, monkeypatch, layout, dtype):
    shape, offsets, stride = CASES["stem"]
    expected, _ = run(kernels, shape, offsets, dtype, layout, stride)
    code = CODES[dtype]

    def launch(name, params, *_):
        if not name.startswith("finish"):  # the library adds the blocks' sums in the same call
            start = library.native_gather if name.startswith("gather") else library.native_grad_weight
            start(ctypes.byref(params), code)

    monkeypatch.setattr(cupy_backend, "_launch", launch)
    got, _ = run(kernels, shape, offsets, dtype, layout, stride)
    assert all(torch.equal(a, b) for a, b in zip(got, expected))
