"""Which code runs the search: the native library, or `reference` where it is missing or chosen."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from ..ops import backends
from . import reference


def kernel(name: str) -> Callable[..., Any]:
    """`search_<name>` of the native library, or its reference."""
    if backends.active("cpu") == "native":
        return getattr(torch.ops.pathconv, f"search_{name}")
    if backends.chosen != "reference":
        warnings.warn(
            f"pathconv searches in plain PyTorch, hundreds of times slower: {backends.why['cpu']} "
            'pathconv.use_backend("reference") accepts that silently.',
            RuntimeWarning,
            stacklevel=3,
        )
    return getattr(reference, name)
