"""What only a GPU can show, beyond the contract in tests/contract: `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch

import dwoconv1d
from dwoconv1d import ops, reference, tap_offsets

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture(params=["native", "cupy"], autouse=True)
def backend(request):
    missing = ops.backends.why["cuda" if request.param == "native" else "cupy"]
    if missing:
        pytest.skip(missing)
    with dwoconv1d.use_backend(request.param):
        yield request.param


def lines(channels, kernel_size, dilation=1):
    angle = torch.arange(channels) * torch.pi / 8
    return torch.stack(tap_offsets(kernel_size, angle, dilation=dilation)).int().contiguous().cuda()


def agree(got, expected, dtype):
    error = (got.double() - expected).abs().max() / expected.abs().max().clamp(min=1)
    assert error.item() <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
@pytest.mark.parametrize(
    ("shape", "kernel_size", "stride", "dilation"),
    [
        ((4, 96, 56, 56), 31, (1, 1), 1),
        ((2, 64, 112, 112), 31, (2, 2), 1),
        ((9, 100, 7, 7), 15, (1, 1), 1),
        ((3, 33, 61, 99), 7, (2, 3), 1),
        ((1, 20, 200, 190), 9, (1, 1), 24),  # a halo beyond shared memory
        ((2, 5, 30, 40), 200, (1, 1), 1),
    ],
)
def test_all_three_ops(shape, kernel_size, stride, dilation, layout, dtype):
    n, c, h, w = shape
    x = torch.randn(shape, device="cuda", dtype=dtype).contiguous(memory_format=layout)
    grad = torch.randn(n, c, -(-h // stride[0]), -(-w // stride[1]), device="cuda", dtype=dtype).contiguous(
        memory_format=layout
    )
    weight, bias = torch.randn(c, kernel_size, device="cuda", dtype=dtype), torch.randn(c, device="cuda", dtype=dtype)
    offsets, op = lines(c, kernel_size, dilation), torch.ops.dwoconv1d
    X, G, W, B = (t.double() for t in (x, grad, weight, bias))
    y = op.oriented_conv1d(x, weight, offsets, bias, *stride, True)
    agree(y, reference.forward(X, W, offsets, B, *stride, True), dtype)
    grad_x = op.oriented_conv1d_grad_input(grad, weight, offsets, h, w, *stride, True)
    agree(grad_x, reference.grad_input(G, W, offsets, h, w, *stride, True), dtype)
    assert y.is_contiguous(memory_format=layout) and grad_x.is_contiguous(memory_format=layout)
    first = op.oriented_conv1d_grad_weight(grad, x, offsets, *stride)
    for got, expected in zip(first, reference.grad_weight(G, X, offsets, *stride)):
        agree(got, expected, dtype)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, op.oriented_conv1d_grad_weight(grad, x, offsets, *stride)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
def test_more_than_two_to_the_31_elements(layout):
    """The last image lies beyond 2^31 elements; its result must be that of the image alone."""
    shape = (9, 4096, 256, 256)
    if torch.cuda.mem_get_info()[0] < 24e9:
        pytest.skip("needs 24 GB of free GPU memory")
    x = torch.empty(shape, device="cuda", dtype=torch.float16, memory_format=layout)
    assert x.numel() > 2**31
    x[:-1] = 0
    x[-1].normal_()
    weight, offsets, op = torch.randn(4096, 7, device="cuda").half(), lines(4096, 7), torch.ops.dwoconv1d
    alone = x[-1:].contiguous(memory_format=layout)
    y = op.oriented_conv1d(x, weight, offsets, None, 1, 1, False)
    assert torch.equal(y[-1:], op.oriented_conv1d(alone, weight, offsets, None, 1, 1, False)) and not y[:-1].any()
    del y
    grad_x = op.oriented_conv1d_grad_input(x, weight, offsets, 256, 256, 1, 1, False)
    assert torch.equal(grad_x[-1:], op.oriented_conv1d_grad_input(alone, weight, offsets, 256, 256, 1, 1, False))
    del grad_x
    got = op.oriented_conv1d_grad_weight(x, x, offsets, 1, 1)[1]
    torch.testing.assert_close(got.double(), alone.double().sum((0, 2, 3)), rtol=2e-3, atol=2e-2)


def test_runs_on_torchs_current_stream():
    """Work queued on a side stream is ordered with what torch queues there."""
    x, weight, offsets = torch.zeros(8, 64, 112, 112, device="cuda"), torch.randn(64, 7, device="cuda"), lines(64, 7)
    expected = torch.ops.dwoconv1d.oriented_conv1d(torch.ones_like(x), weight, offsets, None, 1, 1, False)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)
        x.fill_(1)
        y = torch.ops.dwoconv1d.oriented_conv1d(x, weight, offsets, None, 1, 1, False)
        torch.cuda.current_stream().synchronize()
    assert torch.equal(y, expected)


def test_is_captured_in_a_graph(backend):
    """No synchronisation, no allocation outside torch's pool."""
    x, weight, offsets = torch.randn(2, 16, 28, 28, device="cuda"), torch.randn(16, 15, device="cuda"), lines(16, 15)
    arguments = (weight, offsets, None, 1, 1, False)
    expected = torch.ops.dwoconv1d.oriented_conv1d(x, *arguments)  # compiles and loads
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = torch.ops.dwoconv1d.oriented_conv1d(x, *arguments)
    y.zero_()
    graph.replay()
    assert torch.equal(y, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runs_on_the_tensors_device_not_the_current_one():
    x, weight, offsets = torch.randn(2, 16, 28, 28), torch.randn(16, 15), lines(16, 15).cpu()
    results = []
    for device in ("cuda:0", "cuda:1"):  # the current device stays 0
        arguments = [t.to(device) for t in (x, weight, offsets)]
        y = torch.ops.dwoconv1d.oriented_conv1d(*arguments, None, 1, 1, False)
        assert y.device == torch.device(device) and torch.cuda.current_device() == 0
        results.append(y.cpu())
    assert torch.equal(*results)
