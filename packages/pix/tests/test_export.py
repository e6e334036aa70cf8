"""torch.export keeps the op; ONNX gets it in standard operators, which onnxruntime computes equally."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pix import PiX, pick_or_mix

DYNAMIC = torch.export.Dim.DYNAMIC


class Gated(nn.Module):
    """Gates of its own."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return pick_or_mix(x, x.amax((2, 3))[:, ::2].sigmoid() - 0.2, 2, **self.options)


MODELS = {
    "layer": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), PiX(8, 4), nn.Conv2d(2, 4, 1)),
    "bias": lambda: PiX(3, 1, bias=True),
    "short subset": lambda: nn.Sequential(nn.Conv2d(3, 7, 1), PiX(7, 3, fused=False)),
    "short subset by its size": lambda: nn.Sequential(nn.Conv2d(3, 7, 1), PiX(7, 3, count_short=True)),
    "more than all channels": lambda: PiX(3, 8),
    "absolute values": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), PiX(8, 2, context="l1")),
    "always picks": lambda: PiX(3, 2, 2.0),
    "always mixes": lambda: PiX(3, 2, 0.0),
    "gates": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Gated()),
    "gates with gradients at zero": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Gated(zero_gates=True)),
}


def images() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 6, 5), torch.randn(3, 3, 9, 8)


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def run(path, x: Tensor) -> Tensor:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@torch.no_grad()
def test_onnx_has_standard_operators_and_equal_results(model, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    x, other = images()
    path = tmp_path / "model.onnx"
    shapes = ({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},)
    torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    for image in (x, other):
        torch.testing.assert_close(run(path, image), model(image))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
def test_onnx_by_tracing(model, tmp_path):
    onnx = pytest.importorskip("onnx")
    x, other = images()
    path = tmp_path / "model.onnx"
    axes = {"x": {0: "n", 2: "h", 3: "w"}}
    torch.onnx.export(model, (x,), path, dynamo=False, input_names=["x"], dynamic_axes=axes)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    for image in (x, other):
        torch.testing.assert_close(run(path, image), model(image))


@torch.no_grad()
def test_onnx_picks_as_torch_among_equal_and_infinite_channels(tmp_path):
    pytest.importorskip("onnxscript")
    x = torch.tensor([[0.0, -0.0, 1.0, 1.0], [-3.0, -torch.inf, 2.0, torch.inf]])[:, :, None, None].expand(2, 4, 3, 2)
    for tau in (0.0, 2.0):
        layer = PiX(4, 2, tau, bias=True)
        nn.init.zeros_(layer.weight)
        finite = x.nan_to_num(posinf=7.0, neginf=-7.0).contiguous()
        torch.onnx.export(layer, (finite,), tmp_path / "model.onnx", dynamo=True, verbose=False)
        assert torch.equal(run(tmp_path / "model.onnx", finite), layer(finite))
    assert torch.equal(run(tmp_path / "model.onnx", x.contiguous()).isinf(), layer(x).isinf())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@torch.no_grad()
def test_onnx_in_other_precisions(tmp_path, dtype):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    layer, x = PiX(7, 3, 0.45, bias=True, dtype=dtype), torch.randn(2, 7, 4, 5, dtype=dtype)
    torch.onnx.export(layer, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    torch.testing.assert_close(run(tmp_path / "model.onnx", x), layer(x))


@torch.no_grad()
def test_exported_programs_keep_the_op_and_survive_files(model, tmp_path):
    x, other = images()
    program = torch.export.export(model, (x,), dynamic_shapes=({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},))
    ops = [str(node.target) for node in program.graph.nodes if str(node.target).startswith("pix.")]
    assert ops in (["pix.pix.default"], ["pix.pick_or_mix.default"])
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for image in (x, other):
        torch.testing.assert_close(loaded(image), model(image))


def test_exported_programs_learn():
    torch.manual_seed(0)
    model, (x, _) = MODELS["layer"](), images()
    module = torch.export.export(model, (x,), dynamic_shapes=({0: DYNAMIC},)).module()
    grads = torch.autograd.grad(module(x).sin().sum(), list(module.parameters()))
    wanted = torch.autograd.grad(model(x).sin().sum(), list(model.parameters()))
    torch.testing.assert_close(grads, wanted)
