"""The paper's networks in use: layouts, precisions, compiled, exported, folded, copied and without timm."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

timm = pytest.importorskip("timm")

from narrow import SMALL, images, layers, small  # noqa: E402

from pix.models import PixResNet  # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_layouts_agree_and_stay():
    model, x = small().eval(), images()
    expected = model(x)
    last = x.contiguous(memory_format=torch.channels_last)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(last), expected, rtol=1e-4, atol=1e-5)
    strides = []
    for layer in layers(model):
        layer.register_forward_hook(lambda layer, inputs, y: strides.append((inputs[0].stride(1), y.stride(1))))
    model(last)
    assert len(strides) == 5 and set(strides) == {(1, 1)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision(dtype):
    """tau = 0 and 2: in between, rounding may move a gate over the threshold."""
    for tau in (0, 2):
        model, x = small(tau=tau).eval(), images()
        expected = model(x)
        with torch.autocast("cpu", dtype):
            assert torch.allclose(model(x).float(), expected, atol=0.1)
        assert torch.allclose(copy.deepcopy(model).to(dtype)(x.to(dtype)).float(), expected, atol=0.1)


def test_compiles_without_graph_breaks():
    model, x = small(layers=(1, 2), channels=(8, 16)), images()
    assert torch.allclose(torch.compile(model.eval(), fullgraph=True, backend="aot_eager")(x), model(x), atol=1e-5)
    compiled = torch.compile(model.train(), fullgraph=True, backend="aot_eager")
    compiled(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_norms_fold_into_the_convolutions():
    for name in ("pix_resnet50", "pix_resnet18"):
        model, x = small(name).eval(), images()
        folded = fuse(model)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)


def test_exports_with_any_batch_and_size():
    model, x = small().eval(), images()
    height, width = (torch.export.Dim(name, min=2) for name in ("height", "width"))
    dynamic = ({0: torch.export.Dim("batch", min=1), 2: 32 * height, 3: 32 * width},)
    exported = torch.export.export(model, (x,), dynamic_shapes=dynamic)
    assert sum(str(node.target) == "pix.pix.default" for node in exported.graph.nodes) == 5
    for more in (images(batch=1), images(96, 128, batch=5)):
        assert torch.allclose(exported.module()(more), model(more), atol=1e-5)


def run_onnx(model: nn.Module, x: torch.Tensor, other: torch.Tensor, path) -> None:
    """Exported with one batch, run with another: standard operators, equal outputs."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    assert {node.domain for node in onnx.load(path).graph.node} <= {"", "ai.onnx"}
    session = onnxruntime.InferenceSession(path)
    (out,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), model(other), rtol=1e-4, atol=1e-5)


def test_onnx(tmp_path):
    run_onnx(small(layers=(1, 1), channels=(8, 16)).eval(), images(), images(batch=5), tmp_path / "small.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pix_resnet50", "pix_resnet18"])
def test_onnx_of_whole_networks(name, tmp_path):
    run_onnx(timm.create_model(name).eval(), images(), images(batch=3), tmp_path / f"{name}.onnx")


def test_copies_and_files_keep_the_network():
    for name in ("pix_resnet50", "pix_resnet18"):
        model, x = small(name).eval(), images()
        expected = model(x)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        other = small(name).eval()
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(other(x), expected)


def test_dtype_reaches_every_parameter():
    for name in ("pix_resnet50", "pix_resnet18"):
        model = small(name, dtype=torch.float64)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
        model.reset_classifier(3)
        assert model(images().double()).dtype == torch.float64


def test_start_on_the_meta_device():
    model = timm.create_model("pix_resnet50", device="meta", **SMALL).to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.detach().fill_(7)
    model.reset_parameters()
    fresh = PixResNet(**SMALL)
    for (name, tensor), other in zip(model.state_dict().items(), fresh.state_dict().values()):
        assert tensor.equal(other) or (tensor != 7).all(), name
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images()), fresh.eval()(images()))


def test_without_timm_the_package_works_and_models_says_what_is_missing():
    script = (
        "import sys; sys.modules['timm'] = None\n"
        "import pix, pix.checkpoints, pix.convert\n"
        "try:\n    import pix.models\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "pix.models needs timm, which is not installed: run `pip install pix[models]`"
