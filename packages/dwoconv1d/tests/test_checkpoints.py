"""The authors' checkpoints: files made by their naming rule must give the network that their code describes.

The published files are not at hand, so both the files and the network are rebuilt here from the description of the
authors' code, in plain torch and sharing nothing with the package.
"""

from __future__ import annotations

import argparse
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

timm = pytest.importorskip("timm")

from dwoconv1d.checkpoints import from_original, load_original, read_original  # noqa: E402
from dwoconv1d.models import BACKBONE_KERNEL_SIZES, ConvNeXt, kernel_crops, to_backbone  # noqa: E402
from leanconv.testing.models import assert_refuses_what_is_no_checkpoint  # noqa: E402

DEPTHS, DIMS, CLASSES, STEM = (2, 1, 1, 2), (8, 16, 24, 32), 5, 64
KERNELS = {"2d": (7,), "1d": (31,), "1dpp": (15, 31), "2dpp": (7, 31)}
SIZES = {"depths": DEPTHS, "dims": DIMS, "num_classes": CLASSES}


def theta(channels: int, offset: float) -> Tensor:
    """Contiguous groups of channels, eight directions, in the authors' Python arithmetic."""
    return torch.tensor([math.pi * (((8 * (c + 1) - 1) // channels / 8 + offset) % 1) for c in range(channels)])


def original_state(variant: str, kernels=None, wrapped: bool = False, dtype=torch.float64) -> dict[str, Tensor]:
    """Random weights under the authors' names; `wrapped` as their detection and segmentation backbones have them."""
    kernels = kernels or (KERNELS[variant],) * 4
    state: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(1)

    def tensors(name: str, *shape: int) -> None:
        scale = 1 / math.sqrt(math.prod(shape[1:]))
        state[f"{name}.weight"] = torch.randn(shape, generator=generator, dtype=dtype) * scale
        state[f"{name}.bias"] = torch.randn(shape[0], generator=generator, dtype=dtype) * 0.1

    def oriented(name: str, channels: int, taps: int, offset: float) -> None:
        name += ".conv" if wrapped else ""
        tensors(name, channels, 1, 1, taps)
        state[f"{name}.theta"] = theta(channels, offset)

    if variant.startswith("1"):
        first = "downsample_layers.0"
        tensors(f"{first}.pw1", STEM, 3)
        oriented(f"{first}.dw1", STEM, kernels[0][0], 0.0)
        tensors(f"{first}.norm1", STEM)
        oriented(f"{first}.dw2", STEM, kernels[0][0], 0.5)
        tensors(f"{first}.norm2", STEM)
        tensors(f"{first}.pw2", DIMS[0], STEM)
        tensors(f"{first}.norm3", DIMS[0])
    else:
        tensors("downsample_layers.0.0", DIMS[0], 3, 4, 4)
        tensors("downsample_layers.0.1", DIMS[0])
    for stage in (1, 2, 3):
        tensors(f"downsample_layers.{stage}.0", DIMS[stage - 1])
        tensors(f"downsample_layers.{stage}.1", DIMS[stage], DIMS[stage - 1], 2, 2)
    for stage, (depth, dim, sizes) in enumerate(zip(DEPTHS, DIMS, kernels)):
        for index in range(depth):
            block, offset = f"stages.{stage}.{index}", (index % 2) / 2
            state[f"{block}.gamma"] = torch.randn(dim, generator=generator, dtype=dtype)
            tensors(f"{block}.norm", dim)
            tensors(f"{block}.pwconv1", 4 * dim, dim)
            tensors(f"{block}.pwconv2", dim, 4 * dim)
            name = f"{block}.dwconv1" if len(sizes) == 2 else f"{block}.dwconv"
            if variant.startswith("1"):
                oriented(name, dim, sizes[0], offset)
            else:
                tensors(name, dim, 1, 7, 7)
            if len(sizes) == 2:
                oriented(f"{block}.dwconv2", 4 * dim, sizes[1], offset)
    if wrapped:
        for stage, dim in enumerate(DIMS):
            tensors(f"norm{stage}", dim)
    else:
        tensors("norm", DIMS[-1])
        tensors("head", CLASSES, DIMS[-1])
    return state


def original_maps(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The stages' outputs, from the authors' weights and the description of their forward pass."""
    state = {name.replace(".conv.", "."): value for name, value in state.items()}

    def get(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:  # over dimension 1
        weight, bias = get(name)
        return torch.einsum("nchw,dc->ndhw", x, weight) + bias[:, None, None]

    def norm(x: Tensor, name: str) -> Tensor:  # over dimension 1
        weight, bias = get(name)
        mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-6) * weight[:, None, None] + bias[:, None, None]

    def depthwise(x: Tensor, name: str, stride: int = 1, residual: bool = False) -> Tensor:
        weight, bias = get(name)
        if f"{name}.theta" not in state:
            return F.conv2d(x, weight, bias, padding=3, groups=len(weight))
        (n, channels, height, width), taps = x.shape, weight.shape[-1]
        half = taps // 2
        angle = state[f"{name}.theta"]
        padded = F.pad(x, (half, half, half, half))
        planes = []
        for c in range(channels):
            sine, cosine = torch.sin(angle[c]), torch.cos(angle[c])  # float32
            plane = bias[c].expand(n, height, width)
            for s in range(taps):
                down, right = int(-sine * (s - half)), int(cosine * (s - half))  # int() truncates toward zero
                top, left = half + down, half + right
                w = weight[c, 0, 0, s] + (residual and s == half)
                plane = plane + w * padded[:, c, top : top + height, left : left + width]
            planes.append(plane[:, ::stride, ::stride])
        return torch.stack(planes, 1)

    first = "downsample_layers.0"
    if f"{first}.pw1.weight" in state:
        x = linear(x, f"{first}.pw1")
        x = F.gelu(norm(depthwise(x, f"{first}.dw1", stride=2), f"{first}.norm1"))
        x = F.gelu(norm(depthwise(x, f"{first}.dw2", stride=2), f"{first}.norm2"))
        x = norm(linear(x, f"{first}.pw2"), f"{first}.norm3")
    else:
        x = norm(F.conv2d(x, *get(f"{first}.0"), stride=4), f"{first}.1")
    maps = []
    for stage, depth in enumerate(DEPTHS):
        if stage > 0:
            x = F.conv2d(norm(x, f"downsample_layers.{stage}.0"), *get(f"downsample_layers.{stage}.1"), stride=2)
        for index in range(depth):
            block = f"stages.{stage}.{index}"
            plus = f"{block}.dwconv2.weight" in state
            u = depthwise(x, f"{block}.dwconv1" if plus else f"{block}.dwconv")
            u = F.gelu(linear(norm(u, f"{block}.norm"), f"{block}.pwconv1"))
            if plus:
                u = depthwise(u, f"{block}.dwconv2", residual=True)
            x = x + state[f"{block}.gamma"][:, None, None] * linear(u, f"{block}.pwconv2")
        maps.append(norm(x, f"norm{stage}") if f"norm{stage}.weight" in state else x)
    return maps


def original_logits(state: dict[str, Tensor], x: Tensor) -> Tensor:
    pooled = original_maps(state, x)[-1].mean((2, 3))
    pooled = F.layer_norm(pooled, pooled.shape[1:], state["norm.weight"], state["norm.bias"], 1e-6)
    return F.linear(pooled, state["head.weight"], state["head.bias"])


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("variant", KERNELS)
def test_loaded_network_computes_what_the_authors_describe(variant, x):
    state = original_state(variant)
    model = load_original({"model": state, "epoch": 3}, ConvNeXt(variant, **SIZES, dtype=torch.float64))
    assert torch.allclose(model.eval()(x), original_logits(state, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", KERNELS)
def test_loaded_backbone_computes_what_the_authors_describe(variant, x):
    """A segmenter's file: wrapped layers, a norm on each output, decode heads beside the backbone."""
    kernels = [(size,) if isinstance(size, int) else size for size in BACKBONE_KERNEL_SIZES[variant]]
    state = original_state(variant, kernels, wrapped=True)
    checkpoint = {f"backbone.{name}": value for name, value in state.items()}
    checkpoint["decode_head.conv_seg.bias"] = torch.zeros(150)
    network = timm.create_model(
        f"convnext_tiny_{variant}",
        features_only=True,
        out_norms=True,
        kernel_sizes=BACKBONE_KERNEL_SIZES[variant],
        **SIZES,
        dtype=torch.float64,
    )
    load_original({"meta": {}, "state_dict": checkpoint}, network.model)
    for found, expected in zip(network.eval()(x), original_maps(state, x), strict=True):
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_file_with_averaged_weights_and_a_command_line(tmp_path, x):
    state = original_state("1d", dtype=torch.float32)
    averaged = {name: value * 0.9 if name.endswith("weight") else value for name, value in state.items()}
    path = tmp_path / "checkpoint-best.pth"
    arguments = argparse.Namespace(lr=4e-3, variant="1d")
    content = {"model": state, "model_ema": averaged, "optimizer": {"state": {}}, "epoch": 299, "args": arguments}
    torch.save(content, path)
    x = x.float()
    plain = load_original(path, ConvNeXt("1d", **SIZES)).eval()(x)
    smooth = load_original(str(path), ConvNeXt("1d", **SIZES), ema=True).eval()(x)
    assert torch.allclose(plain, original_logits(state, x), rtol=1e-3, atol=1e-4)
    assert torch.allclose(smooth, original_logits(averaged, x), rtol=1e-3, atol=1e-4)


def test_angles_of_the_file_are_loaded_in_either_shape(x):
    state = original_state("1d", dtype=torch.float32)
    turned = {name: value.view(-1, 1) * 0.5 if name.endswith("theta") else value for name, value in state.items()}
    model = load_original({f"module.{name}": value for name, value in turned.items()}, ConvNeXt("1d", **SIZES))
    assert torch.equal(model.stages[0][1].dwconv.angle, theta(8, 0.5) * 0.5)
    flat = {name: value.flatten() if name.endswith("theta") else value for name, value in turned.items()}
    assert torch.allclose(model.eval()(x.float()), original_logits(flat, x.float()), rtol=1e-3, atol=1e-4)


def test_what_does_not_fit_is_an_error():
    state = original_state("1d", dtype=torch.float32)
    model = ConvNeXt("1d", **SIZES)
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "norm.bias"'):
        load_original({name: value for name, value in state.items() if name != "norm.bias"}, model)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "extra"'):
        load_original({**state, "extra": torch.zeros(1)}, model)
    with pytest.raises(RuntimeError, match=r"size mismatch for stages\.2\.0\.dwconv\.weight"):
        load_original(state, ConvNeXt("1d", kernel_sizes=BACKBONE_KERNEL_SIZES["1d"], **SIZES))
    with pytest.raises(ValueError, match="no 'model_ema'"):
        load_original({"model": state}, model, ema=True)
    with pytest.raises(ValueError, match="no weights under 'model'"):
        load_original({"epoch": 3}, model)
    half = {name: value.half() for name, value in state.items()}
    with pytest.raises(ValueError, match="too coarse"):
        load_original(half, model)


@pytest.mark.parametrize("found", KERNELS)
@pytest.mark.parametrize("wanted", KERNELS)
def test_another_variant_is_named_before_any_weight(found, wanted):
    state, model = original_state(found, dtype=torch.float32), ConvNeXt(wanted, **SIZES)
    if found == wanted:
        load_original(state, model)
        return
    with pytest.raises(RuntimeError, match=f"^The checkpoint looks like the variant '{found}', but the model is") as e:
        load_original(state, model)
    assert f"the model is '{wanted}'. Missing: " in str(e.value)
    assert len(str(e.value)) < 500


def test_files_that_are_no_checkpoint(tmp_path):
    model, checkpoint = ConvNeXt("1d", **SIZES), {"model": original_state("1d", dtype=torch.float32)}
    assert_refuses_what_is_no_checkpoint(lambda path: load_original(path, model), checkpoint, tmp_path)


def test_timm_loads_the_authors_file_too(tmp_path, x):
    state = original_state("1dpp", dtype=torch.float32)
    torch.save({"model": state}, tmp_path / "best.pth")
    overlay = {"file": str(tmp_path / "best.pth"), "num_classes": CLASSES}
    model = timm.create_model("convnext_tiny_1dpp", pretrained=True, pretrained_cfg_overlay=overlay, **SIZES)
    assert torch.allclose(model.eval()(x.float()), original_logits(state, x.float()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("own_names", [False, True])
@pytest.mark.parametrize("variant", KERNELS)
def test_backbone_weights_are_centre_crops(variant, own_names):
    state = original_state(variant)
    before = from_original(state)
    assert read_original({"model": state}).keys() == before.keys()
    after = to_backbone(before if own_names else state, f"convnext_tiny_{variant}")
    kernel_sizes = BACKBONE_KERNEL_SIZES[variant]
    backbone = timm.create_model(f"convnext_tiny_{variant}", features_only=True, kernel_sizes=kernel_sizes, **SIZES)
    backbone.model.load_state_dict(after)
    crops = kernel_crops(state, variant)
    assert len(crops) == {"2d": 0, "1d": 3, "1dpp": 1 + 2 * 2, "2dpp": 3}[variant]
    for name, value in after.items():
        if name not in crops:
            assert torch.equal(value, before[name])
            continue
        taps, kept, largest = crops[name][:3]
        margin = (taps - kept) // 2
        assert torch.equal(value, before[name][:, margin : margin + kept])
        ends = torch.cat([before[name][:, :margin], before[name][:, margin + kept :]], 1)
        assert largest == ends.abs().max().item()
    if variant == "1dpp":
        assert crops["stages.3.1.dwconv1.weight"][:2] == (15, 13)


@pytest.mark.parametrize("directions, exact", [(2, True), (8, False)])
def test_crop_is_exact_where_no_live_tap_is_dropped(directions, exact):
    """At 224 pixels axis-aligned kernels lose only taps that never meet the map; oblique ones lose live taps."""
    torch.manual_seed(0)
    model = ConvNeXt("1d", directions=directions, layer_scale_init_value=1.0, **SIZES).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    kernel_sizes = BACKBONE_KERNEL_SIZES["1d"]
    backbone = ConvNeXt("1d", kernel_sizes=kernel_sizes, directions=directions, **{**SIZES, "num_classes": 0}).eval()
    backbone.load_state_dict(to_backbone(model.state_dict(), "1d"), strict=False)
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = backbone.forward_features(x), model.forward_features(x)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4) is exact


def test_crop_takes_other_lengths_and_refuses_impossible_ones():
    state = original_state("1d")
    assert to_backbone(state, "1d", kernel_sizes=(15, 15, 7, 7))["stages.0.0.dwconv.weight"].shape == (8, 15)
    with pytest.raises(ValueError, match="31 taps and cannot be centre-cropped to 33"):
        to_backbone(state, "1d", kernel_sizes=(33, 31, 31, 31))
    with pytest.raises(ValueError, match="31 taps and cannot be centre-cropped to 16"):
        to_backbone(state, "1d", kernel_sizes=(16, 31, 31, 31))
    with pytest.raises(ValueError, match="variant must be one of"):
        to_backbone(state, "convnext_tiny")
    with pytest.raises(ValueError, match="3 stages of a '1d' network"):
        to_backbone({name: value for name, value in state.items() if not name.startswith("stages.3")}, "1d")
    with pytest.raises(ValueError, match="the checkpoint holds the variant '1d', not '2dpp'"):
        to_backbone(state, "2dpp")
    with pytest.raises(ValueError, match="holds no ConvNeXt"):
        to_backbone({"layer1.0.conv1.weight": torch.zeros(1)}, "1d")


def test_a_normal_checkpoint_is_cropped(tmp_path):
    """The authors' script copies it unchanged and says that it is done."""
    plain, averaged = (from_original(original_state("1d")) for _ in range(2))
    averaged = {name: value + 1 if name.endswith("weight") else value for name, value in averaged.items()}
    path = tmp_path / "last.pt"
    for key in ("model_ema", "ema"):
        torch.save({"model": plain, key: averaged, "step": 3}, path)
        for ema, expected in ((False, plain), (True, averaged)):
            found = to_backbone(path, "1d", ema=ema)
            assert found["stages.3.0.dwconv.weight"].shape[1] == 13
            assert torch.equal(found["stages.3.0.dwconv.weight"], expected["stages.3.0.dwconv.weight"][:, 9:22])
    assert kernel_crops(path, "1d").keys() == kernel_crops(plain, "1d").keys()


def test_crops_tell_which_dropped_taps_met_the_map():
    """By direction as the paper's: at 7 pixels 13, 15, 19, 15 taps of 31 are alive, at 14 pixels 27 and 31."""
    crops = kernel_crops(ConvNeXt("1d", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)).state_dict(), "1d")
    assert crops.keys() == {"stages.2.0.dwconv.weight", "stages.3.0.dwconv.weight"}
    third, fourth = crops.values()
    assert (third.dropped, third.live_dropped) == (8 * 4, 6 * 4)
    assert (fourth.dropped, fourth.live_dropped) == (8 * 18, 2 * (0 + 2 + 6 + 2))
    assert str(fourth).startswith("31 -> 13 taps; 20 of 144 dropped taps met the map, none larger than 0.0")
    smaller = kernel_crops(ConvNeXt("1d", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)).state_dict(), "1d", maps=(4, 3, 2, 1))
    assert smaller["stages.3.0.dwconv.weight"].live_dropped == 0
