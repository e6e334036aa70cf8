"""Bit matrices: int64 (rows, words), each row padded with zeros to whole blocks of 512 bits, lowest bits first."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 8  # words of 64 bits


def pack(
    values: Tensor,  # bool (n, count)
) -> Tensor:  # int64 (n, words)
    """The bit matrix of booleans."""
    padded = torch.nn.functional.pad(values.to(torch.uint8), (0, -values.shape[1] % (64 * BLOCK)))
    eight = padded.unflatten(1, (-1, 8)) << torch.arange(8, dtype=torch.uint8)
    return eight.sum(2, dtype=torch.uint8).view(torch.int64)


def unpack(
    bits: Tensor,  # int64 (n, words)
    count: int,
) -> Tensor:  # bool (n, count)
    """The booleans of a bit matrix."""
    eight = bits.contiguous().view(torch.uint8)[:, : -(-count // 8), None] >> torch.arange(8, dtype=torch.uint8)
    return (eight & 1).flatten(1)[:, :count].bool()


def ones(count: int) -> Tensor:  # int64 (words,)
    """A row whose first `count` bits are set."""
    return pack(torch.ones(1, count, dtype=torch.bool))[0]
