"""Programs made of layers take the parameters as they are when they run; ONNX gets ops that it has."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from csgconv import CSGConv2d, SliceGenerator


def network() -> nn.Sequential:
    generator = SliceGenerator(4, (4, 4, 3, 3))
    layers = [CSGConv2d(3, 6, 3, generator, padding=1), CSGConv2d(6, 4, 3, generator, layout="tile")]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1]).eval()


X = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_compiled_network_sees_changed_parameters():
    torch._dynamo.reset()
    net = network()
    net(X)  # kernels that the program must not take
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), net(X))
    net[0].generator.codes.add_(1)
    torch.testing.assert_close(compiled(X), net(X))


@torch.no_grad()
def test_exported_program_holds_parameters_once_and_no_kernels():
    net = network()
    net(X)
    program = torch.export.export(net, (X,))
    assert program.state_dict.keys() == net.state_dict().keys()
    assert not program.constants
    torch.testing.assert_close(program.module()(X), net(X))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@torch.no_grad()
def test_traced_network_reads_its_parameters():
    net = network()
    net(X)
    traced = torch.jit.trace(net, X)
    net[0].generator.weight.mul_(2)
    torch.testing.assert_close(traced(X), net(X))


def test_make_fx_holds_no_kernels():
    from torch.fx.experimental.proxy_tensor import make_fx

    net, x = network(), X
    parameters = dict(net.named_parameters())
    with torch.no_grad():
        net(x)
    graph = make_fx(lambda p, x: torch.func.functional_call(net, p, (x,)))(parameters, x)
    others = {name: torch.randn_like(value) for name, value in parameters.items()}
    torch.testing.assert_close(graph(others, x), torch.func.functional_call(net, others, (x,)))


@pytest.mark.filterwarnings("ignore")
def test_onnx_runs_the_same_network(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net = network()
    path = tmp_path / "net.onnx"
    torch.onnx.export(net, (X,), str(path), dynamo=True, input_names=["x"], verbose=False)
    (out,) = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": X.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), net(X).detach(), rtol=1e-4, atol=1e-5)
