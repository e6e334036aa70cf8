"""The reference beside the operator's definition written as loops: ties, NaN, infinities, thresholds, short subsets."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from torch import Tensor

from pix import reference

NAN, INF = math.nan, math.inf
LOWEST = numpy.finfo(numpy.float32).min


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
    """All parts: by autograd, and by the kernels of the ops; to the bit but for dp, a sum over pixels."""
    grad = torch.randn(x.shape[0], p.shape[1], *x.shape[2:], dtype=x.dtype)
    with numpy.errstate(all="ignore"):
        y, choice, grad_x, grad_p = map(
            torch.from_numpy, loops(x.numpy(), p.numpy(), grad.numpy(), zeta, tau, count_short)
        )
    leaves = x.clone().requires_grad_(), p.clone().requires_grad_()
    out = reference.pick_or_mix(*leaves, zeta, tau, count_short=count_short)
    by_autograd = torch.autograd.grad(out, leaves, grad)
    kept, chosen = reference.forward(x, p, zeta, tau, count_short, True)
    by_kernel = reference.backward(grad, kept, p, chosen, x.shape[1], zeta, tau, count_short)
    exact = {"rtol": 0, "atol": 0, "equal_nan": True}
    close = {"rtol": 1e-4 if x.dtype == torch.float32 else 1e-10, "atol": 1e-5, "equal_nan": True}
    torch.testing.assert_close(out.detach(), y, **exact)
    assert torch.equal(kept.nan_to_num(), y.nan_to_num())
    assert torch.equal(chosen.long(), choice)
    torch.testing.assert_close(by_kernel[0], grad_x, **exact)
    torch.testing.assert_close(
        by_autograd[0], grad_x, equal_nan=True, rtol=1e-6, atol=0
    )  # p * (g / zeta) in the latter
    torch.testing.assert_close(by_autograd[1], grad_p, **close)
    finite = (p != 0) & kept.isfinite().all(3).all(2)
    torch.testing.assert_close(by_kernel[1][finite], grad_p[finite], **close)
    assert (by_kernel[1][p == 0] == 0).all()


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
    assert reference.forward(x, torch.rand(2, 2), 300, 0.5, False, True)[1].dtype == torch.int32
    assert reference.forward(x, torch.rand(2, 3), 256, 0.5, False, True)[1].dtype == torch.uint8


def test_the_first_of_equal_channels_wins():
    compare(torch.randint(-1, 2, (4, 12, 3, 3)).double(), torch.rand(4, 3, dtype=torch.float64), 4)
    compare(torch.zeros(1, 4, 2, 2), torch.full((1, 1), 0.25), 4)


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
    assert reference.pick_or_mix(x, torch.ones(1, 1).double(), 2, 2.0).item() == LOWEST


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
    assert reference.pick_or_mix(x, p, 2)[:, 0].isnan().all()


def test_sizes_without_elements():
    for shape in ((0, 5, 3, 3), (2, 5, 0, 3), (2, 5, 3, 0)):
        y, choice = reference.forward(torch.empty(shape), torch.rand(shape[0], 3), 2, 0.5, False, True)
        assert y.shape == choice.shape == (shape[0], 3, *shape[2:])
        grad_x, grad_p = reference.backward(y, y, torch.rand(shape[0], 3), choice, 5, 2, 0.5, False)
        assert grad_x.shape == shape
        assert torch.equal(grad_p, torch.zeros(shape[0], 3))


@pytest.mark.parametrize("l1", [False, True], ids=["mean", "l1"])
@pytest.mark.parametrize("biased", [False, True])
def test_the_layer_is_its_parts(l1, biased):
    x, weight = torch.randn(3, 7, 4, 5).double(), torch.randn(4, 7).double()
    bias = torch.randn(4).double() if biased else None
    y, z, p, choice = reference.pix_forward(x, weight, bias, 2, 0.5, l1, False, True)
    context = numpy.abs(x.numpy()) if l1 else x.numpy()
    logits = numpy.einsum("nihw,oi->no", context, weight.numpy()) / 20 + (0 if bias is None else bias.numpy())
    torch.testing.assert_close(z, torch.from_numpy(context.mean((2, 3))))
    torch.testing.assert_close(p, torch.from_numpy(1 / (1 + numpy.exp(-logits))))
    wanted = loops(x.numpy(), p.numpy(), y.numpy(), 2, 0.5)
    torch.testing.assert_close(y, torch.from_numpy(wanted[0]))
    assert torch.equal(choice.long(), torch.from_numpy(wanted[1]))


@pytest.mark.parametrize("l1", [False, True], ids=["mean", "l1"])
@pytest.mark.parametrize("gate_used", [False, True])
def test_the_layers_backward_is_what_autograd_finds(l1, gate_used):
    leaves = [torch.randn(s).double().requires_grad_() for s in ((3, 7, 4, 5), (4, 7), (4,))]
    y, z, p, choice = reference.pix_forward(*leaves, 2, 0.5, l1, True, True)
    upstream = [torch.randn_like(y), torch.randn_like(p) if gate_used else torch.zeros_like(p)]
    wanted = torch.autograd.grad((y, p), leaves, upstream)
    actual = reference.pix_backward(
        upstream[0],
        upstream[1] if gate_used else None,
        y,
        z,
        p,
        choice,
        leaves[1],
        leaves[0] if l1 else None,
        2,
        0.5,
        True,
    )
    torch.testing.assert_close(actual, wanted)


def test_a_gate_of_zero_costs_the_layer_nothing():
    """sigmoid(-1000) is 0, and no gradient is lost by a division by it."""
    x, weight, bias = torch.randn(1, 4, 3, 3), torch.randn(2, 4), torch.tensor([-1000.0, 0.1])
    y, z, p, choice = reference.pix_forward(x, weight, bias, 2, 0.5, False, False, True)
    assert p[0, 0] == 0
    grads = reference.pix_backward(torch.ones_like(y), None, y, z, p, choice, weight, None, 2, 0.5, False)
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x, p = torch.randn(2, 9, 3, 3).to(dtype), torch.rand(2, 3)
    y, choice = reference.forward(x, p, 3, 0.5, False, True)
    wide, wide_choice = reference.forward(x.float(), p, 3, 0.5, False, True)
    assert y.dtype == dtype
    assert torch.equal(y, wide.to(dtype))
    assert torch.equal(choice, wide_choice)


def test_results_lie_as_the_input():
    x, p = torch.randn(2, 8, 3, 4), torch.rand(2, 4)
    for fmt in (torch.contiguous_format, torch.channels_last):
        y, choice = reference.forward(x.contiguous(memory_format=fmt), p, 2, 0.5, False, True)
        grad_x, _ = reference.backward(y, y, p, choice, 8, 2, 0.5, False)
        assert all(t.is_contiguous(memory_format=fmt) for t in (y, choice, grad_x))
