"""Bad input of the layer and of the functions beside the ops, whose own list is in the contract: a sentence each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from pix import PiX, functional, pick_or_mix, pick_share


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: PiX(0, 4), ValueError, "in_channels must be at least 1, but it is 0"),
        (lambda: PiX(8.0, 4), TypeError, "in_channels must be an integer, but it is 8.0"),
        (lambda: PiX(64, 4)(torch.zeros(1, 32, 3, 3)), ValueError, "x has 32 channels, but this PiX was made for in_"),
        (lambda: PiX(8, 0), ValueError, "zeta must be at least 1, but it is 0"),
        (lambda: PiX(8, True), TypeError, "zeta must be an integer, but it is True"),
        (lambda: PiX(8, 4, "0.5"), TypeError, "tau must be a number, but it is '0.5'"),
        (lambda: PiX(8, 4, True), TypeError, "tau must be a number, but it is True"),
        (lambda: PiX(8, 4, math.nan), ValueError, "0 always mixes, 2 always picks"),
        (lambda: PiX(8, 4, context="max"), ValueError, 'context must be "mean" or "l1", but it is \'max\''),
        (lambda: PiX(8, 4)(torch.ones(8, 2, 2)), ValueError, "x must have shape (N, C, H, W)"),
        (lambda: PiX(8, 4)(torch.ones(1, 8, 2, 2).double()), TypeError, "weight is torch.float32 but x is"),
        (
            lambda: functional.pix_and_gates(torch.ones(1, 8, 2, 2), torch.ones(2, 4), zeta=4),
            ValueError,
            "weight must have shape (2, 8) or (2, 8, 1, 1) for the 8 channels of x and zeta=4, but it has shape (2, 4)",
        ),
        (lambda: pick_share(nn.Linear(2, 2), torch.ones(1, 2)), ValueError, "model has no PiX"),
        (lambda: pick_share(nn.ReLU(), torch.ones(1, 2)), ValueError, "model has no PiX"),
    ],
)
def test_says_what_is_wrong(call, error, says):
    with pytest.raises(error) as caught:
        call()
    assert says in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_any_integer_and_number_will_do():
    x, p = torch.randn(1, 8, 3, 3), torch.rand(1, 2)
    wanted = pick_or_mix(x, p, 4, 1)
    for number in (np.float64, np.float32, np.int32):
        assert torch.equal(pick_or_mix(x, p, np.int64(4), number(1.0)), wanted)
    assert torch.equal(pick_or_mix(x, p, torch.tensor(4), 1.0), wanted)
    assert PiX(np.int32(8), np.int64(4))(x).shape == (1, 2, 3, 3)


def test_float64_takes_gates_of_less_precision():
    """Which is no risk to a decision: float32 and half precision are exact in float64."""
    x, p = torch.randn(2, 8, 3, 3).double(), torch.rand(2, 2).bfloat16()
    assert torch.equal(pick_or_mix(x, p, 4), pick_or_mix(x, p.double(), 4))
