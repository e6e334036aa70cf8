"""Layer norm and GELU in one pass against the formula, and inference of the block against its layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import pathconv
from pathconv import inference, ops
from pathconv.modules import PathConvBlock

TOLERANCE = {torch.float64: 1e-14, torch.float32: 5e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3}
pytestmark = pytest.mark.skipif(bool(ops.backends.why["cpu"]), reason="needs the native library")


@pytest.fixture(params=("baseline", "avx2", "avx512"), autouse=True)
def level(request):
    best = torch.ops.pathconv.cpu_level()
    try:
        torch.ops.pathconv.set_cpu_level(request.param)
        if torch.ops.pathconv.cpu_level() != request.param:
            pytest.skip(f"this processor ends at {best}")
        yield
    finally:
        torch.ops.pathconv.set_cpu_level(best)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numbers(channels: int, dtype=torch.float64) -> list[torch.Tensor]:
    return [draw(channels, seed=seed).to(dtype) for seed in (1, 2, 3)]


def op(*args):
    return torch.ops.pathconv.norm_gelu(*args)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("channels", (1, 3, 8, 17, 31, 64, 65, 240, 257, 1920))
def test_equals_the_formula(channels, dtype):
    x = (3 * draw(2, 5, channels) + 2).to(dtype)
    shift, weight, bias = numbers(channels, dtype)
    for given in (shift, None):
        expected = inference.norm_gelu(*(None if t is None else t.double() for t in (x, given, weight, bias)), 1e-6)
        found = op(x, given, weight, bias, 1e-6)
        assert found.dtype == dtype
        error = (found.double() - expected).abs().max() / expected.abs().max()
        assert error <= TOLERANCE[dtype]


def test_gelu_is_exact_for_every_size():
    bias = torch.linspace(-20, 20, 400_001)
    found = op(torch.zeros(1, len(bias)), None, torch.zeros_like(bias), bias, 1.0)[0].double()
    expected = F.gelu(bias.double())
    assert (found - expected).abs().max() <= 4e-7
    assert ((found - expected).abs() / bias.abs().double().clamp_min(1e-2)).max() <= 1.3e-7


def test_numbers_that_are_not():
    special = torch.tensor([torch.nan, torch.inf, 1e30, -1e30, 0.0, -50.0])
    found = op(torch.zeros(1, 6), None, torch.zeros(6), special, 1.0)[0]
    torch.testing.assert_close(found, torch.tensor([torch.nan, torch.inf, 1e30, 0, 0, 0]), equal_nan=True)
    x = draw(3, 37).float()
    x[1, 36] = torch.nan
    found = op(x, None, torch.ones(37), torch.zeros(37), 1e-6)
    assert found[1].isnan().all()
    assert not found[[0, 2]].isnan().any()


def test_large_and_nearly_equal_values():
    weight, bias = torch.ones(240), torch.zeros(240)
    for x in (1e15 * draw(4, 240), 1000 + draw(4, 240)):
        expected = inference.norm_gelu(x.float().double(), None, weight.double(), bias.double(), 1e-6)
        torch.testing.assert_close(op(x.float(), None, weight, bias, 1e-6), expected.float(), rtol=1e-4, atol=1e-4)


def test_slices_and_empty_tensors():
    shift, weight, bias = numbers(40)
    x = draw(6, 80)[::2, ::2]
    expected = op(x.contiguous(), shift, weight, bias, 1e-6)
    strided = [torch.stack([t, t], 1)[:, 0] for t in (shift, weight, bias)]
    assert torch.equal(op(x, *strided, 1e-6), expected)
    assert op(x[:0], shift, weight, bias, 1e-6).shape == (0, 40)
    assert op(x[:, :0], None, weight[:0], bias[:0], 1e-6).shape == (3, 0)


def test_threads_change_nothing():
    x, threads, found = draw(2000, 65).float(), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(op(x, *numbers(65, torch.float32), 1e-6))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_says_what_is_wrong():
    x, ones = torch.ones(2, 4), torch.ones(4)
    for args, says in (
        ((x.int(), None, ones, ones), "x must be float32"),
        ((x[0, 0], None, ones, ones), "at least one dimension"),
        ((x, None, ones[:3], ones), "weight must have shape"),
        ((x, None, ones, ones.double()), "bias must have the dtype of x"),
        ((x, ones[:1], ones, ones), "shift must have shape"),
    ):
        with pytest.raises(RuntimeError, match=says):
            op(*args, 1e-6)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("cache", (1, 20_000, 1 << 30))
def test_inference_of_the_block_is_that_of_its_layers(dtype, cache, monkeypatch):
    monkeypatch.setattr(inference, "CACHE_BYTES", cache)
    calls = []
    monkeypatch.setattr(inference, "residual", lambda *a, run=inference.residual: calls.append(1) or run(*a))
    block = PathConvBlock(12, 3, layer_scale_init_value=0.7, dtype=dtype).eval()
    x = draw(3, 12, 37).to(dtype)
    expected = block(x)
    assert expected.requires_grad and not calls
    with torch.no_grad():
        found = block(x)
        assert len(calls) == 1
        torch.testing.assert_close(found, expected.detach())
        assert found.mT.is_contiguous()
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
        assert not calls
    x.requires_grad_()
    (grad,) = torch.autograd.grad(block(x).sum(), x)
    assert grad.abs().sum() > 0 and not calls


def test_inference_counts_the_operations_of_training():
    block = PathConvBlock(24, 3).eval()
    x = torch.randn(2, 24, 64)
    counts = []
    for grad in (False, True):
        with torch.set_grad_enabled(grad), FlopCounterMode(display=False) as counter:
            block(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] >= 2 * 2 * 64 * 8 * 24**2
