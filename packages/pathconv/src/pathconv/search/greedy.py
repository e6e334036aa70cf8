"""The paper's greedy search."""

from __future__ import annotations

import torch
from torch import Tensor

from ..locality import raster_distances
from ..path_set import PathSet
from .bits import ones, unpack
from .native import kernel, on_cpu
from .universe import Universe, candidates


@on_cpu
def greedy(height: int, width: int, curve: str, *, universe: Universe | None = None) -> PathSet:
    """Takes the candidate that costs least per newly covered pixel until all pixels are covered.

    As the authors' code does; their appendix D speaks of the most pixels instead. Of equals it takes the first.

    Args:
        height: of the image.
        width: of the image.
        curve: "hilbert" or "zorder".
        universe: other candidates than `candidates(height, width, curve)`; the curve then does not count.

    Raises:
        ValueError: a universe for another size, or one that leaves a pixel uncovered.

    Example:
        >>> greedy(32, 32, "hilbert").cost
        686166
    """
    universe = resolve(height, width, curve, universe)
    return universe.path_set(complete(universe, []), bound=int(universe.cost.min()))


def complete(universe: Universe, chosen: list[int]) -> list[int]:
    """`chosen` and what greedy adds to it."""
    chosen, open_ = list(chosen), uncovered(universe, chosen)
    while open_.any():
        new = kernel("count")(universe.better, open_)
        price = torch.where(new > 0, universe.cost.double() / new, torch.inf)
        best = int((price == price.min()).nonzero()[0])
        if not new[best]:
            pixel = int(unpack(open_[None], universe.pixels)[0].nonzero()[0])
            raise ValueError(_uncovered_by_all(*divmod(pixel, universe.width), universe.height, universe.width))
        chosen.append(best)
        open_ = open_ & ~universe.better[best]
    return chosen


def _uncovered_by_all(row: int, column: int, height: int, width: int) -> str:
    """Why no candidate covers a pixel, and what to do."""
    rows, columns = (min(at + 1, side - 1) - max(at - 1, 0) + 1 for at, side in ((row, height), (column, width)))
    nearest = sum(place // 2 for place in range(2, rows * columns + 1))  # its neighbours at 1, 1, 2, 2, 3 ... from it
    if raster_distances(height, width)[row, column] <= nearest:
        return (
            f"no path at all is better than the raster at pixel {row, column} of {height} x {width}, whose neighbours "
            "could not be nearer: sets are there for larger images."
        )
    return (
        f"no candidate is better than the raster at pixel {row, column}: search more of them, with max_pad, "
        "diagonal_windows or another curve."
    )


def uncovered(universe: Universe, chosen: list[int]) -> Tensor:  # int64 (words,)
    """Bits of the pixels that none of `chosen` covers."""
    open_ = ones(universe.pixels)
    for number in chosen:
        open_ = open_ & ~universe.better[number]
    return open_


def resolve(height: int, width: int, curve: str, universe: Universe | None, progress: bool = False) -> Universe:
    """`universe`, checked, or the paper's."""
    if universe is None:
        return candidates(height, width, curve, progress=progress)
    if (universe.height, universe.width) != (height, width):
        raise ValueError(
            f"universe holds candidates for {universe.height} x {universe.width} pixels, not for {height} x {width}."
        )
    return universe
