"""`save_compact` and `load_compact`: sizes, errors, and what comes back."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from nets_to_convert import SMALL, generated, images, net
from torch import nn

from csgconv import convert, export, generators, load_compact, packing, save_compact

pytestmark = pytest.mark.filterwarnings("ignore:the model has")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def twin(**options) -> nn.Module:
    return convert(net(), **{**SMALL, **options}).eval()


@pytest.mark.parametrize(
    ("dtype", "options", "kernel", "logits"),
    [
        ("fp32", {}, 0, 0),
        ("fp32", {"binary": True, "layout": "tile"}, 0, 0),
        ("fp16", {"layout": "flat"}, 1e-3, 3e-3),
        ("int8", {"bias": True}, 0.015, 0.03),
        ("int8", {"binary": True}, 0.015, 0.03),
    ],
)
def test_a_network_comes_back(tmp_path, dtype, options, kernel, logits):
    model = generated(**options).eval()
    report = save_compact(model, tmp_path / "net.csg", dtype)
    found = twin(**options)
    assert load_compact(found, tmp_path / "net.csg") is found
    wanted, got = model(images()), found(images())
    assert (got - wanted).norm() <= logits * wanted.norm()
    assert report.errors.keys() == {"3", "6"}
    for name, error in report.errors.items():
        before, after = model.get_submodule(name).weight, found.get_submodule(name).weight
        assert error == pytest.approx(((after - before).norm() / before.norm()).item(), rel=1e-4)
        assert (error == 0) == (kernel == 0) and error <= kernel
    assert (report.rest_error == 0) == (dtype == "fp32") and report.rest_error < 2e-3
    assert report.size == os.stat(tmp_path / "net.csg").st_size and os.listdir(tmp_path) == ["net.csg"]


def test_sizes():
    """Numbers of a file in bytes: those of the generator, of live codes, a scale per row, and the rest."""
    generator, live, rest = 144 * 8, 14 * 8, 168 + 10 + 4 * 16 + 65
    model = generated()
    state = {
        name: value.normal_() if value.is_floating_point() else value for name, value in model.state_dict().items()
    }
    state["3.generator.codes"] = state["3.generator.codes"][:14]
    for dtype, size in {"fp32": 4, "fp16": 2, "int8": 1}.items():
        target = packing.DTYPES[dtype]
        rows = {"3.generator.weight", "3.generator.codes"}
        data = packing.pack(state, target, rows, {})["data"]
        scales = 2 * (144 + 14) if dtype == "int8" else 0
        assert len(data) == size * (generator + live) + scales + max(size, 2) * rest + 2 * 8  # two counts of batches


def test_report(tmp_path):
    model = generated()
    report = save_compact(model, tmp_path / "net.csg", "int8")
    assert report.plain_size == sum(t.numel() * t.element_size() for t in net().state_dict().values())
    assert report.state_size == sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert str(report).startswith(f"{tmp_path / 'net.csg'}: {report.size} bytes in int8, ")
    assert "largest relative error of a kernel 0.0" in str(report)


def test_what_float16_does_not_hold_stays_float32(tmp_path):
    model = generated().eval()
    model[4].running_var.fill_(1e6)
    model[4].running_mean.fill_(1e-9)
    generators(model)[0].codes.data.mul_(1e-9)
    assert save_compact(model, tmp_path / "net.csg", "int8").rest_error < 2e-3
    found = load_compact(twin(), tmp_path / "net.csg")
    assert torch.equal(found[4].running_var, model[4].running_var)
    torch.testing.assert_close(found[4].running_mean, model[4].running_mean)
    torch.testing.assert_close(found[6].weight, model[6].weight, rtol=0, atol=0.02 * model[6].weight.abs().max().item())


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_layer_of_two_names_is_stored_once(tmp_path, dtype):
    block = nn.Conv2d(6, 6, 3, padding=1)
    once, twice = (convert(nn.Sequential(nn.Conv2d(3, 6, 3), *[block] * n), **SMALL) for n in (1, 2))
    numbers = []
    for model in (once, twice):
        report = save_compact(model, tmp_path / "net.csg", dtype)
        numbers.append(len(torch.load(report.path, weights_only=True)["data"]))
    assert numbers[0] == numbers[1]
    assert report.plain_size == sum(value.nbytes for value in export(twice).state_dict().values())
    found = load_compact(copy.deepcopy(twice), tmp_path / "net.csg")
    error = (found[1].weight - twice[1].weight).norm() / twice[1].weight.norm()
    assert error.item() == pytest.approx(report.errors["1"], rel=1e-4)


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_small_codes_beside_large_ones_stay(tmp_path, dtype):
    model = generated()
    with torch.no_grad():
        generators(model)[0].codes[: generators(model)[0].layers[0].live] *= 1e-7
    assert save_compact(model, tmp_path / "net.csg", dtype).errors["3"] < 0.02


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3),
        torch.tensor([True, False, True]),
        torch.arange(6, dtype=torch.float64).view(2, 3),
        torch.tensor([[0.0, 0.0], [1.0, -2.0]]),
        torch.tensor([[float("inf"), 1.0], [float("nan"), 2.0]]),
        torch.empty(0, 4),
        torch.randn(3, 4).bfloat16(),
        torch.randn(2, 3, 4).transpose(0, 2),
    ],
    ids=lambda t: f"{t.dtype}{tuple(t.shape)}",
)
@pytest.mark.parametrize("dtype", packing.DTYPES)
def test_all_kinds_of_tensors(tensor, dtype):
    content = packing.pack({"a": tensor, "b": tensor}, packing.DTYPES[dtype], {"a"}, {})
    assert len(content["data"]) <= tensor.nbytes  # nothing grows
    _, found = packing.unpack(content)
    tolerance = {"fp32": 1e-6, "fp16": 1e-3, "int8": 1 / 200}[dtype] if tensor.is_floating_point() else 0
    for value in found.values():
        assert value.dtype == tensor.dtype and value.shape == tensor.shape
        torch.testing.assert_close(value, tensor, rtol=tolerance, atol=2 * tolerance, equal_nan=True)


def test_tensors_of_several_names_are_stored_once():
    tensor = torch.randn(100)
    one, two = (packing.pack(dict.fromkeys(names, tensor), torch.float32, set(), {}) for names in ("a", "ab"))
    assert len(one["data"]) == len(two["data"]) == 400
    assert torch.equal(packing.unpack(two)[1]["b"], tensor)


def test_reports_are_those_of_the_numbers_under_autocast_too(tmp_path):
    model = generated()
    with torch.autocast("cpu"):
        found = save_compact(model, tmp_path / "net.csg", "fp16")
    assert found == save_compact(model, tmp_path / "net.csg", "fp16")


def test_the_default_device_does_not_matter(tmp_path):
    model = generated().eval()
    with torch.device("meta"):
        save_compact(model, tmp_path / "net.csg")
        found = load_compact(copy.deepcopy(model), tmp_path / "net.csg")
    assert torch.equal(found(images()), model(images()))


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="dtype must be one of 'fp32', 'fp16', 'int8', but it is 'fp8'"):
        save_compact(generated(), tmp_path / "net.csg", "fp8")
    with pytest.raises(ValueError, match="no CSGConv2d"):
        save_compact(net(), tmp_path / "net.csg")
    with pytest.raises(TypeError, match="model must be an nn"):
        save_compact({}, tmp_path / "net.csg")

    class Extra(nn.Sequential):
        def get_extra_state(self):
            return {"more": 1}

    with pytest.raises(TypeError, match="'_extra_state' is a dict"):
        save_compact(Extra(*generated()), tmp_path / "net.csg")
    model = generated()
    nn.utils.parametrize.register_parametrization(generators(model)[0], "codes", nn.Tanh(), unsafe=True)
    with pytest.raises(ValueError, match="whose codes are parametrized"):
        save_compact(model, tmp_path / "net.csg")
    assert not os.listdir(tmp_path)
