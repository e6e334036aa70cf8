"""Where the elements of a kernel lie in the slices that make it.

A slice is P = S0 * S1 * sh * sw numbers; a layer with kernels of shape (O, I / groups, kh, kw) owns N slices, one after
another. With T = kh * kw, I for I / groups, and blocks of B0 x B1 filter planes, element (o, i, t) is number

    start + (((o // B0) * ceil(I / B1) + i // B1) * B0 * B1 + (o % B0) * B1 + i % B1) * T + t

of all slices, where `start` is P times the layer's first slice. Three layouts choose the blocks:

    raster  B0 = 1, B1 = ceil(I / S1) * S1   the authors' row-major reshape and crop; N = ceil(O / S0) * ceil(I / S1)
    flat    B0 = 1, B1 = I                   one run of numbers; N = ceil(O * I * T / P)
    tile    B0 = S0, B1 = S1                 blocks of S0 output by S1 input channels; N as of raster

In "raster" a slice is a run of S0 * S1 filter planes, a block only where I <= S1, and the last slices can lie beyond
the kernel: their codes are dead. The authors count slices as ceil(I / S0) * ceil(O / S1) and reshape to ceil(O / S0) *
S0 by ceil(I / S1) * S1 planes, which agree where S0 = S1, as in all their networks; here both go by the latter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from ._common.checks import positive_int

LAYOUTS = ("raster", "flat", "tile")
ENTRIES = 6  # numbers of a layer in a table: start, O, I, T, B0, B1


@dataclass(frozen=True)
class Layer:
    """The kernels of one layer and how slices make them.

    Args:
        shape: of the kernels, (O, I / groups, kh, kw).
        slice_shape: (S0, S1, sh, sw).
        layout: "raster", "flat" or "tile".
        groups: of the convolution.

    Raises:
        TypeError, ValueError: sizes that are no positive integers, an unknown layout, kernels that it cannot make.
    """

    shape: tuple[int, int, int, int]
    slice_shape: tuple[int, int, int, int]
    layout: str = "raster"
    groups: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", four_sizes("shape", self.shape))
        object.__setattr__(self, "slice_shape", four_sizes("slice_shape", self.slice_shape))
        check_layout(self.layout)
        if self.layout == "flat":
            return
        if self.shape[2:] != self.slice_shape[2:]:
            (kh, kw), (sh, sw) = self.shape[2:], self.slice_shape[2:]
            raise ValueError(
                f'layout "{self.layout}" makes kernels as large as the slices, {sh} x {sw}, but kernel_size is '
                f'{kh} x {kw}: layout="flat" makes any.'
            )
        if self.groups != 1:
            raise ValueError(
                f'layout "{self.layout}" makes kernels of one group, but groups={self.groups}: layout="flat" makes any.'
            )

    @property
    def numel(self) -> int:
        """Elements of the kernels."""
        return prod(self.shape)

    @property
    def taps(self) -> int:
        """T."""
        return self.shape[2] * self.shape[3]

    @property
    def blocks(self) -> tuple[int, int]:
        """B0 and B1."""
        _, planes = self.shape[:2]
        if self.layout == "flat":
            return 1, planes
        if self.layout == "raster":
            return 1, -(-planes // self.slice_shape[1]) * self.slice_shape[1]
        return self.slice_shape[:2]

    @property
    def rows(self) -> int:
        """N, slices of the layer."""
        if self.layout == "flat":
            return -(-self.numel // prod(self.slice_shape))
        return -(-self.shape[0] // self.slice_shape[0]) * -(-self.shape[1] // self.slice_shape[1])

    @property
    def span(self) -> int:
        """Numbers from the first element of the kernels to the last one."""
        return entry_span(self.entry(0))

    @property
    def live(self) -> int:
        """Slices, the first ones, that reach the kernels."""
        return -(-self.span // prod(self.slice_shape))

    @property
    def contiguous(self) -> bool:
        """Whether the kernels are the first numbers of the slices as they lie."""
        rows, columns = self.blocks
        return self.span == self.numel and (rows == 1 or self.shape[1] <= columns)

    def entry(self, first_row: int) -> tuple[int, ...]:
        """The layer in a table, its slices from `first_row` on."""
        return (first_row * prod(self.slice_shape), self.shape[0], self.shape[1], self.taps, *self.blocks)


def table(layers: Iterable[Layer], first_rows: Iterable[int] | None = None) -> list[int]:
    """What `csgconv::crop` reads: six numbers a layer. By default each layer's slices follow those of the one before.

    Example:
        >>> table([Layer((16, 16, 3, 3), (12, 12, 3, 3))])
        [0, 16, 16, 9, 1, 24]
    """
    layers = list(layers)
    if first_rows is None:
        first_rows = [sum(layer.rows for layer in layers[:i]) for i in range(len(layers))]
    return [number for layer, row in zip(layers, first_rows) for number in layer.entry(row)]


def entries(numbers: Sequence[int]) -> list[tuple[int, ...]]:
    """A table by layers."""
    return [tuple(numbers[i : i + ENTRIES]) for i in range(0, len(numbers), ENTRIES)]


def entry_span(entry: Sequence[int]) -> int:
    """Numbers from the start of a layer to its last element."""
    _, o, i, taps, rows, columns = entry
    if not o * i * taps:
        return 0
    block = (o - 1) // rows * -(-i // columns) + (i - 1) // columns
    return (block * rows * columns + (o - 1) % rows * columns + (i - 1) % columns + 1) * taps


def check_table(numbers: Sequence[int], size: int) -> None:
    """Checks that a table describes layers in `size` numbers, each behind the one before.

    Raises:
        ValueError: it does not.
    """
    if len(numbers) % ENTRIES:
        raise ValueError(f"layers must hold {ENTRIES} numbers a layer, but there are {len(numbers)}.")
    end = 0
    for n, entry in enumerate(entries(numbers)):
        if min(entry) < 0 or min(entry[4:]) < 1:
            raise ValueError(f"layers must hold sizes, and blocks of at least 1, but layer {n} is {entry}.")
        if entry[0] < end:
            raise ValueError(f"layers must follow each other, but layer {n} starts at {entry[0]}, before {end}.")
        end = entry[0] + entry_span(entry)
        if end > size:
            raise ValueError(f"layer {n} of layers ends at {end}, but there are {size} numbers in the slices.")


def check_layout(layout: Any) -> None:
    """Checks that `layout` is one of the three."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, but it is {layout!r}.")


def four_sizes(name: str, value: Any) -> tuple[int, int, int, int]:
    """`value` as four positive integers.

    Raises:
        TypeError: no sequence, or not of integers.
        ValueError: not four, or below 1.
    """
    wanted = f"{name} must be four integers of at least 1, such as (12, 12, 3, 3), but it is {value!r}."
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(wanted)
    if len(value) != 4 or 0 in value:
        raise ValueError(wanted)
    a, b, c, d = (positive_int(f"each of {name}={value!r}", size) for size in value)
    return a, b, c, d
