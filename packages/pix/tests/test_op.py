"""The ops beside their definition written as loops: ties, NaN, infinities, thresholds, short subsets, layouts."""

from __future__ import annotations

import inspect
import math

import numpy
import pytest
import torch
from torch import Tensor

import pix
from pix import functional, ops, pick_or_mix, reference

NAN, INF = math.nan, math.inf
LOWEST = numpy.finfo(numpy.float32).min


@pytest.fixture(params=("reference", "native"), autouse=True)
def backend(request):
    torch.manual_seed(0)
    if request.param == "native" and ops.backends.why["cpu"]:
        pytest.skip(ops.backends.why["cpu"])
    with pix.use_backend(request.param):
        yield request.param


def loops(x, p, grad, zeta, tau, count_short=False):
    """y, choice, and the gradients of x and p, one number at a time in the dtype of `x`."""
    (n, channels, h, w), outputs = x.shape, p.shape[1]
    y, choice = numpy.zeros((n, outputs, h, w), x.dtype), numpy.zeros((n, outputs, h, w), int)
    grad_x, grad_p = numpy.zeros_like(x), numpy.zeros_like(p)
    for a, c, i, j in numpy.ndindex(y.shape):
        gate, g, members = p[a, c], grad[a, c, i, j], range(c * zeta, min((c + 1) * zeta, channels))
        if float(gate) < float(numpy.float32(tau)):
            largest, winner = x.dtype.type(LOWEST), members[0]
            for k in members:
                if largest < x[a, k, i, j]:
                    largest, winner = x[a, k, i, j], k
            y[a, c, i, j], choice[a, c, i, j] = gate * largest, winner - members[0]
            grad_x[a, winner, i, j], grad_p[a, c] = gate * g, grad_p[a, c] + g * largest
        else:
            total = x.dtype.type(0)
            for k in members:
                total += x[a, k, i, j]
            count = x.dtype.type(len(members) if count_short else zeta)
            y[a, c, i, j], grad_p[a, c] = gate * total / count, grad_p[a, c] + g * (total / count)
            for k in members:
                grad_x[a, k, i, j] = gate * g / count
    return y, choice, grad_x, grad_p


def compare(x: Tensor, p: Tensor, zeta: int, tau: float = 0.5, count_short: bool = False) -> None:
    """All parts; the reference by autograd too.

    dp, a sum over pixels, differs by its order, the rest not at all, or by the last digit if `zeta` is no power of two.
    """
    grad = torch.randn(x.shape[0], p.shape[1], *x.shape[2:], dtype=x.dtype)
    with numpy.errstate(all="ignore"):
        parts = loops(x.numpy(), p.numpy(), grad.numpy(), zeta, tau, count_short)
    y, choice, grad_x, grad_p = map(torch.from_numpy, parts)
    kept, chosen = torch.ops.pix.pick_or_mix(x, p, zeta, tau, count_short, True)
    by_op = torch.ops.pix.pick_or_mix_backward(grad, kept, p, chosen, x.shape[1], zeta, tau, count_short)
    leaves = x.clone().requires_grad_(), p.clone().requires_grad_()
    out = reference.pick_or_mix(*leaves, zeta, tau, count_short=count_short)
    by_autograd = torch.autograd.grad(out, leaves, grad)
    digit = 0 if zeta.bit_count() == 1 and not count_short else 2 * torch.finfo(x.dtype).eps
    exact = {"rtol": digit, "atol": 0, "equal_nan": True}
    close = {"rtol": 1e-4 if x.dtype == torch.float32 else 1e-10, "atol": 1e-5, "equal_nan": True}
    for actual in (kept, out.detach()):
        torch.testing.assert_close(actual, y, **exact)
    assert torch.equal(chosen.long(), choice)
    torch.testing.assert_close(by_op[0], grad_x, **exact)
    torch.testing.assert_close(by_autograd[0], grad_x, **exact)
    torch.testing.assert_close(by_autograd[1], grad_p, **close)
    told = (p != 0) & kept.isfinite().all(3).all(2)  # gates whose gradient y can tell
    torch.testing.assert_close(by_op[1][told], grad_p[told], **close)
    assert (by_op[1][p == 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("channels", "zeta"), [(8, 1), (8, 2), (12, 3), (16, 4), (8, 8), (7, 2), (9, 4), (3, 5), (1, 1)]
)
def test_equals_loops(dtype, channels, zeta):
    torch.manual_seed(channels)
    for count_short in (False, True):
        compare(
            torch.randn(3, channels, 3, 2, dtype=dtype),
            torch.rand(3, -(-channels // zeta), dtype=dtype),
            zeta,
            count_short=count_short,
        )


def test_more_members_than_a_byte_numbers():
    x = torch.randn(2, 600, 2, 2)
    compare(x, torch.tensor([[0.2, 0.3], [0.7, 0.1]]), 300)
    for zeta, dtype in ((256, torch.uint8), (257, torch.int32), (300, torch.int32)):
        outputs = -(-600 // zeta)
        assert torch.ops.pix.pick_or_mix(x, torch.rand(2, outputs), zeta, 0.5, False, True)[1].dtype == dtype


def test_any_number_of_channels_per_output():
    compare(torch.randn(2, 5, 2, 2), torch.tensor([[0.2], [0.7]]), 1000)
    compare(torch.randn(2, 5, 2, 2), torch.tensor([[0.2], [0.7]]), 10**6, count_short=True)


def test_the_first_of_equal_channels_wins():
    compare(torch.randint(-1, 2, (4, 12, 3, 3)).double(), torch.rand(4, 3, dtype=torch.float64), 4)
    compare(torch.zeros(1, 4, 2, 2), torch.full((1, 1), 0.25), 4)
    compare(torch.tensor([-0.0, 0.0])[None, :, None, None], torch.full((1, 1), 0.25), 2)


@pytest.mark.parametrize("gate", [0.25, 0.75])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "pixel",
    [
        (NAN, 1.0, 2.0),
        (1.0, NAN, 2.0),
        (NAN, NAN, NAN),
        (-INF, -INF, -INF),
        (-INF, NAN, -3.0),
        (INF, 1.0, INF),
        (INF, -INF, NAN),
        (float(LOWEST), -INF, float(LOWEST)),
    ],
    ids=str,
)
def test_numbers_that_are_none_and_infinities(pixel, gate, dtype):
    x = torch.tensor(pixel, dtype=dtype)[None, :, None, None]
    compare(x, torch.tensor([[gate]], dtype=dtype), 3)
    compare(torch.cat((torch.randn(1, 3, 1, 1, dtype=dtype), x[:, :2]), 1), torch.full((1, 2), gate, dtype=dtype), 3)


def test_the_scan_starts_at_the_least_float_in_float64_too():
    x = torch.tensor([-1e300, -1e200], dtype=torch.float64)[None, :, None, None]
    compare(x, torch.tensor([[0.25]], dtype=torch.float64), 2)
    assert pick_or_mix(x, torch.ones(1, 1).double(), 2, 2.0).item() == LOWEST


@pytest.mark.parametrize("tau", [0.0, 0.1, 0.5, 0.7, 1.0, 1.5, -INF, INF])
def test_thresholds(tau):
    """The decision is taken with tau rounded to float32, strictly below: float32(0.1) > 0.1 and float32(0.7) < 0.7."""
    at = float(numpy.float32(tau))
    gates = [at, numpy.nextafter(at, -INF), numpy.nextafter(at, INF), tau, 0.0, 1.0, NAN, -0.3]
    gates = [gate for gate in gates if not abs(gate) > 1e30]  # whose products overflow
    gates = [math.copysign(1e-30, gate) if 0 < abs(gate) < 1e-30 else gate for gate in gates]  # or underflow
    x = torch.randn(1, 2 * len(gates), 2, 2, dtype=torch.float64)
    compare(x, torch.tensor([gates], dtype=torch.float64), 2, tau)
    float_gates = [gate for gate in gates if numpy.float32(gate) == gate or math.isnan(gate)]
    compare(x[:, : 2 * len(float_gates)].float(), torch.tensor([float_gates]), 2, tau)


def test_gates_that_are_no_numbers_mix():
    x, p = torch.randn(1, 4, 2, 2), torch.tensor([[NAN, 0.2]])
    compare(x, p, 2)
    assert pick_or_mix(x, p, 2)[:, 0].isnan().all()


@pytest.mark.parametrize("shape", [(0, 5, 3, 3), (2, 5, 0, 3), (2, 5, 3, 0)], ids=str)
def test_sizes_without_elements(shape):
    x, weight = torch.empty(shape, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    p = torch.rand(shape[0], 3, requires_grad=True)
    y = pick_or_mix(x, p, 2)
    assert y.shape == (shape[0], 3, *shape[2:])
    grads = torch.autograd.grad(y.sum(), (x, p))
    assert grads[0].shape == shape
    assert torch.equal(grads[1], torch.zeros(shape[0], 3))
    y = functional.pix(x, weight, zeta=2)
    assert y.shape == (shape[0], 3, *shape[2:])
    grads = torch.autograd.grad(y.sum(), (x, weight))
    assert grads[0].shape == shape
    assert shape[0] or torch.equal(grads[1], torch.zeros(3, 5))  # the mean of no pixels is nan, as torch's


@pytest.mark.parametrize("l1", [False, True], ids=["mean", "l1"])
@pytest.mark.parametrize("biased", [False, True], ids=["no bias", "bias"])
def test_the_layer_is_its_parts(l1, biased):
    x, weight = torch.randn(3, 7, 4, 5).double(), torch.randn(4, 7).double()
    bias = torch.randn(4).double() if biased else None
    y, z, p, choice = torch.ops.pix.pix(x, weight, bias, 2, 0.5, l1, False, True)
    context = numpy.abs(x.numpy()) if l1 else x.numpy()
    logits = numpy.einsum("nihw,oi->no", context, weight.numpy()) / 20 + (0 if bias is None else bias.numpy())
    torch.testing.assert_close(z, torch.from_numpy(context.mean((2, 3))))
    torch.testing.assert_close(p, torch.from_numpy(1 / (1 + numpy.exp(-logits))))
    wanted = loops(x.numpy(), p.numpy(), y.numpy(), 2, 0.5)
    torch.testing.assert_close(y, torch.from_numpy(wanted[0]), rtol=0, atol=0)
    assert torch.equal(choice.long(), torch.from_numpy(wanted[1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x, weight, p = torch.randn(2, 9, 3, 3).to(dtype), torch.randn(3, 9).to(dtype), torch.rand(2, 3)
    assert torch.equal(pick_or_mix(x, p, 3), pick_or_mix(x.float(), p, 3).to(dtype))
    y, gates = functional.pix_and_gates(x, weight, zeta=3)
    wide, wide_gates = functional.pix_and_gates(x.float(), weight.float(), zeta=3)
    assert (y.dtype, gates.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(gates, wide_gates)
    torch.testing.assert_close(y, wide.to(dtype))


def test_decisions_do_not_depend_on_half_precision():
    """sigmoid(-1e-3) is 0.5 in bfloat16, which mixes; the layer picks."""
    x, weight = torch.tensor([1.0, -1.0]).bfloat16()[None, :, None, None], torch.full((1, 2), 0.5).bfloat16()
    y = functional.pix(x, weight, torch.tensor([-1e-3]).bfloat16(), zeta=2)
    assert y.item() == 0.5


def test_gates_in_half_precision_and_as_images():
    x = torch.randn(2, 6, 4, 5, dtype=torch.bfloat16)
    p = torch.rand(2, 3, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    y = pick_or_mix(x, p, 2)
    assert torch.equal(y, pick_or_mix(x, p[:, :, 0, 0].float(), 2))
    y.sum().backward()
    assert (p.grad.shape, p.grad.dtype) == (p.shape, torch.bfloat16)


@pytest.mark.parametrize("channels", [2, 8])
@pytest.mark.parametrize("size", [(3, 4), (1, 1)], ids=str)
def test_results_lie_as_the_input(channels, size):
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, channels, *size).contiguous(memory_format=layout).requires_grad_()
        weight = torch.randn(channels // 2, channels)
        for y in (pick_or_mix(x, torch.rand(2, channels // 2), 2), functional.pix(x, weight, zeta=2)):
            assert y.is_contiguous(memory_format=layout)
            for other in (torch.contiguous_format, torch.channels_last):
                (grad,) = torch.autograd.grad(y, x, y.detach().contiguous(memory_format=other), retain_graph=True)
                assert grad.is_contiguous(memory_format=layout)


def test_counted_products_are_those_of_the_blend():
    x, weight = torch.randn(2, 8, 6, 6, requires_grad=True), torch.randn(2, 8, requires_grad=True)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        y = functional.pix(x, weight, zeta=4)
    assert counter.get_total_flops() == 2 * 2 * 8 * 2
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 2 * 8 * 2


def test_functions_and_their_references_take_the_same():
    for name in ("pick_or_mix", "pix"):
        functions = (inspect.signature(getattr(module, name)) for module in (functional, reference))
        assert len({tuple(signature.parameters) for signature in functions}) == 1


def test_all_sides_define_the_same_schemas():
    for name, schema in ops.SCHEMAS.items():
        defined = getattr(torch.ops.pix, name).default._schema
        assert str(defined) == str(torch._C.parse_schema(f"pix::{name}{schema}"))
