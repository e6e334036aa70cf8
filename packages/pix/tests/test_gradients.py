"""What gradients flow, of which order, and what is kept for them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import pix
from pix import functional, ops, pick_or_mix, reference


@pytest.fixture(params=("reference", "native"), autouse=True)
def backend(request):
    torch.manual_seed(0)
    if request.param == "native" and ops.backends.why["cpu"]:
        pytest.skip(ops.backends.why["cpu"])
    with pix.use_backend(request.param):
        yield request.param


@pytest.mark.parametrize("context", functional.CONTEXTS)
@pytest.mark.parametrize("used", ["output", "gates", "both"])
@pytest.mark.parametrize("zeta", [1, 2, 3])
def test_the_fused_layer_learns_what_its_parts_learn(context, used, zeta):
    shapes = (3, 7, 4, 5), (-(-7 // zeta), 7, 1, 1), (-(-7 // zeta),)
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    results = []
    for fused in (True, False):
        y, p = functional.pix_and_gates(*leaves, zeta=zeta, tau=0.45, context=context, count_short=True, fused=fused)
        loss = {"output": y.sin().sum(), "gates": p.sin().sum(), "both": y.sin().sum() * p.square().sum()}[used]
        results.append((y, p, *torch.autograd.grad(loss, leaves)))
    torch.testing.assert_close(*results)


def test_a_gate_of_zero_costs_the_layer_nothing():
    """sigmoid(-1000) is 0, and no gradient is lost by a division by it."""
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((1, 4, 3, 3), (2, 4))]
    bias = torch.tensor([-1000.0, 0.1], requires_grad=True)
    y, p = functional.pix_and_gates(*leaves, bias, zeta=2)
    assert p[0, 0] == 0
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(y.sum(), (*leaves, bias)))


def test_gates_of_zero_get_their_gradient_where_wanted():
    """Also where the product with a gate underflows: y tells nothing of the gate there."""
    x, p = torch.randn(2, 6, 4, 5), torch.tensor([[0.0, 1.0, 1e-44], [0.3, -0.0, math.nan]])
    pairs = x.unflatten(1, (3, 2))
    wanted = torch.where(p < 0.5, pairs.amax(2).sum((2, 3)), pairs.mean(2).sum((2, 3)))
    for zero_gates in (False, True):
        leaf = p.clone().requires_grad_()
        y = pick_or_mix(x, leaf, 2, zero_gates=zero_gates)
        torch.testing.assert_close(y, pick_or_mix(x, p, 2), equal_nan=True)
        (grad,) = torch.autograd.grad(y.sum(), leaf)
        if zero_gates:
            torch.testing.assert_close(grad, wanted)
        else:
            assert grad[0, 0] == grad[1, 1] == 0
            torch.testing.assert_close(grad[[0, 1], [1, 0]], wanted[[0, 1], [1, 0]])


def test_straight_through_gates():
    """Gates of 0 and 1 that learn as their sigmoid would."""
    x, logits = torch.randn(2, 6, 4, 5).double(), torch.randn(2, 3).double().requires_grad_()
    soft = logits.sigmoid()
    hard = (soft > 0.5).double() + soft - soft.detach()
    pick_or_mix(x, hard, 2, zero_gates=True).sum().backward()
    pairs = x.unflatten(1, (3, 2))
    through = torch.where(soft > 0.5, pairs.mean(2).sum((2, 3)), pairs.amax(2).sum((2, 3)))
    torch.testing.assert_close(logits.grad, through * soft * (1 - soft))


@pytest.mark.parametrize("used", ["x", "p", "both"])
def test_higher_derivatives_are_those_of_the_formula(used):
    x, p = torch.randn(2, 7, 4, 3).double().requires_grad_(), torch.rand(2, 3).double().requires_grad_()
    leaves = {"x": [x], "p": [p], "both": [x, p]}[used]
    results = []
    for function in (pick_or_mix, reference.pick_or_mix):
        grads = torch.autograd.grad(function(x, p, 3).sin().sum(), leaves, create_graph=True)
        seconds = torch.autograd.grad(sum(grad.square().sum() for grad in grads), leaves, create_graph=True)
        thirds = torch.autograd.grad(sum(grad.sin().sum() for grad in seconds), leaves)
        results.append((*seconds, *thirds))
    torch.testing.assert_close(*results)


def test_the_parts_have_a_second_derivative_and_the_fused_layer_says_so():
    x, weight = torch.randn(2, 8, 4, 3).double(), torch.randn(4, 8).double().requires_grad_()
    inner = torch.func.grad(lambda x: functional.pix(x, weight, zeta=2).square().sum())
    with pytest.raises(NotImplementedError, match="pass fused=False to the function or to PiX"):
        torch.func.grad(lambda x: inner(x).square().sum())(x)
    assert torch.autograd.gradgradcheck(lambda weight: functional.pix(x, weight, zeta=2, fused=False), weight)


@pytest.mark.parametrize("context", functional.CONTEXTS)
def test_gradients_of_the_weight_alone_have_the_derivatives_of_the_formula(context):
    """Also by the input, which has no gradient where that of the weight is computed."""
    x, weight = torch.randn(2, 8, 4, 3).double(), torch.randn(4, 8).double()
    results = []
    for fused in (True, False):

        def of_weight(x, weight, fused=fused):
            def loss(weight):
                y, p = functional.pix_and_gates(x, weight, zeta=2, context=context, fused=fused)
                return y.square().sum() + p.sin().sum()

            return torch.func.grad(loss)(weight).square().sum()

        results.append(torch.func.grad(of_weight, (0, 1))(x, weight))
    torch.testing.assert_close(*results)


def saved(function) -> list[Tensor]:
    """What a call keeps for its backward pass."""
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        function()
    return kept


def test_the_input_is_not_kept():
    x, p = torch.randn(2, 8, 6, 6, requires_grad=True), torch.rand(2, 2, requires_grad=True)
    weight, out = torch.randn(2, 8, requires_grad=True), (2, 2, 6, 6)
    images = [t for t in saved(lambda: pick_or_mix(x, p, 4)) if t.dim() == 4]
    assert [(t.shape, t.dtype) for t in images] == [(out, torch.float32), (out, torch.uint8)]
    kept = saved(lambda: functional.pix(x, weight, zeta=4))
    assert sorted(tuple(t.shape) for t in kept) == sorted([out, out, (2, 8), (2, 2), (2, 8)])
    assert sum(t.nbytes for t in kept if t.dim() == 4) == 2 * 2 * 36 * 5
    kept = saved(lambda: functional.pix(x, weight, zeta=4, context="l1"))  # of whose pixels the signs are needed
    assert any(t.shape == x.shape for t in kept)


def test_no_choices_are_kept_without_a_gradient_of_the_input():
    x, p = torch.randn(2, 8, 6, 6), torch.rand(2, 2, requires_grad=True)
    weight = torch.randn(2, 8, requires_grad=True)
    for function in (lambda: pick_or_mix(x, p, 4), lambda: functional.pix(x, weight, zeta=4)):
        assert torch.uint8 not in [t.dtype for t in saved(function)]
        function().sum().backward()
    assert saved(lambda: pick_or_mix(x, p.detach(), 4)) == []


def test_choices_that_were_not_kept_are_missed_in_a_sentence():
    x, p = torch.randn(2, 8, 6, 6, requires_grad=True), torch.rand(2, 2)
    for y in (
        torch.ops.pix.pick_or_mix(x, p, 4, 0.5, False, False)[0],
        torch.ops.pix.pix(x, torch.randn(2, 8), None, 4, 0.5, False, False, False)[0],
    ):
        with pytest.raises(ValueError, match="keep must be true"):
            y.sum().backward()


def test_parts_without_gradients_stay_so_under_torch_func():
    """As a teacher's: what it computes has no gradient, but its input has."""
    x, weight, p = torch.randn(2, 8, 3, 3), torch.randn(2, 8), torch.rand(2, 2)
    for function in (lambda x: functional.pix(x, weight, zeta=4), lambda x: pick_or_mix(x, p, 4)):

        def loss(x, function=function):
            with torch.no_grad():
                target = function(x)
            return (x[:, :2] * target).sum()

        torch.testing.assert_close(torch.func.grad(loss)(x)[:, :2], function(x))


def test_checkpointed_layers_learn_the_same():
    x, weight = torch.randn(2, 8, 6, 6, requires_grad=True), torch.randn(2, 8, requires_grad=True)

    def layer(x):
        return functional.pix(x, weight, zeta=4).sin()

    wanted = torch.autograd.grad(layer(x).sum(), (x, weight))
    y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), (x, weight)), wanted)


def test_jacobians_by_mapped_gradients():
    x, weight = torch.randn(1, 4, 2, 2).double(), torch.randn(2, 4).double()
    for leaf, function in (
        (x, lambda x: functional.pix(x, weight, zeta=2)),
        (weight, lambda weight: functional.pix(x, weight, zeta=2)),
        (weight, lambda weight: functional.pix_and_gates(x, weight, zeta=2)[1]),
        (x, lambda x: pick_or_mix(x, torch.tensor([[0.2, 0.7]]).double(), 2)),
    ):
        wanted = torch.autograd.functional.jacobian(function, leaf)
        torch.testing.assert_close(torch.func.jacrev(function)(leaf), wanted)
        torch.testing.assert_close(torch.autograd.functional.jacobian(function, leaf, vectorize=True), wanted)
