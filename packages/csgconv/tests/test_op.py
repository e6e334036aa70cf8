"""The ops alone: pure copies, each the other's adjoint, and schemas that agree with the native ones."""

from __future__ import annotations

import pytest
import torch

import csgconv
from csgconv import functional, layouts, ops, reference

LAYERS = [
    layouts.Layer((5, 5, 2, 2), (3, 3, 2, 2)),
    layouts.Layer((4, 3, 2, 2), (3, 3, 2, 2)),
    layouts.Layer((4, 4, 2, 2), (3, 3, 2, 2), "tile"),
    layouts.Layer((7, 1, 3, 1), (3, 3, 2, 2), "flat"),
]
NUMBERS, ROWS, SIZE = layouts.table(LAYERS), sum(layer.rows for layer in LAYERS), 36
ELEMENTS = sum(layer.numel for layer in LAYERS)


@pytest.fixture(params=["reference", "native"])
def backend(request):
    if request.param == "native" and csgconv.ops.backends.why["cpu"]:
        pytest.skip(csgconv.ops.backends.why["cpu"])
    with csgconv.use_backend(request.param):
        yield request.param


def test_schemas_agree_with_the_native_ones():
    for name, schema in ops.SCHEMAS.items():
        assert str(getattr(torch.ops.csgconv, name).default._schema) == f"csgconv::{name}{schema}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_crop_picks_what_the_formula_says(backend, dtype):
    slices = torch.randn(ROWS, SIZE, dtype=dtype)
    assert torch.equal(functional.crop(slices, NUMBERS), slices.view(-1)[reference.positions(NUMBERS)])
    assert functional.crop(slices, []).shape == (0,)


def test_uncrop_puts_back_and_leaves_zeros(backend):
    kernels = torch.randn(ELEMENTS).masked_fill(torch.arange(ELEMENTS) % 7 == 0, torch.nan)
    slices = functional.uncrop(kernels, NUMBERS, ROWS, SIZE)
    assert slices.shape == (ROWS, SIZE)
    assert torch.equal(functional.crop(slices, NUMBERS).nan_to_num(9), kernels.nan_to_num(9))
    assert slices.count_nonzero() == ELEMENTS
    assert functional.uncrop(kernels[:0], [], 2, 3).tolist() == [[0.0] * 3] * 2


def test_uncrop_takes_kernels_of_any_stride_and_maps(backend):
    kernels = torch.randn(ELEMENTS, 3, dtype=torch.float64)
    each = [functional.uncrop(kernels[:, n], NUMBERS, ROWS, SIZE) for n in range(3)]
    mapped = torch.func.vmap(lambda k: ops.uncrop(k, NUMBERS, ROWS, SIZE), in_dims=1)(kernels)
    assert torch.equal(mapped, torch.stack(each))


def test_uncrop_has_the_gradients_of_a_linear_map(backend):
    kernels = torch.randn(ELEMENTS, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(ROWS, SIZE, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(functional.uncrop(kernels, NUMBERS, ROWS, SIZE), kernels, upstream, create_graph=True)
    assert torch.equal(grad, functional.crop(upstream, NUMBERS))
    (back,) = torch.autograd.grad(grad, upstream, kernels)
    assert torch.equal(back, functional.uncrop(kernels, NUMBERS, ROWS, SIZE))


def test_tables_are_checked_by_the_op_itself(backend):
    slices = torch.zeros(2, 4)
    for numbers in (
        [0, 9, 1, 1, 1, 1],
        [0, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1],
        [0, 1, 1],
        [0, 1, 1, 1, 0, 1],
        [8, 1, 1, 1, 1, 1],
    ):
        with pytest.raises((ValueError, RuntimeError), match="layer"):
            torch.ops.csgconv.crop(slices, numbers)
        with pytest.raises((ValueError, RuntimeError), match="layer"):
            torch.ops.csgconv.uncrop(torch.zeros(4), numbers, 2, 4)
    with pytest.raises((ValueError, RuntimeError), match="elements"):
        torch.ops.csgconv.uncrop(torch.zeros(4), [0, 3, 1, 1, 1, 1], 2, 4)


def test_kernels_of_one_call_are_views_where_all_lie_as_they_are():
    codes, weight = torch.randn(4, 4), torch.randn(16 * 9, 4)
    kernels = csgconv.generate(codes, weight, [(8, 4, 3, 3), (5, 4, 3, 3)], slice_shape=(4, 4, 3, 3))
    assert len({kernel.untyped_storage().data_ptr() for kernel in kernels}) == 1
