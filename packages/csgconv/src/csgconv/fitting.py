"""Codes and generator from the kernels of a trained network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import functional
from .generator import SliceGenerator
from .layouts import table
from .least_squares import factorise
from .product import without_autocast


@torch.no_grad()
def fit_kernels_(generator: SliceGenerator, kernels: Sequence[Tensor]) -> list[float]:
    """Writes the codes, W and b into `generator` with which its kernels come closest to given ones.

    All layers are fitted together, each divided by the root mean square of its kernel, so that a weight of a layer of
    small ones counts as much as any; see :func:`csgconv.least_squares.factorise`. Elements of slices that reach no
    kernel do not count. A binary W stays what it is. Dead codes become 0. The search is deterministic but for the noise
    in columns beyond the rank, takes float64, and runs on the generator's device.

    Args:
        generator: with all its layers.
        kernels: finite, one for each of its layers, in their order.

    Returns:
        of each layer the norm of the change by that of the kernel.

    Raises:
        ValueError: kernels of other shapes.

    Example:
        >>> generator = csgconv.SliceGenerator(72, (12, 12, 3, 3))
        >>> layer = csgconv.CSGConv2d(64, 64, 3, generator)
        >>> fit_kernels_(generator, [torch.randn(64, 64, 3, 3)])[0] < 1e-5  # 36 slices need 36 columns
        True
    """
    shapes, wanted = [tuple(kernel.shape) for kernel in kernels], [layer.shape for layer in generator.layers]
    if shapes != wanted:
        raise ValueError(f"kernels must have shapes {wanted}, but they have {shapes}.")
    if not wanted:
        return []
    rows = [generator.rows(index)[0] for index in range(len(generator.layers))]
    live, size = rows[-1].stop, generator.weight.shape[0]
    numbers = table(generator.layers, [own.start for own in rows])
    scales = torch.stack([kernel.double().square().mean().sqrt() for kernel in kernels])
    scales = torch.where(scales > 0, scales, 1)
    flat = torch.cat([(kernel.double() / scale).flatten() for kernel, scale in zip(kernels, scales)])
    slices = functional.uncrop(flat, numbers, live, size)
    shown = functional.uncrop(torch.ones_like(flat), numbers, live, size) > 0
    by_row = scales.repeat_interleave(torch.tensor([len(own) for own in rows], device=scales.device))
    found = factorise(
        slices,
        shown,
        generator.code_size,
        constant=None if generator.bias is None else 1 / by_row,
        weight=generator.weight if generator.binary else None,
    )
    generator.codes.zero_()
    generator.codes[:live] = (found.codes * by_row[:, None]).to(generator.codes.dtype)
    if not generator.binary:
        generator.weight.copy_(found.weight)
    if generator.bias is not None:
        generator.bias.zero_() if found.bias is None else generator.bias.copy_(found.bias)
    with without_autocast(generator.codes):
        made = zip(generator.kernels(), kernels, scales)
    return [((new.double() - old.double()).norm() / scale / old.numel() ** 0.5).item() for new, old, scale in made]
