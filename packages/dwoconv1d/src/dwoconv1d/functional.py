"""Public functions: the oriented 1D depthwise convolution and its geometry.

"Convolutional Networks with Oriented 1D Kernels", Alexandre Kirchmeyer and Jia Deng, ICCV 2023,
https://arxiv.org/abs/2309.15812.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from . import ops, reference
from ._common.autograd import autocast
from ._common.checks import DTYPES, floating_tensor, positive_int, positive_pair, same_device, same_dtype


def oriented_conv1d(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C, K)
    angle: Tensor,  # (C,) radians
    bias: Tensor | None = None,  # (C,)
    *,
    stride: int | tuple[int, int] = 1,
    dilation: int = 1,
    residual: bool = False,
    rounding: str = "trunc",
) -> Tensor:  # (N, C, ceil(H / stride), ceil(W / stride))
    """Depthwise convolution whose K taps lie on a rasterised line through the pixel, one angle per channel.

        y[n, c, p, q] = bias[c] + sum_s weight[c, s] * x[n, c, p * stride + dy[c, s], q * stride + dx[c, s]]

    with `(dy, dx) = tap_offsets(K, angle)` and zeros outside the image. Taps that share a pixel add up. Half
    precision is summed in float32. The output is channels_last where `x` is. Gradients of any order exist for `x`,
    `weight` and `bias`.

    Args:
        x: float32, float64, float16 or bfloat16; any size, an empty batch too.
        weight: one row of taps per channel, in the dtype of `x`.
        angle: 0 is horizontal, positive is counter-clockwise on screen. A constant: it gets no gradient.
        bias: added to every pixel of its channel.
        stride: step of rows and columns, or a pair of them; the first output lies on the first pixel.
        dilation: distance of neighbouring taps along the line.
        residual: adds the input at the output's position, as if the centre tap's weight were larger by one.
        rounding: "trunc" (the authors', towards zero) or "nearest"; see `tap_offsets`.

    Raises:
        TypeError: a tensor that is not floating point, dtypes that differ, an angle in half precision, a stride that
            is no integer.
        ValueError: shapes that do not fit, tensors on several devices, an angle that is not finite or requires a
            gradient, no taps, a stride or dilation below 1, an unknown rounding. On CUDA the look at `angle` waits for
            the device; it is left out under CUDA graph capture, `torch.compile` and `torch.export`. `OrientedConv1d`
            looks only when its angles are set or loaded.

    Example:
        >>> x = torch.randn(2, 8, 14, 14)
        >>> y = oriented_conv1d(x, torch.randn(8, 7), assign_angles(8), stride=2)
        >>> y.shape
        torch.Size([2, 8, 7, 7])
    """
    _check_channels(x, weight)  # before the angle: it is counted by the weight's rows
    if torch.is_grad_enabled() and isinstance(angle, Tensor) and angle.requires_grad:
        raise ValueError("angle requires a gradient, but it is a constant of this layer: pass angle.detach().")
    dy, dx = _taps_of(weight, angle, dilation, rounding)
    return oriented_conv1d_at(x, weight, torch.stack((dy, dx)).int(), bias, stride=stride, residual=residual)


def oriented_conv1d_at(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C, K)
    offsets: Tensor,  # int32 (2, C, K)
    bias: Tensor | None = None,  # (C,)
    *,
    stride: int | tuple[int, int] = 1,
    residual: bool = False,
) -> Tensor:  # (N, C, ceil(H / stride), ceil(W / stride))
    """`oriented_conv1d` with the geometry given: rows `offsets[0]`, columns `offsets[1]`, as `OrientedConv1d` holds it.

    Raises:
        TypeError, ValueError: as `oriented_conv1d` does.
    """
    stride = positive_pair("stride", stride)
    _check_channels(x, weight)
    channels, kernel_size = weight.shape
    if kernel_size < 1:
        raise ValueError("weight has no taps (K = 0): give it at least one column.")
    if offsets.dtype != torch.int32 or offsets.shape != (2, channels, kernel_size):
        raise ValueError(
            f"offsets must be int32 of shape {(2, channels, kernel_size)}, one angle per channel, but they are "
            f"{offsets.dtype} of shape {tuple(offsets.shape)}."
        )
    if bias is not None:
        floating_tensor("bias", bias, "(C,)")
        if bias.shape[0] != channels:
            raise ValueError(f"bias has {bias.shape[0]} entries but weight has {channels} rows: one entry per channel.")
    x, weight, bias = autocast(x, weight, bias)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            same_device(name, tensor, "x", x)
            same_dtype(name, tensor, "x", x)
    same_device("angle", offsets, "x", x)
    return ops.oriented_conv1d(x, weight, offsets, bias, stride, bool(residual))


def tap_offsets(
    kernel_size: int,
    angle: Tensor,  # (C,) radians
    *,
    dilation: int = 1,
    rounding: str = "trunc",
) -> tuple[Tensor, Tensor]:  # int64 (C, K) rows, int64 (C, K) columns
    """Pixels of the taps, relative to the output's position; rows grow downwards.

    With j = (s - K // 2) * dilation in float32 arithmetic: dy = round(-sin(angle) * j), dx = round(cos(angle) * j),
    where "trunc" rounds towards zero, as a C cast does, and "nearest" to the nearest integer, ties to even. At 0 the
    taps run from left to right, at pi / 2 from bottom to top. Truncation makes oblique lines shorter than K: with 3
    taps, all lines but horizontal and vertical ones are a single pixel.

    Raises:
        TypeError: `angle` is not a float32 or float64 tensor, `kernel_size` or `dilation` is no integer.
        ValueError: `angle` is not of shape (C,) or not finite, `kernel_size` or `dilation` is below 1, unknown
            rounding.

    Example:
        >>> dy, dx = tap_offsets(5, torch.tensor([math.pi / 4]))
        >>> dy.tolist(), dx.tolist()
        ([[1, 0, 0, 0, -1]], [[-1, 0, 0, 0, 1]])
    """
    positive_int("kernel_size K", kernel_size)
    positive_int("dilation", dilation)
    if rounding not in ("trunc", "nearest"):
        raise ValueError(f'rounding must be "trunc" or "nearest", but it is {rounding!r}.')
    check_angle(angle)
    return reference.tap_offsets(kernel_size, angle, dilation=dilation, rounding=rounding)


def _check_channels(x: Tensor, weight: Tensor) -> None:
    floating_tensor("x", x, "(N, C, H, W)")
    floating_tensor("weight", weight, "(C, K)")
    if x.shape[1] != weight.shape[0]:
        raise ValueError(
            f"x has {x.shape[1]} channels but weight has {weight.shape[0]} rows, as its shape is "
            f"{tuple(weight.shape)}: one row of taps per channel."
        )


def _taps_of(weight: Tensor, angle: Tensor, dilation: int, rounding: str) -> tuple[Tensor, Tensor]:
    _check_radians(angle)
    if angle.shape[0] != weight.shape[0]:
        raise ValueError(
            f"angle has shape {tuple(angle.shape)} but weight has {weight.shape[0]} rows: one angle per channel."
        )
    return tap_offsets(weight.shape[1], angle, dilation=dilation, rounding=rounding)


def check_angle(angle: Tensor) -> None:
    """Checks that `angle` is (C,), float32 or float64 and, where its values can be seen, finite."""
    _check_radians(angle)
    check_precision(angle)
    if _values_can_be_seen(angle) and not torch.isfinite(angle).all():
        channel = int(torch.nonzero(~torch.isfinite(angle))[0])
        raise ValueError(f"angle must be finite, but angle[{channel}] is {angle[channel].item()}.")


def _check_radians(angle: Tensor) -> None:
    if isinstance(angle, Tensor) and angle.dtype not in DTYPES:
        raise TypeError(
            f"angle must be in radians, float32 or float64, but it is {angle.dtype}: "
            "torch.deg2rad(angle) makes them from degrees."
        )
    floating_tensor("angle", angle, "(C,)")


def warn_of_degrees(angle: Tensor, stacklevel: int) -> None:
    """Warns where an angle is beyond a full turn, which nobody needs who means radians."""
    if _values_can_be_seen(angle) and (angle.abs() > 2 * math.pi).any():
        warnings.warn(
            f"angle is in radians, but its largest is {angle.abs().max().item():g}: use torch.deg2rad(...) on degrees.",
            stacklevel=stacklevel,
        )


def check_precision(angle: Tensor) -> None:
    """Refuses half precision: it misses pi / 2 by enough to move every tap of a vertical line."""
    if angle.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"angle is {angle.dtype}, too coarse for the taps' pixels: keep it in float32.")


def _values_can_be_seen(t: Tensor) -> bool:
    """Not while a graph is traced or captured, nor under `vmap`."""
    return not (
        torch.compiler.is_compiling()
        or t.is_meta
        or isinstance(t, torch._subclasses.FakeTensor)
        or torch._C._functorch.is_batchedtensor(t)
        or (t.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def rasterize(
    weight: Tensor,  # (C, K)
    angle: Tensor,  # (C,)
    *,
    dilation: int = 1,
    residual: bool = False,
    rounding: str = "trunc",
) -> Tensor:  # (C, 1, Kh, Kw), both odd
    """The dense kernel of the same convolution, in the smallest box that holds the lines of all channels.

    `F.conv2d(x, kernel, bias, stride, padding=(Kh // 2, Kw // 2), groups=C)` equals `oriented_conv1d`, tens of times
    slower. Taps that share a pixel are added; gradients reach `weight`.

    Raises:
        TypeError, ValueError: as `oriented_conv1d` does.

    Example:
        >>> rasterize(torch.ones(1, 5), torch.tensor([math.pi / 2])).shape
        torch.Size([1, 1, 5, 1])
    """
    floating_tensor("weight", weight, "(C, K)")
    dy, dx = _taps_of(weight, angle, dilation, rounding)
    same_device("angle", angle, "weight", weight)
    half_h, half_w = (int(d.abs().max()) if d.numel() else 0 for d in (dy, dx))
    height, width = 2 * half_h + 1, 2 * half_w + 1
    index = (dy + half_h) * width + dx + half_w
    kernel = weight.new_zeros(len(weight), height * width).scatter_add(1, index, weight)
    if residual:
        kernel = kernel + (torch.arange(height * width, device=weight.device) == height * width // 2).to(weight.dtype)
    return kernel.view(-1, 1, height, width)


def assign_angles(channels: int, directions: int = 8, offset: float = 0.0) -> Tensor:  # (C,) radians
    """The paper's rule: contiguous runs of channels share one of `directions` angles, evenly spread over half a turn.

    Args:
        channels: any number; runs differ by one channel where `directions` does not divide it.
        directions: 8 in all published networks.
        offset: turns all angles by this part of half a turn, modulo half a turn. The published networks use 0.5, a
            right angle, in every second block of a stage.

    Raises:
        TypeError, ValueError: `channels` or `directions` is no integer or below 1, `offset` is not finite.

    Example:
        >>> torch.rad2deg(assign_angles(4, directions=4)).tolist()
        [0.0, 45.0, 90.0, 135.0]
    """
    positive_int("channels", channels)
    positive_int("directions", directions)
    if not math.isfinite(offset):
        raise ValueError(f"offset must be finite, but it is {offset}.")
    runs = ((directions * (c + 1) - 1) // channels for c in range(channels))
    return torch.tensor([math.pi * ((run / directions + offset) % 1) for run in runs], dtype=torch.float32)
