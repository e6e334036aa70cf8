"""Bad input of the functions beside the op, whose own list is in the contract: one plain sentence each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dwoconv1d import OrientedConv1d, assign_angles, oriented_conv1d, oriented_conv1d_at, rasterize, tap_offsets

ANGLE = torch.zeros(4)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: tap_offsets(0, ANGLE), ValueError, "kernel_size K must be at least 1, but it is 0"),
        (lambda: tap_offsets(3.0, ANGLE), TypeError, "kernel_size K must be an integer, but it is 3.0"),
        (lambda: tap_offsets(3, 0.5), TypeError, "angle must be a tensor of shape (C,), but it is a float"),
        (lambda: tap_offsets(3, ANGLE[None]), ValueError, "angle must have shape (C,), but it has shape (1, 4)"),
        (lambda: tap_offsets(3, ANGLE.int()), TypeError, "but it is torch.int32: torch.deg2rad(angle) makes"),
        (lambda: tap_offsets(3, ANGLE * math.nan), ValueError, "angle must be finite, but angle[0] is nan"),
        (lambda: tap_offsets(3, ANGLE, dilation=-1), ValueError, "dilation must be at least 1, but it is -1"),
        (lambda: tap_offsets(3, ANGLE, dilation=True), TypeError, "dilation must be an integer, but it is True"),
        (lambda: tap_offsets(3, ANGLE, rounding="up"), ValueError, 'rounding must be "trunc" or "nearest"'),
        (
            lambda: oriented_conv1d(torch.ones(1, 4, 2, 2), torch.ones(3, 4), ANGLE),
            ValueError,
            "x has 4 channels but weight has 3 rows, as its shape is (3, 4)",
        ),
        (lambda: rasterize(torch.ones(3, 5), ANGLE), ValueError, "angle has shape (4,) but weight has 3 rows"),
        (lambda: rasterize(torch.ones(4), ANGLE), ValueError, "weight must have shape (C, K)"),
        (lambda: rasterize(torch.ones(4, 0), ANGLE), ValueError, "kernel_size K"),
        (lambda: assign_angles(0), ValueError, "channels must be at least 1"),
        (lambda: assign_angles(8, 0), ValueError, "directions must be at least 1"),
        (lambda: assign_angles(8, 2.5), TypeError, "directions must be an integer"),
        (lambda: assign_angles(8, offset=math.inf), ValueError, "offset must be finite, but it is inf"),
        (
            lambda: oriented_conv1d_at(torch.ones(1, 4, 2, 2), torch.ones(4, 3), torch.zeros(2, 4, 2).int()),
            ValueError,
            "offsets must be int32 of shape (2, 4, 3)",
        ),
        (
            lambda: oriented_conv1d_at(torch.ones(1, 4, 2, 2), torch.ones(4, 3), torch.zeros(2, 4, 3).long()),
            ValueError,
            "torch.int64",
        ),
    ],
)
def test_says_what_is_wrong(call, error, says):
    with pytest.raises(error) as caught:
        call()
    assert says in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_any_integer_type_will_do():
    size, stride, dilation = np.int64(3), np.int32(2), torch.tensor(2)
    assert tap_offsets(size, ANGLE, dilation=dilation)[0].shape == (4, 3)
    x, weight = torch.ones(1, 4, 6, 6), torch.ones(4, 3)
    assert oriented_conv1d(x, weight, ANGLE, stride=(stride, 1)).shape == (1, 4, 3, 6)
    assert OrientedConv1d(4, size, stride=stride, dilation=dilation)(x).shape == (1, 4, 3, 3)


def test_angle_may_learn_elsewhere_while_nothing_is_differentiated():
    learning = torch.zeros(4, requires_grad=True)
    with torch.no_grad():
        oriented_conv1d(torch.ones(1, 4, 2, 2), torch.ones(4, 3), learning)
    with pytest.raises(ValueError, match="constant"):
        torch.func.grad(lambda a: oriented_conv1d(torch.ones(1, 4, 2, 2), torch.ones(4, 3), a).sum())(ANGLE)
