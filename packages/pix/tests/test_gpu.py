"""What only a GPU can show, beyond the contract in tests/contract: `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch

import pix
from pix import ops, reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
# Largest error over the largest value, sums of some thousand terms included.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
op = torch.ops.pix
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda d: str(d)[6:])
lasts = pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
shapes = pytest.mark.parametrize(
    ("shape", "zeta"),
    [
        ((16, 256, 56, 56), 4),
        ((16, 64, 56, 56), 1),
        ((32, 512, 28, 28), 2),
        ((32, 1024, 14, 14), 4),
        ((64, 2048, 7, 7), 4),
        ((8, 1024, 14, 14), 8),
        ((1, 256, 56, 56), 4),
        ((3, 37, 19, 23), 5),
        ((130, 64, 4, 4), 4),
        ((2, 700, 5, 3), 300),
    ],
)


@pytest.fixture(params=["native", "cupy"], autouse=True)
def backend(request):
    missing = ops.backends.why["cuda" if request.param == "native" else "cupy"]
    if missing:
        pytest.skip(missing)
    with pix.use_backend(request.param):
        yield request.param


def draw(*shape, dtype=torch.float32, last=False):
    """Random numbers (N, C, H, W), with the channels last in memory or first."""
    t = torch.randn(shape, device="cuda", dtype=dtype)
    return t.contiguous(memory_format=torch.channels_last) if last else t


def draw_gates(batch, outputs, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.rand(batch, outputs, device="cuda", dtype=wide)


def agree(got, expected, dtype):
    error = (got.double() - expected).abs().max() / expected.abs().max().clamp(min=1)
    assert error.item() <= TOLERANCE[dtype]


def same_every_time(function):
    """The results of `function()`, which are the same to the bit when it is called again."""
    first = function()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, function()))
    return first


@dtypes
@lasts
@shapes
def test_pick_or_mix(shape, zeta, last, dtype):
    n, c = shape[:2]
    outputs = -(-c // zeta)
    x, p = draw(*shape, dtype=dtype, last=last), draw_gates(n, outputs, dtype)
    y, choice = same_every_time(lambda: op.pick_or_mix(x, p, zeta, 0.5, False, True))
    expected, expected_choice = reference.forward(x.double(), p.double(), zeta, 0.5, False, True)
    agree(y, expected, dtype)
    assert torch.equal(choice, expected_choice) and y.dtype == dtype
    grad = draw(*y.shape, dtype=dtype, last=last)
    got = same_every_time(lambda: op.pick_or_mix_backward(grad, y, p, choice, c, zeta, 0.5, False))
    wanted = reference.backward(grad.double(), y.double(), p.double(), choice, c, zeta, 0.5, False)
    for a, b in zip(got, wanted):
        agree(a, b, dtype)
    assert all(reference.channels_last(t) == reference.channels_last(x) for t in (y, got[0]))


@dtypes
@lasts
@pytest.mark.parametrize("l1", [False, True], ids=["mean", "l1"])
@shapes
def test_pix(shape, zeta, l1, last, dtype):
    c = shape[1]
    outputs = -(-c // zeta)
    x, weight, bias = draw(*shape, dtype=dtype, last=last), draw(outputs, c, dtype=dtype), draw(outputs, dtype=dtype)
    y, z, p, choice = same_every_time(lambda: op.pix(x, weight, bias, zeta, 0.5, l1, False, True))
    X, W, B = x.double(), weight.double(), bias.double()
    _, Z, P, _ = reference.pix_forward(X, W, B, zeta, 0.5, l1, False, False)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    agree(z, Z, wide)
    agree(p, P, wide)
    Y, expected_choice = reference.forward(X, p.double(), zeta, 0.5, False, True)  # decisions jump: the gates found
    agree(y, Y, dtype)
    assert torch.equal(choice, expected_choice)
    grad, grad_p = draw(*y.shape, dtype=dtype, last=last), torch.randn_like(p)
    arguments = grad, grad_p, y, z, p, choice, weight, x if l1 else None
    got = same_every_time(lambda: op.pix_backward(*arguments, zeta, 0.5, False))
    wanted = reference.pix_backward(
        *(t if t is None or t is choice else t.double() for t in arguments), zeta, 0.5, False
    )
    for a, b in zip(got, wanted):
        agree(a, b, dtype)
    # A sample's gates, and so its decisions, do not depend on the batch it is in.
    alone = op.pix(x[-1:], weight, bias, zeta, 0.5, l1, False, True)
    assert all(torch.equal(a, b[-1:]) for a, b in zip(alone[2:], (p, choice)))


@lasts
@pytest.mark.parametrize("zeta", [4, 5])
def test_more_than_two_to_the_31_elements(zeta, last):
    """The last image lies beyond 2^31 elements; its result must be that of the image alone."""
    if torch.cuda.mem_get_info()[0] < 32e9:
        pytest.skip("needs 32 GB of free GPU memory")
    n, c, side = 9, 4096, 256
    outputs = -(-c // zeta)
    x = torch.empty(n, c, side, side, device="cuda", dtype=torch.float16)
    if last:
        x = x.view(n, side, side, c).movedim(-1, 1)
    assert x.numel() > 2**31
    x[:-1] = 0
    x[-1].normal_()
    p = draw_gates(n, outputs, torch.float16)
    y, choice = op.pick_or_mix(x, p, zeta, 0.5, False, True)
    alone = op.pick_or_mix(x[-1:], p[-1:], zeta, 0.5, False, True)
    assert torch.equal(y[-1:], alone[0]) and torch.equal(choice[-1:], alone[1]) and not y[:-1].any()
    wanted = op.pick_or_mix_backward(y[-1:], *alone[:1], p[-1:], alone[1], c, zeta, 0.5, False)
    grad_x, grad_p = op.pick_or_mix_backward(y, y, p, choice, c, zeta, 0.5, False)
    assert torch.equal(grad_x[-1:], wanted[0]) and not grad_x[:-1].any() and not grad_p[:-1].any()
    torch.testing.assert_close(grad_p[-1:], wanted[1], rtol=1e-5, atol=1e-5 * wanted[1].abs().max().item())
    del grad_x, grad_p, y, choice
    weight = torch.randn(outputs, c, device="cuda").half()
    y, z, p, _ = op.pix(x, weight, None, zeta, 0.5, False, False, True)
    torch.testing.assert_close(z[-1], x[-1].float().mean((1, 2)), rtol=1e-3, atol=1e-4)
    again = op.pick_or_mix(x[-1:], p[-1:], zeta, 0.5, False, True)
    assert torch.equal(y[-1:], again[0]) and not z[:-1].any() and not y[:-1].any()


def work():
    """Everything there is to launch, as a function of images."""
    weight = draw(64, 256)

    def run(x):
        y, z, p, choice = op.pix(x, weight, None, 4, 0.5, False, False, True)
        grads = op.pix_backward(y, None, y, z, p, choice, weight, None, 4, 0.5, False)
        mixed, chosen = op.pick_or_mix(x, p, 4, 0.5, False, True)
        return [y, z, p, *grads, *op.pick_or_mix_backward(mixed, mixed, p, chosen, 256, 4, 0.5, False)]

    return run


@lasts
def test_runs_on_torchs_current_stream(last):
    """Work queued on a side stream is ordered with what torch queues there."""
    values, run = draw(8, 256, 28, 28, last=last), work()
    x = torch.zeros_like(values)
    expected = run(values)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)
        x.copy_(values)
        results = run(x)
        torch.cuda.current_stream().synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected))


@lasts
def test_is_captured_in_a_graph(last):
    """No synchronisation, no allocation outside torch's pool."""
    x, run = draw(4, 256, 14, 14, last=last), work()
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
    """The public functions, forward and backward."""
    x = draw(8, 64, 14, 14, last=last).requires_grad_()
    weight, p = draw(16, 64).requires_grad_(), torch.rand(8, 16, device="cuda").requires_grad_()

    def step():
        y = pix.functional.pix(x, weight, zeta=4) + pix.pick_or_mix(x, p, 4)
        return torch.autograd.grad(y.square().sum(), (x, weight, p))

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


def test_the_layer_takes_three_launches_each_way():
    if torch.profiler.ProfilerActivity.CUDA not in torch.profiler.supported_activities():
        pytest.skip("torch's profiler sees no GPU here")
    x, weight = draw(32, 256, 14, 14), draw(64, 256)
    y, z, p, choice = op.pix(x, weight, None, 4, 0.5, False, False, True)

    def launches(function):
        function()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            function()
            torch.cuda.synchronize()
        return [event.name for event in profile.events() if "pix::maps" in event.name or "pix::gates" in event.name]

    assert len(launches(lambda: op.pix(x, weight, None, 4, 0.5, False, False, True))) == 3
    assert len(launches(lambda: op.pix_backward(y, None, y, z, p, choice, weight, None, 4, 0.5, False))) == 3


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runs_on_the_tensors_device_not_the_current_one():
    x, weight = torch.randn(2, 16, 8, 8), torch.randn(4, 16)
    results = []
    for device in ("cuda:0", "cuda:1"):  # the current device stays 0
        y = op.pix(x.to(device), weight.to(device), None, 4, 0.5, False, False, True)[0]
        assert y.device == torch.device(device) and torch.cuda.current_device() == 0
        results.append(y.cpu())
    assert torch.equal(*results)
