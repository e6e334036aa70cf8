"""The native CPU kernels where vectors, tiles and memory end, at every instruction-set level, against the reference."""

from __future__ import annotations

import random

import pytest
import torch

import dwoconv1d
from dwoconv1d import ops, tap_offsets
from leanconv.testing.cpu import LEVELS, cpu_level, guarded

pytestmark = pytest.mark.skipif(bool(ops.backends.why["cpu"]), reason="needs the native CPU kernels")

# Below, at and above a vector, a strip of four vectors and a tile of columns; rows around the heights of tiles.
WIDTHS = (1, 2, 7, 14, 15, 16, 17, 31, 33, 56, 64, 65, 255, 257, 270, 271, 300)
HEIGHTS = (1, 2, 3, 5, 7, 13, 14, 15, 29)


@pytest.fixture(params=LEVELS, autouse=True)
def level(request):
    with cpu_level(dwoconv1d, request.param) as name:
        yield name


def lines(channels: int, kernel_size: int, groups: int = 1) -> torch.Tensor:
    angle = torch.arange(channels) // groups * 0.4
    return torch.stack(tap_offsets(kernel_size, angle)).int()


def both(x: torch.Tensor, offsets: torch.Tensor, stride: int = 1) -> None:
    """Compare the output and the input gradient with the reference in float64."""
    torch.manual_seed(0)
    channels, kernel_size = offsets.shape[1:]
    weight, bias = torch.randn(channels, kernel_size), torch.randn(channels)
    forward, backward = torch.ops.dwoconv1d.oriented_conv1d, torch.ops.dwoconv1d.oriented_conv1d_grad_input

    def run(image: torch.Tensor) -> list[torch.Tensor]:
        w, b = weight.to(image.dtype), bias.to(image.dtype)
        y = forward(image, w, offsets, b, stride, stride, False)
        return [y, backward(y, w, offsets, *image.shape[2:], stride, stride, False)]

    with torch.no_grad(), dwoconv1d.use_backend("native"):
        found = run(x)
    with torch.no_grad(), dwoconv1d.use_backend("reference"):
        expected = run(x.double())
    for ours, reference in zip(found, expected):
        scale = reference.abs().amax().item()
        torch.testing.assert_close(ours.double(), reference, rtol=1e-5, atol=1e-5 * max(scale, 1))


@pytest.mark.parametrize("width", WIDTHS)
def test_sizes(width):
    for height in HEIGHTS:
        both(torch.randn(2, 3, height, width), lines(3, 15))


@pytest.mark.parametrize("kernel_size", [1, 2, 7, 31, 64])
def test_every_direction_and_channels_beyond_a_vector(kernel_size):
    both(torch.randn(1, 16, 14, 14), lines(16, kernel_size))
    both(torch.randn(1, 40, 20, 35), lines(40, kernel_size, groups=20))


def test_any_offsets():
    rng = random.Random(0)
    for _ in range(30):
        channels, kernel_size = rng.choice([1, 3, 20]), rng.choice([1, 4, 15])
        offsets = torch.randint(-12, 13, (2, channels, kernel_size), dtype=torch.int32)
        both(torch.randn(1, channels, rng.randint(1, 20), rng.randint(1, 80)), offsets)
    columns = torch.stack((torch.arange(-3, 6).expand(4, 9), torch.full((4, 9), 2))).int()  # read downwards
    for height in HEIGHTS:
        both(torch.randn(1, 4, height, 30), columns)


def test_layouts_and_strides():
    x = torch.randn(2, 9, 33, 52)
    offsets = lines(9, 15)
    both(x[:, :, 2:31, 3:48], offsets)
    both(x.to(memory_format=torch.channels_last), offsets)
    both(x.to(memory_format=torch.channels_last)[:, 1:, 2:31, 3:48], offsets[:, 1:].contiguous())
    both(x[:1, :1].expand(3, 9, -1, -1), offsets)
    both(x, offsets, stride=2)


@pytest.mark.parametrize("size", [14, 56])
def test_nan_and_infinity_stay_on_their_lines(size):
    channels, kernel_size, pad = 16, 15, 7
    x, weight = torch.randn(1, channels, size, size), torch.rand(channels, kernel_size) + 0.5
    x[:, :, 0, -1], x[:, :, -1, 0], x[:, :, size // 2, size // 2] = float("nan"), float("inf"), float("-inf")
    offsets = lines(channels, kernel_size, groups=2)
    padded, expected = torch.nn.functional.pad(x, (pad,) * 4), torch.zeros_like(x)
    for c in range(channels):
        for s, (dy, dx) in enumerate(offsets[:, c].T.tolist()):
            expected[:, c] += weight[c, s] * padded[:, c, pad + dy :, pad + dx :][..., :size, :size]
    with torch.no_grad(), dwoconv1d.use_backend("native"):
        y = torch.ops.dwoconv1d.oriented_conv1d(x, weight, offsets, None, 1, 1, False)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 3, 14, 14), (1, 2, 5, 56), (2, 12, 7, 9), (1, 16, 40, 70)])
def test_memory_outside_the_image_is_not_touched(shape, memory_format):
    """The image begins, then ends, at a page that cannot be read."""
    image = torch.randn(shape).contiguous(memory_format=memory_format)
    for end in (False, True):
        both(guarded(image, end), lines(shape[1], 15, groups=3))
