"""The kernels of `csrc/search.cpp` in plain torch: the same arguments, the same results."""

from __future__ import annotations

import torch
from torch import Tensor

from ..locality import distances
from .bits import BLOCK, pack, unpack


def evaluate(
    order: Tensor,  # int32 (S,): the pixels of a grid in the order of a curve
    width: int,  # columns of the grid
    windows: Tensor,  # int32 (n, 3): row, column, quarter turns counter-clockwise
    limit: Tensor,  # int32 (H, W)
) -> tuple[Tensor, Tensor]:  # int64 (n,), bits (n, H * W)
    """Per window the sum of its distances D, and the pixels whose D lies below the limit."""
    row, column = order.long() // width, order.long() % width
    costs, better = [], []
    for top, left, turns in windows.tolist():
        y, x = row - top, column - left
        inside = (y >= 0) & (y < limit.shape[0]) & (x >= 0) & (x < limit.shape[1])
        d = torch.rot90(distances(torch.stack((y[inside], x[inside]), 1), *limit.shape), turns)
        costs.append(int(d.sum()))
        better.append((d < limit).flatten())
    return torch.tensor(costs, dtype=torch.int64), pack(torch.stack(better))


def transpose(bits: Tensor, columns: int) -> Tensor:
    """The transposed of a bit matrix with so many columns."""
    return pack(unpack(bits, columns).T)


def count(bits: Tensor, mask: Tensor) -> Tensor:  # int64 (n,)
    """How many bits each row has in common with `mask`."""
    ones = torch.tensor([bin(byte).count("1") for byte in range(256)])
    return torch.stack([ones[(row & mask).view(torch.uint8).long()].sum() for row in bits])


def dominated(
    columns: Tensor,  # bits (n, pixels)
    table: Tensor,  # int64 (blocks of 512 candidates, pixels, 8): bits of the candidates that cover a pixel
    cost: Tensor,  # int64 (n,), sorted
) -> Tensor:  # bool (n,)
    """Whether an earlier candidate covers all that a candidate covers."""
    covered = unpack(columns, table.shape[1])
    return torch.stack([covered[:i, covered[i]].all(1).any() for i in range(len(cost))])


def covers(
    columns: Tensor,
    table: Tensor,
    cost: Tensor,
    firsts: Tensor,  # int64 (m,)
    members: int,
    limit: int,
) -> Tensor:  # int64 (m, 1 + members)
    """The cheapest cover below `limit` of exactly `members` candidates whose earliest is firsts[i]: cost, members.

    The cost is -1 where there is none; of several, the first one in depth-first order is returned.
    """
    covered = unpack(columns, table.shape[1])
    found = []
    for first in firsts.tolist():
        best = [-1] * (1 + members)

        def extend(chosen: list[int], uncovered: Tensor, spent: int, best: list[int] = best) -> None:
            below = limit if best[0] < 0 else best[0]
            missing, left = uncovered.nonzero().flatten(), members - len(chosen)
            if not len(missing):
                if not left and spent < below:
                    best[:] = [spent, *chosen]
                return
            begin = chosen[0] + 1
            if not left or begin == len(cost):
                return
            cheapest = (left - 1) * int(cost[begin])
            end = int(torch.searchsorted(cost, below - spent - cheapest))
            if left == 1:
                complete = covered[begin:end, missing].all(1).nonzero().flatten()
                if len(complete):
                    last = begin + int(complete[0])
                    best[:] = [spent + int(cost[last]), *chosen, last]
                return
            for candidate in (covered[begin:end, missing[0]].nonzero().flatten() + begin).tolist():
                price = spent + int(cost[candidate])
                if price + cheapest < (limit if best[0] < 0 else best[0]):
                    extend([*chosen, candidate], uncovered & ~covered[candidate], price)

        extend([first], ~covered[first], int(cost[first]))
        found.append(best)
    return torch.tensor(found, dtype=torch.int64).reshape(len(firsts), 1 + members)


def table_of(rows: Tensor) -> Tensor:  # bits (pixels, n) -> int64 (blocks, pixels, 8)
    """Rows of bits cut into blocks of 512 candidates, so that what is read together lies together."""
    return rows.unflatten(1, (-1, BLOCK)).transpose(0, 1).contiguous()
