"""The formulas of the oriented 1D convolution in plain, differentiable torch: oracle, fallback and documentation.

"Convolutional Networks with Oriented 1D Kernels", Kirchmeyer and Deng, ICCV 2023. Tap s of channel c lies
(dy[c, s], dx[c, s]) pixels from the output position; pixels outside the image are zero; with r = K // 2 the centre tap:

    y[n, c, p, q] = bias[c] + sum_s (weight[c, s] + residual * [s == r]) * x[n, c, p * stride + dy, q * stride + dx]
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._common.checks import positive_pair


def tap_offsets(
    kernel_size: int,
    angle: Tensor,  # (C,) radians
    *,
    dilation: int = 1,
    rounding: str = "trunc",
) -> tuple[Tensor, Tensor]:  # int64 (C, K) rows, int64 (C, K) columns
    """Rasterises one line per channel, as the authors' float32 arithmetic does: see `functional.tap_offsets`.

    Sine and cosine are rounded once, from float64, so that every device finds the same pixels. The rule needs exactly
    +-1 at multiples of 90 degrees: one unit in the last place less would move every tap.
    """
    angle = angle.detach().float().double()
    minus_sin, cos = -torch.sin(angle).float(), torch.cos(angle).float()
    steps = torch.arange(kernel_size, device=angle.device) - kernel_size // 2
    steps = (steps * dilation).float()
    to_integer = torch.trunc if rounding == "trunc" else torch.round
    return to_integer(minus_sin[:, None] * steps).long(), to_integer(cos[:, None] * steps).long()


def oriented_conv1d(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C, K)
    angle: Tensor,  # (C,)
    bias: Tensor | None = None,  # (C,)
    *,
    stride: int | tuple[int, int] = 1,
    dilation: int = 1,
    residual: bool = False,
    rounding: str = "trunc",
) -> Tensor:  # (N, C, ceil(H / stride), ceil(W / stride))
    """The same as `functional.oriented_conv1d`, by the formula above and without its checks."""
    offsets = torch.stack(tap_offsets(weight.shape[1], angle, dilation=dilation, rounding=rounding))
    return forward(x, weight, offsets, bias, *positive_pair("stride", stride), residual)


def forward(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C, K)
    offsets: Tensor,  # (2, C, K)
    bias: Tensor | None,
    stride_h: int,
    stride_w: int,
    residual: bool,
) -> Tensor:  # (N, C, P, Q)
    """y[n, c, p, q], summed in float32 (float64 for float64)."""
    (height, width), (dy, dx) = x.shape[2:], offsets.long()
    rows = torch.arange(0, height, stride_h, device=x.device)
    columns = torch.arange(0, width, stride_w, device=x.device)
    image, taps = _wide(x), _taps(weight, residual)
    y = torch.zeros((), dtype=image.dtype, device=x.device) if bias is None else bias.to(image.dtype)[:, None, None]
    y = y.expand(*x.shape[:2], len(rows), len(columns))
    for s in range(weight.shape[1]):
        y = y + taps[:, s, None, None] * _read(image, rows + dy[:, s, None], columns + dx[:, s, None])
    return _like(y, x)


def grad_input(
    grad: Tensor,  # (N, C, P, Q)
    weight: Tensor,  # (C, K)
    offsets: Tensor,  # (2, C, K)
    height: int,
    width: int,
    stride_h: int,
    stride_w: int,
    residual: bool,
) -> Tensor:  # (N, C, H, W)
    """dx[n, c, h, w] = sum_s (weight[c, s] + residual * [s == r]) * grad[n, c, (h - dy) / stride, (w - dx) / stride].

    A term counts only where both divisions leave no remainder.
    """
    dy, dx = offsets.long()
    rows, columns = (torch.arange(size, device=grad.device) for size in (height, width))
    image, taps = _wide(grad), _taps(weight, residual)
    out = image.new_zeros(*grad.shape[:2], height, width)
    for s in range(weight.shape[1]):
        h, w = rows - dy[:, s, None], columns - dx[:, s, None]
        # A position between two outputs is sent to -1, which lies outside.
        p = torch.where(h % stride_h == 0, h // stride_h, -1)
        q = torch.where(w % stride_w == 0, w // stride_w, -1)
        out = out + taps[:, s, None, None] * _read(image, p, q)
    return _like(out, grad)


def grad_weight(
    grad: Tensor,  # (N, C, P, Q)
    x: Tensor,  # (N, C, H, W)
    offsets: Tensor,  # (2, C, K)
    stride_h: int,
    stride_w: int,
) -> tuple[Tensor, Tensor]:  # (C, K), (C,)
    """dweight[c, s] = sum_{n, p, q} grad[n, c, p, q] * x[n, c, p * stride + dy, q * stride + dx]; dbias = sum grad."""
    dy, dx = offsets.long()
    rows = torch.arange(0, x.shape[2], stride_h, device=x.device)
    columns = torch.arange(0, x.shape[3], stride_w, device=x.device)
    image, wide = _wide(x), _wide(grad)
    taps = [
        (wide * _read(image, rows + dy[:, s, None], columns + dx[:, s, None])).sum((0, 2, 3))
        for s in range(offsets.shape[2])
    ]
    return torch.stack(taps, 1).to(grad.dtype), wide.sum((0, 2, 3)).to(grad.dtype)


def _read(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """image[n, c, rows[c, i], columns[c, j]] for every i and j, zero outside: (N, C, I, J)."""
    (n, c, height, width), (i, j) = image.shape, (rows.shape[1], columns.shape[1])
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    index = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    pixels = image.flatten(2).gather(2, index.flatten(1).expand(n, c, i * j)).unflatten(2, (i, j))
    return pixels.masked_fill(~inside, 0)  # not a product: zero times infinity is not zero


def _taps(weight: Tensor, residual: bool) -> Tensor:
    """Weights in the precision of the sum; the residual is one more on the centre tap."""
    weight = _wide(weight)
    if not residual:
        return weight
    centre = torch.arange(weight.shape[1], device=weight.device) == weight.shape[1] // 2
    return weight + centre.to(weight.dtype)


def _wide(t: Tensor) -> Tensor:
    return t if t.dtype == torch.float64 else t.float()


def channels_last(t: Tensor) -> bool:
    """Whether results computed from `t` are laid out (N, H, W, C): the same rule as in the kernels."""
    return t.stride(1) == 1 and t.shape[1] > 1 and not t.is_contiguous()


def _like(y: Tensor, t: Tensor) -> Tensor:
    """`y` in the dtype and layout of `t`."""
    memory_format = torch.channels_last if channels_last(t) else torch.contiguous_format
    return y.to(t.dtype).contiguous(memory_format=memory_format)
