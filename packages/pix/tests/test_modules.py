"""The layer, and what it decides."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from pix import PiX, functional, pick_or_mix, pick_share, statistics


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), PiX(12, 4), nn.BatchNorm2d(3), nn.Dropout(), PiX(3, 3))


@pytest.mark.parametrize("options", [{}, {"bias": True}, {"context": "l1", "tau": 0.4}, {"count_short": True}])
@pytest.mark.parametrize("fused", [True, False])
def test_is_its_formula(options, fused):
    x = torch.randn(3, 7, 4, 5)
    layer = PiX(7, 2, fused=fused, **options)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    z = (x.abs() if options.get("context") == "l1" else x).mean((2, 3))
    p = torch.sigmoid(nn.functional.linear(z, layer.weight[:, :, 0, 0], layer.bias))
    wanted = pick_or_mix(x, p, 2, layer.tau, count_short=layer.count_short)
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer.gates(x), p)


def test_takes_the_weight_of_the_convolution_that_it_replaces():
    conv, x = nn.Conv2d(16, 4, 1), torch.randn(2, 16, 5, 5)
    layer = PiX(16, 4, bias=True)
    layer.load_state_dict(conv.state_dict())
    torch.testing.assert_close(layer.gates(x), conv(x.mean((2, 3), keepdim=True)).sigmoid()[:, :, 0, 0])


def test_extreme_thresholds_fix_the_operator():
    """tau = 0 is the paper's PiX(Avg), above 1 its PiX(Max)."""
    x = torch.randn(2, 8, 5, 5)
    for tau, wanted in ((0, x.unflatten(1, (2, 4)).mean(2)), (2, x.unflatten(1, (2, 4)).amax(2))):
        layer = PiX(8, 4, tau)
        torch.testing.assert_close(layer(x), layer.gates(x)[:, :, None, None] * wanted)


def test_one_channel_per_output_is_a_gate():
    x, layer = torch.randn(2, 8, 5, 5), PiX(8, 1)
    torch.testing.assert_close(layer(x), x * layer.gates(x)[:, :, None, None])


def test_starts_as_the_authors_do():
    layer = PiX(256, 4, bias=True)
    bound = math.sqrt(6 / (256 + 64))
    assert layer.weight.shape == (64, 256, 1, 1)
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert not layer.bias.any()
    assert PiX(8, 4).bias is None
    assert list(PiX(8, 4).state_dict()) == ["weight"]


@pytest.mark.parametrize("fused", [True, False])
def test_starts_on_the_meta_device(fused):
    source, x = PiX(8, 3, fused=fused), torch.randn(1, 8, 5, 5)
    layer = PiX(8, 3, fused=fused, device="meta", dtype=torch.float32)
    assert layer(x.to("meta")).shape == (1, 3, 5, 5)
    layer.to_empty(device="cpu").load_state_dict(source.state_dict())
    assert torch.equal(layer(x), source(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_runs_in_any_precision(dtype):
    layer, x = PiX(8, 4, dtype=dtype), torch.randn(2, 8, 5, 5, dtype=dtype)
    assert layer(x).dtype == dtype
    wide = copy.deepcopy(layer).float()
    torch.testing.assert_close(layer(x).float(), wide(x.float()).to(dtype).float())


def test_autocast_decides_in_float32():
    layer, x = PiX(8, 4), torch.randn(2, 8, 5, 5)
    for fused in (True, False):
        layer.fused = fused
        with torch.autocast("cpu", torch.bfloat16):
            y, p = layer(x), layer.gates(x)
        assert (y.dtype, p.dtype) == (torch.bfloat16, torch.float32)
        low = copy.deepcopy(layer).bfloat16()
        assert torch.equal(y, low(x.bfloat16()))
        assert torch.equal(p, low.gates(x.bfloat16()))


def test_copies_are_independent():
    layer, x = PiX(8, 4, tau=0.4, context="l1", bias=True), torch.randn(1, 8, 5, 5)
    wanted = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), wanted)
        nn.init.zeros_(other.weight)
        assert torch.equal(layer(x), wanted)


def test_ensembles_and_gradients_per_sample():
    layers, x = [PiX(8, 4, bias=True) for _ in range(3)], torch.randn(4, 8, 5, 5)
    parameters, buffers = torch.func.stack_module_state(layers)
    mapped = torch.func.vmap(lambda p, b: torch.func.functional_call(layers[0], (p, b), x))(parameters, buffers)
    torch.testing.assert_close(mapped, torch.stack([layer(x) for layer in layers]))
    layer, parameters = layers[0], {name: p.detach() for name, p in layers[0].named_parameters()}

    def loss(parameters, image):
        return torch.func.functional_call(layer, parameters, image[None]).square().sum()

    mapped = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i, image in enumerate(x):
        wanted = torch.autograd.grad(layer(image[None]).square().sum(), list(layer.parameters()))
        torch.testing.assert_close([mapped[name][i] for name in parameters], list(wanted))


def test_compiles_whole_and_unfused():
    for fused in (True, False):
        torch._dynamo.reset()
        layer, x = PiX(8, 4, fused=fused), torch.randn(2, 8, 5, 5, requires_grad=True)
        results = []
        for function in (torch.compile(layer, fullgraph=True), layer):
            y = function(x)
            results.append((y, *torch.autograd.grad(y.sin().sum(), (x, layer.weight))))
        torch.testing.assert_close(*results)


def test_symbolic_tracing_keeps_one_node():
    """As timm's and torchvision's feature extractors trace."""
    net, x = nn.Sequential(nn.Conv2d(3, 8, 1), PiX(8, 4), nn.ReLU()), torch.randn(1, 3, 5, 5)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net[1].forward(self.net[0](x)).relu()

    traced = torch.fx.symbolic_trace(Net())
    assert [node.target.__name__ for node in traced.graph.nodes if node.op == "call_function"] == ["pix"]
    assert torch.equal(traced(x), net(x))


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (lambda: PiX(256, 4), "PiX(256, 4)"),
        (lambda: PiX(8, 4, 2, bias=True), "PiX(8, 4, tau=2.0, bias=True)"),
        (
            lambda: PiX(8, 3, context="l1", count_short=True, fused=False),
            "PiX(8, 3, context='l1', count_short=True, fused=False)",
        ),
    ],
)
def test_prints_what_is_not_default(layer, text):
    assert repr(layer()) == text


# Statistics.


def test_shares_are_those_of_the_decisions():
    net = network().eval()
    images = torch.randn(7, 3, 9, 9)
    shares = pick_share(net, images)
    assert {name: share.shape for name, share in shares.items()} == {"2": (3,), "5": (1,)}
    with torch.no_grad():
        p = net[2].gates(net[:2](images))
    assert torch.equal(shares["2"], (p < 0.5).float().mean(0))


def test_shares_of_fixed_operators():
    x = torch.randn(4, 8, 5, 5)
    assert torch.equal(pick_share(PiX(8, 4, 0), x)[""], torch.zeros(2))
    assert torch.equal(pick_share(PiX(8, 4, 2), x)[""], torch.ones(2))


def test_batches_may_be_images_or_start_with_them():
    net, images, labels = network(), torch.randn(6, 3, 9, 9), torch.arange(6)
    wanted = pick_share(net, images)
    data = torch.utils.data.TensorDataset(images, labels)
    for batches in (torch.utils.data.DataLoader(data, batch_size=4), [images[:1], images[1:]], [(images, labels)]):
        actual = pick_share(net, batches)
        assert all(torch.equal(actual[name], share) for name, share in wanted.items())


def test_other_batches_are_refused():
    with pytest.raises(TypeError, match="batches must yield tensors, or tuples that start with one, but one is a dict"):
        pick_share(nn.Sequential(PiX(8, 4)), [{"image": torch.zeros(1, 8, 3, 3)}])
    with pytest.raises(ValueError, match="batches is empty"):
        pick_share(nn.Sequential(PiX(8, 4)), [])


def test_counting_leaves_the_model_as_it_was():
    net, images = network().train(), torch.randn(6, 3, 9, 9)
    net[4].eval()
    state = copy.deepcopy(net.state_dict())
    pick_share(net, images)
    assert [module.training for module in net] == [True, True, True, True, False, True]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_counting_during_training():
    net, images = network().train(), torch.randn(6, 3, 9, 9)
    with statistics.count_picks(net) as counts:
        for _ in range(2):
            net(images).sum().backward()
    assert {name: total for name, (_, total) in counts.items()} == {"2": 12, "5": 12}
    net(images)
    assert counts["2"][1] == 12
    assert net[0].weight.grad is not None


def test_inputs_may_be_named():
    layer, x = PiX(8, 4), torch.randn(6, 8, 5, 5)
    with statistics.count_picks(layer) as counts:
        layer(x=x)
    assert torch.equal(counts[""][0] / 6, pick_share(layer, x)[""])


def test_layers_that_do_not_run_are_left_out():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = PiX(8, 4), PiX(8, 4)

        def forward(self, x):
            return self.used(x)

    assert list(pick_share(Half(), torch.randn(1, 8, 3, 3))) == ["used"]


def test_gates_and_output_agree_with_one_call():
    layer, x = PiX(8, 4, bias=True), torch.randn(2, 8, 5, 5)
    y, p = functional.pix_and_gates(x, layer.weight, layer.bias, zeta=4)
    assert torch.equal(layer(x), y)
    assert torch.equal(layer.gates(x), p)
