"""The linear programme of the set cover, and the paper's randomised rounding of its solution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..path_set import PathSet
from . import interior
from .bits import pack, unpack
from .greedy import complete, resolve, uncovered
from .native import kernel, on_cpu
from .universe import Universe

_PIXELS = 16  # in the programme at first, times the side
_BITS = 14  # of a pixel's price
_GAP, _EPS = 2e-2, 1e-9


@on_cpu
def randomized_rounding(
    height: int,
    width: int,
    curve: str,
    *,
    universe: Universe | None = None,
    rounds: int = 30,
    alpha: float = 1.2,
    seed: int = 0,
    repair: str = "greedy",
) -> PathSet:
    """Solves the relaxed set cover, then takes each candidate with probability min(alpha * x, 1), `rounds` times.

    The cheapest of the sets is returned. The relaxation is solved to within two percent (the authors solve it exactly);
    the `bound` of the set is the value that is proven for it.

    Args:
        height: of the image.
        width: of the image.
        curve: "hilbert" or "zorder".
        universe: other candidates than `candidates(height, width, curve)`; the curve then does not count.
        rounds: how often to draw, the paper's Phi.
        alpha: the paper's factor.
        seed: of the draws; on one machine, with one number of threads, equal seeds give equal sets.
        repair: what becomes of a draw that leaves pixels uncovered: "greedy" completes it, as in the authors' code;
            "discard" drops it, as in the paper's text.

    Raises:
        ValueError: an argument out of range, a universe for another size or one that leaves a pixel uncovered, or no
            draw that covers all.
    """
    if rounds < 1 or alpha <= 0:
        raise ValueError(f"rounds must be at least 1 and alpha positive, but they are {rounds} and {alpha}.")
    if repair not in ("greedy", "discard"):
        raise ValueError(f'repair must be "greedy" or "discard", but it is {repair!r}.')
    universe = resolve(height, width, curve, universe)
    numbers, x, bound = relax(universe)
    chance = torch.Generator().manual_seed(seed)
    best: tuple[int, list[int]] | None = None
    for _ in range(rounds):
        drawn = torch.rand(len(x), generator=chance, dtype=torch.float64) < alpha * x
        chosen = numbers[drawn].tolist()
        if repair == "greedy":
            chosen = complete(universe, chosen)
        elif uncovered(universe, chosen).any():
            continue
        cost = int(universe.cost[chosen].sum())
        if best is None or cost < best[0]:
            best = cost, chosen
    if best is None:
        raise ValueError(f'none of {rounds} draws covers all pixels: raise rounds or alpha, or use repair="greedy".')
    return universe.path_set(best[1], bound=math.ceil(bound), proven=best[0] <= math.ceil(bound))


def relax(universe: Universe) -> tuple[Tensor, Tensor, float]:
    """Minimises sum_c cost_c x_c where sum_c M_cq x_c >= 1 for each pixel q and x >= 0, to within two percent.

    Few candidates have x > 0 and few pixels bind, so the programme starts with greedy's candidates and some pixels.
    Then those join whose pixels are worth most for their cost, at the prices of its solution, and those that are least
    covered, until the value is near enough to the bound that the prices prove.

    Returns:
        Candidates int64 (m,), their x float64 (m,), and a lower bound of the cost of any cover.
    """
    cost, bound, side = universe.cost.double(), 0.0, math.isqrt(universe.pixels)
    columns = torch.tensor(complete(universe, []))
    covers = unpack(universe.better[columns], universe.pixels)
    rows = torch.randperm(universe.pixels, generator=torch.Generator().manual_seed(0))[: _PIXELS * side]
    while True:
        x, y = interior.solve(covers[:, rows].T.double(), cost[columns], _GAP / 4)
        coverage, unit = x @ covers.double(), y.max() / (2**_BITS - 1)
        x = x / coverage.min()
        prices = torch.zeros(universe.pixels, dtype=torch.int64).index_put((rows,), (y / unit).long())
        share = cost / (_worth(universe, prices) * unit)  # of what its pixels are worth
        # Scaled so that no candidate costs less than its pixels are worth, the prices prove a bound.
        bound = max(bound, float(prices.sum() * unit * share.min()) * (1 - _EPS))
        share[columns], coverage[rows] = torch.inf, torch.inf
        new_columns, new_rows = _least(share, side), _least(coverage, _PIXELS * side // 4)
        if float(x @ cost[columns]) <= bound * (1 + _GAP) or not (len(new_columns) or len(new_rows)):
            return columns, x.clamp(max=1), bound
        columns, rows = torch.cat((columns, new_columns)), torch.cat((rows, new_rows))
        covers = torch.cat((covers, unpack(universe.better[new_columns], universe.pixels)))


def _least(values: Tensor, count: int) -> Tensor:
    """Where the least are of those below one."""
    found = torch.topk(values, min(count, len(values)), largest=False)
    return found.indices[found.values < 1]


def _worth(universe: Universe, prices: Tensor) -> Tensor:  # int64 (H * W,) -> int64 (n,)
    """What each candidate's pixels cost together, bit by bit of the prices: counting bits is what is fast."""
    planes = pack((prices >> torch.arange(_BITS)[:, None] & 1).bool())
    return sum((kernel("count")(universe.better, plane) << bit for bit, plane in enumerate(planes)), torch.tensor(0))
