"""`convert`: what is swapped in each mode, what is left and why, what becomes of the weights, and what it all costs."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pix import ConvertReport, PiX, convert


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def conv(before: int, after: int, kernel_size: int = 1, **options) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size, **{"padding": kernel_size // 2, "bias": False, **options})


class Bottleneck(nn.Module):
    """conv1 -> bn1 -> act1 -> conv2 -> conv3, and the shortcut; `shared` uses one ReLU twice, as torchvision does."""

    def __init__(self, channels: int = 16, squeezed: int = 4, shared: bool = False, act=nn.ReLU, **options):
        super().__init__()
        self.stem = conv(3, channels, 3)
        self.conv1, self.bn1 = conv(channels, squeezed, **options), nn.BatchNorm2d(squeezed)
        self.conv2, self.conv3 = conv(squeezed, squeezed, 3), conv(squeezed, channels)
        self.act1, self.shared = act(inplace=True), shared
        self.act2 = self.act1 if shared else act(inplace=True)

    def forward(self, x):
        x = self.act2(self.stem(x))
        out = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.conv3(self.conv2(out)) + x)


class Follows(nn.Module):
    """A 3x3 convolution, ReLU, a 1x1 convolution, and then the function `after` of its result and of `layers`."""

    def __init__(self, after, squeeze: nn.Module | None = None, **layers: nn.Module):
        super().__init__()
        self.stem, self.squeeze = conv(3, 16, 3), squeeze or conv(16, 4)
        self.layers, self.after = nn.ModuleDict(layers), after

    def forward(self, x):
        return self.after(self.squeeze(self.stem(x).relu()), self.layers)


def images(batch: int = 2, size: int = 12, **options) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(**options)


def macs(model: nn.Module, *args: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).eval()(*args)
    return counter.get_total_flops() // 2


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def swapped(model: nn.Module) -> list[str]:
    return [row.names[0] for row in model.convert_report.swapped]


def reasons(model: nn.Module) -> dict[str, str]:
    return {row.names[0]: row.reason for row in model.convert_report.left}


# Squeezing.


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
