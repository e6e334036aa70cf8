"""`OrientedConv1d`: its angles and offsets through everything that happens to a layer in its life."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import nn

from dwoconv1d import OrientedConv1d, assign_angles, oriented_conv1d, tap_offsets


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def by_function(layer: OrientedConv1d, x: torch.Tensor, angle: torch.Tensor | None = None) -> torch.Tensor:
    options = {
        "stride": layer.stride,
        "dilation": layer.dilation,
        "residual": layer.residual,
        "rounding": layer.rounding,
    }
    return oriented_conv1d(x, layer.weight, layer.angle if angle is None else angle, layer.bias, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "bias": False},
        {"stride": (1, 3), "dilation": 2, "residual": True},
        {"rounding": "nearest", "directions": 4, "offset": 0.5},
        {"angle": 0.3},
        {"angle": [0.1 * i for i in range(8)]},
        {"angle": torch.linspace(-1, 1, 8, dtype=torch.float64)},
    ],
)
def test_is_the_function(options):
    layer, x = OrientedConv1d(8, 7, **options), torch.randn(2, 8, 9, 10)
    assert torch.equal(layer(x), by_function(layer, x))
    assert (layer.bias is None) == ("bias" in options)


def test_angles_of_the_constructor():
    assert torch.equal(OrientedConv1d(12, 3).angle, assign_angles(12))
    assert torch.equal(OrientedConv1d(12, 3, directions=4, offset=0.5).angle, assign_angles(12, 4, 0.5))
    assert torch.equal(OrientedConv1d(3, 3, angle=1).angle, torch.ones(3))
    mine = torch.ones(3)
    layer = OrientedConv1d(3, 3, angle=mine)
    mine.zero_()
    assert torch.equal(layer.angle, torch.ones(3))


def test_state_holds_angles_but_no_offsets():
    layer = OrientedConv1d(8, 7)
    assert set(layer.state_dict()) == {"weight", "bias", "angle"}
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}
    assert {name for name, _ in layer.named_buffers()} == {"angle", "offsets"}
    assert layer.weight.shape == (8, 7)
    assert layer.offsets.dtype == torch.int32


def test_starts_as_conv2d_does():
    """Uniform in +-1 / sqrt(K), weight and bias."""
    torch.manual_seed(0)
    layer, conv = OrientedConv1d(4096, 9), nn.Conv2d(4096, 4096, (1, 9), groups=4096)
    for name in ("weight", "bias"):
        ours, theirs = getattr(layer, name), getattr(conv, name)
        assert ours.abs().max() <= 1 / 3
        assert abs(ours.std() - theirs.std()) < 0.01
        assert abs(ours.mean()) < 0.01


@pytest.mark.parametrize("move", ("half", "bfloat16", "double"))
def test_angles_stay_float32(move):
    angle = torch.rand(8) * 3
    layer = OrientedConv1d(8, 31, angle=angle)
    offsets = layer.offsets.clone()
    getattr(nn.Sequential(layer), move)()
    assert layer.weight.dtype == layer.bias.dtype != torch.float32
    assert torch.equal(layer.angle, angle)
    assert layer.angle.dtype == torch.float32
    x = torch.randn(1, 8, 9, 9, dtype=layer.weight.dtype)
    assert torch.equal(layer(x), by_function(layer, x))
    assert torch.equal(layer.offsets, offsets)
    assert torch.equal(layer.float().angle, angle)


def test_offsets_follow_a_change_of_angles():
    layer, x = OrientedConv1d(8, 7), torch.randn(1, 8, 9, 9)
    layer(x)
    with torch.no_grad():
        layer.angle.fill_(0.7)
    assert torch.equal(layer(x), by_function(layer, x, torch.full((8,), 0.7)))
    layer.angle[3] = -2.0
    assert torch.equal(layer(x), by_function(layer, x, layer.angle.clone()))
    layer.angle = torch.linspace(0, 3, 8, dtype=torch.float64)
    assert torch.equal(layer(x), by_function(layer, x, torch.linspace(0, 3, 8, dtype=torch.float64).float()))
    layer.load_state_dict({**layer.state_dict(), "angle": torch.full((8,), 1.2)})
    expected = torch.stack(tap_offsets(7, torch.full((8,), 1.2))).int()
    assert torch.equal(layer.offsets, expected)  # before any call: compiled code never asks
    layer.load_state_dict({**layer.state_dict(), "angle": torch.full((8,), 0.2).double()}, assign=True)
    assert torch.equal(layer(x), by_function(layer, x, torch.full((8,), 0.2)))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_coarse_angles_are_refused(dtype):
    """In half precision a right angle is so far off that every tap of a vertical line would move by one pixel."""
    x, weight, coarse = torch.randn(1, 8, 9, 9), torch.randn(8, 7), assign_angles(8).to(dtype)
    layer = OrientedConv1d(8, 7)
    for assign in (False, True):
        with pytest.raises(RuntimeError, match=r"angle: angle is torch.*too coarse"):
            OrientedConv1d(8, 7).load_state_dict({**layer.state_dict(), "angle": coarse}, assign=assign)
    with pytest.raises(TypeError, match="too coarse"):
        oriented_conv1d(x, weight, coarse)
    with pytest.raises(TypeError, match="too coarse"):
        OrientedConv1d(8, 7, angle=coarse)
    layer.angle = coarse
    with pytest.raises(TypeError, match="too coarse"):
        layer(x)


def test_bad_changes_of_angles_are_refused():
    layer, x = OrientedConv1d(8, 7), torch.randn(1, 8, 9, 9)
    layer.angle[2] = math.nan
    with pytest.raises(ValueError, match=r"angle\[2\] is nan"):
        layer(x)
    layer.angle = torch.zeros(3)
    with pytest.raises(ValueError, match=r"angle must have shape \(8,\)"):
        layer(x)
    with pytest.raises(RuntimeError, match=r"1.angle: angle must be finite"):
        nn.Sequential(nn.ReLU(), OrientedConv1d(8, 7)).load_state_dict(
            {
                f"1.{k}": v
                for k, v in (OrientedConv1d(8, 7).state_dict() | {"angle": torch.full((8,), math.inf)}).items()
            }
        )


@pytest.mark.parametrize("bad", [{"kernel_size": 0}, {"angle": [0.0, 1.0]}, {"angle": math.nan}, {"stride": 0}])
def test_bad_arguments_are_refused_at_construction(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        OrientedConv1d(**{"channels": 8, "kernel_size": 7, **bad})


def test_angles_that_look_like_degrees_warn_in_the_constructor_alone():
    with pytest.warns(UserWarning, match=r"^angle is in radians, but its largest is 90: use torch\.deg2rad") as caught:
        layer = OrientedConv1d(2, 7, angle=[0, 90])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(torch.randn(1, 2, 9, 9))
        OrientedConv1d(2, 7, angle=-2 * math.pi)


@pytest.mark.parametrize("bad", [{"dilation": 0}, {"rounding": "floor"}, {"directions": 0}])
def test_bad_options_are_refused_at_construction(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        OrientedConv1d(8, 7, **bad)


def test_starts_on_the_meta_device():
    source, x = OrientedConv1d(8, 7, angle=torch.rand(8)), torch.randn(1, 8, 9, 9)
    with torch.device("meta"):
        under = OrientedConv1d(8, 7)
    for layer in (OrientedConv1d(8, 7, device="meta"), under):
        assert layer(x.to("meta")).shape == (1, 8, 9, 9)
        layer.to_empty(device="cpu").load_state_dict(source.state_dict())
        assert torch.equal(layer(x), source(x))
    layer = OrientedConv1d(8, 7, device="meta", directions=4).to_empty(device="cpu")
    layer.reset_parameters()
    assert torch.equal(layer.angle, assign_angles(8, 4))
    assert torch.equal(layer(x), by_function(layer, x))
    layer = OrientedConv1d(8, 7, device="meta")
    layer.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(layer(x), source(x))


def test_copies_are_independent():
    layer, x = OrientedConv1d(8, 7), torch.randn(1, 8, 9, 9)
    wanted = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), wanted)
        other.angle.fill_(0.7)
        assert torch.equal(other(x), by_function(other, x, torch.full((8,), 0.7)))
        assert torch.equal(layer(x), wanted)


def test_copies_of_a_changed_layer_follow_their_own_angles():
    """A copy's tensor counts its changes from the start again, and may arrive at the number that the original had."""
    layer, x = OrientedConv1d(8, 7), torch.randn(1, 8, 9, 9)
    for _ in range(3):
        layer.angle.fill_(0.1)
    layer(x)
    for changes in range(1, 5):
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            for _ in range(changes):
                other.angle.fill_(0.7)
            assert torch.equal(other(x), by_function(other, x, torch.full((8,), 0.7)))


def test_works_in_inference_mode():
    with torch.inference_mode():
        layer, x = OrientedConv1d(8, 7), torch.randn(1, 8, 9, 9)
        wanted = layer(x)
    assert torch.equal(layer(x), wanted)


def test_functional_call_takes_other_angles():
    layer, x = OrientedConv1d(8, 7), torch.randn(1, 8, 9, 9)
    wanted, angle = layer(x), torch.full((8,), 0.7)
    assert torch.equal(torch.func.functional_call(layer, {"angle": angle}, x), by_function(layer, x, angle))
    assert torch.equal(layer(x), wanted)


def test_ensembles_run_under_vmap():
    layers, x = [OrientedConv1d(8, 7, angle=float(i)) for i in range(3)], torch.randn(2, 8, 9, 9)
    wanted = torch.stack([layer(x) for layer in layers])
    parameters, buffers = torch.func.stack_module_state(layers)
    template = copy.deepcopy(layers[0])
    mapped = torch.func.vmap(lambda p, b: torch.func.functional_call(template, (p, b), x))(parameters, buffers)
    torch.testing.assert_close(mapped, wanted)
    assert torch.equal(template(x), wanted[0])


def test_gradients_per_sample():
    layer, x = OrientedConv1d(8, 7), torch.randn(4, 8, 9, 9)
    parameters = dict(layer.named_parameters())

    def loss(parameters, image):
        return torch.func.functional_call(layer, parameters, image[None]).square().sum()

    mapped = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(
        {k: v.detach() for k, v in parameters.items()}, x
    )
    for i, image in enumerate(x):
        wanted = torch.autograd.grad(layer(image[None]).square().sum(), list(parameters.values()))
        torch.testing.assert_close([grads[i] for grads in mapped.values()], list(wanted), rtol=1e-4, atol=1e-4)


def test_symbolic_tracing_keeps_one_node():
    """As timm's and torchvision's feature extractors trace."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = OrientedConv1d(8, 7, stride=2)

        def forward(self, x):
            return self.layer(x).relu()

    net, x = Net(), torch.randn(1, 8, 9, 9)
    traced = torch.fx.symbolic_trace(net)
    assert [node.target.__name__ for node in traced.graph.nodes if node.op == "call_function"] == ["oriented_conv1d_at"]
    assert torch.equal(traced(x), net(x))


def test_compiled_code_sees_loaded_angles():
    torch._dynamo.reset()
    layer, x = OrientedConv1d(8, 7), torch.randn(1, 8, 9, 9)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    compiled(x)
    layer.load_state_dict({**layer.state_dict(), "angle": torch.full((8,), 1.2)})
    assert torch.equal(compiled(x), by_function(layer, x, torch.full((8,), 1.2)))


def test_training_follows_the_same_path_as_the_dense_layer():
    """Ten steps of SGD on a horizontal line, beside `nn.Conv2d` with the same start."""
    layer, conv = OrientedConv1d(8, 7, angle=0.0), nn.Conv2d(8, 8, (1, 7), padding=(0, 3), groups=8)
    with torch.no_grad():
        conv.weight.copy_(layer.weight[:, None, None])
        conv.bias.copy_(layer.bias)
    x, target = torch.randn(4, 8, 9, 9), torch.randn(4, 8, 9, 9)
    for net in (layer, conv):
        optimizer = torch.optim.SGD(net.parameters(), 0.5)
        for _ in range(10):
            optimizer.zero_grad()
            (net(x) - target).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(layer.weight, conv.weight[:, 0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (lambda: OrientedConv1d(8, 7), "OrientedConv1d(8, 7)"),
        (lambda: OrientedConv1d(8, 7, stride=2, bias=False), "OrientedConv1d(8, 7, stride=(2, 2), bias=False)"),
        (
            lambda: OrientedConv1d(8, 7, directions=4, residual=True),
            "OrientedConv1d(8, 7, directions=4, residual=True)",
        ),
        (lambda: OrientedConv1d(8, 7, angle=0.5, dilation=2), "OrientedConv1d(8, 7, angle=..., dilation=2)"),
    ],
)
def test_prints_what_is_not_default(layer, text):
    assert repr(layer()) == text
