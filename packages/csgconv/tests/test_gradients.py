"""Gradients of all kernels at once, of first and second order, wherever kernels are missing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from csgconv import CSGConv2d, SliceGenerator, product

LAYOUTS = {
    "raster": {"layout": "raster", "slice_shape": (4, 4, 1, 1)},
    "dense": {"layout": "raster", "slice_shape": (2, 2, 1, 1), "channels": 4},
    "tile": {"layout": "tile", "slice_shape": (2, 3, 1, 1)},
    "tile of full blocks": {"layout": "tile", "slice_shape": (2, 2, 1, 1), "channels": 4},
    "flat": {"layout": "flat", "slice_shape": (2, 3, 1, 1)},
}


def generator_of(name: str, bias: bool = True) -> SliceGenerator:
    """For three layers of 5 to 5 channels, unless said."""
    options = dict(LAYOUTS[name])
    channels, slice_shape = options.pop("channels", 5), options.pop("slice_shape")
    generator = SliceGenerator(3, slice_shape, bias=bias, **options, dtype=torch.float64)
    for _ in range(3):
        CSGConv2d(channels, channels, 1, generator)
    return generator


@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_of_first_and_second_order(name):
    generator = generator_of(name)
    sources = [generator.codes, generator.weight, generator.bias]

    def function(*sources):
        kept = type("Kept", (), {"spend": lambda self: None})()
        return product.Generate.apply(generator._plan, torch.float64, lambda: kept, *sources)

    assert torch.autograd.gradcheck(function, sources)
    assert torch.autograd.gradgradcheck(function, sources)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_kernels_without_a_gradient(name, used):
    generator = generator_of(name)
    sources = [generator.codes, generator.weight, generator.bias]
    kernels = generator.kernels()
    grads = torch.autograd.grad(sum(kernels[n].sin().sum() for n in used), sources)
    wanted = torch.autograd.grad(sum(generator._alone(n).sin().sum() for n in used), sources)
    torch.testing.assert_close(grads, wanted)


@pytest.mark.parametrize("learns", ["codes", "weight", "bias"])
def test_only_what_learns_gets_a_gradient(learns):
    generator = generator_of("raster")
    generator.requires_grad_(False)
    parameter = getattr(generator, learns).requires_grad_()
    sum(kernel.square().sum() for kernel in generator.kernels()).backward()
    grads = {name: p.grad for name, p in generator.named_parameters()}
    assert [name for name, grad in grads.items() if grad is not None] == [learns]
    (wanted,) = torch.autograd.grad(sum(generator._alone(n).square().sum() for n in range(3)), parameter)
    torch.testing.assert_close(parameter.grad, wanted)


def test_dead_codes_have_no_gradient():
    generator = SliceGenerator(6, (12, 12, 3, 3))
    layer = CSGConv2d(16, 16, 3, generator)
    layer.weight.sum().backward()
    live, dead = generator.rows(0)
    assert generator.codes.grad[live].any(1).all() and not generator.codes.grad[dead].any()


def test_a_gradient_penalty_trains_through_the_layer():
    net = nn.Sequential(
        *(CSGConv2d(5, 5, 1, generator_of("raster", bias=False), dtype=torch.float64) for _ in range(2))
    )
    x = torch.randn(2, 5, 3, 3, dtype=torch.float64, requires_grad=True)

    def penalty() -> torch.Tensor:
        (grad,) = torch.autograd.grad(net(x).sin().sum(), x, create_graph=True)
        return grad.square().sum()

    parameters = [layer.generator.codes for layer in net]
    grads = torch.autograd.grad(penalty(), parameters)
    for parameter, grad in zip(parameters, grads):
        direction = torch.randn_like(parameter)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
            values.append(penalty().item())
            with torch.no_grad():
                parameter.sub_(direction, alpha=step)
        assert (values[0] - values[1]) / 2e-5 == pytest.approx((grad * direction).sum().item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", ["raster", "tile"])
def test_gradients_of_several_outputs_at_once(name):
    generator = generator_of(name)
    sources, outputs = list(generator.parameters()), torch.stack([kernel.sin().sum() for kernel in generator.kernels()])
    every = torch.eye(3, dtype=torch.float64)
    found = torch.autograd.grad(outputs, sources, every, is_grads_batched=True, retain_graph=True)
    wanted = [torch.autograd.grad(output, sources, retain_graph=True) for output in outputs]
    torch.testing.assert_close(list(found), [torch.stack(grads) for grads in zip(*wanted)])


def test_gradients_of_channels_last_kernels():
    generator = SliceGenerator(6, (4, 4, 3, 3), dtype=torch.float64)
    layer = CSGConv2d(5, 6, 3, generator, dtype=torch.float64)
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    grads = [
        torch.autograd.grad(layer(image).sin().sum(), list(generator.parameters()))
        for image in (x, x.contiguous(memory_format=torch.channels_last))
    ]
    torch.testing.assert_close(*grads)
