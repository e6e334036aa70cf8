"""Least-squares fit of points to given kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from ._common.checks import floating_tensor, integer

RADII = (1.0, 1.5, 2.0, 3.0, 5.0)  # of the tents to choose from, in spaces between taps
MOST_NUMBERS = 2**25  # of those tents; with larger kernels there are fewer radii to choose from


class Points(NamedTuple):
    """What a layer of points holds, for one group, and how far its kernels are from the given ones."""

    coords: Tensor  # (N, 2)
    radius: Tensor  # (N,)
    weight: Tensor  # (C, N)
    error: float  # norm of the difference by norm of the kernels


@torch.no_grad()
def fit_points(
    kernels: Tensor,  # (C, Kh, Kw)
    n_points: int,
    *,
    steps: int = 100,
) -> Points:
    """Finds points, shared by all channels, whose kernels come close to `kernels`.

        minimise || K - W phi(p, r) ||    W = K phi^+

    For given positions and radii the best weights are a least-squares solution, so what is sought is the space that the
    tents span. First they are taken one after another from a dictionary, tents of a few radii at every tap, each time
    the one that leaves the smallest error. Then all positions and radii move together: `steps` of Adam down the
    gradient of the error with the best weights, of which the best place is kept. The search is deterministic; it takes
    float64 for precision whatever the dtype, on the CPU whatever the device, and radii end between the space of taps
    and 1.

    The orientation is the layers' own, `flip=True`, and the kernels are not averaged. With one point for every tap the
    fit is exact.

    Args:
        kernels: floating point, finite, at least one.
        n_points: N, at most Kh * Kw.
        steps: 0 leaves the tents that were taken first.

    Raises:
        TypeError: kernels that are not floating point, numbers that are no integers.
        ValueError: kernels of another shape, or that are not finite, more points than taps, or steps below 0.

    Example:
        >>> fit_points(torch.randn(8, 7, 7), 49).error < 1e-6
        True
    """
    floating_tensor("kernels", kernels, "(C, Kh, Kw)")
    if not kernels.numel():
        raise ValueError(f"kernels must be one or more, with taps, but their shape is {tuple(kernels.shape)}.")
    channels, *size = kernels.shape
    taps = size[0] * size[1]
    n_points, steps = integer("n_points", n_points, 0), integer("steps", steps, 0)
    if not 1 <= n_points <= taps:
        raise ValueError(f"n_points must be 1 to {taps} for kernels of {taps} taps, but it is {n_points}.")
    if not kernels.isfinite().all():
        raise ValueError("kernels must be finite.")
    target = kernels.detach().to("cpu", torch.float64).flatten(1)  # where lstsq knows matrices of any rank
    # Any matrix with the same products of columns has the same errors: one row per tap is enough.
    short = torch.linalg.qr(target, mode="r").R if channels > taps else target
    shape = size[0], size[1]
    if n_points == taps:  # one tent at every tap, which reaches no other
        coords = _places(short, shape)
        radius = torch.full_like(coords[:, 0], _space(shape))
    else:
        coords, radius = _taken(short, n_points, shape)
        coords, radius = _moved(short, coords, radius, shape, steps)
    coords, radius = coords.to(kernels.dtype), radius.to(kernels.dtype)
    phi = _tents(coords.double(), radius.double(), shape)
    weight = torch.linalg.lstsq(phi.T, target.T, driver="gelsd").solution.T.to(kernels.dtype)
    lost = (weight.double() @ phi - target).norm() / target.norm()
    coords, radius, weight = (t.to(kernels.device) for t in (coords, radius, weight))
    return Points(coords, radius, weight, lost.nan_to_num().item())


def _space(size: tuple[int, int]) -> float:
    """Between taps, on the axis with more of them."""
    return min(2 / max(max(size) - 1, 1), 1.0)


def _places(like: Tensor, size: tuple[int, int]) -> Tensor:
    """Where the taps are, (Kh * Kw, 2), right and up."""
    rows, columns = (torch.linspace(-1, 1, taps, dtype=like.dtype, device=like.device) for taps in size)
    return torch.stack(torch.meshgrid(columns, -rows, indexing="xy"), -1).flatten(0, 1)


def _tents(coords: Tensor, radius: Tensor, size: tuple[int, int]) -> Tensor:
    """Every tent at every tap, (N, Kh * Kw)."""
    return reference.tents(coords[None], radius[None], size, True)[0][0]


def _taken(short: Tensor, n_points: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The tents that orthogonal least squares takes from the dictionary."""
    places = _places(short, size)
    radii = RADII[: max(MOST_NUMBERS // len(places) ** 2, 1)]
    coords = places.repeat(len(radii), 1)
    radius = torch.tensor(radii, dtype=torch.float64, device=short.device).repeat_interleave(len(places))
    radius = (radius * _space(size)).clamp(max=1)
    tents = _tents(coords, radius, size)
    norms, gains = tents.square().sum(1), tents @ short.T  # of what the taken ones do not span
    least, basis, few = 1e-6 * norms, tents.new_empty(0, tents.shape[1]), tents.to_sparse()
    taken: list[int] = []
    for _ in range(n_points):
        scores = torch.where(norms > least, gains.square().sum(1) / norms, -1)
        scores[taken] = -2
        taken.append(int(scores.argmax()))
        direction = tents[taken[-1]]
        for _ in range(2):  # once more, for what rounding left
            direction = direction - basis.T @ (basis @ direction)
        direction = direction / direction.norm().clamp_min(1e-30)
        basis = torch.cat([basis, direction[None]])
        shares = few @ direction
        gains -= torch.outer(shares, short @ direction)
        norms -= shares.square()
    return coords[taken], radius[taken]


def _moved(short: Tensor, coords: Tensor, radius: Tensor, size: tuple[int, int], steps: int) -> tuple[Tensor, Tensor]:
    """Positions and radii after the descent."""
    space = _space(size)
    coords, radius = coords.clone().requires_grad_(), radius.clone().requires_grad_()
    optimizer = torch.optim.Adam([coords, radius], lr=0.1 * space)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    total, best = short.square().sum().item(), (float("inf"), coords.detach().clone(), radius.detach().clone())
    for _ in range(steps + 1):
        with torch.enable_grad():
            phi = _tents(coords, radius, size)
            gram = phi @ phi.T
            gram = gram + torch.diag_embed(1e-9 * gram.diagonal().detach() + 1e-12)  # tents may be alike, or dead
            explained = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), phi @ short.T, upper=False)
            loss = total - explained.square().sum()
            grads = torch.autograd.grad(loss, (coords, radius))
        if loss.item() < best[0]:
            best = loss.item(), coords.detach().clone(), radius.detach().clone()
        coords.grad, radius.grad = grads
        optimizer.step()
        schedule.step()
        coords.clamp_(-1, 1)
        radius.clamp_(space, 1)
    return best[1:]
