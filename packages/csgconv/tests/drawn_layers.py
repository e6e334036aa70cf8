"""Tables of layers for the tests of the kernels."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from csgconv.layouts import Layer, entry_span, table

# Shapes of kernels (O, I, kh, kw), shape of slices, layout; slices in front of the first layer.
NETWORKS = {
    "published": (([(16, 16, 3, 3), (32, 16, 3, 3), (3, 5, 3, 3)], (12, 12, 3, 3), "raster"), 0),
    "tiles": (([(16, 16, 3, 3), (24, 12, 3, 3), (7, 30, 3, 3)], (12, 12, 3, 3), "tile"), 2),
    "oblong tiles": (([(10, 9, 1, 1), (3, 16, 1, 1)], (4, 8, 1, 1), "tile"), 0),
    "one run each": (([(8, 1, 5, 5), (16, 16, 3, 3), (2, 2, 1, 1)], (4, 4, 3, 3), "flat"), 1),
    "whole blocks": (([(8, 8, 3, 3), (16, 8, 3, 3), (4, 16, 3, 3)], (8, 8, 3, 3), "tile"), 0),
    "many layers": (([(3, 2, 3, 3), (4, 4, 3, 3), (5, 4, 3, 3)] * 50, (4, 4, 3, 3), "raster"), 1),
    "nothing": (([], (4, 4, 3, 3), "raster"), 3),
}


def network(name: str) -> tuple[list[int], int, int]:
    """A table, the rows of the slices with one behind the last layer, and their size."""
    (shapes, slice_shape, layout), row = NETWORKS[name]
    layers, first = [Layer(shape, slice_shape, layout) for shape in shapes], []
    for layer in layers:
        first.append(row)
        row += layer.rows
    return table(layers, first), row + 1, prod(slice_shape)


def draw_table(number: Callable[[int, int], int]) -> tuple[list[int], int, int]:
    """The same of layers that no network has: any blocks, any gaps, layers of nothing."""
    numbers, end = [], number(0, 1) * number(0, 40)
    for _ in range(number(0, 4)):
        inputs = number(0, 9)
        columns = max(inputs, 1) if number(0, 1) else number(1, 12)
        entry = [end, number(0, 9), inputs, (1, 2, 9)[number(0, 2)], (1, 1, 2, 3, 12)[number(0, 4)], columns]
        numbers += entry
        end += entry_span(entry) + number(0, 1) * number(0, 30)
    size = number(1, 30)
    return numbers, -(-end // size) + number(0, 2), size
