"""`convert` in the mode "squeeze": what fits and what does not, and what becomes of activations and options."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from convertible import Bottleneck, Follows, conv, images, macs, parameters, reasons, swapped
from torch import nn

from pix import PiX, convert


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_squeeze_replaces_convolution_norm_and_activation():
    net = Bottleneck()
    converted = convert(net, example_input=images())
    assert swapped(converted) == ["conv1"]
    layer = converted.conv1
    assert isinstance(layer, PiX) and (layer.in_channels, layer.zeta, layer.tau, layer.bias) == (16, 4, 0.5, None)
    assert torch.equal(layer.weight, net.conv1.weight) and layer.weight is not net.conv1.weight
    assert type(converted.bn1) is type(converted.act1) is nn.Identity
    x = images()
    features = net.stem(x).relu()
    expected = (net.conv3(net.conv2(layer(features))) + features).relu()
    torch.testing.assert_close(converted.eval()(x), expected)


def test_squeeze_report_counts():
    net, x = Bottleneck(), images(1)
    report = convert(net, example_input=x).convert_report
    (row,) = report.swapped
    assert (row.before, row.after) == ("Conv2d 1x1 + BatchNorm2d + ReLU", "PiX zeta=4")
    assert (row.weights, row.error) == ("kept", None)
    assert row.params == (16 * 4 + 2 * 4, 16 * 4) and row.macs == (16 * 4 * 144, 16 * 4)
    assert report.params == (parameters(net), parameters(net) - 8)
    assert report.macs == (macs(net, x), macs(net, x) - 16 * 4 * 143)
    text = str(report)
    assert "MACs  " not in text.splitlines()[-1] and text.splitlines()[0].endswith("MACs")
    assert f"1 layers swapped, 3 left; parameters {report.params[0]} -> {report.params[1]}; MACs " in text
    assert "left 2, kernel 3x3: only 1x1 convolutions without padding squeeze: stem, conv2" in text
    assert "left 1, it expands the channels: conv3" in text


def test_example_of_several_images_counts_all_of_them():
    one, two = (convert(Bottleneck(), example_input=images(batch)).convert_report.macs for batch in (1, 2))
    assert two == (2 * one[0], 2 * one[1])


def test_shared_relu_stays_and_does_not_overwrite():
    net = convert(Bottleneck(shared=True), example_input=images())
    assert swapped(net) == ["conv1"] and net.convert_report.swapped[0].before == "Conv2d 1x1 + BatchNorm2d"
    assert type(net.act1) is nn.ReLU and not net.act1.inplace and type(net.bn1) is nn.Identity
    other = Bottleneck()
    other.load_state_dict(net.state_dict(), strict=False)
    other = convert(other, example_input=images())
    assert torch.equal(net.eval()(images()), other.eval()(images()))
    net.train()(images()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(
    "change",
    [
        lambda x, image: x + torch.full_like(x, -1.0),
        lambda x, image: x + -1,
        lambda x, image: torch.cat((x[:, :-3].relu(), image), 1),
        lambda x, image: F.pad(x, (1, 1, 1, 1), value=-1.0),
    ],
)
def test_shared_relu_that_matters_is_no_fit(change):
    class Changed(Bottleneck):
        def forward(self, x):
            features = change(self.act2(self.stem(x)), x)
            return self.conv3(self.conv2(self.act1(self.bn1(self.conv1(features)))))

    net = convert(Changed(shared=True), example_input=images())
    assert reasons(net)["conv1"] == "the ReLU that follows it is no layer of its own, to be taken out with it"


@pytest.mark.parametrize("across", [nn.Softmax(1), nn.Softmax2d(), nn.GLU(1)], ids=lambda m: type(m).__name__)
def test_what_mixes_channels_is_no_activation(across):
    reads = 2 if isinstance(across, nn.GLU) else 4
    net = convert(Follows(lambda x, m: m["a"](m["n"](x)), a=conv(reads, 4, 3), n=across), example_input=images())
    assert reasons(net)["squeeze"] == "no spatial convolution or pooling reads it"
    net(images())


def test_shared_activation_that_matters_is_no_fit():
    net = convert(Bottleneck(shared=True, act=nn.SiLU), example_input=images())
    assert reasons(net)["conv1"] == "the SiLU that follows it is no layer of its own, to be taken out with it"
    assert swapped(convert(Bottleneck(act=nn.SiLU), example_input=images())) == ["conv1"]


def test_zeta_is_the_ratio_and_narrows_the_choice():
    net = nn.Sequential(conv(3, 8, 3), Bottleneck(8, 8), Bottleneck(8, 4), Bottleneck(8, 2))
    for block in net[1:]:
        block.stem = conv(8, 8, 3)
    converted = convert(net, example_input=images())
    assert [converted[i].conv1.zeta for i in (1, 2, 3)] == [1, 2, 4]
    converted = convert(net, zeta=2, example_input=images())
    assert swapped(converted) == ["2.conv1"]
    assert reasons(converted)["3.conv1"] == "it squeezes by 4, not by zeta=2"


pool, spatial, grouped = nn.AvgPool2d(2), conv(4, 4, 3), conv(4, 4, 3, groups=2)
FITS = {
    "spatial": (lambda x, m: m["a"](x), {"a": spatial}),
    "grouped": (lambda x, m: m["a"](x), {"a": grouped}),
    "pooling": (lambda x, m: m["a"](x), {"a": pool}),
    "function": (lambda x, m: F.max_pool2d(x.relu(), 2), {}),
    "behind padding": (lambda x, m: m["a"](F.pad(F.dropout(x, 0.1), (1, 1, 1, 1))), {"a": spatial}),
    "two readers": (lambda x, m: (m["a"](x), m["b"](x)), {"a": spatial, "b": conv(4, 8)}),
    "both halves": (lambda x, m: [m["a"](h) for h in x.split(2, 1)], {"a": conv(2, 2, 3)}),
    "norm alone": (lambda x, m: m["a"](m["n"](x)), {"a": spatial, "n": nn.GroupNorm(2, 4)}),
}


@pytest.mark.parametrize("after, layers", FITS.values(), ids=FITS)
def test_squeeze_fits_before_spatial_convolutions_and_pooling(after, layers):
    net = convert(Follows(after, **layers), example_input=images())
    assert swapped(net) == ["squeeze"]
    assert net.convert_report.macs[1] == macs(net, images())
    net(images())


def test_squeeze_fits_behind_depthwise_convolutions():
    """An inverted bottleneck, with squeeze-and-excitation in between."""

    class Inverted(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.dw, self.project = conv(3, 16, 3), conv(16, 16, 3, groups=16), conv(16, 4)
            self.reduce, self.expand, self.bn = conv(16, 4), conv(4, 16), nn.BatchNorm2d(4)

        def forward(self, x):
            x = F.relu6(self.dw(self.stem(x)))
            gate = self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
            return self.bn(self.project(x * gate))

    net = convert(Inverted(), example_input=images())
    assert swapped(net) == ["project"] and type(net.bn) is nn.Identity
    assert reasons(net)["reduce"] == "its maps are single pixels on the example, where nothing is gained"


class ConditionalNorm(nn.BatchNorm2d):
    """A norm with another input, as in generators of images."""

    def forward(self, x, scale):
        return super().forward(x) * scale


def tied(conv: nn.Conv2d, other: nn.Conv2d) -> nn.Conv2d:
    conv.weight = other.weight
    return conv


twin = conv(16, 4)


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, args, out: out)
    return module


LEFT = {
    "the channels that it reads are no multiple of those that it writes": Follows(
        lambda x, m: m["a"](x), conv(16, 5), a=conv(5, 5, 3)
    ),
    "it expands the channels": Follows(lambda x, m: m["a"](x), conv(16, 32), a=conv(32, 8, 3)),
    "it keeps the number of channels, before nothing spatial that mixes them": Follows(
        lambda x, m: m["a"](x), conv(16, 16), a=conv(16, 16, 3, groups=16)
    ),
    "grouped (4 groups)": Follows(lambda x, m: m["a"](x), conv(16, 4, groups=4), a=spatial),
    "stride 2, which PiX has not": Follows(lambda x, m: m["a"](x), conv(16, 4, stride=2), a=spatial),
    "kernel 1x1: only 1x1 convolutions without padding squeeze": Follows(
        lambda x, m: m["a"](x), conv(16, 4, padding=1), a=spatial
    ),
    "it has hooks, which would be lost": Follows(lambda x, m: m["a"](x), hooked(conv(16, 4)), a=spatial),
    "ParametrizedConv2d may compute something else than nn.Conv2d": Follows(
        lambda x, m: m["a"](x), nn.utils.parametrizations.weight_norm(conv(16, 4)), a=spatial
    ),
    "no spatial convolution or pooling reads it": Follows(lambda x, m: m["a"](x), a=conv(4, 8)),
    "the BatchNorm2d that follows it has hooks, which would be lost": Follows(
        lambda x, m: m["a"](m["n"](x)), a=spatial, n=hooked(nn.BatchNorm2d(4))
    ),
    "the BatchNorm2d that follows it is no layer of its own, to be taken out with it": Follows(
        lambda x, m: m["n"](m["a"](m["n"](x))), a=spatial, n=nn.BatchNorm2d(4)
    ),
    "the sigmoid that follows it is no layer of its own, to be taken out with it": Follows(
        lambda x, m: m["a"](x.sigmoid()), a=spatial
    ),
    "the ConditionalNorm that follows it is no layer of its own, to be taken out with it": Follows(
        lambda x, m: m["a"](m["n"](x, 2)), a=spatial, n=ConditionalNorm(4)
    ),
    "other layers have its parameters too, which would be parted": Follows(
        lambda x, m: m["a"](x) + m["b"](x.repeat(1, 4, 1, 1)), tied(conv(16, 4), twin), a=spatial, b=twin
    ),
    "the Dropout that follows it overwrites what PiX keeps for the backward pass": Follows(
        lambda x, m: m["a"](m["d"](x)), a=spatial, d=nn.Dropout(0.5, inplace=True)
    ),
    "the relu_ that follows it overwrites what PiX keeps for the backward pass": Follows(
        lambda x, m: m["a"](x.relu_()), a=spatial
    ),
    "the add_ that follows it overwrites what PiX keeps for the backward pass": Follows(
        lambda x, m: m["a"](x.add_(1)), a=spatial
    ),
}


@pytest.mark.parametrize("reason", LEFT)
def test_what_does_not_fit_is_left_with_the_reason(reason):
    net = convert(copy.deepcopy(LEFT[reason]), example_input=images())
    assert reasons(net)["squeeze"] == reason and not net.convert_report.swapped
    assert reason[:60] in str(net.convert_report)
    assert net.convert_report.macs[0] == net.convert_report.macs[1]


def test_layers_that_run_twice_or_never_or_on_single_maps_are_left():
    twice = Follows(lambda x, m: m["a"](x))
    twice.layers["a"] = nn.Sequential(conv(4, 16, 3), twice.squeeze)
    twice.layers["idle"] = conv(8, 4)
    found = reasons(convert(twice, example_input=images()))
    assert (
        found["squeeze"] == "it runs more than once in a pass"
        and found["layers.idle"] == "it does not run on the example"
    )
    one = nn.Sequential(conv(3, 16, 3), conv(16, 4), conv(4, 4, 3))
    assert reasons(convert(one, example_input=images()[0]))["1"] == "its input is no batch of maps (N, C, H, W)"


def test_bias_is_kept_or_added():
    net = Bottleneck(bias=True)
    assert torch.equal(convert(net, example_input=images()).conv1.bias, net.conv1.bias)
    assert torch.equal(convert(Bottleneck(), bias=True, example_input=images()).conv1.bias, torch.zeros(4))


def test_options_reach_the_layers():
    for mode in ("squeeze", "downscale", "prune"):
        net = convert(Bottleneck(), mode, tau=0.25, context="l1", bias=True, example_input=images())
        layers = [layer for layer in net.modules() if isinstance(layer, PiX)]
        assert layers and all((m.tau, m.context, m.bias is not None) == (0.25, "l1", True) for m in layers)
