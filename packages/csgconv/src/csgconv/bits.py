"""Signs in bits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def pack(signs: Tensor) -> Tensor:  # (n,) bool -> (ceil(n / 8),) uint8
    """Eight signs in a byte, the first one lowest."""
    flat = torch.nn.functional.pad(signs.flatten().to(torch.uint8), (0, -signs.numel() % 8))
    return (flat.view(-1, 8) << _places(signs)).sum(1, dtype=torch.uint8)


def unpack(bits: Tensor, count: int) -> Tensor:  # -> (count,) bool
    """What `pack` packed."""
    return (bits[:, None] >> _places(bits)).flatten()[:count] % 2 == 1


Made = tuple[Tensor | None, int]  # the bits that a binary W was made of, and their version


def version(bits: Tensor) -> int:
    """It changes with every write that torch knows of; -1 where torch counts none."""
    return -1 if bits.is_inference() else bits._version


def replaced(buffers: Mapping[str, Tensor | None], made: Made) -> bool:
    """Whether a binary W was made of other bits than are there, or of these before they were written."""
    bits = buffers.get("bits")
    return bits is not None and (bits is not made[0] or version(bits) != made[1])


def _places(t: Tensor) -> Tensor:
    return torch.arange(8, device=t.device, dtype=torch.uint8)
