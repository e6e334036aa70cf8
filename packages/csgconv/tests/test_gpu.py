"""What only a GPU can show, beyond the contract in tests/contract: `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch
from drawn_layers import NETWORKS, draw_table, network

import csgconv
from csgconv import ops, reference
from csgconv.layouts import Layer
from leanconv.testing.emulator import by_dtype, drawing

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
op = torch.ops.csgconv


@pytest.fixture(params=["native", "cupy"], autouse=True)
def backend(request):
    missing = ops.backends.why["cuda" if request.param == "native" else "cupy"]
    if missing:
        pytest.skip(missing)
    with csgconv.use_backend(request.param):
        yield request.param


def compare(numbers, rows, size, dtype=torch.float32, shift=0):
    """Both ways, to the bit; `shift` elements before the first one, where no vector begins."""
    where = reference.positions(numbers, "cuda")
    slices = torch.randn(rows * size + shift, device="cuda").to(dtype)[shift:].view(rows, size)
    found = op.crop(slices, numbers)
    assert torch.equal(found, slices.view(-1)[where])
    kernels = torch.cat([found[:shift], found])[shift:] if found.numel() >= shift else found
    expected = torch.zeros(rows * size, device="cuda", dtype=dtype).index_copy(0, where, kernels).view(rows, size)
    back = op.uncrop(kernels, numbers, rows, size)
    assert torch.equal(back, expected)
    assert found.dtype == back.dtype == dtype


@by_dtype()
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, dtype):
    compare(*network(name), dtype)
    compare(*network(name), dtype, shift=1)


def test_drawn_layers():
    number = drawing(0)
    for _ in range(200):
        compare(*draw_table(number))


def test_tables_are_refused():
    with pytest.raises((RuntimeError, ValueError), match="layer"):
        op.crop(torch.zeros(3, 4, device="cuda"), [4, 3, 3, 1, 1, 3])
    with pytest.raises((RuntimeError, ValueError), match="2\\^30"):
        op.uncrop(torch.zeros(1, device="cuda").expand(2**31), [0, 2**31, 1, 1, 1, 1], 2**31, 1)


def test_more_than_two_to_the_31_elements():
    """The last layer lies beyond 2^31 elements, of slices and kernels; it must be that of its rows alone."""
    if torch.cuda.mem_get_info()[0] < 24e9:
        pytest.skip("needs 24 GB of free GPU memory")
    size, many, last = 1296, 1_700_000, Layer((32, 32, 3, 3), (12, 12, 3, 3))
    numbers = [0, many, size, 1, 1, size, *last.entry(many)]
    slices = torch.empty(many + last.rows, size, device="cuda", dtype=torch.float16)
    slices[-last.rows - 1 :].normal_()
    found = op.crop(slices, numbers)
    assert found.numel() > 2**31
    alone = op.crop(slices[-last.rows :].clone(), last.entry(0))
    assert torch.equal(found[-last.numel :], alone)
    assert torch.equal(found[-last.numel - size : -last.numel], slices[many - 1])
    expected = op.uncrop(alone, last.entry(0), last.rows, size)
    kept = slices[many - 1].clone()
    del slices
    back = op.uncrop(found, numbers, many + last.rows, size)
    assert torch.equal(back[-last.rows :], expected) and torch.equal(back[many - 1], kept)


def work(slices, numbers):
    """Everything there is to launch."""
    kernels = op.crop(slices, numbers)
    return [kernels, op.uncrop(kernels, numbers, *slices.shape)]


def test_runs_on_torchs_current_stream():
    """Work queued on a side stream is ordered with what torch queues there."""
    numbers, rows, size = network("published")
    value = torch.randn(rows, size, device="cuda")
    given, expected = torch.zeros_like(value), work(value, numbers)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)
        given.copy_(value)
        results = work(given, numbers)
        torch.cuda.current_stream().synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected))


def test_a_training_step_is_captured_in_a_graph():
    """No synchronisation, no allocation outside torch's pool; kernels are made anew in every replay."""
    generator = csgconv.SliceGenerator(24, (12, 12, 3, 3), device="cuda")
    layers = [csgconv.CSGConv2d(i, o, 3, generator, padding=1, device="cuda") for i, o in ((8, 16), (16, 16), (16, 30))]
    net, x = torch.nn.Sequential(*layers), torch.randn(2, 8, 9, 9, device="cuda")
    parameters = list(net.parameters())

    def step():
        return torch.autograd.grad(net(x).square().sum(), parameters)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    with torch.no_grad():
        generator.codes.mul_(0.5)
    graph.replay()
    found = [t.clone() for t in results]
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().item()) for a, b in zip(found, step()))


def test_an_evaluation_is_captured_without_kept_kernels():
    """A replay follows the codes, where the memory of kept kernels might be another's."""
    generator = csgconv.SliceGenerator(24, (12, 12, 3, 3), device="cuda")
    layers = [csgconv.CSGConv2d(8, 8, 3, generator, padding=1, device="cuda") for _ in range(3)]
    net, x = torch.nn.Sequential(*layers).eval(), torch.randn(2, 8, 9, 9, device="cuda")
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                net(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = net(x)
        generator.codes.mul_(0.5)
        wanted = net(x)
        graph.replay()
        assert torch.allclose(result, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())


@pytest.mark.parametrize("name", ["published", "tiles"])
def test_takes_one_launch_each_way(name):
    if torch.profiler.ProfilerActivity.CUDA not in torch.profiler.supported_activities():
        pytest.skip("torch's profiler sees no GPU here")
    numbers, rows, size = network(name)
    slices = torch.randn(rows, size, device="cuda")
    work(slices, numbers)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work(slices, numbers)
        torch.cuda.synchronize()
    assert len([event for event in profile.events() if "csgconv::" in event.name]) == 2


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runs_on_the_tensors_device_not_the_current_one():
    numbers, rows, size = network("published")
    slices, results = torch.randn(rows, size), []
    for device in ("cuda:0", "cuda:1"):  # the current device stays 0
        out = work(slices.to(device), numbers)
        assert all(t.device == torch.device(device) for t in out) and torch.cuda.current_device() == 0
        results.append([t.cpu() for t in out])
    assert all(torch.equal(a, b) for a, b in zip(*results))
