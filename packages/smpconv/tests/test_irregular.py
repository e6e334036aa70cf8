"""Sequences sampled at any time, beside the regular convolution and a sum over all pairs of samples."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

import smpconv
from smpconv import causal_conv1d_long, irregular_conv1d, reference

SPAN, SPACING = 6.0, 0.25


@pytest.fixture(autouse=True)
def reference_backend():
    torch.manual_seed(0)
    with smpconv.use_backend("reference"):
        yield


def points(o: int, i: int, p: int) -> list[Tensor]:
    coords, radius, weight = torch.rand(o, p, 1) * 2.2 - 1.1, torch.rand(o, p) * 0.5 + 0.02, torch.randn(o, i, p)
    return [t.double().requires_grad_() for t in (coords, radius, weight)]


def pairs(x: Tensor, times: Tensor, coords: Tensor, radius: Tensor, weight: Tensor, average: bool) -> Tensor:
    """The sum over all pairs of samples."""
    lags = times[:, :, None] - times[:, None, :]  # (N, l, m)
    position = 1 - 2 * lags / SPAN
    distance = (position[:, None, None] - coords[:, :, 0, None, None]).abs()  # (N, O, P, l, m)
    active = distance < radius[:, :, None, None]
    phi = torch.where(active, 1 - distance / radius[:, :, None, None], 0)
    if average:
        phi = phi / (active.sum(2, keepdim=True, dtype=torch.float64) + 1e-6)
    phi = phi * ((lags >= 0) & (lags <= SPAN))[:, None, None]
    steps = torch.cat((torch.full_like(times[:, :1], SPACING), times.diff(dim=1)), 1) / SPACING
    return torch.einsum("oip,noplm,nim->nol", weight, phi, x * steps[:, None])


@pytest.mark.parametrize("average", [False, True], ids=["plain", "average"])
def test_equals_the_sum_over_pairs(average):
    tensors, times = points(3, 2, 5), torch.rand(4, 40).double().mul(0.7).cumsum(1)
    x = torch.randn(4, 2, 40).double().requires_grad_()
    y = irregular_conv1d(x, times, *tensors, span=SPAN, spacing=SPACING, average=average)
    wanted = pairs(x, times, *tensors, average)
    torch.testing.assert_close(y, wanted)
    leaves, grad = [x, *tensors], torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, leaves, grad), torch.autograd.grad(wanted, leaves, grad))


@pytest.mark.parametrize("average", [False, True], ids=["plain", "average"])
@pytest.mark.parametrize("shared", [False, True], ids=["times of each", "times of all"])
def test_regular_times_give_the_regular_convolution(average, shared):
    tensors, bias = points(3, 2, 5), torch.randn(3).double()
    x, times = torch.randn(2, 2, 61).double(), torch.arange(61).double() * SPACING + 100
    kernel = reference.rasterize(*tensors, 25, average=average, flip=False)
    options = {"span": SPAN, "spacing": SPACING, "average": average}
    y = irregular_conv1d(x, times if shared else times.expand(2, -1), *tensors, bias, **options)
    torch.testing.assert_close(y, causal_conv1d_long(x, kernel, bias, algorithm="direct"))


def test_the_layer_reads_times():
    layer = smpconv.SMPConv1d(2, 3, 25, 5, bias=True, dtype=torch.float64)
    x = torch.randn(2, 2, 40).double()
    times = torch.arange(40).double() * 0.5
    torch.testing.assert_close(layer.irregular(x, times, spacing=0.5), layer(x))
    kept = torch.rand(40).argsort()[:30].sort().values
    assert layer.irregular(x[..., kept], times[kept], spacing=0.5).shape == (2, 3, 30)


def test_the_origin_of_time_costs_no_digits():
    tensors, x = points(3, 2, 5), torch.randn(2, 2, 200).double()
    times, options = torch.arange(200).double() * SPACING, {"span": SPAN, "spacing": SPACING, "average": False}
    since_1970 = irregular_conv1d(x, times + 2.0**31, *tensors, **options)
    torch.testing.assert_close(since_1970, irregular_conv1d(x, times, *tensors, **options))


def test_precision_is_that_of_x():
    tensors = [t.detach().float() for t in points(3, 2, 5)]
    times = torch.rand(2, 9).cumsum(1)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 2, 9, dtype=dtype)
        assert irregular_conv1d(x, times, *tensors, span=3.0, spacing=0.5, average=False).dtype == dtype


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"times": torch.tensor([0.0, 2.0, 1.0])}, "times must be in ascending order"),
        ({"times": torch.zeros(4)}, "times must have shape (3,) or (1, 3)"),
        ({"span": 0.0}, "span and spacing must be positive, but they are 0.0 and 1.0"),
        ({"spacing": math.inf}, "span and spacing must be positive, but they are 2.0 and inf"),
        ({"weight": torch.ones(1, 3, 4)}, "weight (O, 2, P) must fit x"),
        ({"bias": torch.ones(2)}, "bias must have one entry for each of the 1 output channels, but has 2"),
        ({"times": torch.tensor([0.0, 1.0, math.inf])}, "times must be finite, but 1 of 3 numbers are not"),
        ({"times": torch.tensor([0.0, math.nan, 2.0])}, "1 of 3 numbers are not: leave samples without a time out"),
        ({"coords": torch.full((1, 4, 1), math.nan)}, "coords must be finite, but 4 of 4 numbers are not"),
        ({"radius": torch.tensor([[1.0, 0.0, -1.0, 1.0]])}, "radius must be positive, but 2 of 4 are not: clip it"),
    ],
)
def test_says_what_is_wrong(change, says):
    good = {"x": torch.ones(1, 2, 3), "times": torch.arange(3.0), "coords": torch.zeros(1, 4, 1)}
    good |= {"radius": torch.ones(1, 4), "weight": torch.ones(1, 2, 4), "span": 2.0, "spacing": 1.0, "average": True}
    irregular_conv1d(**good)
    with pytest.raises(ValueError, match=re.escape(says)):
        irregular_conv1d(**{**good, **change})
