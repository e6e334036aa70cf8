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


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """y (N, M * C, Lo), weight (B, M * C, K)."""
    taps, length = weight.shape[2], (x.shape[2] + 2 * padding - weight.shape[2]) // stride + 1
    wide, w = F.pad(_wide(x), (padding, padding)), _wide(weight)
    wide = wide.repeat_interleave(weight.shape[1] // x.shape[1], 1)
    y = wide.new_zeros(x.shape[0], weight.shape[1], length)
    for k in range(taps):
        y = y + w[:, :, k, None] * wide[:, :, k : k + (length - 1) * stride + 1 : stride]
    return _like(y if bias is None else y + _wide(bias)[:, None], x)


def grad_input(grad: Tensor, weight: Tensor, length: int, stride: int, padding: int) -> Tensor:
    """dx (N, C, L) of an input of that length; the channels of grad are those of weight."""
    raise NotImplementedError


def grad_weight(
    grad: Tensor, x: Tensor, kernel_size: int, stride: int, padding: int, per_sample: bool
) -> tuple[Tensor, Tensor]:
    """dweight (B, M * C, K) and dbias (M * C,)."""
    raise NotImplementedError


def _wide(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()


def _like(y: Tensor, t: Tensor) -> Tensor:
    """`y` in the dtype and layout of `t`."""
    last = t.stride(1) == 1 and t.shape[1] > 1 and not t.is_contiguous()
    y = y.to(t.dtype)
    return y.mT.contiguous().mT if last else y.contiguous()
