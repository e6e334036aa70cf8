"""The paper's networks: any path and size, timm's interface, layouts, and what a training loop does to a model."""

from __future__ import annotations

import copy
import importlib.util
import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

timm = pytest.importorskip("timm")


from leanconv.testing.models import Copies, assert_checkpointing_changes_nothing, layer_decay  # noqa: E402
from pathconv import paths  # noqa: E402
from pathconv.models import PathConvNet  # noqa: E402
from pathconv.modules import PathAwareECA  # noqa: E402
from pathconv.paths import PathConfig, PathSet  # noqa: E402

SMALL = {"depths": (2, 1, 1), "dims": (12, 24, 48), "num_classes": 5}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small(name: str = "pathconv_s", **kwargs) -> nn.Module:
    """A narrow network with every layer at work: random layer scales instead of 1e-6."""
    model = timm.create_model(name, **{**SMALL, **kwargs})
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("scaling"):
                parameter.uniform_(0.5, 1.5)
    return model


def images(height: int = 32, width: int = 32, batch: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


def test_network_of_the_ablation_computes_the_rest():
    model, whole, x = small(attention=False, position_embedding=False).eval(), small().eval(), images()
    whole.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        whole.posEmbedding.zero_()
        for block in whole.modules():
            if isinstance(block, PathAwareECA):
                block.combine.bias.fill_(-200)  # e * f = 0
    assert torch.allclose(model(x), whole(x), atol=1e-5)
    model.set_input_size(64)
    model.reset_parameters()
    assert model(images(64, 64)).shape == (2, 5)
    with pytest.raises(ValueError, match="path has 1 paths, but this network was made for 3"):
        model.set_input_size(32, "og")


def test_names_are_those_of_the_authors():
    layers = ["stem.conv1", "stem.conv2.0", "stem.conv2.1", "norm", "head"]
    layers += [f"downsample.{index}.{part}" for index in (0, 1) for part in (0, 1)]
    blocks = [f"stage.{stage}.{block}" for stage, depth in enumerate(SMALL["depths"]) for block in range(depth)]
    parts = ["dwconv.0", "dwconv.1", "invBot.0", "invBot.1", "invBot.3", "attn.combine"]
    parts += [f"attn.cross_path_mlp.{index}" for index in (0, 1, 3)]
    layers += [f"{block}.{part}" for block in blocks for part in parts]
    expected = {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")}
    expected |= {f"{block}.attn.path_convs.{path}.{i}.weight" for block in blocks for path in range(3) for i in (0, 1)}
    expected |= {f"{block}.scaling" for block in blocks} | {"posEmbedding", "pathSampling.paths"}
    assert set(small().state_dict()) == expected


# Paths and sizes.


@pytest.mark.parametrize(
    "size, path",
    [
        (32, name) for name in ("r", "og", "g", "mg", "oz", "z", "mz")
    ] + [
        (64, "z"),
        (28, "og"),
        ((9, 14), "r"),
        (1, "r"),
        ((5, 6), PathConfig("serpentine")),
        (8, (PathConfig("hilbert"), PathConfig("hilbert", rotation=90))),
        (8, PathSet.of([PathConfig("zorder"), PathConfig("raster"), PathConfig("hilbert")], 8, 8)),
        ((6, 9), paths.generate(6, 9, "hilbert")),
        ((6, 9), paths.generate(6, 9, "hilbert")[None]),
    ],
    ids=str,
)  # fmt: skip
def test_any_path_and_size(size, path):
    model = small(img_size=size, path=path)
    height, width = (size, size) if isinstance(size, int) else size
    x = images(height, width).requires_grad_()
    y = model(x)
    y.square().sum().backward()
    assert y.shape == (2, 5) and x.grad.isfinite().all() and x.grad.abs().sum() > 0
    assert [out.shape[2] for out in model.forward_intermediates(x)[1]] == [
        -(-height * width // 2**index) for index in range(3)
    ]


def test_path_changes_the_network_only_through_the_order_of_pixels():
    model, x = small(path="og").eval(), images()
    other = small(path="r").eval()
    other.load_state_dict({**model.state_dict(), "pathSampling.paths": other.pathSampling.paths})
    moved = torch.empty_like(x)
    hilbert, raster = (paths.preset(name, 32, 32)[0] for name in ("og", "r"))
    moved[:, :, raster[:, 0], raster[:, 1]] = x[:, :, hilbert[:, 0], hilbert[:, 1]]
    assert torch.equal(other(moved), model(x)) and not torch.allclose(other(x), model(x))


@pytest.mark.parametrize(
    "arguments, error, says",
    [
        ({"path": [PathConfig("raster")] * 5}, ValueError, "5 paths do not divide the channels of the stages, 12"),
        ({"path": "nonsense"}, ValueError, "nonsense"),
        ({"img_size": 28}, ValueError, "28"),
        ({"img_size": 28, "path": PathSet.of([PathConfig("raster")], 32, 32)}, ValueError, "28 x 28"),
        ({"img_size": 0}, ValueError, "image_size must be at least 1"),
        ({"depths": (1, 1)}, ValueError, "equally long, got 2 and 3"),
        ({"depths": (), "dims": ()}, ValueError, "an entry at least and be equally long, got 0 and 0"),
        ({"dims": (12, 24, 36)}, ValueError, r"multiple of the one before, got \(12, 24, 36\)"),
        ({"global_pool": "max"}, ValueError, "global_pool must be"),
        ({"drop_path_rate": 1.0}, ValueError, "drop_path must be"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, error, says):
    with pytest.raises(error, match=says):
        PathConvNet(**{**SMALL, **arguments})


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 3, 32, 31), (2, 1, 32, 32), (3, 32, 32), (2, 32, 32, 3)])
def test_images_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match=r"x has|x must have shape") as caught:
        small()(torch.zeros(shape))
    assert "\n" not in str(caught.value)


def test_images_of_other_channels_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"x must have shape \(N, 3, H, W\), .* made with in_chans\.$"):
        small()(images(channels=1))


# timm's interface.


def test_every_parameter_learns():
    model = small()
    model(images()).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


def test_entry_points():
    names = {"pathconv_s", "pathconv_b", "resnet18_lowres", "resnet50_lowres", "wrn_40_2", "wrn_40_5"}
    assert names <= set(timm.list_models(module="pathconv"))
    for name in names:
        model = timm.create_model(name, device="meta")
        cfg = model.default_cfg
        assert cfg["architecture"] == name and model.num_classes == 1000
        assert isinstance(model.get_submodule(cfg["first_conv"]), (nn.Conv1d, nn.Conv2d))
        assert model.get_classifier() is model.get_submodule(cfg["classifier"])
        with pytest.raises(RuntimeError, match="No pretrained weights"):
            timm.create_model(name, pretrained=True)
    assert timm.create_model("pathconv_s", device="meta").pathSampling.image_size == (32, 32)


def test_features_only():
    x = images()
    backbone = small(features_only=True)
    assert [tuple(out.shape[1:]) for out in backbone(x)] == [(12, 1024), (24, 512), (48, 256)]
    assert backbone.feature_info.channels() == [12, 24, 48]
    assert backbone.feature_info.reduction() == [1, 2, 4]
    two = small(features_only=True, out_indices=(0, -2))
    outputs = two(x)
    assert [out.shape[1] for out in outputs] == [12, 24] and two.feature_info.channels() == [12, 24]
    assert len(two.model.stage) == 2 and len(two.model.downsample) == 1
    sum(out.square().sum() for out in outputs).backward()
    assert all(parameter.grad is not None for parameter in two.parameters())


def test_intermediates_agree_with_the_forward_pass():
    model, x = small().eval(), images()
    features = model.forward_features(x)
    last, outputs = model.forward_intermediates(x)
    assert torch.equal(last, features) and torch.equal(outputs[-1], features) and len(outputs) == 3
    (normed,) = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
    assert torch.equal(normed.mT, model.norm(features.mT))
    first = model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True, output_fmt="NLC")
    assert torch.equal(first[0].mT, outputs[0])
    with pytest.raises(ValueError, match="output_fmt must be 'NCL' or 'NLC', got 'NCHW': features are sequences"):
        model.forward_intermediates(x, output_fmt="NCHW")


def test_classifier_can_be_replaced():
    model, x = small().eval(), images()
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    assert features.shape == (2, 48) and model.get_classifier().out_features == 5
    assert torch.allclose(features, model.norm(model.forward_features(x).mean(2)))
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.num_classes == 7
    model.reset_classifier(0)
    assert torch.equal(model(x), features)
    model.reset_classifier(3, "")
    assert model(x).shape == (2, 3, 256)
    with pytest.raises(ValueError, match="global_pool"):
        model.reset_classifier(3, "max")
    assert small(in_chans=1)(images(channels=1)).shape == (2, 5)


def test_checkpointing_changes_nothing_but_memory():
    assert_checkpointing_changes_nothing(small(drop_path_rate=0.0), images())


def test_layer_decay_orders_the_network():
    model = small()
    scale, _ = layer_decay(model)
    order = ["stem.conv1", "stage.0.0.invBot.0", "stage.0.1.invBot.0", "downsample.0.0", "head"]
    scales = [scale(model.get_parameter(f"{name}.weight")) for name in order]
    assert scales == sorted(set(scales))
    assert scale(model.posEmbedding) == scales[0]
    assert scale(model.stage[1][0].invBot[0].weight) > scales[3]
    assert model.group_matcher(coarse=True)["stem"]


# Numbers, layouts and copies.


def test_layouts_agree_and_blocks_copy_nothing():
    model, x = small().eval(), images()
    assert torch.allclose(model(x.contiguous(memory_format=torch.channels_last)), model(x), atol=1e-5)
    with torch.no_grad():
        sequence = model._embed(x)
        with Copies() as copies:
            out = model.downsample[0](model.stage[0](sequence))
    assert copies.found == [] and sequence.mT.is_contiguous() and out.mT.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision(dtype):
    model, x = small().eval(), images()
    expected = model(x)
    with torch.autocast("cpu", dtype):
        assert torch.allclose(model(x).float(), expected, atol=0.1)
    half = copy.deepcopy(model).to(dtype)
    assert torch.allclose(half(x.to(dtype)).float(), expected, atol=0.1)


def test_compiles_without_graph_breaks():
    model, x = small(), images()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(torch.compile(model.eval(), fullgraph=True, backend="aot_eager")(x), model(x), atol=1e-5)
    model.train()
    compiled(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_exports_with_a_batch_of_any_size():
    model, x = small().eval(), images()
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)).module()
    for batch in (1, 5):
        more = images(batch=batch)
        assert torch.allclose(exported(more), model(more), atol=1e-5)


def test_copies_and_files_keep_the_network():
    model, x = small().eval(), images()
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = small().eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), expected)


def test_dtype_reaches_every_parameter():
    model = small(dtype=torch.float64)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    model.reset_classifier(3)
    assert model(images().double()).dtype == torch.float64


def test_weights_of_another_network_after_a_start_on_the_meta_device():
    whole = timm.create_model("pathconv_s", **SMALL).eval()
    model = timm.create_model("pathconv_s", device="meta", **SMALL).to_empty(device="cpu").eval()
    for buffer in model.buffers():
        buffer.zero_()
    model.load_state_dict(whole.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), whole(x))


def test_start_on_the_meta_device():
    model = timm.create_model("pathconv_s", device="meta", **SMALL).to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.detach().fill_(7)
    model.reset_parameters()
    fresh = timm.create_model("pathconv_s", **SMALL)
    for (name, tensor), other in zip(model.state_dict().items(), fresh.state_dict().values()):
        assert tensor.equal(other) or (tensor != 7).all(), name
    torch.testing.assert_close(model.pathSampling.index, fresh.pathSampling.index)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images()), fresh.eval()(images()))


@pytest.mark.parametrize("batch", [0, 1])
def test_batches_of_none_and_one(batch):
    assert small()(images(batch=batch)).shape == (batch, 5)


def as_published(order: torch.Tensor, **kwargs) -> nn.Module:
    file = Path(__file__).parents[1] / "benchmarks" / "_as_published.py"
    spec = importlib.util.spec_from_file_location("_as_published", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AsPublished(paths=order, **{**SMALL, **kwargs})


@pytest.mark.parametrize("path", ["og", "g"])
def test_rival_of_the_benchmark_is_the_same_network(path):
    """The same loss and gradients in training, drop paths included."""
    x, target = images(batch=8), torch.arange(8) % 5
    ours, theirs = small(path=path, drop_path_rate=0.5), as_published(paths.preset(path, 32, 32), drop_path_rate=0.5)
    theirs.load_state_dict(ours.state_dict())
    losses = []
    for model in (ours.double(), theirs.double()):
        torch.manual_seed(3)
        losses.append(F.cross_entropy(model(x.double()), target))
        losses[-1].backward()
    assert torch.allclose(*losses, rtol=1e-9)
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter.grad, wanted[name].grad, rtol=1e-6, atol=1e-9), name


def test_without_timm_the_package_works_and_models_says_what_is_missing():
    script = (
        "import sys; sys.modules['timm'] = None\n"
        "import pathconv, pathconv.checkpoints, pathconv.modules\n"
        "try:\n    import pathconv.models\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "pathconv.models needs timm, which is not installed: run `pip install pathconv[models]`"
    )
