"""The authors' checkpoints: files made by their naming rule must give the logits of their code.

The published files are not at hand, so both the files and the networks are rebuilt in `originals.py`.
"""

from __future__ import annotations

import pytest
import torch

timm = pytest.importorskip("timm")

from narrow_networks import CODES, NETWORKS, build, close, images, output, published  # noqa: E402
from originals import MOBILE, Published, densenet, mobilenet, resnet, shufflenet  # noqa: E402

import csgconv  # noqa: E402
from csgconv.checkpoints import from_original, load_original, read_original  # noqa: E402
from leanconv.testing.models import assert_refuses_what_is_no_checkpoint  # noqa: E402


def size(kind: str) -> tuple[int, int]:
    return (65, 49) if kind.startswith("deeplab") else (32, 32)


@pytest.mark.parametrize("generated", [True, False])
@pytest.mark.parametrize("kind", NETWORKS)
def test_logits_are_those_of_the_authors(kind, generated):
    x = images(*size(kind)).double()
    state, expected = published(kind, x, generated=generated)
    model = build(kind, generated=generated, dtype=torch.float64).eval()
    with torch.no_grad():
        close(output(load_original(state, model)(x)), expected, 1e-9)


@pytest.mark.parametrize("height, width", [(9, 7), (1, 3)])
def test_logits_of_odd_sizes(height, width):
    for kind in ("resnet", "mobilenet", "shufflenet"):
        x = images(height, width).double()
        state, expected = published(kind, x)
        with torch.no_grad():
            close(load_original(state, build(kind, dtype=torch.float64).eval())(x), expected, 1e-9)


@pytest.mark.parametrize(
    "name, options, function, net, entries",
    [
        ("csg_resnet56", {}, resnet, Published(), 360),
        ("csg_densenet_bc", {"growth_rate": 12}, lambda net, x: densenet(net, x, growth=12), Published(), None),
        ("csg_mobilenetv2", {}, lambda net, x: mobilenet(net, x, MOBILE), Published((16, 16, 1, 1), 16), None),
        ("csg_shufflenetv2", {}, shufflenet, Published((16, 16, 1, 1), 16), None),
    ],
)
def test_published_sizes(name, options, function, net, entries):
    x = images(8, 8, batch=1).double()
    expected = function(net, x)
    assert entries is None or len(net.state) == entries  # counted in the authors' network
    model = load_original(net.state, timm.create_model(name, dtype=torch.float64, **options)).eval()
    with torch.no_grad():
        close(model(x), expected, 1e-8)


# Files.


def test_files_as_their_training_scripts_save_them(tmp_path):
    """With the prefix of DataParallel, the generator's old name, its copies, and the scores beside the weights."""
    x = images().double()
    state, expected = published("resnet", x)
    old = {f"module.{name.replace('CSG', 'CLG')}": value for name, value in state.items()}
    assert sum("CLG" in name for name in old) == 5
    for new_format in (True, False):
        path = tmp_path / f"ckpt{new_format}.t7"
        torch.save({"net": old, "acc": 92.37, "epoch": 181}, path, _use_new_zipfile_serialization=new_format)
        model = load_original(path, build("resnet", dtype=torch.float64)).eval()
        with torch.no_grad():
            close(model(x), expected, 1e-9)
    assert read_original(path).keys() == {name.removeprefix("module.") for name in old}


def test_half_precision():
    x = images().double()
    net = Published(code_size=CODES)
    resnet(net, x, (2, 1, 1), (8, 16, 32))
    half = {name: value.half() if value.is_floating_point() else value for name, value in net.state.items()}
    net.state = {name: value.to(net.state[name].dtype) for name, value in half.items()}
    expected = resnet(net, x, (2, 1, 1), (8, 16, 32))
    model = load_original({"net": half}, build("resnet")).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with torch.no_grad():
        close(model(x.float()).double(), expected, 1e-4)


def test_codes_that_reach_no_kernel_are_kept():
    x = images().double()
    state, _ = published("resnet", x)
    model = load_original(state, build("resnet", dtype=torch.float64))
    (generator,) = csgconv.generators(model)
    for stage, total, unused in ((1, 1, 0), (2, 4, 1), (3, 9, 1)):  # of 8, 16 and 32 channels
        live, dead = generator.rows(model.stages[stage - 1][0].conv2.index)
        assert (len(live) + len(dead), len(dead)) == (total, unused)
        kept = torch.cat([generator.codes[rows.start : rows.stop] for rows in (live, dead)])
        assert torch.equal(kept, state[f"stage_{stage}.0.code2"])
    assert sum(len(value) for name, value in state.items() if "code" in name) == len(generator.codes)


def test_binary_generators():
    x = images().double()
    state, expected = published("densenet", x, binary=True)
    model = load_original(state, build("densenet", binary=True, dtype=torch.float64)).eval()
    with torch.no_grad():
        close(model(x), expected, 1e-9)
        learned = load_original(state, build("densenet", dtype=torch.float64)).eval()
        close(learned(x), expected, 1e-9)
    state, _ = published("densenet", x)
    with pytest.raises(ValueError, match="the checkpoint's generator is not binary, but the model's is"):
        load_original(state, build("densenet", binary=True))


def test_own_weights_pass_unchanged(tmp_path):
    for kind in ("resnet", "bottleneck"):
        model, x = build(kind).eval(), images()
        torch.save({"model": model.state_dict()}, tmp_path / "own.pt")
        assert torch.equal(load_original(tmp_path / "own.pt", build(kind)).eval()(x), model(x))
        assert from_original(model.state_dict(), model).keys() == model.state_dict().keys()


def test_files_through_timm(tmp_path):
    x = images().double()
    state, expected = published("resnet", x)
    torch.save({"net": state, "acc": 90.0, "epoch": 3}, tmp_path / "ckpt.t7")
    overlay = {"file": str(tmp_path / "ckpt.t7")}
    model = build("resnet", pretrained=True, pretrained_cfg_overlay=overlay, dtype=torch.float64).eval()
    with torch.no_grad():
        close(model(x), expected, 1e-9)
        other = build("resnet", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=4, dtype=torch.float64)
        close(other.eval().forward_features(x), model.forward_features(x), 1e-9)


# What does not fit.


def test_models_that_do_not_fit():
    x = images().double()
    state, _ = published("resnet", x)
    cases = [
        ({"generated": False}, "the model has none: build it with generated=True"),
        ({"layout": "flat"}, 'holds codes of layout "raster", but stages.0.0.conv1 has "flat"'),
        (
            {"code_size": 21},
            "slices of 1296 numbers from 20, but the model's makes 1296 from 21: build it with code_size=20",
        ),
    ]
    for options, says in cases:
        with pytest.raises(ValueError, match=says):
            load_original(state, build("resnet", **options))
    for options, says in (
        ({"layers": (2, 2, 1)}, r"(?s)stages\.0\.0\.conv1\.generator\.codes.*stages\.0\.0\.conv1\.codes"),
        ({"channels": (8, 16, 36)}, r"(?s)size mismatch for stages\.2\.0\.bn1"),
        ({"num_classes": 7}, r"(?s)size mismatch for head\.weight"),
    ):
        with pytest.raises(RuntimeError, match=says):
            load_original(state, build("resnet", **options))
    state["stage_1.0.CSG.weight"] = state["CSG.weight"] + 1
    with pytest.raises(ValueError, match=r"copies of the generator differ: stage_1\.0\.CSG\.weight"):
        load_original(state, build("resnet"))


def test_deeplab_with_one_generator_holds_not_two():
    state, _ = published("deeplab", images(33, 33).double())
    with pytest.raises(ValueError, match="the checkpoint holds two generators, but the model has one"):
        load_original(state, build("deeplab", generators=1))


def test_what_is_no_checkpoint(tmp_path):
    model = build("resnet")
    assert_refuses_what_is_no_checkpoint(lambda path: load_original(path, model), {"net": model.state_dict()}, tmp_path)
    with pytest.raises(ValueError, match="holds no weights under 'net', 'state_dict' or 'model', only"):
        read_original({"acc": 93.0, "epoch": 3})
    with pytest.raises(ValueError, match="holds no weights"):
        read_original({"acc": 93.0, 3: torch.zeros(3)})


def test_model_and_file_the_wrong_way_round():
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, and comes second, but it is a str"):
        load_original(torch.nn.Linear(2, 2), "codes.t7")
