"""Kept kernels within a pass: what is asked in every layer, and what once."""

from __future__ import annotations

import pytest
import torch
from four_layers import X, anew, close, network
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from csgconv import CSGConv2d


def in_order(layers: list[CSGConv2d], x: Tensor = X) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


# What is called alone before, and then in every pass. A pass that begins with the layer right after one that was called
# alone may be taken for the rest of that one's pass; not where that one made the kernels, unless it is the first.
ORDERS = [
    *(([n], [0, 1, 2, 3]) for n in range(4)),
    *(([n], [3, 2, 1, 0]) for n in range(4)),
    *(([n], [2, 3, 0, 1]) for n in range(4)),
    *(([n], [1, 0, 2, 0, 3]) for n in (1, 2, 3)),
    ([], [2, 3, 0, 1]),
]


@pytest.mark.parametrize(("before", "order"), ORDERS, ids=str)
def test_a_pass_in_any_order_sees_what_was_written_past_torch(before, order):
    net = network().eval()
    layers = [net[n] for n in order]
    with torch.no_grad():
        in_order([net[n] for n in before])
        for _ in range(3):
            net[0].generator.codes.data.mul_(1.5)
            close(in_order(layers), anew(layers))
            in_order(layers)


def test_a_look_at_a_kernel_is_no_part_of_a_pass(made):
    """It sees all that was written, and the pass that follows or goes on does."""
    net = network().eval()
    with torch.no_grad():
        for n in (2, 3, 0):
            net[0].generator.codes.data.mul_(1.5)
            close(net[n].weight, net[n].generator._alone(n))
            net[0].generator.codes.data.mul_(1.5)
            close(net(X), anew(net))
        count = len(made)
        half = net[:2](X)
        assert net[3].weight.shape == (5, 5, 3, 3)
        close(net[2:](half), anew(net))
    assert len(made) == count


WRITES = {
    "a write without gradients": lambda generator: generator.codes.mul_(2),
    "an optimizer's step": lambda generator: torch.optim.SGD(generator.parameters(), 0.1).step(),
    "load_state_dict": lambda generator: generator.load_state_dict(
        {name: value + 1 for name, value in generator.state_dict().items()}
    ),
    "a bias": lambda generator: generator.bias.add_(1),
    "another parameter": lambda generator: setattr(generator, "weight", nn.Parameter(generator.weight + 1)),
    "another storage": lambda generator: generator.codes.set_(generator.codes * 2),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("part", [1, 2, 3])
def test_what_torch_knows_of_is_seen_in_the_middle_of_a_pass(part, write):
    net = network(bias=True).eval()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():
        net(X)
        half = net[:part](X)
        WRITES[write](net[0].generator)
        close(net[part:](half), anew(net[part:], half))


@pytest.mark.parametrize("look", range(4))
def test_a_training_pass_sees_what_was_written_past_torch_after_a_look(look, made):
    net = network()
    assert net[look].weight.requires_grad
    net[0].generator.codes.data.mul_(2)
    close(net(X), anew(net))
    assert len(made) == 2


def test_a_training_pass_in_any_order_takes_one_product(made):
    net = network()
    for count, order in enumerate(([3, 2, 1, 0], [2, 3, 0, 1], [0, 1, 2, 3]), 1):
        out = in_order([net[n] for n in order])
        close(out, anew([net[n] for n in order]))
        out.sum().backward()
        assert len(made) == count


def test_a_pass_compares_values_once():
    net, sums = network().eval(), []
    with torch.no_grad():
        net(X)
        kept = net[0].generator._resting
        checksum = kept.checksum
        kept.checksum = lambda *sources: sums.append(checksum(*sources)) or sums[-1]
        for count in (1, 2, 3):
            net(X)
            assert len(sums) == count
        net.requires_grad_(False)
        with torch.enable_grad():
            net(X)
        assert len(sums) == 4 and net[0].generator._resting is kept


TRACERS = {
    "torch.jit.trace": lambda part, x: torch.jit.trace(part, x, check_trace=False),
    "make_fx": lambda part, x: make_fx(part)(x),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("tracer", TRACERS)
def test_what_is_traced_in_the_middle_of_a_pass_holds_no_kernel(tracer):
    net = network().eval().requires_grad_(False)
    with torch.no_grad():
        net(X)
        half = net[:2](X)
        program = TRACERS[tracer](net[2:], half)
        net[0].generator.codes.mul_(2)
        close(program(half), anew(net[2:], half))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_is_traced_past_module_calls_holds_no_kernel():
    """`torch.jit.trace` is asked about where a round begins, and layers that follow are in the same program."""

    class Forwards(nn.Sequential):
        def forward(self, x):
            for layer in self:
                x = layer.forward(x)
            return x

    net = Forwards(*network()).eval().requires_grad_(False)
    with torch.no_grad():
        net(X)
        net[0](X)  # layer 1 would go on
        program = torch.jit.trace(net, X, check_trace=False)
        net[0].generator.codes.mul_(2)
        close(program(X), anew(net))


@pytest.mark.parametrize("transform", ["vmap", "jvp", "dual"])
def test_what_is_transformed_in_the_middle_of_a_pass_is_right(transform):
    net = network().eval()
    with torch.no_grad():
        net(X)
        half, rest = net[:2](X), net[2:]
        wanted = rest(half)
        net[:2](X)
        if transform == "vmap":
            close(torch.vmap(lambda x: rest(x[None])[0])(half), wanted)
        elif transform == "jvp":
            close(torch.func.jvp(rest, (half,), (half,))[0], wanted)
        else:
            with torch.autograd.forward_ad.dual_level():
                close(rest(half), wanted)


@pytest.mark.parametrize("part", [0, 2])
def test_profiling_counts_the_product(part):
    from torch.utils.flop_counter import FlopCounterMode

    net = network().eval()
    with torch.no_grad():
        half = net[:part](X)
        with FlopCounterMode(display=False) as counter:
            net[part:](half)
    each = 2 * 6 * 3 * 16 * 9 + 2 * X.numel() * 5 * 9  # three live slices of each layer
    assert counter.get_total_flops() == (4 - part) * each
