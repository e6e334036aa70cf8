"""Public functions: kernels from points, and convolutions with large kernels.

"SMPConv: Self-moving Point Representations for Continuous Convolution", Sanghyeon Kim and Eunbyung Park, CVPR 2023,
https://arxiv.org/abs/2304.02330.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import fourier, ops, reference
from ._common.autograd import autocast
from ._common.checks import floating_tensor, positive_int, same_device, same_dtype

ALGORITHMS = ("auto", "direct", "fft")
LARGEST = 63
MOST_TAPS = 2**31 - 65  # the native kernels number them in 32 bits, and some behind the last


def rasterize(
    coords: Tensor,  # (G, N, d)
    radius: Tensor,  # (G, N)
    weight: Tensor,  # (G, C, N)
    size: int | Sequence[int],
    *,
    average: bool,
    flip: bool,
) -> Tensor:  # (G, C, *size)
    """Evaluates kernels that are given by points at the taps of a grid (section 3).

        phi_i(x) = max(0, 1 - ||x - p_i||_1 / r_i)
        K[c](x)  = sum_i weight[c, i] * phi_i(x) / (n(x) + 1e-6)    n(x) = #{i : ||x - p_i||_1 < r_i}

    without the divisor unless `average`. Taps lie at -1, ..., 1 on each axis. Every point visits its own taps alone;
    for the backward pass nothing but the arguments is kept. Gradients exist for coords, radius and weight; n has none,
    so the averaged kernel jumps where a point begins to touch a tap. Distances are computed in float64, sums in float32
    or float64. Autocast does not change the dtype: a position would be too coarse in half precision.

    The authors' sequences and small images average, with G = output channels and C = input channels; their depthwise
    layers do not, with G = 1.

    Args:
        coords: positions in [-1, 1]^d, d = 1 or 2; points may leave it, and then touch what they reach.
        radius: above 0; a point whose tent holds no tap is dead: it adds nothing and has no gradient, see `diagnose`.
        weight: one number per channel and point.
        size: number of taps, or one for each axis.
        average: divides by the number of points that touch the tap.
        flip: the authors' 2D orientation, component 0 of a position to the right and component 1 up; else component 0
            goes down the rows and component 1 along the columns.

    Raises:
        TypeError: a tensor that is not floating point, dtypes that differ, a size that is no integer.
        ValueError: shapes or devices that do not fit, positions or radii that are not finite or radii that are not
            positive. These are looked for on the CPU, outside compiled and transformed functions; elsewhere the first
            kind makes all taps of its group NaN, and a point without a positive radius is dead.
        NotImplementedError: a second derivative, which `reference.rasterize` has.

    Example:
        >>> kernel = rasterize(torch.zeros(1, 240, 2), torch.ones(1, 240), torch.randn(1, 96, 240), 31,
        ...                    average=False, flip=True)
        >>> kernel.shape
        torch.Size([1, 96, 31, 31])
    """
    kernel = ops.rasterize_sound(coords, radius, weight, size, bool(average), bool(flip))
    if kernel is not None:
        return kernel
    _check_points(coords, radius)
    _check_weight(weight, coords)
    _check_values(coords, radius)
    shape = _check_size(size, coords.shape[2], flip)
    if torch.onnx.is_in_onnx_export():
        return reference.forward(coords, radius, weight, shape, bool(average), bool(flip))
    return ops.rasterize(coords, radius, weight, shape, bool(average), bool(flip))


def depthwise_conv2d(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C, Kh, Kw) or (C, 1, Kh, Kw)
    bias: Tensor | None = None,  # (C,)
    *,
    algorithm: str = "auto",
) -> Tensor:  # (N, C, H, W)
    """Depthwise 2D convolution with large kernels: stride 1, zeros around the image, which keeps its size.

        y[n, c, i, j] = bias[c] + sum_{a, b} weight[c, a, b] * x[n, c, i + a - Kh // 2, j + b - Kw // 2]

    It is `F.conv2d` with `groups=C` and `padding=K // 2`. Half precision is summed in float32. The output is
    channels_last where `x` is. Gradients of any order exist for `x`, `weight` and `bias`.

    Args:
        x: float32, float64, float16 or bfloat16; an empty batch too.
        weight: Kh and Kw odd, up to 63, in the dtype of `x`.
        bias: one number per channel.
        algorithm: "direct", "fft", which keeps spectra for the backward pass, or "auto", the faster one by what was
            measured on a CPU; on other devices the direct one.

    Raises:
        TypeError: a tensor that is not floating point, dtypes that differ.
        ValueError: shapes or devices that do not fit, an even or larger kernel, an unknown algorithm.

    Example:
        >>> depthwise_conv2d(torch.randn(1, 96, 56, 56), torch.randn(96, 31, 31)).shape
        torch.Size([1, 96, 56, 56])
    """
    floating_tensor("x", x, "(N, C, H, W)")
    weight = _kernels(x, weight)
    _check_bias(bias, weight.shape[0])
    check_algorithm(algorithm)
    x, weight, bias = _alike(x, weight, bias)
    margins = weight.shape[1] // 2, weight.shape[2] // 2
    if torch.onnx.is_in_onnx_export():
        return F.conv2d(x, weight[:, None], bias, padding=margins, groups=len(weight))
    auto = algorithm == "auto" and x.device.type == "cpu" and x.numel() > 0 and fourier.pays(x, weight, margins)
    if not (algorithm == "fft" or auto) or x.numel() == 0:
        return ops.depthwise_conv2d(x, weight, bias)
    return _finished(fourier.same_conv2d(x, weight), bias, x)


def conv2d_long(
    x: Tensor,  # (N, I, H, W)
    weight: Tensor,  # (O, I, Kh, Kw)
    bias: Tensor | None = None,  # (O,)
    *,
    algorithm: str = "auto",
) -> Tensor:  # (N, O, H, W)
    """Dense 2D convolution with kernels as large as the image: stride 1, zeros around the image, which keeps its size.

    Args:
        x: float32, float64, float16 or bfloat16.
        weight: Kh and Kw odd, of any size, in the dtype of `x`.
        bias: one number per output channel.
        algorithm: "direct" is `F.conv2d`, "fft" multiplies spectra, "auto" is the faster one by what was measured on a
            CPU; in compiled programs spectra from 13 x 13 taps on.

    Raises:
        TypeError: a tensor that is not floating point, dtypes that differ.
        ValueError: shapes or devices that do not fit, an even kernel, an unknown algorithm.

    Example:
        >>> conv2d_long(torch.randn(2, 3, 32, 32), torch.randn(24, 3, 33, 33)).shape
        torch.Size([2, 24, 32, 32])
    """
    floating_tensor("x", x, "(N, I, H, W)")
    floating_tensor("weight", weight, "(O, I, Kh, Kw)")
    _check_dense(x, weight, bias)
    if weight.shape[2] % 2 == 0 or weight.shape[3] % 2 == 0:
        raise ValueError(f"weight must have odd sizes, but its kernels are {tuple(weight.shape[2:])}.")
    check_algorithm(algorithm)
    x, weight, bias = _alike(x, weight, bias)
    margins = weight.shape[2] // 2, weight.shape[3] // 2
    if torch.onnx.is_in_onnx_export() or x.numel() == 0:
        algorithm = "direct"
    if x.numel() == 0 and len(x) > 0:  # no pixels: torch's convolution wants some
        return torch.einsum("nihw,oiab->nohw", x, weight) + (0 if bias is None else bias[:, None, None])
    if algorithm == "direct" or (algorithm == "auto" and not fourier.pays(x, weight, margins)):
        return _conv2d(x, weight, bias, margins)
    return _finished(fourier.same_conv2d(x, weight), bias, x)


def causal_conv1d_long(
    x: Tensor,  # (N, I, L)
    weight: Tensor,  # (O, I, T)
    bias: Tensor | None = None,  # (O,)
    *,
    algorithm: str = "auto",
) -> Tensor:  # (N, O, L)
    """Dense causal convolution with kernels as long as the sequence.

        y[n, o, l] = bias[o] + sum_{i, t} weight[o, i, t] * x[n, i, l - (T - 1) + t]

    with zeros before the sequence: the last tap is the present. Any length and any number of taps are right, odd ones
    too (the authors' spectral convolution is wrong for odd lengths). Gradients of any order exist.

    Args:
        x: float32, float64, float16 or bfloat16.
        weight: in the dtype of `x`; T may exceed L.
        bias: one number per output channel.
        algorithm: "direct" is `F.conv1d`, "fft" multiplies spectra, "auto" is the faster one by what was measured on a
            CPU; in compiled programs spectra from 64 taps on.

    Raises:
        TypeError: a tensor that is not floating point, dtypes that differ.
        ValueError: shapes or devices that do not fit, an unknown algorithm.

    Example:
        >>> causal_conv1d_long(torch.randn(2, 30, 784), torch.randn(30, 30, 784)).shape
        torch.Size([2, 30, 784])
    """
    floating_tensor("x", x, "(N, I, L)")
    floating_tensor("weight", weight, "(O, I, T)")
    _check_dense(x, weight, bias)
    check_algorithm(algorithm)
    x, weight, bias = _alike(x, weight, bias)
    if torch.onnx.is_in_onnx_export() or x.numel() == 0:
        algorithm = "direct"
    if x.numel() == 0 and len(x) > 0:  # no samples: torch's convolution wants some
        return torch.einsum("nil,oit->nol", x, weight) + (0 if bias is None else bias[:, None])
    if algorithm == "direct" or (algorithm == "auto" and not fourier.pays(x, weight, (weight.shape[2] - 1,))):
        return _conv1d(F.pad(x, (weight.shape[2] - 1, 0)), weight, bias)
    return _finished(fourier.causal_conv1d(x, weight), bias, x)


class Diagnosis(NamedTuple):
    """What is wrong with points, as the booleans (G, N) of each kind, and how dense the rest is."""

    not_finite: Tensor
    not_positive: Tensor  # radii
    dead: Tensor  # touch no tap: without effect and without gradient
    density: float  # share of all pairs of a point and a tap that touch


@torch.no_grad()
def diagnose(
    coords: Tensor,  # (G, N, d)
    radius: Tensor,  # (G, N)
    size: int | Sequence[int],
) -> Diagnosis:
    """Finds the points that `rasterize` refuses, and those that no gradient can bring back.

    A dead point has left the grid, or is smaller than the space between taps. The orientation does not matter.

    Raises:
        TypeError, ValueError: shapes and dtypes that do not fit, as `rasterize` does.

    Example:
        >>> diagnose(torch.tensor([[[0.0], [3.0]]]), torch.tensor([[0.5, 0.5]]), 9).dead
        tensor([[False,  True]])
    """
    _check_points(coords, radius)
    shape = _check_size(size, coords.shape[2], False)
    _, active, _ = reference.tents(coords, radius, shape, False)
    finite = coords.isfinite().all(2) & radius.isfinite()
    density = active.sum().item() / max(active.numel(), 1)
    return Diagnosis(~finite, radius <= 0, ~active.any(2) & finite, density)


def _check_points(coords: Any, radius: Any) -> None:
    floating_tensor("coords", coords, "(G, N, d)")
    floating_tensor("radius", radius, "(G, N)")
    if coords.shape[2] not in (1, 2):
        raise ValueError(f"coords must have 1 or 2 components, but their shape is {tuple(coords.shape)}.")
    if radius.shape != coords.shape[:2]:
        raise ValueError(
            f"radius must have shape {tuple(coords.shape[:2])}, one for each point of coords, but it has shape "
            f"{tuple(radius.shape)}."
        )
    same_device("radius", radius, "coords", coords)
    same_dtype("radius", radius, "coords", coords)


def _check_weight(weight: Any, coords: Tensor) -> None:
    floating_tensor("weight", weight, "(G, C, N)")
    if weight.shape[0] != coords.shape[0] or weight.shape[2] != coords.shape[1]:
        raise ValueError(
            f"weight must have shape ({coords.shape[0]}, C, {coords.shape[1]}) for the groups and points of coords, "
            f"but it has shape {tuple(weight.shape)}."
        )
    same_device("weight", weight, "coords", coords)
    same_dtype("weight", weight, "coords", coords)


def _check_size(size: Any, dims: int, flip: Any) -> tuple[int, ...]:
    """Returns the number of taps on each axis."""
    if flip and dims == 1:
        raise ValueError("flip must be False for coords with 1 component: it turns images.")
    sizes = size if isinstance(size, (tuple, list)) else (size,) * dims
    if len(sizes) != dims:
        raise ValueError(
            f"size must be one integer or one for each of the {dims} components of coords, but it is {size!r}."
        )
    taken = tuple(positive_int("size", taps) for taps in sizes)
    if not torch.compiler.is_compiling() and math.prod(taken) > MOST_TAPS:
        raise ValueError(f"size must hold at most {MOST_TAPS} taps, but it is {size!r}.")
    return taken


def _check_values(coords: Tensor, radius: Tensor) -> None:
    """Refuses points that can never be right, where looking at values costs little and is possible."""
    if not ops.shows_values(coords, radius):
        return
    coords, radius = coords.detach(), radius.detach()
    if coords.numel() == 0 or (
        0 < radius.min().item() <= radius.max().item() < math.inf and coords.abs().max().item() < math.inf
    ):
        return
    if wrong := int((~(coords.isfinite().all(2) & radius.isfinite())).sum()):
        raise ValueError(f"coords and radius must be finite, but {wrong} of {radius.numel()} points are not.")
    raise ValueError(
        f"radius must be positive, but {int((radius <= 0).sum())} of {radius.numel()} are not: clip it after each step "
        "of the optimizer, as clip_radius_() of the layers does."
    )


def _kernels(x: Tensor, weight: Any) -> Tensor:
    """(C, Kh, Kw) of either shape."""
    if isinstance(weight, Tensor) and weight.dim() == 4 and weight.shape[1] == 1:
        weight = weight[:, 0]
    floating_tensor("weight", weight, "(C, Kh, Kw)")
    if weight.shape[0] != x.shape[1] or x.shape[1] == 0:
        raise ValueError(f"weight has {weight.shape[0]} kernels but x has {x.shape[1]} channels: one for each.")
    for taps in weight.shape[1:]:
        if taps % 2 == 0 or taps > LARGEST:
            raise ValueError(
                f"weight must have odd sizes up to {LARGEST}, but its kernels are {tuple(weight.shape[1:])}."
            )
    return weight


def _check_dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if weight.shape[1] != x.shape[1] or 0 in weight.shape:
        raise ValueError(
            f"weight must have shape (O, {x.shape[1]}, ...) for the channels of x, with taps, but it has shape "
            f"{tuple(weight.shape)}."
        )
    _check_bias(bias, weight.shape[0])


def _check_bias(bias: Any, channels: int) -> None:
    if bias is not None:
        floating_tensor("bias", bias, "(C,)")
        if bias.shape[0] != channels:
            raise ValueError(f"bias has {bias.shape[0]} entries but weight has kernels for {channels} channels.")


def check_algorithm(algorithm: Any) -> None:
    """Refuses a name that is none of `ALGORITHMS`."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f'algorithm must be "auto", "direct" or "fft", but it is {algorithm!r}.')


def _alike(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments in autocast's dtype, which must have one device and one dtype."""
    x, weight, bias = autocast(x, weight, bias)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            same_device(name, tensor, "x", x)
            same_dtype(name, tensor, "x", x)
    return x, weight, bias


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, margins: tuple[int, int]) -> Tensor:
    """`F.conv2d`, on a CPU of the image on its side where kernels are taller than wide.

    There oneDNN's gradient of kernels of up to 13 columns, half of which is as tall as the image, is wrong and writes
    outside its memory (torch 2.13).
    """
    if x.device.type != "cpu" or weight.shape[2] <= weight.shape[3] or torch.onnx.is_in_onnx_export():
        return F.conv2d(x, weight, bias, padding=margins)
    y = F.conv2d(x.mT, weight.mT, bias, padding=margins[::-1]).mT
    last = reference.channels_last(x)
    return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _conv1d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.conv1d`, for bfloat16 on a CPU in float32: where there is AMX, long kernels of 8 to 12 channels go wrong."""
    if x.device.type != "cpu" or x.dtype != torch.bfloat16:
        return F.conv1d(x, weight, bias)
    shift = None if bias is None else bias.float()
    with torch.autocast("cpu", enabled=False):
        return F.conv1d(x.float(), weight.float(), shift).to(x.dtype)


def _finished(y: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """`y` plus the bias, in the dtype and layout of `x`."""
    if bias is not None:
        y = y + reference.wide(bias).view(-1, *[1] * (y.dim() - 2))
    last = x.dim() == 4 and reference.channels_last(x)
    return y.to(x.dtype).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
