"""The formulas in plain, differentiable torch: oracle, fallback and documentation.

"Associative Convolutional Layers", Omidvar, Akhlaghi, Su, Franceschetti and Gupta, AISTATS 2021: one linear generator W
(P, d) writes all kernels of a network in slices of P numbers, one for each code, a row of C (rows, d):

    S = C W^T (+ b)    (rows, P)

`layouts` tells which numbers of S are the kernel of a layer. `crop` picks these out and `uncrop` puts them back, zeros
elsewhere: each is the other's adjoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .layouts import Layer, check_table, entries, four_sizes, table


def generate(
    codes: Tensor,  # (rows, d)
    weight: Tensor,  # (P, d)
    shapes: Sequence[Sequence[int]],
    *,
    slice_shape: Sequence[int],
    layout: str = "raster",
    bias: Tensor | None = None,  # (P,)
) -> tuple[Tensor, ...]:
    """The same as `functional.generate`."""
    layers = [Layer(four_sizes("shape", shape), four_sizes("slice_shape", slice_shape), layout) for shape in shapes]
    kernels = crop(F.linear(codes, weight, bias), table(layers)).split([layer.numel for layer in layers])
    return tuple(kernel.view(layer.shape) for kernel, layer in zip(kernels, layers))


def crop(slices: Tensor, layers: Sequence[int]) -> Tensor:  # (rows, P) -> (elements of all kernels,)
    """Kernels out of slices, one after another."""
    check_table(layers, slices.numel())
    flat = slices.reshape(-1)
    parts = []
    for start, o, i, taps, rows, columns in entries(layers):
        down, across = -(-o // rows), -(-i // columns)
        size = down * across * rows * columns * taps
        part = flat[start : start + size]  # whole blocks, of which the last may be cut short
        part = F.pad(part, (0, size - part.shape[0])) if part.shape[0] < size else part
        planes = part.view(down, across, rows, columns, taps).transpose(1, 2)
        parts.append(planes.reshape(down * rows, across * columns, taps)[:o, :i].reshape(-1))
    return torch.cat(parts) if parts else flat.new_empty(0)


def uncrop(kernels: Tensor, layers: Sequence[int], rows: int, size: int) -> Tensor:  # (elements,) -> (rows, size)
    """Kernels back in slices, zeros where there is none."""
    check_table(layers, rows * size)
    where = positions(layers, kernels.device)
    if kernels.numel() != where.numel():
        raise ValueError(f"kernels has {kernels.numel()} elements, but those of layers are {where.numel()}.")
    return kernels.new_zeros(rows * size).index_copy(0, where, kernels).view(rows, size)


def positions(layers: Sequence[int], device: torch.device | str | None = None) -> Tensor:  # (elements,)
    """The number, in all slices, of every element of the kernels."""
    found = [torch.empty(0, dtype=torch.int64, device=device)]
    for start, outputs, inputs, taps, rows, columns in entries(layers):
        o = torch.arange(outputs, device=device)[:, None, None]
        i = torch.arange(inputs, device=device)[:, None]
        t = torch.arange(taps, device=device)
        block = o // rows * -(-inputs // columns) + i // columns
        found.append((start + (block * rows * columns + o % rows * columns + i % columns) * taps + t).view(-1))
    return torch.cat(found)
