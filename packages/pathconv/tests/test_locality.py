"""The measure of section 3.1 against its definition, table 1 and the sets of tables 2 and 10."""

from __future__ import annotations

import pytest
import torch

from pathconv.locality import distances, raster_distances
from pathconv.paths import PathConfig, PathSet, generate, locality, preset, preset_set

# side: raster, then total, better and tied of Hilbert and Z-order
TABLE_1 = {
    4: (264, (264, 12, None), (248, 8, 4)),
    8: (2576, (2712, 46, None), (2400, 40, 2)),
    16: (22560, (24920, 182, None), (21296, 188, None)),
    32: (188480, (215640, 810, 2), (180944, 764, None)),
    64: (1540224, (1803864, 3316, None), (1499664, 3332, None)),
    128: (12452096, (14800472, 14174, 8), (12247184, 13844, None)),
    256: (100139520, (120100440, 58352, None), (99147152, 58436, None)),
}

# (name, side): cost and better pixels per path, all with every pixel covered
SETS = {
    ("g", 32): (686166, [810, 770, 760]),
    ("g", 64): (5626494, [3316, 3316, 3287]),
    ("z", 32): (576988, [770, 736, 747]),
    ("z", 64): (4771756, [3276, 3197, 3278]),
    ("mg", 32): (1378746, [810, 771, 760, 768, 775, 772]),
    ("mg", 64): (11195430, [3316, 3286, 3299, 3286, 3282, 3286]),
    ("mz", 32): (1197360, [764, 770, 736, 747, 780, 758]),
    ("mz", 64): (10301368, [3332, 3276, 3197, 3278, 3239, 3220]),
    ("g", 224): (245831552, [44106, 44224, 44231]),
    ("z", 224): (204649852, [45026, 44415, 44424]),
}


# Ours: cost, with every pixel covered.
CHEAPER = {
    ("g*", 32): 674834,
    ("g*", 64): 5577018,
    ("g*", 224): 243707902,
    ("z*", 32): 574652,
    ("z*", 64): 4759644,
    ("z*", 224): 204494148,
}


def by_definition(path, height, width):
    position = {tuple(pixel): t for t, pixel in enumerate(path.tolist())}
    around = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]
    return [
        [
            sum(
                abs(position[row, column] - position[row + down, column + right])
                for down, right in around
                if (row + down, column + right) in position
            )
            for column in range(width)
        ]
        for row in range(height)
    ]


@pytest.mark.parametrize("height, width", [(1, 1), (1, 6), (6, 1), (2, 2), (5, 7), (9, 4)])
def test_distances_are_the_definition(height, width):
    for curve in ("raster", "serpentine", "hilbert", "zorder"):
        path = generate(height, width, curve)
        assert distances(path, height, width).tolist() == by_definition(path, height, width)


def test_distances_of_a_set_are_those_of_its_paths():
    path = preset("g", 32, 32)
    together = distances(path, 32, 32)
    assert together.dtype == torch.int64
    assert torch.equal(together, torch.stack([distances(one, 32, 32) for one in path]))


@pytest.mark.parametrize("height, width", [(1, 1), (1, 6), (6, 1), (2, 2), (2, 9), (5, 7), (32, 32), (40, 3)])
def test_raster_in_closed_form(height, width):
    assert torch.equal(raster_distances(height, width), distances(generate(height, width, "raster"), height, width))


@pytest.mark.parametrize("side", [2, 8, 32, 64])
def test_total_of_the_raster(side):
    assert raster_distances(side, side).sum() == 2 * side * (side - 1) * (3 * side - 1)


@pytest.mark.parametrize("side", TABLE_1)
def test_table_1(side):
    raster, *rows = TABLE_1[side]
    for curve, (total, better, tied) in zip(("hilbert", "zorder"), rows):
        measured = locality(PathConfig(curve), side, side)
        assert measured.raster.sum() == raster
        assert (measured.total.item(), measured.better.item()) == (total, better)
        assert measured.sacrificed.item() == side * side - better
        assert measured.share.item() == better / side**2
        if tied is not None:
            assert measured.tied.item() == tied


def test_hilbert_224():
    measured = locality("og", 224, 224)
    assert (measured.cost, measured.better.item(), measured.tied.item()) == (80438496, 44096, 34)


def test_worst_pixels():
    assert distances(generate(32, 32, "hilbert"), 32, 32).max() == 2560
    assert distances(generate(32, 32, "zorder"), 32, 32).max() == 1542
    assert raster_distances(32, 32).max() == 194


@pytest.mark.parametrize("name, side", SETS)
def test_published_sets(name, side):
    cost, better = SETS[name, side]
    measured = locality(name, side, side)
    assert measured.cost == preset_set(name, side, side).cost == cost
    assert measured.better.tolist() == better
    assert measured.coverage == 1.0 and measured.union.all()


@pytest.mark.parametrize("name, side", CHEAPER)
def test_our_sets_are_cheaper(name, side):
    ours, published = preset_set(name, side, side), preset_set(name[0], side, side)
    assert ours.cost == ours.bound == CHEAPER[name, side] < published.cost
    assert ours.proven and ours.coverage == 1.0 and ours.num_paths == published.num_paths == 3


def test_figure_4():
    """16 x 16: a window of a curve of side 22 gains 51 pixels that the plain curve loses."""
    measured = locality([PathConfig("hilbert"), PathConfig("hilbert", 6, (1, 5))], 16, 16)
    assert measured.better.tolist() == [182, 164] and measured.total[1] == 29940
    assert measured.union.sum() == 233
    assert (measured.mask[1] & ~measured.mask[0]).sum() == 51


def test_a_set_that_misses_pixels():
    configs = [PathConfig("hilbert"), PathConfig("hilbert", 5, (4, 4), 270), PathConfig("hilbert", 5, (2, 2))]
    measured = locality(configs, 224, 224)
    assert measured.union.sum() == 49656
    assert PathSet.of(configs, 224, 224).coverage == measured.coverage == pytest.approx(49656 / 50176)


def test_rotation_turns_the_map():
    plain = locality(PathConfig("hilbert", 6, (1, 5)), 16, 16)
    for quarters in range(1, 4):
        turned = locality(PathConfig("hilbert", 6, (1, 5), 90 * quarters), 16, 16)
        assert torch.equal(turned.distances, torch.rot90(plain.distances, quarters, (1, 2)))


def test_ties_count_as_sacrificed():
    measured = locality("r", 8, 8)
    assert measured.better.item() == 0
    assert measured.tied.item() == measured.sacrificed.item() == 64
    assert measured.coverage == 0
