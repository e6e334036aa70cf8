"""The authors' checkpoints: files made by their naming rule must give the network that their code describes.

No weights are published, so both the files and the network are rebuilt here from the description of the authors' code,
in plain torch and sharing nothing with the package but the order of the pixels.
"""

from __future__ import annotations

import argparse
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

timm = pytest.importorskip("timm")

from leanconv.testing.models import assert_refuses_what_is_no_checkpoint  # noqa: E402
from pathconv import paths  # noqa: E402
from pathconv.checkpoints import load_original, read_original, resize_position_embedding  # noqa: E402
from pathconv.models import PathConvNet  # noqa: E402
from pathconv.paths import PathConfig  # noqa: E402

DEPTHS, DIMS, CLASSES = (2, 1, 1), (12, 24, 48), 5
SIZES = {"depths": DEPTHS, "dims": DIMS, "num_classes": CLASSES}
SETS = ["r", "og", "oz", "g", "z", "mg", "mz"]


def original_state(order: Tensor, dtype=torch.float64, depths=DEPTHS, dims=DIMS) -> dict[str, Tensor]:
    """Random weights under the authors' names, for paths (P, L, 2)."""
    count, length, _ = order.shape
    state: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype) * scale

    def tensors(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = draw(*shape, scale=1 / math.sqrt(max(1, math.prod(shape[1:]))))
        state[f"{name}.bias"] = draw(shape[0], scale=0.1)

    state["posEmbedding"] = draw(1, dims[0], length)
    state["pathSampling.paths"] = order.int()
    tensors("stem.conv1", dims[0], 3 * count, 1)
    tensors("stem.conv2.0", dims[0], 1, 11)
    tensors("stem.conv2.1", dims[0])
    for index in range(len(dims) - 1):
        tensors(f"downsample.{index}.0", dims[index + 1], 1, 9)
        tensors(f"downsample.{index}.1", dims[index + 1])
    for stage, (depth, dim) in enumerate(zip(depths, dims)):
        size = int(abs(math.log2(dim // count) / 2 + 0.5))
        size = size if size % 2 else size + 1
        for index in range(depth):
            block = f"stage.{stage}.{index}"
            state[f"{block}.scaling"] = draw(dim)
            for path in range(count):
                state[f"{block}.attn.path_convs.{path}.0.weight"] = draw(1, 1, size)
                state[f"{block}.attn.path_convs.{path}.1.weight"] = draw(1, 1, 2 * size - 1)
            tensors(f"{block}.attn.cross_path_mlp.0", count)
            tensors(f"{block}.attn.cross_path_mlp.1", 2 * count, count)
            tensors(f"{block}.attn.cross_path_mlp.3", count, 2 * count)
            tensors(f"{block}.attn.combine", 1, 2, 1)
            tensors(f"{block}.dwconv.0", dim, 1, 9)
            tensors(f"{block}.dwconv.1", dim)
            tensors(f"{block}.invBot.0", 4 * dim, dim, 1)
            tensors(f"{block}.invBot.1", 4 * dim)
            tensors(f"{block}.invBot.3", dim, 4 * dim, 1)
    tensors("norm", dims[-1])
    tensors("head", CLASSES, dims[-1])
    return state


def original_logits(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits from the authors' weights and the description of their forward pass."""

    def get(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    def norm(x: Tensor, name: str, eps: float = 1e-6) -> Tensor:  # over the channels of (N, C, L) or (N, C)
        weight, bias = (t.view(-1, *[1] * (x.dim() - 2)) for t in get(name))
        centred = x - x.mean(1, keepdim=True)
        return weight * centred / ((centred**2).mean(1, keepdim=True) + eps) ** 0.5 + bias

    def dense(x: Tensor, name: str) -> Tensor:  # over the channels of (N, C, L) or (N, C)
        weight, bias = get(name)
        return torch.einsum("nc...,dc->nd...", x, weight.flatten(1)) + bias.view(-1, *[1] * (x.dim() - 2))

    def depthwise(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight, bias = get(name)
        taps, each = weight.shape[2], len(weight) // x.shape[1]
        padded = F.pad(x, (taps // 2, taps // 2))
        windows = padded.unfold(2, taps, stride)  # (N, C, L', K)
        kernels = weight.view(x.shape[1], each, taps)
        return torch.einsum("nclk,cmk->ncml", windows, kernels).flatten(1, 2) + bias[:, None]

    def gelu(x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x / 2**0.5)) / 2

    def correlate(m: Tensor, kernel: Tensor) -> Tensor:  # (N, G), zeros outside
        half, group = len(kernel) // 2, m.shape[1]
        out = torch.zeros_like(m)
        for g in range(group):
            for k, weight in enumerate(kernel):
                if 0 <= g + k - half < group:
                    out[:, g] += weight * m[:, g + k - half]
        return out

    def attention(x: Tensor, name: str) -> Tensor:
        count = len(state["pathSampling.paths"])
        means = x.mean(2).chunk(count, 1)
        (mix,), bias = get(f"{name}.combine")
        inner = []
        for path, mean in enumerate(means):
            a = [correlate(mean, state[f"{name}.path_convs.{path}.{i}.weight"].flatten()) for i in (0, 1)]
            inner.append(torch.sigmoid(mix[0] * a[0] + mix[1] * a[1] + bias))
        z = torch.stack([e.mean(1) for e in inner], 1)
        hidden = gelu(dense(norm(z, f"{name}.cross_path_mlp.0", 1e-5), f"{name}.cross_path_mlp.1"))
        outer = torch.sigmoid(dense(hidden, f"{name}.cross_path_mlp.3"))
        weights = torch.cat([e * outer[:, path, None] for path, e in enumerate(inner)], 1)
        return x * weights[:, :, None]

    order = state["pathSampling.paths"].tolist()
    x = torch.stack([x[:, channel, r, c] for path in order for channel in range(3) for r, c in [zip(*path)]], 1)
    x = norm(depthwise(dense(x, "stem.conv1"), "stem.conv2.0"), "stem.conv2.1") + state["posEmbedding"]
    stage = 0
    while f"stage.{stage}.0.scaling" in state:
        if stage > 0:
            x = norm(depthwise(x, f"downsample.{stage - 1}.0", stride=2), f"downsample.{stage - 1}.1")
        index = 0
        while f"stage.{stage}.{index}.scaling" in state:
            block = f"stage.{stage}.{index}"
            y = norm(depthwise(x + attention(x, f"{block}.attn"), f"{block}.dwconv.0"), f"{block}.dwconv.1")
            y = dense(gelu(norm(dense(y, f"{block}.invBot.0"), f"{block}.invBot.1")), f"{block}.invBot.3")
            x = x + state[f"{block}.scaling"][:, None] * y
            index += 1
        stage += 1
    return dense(norm(x.mean(2), "norm"), "head")


def images(height: int = 32, width: int = 32, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", SETS)
def test_loaded_network_computes_what_the_authors_describe(name):
    state, x = original_state(paths.preset(name, 32, 32)), images()
    model = load_original({"model": state, "epoch": 3}, PathConvNet(**SIZES, path=name, dtype=torch.float64))
    assert torch.allclose(model.eval()(x), original_logits(state, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("height, width", [(6, 9), (13, 5), (28, 28)])
def test_any_size_computes_what_the_authors_describe(height, width):
    order = torch.stack([paths.generate(height, width, curve) for curve in ("hilbert", "raster", "zorder")])
    state, x = original_state(order), images(height, width)
    model = load_original(state, PathConvNet(**SIZES, img_size=(height, width), path=order, dtype=torch.float64))
    assert torch.allclose(model.eval()(x), original_logits(state, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name, depths, dims", [("s", (2, 2, 2, 2), (48, 96, 192, 384)), ("b", (2, 2, 3, 3), (60, 120, 240, 480))]
)
def test_published_sizes(name, depths, dims):
    state, x = original_state(paths.preset("g", 32, 32), torch.float32, depths, dims), images().float()
    model = load_original(state, timm.create_model(f"pathconv_{name}", num_classes=CLASSES)).eval()
    with torch.no_grad():
        assert torch.allclose(model(x), original_logits(state, x), rtol=1e-3, atol=1e-3)


def test_file_as_their_training_script_saves_it(tmp_path):
    """With an optimizer, a chain of schedules and the parsed command line beside the weights."""
    state, x = original_state(paths.preset("g", 32, 32), torch.float32), images().float()
    model = PathConvNet(**SIZES)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    model(x).sum().backward()
    optimizer.step()
    schedules = [
        torch.optim.lr_scheduler.LinearLR(optimizer, 0.2, total_iters=10),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 290),
    ]
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, schedules, [10])
    path = tmp_path / "ckpt_cf10_acc1@92.45.pth"
    content = {
        "model": {f"module.{name}": value for name, value in state.items()},
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 299,
        "args": argparse.Namespace(bs=512, dataset="cf10", path="g", initlr=4e-3),
    }
    torch.save(content, path)
    for given in (path, str(path), content):
        assert torch.allclose(
            load_original(given, PathConvNet(**SIZES)).eval()(x), original_logits(state, x), rtol=1e-3, atol=1e-4
        )
    assert torch.equal(read_original(path)["pathSampling.paths"].long(), paths.preset("g", 32, 32))
    read = PathConvNet(**SIZES, path=read_original(path)["pathSampling.paths"])
    assert torch.allclose(load_original(path, read).eval()(x), original_logits(state, x), rtol=1e-3, atol=1e-4)


def test_timm_loads_the_authors_file_too(tmp_path):
    state, x = original_state(paths.preset("z", 32, 32), torch.float32), images().float()
    torch.save({"model": state}, tmp_path / "best.pth")
    overlay = {"file": str(tmp_path / "best.pth"), "num_classes": CLASSES}
    model = timm.create_model("pathconv_s", pretrained=True, pretrained_cfg_overlay=overlay, path="z", **SIZES)
    assert torch.allclose(model.eval()(x), original_logits(state, x), rtol=1e-3, atol=1e-4)


def test_what_does_not_fit_is_an_error():
    state = original_state(paths.preset("g", 32, 32), torch.float32)
    model = PathConvNet(**SIZES)
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "norm.bias"'):
        load_original({name: value for name, value in state.items() if name != "norm.bias"}, model)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "extra"'):
        load_original({**state, "extra": torch.zeros(1)}, model)
    with pytest.raises(RuntimeError, match=r"pathSampling\.paths: the state dict reads other paths than this module"):
        load_original(state, PathConvNet(**SIZES, path="z"))
    one = r"holds \[2, 1, 1\] blocks of \[12, 24, 48\] channels along 3 paths, but the model has .* along 1 paths\.$"
    with pytest.raises(RuntimeError, match=one):
        load_original(state, PathConvNet(**SIZES, path="og"))
    with pytest.raises(RuntimeError, match=r"channels along 3 paths, but the model has \[2, 2, 2, 2\] blocks of \[48,"):
        load_original(state, PathConvNet())
    with pytest.raises(RuntimeError, match=r"size mismatch for head\.weight"):
        load_original(state, PathConvNet(**{**SIZES, "num_classes": 7}))
    with pytest.raises(ValueError, match="no weights under 'model'"):
        load_original({"epoch": 3}, model)
    assert load_original(state, model) is model


def test_files_that_are_no_checkpoint(tmp_path):
    model, checkpoint = PathConvNet(**SIZES), {"model": original_state(paths.preset("g", 32, 32), torch.float32)}
    assert_refuses_what_is_no_checkpoint(lambda path: load_original(path, model), checkpoint, tmp_path)


# Images of another size.


def along(name: str, size: int) -> Tensor:
    return paths.resolve(name, size, size)


def as_sequence(image: Tensor, order: Tensor) -> Tensor:  # (D, H, W), (L, 2) -> (1, D, L)
    return image[:, order[:, 0], order[:, 1]][None]


@pytest.mark.parametrize("name", ["r", "og", "oz"])
@pytest.mark.parametrize("size", [16, 64])
def test_embedding_is_resampled_on_the_image_and_not_along_the_sequence(name, size):
    image = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))
    found = resize_position_embedding(as_sequence(image, along(name, 32)[0]), along(name, 32), along(name, size))
    larger = F.interpolate(image[None], (size, size), mode="bicubic", antialias=True)[0]
    assert torch.allclose(found, as_sequence(larger, along(name, size)[0]), atol=1e-6)


def test_embedding_of_several_paths_is_the_mean_over_them():
    embedding = torch.randn(1, 4, 1024, generator=torch.Generator().manual_seed(0))
    old, new = along("g", 32), along("g", 64)
    each = [resize_position_embedding(embedding, a, b) for a, b in zip(old, new)]
    assert torch.allclose(resize_position_embedding(embedding, old, new), sum(each) / 3, atol=1e-6)


def test_embedding_of_a_plane_stays_that_plane_along_each_curve():
    """Rows plus columns: a neighbour on the grid, but not in the sequence, is a neighbour in value."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    order, wider = along("og", 32), along("og", 64)
    found = resize_position_embedding(as_sequence((rows + columns)[None], order[0]), order, wider)
    rows, columns = torch.meshgrid(*[(torch.arange(64) - 31.5) / 31] * 2, indexing="ij")
    wanted = as_sequence((rows + columns)[None], wider[0])
    inside = ((wider[0] > 4) & (wider[0] < 59)).all(1)
    assert torch.allclose(found[0, 0, inside], wanted[0, 0, inside], atol=1e-4)


def test_embedding_of_equal_paths_is_the_same_and_of_others_a_permutation():
    embedding = torch.randn(1, 4, 1024)
    assert torch.equal(resize_position_embedding(embedding, along("z", 32), along("z", 32)), embedding)
    turned = resize_position_embedding(embedding, along("og", 32), along("r", 32))
    assert torch.equal(resize_position_embedding(turned, along("r", 32), along("og", 32)), embedding)
    assert not torch.equal(turned, embedding)
    half = resize_position_embedding(embedding.half(), along("og", 32), along("og", 16))
    assert half.dtype == torch.float16 and half.shape == (1, 4, 256)


def test_embedding_that_does_not_fit():
    with pytest.raises(ValueError, match="new_paths must be as many as paths, but they are 1 and 3"):
        resize_position_embedding(torch.zeros(1, 4, 1024), along("g", 32), along("og", 32))
    with pytest.raises(ValueError, match="embedding has 1000 positions but paths cover 32 x 32 pixels"):
        resize_position_embedding(torch.zeros(1, 4, 1000), along("g", 32), along("g", 64))


@pytest.mark.parametrize("through", ["load_original", "set_input_size", "timm"])
def test_checkpoint_of_another_size_is_moved(through, tmp_path):
    state = original_state(along("g", 32), torch.float32)
    if through == "load_original":
        model = load_original(state, PathConvNet(**SIZES, img_size=64))
    elif through == "set_input_size":
        model = load_original(state, PathConvNet(**SIZES))
        model.set_input_size(64)
    else:
        torch.save({"model": state}, tmp_path / "best.pth")
        overlay = {"file": str(tmp_path / "best.pth"), "num_classes": CLASSES}
        model = timm.create_model("pathconv_s", pretrained=True, pretrained_cfg_overlay=overlay, img_size=64, **SIZES)
    moved = {
        **state,
        "posEmbedding": resize_position_embedding(state["posEmbedding"], along("g", 32), along("g", 64)),
        "pathSampling.paths": along("g", 64),
    }
    x = images(64, 64, batch=1).float()
    assert torch.allclose(model.eval()(x), original_logits(moved, x), rtol=1e-3, atol=1e-4)
    assert set(model.state_dict()) == set(state)


def test_checkpoint_without_an_embedding_is_moved_too():
    def network(size):
        return PathConvNet(**SIZES, img_size=size, position_embedding=False).eval()

    small, large = network(32), network(64)
    load_original(small.state_dict(), large)
    weights, moved = dict(small.named_parameters()), dict(large.named_parameters())
    assert all(torch.equal(weights[name], moved[name]) for name in weights) and weights.keys() == moved.keys()


def test_other_paths_of_the_same_size_need_set_input_size():
    state, x = original_state(along("g", 32), torch.float32), images().float()
    model = load_original(state, PathConvNet(**SIZES))
    model.posEmbedding.requires_grad_(False)
    model.set_input_size(32, path="z")
    moved = {
        **state,
        "posEmbedding": resize_position_embedding(state["posEmbedding"], along("g", 32), along("z", 32)),
        "pathSampling.paths": along("z", 32),
    }
    assert torch.allclose(model.eval()(x), original_logits(moved, x), rtol=1e-3, atol=1e-4)
    assert not model.posEmbedding.requires_grad
    model.set_input_size((8, 4), [PathConfig("raster")] * 3)
    assert model(torch.zeros(1, 3, 8, 4)).shape == (1, CLASSES)
    with pytest.raises(ValueError, match="path is missing"):
        model.set_input_size(32)
    with pytest.raises(ValueError, match="path has 1 paths, but this network was made for 3"):
        model.set_input_size(32, "og")
