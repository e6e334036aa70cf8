"""The paper's networks: sizes as published, timm's interface, layouts, and what a training loop does to a model."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

timm = pytest.importorskip("timm")

from timm.layers import LayerNorm2d  # noqa: E402
from timm.models.convnext import checkpoint_filter_fn  # noqa: E402

from dwoconv1d import OrientedConv1d, assign_angles  # noqa: E402
from dwoconv1d.models import BACKBONE_KERNEL_SIZES, VARIANTS, ConvNeXt  # noqa: E402
from leanconv.testing.models import Copies, assert_checkpointing_changes_nothing, layer_decay  # noqa: E402

# Parameters, angles, parameters of the dense-task backbone: the authors' code, with theta not counted as a parameter.
COUNTS = {
    "convnext_tiny_2d": (28_589_128, 0, 27_821_472),
    "convnext_tiny_1d": (28_476_040, 6_752, 27_653_088),
    "convnext_tiny_1dpp": (29_215_880, 33_248, 28_222_432),
    "convnext_tiny_2dpp": (29_437_000, 26_496, 28_448_160),
    "convnext_base_2d": (88_591_464, 0, 87_568_256),
    "convnext_base_1d": (88_273_256, 18_176, 87_139_456),
    "convnext_base_1dpp": (90_292_584, 90_368, 88_820_864),
    "convnext_base_2dpp": (90_901_608, 72_192, 89_436_032),
}
# GMACs at 224 pixels in linear layers, in convolutions, and 5 per element that F.layer_norm sees (not LayerNorm2d).
GMACS = {
    "convnext_tiny_2d": (4.1626, 0.2930, 0.0107),
    "convnext_tiny_1d": (4.1915, 0.2710, 0.0173),
    "convnext_tiny_1dpp": (4.1915, 0.4866, 0.0173),
    "convnext_tiny_2dpp": (4.1626, 0.5589, 0.0107),
    "convnext_base_2d": (14.7985, 0.5562, 0.0233),
    "convnext_base_1d": (14.8339, 0.4840, 0.0304),
    "convnext_base_1dpp": (14.8339, 0.9720, 0.0304),
    "convnext_base_2dpp": (14.7985, 1.1348, 0.0233),
}
SMALL = {"depths": (2, 1, 1, 2), "dims": (8, 16, 24, 32), "num_classes": 5}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def small(name: str = "convnext_tiny_1dpp", **kwargs) -> nn.Module:
    """A narrow network with every layer at work: random layer scales instead of 1e-6."""
    model = timm.create_model(name, **{**SMALL, **kwargs})
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("gamma"):
                parameter.uniform_(0.5, 1.5)
    return model


def images(height: int = 48, width: int = 48, batch: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_angles_are_those_of_the_paper(name):
    parameters, angles, _ = COUNTS[name]
    model = timm.create_model(name, device="meta")
    assert parameter_count(model) == parameters
    assert sum(buffer.numel() for key, buffer in model.named_buffers() if key.endswith("angle")) == angles


@pytest.mark.parametrize("name", COUNTS)
def test_backbone_parameters_are_those_of_the_paper(name):
    kernel_sizes = BACKBONE_KERNEL_SIZES[name.rsplit("_", 1)[1]]
    model = timm.create_model(name, features_only=True, out_norms=True, kernel_sizes=kernel_sizes, device="meta")
    assert parameter_count(model) == COUNTS[name][2]


@pytest.mark.parametrize("name", GMACS)
def test_macs_are_those_of_the_paper(name):
    model = timm.create_model(name, device="meta")
    normalised = 0

    def count(module, args):
        nonlocal normalised
        normalised += args[0].numel()

    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and not isinstance(module, LayerNorm2d):
            module.register_forward_pre_hook(count)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 224, 224, device="meta"))
    flops = {str(op): number for op, number in counter.get_flop_counts()["Global"].items()}
    convolutions = sum(number for op, number in flops.items() if "conv" in op)
    linear = sum(flops.values()) - convolutions
    found = (linear / 2e9, convolutions / 2e9, 5 * normalised / 1e9)
    assert found == pytest.approx(GMACS[name], abs=5.1e-5)


@pytest.mark.parametrize("name", COUNTS)
def test_every_parameter_learns(name):
    model = small(name)
    model(images()).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        # On maps of one or two pixels the outer taps lie outside, but never a whole kernel.
        assert parameter.grad.abs().sum() > 0, key


def test_entry_points_have_their_own_defaults_and_leave_those_of_timm_alone():
    assert timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8,) * 4).__class__ is not ConvNeXt
    model = small()
    assert model.default_cfg["architecture"] == "convnext_tiny_1dpp" and model.default_cfg["crop_pct"] == 0.875
    assert model.get_submodule(model.default_cfg["first_conv"]) is model.downsample_layers[0].pw1
    assert set(COUNTS) <= set(timm.list_models("convnext_*", module="oriented1d"))
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        small(pretrained=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_are_those_of_the_authors(variant):
    """Their names, but for theta, which is the buffer angle here."""
    stem = {"oriented": ["dw1", "dw2", "norm1", "norm2", "norm3", "pw1", "pw2"], "patch": ["0", "1"]}
    convs = ["dwconv"] if len(VARIANTS[variant].kernel_sizes) == 1 else ["dwconv1", "dwconv2"]
    layers = [f"downsample_layers.0.{part}" for part in stem[VARIANTS[variant].stem]]
    layers += [f"downsample_layers.{index}.{part}" for index in (1, 2, 3) for part in (0, 1)]
    blocks = [f"stages.{stage}.{block}" for stage, depth in enumerate(SMALL["depths"]) for block in range(depth)]
    layers += [f"{block}.{part}" for block in blocks for part in ("norm", "pwconv1", "pwconv2", *convs)]
    model = small(f"convnext_tiny_{variant}")
    expected = {f"{layer}.{leaf}" for layer in [*layers, "norm", "head"] for leaf in ("weight", "bias")}
    expected |= {f"{block}.gamma" for block in blocks}
    expected |= {f"{key}.angle" for key, module in model.named_modules() if isinstance(module, OrientedConv1d)}
    assert set(model.state_dict()) == expected


def test_2d_variant_is_the_convnext_of_timm():
    model, x = small("convnext_tiny_2d").eval(), images(75, 64)
    twin = timm.create_model("convnext_tiny", **SMALL).eval()
    twin.load_state_dict(checkpoint_filter_fn(model.state_dict(), twin))
    assert torch.allclose(model(x), twin(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("directions", [8, 4])
def test_directions_reach_every_layer_and_turn_in_odd_blocks(directions):
    model = small("convnext_tiny_1dpp", directions=directions)
    stem = model.downsample_layers[0]
    for conv, offset in [
        (stem.dw1, 0.0),
        (stem.dw2, 0.5),
        (model.stages[0][0].dwconv1, 0.0),
        (model.stages[0][1].dwconv1, 0.5),
        (model.stages[0][1].dwconv2, 0.5),
        (model.stages[1][0].dwconv2, 0.0),
    ]:
        assert torch.equal(conv.angle, assign_angles(len(conv.angle), directions, offset))
    unturned = small("convnext_tiny_1d", rotate=False).stages[0][1].dwconv
    assert torch.equal(unturned.angle, assign_angles(8))


@pytest.mark.parametrize("height, width", [(32, 32), (33, 47), (50, 35)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_size(variant, height, width):
    assert small(f"convnext_tiny_{variant}")(images(height, width)).shape == (2, 5)


@pytest.mark.parametrize("variant", ["1d", "2dpp"])
def test_features_only(variant):
    name, x = f"convnext_tiny_{variant}", images(33, 64)
    backbone = small(name, features_only=True)
    up = variant == "1d"  # an oriented stem rounds up, a patch stem down
    assert [tuple(out.shape[1:]) for out in backbone(x)] == [
        (8, 8 + up, 16),
        (16, 4, 8),
        (24, 2, 4),
        (32, 1, 2),
    ]
    assert backbone.feature_info.channels() == [8, 16, 24, 32]
    assert backbone.feature_info.reduction() == [4, 8, 16, 32]

    two = small(name, features_only=True, out_indices=(0, -2), out_norms=True)
    outputs = two(x)
    assert [out.shape[1] for out in outputs] == [8, 24] and two.feature_info.channels() == [8, 24]
    for out in outputs:  # their own norms: mean 0 over the channels
        assert out.mean(1).abs().max() < 1e-5
    assert len(two.model.stages) == 3
    sum(out.square().sum() for out in outputs).backward()
    assert all(parameter.grad is not None for parameter in two.parameters())


def test_intermediates_agree_with_the_forward_pass():
    model, x = small().eval(), images()
    features = model.forward_features(x)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, features) and torch.equal(maps[-1], features) and len(maps) == 4
    (normed,) = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
    assert torch.equal(normed.movedim(1, -1), model.norm(features.movedim(1, -1)))
    first = model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
    assert torch.equal(first[0], maps[0])
    with pytest.raises(ValueError, match="output_fmt"):
        model.forward_intermediates(x, output_fmt="NLC")


def test_classifier_can_be_replaced():
    model, x = small().eval(), images()
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    assert features.shape == (2, 32) and model.get_classifier().out_features == 5
    assert torch.allclose(features, model.norm(model.forward_features(x).mean((2, 3))))
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.num_classes == 7
    model.reset_classifier(0)
    assert torch.equal(model(x), features)
    model.reset_classifier(3, "")
    assert model(images(64, 96)).shape == (2, 3, 2, 3)
    with pytest.raises(ValueError, match="global_pool"):
        model.reset_classifier(3, "max")
    assert small(in_chans=1)(images(channels=1)).shape == (2, 5)


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_small_images_need_only_arguments(patch_size):
    narrow = {"depths": (1, 1, 1), "dims": (8, 16, 24), "patch_size": patch_size, "in_chans": 1, "num_classes": 10}
    x = images(28, 28, channels=1)
    size = 28 // patch_size
    for model in (ConvNeXt("1d", kernel_sizes=(15, 15, 7), stem_width=16, **narrow), ConvNeXt("2d", **narrow)):
        assert model(x).shape == (2, 10)
        assert [tuple(out.shape[2:]) for out in model.forward_intermediates(x)[1]] == [
            (size, size),
            (size // 2, size // 2),
            (size // 4, size // 4),
        ]
    assert model.feature_info[-1] == {"num_chs": 24, "reduction": 4 * patch_size, "module": "stages.2"}
    backbone = timm.create_model("convnext_tiny_1d", features_only=True, kernel_sizes=(7, 7, 7), **narrow)
    assert len(backbone(x)) == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"variant": "3d"}, "variant must be one of '2d', '1d', '1dpp', '2dpp', got '3d'"),
        ({"depths": (1, 1)}, "equally long, got 2 and 4"),
        ({"kernel_sizes": (31, 31)}, "an int for each of the 4 stages"),
        ({"variant": "1dpp", "kernel_sizes": (31,) * 4}, "a pair of ints for each of the 4 stages"),
        ({"stem": "b"}, "stem must be"),
        ({"patch_size": 3}, "patch_size must be 1, 2 or 4"),
        ({"global_pool": "max"}, "global_pool must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXt(**{"variant": "1d", "dims": (8, 8, 8, 8), **arguments})


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 32, 32, 3), (3, 32, 32)])
def test_images_of_another_shape_are_refused_by_the_oriented_stem(shape):
    with pytest.raises(ValueError, match=r"^images must have shape \(N, 3, H, W\), but they have shape") as caught:
        small("convnext_tiny_1d")(torch.zeros(shape))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_that_are_too_small_are_refused(variant):
    model = small(f"convnext_tiny_{variant}")
    stages = len(model.stages)
    with pytest.raises(ValueError, match=rf"^The images are too small: 1x2 pixels .* stage {stages} of {stages}"):
        model(images(4 * 2 ** (stages - 2), 8 * 2 ** (stages - 2)))
    says = f"images of {4 * 2 ** (stages - 1)} pixels a side are large enough"
    with pytest.raises(ValueError, match=says):
        model(images(3, 3))
    model(images(4 * 2 ** (stages - 1), 4 * 2 ** (stages - 1)))


def test_checks_of_the_images_bind_no_traced_graph():
    model, x = small().eval(), images(64, 64)
    size = torch.export.Dim.AUTO
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: size, 2: size, 3: size},)).module()
    traced = torch.fx.symbolic_trace(model)
    other = images(96, 80, batch=3)
    assert torch.allclose(exported(other), model(other), rtol=1e-4, atol=1e-5)
    assert torch.equal(traced(other), model(other))


@pytest.mark.parametrize("variant", VARIANTS)
def test_layouts_agree_and_blocks_copy_nothing(variant):
    model, x = small(f"convnext_tiny_{variant}").eval(), images()
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert torch.allclose(twin(x.contiguous(memory_format=torch.channels_last)), model(x), rtol=1e-4, atol=1e-5)
    for net in (model, twin):
        with torch.no_grad():
            maps = net.downsample_layers[0](x)
            assert maps.is_contiguous(memory_format=torch.channels_last)
            with Copies() as copies:
                out = net.stages[0](maps)
        assert copies.found == [] and out.is_contiguous(memory_format=torch.channels_last)


def test_checkpointing_changes_nothing_but_memory():
    assert_checkpointing_changes_nothing(small(), images())


def test_layer_decay_orders_the_network():
    model = small()
    scale, decayed = layer_decay(model)
    order = ["downsample_layers.0.pw1", "stages.0.0.dwconv1", "stages.0.1.dwconv2", "downsample_layers.1.1", "head"]
    scales = [scale(model.get_parameter(f"{name}.weight")) for name in order]
    assert scales == sorted(set(scales))
    assert scale(model.stages[1][0].pwconv1.weight) == scale(model.downsample_layers[1][1].weight)
    assert decayed(model.stages[0][0].dwconv1.weight) and not decayed(model.stages[0][0].gamma)


def test_drop_path_grows_over_all_blocks_and_layer_scale_is_optional():
    model = ConvNeXt("1d", depths=(2, 1, 1), dims=(8, 8, 8), drop_path_rate=0.3, layer_scale_init_value=None)
    blocks = [block for stage in model.stages for block in stage]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert all(block.gamma is None for block in blocks) and model(images()).isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_and_half_precision(variant):
    model, x = small(f"convnext_tiny_{variant}").eval(), images()
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(model(x).float(), expected, atol=0.05)
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert torch.allclose(half(x.bfloat16()).float(), expected, atol=0.05)


def test_compiles_without_graph_breaks():
    model, x = small(drop_path_rate=0.1), images()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(torch.compile(model.eval(), fullgraph=True, backend="aot_eager")(x), model(x), atol=1e-5)
    model.train()
    compiled(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_copies_and_files_keep_the_network():
    model, x = small().eval(), images()
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = small(directions=4).eval()  # the file's angles win
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), expected)


def test_dtype_reaches_every_parameter():
    model = small(dtype=torch.float64)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    model.reset_classifier(3)
    assert model(images().double()).dtype == torch.float64


def test_start_on_the_meta_device():
    model = timm.create_model("convnext_tiny_1dpp", device="meta", **SMALL).to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.fill_(7.0)
    model.reset_parameters()
    fresh = timm.create_model("convnext_tiny_1dpp", **SMALL).state_dict()
    for name, tensor in model.state_dict().items():
        assert tensor.equal(fresh[name]) or (tensor.ndim > 1 and 0.01 < tensor.std() < 0.03), name
    assert model(images()).isfinite().all()


def test_without_timm_the_package_works_and_models_says_what_is_missing():
    script = (
        "import sys; sys.modules['timm'] = None\n"
        "import dwoconv1d, dwoconv1d.checkpoints\n"
        "try:\n    import dwoconv1d.models\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "dwoconv1d.models needs timm, which is not installed: run `pip install dwoconv1d[models]`"
    )
