"""What gradients flow, of which order, and what is kept for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import smpconv
from smpconv import causal_conv1d_long, conv2d_long, depthwise_conv2d, ops, rasterize, reference


@pytest.fixture(params=("reference", "native"), autouse=True)
def backend(request):
    torch.manual_seed(0)
    if request.param == "native" and ops.backends.why["cpu"]:
        pytest.skip(ops.backends.why["cpu"])
    with smpconv.use_backend(request.param):
        yield request.param


def points(g: int, n: int, d: int, c: int) -> list[Tensor]:
    coords, radius, weight = torch.rand(g, n, d) * 2 - 1, torch.rand(g, n) * 0.4 + 0.2, torch.randn(g, c, n)
    return [t.double().requires_grad_() for t in (coords, radius, weight)]


@pytest.mark.parametrize("average", [False, True], ids=["plain", "average"])
@pytest.mark.parametrize("flip", [False, True], ids=["as is", "flip"])
def test_numerical_gradients_of_points(average, flip):
    leaves = points(2, 4, 2, 3)
    assert torch.autograd.gradcheck(lambda *t: rasterize(*t, (5, 6), average=average, flip=flip), leaves)
    leaves = points(2, 4, 1, 3)
    assert torch.autograd.gradcheck(lambda *t: rasterize(*t, 7, average=average, flip=False), leaves)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["coords", "radius", "weight"])
def test_each_argument_alone(which):
    leaves = points(2, 4, 2, 3)
    kernel = rasterize(*leaves, 5, average=True, flip=True)
    wanted = torch.autograd.grad(kernel.sin().sum(), leaves)[which]
    alone = [t if i == which else t.detach() for i, t in enumerate(leaves)]
    (grad,) = torch.autograd.grad(rasterize(*alone, 5, average=True, flip=True).sin().sum(), leaves[which])
    assert torch.equal(grad, wanted)


def test_second_derivatives_of_points_are_refused_and_the_formula_has_them():
    leaves = points(1, 3, 2, 2)
    grads = torch.autograd.grad(rasterize(*leaves, 5, average=False, flip=True).sin().sum(), leaves, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"no second derivative: use smpconv\.reference\.rasterize"):
        torch.autograd.grad(sum(grad.sum() for grad in grads), leaves)
    assert torch.autograd.gradgradcheck(lambda *t: reference.rasterize(*t, 5, average=False, flip=True), leaves)


def saved(function) -> list[Tensor]:
    """What a call keeps for its backward pass."""
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        function()
    return kept


def test_nothing_is_kept_but_the_points():
    leaves = points(1, 240, 2, 96)
    kept = saved(lambda: rasterize(*leaves, 31, average=False, flip=True))
    assert sorted(t.data_ptr() for t in kept) == sorted(t.data_ptr() for t in leaves)


def test_the_convolution_keeps_what_wanted_gradients_read():
    x, weight = torch.randn(1, 2, 5, 5), torch.randn(2, 3, 3)
    for needs in ((True, False), (False, True)):
        image, kernel = (t.clone().requires_grad_(need) for t, need in zip((x, weight), needs))
        kept = saved(lambda image=image, kernel=kernel: depthwise_conv2d(image, kernel))
        assert [tuple(t.shape) for t in kept] == [tuple((weight if needs[0] else x).shape)]


@pytest.mark.parametrize("algorithm", ["direct", "fft"])
def test_numerical_gradients_of_convolutions(algorithm):
    def leaves(*shapes):
        return [torch.randn(shape).double().requires_grad_() for shape in shapes]

    for function, tensors in (
        (depthwise_conv2d, leaves((2, 2, 3, 4), (2, 5, 3), (2,))),
        (conv2d_long, leaves((1, 2, 3, 4), (2, 2, 5, 3), (2,))),
        (causal_conv1d_long, leaves((2, 2, 5), (3, 2, 4), (3,))),
    ):
        tested = lambda *t, function=function: function(*t, algorithm=algorithm)  # noqa: E731
        assert torch.autograd.gradcheck(tested, tensors)
        assert torch.autograd.gradgradcheck(tested, tensors)


def test_gradients_reach_the_points_through_a_layer():
    layer, x = smpconv.SMPDepthwiseConv2d(3, 7, 5, radius=0.5, dtype=torch.float64), torch.randn(2, 3, 6, 6).double()
    parameters = list(layer.parameters())
    grads = torch.autograd.grad(layer(x).sin().sum(), parameters)
    kernel = reference.rasterize(*parameters, 7, average=False, flip=True)
    y = torch.nn.functional.conv2d(x, kernel[0][:, None], padding=3, groups=3)
    torch.testing.assert_close(grads, torch.autograd.grad(y.sin().sum(), parameters))


def test_gradients_per_sample_and_jacobians():
    coords, radius, weight = (t.detach() for t in points(1, 4, 2, 3))
    for which in range(3):
        leaves = [coords, radius, weight]

        def function(t, which=which, leaves=leaves):
            return rasterize(*(t if i == which else leaf for i, leaf in enumerate(leaves)), 3, average=True, flip=True)

        wanted = torch.autograd.functional.jacobian(function, leaves[which])
        torch.testing.assert_close(torch.func.jacrev(function)(leaves[which]), wanted)


def test_tensors_that_left_a_transformed_function_are_drawn():
    """They are wrapped still; the way past most questions is not for them."""
    coords, radius, weight = points(1, 4, 2, 3)
    kept: list[Tensor] = []
    torch.func.grad(lambda t: (kept.append(t), t.sum())[1])(coords.detach())
    wanted = rasterize(coords, radius, weight, 5, average=False, flip=True)
    kernel = rasterize(kept[0], radius, weight, 5, average=False, flip=True)
    assert torch.equal(kernel, wanted)
    grads = (torch.autograd.grad(k.sin().sum(), (radius, weight)) for k in (kernel, wanted))
    assert all(map(torch.equal, *grads))
