"""The native CPU kernels where vectors and memory end, at every instruction-set level, beside the reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import pix as package
from leanconv.testing.cpu import LEVELS, cpu_level, run_guarded
from pix import ops, reference

pytestmark = pytest.mark.skipif(bool(ops.backends.why["cpu"]), reason="needs the native CPU kernels")
pick_or_mix, pick_or_mix_backward = torch.ops.pix.pick_or_mix, torch.ops.pix.pick_or_mix_backward
pix, pix_backward = torch.ops.pix.pix, torch.ops.pix.pix_backward
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Relative to the largest number: one rounding of the result, or sums of numbers that were rounded once.
ROUNDING = {torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
SUMS = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1.5e-1}
# Channels, zeta and sides below, at and above the vectors of all levels; short subsets; choices beyond a byte.
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 8, 4, 5, 7),
    (3, 64, 4, 7, 7),
    (2, 70, 4, 6, 9),
    (1, 150, 8, 4, 4),
    (2, 33, 2, 5, 13),
    (2, 31, 3, 3, 5),
    (2, 17, 1, 9, 8),
    (1, 20, 32, 4, 6),
    (1, 600, 300, 3, 3),
    (2, 37, 2, 1, 1),
    (2, 256, 4, 17, 19),
    (1, 1100, 4, 11, 3),
]
EMPTY = [(0, 12, 3, 3, 3), (2, 12, 3, 0, 2)]
DTYPES = pytest.mark.parametrize("dtype", ROUNDING, ids=lambda dtype: str(dtype).removeprefix("torch."))


def image(shape: tuple[int, ...], dtype: torch.dtype, layout: str, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=LAYOUTS[layout])


def gates(batch: int, outputs: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.rand(batch, outputs, generator=generator).to(wide)


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    scale = expected.double().abs().amax().item() if expected.numel() else 0.0
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=0, atol=tolerance * max(scale, 1e-3), equal_nan=True
    )


def laid_alike(a: Tensor, b: Tensor) -> None:
    """A dimension of size 1 may have any stride."""
    assert all(i == j for i, j, size in zip(a.stride(), b.stride(), a.shape) if size > 1 and a.numel())


@pytest.fixture(params=LEVELS, autouse=True)
def level(request):
    with cpu_level(package, request.param) as name:
        yield name


def compare(x, p, zeta, tau=0.5, count_short=False) -> None:
    """Outputs, choices and gradients with the reference, which gets the same numbers in float64."""
    channels, precise = x.shape[1], p.double()
    y, choice = pick_or_mix(x, p, zeta, tau, count_short, True)
    expected, positions = reference.forward(x.double(), precise, zeta, tau, count_short, True)
    close(y, expected, ROUNDING[x.dtype])
    assert y.dtype == x.dtype
    laid_alike(y, expected)
    assert choice.equal(positions)
    laid_alike(choice, y)
    plain, none = pick_or_mix(x, p, zeta, tau, count_short, False)
    assert plain.equal(y)
    assert none.shape == (0,)

    grad = torch.empty_like(y).copy_(torch.randn(y.shape))
    options = (channels, zeta, tau, count_short)
    grad_x, grad_p = pick_or_mix_backward(grad, y, p, choice, *options)
    expected = reference.backward(grad.double(), y.double(), precise, choice, *options)
    close(grad_x, expected[0], ROUNDING[x.dtype])
    close(grad_p, expected[1], SUMS[torch.promote_types(x.dtype, torch.float32)])
    laid_alike(grad_x, expected[0])
    assert grad_p.dtype == p.dtype


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES + EMPTY, ids=str)
def test_sizes(shape, layout, dtype):
    batch, channels, zeta, height, width = shape
    x, p = image((batch, channels, height, width), dtype, layout), gates(batch, -(-channels // zeta), dtype)
    for tau, count_short in ((0.5, False), (0.5, True), (0.0, False), (2.0, True)):
        compare(x, p, zeta, tau, count_short)


@pytest.mark.parametrize("zeta", (2, 3, 4, 8))
def test_layouts_and_strides(zeta):
    channels, x = 48, image((3, 60, 9, 14), torch.float32, "contiguous")
    p = gates(3, channels // zeta, x.dtype)
    last = x.contiguous(memory_format=torch.channels_last)
    compare(x[:, 5 : 5 + channels], p, zeta)  # read in place
    compare(last[:, 5 : 5 + channels], p, zeta)
    compare(x[:, 5 : 5 + channels, 1:8, 3:9], p, zeta)  # copied
    compare(last[:, :channels, 1:8, 3:9], p, zeta)
    compare(x[:1, :1, :5, :1].expand(3, channels, 5, 6), p, zeta)
    compare(x[:, :channels].transpose(2, 3), p, zeta)
    compare(x.flip(0)[:, :channels], gates(6, channels // zeta, x.dtype)[::2], zeta)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zeta", (1, 2, 3, 4))
def test_gradients_too_large_for_the_cache(zeta, layout):
    channels = 192
    for dtype, side in ((torch.float32, 56), (torch.float64, 40), (torch.float32, 55), (torch.bfloat16, 56)):
        x, (weight, bias) = image((2, channels, side, side), dtype, layout), parameters(channels, zeta, dtype)
        compare(x, gates(2, channels // zeta, dtype), zeta)
        if zeta == 4:
            compare_layer(x, weight, bias, zeta)


@DTYPES
def test_layouts_agree_to_the_last_bit(dtype):
    x, p = image((2, 130, 7, 9), dtype, "contiguous"), gates(2, 33, dtype)
    found = pick_or_mix(x, p, 4, 0.5, False, True)
    for a, b in zip(found, pick_or_mix(x.contiguous(memory_format=torch.channels_last), p, 4, 0.5, False, True)):
        assert a.equal(b)


def test_the_gradient_decides_on_the_layout():
    x, p = image((2, 64, 6, 7), torch.float32, "contiguous"), gates(2, 16, torch.float32)
    y, choice = pick_or_mix(x, p, 4, 0.5, False, True)
    grad = torch.randn_like(y)
    expected = pick_or_mix_backward(grad, y, p, choice, 64, 4, 0.5, False)
    for given in (grad.contiguous(memory_format=torch.channels_last), grad.mT.contiguous().mT):
        found = pick_or_mix_backward(given, y, p, choice, 64, 4, 0.5, False)
        close(found[0], expected[0], 0)
        close(found[1], expected[1], 1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zeta", (1, 2, 3, 4, 8, 40))
def test_ties_and_numbers_that_are_not(zeta, layout):
    special = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 1.0, -3e38, 3.4e38, -3.5e38])
    generator = torch.Generator().manual_seed(2)
    for dtype in (torch.float32, torch.float64):
        numbers = special.to(dtype)[torch.randint(len(special), (2, 80, 7, 11), generator=generator)]
        x = numbers.contiguous(memory_format=LAYOUTS[layout])
        p = gates(2, -(-80 // zeta), dtype)
        p[0, 0], p[1, -1] = math.nan, 0.5  # both mix
        y, choice = pick_or_mix(x, p, zeta, 0.5, False, True)
        expected, positions = reference.forward(x, p, zeta, 0.5, False, True)
        torch.testing.assert_close(y, expected, equal_nan=True)
        assert choice.equal(positions)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_do_not_depend_on_threads(layout):
    x, p = image((3, 256, 40, 41), torch.float32, layout), gates(3, 64, torch.float32)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            y, choice = pick_or_mix(x, p, 4, 0.5, False, True)
            grad = image(tuple(y.shape), torch.float32, layout, seed=3)
            found.append((y, choice, *pick_or_mix_backward(grad, y, p, choice, 256, 4, 0.5, False)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(a.equal(b) for a, b in zip(found[0], other))


def parameters(channels: int, zeta: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator, outputs = torch.Generator().manual_seed(4), -(-channels // zeta)
    weight = torch.randn(outputs, channels, generator=generator) / channels**0.5
    return [weight.to(dtype), torch.randn(outputs, generator=generator).to(dtype)]


def compare_layer(x, weight, bias, zeta, l1=False, count_short=False) -> None:
    """All results with the reference in float64. What follows a decision is compared with the decisions as found."""
    y, z, p, choice = pix(x, weight, bias, zeta, 0.5, l1, count_short, True)
    precise = [None if t is None else t.double() for t in (x, weight, bias)]
    expected_z, expected_p = reference.gates(*precise, l1)
    wide = torch.promote_types(x.dtype, torch.float32)
    close(z, expected_z, SUMS[wide])
    close(p, expected_p, SUMS[wide])
    assert z.dtype == p.dtype == wide
    expected, positions = reference.forward(precise[0], p.double(), zeta, 0.5, count_short, True)
    close(y, expected, ROUNDING[x.dtype])
    assert choice.equal(positions)
    laid_alike(y, expected)
    plain = pix(x, weight, bias, zeta, 0.5, l1, count_short, False)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(plain[:3], (y, z, p)))

    grad, grad_p = image(tuple(y.shape), x.dtype, "contiguous", seed=5), gates(*p.shape, x.dtype) - 0.5
    grad = torch.empty_like(y).copy_(grad)
    source = x if l1 else None
    for more in (None, grad_p):
        found = pix_backward(grad, more, y, z, p, choice, weight, source, zeta, 0.5, count_short)
        tensors = [None if t is None else t.double() for t in (grad, more, y, z, p, choice, weight, source)]
        expected = reference.pix_backward(*tensors[:5], choice, *tensors[6:], zeta, 0.5, count_short)
        for ours, theirs in zip(found, expected):
            close(ours, theirs, max(ROUNDING[x.dtype], SUMS[wide]))
            assert ours.dtype == x.dtype
        laid_alike(found[0], expected[0])


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES + EMPTY[:1], ids=str)
def test_layer_sizes(shape, layout, dtype):
    batch, channels, zeta, height, width = shape
    x, (weight, bias) = image((batch, channels, height, width), dtype, layout), parameters(channels, zeta, dtype)
    compare_layer(x, weight, bias, zeta)
    compare_layer(x, weight, None, zeta, l1=True, count_short=True)


def test_images_without_pixels():
    x, (weight, bias) = image((2, 12, 0, 3), torch.float32, "contiguous"), parameters(12, 3, torch.float32)
    y, z, p, choice = pix(x, weight, bias, 3, 0.5, False, False, True)
    assert y.shape == choice.shape == (2, 4, 0, 3)
    assert z.isnan().all()
    assert p.isnan().all()
    grad_x, grad_weight, grad_bias = pix_backward(y, None, y, z, p, choice, weight, None, 3, 0.5, False)
    assert grad_x.shape == x.shape
    assert grad_weight.shape == weight.shape
    assert grad_bias.shape == bias.shape


@pytest.mark.parametrize("batch", (1, 2, 7, 9))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_by_sample_and_by_step(batch, layout):
    """Weights smaller and larger than a sample; a sample gives the same alone as in company."""
    for channels, side in ((64, 20), (260, 3)):
        x = image((batch, channels, side, side), torch.float32, layout)
        weight, bias = parameters(channels, 4, x.dtype)
        compare_layer(x, weight, bias, 4)
        together = pix(x, weight, bias, 4, 0.5, False, False, True)
        alone = [pix(x[n : n + 1], weight, bias, 4, 0.5, False, False, True) for n in range(batch)]
        for all_of_them, parts in zip(together, zip(*alone)):
            assert all_of_them.equal(torch.cat(parts))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 256, 30, 31), (4, 128, 40, 40), (6, 512, 7, 7)], ids=str)
def test_results_of_the_layer_do_not_depend_on_threads(shape, layout):
    x, (weight, bias) = image(shape, torch.float32, layout), parameters(shape[1], 4, torch.float32)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            y, z, p, choice = pix(x, weight, bias, 4, 0.5, True, False, True)
            grad = image(tuple(y.shape), torch.float32, layout, seed=3)
            gradients = pix_backward(grad, p, y, z, p, choice, weight, x, 4, 0.5, False)
            found.append((y, z, p, choice, *gradients))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(a.equal(b) for a, b in zip(found[0], other))


def test_gates_that_are_certain():
    """Gates of 0 and 1, whose gradients divide by nothing."""
    x, (weight, _) = image((2, 32, 5, 5), torch.float32, "channels_last"), parameters(32, 4, torch.float32)
    bias = torch.tensor([-200.0, 200.0] * 4)
    y, z, p, choice = pix(x, weight, bias, 4, 0.5, False, False, True)
    assert p.equal(torch.tensor([0.0, 1.0] * 4).expand(2, -1))
    gradients = pix_backward(torch.randn_like(y), None, y, z, p, choice, weight, None, 4, 0.5, False)
    assert all(g.isfinite().all() for g in gradients)
    assert not gradients[1].any()


GUARDED = """
import itertools, sys
import torch
import pix
from leanconv.testing.cpu import guarded

torch.ops.pix.set_cpu_level(sys.argv[1])
dtypes = torch.float32, torch.float64, torch.float16, torch.bfloat16
shapes = [(1, 70, 4, 3, 3), (2, 33, 2, 5, 7), (1, 129, 8, 2, 2), (2, 31, 3, 1, 3), (1, 300, 300, 2, 5)]
shapes += [(1, 16, 1, 4, 4)]
for (n, c, zeta, h, w), dtype, end, last in itertools.product(shapes, dtypes, (False, True), (False, True)):
    lay = lambda t: guarded(t.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format), end)
    x, outputs = lay(torch.randn(n, c, h, w).to(dtype)), -(-c // zeta)
    p = guarded(torch.rand(n, outputs, dtype=torch.float64 if dtype == torch.float64 else torch.float32), end)
    weight, bias = guarded(torch.randn(outputs, c).to(dtype), end), guarded(torch.randn(outputs).to(dtype), end)
    y, choice = torch.ops.pix.pick_or_mix(x, p, zeta, 0.5, False, True)
    grad = lay(torch.randn_like(y))
    torch.ops.pix.pick_or_mix_backward(grad, lay(y), p, lay(choice), c, zeta, 0.5, False)
    y, z, p, choice = torch.ops.pix.pix(x, weight, bias, zeta, 0.5, True, False, True)
    given = [guarded(t, end) for t in (z, p)]
    torch.ops.pix.pix_backward(grad, given[1], lay(y), *given, lay(choice), weight, x, zeta, 0.5, False)
"""


def test_nothing_outside_of_the_tensors_is_read(level):
    run_guarded(GUARDED, level)
