"""Ranges of numbers, written as in mathematics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def inside(value: Any, interval: str) -> bool:
    """Whether a number lies in an interval; NaN and what is no number lie in none.

    Example:
        >>> inside(1, "[0, 1)"), inside(3, "(0, inf)")
        (False, True)
    """
    if not isinstance(value, int | float):
        return False
    low, high = map(float, interval[1:-1].split(","))
    above = low <= value if interval[0] == "[" else low < value
    return above and (value <= high if interval[-1] == "]" else value < high)


def check(config: Any, ranges: Mapping[str, str]) -> None:
    """Check a configuration's attributes: numbers, tuples of numbers, or None where nothing is asked for.

    Args:
        config: any object.
        ranges: names separated by spaces -> the interval they must lie in.

    Raises:
        ValueError: a number lies outside; the message names it, its value and the interval.
    """
    for names, interval in ranges.items():
        for name in names.split():
            value = getattr(config, name)
            numbers = value if isinstance(value, list | tuple) else () if value is None else (value,)
            if not all(inside(number, interval) for number in numbers):
                raise ValueError(f"{name} must lie in {interval}, got {value!r}")
