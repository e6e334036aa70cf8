"""The formulas of the traversal in plain, differentiable torch: oracle, fallback and documentation.

"One-dimensional Path Convolution", Luo and Werner, ICML 2025, section 4.1. Position l of path p is the pixel
index[p, l] of an image whose pixels are numbered row by row, and inverse[p, q] is the position of pixel q:

    traverse          y[n, p * C + c, l] = x[n, c, index[p, l]]
    untraverse        x[n, c, q] = 1 / P * sum_p y[n, p * C + c, inverse[p, q]]
    traverse_conv1d   y[n, o, l] = bias[o] + sum_{p, c} weight[o, p * C + c] * x[n, c, index[p, l]]

The functions named `gather...` are the kernels of the ops. Sums are float32, float64 for float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .reference_depthwise import depthwise_conv1d
from .tables import image_size, path_tables

__all__ = ["depthwise_conv1d", "traverse", "traverse_conv1d", "untraverse"]


def traverse(x: Tensor, paths: Any) -> Tensor:  # (N, C, H, W) -> (N, P * C, L)
    """The same as `functional.traverse`."""
    return gather(x, *path_tables(paths, x.shape[2], x.shape[3], x.device)[:2], lies_last(x))


def untraverse(y: Tensor, paths: Any, *, height: int | None = None, width: int | None = None) -> Tensor:
    """The same as `functional.untraverse`, (N, P * C, L) -> (N, C, H, W)."""
    height, width = image_size(y.shape[2], paths, height, width)
    index, inverse, *_ = path_tables(paths, height, width, y.device)
    return gather_adjoint(_wide(y), index, inverse, height, width, lies_last(y)).div(len(index)).to(y.dtype)


def traverse_conv1d(
    x: Tensor,  # (N, C, H, W)
    paths: Any,
    weight: Tensor,  # (D, P * C)
    bias: Tensor | None = None,  # (D,)
    *,
    channels_last: bool | None = None,
) -> Tensor:  # (N, D, L)
    """The same as `functional.traverse_conv1d`."""
    index, inverse, *_ = path_tables(paths, x.shape[2], x.shape[3], x.device)
    return gather_conv1d(
        x, index, inverse, weight.flatten(1), bias, lies_last(x) if channels_last is None else channels_last
    )


def gather(x: Tensor, index: Tensor, inverse: Tensor, channels_last: bool) -> Tensor:
    """Reads every pixel of every channel along every path."""
    return _laid_out(x.flatten(2)[:, :, index.long()].transpose(1, 2).flatten(1, 2), channels_last)


def gather_adjoint(
    grad: Tensor,  # (N, P * C, L)
    index: Tensor,
    inverse: Tensor,
    height: int,
    width: int,
    channels_last: bool,
) -> Tensor:  # (N, C, H, W)
    """x[n, c, q] = sum_p grad[n, p * C + c, inverse[p, q]]."""
    parts = _wide(grad).unflatten(1, (len(index), -1)).unbind(1)
    pixels = sum(part[:, :, positions] for part, positions in zip(parts, inverse.long()))
    return _laid_out(pixels.unflatten(2, (height, width)).to(grad.dtype), channels_last)


def gather_conv1d(
    x: Tensor, index: Tensor, inverse: Tensor, weight: Tensor, bias: Tensor | None, channels_last: bool
) -> Tensor:
    """The traversal and a convolution of kernel size 1."""
    y = _product(_wide(weight), gather(_wide(x), index, inverse, False))
    if bias is not None:
        y = y + _wide(bias)[:, None]
    return _laid_out(y.to(x.dtype), channels_last)


def gather_conv1d_grad_input(
    grad: Tensor,  # (N, D, L)
    index: Tensor,
    inverse: Tensor,
    weight: Tensor,  # (D, P * C)
    height: int,
    width: int,
    channels_last: bool,
) -> Tensor:  # (N, C, H, W)
    """x[n, c, q] = sum_{p, o} weight[o, p * C + c] * grad[n, o, inverse[p, q]]."""
    pixels = gather_adjoint(_product(_wide(weight).mT, _wide(grad)), index, inverse, height, width, False)
    return _laid_out(pixels.to(grad.dtype), channels_last)


def gather_conv1d_grad_weight(grad: Tensor, x: Tensor, index: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """dweight[o, p * C + c] = sum_{n, l} grad[n, o, l] * x[n, c, index[p, l]] (D, P * C); dbias[o] = sum grad (D,)."""
    wide = _wide(grad)
    weight = _product(wide, gather(_wide(x), index, inverse, False).mT).sum(0)
    return weight.to(grad.dtype), wide.sum((0, 2)).to(grad.dtype)


def lies_last(t: Tensor) -> bool:
    """Whether results computed from `t`, (N, C, L) or (N, C, H, W), are laid out channels last."""
    return t.stride(1) == 1 and t.shape[1] > 1 and not t.is_contiguous()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product in its own precision, under autocast too."""
    with torch.autocast(a.device.type, enabled=False):
        return torch.matmul(a, b)


def _wide(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()


def _laid_out(t: Tensor, channels_last: bool) -> Tensor:
    """`t`, (N, C, L) or (N, C, H, W), with channels last or first in memory."""
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else t.contiguous()
