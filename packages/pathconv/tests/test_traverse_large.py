"""Results larger than the cache, which are written past it, and samples larger than it, whose sums are scattered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pathconv
from leanconv.testing.cpu import LEVELS, cpu_level
from pathconv import path_tables


def last(t: Tensor) -> Tensor:
    return t.movedim(1, -1).contiguous().movedim(-1, 1)


@pytest.fixture(params=LEVELS)
def level(request):
    with cpu_level(pathconv, request.param) as name:
        yield name


@pytest.mark.parametrize(
    ("batch", "channels", "paths", "height", "width", "dtype"),
    [
        (9, 3, 3, 130, 113, torch.float32),  # not a whole number of blocks
        (22, 3, 3, 256, 256, torch.float32),  # written past the cache
        (8, 5, 2, 160, 128, torch.float32),  # pixels too large for a slot
        (8, 2, 4, 64, 160, torch.float64),
        (5, 2, 3, 200, 150, torch.float32),
        (4, 4, 3, 128, 120, torch.float32),
        (2, 3, 3, 257, 256, torch.float32),  # too few
        (700, 3, 3, 32, 24, torch.float32),
        (1100, 3, 3, 32, 32, torch.bfloat16),
    ],
)
def test_bits_are_those_of_torch(level, batch, channels, paths, height, width, dtype):
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(height * width, generator=generator) for _ in range(paths)])
    tables = path_tables(torch.stack((order // width, order % width), -1), height, width)
    x = torch.randn(batch, channels, height, width, generator=generator).to(dtype)
    y = pathconv.traverse(last(x), tables)
    assert y.stride(1) == 1 and torch.equal(y, torch.cat([x.flatten(2)[:, :, path] for path in order], 1))
    y = last(torch.randint(-9, 10, y.shape, generator=generator).to(dtype))  # whose sums are exact in any order
    parts = [part[:, :, inverse.long()] for part, inverse in zip(y.chunk(paths, 1), tables.inverse)]
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    wanted = sum(part.to(wide) for part in parts).to(dtype)
    found = torch.ops.pathconv.traverse_adjoint(y, *tables, True)
    assert found.stride(1) == 1 and torch.equal(found.flatten(2), wanted)


@pytest.mark.parametrize(
    ("batch", "channels", "paths", "height", "width"),
    [
        (12, 3, "g", 32, 32),  # four pieces of neighbours for 16 positions
        (12, 3, "mz", 32, 32),  # five and more
        (40, 1, "og", 7, 9),  # a piece that begins earlier than the rest, and a tail
        (40, 1, "og", 4, 4),
        (40, 1, "og", 3, 5),  # nothing but a tail
        (12, 3, "", 40, 30),  # pixels all over the plane
        (300, 3, "g", 64, 64),  # written past the cache
    ],
)
def test_planes_are_picked_to_the_bit(level, batch, channels, paths, height, width):
    """Planes of many images are read by pieces of 16 numbers, those of few by gathers."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(height * width, generator=generator)
    tables = path_tables(paths or torch.stack((order // width, order % width), -1), height, width)
    x = torch.randn(batch, channels, height, width, generator=generator)
    y = pathconv.traverse(x, tables)
    assert torch.equal(y, torch.cat([x.flatten(2)[:, :, path.long()] for path in tables.index], 1))
    found = torch.ops.pathconv.traverse_adjoint(y, *tables, False)
    parts = [part[:, :, inverse.long()] for part, inverse in zip(y.chunk(len(tables.index), 1), tables.inverse)]
    assert torch.equal(found.flatten(2), sum(parts[1:], parts[0]))
    weight, bias = torch.randn(9, y.shape[1], generator=generator), torch.randn(9, generator=generator)
    for channels_last in (False, True):
        stem = torch.cat(
            [pathconv.traverse_conv1d(part, tables, weight, bias, channels_last=channels_last) for part in x.split(8)]
        )
        assert torch.equal(pathconv.traverse_conv1d(x, tables, weight, bias, channels_last=channels_last), stem)


@pytest.mark.parametrize(
    ("batch", "height", "width"),
    [
        (5, 5, 7),
        (6, 4, 4),  # one tile
        (9, 6, 8),  # whole tiles
        (1, 8, 8),
        (5, 14, 25),  # 65.6 runs of sums: whole blocks, and pixels beyond them
        (5, 20, 26),
        (700, 32, 31),  # written past the cache
    ],
)
def test_pixels_of_three_channels_along_three_paths_to_the_bit(level, batch, height, width):
    """In order for the pixels, run by run for sums; nothing may follow the last sample, nothing precede the first."""
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(height * width, generator=generator) for _ in range(3)])
    tables = path_tables(torch.stack((order // width, order % width), -1), height, width)
    many = torch.randn(batch, 3, height, width, generator=generator)
    for x in (last(many), last(many)[:1].expand_as(many)):
        y = torch.ops.pathconv.traverse(x, tables.index, tables.inverse, True)
        assert torch.equal(y, torch.cat([x.flatten(2)[:, :, path] for path in order], 1))
    many = torch.randint(-999, 999, (batch, 9, height * width), generator=generator).float()  # exact in any order
    for y in (last(many), last(many)[:1].expand_as(many)):
        first, second, third = (part[:, :, inverse.long()] for part, inverse in zip(y.chunk(3, 1), tables.inverse))
        found = torch.ops.pathconv.traverse_adjoint(y, *tables, True)
        assert torch.equal(found.flatten(2), first + second + third)


def test_what_is_kept_of_a_table_follows_its_numbers(level):
    """Tables that change where they lie, and more tables than are kept."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, 8, 6, generator=generator)
    index, inverse = torch.empty(2, 3, 48, dtype=torch.int32)
    for _ in range(150):
        index.copy_(torch.stack([torch.randperm(48, generator=generator) for _ in range(3)]))
        inverse.copy_(index.long().argsort(1))
        wanted = torch.cat([x.flatten(2)[:, :, path.long()] for path in index], 1)
        for lay in (Tensor.contiguous, last):
            y = torch.ops.pathconv.traverse(lay(x), index, inverse, lay is last)
            assert torch.equal(y, wanted)
            found = torch.ops.pathconv.traverse_adjoint(y, index, inverse, 8, 6, lay is last)
            torch.testing.assert_close(found, 3 * x)


def paths_of(kinds: list[str], height: int, width: int):
    """Tables of curves and of pixels in any order."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.arange(height * width)
    orders = []
    for kind in kinds:
        if kind == "any":
            orders.append(pixels[torch.randperm(len(pixels), generator=generator)])
        else:
            orders.append(path_tables([pathconv.PathConfig(kind)], height, width).index[0].long())
    order = torch.stack(orders)
    return path_tables(torch.stack((order // width, order % width), -1), height, width)


@pytest.mark.parametrize(
    ("batch", "height", "width", "kinds"),
    [
        (11, 213, 209, ["hilbert", "serpentine", "raster"]),  # a tail
        (28, 224, 224, ["hilbert", "serpentine", "raster"]),  # written past the cache
        (11, 224, 300, ["hilbert", "any"]),  # lines in pieces and lines of numbers all over the plane
        (11, 200, 170, ["any", "zorder", "hilbert", "raster"]),
        (11, 220, 200, ["any", "any", "hilbert"]),  # most of them all over the plane
    ],
)
def test_planes_too_large_for_the_cache_are_summed_path_by_path(level, batch, height, width, kinds):
    tables = paths_of(kinds, height, width)
    y = torch.randn(batch, 3 * len(kinds), height * width, generator=torch.Generator().manual_seed(0))
    parts = [part[:, :, inverse.long()] for part, inverse in zip(y.chunk(len(kinds), 1), tables.inverse)]
    for channels_last in (False, True):
        found = torch.ops.pathconv.traverse_adjoint(y, *tables, channels_last)
        assert torch.equal(found.flatten(2), sum(parts[1:], parts[0]))


@pytest.mark.parametrize(("batch", "height", "width"), [(70, 32, 31), (9, 120, 113)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_sums_of_pixels_do_not_depend_on_threads(level, batch, height, width, channels_last):
    tables = paths_of(["hilbert", "zorder", "serpentine"], height, width)
    y = last(torch.randn(batch, 9, height * width, generator=torch.Generator().manual_seed(0)))
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            found.append(torch.ops.pathconv.traverse_adjoint(y, *tables, channels_last))
    finally:
        torch.set_num_threads(threads)
    parts = [part[:, :, inverse.long()] for part, inverse in zip(y.chunk(3, 1), tables.inverse)]
    torch.testing.assert_close(found[0].flatten(2), parts[0] + parts[1] + parts[2])
    assert all(torch.equal(other, found[0]) for other in found[1:])


def test_tables_may_name_a_pixel_more_than_once(level):
    """The op follows any table: here both are of random numbers, and neither is the other's inverse."""
    generator = torch.Generator().manual_seed(0)
    index, inverse = torch.randint(0, 1024, (2, 3, 1024), generator=generator, dtype=torch.int32)
    x = torch.randint(-99, 99, (12, 3, 32, 32), generator=generator).float()
    y = torch.randint(-99, 99, (12, 9, 1024), generator=generator).float()
    parts = [part[:, :, table.long()] for part, table in zip(y.chunk(3, 1), inverse)]
    for lay in (Tensor.contiguous, last):
        found = torch.ops.pathconv.traverse(lay(x), index, inverse, lay is last)
        assert torch.equal(found, torch.cat([x.flatten(2)[:, :, table.long()] for table in index], 1))
        found = torch.ops.pathconv.traverse_adjoint(lay(y), index, inverse, 32, 32, lay is last)
        assert torch.equal(found.flatten(2), parts[0] + parts[1] + parts[2])


def test_places_take_all_of_their_bits():
    """Almost 2 ** 21 numbers: of three paths' pixels, and of one plane."""
    paths = [pathconv.PathConfig("serpentine", rotation=turn) for turn in (0, 90, 180)]
    tables = path_tables(paths, 836, 836)
    assert 2**21 * 0.99 < 3 * tables.index.shape[1] <= 2**21
    x = last(torch.randn(4, 3, 836, 836, generator=torch.Generator().manual_seed(0)))
    y = pathconv.traverse(x, tables)
    for part, path in zip(y.chunk(3, 1), tables.index):
        assert torch.equal(part, x.flatten(2)[:, :, path.long()])
    found = torch.ops.pathconv.traverse_adjoint(y, *tables, True)
    torch.testing.assert_close(found, 3 * x)
    tables = path_tables("og", 1448, 1448)
    assert 2**21 * 0.99 < tables.index.shape[1] <= 2**21
    x = torch.randn(32, 1, 1448, 1448, generator=torch.Generator().manual_seed(0))
    y = pathconv.traverse(x, tables)
    assert torch.equal(y, x.flatten(2)[:, :, tables.index[0].long()])
    assert torch.equal(torch.ops.pathconv.traverse_adjoint(y, *tables, False), x)
