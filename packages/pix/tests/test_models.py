"""The paper's networks: sizes as published, timm's interface, layouts, and options."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

timm = pytest.importorskip("timm")

from narrow import SMALL, images, layers, small  # noqa: E402

from leanconv.testing.models import assert_checkpointing_changes_nothing, layer_decay  # noqa: E402
from pix import PiX  # noqa: E402

# Parameters, elements of buffers, entries of the state dict, named parameters, multiply-adds for 224 x 224 pixels:
# counted in the authors' networks.
SQUEEZED = {
    "pix_resnet50": (25_549_480, 45_605, 240, 129, 3_155_824_640),
    "pix_resnet101": (44_532_904, 89_159, 461, 248, 5_999_038_464),
    "pix_resnet152": (60_168_872, 127_593, 682, 367, 8_841_465_856),
}
BLENDS = {"pix_resnet50": 4_329_472, "pix_resnet101": 8_785_920, "pix_resnet152": 12_455_936}  # of these multiply-adds
READ_AND_WRITTEN = {  # elements by all PiX of a network
    "pix_resnet50": (5_619_712, 1_906_688),
    "pix_resnet101": (9_031_680, 2_759_680),
    "pix_resnet152": (13_246_464, 3_813_376),
}
# The networks that they were made from.
PLAIN = {
    ("pix_resnet50", 4): (25_557_032, 4_089_184_256),
    ("pix_resnet101", 4): (44_549_160, 7_801_405_440),
    ("pix_resnet152", 4): (60_192_808, 11_513_626_624),
    ("pix_resnet50", 8): (12_381_864, 1_822_000_000),
}
# Millions of parameters and thousands of millions of multiply-adds, plain and with zeta 2 and 4.
DOWNSCALED = {
    "pix_resnet18": ((11.69, 1.814), (6.76, 0.977), (3.73, 0.557)),
    "pix_resnet34": ((21.80, 3.664), (12.38, 1.902), (6.55, 1.020)),
    "pix_vgg16": ((138.4, 15.47), (131.8, 7.84), (127.7, 4.03)),
}
NAMES = {*SQUEEZED, *DOWNSCALED, "pix_resnet50_half"}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: nn.Module, size: int = 224) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() // 2


# As published.


@pytest.mark.parametrize("name", SQUEEZED)
def test_counts_are_those_of_the_paper(name):
    model = timm.create_model(name, device="meta")
    buffers = sum(buffer.numel() for buffer in model.buffers())
    named = len(list(model.named_parameters()))
    assert (parameter_count(model), buffers, len(model.state_dict()), named, macs(model)) == SQUEEZED[name]
    assert sum(layer.weight.numel() for layer in layers(model)) == BLENDS[name]


@pytest.mark.parametrize("name", READ_AND_WRITTEN)
def test_pix_reads_and_writes_what_the_paper_says(name):
    counts = [0, 0]

    def count(layer, inputs, output):
        counts[0] += inputs[0].numel()
        counts[1] += output.numel()

    model = timm.create_model(name, device="meta").eval()
    for layer in layers(model):
        layer.register_forward_hook(count)
    model(torch.empty(1, 3, 224, 224, device="meta"))
    assert tuple(counts) == READ_AND_WRITTEN[name]


def test_counts_of_the_small_network():
    """Table 1, row E3: 12.3 M parameters, and 1.39 G with norms and pooling counted; 100 classes: 23,705,380."""
    half = timm.create_model("pix_resnet50_half", device="meta")
    assert parameter_count(half) == 12_378_088 and round(macs(half) / 1e9, 3) == 1.355
    assert parameter_count(timm.create_model("pix_resnet50", num_classes=100, device="meta")) == 23_705_380


@pytest.mark.parametrize("name, zeta", PLAIN)
def test_plain_networks_are_the_resnets(name, zeta):
    model = timm.create_model(name, zeta=zeta, pix=False, device="meta")
    parameters, wanted = PLAIN[name, zeta]
    assert parameter_count(model) == parameters and not layers(model)
    assert round(macs(model) / 1e6) == round(wanted / 1e6)


def test_counts_with_squeeze_and_excitation():
    """Table 1, row E4: 28.0 M parameters."""
    model = timm.create_model("pix_resnet50", se=True, device="meta")
    twin = timm.create_model("seresnet50", device="meta")
    assert parameter_count(model) == parameter_count(twin) - 7_552 == 28_080_472
    assert macs(twin) - macs(model) == PLAIN["pix_resnet50", 4][1] - SQUEEZED["pix_resnet50"][-1]


@pytest.mark.parametrize("zeta", [None, 2, 4])
@pytest.mark.parametrize("name", DOWNSCALED)
def test_counts_of_downscaled_networks(name, zeta):
    options = {"pix": False} if zeta is None else {"zeta": zeta}
    model = timm.create_model(name, device="meta", **options)
    parameters, wanted = DOWNSCALED[name][(None, 2, 4).index(zeta)]
    digits = 1 if parameters > 100 else 2
    assert round(parameter_count(model) / 1e6, digits) == parameters
    assert round(macs(model) / 1e9, 2 if wanted > 3.7 else 3) == wanted
    assert {layer.zeta for layer in layers(model)} == ({zeta} - {None})


@pytest.mark.parametrize(
    "name, first, rest",
    [("pix_resnet50", (1, 2, 2, 2), 4), ("pix_resnet101", (1, 2, 2, 2), 4), ("pix_resnet50_half", (2, 4, 4, 4), 8)],
)
def test_zeta_of_the_blocks(name, first, rest):
    model = timm.create_model(name, device="meta")
    for stage, zeta in zip(model.stages, first):
        found = [block.conv_sqz.zeta for block in stage.blocks]
        assert found == [zeta] + [rest] * (len(found) - 1)


def test_names_are_those_of_the_authors():
    names, norms = {"conv_stem.weight"}, ["bn_stem"]
    for stage, depth in enumerate(SMALL["layers"], 1):
        for index in range(depth):
            block = f"layer{stage}.blocks.{index}"
            parts = ["ce", "exp", *(["proj"] if index == 0 else [])]
            names |= {f"{block}.conv_{part}.weight" for part in ["sqz", *parts]}
            norms += [f"{block}.bn_{part}" for part in parts]
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names |= {f"{norm}.{leaf}" for norm in norms for leaf in leaves} | {"classifier.weight", "classifier.bias"}
    state = small().state_dict()
    assert set(state) == names
    assert state["layer2.blocks.0.conv_sqz.weight"].shape == (16, 32, 1, 1)
    assert state["classifier.weight"].shape == (5, 256, 1, 1)


def test_start_is_that_of_the_authors():
    model = timm.create_model("pix_resnet50", **{**SMALL, "bias": True, "se": True})
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, PiX)):
            fans = nn.init._calculate_fan_in_and_fan_out(module.weight)
            bound = (6 / sum(fans)) ** 0.5
            assert 0.5 * bound < module.weight.abs().max() <= bound
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and not module.bias.any() and module.eps == 1e-5


def test_projections_and_blocks_are_where_they_belong():
    """The stride is that of the 3x3 convolution; no activation and no norm between PiX and it."""
    model, x = small().eval(), images()
    block = model.layer2.blocks[0]
    x = model.layer1(model.maxpool(model.bn_stem(model.conv_stem(x)).relu()))
    y = block.bn_ce(nn.functional.conv2d(block.conv_sqz(x), block.conv_ce.weight, stride=2, padding=1)).relu()
    expected = (block.bn_exp(block.conv_exp(y)) + block.bn_proj(block.conv_proj(x))).relu()
    torch.testing.assert_close(block(x), expected)


def test_options_reach_every_layer():
    for name in ("pix_resnet50", "pix_resnet18"):
        model = small(name, tau=0, context="l1", bias=True)
        assert {(m.tau, m.context, m.bias is not None) for m in layers(model)} == {(0.0, "l1", True)}
    fixed, learned = small(tau=2).eval(), small().eval()
    fixed.load_state_dict(learned.state_dict())
    assert not torch.equal(fixed(images()), learned(images()))


# timm's interface.


@pytest.mark.parametrize("name", sorted(NAMES))
def test_entry_points(name):
    assert name in timm.list_models(module="squeezed") + timm.list_models(module="downscaled")
    model = timm.create_model(name, device="meta")
    cfg = model.pretrained_cfg
    assert cfg["architecture"] == name and model.num_classes == 1000 and not hasattr(model, "convert_report")
    assert isinstance(model.get_submodule(cfg["first_conv"]), nn.Conv2d)
    assert model.get_classifier() is model.get_submodule(cfg["classifier"])
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model(name, pretrained=True, device="meta")


OPTIONS = [{}, {"pix": False}, {"stem": "lowres"}, {"bias": True}]


@pytest.mark.parametrize(
    "name, options",
    [
        *[("pix_resnet50", options) for options in [*OPTIONS, {"se": True}]],
        *[("pix_resnet18", {**options, "zero_init_last": False}) for options in OPTIONS],
    ],
)
def test_every_parameter_learns(name, options):
    model = small(name, **options)
    model(images()).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize(
    "name, channels", [("pix_resnet50", [8, 32, 64, 128, 256]), ("pix_resnet18", [64, 8, 16, 32, 64])]
)
@pytest.mark.parametrize("stem", ["imagenet", "lowres"])
def test_features_only(name, channels, stem):
    x = images(64, 96)
    backbone = small(name, features_only=True, stem=stem).eval()
    reductions = [2, 4, 8, 16, 32] if stem == "imagenet" else [1, 1, 2, 4, 8]
    assert backbone.feature_info.channels() == channels and backbone.feature_info.reduction() == reductions
    shapes = [(2, c, 64 // by, 96 // by) for c, by in zip(channels, reductions)]
    assert [tuple(out.shape) for out in backbone(x)] == shapes
    two = small(name, features_only=True, out_indices=(0, 2)).train()
    outputs = two(x)
    assert [out.shape[1] for out in outputs] == [channels[0], channels[2]]
    sum(out.square().sum() for out in outputs).backward()
    assert all(parameter.grad is not None for parameter in two.parameters())


def test_intermediates_agree_with_the_forward_pass():
    model, x = small().eval(), images()
    features = model.forward_features(x)
    last, outputs = model.forward_intermediates(x)
    assert torch.equal(last, features) and torch.equal(outputs[-1], features) and len(outputs) == 5
    early, first = model.forward_intermediates(x, indices=[1], stop_early=True)
    assert torch.equal(first[0], outputs[1]) and torch.equal(early, outputs[1])
    assert len(model.forward_intermediates(x, indices=2, intermediates_only=True)) == 2
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW', got 'NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")
    for keep in (0, 2, 4):
        pruned = copy.deepcopy(model)
        assert pruned.prune_intermediate_layers([keep]) == [keep]
        assert torch.equal(pruned.forward_intermediates(x, [keep], intermediates_only=True)[0], outputs[keep])
        assert pruned.num_features == outputs[keep].shape[1] and pruned.num_classes == 0
        assert len(pruned.stages) == keep


def test_classifier_can_be_replaced():
    model, x = small().eval(), images()
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    assert features.shape == (2, 256) and model.get_classifier().out_channels == 5
    assert torch.allclose(features, model.forward_features(x).mean((2, 3)))
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.num_classes == 7
    model.reset_classifier(0)
    assert torch.equal(model(x), features)
    model.reset_classifier(3, "")
    assert model(x).shape == (2, 3, 2, 2)
    with pytest.raises(ValueError, match="global_pool must be 'avg' or '', got 'max'"):
        model.reset_classifier(3, "max")
    assert small(in_chans=1)(images(channels=1)).shape == (2, 5)
    other = small("pix_resnet18", in_chans=1)
    other.reset_classifier(3)
    assert other(images(channels=1)).shape == (2, 3)


@pytest.mark.parametrize("height, width", [(64, 64), (33, 65), (1, 1), (7, 224)])
def test_images_of_any_size(height, width):
    assert small().eval()(images(height, width)).shape == (2, 5)
    assert small("pix_resnet18").eval()(images(height, width)).shape == (2, 5)


@pytest.mark.parametrize("batch", [0, 1])
def test_batches_of_none_and_one(batch):
    assert small().eval()(images(batch=batch)).shape == (batch, 5)


def test_checkpointing_changes_nothing_but_memory():
    assert_checkpointing_changes_nothing(small(), images())


def test_layer_decay_orders_the_network():
    model = small()
    scale, decayed = layer_decay(model)
    order = [
        "conv_stem",
        "layer1.blocks.0.conv_sqz",
        "layer1.blocks.1.conv_exp",
        "layer4.blocks.0.conv_ce",
        "classifier",
    ]
    scales = [scale(model.get_parameter(f"{name}.weight")) for name in order]
    assert scales == sorted(set(scales)) and scale(model.bn_stem.bias) == scales[0]
    assert model.group_matcher(coarse=True)["stem"]
    assert all(decayed(layer.weight) for layer in layers(model))  # as the authors do


def test_stochastic_depth_and_dropout():
    model = small(drop_path_rate=0.4, drop_rate=0.3)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4]) and model.head_drop.p == 0.3
    x = images()
    assert not torch.equal(model.train()(x), model(x)) and torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"zeta": 3}, r"zeta=3 does not fit channels=\(64, 128, 256, 512\): a stage works on 85.3333 of its 256"),
        ({"zeta": 2}, "must be an integer and divide the 64 that it reads"),
        ({"zeta": 0}, "zeta must be at least 1, but it is 0"),
        ({"layers": (1, 1)}, "layers and channels must have an entry"),
        ({"stem": "deep"}, "stem must be 'imagenet' or 'lowres', got 'deep'"),
        ({"global_pool": "max"}, "global_pool must be"),
        ({"context": "max"}, "context must be"),
    ],
)
def test_arguments_that_do_not_fit(bad, says):
    with pytest.raises(ValueError, match=says):
        timm.create_model("pix_resnet50", device="meta", **bad)


def test_arguments_of_downscaled_networks():
    with pytest.raises(ValueError, match="mode must be 'downscale' or 'prune', got 'squeeze'"):
        timm.create_model("pix_resnet18", mode="squeeze")
    pruned = small("pix_resnet18", mode="prune")
    assert not any(layer.weight.any() for layer in layers(pruned))
    assert all(layer.weight.any() for layer in layers(small("pix_resnet18")))
    assert small("pix_resnet18", mode="prune").state_dict().keys() == small("pix_resnet18").state_dict().keys()
