"""The native CPU kernels of depthwise convolution where vectors, blocks and images end, at every level."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smpconv import ops, reference

pytestmark = pytest.mark.skipif(bool(ops.backends.why["cpu"]), reason="needs the native CPU kernels")
kernels = torch.ops.smpconv
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Relative to the largest number: sums that were rounded once, or many times in float32 and float64.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 4e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# N, C, H, W, Kh, Kw: channels around the vectors of all levels; images smaller than the kernel, and rows around the
# blocks of all levels; kernels whose segments have one length or two.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (1, 2, 1, 1, 63, 63),
    (2, 16, 9, 7, 5, 5),
    (1, 33, 14, 14, 27, 27),
    (2, 20, 17, 31, 13, 13),
    (1, 3, 70, 5, 31, 31),
    (2, 18, 7, 40, 3, 9),
    (1, 17, 1, 50, 1, 63),
    (2, 5, 8, 8, 7, 7),
    (1, 16, 33, 29, 29, 29),
    (1, 15, 12, 57, 17, 51),
]
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.fixture(params=("baseline", "avx2", "avx512"), autouse=True)
def level(request):
    before = kernels.cpu_level()
    kernels.set_cpu_level(request.param)
    try:
        if kernels.cpu_level() != request.param:
            pytest.skip(f"this processor has no {request.param}")
        yield request.param
    finally:
        kernels.set_cpu_level(before)


def random(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, layout: str = "contiguous", seed: int = 0):
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return numbers.contiguous(memory_format=LAYOUTS[layout]) if len(shape) == 4 else numbers


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.shape == expected.shape
    assert found.dtype == dtype
    scale = expected.abs().amax().item() if expected.numel() else 0.0
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=TOLERANCE[dtype] * max(scale, 1e-3))


def compare(x: Tensor, grad: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Outputs and gradients with the reference, which gets the same numbers in float64."""
    images, upstream, kernel = x.double(), grad.double(), weight.double()
    close(
        kernels.depthwise_conv2d(x, weight, bias),
        reference.conv(images, kernel, None if bias is None else bias.double()),
        x.dtype,
    )
    close(kernels.depthwise_conv2d_grad_input(grad, weight), reference.conv_grad_input(upstream, kernel), x.dtype)
    size = tuple(weight.shape[1:])
    found, expected = (
        kernels.depthwise_conv2d_grad_weight(grad, x, size),
        reference.conv_grad_weight(upstream, images, size),
    )
    for f, e in zip(found, expected):
        close(f, e, x.dtype)


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n, c, h, w, kh, kw", SHAPES)
def test_equals_the_reference(n, c, h, w, kh, kw, layout, dtype):
    x, grad = random((n, c, h, w), dtype, layout), random((n, c, h, w), dtype, layout, 1)
    compare(x, grad, random((c, kh, kw), dtype, seed=2), random((c,), dtype, seed=3))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bands(layout):
    """Images that are packed in several pieces."""
    x, grad = (random((1, 9, 400, 90), torch.float64, layout, seed) for seed in (0, 1))
    compare(x, grad, random((9, 9, 3), torch.float64, seed=2), None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slices(layout):
    whole = random((2, 40, 19, 23), layout=layout)
    x, grad = whole[:, 3:21, 2:, 1:-1], whole[:, 20:38, :-2, 2:]
    compare(x, grad, random((18, 9, 26), seed=2)[:, :, ::2], random((36,), seed=3)[::2])
    across = random((1, 12, 10, 11)).transpose(2, 3)
    compare(across, across.flip(2), random((12, 5, 5), seed=2), None)
    compare(x[:, :1], x[:, :1].expand(2, 1, -1, -1), random((1, 5, 5), seed=2), None)


@pytest.mark.parametrize("shape", [(0, 12, 3, 3), (2, 0, 3, 3), (2, 12, 0, 3), (2, 12, 3, 0)])
def test_empty(shape):
    x = random(shape)
    compare(x, x, random((shape[1], 3, 5)), random(shape[1:2]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_take_the_layout_of_their_input(layout):
    x, weight = random((2, 20, 6, 5), layout=layout), random((20, 3, 3))
    assert kernels.depthwise_conv2d(x, weight, None).stride() == x.stride()
    assert kernels.depthwise_conv2d_grad_input(x, weight).stride() == x.stride()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_padding_is_not_multiplied(layout):
    """A weight that is not finite shows only in the outputs whose window holds its pixel."""
    weight = random((18, 7, 7))
    weight[:, 0, 0] = float("inf")
    y = kernels.depthwise_conv2d(random((1, 18, 9, 9), layout=layout), weight, None)
    touched = torch.zeros(9, 9, dtype=torch.bool)
    touched[3:, 3:] = True
    assert (~y.isfinite() == touched).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_do_not_change_a_bit(layout):
    x, grad = random((2, 20, 40, 30), layout=layout), random((2, 20, 40, 30), layout=layout, seed=1)
    weight, results = random((20, 15, 15), seed=2), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(
                (
                    kernels.depthwise_conv2d(x, weight, None),
                    kernels.depthwise_conv2d_grad_input(grad, weight),
                    *kernels.depthwise_conv2d_grad_weight(grad, x, (15, 15)),
                )
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))
