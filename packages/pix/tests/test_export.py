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


class All(nn.Module):
    """Every model on the same images: an export takes seconds, whatever is in it."""

    def __init__(self):
        super().__init__()
        self.models = nn.ModuleList(make() for make in MODELS.values())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(model(x) for model in self.models)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return All().eval()


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(2, 3, 6, 5), torch.randn(3, 3, 9, 8)


def run(path, x: Tensor) -> tuple[Tensor, ...]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path)
    return tuple(map(torch.from_numpy, session.run(None, {session.get_inputs()[0].name: x.numpy()})))


def operators(path) -> set[str]:
    """Domains of the operators in a file; the standard's is empty."""
    return {node.domain for node in pytest.importorskip("onnx").load(path).graph.node}


@torch.no_grad()
def test_onnx_has_standard_operators_and_equal_results(model, images, tmp_path):
    pytest.importorskip("onnxscript")
    path = tmp_path / "model.onnx"
    shapes = ({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},)
    torch.onnx.export(model, images[:1], path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert operators(path) == {""}
    for x in images:
        torch.testing.assert_close(run(path, x), model(x))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
def test_onnx_by_tracing(model, images, tmp_path):
    path = tmp_path / "model.onnx"
    axes = {"x": {0: "n", 2: "h", 3: "w"}}
    torch.onnx.export(model, images[:1], path, dynamo=False, input_names=["x"], dynamic_axes=axes)
    assert operators(path) == {""}
    for x in images:
        torch.testing.assert_close(run(path, x), model(x))


@pytest.mark.parametrize("tau", [0.0, 2.0], ids=["mix", "pick"])
@torch.no_grad()
def test_onnx_treats_equal_and_infinite_channels_as_torch(tau, tmp_path):
    pytest.importorskip("onnxscript")
    x = torch.tensor([[0.0, -0.0, 1.0, 1.0], [-3.0, -torch.inf, 2.0, torch.inf]])[:, :, None, None]
    layer = PiX(4, 2, tau, bias=True).eval()
    nn.init.zeros_(layer.weight)  # times infinity that is no number, and so is the gate
    torch.onnx.export(layer, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    torch.testing.assert_close(run(tmp_path / "model.onnx", x)[0], layer(x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@torch.no_grad()
def test_onnx_in_other_precisions(dtype, tmp_path):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    layer, x = PiX(7, 3, 0.45, bias=True, dtype=dtype).eval(), torch.randn(2, 7, 4, 5, dtype=dtype)
    torch.onnx.export(layer, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    torch.testing.assert_close(run(tmp_path / "model.onnx", x)[0], layer(x))


@torch.no_grad()
def test_exported_programs_keep_the_ops_and_survive_files(model, images, tmp_path):
    program = torch.export.export(model, images[:1], dynamic_shapes=({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},))
    called = [str(node.target) for node in program.graph.nodes]
    assert called.count("pix.pix.default") + called.count("pix.pick_or_mix.default") == len(MODELS)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for x in images:
        torch.testing.assert_close(loaded(x), model(x))


def test_programs_exported_for_inference_run_without_no_grad(images):
    torch.manual_seed(0)
    model, x = MODELS["layer"](), images[0]
    with torch.no_grad():
        module = torch.export.export(model, (x,), dynamic_shapes=({0: DYNAMIC},)).module()
    torch.testing.assert_close(module(x), model(x))
    with pytest.raises(ValueError, match=r"must be exported or traced outside torch\.no_grad\(\)\."):
        module(x).sum().backward()


def test_exported_programs_learn(images):
    torch.manual_seed(0)
    model, x = MODELS["layer"](), images[0]
    module = torch.export.export(model, (x,), dynamic_shapes=({0: DYNAMIC},)).module()
    grads = torch.autograd.grad(module(x).sin().sum(), list(module.parameters()))
    wanted = torch.autograd.grad(model(x).sin().sum(), list(model.parameters()))
    torch.testing.assert_close(grads, wanted)
