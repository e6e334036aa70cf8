"""An interior point method for the linear programmes of `relaxation`, to within a fraction of a percent."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST_STEPS = 100  # a dozen is usual


def solve(
    matrix: Tensor,  # float64 (m, n): which candidates cover a pixel, each pixel by one at least
    cost: Tensor,  # float64 (n,)
    gap: float,
) -> tuple[Tensor, Tensor]:  # float64 (n,), (m,)
    """Minimises cost @ x where matrix @ x >= 1 and x >= 0, until that is at most 1 + gap times the bound.

        the bound: maximises sum(y) where matrix.T @ y <= cost and y >= 0

    Mehrotra's predictor and corrector. Both points start, and stay, inside of what is allowed, so they are solutions
    wherever it stops. HiGHS spends most of its time on the way from there to a vertex, which nobody needs here: prices
    in the middle of the good ones find better candidates.

    Returns:
        x, and the prices y of the pixels.

    Raises:
        RuntimeError: it does not get there, as for a smaller gap than numbers of this precision allow.

    Example:
        >>> x, y = solve(torch.eye(2, dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64), 1e-3)
        >>> x.round(decimals=2).tolist()
        [1.0, 1.0]
    """
    x = torch.full_like(cost, 2 / float(matrix.sum(1).min()))
    y = matrix.new_full((len(matrix),), 0.5 * float(cost.min() / matrix.sum(0).max()))
    for _ in range(_MOST_STEPS):
        spare, reduced = matrix @ x - 1, cost - matrix.T @ y  # of pixels and of candidates, both positive
        if float(cost @ x) <= (1 + gap) * float(y.sum()):
            return x, y
        normal = matrix.T @ (matrix * (y / spare)[:, None])
        normal.diagonal().add_(reduced / x)
        point = matrix, torch.linalg.cholesky(normal), x, y, spare, reduced
        dx, dy, dspare, dreduced = _step(*point, -x * reduced, -y * spare)
        a, b = _longest((x, dx), (spare, dspare)), _longest((y, dy), (reduced, dreduced))
        now = x @ reduced + y @ spare
        left = (x + a * dx) @ (reduced + b * dreduced) + (y + b * dy) @ (spare + a * dspare)
        aim = now / (len(x) + len(y)) * (left / now) ** 3
        dx, dy, dspare, dreduced = _step(*point, aim - x * reduced - dx * dreduced, aim - y * spare - dy * dspare)
        x = x + _longest((x, dx), (spare, dspare)) * dx
        y = y + _longest((y, dy), (reduced, dreduced)) * dy
    raise RuntimeError(f"the linear programme was not solved to within {gap:.3g} in {_MOST_STEPS} steps.")


def _step(
    matrix: Tensor,
    factor: Tensor,  # of the normal equations
    x: Tensor,
    y: Tensor,
    spare: Tensor,
    reduced: Tensor,
    first: Tensor,  # (n,)
    second: Tensor,  # (m,)
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The steps of the four by which, to first order, x * reduced changes by `first` and y * spare by `second`."""
    right = first / x + matrix.T @ (second / spare)
    dx = torch.cholesky_solve(right[:, None], factor)[:, 0]
    dspare = matrix @ dx
    dy = (second - y * dspare) / spare
    return dx, dy, dspare, -(matrix.T @ dy)


def _longest(*pairs: tuple[Tensor, Tensor]) -> float:
    """How far values can go along their steps and stay positive, at most 1."""
    ends = [float((-value / step)[step < 0].min()) for value, step in pairs if (step < 0).any()]
    return min([1.0, *(0.99 * end for end in ends)])
