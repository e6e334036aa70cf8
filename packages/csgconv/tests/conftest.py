from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from csgconv import product

sys.path.insert(0, str(Path(__file__).parent))  # for this folder's helpers, whatever way pytest imports


@pytest.fixture
def made(monkeypatch) -> list[torch.dtype]:
    """Grows with every product of all codes."""
    found: list[torch.dtype] = []
    kernels = product.kernels

    def spy(plan, sources, dtype):
        found.append(dtype)
        return kernels(plan, sources, dtype)

    monkeypatch.setattr("csgconv.product.kernels", spy)
    monkeypatch.setattr("csgconv.kept.kernels", spy)
    return found
