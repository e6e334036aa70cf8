"""The curves and how a path is cut from one: the order in which the pixels of an image are read.

"One-dimensional Path Convolution", Luo and Werner, ICML 2025, section 3.2; the orders are bit for bit those of the
authors' code. The Hilbert curve on rectangles is the "gilbert" construction of Jakub Červený,
https://github.com/jakubcerveny/gilbert, BSD 2-Clause License, Copyright (c) 2018; see NOTICE.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ._common.checks import integer, positive_int


@dataclass(frozen=True)
class PathConfig:
    """What a path is, whatever the image's size: the paper's {pad, [i, j], rotation} and the curve.

    A value: it compares and hashes by its fields, and `str` writes it as the paper does.

    Args:
        curve: "raster", "serpentine", "hilbert" or "zorder".
        pad: by how much the curve's grid is larger than the image.
        offset: row and column of the image's top left pixel in that grid.
        rotation: 0, 90, 180 or 270 degrees, counter-clockwise on screen.

    Raises:
        TypeError: an argument of another type.
        ValueError: an unknown curve or rotation, a negative pad or offset.

    Example:
        >>> str(PathConfig("hilbert", 24, (14, 1), 180))
        'hilbert {24, [14, 1], 180}'
    """

    curve: str
    pad: int = 0
    offset: tuple[int, int] = (0, 0)
    rotation: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.curve, str) or self.curve not in CURVES:
            known = ", ".join(f'"{name}"' for name in CURVES)
            raise ValueError(f"curve must be one of {known}, but it is {self.curve!r}.")
        if not isinstance(self.offset, (tuple, list)) or len(self.offset) != 2:
            raise TypeError(f"offset must be a pair (row, column), but it is {self.offset!r}.")
        if self.rotation not in (0, 90, 180, 270):
            raise ValueError(f"rotation must be 0, 90, 180 or 270 degrees, but it is {self.rotation!r}.")
        object.__setattr__(self, "pad", integer("pad", self.pad, 0))
        object.__setattr__(self, "offset", tuple(integer("offset", place, 0) for place in self.offset))
        object.__setattr__(self, "rotation", int(self.rotation))

    @property
    def code(self) -> str:
        """The authors' letter of the curve: r, g, z; s is ours."""
        return CODES[self.curve]

    def path(self, height: int, width: int) -> Tensor:  # (H * W, 2)
        """The path over an image of this size; see `generate`."""
        index = _index(positive_int("height", height), positive_int("width", width), self).long()
        return torch.stack((index.div(width, rounding_mode="floor"), index % width), 1)

    def __str__(self) -> str:
        if self == PathConfig(self.curve):
            return self.curve
        return f"{self.curve} {{{self.pad}, [{self.offset[0]}, {self.offset[1]}], {self.rotation}}}"


def generate(
    height: int,
    width: int,
    curve: str,
    *,
    pad: int = 0,
    offset: tuple[int, int] = (0, 0),
    rotation: int = 0,
) -> Tensor:  # int64 (H * W, 2) rows, columns
    """A path: each pixel of a height x width image once, in the order in which a curve visits them.

    The curve fills a grid of (height + pad) x (width + pad) pixels. What lies in the window of the image's size at
    `offset` is kept, in the curve's order, and turned by `rotation`. A curve that leaves the window and comes back
    elsewhere leaves a jump.

    * "raster": rows from top to bottom, each **from right to left**, as in the authors' code; an image of a single
      row from left to right, as there. Its windows are rasters again, so `pad` and `offset` change nothing.
    * "serpentine": rows from top to bottom, the first from left to right, the next one back.
    * "hilbert": starts in the top left corner, runs along the longer side; the lower left corner is the end in
      squares of even side. Any size. Neighbours along it are neighbours in the image but for one diagonal step where
      the longer side is odd and the shorter even and at least 4.
    * "zorder": bits of the column and, more significant, of the row, mirrored: it starts in the top right corner. The
      grid is a square of side max(height, width) + `pad`, which must be a power of two; `pad=0` takes the smallest
      one that holds the image.

    For 90 and 270 degrees the curve is made for the turned image, so rectangles may be turned too; `offset` counts
    before the turn. The authors' code refuses this, and ignores the rotation of the raster.

    Raises:
        TypeError: a size, pad or offset that is no integer.
        ValueError: a size below 1, an unknown curve or rotation, a window beyond the grid, a Z-order grid whose side
            is no power of two.

    Example:
        >>> generate(2, 2, "hilbert").tolist()
        [[0, 0], [0, 1], [1, 1], [1, 0]]
    """
    return PathConfig(curve, pad, offset, rotation).path(height, width)


@functools.lru_cache(maxsize=32)  # int32 numbers of pixels: 4 MiB for a path over 1024 x 1024
def _index(height: int, width: int, config: PathConfig) -> Tensor:
    """The path as pixel numbers row * width + column; shared, so never written to."""
    quarters = config.rotation // 90
    window = (width, height) if quarters % 2 else (height, width)
    with torch.device("cpu"):  # whatever the default is, such as "meta" where a model is built without memory
        row, column = _window(*window, config).unbind(1)
    for _ in range(quarters):  # with m columns before the turn: [row, column] -> [m - 1 - column, row]
        row, column, window = window[1] - 1 - column, row, (window[1], window[0])
    return row * width + column


def _window(height: int, width: int, config: PathConfig) -> Tensor:
    """The curve within the window, relative to its top left pixel."""
    grid = height + config.pad, width + config.pad
    if config.curve == "zorder":
        side = max(grid) if config.pad else 1 << (max(grid) - 1).bit_length()
        if side & (side - 1):
            fitting = (1 << (side - 1).bit_length()) - max(height, width)
            raise ValueError(
                f"pad {config.pad} makes a Z-order grid of side {side} for {height} x {width} pixels, which is no "
                f"power of two: pad={fitting} does, and pad=0 takes the smallest that holds the image."
            )
        grid = side, side
    for name, place, room in zip(("row", "column"), config.offset, (grid[0] - height, grid[1] - width)):
        if place > room:
            raise ValueError(
                f"offset {config.offset} puts the window of {height} x {width} pixels beyond the grid of {grid[0]} x "
                f"{grid[1]}: its {name} may be {room} at most with pad={config.pad}."
            )
    if config.curve == "raster":
        return _raster(height, width)
    path = CURVES[config.curve](*grid)
    if grid == (height, width):
        return path
    path = path - path.new_tensor(config.offset)
    return path[((path >= 0) & (path < path.new_tensor((height, width)))).all(1)]


def _raster(height: int, width: int) -> Tensor:
    columns = torch.arange(width, dtype=torch.int32)
    return torch.cartesian_prod(torch.arange(height, dtype=torch.int32), columns if height == 1 else columns.flip(0))


def _serpentine(height: int, width: int) -> Tensor:
    rows = torch.cartesian_prod(*(torch.arange(side, dtype=torch.int32) for side in (height, width)))
    rows = rows.view(height, width, 2)
    rows[1::2] = rows[1::2].flip(1)
    return rows.view(-1, 2)


def _zorder(side: int, _: int) -> Tensor:
    """On a square whose side is a power of two: four copies of the square of half its side."""
    path = torch.zeros(1, 2, dtype=torch.int32)
    while len(path) < side * side:
        half = round(len(path) ** 0.5)
        path = torch.cat([path + path.new_tensor(corner) * half for corner in ((0, 1), (0, 0), (1, 1), (1, 0))])
    return path


def _hilbert(height: int, width: int) -> Tensor:
    """Červený's construction.

    `visit(a, b)` reads a rectangle along its main side `a` and across it along `b`, signed lengths both, as
    coordinates along the two. A long one is cut in two halves of `a`. Another in three: up one half of `b`, over the
    whole of `a`, and back down, where the first and the last have `b` as their main side. Halves are made even where
    that is possible. Floor division of the signed sides is what decides the order where they are odd.
    """

    @functools.cache  # rectangles of equal sides occur again and again
    def visit(a: int, b: int) -> Tensor:
        if abs(b) == 1 or abs(a) == 1:
            line = torch.zeros(abs(a * b), 2, dtype=torch.int32)
            line[:, 0 if abs(b) == 1 else 1] = torch.arange(abs(a * b)) * (sign(a) if abs(b) == 1 else sign(b))
            return line
        if 2 * abs(a) > 3 * abs(b):
            half = even_half(a)
            return torch.cat((visit(half, b), at(half, 0, visit(a - half, b))))
        half, up = a // 2, even_half(b)
        down = at(a - sign(a), up - sign(b), visit(-up, half - a).flip(1))
        return torch.cat((visit(up, half).flip(1), at(0, up, visit(a, b - up)), down))

    def at(along: int, across: int, path: Tensor) -> Tensor:
        return path + path.new_tensor((along, across))

    def sign(side: int) -> int:
        return 1 if side > 0 else -1

    def even_half(side: int) -> int:
        half = side // 2
        return half + sign(side) if half % 2 and abs(side) > 2 else half

    return visit(height, width) if height >= width else visit(width, height).flip(1)


CURVES: dict[str, Callable[[int, int], Tensor]] = {
    "raster": _raster,
    "serpentine": _serpentine,
    "hilbert": _hilbert,
    "zorder": _zorder,
}
CODES = {"raster": "r", "serpentine": "s", "hilbert": "g", "zorder": "z"}
