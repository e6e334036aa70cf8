"""The formulas of smpconv in plain, differentiable torch: oracle, fallback and documentation.

"SMPConv: Self-moving Point Representations for Continuous Convolution", Kim and Park, CVPR 2023, section 3. A group of
channels has N points with a position p_i in R^d, a radius r_i and a weight per channel. At x the kernel of channel c is

    phi_i(x)   = max(0, 1 - ||x - p_i||_1 / r_i)
    K[c](x)    = sum_i weight[c, i] * phi_i(x) / (n(x) + 1e-6)    n(x) = #{i : ||x - p_i||_1 < r_i}   averaged
    K[c](x)    = sum_i weight[c, i] * phi_i(x)                                                       plain

Taps lie at x = -1, ..., 1 on each axis, both ends included. A point at exactly its radius from a tap does not touch it,
one with r <= 0 touches none; one that is not finite makes its whole group NaN. The averaged kernel jumps where a point
begins to touch a tap: n has no gradient. Distances are float64 whatever the dtype, so what touches what does not depend
on rounding (the authors' are float32, and so is their n + 1e-6). Sums are float32, float64 for float64.

`forward`, `backward`, `conv`, `conv_grad_input` and `conv_grad_weight` are the kernels of the ops.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6


def rasterize(
    coords: Tensor,  # (G, N, d)
    radius: Tensor,  # (G, N)
    weight: Tensor,  # (G, C, N)
    size: int | tuple[int, ...],
    *,
    average: bool,
    flip: bool,
) -> Tensor:  # (G, C, *size)
    """The same as `functional.rasterize`; gradients of any order."""
    shape = (size,) * coords.shape[2] if isinstance(size, int) else size
    return forward(coords, radius, weight, shape, average, flip)


def depthwise_conv2d(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C, Kh, Kw) or (C, 1, Kh, Kw)
    bias: Tensor | None = None,  # (C,)
    *,
    algorithm: str = "auto",
) -> Tensor:  # (N, C, H, W)
    """The same as `functional.depthwise_conv2d`, whatever the algorithm."""
    return conv(x, weight.reshape(-1, *weight.shape[-2:]), bias)


def causal_conv1d_long(
    x: Tensor,  # (N, I, L)
    weight: Tensor,  # (O, I, T)
    bias: Tensor | None = None,  # (O,)
    *,
    algorithm: str = "auto",
) -> Tensor:  # (N, O, L)
    """The same as `functional.causal_conv1d_long`, whatever the algorithm."""
    padded = F.pad(wide(x), (weight.shape[2] - 1, 0))
    return F.conv1d(padded, wide(weight), None if bias is None else wide(bias)).to(x.dtype)


def forward(
    coords: Tensor,  # (G, N, d)
    radius: Tensor,  # (G, N)
    weight: Tensor,  # (G, C, N)
    size: tuple[int, ...],
    average: bool,
    flip: bool,
) -> Tensor:  # (G, C, *size)
    """Every point's tent over every tap, weighted and summed."""
    phi, active, _ = tents(coords, radius, size, flip)
    kernel = _product(wide(weight), _shared(phi, active, average).to(wide(weight).dtype))
    return kernel.to(weight.dtype).reshape(*weight.shape[:2], *size)


def backward(
    grad: Tensor,  # (G, C, *size)
    coords: Tensor,  # (G, N, d)
    radius: Tensor,  # (G, N)
    weight: Tensor,  # (G, C, N)
    average: bool,
    flip: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """With S_i(x) = sum_c grad[c](x) * weight[c, i] / (n(x) + 1e-6), or without the divisor, over the taps x of i:

    dweight[c, i] = sum_x phi_i(x) * grad[c](x) / (n(x) + 1e-6)
    dp_i[q]       = -sum_x S_i(x) * sign(p_i[q] - x[q]) / r_i
    dr_i          = sum_x S_i(x) * ||x - p_i||_1 / r_i^2
    """
    phi, active, offset = tents(coords, radius, grad.shape[2:], flip)
    upstream = wide(grad).flatten(2)
    grad_weight = _product(upstream, _shared(phi, active, average).to(upstream.dtype).mT)
    s = _shared(_product(wide(weight).mT, upstream).double() * active, active, average)  # (G, N, taps)
    r = torch.where(radius > 0, radius, 1).double()
    grad_coords = -torch.einsum("gnt,gntd->gnd", s, offset.sign()) / r[:, :, None]
    grad_radius = (s * offset.abs().sum(-1)).sum(-1) / r.square()
    lost = ~_finite(coords, radius).all(1)
    return (
        grad_coords.masked_fill(lost[:, None, None], torch.nan).to(coords.dtype).contiguous(),
        grad_radius.masked_fill(lost[:, None], torch.nan).to(radius.dtype).contiguous(),
        grad_weight.masked_fill(lost[:, None, None], torch.nan).to(weight.dtype).contiguous(),
    )


def tents(
    coords: Tensor,  # (G, N, d)
    radius: Tensor,  # (G, N)
    size: tuple[int, ...],
    flip: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # (G, N, taps), (G, N, taps), (G, N, taps, d)
    """phi, whether it is above 0, and p - x, for the taps row by row; in float64."""
    offset = coords.double()[:, :, None] - tap_coordinates(size, flip, coords.device)
    distance = offset.abs().sum(-1)
    active = distance < radius[:, :, None]
    r = torch.where(radius > 0, radius, 1).double()[:, :, None]
    phi = torch.where(active, 1 - distance / r, 0)
    lost = ~_finite(coords, radius).all(1)[:, None, None]
    return phi.masked_fill(lost, torch.nan), active, offset


def tap_coordinates(size: tuple[int, ...], flip: bool, device: torch.device | None = None) -> Tensor:  # (taps, d)
    """Where the taps lie, row by row; the authors' 2D kernels are flipped: x to the right, y up."""
    axes = []
    for taps in size:
        steps = torch.arange(taps, device=device, dtype=torch.float64)
        axes.append((2 * steps - (taps - 1)) / (taps - 1) if taps > 1 else steps - 1)
    grid = torch.stack(torch.meshgrid(axes, indexing="ij"), -1).flatten(0, -2)
    return torch.stack((grid[:, 1], -grid[:, 0]), -1) if flip else grid


def conv(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C, Kh, Kw)
    bias: Tensor | None,  # (C,)
) -> Tensor:  # (N, C, H, W)
    """y[n, c, i, j] = bias[c] + sum_{a, b} weight[c, a, b] * x[n, c, i + a - Kh // 2, j + b - Kw // 2]."""
    with torch.autocast(x.device.type, enabled=False):
        kernel, shift = wide(weight)[:, None], None if bias is None else wide(bias)
        if not x.numel():  # which torch takes for an image smaller than the kernel
            return _like(
                wide(x) * kernel.sum((1, 2, 3))[:, None, None] + (0 if shift is None else shift[:, None, None]), x
            )
        return _like(F.conv2d(_fast(x), kernel, shift, padding=_margins(weight), groups=x.shape[1]), x)


def conv_grad_input(
    grad: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C, Kh, Kw)
) -> Tensor:  # (N, C, H, W)
    """The convolution with the reversed kernel."""
    return conv(grad, weight.flip(1, 2), None)


def conv_grad_weight(
    grad: Tensor,  # (N, C, H, W)
    x: Tensor,  # (N, C, H, W)
    kernel_size: tuple[int, int],
) -> tuple[Tensor, Tensor]:  # (C, Kh, Kw), (C,)
    """dweight[c, a, b] = sum_{n, i, j} grad[n, c, i, j] * x[n, c, i + a - Kh // 2, j + b - Kw // 2]; dbias."""
    (n, c, h, w), (rows, columns) = x.shape, kernel_size
    upstream = wide(grad)
    if not x.numel():
        return grad.new_zeros(c, rows, columns), grad.new_zeros(c)
    padded = F.pad(wide(x), (columns // 2, columns // 2, rows // 2, rows // 2))
    with torch.autocast(x.device.type, enabled=False):  # each channel of each sample an image, its gradient the kernel
        images = padded.reshape(1, n * c, *padded.shape[2:])
        taps = F.conv2d(images, upstream.reshape(n * c, 1, h, w), groups=n * c)
    return taps.reshape(n, c, rows, columns).sum(0).to(grad.dtype), upstream.sum((0, 2, 3)).to(grad.dtype)


def wide(t: Tensor) -> Tensor:
    """`t` in the precision of the sums."""
    return t if t.dtype == torch.float64 else t.float()


def channels_last(t: Tensor) -> bool:
    """Whether results computed from `t` are laid out (N, H, W, C): the same rule as in the kernels."""
    return t.stride(1) == 1 and t.shape[1] > 1 and not t.is_contiguous()


def _shared(t: Tensor, active: Tensor, average: bool) -> Tensor:  # (G, N, taps) each
    """`t` / (number of points that touch the tap + 1e-6), if averaged."""
    return t / (active.sum(1, keepdim=True, dtype=torch.float64) + EPSILON) if average else t


def _finite(coords: Tensor, radius: Tensor) -> Tensor:  # (G, N)
    return coords.isfinite().all(2) & radius.isfinite()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product in its own precision, under autocast too."""
    with torch.autocast(a.device.type, enabled=False):
        return torch.matmul(a, b)


def _margins(weight: Tensor) -> tuple[int, int]:
    return weight.shape[1] // 2, weight.shape[2] // 2


def _fast(x: Tensor) -> Tensor:
    """Channels last, in which torch's own convolution is up to 40 times faster on a CPU."""
    return wide(x).contiguous(memory_format=torch.channels_last)


def _like(y: Tensor, t: Tensor) -> Tensor:
    """`y` in the dtype and layout of `t`."""
    memory_format = torch.channels_last if channels_last(t) else torch.contiguous_format
    return y.to(t.dtype).contiguous(memory_format=memory_format)
