"""The linear programme of the set cover, and the paper's randomised rounding of its solution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..path_set import PathSet
from .bits import unpack
from .greedy import complete, resolve, uncovered
from .native import kernel, on_cpu
from .universe import Universe

_AT_ONCE = 64  # candidates and pixels that join the programme per round
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
    the `bound` of the set is the value that is proven for it. Needs the extra `pathconv[search]`.

    Args:
        height: of the image.
        width: of the image.
        curve: "hilbert" or "zorder".
        universe: other candidates than `candidates(height, width, curve)`; the curve then does not count.
        rounds: how often to draw, the paper's Phi.
        alpha: the paper's factor.
        seed: of the draws; equal seeds give equal sets.
        repair: what becomes of a draw that leaves pixels uncovered: "greedy" completes it, as in the authors' code;
            "discard" drops it, as in the paper's text.

    Raises:
        ImportError: SciPy is not installed.
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

    Few candidates have x > 0 and few pixels bind, so the programme starts with some of either, and those that its
    solution violates most join until none does or the value is near enough to the bound that the prices of the pixels
    prove. The whole matrix is never built: the authors' has 10.9 GB at side 64.

    Returns:
        Candidates int64 (m,), their x float64 (m,), and a lower bound of the cost of any cover.
    """
    columns = complete(universe, [])
    covered = unpack(universe.better[columns], universe.pixels)  # by the columns so far
    rows = torch.argsort(covered.sum(0), stable=True)[:_AT_ONCE]
    pixels = kernel("transpose")(universe.better, universe.pixels)
    held = unpack(pixels[rows], len(universe))  # of the rows so far, by which candidates they are covered
    cost, bound = universe.cost.double(), 0.0
    while True:
        x, y = _solve(held[:, columns], cost[columns])
        # A candidate whose pixels are worth more than it costs would lower the value. Prices at which none is prove a
        # bound, whatever the solver's tolerance; scaled until every pixel is covered, x is a solution.
        worth, coverage = _worth(held, y) / cost, x @ covered.double()
        bound = max(bound, float(y.sum()) / max(1.0, float(worth.max())) * (1 - _EPS))
        value = float(x @ cost[columns] / coverage.min().clamp(min=_EPS))
        dear = torch.topk(worth, min(_AT_ONCE, len(worth)))
        short = torch.topk(1 - coverage, min(_AT_ONCE, universe.pixels))
        new_columns = [c for c in dear.indices[dear.values > 1 + _EPS].tolist() if c not in columns]
        new_rows = short.indices[short.values > 1e-7].tolist()
        if value <= bound * (1 + _GAP) or not (new_columns or new_rows):
            x = (x / coverage.min()).clamp(max=1)
            return torch.tensor(columns)[x > _EPS], x[x > _EPS], bound
        columns += new_columns
        covered = torch.cat((covered, unpack(universe.better[new_columns], universe.pixels)))
        held = torch.cat((held, unpack(pixels[new_rows], len(universe))))


def _worth(held: Tensor, y: Tensor) -> Tensor:
    total = torch.zeros(held.shape[1], dtype=torch.float64)
    for row in y.nonzero().flatten().tolist():
        total.add_(held[row], alpha=float(y[row]))
    return total


def _solve(matrix: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """Values of the candidates and prices of the pixels."""
    try:
        from scipy.optimize import linprog
    except ImportError:
        raise ImportError(
            'randomised rounding needs SciPy: pip install "pathconv[search]", or use greedy or exact.'
        ) from None
    scale = float(cost.mean())
    solved = linprog(
        (cost / scale).numpy(), A_ub=-matrix.double().numpy(), b_ub=-torch.ones(len(matrix)).numpy(), method="highs"
    )
    if solved.x is None:
        raise RuntimeError(f"HiGHS did not solve the relaxation: {solved.message}")
    prices = torch.from_numpy(-solved.ineqlin.marginals).clamp(min=0) * scale
    return torch.from_numpy(solved.x).clamp(0, 1), prices
