"""`load_generator`: what is loaded, from which files, and what is refused."""

from __future__ import annotations

import pytest
import torch
from nets_to_convert import SMALL, generated, images, net
from torch import nn

from csgconv import convert, generators, load_generator, save_compact

pytestmark = pytest.mark.filterwarnings("ignore:the model has")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def other(**options) -> nn.Module:
    """Another network with slices of the same size."""
    layers = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.Conv2d(12, 9, 3, stride=2)
    return convert(nn.Sequential(*layers), **{**SMALL, **options})


def own(model: nn.Module):
    (generator,) = generators(model)
    return generator


def prefixed(state) -> dict:
    return {"net": {f"module.{name}": value for name, value in state.items()}, "acc": 90.0, "epoch": 3}


def published(state, name: str = "CSG") -> dict:
    """As the authors' networks have it: in every block, under one of two names."""
    return prefixed({f"stage_{i}.0.{name}.weight": state["3.generator.weight"].clone() for i in (1, 2)})


FORMS = {
    "state dict": lambda state: state,
    "checkpoint": prefixed,
    "alone": lambda state: {n.removeprefix("3.generator."): v for n, v in state.items() if "generator" in n},
    "published": published,
    "published earlier": lambda state: published(state, "CLG"),
    "half": lambda state: {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_loaded_and_frozen(tmp_path, form):
    source, target = generated(), other()
    target(images())
    with torch.no_grad():
        target(images())  # keeps its kernels
    torch.save(FORMS[form](source.state_dict()), tmp_path / "net.pt")
    codes = own(target).codes.clone()
    assert load_generator(target, tmp_path / "net.pt") is target
    weight = own(source).weight.half().float() if form == "half" else own(source).weight
    assert torch.equal(own(target).weight, weight) and torch.equal(own(target).codes, codes)
    assert not own(target).weight.requires_grad and own(target).codes.requires_grad
    with torch.no_grad():
        kernel = target[1].weight.flatten()
        made = (own(target).codes[: own(target).layers[0].live] @ weight.T).flatten()
    assert torch.allclose(kernel, made[: kernel.numel()])
    target(images()).sum().backward()
    assert own(target).weight.grad is None and own(target).codes.grad.any()


def test_it_may_learn_on():
    source, target = generated(), other()
    load_generator(target, source.state_dict(), freeze=False)
    assert own(target).weight.requires_grad


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("kind", [{}, {"bias": True}, {"binary": True}], ids=str)
def test_compact_files(tmp_path, dtype, kind):
    source, target = generated(**kind), other(**kind)
    save_compact(source, tmp_path / "net.csg", dtype)
    load_generator(target, tmp_path / "net.csg")
    for name, value in own(source).named_parameters():
        if name != "codes":
            limit = 0 if dtype == "fp32" else 0.01 * value.abs().max().item() + 1e-9
            torch.testing.assert_close(getattr(own(target), name).detach(), value.detach(), rtol=0, atol=limit)
            assert not getattr(own(target), name).requires_grad
    if own(source).binary:
        assert torch.equal(own(target).weight, own(source).weight) and torch.equal(own(target).bits, own(source).bits)


def test_bits_and_numbers_of_bits_fit_each_other():
    binary, floating = generated(binary=True), other()
    load_generator(floating, binary.state_dict())
    assert torch.equal(own(floating).weight, own(binary).weight)
    again = other(binary=True)
    load_generator(again, {"CSG.weight": own(binary).weight})
    assert torch.equal(own(again).bits, own(binary).bits)


def test_scale_may_be_matched():
    source, target = generated(), other()
    own(source).weight.data.mul_(0.1)
    before = target[1].weight.std()
    load_generator(target, source.state_dict(), match_scale=True)
    assert target[1].weight.std().item() == pytest.approx(before.item(), rel=0.2)


@pytest.mark.parametrize("number", [0.0, torch.nan, torch.inf])
def test_scale_of_nothing_is_not_matched(number):
    target, state = other(), generated().state_dict()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ValueError, match="has no scale: it is zero, or not finite"):
        load_generator(target, {**state, "3.generator.weight": torch.full((144, 8), number)}, match_scale=True)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_several_generators():
    def pair() -> nn.Module:
        return nn.Sequential(other(), other(code_size=7))

    source, target = pair(), pair()
    load_generator(target, source.state_dict())
    for one, two in zip(generators(source), generators(target)):
        assert torch.equal(one.weight, two.weight)
    with pytest.raises(ValueError, match="holds 2 generators, but the model has 1"):
        load_generator(other(), source.state_dict())
    alike = nn.Sequential(other(), other())
    load_generator(alike, generated().state_dict())
    assert torch.equal(*(generator.weight for generator in generators(alike)))
    before = [generator.weight.clone() for generator in generators(target)]
    with pytest.raises(ValueError, match="slices of 144 numbers from codes of 8, but the model's"):
        load_generator(target, generated().state_dict())  # the first one fits, the second does not
    assert all(torch.equal(generator.weight, old) for generator, old in zip(generators(target), before))
    assert generators(target)[0].codes.requires_grad


def test_a_generator_of_two_names_is_one(tmp_path):
    block = nn.Conv2d(6, 6, 3, padding=1)
    source = convert(nn.Sequential(nn.Conv2d(3, 6, 3), block, block), **SMALL)
    save_compact(source, tmp_path / "net.csg")
    for given in (source.state_dict(), tmp_path / "net.csg"):
        target = other()
        load_generator(target, given)
        assert torch.equal(own(target).weight, own(source).weight)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (
            {"code_size": 9},
            {},
            "slices of 144 numbers from codes of 9, but the model's makes slices of 144 numbers from",
        ),
        ({"slice_shape": (5, 5, 3, 3)}, {}, "slices of 225 numbers"),
        ({"code_size": 16, "binary": True}, {}, "slices of 144 numbers from codes of 16"),
        ({"bias": True}, {}, "has a bias, but the model's has none"),
        ({}, {"binary": True}, "is not binary, but the model's is"),
    ],
    ids=str,
)
def test_generators_of_another_kind_are_refused(source, target, message):
    model = other(**target)
    with pytest.raises(ValueError, match=message):
        load_generator(model, generated(**source).state_dict())


def test_the_published_segmentation_names_its_generators_in_any_order():
    target = nn.Sequential(other(), other())
    backbone, pyramid = (torch.randn(144, 8) for _ in range(2))
    state = {"CSG.weight": pyramid, "backbone.CSG.weight": backbone, "aspp.CSG.weight": pyramid}
    for names in (state, reversed(state)):
        load_generator(target, {name: state[name] for name in names})
        found = [generator.weight for generator in generators(target)]
        assert torch.equal(found[0], backbone) and torch.equal(found[1], pyramid)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight", torch.zeros(144), "holds no generator"),
        ("weight", torch.zeros(144, 8).to_sparse(), "holds no generator"),
        ("weight", torch.zeros(144, 8, dtype=torch.complex64), "holds no generator"),
        ("codes", torch.zeros(8), "holds no generator"),
        ("codes", torch.zeros(8, 0), "holds no generator"),
        ("bias", torch.zeros(3), r"a bias of shape \(3,\), but slices of 144"),
    ],
)
def test_what_only_bears_the_names_of_a_generator_changes_nothing(name, value, message):
    target, state = other(bias=True), generated(bias=True).state_dict()
    before = own(target).weight.clone()
    with pytest.raises(ValueError, match=message):
        load_generator(target, {**state, f"3.generator.{name}": value})
    assert torch.equal(own(target).weight, before) and own(target).weight.requires_grad


def test_bits_are_bytes():
    state = generated(binary=True).state_dict()
    with pytest.raises(ValueError, match="holds no generator"):
        load_generator(other(binary=True), {**state, "3.generator.bits": state["3.generator.bits"].float()})


def test_a_parametrized_generator_is_refused():
    model = other()
    nn.utils.parametrize.register_parametrization(own(model), "weight", nn.Tanh(), unsafe=True)
    with pytest.raises(ValueError, match="a generator that is parametrized"):
        load_generator(model, generated().state_dict())


def test_a_model_without_data_is_refused():
    with pytest.raises(ValueError, match="model is on the meta device"):
        load_generator(other().to("meta"), generated().state_dict())


def test_a_generator_without_bias_leaves_none():
    model = other(bias=True)
    nn.init.ones_(own(model).bias)
    load_generator(model, generated().state_dict())
    assert not own(model).bias.any()


def test_files_and_models_without_generator_are_refused(tmp_path):
    with pytest.raises(ValueError, match="The checkpoint holds no generator"):
        load_generator(other(), net().state_dict())
    with pytest.raises(ValueError, match="model has no CSGConv2d"):
        load_generator(net(), generated().state_dict())
    with pytest.raises(TypeError, match="model must be an nn"):
        load_generator("net", generated().state_dict())
    with pytest.raises(FileNotFoundError):
        load_generator(other(), tmp_path / "none.pt")
