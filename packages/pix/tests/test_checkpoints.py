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

from timm.optim import create_optimizer_v2  # noqa: E402

from leanconv.testing.models import assert_refuses_what_is_no_checkpoint  # noqa: E402
from pix import pick_share  # noqa: E402
from pix.checkpoints import from_resnet, load_original, read_original  # noqa: E402
from pix.models import PixResNet  # noqa: E402

DEPTHS, WIDTHS, CLASSES = (2, 1, 3, 1), (8, 16, 32, 64), 5
SIZES = {"layers": DEPTHS, "channels": WIDTHS, "num_classes": CLASSES}


def original_state(
    depths=DEPTHS, squeezed=WIDTHS, stem=8, expanded=None, classes=CLASSES, dtype=torch.float64
) -> dict[str, Tensor]:
    """Random weights under the authors' names."""
    expanded = expanded or [4 * width for width in squeezed]
    generator = torch.Generator().manual_seed(1)
    state: dict[str, Tensor] = {}

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    def conv(name: str, after: int, before: int, size: int) -> None:
        state[f"{name}.weight"] = draw(after, before, size, size) * math.sqrt(2 / (before * size**2))

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = 1 + 0.3 * draw(channels)
        state[f"{name}.bias"] = 0.3 * draw(channels)
        state[f"{name}.running_mean"] = 0.3 * draw(channels)
        state[f"{name}.running_var"] = 0.5 + draw(channels) ** 2
        state[f"{name}.num_batches_tracked"] = torch.tensor(1251)

    conv("conv_stem", stem, 3, 7)
    norm("bn_stem", stem)
    before = stem
    for stage, (depth, width, after) in enumerate(zip(depths, squeezed, expanded), 1):
        for index in range(depth):
            block = f"layer{stage}.blocks.{index}"
            conv(f"{block}.conv_sqz", width, before, 1)
            conv(f"{block}.conv_ce", width, width, 3)
            norm(f"{block}.bn_ce", width)
            conv(f"{block}.conv_exp", after, width, 1)
            norm(f"{block}.bn_exp", after)
            if index == 0:
                conv(f"{block}.conv_proj", after, before, 1)
                norm(f"{block}.bn_proj", after)
            before = after
    conv("classifier", classes, before, 1)
    state["classifier.bias"] = draw(classes)
    return state


def original_logits(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits from the authors' weights and the description of their forward pass, in evaluation."""

    def conv(x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)

    def norm(x: Tensor, name: str) -> Tensor:
        leaves = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (state[f"{name}.{leaf}"][:, None, None] for leaf in leaves)
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def sample(x: Tensor, p: Tensor) -> Tensor:
        """One output channel at a time."""
        zeta = x.shape[1] // p.shape[1]
        images = []
        for image, gates in zip(x, p):
            maps = []
            for c, gate in enumerate(gates):
                subset = image[c * zeta : (c + 1) * zeta]
                maps.append(gate * (subset.amax(0) if gate < 0.5 else sum(subset) / zeta))
            images.append(torch.stack(maps))
        return torch.stack(images)

    x = F.max_pool2d(norm(conv(x, "conv_stem", 2, 3), "bn_stem").relu(), 3, 2, 1)
    stage = 1
    while f"layer{stage}.blocks.0.conv_sqz.weight" in state:
        index = 0
        while (block := f"layer{stage}.blocks.{index}") + ".conv_sqz.weight" in state:
            stride = 2 if stage > 1 and index == 0 else 1
            p = conv(x.mean((2, 3), keepdim=True), f"{block}.conv_sqz").sigmoid().flatten(1)
            y = norm(conv(sample(x, p), f"{block}.conv_ce", stride, 1), f"{block}.bn_ce").relu()
            y = norm(conv(y, f"{block}.conv_exp"), f"{block}.bn_exp")
            if index == 0:
                x = norm(conv(x, f"{block}.conv_proj", stride), f"{block}.bn_proj")
            x = (y + x).relu()
            index += 1
        stage += 1
    return (conv(x.mean((2, 3), keepdim=True), "classifier") + state["classifier.bias"][:, None, None]).flatten(1)


def images(height: int = 64, width: int = 64, batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("height, width", [(64, 64), (33, 70), (7, 7)])
def test_loaded_network_computes_what_the_authors_describe(height, width):
    state, x = original_state(), images(height, width)
    model = load_original({"model": state, "epoch": 3}, PixResNet(**SIZES, dtype=torch.float64)).eval()
    assert torch.allclose(model(x), original_logits(state, x), rtol=1e-9, atol=1e-9)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(model(last), original_logits(state, x), rtol=1e-9, atol=1e-9)


def test_gates_of_both_kinds_decide():
    """The comparison above is of networks that pick here and mix there."""
    model = load_original(original_state(), PixResNet(**SIZES, dtype=torch.float64))
    shares = torch.cat(list(pick_share(model, images()).values()))
    assert 0.3 < shares.mean() < 0.7 and ((shares > 0) & (shares < 1)).any()


PUBLISHED = {
    "pix_resnet50": {"depths": (3, 4, 6, 3), "squeezed": (64, 128, 256, 512)},
    "pix_resnet101": {"depths": (3, 4, 23, 3), "squeezed": (64, 128, 256, 512)},
    "pix_resnet152": {"depths": (3, 8, 36, 3), "squeezed": (64, 128, 256, 512)},
    "pix_resnet50_half": {"depths": (3, 4, 6, 3), "squeezed": (32, 64, 128, 256)},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    state = original_state(
        **PUBLISHED[name], stem=64, expanded=(256, 512, 1024, 2048), classes=1000, dtype=torch.float32
    )
    model = timm.create_model(name, device="meta").to_empty(device="cpu").eval()
    load_original(state, model)
    assert model.state_dict().keys() == state.keys()
    if name == "pix_resnet50":
        double, x = {key: value.double() for key, value in state.items()}, images(batch=1)
        with torch.no_grad():
            assert torch.allclose(model.double()(x), original_logits(double, x), rtol=1e-9, atol=1e-9)


def test_file_as_their_training_script_saves_it(tmp_path):
    """With averaged weights, optimizer, loss scale and the parsed command line beside the weights."""
    state, averaged, x = original_state(dtype=torch.float32), original_state(dtype=torch.float32), images().float()
    averaged = {name: value * 0.5 if value.is_floating_point() else value for name, value in averaged.items()}
    model = PixResNet(**SIZES)
    optimizer = create_optimizer_v2(model, "lamb", lr=3.5e-3, weight_decay=0.35)
    model(x).sum().backward()
    optimizer.step()
    path = tmp_path / "checkpoint-299.pth"
    content = {
        "model": {f"module.{name}": value for name, value in state.items()},
        "optimizer": optimizer.state_dict(),
        "epoch": 299,
        "scaler": torch.amp.GradScaler("cpu", enabled=False).state_dict(),
        "args": argparse.Namespace(model="PiXResNet50_cs", bce_loss=True, opt_betas=None, lr=3.5e-3),
        "model_ema": averaged,
    }
    torch.save(content, path)
    for given in (path, str(path), content):
        loaded = load_original(given, PixResNet(**SIZES)).eval()
        assert torch.allclose(loaded(x), original_logits(state, x), rtol=1e-3, atol=1e-4)
        loaded = load_original(given, PixResNet(**SIZES), ema=True).eval()
        assert torch.allclose(loaded(x), original_logits(averaged, x), rtol=1e-3, atol=1e-4)
    assert torch.equal(read_original(path)["conv_stem.weight"], state["conv_stem.weight"])


def test_timm_loads_the_authors_file_too(tmp_path):
    state, x = original_state(dtype=torch.float32), images().float()
    torch.save({"model": state}, tmp_path / "best.pth")
    overlay = {"file": str(tmp_path / "best.pth"), "num_classes": CLASSES}
    model = timm.create_model("pix_resnet50", pretrained=True, pretrained_cfg_overlay=overlay, **SIZES).eval()
    assert torch.allclose(model(x), original_logits(state, x), rtol=1e-3, atol=1e-4)
    options = {**SIZES, "num_classes": 7, "in_chans": 1}
    other = timm.create_model("pix_resnet50", pretrained=True, pretrained_cfg_overlay=overlay, **options)
    assert torch.allclose(other.conv_stem.weight, state["conv_stem.weight"].sum(1, keepdim=True), atol=1e-5)
    assert torch.equal(other.layer1.blocks[0].conv_sqz.weight, state["layer1.blocks.0.conv_sqz.weight"])
    assert other.eval()(x[:, :1]).shape == (3, 7)


def test_what_does_not_fit_is_an_error():
    state = original_state(dtype=torch.float32)
    model = PixResNet(**SIZES)
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "bn_stem.bias"'):
        load_original({name: value for name, value in state.items() if name != "bn_stem.bias"}, model)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "extra"'):
        load_original({**state, "extra": torch.zeros(1)}, model)
    both = (
        r"^The checkpoint holds \[2, 1, 3, 1\] blocks of \[32, 64, 128, 256\] channels squeezed to \[8, 16, 32, 64\], "
        r"but the model has \[3, 4, 6, 3\] blocks of \[256, .*, 2048\] channels squeezed to \[32, 64, 128, 256\]\.$"
    )
    with pytest.raises(RuntimeError, match=both):
        load_original(state, timm.create_model("pix_resnet50_half", device="meta"))
    with pytest.raises(RuntimeError, match=r"size mismatch for classifier\.weight"):
        load_original(state, PixResNet(**{**SIZES, "num_classes": 7}))
    with pytest.raises(ValueError, match=r"no weights under 'model' or 'state_dict', only \['epoch'\]"):
        load_original({"epoch": 3}, model)
    with pytest.raises(ValueError, match="ema=True, but the checkpoint holds no 'model_ema'"):
        load_original({"model": state}, model, ema=True)
    assert load_original(state, model) is model


def test_files_that_are_no_checkpoint(tmp_path):
    model, checkpoint = PixResNet(**SIZES), {"model": original_state(dtype=torch.float32)}
    assert_refuses_what_is_no_checkpoint(lambda path: load_original(path, model), checkpoint, tmp_path)


# The weights of the ResNet.


@pytest.mark.parametrize("name", ["resnet50", "seresnet50"])
def test_weights_of_a_resnet_move_over(name):
    resnet = timm.create_model(name, num_classes=10)
    model = timm.create_model("pix_resnet50", num_classes=10, se=name.startswith("se"))
    state = from_resnet(resnet.state_dict())
    model.load_state_dict(state)
    pairs = {
        "conv1.weight": "conv_stem.weight",
        "layer1.0.downsample.1.running_var": "layer1.blocks.0.bn_proj.running_var",
        "layer3.5.conv1.weight": "layer3.blocks.5.conv_sqz.weight",
        "layer4.2.bn3.bias": "layer4.blocks.2.bn_exp.bias",
        "fc.bias": "classifier.bias",
    }
    assert all(torch.equal(resnet.state_dict()[ours], state[theirs]) for ours, theirs in pairs.items())
    left = {key for key in resnet.state_dict() if ".bn1." in key}
    assert len(state) == len(resnet.state_dict()) - len(left) and len(left) == 16 * 5


def test_weights_of_torchvisions_resnet_are_the_same():
    torchvision = pytest.importorskip("torchvision")
    state = torchvision.models.resnet50().state_dict()
    timm.create_model("pix_resnet50").load_state_dict(from_resnet({f"module.{k}": v for k, v in state.items()}))


def test_weights_of_a_resnet_are_told_from_those_of_the_authors():
    state = timm.create_model("resnet50").state_dict()
    with pytest.raises(ValueError, match=r"holds a ResNet, not a PixResNet: .*from_resnet\(state\)"):
        load_original(state, PixResNet(**SIZES))


def test_weights_of_other_networks_are_refused():
    refusals = {
        "resnet18": "state_dict holds no bottlenecks: take that of a ResNet-50, 101 or 152",
        "densenet121": r"state_dict is no ResNet's: 727 names such as features\.conv0\.weight, features",
    }
    for name, says in refusals.items():
        with pytest.raises(ValueError, match=says):
            from_resnet(timm.create_model(name, device="meta").state_dict())
