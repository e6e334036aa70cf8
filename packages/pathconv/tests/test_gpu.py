"""What only a GPU can show, beyond the contract in tests/contract: `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch

import pathconv
from pathconv import ops, path_tables, reference, reference_depthwise

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
# Largest error over the largest value, sums of a hundred thousand terms included.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
op = torch.ops.pathconv
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda d: str(d)[6:])
lasts = pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])


@pytest.fixture(params=["native", "cupy"], autouse=True)
def backend(request):
    missing = ops.backends.why["cuda" if request.param == "native" else "cupy"]
    if missing:
        pytest.skip(missing)
    with pathconv.use_backend(request.param):
        yield request.param


def draw(*shape, dtype=torch.float32, last=False):
    """Random numbers (N, C, ...), with the channels last in memory or first."""
    t = torch.randn(shape, device="cuda", dtype=dtype)
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if last else t


def tables(paths, length):
    """Random paths and their inverses."""
    index = torch.stack([torch.randperm(length, device="cuda") for _ in range(paths)])
    return index.int(), index.argsort(1).int()


def agree(got, expected, dtype):
    error = (got.double() - expected).abs().max() / expected.abs().max().clamp(min=1)
    assert got.dtype == dtype and error.item() <= TOLERANCE[dtype]


def same_every_time(function):
    """The results of `function()`, which are the same to the bit when it is called again."""
    first = function()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, function()))
    return first


@dtypes
@lasts
@pytest.mark.parametrize(
    ("shape", "paths", "outputs"),
    [
        ((128, 3, 32, 32), 3, 48),
        ((16, 3, 64, 64), 3, 60),
        ((2, 3, 224, 224), 3, 48),
        ((3, 37, 19, 23), 9, 131),
        ((1100, 5, 3, 3), 2, 10),
    ],
)
def test_traversal(shape, paths, outputs, last, dtype):
    n, c, h, w = shape
    index, inverse = tables(paths, h * w)
    x, y = draw(*shape, dtype=dtype, last=last), draw(n, paths * c, h * w, dtype=dtype, last=last)
    grad, weight = draw(n, outputs, h * w, dtype=dtype, last=last), draw(outputs, paths * c, dtype=dtype)
    bias = draw(outputs, dtype=dtype)
    Y, X, G, W, B = (t.double() for t in (y, x, grad, weight, bias))
    assert torch.equal(op.traverse(x, index, inverse, last), reference.gather(x, index, inverse, last))
    back = op.traverse_adjoint(y, index, inverse, h, w, last)
    agree(back, reference.gather_adjoint(Y, index, inverse, h, w, last), dtype)
    out = op.traverse_conv1d(x, index, inverse, weight, bias, last)
    agree(out, reference.gather_conv1d(X, index, inverse, W, B, last), dtype)
    grad_x = op.traverse_conv1d_grad_input(grad, index, inverse, weight, h, w, last)
    agree(grad_x, reference.gather_conv1d_grad_input(G, index, inverse, W, h, w, last), dtype)
    assert all((t.movedim(1, -1) if last else t).is_contiguous() for t in (back, out, grad_x))
    sums = same_every_time(lambda: op.traverse_conv1d_grad_weight(grad, x, index, inverse))
    for got, expected in zip(sums, reference.gather_conv1d_grad_weight(G, X, index, inverse)):
        agree(got, expected, dtype)


@dtypes
@lasts
@pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per_sample"])
@pytest.mark.parametrize(
    ("shape", "multiplier", "taps", "stride", "padding"),
    [
        ((128, 48, 1024), 1, 11, 1, 5),
        ((64, 96, 512), 2, 9, 2, 4),
        ((32, 384, 128), 1, 9, 1, 4),
        ((2, 3, 50176), 1, 9, 1, 4),
        ((9, 33, 77), 3, 100, 5, 40),
        ((5, 1, 60), 1, 4, 7, 0),
    ],
)
def test_depthwise(shape, multiplier, taps, stride, padding, per_sample, last, dtype):
    n, c, length = shape
    x = draw(*shape, dtype=dtype, last=last)
    weight, bias = draw(n if per_sample else 1, c * multiplier, taps, dtype=dtype), draw(c * multiplier, dtype=dtype)
    X, W, B = (t.double().requires_grad_() for t in (x, weight, bias))
    Y = reference_depthwise.forward(X, W, B, stride, padding)
    grad = draw(*Y.shape, dtype=dtype, last=last)
    expected = torch.autograd.grad(Y, (X, W, B), grad.double())
    out = op.depthwise_conv1d(x, weight, bias, stride, padding)
    agree(out, Y.detach(), dtype)
    grad_x = op.depthwise_conv1d_grad_input(grad, weight, c, length, stride, padding)
    agree(grad_x, expected[0], dtype)
    assert all(reference.lies_last(t) == reference.lies_last(x) for t in (out, grad_x))
    sums = same_every_time(lambda: op.depthwise_conv1d_grad_weight(grad, x, taps, stride, padding, per_sample))
    for got, wanted in zip(sums, expected[1:]):
        agree(got, wanted, dtype)


@lasts
def test_more_than_two_to_the_31_elements(last):
    """The last image lies beyond 2^31 elements; its result must be that of the image alone."""
    if torch.cuda.mem_get_info()[0] < 24e9:
        pytest.skip("needs 24 GB of free GPU memory")
    n, c, side = 9, 4096, 256
    x = torch.empty(n, c, side, side, device="cuda", dtype=torch.float16)
    if last:
        x = x.view(n, side, side, c).movedim(-1, 1)
    assert x.numel() > 2**31
    x[:-1] = 0
    x[-1].normal_()
    alone, (index, inverse) = x[-1:].clone(), tables(1, side**2)
    y = op.traverse(x, index, inverse, last)
    assert torch.equal(y[-1:], op.traverse(alone, index, inverse, last)) and not y[:-1].any()
    back = op.traverse_adjoint(y, index, inverse, side, side, last)
    assert torch.equal(back, x)
    del back, y
    weight = torch.randn(1, c, 5, device="cuda").half()
    sequence, single = x.flatten(2), alone.flatten(2)
    out = op.depthwise_conv1d(sequence, weight, None, 1, 2)
    assert torch.equal(out[-1:], op.depthwise_conv1d(single, weight, None, 1, 2)) and not out[:-1].any()
    del out
    got = op.depthwise_conv1d_grad_weight(sequence, sequence, 5, 1, 2, False)[1]
    torch.testing.assert_close(got.double(), single.double().sum((0, 2)), rtol=2e-3, atol=2e-2)
    rows = torch.randn(4, c, device="cuda").half()
    mixed = op.traverse_conv1d(x, index, inverse, rows, None, last)
    assert torch.equal(mixed[-1:], op.traverse_conv1d(alone, index, inverse, rows, None, last))
    assert not mixed[:-1].any()


def work():
    """A forward pass of every kind, as a function of an image, its tables and kernels."""
    index, inverse = tables(3, 64 * 64)
    weight, kernels = draw(48, 9), draw(1, 48, 11)

    def run(x):
        y = op.traverse_conv1d(x, index, inverse, weight, None, True)
        y = op.depthwise_conv1d(y, kernels, None, 1, 5)
        grad_weight, _ = op.depthwise_conv1d_grad_weight(y, y, 9, 1, 4, True)
        traversed = op.traverse(x, index, inverse, False)
        return y, grad_weight, op.traverse_adjoint(traversed, index, inverse, 64, 64, False)

    return run


def test_runs_on_torchs_current_stream():
    """Work queued on a side stream is ordered with what torch queues there."""
    x, run = torch.zeros(32, 3, 64, 64, device="cuda"), work()
    expected = run(torch.ones_like(x))
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)
        x.fill_(1)
        results = run(x)
        torch.cuda.current_stream().synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected))


def test_is_captured_in_a_graph():
    """No synchronisation, no allocation outside torch's pool."""
    x, run = draw(4, 3, 64, 64), work()
    expected = run(x)  # compiles and loads
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(x)
    for result in results:
        result.zero_()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(results, expected))


@lasts
def test_a_training_step_is_captured_in_a_graph(last):
    """The public functions, forward and backward; their tables are made before."""
    paths = path_tables("g", 32, 32, "cuda")
    x = draw(8, 3, 32, 32, last=last).requires_grad_()
    weight, kernels = draw(48, 9).requires_grad_(), draw(8, 48, 9).requires_grad_()

    def step():
        y = pathconv.traverse_conv1d(x, paths, weight)
        return torch.autograd.grad(
            pathconv.depthwise_conv1d(y, kernels, padding=4).square().sum(), (x, weight, kernels)
        )

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


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runs_on_the_tensors_device_not_the_current_one():
    x, weight, (index, inverse) = torch.randn(2, 3, 8, 8), torch.randn(16, 9), [t.cpu() for t in tables(3, 64)]
    results = []
    for device in ("cuda:0", "cuda:1"):  # the current device stays 0
        y = op.traverse_conv1d(*(t.to(device) for t in (x, index, inverse, weight)), None, True)
        assert y.device == torch.device(device) and torch.cuda.current_device() == 0
        results.append(y.cpu())
    assert torch.equal(*results)
