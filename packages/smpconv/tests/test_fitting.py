"""`fit_points`: how close points come to given kernels."""

from __future__ import annotations

import pytest
import torch

from smpconv import fit_points, rasterize


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def drawn(points, size) -> torch.Tensor:
    """The kernels of a fit, as a layer computes them."""
    coords, radius, weight = (t[None] for t in points[:3])
    return rasterize(coords, radius, weight, size, average=False, flip=True)[0]


def blobs(channels: int, size: tuple[int, int]) -> torch.Tensor:
    """Smooth kernels, as trained ones are."""
    rows, columns = (torch.linspace(-1, 1, taps) for taps in size)
    centre, width = torch.randn(2, channels, 4, 1, 1) * 0.3, 0.2 + 0.4 * torch.rand(2, channels, 4, 1, 1)
    exponent = ((rows[:, None] - centre[0]) / width[0]).square() + ((columns - centre[1]) / width[1]).square()
    return (torch.randn(channels, 4, 1, 1) * (-exponent).exp()).sum(1)


@pytest.mark.parametrize("size", [(7, 7), (5, 9), (1, 5), (9, 1), (1, 1), (13, 13)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_point_for_every_tap_is_exact(size, dtype):
    kernels = torch.randn(6, *size, dtype=dtype)
    points = fit_points(kernels, size[0] * size[1])
    assert points.error < 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(drawn(points, size), kernels)


@pytest.mark.parametrize(("channels", "size", "n_points"), [(64, (7, 7), 12), (4, (7, 7), 12), (16, (5, 9), 11)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_error_is_that_of_the_kernels(channels, size, n_points, dtype):
    kernels = blobs(channels, size).to(dtype)
    points = fit_points(kernels, n_points)
    assert (points.coords.shape, points.radius.shape) == ((n_points, 2), (n_points,))
    assert points.weight.shape == (channels, n_points)
    assert {t.dtype for t in points[:3]} == {dtype}
    assert points.coords.abs().max() <= 1
    assert 2 / (max(size) - 1) <= points.radius.min() + 1e-6 and points.radius.max() <= 1
    difference = ((drawn(points, size) - kernels).norm() / kernels.norm()).item()
    assert points.error == pytest.approx(difference, rel=1e-3)
    assert points.error < 0.5


def test_weights_are_the_least_squares_solution():
    kernels = blobs(32, (7, 7)).double()
    coords, radius, weight, _ = fit_points(kernels, 12)
    weight.requires_grad_()
    error = rasterize(coords[None], radius[None], weight[None], 7, average=False, flip=True)[0] - kernels
    (grad,) = torch.autograd.grad(error.square().sum(), weight)
    assert grad.abs().max() < 1e-10


def test_moving_the_points_helps_and_no_other_place_nearby_is_much_better():
    kernels = blobs(48, (7, 7)).double()
    errors = [fit_points(kernels, 12, steps=steps).error for steps in (0, 20, 200)]
    assert errors[0] > 1.05 * errors[1] >= errors[2]
    singular = torch.linalg.svdvals(kernels.flatten(1)).square()
    bound = (singular[12:].sum() / singular.sum()).sqrt().item()
    assert bound < errors[2] < 2 * bound


def test_kernels_of_points_are_found_again():
    coords, radius, weight = torch.rand(1, 5, 2) * 1.6 - 0.8, 0.3 + 0.4 * torch.rand(1, 5), torch.randn(1, 64, 5)
    kernels = rasterize(coords, radius, weight, 15, average=False, flip=True)[0]
    assert fit_points(kernels, 8, steps=300).error < 0.02


def test_more_points_are_no_worse():
    kernels = blobs(64, (7, 7))
    errors = [fit_points(kernels, n_points).error for n_points in (1, 4, 12, 24, 36, 49)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6


def test_the_fit_is_deterministic():
    kernels = blobs(16, (7, 7))
    assert all(torch.equal(a, b) for a, b in zip(fit_points(kernels, 9)[:3], fit_points(kernels, 9)[:3]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_good_as_its_numbers(dtype):
    kernels = blobs(16, (7, 7)).to(dtype)
    wanted = fit_points(kernels.float(), 24).error
    assert fit_points(kernels, 24).error < wanted + 0.1


def test_kernels_without_anything():
    points = fit_points(torch.zeros(4, 7, 7), 5)
    assert points.error == 0
    assert not drawn(points, 7).any()


@pytest.mark.parametrize("n_points", [0, 50])
def test_the_number_of_points_is_checked(n_points):
    with pytest.raises(ValueError, match=f"n_points must be 1 to 49 .* but it is {n_points}"):
        fit_points(torch.zeros(4, 7, 7), n_points)


def test_kernels_that_are_not_finite_are_refused():
    kernels = torch.zeros(4, 7, 7)
    kernels[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="kernels must be finite"):
        fit_points(kernels, 5)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"kernels": torch.zeros(7, 7)}, ValueError, "kernels must have shape"),
        ({"kernels": torch.zeros(4, 1, 7, 7)}, ValueError, "kernels must have shape"),
        ({"kernels": torch.zeros(0, 7, 7)}, ValueError, "kernels must be one or more"),
        ({"kernels": torch.ones(4, 7, 7, dtype=torch.int64)}, TypeError, "kernels must be float32"),
        ({"n_points": 3.5}, TypeError, "n_points must be an integer"),
        ({"steps": -1}, ValueError, "steps must be at least 0"),
    ],
)
def test_says_what_is_wrong(change, error, says):
    with pytest.raises(error, match=says):
        fit_points(**{"kernels": torch.zeros(4, 7, 7), "n_points": 5, **change})
