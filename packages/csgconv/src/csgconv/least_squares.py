"""The generator and the codes that come closest to given slices: a truncated SVD, or least squares in turn.

The authors start from noise alone. A trained network's kernels are nearly of full rank, so this start loses much of
what they know: it is a warm one, and no compression without training.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 30  # of codes and generator in turn, at most
LEAST_GAIN = 1e-4  # relative decrease of the error in a step, below which the search ends
RIDGE = 1e-9  # by the mean diagonal, for systems of less than full rank


class Factors(NamedTuple):
    """S ~ codes weight^T + constant bias."""

    codes: Tensor  # (rows, d)
    weight: Tensor  # (P, d)
    bias: Tensor | None  # (P,)


class _Kinds(NamedTuple):
    """Rows that show the same columns share a system of equations, and so do columns that the same rows show."""

    shown: Tensor  # (U, P), 1 where rows of that kind show the column
    row: Tensor  # (rows,), below U
    seen: Tensor  # (K, U), 1 where columns of that kind are shown by rows of that
    column: Tensor  # (P,), below K


@torch.no_grad()
def factorise(
    slices: Tensor,  # (rows, P)
    shown: Tensor,  # (rows, P), bool
    code_size: int,
    *,
    constant: Tensor | None = None,  # (rows,)
    weight: Tensor | None = None,  # (P, d)
) -> Factors:
    """Minimises the sum of (S - C W^T - constant b)^2 over what is shown.

    Where all is shown, and without b, that is a truncated SVD. Else this SVD, with zeros for what is hidden, is the
    start of a search, in which codes and generator solve their least squares in turn, each exactly: the error never
    grows. In the end both factors have the same singular values, C = U D^1/2 and W = V D^1/2. Beyond the rank of the
    slices codes are zero and the generator is noise, so that they can learn.

    Args:
        slices: anything where it is hidden.
        shown: which numbers reach a kernel.
        code_size: d.
        constant: how often each row has b in it. By default there is no b, and None comes back.
        weight: a generator to keep. The codes alone are fitted, without b.

    Returns:
        factors of float64, on the device of `slices`.
    """
    target, kinds = torch.where(shown, slices.double(), 0), _kinds(shown)
    if weight is not None:
        return Factors(_solved_codes(target, weight.double(), kinds), weight.double(), None)
    ones = target.new_zeros(len(target), 0) if constant is None else constant.double()[:, None]
    bias = (ones.T @ target / (ones.square().T @ shown.double()).clamp_min(torch.finfo(target.dtype).tiny)).T
    codes, weight = _svd(_without(target, shown, ones, bias), code_size)
    best, last = (codes, weight, bias), _loss(target, shown, codes @ weight.T, ones @ bias.T)
    for _ in range(0 if constant is None and bool(shown.all()) else STEPS):
        codes = _solved_codes(_without(target, shown, ones, best[2]), best[1], kinds)
        weight, bias = _solved_weight(target, torch.cat([codes, ones], 1), kinds).tensor_split([code_size], 1)
        loss = _loss(target, shown, codes @ weight.T, ones @ bias.T)
        if not loss < last:
            break
        best, gain, last = (codes, weight, bias), 1 - (loss / last) ** 0.5, loss
        if gain < LEAST_GAIN:
            break
    codes, weight, bias = best
    return Factors(*_balanced(codes, weight), None if constant is None else bias[:, 0])


def _without(target: Tensor, shown: Tensor, ones: Tensor, bias: Tensor) -> Tensor:
    return target - shown * (ones @ bias.T) if ones.shape[1] else target


def _loss(target: Tensor, shown: Tensor, product: Tensor, rest: Tensor) -> float:
    return product.add_(rest).mul_(shown).sub_(target).square_().sum().item()


def _svd(target: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The best factors where nothing is hidden, by the eigenvectors of the smaller matrix of products."""
    wide = target.shape[0] < target.shape[1]
    side = target if wide else target.T
    vectors = torch.linalg.eigh(side @ side.T).eigenvectors[:, -size:]
    vectors = F.pad(vectors, (0, size - vectors.shape[1]))
    other = side.T @ vectors
    return (vectors, other) if wide else (other, vectors)


def _balanced(codes: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the same product and of equal singular values, noise in what is left of the generator."""
    (left, short), (right, other) = torch.linalg.qr(codes), torch.linalg.qr(weight)
    u, values, v = torch.linalg.svd(short @ other.T, full_matrices=False)
    used = values > 1e-7 * values.max()
    root = (values * used).sqrt()
    spare = codes.shape[1] - len(root)
    codes, new = (F.pad(factor, (0, spare)) for factor in ((left @ u) * root, (right @ v.T) * root))
    unused = F.pad(~used, (0, spare), value=True)
    scale = new[:, ~unused].square().mean().sqrt().nan_to_num(codes.shape[1] ** -0.5)
    return codes, torch.where(unused, torch.randn_like(new) * scale, new)


def _solved_codes(target: Tensor, weight: Tensor, kinds: _Kinds) -> Tensor:
    """C that minimises the error for a W; `target` is zero where hidden."""
    grams = torch.stack([weight.T @ (weight * shown[:, None]) for shown in kinds.shown])
    return _solved(grams, target @ weight, kinds.row)


def _solved_weight(target: Tensor, codes: Tensor, kinds: _Kinds) -> Tensor:
    """W that minimises the error for a C."""
    grams = torch.stack([codes[kinds.row == kind].T @ codes[kinds.row == kind] for kind in range(len(kinds.shown))])
    return _solved((kinds.seen @ grams.flatten(1)).unflatten(1, grams.shape[1:]), target.T @ codes, kinds.column)


def _solved(grams: Tensor, right: Tensor, kind: Tensor) -> Tensor:
    """Each row of `right` times the inverse of the matrix of its kind."""
    diagonal = grams.diagonal(dim1=1, dim2=2)
    ridge = RIDGE * diagonal.mean(1, keepdim=True) + torch.finfo(grams.dtype).tiny
    lower = torch.linalg.cholesky(grams + torch.diag_embed(ridge.expand_as(diagonal)))
    solved = torch.empty_like(right)
    for index, factor in enumerate(lower):
        alike = kind == index
        solved[alike] = torch.cholesky_solve(right[alike].T, factor).T
    return solved


def _kinds(shown: Tensor) -> _Kinds:
    patterns, row = _distinct(shown.double())
    seen, column = _distinct(patterns.T)
    return _Kinds(patterns, row, seen, column)


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of a matrix of zeros and ones, and which of them each row is: those of equal sums of numbers.

    The numbers are random integers, whose sums are exact in whatever order they are added.
    """
    numbers = torch.randint(2**32, (rows.shape[1], 2), generator=torch.Generator().manual_seed(0), device="cpu")
    _, kind = torch.unique(rows @ numbers.to(rows.device).double(), dim=0, return_inverse=True)
    first = torch.full((int(kind.max()) + 1,), len(rows), device=rows.device)
    first = first.scatter_reduce(0, kind, torch.arange(len(rows), device=rows.device), "amin")
    return rows[first], kind
