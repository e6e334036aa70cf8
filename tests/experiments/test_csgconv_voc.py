"""csgconv's segmentation: the paper's recipe, its slip by name, and a smoke run on real images."""

from __future__ import annotations

import json

import pytest
import torch
from scripts import here, run, script

from leanconv import models
from leanconv.data import DataNotFound, load
from leanconv.training import build


def parameters(recipe) -> dict[str, torch.nn.Parameter]:
    with torch.device("meta"):
        network = models.build(recipe.model, num_classes=21, **recipe.model_kwargs)
    build.freeze(recipe, network)
    return dict(network.named_parameters())


def test_voc_recipe_is_the_scripts():
    recipe = script("csgconv/voc").recipe("csg")
    assert (recipe.model, recipe.model_kwargs, recipe.frozen, recipe.start) == ("csg_deeplabv3", {}, (), {})
    assert (recipe.data, recipe.image_size, recipe.epochs, recipe.batch_size) == ("voc2012", 513, 50, 4)
    assert (recipe.optimizer, recipe.momentum, recipe.schedule, recipe.decay_rate) == ("momentum", 0.9, "poly", 0.9)
    # A step of SGD with the loss, and so its gradient, divided by 4: lr * (gradient / 4 + decay * weight).
    assert recipe.lr == pytest.approx(0.007 / 4) and recipe.lr * recipe.weight_decay == pytest.approx(0.007 * 5e-4)
    assert recipe.decay_biases and recipe.decay_norms and recipe.lr_factors == {"classifier": 10}
    augment = recipe.augment
    assert (augment.hflip, augment.resize, augment.blur) == (0.5, (0.5, 2.0), 0.5)


@pytest.mark.parametrize("kind, count", [("csg", 26_406_325), ("plain", 59_344_309), ("one", 26_111_413)])
def test_all_of_a_network_learns(kind, count):
    found = parameters(script("csgconv/voc").recipe(kind))
    assert sum(p.numel() for p in found.values()) == count
    assert all(parameter.requires_grad for parameter in found.values())


def test_as_published_generators_and_codes_never_learn():
    found = parameters(script("csgconv/voc").recipe("published"))
    frozen = {name: parameter for name, parameter in found.items() if not parameter.requires_grad}
    assert sum(parameter.numel() for parameter in frozen.values()) == 2_562_048
    assert {name.rpartition(".")[2] for name in frozen} == {"weight", "codes"} and len(frozen) == 4


def test_the_head_learns_ten_times_as_fast():
    voc = script("csgconv/voc")
    recipe = voc.smoke_recipe("csg").override({"lr_factors": voc.PAPER.lr_factors, "model_kwargs": {"num_classes": 5}})
    network = models.build(recipe.model, **recipe.model_kwargs)
    optimizer = build.optimizer(recipe, network)
    build.schedule(recipe, optimizer, 10).step_update(0)
    names = {id(p): name for name, p in network.named_parameters()}
    rates: dict[str, set[float]] = {}
    for group in optimizer.param_groups:
        assert group["weight_decay"] == 0.01
        for parameter in group["params"]:
            name = names.pop(id(parameter))
            if "generator" not in name:  # whose rates its layers may choose
                rates.setdefault(name.split(".")[0], set()).add(round(group["lr"] / recipe.lr, 6))
    assert rates == {"backbone": {1.0}, "classifier": {10.0}} and not names


def test_a_backbone_is_where_a_kind_starts():
    voc = script("csgconv/voc")
    recipe = voc.recipe("csg", "runs/a")
    assert recipe.start == {"backbone": "runs/a"}
    assert voc.card(recipe, planned=recipe, kind="csg") == {"row": "DeepLab R-101 CSG"}
    assert voc.card(voc.recipe("one"), planned=voc.recipe("one"), kind="one")["row"].endswith("from scratch")


def test_a_backbone_for_a_kind_that_does_not_run_is_refused(tmp_path):
    flags = ["--smoke", "--kind", "csg", "--backbone", "plain=a", "--out", tmp_path / "out"]
    said = here("csgconv/voc", *flags, code=2).stderr
    assert said.endswith("error: --backbone plain=... is for what does not run: --kind is csg\n")
    assert not (tmp_path / "out").exists()


def test_voc_smoke_trains_scores_and_draws(tmp_path):
    try:
        load("composites")
    except DataNotFound as error:
        pytest.skip(f"no network and no package: {error}")
    few = ["epochs=1", "train_images=32", "test_images=6", "batch_size=16", "image_size=48"]
    run("csgconv/voc", "--smoke", "--kind", "csg", "--out", tmp_path, "--device", "cpu", "--set", *few)
    report = (tmp_path / "report.md").read_text()
    assert "| narrow DeepLab CSG |" in report and "mIoU" in report and "in place of PASCAL VOC 2012" in report
    folder = tmp_path / "csg-seed0"
    assert json.loads((folder / "summary.json").read_text())["score"] == "miou"
    assert (folder / "predictions.png").stat().st_size > 20_000
