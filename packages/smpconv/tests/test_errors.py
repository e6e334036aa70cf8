"""Bad input of the layers and of the functions beside those of the contract: a sentence each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import smpconv
from smpconv import SMPConv1d, SMPConv2d, SMPDepthwiseConv2d, causal_conv1d_long, conv2d_long, diagnose, rasterize

COORDS, RADIUS, WEIGHT = torch.zeros(2, 4, 2), torch.ones(2, 4), torch.ones(2, 3, 4)


def draw(coords=COORDS, radius=RADIUS, weight=WEIGHT, size=5, average=False, flip=True):
    return rasterize(coords, radius, weight, size, average=average, flip=flip)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: draw(coords=[0.0]), TypeError, "coords must be a tensor of shape (G, N, d), but it is a list"),
        (lambda: draw(coords=COORDS[0]), ValueError, "coords must have shape (G, N, d), but it has shape (4, 2)"),
        (lambda: draw(coords=torch.zeros(2, 4, 3)), ValueError, "coords must have 1 or 2 components"),
        (lambda: draw(coords=COORDS.long()), TypeError, "coords must be float32"),
        (lambda: draw(radius=RADIUS[:, :3]), ValueError, "radius must have shape (2, 4)"),
        (lambda: draw(radius=RADIUS.double()), TypeError, "radius is torch.float64 but coords is torch.float32"),
        (lambda: draw(radius=RADIUS.to("meta")), ValueError, "radius is on meta but coords is on cpu"),
        (lambda: draw(radius=RADIUS - 1), ValueError, "radius must be positive, but 8 of 8 are not: clip it"),
        (lambda: draw(radius=RADIUS * torch.nan), ValueError, "must be finite, but 8 of 8 points are not"),
        (lambda: draw(weight=WEIGHT[:1]), ValueError, "weight must have shape (2, C, 4)"),
        (lambda: draw(weight=WEIGHT.mT), ValueError, "weight must have shape (2, C, 4)"),
        (lambda: draw(weight=WEIGHT.bfloat16()), TypeError, "weight is torch.bfloat16 but coords is torch.float32"),
        (lambda: draw(size=0), ValueError, "size must be at least 1, but it is 0"),
        (lambda: draw(size=5.0), TypeError, "size must be an integer, but it is 5.0"),
        (lambda: draw(size=(5,)), ValueError, "one for each of the 2 components of coords, but it is (5,)"),
        (lambda: draw(coords=COORDS[..., :1]), ValueError, "flip must be False for coords with 1 component"),
        (lambda: diagnose(COORDS, RADIUS[0], 5), ValueError, "radius must have shape (G, N)"),
        (lambda: conv2d_long(torch.ones(1, 2, 5, 5), torch.ones(3, 2, 4, 5)), ValueError, "odd sizes, but"),
        (lambda: conv2d_long(torch.ones(1, 2, 5, 5), torch.ones(3, 3, 5, 5)), ValueError, "(O, 2, ...)"),
        (lambda: causal_conv1d_long(torch.ones(1, 2, 5), torch.ones(3, 3, 5)), ValueError, "(O, 2, ...)"),
        (lambda: causal_conv1d_long(torch.ones(1, 2, 5), torch.ones(3, 2, 0)), ValueError, "with taps"),
        (lambda: causal_conv1d_long(torch.ones(2, 5), torch.ones(3, 2, 5)), ValueError, "x must have shape (N, I, L)"),
        (
            lambda: causal_conv1d_long(torch.ones(1, 2, 5), torch.ones(3, 2, 5), torch.ones(2)),
            ValueError,
            "bias has 2 entries but weight has kernels for 3 channels",
        ),
        (
            lambda: causal_conv1d_long(torch.ones(1, 2, 5), torch.ones(3, 2, 5), algorithm="slow"),
            ValueError,
            'algorithm must be "auto", "direct" or "fft", but it is \'slow\'',
        ),
        (lambda: SMPConv1d(0, 4, 9), ValueError, "in_channels must be at least 1"),
        (lambda: SMPConv1d(1, 4, 9, 0), ValueError, "n_points must be at least 1"),
        (lambda: SMPConv1d(1, 4, 9, radius=0), ValueError, "radius must be positive and finite, but it is 0"),
        (
            lambda: SMPConv2d(1, 4, 9, coord_std=-1.0),
            ValueError,
            "coord_std must be positive and finite, but it is -1.0",
        ),
        (lambda: SMPConv1d(1, 4, 9).resample(9, rate=-1), ValueError, "rate must be positive"),
        (lambda: SMPConv2d(1, 4, 8), ValueError, "kernel_size must be odd"),
        (lambda: SMPConv2d(1, 4, 9, algorithm="slow"), ValueError, "algorithm must be"),
        (lambda: SMPDepthwiseConv2d(4, 65), ValueError, "kernel_size must be at most 63, but it is 65: only the"),
        (lambda: SMPDepthwiseConv2d(4, 9).resample(8), ValueError, "size must be odd"),
        (lambda: SMPDepthwiseConv2d(4, 9)(torch.ones(1, 3, 5, 5)), ValueError, "x has 3 channels, but channels is 4: "),
        (lambda: SMPConv2d(3, 4, 9)(torch.ones(1, 4, 5, 5)), ValueError, "x has 4 channels, but in_channels is 3: "),
        (lambda: SMPConv1d(3, 4, 9)(torch.ones(1, 4, 5)), ValueError, "x has 4 channels, but in_channels is 3: "),
        (lambda: SMPConv1d(3, 4, 9)(torch.ones(4, 5)), ValueError, "x must have shape (N, I, L)"),
        (
            lambda: SMPConv1d(3, 4, 9).irregular(torch.ones(1, 4, 5), torch.arange(5.0)),
            ValueError,
            "x has 4 channels, but in_channels is 3: ",
        ),
    ],
)
def test_says_what_is_wrong(call, error, says):
    with pytest.raises(error) as caught:
        call()
    assert says in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_any_integer_will_do():
    with smpconv.use_backend("reference"):
        wanted = draw(size=5)
        assert torch.equal(draw(size=np.int64(5)), wanted)
        assert torch.equal(draw(size=[torch.tensor(5), 5]), wanted)
