"""`convert`: what is swapped, what is left and why, and what becomes of the weights."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import nn

from smpconv import ConvertReport, SMPDepthwiseConv2d, clip_radii_, convert, fit_points, param_groups


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def depthwise(channels: int, kernel_size, **options) -> nn.Conv2d:
    size = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    return nn.Conv2d(
        channels, channels, size, **{"padding": tuple(k // 2 for k in size), "groups": channels, **options}
    )


def draw(channels: int) -> torch.Tensor:
    return torch.randn(2, channels, 13, 14, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kernel_size", [5, 7, 13, (1, 7), (9, 3)], ids=str)
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"padding": "same"}], ids=str)
def test_a_point_for_every_tap_keeps_the_layer(kernel_size, options):
    conv = depthwise(8, kernel_size, **options)
    net = convert(nn.Sequential(conv), 1.0)
    torch.testing.assert_close(net(draw(8)), conv(draw(8)))
    (row,) = net.convert_report.swapped
    assert (row.weights, row.error, row.names) == ("kept", None, ("0",))


def test_fewer_points_are_fitted_and_outputs_differ_by_the_error():
    conv = depthwise(32, 7)
    net = convert(nn.Sequential(conv), 16)
    points = fit_points(conv.weight[:, 0], 16)
    layer = net[0]
    for name in ("coords", "radius", "weight"):
        assert torch.equal(getattr(layer, name)[0], getattr(points, name))
    (row,) = net.convert_report.swapped
    assert (row.weights, row.error) == ("refitted", points.error)
    difference = (layer.kernel()[0] - conv.weight[:, 0]).norm() / conv.weight.norm()
    assert row.error == pytest.approx(difference.item(), rel=1e-4)
    x, bias = draw(32), conv.bias[:, None, None]
    lost = (layer(x) - conv(x)).norm() / (conv(x) - bias).norm()
    assert 0.5 * row.error < lost < 2 * row.error
    assert torch.equal(layer.bias, conv.bias)


def test_kernels_of_points_come_back():
    """A layer of few points, written out as taps and converted, is nearly itself."""
    layer = SMPDepthwiseConv2d(48, 13, 6, radius=0.6, coord_std=0.4)
    conv = depthwise(48, 13, bias=False)
    conv.weight.data.copy_(layer.kernel().transpose(0, 1))
    assert convert(conv, 12, steps=300).convert_report.swapped[0].error < 0.02


@pytest.mark.parametrize(
    ("n_points", "wanted"), [(0.25, [12, 240]), (0.5, [24, 480]), (30, [30, 30]), (300, [49, 300]), (1e-9, [1, 1])]
)
def test_number_of_points(n_points, wanted):
    net = nn.Sequential(depthwise(4, 7), depthwise(4, 31))
    net = convert(net, n_points, weights="reset")
    assert [layer.n_points for layer in net] == wanted
    assert [layer.kernel_size for layer in net] == [(7, 7), (31, 31)]


def test_report_counts():
    net = nn.Sequential(nn.Conv2d(3, 16, 1), depthwise(16, 7), nn.BatchNorm2d(16), depthwise(16, 5, bias=False))
    report = convert(net).convert_report
    assert [row.params for row in report.swapped] == [(16 * 50, 12 * 19 + 16), (16 * 25, 6 * 19)]
    assert [row.macs for row in report.swapped] == [(16 * 49,) * 2, (16 * 25,) * 2]
    assert report.params == (64 + 800 + 32 + 400, 64 + 244 + 32 + 114)
    assert [row.names for row in report.left] == [("0",)]
    text = str(report)
    assert all(
        word in text
        for word in ("Conv2d 7x7", "SMPDepthwiseConv2d 7x7 of 12 points", "refitted", "800 -> 244", "relative error")
    )
    assert "left 1, not depthwise (groups is not the number of channels): 0" in text


def test_report_joins_equal_rows():
    net = nn.Sequential(*[nn.ModuleDict({"conv_dw": depthwise(96, 7)}) for _ in range(3)])
    report = convert(net, weights="reset").convert_report
    _, row, _ = str(report).splitlines()
    assert row.startswith(
        "0-2.conv_dw  3 x Conv2d 7x7  SMPDepthwiseConv2d 7x7 of 12 points  reinitialised   4.8k -> 1.28k"
    )


hooked = depthwise(4, 5)
hooked.register_forward_hook(lambda module, args, out: out.relu())
broken = depthwise(4, 5)
broken.weight.data[0, 0, 0, 0] = math.inf


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(4, 4, 5, padding=2), "not depthwise"),
        (nn.Conv2d(4, 8, 5, padding=2, groups=4), "not depthwise"),
        (depthwise(4, 3), "kernel 3x3 is smaller than 5"),
        (depthwise(4, 6), "kernel 6x6 is not odd"),
        (depthwise(4, (5, 4)), "kernel 5x4 is not odd"),
        (depthwise(4, 65), "kernel 65x65 is larger than 63"),
        (depthwise(4, 5, stride=2), "stride (2, 2): only 1"),
        (depthwise(4, 5, dilation=2, padding=4), "dilation (2, 2): only 1"),
        (depthwise(4, 5, padding=1), "padding (1, 1) does not keep the size: (2, 2) would"),
        (depthwise(4, 5, padding="valid"), "padding valid does not"),
        (depthwise(4, 5, padding_mode="reflect"), "padding mode 'reflect'"),
        (hooked, "it has hooks"),
        (broken, "its weights are not finite"),
        (nn.utils.parametrizations.weight_norm(depthwise(4, 5)), "ParametrizedConv2d"),
        (type("SameConv2d", (nn.Conv2d,), {})(4, 4, 5, padding=2, groups=4), "SameConv2d"),
    ],
)
def test_what_does_not_fit_is_left_with_the_reason(layer, reason):
    with pytest.warns(UserWarning, match="changed nothing"):
        converted = convert(nn.Sequential(layer))
    assert type(converted[0]) is type(layer)
    (row,) = converted.convert_report.left
    assert reason in row.reason
    assert reason in str(converted.convert_report)


def test_smallest_may_be_chosen():
    net = nn.Sequential(depthwise(4, 3), depthwise(4, 5), depthwise(4, (1, 11)))
    assert [row.names for row in convert(net, smallest=3).convert_report.swapped] == [("0",), ("1",), ("2",)]
    assert [row.names for row in convert(net, smallest=11).convert_report.swapped] == [("2",)]


@pytest.mark.parametrize("where", [r"^b\.", lambda name, module: name == "b.0"])
def test_where_narrows_the_choice(where, monkeypatch):
    built = []
    monkeypatch.setattr(SMPDepthwiseConv2d, "reset_parameters", lambda self: built.append(self))
    net = nn.ModuleDict({"a": depthwise(4, 5), "b": nn.Sequential(depthwise(4, 5))})
    converted = convert(net, where=where, weights="reset")
    assert [row.names for row in converted.convert_report.swapped] == [("b.0",)]
    assert [row.reason for row in converted.convert_report.left] == ["not selected by where"]
    assert len(built) == 1


def test_where_that_selects_nothing_is_refused():
    with pytest.raises(ValueError, match="selects none of the 1 layers that fit, such as '0'"):
        convert(nn.Sequential(depthwise(4, 5)), where="stage")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_points": 0}, ValueError, "n_points"),
        (
            {"n_points": 1.5},
            ValueError,
            r"n_points must be an integer or a share of the taps, up to 1.0, but it is 1.5",
        ),
        ({"n_points": 0.0}, ValueError, "n_points"),
        ({"n_points": math.nan}, ValueError, "n_points"),
        ({"n_points": "all"}, TypeError, "n_points"),
        ({"smallest": 0}, ValueError, "smallest"),
        ({"weights": "keep"}, ValueError, 'weights must be "refit" or "reset", but it is \'keep\''),
        ({"steps": -1}, ValueError, "steps must be 0 or more, but it is -1"),
        ({"steps": 2.0}, TypeError, "steps must be an integer, but it is a float"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_touched(options, error, message):
    net = nn.Sequential(depthwise(4, 5))
    with pytest.raises(error, match=message):
        convert(net, **options, inplace=True)
    assert type(net[0]) is nn.Conv2d


def test_only_modules_are_converted():
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, but it is a str"):
        convert("convnext_tiny")


def test_shared_layers_stay_shared():
    shared = depthwise(4, 5)
    net = convert(nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)}))
    assert net["a"] is net["b"][0]
    assert net.convert_report.swapped[0].names == ("a", "b.0")


def test_copy_or_in_place():
    net = nn.Sequential(depthwise(4, 5))
    before = copy.deepcopy(net.state_dict())
    converted = convert(net)
    assert type(net[0]) is nn.Conv2d and not hasattr(net, "convert_report")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert convert(net, inplace=True) is net
    assert isinstance(net[0], SMPDepthwiseConv2d)
    assert torch.equal(net[0].weight, converted[0].weight)


def test_reset_starts_afresh():
    layer = convert(depthwise(64, 9), weights="reset")
    row = layer.convert_report.swapped[0]
    assert (row.weights, row.error) == ("reinitialised", None)
    assert layer.weight.abs().max() < 0.2 and not layer.bias.any()


def test_properties_of_the_old_layer_stay():
    conv = depthwise(8, 5).to(torch.bfloat16).eval()
    conv.weight.requires_grad_(False)
    layer = convert(conv)
    assert (layer.weight.dtype, layer.training) == (torch.bfloat16, False)
    frozen = {name: parameter.requires_grad for name, parameter in layer.named_parameters()}
    assert frozen == {"coords": False, "radius": False, "weight": False, "bias": True}
    assert convert(depthwise(8, 5, device="meta")).weight.is_meta


def test_the_converted_layer_learns():
    net = convert(nn.Sequential(depthwise(8, 7), nn.Conv2d(8, 2, 1)))
    optimizer = torch.optim.SGD(param_groups(net, 0.05))
    x, target = draw(8), torch.randn(2, 2, 13, 14)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = (net(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        clip_radii_(net)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_report_and_model_survive_pickling():
    net = pickle.loads(pickle.dumps(convert(nn.Sequential(depthwise(4, 5)))))
    assert isinstance(net.convert_report, ConvertReport)
    assert copy.deepcopy(net).convert_report.swapped[0].before == "Conv2d 5x5"


def test_networks_of_timm():
    timm = pytest.importorskip("timm")
    model = timm.create_model("convnext_atto", num_classes=7, ls_init_value=0.5).eval()
    net, x = convert(model, weights="reset"), torch.randn(1, 3, 64, 64)
    report = net.convert_report
    assert len(report.swapped) == 12 and {row.before for row in report.swapped} == {"Conv2d 7x7"}
    assert net(x).shape == (1, 7)
    assert report.params[1] == sum(parameter.numel() for parameter in net.parameters())
    with torch.no_grad():
        kept = convert(model, 1.0)(x)
        torch.testing.assert_close(kept, model(x), rtol=1e-3, atol=1e-4)
        near, far = (convert(model, n_points, where="stages.0")(x) for n_points in (44, 12))
        assert (near - model(x)).norm() < (far - model(x)).norm() < model(x).norm()


def test_warns_once_where_nothing_fits():
    net = nn.Sequential(depthwise(4, 3), nn.Conv2d(4, 2, 1))
    with pytest.warns(
        UserWarning, match=r"^smallest=5 found no layer that fits and changed nothing: print\(model"
    ) as told:
        same = convert(net)
    assert len(told) == 1 and type(same[0]) is nn.Conv2d and not same.convert_report.swapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert convert(net, smallest=3).convert_report.swapped
