"""The paper's networks: sizes as published, twins, timm's interface, training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

timm = pytest.importorskip("timm")

from small_networks import build, close, image_kinds, inputs, kinds, parameter_count, small  # noqa: E402
from timm.optim import param_groups_layer_decay  # noqa: E402

from smpconv import SMPBranches, clip_radii_, fuse, param_groups  # noqa: E402
from smpconv.models import TASKS, smp_tcn  # noqa: E402
from smpconv.points import PointKernel  # noqa: E402

# Counted in the authors' networks: parameters, parameter tensors, multiply-adds for 224 x 224 pixels.
IMAGENET = {"smp_tiny": (26_705_248, 370, 5.7074), "smp_base": (79_546_520, 658, 16.6102)}
# Parameters by what they are: positions, radii, points' weights, small convolutions, norms, the rest.
PARTS = {
    "smp_tiny": (4_880, 2_440, 750_336, 129_600, 121_728, 24_514_560 + 13_536 + 399_168 + 769_000),
    "smp_base": (9_248, 4_624, 2_118_656, 326_400, 297_472, 75_038_720 + 22_144 + 704_256 + 1_025_000),
    "smp_resnet": (16_896, 8_448, 293_760, 165_264, 2_112, 3_166),
    "smnist": (10_800, 10_800, 297_900, 49_650, 1_440, 370),
    "pmnist": (10_800, 10_800, 297_900, 49_650, 1_440, 370),
    "speech_commands_raw": (10_800, 10_800, 297_900, 49_650, 1_440, 370),
    "scifar10": (10_800, 10_800, 299_700, 49_950, 1_440, 790),
    "character_trajectories": (10_800, 10_800, 299_700, 49_950, 1_440, 1_100),
    "speech_commands_mfcc": (10_800, 10_800, 315_000, 52_500, 1_440, 1_300),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def published(name: str, **kwargs) -> nn.Module:
    if name in TASKS:
        return smp_tcn(**TASKS[name], device="meta", **kwargs)
    return timm.create_model(name, device="meta", **kwargs)


# As published.


@pytest.mark.parametrize("name", IMAGENET)
def test_counts_are_those_of_the_paper(name):
    model = published(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    macs = round(counter.get_total_flops() / 2e9, 4)
    assert (parameter_count(model), len(list(model.parameters())), macs) == IMAGENET[name]


def test_counts_of_dense_kernels():
    """As direct convolutions: their kernels alone take 20.47 thousand million multiply-adds."""
    model = published("smp_resnet", algorithm="direct")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, 32, 32, device="meta"))
    points = sum(m.weight[:, :, 0].numel() * 33**2 * 32**2 for m in model.modules() if isinstance(m, PointKernel))
    assert round(points / 1e9, 2) == 20.47 and round(counter.get_total_flops() / 2e9, 2) == 20.65


@pytest.mark.parametrize("name", PARTS)
def test_parts_are_those_of_the_paper(name):
    model, counts = published(name), [0] * 6
    counts[5] = parameter_count(model)
    for module in model.modules():
        if isinstance(module, SMPBranches):
            smp = module.smp
            for index, part in enumerate((smp.coords, smp.radius, smp.weight)):
                counts[index] += part.numel()
            counts[3] += parameter_count(module.small)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            counts[4] += parameter_count(module)
    counts[5] -= sum(counts[:5])
    assert tuple(counts) == PARTS[name]


def test_counts_of_other_tasks():
    mask = {"in_chans": 4}  # a mask of what was observed, beside three channels
    assert parameter_count(smp_tcn(**{**TASKS["character_trajectories"], **mask}, device="meta")) == 374_870
    raw = {**TASKS["speech_commands_raw"], "in_chans": 2}
    assert parameter_count(smp_tcn(**raw, device="meta")) == 372_040
    assert parameter_count(published("smp_resnet", num_classes=100)) == 494_056


def test_kernels_and_points_of_the_stages():
    layers = [module for module in published("smp_tiny").modules() if isinstance(module, PointKernel)]
    sizes = [31] * 2 + [29] * 2 + [27] * 8 + [13] * 2
    assert [layer.kernel_size for layer in layers] == [(size, size) for size in sizes]
    assert [layer.n_points for layer in layers] == [size**2 // 4 for size in sizes]
    assert [layer.initial_radius for layer in layers] == [4 / size for size in sizes]
    assert {(layer.coord_std, layer.average, layer.least_radius) for layer in layers} == {(0.2, False, 1e-3)}
    resnet = [module for module in published("smp_resnet").modules() if isinstance(module, PointKernel)]
    assert len(resnet) == 15 and {layer.kernel_size for layer in resnet} == {(33, 33)}
    assert {(layer.initial_radius, layer.coord_std, layer.average) for layer in resnet} == {(0.12, 0.05, True)}


@pytest.mark.parametrize("task", TASKS)
def test_tasks_are_those_of_the_paper(task):
    model, wanted = published(task), TASKS[task]
    layers = [module for module in model.modules() if isinstance(module, PointKernel)]
    assert len(layers) == 12 and {layer.kernel_size for layer in layers} == {(wanted["length"],)}
    assert {layer.initial_radius for layer in layers} == {wanted["radius"]}
    assert {layer.bias is not None for layer in layers} == {wanted.get("bias", False)}
    assert {block.dropout.p for block in model.blocks} == {wanted.get("dropout", 0.0)}
    assert model.input_dropout.p == wanted.get("input_dropout", 0.0)


def test_shape_of_the_network_for_images():
    """Norms before the pointwise convolutions of both halves of a block, none before the large one."""
    model, x = small("image").eval(), inputs()
    assert [layer.conv.stride for layer in model.stem] == [(2, 2), (1, 1), (1, 1), (1, 1)]
    assert [layer.conv.groups for layer in model.stem] == [1, 8, 1, 8]
    x = model.stem(x)
    block, ffn = model.stages[0].blocks[:2]
    y = block.pw1.norm(block.pw1.conv(block.pw1.pre_norm(x))).relu()
    large = block.large.norm(block.large.smp(y)) + block.large.small_norm(block.large.small(y))
    y = x + block.pw2.norm(block.pw2.conv(large.relu()))
    torch.testing.assert_close(block(x), y)
    inner = nn.functional.gelu(ffn.pw1.norm(ffn.pw1.conv(ffn.pw1.pre_norm(y))))
    assert inner.shape[1] == 4 * y.shape[1]
    torch.testing.assert_close(ffn(y), y + ffn.pw2.norm(ffn.pw2.conv(inner)))
    widen, halve = model.stages[1].downsample
    assert widen.conv.kernel_size == (1, 1) and halve.conv.stride == (2, 2) and halve.conv.groups == 16


def test_start_is_that_of_the_authors():
    for model, head in ((build("image"), 0.02), (build("sequence"), 0.01)):
        for name, module in model.named_modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)) and "shortcut" not in name:
                wanted = head if name == "head" else 0.02
                spread = 4 * wanted / module.weight.numel() ** 0.5
                assert abs(module.weight.std().item() - wanted) < spread, name
                assert module.bias is None or not module.bias.any()
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert (module.weight == 1).all() and not module.bias.any() and module.eps == 1e-5
    head = timm.create_model("smp_resnet", num_classes=200).get_classifier()
    assert abs(head.weight.std().item() - (2 / 48) ** 0.5) < 0.01 and not head.bias.any()


# The twins with ordinary kernels.


@kinds
def test_twins_have_no_points(kind):
    sizes = {"kernel_sizes": 7} if kind == "image" else {"kernel_size": 7}
    twin = small(kind, points=False, **sizes).eval()
    assert not any(isinstance(module, (PointKernel, SMPBranches)) for module in twin.modules())
    assert twin(inputs(kind)).shape == (2, 5)
    own = sum(isinstance(module, SMPBranches) for module in build(kind).modules())
    convs = [module for module in twin.modules() if isinstance(module, (nn.Conv1d, nn.Conv2d))]
    assert sum(7 in conv.kernel_size for conv in convs) == own and own > 2
    close(fuse(twin)(inputs(kind)), twin(inputs(kind)))
    if kind == "sequence":
        x = inputs(kind)
        later = torch.cat((x[:, :, :20], torch.randn(2, 3, 20)), 2)
        assert torch.equal(twin.forward_features(x)[:, :, :20], twin.forward_features(later)[:, :, :20])


# timm's interface.


@pytest.mark.parametrize("name", ["smp_tiny", "smp_base", "smp_resnet", "smp_tcn"])
def test_entry_points(name):
    assert name in timm.list_models(module="smp")
    model = timm.create_model(name, device="meta")
    cfg = model.pretrained_cfg
    assert cfg["architecture"] == name and model.num_classes == cfg["num_classes"]
    assert model.get_classifier() is model.get_submodule(cfg["classifier"])
    if cfg["first_conv"]:
        assert isinstance(model.get_submodule(cfg["first_conv"]), nn.Conv2d)
    size = cfg["input_size"] if name != "smp_tcn" else cfg["input_size"][::2]  # to timm, a sequence is one row
    assert model(torch.empty(2, *size, device="meta")).shape == (2, cfg["num_classes"])
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model(name, pretrained=True, device="meta")


@kinds
def test_every_parameter_learns(kind):
    model = small(kind).train()
    model(inputs(kind)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@kinds
def test_training_as_the_paper_does(kind):
    model = small(kind).train()
    groups = param_groups(model, 0.1, radius_lr_factor=5)
    layers = [module for module in model.modules() if isinstance(module, PointKernel)]
    assert [group["lr"] for group in groups] == [0.1, 0.1, 0.5] and len(groups[2]["params"]) == len(layers)
    wanted = {f"{name}.{leaf}" for name, module in model.named_modules() for leaf in ("coords", "radius")
              if isinstance(module, PointKernel)}  # fmt: skip
    assert model.no_weight_decay() == wanted and len(wanted) == 2 * len(layers)
    model(inputs(kind)).square().sum().backward()
    torch.optim.SGD(groups, 0.1).step()
    clip_radii_(model)
    assert all(layer.radius.min() >= layer.least_radius and layer.radius.max() <= 1 for layer in layers)


@pytest.mark.parametrize(
    "kind, options, channels, reductions",
    [
        ("image", {}, [8, 16], [2, 4]),
        ("image", {"stem_stride": 4}, [8, 16], [4, 8]),
        ("image", {"stem_stride": 1, "points": False}, [8, 16], [1, 2]),
        ("resnet", {}, [8, 12], [1, 1]),
    ],
)
def test_features_only(kind, options, channels, reductions):
    x = inputs(kind, 32, 48)
    backbone = small(kind, features_only=True, **options).eval()
    assert backbone.feature_info.channels() == channels and backbone.feature_info.reduction() == reductions
    shapes = [(2, c, 32 // by, 48 // by) for c, by in zip(channels, reductions)]
    assert [tuple(out.shape) for out in backbone(x)] == shapes
    first = small(kind, features_only=True, out_indices=(0,), **options).train()
    (output,) = first(x)
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in first.parameters())


@image_kinds
def test_intermediates_agree_with_the_forward_pass(kind):
    model, x = small(kind).eval(), inputs(kind)
    features = model.forward_features(x)
    last, outputs = model.forward_intermediates(x)
    assert torch.equal(model.norm(last), features) and torch.equal(outputs[-1], last) and len(outputs) == 2
    assert torch.equal(model.forward_intermediates(x, norm=True, intermediates_only=True)[-1], features)
    early, first = model.forward_intermediates(x, indices=[0], stop_early=True)
    assert torch.equal(first[0], outputs[0]) and torch.equal(early, outputs[0])
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW', got 'NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")
    for keep in (0, 1):
        pruned = copy.deepcopy(model)
        assert pruned.prune_intermediate_layers([keep]) == [keep]
        assert torch.equal(pruned.forward_intermediates(x, [keep], intermediates_only=True)[0], outputs[keep])
        assert pruned.num_features == outputs[keep].shape[1] and pruned.num_classes == 0


@kinds
def test_classifier_can_be_replaced(kind):
    model, x = small(kind).eval(), inputs(kind)
    maps = model.forward_features(x)
    features = model.forward_head(maps, pre_logits=True)
    assert torch.equal(features, maps[:, :, -1] if kind == "sequence" else maps.mean((2, 3)))
    assert model.get_classifier().out_features == 5
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.num_classes == 7
    model.reset_classifier(0)
    assert torch.equal(model(x), features)
    model.reset_classifier(3, "")
    assert model(x).shape == (2, 3, *maps.shape[2:])
    close(model(x).flatten(2).mean(2), model.get_classifier()(maps.flatten(2).mean(2)))
    model.reset_classifier(3, "avg")
    close(model(x), model.get_classifier()(maps.flatten(2).mean(2)))
    with pytest.raises(ValueError, match=r"global_pool must be .*'avg' or '', got 'max'"):
        model.reset_classifier(3, "max")


@pytest.mark.parametrize("height, width", [(24, 24), (33, 7), (1, 1), (5, 40)])
@image_kinds
def test_images_of_any_size(kind, height, width):
    assert small(kind).eval()(inputs(kind, height, width)).shape == (2, 5)
    assert small(kind, in_chans=1).eval()(inputs(kind, height, width, channels=1)).shape == (2, 5)


@pytest.mark.parametrize("length", [1, 7, 40, 61])
def test_sequences_of_any_length(length):
    """What is older than the kernels is not seen; what is newer than a step, neither."""
    model = small("sequence").eval()
    x = inputs("sequence", length)
    y = model.forward_features(x)
    assert model(x).shape == (2, 5) and y.shape == (2, 12, length)
    close(model.forward_features(x[:, :, : length // 2 + 1]), y[:, :, : length // 2 + 1])


def test_sequences_sampled_at_any_time():
    """Times a step apart give what counting samples gives; others do not, and no sample sees a later one."""
    regular, irregular = small("sequence").eval(), small("sequence", in_chans=4, times=True).eval()
    irregular.load_state_dict(regular.state_dict())
    x, steps = inputs("sequence"), torch.arange(40.0)
    close(irregular(torch.cat((x, steps.expand(2, 1, -1)), 1)), regular(x), 1e-4)
    times = (torch.rand(2, 1, 40) * 2).cumsum(2)
    y = irregular.forward_features(torch.cat((x, times), 1))
    assert (y - regular.forward_features(x)).abs().max() > 0.1
    sooner = irregular.forward_features(torch.cat((x, times), 1)[:, :, :30])
    close(sooner, y[:, :, :30])
    irregular.train()(torch.cat((x, times), 1)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in irregular.parameters())
    with pytest.raises(ValueError, match="a fused convolution has taps, not points, and takes no times"):
        fuse(irregular.eval())(torch.cat((x, times), 1))


@pytest.mark.parametrize("batch", [0, 1])
@kinds
def test_batches_of_none_and_one(kind, batch):
    """The authors' network for CIFAR drops the first dimension of one."""
    assert small(kind).eval()(inputs(kind, batch=batch)).shape == (batch, 5)


@image_kinds
def test_checkpointing_changes_nothing_but_memory(kind):
    model, x = small(kind, **({"dropout": 0.0} if kind == "resnet" else {"drop_path_rate": 0.0})), inputs(kind)
    model(x).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).square().sum().backward()
    assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(model.parameters(), expected))


def test_layer_decay_orders_the_network():
    model = small("image")
    groups = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.5)
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert len(scale) == len(list(model.parameters()))
    order = [
        "stem.0.conv",
        "stages.0.blocks.0.large.smp",
        "stages.0.blocks.3.pw2.conv",
        "stages.1.blocks.1.pw1.conv",
        "head",
    ]
    scales = [scale[id(model.get_parameter(f"{name}.weight"))] for name in order]
    assert scales == sorted(set(scales)) and scale[id(model.stem[3].norm.bias)] == scales[0]
    assert model.group_matcher(coarse=True)["stem"]
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for layer in (module for module in model.modules() if isinstance(module, PointKernel)):
        assert id(layer.weight) in decayed and not {id(layer.coords), id(layer.radius)} & decayed


def test_stochastic_depth_and_dropout():
    model = small("image", drop_path_rate=0.4, drop_rate=0.3)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0, 0.2, 0.2, 0.4, 0.4]) and model.head_drop.p == 0.3
    resnet = small("resnet", drop_path_rate=0.4)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in resnet.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.2, 0.4])
    assert {block.dropout.p for stage in resnet.stages for block in stage.blocks} == {0.1}
    for kind, net in (("image", model), ("resnet", resnet), ("sequence", small("sequence", input_dropout=0.5))):
        x = inputs(kind)
        assert not torch.equal(net.train()(x), net(x)) and torch.equal(net.eval()(x), net(x))


@pytest.mark.parametrize(
    "kind, bad, says",
    [
        ("image", {"layers": (1, 1, 1)}, "layers and channels must have an entry"),
        ("image", {"stem_stride": 3}, "stem_stride must be 1, 2 or 4, got 3"),
        ("image", {"kernel_sizes": (9, 9, 9)}, "kernel_sizes must be one value or have an entry for each of 2 stages"),
        ("image", {"kernel_sizes": 8}, "kernel_size must be odd"),
        ("image", {"kernel_sizes": 8, "points": False}, "kernel_size must be odd"),
        ("image", {"kernel_sizes": 3}, "small_kernel_size must fit"),
        ("image", {"kernel_sizes": 65}, "kernel_size must be at most 63"),
        ("image", {"global_pool": "max"}, "global_pool must be"),
        ("image", {"drop_path_rate": 1.5}, "drop_path_rate must be at least 0 and below 1, got 1.5"),
        ("image", {"ffn_ratio": 0}, "ffn_ratio must be at least 1, but it is 0"),
        ("resnet", {"channels": ()}, "channels must have an entry"),
        ("resnet", {"kernel_size": 8}, "kernel_size must be odd"),
        ("resnet", {"kernel_size": 8, "points": False}, "kernel_size must be odd"),
        ("sequence", {"channels": ()}, "channels must have an entry"),
        ("sequence", {"length": 0}, "length must be at least 1"),
        ("sequence", {"algorithm": "fast"}, "algorithm must be"),
        ("sequence", {"times": True, "in_chans": 1}, "times=True needs points, and in_chans of 2 or more"),
        ("sequence", {"times": True, "points": False}, "times=True needs points, and in_chans of 2 or more"),
    ],
)
def test_arguments_that_do_not_fit(kind, bad, says):
    with pytest.raises(ValueError, match=says):
        build(kind, device="meta", **bad)
