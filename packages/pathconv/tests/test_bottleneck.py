"""The bottleneck in one operation against its formula, and blocks that use it against their layers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import pathconv
from leanconv.testing.cpu import LEVELS, cpu_level
from pathconv import bottleneck, ops
from pathconv.bottleneck import Bottleneck, formula
from pathconv.modules import PathConvBlock

TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6}  # relative, in the norm
SIZES = {  # rows, d, h, e, factors
    "a block's": (40, 12, 48, 12, 4),
    "no factors": (37, 16, 64, 16, None),
    "odd": (13, 7, 33, 5, 13),
    "one of each": (1, 1, 1, 1, 1),
    "many rows": (5000, 3, 17, 2, 5),
    "many channels": (3, 130, 520, 65, None),
    "products worth oneDNN": (1100, 60, 240, 60, 11),
    "no inputs": (6, 0, 16, 4, 3),
    "nothing hidden": (6, 4, 0, 4, 3),
    "no outputs": (6, 4, 16, 0, 3),
}
pytestmark = pytest.mark.skipif(bool(ops.backends.why["cpu"]), reason="needs the native library")


@pytest.fixture(params=LEVELS)
def level(request):
    with cpu_level(pathconv, request.param) as name:
        yield name


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def arguments(rows: int, d: int, h: int, e: int, factors: int | None, dtype=torch.float64) -> list:
    shapes = ((rows, e), (rows, d), (factors,), (h, d), (h,), (h,), (h,), (e, h), (e,))
    drawn = [None if None in shape else draw(*shape, seed=i).to(dtype) for i, shape in enumerate(shapes)]
    return [*drawn, 1e-6, 1e-5]


def differentiated(function, given: list, grad: torch.Tensor) -> list[torch.Tensor]:
    """The result, and the gradients of all that have one."""
    given = [t.clone().requires_grad_() if isinstance(t, torch.Tensor) and i != 2 else t for i, t in enumerate(given)]
    out = function(*given)
    wanted = [t for t in given if isinstance(t, torch.Tensor) and t.requires_grad]
    return [out.detach(), *torch.autograd.grad(out, wanted, grad)]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b).norm() / b.norm().clamp_min(1e-2)).item()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("slow", (False, True), ids=("MKL", "oneDNN"))
def test_equals_the_formula(size, dtype, level, slow, monkeypatch):
    monkeypatch.setattr(bottleneck, "_mkl_is_slow", lambda: slow)
    given = arguments(*size, dtype=dtype)
    grad = draw(*given[0].shape, seed=20).to(dtype)
    exact = [t.double() if isinstance(t, torch.Tensor) else t for t in given]
    expected = differentiated(formula, exact, grad.double())
    for found, truth in zip(differentiated(Bottleneck.apply, given, grad), expected):
        assert found.dtype == dtype and distance(found, truth) <= TOLERANCE[dtype]


def test_gelu_and_its_slope_are_exact_for_every_size(level):
    bias = torch.linspace(-20, 20, 4001).requires_grad_()
    nothing = torch.zeros_like(bias)
    given = (torch.zeros(1, 4001), torch.ones(1, 1), None, nothing[:, None], nothing, nothing, bias)
    found = Bottleneck.apply(*given, torch.eye(4001), nothing, 1.0, 1.0)[0]
    (slope,) = torch.autograd.grad(found.sum(), bias)
    exact = bias.detach().double().requires_grad_()
    expected = F.gelu(exact)
    error = (found.double() - expected).abs()
    assert error.max() <= 4e-7 and (error / exact.abs().clamp_min(1e-2)).max() <= 1.3e-7
    assert (slope - torch.autograd.grad(expected.sum(), exact)[0]).abs().max() <= 3e-7


def test_numbers_that_are_not(level):
    given = arguments(6, 8, 40, 8, None, torch.float32)
    given[1][1, 3] = torch.nan
    found = Bottleneck.apply(*given)
    assert found[1].isnan().all() and not found[[0, 2, 3, 4, 5]].isnan().any()
    large, nothing = torch.tensor([0, 1e30, -1e30, -50.0]), torch.zeros(4)
    given = (torch.zeros(1, 4), torch.ones(1, 1), None, nothing[:, None], nothing, nothing, large)
    found = Bottleneck.apply(*given, torch.eye(4), nothing, 1.0, 1.0)[0]
    torch.testing.assert_close(found, torch.tensor([0, 1e30, 0, 0]))


def test_large_and_nearly_equal_values(level):
    for shift in (1e15 * draw(40), 1000 + draw(40)):
        given = arguments(4, 8, 40, 8, None, torch.float32)
        given[3], given[4] = torch.zeros(40, 8), shift.float()
        exact = [t.double() if isinstance(t, torch.Tensor) else t for t in given]
        torch.testing.assert_close(Bottleneck.apply(*given), formula(*exact).float(), rtol=1e-4, atol=1e-3)


def test_gradients_of_any_order():
    given = [t.requires_grad_() if isinstance(t, torch.Tensor) else t for t in arguments(4, 3, 5, 2, 2)]
    given[2] = given[2].detach()
    assert torch.autograd.gradcheck(Bottleneck.apply, given)
    assert torch.autograd.gradgradcheck(Bottleneck.apply, given)


def test_gradients_where_one_input_comes_from_another():
    given = arguments(6, 4, 16, 4, 3)
    x = given[0].requires_grad_()
    for graph in (False, True):
        found, expected = (
            torch.autograd.grad(f(x, x.sin(), *given[2:]).square().sum(), x, create_graph=graph)[0]
            for f in (Bottleneck.apply, formula)
        )
        torch.testing.assert_close(found, expected)


def test_gradients_of_some():
    given = arguments(6, 4, 16, 4, 3)
    expected = differentiated(formula, given, torch.ones(6, 4, dtype=torch.float64))
    for i, place in enumerate((0, 1, 3, 4, 5, 6, 7, 8)):
        some = [t.clone().requires_grad_() if j == place else t for j, t in enumerate(given)]
        Bottleneck.apply(*some).sum().backward()
        torch.testing.assert_close(some[place].grad, expected[i + 1])


def test_no_rows_and_threads():
    given = arguments(0, 4, 16, 4, None)
    found = differentiated(Bottleneck.apply, given, torch.ones(0, 4, dtype=torch.float64))
    assert found[0].shape == (0, 4) and all((t == 0).all() for t in found)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-3)):
        given, threads = arguments(10001, 12, 48, 12, None, dtype), torch.get_num_threads()
        grad, found = draw(10001, 12, seed=20).to(dtype), []
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                found.append(differentiated(Bottleneck.apply, given, grad))
        finally:
            torch.set_num_threads(threads)
        for other in found[1:]:
            torch.testing.assert_close(other, found[0], rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize(
    ("rows", "slow", "allowed", "expected"),
    [(1100, True, True, True), (1100, False, True, False), (1100, True, False, False), (50, True, True, False)],
)
def test_onednn_multiplies_where_mkl_is_slow(rows, slow, allowed, expected, monkeypatch, capfd):
    monkeypatch.setattr(bottleneck, "_mkl_is_slow", lambda: slow)
    given = arguments(rows, 60, 240, 60, None, torch.float32)
    with torch.backends.mkldnn.flags(enabled=allowed), torch.backends.mkldnn.verbose(1):
        Bottleneck.apply(*given)
    assert ("primitive,exec" in capfd.readouterr().out) == expected


def test_says_what_is_wrong():
    good = arguments(6, 4, 16, 4, 3)
    for place, wrong, says in (
        (1, good[1].half(), "y must be float32 or float64"),
        (0, good[0][:, :3], "x must be contiguous"),
        (0, good[0][:5], "x must have 6 entries in dimension 0"),
        (3, good[3].float(), "widen must have the dtype of y"),
        (2, good[2].new_ones(4), "the same number of rows for each factor"),
        (8, good[8][:3], "end must have 4 entries"),
    ):
        with pytest.raises(RuntimeError, match=says):
            torch.ops.pathconv.bottleneck(*good[:place], wrong, *good[place + 1 :], False, False)


@pytest.fixture
def calls(monkeypatch):
    found: list = []
    monkeypatch.setattr(bottleneck, "residual", lambda *a, run=bottleneck.residual: found.append(1) or run(*a))
    return found


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("drop_path", (0.0, 0.5))
def test_a_block_is_its_layers(dtype, drop_path, calls):
    block = PathConvBlock(12, 3, drop_path, layer_scale_init_value=0.7, dtype=dtype)
    x = draw(3, 12, 37).to(dtype).requires_grad_()
    results = []
    for watched in (False, True):
        own = copy.deepcopy(block)
        if watched:
            own.invBot[2].register_forward_hook(lambda *_: None)
        torch.manual_seed(0)
        out = own(x)
        assert out.mT.is_contiguous()
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *own.parameters()])])
    assert len(calls) == 1
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_what_watches_a_block_sees_its_layers(calls):
    block = PathConvBlock(12, 3, layer_scale_init_value=0.7).eval()
    x = draw(3, 12, 37).float()
    with torch.no_grad():
        found = block(x)
        assert len(calls) == 1
        assert block(x[:0]).shape == (0, 12, 37)
        calls.clear()
        with pathconv.use_backend("reference"):
            torch.testing.assert_close(block(x), found)
        torch.testing.assert_close(torch.func.vmap(block)(x[None])[0], found)
        for watched in (block.invBot, block.invBot[2]):
            handle = watched.register_forward_hook(lambda *_: None)
            torch.testing.assert_close(block(x), found)
            handle.remove()
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(block(x), found, rtol=0.1, atol=0.1)
        everything: list = []
        handle = nn.modules.module.register_module_forward_hook(lambda module, *_: everything.append(module))
        torch.testing.assert_close(block(x), found)
        handle.remove()
        assert {block.dwconv[1], block.invBot, *block.invBot} <= set(everything)
    seen = []
    handle = block.invBot[3].register_full_backward_hook(lambda *_: seen.append(1))
    block(x.requires_grad_()).sum().backward()
    handle.remove()
    assert seen and not calls


def test_operations_are_counted_alike(calls):
    block = PathConvBlock(24, 3)
    x, y, factor = (torch.randn(shape, requires_grad=True) for shape in ((2, 24, 64), (2, 24, 64), (2,)))
    arguments = x, y, factor.detach(), block.dwconv[1], block.invBot, block.scaling
    counts = []
    for count in (lambda: block(x), lambda: bottleneck.residual(*arguments), lambda: block.invBot(y)):
        with FlopCounterMode(display=False) as counter:
            count().sum().backward()
        counts.append(counter.get_total_flops())
    assert len(calls) == 1  # counting, torch watches all modules
    assert counts[1] == pytest.approx(counts[2], rel=0.01) and counts[0] >= counts[1] >= 3 * 2 * 2 * 64 * 8 * 24**2
