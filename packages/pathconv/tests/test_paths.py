"""The orders in which pixels are read: the published ones, what holds for every curve, and sets as values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import re
import time

import pytest
import torch

from pathconv import paths
from pathconv.paths import (
    CURVES,
    PRESETS,
    PathConfig,
    PathSet,
    generate,
    inverse,
    preset,
    preset_set,
    resolve,
    to_index,
)

# The first sixteen pixels of the authors' 8 x 8 paths, row and column.
FIRST = {
    "raster": "07 06 05 04 03 02 01 00 17 16 15 14 13 12 11 10",
    "hilbert": "00 01 11 10 20 30 31 21 22 32 33 23 13 12 02 03",
    "zorder": "07 06 17 16 05 04 15 14 27 26 37 36 25 24 35 34",
}
LAST = {"raster": [7, 0], "hilbert": [7, 0], "zorder": [7, 0]}

# SHA-256 of the authors' orders as int32 (P, HW, 2), from their rules executed literally, pixel by pixel.
PUBLISHED = {
    ("r", 8): "864703f22794722a",
    ("r", 28): "df136a3d39711986",
    ("r", 32): "6c4dee30e2c22a87",
    ("r", 64): "26eaf51cc8364e54",
    ("r", 224): "5916104eb063bc2c",
    ("og", 8): "e9aaf15e21ff4e7d",
    ("og", 28): "27fd819855f838eb",
    ("og", 32): "e1db57c885c4fa5f",
    ("og", 64): "b2830bc8d387bbb8",
    ("og", 224): "0eddf036f38f44e2",
    ("oz", 8): "faefc9fe16e91b35",
    ("oz", 28): "b25f972beae6cc74",  # which they write with pad 4
    ("oz", 32): "70a5ac3edb8e0810",
    ("oz", 64): "1ee456914889ac11",
    ("oz", 224): "5b82d52ffffe50e6",  # pad 32
    ("g", 32): "93750e1e2e405f87",
    ("g", 64): "3a2856ee6d33e2b7",
    ("g", 224): "f7ce3f2670fef2b6",
    ("z", 32): "ac9e77be039066a4",
    ("z", 64): "dbebd693b2d444a0",
    ("z", 224): "1b4f8b40094b95d8",
    ("mg", 32): "994e33cdbef21a15",
    ("mg", 64): "dc1e1158e986afd1",
    ("mz", 32): "2b0c10922b474cab",
    ("mz", 64): "4e44e2029dab7947",
}

SIZES = [(1, 1), (1, 7), (7, 1), (2, 2), (2, 9), (5, 8), (8, 5), (13, 13), (18, 21), (32, 20)]


def assert_visits_each_pixel_once(path, height, width):
    assert path.shape == (height * width, 2) and path.dtype == torch.int64
    assert sorted(map(tuple, path.tolist())) == [(row, column) for row in range(height) for column in range(width)]


def steps(path):
    return (path[1:] - path[:-1]).abs()


@pytest.mark.parametrize("curve", FIRST)
def test_small_orders_are_the_published_ones(curve):
    path = generate(8, 8, curve).tolist()
    assert path[:16] == [[int(pixel[0]), int(pixel[1])] for pixel in FIRST[curve].split()]
    assert path[-1] == LAST[curve]


@pytest.mark.parametrize("name, side", PUBLISHED)
def test_presets_are_bit_for_bit_the_authors(name, side):
    order = preset(name, side, side).to(torch.int32).numpy()
    assert hashlib.sha256(order.tobytes()).hexdigest()[:16] == PUBLISHED[name, side]


def test_rectangles_are_the_authors():
    """Their figure 9: 18 x 21 pixels along a Hilbert curve and through a window of a Z-order square of side 32."""
    orders = generate(18, 21, "hilbert"), generate(18, 21, "zorder", pad=11, offset=(0, 5))
    digests = [hashlib.sha256(order.int().numpy().tobytes()).hexdigest()[:16] for order in orders]
    assert digests == ["bef0aac1643ebc7d", "2c20738645840bcf"]


def test_raster_of_one_row_runs_the_other_way():
    assert generate(1, 3, "raster").tolist() == [[0, 0], [0, 1], [0, 2]]
    assert generate(3, 1, "raster").tolist() == [[0, 0], [1, 0], [2, 0]]


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("curve", CURVES)
def test_every_curve_visits_each_pixel_once(curve, height, width):
    for rotation in (0, 90, 180, 270):
        assert_visits_each_pixel_once(generate(height, width, curve, rotation=rotation), height, width)


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("curve", CURVES)
def test_windows_visit_each_pixel_once(curve, height, width):
    pad = (1 << max(height, width).bit_length()) - max(height, width) if curve == "zorder" else 5
    for offset in ((0, 0), (pad // 2, 1), (pad, pad)):
        for rotation in (0, 90):
            path = generate(height, width, curve, pad=pad, offset=offset, rotation=rotation)
            assert_visits_each_pixel_once(path, height, width)


@pytest.mark.parametrize("height", range(1, 25))
def test_hilbert_goes_from_pixel_to_neighbour(height):
    """But for one diagonal step where the longer side is odd and the shorter even and at least 4."""
    for width in range(1, 25):
        path = generate(height, width, "hilbert")
        assert path[0].tolist() == [0, 0]
        along = steps(path)
        longer, shorter = max(height, width), min(height, width)
        diagonal = int(longer % 2 == 1 and shorter % 2 == 0 and shorter >= 4)
        assert (along.sum(1) == 2).sum() == diagonal
        assert along.numel() == 0 or along.amax() == 1


def test_hilbert_of_odd_sides_is_the_recursive_construction():
    """Floor division of negative sides decides here; the original asks for one position at a time."""

    def visit(row, column, a, b):
        """Yields a rectangle from its corner, along `a` and across `b`; both are (rows, columns)."""
        along, across = abs(sum(a)), abs(sum(b))
        sign_a, sign_b = ([(s > 0) - (s < 0) for s in side] for side in (a, b))
        if across == 1 or along == 1:
            step = sign_a if across == 1 else sign_b
            yield from ((row + step[0] * k, column + step[1] * k) for k in range(along * across))
            return
        half_a, half_b = ([s // 2 for s in side] for side in (a, b))
        if 2 * along > 3 * across:
            if sum(half_a) % 2 and along > 2:
                half_a = [s + t for s, t in zip(half_a, sign_a)]
            yield from visit(row, column, half_a, b)
            yield from visit(row + half_a[0], column + half_a[1], [s - t for s, t in zip(a, half_a)], b)
            return
        if sum(half_b) % 2 and across > 2:
            half_b = [s + t for s, t in zip(half_b, sign_b)]
        yield from visit(row, column, half_b, half_a)
        yield from visit(row + half_b[0], column + half_b[1], a, [s - t for s, t in zip(b, half_b)])
        end = [s - t + u - v for s, t, u, v in zip(a, sign_a, half_b, sign_b)]
        back = [t - s for s, t in zip(a, half_a)]
        yield from visit(row + end[0], column + end[1], [-s for s in half_b], back)

    for height, width in ((7, 7), (11, 6), (15, 31), (29, 23), (33, 33), (45, 17)):
        sides = ([height, 0], [0, width]) if height >= width else ([0, width], [height, 0])
        assert list(map(tuple, generate(height, width, "hilbert").tolist())) == list(visit(0, 0, *sides))


def test_hilbert_of_even_squares_ends_in_the_lower_left_corner():
    for side in (2, 6, 10, 18, 28, 32, 104):
        assert generate(side, side, "hilbert")[-1].tolist() == [side - 1, 0]


def test_serpentine_turns_at_the_end_of_each_row():
    path = generate(5, 6, "serpentine")
    assert path[:7].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [0, 5], [1, 5]]
    assert (steps(path).sum(1) == 1).all()


def test_zorder_interleaves_bits():
    for position, (row, column) in enumerate(generate(16, 16, "zorder").tolist()):
        x = 15 - column
        bits = sum((x >> k & 1) << 2 * k | (row >> k & 1) << 2 * k + 1 for k in range(4))
        assert bits == position


@pytest.mark.parametrize("curve, pad", [("hilbert", 6), ("zorder", 16), ("serpentine", 3)])
def test_a_window_keeps_the_order_of_the_large_curve(curve, pad):
    offset = (1, 3)
    large = [tuple(pixel) for pixel in generate(16 + pad, 16 + pad, curve).tolist()]
    kept = [(row - 1, column - 3) for row, column in large if 1 <= row < 17 and 3 <= column < 19]
    assert list(map(tuple, generate(16, 16, curve, pad=pad, offset=offset).tolist())) == kept


def test_rotation_is_counter_clockwise_on_screen():
    """As of an image: `torch.rot90` turns from the row axis to the column axis, counter-clockwise with row 0 on top."""
    for height, width in ((6, 6), (4, 7)):
        for quarters in range(4):
            turned = (width, height) if quarters % 2 else (height, width)
            order = inverse(to_index(generate(*turned, "hilbert"), turned[1])).view(turned)
            path = generate(height, width, "hilbert", rotation=90 * quarters)
            assert torch.equal(inverse(to_index(path, width)).view(height, width), torch.rot90(order, quarters))


def test_zorder_takes_the_smallest_square_by_itself():
    assert torch.equal(generate(28, 28, "zorder"), generate(28, 28, "zorder", pad=4))
    assert torch.equal(generate(6, 20, "zorder"), generate(6, 20, "zorder", pad=12))


def test_a_megapixel_is_quick():
    for curve in CURVES:
        start = time.thread_time()
        generate(1024, 1024, curve, rotation=90)
        assert time.thread_time() - start < 0.5  # about 0.02 on a free core


def test_paths_are_made_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):
        path = generate(6, 11, "hilbert", pad=2, offset=(1, 0), rotation=90)
        known = PathSet.of([PathConfig("zorder", 5, (2, 2))], 11, 11)
    assert path.device.type == "cpu" and known.index.device.type == "cpu"
    assert_visits_each_pixel_once(path, 6, 11)


def test_paths_are_fresh_tensors():
    generate(4, 4, "hilbert").zero_()
    preset("og", 4, 4).zero_()
    assert generate(4, 4, "hilbert")[-1].tolist() == [3, 0]
    assert preset("og", 4, 4)[0, -1].tolist() == [3, 0]


def test_configs_are_values():
    one, two = PathConfig("hilbert", 24, (14, 1), 180), PathConfig("hilbert", 24, [14, 1], 180)
    assert one == two and hash(one) == hash(two) and pickle.loads(pickle.dumps(one)) == one
    assert str(one) == "hilbert {24, [14, 1], 180}" and str(PathConfig("zorder")) == "zorder"
    assert [PathConfig(curve).code for curve in CURVES] == ["r", "s", "g", "z"]
    assert one.offset == (14, 1) and torch.equal(one.path(32, 32), preset("g", 32, 32)[1])


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ((8, 8, "peano"), ValueError, 'curve must be one of "raster", "serpentine", "hilbert", "zorder"'),
        ((8, 8, ["hilbert"]), ValueError, "curve must be one of"),
        ((0, 8, "hilbert"), ValueError, "height must be at least 1, but it is 0"),
        ((8, 2.5, "hilbert"), TypeError, "width must be an integer, but it is 2.5"),
        ((8, 8, "hilbert", -1), ValueError, "pad must be at least 0, but it is -1"),
        ((8, 8, "hilbert", 2, (0, -1)), ValueError, "offset must be at least 0"),
        ((8, 8, "hilbert", 2, 1), TypeError, "offset must be a pair (row, column), but it is 1"),
        ((8, 8, "hilbert", 2, (3, 0)), ValueError, "its row may be 2 at most with pad=2"),
        ((8, 8, "hilbert", 0, (0, 1)), ValueError, "its column may be 0 at most with pad=0"),
        ((8, 8, "hilbert", 0, (0, 0), 45), ValueError, "rotation must be 0, 90, 180 or 270 degrees, but it is 45"),
        ((28, 28, "zorder", 3), ValueError, "pad=4 does, and pad=0 takes the smallest that holds the image"),
    ],
)
def test_what_is_refused(arguments, error, words):
    height, width, curve, *window = arguments
    options = dict(zip(("pad", "offset", "rotation"), window))
    with pytest.raises(error, match=re.escape(words)):
        generate(height, width, curve, **options)


def test_presets_say_where_they_are_and_what_to_do_elsewhere():
    for name in ("r", "s", "og", "oz"):
        assert preset(name, 9, 14).shape == (1, 126, 2)
    numbers = {"r": 1, "s": 1, "og": 1, "oz": 1, "g": 3, "z": 3, "mg": 6, "mz": 6, "g*": 3, "z*": 3}
    assert {name: preset_set(name, 32, 32).num_paths for name in PRESETS} == numbers
    with pytest.raises(ValueError, match=r'search.*\(48, 48, "zorder"\), or use the single path "oz"'):
        preset("z", 48, 48)
    with pytest.raises(TypeError, match=r"height must be an integer, but it is 32\.0"):
        preset_set("g", 32.0, 32)  # which is equal to a size that is known by now
    with pytest.raises(ValueError, match="no preset is called 'hilbert'; there are r, s, og"):
        preset("hilbert", 32, 32)


def test_sets_measure_themselves():
    best = PathSet.of([PathConfig("hilbert"), PathConfig("zorder")], 32, 32)
    assert (best.num_paths, best.cost, best.bound, best.proven) == (2, 215640 + 180944, 0, False)
    assert best.paths.shape == (2, 1024, 2)
    assert best.index.dtype == torch.int32 and torch.equal(best.index, to_index(best.paths, 32))
    assert {best: 1}[dataclasses.replace(best)] == 1
    assert {best: 1}[dataclasses.replace(best, configs=list(best.configs))] == 1
    assert 0.79 < best.coverage < 1


def test_sets_are_saved_and_loaded(tmp_path):
    known = PathSet.of(preset_set("g", 32, 32).configs, 32, 32, bound=600000.5, proven=False)
    file = tmp_path / "set.json"
    known.save(file)
    assert PathSet.load(file) == known
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.json"]
    assert json.loads(file.read_text())["configs"][1] == {
        "curve": "hilbert",
        "pad": 24,
        "offset": [14, 1],
        "rotation": 180,
    }


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"cost": 1},
            'set.json says "cost": 1, but its paths cost 686166. Where they were changed by hand, write "cost"',
        ),
        ({"format": "else"}, 'there is no "format": "pathconv path set" in it'),
        ({"version": 2}, "is a path set of version 2"),
        ({"configs": []}, "holds no valid path set: ValueError('configs is empty"),
        ({"height": None}, "holds no valid path set: TypeError"),
        ({"bound": "0"}, "holds no valid path set: TypeError"),
        (
            {"bound": 686167},
            'says "bound": 686167 and "proven": False of a cost of 686166, but a bound is at most the cost',
        ),
        ({"proven": True}, 'says "bound": 0 and "proven": True of a cost of 686166'),
        ({"proven": "no"}, 'says "bound": 0 and "proven": \'no\' of a cost of 686166'),
        (None, "it is no JSON"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, words):
    file = tmp_path / "set.json"
    preset_set("g", 32, 32).save(file)
    text = file.read_text()
    file.write_text(text[:50] if change is None else json.dumps(json.loads(text) | change))
    with pytest.raises(ValueError, match=re.escape(words)):
        PathSet.load(file)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "set.json"
    preset_set("r", 4, 4).save(file)
    before = file.read_text()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathconv.path_set.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        preset_set("r", 8, 8).save(file)
    assert file.read_text() == before and len(list(tmp_path.iterdir())) == 1


def test_index_and_inverse():
    path = preset("g", 32, 32)
    index = to_index(path, 32)
    assert index.shape == (3, 1024) and index.dtype == inverse(index).dtype == torch.int32
    assert torch.equal(index.gather(1, inverse(index).long()), torch.arange(1024, dtype=torch.int32).expand(3, -1))
    assert torch.equal(inverse(inverse(index)), index)


def test_resolve_takes_all_that_means_paths():
    configs = preset_set("g", 32, 32).configs
    wanted = preset("g", 32, 32)
    for path in ("g", preset_set("g", 32, 32), configs, list(configs), wanted, wanted.int()):
        resolved = resolve(path, 32, 32)
        assert resolved.dtype == torch.int64 and torch.equal(resolved, wanted)
    assert torch.equal(resolve(configs[1], 32, 32), wanted[1:2])
    assert torch.equal(resolve(wanted[2], 32, 32), wanted[2:])


def _twice():
    path = preset("g", 32, 32)
    path[1, 5] = path[1, 6]
    return path


@pytest.mark.parametrize(
    "path, error, words",
    [
        (3, TypeError, "path must be the name of a preset, a PathSet, PathConfigs or a tensor (P, H * W, 2)"),
        (["g"], TypeError, "configs must hold PathConfig, but there is 'g'."),
        ([preset("og", 32, 32)] * 2, TypeError, "but there is a tensor: put several into one by torch.stack."),
        ([], ValueError, "configs is empty"),
        (torch.zeros(1024, 2), TypeError, "path must hold integers, rows and columns, but it is torch.float32"),
        (torch.zeros(2, 1024, dtype=torch.long), ValueError, "path must have shape (P, 1024, 2) or (1024, 2)"),
        (torch.zeros(0, 1024, 2, dtype=torch.long), ValueError, "but it has shape (0, 1024, 2)"),
        (_twice(), ValueError, "path 1 does not visit each of the 32 x 32 pixels once"),
        (preset("og", 32, 32) + 1, ValueError, "path 0 does not visit each of the 32 x 32 pixels once"),
        (preset_set("g", 64, 64), ValueError, "path is a set for images of 64 x 64 pixels, not for 32 x 32"),
    ],
)
def test_resolve_refuses_the_rest(path, error, words):
    with pytest.raises(error, match=re.escape(words)):
        resolve(path, 32, 32)


def test_the_page_of_paths_is_whole():
    assert set(paths.__all__) <= set(dir(paths))
