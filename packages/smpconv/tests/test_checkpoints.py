"""The authors' checkpoints: files made by their naming rule must give the network that their code describes.

The published files are not at hand, so both the files and the networks are rebuilt in `as_published.py`.
"""

from __future__ import annotations

import argparse

import pytest
import torch
from as_published import dense_logits, dense_state, imagenet_logits, imagenet_state
from torch import Tensor, nn

timm = pytest.importorskip("timm")

from smpconv import fuse  # noqa: E402
from smpconv.checkpoints import from_original, load_original, read_original  # noqa: E402
from smpconv.models import SMPTCN, TASKS, SMPNet, SMPResNet  # noqa: E402

LAYERS, CHANNELS, SIZES = (2, 1), (6, 8), (13, 9)
IMAGENET = {"layers": LAYERS, "channels": CHANNELS, "kernel_sizes": SIZES, "num_classes": 5}
WIDTHS = (6, 8, 8)
SEQUENCE = {"channels": WIDTHS, "n_points": 6, "bias": True}
CIFAR = {"channels": WIDTHS, "kernel_size": 9, "n_points": 6, "num_classes": 5}
PUBLISHED = {"smp_tiny": ((2, 2, 8, 2), (96, 192, 384, 768)), "smp_base": ((2, 2, 20, 2), (128, 256, 512, 1024))}


def sequence_state(taps: int = 20, **kwargs) -> dict[str, Tensor]:
    return dense_state(WIDTHS, taps, **{"inputs": 2, "classes": 5, "bias": True, **kwargs})


def cifar_state(**kwargs) -> dict[str, Tensor]:
    return dense_state(WIDTHS, 9, inputs=3, classes=5, dims=2, **kwargs)


def imagenet_small(**kwargs) -> dict[str, Tensor]:
    return imagenet_state(LAYERS, CHANNELS, SIZES, classes=5, **kwargs)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize("height, width", [(32, 32), (33, 50), (7, 7)])
def test_network_for_imagenet(height, width):
    state, x = imagenet_small(), draw(3, 3, height, width)
    model = load_original({"state_dict": state, "epoch": 3}, SMPNet(**IMAGENET, dtype=torch.float64)).eval()
    expected = imagenet_logits(state, x, SIZES)
    close(model(x), expected)
    close(model(x.contiguous(memory_format=torch.channels_last)), expected)
    close(fuse(model)(x), expected)


@pytest.mark.parametrize("batch, height, width", [(3, 8, 8), (1, 8, 8), (2, 7, 12)])
def test_network_for_cifar(batch, height, width):
    state, x = cifar_state(), draw(batch, 3, height, width)
    model = load_original({"model": state}, SMPResNet(**CIFAR, dtype=torch.float64)).eval()
    expected = dense_logits(state, x, 9)
    assert expected.shape == (batch, 5)
    close(model(x), expected)
    close(fuse(model)(x), expected)


@pytest.mark.parametrize("length", [20, 21, 1, 33])
@pytest.mark.parametrize("bias", [False, True])
def test_network_for_sequences(length, bias):
    state, x = sequence_state(bias=bias), draw(3, 2, length)
    model = SMPTCN(2, 5, 20, **{**SEQUENCE, "bias": bias}, dtype=torch.float64)
    load_original({"model": {f"module.{name}": value for name, value in state.items()}}, model).eval()
    expected = dense_logits(state, x, 20)
    close(model(x), expected)
    close(fuse(model)(x), expected)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    state = imagenet_state(*PUBLISHED[name], (31, 29, 27, 13), dtype=torch.float32)
    parameters = [key for key in state if not key.endswith(("_mean", "_var", "_tracked", "kernel_coord"))]
    assert len(parameters) == {"smp_tiny": 370, "smp_base": 658}[name]  # counted in the authors' networks
    model = timm.create_model(name, device="meta").to_empty(device="cpu").eval()
    load_original(state, model)
    if name == "smp_tiny":
        x = draw(1, 3, 64, 64).float()
        with torch.no_grad():
            close(model(x), imagenet_logits(state, x, (31, 29, 27, 13)), 1e-3)


@pytest.mark.parametrize("task", ["character_trajectories", "speech_commands_mfcc"])
def test_published_sizes_of_sequences(task):
    options = TASKS[task]
    length, inputs = options["length"], options["in_chans"]
    sizes = {"inputs": inputs, "classes": options["num_classes"], "bias": options.get("bias", False), "points": 30}
    state, x = dense_state([30] * 6, length, **sizes), draw(2, inputs, length)
    model = load_original(state, timm.create_model("smp_tcn", **options, dtype=torch.float64)).eval()
    with torch.no_grad():
        close(model(x), dense_logits(state, x, length), 1e-8)


def test_published_size_of_cifar():
    state = dense_state([24, 24, 36, 36, 36, 48, 48], 33, inputs=3, classes=10, points=16, dims=2)
    model, x = load_original(state, timm.create_model("smp_resnet", dtype=torch.float64)).eval(), draw(1, 3, 8, 8)
    with torch.no_grad():
        close(model(x), dense_logits(state, x, 33), 1e-8)


# Kernels of other sizes.


def test_longer_kernels_have_older_taps():
    """Sequences as long as the old kernels, or shorter, see no difference."""
    state, x = sequence_state(), draw(3, 2, 20)
    longer = load_original(state, SMPTCN(2, 5, 45, **SEQUENCE, dtype=torch.float64)).eval()
    close(longer(x), dense_logits(state, x, 20), 1e-8)
    close(longer(x[:, :, :13]), dense_logits(state, x[:, :, :13], 20), 1e-8)
    shorter = load_original(state, SMPTCN(2, 5, 12, **SEQUENCE, dtype=torch.float64)).eval()
    close(shorter(x[:, :, :12]), dense_logits(state, x[:, :, :12], 20), 1e-8)


def test_other_sizes_of_images_keep_the_kernels_sums():
    state = imagenet_small()
    same, larger = (
        load_original(state, SMPNet(**{**IMAGENET, "kernel_sizes": sizes, "n_points": (42, 20)}, dtype=torch.float64))
        for sizes in (SIZES, (25, 17))
    )
    assert larger.stages[0].blocks[0].large.smp.kernel_size == (25, 25)
    for ours, theirs in zip(larger.stages, same.stages):
        large, small = (stage.blocks[0].large.smp for stage in (ours, theirs))
        assert torch.equal(large.coords, small.coords)
        whole, part = large.kernel().sum((2, 3)), small.kernel().sum((2, 3))
        assert (whole - part).abs().max() < 0.1 * part.abs().max()
        taps = small.kernel()[0] / 4  # those that both grids have
        close(large.kernel()[0, :, ::2, ::2], taps, 1e-8)


def test_kernels_that_have_seen_no_sequence():
    """The buffer is 0 before the first forward pass."""
    state = {name: value * 0 if name.endswith("train_length") else value for name, value in sequence_state().items()}
    x = draw(2, 2, 30)
    model = load_original(state, SMPTCN(2, 5, 30, **SEQUENCE, dtype=torch.float64)).eval()
    close(model(x), dense_logits(state, x, 30))


# Files.


def test_files_as_their_training_scripts_save_them(tmp_path):
    """With averaged weights, optimizer and the parsed command line beside the weights."""
    state, averaged, x = imagenet_small(dtype=torch.float32), imagenet_small(dtype=torch.float32), draw(2, 3, 32, 32)
    averaged = {name: value * 0.5 if value.is_floating_point() else value for name, value in averaged.items()}
    model, x = SMPNet(**IMAGENET), x.float()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    model(x).sum().backward()
    optimizer.step()
    path = tmp_path / "checkpoint-299.pth.tar"
    content = {
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "state_dict_ema": averaged,
        "optimizer": optimizer.state_dict(),
        "epoch": 299,
        "arch": "SMPConv_T",
        "args": argparse.Namespace(model="SMPConv_T", lr=4e-3),
    }
    torch.save(content, path)
    for given in (path, str(path), content):
        loaded = load_original(given, SMPNet(**IMAGENET)).eval()
        close(loaded(x), imagenet_logits(state, x, SIZES), 1e-3)
        loaded = load_original(given, SMPNet(**IMAGENET), ema=True).eval()
        close(loaded(x), imagenet_logits(averaged, x, SIZES), 1e-3)
    assert torch.equal(read_original(path)["stem.0.conv.weight"], state["stem.0.conv.weight"])


def test_timm_loads_the_authors_file_too(tmp_path):
    state, x = imagenet_small(dtype=torch.float32), draw(2, 3, 32, 32).float()
    torch.save({"state_dict": state}, tmp_path / "best.pth")
    overlay = {"file": str(tmp_path / "best.pth"), "num_classes": 5}
    options = {"pretrained": True, "pretrained_cfg_overlay": overlay, **IMAGENET}
    close(timm.create_model("smp_tiny", **options).eval()(x), imagenet_logits(state, x, SIZES), 1e-3)
    other = timm.create_model("smp_tiny", **{**options, "num_classes": 7, "in_chans": 1}).eval()
    assert torch.allclose(other.stem[0].conv.weight, state["stem.0.conv.weight"].sum(1, keepdim=True), atol=1e-5)
    assert other(x[:, :1]).shape == (2, 7)
    overlay["num_classes"] = 10
    torch.save({"model": sequence_state(dtype=torch.float32, classes=10)}, tmp_path / "best.pth")
    sequence = {"in_chans": 2, "length": 20, **SEQUENCE}
    options = {"pretrained": True, "pretrained_cfg_overlay": {**overlay, "input_size": (2, 1, 20)}, **sequence}
    assert timm.create_model("smp_tcn", **options)(draw(2, 2, 20).float()).shape == (2, 10)


def test_own_names_pass_unchanged():
    for model in (SMPNet(**IMAGENET), SMPResNet(**CIFAR), SMPTCN(2, 5, 20, **SEQUENCE)):
        state = model.state_dict()
        again = from_original(state, model)
        assert again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)
        assert load_original({"model": state}, model) is model


def test_what_does_not_fit_is_an_error():
    state = imagenet_small(dtype=torch.float32)
    model = SMPNet(**IMAGENET)
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "stem.0.norm.bias"'):
        load_original({name: value for name, value in state.items() if name != "stem.0.bn.bias"}, model)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "extra"'):
        load_original({**state, "extra": torch.zeros(1)}, model)
    both = (
        r"^The checkpoint holds layers of 2 x 6 channels of 42 points, 1 x 8 channels of 20 points, but the model has "
        r"layers of 2 x 96 channels of 240 points, .*, 2 x 768 channels of 42 points\.$"
    )
    with pytest.raises(RuntimeError, match=both):
        load_original(state, timm.create_model("smp_tiny", device="meta"))
    with pytest.raises(RuntimeError, match=r"size mismatch for head\.weight"):
        load_original(state, SMPNet(**{**IMAGENET, "num_classes": 7}))
    with pytest.raises(RuntimeError, match="Missing key"):
        load_original(state, nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"no weights under 'state_dict' or 'model', only \['epoch'\]"):
        load_original({"epoch": 3}, model)
    with pytest.raises(ValueError, match="ema=True, but the checkpoint holds no 'state_dict_ema'"):
        load_original({"state_dict": state}, model, ema=True)


def test_files_that_are_no_checkpoint(tmp_path):
    path, model = tmp_path / "best.pth", SMPNet(**IMAGENET)
    torch.save({"state_dict": imagenet_small(dtype=torch.float32)}, path)
    whole = path.read_bytes()
    torch.save({"state_dict": {}, "object": range(3)}, path)
    contents = {
        path.read_bytes(): "holds more than tensors, which to read is to run: only if you trust it, pass",
        b"<!DOCTYPE html><html>Sign in</html>": r"best\.pth is no checkpoint: it starts with b'<!DOCTYPE html><html>",
        whole[: len(whole) // 2]: "is damaged or no checkpoint: it has no end",
    }
    for content, says in contents.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=says) as caught:
            load_original(path, model)
        assert "\n" not in str(caught.value)
