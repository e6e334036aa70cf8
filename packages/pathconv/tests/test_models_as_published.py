"""The paper's networks and those that it compares with: sizes, work, start and structure as published."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

timm = pytest.importorskip("timm")

from pathconv.models import LowResolutionResNet, WideResNet  # noqa: E402
from pathconv.modules import PathAwareECA, PathConvBlock, kernel_sizes  # noqa: E402
from pathconv.paths import PathConfig  # noqa: E402

# Parameters for 1, 3 and 6 paths by (network, image size, classes): the authors' code.
COUNTS = {
    ("pathconv_s", 32, 10): (3_233_762, 3_234_526, 3_236_098),
    ("pathconv_s", 32, 100): (3_268_412, 3_269_176, 3_270_748),
    ("pathconv_s", 32, 1000): (3_614_912, 3_615_676, 3_617_248),
    ("pathconv_s", 64, 10): (3_381_218, 3_381_982, 3_383_554),
    ("pathconv_s", 64, 1000): (3_762_368, 3_763_132, 3_764_704),
    ("pathconv_b", 32, 10): (7_344_126, 7_345_084, 7_347_040),
    ("pathconv_b", 32, 100): (7_387_416, 7_388_374, 7_390_330),
    ("pathconv_b", 32, 1000): (7_820_316, 7_821_274, 7_823_230),
    ("pathconv_b", 64, 10): (7_528_446, 7_529_404, 7_531_360),
    ("pathconv_b", 64, 1000): (8_004_636, 8_005_594, 8_007_550),
}
ENTRIES = {"pathconv_s": (192, 224, 272), "pathconv_b": (234, 274, 334)}  # of the state dict
ATTENTION = {"pathconv_s": (184, 660, 1_800), "pathconv_b": (236, 834, 2_250)}  # parameters
# FLOPs of convolutions and linear layers, with each path's two attention convolutions and their mix counted apart.
FLOPS = {
    ("pathconv_s", 32, 10): (1_143_620_800, 1_144_206_528, 1_145_083_776),
    ("pathconv_s", 32, 1000): (1_144_381_120, 1_144_966_848, 1_145_844_096),
    ("pathconv_s", 64, 1000): (4_575_092_416, 4_577_447_616, 4_580_979_072),
    ("pathconv_b", 32, 10): (2_493_444_080, 2_494_173_360, 2_495_264_160),
    ("pathconv_b", 32, 1000): (2_494_394_480, 2_495_123_760, 2_496_214_560),
    ("pathconv_b", 64, 1000): (9_974_468_720, 9_977_409_840, 9_981_818_400),
}
BASELINES = {  # parameters and FLOPs by (network, image size, classes)
    ("resnet18_lowres", 32, 10): (11_173_962, 1_110_845_440),
    ("resnet18_lowres", 64, 1000): (11_681_832, 4_444_364_800),
    ("resnet50_lowres", 32, 10): (23_520_842, 2_595_659_776),
    ("resnet50_lowres", 64, 1000): (25_549_352, 10_386_571_264),
    ("wrn_40_2", 32, 10): (2_246_474, 711_821_824),
    ("wrn_40_2", 64, 1000): (9_327_400, 3_833_450_496),
    ("wrn_40_5", 32, 10): (13_982_810, 4_404_910_336),
    ("wrn_40_5", 64, 1000): (57_242_680, 23_781_279_744),
}
SETS = {1: "og", 3: "g", 6: "mg"}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops()


@pytest.mark.parametrize("num_paths", SETS)
@pytest.mark.parametrize("key", COUNTS, ids=str)
def test_parameters_are_those_of_the_paper(key, num_paths):
    name, size, classes = key
    model = timm.create_model(name, img_size=size, path=SETS[num_paths], num_classes=classes, device="meta")
    which = list(SETS).index(num_paths)
    assert parameter_count(model) == COUNTS[key][which]
    assert len(model.state_dict()) == ENTRIES[name][which]
    assert sum(parameter_count(m) for m in model.modules() if isinstance(m, PathAwareECA)) == ATTENTION[name][which]


@pytest.mark.parametrize("num_paths", SETS)
@pytest.mark.parametrize("key", FLOPS, ids=str)
def test_flops_are_those_of_the_paper(key, num_paths):
    """But for the attention's convolutions: a channel takes 2 (k1 + k2) and 2 * 2 for the mix there, 2 k2 here."""
    name, size, classes = key
    model = timm.create_model(name, img_size=size, path=SETS[num_paths], num_classes=classes, device="meta")
    saved = 0
    for module in model.modules():
        if isinstance(module, PathAwareECA):
            saved += 2 * module.channels * (kernel_sizes(module.channels // num_paths)[0] + 2)
    assert flops(model, size) + saved == FLOPS[key][list(SETS).index(num_paths)]


@pytest.mark.parametrize("key", BASELINES, ids=str)
def test_baselines_are_those_of_the_paper(key):
    name, size, classes = key
    options = {"img_size": size} if name.startswith("wrn") else {}
    model = timm.create_model(name, num_classes=classes, device="meta", **options)
    assert (parameter_count(model), flops(model, size)) == BASELINES[key]


@pytest.mark.parametrize("name", ENTRIES)
def test_networks_of_the_ablation_lack_a_part_and_nothing_else(name):
    whole = timm.create_model(name, device="meta")
    without = timm.create_model(name, device="meta", attention=False)
    assert parameter_count(whole) - parameter_count(without) == ATTENTION[name][1]
    assert whole.state_dict().keys() - without.state_dict().keys() == {k for k in whole.state_dict() if ".attn." in k}
    without = timm.create_model(name, device="meta", position_embedding=False)
    assert whole.state_dict().keys() - without.state_dict().keys() == {"posEmbedding"}


def test_stochastic_depth_is_that_of_the_paper():
    rates = [m.drop_path for m in timm.create_model("pathconv_b", device="meta").modules() if type(m) is PathConvBlock]
    assert rates == pytest.approx([0.1 * i / 9 for i in range(10)])


def test_starts_as_the_authors_networks_do():
    model = timm.create_model("pathconv_s", num_classes=100)
    state = model.state_dict()
    assert (state["stage.3.1.scaling"] == 1e-6).all() and state["posEmbedding"].std() == pytest.approx(1, abs=0.02)
    conv, linear = state["stage.3.0.invBot.0.weight"], state["head.weight"]  # He's by fan in; Glorot's
    assert conv.std() == pytest.approx((2 / 384) ** 0.5, rel=0.02)
    assert state["stage.3.0.dwconv.0.weight"].std() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert linear.std() == pytest.approx((2 / 484) ** 0.5, rel=0.02)
    assert (state["stage.3.0.invBot.0.bias"] == 0).all() and (state["stem.conv1.bias"] == 0).all()
    assert (state["head.bias"] == 0.01).all() and (state["stage.0.0.attn.cross_path_mlp.1.bias"] == 0.01).all()
    assert (state["stage.0.0.attn.combine.bias"] == 0).all() and (state["norm.weight"] == 1).all()
    model.reset_classifier(10)
    assert (model.head.bias == 0.01).all()


def test_five_paths_divide_the_large_network_and_not_the_small_one():
    five = [PathConfig("hilbert", 5, (index, 0)) for index in range(5)]
    assert timm.create_model("pathconv_b", path=five, device="meta").pathSampling.num_paths == 5
    with pytest.raises(ValueError, match="5 paths do not divide the channels of the stages, 48, 96, 192, 384"):
        timm.create_model("pathconv_s", path=five, device="meta")


# The networks compared with.


def test_low_resolution_residual_network():
    model = timm.create_model("resnet18_lowres", layers=(1, 1, 1, 1), num_classes=10, in_chans=1, features_only=True)
    outputs = model(torch.randn(2, 1, 32, 32))
    assert [out.shape[2] for out in outputs] == [32, 32, 16, 8, 4]
    assert model.feature_info.reduction() == [1, 1, 2, 4, 8]
    model = timm.create_model("resnet18_lowres", num_classes=10)
    assert isinstance(model, LowResolutionResNet) and model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert model.conv1.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)
    assert timm.create_model("resnet18", num_classes=10).conv1.kernel_size == (7, 7)


def test_wide_residual_network():
    model = WideResNet(10, 1, num_classes=4).eval()
    x = torch.randn(2, 3, 32, 32)
    block = model.stages[1][0]
    maps = model.stages[0](model.conv1(x))
    y = block.conv1(F.relu(block.bn1(maps)))
    assert torch.allclose(block(maps), block.conv2(F.relu(block.bn2(y))) + block.shortcut(maps), atol=1e-5)
    assert block.conv1.stride == (1, 1) and block.conv2.stride == block.shortcut.stride == (2, 2)
    assert model.bn1.momentum == 0.9 and block.dropout.p == 0.3 and isinstance(model.stages[0][0].shortcut, nn.Identity)
    assert [len(WideResNet(16, 1, img_size=size).stages) for size in (32, 63, 64, (64, 80))] == [3, 3, 4, 4]
    features = model.forward_features(x)
    assert features.shape == (2, 64, 8, 8)
    assert torch.equal(model.fc(features.mean((2, 3))), model(x))
    model.reset_classifier(0)
    assert model(x).shape == (2, 64)
    with pytest.raises(ValueError, match="global_pool"):
        model.reset_classifier(3, "max")
    backbone = timm.create_model("wrn_40_2", features_only=True, img_size=64, out_indices=(0, 3))
    assert [tuple(out.shape[1:]) for out in backbone(torch.randn(2, 3, 64, 64))] == [(32, 64, 64), (256, 8, 8)]
    for depth in (4, 41):
        with pytest.raises(ValueError, match=f"depth must be 4 more than a multiple of 6, but it is {depth}"):
            WideResNet(depth)
