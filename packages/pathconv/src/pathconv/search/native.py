"""Where the search runs: on the CPU, by the native library, or by `reference` where that is missing or chosen."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from ..ops import backends
from . import reference

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def on_cpu(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Makes a function's tensors on the CPU, whatever torch's default device is."""

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return run


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
