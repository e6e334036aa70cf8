"""`convert`: what is swapped, what is left and why, and what the report says."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from nets_to_convert import SMALL, generated, images, net
from torch import nn

from csgconv import ConvertReport, CSGConv2d, convert, export, generators, param_groups

pytestmark = pytest.mark.filterwarnings("ignore:the model has")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def names(rows) -> list[str]:
    return [row.names[0] for row in rows]


def test_convolutions_keep_all_but_their_kernels():
    old = net(padding_mode="reflect")
    model = convert(old, **SMALL)
    assert [type(m).__name__ for m in model][::3][:3] == ["Conv2d", "CSGConv2d", "CSGConv2d"]
    assert type(old[3]) is nn.Conv2d and torch.equal(model[3].bias, old[3].bias) and model[6].bias is None
    for name in ("stride", "padding", "dilation", "groups", "padding_mode", "in_channels", "out_channels"):
        assert all(getattr(model[i], name) == getattr(old[i], name) for i in (3, 6))
    assert model(images()).shape == old(images()).shape
    assert convert(old, **SMALL, inplace=True) is old and type(old[3]) is CSGConv2d


def test_one_generator_serves_all():
    model = convert(net(), **SMALL)
    (owner,) = generators(model)
    assert (owner.code_size, owner.slice_shape, len(owner.layers)) == (8, (4, 4, 3, 3), 2)
    assert [name for name in model.state_dict() if "generator" in name] == ["3.generator.weight", "3.generator.codes"]


def test_report():
    report = convert(net(), **SMALL).convert_report
    assert isinstance(report, ConvertReport)
    first, second = report.swapped
    assert (first.names, first.weights, first.error) == (("3",), "reinitialised", None)
    assert first.params == (6 * 10 * 9 + 10, 6 * 8 + 10) and second.params == (10 * 12 * 9, 9 * 8)
    assert first.macs == (540, 540)
    assert report.params[1] - report.params[0] == 144 * 8 + (6 + 9) * 8 - 9 * (60 + 120)
    text = str(report)
    for part in (
        "3      Conv2d 3x3 /2  CSGConv2d 3x3 /2 of 6 slices",
        "all by one generator of 4x4x3x3 slices from codes of 8: 1152 parameters",
        "left 1, the first convolution stays ordinary: 0",
        "2 layers swapped, 1 left; parameters",
    ):
        assert part in text
    assert "1152 bits" in str(convert(net(), **SMALL, binary=True).convert_report)


hooked = nn.Conv2d(8, 8, 3)
hooked.register_forward_hook(lambda module, args, out: out.relu())
patched = nn.Conv2d(8, 8, 3)
patched.forward = hooked.forward  # as some libraries do to move a layer's weights
broken = nn.Conv2d(8, 8, 3)
broken.weight.data[0, 0, 0, 0] = math.inf


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(8, 8, 1), 'kernel 1x1 is not of the size of the slices, 3x3; layout "flat" makes any'),
        (nn.Conv2d(8, 8, (3, 1)), "kernel 3x1"),
        (nn.Conv2d(8, 8, 3, groups=2), 'grouped (2 groups): layout "flat" makes such kernels'),
        (nn.Conv2d(2, 2, 3), "its codes would be as many numbers as its weights, or more"),
        (hooked, "it has hooks"),
        (patched, "it has hooks or another forward"),
        (broken, "its weights are not finite"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3)), "ParametrizedConv2d"),
        (type("SameConv2d", (nn.Conv2d,), {})(8, 8, 3), "SameConv2d"),
        (nn.Conv2d(8, 8, 3, dtype=torch.float64), "its weights are torch.float64 on cpu"),
        (nn.Conv2d(8, 8, 3, dtype=torch.complex64), "its weights are torch.complex64, but kernels are made in float32"),
    ],
)
def test_what_does_not_fit_is_left_with_the_reason(layer, reason):
    size = {"code_size": 40, "slice_shape": (4, 4, 3, 3)}
    model = convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), layer), **size, init="lstsq")
    assert type(model[2]) is type(layer)
    assert reason in model.convert_report.left[1].reason and reason in str(model.convert_report)


def test_layers_that_share_weights_are_left():
    model = nn.Sequential(*(nn.Conv2d(8, 8, 3) for _ in range(4)))
    model[2].weight = model[1].weight
    report = convert(model, **SMALL).convert_report
    assert names(report.swapped) == ["3"]
    assert "other layers have its parameters too" in report.left[1].reason


def test_a_layer_with_two_names_stays_one():
    layer = nn.Conv2d(8, 8, 3)
    model = convert(nn.Sequential(nn.Conv2d(3, 8, 3), layer, layer), **SMALL)
    assert model[1] is model[2] and model.convert_report.swapped[0].names == ("1", "2")


def test_flat_takes_any_size_and_groups():
    layers = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.Conv2d(8, 16, (1, 7), groups=2)
    model = convert(nn.Sequential(nn.Conv2d(3, 8, 3), *layers), **SMALL, layout="flat")
    assert len(model.convert_report.swapped) == 3
    assert model(images()).shape == (4, 16, 7, 1)


@pytest.mark.parametrize("layout", ["raster", "tile"])
def test_layout_reaches_the_layers(layout):
    model = convert(net(), **SMALL, layout=layout)
    assert {layer.layout for layer in generators(model)[0].layers} == {layout}


def test_options_reach_the_generator():
    owner = generators(convert(net(), **SMALL, init="uniform", bias=True))[0]
    assert owner.init == "uniform" and owner.bias is not None
    model = convert(net().double(), **SMALL, binary=True)
    assert generators(model)[0].binary and generators(model)[0].codes.dtype == torch.float64


def test_where_and_skip_first_choose():
    assert names(convert(net(), **SMALL, where="^6").convert_report.swapped) == ["6"]
    assert names(convert(net(), **SMALL, skip_first=False).convert_report.swapped) == ["0", "3", "6"]
    assert type(convert(nn.Conv2d(8, 8, 3), **SMALL, skip_first=False)) is CSGConv2d


@pytest.mark.parametrize("where", ["^[23]", lambda name, layer: layer.in_channels == 9], ids=["text", "callable"])
def test_layers_that_are_not_selected_do_not_choose_the_dtype(where):
    layers = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 9, 3), nn.Conv2d(9, 9, 3).double(), nn.Conv2d(9, 9, 3), nn.ReLU()
    model = convert(nn.Sequential(*layers), **SMALL, where=where)
    assert names(model.convert_report.swapped) == ["2"] and generators(model)[0].codes.dtype == torch.float64
    assert [row.reason for row in model.convert_report.left[1:]] == [
        "not selected by where",
        "its weights are torch.float32 on cpu, those of the first layer that becomes one torch.float64 on cpu",
    ]


def test_two_generators_by_converting_twice():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3))
    model = convert(convert(model, **SMALL), 4, (8, 8, 1, 1))
    assert [owner.slice_shape for owner in generators(model)] == [(4, 4, 3, 3), (8, 8, 1, 1)]
    assert model[1].generator is model[3].generator is not model[2].generator
    assert model(images()).shape == (4, 16, 3, 3)


def test_frozen_weights_make_a_frozen_generator():
    model = net()
    model[3].requires_grad_(False)
    assert generators(convert(model, **SMALL))[0].codes.requires_grad
    model[6].requires_grad_(False)
    converted = convert(model, **SMALL)
    assert not any(p.requires_grad for p in generators(converted)[0].parameters()) and converted[9].weight.requires_grad


@pytest.mark.filterwarnings("default")
def test_growth_is_told_with_what_would_not_grow():
    model = net()
    with pytest.warns(UserWarning, match=r"the model has \d+ parameters, more than .*: code_size=(\d+) would") as told:
        convert(model, 20, (4, 4, 3, 3))
    most = int(str(told[0].message).split("code_size=")[1].split()[0])
    before, after = convert(model, most, (4, 4, 3, 3)).convert_report.params
    assert before - 160 < after <= before  # one more number in each code, and in each row of W, is too much
    with pytest.warns(UserWarning, match="only slices of fewer numbers would have fewer"):
        convert(model, 20, (40, 40, 3, 3))
    with pytest.warns(UserWarning, match="only slices of fewer numbers would have fewer"):
        convert(model, 20, (40, 40, 3, 3), bias=True)


@pytest.mark.filterwarnings("default")
def test_nothing_that_fits_is_told():
    with pytest.warns(UserWarning, match="changed nothing: 1 of 1 convolutions, the first convolution stays ordinary;"):
        convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), **SMALL)
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 5)]
    with pytest.warns(UserWarning, match=r"2 of 4 convolutions, kernel 1x1 is not .*; print\(model.convert_report\)"):
        convert(nn.Sequential(*layers), **SMALL)
    with pytest.warns(UserWarning, match="changed nothing: model has no nn.Conv2d"):
        convert(nn.Linear(2, 2), **SMALL)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"init": "svd"}, ValueError, "init must be one of 'he', 'reference', 'uniform', 'lstsq', but it is 'svd'"),
        ({"layout": "rows"}, ValueError, "layout must be"),
        ({"code_size": 0}, ValueError, "code_size must be at least 1"),
        ({"slice_shape": (4, 4, 3)}, ValueError, "slice_shape must be four integers"),
        ({"where": "^7"}, ValueError, "selects none of the 2 layers that fit"),
        ({"model": 3}, TypeError, "model must be an nn.Module"),
        ({"binary": "yes"}, TypeError, "binary must be True or False, but it is 'yes'"),
        ({"skip_first": "no"}, TypeError, "skip_first must be True or False, but it is 'no'"),
    ],
)
def test_arguments_that_are_wrong(options, error, message):
    with pytest.raises(error, match=message):
        convert(**{"model": net(), **SMALL, **options})


def test_copies_of_a_trained_model():
    model = generated()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.eval()(images()), model.eval()(images()))
        assert len(generators(twin)) == 1 and generators(twin)[0] is not generators(model)[0]


def narrow_resnet() -> nn.Module:
    resnet = pytest.importorskip("timm.models.resnet")
    return resnet.ResNet(resnet.BasicBlock, (1, 1, 1, 1), num_classes=4, channels=(8, 16, 24, 40))


def narrow_mobilenet() -> nn.Module:
    return pytest.importorskip("timm").create_model("mobilenetv2_035", num_classes=4)


@pytest.mark.parametrize(
    ("make", "options", "swapped"),
    [
        (narrow_resnet, SMALL, 8),
        (narrow_mobilenet, {"layout": "flat", "slice_shape": (16, 16, 1, 1), "code_size": 16}, 51),
    ],
)
def test_networks_of_timm_convert_train_and_export(make, options, swapped):
    model = convert(make(), **options)
    assert len(model.convert_report.swapped) == swapped
    assert model.convert_report.params[1] < model.convert_report.params[0]
    x, target = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    optimizer, losses = torch.optim.Adam(param_groups(model, 0.002, 0.0)), []
    for _ in range(8):
        optimizer.zero_grad()
        losses.append(nn.functional.cross_entropy(model(x), target))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    exported = export(model.eval())
    with torch.no_grad():
        assert torch.equal(exported(x), model(x))
    make().load_state_dict(exported.state_dict())
