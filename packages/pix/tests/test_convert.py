"""`convert`: downscaling, pruning, and what all modes do alike: copies, reports, arguments. Squeezing is next door."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from convertible import Bottleneck, conv, images, macs, parameters, reasons, swapped
from torch import nn

from pix import ConvertReport, PiX, convert


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# Downscaling and pruning.


def test_downscale_puts_pix_before_spatial_convolutions():
    net = nn.Sequential(conv(3, 10, 3), nn.ReLU(), conv(10, 8, 5, stride=2, dilation=2, bias=True), conv(8, 8, 3))
    converted = convert(net, "downscale", 4, example_input=images())
    assert swapped(converted) == ["2", "3"] and reasons(converted) == {"0": "it reads the image"}
    pix, new = converted[2].pix, converted[2].conv
    assert (pix.in_channels, pix.zeta, new.in_channels) == (10, 4, 3)
    assert (new.kernel_size, new.stride, new.padding, new.dilation) == ((5, 5), (2, 2), (2, 2), (2, 2))
    assert new.bias is not None and converted(images()).shape == net(images()).shape
    row = converted.convert_report.swapped[0]
    assert (row.weights, row.error, row.after) == ("reinitialised", None, "PiX zeta=4 + Conv2d 5x5 /2")
    assert row.params == (10 * 8 * 25 + 8, 10 * 3 + 3 * 8 * 25 + 8)
    assert converted.convert_report.params == (parameters(net), parameters(converted))
    assert converted.convert_report.macs == (macs(net, images()), macs(converted, images()))


def test_zeta_is_two_by_default():
    assert convert(Bottleneck(), "downscale", example_input=images()).conv2.pix.zeta == 2


@pytest.mark.parametrize("channels, zeta", [(8, 2), (12, 4), (10, 4), (7, 3), (5, 1)])
def test_prune_starts_from_the_mean_of_the_weights(channels, zeta):
    """All p = 1/2 mix; so the network computes what it did with each weight replaced by its subset's mean."""
    net = nn.Sequential(conv(3, channels, 3), nn.ReLU(), conv(channels, 6, 3, bias=True)).double()
    converted = convert(net, "prune", zeta, example_input=images(dtype=torch.float64))
    weight = net[2].weight.detach()
    mean = torch.cat([part.mean(1, keepdim=True).expand_as(part) for part in weight.split(zeta, 1)], 1)
    features = net[:2](images(dtype=torch.float64))
    expected = F.conv2d(features, mean, net[2].bias, padding=1)
    torch.testing.assert_close(converted(images(dtype=torch.float64)), expected)
    (row,) = converted.convert_report.swapped
    assert row.weights == "refitted"
    assert row.error == pytest.approx(((weight - mean).norm() / weight.norm()).item())
    assert "relative error" in str(converted.convert_report)


def test_prune_keeps_a_network_of_equal_channels():
    net = nn.Sequential(conv(3, 8, 3), nn.ReLU(), conv(8, 6, 3, bias=True)).double()
    with torch.no_grad():
        net[0].weight[1::2] = net[0].weight[::2]
    converted = convert(net, "prune", 2, example_input=images(dtype=torch.float64))
    torch.testing.assert_close(converted(images(dtype=torch.float64)), net(images(dtype=torch.float64)))


def test_pruned_network_learns_which_gates_to_open():
    net = convert(nn.Sequential(conv(3, 8, 3), nn.ReLU(), conv(8, 6, 3)), "prune", example_input=images())
    net(images()).square().sum().backward()
    assert net[2].pix.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "layer, reason",
    [
        (conv(16, 8), "kernel 1x1: only spatial convolutions are to read fewer channels"),
        (conv(16, 16, 3, groups=16), "depthwise"),
        (conv(16, 16, 3, groups=4), "grouped (4 groups)"),
        (conv(16, 8, 12, padding=0), "kernel 12x12 covers its maps: a fully connected layer"),
        (nn.Sequential(PiX(16, 2), conv(8, 8, 3)), "PiX already reduces what it reads"),
        (nn.Sequential(conv(16, 2), conv(2, 2, 3)), "2 channels are fewer than zeta=4"),
    ],
)
@pytest.mark.parametrize("mode", ["downscale", "prune"])
def test_what_cannot_read_less_is_left_with_the_reason(mode, layer, reason):
    net = convert(nn.Sequential(conv(3, 16, 3), layer), mode, 4, example_input=images())
    assert reasons(net)["0"] == "it reads the image" and list(reasons(net).values())[-1] == reason
    assert not net.convert_report.swapped


def test_shared_layers_stay_shared():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a = conv(3, 8, 3), conv(8, 8, 3)
            self.b = nn.Sequential(nn.ReLU(), self.a)

        def forward(self, x):
            return self.b(self.a(self.stem(x)))

    net = convert(Twice(), "downscale", example_input=images(1))
    (row,) = net.convert_report.swapped
    assert row.names == ("a", "b.1") and net.a is net.b[1] and isinstance(net.a.pix, PiX)
    assert net.convert_report.macs[1] == macs(net, images(1))


# Both.


@pytest.mark.parametrize("mode", ["squeeze", "downscale", "prune"])
def test_a_second_conversion_changes_nothing(mode):
    once = convert(Bottleneck(), mode, example_input=images())
    again = convert(once, mode, example_input=images())
    assert not again.convert_report.swapped
    assert torch.equal(again.eval()(images()), once.eval()(images()))


@pytest.mark.parametrize("shared", [False, True])
def test_what_was_squeezed_is_not_downscaled(shared):
    """Where the norm was, and perhaps the activation, is an identity now."""
    net = convert(convert(Bottleneck(shared=shared), example_input=images()), "downscale", example_input=images())
    assert reasons(net)["conv2"] == "PiX already reduces what it reads" and not net.convert_report.swapped


def test_copy_or_in_place():
    net = Bottleneck()
    before = copy.deepcopy(net.state_dict())
    converted = convert(net, example_input=images())
    assert type(net.conv1) is nn.Conv2d and not hasattr(net, "convert_report")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert convert(net, inplace=True, example_input=images()) is net
    assert torch.equal(net.conv1.weight, converted.conv1.weight)


def test_looking_at_a_model_leaves_no_trace():
    net = Bottleneck(channels=15)  # nothing fits
    net.bn1.train(), net.conv2.eval()
    modes = [module.training for module in net.modules()]
    before, seed = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    converted = convert(net, inplace=True, example_input=images())
    assert [module.training for module in converted.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in converted.state_dict().items())
    assert torch.equal(torch.get_rng_state(), seed)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_properties_of_the_old_layers_stay():
    net = Bottleneck().to(torch.bfloat16).eval()
    net.conv1.weight.requires_grad_(False)
    converted = convert(net, example_input=images(dtype=torch.bfloat16))
    assert (converted.conv1.weight.dtype, converted.conv1.weight.requires_grad) == (torch.bfloat16, False)
    assert not converted.conv1.training and not converted.bn1.training
    for mode in ("squeeze", "downscale", "prune"):
        meta = convert(Bottleneck().to("meta"), mode)
        assert meta.convert_report.swapped and all(parameter.is_meta for parameter in meta.parameters())


@pytest.mark.parametrize("where", [r"^b\.", lambda name, module: name == "b.conv1"])
def test_where_narrows_the_choice(where):
    net = nn.Sequential(OrderedDict(a=Bottleneck(), b=Bottleneck()))
    net.b.stem = conv(16, 16, 3)
    converted = convert(net, where=where, example_input=images())
    assert swapped(converted) == ["b.conv1"] and reasons(converted)["a.conv1"] == "not selected by where"
    assert type(converted.a.bn1) is nn.BatchNorm2d and type(converted.b.bn1) is nn.Identity
    with pytest.raises(ValueError, match=r"selects none of the 2 layers that fit, such as 'a\.conv1', 'b\.conv1'"):
        convert(net, where="^c", example_input=images())


def test_report_travels_with_the_model():
    net = convert(Bottleneck(), example_input=images())
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert isinstance(other.convert_report, ConvertReport)
        assert str(other.convert_report) == str(net.convert_report)
        assert torch.equal(other.eval()(images()), net.eval()(images()))


def test_example_is_made_or_given():
    seen = []

    class Sized(Bottleneck):
        def forward(self, x, *more):
            seen.append((x.shape, *more))
            return super().forward(x)

    net = Sized()
    net.pretrained_cfg = {"input_size": (3, 20, 24)}
    convert(net)
    convert(net, example_input=(images(), 5))
    assert seen == [((1, 3, 20, 24),), ((2, 3, 12, 12), 5)]
    with pytest.warns(UserWarning, match=r"mode='squeeze' found no layer that fits and changed nothing"):
        net = convert(nn.Sequential(conv(1, 4, 3)))
    assert net.convert_report.macs == (224 * 224 * 4 * 9,) * 2


def test_models_that_do_not_run_or_have_nothing():
    with pytest.raises(
        ValueError, match=r"not run on a black image of shape \(1, 3, 224, 224\): pass an example_input \("
    ):
        convert(nn.Sequential(conv(3, 4, 3), nn.Flatten(), nn.Linear(4 * 144, 2)))
    with pytest.raises(ValueError, match=r"does not run on example_input \(RuntimeError: "):
        convert(Bottleneck(), example_input=torch.zeros(1, 5, 8, 8))
    with pytest.warns(UserWarning, match="mode 'downscale' or 'prune' may fit"):
        net = convert(nn.Linear(3, 4))
    assert str(net.convert_report) == "0 layers swapped, 0 left; parameters 16 -> 16"


@pytest.mark.parametrize(
    "bad, error, says",
    [
        ({"mode": "shrink"}, ValueError, "mode must be one of 'squeeze', 'downscale', 'prune', but it is 'shrink'"),
        ({"zeta": 0}, ValueError, "zeta must be at least 1"),
        ({"zeta": 2.5}, TypeError, "zeta must be an integer"),
        ({"tau": "half"}, TypeError, "tau"),
        ({"context": "max"}, ValueError, "context"),
        ({"where": 3}, TypeError, "where must be a regular expression"),
    ],
)
def test_bad_arguments_are_refused_before_anything_changes(bad, error, says):
    net = Bottleneck()
    with pytest.raises(error, match=says):
        convert(net, inplace=True, example_input=images(), **bad)
    assert type(net.conv1) is nn.Conv2d
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, but it is a str"):
        convert("resnet50")
