"""How far apart a path puts pixels that are neighbours in the image, measured against the raster: section 3.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Locality:
    """The measures of P paths, as `locality` returns them."""

    distances: Tensor  # int64 (P, H, W): D(q) of each path
    raster: Tensor  # int64 (H, W): D(q) of the raster

    @property
    def mask(self) -> Tensor:  # bool (P, H, W)
        """Pixels whose neighbours are strictly nearer than in the raster; the others are "sacrificed"."""
        return self.distances < self.raster

    @property
    def total(self) -> Tensor:  # int64 (P,)
        """Sum of D(q): each pair of neighbours counts twice."""
        return self.distances.sum((1, 2))

    @property
    def better(self) -> Tensor:  # int64 (P,)
        """Pixels in `mask`."""
        return self.mask.sum((1, 2))

    @property
    def tied(self) -> Tensor:  # int64 (P,)
        """Pixels as good as in the raster, which count as sacrificed."""
        return (self.distances == self.raster).sum((1, 2))

    @property
    def sacrificed(self) -> Tensor:  # int64 (P,)
        """Pixels not in `mask`."""
        return self.raster.numel() - self.better

    @property
    def share(self) -> Tensor:  # float64 (P,)
        """The paper's P_sd: the part of the pixels in `mask`."""
        return self.better.double() / self.raster.numel()

    @property
    def cost(self) -> int:
        """Sum of `total` over the paths: what the paper minimises."""
        return int(self.total.sum())

    @property
    def union(self) -> Tensor:  # bool (H, W)
        """Pixels that at least one path is better at."""
        return self.mask.any(0)

    @property
    def coverage(self) -> float:
        """The part of the pixels in `union`; the paper's locality constraint asks for 1."""
        return self.union.double().mean().item()


def locality(paths: Any, height: int, width: int) -> Locality:
    """Measures one path or several over an image of this size.

    Args:
        paths: all that `resolve` takes, or one path (H * W, 2).
        height: of the image.
        width: of the image.

    Raises:
        TypeError, ValueError: as `resolve` does.

    Example:
        >>> measured = locality("og", 32, 32)
        >>> measured.total.item(), measured.better.item(), measured.sacrificed.item()
        (215640, 810, 214)
    """
    from .paths import resolve  # which knows presets and sets, whose cost is measured here

    return Locality(distances(resolve(paths, height, width).cpu(), height, width), raster_distances(height, width))


def distances(
    path: Tensor,  # (..., H * W, 2) rows, columns
    height: int,
    width: int,
) -> Tensor:  # int64 (..., H, W)
    """Per pixel, how far its up to 8 neighbours in the image lie from it along the path.

        D(q) = sum over n in N8(q) of |t(q) - t(n)|        with t the position in the path

    Example:
        >>> from pathconv.paths import generate
        >>> distances(generate(2, 2, "zorder"), 2, 2)
        tensor([[4, 6],
                [6, 4]])
    """
    pixel = path[..., 0] * width + path[..., 1]
    position = torch.empty_like(pixel, dtype=torch.long)
    position.scatter_(-1, pixel.long(), torch.arange(height * width, device=path.device).expand_as(position))
    position = position.unflatten(-1, (height, width))
    total = torch.zeros_like(position)
    rows, columns = {-1: slice(None, -1), 0: slice(None), 1: slice(1, None)}, slice(None)
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (..., rows[-down], rows[-right] if right else columns)
        there = (..., rows[down], rows[right] if right else columns)
        apart = (position[here] - position[there]).abs()
        total[here] += apart
        total[there] += apart
    return total


def raster_distances(height: int, width: int) -> Tensor:  # int64 (H, W)
    """`distances` of the raster, in closed form: neighbours in a row are 1 apart, of the next row W - 1, W, W + 1.

    Example:
        >>> raster_distances(32, 32)[5, 7].item(), raster_distances(32, 32).sum().item()
        (194, 188480)
    """
    row, column = torch.arange(height, device="cpu")[:, None], torch.arange(width, device="cpu")
    up, down, left, right = (side.long() for side in (row > 0, row < height - 1, column > 0, column < width - 1))
    above = width + left * (width - 1) + right * (width + 1)  # rows run from right to left
    below = width + left * (width + 1) + right * (width - 1)
    return left + right + up * above + down * below
