# edit in shared/common/python/checks.py
"""Argument checks shared by the public functions: one plain sentence with the argument, its value and the remedy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def positive_int(name: str, value: Any) -> int:
    """Returns `value`, of any integer type, as an `int` of at least 1; raises as `integer` does."""
    return integer(name, value, 1)


def integer(name: str, value: Any, least: int) -> int:
    """Returns `value`, of any integer type, as an `int` of at least `least`.

    Raises:
        TypeError: not an integer.
        ValueError: below `least`.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, but it is {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, but it is {value}.")
    return value if hasattr(value, "node") else int(value)  # a SymInt stays symbolic


def boolean(name: str, value: Any) -> bool:
    """Returns `value`, True or False or a number equal to one of them, as a `bool`.

    Raises:
        TypeError: something else, such as a text, of which "no" would be true.
    """
    if value not in (True, False):
        raise TypeError(f"{name} must be True or False, but it is {value!r}.")
    return bool(value)


def positive_pair(name: str, value: Any) -> tuple[int, int]:
    """Returns `(rows, columns)` from one positive integer or a pair of them."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} must be one integer or a pair (rows, columns), but it is {value!r}.")
        return positive_int(name, value[0]), positive_int(name, value[1])
    return (positive_int(name, value),) * 2


def floating_tensor(name: str, value: object, shape: str) -> None:
    """Checks that `value` is a floating-point tensor with as many dimensions as `shape`, say `"(N, C, H, W)"`, spells.

    Raises:
        TypeError: not a tensor, or not of a floating-point dtype.
        ValueError: wrong rank.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor of shape {shape}, but it is a {type(value).__name__}.")
    if value.dim() != shape.count(",") + (not shape.endswith(",)")):
        raise ValueError(f"{name} must have shape {shape}, but it has shape {tuple(value.shape)}.")
    if value.dtype not in DTYPES:
        raise TypeError(
            f"{name} must be float32, float64, float16 or bfloat16, but it is {value.dtype}: convert it with .to()."
        )


def same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Checks that two tensors live on one device."""
    if value.device != other.device:
        raise ValueError(
            f"{name} is on {value.device} but {other_name} is on {other.device}: move one with .to(device)."
        )


def same_dtype(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Checks that two tensors have one dtype."""
    if value.dtype != other.dtype:
        raise TypeError(
            f"{name} is {value.dtype} but {other_name} is {other.dtype}: convert one with .to(), or use torch.autocast."
        )
