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


LOW = 2**32 - 1
FACTOR, MIX, COLUMNS, STEPS = 0x9E3779B1, (0x85EBCA6B, 0xC2B2AE35), 64, 64
LAST = 0x9FB21C651E98DF25


def checksum(codes: Tensor, weight: Tensor, bias: Tensor | None) -> int:
    """64 bits that change when one word of 32 bits does, and else stay with a chance of about 2^-32: of bytes, not
    numbers.

    The words, zeros after the last, go in columns of 64, of which each has a state h that starts with its number c:

        h = (c + 1) FACTOR,    h <- h ^ word,  h <- (h ^ h >> 15) FACTOR for each of its words       modulo 2^32

    The states of all columns, well mixed, are added up.
    """
    total = 0
    for t in (codes, weight, bias):
        if t is None:
            continue
        data = t.detach().contiguous().view(-1).view(torch.uint8)
        size, block = data.numel(), COLUMNS * STEPS * 4
        words = F.pad(data, (0, -size % block)).view(torch.int32).view(-1, STEPS, COLUMNS).to(torch.int64) & LOW
        count = words.shape[0] * COLUMNS
        state = (torch.arange(1, count + 1, device=t.device) * FACTOR & LOW).view(-1, COLUMNS)
        for step in range(STEPS):
            state = state ^ words[:, step]
            state = (state ^ state >> 15) * FACTOR & LOW
        for shift, factor in zip((16, 13), MIX):
            state = (state ^ state >> shift) * factor & LOW
        sum_ = int((state ^ state >> 16).sum())
        total = (total ^ sum_) + LAST * size & 2**64 - 1
        for shift in (32, 29):
            total = (total ^ total >> shift) * LAST & 2**64 - 1
        total ^= total >> 32
    return (total + 2**63) % 2**64 - 2**63  # with a sign, as the op has it
