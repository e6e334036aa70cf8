"""Candidates in the order and the layout in which covers are looked for."""

from __future__ import annotations

import torch
from torch import Tensor

from .bits import ones, unpack
from .native import kernel
from .reference import table_of
from .universe import Universe


class Sorted:
    """A universe sorted by cost, then by the number of pixels, then by window.

    So candidates with the same cost and pixels turn by 180 degrees without overtaking those of another place, which
    `exact` relies on wherever it looks at the first half of the turns alone.
    Its pixels are shuffled: neighbouring pixels are covered by nearly the same candidates, so those that cover a given
    set are told from the others sooner when the pixels are looked at in random order.
    """

    def __init__(self, universe: Universe):
        size = kernel("count")(universe.better, ones(universe.pixels))
        order = torch.argsort(universe.keys(), stable=True)
        order = order[torch.argsort(size[order], descending=True, stable=True)]
        self.numbers = order[torch.argsort(universe.cost[order], stable=True)]  # of the candidates in the universe
        self.cost = universe.cost[self.numbers]
        rows = kernel("transpose")(universe.better[self.numbers], universe.pixels)
        rows = rows[torch.randperm(universe.pixels, generator=torch.Generator().manual_seed(0))]
        self.columns = kernel("transpose")(rows, len(universe))
        self.table = table_of(rows)

    def covers(self, firsts: Tensor, members: int, limit: int) -> tuple[int, list[int]] | None:
        """The cheapest cover below `limit` with so many members, the earliest of them in `firsts`: cost, candidates."""
        found = kernel("covers")(self.columns, self.table, self.cost, firsts, members, limit)
        best = min((row for row in found.tolist() if row[0] >= 0), key=lambda row: row[0], default=None)
        return best and (best[0], self.numbers[best[1:]].tolist())

    def undominated(self) -> Tensor:  # int64 (m,)
        """The candidates left when all go that another one covers at no higher cost; of equals one stays."""
        return self.numbers[~kernel("dominated")(self.columns, self.table, self.cost)].sort().values


def matrix(universe: Universe, numbers: Tensor) -> Tensor:  # bool (m, H * W)
    """Which pixels these candidates cover."""
    return unpack(universe.better[numbers], universe.pixels)
