"""The layers: each is its formula, and has the weights of the layer of torch that it stands for."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pathconv import functional, modules, paths
from pathconv.functional import path_tables
from pathconv.modules import (
    ChannelNorm,
    DepthwiseConv1d,
    PathAwareECA,
    PathConvBlock,
    PointwiseConv1d,
    Traverse,
    TraverseConv1d,
    kernel_sizes,
)
from pathconv.paths import PathConfig, PathSet
from pathconv.traversal import tables_of


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def last(x: Tensor) -> Tensor:
    """(N, C, L) that lies as (N, L, C)."""
    return x.mT.contiguous().mT


def randomised(module: nn.Module) -> nn.Module:
    """Every parameter at work, also norms and layer scales."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


# Traversal.


@pytest.mark.parametrize(
    "given, size",
    [
        ("g", 32),
        ("r", (5, 7)),
        (PathConfig("hilbert"), (6, 9)),
        ((PathConfig("serpentine"), PathConfig("raster")), (4, 3)),
        (PathSet.of([PathConfig("hilbert"), PathConfig("zorder")], 8, 8), None),
        (paths.generate(6, 9, "hilbert"), None),
        (paths.preset("mg", 32, 32), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_traverse_is_the_function(given, size):
    layer = Traverse(given, size)
    height, width = layer.image_size
    x = torch.randn(2, 3, height, width)
    assert torch.equal(layer(x), functional.traverse(x, given))
    assert torch.equal(layer.paths.long(), paths.resolve(given, height, width))
    assert layer.paths.dtype == layer.index.dtype == layer.inverse.dtype == torch.int32


@pytest.mark.parametrize("channels_last", [None, True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_traverse_conv1d_is_the_function_and_a_convolution(bias, channels_last):
    layer = TraverseConv1d("g", 3, 12, 32, bias=bias, channels_last=channels_last)
    x = torch.randn(2, 3, 32, 32)
    y = layer(x)
    sequences = functional.traverse(x, "g")
    assert torch.allclose(y, F.conv1d(sequences, layer.weight, layer.bias), atol=1e-5)
    assert y.mT.is_contiguous() is bool(channels_last)
    nn.Conv1d(9, 12, 1, bias=bias).load_state_dict(
        {name: value for name, value in layer.state_dict().items() if name != "paths"}
    )


def test_paths_are_saved_and_tables_are_not():
    layer = TraverseConv1d("z", 3, 12, 32)
    assert set(layer.state_dict()) == {"paths", "weight", "bias"}
    assert {name for name, _ in layer.named_buffers()} == {"paths", "index", "inverse"}
    assert layer.state_dict()["paths"].shape == (3, 1024, 2)


@pytest.mark.parametrize("assign", [False, True])
def test_state_of_other_paths_is_refused(assign):
    x, layer = torch.randn(1, 3, 32, 32), Traverse("g", 32)
    expected = layer(x)
    with pytest.raises(RuntimeError, match="paths: the state dict reads other paths than this module: make it with"):
        layer.load_state_dict(Traverse("z", 32).state_dict(), assign=assign)
    with pytest.raises(RuntimeError, match="size mismatch for paths"):
        layer.load_state_dict(Traverse("r", 32).state_dict(), assign=assign)
    layer.load_state_dict(Traverse(paths.preset("g", 32, 32)).state_dict(), assign=assign)
    assert torch.equal(layer(x), expected)


def test_traverse_lives_through_copies_moves_and_the_meta_device():
    x, layer = torch.randn(1, 3, 32, 32), Traverse("g", 32)
    expected = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer).half().float()):
        assert torch.equal(other(x), expected)
    empty = Traverse("g", 32, device="meta").to_empty(device="cpu")
    for name in ("paths", "index", "inverse"):
        getattr(empty, name).fill_(7)
    empty.reset_parameters()
    assert torch.equal(empty(x), expected)
    empty = Traverse("g", 32, device="meta").to_empty(device="cpu")
    for name in ("paths", "index", "inverse"):
        getattr(empty, name).fill_(7)
    empty.load_state_dict(layer.state_dict())
    assert torch.equal(empty(x), expected)
    for dtype in (torch.int32, torch.int64):
        assigned = Traverse("g", 32, device="meta")
        assigned.load_state_dict({"paths": layer.paths.to(dtype)}, assign=True)
        assert torch.equal(assigned(x), expected)


def test_traverse_is_made_in_a_fake_mode():
    with FakeTensorMode():
        assert Traverse("g", 32)(torch.randn(2, 3, 32, 32)).shape == (2, 9, 1024)


def test_padding_is_checked_when_the_layer_is_made():
    for padding, error in ((-1, ValueError), ("same", TypeError)):
        with pytest.raises(error, match=r"padding must be (at least 0|an integer), but it is"):
            DepthwiseConv1d(4, 3, padding=padding)


def test_scale_of_a_single_channel():
    x, scale, layer = torch.randn(3, 1, 8), torch.rand(3, 1), DepthwiseConv1d(1, 3, bias=False)
    assert torch.allclose(layer(x, scale), layer(scale[..., None] * x))
    assert PathConvBlock(1, 1)(x).shape == x.shape


@pytest.mark.parametrize(
    "arguments, error, says",
    [
        (("g",), ValueError, "image_size is missing: the paths 'g' exist for images of many sizes"),
        ((PathConfig("raster"),), ValueError, "image_size is missing"),
        (("g", 0), ValueError, "image_size must be at least 1"),
        (("g", 2.5), TypeError, "image_size must be an integer"),
        (("nonsense", 32), ValueError, "nonsense"),
        ((paths.generate(4, 4, "raster"), (2, 8)), ValueError, "(?i)path"),
        ((path_tables("r", 4, 4), 5), ValueError, "paths cover 4 x 4 pixels but image_size is 5 x 5"),
        ((3, 4), TypeError, "path"),
    ],
)
def test_bad_paths(arguments, error, says):
    with pytest.raises(error, match=says):
        Traverse(*arguments)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="32 x 32 pixels but x has 16 x 16"):
        Traverse("g", 32)(torch.zeros(1, 3, 16, 16))


def test_tables_of_paths_that_know_their_size():
    tables = path_tables("og", 4, 6)
    for given in (tables, paths.resolve("og", 4, 6), paths.resolve("og", 4, 6)[0]):
        found = tables_of(given)
        assert torch.equal(found.index, tables.index) and found[2:] == (4, 6)


# Convolution and norm.


@pytest.mark.parametrize("layout", [Tensor.contiguous, last])
@pytest.mark.parametrize(
    "options, like",
    [
        ({}, {"padding": 4}),
        ({"bias": False, "padding": 0}, {"bias": False}),
        ({"stride": 2, "multiplier": 2}, {"stride": 2, "padding": 4}),
    ],
)
def test_depthwise_is_the_convolution_of_torch(options, like, layout):
    multiplier = options.get("multiplier", 1)
    ours, theirs = DepthwiseConv1d(6, 9, **options), nn.Conv1d(6, 6 * multiplier, 9, groups=6, **like)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 6, 17)
    assert torch.allclose(ours(layout(x)), theirs(x), atol=1e-6)
    scale = torch.rand(3, 6)
    assert torch.allclose(ours(layout(x), scale), theirs(scale[..., None] * x), atol=1e-6)


def test_starts_as_the_convolution_of_torch_does():
    pairs = [
        (DepthwiseConv1d(4096, 9), nn.Conv1d(4096, 4096, 9, groups=4096)),
        (TraverseConv1d("r", 9, 4096, 4), nn.Conv1d(9, 4096, 1)),
    ]
    for ours, theirs in pairs:
        for name in ("weight", "bias"):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert a.shape == b.shape and a.abs().max() <= 1 / 3
            assert abs(a.std() - b.std()) < 0.01 and abs(a.mean()) < 0.01


@pytest.mark.parametrize("layout", [Tensor.contiguous, last])
def test_norm_and_pointwise_are_those_of_torch_on_the_other_layout(layout):
    x = torch.randn(2, 6, 5)
    norm = randomised(ChannelNorm(6, eps=1e-6))
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    expected = (x - mean) / (variance + 1e-6).sqrt() * norm.weight[:, None] + norm.bias[:, None]
    assert torch.allclose(norm(layout(x)), expected, atol=1e-5)
    conv = PointwiseConv1d(6, 4)
    assert torch.allclose(conv(layout(x)), nn.Conv1d.forward(conv, x), atol=1e-6)
    assert norm(layout(x)).mT.is_contiguous() and conv(layout(x)).mT.is_contiguous()


# Attention.


def test_kernel_sizes_are_those_of_the_authors():
    assert [kernel_sizes(d) for d in (48, 96, 192, 384)] == [(3, 5), (3, 5), (5, 9), (5, 9)]
    assert [kernel_sizes(d // 3) for d in (48, 96, 192, 384)] == [(3, 5), (3, 5), (3, 5), (5, 9)]
    assert [kernel_sizes(d // 6) for d in (48, 96, 192, 384)] == [(3, 5)] * 4
    assert [kernel_sizes(d // 3) for d in (60, 120, 240, 480)] == [(3, 5), (3, 5), (3, 5), (5, 9)]
    assert kernel_sizes(4) == (1, 1)


def attention(layer: PathAwareECA, x: Tensor) -> Tensor:
    """Section 4.2, path after path."""
    groups = x.unflatten(1, (layer.num_paths, -1))
    inner = []
    for path, convs in enumerate(layer.path_convs):
        mean = groups[:, path].mean(-1)[:, None]  # (N, 1, G)
        both = torch.cat([F.conv1d(mean, conv.weight, padding=conv.weight.shape[2] // 2) for conv in convs], 1)
        inner.append(torch.sigmoid(F.conv1d(both, layer.combine.weight, layer.combine.bias)[:, 0]))
    z = torch.stack([e.mean(-1) for e in inner], 1)
    norm, first, _, second, _ = layer.cross_path_mlp
    z = (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    z = z * norm.weight + norm.bias
    hidden = z @ first.weight.T + first.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    f = torch.sigmoid(hidden @ second.weight.T + second.bias)
    return torch.cat([groups[:, p] * (inner[p] * f[:, p, None])[..., None] for p in range(layer.num_paths)], 1)


@pytest.mark.parametrize("channels, num_paths", [(48, 3), (48, 1), (12, 6), (12, 3), (40, 2), (5, 5)])
def test_attention_is_the_formula(channels, num_paths):
    layer, x = randomised(PathAwareECA(channels, num_paths)).double(), torch.randn(2, channels, 7).double()
    for given in (x, last(x)):
        assert torch.allclose(layer(given), attention(layer, x), rtol=1e-12, atol=1e-12)
    assert layer.weights(x).shape == (2, channels)


@pytest.mark.parametrize("num_paths, count", [(1, 8 + 3 + 4 + 5), (3, 3 * 8 + 3 + 36 + 15), (6, 6 * 8 + 3 + 144 + 30)])
def test_parameters_of_the_attention(num_paths, count):
    layer = PathAwareECA(96, num_paths)
    assert sum(p.numel() for p in layer.parameters()) == count  # P (k1 + k2) + 3 + 4 P^2 + 5 P


def test_one_path_gets_the_same_outer_weight_from_every_image():
    layer = randomised(PathAwareECA(8, 1))
    z = torch.rand(5, 1)
    assert layer.cross_path_mlp(z).unique().numel() == 1


def test_paths_must_divide_the_channels():
    for make in (PathAwareECA, PathConvBlock):
        with pytest.raises(ValueError, match="num_paths must divide the channels, but there are 5 paths and 48"):
            make(48, 5)


# Block.


def block_of_the_paper(block: PathConvBlock, x: Tensor) -> Tensor:
    """x + scaling * bottleneck(depthwise(x + attention(x))), in channels-first arithmetic."""

    def norm(x: Tensor, layer: nn.Module) -> Tensor:
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-6).sqrt() * layer.weight[:, None] + layer.bias[:, None]

    y = x + attention(block.attn, x)
    conv = block.dwconv[0]
    y = norm(F.conv1d(y, conv.weight, conv.bias, padding=4, groups=len(conv.weight)), block.dwconv[1])
    first, middle, _, second = block.invBot
    y = F.gelu(norm(F.conv1d(y, first.weight, first.bias), middle))
    return x + block.scaling[:, None] * F.conv1d(y, second.weight, second.bias)


@pytest.mark.parametrize("length", [1, 5, 32])
@pytest.mark.parametrize("num_paths", [1, 2, 3])
def test_block_is_the_formula_and_so_are_its_gradients(num_paths, length):
    block = randomised(PathConvBlock(12, num_paths)).double()
    x = torch.randn(2, 12, length).double().requires_grad_()
    leaves = [x, *block.parameters()]
    expected = block_of_the_paper(block, x)
    target = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * target).sum(), leaves)
    for given in (x, last(x)):
        found = block(given)
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)
        for a, b in zip(torch.autograd.grad((found * target).sum(), leaves), wanted):
            assert torch.allclose(a, b, rtol=1e-7, atol=1e-9)
    assert block(last(x.detach())).mT.is_contiguous()


@pytest.mark.parametrize("cache", [1, 3000, 1 << 30])
def test_inference_in_parts_is_the_same(cache, monkeypatch):
    block, x = randomised(PathConvBlock(12, 3)), torch.randn(3, 12, 17)
    monkeypatch.setattr(modules, "CACHE_BYTES", cache)
    for given in (x, last(x), x[:0], x[:1, :, :1]):
        expected = block(given)
        with torch.no_grad():
            found = block(given)
        assert torch.allclose(found, expected, atol=1e-5) and found.shape == given.shape
        assert found.mT.is_contiguous() and expected.mT.is_contiguous()


def test_hooks_see_whole_sequences_in_inference(monkeypatch):
    block, seen = PathConvBlock(12, 3), []
    monkeypatch.setattr(modules, "CACHE_BYTES", 1)
    block.invBot[1].register_forward_hook(lambda _, given, found: seen.append((given[0].shape, found.shape)))
    with torch.no_grad():
        block(torch.randn(3, 12, 17))
    assert seen == [((3, 48, 17), (3, 48, 17))]


def test_drop_path_drops_whole_samples_and_scales_the_rest():
    block, x = randomised(PathConvBlock(12, 3, 0.25)), torch.randn(400, 12, 4)
    kept = block.eval()(x) - x
    dropped = block.train()(x) - x
    ratio = (dropped / kept).nanmedian(dim=2).values.median(dim=1).values
    whole = torch.stack([torch.zeros(400), torch.full((400,), 1 / 0.75)], 1)
    assert (ratio[:, None] - whole).abs().amin(1).max() < 0.01
    assert 0.15 < (ratio.abs() < 0.1).float().mean() < 0.35
    assert torch.equal(PathConvBlock(12, 3, 0.25).train()(x[:0]), x[:0])
    with pytest.raises(ValueError, match="drop_path must be at least 0 and below 1, but it is 1"):
        PathConvBlock(12, 3, 1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_block_in_half_precision(dtype):
    block, x = PathConvBlock(12, 3, layer_scale_init_value=0.5), torch.randn(2, 12, 16)
    expected = block(x)
    half = copy.deepcopy(block).to(dtype)(x.to(dtype))
    assert half.dtype == dtype and torch.allclose(half.float(), expected, atol=0.05)
    with torch.autocast("cpu", dtype):
        mixed = block(x)
    assert torch.allclose(mixed.float(), expected, atol=0.05)


def test_layers_compile_export_and_keep_their_state():
    layers = [PathConvBlock(12, 3), PathAwareECA(12, 3), DepthwiseConv1d(12, 9)]
    for layer in map(randomised, layers):
        x = torch.randn(2, 12, 16)
        expected = layer(x)
        assert torch.allclose(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), expected, atol=1e-5)
        exported = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},)).module()
        more = torch.randn(5, 12, 16)
        assert torch.allclose(exported(more), layer(more), atol=1e-5)
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        twin = copy.deepcopy(layer)
        randomised(twin).load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(twin(x), expected)


@pytest.mark.parametrize(
    "layer, text",
    [
        (lambda: Traverse("g", 32), "Traverse(3 paths, 32x32)"),
        (lambda: TraverseConv1d("r", 3, 8, (4, 6)), "TraverseConv1d(1 paths, 4x6, 3, 8)"),
        (
            lambda: TraverseConv1d("r", 3, 8, 4, bias=False, channels_last=True),
            "TraverseConv1d(1 paths, 4x4, 3, 8, bias=False, channels_last=True)",
        ),
        (lambda: DepthwiseConv1d(8, 9), "DepthwiseConv1d(8, 9)"),
        (
            lambda: DepthwiseConv1d(8, 9, multiplier=2, stride=2, padding=0, bias=False),
            "DepthwiseConv1d(8, 9, multiplier=2, stride=2, padding=0, bias=False)",
        ),
    ],
)
def test_prints_what_is_not_default(layer, text):
    assert repr(layer()) == text


def test_attention_names_the_channels_it_was_made_for():
    with pytest.raises(ValueError, match=r"x must have shape \(N, 48, L\), but it has shape \(2, 47, 10\)\.$"):
        modules.PathAwareECA(48, 3)(torch.randn(2, 47, 10))


def test_another_gelu_in_the_bottleneck_is_the_one_that_runs():
    block = modules.PathConvBlock(12, 3, layer_scale_init_value=1.0).eval()
    x = torch.randn(2, 12, 40)
    with torch.no_grad():
        exact = block(x)
        block.invBot[2] = nn.GELU("tanh")
        fast = block(x)
    block.requires_grad_(False)
    wanted = block(x.clone().requires_grad_()).detach()  # which takes the way of training
    torch.testing.assert_close(fast, wanted)
    assert not torch.equal(fast, exact)
