"""The operator against the formula written out as loops, and against torch's own convolution."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

import dwoconv1d
from dwoconv1d import ops, oriented_conv1d, oriented_conv1d_at, rasterize, tap_offsets

BACKENDS = ("reference", "native")


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request):
    if request.param == "native" and ops.backends.why["cpu"]:
        pytest.skip(ops.backends.why["cpu"])
    with dwoconv1d.use_backend(request.param):
        yield request.param


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loops(x, weight, dy, dx, bias, stride, residual, grad):
    """Output, and gradients of input, weight and bias, term by term."""
    n, c, h, w = x.shape
    p, q = -(-h // stride[0]), -(-w // stride[1])
    k = weight.shape[1]
    y, grad_x, grad_weight = torch.zeros(n, c, p, q).double(), torch.zeros_like(x), torch.zeros_like(weight)
    for i, ch, row, col in itertools.product(range(n), range(c), range(p), range(q)):
        y[i, ch, row, col] = bias[ch]
        for s in range(k):
            at = row * stride[0] + int(dy[ch, s]), col * stride[1] + int(dx[ch, s])
            if 0 <= at[0] < h and 0 <= at[1] < w:
                tap = weight[ch, s] + (1 if residual and s == k // 2 else 0)
                y[i, ch, row, col] += tap * x[i, ch, at[0], at[1]]
                grad_x[i, ch, at[0], at[1]] += tap * grad[i, ch, row, col]
                grad_weight[ch, s] += grad[i, ch, row, col] * x[i, ch, at[0], at[1]]
    return y, grad_x, grad_weight, grad.sum((0, 2, 3))


@pytest.mark.parametrize(
    ("size", "kernel_size", "options"),
    [
        ((2, 3, 5, 6), 5, {}),
        ((1, 4, 6, 5), 7, {"stride": 2, "residual": True}),
        ((1, 3, 7, 4), 4, {"stride": (1, 3), "residual": True, "dilation": 2}),
        ((2, 2, 6, 7), 3, {"dilation": 3, "rounding": "nearest"}),
        ((1, 5, 3, 3), 15, {"stride": (3, 2)}),
        ((1, 2, 1, 8), 5, {"dilation": 2, "stride": 2}),
    ],
)
def test_equals_the_formula_term_by_term(size, kernel_size, options):
    channels = size[1]
    angle = torch.rand(channels, generator=torch.Generator().manual_seed(sum(size))) * 14 - 7
    x, weight, bias = draw(*size), draw(channels, kernel_size, seed=1), draw(channels, seed=2)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    y = oriented_conv1d(x, weight, angle, bias, **options)
    grad = draw(*y.shape, seed=3)
    found = y, *torch.autograd.grad(y, leaves, grad)

    stride = options.pop("stride", 1)
    residual = options.pop("residual", False)
    dy, dx = tap_offsets(kernel_size, angle, **options)
    stride = stride if isinstance(stride, tuple) else (stride, stride)
    with torch.no_grad():
        expected = loops(x, weight, dy, dx, bias, stride, residual, grad)
    for actual, wanted in zip(found, expected):
        torch.testing.assert_close(actual.detach(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel_size", (3, 7, 15, 31))
@pytest.mark.parametrize("stride", (1, 2, (4, 3)))
def test_equals_the_dense_convolution_of_the_rasterized_kernel(kernel_size, stride):
    x, weight, bias = draw(2, 8, 28, 29), draw(8, kernel_size, seed=1), draw(8, seed=2)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    angle = dwoconv1d.assign_angles(8)
    kernel = rasterize(weight, angle, residual=True)
    padding = kernel.shape[2] // 2, kernel.shape[3] // 2
    dense = F.conv2d(x, kernel, bias, stride, padding, groups=8)
    line = oriented_conv1d(x, weight, angle, bias, stride=stride, residual=True)
    grad = draw(*dense.shape, seed=3)
    torch.testing.assert_close(line, dense, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(dense, leaves, grad)
    torch.testing.assert_close(torch.autograd.grad(line, leaves, grad), expected, rtol=1e-11, atol=1e-11)


def test_horizontal_and_vertical_lines_are_torch_convolutions():
    x, weight = draw(2, 4, 9, 10), draw(4, 5, seed=1)
    row = F.conv2d(x, weight[:, None, None], padding=(0, 2), groups=4)
    column = F.conv2d(x, weight.flip(1)[:, None, :, None], padding=(2, 0), groups=4)
    torch.testing.assert_close(oriented_conv1d(x, weight, torch.zeros(4)), row)
    torch.testing.assert_close(oriented_conv1d(x, weight, torch.full((4,), math.pi / 2)), column)


def test_three_oblique_taps_are_one_factor():
    x, weight = draw(1, 1, 6, 6), draw(1, 3, seed=1)
    torch.testing.assert_close(oriented_conv1d(x, weight, torch.tensor([math.pi / 4])), x * weight.sum())


def test_published_size_rule():
    """The authors want sizes that the stride divides, or pad and crop to the quotient rounded up: ours in any case."""
    for size, stride in itertools.product(range(1, 12), range(1, 5)):
        y = oriented_conv1d(torch.ones(1, 1, size, 3), torch.ones(1, 3), torch.zeros(1), stride=stride)
        assert y.shape[2] == math.ceil(size / stride)


def test_pixels_outside_the_line_are_not_touched():
    """An infinite pixel spreads along its line only: nothing is multiplied by zero, nothing wraps around."""
    for direction, kernel_size in itertools.product(range(8), (5, 9)):
        angle = torch.full((16,), math.pi * direction / 8)
        for row, column in itertools.product((0, 3, 6), (0, 4, 8)):
            x = torch.ones(1, 16, 7, 9)
            x[:, :, row, column] = math.inf
            dy, dx = tap_offsets(kernel_size, angle[:1])
            hit = {(row - int(a), column - int(b)) for a, b in zip(dy[0], dx[0])}
            hit = {(a, b) for a, b in hit if 0 <= a < 7 and 0 <= b < 9}
            for layout in (torch.contiguous_format, torch.channels_last):
                y = oriented_conv1d(x.contiguous(memory_format=layout), torch.ones(16, kernel_size), angle)
                for channel in (0, 15):
                    assert {tuple(at) for at in y[0, channel].isinf().nonzero().tolist()} == hit
                assert not y.isnan().any()


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision_is_summed_in_float32(dtype):
    """512 ones do not add up in these dtypes one by one: 256 + 1 is 256 in bfloat16, 2048 + 1 is 2048 in float16."""
    x = torch.full((1, 8, 1, 512), 8.0, dtype=dtype)
    y = oriented_conv1d(x, torch.ones(8, 1023, dtype=dtype), torch.zeros(8))
    assert torch.equal(y, torch.full_like(y, 4096))
    weight = torch.zeros(8, 1, dtype=dtype, requires_grad=True)
    oriented_conv1d(x, weight, torch.zeros(8)).backward(torch.ones_like(x))
    assert torch.equal(weight.grad, torch.full_like(weight, 4096))


def test_residual_is_added_before_rounding():
    """1 + 2**-9 is 1 in bfloat16: added to the weight there, the weight would be lost."""
    x = torch.full((1, 1, 1, 1), 256.0).bfloat16()
    y = oriented_conv1d(x, torch.full((1, 1), 2.0**-7).bfloat16(), torch.zeros(1), residual=True)
    assert y.item() == 258
    y = oriented_conv1d(x, torch.full((1, 1), 2.0**-9).bfloat16(), torch.zeros(1), x[0, 0, 0] * 0 + 1.5, residual=True)
    assert y.item() == 258  # 256 + 0.5 + 1.5, where each of the two alone would round away


@pytest.mark.parametrize("stride", [7, 10**9, 2**62])
def test_strides_beyond_the_image_cost_nothing(stride):
    """One output per plane, whatever the stride; int64 has room for it, and scratch memory must not grow with it."""
    x, weight, angle = torch.randn(2, 8, 6, 7), torch.randn(8, 5), torch.zeros(8)
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    y = oriented_conv1d(x, weight, angle, stride=stride)
    expected = oriented_conv1d(x, weight, angle)[..., :1, :1]
    torch.testing.assert_close(y, expected)
    for got, wanted in zip(*(torch.autograd.grad(t.sum(), (x, weight)) for t in (y, expected))):
        torch.testing.assert_close(got, wanted)


def test_no_taps_is_an_error_in_every_op():
    """Else a gradient of the bias with no round of taps would never be written."""
    x, offsets = torch.ones(1, 2, 3, 3), torch.zeros(2, 2, 0, dtype=torch.int32)
    with pytest.raises(RuntimeError, match=r"at least one tap|non-empty"):
        torch.ops.dwoconv1d.oriented_conv1d_grad_weight(x, x, offsets, 1, 1)


def test_strides_beyond_32_bits():
    """A view with two images 2**31 elements apart; the memory between them is never touched."""
    storage = torch.empty(2**31 + 4096, dtype=torch.float16)
    x = storage.as_strided((2, 8, 16, 16), (2**31, 256, 16, 1))
    x.copy_(draw(2, 8, 16, 16))
    weight, angle = draw(8, 7, seed=1).half(), dwoconv1d.assign_angles(8)
    assert torch.equal(oriented_conv1d(x, weight, angle), oriented_conv1d(x.contiguous(), weight, angle))


@pytest.mark.parametrize("kernel_size", (3, 63))
def test_offsets_may_point_anywhere(kernel_size):
    """The op's own interface takes any offsets, far outside the image too."""
    x, weight = draw(1, 8, 6, 5), draw(8, kernel_size, seed=1)
    far = torch.tensor([0, 2, -2, 5, 1000, -70_000, 2**31 - 1, -(2**31)])
    choice = torch.randint(len(far), (2, 8, kernel_size), generator=torch.Generator().manual_seed(0))
    offsets = far[choice]
    y = oriented_conv1d_at(x, weight, offsets.int())
    expected = loops(x, weight, *offsets, torch.zeros(8), (1, 1), False, torch.zeros_like(x))[0]
    torch.testing.assert_close(y, expected)


def test_all_sides_define_the_same_schemas():
    for name, schema in ops.SCHEMAS.items():
        defined = getattr(torch.ops.dwoconv1d, name).default._schema
        assert str(defined) == str(torch._C.parse_schema(f"dwoconv1d::{name}{schema}"))


def test_backward_keeps_only_what_it_needs():
    """Nothing is saved beyond the inputs themselves, and nothing that no wanted gradient reads."""
    saved: list[torch.Tensor] = []

    def pack(t):
        saved.append(t)
        return t

    x, weight, offsets = draw(1, 4, 5, 5), draw(4, 3), torch.zeros(2, 4, 3, dtype=torch.int32)
    for x_learns, weight_learns in ((True, True), (True, False), (False, True)):
        saved.clear()
        image, taps = x.clone().requires_grad_(x_learns), weight.clone().requires_grad_(weight_learns)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            oriented_conv1d_at(image, taps, offsets)
        pointers = {t.data_ptr() for t in saved}
        wanted = {offsets.data_ptr()} | ({taps.data_ptr()} if x_learns else set())
        assert pointers == wanted | ({image.data_ptr()} if weight_learns else set())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.gpu
def test_devices_agree_on_geometry():
    angle = torch.rand(10_000) * 14 - 7
    for on_cpu, on_gpu in zip(tap_offsets(31, angle), tap_offsets(31, angle.cuda())):
        assert torch.equal(on_cpu, on_gpu.cpu())
