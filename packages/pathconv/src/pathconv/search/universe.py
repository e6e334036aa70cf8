"""The candidates of a search: windows of a curve, what each costs and which pixels it is better at than the raster."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._common.checks import integer, positive_int
from ..curves import PathConfig, generate
from ..locality import raster_distances
from ..path_set import PathSet, to_index
from .bits import BLOCK
from .native import kernel, on_cpu
from .progress import Bar

CURVES = ("hilbert", "zorder")


@dataclass(frozen=True, eq=False)
class Universe:
    """n evaluated candidates over images of one size; `candidates` makes one, `+` joins two."""

    height: int
    width: int
    windows: Tensor  # int32 (n, 5): number in CURVES, pad, row, column, quarter turns
    cost: Tensor  # int64 (n,)
    better: Tensor  # bits (n, H * W): pixels with a smaller distance than in the raster

    def __len__(self) -> int:
        return len(self.cost)

    def __add__(self, other: Universe) -> Universe:
        if (self.height, self.width) != (other.height, other.width):
            raise ValueError(
                f"candidates for {self.height} x {self.width} and for {other.height} x {other.width} pixels cannot be "
                "searched together."
            )
        parts = [
            torch.cat(pair)
            for pair in ((self.windows, other.windows), (self.cost, other.cost), (self.better, other.better))
        ]
        return Universe(self.height, self.width, *parts)

    @property
    def pixels(self) -> int:
        """H * W."""
        return self.height * self.width

    def config(self, number: int) -> PathConfig:
        """The path of one candidate."""
        curve, pad, row, column, turns = self.windows[number].tolist()
        return PathConfig(CURVES[curve], pad, (row, column), 90 * turns)

    def path_set(self, numbers: Sequence[int], *, bound: int | float = 0, proven: bool = False) -> PathSet:
        """The set of these candidates."""
        configs = [self.config(number) for number in numbers]
        return PathSet.of(configs, self.height, self.width, bound=bound, proven=proven)

    def numbers(self, configs: Sequence[PathConfig]) -> list[int]:
        """The candidates that are these paths.

        Raises:
            ValueError: one of them is no candidate.
        """
        found = []
        for config in configs:
            row = (CURVES.index(config.curve), config.pad, *config.offset, config.rotation // 90)
            same = (self.windows == torch.tensor(row, dtype=torch.int32)).all(1).nonzero().flatten().tolist()
            if not same:
                raise ValueError(f"{config} is not among the {len(self)} candidates.")
            found.append(same[0])
        return found

    def half_turned(self) -> bool:
        """Whether with every candidate the same one turned by 180 degrees is there, as the raster's distances are."""
        return bool(torch.isin(self.keys() ^ 2, self.keys()).all())

    def keys(self) -> Tensor:  # int64 (n,)
        """Numbers in the order of the windows, whatever order they are in here; a bit of 2 is a half turn."""
        curve, pad, row, column, turns = self.windows.long().unbind(1)
        place = ((curve * (int(pad.max()) + 1) + pad) * (int(row.max()) + 1) + row) * (int(column.max()) + 1) + column
        return 4 * place + turns

    def fingerprint(self) -> str:
        """Equal for equal candidates, their costs and pixels."""
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:  # of gigabytes in large searches, which ask for it every few seconds
        digest = hashlib.sha256(f"{self.height} {self.width}".encode())
        for part in (self.windows, self.cost, self.better):
            digest.update(part.contiguous().numpy().data)
        return digest.hexdigest()[:32]


@on_cpu
def candidates(
    height: int,
    width: int,
    curve: str,
    *,
    max_pad: int | None = None,
    diagonal_windows: bool = False,
    rotate_plain: bool | None = None,
    progress: bool = False,
) -> Universe:
    """The paper's candidates, evaluated: the plain curve and its shifted windows in all rotations.

    The defaults are what the authors' code builds, with restrictions that the paper does not mention. For squares there
    are four rotations, for rectangles those by 0 and 180 degrees.

    Args:
        height: of the image.
        width: of the image.
        curve: "hilbert" or "zorder".
        max_pad: largest pad. Hilbert: pads 1, 2, ... (default: longer side - 1, and 15 from 224 on, as in the authors'
            code); Z-order: each that makes a larger power of two (default: the smallest of them).
        diagonal_windows: also windows at (i, j) with |i - j| <= 1.
        rotate_plain: the plain curve in all rotations, not in one (default: Hilbert yes, Z-order no).
        progress: show a bar.

    Raises:
        TypeError: a size that is no integer.
        ValueError: another curve, a size or max_pad that is too small, or candidates that do not fit into memory.

    Example:
        >>> len(candidates(32, 32, "zorder"))
        3969
    """
    height, width = positive_int("height", height), positive_int("width", width)
    if curve not in CURVES:
        raise ValueError(f'curve must be "hilbert" or "zorder", whose windows differ, but it is {curve!r}.')
    max_pad = None if max_pad is None else integer("max_pad", max_pad, 0)
    turns = torch.arange(4)[:: 1 if height == width else 2]
    plain = turns if (curve == "hilbert" if rotate_plain is None else rotate_plain) else turns[:1]
    groups = [(0, torch.stack((torch.zeros_like(plain), torch.zeros_like(plain), plain), 1))]
    groups += [(pad, _windows(pad, diagonal_windows, turns)) for pad in _pads(max(height, width), curve, max_pad)]
    _check_memory(sum(len(windows) for _, windows in groups), height * width)

    limit = raster_distances(height, width).int()
    rows, costs, better = [], [], []
    with Bar("candidates", sum(len(windows) for _, windows in groups), progress) as bar:
        for pad, windows in groups:
            grid = (height + pad, width + pad)
            if curve == "zorder":
                grid = (1 << (max(grid) - 1).bit_length(),) * 2
            order = to_index(generate(*grid, curve), grid[1])
            cost, mask = kernel("evaluate")(order, grid[1], windows.int().contiguous(), limit)
            kind = torch.tensor((CURVES.index(curve), pad)).expand(len(windows), 2)
            rows.append(torch.cat((kind, windows), 1).int())
            costs.append(cost)
            better.append(mask)
            bar.move(len(windows))
    return Universe(height, width, torch.cat(rows), torch.cat(costs), torch.cat(better))


def _pads(side: int, curve: str, max_pad: int | None) -> list[int]:
    if curve == "hilbert":
        most = (15 if side >= 224 else side - 1) if max_pad is None else max_pad
        return list(range(1, most + 1))
    first = 1 << side.bit_length()
    powers = [first] if max_pad is None else [first << i for i in range(32) if (first << i) - side <= max_pad]
    return [power - side for power in powers]


def _windows(pad: int, diagonal: bool, turns: Tensor) -> Tensor:  # int64 (n, 3), in the order of the authors' code
    places = torch.arange(pad + 1)
    every = torch.cartesian_prod(places, places, turns)
    return every if diagonal else every[(every[:, 0] - every[:, 1]).abs() > 1]


def _check_memory(count: int, pixels: int) -> None:
    words = -(-pixels // (64 * BLOCK)) * BLOCK
    needed = 4 * count * words * 8
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 34
    if needed > there:
        raise ValueError(
            f"searching {count:,} candidates takes about {needed / 2**30:.0f} GiB, but this machine has "
            f"{there / 2**30:.0f}: lower max_pad."
        )
