"""The formula of the depthwise 1D convolution in plain, differentiable torch: oracle, fallback and documentation.

With M outputs per channel, zeros outside, and one kernel for all samples (B = 1) or one per sample (B = N):

    y[n, c * M + m, l] = bias[c * M + m] + sum_k weight[n, c * M + m, k] * x[n, c, l * stride + k - padding]

`forward`, `grad_input` and `grad_weight` are the kernels of the ops. Sums are float32, float64 for float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise_conv1d(
    x: Tensor,  # (N, C, L)
    weight: Tensor,  # (M * C, K), (M * C, 1, K) or (N, M * C, K)
    bias: Tensor | None = None,  # (M * C,)
    *,
    stride: int = 1,
    padding: int = 0,
) -> Tensor:  # (N, M * C, (L + 2 * padding - K) // stride + 1)
    """The same as `functional.depthwise_conv1d`."""
    shared = weight.dim() == 2 or weight.shape[1] == 1
    return forward(x, weight.reshape(1, -1, weight.shape[-1]) if shared else weight, bias, stride, padding)


def forward(
    x: Tensor,  # (N, C, L)
    weight: Tensor,  # (B, M * C, K)
    bias: Tensor | None,
    stride: int,
    padding: int,
) -> Tensor:  # (N, M * C, Lo)
    """The sum of the shifted input's products with each tap."""
    taps = weight.shape[2]
    length = (x.shape[2] + 2 * padding - taps) // stride + 1
    wide = F.pad(_wide(x), (padding, padding)).repeat_interleave(weight.shape[1] // max(x.shape[1], 1), 1)
    y = wide.new_zeros(()) if bias is None else _wide(bias)[:, None]
    y = y.expand(x.shape[0], weight.shape[1], length)
    for k in range(taps):
        y = y + _wide(weight)[:, :, k, None] * wide[:, :, _reads(k, length, stride)]
    return _like(y, x)


def grad_input(
    grad: Tensor,  # (N, M * C, Lo)
    weight: Tensor,  # (B, M * C, K)
    channels: int,
    length: int,
    stride: int,
    padding: int,
) -> Tensor:  # (N, C, L)
    """dx[n, c, i] = sum_{m, k} weight[n, c * M + m, k] * grad[n, c * M + m, (i + padding - k) / stride].

    A term counts only where the division leaves no remainder and the position is one of the output's.
    """
    wide, w = _wide(grad), _wide(weight)
    padded = wide.new_zeros(grad.shape[0], channels, length + 2 * padding)
    for k in range(weight.shape[2]):
        product = (w[:, :, k, None] * wide).unflatten(1, (channels, grad.shape[1] // max(channels, 1)))
        padded[:, :, _reads(k, grad.shape[2], stride)] += product.sum(2)
    return _like(padded[:, :, padding : padding + length], grad)


def grad_weight(
    grad: Tensor,  # (N, M * C, Lo)
    x: Tensor,  # (N, C, L)
    kernel_size: int,
    stride: int,
    padding: int,
    per_sample: bool,
) -> tuple[Tensor, Tensor]:  # (B, M * C, K), (M * C,)
    """dweight[n, c * M + m, k] = sum_l grad[n, c * M + m, l] * x[n, c, l * stride + k - padding]; dbias = sum grad.

    Where one kernel serves all samples, its gradient is the sum over these.
    """
    wide = F.pad(_wide(x), (padding, padding)).repeat_interleave(grad.shape[1] // max(x.shape[1], 1), 1)
    upstream = _wide(grad)
    over = (2,) if per_sample else (0, 2)
    taps = [(upstream * wide[:, :, _reads(k, grad.shape[2], stride)]).sum(over) for k in range(kernel_size)]
    weight = torch.stack(taps, -1)
    return (weight if per_sample else weight[None]).to(grad.dtype), upstream.sum((0, 2)).to(grad.dtype)


def _reads(tap: int, length: int, stride: int) -> slice:
    """Positions of the padded input that a tap reads, one per output."""
    return slice(tap, tap + (length - 1) * stride + 1, stride)


def _wide(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()


def _like(y: Tensor, t: Tensor) -> Tensor:
    """`y` in the dtype and layout of `t`."""
    last = t.stride(1) == 1 and t.shape[1] > 1 and not t.is_contiguous()
    y = y.to(t.dtype)
    return y.mT.contiguous().mT if last else y.contiguous()
