"""The depthwise convolution against the formula written out as loops, and against torch's own convolution."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import pathconv
from leanconv.testing.cpu import KERNELS, cpu_kernels
from pathconv import depthwise_conv1d


def as_nlc(t: Tensor) -> Tensor:
    return t.mT.contiguous().mT


LAYOUTS = {"ncl": Tensor.contiguous, "nlc": as_nlc}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(params=KERNELS, autouse=True)
def backend(request):
    """Every kernel that this machine has."""
    with cpu_kernels(pathconv, request.param) as name:
        yield name


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loops(x, weight, bias, stride, padding, grad):
    """Output, and gradients of input, weight and bias, term by term."""
    (n, c, length), (_, d, k) = x.shape, weight.shape
    y, grad_x, grad_weight = torch.zeros_like(grad), torch.zeros_like(x), torch.zeros_like(weight)
    for i, o, p in itertools.product(range(n), range(d), range(grad.shape[2])):
        source, kernel = o // (d // c), i if len(weight) > 1 else 0
        y[i, o, p] = bias[o]
        for s in range(k):
            at = p * stride + s - padding
            if 0 <= at < length:
                y[i, o, p] += weight[kernel, o, s] * x[i, source, at]
                grad_x[i, source, at] += weight[kernel, o, s] * grad[i, o, p]
                grad_weight[kernel, o, s] += grad[i, o, p] * x[i, source, at]
    return y, grad_x, grad_weight, grad.sum((0, 2))


@pytest.mark.parametrize("per_sample", (False, True), ids=("shared", "per_sample"))
@pytest.mark.parametrize(
    ("size", "multiplier", "kernel_size", "stride", "padding"),
    [
        ((2, 3, 7), 1, 3, 1, 1),
        ((2, 2, 9), 3, 4, 2, 0),
        ((2, 1, 8), 2, 5, 3, 4),
        ((2, 3, 5), 1, 5, 2, 7),
        ((2, 2, 1), 2, 1, 1, 0),
    ],
)
def test_equals_the_formula_term_by_term(size, multiplier, kernel_size, stride, padding, per_sample, layout):
    outputs = size[1] * multiplier
    x, bias = draw(*size), draw(outputs, seed=2)
    weight = draw(size[0] if per_sample else 1, outputs, kernel_size, seed=1)
    leaves = [layout(x).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    y = depthwise_conv1d(leaves[0], weight if per_sample else weight[0], bias, stride=stride, padding=padding)
    grad = draw(*y.shape, seed=3)
    found = y, *torch.autograd.grad(y, leaves, layout(grad))
    with torch.no_grad():
        expected = loops(x, weight, bias, stride, padding, grad)
    for actual, wanted in zip(found, expected):
        torch.testing.assert_close(actual.detach(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize(
    ("size", "multiplier", "kernel_size", "stride", "padding"),
    [
        ((2, 48, 64), 1, 11, 1, 5),  # the networks' layers
        ((2, 48, 70), 2, 9, 2, 4),
        ((3, 37, 65), 1, 9, 1, 4),  # channels and positions that fill no vector
        ((2, 20, 33), 2, 9, 2, 4),
        ((2, 5, 17), 3, 4, 3, 2),
        ((2, 33, 100), 4, 13, 4, 6),
        ((35, 16, 20), 1, 9, 1, 4),  # more samples than sums are split into
        ((1, 16, 4200), 2, 9, 2, 4),  # several tiles
        ((1, 3, 8200), 1, 40, 3, 4),
        ((2, 32, 45), 1, 25, 2, 12),  # more taps than registers hold
        ((1, 1, 7), 1, 7, 1, 9),
    ],
)
def test_equals_torch(size, multiplier, kernel_size, stride, padding, dtype, layout):
    """Every sample with its own kernel equals one grouped convolution of all samples' channels."""
    rtol = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    batch, channels, length = size
    outputs = channels * multiplier
    for kernels in (1, batch):
        x, bias = draw(*size).to(dtype), draw(outputs, seed=2).to(dtype)
        weight = draw(kernels, outputs, kernel_size, seed=1).to(dtype)
        wide = [t.double().requires_grad_() for t in (x, weight, bias)]
        expected = F.conv1d(
            wide[0].reshape(1, -1, length),
            wide[1].expand(batch, -1, -1).reshape(-1, 1, kernel_size),
            wide[2].repeat(batch),
            stride,
            padding,
            groups=batch * channels,
        ).reshape(batch, outputs, -1)
        leaves = [layout(x).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
        given = weight if kernels > 1 else weight[0]
        y = depthwise_conv1d(leaves[0], given, bias, stride=stride, padding=padding)
        assert y.dtype == dtype
        assert y.is_contiguous() == leaves[0].is_contiguous()
        grad = draw(*y.shape, seed=3).to(dtype)
        found = [y, *torch.autograd.grad(y, leaves, grad)]
        wanted = [expected, *torch.autograd.grad(expected, wide, grad.double())]
        assert found[1].is_contiguous() == leaves[0].is_contiguous()
        for name, actual, exact in zip(("y", "x", "weight", "bias"), found, wanted):
            error = (actual.detach().double() - exact).abs().max() / exact.abs().max()
            assert error <= rtol, f"{name}: {error:g}"


def test_all_shapes_of_the_weight_mean_the_same():
    x, weight, bias = draw(2, 6, 20), draw(12, 5, seed=1), draw(12, seed=2)
    expected = F.conv1d(x, weight[:, None], bias, padding=2, groups=6)
    for given in (weight, weight[:, None], weight.expand(2, 12, 5)):
        torch.testing.assert_close(depthwise_conv1d(x, given, bias, padding=2), expected)
        torch.testing.assert_close(pathconv.reference.depthwise_conv1d(x, given, bias, padding=2), expected)


def test_a_scale_per_sample_and_channel_folds_into_the_kernels(layout):
    """What the networks do with channel attention: x * (1 + a) through one convolution without the product."""
    x, weight, bias, scale = layout(draw(3, 8, 30)), draw(8, 9, seed=1), draw(8, seed=2), draw(3, 8, seed=3)
    folded = depthwise_conv1d(x, (1 + scale)[:, :, None] * weight, bias, padding=4)
    plain = depthwise_conv1d(x * (1 + scale)[:, :, None], weight, bias, padding=4)
    torch.testing.assert_close(folded, plain)


def test_layouts_of_results_follow_the_input(layout):
    x, weight = layout(draw(2, 8, 12)).requires_grad_(), draw(16, 3, seed=1)
    last = not x.is_contiguous()
    y = depthwise_conv1d(x, weight, stride=2, padding=1)
    assert y.mT.is_contiguous() == last
    for upstream in (torch.ones_like(y), torch.ones(1, 1, 1, dtype=y.dtype).expand_as(y), as_nlc(draw(2, 16, 6))):
        (grad,) = torch.autograd.grad(y, x, upstream, retain_graph=True)
        assert grad.stride() == x.stride()
    (grad,) = torch.autograd.grad(depthwise_conv1d(x, draw(8, 12, seed=1)).sum(), x)  # one position shows no layout
    assert grad.stride() == x.stride()


def test_views_are_read_where_they_lie(layout):
    """Slices, transposed and expanded tensors; what lies between is NaN."""
    weight = draw(12, 5, seed=1)
    for channels, positions in (
        (slice(1, 13), slice(2, 22)),
        (slice(0, 24, 2), slice(None)),
        (slice(0, 12), slice(0, 40, 2)),
    ):
        store = layout(torch.full((4, 26, 40), torch.nan, dtype=torch.float64))
        view = store[1:3, channels, positions]
        view.copy_(draw(*view.shape))
        torch.testing.assert_close(
            depthwise_conv1d(view, weight, padding=2), F.conv1d(view, weight[:, None], padding=2, groups=12)
        )
    one = draw(1, 12, 1)
    torch.testing.assert_close(
        depthwise_conv1d(one.expand(3, 12, 9), weight), (one * weight.sum(1)[:, None]).expand(3, 12, 5)
    )


def test_only_what_the_kernel_covers_is_touched(layout):
    """An infinite number spreads over its window: nothing is multiplied by zero, nothing crosses a row's end."""
    for length, channels, at in itertools.product((9, 40), (3, 16, 20), (0, 4, 8)):
        x = torch.ones(2, channels, length)
        x[0, 1, at] = torch.inf
        y = depthwise_conv1d(layout(x), torch.ones(channels, 5), padding=2)
        assert not y.isnan().any()
        assert {tuple(i) for i in y.isinf().nonzero().tolist()} == {
            (0, 1, p) for p in range(max(0, at - 2), min(length, at + 3))
        }


@pytest.mark.parametrize("multiplier", (1, 2))
@pytest.mark.parametrize("stride", (1, 3))
def test_infinities_reach_only_the_weights_that_read_them(layout, stride, multiplier):
    """Here the last weights alone: an infinite input is not multiplied by gradients of outputs that do not exist."""
    for length in (9, 20, 40):
        x = torch.ones(2, 17, length)
        x[0, 3, -1] = torch.inf
        weight = torch.zeros(17 * multiplier, 5, requires_grad=True)
        y = depthwise_conv1d(layout(x), weight, stride=stride)
        y.backward(torch.ones_like(y))
        read = (y.shape[2] - 1) * stride + 4 == length - 1
        expected = torch.full_like(weight, 2.0 * y.shape[2])
        if read:
            expected[3 * multiplier : 4 * multiplier, 4] = torch.inf
        assert torch.equal(weight.grad, expected)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision_is_summed_in_float32(dtype, layout):
    """512 eights do not add up in these dtypes one by one: 256 + 1 is 256 in bfloat16, 2048 + 1 is 2048 in float16."""
    x = layout(torch.full((1, 8, 512), 8.0, dtype=dtype))
    y = depthwise_conv1d(x, torch.ones(8, 1023, dtype=dtype), padding=511)
    assert torch.equal(y, torch.full_like(y, 4096))
    weight = torch.zeros(8, 1, dtype=dtype, requires_grad=True)
    depthwise_conv1d(x, weight).backward(torch.ones_like(x))
    assert torch.equal(weight.grad, torch.full_like(weight, 4096))


@pytest.mark.parametrize("stride", [40, 10**9, 2**62])
def test_strides_beyond_the_sequence_cost_nothing(stride, layout):
    x, weight = layout(draw(2, 8, 17)).requires_grad_(), draw(16, 5, seed=1).requires_grad_()
    y = depthwise_conv1d(x, weight, stride=stride, padding=2)
    expected = depthwise_conv1d(x, weight, padding=2)[..., :1]
    torch.testing.assert_close(y, expected)
    for got, wanted in zip(*(torch.autograd.grad(t.sum(), (x, weight)) for t in (y, expected))):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("size", [(0, 4, 9), (0, 20, 9)])
def test_empty_batches(size, layout):
    for weight in (draw(8 if size[1] == 4 else 20, 3), draw(0, size[1], 3)):
        x = layout(draw(*size)).requires_grad_()
        weight.requires_grad_()
        y = depthwise_conv1d(x, weight, padding=1)
        assert y.shape == (0, weight.shape[-2], 9)
        grad_x, grad_weight = torch.autograd.grad(y.sum(), (x, weight))
        assert grad_x.shape == x.shape
        assert torch.equal(grad_weight, torch.zeros_like(weight))


def test_second_derivatives_of_every_kind(layout):
    for weight, stride in ((draw(6, 3, seed=1), 1), (draw(2, 3, 2, seed=1), 2)):
        x, bias = draw(2, 3, 5).requires_grad_(), draw(weight.shape[-2], seed=2).requires_grad_()

        def function(x, weight, bias, stride=stride):
            return depthwise_conv1d(layout(x), weight, bias, stride=stride, padding=1)

        leaves = (x, weight.requires_grad_(), bias)
        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("in_dims", [{"x": 0}, {"x": 1, "weight": 3}, {"weight": 0, "bias": 0}, {"x": 2, "bias": 1}])
def test_vmap_with_kernels_per_sample(in_dims, layout):
    given = {"x": layout(draw(2, 4, 9)), "weight": draw(2, 8, 3, seed=1), "bias": draw(8, seed=2)}
    stacked = {name: torch.stack([given[name], 2 - given[name]], dim) for name, dim in in_dims.items()}

    def function(mapped):
        inputs = {**given, **mapped}
        return torch.func.grad(lambda leaves: depthwise_conv1d(**leaves, stride=2, padding=1).sin().sum())(inputs)

    mapped = torch.func.vmap(function, in_dims=(in_dims,))(stacked)
    for i in range(2):
        one = function({name: value.select(in_dims[name], i) for name, value in stacked.items()})
        torch.testing.assert_close({name: value[i] for name, value in mapped.items()}, one)


def test_backward_keeps_only_what_it_needs():
    saved: list[Tensor] = []

    def pack(t):
        saved.append(t)
        return t

    x, weight = draw(1, 4, 5), draw(4, 3)
    for x_learns, weight_learns in ((True, True), (True, False), (False, True)):
        saved.clear()
        leaf, taps = x.clone().requires_grad_(x_learns), weight.clone().requires_grad_(weight_learns)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            depthwise_conv1d(leaf, taps)
        wanted = ({taps.data_ptr()} if x_learns else set()) | ({leaf.data_ptr()} if weight_learns else set())
        assert {t.data_ptr() for t in saved} == wanted


def test_flops_are_those_of_torch():
    """And as many again for each gradient, where torch counts those of groups as if they were dense."""
    x, weight = draw(2, 8, 20).requires_grad_(), draw(16, 5).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        y = depthwise_conv1d(x, weight, stride=2, padding=2)
    with FlopCounterMode(display=False) as of_torch:
        F.conv1d(x, weight[:, None], None, 2, 2, groups=8)
    assert counter.get_total_flops() == of_torch.get_total_flops() == 2 * y.numel() * 5
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * of_torch.get_total_flops()


def test_ops_say_what_is_wrong(backend):
    """The ops themselves check what their kernels rely on."""
    if backend == "reference":
        pytest.skip("checks of the native binding")
    call, back, sums = (
        getattr(torch.ops.pathconv, f"depthwise_conv1d{end}") for end in ("", "_grad_input", "_grad_weight")
    )
    x, weight = torch.ones(2, 4, 9), torch.ones(1, 8, 3)
    for bad, says in (
        (lambda: call(x[0], weight, None, 1, 0), "x must have 3 dimensions"),
        (lambda: call(x.int(), weight.int(), None, 1, 0), "x must be float32"),
        (lambda: call(x, weight.double(), None, 1, 0), "weight must have the dtype of x"),
        (lambda: call(x, weight.expand(3, 8, 3), None, 1, 0), "one kernel for all samples or one per sample"),
        (lambda: call(x, weight[:, :6], None, 1, 0), "multiple of the channels of x, 4, but has 6"),
        (lambda: call(x, weight[:, :0], None, 1, 0), "multiple of the channels of x, 4, but has 0"),
        (lambda: call(x, weight, torch.ones(4), 1, 0), "bias must have shape"),
        (lambda: call(x, weight, None, 0, 0), "stride must be positive"),
        (lambda: call(x, weight, None, 1, -1), "padding must not be negative"),
        (lambda: call(x[..., :2], weight, None, 1, 0), "larger than the length with its padding"),
        (lambda: call(x, weight[..., :0], None, 1, 0), "at least one tap"),
        (lambda: back(torch.ones(2, 8, 7), weight, 4, 10, 1, 0), "grad must have the shape of the output"),
        (lambda: back(torch.ones(2, 8, 7), weight, 3, 9, 1, 0), "multiple of the channels of x, 3"),
        (lambda: sums(torch.ones(2, 8, 6), x, 3, 1, 0, False), "grad must have the shape of the output"),
        (lambda: sums(torch.ones(2, 8, 7), x, 0, 1, 0, False), "kernel_size must be positive"),
    ):
        with pytest.raises(RuntimeError) as caught:
            bad()
        assert says in str(caught.value)


def test_gradients_of_weights_take_mixed_layouts():
    """The op's own interface takes a gradient that lies otherwise than x."""
    x, grad = draw(2, 20, 30), draw(2, 20, 30, seed=1)
    expected = torch.ops.pathconv.depthwise_conv1d_grad_weight(grad, x, 5, 1, 2, False)
    for one, other in ((as_nlc(x), grad), (x, as_nlc(grad))):
        torch.testing.assert_close(
            torch.ops.pathconv.depthwise_conv1d_grad_weight(other, one, 5, 1, 2, False), expected
        )
