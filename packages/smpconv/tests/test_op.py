"""The ops beside their definition written as loops, and the authors' numbers: orientation, boundaries, averages."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import smpconv
from smpconv import depthwise_conv2d, ops, rasterize, reference


@pytest.fixture(params=("reference", "native"), autouse=True)
def backend(request):
    torch.manual_seed(0)
    if request.param == "native" and ops.backends.why["cpu"]:
        pytest.skip(ops.backends.why["cpu"])
    with smpconv.use_backend(request.param):
        yield request.param


def tap(index: int, taps: int) -> float:
    return (2 * index - (taps - 1)) / (taps - 1) if taps > 1 else -1.0


def loops(coords, radius, weight, grad, average, flip):
    """The kernel and the gradients of coords, radius and weight for `grad`, one number at a time in float64."""
    groups, points, dims = coords.shape
    channels, size = weight.shape[1], grad.shape[2:]
    kernel = numpy.zeros(grad.shape)
    grads = [numpy.zeros(t.shape) for t in (coords, radius, weight)]
    for g in range(groups):
        for index in numpy.ndindex(*size):
            x = [tap(i, taps) for i, taps in zip(index, size)]
            if flip:
                x = [x[1], -x[0]]
            distances = [sum(abs(coords[g, i, q] - x[q]) for q in range(dims)) for i in range(points)]
            touching = [i for i in range(points) if distances[i] < radius[g, i]]
            share = 1 / (len(touching) + 1e-6) if average else 1.0
            for i in touching:
                phi, r = 1 - distances[i] / radius[g, i], radius[g, i]
                for c in range(channels):
                    upstream = share * grad[g, c][index]
                    kernel[g, c][index] += share * weight[g, c, i] * phi
                    grads[2][g, c, i] += upstream * phi
                    s = upstream * weight[g, c, i]
                    grads[1][g, i] += s * distances[i] / r**2
                    for q in range(dims):
                        grads[0][g, i, q] -= s * numpy.sign(coords[g, i, q] - x[q]) / r
    return kernel, *grads


def compare(coords: Tensor, radius: Tensor, weight: Tensor, size: tuple[int, ...], average: bool, flip: bool) -> None:
    """The op, its backward op, and the reference by autograd."""
    grad = torch.randn(*weight.shape[:2], *size, dtype=weight.dtype)
    points = coords, radius, weight
    arrays = [t.double().numpy() for t in (*points, grad)]
    wanted = [torch.from_numpy(part).to(weight.dtype) for part in loops(*arrays, average, flip)]
    kernel = torch.ops.smpconv.rasterize(*points, size, average, flip)
    by_op = torch.ops.smpconv.rasterize_backward(grad, *points, average, flip)
    leaves = [t.clone().requires_grad_() for t in points]
    formula = reference.rasterize(*leaves, size, average=average, flip=flip)
    close = {"rtol": 1e-4, "atol": 2e-6} if weight.dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-11}
    for actual in ([kernel, *by_op], [formula.detach(), *torch.autograd.grad(formula, leaves, grad)]):
        for part, expected in zip(actual, wanted):
            scale = max(expected.abs().max().item(), 1) if expected.numel() else 1
            torch.testing.assert_close(part, expected, rtol=close["rtol"], atol=close["atol"] * scale)
            assert part.is_contiguous()


def points(g: int, n: int, d: int, c: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Some beyond the grid, some smaller than the space between taps, one of each without a positive radius."""
    coords, radius = torch.empty(g, n, d).uniform_(-1.3, 1.3), torch.empty(g, n).uniform_(0.01, 0.6)
    radius[:, 0] = -0.1
    radius[:, -1] = 0.0
    return coords.to(dtype), radius.to(dtype), torch.randn(g, c, n, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("average", [False, True], ids=["plain", "average"])
@pytest.mark.parametrize("size", [(1,), (2,), (9,), (16,), (1, 1), (3, 3), (5, 8), (9, 4), (1, 6)], ids=str)
def test_equals_loops(dtype, average, size):
    for g, n, c in ((1, 6, 5), (3, 4, 1), (2, 3, 17)):
        for flip in (False, True)[: len(size)]:
            compare(*points(g, n, len(size), c, dtype), size, average, flip)


@pytest.mark.parametrize("average", [False, True], ids=["plain", "average"])
def test_large_radii_touch_every_tap(average):
    coords, radius, weight = points(2, 5, 2, 3, torch.float64)
    compare(coords, radius.abs() + 5, weight, (6, 7), average, True)
    compare(coords[..., :1], radius.abs() + 5, weight, (11,), average, False)


@pytest.mark.parametrize("average", [False, True], ids=["plain", "average"])
def test_points_on_taps_and_radii_that_end_on_taps(average):
    """Exactly at its radius a point does not touch; on a tap its position has gradient 0 from there."""
    values = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    coords = torch.cartesian_prod(values, values)[None]
    for radius in (0.25, 0.5, 1.0, 1.5):
        compare(coords, torch.full((1, 25), radius), torch.randn(1, 3, 25), (5, 5), average, True)
        compare(coords[..., :1], torch.full((1, 25), radius), torch.randn(1, 3, 25), (5,), average, False)


@pytest.mark.parametrize(
    ("g", "n", "c", "size"), [(0, 3, 2, (5,)), (2, 0, 3, (5,)), (2, 3, 0, (5,)), (1, 0, 2, (3, 3))], ids=str
)
def test_nothing_to_draw(g, n, c, size):
    coords, radius, weight = torch.rand(g, n, len(size)), torch.rand(g, n), torch.rand(g, c, n)
    for average in (False, True):
        leaves = [t.clone().requires_grad_() for t in (coords, radius, weight)]
        kernel = rasterize(*leaves, size, average=average, flip=False)
        assert torch.equal(kernel, torch.zeros(g, c, *size))
        grads = torch.autograd.grad(kernel.sum(), leaves)
        assert [grad.shape for grad in grads] == [leaf.shape for leaf in leaves]


# What the paper's code gives, from the dossier.


def one(coords: list[float], radius: float, size: int, **options: bool) -> Tensor:
    """The kernel of a point of weight 1."""
    point = torch.tensor(coords).double()[None, None]
    return rasterize(point, torch.full((1, 1), radius).double(), torch.ones(1, 1, 1).double(), size, **options)[0, 0]


@pytest.mark.parametrize("average", [False, True], ids=["plain", "average"])
def test_images_are_oriented_as_the_authors(average):
    """k2d_orientation: (0.5, 1) is in the first row, in the fourth of five columns."""
    kernel = one([0.5, 1.0], 0.3, 5, average=average, flip=True)
    assert kernel.nonzero().tolist() == [[0, 3]]
    assert kernel[0, 3] == pytest.approx(1 / 1.000001 if average else 1, abs=1e-15)
    assert one([0.5, 1.0], 0.3, 5, average=average, flip=False).nonzero().tolist() == [[3, 4]]


def test_orientation_is_a_transposition_and_a_flip_of_rows():
    coords, radius, weight = points(2, 6, 2, 3, torch.float64)
    plain, flipped = (torch.ops.smpconv.rasterize(coords, radius, weight, (7, 7), True, flip) for flip in (False, True))
    assert torch.equal(flipped, plain.mT.flip(2))


def test_sequences_end_with_the_present():
    """k1d_orientation: 0.75 is at index 7 of 9."""
    kernel = one([0.75], 0.2, 9, average=True, flip=False)
    assert kernel.nonzero().tolist() == [[7]]


def test_a_second_point_halves_a_tap_at_once():
    """The averaged kernel jumps from 0.9999990 to 0.4999998 where the edge of another tent crosses a tap."""
    radius, weight = torch.full((1, 2), 0.25).double(), torch.ones(1, 1, 2).double()
    taps = []
    for step in (-1e-9, 1e-9):
        coords = torch.tensor([0.0, 0.25 - step], dtype=torch.float64)[None, :, None]
        taps.append(rasterize(coords, radius, weight, 5, average=True, flip=False)[0, 0, 2].item())
    assert taps == pytest.approx([0.9999990, 0.4999998], abs=1e-7)


@pytest.mark.parametrize("average", [False, True], ids=["plain", "average"])
def test_dead_points_have_no_gradient(average):
    """k1d_edges: out of reach of every tap, at exactly the radius from one, and between two."""
    coords = torch.tensor([1.5, 1.25, 0.125, 0.55]).double()[None, :, None].requires_grad_()
    radius = torch.tensor([0.3, 0.25, 0.1, 0.3]).double()[None].requires_grad_()
    weight = torch.ones(1, 2, 4).double().requires_grad_()
    kernel = rasterize(coords, radius, weight, 9, average=average, flip=False)
    grads = torch.autograd.grad(kernel.sin().sum(), (coords, radius, weight))
    for grad, dim in zip(grads, (1, 1, 2)):
        assert [bool(grad.select(dim, i).any()) for i in range(4)] == [False, False, False, True]
    found = smpconv.diagnose(coords, radius, 9)
    assert found.dead.tolist() == [[True, True, True, False]]
    assert found.density == pytest.approx(2 / 36)


@pytest.mark.parametrize(("kernel_size", "share"), [(31, 0.26), (29, 0.25), (27, 0.25), (13, 0.27), (51, 0.26)])
def test_as_many_taps_are_covered_as_at_the_start_of_the_authors(kernel_size, share):
    torch.manual_seed(0)
    layer = smpconv.SMPDepthwiseConv2d(1, kernel_size)
    assert layer.n_points == kernel_size**2 // 4
    with torch.no_grad():
        layer.weight.fill_(1)
        assert (layer.kernel() > 0).float().mean().item() == pytest.approx(share, abs=0.03)


# What is not a number.


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1], ids=["coords", "radius"])
def test_points_that_are_no_numbers_are_loud(wrong, which):
    """The op makes their group NaN, the function says so."""
    tensors = [t.abs() + 0.1 for t in points(2, 4, 2, 3, torch.float32)]
    clean = torch.ops.smpconv.rasterize(*tensors, (5, 5), False, False)
    tensors[which][1, 2] = wrong
    kernel = torch.ops.smpconv.rasterize(*tensors, (5, 5), False, False)
    assert torch.equal(kernel[0], clean[0])
    assert kernel[1].isnan().all()
    for grad in torch.ops.smpconv.rasterize_backward(torch.ones(2, 3, 5, 5), *tensors, False, False):
        assert grad[0].isfinite().all()
        assert grad[1].isnan().all()
    with pytest.raises(ValueError, match="must be finite, but 1 of 8 points are not"):
        rasterize(*tensors, 5, average=False, flip=False)
    assert smpconv.diagnose(*tensors[:2], 5).not_finite.nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("average", [False, True], ids=["plain", "average"])
def test_half_precision_is_rounded_once(dtype, average):
    tensors = [t.to(dtype) for t in points(2, 9, 2, 5, torch.float32)]
    kernel = torch.ops.smpconv.rasterize(*tensors, (7, 7), average, True)
    wide = torch.ops.smpconv.rasterize(*(t.float() for t in tensors), (7, 7), average, True)
    assert torch.equal(kernel, wide.to(dtype))


# The convolution.


@pytest.mark.parametrize(
    "kernel_size", [(1, 1), (3, 3), (7, 7), (13, 13), (31, 31), (63, 63), (3, 9), (15, 1)], ids=str
)
@pytest.mark.parametrize("image", [(2, 3, 14, 14), (1, 17, 7, 5), (3, 1, 1, 9), (1, 2, 40, 33), (1, 4, 1, 1)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_convolution_is_that_of_torch(kernel_size, image, layout):
    x = torch.randn(image).double().contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(image[1], *kernel_size).double().requires_grad_()
    bias = torch.randn(image[1]).double().requires_grad_()
    margins = kernel_size[0] // 2, kernel_size[1] // 2
    wanted = F.conv2d(x, weight[:, None], bias, padding=margins, groups=image[1])
    grad = torch.randn_like(wanted)
    expected = [wanted, *torch.autograd.grad(wanted, (x, weight, bias), grad)]
    for algorithm in ("direct", "fft"):
        y = depthwise_conv2d(x, weight, bias, algorithm=algorithm)
        torch.testing.assert_close([y, *torch.autograd.grad(y, (x, weight, bias), grad)], expected)


@pytest.mark.parametrize("shape", [(0, 5, 3, 3), (2, 5, 0, 3), (2, 5, 3, 0)], ids=str)
@pytest.mark.parametrize("algorithm", ["direct", "fft"])
def test_images_without_pixels(shape, algorithm):
    leaves = [t.requires_grad_() for t in (torch.empty(shape), torch.randn(5, 7, 7), torch.randn(5))]
    y = depthwise_conv2d(*leaves, algorithm=algorithm)
    assert y.shape == shape
    grads = torch.autograd.grad(y.sum(), leaves)
    assert [grad.shape for grad in grads] == [leaf.shape for leaf in leaves]
    assert not any(grad.any() for grad in grads)


def test_counted_products_are_those_of_the_convolution():
    x, weight = torch.randn(2, 4, 6, 5, requires_grad=True), torch.randn(4, 7, 7, requires_grad=True)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        y = depthwise_conv2d(x, weight)
    assert counter.get_total_flops() == 2 * 2 * 4 * 30 * 49
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 2 * 4 * 30 * 49


def test_all_sides_define_the_same_schemas():
    for name, schema in ops.SCHEMAS.items():
        defined = getattr(torch.ops.smpconv, name).default._schema
        assert str(defined) == str(torch._C.parse_schema(f"smpconv::{name}{schema}"))
