"""Where the taps lie: the published tables, the C library's sine and cosine, and the dense kernel."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch

from dwoconv1d import assign_angles, rasterize, tap_offsets

# The authors' taps for K = 31: "dy,dx" of j = 0..15; those of -j are the negative ones, shorter lines are prefixes.
PUBLISHED = {
    0.0: "0,0 0,1 0,2 0,3 0,4 0,5 0,6 0,7 0,8 0,9 0,10 0,11 0,12 0,13 0,14 0,15",
    22.5: "0,0 0,0 0,1 -1,2 -1,3 -1,4 -2,5 -2,6 -3,7 -3,8 -3,9 -4,10 -4,11 -4,12 -5,12 -5,13",
    45.0: "0,0 0,0 -1,1 -2,2 -2,2 -3,3 -4,4 -4,4 -5,5 -6,6 -7,7 -7,7 -8,8 -9,9 -9,9 -10,10",
    67.5: "0,0 0,0 -1,0 -2,1 -3,1 -4,1 -5,2 -6,2 -7,3 -8,3 -9,3 -10,4 -11,4 -12,4 -12,5 -13,5",
    90.0: "0,0 -1,0 -2,0 -3,0 -4,0 -5,0 -6,0 -7,0 -8,0 -9,0 -10,0 -11,0 -12,0 -13,0 -14,0 -15,0",
}
for mirrored in (67.5, 45.0, 22.5):
    PUBLISHED[180 - mirrored] = " ".join(
        f"{dy},{-int(dx)}" for dy, dx in (pair.split(",") for pair in PUBLISHED[mirrored].split())
    )


def taps_by_libm(angle: float, kernel_size: int, dilation: int = 1) -> list[tuple[int, int]]:
    """The rule as C code computes it: sinf, cosf, a float product, a cast."""
    libm = ctypes.CDLL("libm.so.6")
    for name in ("sinf", "cosf"):
        getattr(libm, name).restype = ctypes.c_float
        getattr(libm, name).argtypes = [ctypes.c_float]

    def float32(value: float) -> float:
        return ctypes.c_float(value).value

    sin, cos = libm.sinf(angle), libm.cosf(angle)
    steps = [dilation * (s - kernel_size // 2) for s in range(kernel_size)]
    return [(int(float32(-sin * j)), int(float32(cos * j))) for j in steps]


def pairs(kernel_size: int, degrees: float, **options) -> list[tuple[int, int]]:
    dy, dx = tap_offsets(kernel_size, torch.tensor([math.radians(degrees)]), **options)
    return list(zip(dy[0].tolist(), dx[0].tolist()))


@pytest.mark.parametrize("degrees", PUBLISHED)
@pytest.mark.parametrize("kernel_size", (1, 3, 7, 13, 15, 27, 31))
def test_taps_are_the_published_ones(degrees, kernel_size):
    half = [tuple(map(int, pair.split(","))) for pair in PUBLISHED[degrees].split()][: kernel_size // 2 + 1]
    assert pairs(kernel_size, degrees) == [(-dy, -dx) for dy, dx in half[:0:-1]] + half


def test_vertical_line_runs_upwards():
    assert pairs(3, 90) == [(1, 0), (0, 0), (-1, 0)]


def test_even_lines_have_one_tap_more_before_the_centre():
    assert pairs(4, 0) == [(0, -2), (0, -1), (0, 0), (0, 1)]


@pytest.mark.parametrize("dilation", (1, 2, 3))
def test_model_angles_agree_with_libm(dilation):
    for angle in assign_angles(8).tolist() + assign_angles(8, offset=0.5).tolist():
        dy, dx = tap_offsets(63, torch.tensor([angle]), dilation=dilation)
        assert list(zip(dy[0].tolist(), dx[0].tolist())) == taps_by_libm(angle, 63, dilation)


def test_any_angle_agrees_with_libm_but_where_that_rounds_wrongly(record_property):
    """glibc's sinf and cosf are one unit in the last place off at times, which can move taps that end near integers."""
    angles = torch.rand(5000, generator=torch.Generator().manual_seed(0)) * 14 - 7
    dy, dx = tap_offsets(31, angles)
    differing = sum(
        list(zip(rows, columns)) != taps_by_libm(angle, 31)
        for angle, rows, columns in zip(angles.tolist(), dy.tolist(), dx.tolist())
    )
    record_property("lines_differing_from_libm", differing)
    assert differing <= 1  # none of 200 000 when this was written, though 1.5 % of the sines differ


def test_sine_and_cosine_are_correctly_rounded():
    """Taps 2**23 pixels away show all bits: a cosine one unit below 1 would put them elsewhere."""
    quarter_turns = torch.tensor([0, 1, 2, 3]) * (math.pi / 2)
    dy, dx = tap_offsets(2**14 + 1, quarter_turns, dilation=2**10)
    assert dx[:, -1].tolist() == [2**23, 0, -(2**23), 0]
    assert dy[:, -1].tolist() == [0, -(2**23), 0, 2**23]


@pytest.mark.parametrize("rounding", ("trunc", "nearest"))
def test_half_a_turn_reverses_the_line(rounding):
    angle = torch.rand(64, generator=torch.Generator().manual_seed(0)) * 3
    offsets = torch.stack(tap_offsets(31, angle, rounding=rounding))
    assert torch.equal(offsets.flip(2), -offsets)


@pytest.mark.parametrize(
    ("kernel_size", "distinct"),
    [
        (3, [3, 1, 1, 1, 3, 1, 1, 1]),
        (7, [7, 5, 5, 5, 7, 5, 5, 5]),
        (15, [15, 13, 9, 13, 15, 13, 9, 13]),
        (31, [31, 29, 21, 29, 31, 29, 21, 29]),
    ],
)
def test_pixels_that_taps_share(kernel_size, distinct):
    assert [len(set(pairs(kernel_size, 22.5 * i))) for i in range(8)] == distinct


@pytest.mark.parametrize(
    ("size", "alive"), [(14, [27, 31, 31, 31, 27, 31, 31, 31]), (7, [13, 15, 19, 15, 13, 15, 19, 15])]
)
def test_taps_that_reach_into_a_small_image(size, alive):
    dy, dx = tap_offsets(31, assign_angles(8))
    assert ((dy.abs() < size) & (dx.abs() < size)).sum(1).tolist() == alive


def test_nearest_rounds_instead():
    assert pairs(5, 45) == [(1, -1), (0, 0), (0, 0), (0, 0), (-1, 1)]
    assert pairs(5, 45, rounding="nearest") == [(1, -1), (1, -1), (0, 0), (-1, 1), (-1, 1)]
    assert len(set(pairs(3, 22.5, rounding="nearest"))) == 3  # truncation leaves one pixel of these three


def test_angle_counts_as_float32():
    angle = torch.tensor([math.pi / 3])  # float32 puts its cosine below 1/2, so that j = 2 stays on the centre column
    assert tap_offsets(5, angle)[1][0].tolist() == [0, 0, 0, 0, 0]
    assert tap_offsets(5, angle.double())[1][0].tolist() == [0, 0, 0, 0, 0]
    assert tap_offsets(5, torch.tensor([math.pi / 3], dtype=torch.float64))[1][0].tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("channels", "runs"),
    [
        (96, [12] * 8),
        (384, [48] * 8),
        (64, [8] * 8),
        (100, [12, 13] * 4),
        (10, [1, 1, 1, 2, 1, 1, 1, 2]),
        (5, [0, 1, 0, 1, 1, 0, 1, 1]),
    ],
)
def test_channels_share_directions_in_runs(channels, runs):
    angle = assign_angles(channels)
    assert angle.dtype == torch.float32
    directions = torch.tensor([math.pi * i / 8 for i in range(8)])
    assert [(angle == direction).sum().item() for direction in directions] == runs
    assert torch.equal(angle, angle.sort().values)


def test_offset_turns_the_directions():
    quarter = torch.tensor([math.pi * i / 8 for i in (4, 5, 6, 7, 0, 1, 2, 3)])
    assert torch.equal(assign_angles(8, offset=0.5), quarter)
    assert torch.equal(assign_angles(8, offset=1.0), assign_angles(8))
    assert torch.equal(assign_angles(3, directions=1), torch.zeros(3))


def test_rasterized_kernel_has_the_smallest_box():
    boxes = [tuple(rasterize(torch.ones(1, 31), torch.tensor([math.pi * i / 8])).shape[2:]) for i in range(5)]
    assert boxes == [(1, 31), (11, 27), (21, 21), (27, 11), (31, 1)]
    assert rasterize(torch.ones(8, 7), assign_angles(8)).shape == (8, 1, 7, 7)


def test_rasterized_kernel_adds_taps_and_residual():
    weight = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]], requires_grad=True)
    kernel = rasterize(weight, torch.tensor([math.pi / 4]), residual=True)
    assert torch.equal(kernel[0, 0], torch.tensor([[0.0, 0, 16], [0, 15, 0], [1, 0, 0]]))
    (grad,) = torch.autograd.grad(kernel, weight, torch.arange(9.0).view_as(kernel))
    assert grad.tolist() == [[6, 4, 4, 4, 2]]
