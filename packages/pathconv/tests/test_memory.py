"""CPU kernels read nothing outside of their tensors: these begin, then end, at a page that may not be touched."""

from __future__ import annotations

import pytest

from leanconv.testing.cpu import LEVELS, run_guarded
from pathconv import ops

pytestmark = pytest.mark.skipif(bool(ops.backends.why["cpu"]), reason="needs the native library")

GUARD = """
import itertools, sys
import torch
import pathconv
from leanconv.testing.cpu import guarded

def channels_last(t, end):
    return guarded(t.movedim(1, -1).contiguous(), end).movedim(-1, 1)

def expanded(t, end):  # the gradient of a sum over positions
    return guarded(t[:, :, :1].contiguous(), end).view(t.shape[:2]).as_strided(t.shape, (t.shape[1], 1, 0))

ops, level = torch.ops.pathconv, sys.argv[1]
ops.set_cpu_level(level)
dtypes, ends = (torch.float32, torch.float64, torch.float16, torch.bfloat16), (False, True)
"""

DEPTHWISE = """
shapes = [(16, 33, 1, 9, 1, 4), (20, 40, 2, 9, 2, 4), (5, 7, 1, 5, 2, 2), (37, 65, 1, 11, 1, 5), (17, 31, 3, 4, 3, 1)]
for (c, l, m, k, s, p), dtype, end, place in itertools.product(shapes, dtypes, ends, (guarded, channels_last)):
    x, weight, bias = (torch.randn(size, dtype=dtype) for size in ((2, c, l), (2, m * c, k), (m * c,)))
    given = place(x, end), guarded(weight, end), guarded(bias, end)
    y = ops.depthwise_conv1d(*given, s, p)
    grad = place(torch.randn_like(y), end)
    ops.depthwise_conv1d_grad_input(grad, given[1], c, l, s, p)
    ops.depthwise_conv1d_grad_weight(grad, given[0], k, s, p, True)
"""

TRAVERSE = """
index = torch.stack([torch.randperm(42) for _ in range(3)])
inverse = index.argsort(1)
for c, paths, dtype, end, place in itertools.product(
    (1, 2, 3, 4, 5, 7, 9, 17, 33), (1, 2, 3), dtypes, ends, (guarded, channels_last, expanded)
):
    tables = [guarded(table[:paths].int(), end) for table in (index, inverse)]
    x = (guarded if place is expanded else place)(torch.randn(2, c, 6, 7).to(dtype), end)
    weight, bias = guarded(torch.randn(5, paths * c).to(dtype), end), guarded(torch.randn(5).to(dtype), end)
    grad, grad_conv = (place(torch.randn(2, channels, 42).to(dtype), end) for channels in (paths * c, 5))
    for last in (False, True):
        ops.traverse(x, *tables, last)
        found = ops.traverse_adjoint(grad, *tables, 6, 7, last)
        parts = grad.double().unflatten(1, (paths, c)).unbind(1)
        wanted = sum(part[:, :, table.long()] for part, table in zip(parts, tables[1]))
        torch.testing.assert_close(found.flatten(2), wanted.to(dtype))
        ops.traverse_conv1d(x, *tables, weight, bias, last)
        ops.traverse_conv1d_grad_input(grad_conv, *tables, weight, 6, 7, last)
        ops.traverse_conv1d_grad_weight(grad_conv, x, *tables)
"""


# Three channels along three paths of enough images that plans are followed, and planes enough to be picked; the last
# image but a number behind the one before it.
PACKED = """
sizes = (1, 1), (6, 7), (8, 8), (14, 25)
for (height, width), end, place in itertools.product(sizes, ends, (guarded, channels_last)):
    index = torch.stack([torch.randperm(height * width) for _ in range(3)])
    tables = [guarded(table.int(), end) for table in (index, index.argsort(1))]
    for last in (False, True):
        x = torch.randn(12, 3, height, width)
        y = ops.traverse(place(x, end), *tables, last)
        found = ops.traverse_adjoint(place(y, end), *tables, height, width, last)
        torch.testing.assert_close(found, 3 * x)
        one, found = place(x[:1], end), place(y[:1], end)  # and the same sample over and over
        assert torch.equal(ops.traverse(one.expand_as(x), *tables, last), y[:1].expand_as(y))
        found = ops.traverse_adjoint(found.expand_as(y), *tables, height, width, last)
        torch.testing.assert_close(found, 3 * x[:1].expand_as(x))
        if place is channels_last:
            length = height * width
            flat = guarded(torch.randn(3 * length + 11), end)
            near = flat.as_strided((12, 3, height, width), (1, 1, 3 * width, 3))
            y = ops.traverse(near, *tables, last)
            assert torch.equal(y, ops.traverse(near.clone(), *tables, last))
            flat = guarded(torch.randn(9 * length + 11), end)
            near = flat.as_strided((12, 9, length), (1, 1, 9))
            found = ops.traverse_adjoint(near, *tables, height, width, last)
            torch.testing.assert_close(found, ops.traverse_adjoint(near.clone(), *tables, height, width, last))
"""

# All paths read one plane, the last in memory; blocks of its size are overwritten once they are given back.
SHARED = """
index = torch.stack([torch.randperm(1024) for _ in range(3)])
inverse = index.argsort(1)
for dtype, end in itertools.product(dtypes, ends):
    grad = guarded(torch.randn(2, 1, 1024).to(dtype), end)
    found = ops.traverse_adjoint(grad.expand(2, 6, 1024), index.int(), inverse.int(), 32, 32, False)
    wanted = sum(grad.double()[:, :, table] for table in inverse).expand(2, 2, 1024)
    torch.testing.assert_close(found.flatten(2), wanted.to(dtype))
"""


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_outside_of_the_tensors_is_read(level, monkeypatch):
    """In one process for all, each of which would take longer to start than to run."""
    monkeypatch.setenv("MALLOC_PERTURB_", "85")
    run_guarded(GUARD + DEPTHWISE + TRAVERSE + PACKED + SHARED, level)
