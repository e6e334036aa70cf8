"""The paper's networks: sizes as published, twins, timm's interface, training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

timm = pytest.importorskip("timm")

from narrow_networks import CLASSIFIERS, NETWORKS, STAGED, build, close, images, output, small  # noqa: E402
from timm.models.resnet import Bottleneck  # noqa: E402

from csgconv import CSGConv2d, generators  # noqa: E402
from leanconv.testing.models import assert_checkpointing_changes_nothing, layer_decay  # noqa: E402

LARGE, MIXED = {"code_size": 128, "slice_shape": (16, 16, 3, 3)}, {"code_size": 72, "slice_shape": (16, 16, 3, 3)}
# Parameters, of them codes, and once of the ordinary twin: counted in the authors' networks.
PUBLISHED = [
    ("csg_resnet20", {}, 115_426, 19_656, 269_722),
    ("csg_resnet20", LARGE, 312_218, 14_848, None),
    ("csg_resnet20", MIXED, 176_698, 8_352, None),
    ("csg_resnet32", {}, 130_434, 33_768, 464_154),
    ("csg_resnet32", LARGE, 323_866, 25_600, None),
    ("csg_resnet44", {}, 145_442, 47_880, 658_586),
    ("csg_resnet44", LARGE, 335_514, 36_352, None),
    ("csg_resnet56", {}, 160_450, 61_992, 853_018),
    ("csg_resnet56", LARGE, 347_162, 47_104, None),
    ("csg_resnet56", MIXED, 197_530, 26_496, None),
    ("csg_resnet110", {}, 227_986, 125_496, 1_727_962),
    ("csg_resnet110", LARGE, 399_578, 95_488, None),
    ("csg_densenet_bc", {"growth_rate": 12}, 181_306, 5_184, 176_122),
    ("csg_densenet_bc", {"growth_rate": 24}, 431_146, 20_736, 690_346),
    ("csg_densenet_bc", {"growth_rate": 36}, 842_842, 46_656, 1_542_682),
    ("csg_densenet_bc", {}, 1_416_394, 82_944, 2_733_130),
    ("csg_densenet_bc", {"binary": True}, 1_323_082, 82_944, None),
    ("csg_mobilenetv2", {}, 1_595_322, 47_200, 2_296_922),
    ("csg_mobilenetv2", {"binary": True}, 1_591_226, 47_200, None),
    ("csg_shufflenetv2", {}, 171_818, 12_288, 352_042),
    ("csg_shufflenetv2", {"width": 1}, 822_510, 29_696, None),
    ("csg_shufflenetv2", {"width": 1.5}, 1_817_130, 45_056, None),
    ("csg_shufflenetv2", {"width": 2}, 3_468_202, 124_928, None),
    ("csg_resnet18", {}, 7_527_976, 262_144, 11_689_512),
    ("csg_resnet18", {"first_only": False}, 1_609_256, 610_304, None),
    ("csg_resnet26", {}, 10_371_368, 348_160, 15_995_176),
    ("csg_resnet34", {}, 2_177_832, 1_171_456, 21_797_672),
    ("csg_resnet50", {}, 15_163_432, 628_736, 25_557_032),
    ("csg_resnet101", {}, 24_685_608, 1_185_792, 44_549_160),
    ("csg_resnet152", {}, 32_530_472, 1_644_544, 60_192_808),
    ("csg_wide_resnet50_2", {}, 26_424_104, 2_514_944, 68_883_240),
    ("csg_deeplabv3", {}, 26_406_325, 1_972_224, 59_344_309),
    ("csg_deeplabv3", {"generators": 1}, 26_406_325 - 294_912, 1_972_224, None),
]
LIVE = {"csg_resnet20": 273 - 33, "csg_resnet56": 861 - 105, "csg_resnet110": 1743 - 213}  # of the default slices
NAMES = {name for name, *_ in PUBLISHED}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def layers(model: nn.Module) -> list[CSGConv2d]:
    return [module for module in model.modules() if isinstance(module, CSGConv2d)]


# As published.


@pytest.mark.parametrize("name, options, parameters, codes, twin", PUBLISHED)
def test_counts_are_those_of_the_authors(name, options, parameters, codes, twin):
    model = timm.create_model(name, device="meta", **options)
    own = generators(model)
    assert parameter_count(model) == parameters and sum(generator.codes.numel() for generator in own) == codes
    if name in LIVE and not options:
        assert sum(layer.live for layer in own[0].layers) == LIVE[name]
    if twin is not None:
        plain = timm.create_model(name, device="meta", generated=False, **options)
        assert parameter_count(plain) == twin and not generators(plain) and not layers(plain)
        # As many entries, but for the parts of generators in the place of kernels.
        parts = sum(len(generator.state_dict()) for generator in own)
        assert len(plain.state_dict()) == len(model.state_dict()) - parts + len(layers(model))


@pytest.mark.parametrize("name, own", [("csg_resnet18", "resnet18"), ("csg_wide_resnet50_2", "wide_resnet50_2")])
def test_twins_are_the_ordinary_networks(name, own):
    twin, other = (timm.create_model(n, device="meta", **o) for n, o in ((name, {"generated": False}), (own, {})))
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (twin, other)]
    assert shapes[0] == shapes[1]


def test_twin_of_the_segmentation_is_torchvisions():
    from torchvision.models.segmentation import deeplabv3_resnet50

    twin = build(
        "deeplab", generated=False, decoder=False, layers=(3, 4, 6, 3), channels=(64, 128, 256, 512), width=256
    )
    other = deeplabv3_resnet50(weights=None, weights_backbone=None)
    assert {key: value.shape for key, value in twin.state_dict().items()} == {
        key: value.shape for key, value in other.state_dict().items()
    }
    other.load_state_dict(twin.state_dict())
    x = images(33, 41, batch=1)
    with torch.no_grad():
        close(twin.eval()(x)["out"], other.eval()(x)["out"])


def test_starts_are_those_of_the_authors():
    model = timm.create_model("csg_resnet56", init="reference")
    (generator,) = generators(model)
    assert abs(generator.weight.std().item() - (2 / 72) ** 0.5) < 1e-3 and abs(generator.codes.std().item() - 1) < 0.02
    assert abs(model.head.weight.std().item() - (2 / 64) ** 0.5) < 0.02 and not model.head.bias.any()
    assert abs(model.stem[0].weight.std().item() - (2 / 144) ** 0.5) < 0.02
    (generator,) = generators(timm.create_model("csg_densenet_bc", growth_rate=12, init="uniform"))
    assert 0.99 / 72**0.5 < generator.weight.abs().max() <= 1 / 72**0.5
    last = timm.create_model("csg_resnet18").layer1[0].bn2
    assert (last.weight == 1).all()
    for layer in layers(timm.create_model("csg_resnet20")):  # He's, unless told otherwise
        wanted = (2 / (9 * layer.out_channels)) ** 0.5
        assert 0.6 * wanted < layer.weight.std() < 1.5 * wanted


# timm's interface.


def test_names():
    assert set(timm.list_models("csg_*")) == NAMES


@pytest.mark.parametrize("kind", NETWORKS)
def test_entry_points(kind):
    name = NETWORKS[kind][0]
    model = build(kind, device="meta")
    cfg = model.pretrained_cfg
    assert cfg["architecture"] == name
    assert isinstance(model.get_submodule(cfg["first_conv"]), nn.Conv2d)
    head = model.get_submodule(cfg["classifier"])
    y = output(model.eval()(torch.empty(2, 3, 64, 64, device="meta")))
    if name == "csg_deeplabv3":
        assert head.out_channels == 21 and y.shape == (2, 21, 64, 64)
    else:
        assert head is model.get_classifier() and y.shape == (2, model.num_classes) == (2, cfg["num_classes"])
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model(name, pretrained=True, device="meta")


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_parameter_learns(kind):
    model = small(kind)
    output(model(images(65, 65))).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    for generator in generators(model):
        for index in range(len(generator.layers)):
            live, dead = generator.rows(index)
            assert generator.codes.grad[live.start : live.stop].any(1).all()
            assert not generator.codes.grad[dead.start : dead.stop].any()


@pytest.mark.parametrize("layout", ["flat", "tile"])
@pytest.mark.parametrize("kind", ["resnet", "mobilenet"])
def test_other_layouts_and_binary_generators(kind, layout):
    for options in ({"layout": layout}, {"layout": layout, "binary": True}):
        model = small(kind, **options)
        assert {layer.layout for layer in layers(model)} == {layout}
        (generator,) = generators(model)
        assert generator.binary == ("binary" in options)
        model(images()).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize(
    "kind, options, channels, reductions",
    [
        ("resnet", {}, [8, 16, 32], [1, 2, 4]),
        ("densenet", {}, [36, 30, 27], [1, 2, 4]),
        ("mobilenet", {}, [24, 32, 48], [1, 2, 4]),
        ("shufflenet", {}, [16, 24, 40], [2, 4, 8]),
        ("bottleneck", {}, [64, 32, 64, 64, 96], [2, 4, 8, 16, 32]),
        ("bottleneck", {"output_stride": 16}, [64, 32, 64, 64, 96], [2, 4, 8, 16, 16]),
        ("bottleneck", {"stem": "lowres"}, [64, 32, 64, 64, 96], [1, 1, 2, 4, 8]),
    ],
)
def test_features_only(kind, options, channels, reductions):
    x = images(32, 64)
    backbone = small(kind, features_only=True, **options).eval()
    assert backbone.feature_info.channels() == channels and backbone.feature_info.reduction() == reductions
    shapes = [(2, c, 32 // by, 64 // by) for c, by in zip(channels, reductions)]
    assert [tuple(out.shape) for out in backbone(x)] == shapes
    assert len(generators(backbone)) == (kind != "shufflenet")  # where the last layer alone is generated
    two = small(kind, features_only=True, out_indices=(0, 1), **options).train()
    outputs = two(x)
    assert [out.shape[1] for out in outputs] == channels[:2]
    sum(out.square().sum() for out in outputs).backward()
    assert all(parameter.grad is not None for parameter in two.parameters())
    whole = small(kind, **options).eval()
    if kind in STAGED:
        (first,) = small(kind, features_only=True, out_indices=(0,), **options).eval()(x)[:1]
        assert first.shape == whole.stages[0](whole.stem(x)).shape


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classifier_can_be_replaced(kind):
    model, x = small(kind, num_classes=5).eval(), images()
    maps = model.forward_features(x)
    features = model.forward_head(maps, pre_logits=True)
    close(features, maps.mean((2, 3)))
    assert model.get_classifier().out_features == 5 and model.num_features == maps.shape[1]
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.num_classes == 7
    model.reset_classifier(0)
    close(model(x), features)
    if kind in STAGED:
        model.reset_classifier(3, "")
        assert model(x).shape == (2, 3, *maps.shape[2:])
        close(model(x).flatten(2).mean(2), model.get_classifier()(features))
        with pytest.raises(ValueError, match="global_pool must be 'avg' or '', got 'max'"):
            model.reset_classifier(3, "max")
    assert small(kind, in_chans=1)(images(channels=1)).shape == (2, model.pretrained_cfg["num_classes"])


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_batches_and_images_of_any_size(kind):
    model = small(kind).eval()
    for batch, height, width in ((0, 32, 32), (1, 33, 50), (1, 8, 12)):
        assert model(images(height, width, batch)).shape == (batch, model.num_classes)


@pytest.mark.parametrize("kind", [*STAGED, "bottleneck"])
def test_checkpointing_changes_nothing_but_memory(kind):
    assert_checkpointing_changes_nothing(small(kind).eval(), images())


@pytest.mark.parametrize("kind", STAGED)
def test_layer_decay_orders_the_network(kind):
    model = small(kind)
    scale, decayed = layer_decay(model)
    parts = [model.stem, *(block for stage in model.stages for block in stage), model.neck, model.head]
    for part in parts:
        own = {scale(parameter) for parameter in part.parameters() if parameter.dim() > 1}
        assert len(own) <= 1, own
    scales = [scale(next(part.parameters())) for part in parts if next(part.parameters(), None) is not None]
    assert scales == sorted(scales) and len(set(scales)) >= len(parts) - 3
    assert model.group_matcher(coarse=True)["stem"]
    (generator,) = generators(model)
    assert decayed(generator.weight) and decayed(generator.codes)  # as the authors do


@pytest.mark.parametrize("kind", ["resnet", "mobilenet", "bottleneck"])
def test_stochastic_depth_and_dropout(kind):
    model = small(kind, drop_path_rate=0.4, drop_rate=0.3)
    rates = [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]
    assert rates == sorted(set(rates)) and rates[-1] == pytest.approx(0.4) and model.drop_rate == 0.3
    x = images(batch=4)
    assert not torch.equal(model.train()(x), model(x)) and torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize(
    "kind, bad, says",
    [
        ("resnet", {"layers": (1, 1)}, r"layers and channels must have an entry .* got \(1, 1\) and \(8, 16, 32\)"),
        ("resnet", {"layers": (1, 0, 1)}, "layers and channels must have an entry of at least 1"),
        ("resnet", {"global_pool": "max"}, "global_pool must be 'avg' or '', got 'max'"),
        ("resnet", {"drop_path_rate": 1.5}, "drop_path_rate must be at least 0 and below 1, got 1.5"),
        ("resnet", {"init": "xavier"}, "init must be one of"),
        ("resnet", {"layout": "rows"}, "layout"),
        ("resnet", {"slice_shape": (12, 12, 1, 1)}, "as large as the slices, 1 x 1, but kernel_size is 3 x 3"),
        ("densenet", {"depth": 41}, "depth must be 4 more than a multiple of 6, got 41"),
        ("densenet", {"growth_rate": 0}, "growth_rate must be at least 1, but it is 0"),
        ("mobilenet", {"layers": ((), ((1, 8),))}, "layers must have one block or more in each stage"),
        ("shufflenet", {"channels": (16, 24, 41, 72)}, r"channels of the stages must be even, got \(16, 24, 41, 72\)"),
        ("shufflenet", {"width": 3}, "width must be 0.5, 1, 1.5 or 2, got 3"),
        ("bottleneck", {"stem": "deep"}, "stem must be 'imagenet' or 'lowres', got 'deep'"),
        ("bottleneck", {"block": type("Other", (Bottleneck,), {})}, "block must be timm's BasicBlock or Bottleneck"),
        ("deeplab", {"features_only": True}, "csg_deeplabv3 has no features_only"),
        ("deeplab", {"num_classes": 0}, "num_classes must be at least 1, but it is 0"),
        ("deeplab", {"generators": 3}, "generators must be 1 or 2, got 3"),
        ("deeplab", {"output_stride": 32}, "output_stride must be 8 or 16, got 32"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit(kind, bad, says):
    with pytest.raises(ValueError, match=says):
        build(kind, device="meta", **bad)
