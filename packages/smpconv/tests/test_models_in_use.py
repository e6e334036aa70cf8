"""The paper's networks in use: what fusing leaves, layouts, dtypes, compiled, exported, copied."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

timm = pytest.importorskip("timm")

from small_networks import build, close, image_kinds, inputs, kinds, parameter_count, small  # noqa: E402

import smpconv  # noqa: E402
from smpconv import SMPBranches, fuse  # noqa: E402
from smpconv.branches import LargeConv  # noqa: E402
from smpconv.models import SMPTCN, SMPNet, SMPResNet  # noqa: E402
from smpconv.models.blocks import ConvNorm  # noqa: E402
from smpconv.points import PointKernel  # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# For inference.


@kinds
def test_fused_networks_compute_the_same(kind):
    options = {"bias": True} if kind != "image" else {}
    model, x = small(kind, **options).eval(), inputs(kind)
    fused = fuse(model)
    close(fused(x), model(x))
    norms = [name for name, m in fused.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms == (["norm"] if kind == "image" else [])
    assert not any(isinstance(module, (SMPBranches, PointKernel, ConvNorm)) for module in fused.modules())
    own = sum(isinstance(module, SMPBranches) for module in model.modules())
    assert sum(isinstance(module, LargeConv) for module in fused.modules()) == own
    assert parameter_count(model) == parameter_count(small(kind, **options))  # of a copy
    double = copy.deepcopy(model).double()
    close(fuse(double)(x.double()), double(x.double()), 1e-12)


def test_fused_backbone():
    backbone, x = small("image", features_only=True).eval(), inputs()
    for ours, theirs in zip(fuse(backbone)(x), backbone(x)):
        close(ours, theirs)


@pytest.mark.parametrize("bad", [{"kernel_size": 3}, {"groups": 4}])
def test_norms_before_are_no_norms_of_padded_pixels(bad):
    with pytest.raises(ValueError, match="pre_norm goes with kernel_size=1 and groups=1, but they are"):
        ConvNorm(4, 4, pre_norm=True, **bad)


# Numbers, layouts and copies.


@image_kinds
def test_layouts_agree_and_stay(kind):
    model, x = small(kind).eval(), inputs(kind)
    expected = model(x)
    last = x.contiguous(memory_format=torch.channels_last)
    model = model.to(memory_format=torch.channels_last)
    close(model(last), expected)
    if kind == "image":
        strides = []
        for layer in model.modules():
            if isinstance(layer, PointKernel):
                layer.register_forward_hook(lambda layer, given, y: strides.append((given[0].stride(1), y.stride(1))))
        model(last)
        assert len(strides) == 3 and set(strides) == {(1, 1)}


@kinds
def test_autocast_and_half_precision(kind):
    model, x = small(kind).eval(), inputs(kind)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        close(model(x).float(), expected, 0.05)
    close(copy.deepcopy(model).to(torch.bfloat16)(x.to(torch.bfloat16)).float(), expected, 0.1)


@kinds
def test_compiles_without_graph_breaks(kind):
    model, x = small(kind), inputs(kind)
    close(torch.compile(model.eval(), fullgraph=True, backend="aot_eager")(x), model(x))
    compiled = torch.compile(model.train(), fullgraph=True, backend="aot_eager")
    compiled(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_exports_with_any_batch_and_size():
    model, x = fuse(small("image").eval()), inputs()
    height, width = (torch.export.Dim(name, min=2) for name in ("height", "width"))
    dynamic = ({0: torch.export.Dim("batch", min=1), 2: 4 * height, 3: 4 * width},)
    exported = torch.export.export(model, (x,), dynamic_shapes=dynamic)
    for more in (inputs(batch=1), inputs("image", 36, 20, batch=5)):
        close(exported.module()(more), model(more))


@kinds
def test_copies_and_files_keep_the_network(kind):
    model, x = small(kind).eval(), inputs(kind)
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = small(kind).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), expected)


@kinds
def test_dtype_reaches_every_parameter(kind):
    model = small(kind, dtype=torch.float64)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    model.reset_classifier(3)
    assert model(inputs(kind).double()).dtype == torch.float64


@kinds
def test_start_on_the_meta_device(kind):
    model = build(kind, device="meta").to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.detach().fill_(7)
    model.reset_parameters()
    fresh = build(kind)
    for (name, tensor), other in zip(model.state_dict().items(), fresh.state_dict().values()):
        assert tensor.equal(other) or (tensor != 7).all(), name
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(inputs(kind)), fresh.eval()(inputs(kind)))


def test_classes_are_there_by_name():
    assert SMPNet((1,), (8,), kernel_sizes=7)(inputs()).shape == (2, 1000)
    assert SMPResNet((4,), 5)(inputs()).shape == (2, 10)
    assert SMPTCN(3, 4, 9, channels=4, depth=1)(inputs("sequence")).shape == (2, 4)
    assert smpconv.models.__all__


def test_without_timm_the_package_works_and_models_says_what_is_missing():
    script = (
        "import sys; sys.modules['timm'] = None\n"
        "import smpconv, smpconv.checkpoints\n"
        "try:\n    import smpconv.models\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    wanted = "smpconv.models needs timm, which is not installed: run `pip install smpconv[models]`"
    assert done.stdout.strip() == wanted
