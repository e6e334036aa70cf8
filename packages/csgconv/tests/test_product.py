"""All kernels by few products: what each group of layers needs of a slice, and gradients through it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from csgconv import SliceGenerator, ops, product, reference
from csgconv.layouts import Layer

SLICE = (4, 4, 3, 3)
# Kernels and layouts: whole slices, the first columns of rows of planes, the same of another width, rows that straddle
# slices, blocks side by side, blocks of which one is a row, the end of a slice.
LAYERS = [
    ((8, 4, 3, 3), "raster"),
    ((3, 7, 1, 1), "flat"),
    ((5, 3, 3, 3), "raster"),
    ((8, 2, 3, 3), "raster"),
    ((9, 3, 3, 3), "tile"),
    ((6, 5, 3, 3), "raster"),
    ((4, 11, 3, 3), "raster"),
    ((7, 6, 3, 3), "tile"),
    ((5, 8, 3, 3), "tile"),
]
NEEDS = [(1, 1, False), (27, 36, False), (18, 36, False), (27, 36, False), (45, 72, False), (1, 1, True)]


def generator(layers=LAYERS, **options) -> SliceGenerator:
    torch.manual_seed(0)
    made = SliceGenerator(5, SLICE, dtype=torch.float64, **options)
    for shape, layout in layers:
        made.add(Layer(shape, SLICE, layout))
    if made.bias is not None:
        torch.nn.init.normal_(made.bias)
    return made


def one_by_one(made: SliceGenerator) -> list[Tensor]:
    """The formula, layer by layer."""
    found = []
    for index, layer in enumerate(made.layers):
        rows = [row for part in made.rows(index) for row in part]
        kernel = reference.generate(
            made.codes[rows], made.weight, [layer.shape], slice_shape=SLICE, layout=layer.layout, bias=made.bias
        )
        found.append(kernel[0])
    return found


def test_layers_that_need_the_same_are_one_product():
    groups = generator()._plan.groups
    assert [(group.kept, group.padded, group.copied) for group in groups] == NEEDS
    assert [n for group in groups for n in group.layers] == list(range(len(LAYERS)))
    assert [row for group in groups for row in group.rows] == list(range(generator()._plan.live))


@pytest.mark.parametrize("bias", [False, True])
def test_kernels_are_those_of_the_formula(bias):
    made = generator(bias=bias)
    for found, expected in zip(made.kernels(), one_by_one(made), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("used", [range(9), [1], [0, 2, 3], [3, 8], [7], [2, 4, 5]], ids=str)
def test_gradients_are_those_of_the_formula(used, bias):
    """Also where some kernels, or all of a group, are not used."""
    made = generator(bias=bias)
    parameters = list(made.parameters())
    kernels, expected = made.kernels(), one_by_one(made)
    grads = [torch.randn_like(kernels[n]) for n in used]
    found = torch.autograd.grad([kernels[n] for n in used], parameters, grads)
    for a, b in zip(found, torch.autograd.grad([expected[n] for n in used], parameters, grads), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_kernels_without_gradient_take_no_product(monkeypatch):
    given, gradients = [], product.gradients
    monkeypatch.setattr(product, "gradients", lambda *args: given.append(args[-1]) or gradients(*args))
    made = generator()
    made.kernels()[3].sum().backward()
    assert [grad is None for grad in given[0]] == [n != 3 for n in range(len(LAYERS))]


def test_second_derivatives():
    made = generator([LAYERS[2], LAYERS[6]], bias=True)

    def kernels(*_: Tensor) -> tuple[Tensor, ...]:
        made.invalidate()
        return made.kernels()

    torch.autograd.gradgradcheck(kernels, tuple(made.parameters()))


def test_kernels_that_lie_in_one_piece_are_not_copied(monkeypatch):
    def refuse(*_):
        raise AssertionError("copied")

    monkeypatch.setattr(ops, "crop", refuse)
    monkeypatch.setattr(ops, "uncrop", refuse)
    made = generator(LAYERS[:6])
    sum(kernel.sum() for kernel in made.kernels()).backward()
    assert made.codes.grad.shape == made.codes.shape


@pytest.mark.parametrize("index", [0, 2, 6])
def test_writes_into_a_kept_kernel_are_seen_in_every_group(index):
    made = generator()
    with torch.no_grad():
        first = [kernel.clone() for kernel in made.kernels()]
        made.kernel(index).add_(1)
        for found, expected in zip(made.kernels(), first, strict=True):
            assert torch.equal(found, expected)


@pytest.fixture
def onednn(monkeypatch):
    """As where MKL is slow, for products of any size."""
    if ops.backends.why["cpu"] or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("needs the native CPU kernels, and a torch with oneDNN")
    monkeypatch.setattr(product, "LARGE", 1)
    monkeypatch.setattr(product, "_mkl_is_slow", lambda: True)


@pytest.mark.parametrize("bias", [False, True])
def test_onednn_multiplies_where_mkl_is_slow(bias, onednn, monkeypatch):
    found, counts = [], []
    for slow in (False, True):
        monkeypatch.setattr(product, "_mkl_is_slow", lambda slow=slow: slow)
        made = generator(bias=bias).float()
        with torch.profiler.profile() as profile:
            sum(kernel.square().sum() for kernel in made.kernels()).backward()
        counts.append(sum(event.name == "mkldnn::_linear_pointwise" for event in profile.events()))
        found.append([*made.kernels(), *(p.grad for p in made.parameters())])
    groups = len(generator(bias=bias)._plan.groups)
    assert counts == [0, 3 * groups]
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_gradients_of_gradients_and_batches_of_them_beside_onednn(onednn):
    made = generator().float()
    kernel = made.kernels()[0]
    (first,) = torch.autograd.grad(kernel.square().sum(), made.codes, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), made.weight)
    assert second.abs().sum() > 0
    directions = torch.randn(3, *kernel.shape)
    (many,) = torch.autograd.grad(made.kernels()[0], made.codes, directions, is_grads_batched=True)
    for direction, one in zip(directions, many):
        (wanted,) = torch.autograd.grad(made.kernels()[0], made.codes, direction)
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lay", [lambda b: torch.stack((b, b), 1)[:, 0], lambda b: b[:1].expand(b.shape)])
def test_a_bias_that_is_not_dense(lay, onednn):
    made = generator(bias=True).float()
    made.bias = torch.nn.Parameter(lay(made.bias.detach()))
    with torch.no_grad():
        torch.testing.assert_close(list(made.kernels()), one_by_one(made), rtol=1e-4, atol=1e-4)


def test_tangents_of_gradients_beside_onednn(onednn):
    made = generator().float()
    kernel = made.kernels()[0]
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.randn_like(kernel), torch.randn_like(kernel))
        (grad,) = torch.autograd.grad(kernel, made.codes, dual)
        assert torch.autograd.forward_ad.unpack_dual(grad).tangent.abs().sum() > 0
