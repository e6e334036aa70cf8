"""torch.export keeps the ops; ONNX gets standard operators, which onnxruntime computes equally."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from smpconv import SMPBranches, SMPConv1d, SMPConv2d, SMPDepthwiseConv2d, fuse

timm = pytest.importorskip("timm")

from smpconv.models import SMPTCN, SMPNet, SMPResNet  # noqa: E402

DYNAMIC = torch.export.Dim.DYNAMIC
SEQUENCES = {
    "layer": lambda: SMPConv1d(3, 4, 21, bias=True),
    "long": lambda: SMPConv1d(3, 4, 100, average=False),
    "branches": lambda: SMPBranches(SMPConv1d(3, 4, 21)),
    "fused": lambda: fuse(SMPBranches(SMPConv1d(3, 4, 21)).eval()),
    "network": lambda: SMPTCN(3, 4, 30, channels=(4, 6)),
    "fused network": lambda: fuse(SMPTCN(3, 4, 30, channels=(4, 6)).eval()),
}
IMAGES = {
    "dense": lambda: SMPConv2d(3, 4, (7, 9), bias=True),
    "dense, large": lambda: SMPConv2d(3, 4, 17),
    "depthwise": lambda: SMPDepthwiseConv2d(3, 15, bias=True),
    "depthwise, averaged": lambda: SMPDepthwiseConv2d(3, (5, 7), average=True),
    "branches": lambda: SMPBranches(SMPDepthwiseConv2d(3, 13)),
    "fused": lambda: fuse(SMPBranches(SMPDepthwiseConv2d(3, 13)).eval()),
    "network": lambda: SMPNet((1, 1), (4, 6), kernel_sizes=(9, 7), stem_stride=1, num_classes=4),
    "fused network": lambda: fuse(SMPNet((1, 1), (4, 6), kernel_sizes=9, stem_stride=2, num_classes=4).eval()),
    "dense network": lambda: SMPResNet((4, 6), 9),
    "fused dense network": lambda: fuse(SMPResNet((4, 6), 9).eval()),
}


class All(nn.Module):
    """Every model on the same input: an export takes seconds, whatever is in it."""

    def __init__(self, makers):
        super().__init__()
        self.models = nn.ModuleList(make() for make in makers.values())
        for name, tensor in self.state_dict().items():
            if tensor.is_floating_point() and not name.endswith(("coords", "radius")):
                nn.init.uniform_(tensor, 0.1, 0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(model(x) for model in self.models)


CASES = {"sequences": (SEQUENCES, (40,), (57,)), "images": (IMAGES, (12, 10), (16, 22))}
cases = pytest.mark.parametrize("case", CASES)


def models_and_inputs(case: str) -> tuple[nn.Module, Tensor, Tensor, tuple]:
    torch.manual_seed(0)
    makers, size, other = CASES[case]
    shapes = ({0: DYNAMIC} | dict.fromkeys(range(2, 2 + len(size)), DYNAMIC),)
    return All(makers).eval(), torch.randn(2, 3, *size), torch.randn(3, 3, *other), shapes


def run(path, x: Tensor) -> tuple[Tensor, ...]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path)
    return tuple(map(torch.from_numpy, session.run(None, {session.get_inputs()[0].name: x.numpy()})))


def operators(path) -> set[str]:
    """Domains of the operators in a file; the standard's is empty."""
    return {node.domain for node in pytest.importorskip("onnx").load(path).graph.node}


@cases
@torch.no_grad()
def test_onnx_has_standard_operators_and_equal_results(case, tmp_path):
    pytest.importorskip("onnxscript")
    path, (model, x, other, shapes) = tmp_path / "model.onnx", models_and_inputs(case)
    torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert operators(path) == {""}
    for given in (x, other):
        torch.testing.assert_close(run(path, given), model(given), rtol=1e-4, atol=1e-5)


@cases
@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
def test_onnx_by_tracing(case, tmp_path):
    path, (model, x, other, _) = tmp_path / "model.onnx", models_and_inputs(case)
    axes = {"x": {0: "n", **{dim: f"d{dim}" for dim in range(2, x.dim())}}}
    torch.onnx.export(model, (x,), path, dynamo=False, input_names=["x"], dynamic_axes=axes)
    assert operators(path) == {""}
    for given in (x, other):
        torch.testing.assert_close(run(path, given), model(given), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_onnx_in_half_precision(tmp_path):
    """(onnxruntime has no convolution in float64.)"""
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    layer, x = SMPDepthwiseConv2d(4, 9, dtype=torch.float16).eval(), torch.randn(2, 4, 8, 7, dtype=torch.float16)
    nn.init.normal_(layer.weight)
    torch.onnx.export(layer, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    expected = layer(x)
    atol = 1e-2 * expected.abs().max().item()
    torch.testing.assert_close(run(tmp_path / "model.onnx", x)[0], expected, rtol=0, atol=atol)


@cases
@torch.no_grad()
def test_exported_programs_keep_the_ops_and_survive_files(case, tmp_path):
    model, x, other, shapes = models_and_inputs(case)
    program = torch.export.export(model, (x,), dynamic_shapes=shapes)
    called = [str(node.target) for node in program.graph.nodes]
    points = sum(hasattr(module, "coords") for module in model.modules())
    assert called.count("smpconv.rasterize.default") == points > 3
    assert ("smpconv.depthwise_conv2d.default" in called) == (case == "images")
    torch.export.save(program, tmp_path / "model.pt2")
    for given in (x, other):
        torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(given), model(given))
