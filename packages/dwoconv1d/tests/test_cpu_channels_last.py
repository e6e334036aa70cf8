"""The CPU kernels for channels that lie side by side: edges, short images, odd lines, neighbours that must not leak."""

from __future__ import annotations

import ctypes
import mmap

import pytest
import torch

import dwoconv1d
from dwoconv1d import ops, oriented_conv1d_at, tap_offsets

pytestmark = pytest.mark.skipif(bool(ops.backends.why["cpu"]), reason="the native CPU library is not there")

GEOMETRIES = ("eight", "one", "nearest", "dilated", "there and back", "mixed")
SIZES = [(1, 16, 1, 1), (1, 17, 1, 5), (2, 24, 5, 1), (1, 96, 7, 7), (2, 40, 14, 14), (1, 100, 9, 23), (1, 33, 16, 15),
         (1, 48, 30, 70), (1, 16, 2, 130), (1, 16, 61, 2)]  # fmt: skip


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def offsets_of(geometry: str, channels: int, kernel_size: int) -> torch.Tensor:
    angle = torch.full((channels,), 2.1) if geometry == "one" else dwoconv1d.assign_angles(channels)
    options = {"nearest": {"rounding": "nearest"}, "dilated": {"dilation": 2}}.get(geometry, {})
    offsets = torch.stack(tap_offsets(kernel_size, angle, **options)).int()
    if geometry == "there and back":
        offsets[:, :, kernel_size // 2 :] = offsets[:, :, : kernel_size - kernel_size // 2].clone()
        offsets[0, :, -1] += 1
    if geometry == "mixed":
        offsets = torch.randint(-4, 5, offsets.shape, generator=torch.Generator().manual_seed(0)).int()
    return offsets


def formula(x, weight, offsets, bias=None):  # in float64, of shifted images
    (n, c, h, w), pad = x.shape, int(offsets.abs().max())
    padded = torch.nn.functional.pad(x.double(), (pad, pad, pad, pad))
    y = torch.zeros(n, c, h, w, dtype=torch.float64)
    for ch in range(c):
        for s in range(weight.shape[1]):
            dy, dx = pad + int(offsets[0, ch, s]), pad + int(offsets[1, ch, s])
            y[:, ch] += weight[ch, s].double() * padded[:, ch, dy : dy + h, dx : dx + w]
    return y if bias is None else y + bias.double()[:, None, None]


@pytest.mark.parametrize("kernel_size", (1, 8, 31))
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_edge(size, geometry, kernel_size):
    c = size[1]
    x, weight, bias = draw(*size), draw(c, kernel_size, seed=1), draw(c, seed=2)
    offsets = offsets_of(geometry, c, kernel_size)
    # A pixel's channels side by side, also where torch would call a tensor of one pixel or column contiguous.
    x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    y = oriented_conv1d_at(x, weight, offsets, bias)
    torch.testing.assert_close(y.double(), formula(x, weight, offsets, bias), rtol=2e-5, atol=2e-5)
    grad_x = torch.ops.dwoconv1d.oriented_conv1d_grad_input(x, weight, offsets, *size[2:], 1, 1, False)
    torch.testing.assert_close(grad_x.double(), formula(x, weight, -offsets), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("stride", (2, (3, 1)))
def test_gradient_of_strides(stride):
    offsets, weight = offsets_of("eight", 40, 15), draw(40, 15, seed=1)
    found = []
    for dtype in (torch.float32, torch.float64):
        x = draw(2, 40, 17, 22).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
        oriented_conv1d_at(x, weight.to(dtype), offsets, stride=stride).square().sum().backward()
        found.append(x.grad.double())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_neighbours_do_not_leak():
    """Vectors hold channels of other lines too; pixels outside the image are left out, not multiplied by zero."""
    x, weight = draw(1, 96, 20, 20).to(memory_format=torch.channels_last), draw(96, 15, seed=1)
    offsets = offsets_of("eight", 96, 15)
    expected = oriented_conv1d_at(x, weight, offsets)
    bad = x.clone(memory_format=torch.preserve_format)
    bad[:, 13] = float("nan")
    bad[:, 50] = float("inf")
    y = oriented_conv1d_at(bad, weight, offsets)
    good = [c for c in range(96) if c not in (13, 50)]
    assert torch.equal(y[:, good], expected[:, good])
    assert y[:, 13].isnan().all()


def test_threads_change_nothing():
    x, weight = draw(3, 96, 30, 70).to(memory_format=torch.channels_last), draw(96, 31, seed=1)
    offsets, threads = offsets_of("eight", 96, 31), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(oriented_conv1d_at(x, weight, offsets))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


@pytest.mark.parametrize("channels", (16, 20, 96))
def test_nothing_beyond_the_tensor_is_read(channels):
    """An input whose last number is the last one before a page that may not be touched."""
    page, count = mmap.PAGESIZE, channels * 5 * 6
    pages = -(-count * 4 // page)
    memory = mmap.mmap(-1, (pages + 2) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    ends = (start, start + (pages + 1) * page)
    assert all(protect(end, page, 0) == 0 for end in ends)
    try:
        for at in (page, (pages + 1) * page - count * 4):  # after one such page, before the other
            x = torch.frombuffer(memory, dtype=torch.float32, count=count, offset=at)
            x = x.view(1, 5, 6, channels).permute(0, 3, 1, 2)
            x.copy_(draw(*x.shape))
            weight, offsets = draw(channels, 15, seed=1), offsets_of("eight", channels, 15)
            y = oriented_conv1d_at(x, weight, offsets)
            torch.testing.assert_close(y.double(), formula(x, weight, offsets), rtol=2e-5, atol=2e-5)
    finally:
        assert all(protect(end, page, 3) == 0 for end in ends)
