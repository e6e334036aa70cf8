"""The paper's networks in use: layouts, precisions, compiled, exported, copied, averaged and without timm."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch

timm = pytest.importorskip("timm")

from narrow_networks import CLASSIFIERS, NETWORKS, STAGED, build, close, images, output, small  # noqa: E402

import csgconv  # noqa: E402
from csgconv import CSGConv2d, SliceGenerator, generators  # noqa: E402
from csgconv.models import CSGDenseNet, CSGMobileNetV2, CSGResNet, CSGShuffleNetV2  # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", NETWORKS)
def test_layouts_agree_and_stay(kind):
    model, x = small(kind).eval(), images(33, 33)
    expected = output(model(x))
    last = x.contiguous(memory_format=torch.channels_last)
    model = model.to(memory_format=torch.channels_last)
    strides = []
    for layer in model.modules():
        if isinstance(layer, CSGConv2d):
            layer.register_forward_hook(lambda layer, given, y: strides.append((given[0].stride(1), y.stride(1))))
    close(output(model(last)), expected, 1e-4)
    assert len(strides) == sum(len(generator.layers) for generator in generators(model)) and set(strides) == {(1, 1)}


@pytest.mark.parametrize("kind", STAGED)
def test_autocast_and_half_precision(kind):
    model, x = small(kind).eval(), images()
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        close(model(x).float(), expected, 0.1)
        model.train()(x).float().square().sum().backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
    close(small(kind).to(torch.bfloat16).eval()(x.to(torch.bfloat16)).float().isfinite().float(), torch.ones(2, 10))


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in (*STAGED[1:], "bottleneck")]


@pytest.mark.parametrize("kind", ["resnet", *SLOW])
def test_compiles_without_graph_breaks(kind):
    # Deep ones in float64: norms over two numbers, one behind the other, make much of a rounding error.
    sizes, dtype = {}, torch.float64
    if kind == "resnet":
        sizes, dtype = {"layers": (1, 1), "channels": (8, 16)}, torch.float32
    model, x = small(kind, **sizes).to(dtype), images(16, 16).to(dtype)
    expected = copy.deepcopy(model).train()(x)
    y = torch.compile(model.train(), fullgraph=True, backend="aot_eager")(x)
    close(y, expected)
    y.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["shufflenet", pytest.param("resnet", marks=pytest.mark.slow)])
def test_exports_with_any_batch_and_size(kind):
    model, x = small(kind).eval(), images()
    height, width = (torch.export.Dim(name, min=2) for name in ("height", "width"))
    dynamic = ({0: torch.export.Dim("batch", min=1), 2: 8 * height, 3: 8 * width},)
    exported = torch.export.export(model, (x,), dynamic_shapes=dynamic)
    for more in (images(batch=1), images(40, 24, batch=5)):
        close(exported.module()(more), model(more))


@pytest.mark.slow
def test_onnx(tmp_path):
    """Exported with one batch, run with another: standard operators, equal outputs."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, path = small("shufflenet").eval(), tmp_path / "small.onnx"
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    torch.onnx.export(model, (images(),), path, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    assert {node.domain for node in onnx.load(path).graph.node} <= {"", "ai.onnx"}
    session, x = onnxruntime.InferenceSession(path), images(batch=5)
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    close(torch.from_numpy(out), model(x), 1e-4)


@pytest.mark.parametrize("kind", [*CLASSIFIERS, "deeplab"])
def test_copies_and_files_keep_the_network(kind):
    model, x = small(kind), images(33, 33)
    output(model(x)).square().sum().backward()  # the authors' networks cannot be copied after this
    model.eval()
    with torch.no_grad():
        expected = output(model(x))
        assert torch.equal(output(copy.deepcopy(model)(x)), expected)
        assert torch.equal(output(pickle.loads(pickle.dumps(model))(x)), expected)
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        other = build(kind).eval()
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(output(other(x)), expected)


@pytest.mark.parametrize("kind", ["resnet", "deeplab"])
def test_exported_networks_are_the_ordinary_twins(kind):
    model, x = small(kind).eval(), images(33, 33)
    twin = build(kind, generated=False).eval()
    plain = csgconv.export(model)
    assert {name: value.shape for name, value in plain.state_dict().items()} == {
        name: value.shape for name, value in twin.state_dict().items()
    }
    twin.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(output(twin(x)), output(model(x)))


def test_frozen_and_reused_generators(tmp_path):
    frozen = build("resnet", frozen=True)
    names = {name for name, parameter in frozen.named_parameters() if not parameter.requires_grad}
    assert names == {"stages.0.0.conv1.generator.weight"}
    torch.save(frozen.state_dict(), tmp_path / "resnet.pt")
    deeper = build("resnet", generator=tmp_path / "resnet.pt", layers=(2, 2, 2))
    (mine,), (theirs,) = generators(deeper), generators(frozen)
    assert torch.equal(mine.weight, theirs.weight) and not mine.weight.requires_grad and mine.codes.requires_grad
    with pytest.raises(ValueError, match="generated=False makes a network without a generator"):
        build("resnet", generated=False, frozen=True)


def test_segmentation_takes_the_backbone_of_a_classifier():
    sizes = {"layers": (1, 1, 2, 4), "channels": (8, 8, 16, 24)}
    trained, model = build("bottleneck", **sizes).eval(), build("deeplab", **sizes).eval()
    state = {name: value for name, value in trained.state_dict().items() if not name.startswith("fc.")}
    model.backbone.load_state_dict(state)
    x = images()
    late = model.backbone(x)["low"]
    assert torch.equal(late, trained.layer1(trained.maxpool(trained.act1(trained.bn1(trained.conv1(x))))))
    one, two = build("deeplab", generators=1), build("deeplab")
    assert len(generators(one)) == 1 and len(generators(two)) == 2
    assert {type(generator) for generator in generators(copy.deepcopy(two))} == {SliceGenerator}


@pytest.mark.parametrize("kind", ["resnet", "mobilenet", "bottleneck"])
def test_averaged_weights(kind):
    from timm.utils import ModelEmaV3

    model, x = small(kind), images()
    ema = ModelEmaV3(model, decay=0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    before = copy.deepcopy(generators(model)[0].codes)
    model(x).square().mean().backward()
    optimizer.step()
    ema.update(model)
    (own,), (averaged,) = generators(model), generators(ema.module)
    close(averaged.codes, (before + own.codes) / 2)
    assert own is not averaged and torch.equal(ema.module(x), ema.module(x))


@pytest.mark.parametrize("kind", NETWORKS)
def test_dtype_reaches_every_parameter(kind):
    model = small(kind, dtype=torch.float64)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    if kind in CLASSIFIERS:
        model.reset_classifier(3)
        assert model(images().double()).dtype == torch.float64


@pytest.mark.parametrize("kind", STAGED)
def test_start_on_the_meta_device(kind):
    model = build(kind, device="meta").to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.detach().fill_(7)
    model.reset_parameters()
    fresh = build(kind)
    for (name, tensor), other in zip(model.state_dict().items(), fresh.state_dict().values()):
        assert tensor.equal(other) or (tensor != 7).all(), name
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images()), fresh.eval()(images()))


def test_classes_are_there_by_name():
    three, one = (lambda: SliceGenerator(16, (8, 8, 3, 3))), (lambda: SliceGenerator(16, (16, 16, 1, 1)))
    for model in (
        CSGResNet((1, 1), (8, 12), three()),  # without doubling channels
        CSGDenseNet((1, 1, 1, 1), 8, three()),
        CSGMobileNetV2([[(1, 8)], [(6, 8)]], 8, 16, one()),
        CSGShuffleNetV2((1,), (16, 32), 8, one()),
        CSGResNet(),
    ):
        assert model(images()).shape == (2, 10)
        assert len(generators(model)) == (len([m for m in model.modules() if isinstance(m, CSGConv2d)]) > 0)


def test_without_timm_the_package_works_and_models_says_what_is_missing():
    script = (
        "import sys; sys.modules['timm'] = None\n"
        "import csgconv, csgconv.checkpoints\n"
        "try:\n    import csgconv.models\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    wanted = "csgconv.models needs timm, which is not installed: run `pip install csgconv[models]`"
    assert done.stdout.strip() == wanted


@pytest.mark.parametrize(
    "name, bad, says",
    [
        ("csg_resnet20", {"depth": 41}, r"no option depth=41: help\(csgconv.models.csg_resnet20\) tells which it has"),
        ("csg_shufflenetv2", {"depth": 41}, "csg_shufflenetv2 has no option depth=41"),
        ("csg_deeplabv3", {"growth": "a"}, "csg_deeplabv3 has no option growth='a'"),
        ("csg_densenet_bc", {"depth": "40"}, "depth must be an integer, but it is '40'"),
        ("csg_resnet20", {"layers": 3}, "layers must have an entry for each stage in a tuple, but it is 3"),
        ("csg_resnet20", {"channels": 16}, "channels must have an entry for each stage in a tuple, but it is 16"),
        ("csg_resnet20", {"slice_shape": 12}, "slice_shape must be four integers .*, but it is 12"),
        ("csg_resnet20", {"num_classes": "ten"}, "num_classes must be an integer, but it is 'ten'"),
        ("csg_resnet20", {"generated": "no"}, "generated must be True or False, but it is 'no'"),
        ("csg_resnet20", {"frozen": "no"}, "frozen must be True or False, but it is 'no'"),
    ],
)  # fmt: skip
def test_options_that_are_none(name, bad, says):
    with pytest.raises(TypeError, match=says):
        getattr(csgconv.models, name)(device="meta", **bad)
