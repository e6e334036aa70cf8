"""What only a GPU can show, beyond the contract in tests/contract: `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch

import smpconv
from smpconv import ops, reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
# Largest error over the largest value, sums of some thousand terms included.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
# Gradients of kernels are sums over all pixels of a batch.
LONG_SUMS = {**TOLERANCE, torch.float32: 3e-5}
op = torch.ops.smpconv
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda d: str(d)[6:])
lasts = pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
layers = pytest.mark.parametrize(  # G, C, N, size, radius, average
    ("groups", "channels", "count", "size", "radius", "average"),
    [
        (1, 96, 240, (31, 31), 0.129, False),
        (1, 192, 210, (29, 29), 0.138, False),
        (1, 384, 182, (27, 27), 0.148, False),
        (1, 768, 42, (13, 13), 0.308, False),
        (1, 384, 650, (51, 51), 0.078, False),
        (1, 96, 240, (31, 31), 1.0, False),
        (30, 30, 30, (784,), 0.002, True),
        (30, 30, 30, (16000,), 0.0002, True),
        (24, 24, 16, (33, 33), 0.12, True),
        (3, 37, 11, (19, 23), 0.7, True),
        (50, 1, 5, (7,), 0.5, False),
    ],
)
images = pytest.mark.parametrize(  # N, C, H, W, Kh, Kw
    ("shape", "size"),
    [
        ((8, 96, 56, 56), (31, 31)),
        ((8, 192, 28, 28), (29, 29)),
        ((16, 384, 14, 14), (27, 27)),
        ((16, 768, 7, 7), (13, 13)),
        ((2, 96, 56, 56), (51, 51)),
        ((3, 37, 40, 41), (63, 63)),
        ((8, 96, 56, 56), (7, 7)),
        ((8, 128, 56, 56), (5, 5)),
        ((2, 64, 112, 112), (3, 3)),
        ((1, 5, 200, 300), (9, 3)),
        ((130, 8, 4, 5), (5, 7)),
        ((4, 1, 33, 33), (15, 15)),
    ],
)


@pytest.fixture(params=["native", "cupy"], autouse=True)
def backend(request):
    missing = ops.backends.why["cuda" if request.param == "native" else "cupy"]
    if missing:
        pytest.skip(missing)
    with smpconv.use_backend(request.param):
        yield request.param


def draw(*shape, dtype=torch.float32, last=False):
    """Random numbers, (N, C, H, W) with the channels last in memory or first."""
    t = torch.randn(shape, device="cuda", dtype=dtype)
    return t.contiguous(memory_format=torch.channels_last) if last else t


def draw_points(groups, channels, count, dims, radius, dtype=torch.float32):
    """Positions, some outside of the grid; radii around `radius`; weights."""
    coords = 0.6 * torch.randn(groups, count, dims, device="cuda")
    radii = radius * (0.5 + torch.rand(groups, count, device="cuda"))
    return coords.to(dtype), radii.to(dtype), draw(groups, channels, count, dtype=dtype)


def agree(got, expected, tolerance):
    error = (got.double() - expected).abs().max() / expected.abs().max().clamp(min=1)
    assert error.item() <= tolerance


def same_every_time(function):
    """The results of `function()`, which are the same to the bit when it is called again."""
    first = function()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, function()))
    return first


@dtypes
@layers
def test_rasterize(groups, channels, count, size, radius, average, dtype):
    points = draw_points(groups, channels, count, len(size), radius, dtype)
    flip = len(size) == 2
    (kernel,) = same_every_time(lambda: [op.rasterize(*points, size, average, flip)])
    some = slice(0, 4)  # groups that the reference, which is dense, has room for
    wide = [t[some].double() for t in points]
    agree(kernel[some], reference.forward(*wide, size, average, flip), TOLERANCE[dtype])
    grad = draw(*kernel.shape, dtype=dtype)
    got = same_every_time(lambda: op.rasterize_backward(grad, *points, average, flip))
    expected = reference.backward(grad[some].double(), *wide, average, flip)
    for a, b in zip(got, expected):
        agree(a[some], b, TOLERANCE[dtype])
        assert a.dtype == dtype and a.is_contiguous()


def test_points_that_are_not_finite_spoil_their_group_alone():
    points = draw_points(3, 40, 300, 2, 0.2)
    points[1][1, 290] = torch.nan
    kernel = op.rasterize(*points, (9, 9), False, True)
    grads = op.rasterize_backward(torch.ones_like(kernel), *points, False, True)
    assert all(t[1].isnan().all() and t[::2].isfinite().all() for t in (kernel, *grads))


@dtypes
@lasts
@images
def test_depthwise_conv2d(shape, size, last, dtype):
    x, bias = draw(*shape, dtype=dtype, last=last), draw(shape[1], dtype=dtype)
    weight = draw(shape[1], *size, dtype=dtype) / (size[0] * size[1]) ** 0.5
    grad = draw(*shape, dtype=dtype, last=last)
    (y,) = same_every_time(lambda: [op.depthwise_conv2d(x, weight, bias)])
    (grad_x,) = same_every_time(lambda: [op.depthwise_conv2d_grad_input(grad, weight)])
    got = same_every_time(lambda: op.depthwise_conv2d_grad_weight(grad, x, size))
    X, W, B, G = x.double(), weight.double(), bias.double(), grad.double()
    agree(y, reference.conv(X, W, B), TOLERANCE[dtype])
    agree(grad_x, reference.conv_grad_input(G, W), TOLERANCE[dtype])
    for a, b in zip(got, reference.conv_grad_weight(G, X, size)):
        agree(a, b, LONG_SUMS[dtype])
    for t in (y, grad_x):
        assert t.dtype == dtype and reference.channels_last(t) == reference.channels_last(x)


def test_rasterize_more_than_two_to_the_31_elements():
    """The last group lies beyond 2^31 elements; its result must be that of the group alone."""
    if torch.cuda.mem_get_info()[0] < 16e9:
        pytest.skip("needs 16 GB of free GPU memory")
    points = draw_points(70, 2000, 5, 1, 0.01, torch.float16)
    kernel = op.rasterize(*points, (16000,), True, False)
    assert kernel.numel() > 2**31
    last = [t[-1:] for t in points]
    assert torch.equal(kernel[-1:], op.rasterize(*last, (16000,), True, False))
    grads = op.rasterize_backward(kernel, *points, True, False)
    alone = op.rasterize_backward(kernel[-1:], *last, True, False)
    assert all(torch.equal(a[-1:], b) for a, b in zip(grads, alone))


@lasts
def test_depthwise_conv2d_more_than_two_to_the_31_elements(last):
    """The last image lies beyond 2^31 elements; its result must be that of the image alone."""
    if torch.cuda.mem_get_info()[0] < 32e9:
        pytest.skip("needs 32 GB of free GPU memory")
    n, c, side = 9, 4096, 256
    x = torch.empty(n, c, side, side, device="cuda", dtype=torch.float16)
    if last:
        x = x.view(n, side, side, c).movedim(-1, 1)
    assert x.numel() > 2**31
    x[:-1] = 0
    x[-1].normal_()
    weight = draw(c, 5, 5, dtype=torch.float16)
    y = op.depthwise_conv2d(x, weight, None)
    assert torch.equal(y[-1:], op.depthwise_conv2d(x[-1:], weight, None)) and not y[:-1].any()
    grad_x = op.depthwise_conv2d_grad_input(x, weight)
    assert torch.equal(grad_x[-1:], op.depthwise_conv2d_grad_input(x[-1:], weight)) and not grad_x[:-1].any()
    del y, grad_x
    grad_weight, grad_bias = op.depthwise_conv2d_grad_weight(x, x, (5, 5))
    wanted, wanted_bias = op.depthwise_conv2d_grad_weight(x[-1:], x[-1:], (5, 5))
    torch.testing.assert_close(grad_weight, wanted, rtol=2e-3, atol=1e-3 * wanted.abs().max().item())
    torch.testing.assert_close(grad_bias, wanted_bias, rtol=2e-3, atol=1e-3 * wanted_bias.abs().max().item())


def work():
    """Everything there is to launch, as a function of images and points."""

    def run(x, coords, radius, weight):
        kernel = op.rasterize(coords, radius, weight, (31, 31), True, True)
        y = op.depthwise_conv2d(x, kernel[0], None)
        grads = op.depthwise_conv2d_grad_weight(y, x, (31, 31))
        back = op.rasterize_backward(grads[0][None], coords, radius, weight, True, True)
        return [kernel, y, op.depthwise_conv2d_grad_input(y, kernel[0]), *grads, *back]

    return run


@lasts
def test_runs_on_torchs_current_stream(last):
    """Work queued on a side stream is ordered with what torch queues there."""
    values, run = (draw(8, 64, 28, 28, last=last), *draw_points(1, 64, 200, 2, 0.15)), work()
    given = [torch.zeros_like(t) for t in values]
    expected = run(*values)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)
        for t, value in zip(given, values):
            t.copy_(value)
        results = run(*given)
        torch.cuda.current_stream().synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected))


@lasts
def test_is_captured_in_a_graph(last):
    """No synchronisation, no allocation outside torch's pool."""
    given, run = (draw(4, 64, 14, 14, last=last), *draw_points(1, 64, 200, 2, 0.15)), work()
    expected = run(*given)  # compiles and loads
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(*given)
    for result in results:
        result.zero_()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(results, expected))


def test_a_training_step_is_captured_in_a_graph():
    """The public functions, forward and backward."""
    x, points = draw(4, 64, 14, 14).requires_grad_(), [t.requires_grad_() for t in draw_points(1, 64, 200, 2, 0.15)]

    def step():
        coords, radius, weight = points
        kernel = smpconv.rasterize(coords, radius, weight, 31, average=False, flip=True)
        y = smpconv.depthwise_conv2d(x, kernel.squeeze(0))
        return torch.autograd.grad(y.square().sum(), (x, *points))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        expected = [step() for _ in range(3)][-1]
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(results, expected))


def test_rasterize_takes_one_launch_each_way():
    if torch.profiler.ProfilerActivity.CUDA not in torch.profiler.supported_activities():
        pytest.skip("torch's profiler sees no GPU here")
    points = draw_points(1, 96, 240, 2, 0.13)
    grad = draw(1, 96, 31, 31)

    def launches(function):
        function()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            function()
            torch.cuda.synchronize()
        return [event.name for event in profile.events() if "smpconv::" in event.name]

    assert len(launches(lambda: op.rasterize(*points, (31, 31), False, True))) == 1
    assert len(launches(lambda: op.rasterize_backward(grad, *points, False, True))) == 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runs_on_the_tensors_device_not_the_current_one():
    given, run, results = [t.cpu() for t in (draw(2, 16, 8, 8), *draw_points(1, 16, 40, 2, 0.15))], work(), []
    for device in ("cuda:0", "cuda:1"):  # the current device stays 0
        out = run(*(t.to(device) for t in given))
        assert all(t.device == torch.device(device) for t in out) and torch.cuda.current_device() == 0
        results.append([t.cpu() for t in out])
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_networks_on_a_gpu_are_converted_there():
    layer = torch.nn.Conv2d(8, 8, 7, padding=3, groups=8, device="cuda")
    points = smpconv.fit_points(layer.weight.squeeze(1), 12, steps=3)
    assert {t.device for t in points[:3]} == {layer.weight.device}
    found = smpconv.convert(layer, n_points=1.0)
    assert {t.device for t in found.parameters()} == {layer.weight.device}
    x = torch.randn(2, 8, 9, 9, device="cuda")
    torch.testing.assert_close(found(x), layer(x), rtol=1e-3, atol=1e-3)
