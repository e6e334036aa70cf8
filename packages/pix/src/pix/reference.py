"""The formulas of pick-or-mix in plain, differentiable torch: oracle, fallback and documentation.

"Pick-or-Mix: Dynamic Channel Sampling for ConvNets", Kumar, Kim, Park and Behera, CVPR 2024, section 3. Output channel
c owns the `zeta` consecutive input channels from c * zeta on, its subset S(c), of which the last may be short. With one
number p[n, c] per sample and output channel:

    y[n, c, h, w] = p[n, c] * max_{i in S(c)} x[n, i, h, w]          where p[n, c] < tau: pick
    y[n, c, h, w] = p[n, c] * sum_{i in S(c)} x[n, i, h, w] / zeta   elsewhere, also where p is no number: mix

As in the authors' kernels, the maximum starts at -FLT_MAX, so that it is never NaN, and belongs to the first of equal
channels; a short subset counts as a full one unless `count_short`; tau is rounded to float32. They divide by zeta at
every pixel, here p is divided: the same for powers of two, else up to the last digit. The layer finds p by

    z[n, i] = mean_{h, w} x[n, i, h, w],    p = sigmoid(z weight^T + bias)

`forward`, `backward`, `pix_forward` and `pix_backward` are the kernels of the ops. They compute in float32, float64 for
float64.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

LOWEST = torch.finfo(torch.float32).min


def pick_or_mix(
    x: Tensor,  # (N, C, H, W)
    p: Tensor,  # (N, C') or (N, C', 1, 1)
    zeta: int,
    tau: float = 0.5,
    *,
    count_short: bool = False,
    zero_gates: bool = True,  # as they are in any case here
) -> Tensor:  # (N, C', H, W), C' = ceil(C / zeta)
    """The same as `functional.pick_or_mix`."""
    return forward(x, wide(p.flatten(1)), zeta, tau, count_short, False)[0]


def pix(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C', C) or (C', C, 1, 1)
    bias: Tensor | None = None,  # (C',)
    *,
    zeta: int,
    tau: float = 0.5,
    context: str = "mean",
    count_short: bool = False,
    fused: bool = False,  # as it is in any case here
) -> Tensor:  # (N, C', H, W)
    """The same as `functional.pix`."""
    return pix_forward(x, weight.flatten(1), bias, zeta, tau, context == "l1", count_short, False)[0]


def forward(
    x: Tensor,  # (N, C, H, W)
    p: Tensor,  # (N, C'), float64 for float64, else float32
    zeta: int,
    tau: float,
    count_short: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:  # y (N, C', H, W), choice like it or (0,)
    """y, and which channel of its subset every picked pixel came from: 0 where mixed, nothing unless `keep`."""
    image, gate = wide(x), p[:, :, None, None]
    pick = gate < float32(tau)
    largest, position = _largest(image, zeta)
    total = sum(_subsets(image, zeta, 0).unbind(2))
    y = gate / _shares(pick, x.shape[1], zeta, count_short) * torch.where(pick, largest, total)
    if not keep:
        return _like(y, x), x.new_empty(0, dtype=torch.uint8)
    return _like(y, x), _like(torch.where(pick, position, 0), x, choice_dtype(zeta))


def backward(
    grad: Tensor,  # (N, C', H, W)
    y: Tensor,  # (N, C', H, W)
    p: Tensor,  # (N, C')
    choice: Tensor,  # (N, C', H, W)
    channels: int,
    zeta: int,
    tau: float,
    count_short: bool,
) -> tuple[Tensor, Tensor]:  # (N, C, H, W), (N, C')
    """dx, and dp[n, c] = sum_{h, w} grad * y / p, which is 0 where p is: y says nothing of x there."""
    grad_p = wide(grad).mul(wide(y)).sum((2, 3)) / p
    return _like(_grad_x(grad, p, choice, channels, zeta, tau, count_short), grad), grad_p.masked_fill(p == 0, 0)


def pix_forward(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C', C)
    bias: Tensor | None,  # (C',)
    zeta: int,
    tau: float,
    l1: bool,
    count_short: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # y, z (N, C), p (N, C'), choice
    """The layer: context z, of absolute values if `l1`, gates p, and `forward`."""
    z, p = gates(x, weight, bias, l1)
    y, choice = forward(x, p, zeta, tau, count_short, keep)
    return y, z, p, choice


def pix_backward(
    grad: Tensor,  # (N, C', H, W)
    grad_p: Tensor | None,  # (N, C')
    y: Tensor,  # (N, C', H, W)
    z: Tensor,  # (N, C)
    p: Tensor,  # (N, C')
    choice: Tensor,  # (N, C', H, W)
    weight: Tensor,  # (C', C)
    x: Tensor | None,  # (N, C, H, W), if l1
    zeta: int,
    tau: float,
    count_short: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # (N, C, H, W), (C', C), (C',)
    """dx, dweight, dbias; the logits' gradient, sum_{h, w} grad * y * (1 - p), divides by nothing."""
    grad_logits = logit_gradient(grad, grad_p, y, p)
    picked_or_mixed = _grad_x(grad, p, choice, weight.shape[1], zeta, tau, count_short)
    grad_x = picked_or_mixed + context_gradient(grad_logits, weight, x, *grad.shape[2:])
    return _like(grad_x, grad), *parameter_gradients(grad_logits, z, weight.dtype)


def gates(
    x: Tensor, weight: Tensor, bias: Tensor | None, l1: bool
) -> tuple[Tensor, Tensor]:  # (..., N, C), (..., N, C')
    """z and p of the layer; dimensions before those of all arguments are theirs alone."""
    image = wide(x)
    z = (image.abs() if l1 else image).mean((-2, -1))
    logits = _product(z, wide(weight).transpose(-1, -2))
    return z, torch.sigmoid(logits if bias is None else logits + wide(bias)[..., None, :])


def logit_gradient(grad: Tensor, grad_p: Tensor | None, y: Tensor, p: Tensor) -> Tensor:  # (..., N, C')
    """What arrives at the logits through y, and through p where that is used itself."""
    through_y = wide(grad).mul(wide(y)).sum((-2, -1)) * (1 - p)
    return through_y if grad_p is None else through_y + grad_p * p * (1 - p)


def context_gradient(
    grad_logits: Tensor, weight: Tensor, x: Tensor | None, height: int, width: int
) -> Tensor:  # (..., N, C, 1, 1), or as large as x
    """What the logits send back to the pixels."""
    return mean_gradient(_product(grad_logits, wide(weight)), x, height, width)


def mean_gradient(grad_z: Tensor, x: Tensor | None, height: int, width: int) -> Tensor:  # as context_gradient
    """What the context sends back: the same to all pixels of a channel, with the sign of x if that is given."""
    spread = grad_z[..., None, None] / (height * width)
    return spread if x is None else spread * wide(x).sign()


def parameter_gradients(grad_logits: Tensor, z: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """dweight (..., C', C) and dbias (..., C')."""
    return _product(grad_logits.transpose(-1, -2), z).to(dtype), grad_logits.sum(-2).to(dtype)


def float32(tau: float) -> float:
    """`tau` as the kernels compare with it."""
    return ctypes.c_float(tau).value


def choice_dtype(zeta: int) -> torch.dtype:
    """Of the positions in a subset."""
    return torch.uint8 if zeta <= 256 else torch.int32


def wide(t: Tensor) -> Tensor:
    """`t` in the precision of the sums."""
    return t if t.dtype == torch.float64 else t.float()


def channels_last(t: Tensor) -> bool:
    """Whether results computed from `t` are laid out (N, H, W, C): the same rule as in the kernels."""
    return t.stride(1) == 1 and t.shape[1] > 1 and not t.is_contiguous()


def _subsets(x: Tensor, zeta: int, fill: float) -> Tensor:  # (N, C', min(zeta, C), H, W)
    """The channels by subset, the last one filled up."""
    size = min(zeta, x.shape[1])
    filled = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % size), value=fill)
    return filled.unflatten(1, (-1, size))


def _largest(x: Tensor, zeta: int) -> tuple[Tensor, Tensor]:  # (N, C', H, W) each
    """Maximum and its first position. What is not above the start is the start, and passes its gradient as it is."""
    subsets = _subsets(x, zeta, LOWEST).clone()
    with torch.no_grad():
        subsets.masked_fill_(~(subsets > LOWEST), LOWEST)
    largest, position = subsets.max(2)
    return largest, position


def _grad_x(
    grad: Tensor, p: Tensor, choice: Tensor, channels: int, zeta: int, tau: float, count_short: bool
) -> Tensor:  # (N, C, H, W)
    """p * grad at the chosen channel of a picked pixel, p * grad / zeta at all channels of a mixed one."""
    gate = p[:, :, None, None]
    pick = gate < float32(tau)
    share = gate / _shares(pick, channels, zeta, count_short) * wide(grad)
    positions = torch.arange(min(zeta, channels), device=grad.device)[:, None, None]
    taken = (choice[:, :, None] == positions) | ~pick[:, :, None]
    return torch.where(taken, share[:, :, None], 0).flatten(1, 2)[:, :channels]


def collect(
    x: Tensor, p: Tensor, choice: Tensor, zeta: int, tau: float, count_short: bool
) -> Tensor:  # (N, C, H, W) -> (N, C', H, W)
    """The channel at `choice` of picked pixels, the sum / zeta of mixed ones: the adjoint of the gradient's way."""
    pick = (p < float32(tau))[:, :, None, None]
    subsets = _subsets(x, zeta, 0)
    chosen = subsets.gather(2, choice.long()[:, :, None])[:, :, 0]
    return torch.where(pick, chosen, subsets.sum(2)) / _shares(pick, x.shape[1], zeta, count_short)


def _shares(pick: Tensor, channels: int, zeta: int, count_short: bool) -> Tensor:  # (N, C', 1, 1)
    """What the sum over a subset is divided by: 1 where there is none."""
    sizes = torch.full((pick.shape[1], 1, 1), zeta, device=pick.device)
    if count_short:
        sizes[-1] = channels - (pick.shape[1] - 1) * zeta
    return torch.where(pick, 1, sizes)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product in its own precision, under autocast too, of which meta tensors know nothing."""
    if a.is_meta:
        return torch.matmul(a, b)
    with torch.autocast(a.device.type, enabled=False):
        return torch.matmul(a, b)


def _like(y: Tensor, t: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`y` in the dtype, unless one is given, and layout of `t`."""
    memory_format = torch.channels_last if channels_last(t) else torch.contiguous_format
    return y.to(dtype or t.dtype).contiguous(memory_format=memory_format)
