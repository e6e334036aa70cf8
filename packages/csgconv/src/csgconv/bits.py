"""Signs in bits."""

from __future__ import annotations

import torch
from torch import Tensor


def pack(signs: Tensor) -> Tensor:  # (n,) bool -> (ceil(n / 8),) uint8
    """Eight signs in a byte, the first one lowest."""
    flat = torch.nn.functional.pad(signs.flatten().to(torch.uint8), (0, -signs.numel() % 8))
    return (flat.view(-1, 8) << _places(signs)).sum(1, dtype=torch.uint8)


def unpack(bits: Tensor, count: int) -> Tensor:  # -> (count,) bool
    """What `pack` packed."""
    return (bits[:, None] >> _places(bits)).flatten()[:count] % 2 == 1


def _places(t: Tensor) -> Tensor:
    return torch.arange(8, device=t.device, dtype=torch.uint8)
