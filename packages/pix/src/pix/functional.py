"""Public functions: pick-or-mix with given gates, and the whole layer.

"Pick-or-Mix: Dynamic Channel Sampling for ConvNets", Ashish Kumar, Daneul Kim, Jaesik Park and Laxmidhar Behera, CVPR
2024, https://arxiv.org/abs/2406.10935.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops, reference
from ._common.autograd import autocast
from ._common.checks import floating_tensor, positive_int, same_device, same_dtype

CONTEXTS = ("mean", "l1")


def pick_or_mix(
    x: Tensor,  # (N, C, H, W)
    p: Tensor,  # (N, C') or (N, C', 1, 1)
    zeta: int,
    tau: float = 0.5,
    *,
    count_short: bool = False,
    zero_gates: bool = False,
) -> Tensor:  # (N, C', H, W), C' = ceil(C / zeta)
    """Samples one channel of every `zeta`: their maximum where the gate is below `tau`, else their mean (section 3).

        y[n, c, h, w] = p[n, c] * max_i x[n, i, h, w]           where p[n, c] < tau (pick)
        y[n, c, h, w] = p[n, c] * sum_i x[n, i, h, w] / zeta    elsewhere, also where p is NaN (mix)

    over the channels i = c * zeta, ..., min((c + 1) * zeta, C) - 1. The details are those of the authors' kernels:
    `tau` is rounded to float32, the first of equal channels is the maximum and gets the gradient, the maximum starts at
    -3.4e38 and so is never NaN, a short last subset is divided by `zeta`. Half precision is computed in float32 and
    rounded once. The output is channels_last where `x` is. Gradients of any order exist for `x` and `p`; the threshold
    has none. For the backward pass the output and a byte for each of its pixels are kept, not the input: afterwards the
    input may be changed in place, the output not.

    Args:
        x: float32, float64, float16 or bfloat16; an empty batch too.
        p: the gates, any numbers; float64 where `x` is, else float32, to which half precision is converted.
        zeta: channels per output channel; 1 scales every channel by its gate.
        tau: 0 always mixes gates of a sigmoid, anything above 1 always picks.
        count_short: divides the sum over a short last subset by its own size.
        zero_gates: computes the gradient of `p` also where a gate is 0, or so small that its products vanish, as hard
            gates need; otherwise it is lost there. Sigmoids need it not: their own derivative vanishes with them. Costs
            another pass over the output.

    Raises:
        TypeError: a tensor that is not floating point, float64 gates for another `x`, a `zeta` that is no integer, a
            `tau` that is no number.
        ValueError: shapes or devices that do not fit, no channels, a `zeta` below 1, a `tau` that is NaN.

    Example:
        >>> pick_or_mix(torch.randn(2, 64, 14, 14), torch.rand(2, 16), zeta=4).shape
        torch.Size([2, 16, 14, 14])
    """
    zeta, tau = _check_options(x, zeta, tau)
    p = _gates(x, p, zeta)
    return _sampled(x, p, zeta, tau, bool(count_short), bool(zero_gates))


def pix(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C', C) or (C', C, 1, 1)
    bias: Tensor | None = None,  # (C',)
    *,
    zeta: int,
    tau: float = 0.5,
    context: str = "mean",
    count_short: bool = False,
    fused: bool = True,
) -> Tensor:  # (N, C', H, W)
    """The layer: gates from the whole input, then `pick_or_mix` with them, at once.

        z[n, i] = mean_{h, w} x[n, i, h, w]
        p       = sigmoid(z weight^T + bias)
        y       = pick_or_mix(x, p, zeta, tau)

    z and p are float32, float64 for float64, so a decision does not depend on how a gate was rounded. The weight is
    that of the 1x1 convolution that the layer replaces.

    Args:
        x: as in `pick_or_mix`.
        weight: one row per output channel, in the dtype of `x`.
        bias: one number per output channel; the paper has one, the authors' code has none.
        zeta: as in `pick_or_mix`.
        tau: as in `pick_or_mix`.
        context: "mean", the authors' code, or "l1", the mean of absolute values, the paper's text. The same behind a
            ReLU; but the gradient of "l1" needs the signs of the input, which is kept for it.
        count_short: as in `pick_or_mix`.
        fused: False composes the layer of `pick_or_mix` and torch's own functions, which keep the input; needed for
            second derivatives.

    Raises:
        TypeError, ValueError: as `pick_or_mix` does; a weight or bias that does not fit, an unknown context.
        NotImplementedError: a second derivative is asked of the fused layer.

    Example:
        >>> pix(torch.randn(2, 64, 14, 14), torch.randn(16, 64), zeta=4).shape
        torch.Size([2, 16, 14, 14])
    """
    return pix_and_gates(x, weight, bias, zeta=zeta, tau=tau, context=context, count_short=count_short, fused=fused)[0]


def pix_and_gates(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    zeta: int,
    tau: float = 0.5,
    context: str = "mean",
    count_short: bool = False,
    fused: bool = True,
) -> tuple[Tensor, Tensor]:  # (N, C', H, W), (N, C')
    """`pix`, and the gates p that it found, through which gradients pass too."""
    zeta, tau = _check_options(x, zeta, tau)
    if context not in CONTEXTS:
        raise ValueError(f'context must be "mean" or "l1", but it is {context!r}.')
    weight = _matrix(x, weight, zeta)
    if bias is not None:
        floating_tensor("bias", bias, "(C',)")
        if bias.shape[0] != weight.shape[0]:
            raise ValueError(
                f"bias has {bias.shape[0]} entries but weight has {weight.shape[0]} rows: one entry per output channel."
            )
    x, weight, bias = autocast(x, weight, bias)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            same_device(name, tensor, "x", x)
            same_dtype(name, tensor, "x", x)
    if fused and not torch.onnx.is_in_onnx_export():
        y, p = ops.pix(x, weight, bias, zeta, tau, context == "l1", bool(count_short))
    else:
        _, p = reference.gates(x, weight, bias, context == "l1")
        y = _sampled(x, p, zeta, tau, bool(count_short), False)
    return y, p


def _sampled(x: Tensor, p: Tensor, zeta: int, tau: float, count_short: bool, zero_gates: bool) -> Tensor:
    if torch.onnx.is_in_onnx_export():
        return _standard(x, p, zeta, tau, count_short)
    if not zero_gates:
        return ops.pick_or_mix(x, p, zeta, tau, count_short)
    # The same decisions with gates that divide exactly: the rest of the gate is a factor whose gradient torch knows.
    power = torch.where(p < reference.float32(tau), 0.5, 1.0).to(p.dtype)
    return (ops.pick_or_mix(x, power, zeta, 0.75, count_short) * (p / power)[:, :, None, None]).to(x.dtype)


def _standard(x: Tensor, p: Tensor, zeta: int, tau: float, count_short: bool) -> Tensor:
    """The output in ops that ONNX has."""
    size, gate = min(zeta, x.shape[1]), p[:, :, None, None]
    image, short = reference.wide(x), -x.shape[1] % size

    def subsets(fill: float) -> Tensor:  # (N, C', size, H, W)
        filled = F.pad(image, (0, 0, 0, 0, 0, short), value=fill) if short else image
        return filled.unflatten(1, (-1, size))

    sizes = torch.tensor([float(zeta)] * p.shape[1], dtype=p.dtype, device=p.device)[:, None, None]
    if count_short:
        sizes[-1] = size - short
    pick = gate < reference.float32(tau)
    factor = gate / torch.where(pick, 1, sizes)
    return (factor * torch.where(pick, subsets(-math.inf).amax(2), subsets(0).sum(2))).to(x.dtype)


def _check_options(x: Any, zeta: Any, tau: Any) -> tuple[int, float]:
    floating_tensor("x", x, "(N, C, H, W)")
    if x.shape[1] < 1:
        raise ValueError(f"x must have channels, but its shape is {tuple(x.shape)}.")
    return positive_int("zeta", zeta), threshold(tau)


def threshold(tau: Any) -> float:
    """Checks that `tau` is a number."""
    if isinstance(tau, bool) or not isinstance(tau, Real):
        raise TypeError(f"tau must be a number, but it is {tau!r}.")
    if tau != tau:
        raise ValueError("tau must be a number to compare with, but it is nan: 0 always mixes, 2 always picks.")
    return float(tau)


def _outputs(channels: int, zeta: int) -> int:
    return -(-channels // zeta)


def _gates(x: Tensor, p: Any, zeta: int) -> Tensor:
    """p as the op takes it."""
    if isinstance(p, Tensor) and p.dim() == 4 and p.shape[2:] == (1, 1):
        p = p.flatten(1)
    floating_tensor("p", p, "(N, C')")
    shape = x.shape[0], _outputs(x.shape[1], zeta)
    if p.shape != shape:
        raise ValueError(
            f"p must have shape {shape} or {(*shape, 1, 1)}, one gate per sample and {zeta} channels of x, but it has "
            f"shape {tuple(p.shape)}."
        )
    same_device("p", p, "x", x)
    if x.dtype == torch.float64:
        return p.double()
    if p.dtype == torch.float64:
        raise TypeError(f"p is torch.float64 but x is {x.dtype}: rounding may change a decision; do it by .float().")
    return p.float()


def _matrix(x: Tensor, weight: Any, zeta: int) -> Tensor:
    """(C', C) of either shape."""
    if isinstance(weight, Tensor) and weight.dim() == 4 and weight.shape[2:] == (1, 1):
        weight = weight.flatten(1)
    floating_tensor("weight", weight, "(C', C)")
    shape = _outputs(x.shape[1], zeta), x.shape[1]
    if weight.shape != shape:
        raise ValueError(
            f"weight must have shape {shape} or {(*shape, 1, 1)} for the {shape[1]} channels of x and zeta={zeta}, but "
            f"it has shape {tuple(weight.shape)}."
        )
    return weight
