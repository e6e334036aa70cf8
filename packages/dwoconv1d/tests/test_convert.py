"""`convert`: what is swapped, what is left and why, and what becomes of the weights."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import nn

from dwoconv1d import ConvertReport, OrientedConv1d, assign_angles, convert, rasterize


def depthwise(channels: int, kernel_size, **options) -> nn.Conv2d:
    size = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    dilation = options.get("dilation", 1)
    padding = tuple(dilation * (k // 2) for k in size)
    return nn.Conv2d(channels, channels, size, **{"padding": padding, "groups": channels, **options})


def draw(channels: int) -> torch.Tensor:
    return torch.randn(2, channels, 13, 14, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kernel_size", [(1, 7), (7, 1), (1, 3), (31, 1)])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "bias": False}, {"dilation": 2}, {"stride": (1, 3)}])
def test_lines_are_kept_exactly(kernel_size, options):
    conv = depthwise(8, kernel_size, **options).double()
    net = convert(nn.Sequential(conv))
    torch.testing.assert_close(net(draw(8).double()), conv(draw(8).double()))
    (row,) = net.convert_report.swapped
    assert (row.weights, row.error, row.names) == ("kept", None, ("0",))
    assert torch.equal(net[0].angle, torch.full((8,), 0.0 if kernel_size[0] == 1 else math.pi / 2))


def test_square_kernels_are_projected_on_their_lines():
    conv = depthwise(16, 7).double()
    net = convert(nn.Sequential(conv))
    layer = net[0]
    assert torch.equal(layer.angle, assign_angles(16))
    fitted = rasterize(layer.weight, layer.angle)
    on_line = rasterize(torch.ones(16, 7), layer.angle) > 0
    assert torch.equal(fitted[on_line], conv.weight[on_line])
    (row,) = net.convert_report.swapped
    assert row.weights == "refitted"
    assert row.error == pytest.approx(((fitted - conv.weight).norm() / conv.weight.norm()).item())
    assert torch.equal(layer.bias, conv.bias)


def test_projection_is_the_least_squares_fit():
    """No other taps come closer: the error is orthogonal to what each tap can change."""
    conv = depthwise(8, 9, dilation=2).double()
    layer = convert(conv)
    weight = layer.weight.detach().requires_grad_()
    line = rasterize(weight, layer.angle, dilation=2)
    dense = torch.zeros_like(line)
    dense[:, :, ::2, ::2] = conv.weight
    error = (line - dense).square().sum()
    (grad,) = torch.autograd.grad(error, weight)
    assert grad.abs().max() < 1e-12


def test_kernels_that_lie_on_their_lines_are_kept():
    weight = torch.rand(8, 15).double() + 1
    dense = rasterize(weight, assign_angles(8))
    conv = depthwise(8, 15, bias=False).double()
    conv.weight.data.copy_(dense)
    layer = convert(conv)
    assert layer.convert_report.swapped[0].weights == "kept"
    torch.testing.assert_close(layer(draw(8).double()), conv(draw(8).double()))


def test_kernel_size_crops_or_extends():
    conv = depthwise(8, (1, 7)).double()
    longer, shorter = convert(conv, 31), convert(conv, 3)
    torch.testing.assert_close(longer(draw(8).double()), conv(draw(8).double()))
    assert longer.convert_report.swapped[0].weights == "kept"
    assert torch.equal(shorter.weight, conv.weight[:, 0, 0, 2:5])
    assert shorter.convert_report.swapped[0].error > 0
    assert longer.convert_report.swapped[0].macs == (8 * 7, 8 * 31)


def test_report_counts():
    net = nn.Sequential(nn.Conv2d(3, 16, 1), depthwise(16, 7), nn.BatchNorm2d(16), depthwise(16, 5, bias=False))
    report = convert(net).convert_report
    assert [row.params for row in report.swapped] == [(16 * 50, 16 * 8), (16 * 25, 16 * 5)]
    assert [row.macs for row in report.swapped] == [(16 * 49, 16 * 7), (16 * 25, 16 * 5)]
    assert report.params == (64 + 800 + 32 + 400, 64 + 128 + 32 + 80)
    assert [row.names for row in report.left] == [("0",)]
    text = str(report)
    assert all(
        word in text
        for word in ("Conv2d 7x7", "OrientedConv1d K=7", "refitted", "800 -> 128", "784 -> 112", "relative error")
    )
    assert "left 1, not depthwise (groups is not the number of channels): 0" in text


def test_report_joins_equal_rows_and_keeps_lines_short():
    block = nn.ModuleDict({"conv_dw": depthwise(96, 7), "conv_pw": nn.Conv2d(96, 96, 1)})
    stages = nn.ModuleList([nn.ModuleDict({"blocks": nn.ModuleList([block, copy.deepcopy(block)])})])
    tail = nn.ModuleDict({"a": depthwise(8, 5, stride=2), "c": depthwise(8, 5, stride=2)})
    report = convert(nn.ModuleDict({"stages": stages, "tail": tail}), 15).convert_report
    assert len(report.swapped) == 4
    _, first, second, *rest = str(report).splitlines()
    assert first.startswith("stages.0.blocks.0-1.conv_dw  2 x Conv2d 7x7     OrientedConv1d K=15     refitted 0.9")
    assert second.startswith("tail.a to tail.c             2 x Conv2d 5x5 /2  OrientedConv1d K=15 /2  refitted 0.")
    assert len(rest) == 3
    assert max(map(len, (first, second, *rest))) <= 120


def test_report_without_a_fit_has_no_table():
    assert str(convert(nn.Linear(3, 4)).convert_report) == "0 layers swapped, 0 left; parameters 16 -> 16"


hooked = depthwise(4, 5)
hooked.register_forward_hook(lambda module, args, out: out.relu())


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(4, 4, 3, padding=1), "not depthwise"),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4), "not depthwise"),
        (depthwise(4, 1), "no direction"),
        (depthwise(4, 4), "4x4"),
        (depthwise(4, (3, 5)), "3x5"),
        (depthwise(4, 5, padding=1), "padding (1, 1)"),
        (depthwise(4, 5, padding="valid"), "padding valid"),
        (depthwise(4, 5, dilation=(1, 2), padding=(2, 4)), "dilations 1 and 2"),
        (depthwise(4, 5, padding_mode="reflect"), "padding mode 'reflect'"),
        (hooked, "it has hooks"),
        (nn.utils.parametrizations.weight_norm(depthwise(4, 5)), "ParametrizedConv2d"),
        (type("SameConv2d", (nn.Conv2d,), {})(4, 4, 5, padding=2, groups=4), "SameConv2d"),
    ],
)
def test_what_does_not_fit_is_left_with_the_reason(layer, reason):
    net = nn.Sequential(layer)
    converted = convert(net)
    assert type(converted[0]) is type(layer)
    (row,) = converted.convert_report.left
    assert reason in row.reason
    assert reason in str(converted.convert_report)


def test_same_padding_fits():
    conv = depthwise(8, (1, 5), padding="same", dilation=2)
    torch.testing.assert_close(convert(conv)(draw(8)), conv(draw(8)))


@pytest.mark.parametrize("where", [r"^b\.", lambda name, module: name == "b.0"])
def test_where_narrows_the_choice(where):
    net = nn.ModuleDict({"a": depthwise(4, 5), "b": nn.Sequential(depthwise(4, 5))})
    converted = convert(net, where=where)
    assert [row.names for row in converted.convert_report.swapped] == [("b.0",)]
    assert [row.reason for row in converted.convert_report.left] == ["not selected by where"]


@pytest.mark.parametrize(
    ("where", "error", "says"),
    [
        (
            "stage.0",
            ValueError,
            r"where='stage.0' is a regular .* none of the 2 layers that fit.*'stages.0'",
        ),
        (lambda name, module: False, ValueError, "where selects none of the 2 layers"),
        ("(", ValueError, "not a regular expression"),
        (["a"], TypeError, "where must be a regular expression or a callable"),
    ],
)
def test_where_that_selects_nothing_is_refused(where, error, says):
    net = nn.ModuleDict({"stages": nn.Sequential(depthwise(4, 5), depthwise(4, 5)), "head": nn.Conv2d(4, 2, 1)})
    with pytest.raises(error, match=says):
        convert(net, where=where, inplace=True)
    assert type(net["stages"][0]) is nn.Conv2d


def test_layers_that_where_leaves_are_not_built(monkeypatch):
    built = []
    monkeypatch.setattr(OrientedConv1d, "reset_parameters", lambda self: built.append(self))
    convert(nn.Sequential(depthwise(4, 5), depthwise(4, 5)), where="1")
    assert len(built) == 1


def test_only_modules_are_converted():
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, but it is a str"):
        convert("convnext_tiny")


def test_three_taps_from_square_kernels_warn_once():
    net = nn.Sequential(depthwise(8, 3), depthwise(8, 3), depthwise(8, 7))
    with pytest.warns(UserWarning, match="^2 layers got K = 3") as caught:
        convert(net)
    assert len(caught) == 1


@pytest.mark.parametrize("options", [{"kernel_size": 7}, {"kernel_size": 3}, {"rounding": "nearest"}])
def test_three_taps_that_are_wanted_or_make_lines_are_silent(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(depthwise(8, 3), **options)
        convert(depthwise(8, (1, 3)))


def test_shared_layers_stay_shared():
    shared = depthwise(4, 5)
    block = nn.Sequential(shared)
    net = convert(nn.ModuleDict({"a": shared, "b": block, "c": block}))
    assert net["a"] is net["b"][0] is net["c"][0]
    assert isinstance(net["a"], OrientedConv1d)
    (row,) = net.convert_report.swapped
    assert row.names == ("a", "b.0", "c.0")


def test_copy_or_in_place():
    net = nn.Sequential(depthwise(4, 5))
    before = copy.deepcopy(net.state_dict())
    converted = convert(net)
    assert type(net[0]) is nn.Conv2d
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not hasattr(net, "convert_report")
    assert convert(net, inplace=True) is net
    assert isinstance(net[0], OrientedConv1d)
    assert torch.equal(net[0].weight, converted[0].weight)


def test_reset_starts_afresh():
    conv = depthwise(64, 9)
    layer = convert(conv, weights="reset")
    row = layer.convert_report.swapped[0]
    assert (row.weights, row.error) == ("reinitialised", None)
    assert layer.weight.abs().max() <= 1 / 3
    assert not torch.equal(layer.bias, conv.bias)


def test_properties_of_the_old_layer_stay():
    conv = depthwise(8, 5, stride=2).to(torch.bfloat16).eval()
    conv.weight.requires_grad_(False)
    layer = convert(conv)
    assert (layer.weight.dtype, layer.weight.requires_grad, layer.bias.requires_grad) == (torch.bfloat16, False, True)
    assert (layer.stride, layer.training) == ((2, 2), False)
    assert convert(depthwise(8, 5, device="meta")).weight.is_meta


def test_offset_may_depend_on_the_layer():
    net = nn.Sequential(depthwise(8, 5), depthwise(8, 5))
    net = convert(net, offset=lambda name: 0.5 * (int(name) % 2))
    assert torch.equal(net[0].angle, assign_angles(8))
    assert torch.equal(net[1].angle, assign_angles(8, offset=0.5))


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"kernel_size": 0}, ValueError),
        ({"kernel_size": 3.5}, TypeError),
        ({"weights": "keep"}, ValueError),
        ({"rounding": "floor"}, ValueError),
        ({"directions": 0}, ValueError),
    ],
)
def test_bad_arguments_are_refused_before_anything_changes(bad, error):
    net = nn.Sequential(depthwise(4, 5))
    with pytest.raises(error, match=next(iter(bad))):
        convert(net, inplace=True, **bad)
    assert type(net[0]) is nn.Conv2d


def test_report_travels_with_the_model():
    net = convert(nn.Sequential(depthwise(4, 5)))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert isinstance(other.convert_report, ConvertReport)
        assert str(other.convert_report) == str(net.convert_report)


@pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv3_small_050"])
def test_timm_models(name):
    timm = pytest.importorskip("timm")
    net = convert(timm.create_model(name, num_classes=3), 7)
    assert net.convert_report.swapped
    net(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for m in net.modules() if isinstance(m, OrientedConv1d) for p in m.parameters())


def test_torchvision_models():
    torchvision = pytest.importorskip("torchvision")
    net = convert(torchvision.models.mobilenet_v3_small(num_classes=3).eval(), 7)
    assert len(net.convert_report.swapped) == 11
    assert net(torch.randn(1, 3, 64, 64)).shape == (1, 3)
