"""`CSGConv2d`: a convolution as torch's, in networks that are copied, stored, averaged and taken apart."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from csgconv import CSGConv2d, SliceGenerator, generators, load_generator


def network(**options) -> nn.Sequential:
    generator = SliceGenerator(6, (4, 4, 3, 3), **options)
    layers = [CSGConv2d(3, 8, 3, generator), CSGConv2d(8, 8, 3, generator, padding=1), CSGConv2d(8, 4, 3, generator)]
    return nn.Sequential(layers[0], nn.BatchNorm2d(8), layers[1], nn.ReLU(), layers[2])


OPTIONS = {
    "plain": {},
    "strided": {"stride": (2, 1), "padding": (1, 0)},
    "dilated": {"dilation": 2, "padding": "same"},
    "valid": {"padding": "valid", "bias": False},
    "reflect": {"padding": (2, 1), "padding_mode": "reflect"},
    "circular same": {"padding": "same", "padding_mode": "circular"},
    "grouped": {"groups": 2, "layout": "flat"},
    "depthwise": {"groups": 4, "layout": "flat", "kernel_size": (5, 3)},
    "tile": {"layout": "tile"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_computes_what_conv2d_does(name):
    options = dict(OPTIONS[name])
    layout, size = options.pop("layout", None), options.pop("kernel_size", 3)
    generator = SliceGenerator(6, (4, 4, 3, 3), dtype=torch.float64)
    layer = CSGConv2d(4, 8, size, generator, **options, layout=layout, dtype=torch.float64)
    plain = nn.Conv2d(4, 8, size, **options, dtype=torch.float64)
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
        if layer.bias is not None:
            plain.bias.copy_(nn.init.normal_(layer.bias))
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    assert torch.equal(layer(x), plain(x))
    for attribute in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(layer, attribute) == getattr(plain, attribute)


def test_one_name_for_everything_in_the_state_dict():
    net = network(bias=True)
    names = [name for name in net.state_dict() if "generator" in name]
    assert names == ["0.generator.weight", "0.generator.codes", "0.generator.bias"]
    assert len(list(net.parameters())) == 3 + 3 + 2
    assert generators(net) == [net[0].generator] == generators(net[2:])


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "save"])
def test_copies_after_a_training_step_share_as_the_network_does(way):
    net, x = network(), torch.randn(2, 3, 9, 9)
    net(x).sum().backward()
    wanted = net.eval()(x)
    net.train()(x)
    if way == "deepcopy":
        other = copy.deepcopy(net)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(net))
    else:
        file = io.BytesIO()
        torch.save(net, file)
        assert len(file.getvalue()) < 60_000
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert other[0].generator is other[4].generator is not net[0].generator
    net.eval()
    other.load_state_dict(net.state_dict())
    wanted = net(x)
    assert torch.equal(other.eval()(x), wanted)
    with torch.no_grad():
        other[4].generator.codes.zero_()
    assert torch.equal(net(x), wanted) and not torch.equal(other(x), wanted)


def test_averages_follow_the_parameters():
    from timm.utils import ModelEmaV3

    net, x = network(), torch.randn(2, 3, 9, 9)
    averages = [ModelEmaV3(net, decay=0.5), AveragedModel(net, avg_fn=lambda old, new, count: (old + new) / 2)]
    averages[1].update_parameters(net)  # the first time it copies
    codes = net[0].generator.codes.detach().clone()
    with torch.no_grad():
        net(x)
        net[0].generator.codes.add_(1)
        for average in averages:
            average.module.eval()(x)
    averages[0].update(net)
    averages[1].update_parameters(net)
    for average in averages:
        generator = average.module[4].generator
        torch.testing.assert_close(generator.codes, codes + 0.5)
        with torch.no_grad():
            kernel = kernel_anew(generator, 2)
        torch.testing.assert_close(average.module[4].weight, kernel)


def test_averages_follow_a_binary_generator_that_was_loaded():
    """They copy its bits, which are integers, and know nothing of W."""
    from timm.utils import ModelEmaV3

    net, x = network(binary=True).eval(), torch.randn(2, 3, 9, 9)
    averages = [ModelEmaV3(net, decay=0.5), AveragedModel(net, use_buffers=False)]
    with torch.no_grad():
        for average in averages:
            average.module.eval()(x)
    load_generator(net, network(binary=True).state_dict())
    averages[0].update(net)
    averages[1].update_parameters(net)
    with torch.no_grad():
        for average in averages:
            torch.testing.assert_close(average.module(x), net(x))
            average.module[0](x)
            average.module[0].generator.get_buffer("bits").copy_(~net[0].generator.get_buffer("bits"))
            torch.testing.assert_close(average.module[4].weight, -net[4].weight)


@pytest.mark.parametrize("grad, inference", [(False, False), (True, False), (False, True)])
def test_a_binary_generator_follows_bits_in_place_of_its_own(grad, inference):
    """A state dict holds the bits and no W; those of two networks have been written as often."""
    net, other, x = network(binary=True).eval(), network(binary=True).eval(), torch.randn(2, 3, 9, 9)
    with torch.inference_mode(inference):
        state = {name: value.clone() if inference else value for name, value in other.state_dict().items()}
    with torch.set_grad_enabled(grad):
        for _ in range(2):
            own, wanted = net(x), other(x)
            torch.testing.assert_close(torch.func.functional_call(net, state, (x,)), wanted)
            torch.testing.assert_close(net(x), own)
    first, second = net[0].generator, other[0].generator
    with torch.no_grad():
        first.bits, first.codes[:] = state["0.generator.bits"], second.codes
        for _ in range(2):  # the second time of kept kernels
            torch.testing.assert_close(net(x), wanted)


def test_binary_generators_of_an_ensemble_keep_their_bits():
    """`torch.vmap` over the stacked state dicts of two networks."""
    nets, x = [network(binary=True).eval() for _ in range(2)], torch.randn(2, 3, 9, 9)
    states = {name: torch.stack([net.state_dict()[name] for net in nets]) for name in nets[0].state_dict()}
    with torch.no_grad():
        found = torch.vmap(lambda state: torch.func.functional_call(nets[0], state, (x,)))(states)
        torch.testing.assert_close(found, torch.stack([net(x) for net in nets]))


def kernel_anew(generator: SliceGenerator, index: int) -> torch.Tensor:
    """Without what is kept."""
    other = copy.deepcopy(generator)
    return other.kernel(index)


def test_functional_call_and_torch_func_see_other_parameters():
    net, x = network().eval(), torch.randn(2, 3, 9, 9)
    others = {name: torch.randn_like(value) / 4 for name, value in net.named_parameters()}
    changed = copy.deepcopy(net)
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            parameter.copy_(others[name])
    before = net(x)
    torch.testing.assert_close(torch.func.functional_call(net, others, (x,)), changed(x))
    grads = torch.func.grad(lambda p: torch.func.functional_call(net, p, (x,)).square().mean())(others)
    wanted = torch.autograd.grad(changed(x).square().mean(), list(changed.parameters()))
    for name, grad in zip(grads, wanted):
        torch.testing.assert_close(grads[name], grad, rtol=1e-4, atol=1e-4)
    assert torch.equal(net(x), before)


def test_parametrized_codes_make_other_kernels():
    net = network()

    class Half(nn.Module):
        def forward(self, codes):
            return codes / 2

    wanted = net[4].weight / 2
    nn.utils.parametrize.register_parametrization(net[0].generator, "codes", Half())
    torch.testing.assert_close(net[4].weight, wanted)
    net(torch.randn(2, 3, 9, 9)).sum().backward()
    assert net[0].generator.parametrizations.codes.original.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["codes", "weight", "bias"])
@pytest.mark.parametrize("way", ["prune", "weight_norm"])
def test_hooks_that_would_not_run_are_refused(way, name):
    net, x = network(bias=True), torch.randn(2, 3, 9, 9)
    generator = net[0].generator
    nn.init.normal_(generator.bias)
    net(x)
    if way == "prune":
        prune.l1_unstructured(generator, name, 0.2)
    else:
        nn.utils.weight_norm(generator, name, dim=None)
    for training in (True, False):
        with pytest.raises(RuntimeError, match=f"^{name} of the SliceGenerator is made by a hook.*parametrize,"):
            net.train(training)(x)
    prune.remove(generator, name) if way == "prune" else nn.utils.remove_weight_norm(generator, name)
    generator.register_forward_pre_hook(lambda *_: None)
    nn.utils.parametrizations.weight_norm(generator, "weight")
    net(x).sum().backward()
    assert generator.codes.grad.abs().sum() > 0


def test_a_parametrized_generator_learns_and_is_never_old():
    net, x = network(), torch.randn(2, 3, 9, 9)
    nn.utils.parametrizations.weight_norm(net[0].generator, "weight")
    optimizer, losses = torch.optim.SGD(net.parameters(), 0.01), []
    for _ in range(3):
        optimizer.zero_grad()
        losses.append(net(x).square().mean())
        losses[-1].backward()
        optimizer.step()
        with torch.no_grad():
            assert not torch.isclose(net(x).square().mean(), losses[-1])
    assert losses[2] < losses[1] < losses[0]


def test_frozen_generator_leaves_codes_to_learn():
    net = network()
    net[0].generator.weight.requires_grad_(False)
    net(torch.randn(2, 3, 9, 9)).square().sum().backward()
    assert net[0].generator.weight.grad is None
    assert all(net[0].generator.codes.grad[live].any(1).all() for live, _ in map(net[0].generator.rows, range(3)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_dtype(dtype):
    net, x = network().to(dtype).eval(), torch.randn(1, 3, 9, 9, dtype=dtype)
    out = net(x)
    out.sum().backward()
    assert out.dtype == net[0].generator.codes.grad.dtype == dtype


def test_autocast_makes_low_kernels_of_float32_masters():
    net, x = network(), torch.randn(2, 3, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        out, kernel = net(x), net[4].weight
        with torch.no_grad():
            assert net[4].weight.dtype == torch.bfloat16
    out.float().sum().backward()
    generator = net[0].generator
    assert kernel.dtype == torch.bfloat16 and generator.codes.grad.dtype == torch.float32
    low = F.linear(generator.codes.bfloat16(), generator.weight.bfloat16())
    assert torch.equal(kernel.flatten(), low[generator.rows(2)[0].start :].flatten()[: kernel.numel()])
    with torch.no_grad():
        assert net[4].weight.dtype == torch.float32


def test_says_what_it_is():
    layer = CSGConv2d(4, 8, 3, SliceGenerator(6, (4, 4, 3, 3)), padding=1, layout="tile", bias=False)
    assert layer.extra_repr() == "4, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), layout='tile', bias=False"


def test_symbolic_trace_takes_the_parameters():
    net, x = network().eval(), torch.randn(2, 3, 9, 9)
    traced = torch.fx.symbolic_trace(net)
    with torch.no_grad():
        traced.get_parameter("0.generator.codes").mul_(2)
    torch.testing.assert_close(traced(x), net(x))
    traced(x).sum().backward()
    assert net[0].generator.codes.grad is not None
