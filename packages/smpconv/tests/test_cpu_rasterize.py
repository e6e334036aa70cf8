"""The native CPU kernels of rasterizing where vectors and lists of taps end, at every level."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smpconv import ops, rasterize, reference

pytestmark = pytest.mark.skipif(bool(ops.backends.why["cpu"]), reason="needs the native CPU kernels")
kernels = torch.ops.smpconv
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
# G, C, N, size, largest radius
CASES = [
    (1, 1, 1, (1, 1), 0.5),
    (1, 40, 20, (13, 13), 0.3),
    (3, 5, 7, (9,), 0.4),
    (2, 16, 33, (5, 8), 0.6),
    (2, 33, 17, (31, 31), 1.0),
    (4, 30, 30, (100,), 0.02),
    (1, 17, 9, (1, 7), 2.0),
    (2, 3, 5, (1,), 1.0),
    (1, 70, 15, (9, 11), 9.0),
    (2, 70, 8, (50,), 9.0),
]
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.fixture(params=("baseline", "avx2", "avx512"), autouse=True)
def level(request):
    before = kernels.cpu_level()
    kernels.set_cpu_level(request.param)
    try:
        if kernels.cpu_level() != request.param:
            pytest.skip(f"this processor has no {request.param}")
        yield request.param
    finally:
        kernels.set_cpu_level(before)


def points(groups: int, channels: int, count: int, dims: int, most: float, dtype: torch.dtype = torch.float32):
    """Positions, some outside of the grid; radii; weights."""
    generator = torch.Generator().manual_seed(count)
    coords = torch.randn(groups, count, dims, generator=generator) * 0.6
    radius = torch.rand(groups, count, generator=generator) * most + 0.05
    weight = torch.randn(groups, channels, count, generator=generator)
    return coords.to(dtype), radius.to(dtype), weight.to(dtype)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.shape == expected.shape
    assert found.dtype == dtype
    assert found.is_contiguous()
    scale = expected.nan_to_num().abs().amax().item() if expected.numel() else 0.0
    atol = TOLERANCE[dtype] * max(scale, 1e-3)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=atol, equal_nan=True)


def compare(coords: Tensor, radius: Tensor, weight: Tensor, size: tuple[int, ...], average: bool, flip: bool) -> None:
    """Kernels and gradients with the reference, which gets the same numbers in float64."""
    dtype, tensors = weight.dtype, (coords.double(), radius.double(), weight.double())
    kernel = kernels.rasterize(coords, radius, weight, size, average, flip)
    close(kernel, reference.forward(*tensors, size, average, flip), dtype)
    grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    found = kernels.rasterize_backward(grad, coords, radius, weight, average, flip)
    for f, e in zip(found, reference.backward(grad.double(), *tensors, average, flip)):
        close(f, e, dtype)


@DTYPES
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("groups, channels, count, size, most", CASES)
def test_equals_the_reference(groups, channels, count, size, most, average, dtype):
    tensors = points(groups, channels, count, len(size), most, dtype)
    for flip in (False, True)[: len(size)]:
        compare(*tensors, size, average, flip)


@pytest.mark.parametrize("average", [False, True])
def test_points_on_taps_and_edges(average):
    """Distances that are 0 or exactly the radius, in both dimensions."""
    taps = torch.linspace(-1, 1, 9)
    coords = torch.cartesian_prod(taps[1:-1], taps[::3])[None]
    radius = torch.tensor([0.25, 0.5, 0.75]).repeat(7)[None]
    compare(coords, radius, torch.randn(1, 5, 21), (9, 9), average, True)
    compare(coords, radius, torch.randn(1, 5, 21), (9, 5), average, False)


@pytest.mark.parametrize("average", [False, True])
def test_dead_points_and_no_points(average):
    coords, radius, weight = points(2, 20, 6, 2, 0.3)
    radius[:, 0], radius[:, 1], coords[:, 2] = -0.5, 0.0, 5.0
    compare(coords, radius, weight, (7, 7), average, False)
    grads = kernels.rasterize_backward(torch.ones(2, 20, 7, 7), coords, radius, weight, average, False)
    assert not grads[0][:, :3].any()
    assert not grads[1][:, :3].any()
    assert not grads[2][:, :, :3].any()
    compare(coords[:, :0], radius[:, :0], weight[:, :, :0], (7, 7), average, False)
    compare(coords, radius, weight[:, :0], (7, 7), average, False)
    compare(coords[:0], radius[:0], weight[:0], (7, 7), average, False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_spoils_its_group_alone(bad):
    for part in (0, 1):
        tensors = points(3, 20, 6, 2, 0.3)
        tensors[part][1, 4] = bad
        compare(*tensors, (7, 7), False, True)
        kernel = kernels.rasterize(*tensors, (7, 7), False, True)
        assert kernel[1].isnan().all()
        assert kernel[::2].isfinite().all()


@pytest.mark.parametrize("size", [(1,), (1, 5), (5, 1)])
def test_an_infinite_radius_over_a_single_tap(size):
    """Times the length of that axis it is no number, and no number of taps to make room for."""
    coords, radius, weight = points(2, 20, 6, len(size), 0.3)
    radius[1, 4] = float("inf")
    compare(coords, radius, weight, size, False, False)


@pytest.mark.parametrize("size", [(0,), (31, 0), (0, 31)])
def test_wide_radii_over_no_taps(size):
    compare(*points(2, 20, 6, len(size), 9.0), size, True, False)


def test_products_that_are_infinite():
    """In float64 a finite point times a length may be infinite, and the difference of two such no number."""
    coords, radius, weight = points(1, 3, 6, 2, 0.3, torch.float64)
    coords[0, 0], radius[0, 0] = 1e308, 1.7e308
    radius[0, 1] = 1.7e308
    for size in ((31, 17), (31, 1), (1, 31)):
        kernel = kernels.rasterize(coords, radius, weight, size, True, True)
        close(kernel, reference.forward(coords, radius, weight, size, True, True), torch.float64)
        kernels.rasterize_backward(kernel, coords, radius, weight, True, True)


def test_slices_and_shared_points():
    coords, radius, weight = points(2, 20, 12, 2, 0.3)
    compare(coords[:, ::2], radius[:, ::2], weight[:, 1::2, ::2], (7, 7), True, True)
    compare(coords[:1].expand(2, -1, -1), radius[:1].expand(2, -1), weight, (7, 7), True, True)


def test_points_far_away_are_no_danger():
    coords, radius, weight = points(1, 3, 6, 2, 0.3)
    coords[0, 0], coords[0, 1], radius[0, 2] = 3e38, -3e38, 3e38
    compare(coords, radius, weight, (7, 7), False, False)


@pytest.mark.parametrize("most", [0.3, 20.0], ids=["narrow", "wide"])
def test_threads_do_not_change_a_bit(most):
    tensors, results = points(5, 70, 48, 2, most), []
    grad = torch.randn(5, 70, 31, 31, generator=torch.Generator().manual_seed(9))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            kernel = kernels.rasterize(*tensors, (31, 31), True, True)
            results.append((kernel, *kernels.rasterize_backward(grad, *tensors, True, True)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("size", [(50,), (13, 13)], ids=["sequence", "image"])
@pytest.mark.parametrize("radius", [0.2, 0.9, 9.0])
def test_wide_tents_of_many_channels(radius, size, average):
    """Many channels take a dense product in the forward pass where tents are wide; one channel never does.

    In lists, as in the backward pass, what a channel gets does not depend on the others, to the bit.
    """
    coords, radii, weight = points(2, 150, 16, len(size), 0.3)
    radii[0] = radius
    for flip in (False, True)[: len(size)]:
        compare(coords, radii, weight, size, average, flip)
    kernel = kernels.rasterize(coords, radii, weight, size, average, False)
    alone = [kernels.rasterize(coords, radii, w, size, average, False) for w in weight.split(1, 1)]
    torch.testing.assert_close(kernel, torch.cat(alone, 1), rtol=0, atol=1e-5)
    grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(9))
    _, _, found = kernels.rasterize_backward(grad, coords, radii, weight, average, False)
    pairs = zip(grad.split(1, 1), weight.split(1, 1))
    alone = torch.cat([kernels.rasterize_backward(g, coords, radii, w, average, False)[2] for g, w in pairs], 1)
    assert torch.equal(found, alone)


def test_more_taps_than_can_be_numbered():
    tensors = points(1, 1, 1, 2, 0.3)
    for size in ((1, 2**31 - 8), (2**16, 2**15)):
        with pytest.raises(RuntimeError, match="size must"):
            kernels.rasterize(*tensors, size, False, False)
        with pytest.raises(ValueError, match="size must hold at most 2147483583 taps"):
            rasterize(*tensors, size, average=False, flip=False)


def test_no_channels_have_gradients_that_are_zero():
    coords, radius, weight = points(2, 0, 5, 2, 0.3)
    found = kernels.rasterize_backward(torch.empty(2, 0, 9, 9), coords, radius, weight, True, True)
    assert [tuple(t.shape) for t in found] == [(2, 5, 2), (2, 5), (2, 0, 5)]
    assert all((t == 0).all() for t in found)
