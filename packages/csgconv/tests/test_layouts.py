"""Where elements lie in slices: the published reshape and crop, true blocks, contiguous runs."""

from __future__ import annotations

import pytest
import torch

from csgconv import reference
from csgconv.layouts import Layer, check_table, table

SHAPES = [(16, 16, 3, 3), (32, 16, 3, 3), (64, 64, 3, 3), (12, 144, 3, 3), (5, 3, 3, 3), (7, 30, 3, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_raster_is_the_published_reshape_and_crop(shape):
    (o, i), s, k = shape[:2], 12, 3
    layer = Layer(shape, (s, s, k, k))
    slices = torch.arange(layer.rows * s * s * k * k)
    across, down = -(-o // s) * s, -(-i // s) * s
    wanted = slices.view(across, down, k, k)[:o, :i, :k, :k]  # as the authors' networks do
    where = reference.positions(table([layer]))
    assert torch.equal(where.view(shape), wanted)
    assert layer.rows == -(-i // s) * -(-o // s)
    assert layer.live == int(where.max()) // (s * s * k * k) + 1
    assert layer.contiguous == (i % s == 0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tile_is_made_of_blocks(shape):
    o, i, s = *shape[:2], (4, 6, 3, 3)
    layer = Layer(shape, s, "tile")
    slices = torch.arange(layer.rows * 4 * 6 * 9).view(-1, *s)
    across = -(-i // 6)
    wanted = torch.cat([torch.cat(list(slices[n : n + across]), 1) for n in range(0, layer.rows, across)])[:o, :i]
    assert torch.equal(reference.positions(table([layer])).view(shape), wanted)
    assert layer.live == layer.rows


def test_flat_is_one_run():
    layer = Layer((8, 2, 5, 7), (4, 4, 3, 3), "flat", groups=3)
    assert torch.equal(reference.positions(table([layer])), torch.arange(8 * 2 * 5 * 7))
    assert (layer.rows, layer.live, layer.contiguous) == (4, 4, True)


def test_codes_of_the_paper_networks():
    """Dossier counts of ResNet-56 12-72: 861 rows, 105 of them dead."""
    shapes = [(c, i, 3, 3) for c, first in ((16, 16), (32, 16), (64, 32)) for i in (first, *[c] * 17)]
    layers = [Layer(shape, (12, 12, 3, 3)) for shape in shapes]
    assert sum(layer.rows for layer in layers) == 861
    assert sum(layer.rows - layer.live for layer in layers) == 105
    assert all(layer.live == layer.rows for layer in (Layer(shape, (16, 16, 3, 3)) for shape in shapes))
    assert sum(Layer(shape, (12, 12, 3, 3), "flat").rows for shape in shapes) * 72 == 49_248


@pytest.mark.parametrize("layout", ["raster", "tile"])
@pytest.mark.parametrize("slice_shape", [(2, 4, 1, 1), (4, 2, 1, 1), (1, 3, 1, 1), (3, 1, 1, 1)], ids=str)
def test_no_element_is_shared_and_contiguous_ones_are(layout, slice_shape):
    size = slice_shape[0] * slice_shape[1]
    for o in range(1, 8):
        for i in range(1, 8):
            layer = Layer((o, i, 1, 1), slice_shape, layout)
            where = reference.positions(table([layer]))
            assert where.unique().numel() == o * i
            assert layer.span == int(where.max()) + 1 <= layer.live * size <= layer.rows * size
            assert layer.contiguous == torch.equal(where, torch.arange(o * i))


def test_layers_follow_each_other_in_a_table():
    layers = [Layer((16, 16, 3, 3), (12, 12, 3, 3)), Layer((4, 4, 3, 3), (12, 12, 3, 3), "tile")]
    assert table(layers) == [0, 16, 16, 9, 1, 24, 4 * 1296, 4, 4, 9, 12, 12]
    assert table(layers, [0, 3])[6] == 3 * 1296
    check_table(table(layers, [0, 3]), 4 * 1296)
    with pytest.raises(ValueError, match="before"):
        check_table(table(layers, [0, 2]), 4 * 1296)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shape": (4, 4, 5, 5)}, 'layout "raster" makes kernels as large as the slices, 3 x 3, .* 5 x 5'),
        ({"layout": "tile", "shape": (4, 4, 1, 1)}, '"tile" makes kernels as large'),
        ({"groups": 2}, "groups=2.*flat"),
        ({"layout": "rows"}, "layout must be one of raster, flat, tile, but it is 'rows'"),
        ({"slice_shape": (12, 12, 3)}, "slice_shape must be four integers"),
        ({"shape": (0, 4, 3, 3)}, "^shape must be four integers of at least 1"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_kernels_that_cannot_be_made(options, says):
    with pytest.raises(ValueError, match=says):
        Layer(**{"shape": (4, 4, 3, 3), "slice_shape": (12, 12, 3, 3), **options})
