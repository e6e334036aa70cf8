"""Convolutions by spectra beside those of torch: lengths that are odd, prime, or shorter than the kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from smpconv import causal_conv1d_long, conv2d_long, depthwise_conv2d
from smpconv.fourier import fast_size, pays


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("length", [1, 2, 7, 11, 16, 161, 182])
@pytest.mark.parametrize("taps", [1, 2, 5, 16, 161, 200])
@pytest.mark.parametrize("biased", [False, True])
def test_causal_convolution_of_any_length(length, taps, biased):
    x, weight = torch.randn(2, 3, length).double(), torch.randn(4, 3, taps).double()
    bias = torch.randn(4).double() if biased else None
    wanted = F.conv1d(F.pad(x, (taps - 1, 0)), weight, bias)
    for algorithm in ("auto", "direct", "fft"):
        torch.testing.assert_close(causal_conv1d_long(x, weight, bias, algorithm=algorithm), wanted)


def test_the_present_is_the_last_tap():
    x, weight = torch.zeros(1, 1, 5), torch.tensor([[[3.0, 2.0, 1.0]]])
    x[0, 0, 1] = 1
    for algorithm in ("direct", "fft"):
        y = causal_conv1d_long(x, weight, algorithm=algorithm)[0, 0]
        torch.testing.assert_close(y, torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0]))


@pytest.mark.parametrize("image", [(8, 8), (9, 9), (7, 10), (10, 7), (1, 6), (32, 33)], ids=str)
@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 5), (13, 13), (33, 33)], ids=str)
def test_dense_convolution_of_any_size(image, kernel_size):
    x, weight = torch.randn(2, 3, *image).double(), torch.randn(4, 3, *kernel_size).double()
    wanted = F.conv2d(x, weight, padding=(kernel_size[0] // 2, kernel_size[1] // 2))
    for algorithm in ("auto", "direct", "fft"):
        torch.testing.assert_close(conv2d_long(x, weight, algorithm=algorithm), wanted)


@pytest.mark.parametrize("image", [(12, 1), (12, 12), (32, 32)], ids=str)
@pytest.mark.parametrize("kernel_size", [(23, 7), (33, 5), (63, 1)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradients_of_tall_kernels(image, kernel_size, layout):
    """torch's own are wrong, or end the process, where float32 kernels are taller than the image and narrow."""
    x, weight = torch.randn(2, 3, *image), torch.randn(4, 3, *kernel_size)
    x, weight = (t.requires_grad_() for t in (x.contiguous(memory_format=layout), weight))
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    wanted = F.conv2d(*exact, padding=(kernel_size[0] // 2, kernel_size[1] // 2))
    y, grad = conv2d_long(x, weight, algorithm="direct"), torch.randn_like(wanted)
    assert y.is_contiguous(memory_format=layout)
    found = torch.autograd.grad(y, (x, weight), grad.float())
    for one, other in zip((y, *found), (wanted, *torch.autograd.grad(wanted, exact, grad))):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5 * other.abs().max().item())


@pytest.mark.parametrize("algorithm", ["auto", "direct", "fft"])
@pytest.mark.parametrize(
    ("function", "x", "weight"),
    [(causal_conv1d_long, (2, 3, 0), (4, 3, 5)), (conv2d_long, (2, 3, 0, 6), (4, 3, 5, 3))],
    ids=["causal", "dense"],
)
def test_inputs_without_samples(function, x, weight, algorithm):
    tensors = [torch.randn(shape, requires_grad=True) for shape in (x, weight, (4,))]
    y = function(*tensors, algorithm=algorithm)
    assert y.shape == (2, 4, *x[2:])
    y.sum().backward()
    assert [t.grad.shape for t in tensors] == [t.shape for t in tensors]


@pytest.mark.parametrize("algorithm", ["direct", "fft"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_and_layout_are_those_of_the_image(algorithm, dtype):
    x, weight = torch.randn(2, 3, 9, 8).to(dtype), torch.randn(4, 3, 11, 11).to(dtype)
    wanted = F.conv2d(x.double(), weight.double(), padding=5)
    for layout in (torch.contiguous_format, torch.channels_last):
        y = conv2d_long(x.contiguous(memory_format=layout), weight, algorithm=algorithm)
        assert (y.dtype, y.is_contiguous(memory_format=layout)) == (dtype, True)
        torch.testing.assert_close(y.double(), wanted, rtol=0, atol=8 * torch.finfo(dtype).eps * wanted.abs().max())


@pytest.mark.parametrize("taps", [5, 20, 40])
@pytest.mark.parametrize("channels", [3, 8, 12, 30])
def test_bfloat16_of_sequences_is_right(channels, taps):
    """torch's own convolution is not, on processors with AMX."""
    x, weight, bias = torch.randn(2, channels, 40), torch.randn(6, channels, taps), torch.randn(6)
    low = [t.bfloat16().requires_grad_() for t in (x, weight, bias)]
    high = [t.detach().double().requires_grad_() for t in low]
    wanted = F.conv1d(F.pad(high[0], (taps - 1, 0)), *high[1:])
    runs = [causal_conv1d_long(*low, algorithm=algorithm) for algorithm in ("direct", "fft")]
    with torch.autocast("cpu", torch.bfloat16):
        runs.append(causal_conv1d_long(x, weight, bias, algorithm="direct"))
    for y in runs:
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.double(), wanted, rtol=0, atol=0.02 * wanted.abs().max().item())
    pairs = zip(torch.autograd.grad(runs[0].sum(), low), torch.autograd.grad(wanted.sum(), high))
    for grad, other in pairs:
        torch.testing.assert_close(grad.double(), other, rtol=0, atol=0.02 * other.abs().max().item())


def test_sizes_that_transforms_are_fast_for():
    assert [fast_size(least) for least in (1, 7, 11, 13, 71, 86, 1567)] == [2, 8, 12, 16, 72, 90, 1600]


@pytest.mark.parametrize(
    ("x", "weight", "wanted"),
    [
        ((8, 30, 784), (30, 30, 16), False),
        ((8, 30, 784), (30, 30, 64), True),
        ((8, 30, 784), (30, 30, 32), True),
        ((1, 30, 784), (30, 30, 32), False),
        ((1, 30, 784), (30, 30, 128), True),
        ((8, 30, 161), (30, 30, 161), True),
        ((4, 24, 32, 32), (24, 24, 7, 7), False),
        ((4, 24, 32, 32), (24, 24, 33, 33), True),
        ((1, 24, 16, 16), (24, 24, 15, 15), False),
        ((1, 96, 56, 56), (96, 31, 31), False),
        ((8, 96, 56, 56), (96, 31, 31), False),
        ((1, 96, 56, 56), (96, 51, 51), False),
        ((1, 32, 112, 112), (32, 41, 41), True),
        ((1, 32, 112, 112), (32, 63, 63), True),
    ],
)
def test_the_faster_algorithm_was_measured(x, weight, wanted):
    """Forward and backward on one core; the shapes alone decide."""
    x, weight = torch.empty(x, device="meta"), torch.empty(weight, device="meta")
    zeros = (weight.shape[2] - 1,) if x.dim() == 3 else tuple(size // 2 for size in weight.shape[-2:])
    assert pays(x, weight, zeros) == wanted


CASES = {"causal": (causal_conv1d_long, (2, 3, 7), (4, 3, 5)), "longer": (causal_conv1d_long, (1, 2, 5), (3, 2, 9))}
CASES |= {"dense": (conv2d_long, (2, 2, 4, 5), (3, 2, 3, 5)), "depthwise": (depthwise_conv2d, (2, 3, 4, 5), (3, 5, 3))}


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_any_order(case):
    function, image, kernel = CASES[case]
    x, weight = torch.randn(image).double().requires_grad_(), torch.randn(kernel).double().requires_grad_()

    def run(x, weight):
        return function(x, weight, algorithm="fft")

    assert torch.autograd.gradcheck(run, (x, weight))
    assert torch.autograd.gradgradcheck(run, (x, weight))
    assert torch.autograd.gradcheck(run, (x.detach(), weight))
    assert torch.autograd.gradcheck(run, (x, weight.detach()))


def test_a_kernel_made_of_the_sequence():
    """Its second derivative goes through both arguments once each."""

    def run(x):
        return causal_conv1d_long(x, x.sin()[:, :, :3].expand(3, 2, 3), algorithm="fft")

    x = torch.randn(1, 2, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(run, x)
    assert torch.autograd.gradgradcheck(run, x)


@pytest.mark.parametrize("case", CASES)
def test_functional_transforms_and_compiler(case):
    function, image, kernel = CASES[case]
    x, weight = torch.randn(3, *image).double(), torch.randn(kernel).double()

    def run(x, weight):
        return function(x, weight, algorithm="fft")

    expected = torch.stack([run(one, weight) for one in x])
    torch.testing.assert_close(torch.vmap(run, (0, None))(x, weight), expected)
    tangent = torch.func.jvp(lambda weight: run(x[0], weight), (weight,), (weight,))[1]
    torch.testing.assert_close(tangent, expected[0])
    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="aot_eager")(x[0], weight), expected[0])
    one = x[0].requires_grad_()
    (wanted,) = torch.autograd.grad(run(one, weight).square().sum(), one)
    torch.testing.assert_close(torch.func.grad(lambda one: run(one, weight).square().sum())(x[0]), wanted)
