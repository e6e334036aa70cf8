"""Public functions: kernels from codes, and the two copies between slices and kernels.

"Associative Convolutional Layers", Hamed Omidvar, Vahideh Akhlaghi, Hao Su, Massimo Franceschetti and Rajesh Gupta,
AISTATS 2021, https://arxiv.org/abs/1906.04309.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops, reference
from ._common.autograd import autocast
from ._common.checks import floating_tensor, integer, same_device, same_dtype
from .layouts import Layer, check_table, four_sizes, table


def generate(
    codes: Tensor,  # (rows, d)
    weight: Tensor,  # (P, d)
    shapes: Sequence[Sequence[int]],
    *,
    slice_shape: Sequence[int],
    layout: str = "raster",
    bias: Tensor | None = None,  # (P,)
) -> tuple[Tensor, ...]:
    """Kernels of several layers by one product of their codes and the generator.

        S = codes weight^T (+ bias)    (rows, P)

    of which each layer reads its own rows as `layout` says: see :mod:`csgconv.layouts`. Autocast chooses the dtype of
    product and kernels. Gradients of any order exist for `codes`, `weight` and `bias`.

    Args:
        codes: each layer's rows after those of the layer before.
        weight: the generator, for slices of P = S0 * S1 * sh * sw numbers.
        shapes: of the kernels, (O, I / groups, kh, kw) each.
        slice_shape: (S0, S1, sh, sw).
        layout: "raster", as published, "flat" or "tile".
        bias: one number per element of a slice.

    Returns:
        the kernels, in the order of `shapes`.

    Raises:
        TypeError: a tensor that is not floating point, dtypes that differ, sizes that are no integers.
        ValueError: shapes or devices that do not fit, an unknown layout, kernels that it cannot make.

    Example:
        >>> codes, weight = torch.randn(13, 72), torch.randn(1296, 72)
        >>> kernels = generate(codes, weight, [(16, 16, 3, 3), (32, 32, 3, 3)], slice_shape=(12, 12, 3, 3))
        >>> [tuple(kernel.shape) for kernel in kernels]
        [(16, 16, 3, 3), (32, 32, 3, 3)]
    """
    size = four_sizes("slice_shape", slice_shape)
    layers = [Layer(four_sizes("shape", shape), size, layout) for shape in shapes]
    _check_generator(codes, weight, bias, size)
    rows = sum(layer.rows for layer in layers)
    if codes.shape[0] != rows:
        raise ValueError(f"codes has {codes.shape[0]} rows, but the kernels of shapes take {rows}.")
    codes, weight, bias = autocast(codes, weight, bias)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            same_dtype(name, tensor, "codes", codes)
    numbers, flat = table(layers), F.linear(codes, weight, bias)
    return tuple(kernel.view(layer.shape) for kernel, layer in zip(cropped(flat, layers, numbers), layers, strict=True))


def crop(slices: Tensor, layers: Sequence[int]) -> Tensor:  # (rows, P) -> (elements of all kernels,)
    """Kernels out of slices, one after another: a copy.

    Args:
        slices: of any strides.
        layers: six numbers a layer, as :func:`csgconv.layouts.table` makes them; layers may leave gaps, not overlap.

    Raises:
        TypeError: `slices` is no floating-point tensor, `layers` no integers.
        ValueError: layers that are not in the slices.

    Example:
        >>> numbers = csgconv.layouts.table([csgconv.layouts.Layer((16, 16, 3, 3), (12, 12, 3, 3))])
        >>> crop(torch.randn(4, 1296), numbers).shape
        torch.Size([2304])
    """
    floating_tensor("slices", slices, "(rows, P)")
    numbers = _numbers(layers)
    check_table(numbers, slices.numel())
    return reference.crop(slices, numbers) if torch.onnx.is_in_onnx_export() else ops.crop(slices, numbers)


def uncrop(kernels: Tensor, layers: Sequence[int], rows: int, size: int) -> Tensor:  # (elements,) -> (rows, size)
    """The adjoint of `crop`: kernels back in slices, zeros where there is none.

    Args:
        kernels: one after another.
        layers: as for `crop`.
        rows: slices.
        size: P.

    Raises:
        TypeError, ValueError: as `crop`, and where `kernels` does not hold the elements of all layers.
    """
    floating_tensor("kernels", kernels, "(elements,)")
    numbers, rows, size = _numbers(layers), integer("rows", rows, 0), integer("size", size, 0)
    check_table(numbers, rows * size)
    if kernels.numel() != ops.elements(numbers):
        raise ValueError(f"kernels has {kernels.numel()} elements, but those of layers are {ops.elements(numbers)}.")
    return ops.uncrop(kernels, numbers, rows, size)


def cropped(slices: Tensor, layers: Sequence[Layer], numbers: Sequence[int]) -> tuple[Tensor, ...]:
    """The kernels of each layer, flat: views where all lie in `slices` one after another, else of one copy."""
    sizes = [layer.numel for layer in layers]
    if all(layer.contiguous for layer in layers):
        ends = [*numbers[6::6], slices.numel()]
        parts = slices.reshape(-1).split([end - start for start, end in zip(numbers[::6], ends)])
        return tuple(part[:size] for part, size in zip(parts, sizes))
    copy = reference.crop if torch.onnx.is_in_onnx_export() else ops.crop
    return copy(slices, numbers).split(sizes)


def _check_generator(codes: Any, weight: Any, bias: Any, slice_shape: tuple[int, ...]) -> None:
    floating_tensor("codes", codes, "(rows, d)")
    floating_tensor("weight", weight, "(P, d)")
    if weight.shape != (prod(slice_shape), codes.shape[1]):
        raise ValueError(
            f"weight must have shape {(prod(slice_shape), codes.shape[1])} for slices of shape {slice_shape} and codes "
            f"of {codes.shape[1]} numbers, but it has shape {tuple(weight.shape)}."
        )
    same_device("weight", weight, "codes", codes)
    if bias is not None:
        floating_tensor("bias", bias, "(P,)")
        if bias.shape[0] != weight.shape[0]:
            raise ValueError(f"bias has {bias.shape[0]} entries but weight has {weight.shape[0]} rows.")
        same_device("bias", bias, "codes", codes)


def _numbers(layers: Any) -> list[int]:
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        raise TypeError(f"layers must be a list of integers, but it is a {type(layers).__name__}.")
    return [integer("layers", number, 0) for number in layers]
