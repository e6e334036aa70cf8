"""The native CPU kernels beside the formula: every kind of layer, threads, and the ends of memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from drawn_layers import NETWORKS, draw_table, network

from csgconv import ops, reference
from csgconv.layouts import Layer, table
from leanconv.testing.cpu import run_guarded
from leanconv.testing.emulator import by_dtype, drawing

pytestmark = pytest.mark.skipif(bool(ops.backends.why["cpu"]), reason="needs the native CPU kernels")
kernels = torch.ops.csgconv


def compare(numbers: list[int], rows: int, size: int, dtype: torch.dtype = torch.float32) -> None:
    """Both ways, to the bit."""
    where, slices = reference.positions(numbers), torch.randn(rows, size).to(dtype)
    found = kernels.crop(slices, numbers)
    assert torch.equal(found, slices.view(-1)[where])
    assert found.dtype == dtype and found.is_contiguous()
    expected = torch.zeros(rows * size, dtype=dtype).index_copy(0, where, found).view(rows, size)
    back = kernels.uncrop(found, numbers, rows, size)
    assert torch.equal(back, expected)
    assert back.dtype == dtype and back.is_contiguous()


@by_dtype()
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, dtype):
    compare(*network(name), dtype)


def test_drawn_layers():
    number = drawing(0)
    for _ in range(300):
        compare(*draw_table(number))


@by_dtype(torch.float32, torch.float16)
def test_bits_are_copied_not_numbers(dtype):
    """NaN keeps its payload, and zeros their sign."""
    numbers, rows, size = network("published")
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    slices = torch.randint(torch.iinfo(bits).min, torch.iinfo(bits).max, (rows, size), dtype=bits)
    found = kernels.crop(slices.view(dtype), numbers).view(bits)
    assert torch.equal(found, slices.view(-1)[reference.positions(numbers)])


def test_slices_of_larger_tensors():
    numbers, rows, size = network("tiles")
    expected = kernels.crop(slices := torch.randn(rows, size), numbers)
    wider = torch.full((rows + 2, size + 3), torch.nan)
    wider[1:-1, 2:-1] = slices
    assert torch.equal(kernels.crop(wider[1:-1, 2:-1], numbers), expected)
    assert torch.equal(kernels.crop(slices.t().contiguous().t(), numbers), expected)
    spread = expected.repeat_interleave(2)[::2]
    assert torch.equal(kernels.uncrop(spread, numbers, rows, size), kernels.uncrop(expected, numbers, rows, size))


@pytest.mark.parametrize("layout", ["raster", "tile"])
def test_threads_do_not_change_a_bit(layout):
    """Pieces of the slices begin anywhere: in kernels, in what is cut off, in dead slices, between layers."""
    layers = [Layer((70, 40, 3, 3), (12, 12, 3, 3), layout), Layer((300, 20, 3, 3), (12, 12, 3, 3), layout)]
    numbers, rows = table(layers), sum(layer.rows for layer in layers) + 40
    slices, before = torch.randn(rows, 1296), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found = kernels.crop(slices, numbers)
            results.append((found, kernels.uncrop(found, numbers, rows, 1296)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], slices.view(-1)[reference.positions(numbers)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


MOST = 2**63 - 1
BAD_TABLES = {  # for 3 slices of 4 numbers
    "six numbers a layer": ([0, 1, 1, 1, 1], "6 numbers"),
    "no negative numbers": ([-1, 1, 1, 1, 1, 1], "negative"),
    "no blocks of nothing": ([0, 1, 1, 1, 0, 1], "blocks"),
    "no huge blocks": ([0, 1, 1, 1, 1, MOST], "blocks"),
    "one element too many": ([4, 3, 3, 1, 1, 3], "within the slices"),
    "only the last element is outside": ([0, 2, 3, 2, 1, 4], "within the slices"),
    "products that overflow": ([0, 2**32, 2**32, 1, 1, 1], "within the slices"),
    "starts that overflow": ([MOST, 1, 1, 1, 1, 1], "within the slices"),
    "taps that overflow": ([0, 1, 2, MOST, 2**31 - 1, 2**31 - 1], "within the slices"),
    "blocks that overflow": ([0, 2, 1, 1, 2**31 - 1, 2**31 - 1], "within the slices"),
    "everything at its most": ([MOST, MOST, MOST, MOST, 2**31 - 1, 2**31 - 1], "within the slices"),
    "layers that overlap": ([0, 2, 2, 1, 1, 3, 4, 2, 2, 1, 1, 2], "follow one another"),
    "layers in another order": ([4, 2, 2, 1, 1, 2, 0, 2, 2, 1, 1, 2], "follow one another"),
}


@pytest.mark.parametrize("why", BAD_TABLES)
def test_tables_are_refused(why):
    """What Python checks first, the library checks again: it would write where nobody may."""
    numbers, says = BAD_TABLES[why]
    with pytest.raises(RuntimeError, match=says):
        kernels.crop(torch.zeros(3, 4), numbers)
    with pytest.raises(RuntimeError, match=says):
        kernels.uncrop(torch.zeros(4), numbers, 3, 4)


def test_layers_of_nothing_are_no_danger():
    for numbers in ([0, MOST, 0, MOST, 1, 1], [0, 0, MOST, MOST, 1, 1], [12, 3, 0, 1, 2, 2]):
        assert kernels.crop(torch.zeros(3, 4), numbers).shape == (0,)
        assert torch.equal(kernels.uncrop(torch.zeros(0), numbers, 3, 4), torch.zeros(3, 4))


def test_tensors_are_refused():
    numbers = [0, 2, 2, 1, 1, 2]
    for wrong, says in ((torch.zeros(12), "2 dimensions"), (torch.zeros(3, 4, dtype=torch.int32), "float32")):
        with pytest.raises(RuntimeError, match=says):
            kernels.crop(wrong, numbers)
    for wrong, rows, size, says in (
        (torch.zeros(2, 2), 3, 4, "1 dimension"),
        (torch.zeros(5), 3, 4, "the 4 elements"),
        (torch.zeros(4), -3, 4, "not be negative"),
        (torch.zeros(4), 2**40, 2**40, "those of a tensor"),
    ):
        with pytest.raises(RuntimeError, match=says):
            kernels.uncrop(wrong, numbers, rows, size)


GUARDED = """
import itertools
import torch
import csgconv
from drawn_layers import NETWORKS, network
from leanconv.testing.cpu import guarded

dtypes = torch.float32, torch.float64, torch.bfloat16
for name, dtype, end in itertools.product(NETWORKS, dtypes, (False, True)):
    if name == "nothing":
        continue
    numbers, rows, size = network(name)
    kernels = torch.ops.csgconv.crop(guarded(torch.randn(rows - 1, size).to(dtype), end), numbers)
    torch.ops.csgconv.uncrop(guarded(kernels, end), numbers, rows - 1, size)
"""


def test_nothing_outside_of_the_tensors_is_read(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    run_guarded(GUARDED)
