"""The traversal against the formula written out as loops, its layouts, tables and what only large sizes reach."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, is_fake
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import pathconv
from leanconv.testing.cpu import KERNELS, cpu_kernels
from pathconv import PathConfig, PathTables, ops, path_tables, traverse, traverse_conv1d, untraverse


def last(t: Tensor) -> Tensor:
    return t.movedim(1, -1).contiguous().movedim(-1, 1)


LAYOUTS = {"first": Tensor.contiguous, "last": last}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.fixture(params=KERNELS)
def backend(request):
    """Every kernel that this machine has."""
    with cpu_kernels(pathconv, request.param) as name:
        yield name


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn_tables(num_paths: int, height: int, width: int) -> PathTables:
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(height * width, generator=generator) for _ in range(num_paths)])
    return path_tables(torch.stack((order // width, order % width), -1), height, width)


def test_reads_the_pixels_of_each_path_in_turn(backend):
    paths = pathconv.preset("g", 32, 32)
    x = draw(2, 3, 32, 32)
    y = traverse(x, "g")
    for n, c, p, l in itertools.product(range(2), range(3), range(3), (0, 1, 500, 1023)):  # noqa: E741
        row, column = paths[p, l]
        assert y[n, 3 * p + c, l] == x[n, c, row, column]
    assert torch.equal(y, torch.cat([x[:, :, path[:, 0], path[:, 1]] for path in paths], 1))


def test_convolution_equals_the_formula_term_by_term(backend, layout):
    tables = drawn_tables(2, 3, 4)
    x, weight, bias = layout(draw(2, 3, 3, 4)), draw(5, 6, seed=1), draw(5, seed=2)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    y, grad = traverse_conv1d(x, tables, weight, bias), draw(2, 5, 12, seed=3)
    found = y, *torch.autograd.grad(y, leaves, layout(grad))
    with torch.no_grad():
        wanted = [torch.zeros_like(t) for t in found]
        wanted[0] += bias[:, None]
        for n, o, p, c, l in itertools.product(range(2), range(5), range(2), range(3), range(12)):  # noqa: E741
            row, column = divmod(int(tables.index[p, l]), 4)
            wanted[0][n, o, l] += weight[o, 3 * p + c] * x[n, c, row, column]
            wanted[1][n, c, row, column] += weight[o, 3 * p + c] * grad[n, o, l]
            wanted[2][o, 3 * p + c] += grad[n, o, l] * x[n, c, row, column]
        wanted[3] += grad.sum((0, 2))
    for actual, expected in zip(found, wanted):
        torch.testing.assert_close(actual.detach(), expected, rtol=1e-12, atol=1e-12)


@by_dtype
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (1, 9), (33, 31)])
def test_untraverse_takes_traverse_back(backend, layout, dtype, height, width):
    x = layout(draw(2, 5, height, width).to(dtype))
    for num_paths in (1, 2, 4):  # whose means are exact
        tables = drawn_tables(num_paths, height, width)
        back = untraverse(traverse(x, tables), tables)
        assert torch.equal(back, x)
        assert back.stride() == x.stride()


def test_untraverse_stays_in_the_range_of_float16(backend):
    x = torch.full((1, 2, 4, 4), 60000.0, dtype=torch.float16)
    tables = drawn_tables(4, 4, 4)
    assert torch.equal(untraverse(traverse(x, tables), tables), x)


def test_untraverse_finds_the_size_of_the_image():
    wide, config = draw(2, 6, 4, 8), PathConfig("raster")
    chosen = pathconv.PathSet.of([config], 4, 8)
    for paths in (chosen, chosen.paths, path_tables(chosen, 4, 8)):
        assert torch.equal(untraverse(traverse(wide, paths), paths), wide)
    assert torch.equal(untraverse(traverse(wide, config), config, height=4, width=8), wide)
    assert untraverse(draw(2, 3, 1024), "r").shape == (2, 3, 32, 32)
    with pytest.raises(ValueError, match="32 positions, which is no square: pass height and width"):
        untraverse(traverse(wide, config), config)


def test_layouts_of_results(backend, layout):
    x = layout(draw(2, 3, 4, 4)).requires_grad_()
    tables = drawn_tables(2, 4, 4)
    y = traverse(x, tables)
    assert y.mT.is_contiguous() == (not x.is_contiguous())
    for upstream in (torch.ones_like(y), torch.ones(1, 1, 1, dtype=y.dtype).expand_as(y), last(draw(2, 6, 16))):
        (grad,) = torch.autograd.grad(y, x, upstream, retain_graph=True)
        assert grad.stride() == x.stride()
        torch.testing.assert_close(grad, untraverse(upstream, tables) * 2)
    weight = draw(8, 6)
    assert traverse_conv1d(x, tables, weight).mT.is_contiguous() == (not x.is_contiguous())
    assert traverse_conv1d(x, tables, weight, channels_last=True).mT.is_contiguous()
    assert traverse_conv1d(x, tables, weight, channels_last=False).is_contiguous()


def test_views_are_read_where_they_lie(backend, layout):
    """Slices, transposed and expanded images; what lies between is NaN."""
    tables, weight = drawn_tables(2, 5, 6), draw(8, 6)
    for rows, columns in ((slice(1, 6), slice(2, 8)), (slice(0, 10, 2), slice(0, 12, 2))):
        store = layout(torch.full((4, 5, 10, 12), torch.nan, dtype=torch.float64))
        view = store[1:3, 1:4, rows, columns]
        view.copy_(draw(2, 3, 5, 6))
        assert torch.equal(traverse(view, tables), traverse(view.clone(memory_format=torch.contiguous_format), tables))
        torch.testing.assert_close(
            traverse_conv1d(view, tables, weight), F.conv1d(traverse(view, tables), weight[:, :, None])
        )
    turned = draw(2, 3, 6, 5).mT
    assert torch.equal(traverse(turned, tables), traverse(turned.contiguous(), tables))
    one = draw(1, 1, 5, 6)
    assert torch.equal(
        traverse(one.expand(4, 3, 5, 6), tables), traverse(one, tables).repeat_interleave(3, 1).repeat(4, 1, 1)
    )


@pytest.mark.parametrize(("batch", "channels"), ((300, 1), (100, 3), (1400, 3), (40, 7), (30, 9), (20, 20)))
def test_large_images_are_summed_for_any_number_of_channels(backend, batch, channels):
    tables = path_tables("g", 32, 32)
    y = last(torch.arange(batch * 3 * channels * 1024).remainder(251).float().view(batch, 3 * channels, 1024))
    parts = y.unflatten(1, (3, channels)).unbind(1)
    wanted = sum(part[:, :, inverse.long()] for part, inverse in zip(parts, tables.inverse))
    found = torch.ops.pathconv.traverse_adjoint(y, *tables, True)
    assert torch.equal(found.flatten(2), wanted)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
def test_large_results_that_go_past_the_cache(backend, layout, dtype):
    tables = path_tables("g", 32, 32)
    x = layout(torch.arange(512 * 3 * 1024).remainder(251).to(dtype).view(512, 3, 32, 32))
    index = tables.index.long().flatten()
    wanted = x.flatten(2)[:, :, index].unflatten(2, (3, -1)).transpose(1, 2).flatten(1, 2)
    y = traverse(x, tables)
    assert y.nbytes > 2**24 / 2
    assert torch.equal(y, wanted)
    assert torch.equal(untraverse(y, tables), x) or dtype == torch.bfloat16
    for width in (48, 20):  # rows of whole cache lines, and rows that share them
        weight = torch.eye(width, 9).to(dtype)
        z = traverse_conv1d(x, tables, weight)
        assert torch.equal(z[:, :9], wanted) and not z[:, 9:].any()


def test_nothing_but_its_pixels_touches_a_position(backend, layout):
    x = torch.zeros(2, 3, 5, 7)
    x[0, 1, 2, 3] = torch.nan
    tables = drawn_tables(2, 5, 7)
    assert traverse(layout(x), tables).isnan().sum() == 2
    y = traverse_conv1d(layout(x), tables, torch.ones(20, 6))
    assert y.isnan().sum() == 40 and y.isnan().any(1).sum() == 2


@by_dtype
def test_weights_of_linear_and_conv_mean_the_same(dtype):
    x, weight = draw(2, 3, 4, 4).to(dtype), draw(8, 6, seed=1).to(dtype)
    tables = drawn_tables(2, 4, 4)
    assert torch.equal(traverse_conv1d(x, tables, weight), traverse_conv1d(x, tables, weight[:, :, None]))


@pytest.mark.skipif(bool(ops.backends.why["cpu"]), reason=ops.backends.why["cpu"])
@pytest.mark.parametrize("number", (-1, 16, 2**31 - 1))
def test_tables_that_point_outside_are_refused(number):
    index, inverse, *_ = drawn_tables(2, 4, 4)
    wrong = index.clone()
    wrong[1, 5] = number
    x, y, weight = draw(2, 3, 4, 4), draw(2, 6, 16), draw(8, 6)
    calls = {
        "index": [
            lambda: torch.ops.pathconv.traverse(x, wrong, inverse, False),
            lambda: torch.ops.pathconv.traverse_conv1d(x, wrong, inverse, weight, None, False),
            lambda: torch.ops.pathconv.traverse_conv1d_grad_weight(draw(2, 8, 16), x, wrong, inverse),
        ],
        "inverse": [
            lambda: torch.ops.pathconv.traverse_adjoint(y, index, wrong, 4, 4, False),
            lambda: torch.ops.pathconv.traverse_conv1d_grad_input(draw(2, 8, 16), index, wrong, weight, 4, 4, False),
        ],
    }
    for name, every in calls.items():
        for call in every:
            with pytest.raises(RuntimeError, match=f"{name} must hold numbers from 0 to 15"):
                call()


def test_tables_are_made_once_and_follow_changes():
    assert path_tables("g", 32, 32) is not None
    assert path_tables("g", 32, 32).index is path_tables("g", 32, 32).index
    configs = [PathConfig("hilbert"), PathConfig("raster")]
    assert path_tables(configs, 8, 8).index is path_tables(tuple(configs), 8, 8).index
    paths = pathconv.preset("r", 4, 4)
    first = path_tables(paths, 4, 4)
    assert path_tables(paths, 4, 4).index is first.index
    paths.copy_(paths.flip(1))
    assert torch.equal(path_tables(paths, 4, 4).index, first.index.flip(1))
    assert path_tables(first, 4, 4) is first


def test_tables_have_numbers_while_a_graph_is_traced():
    with FakeTensorMode():
        assert is_fake(path_tables("og", 16, 16).index)
    with torch.device("meta"):
        index = path_tables("og", 16, 16).index
    assert not index.is_meta
    assert torch.equal(index.long().sort().values[0], torch.arange(256))


def test_functions_take_names_in_a_fake_mode():
    for mode in (FakeTensorMode(), FakeTensorMode(allow_non_fake_inputs=True)):
        with mode:
            x, weight = torch.randn(2, 3, 32, 32, requires_grad=True), torch.randn(16, 9)
            assert untraverse(traverse(x, "g"), "g").shape == x.shape
            y = traverse_conv1d(x, "g", weight)
            y.sum().backward()
            assert is_fake(y) and y.shape == (2, 16, 1024) and x.grad.shape == x.shape
    with FakeTensorMode():  # which has devices that are not there
        x = torch.randn(2, 3, 32, 32, device="cuda")
        assert traverse(x, "g").device.type == path_tables("g", 32, 32, x.device).index.device.type == "cuda"
    assert not is_fake(path_tables("g", 32, 32).index)


def test_graphs_hold_tables_with_numbers():
    x = torch.randn(2, 1, 8, 8)
    for mode in ("real", "fake"):
        graph = make_fx(lambda x: traverse(x, "og"), tracing_mode=mode, _allow_non_fake_inputs=True)(x)
        assert torch.equal(graph(x), traverse(x, "og"))


def test_tables_made_in_inference_mode_train():
    paths = pathconv.preset("oz", 12, 12)
    with torch.inference_mode():
        expected = [traverse(torch.ones(1, 1, 12, 12), value) for value in ("oz", paths)]
    for value, y in zip(("oz", paths), expected):
        x = torch.ones(1, 1, 12, 12, requires_grad=True)
        traverse(x, value).sum().backward()
        assert torch.equal(x.grad, torch.ones_like(x)) and torch.equal(y, torch.ones_like(y))


def test_tables_follow_changes_in_inference_mode():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    with torch.inference_mode():
        paths = pathconv.preset("r", 4, 4)
        before = traverse(x, paths)
        paths.copy_(paths.flip(1))
        assert torch.equal(traverse(x, paths), before.flip(2))


def test_tables_made_under_torch_func_are_plain():
    x = torch.randn(1, 1, 13, 13)
    torch.func.grad(lambda x: traverse(x, "og").sum())(x)
    torch.func.functionalize(lambda x: x + path_tables("oz", 13, 13).index.sum())(x)
    for name in ("og", "oz"):
        for table in path_tables(name, 13, 13)[:2]:
            assert not torch._C._functorch.is_functorch_wrapped_tensor(table)
            assert torch.equal(copy.deepcopy(table).sort().values[0], torch.arange(169, dtype=torch.int32))


def test_tables_of_several_devices_stay():
    paths = pathconv.preset("og", 8, 8)
    known = path_tables(paths, 8, 8)
    assert path_tables(paths, 8, 8, "meta").index.is_meta
    assert path_tables(paths, 8, 8).index is known.index


def test_what_is_no_path_is_said():
    x = torch.randn(1, 1, 4, 4)
    for paths in (pathconv.preset("og", 4, 4).numpy(), {}):
        with pytest.raises(TypeError, match=r"path must be the name of a preset, .* but it is a (ndarray|dict)\."):
            traverse(x, paths)
    with pytest.raises(TypeError, match="there is a tensor: put several into one"):
        traverse(x, [pathconv.preset("og", 4, 4)[0]] * 2)


def test_untraverse_heeds_the_size_that_is_given():
    x, tables = torch.randn(1, 2, 4, 4), path_tables("og", 4, 4)
    y = traverse(x, tables)
    assert torch.equal(untraverse(y, tables, height=4, width=4), x)
    with pytest.raises(ValueError, match="paths cover 4 x 4 pixels but height and width are 2 and 8: leave them out"):
        untraverse(y, tables, height=2, width=8)


def test_every_kind_of_paths_compiles():
    values = ("og", PathConfig("hilbert"), pathconv.preset_set("og", 8, 8), pathconv.preset("og", 8, 8))
    tables = path_tables("og", 8, 8)
    for paths, dynamic in (*((value, False) for value in values), (tables, False), (tables, True)):
        torch._dynamo.reset()
        compiled = torch.compile(there_and_back(paths), fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for batch in (2, 3):
            x = torch.randn(batch, 3, 8, 8)
            torch.testing.assert_close(compiled(x), 2 * x)


def there_and_back(paths):
    return lambda x: untraverse(traverse(x, paths) * 2, paths)


def test_operations_are_counted():
    x, weight = torch.randn(2, 3, 32, 32), torch.randn(48, 9, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        traverse(x, "g")
    assert counter.get_total_flops() == 0
    with FlopCounterMode(display=False) as counter:
        traverse_conv1d(x, "g", weight).sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 2 * 1024 * 48 * 9
