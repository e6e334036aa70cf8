"""Public functions: images read along paths, and the 1D convolutions that follow.

"One-dimensional Path Convolution", Xuanshu Luo and Martin Werner, ICML 2025.

`paths` is the same everywhere: the name of a preset, a `PathSet`, one `PathConfig` or a sequence of them, a tensor of
rows and columns (HW, 2) or (P, HW, 2), or the tables that `path_tables` makes of these.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._common.autograd import autocast
from ._common.checks import floating_tensor, integer, positive_int, same_device, same_dtype
from .ops import depthwise as depthwise_ops
from .ops import traverse as traverse_ops
from .reference import lies_last
from .tables import PathTables, image_size, path_tables

__all__ = ["PathTables", "depthwise_conv1d", "path_tables", "traverse", "traverse_conv1d", "untraverse"]


def traverse(
    x: Tensor,  # (N, C, H, W)
    paths: Any,
) -> Tensor:  # (N, P * C, H * W)
    """Reads an image along P paths, one behind the other (section 4.1).

        y[n, p * C + c, l] = x[n, c, row[p, l], column[p, l]]

    Values are copied, so every dtype gives exact results; autocast changes nothing. The output lies as (N, L, P * C)
    in memory where `x` is channels_last. Gradients of any order exist for `x`.

    Args:
        x: float32, float64, float16 or bfloat16; an empty batch too.
        paths: see the top of this page; its tables are made once per value, size and device.

    Raises:
        TypeError: `x` is not a floating-point tensor, or `paths` is nothing of the above.
        ValueError: wrong rank, or paths that do not visit each pixel of this size once.

    Example:
        >>> traverse(torch.randn(2, 3, 32, 32), "g").shape
        torch.Size([2, 9, 1024])
    """
    floating_tensor("x", x, "(N, C, H, W)")
    tables = _tables_of(x, paths)
    return traverse_ops.traverse(x, tables.index, tables.inverse, lies_last(x))


def untraverse(
    y: Tensor,  # (N, P * C, L)
    paths: Any,
    *,
    height: int | None = None,
    width: int | None = None,
) -> Tensor:  # (N, C, H, W)
    """Brings sequences back onto the image, the mean where P paths meet in a pixel.

        x[n, c, h, w] = 1 / P * sum_p y[n, p * C + c, position of pixel (h, w) in path p]

    So `untraverse(traverse(x, paths), paths)` is `x`, and P times `untraverse` is the adjoint of `traverse`. The output
    is channels_last where `y` lies as (N, L, P * C) in memory.

    Args:
        y: as `traverse` returns it.
        paths: those of `traverse`.
        height: of the image; needed with `width` where `paths` is a name or configurations and the image not square.
        width: of the image.

    Raises:
        TypeError, ValueError: as `traverse` does, or the channels are no multiple of P.

    Example:
        >>> untraverse(torch.randn(2, 9, 1024), "g").shape
        torch.Size([2, 3, 32, 32])
    """
    floating_tensor("y", y, "(N, P * C, L)")
    tables = path_tables(paths, *image_size(y.shape[2], paths, height, width), y.device)
    num_paths = len(tables.index)
    if tables.index.shape[1] != y.shape[2]:
        raise ValueError(
            f"y has {y.shape[2]} positions but the image has {tables.height} x {tables.width} pixels: pass its height "
            "and width."
        )
    if y.shape[1] % num_paths:
        raise ValueError(
            f"y has {y.shape[1]} channels but paths has {num_paths} paths: the channels must be a multiple of them."
        )
    if (height, width) not in ((None, None), (tables.height, tables.width)):
        raise ValueError(
            f"paths cover {tables.height} x {tables.width} pixels but height and width are {height} and {width}: leave "
            "them out, as these paths know their size."
        )
    same_device("paths", tables.index, "y", y)
    wide = y.float() if y.dtype == torch.float16 else y  # whose sums could leave its range
    total = traverse_ops.traverse_adjoint(
        wide, tables.index, tables.inverse, (tables.height, tables.width), lies_last(y)
    )
    return (total / num_paths).to(y.dtype)


def traverse_conv1d(
    x: Tensor,  # (N, C, H, W)
    paths: Any,
    weight: Tensor,  # (D, P * C) or (D, P * C, 1)
    bias: Tensor | None = None,  # (D,)
    *,
    channels_last: bool | None = None,
) -> Tensor:  # (N, D, H * W)
    """The traversal and a convolution of kernel size 1 behind it, at once: the sequences are never stored.

        y[n, o, l] = bias[o] + sum_{p, c} weight[o, p * C + c] * x[n, c, row[p, l], column[p, l]]

    Half precision is summed in float32. Gradients of any order exist for `x`, `weight` and `bias`.

    Args:
        x: as in `traverse`.
        paths: as in `traverse`.
        weight: in the dtype of `x`; that of `nn.Conv1d` and of `nn.Linear` both fit.
        bias: one number per output channel.
        channels_last: the output lies as (N, L, D) in memory, best for a norm or a linear layer over D; by default
            where `x` is channels_last.

    Raises:
        TypeError, ValueError: as `traverse` does; shapes, dtypes or devices that do not fit.

    Example:
        >>> traverse_conv1d(torch.randn(2, 3, 32, 32), "g", torch.randn(48, 9)).shape
        torch.Size([2, 48, 1024])
    """
    floating_tensor("x", x, "(N, C, H, W)")
    weight = _pointwise(weight)
    tables = _tables_of(x, paths)
    if weight.shape[1] != len(tables.index) * x.shape[1]:
        raise ValueError(
            f"weight has {weight.shape[1]} columns but x has {x.shape[1]} channels and paths has {len(tables.index)} "
            f"paths: one column per path and channel, {len(tables.index) * x.shape[1]}."
        )
    _check_bias(bias, weight.shape[0])
    x, weight, bias = autocast(x, weight, bias)
    _check_alike(x, weight, bias)
    last = lies_last(x) if channels_last is None else bool(channels_last)
    return traverse_ops.traverse_conv1d(x, tables.index, tables.inverse, weight, bias, last)


def depthwise_conv1d(
    x: Tensor,  # (N, C, L)
    weight: Tensor,  # (M * C, K), (M * C, 1, K) or (N, M * C, K)
    bias: Tensor | None = None,  # (M * C,)
    *,
    stride: int = 1,
    padding: int = 0,
) -> Tensor:  # (N, M * C, (L + 2 * padding - K) // stride + 1)
    """Depthwise 1D convolution with M outputs per channel, one kernel for all samples or each sample its own.

        y[n, c * M + m, l] = bias[c * M + m] + sum_k weight[n, c * M + m, k] * x[n, c, l * stride + k - padding]

    with zeros outside. It is `F.conv1d` with `groups=C`; kernels per sample also hold what scales each channel of each
    sample, such as `PathAwareECA`. Half precision is summed in float32. The output lies as (N, L, C) in memory where
    `x` does. Gradients of any order exist for `x`, `weight` and `bias`.

    Args:
        x: float32, float64, float16 or bfloat16; an empty batch too.
        weight: in the dtype of `x`; (M * C, 1, K) is the shape of `nn.Conv1d`, so a second dimension of 1 means that.
        bias: one number per output channel.
        stride: step along the sequence.
        padding: zeros at each end.

    Raises:
        TypeError: a tensor that is not floating point, dtypes that differ, a stride or padding that is no integer.
        ValueError: shapes or devices that do not fit, a kernel longer than the padded sequence.

    Example:
        >>> depthwise_conv1d(torch.randn(2, 48, 1024), torch.randn(96, 9), stride=2, padding=4).shape
        torch.Size([2, 96, 512])
    """
    floating_tensor("x", x, "(N, C, L)")
    weight = _kernels(x, weight)
    _check_bias(bias, weight.shape[1])
    stride, padding = positive_int("stride", stride), integer("padding", padding, 0)
    if weight.shape[2] > x.shape[2] + 2 * padding:
        raise ValueError(
            f"weight has {weight.shape[2]} taps but x has {x.shape[2]} positions and padding is {padding}: the kernel "
            "must fit into the padded sequence."
        )
    x, weight, bias = autocast(x, weight, bias)
    _check_alike(x, weight, bias)
    return depthwise_ops.depthwise_conv1d(x, weight, bias, stride, padding)


def _tables_of(x: Tensor, paths: Any) -> PathTables:
    height, width = x.shape[2:]
    tables = paths if isinstance(paths, PathTables) else path_tables(paths, height, width, x.device)
    if tables.height != height or tables.width != width:
        raise ValueError(
            f"paths cover {tables.height} x {tables.width} pixels but x has {height} x {width}: make paths "
            "for the size of x."
        )
    same_device("paths", tables.index, "x", x)
    return tables


def _pointwise(weight: Tensor) -> Tensor:
    """(D, P * C) of either shape."""
    if isinstance(weight, Tensor) and weight.dim() == 3 and weight.shape[2] == 1:
        weight = weight[:, :, 0]
    floating_tensor("weight", weight, "(D, P * C)")
    return weight


def _kernels(x: Tensor, weight: Tensor) -> Tensor:
    """(B, M * C, K) with B = 1 or N of any of the three shapes."""
    if isinstance(weight, Tensor) and weight.dim() == 3:
        floating_tensor("weight", weight, "(N, M * C, K)")
        if weight.shape[1] == 1:
            weight = weight.transpose(0, 1)
        elif weight.shape[0] != x.shape[0]:
            raise ValueError(
                f"weight has kernels for {weight.shape[0]} samples, as its shape is {tuple(weight.shape)}, but x has "
                f"{x.shape[0]}: pass (M * C, K), (M * C, 1, K) or (N, M * C, K)."
            )
    else:
        floating_tensor("weight", weight, "(M * C, K)")
        weight = weight[None]
    if x.shape[1] == 0 or weight.shape[1] % x.shape[1] or weight.shape[1] == 0:
        raise ValueError(
            f"weight has {weight.shape[1]} kernels but x has {x.shape[1]} channels: their number must be a multiple of "
            "the channels."
        )
    if weight.shape[2] < 1:
        raise ValueError("weight has no taps (K = 0): give it at least one column.")
    return weight


def _check_bias(bias: Tensor | None, channels: int) -> None:
    if bias is not None:
        floating_tensor("bias", bias, "(D,)")
        if bias.shape[0] != channels:
            raise ValueError(f"bias has {bias.shape[0]} entries but weight has {channels} rows: one entry per row.")


def _check_alike(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            same_device(name, tensor, "x", x)
            same_dtype(name, tensor, "x", x)
