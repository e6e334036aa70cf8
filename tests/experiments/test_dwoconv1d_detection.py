"""dwoconv1d's detection: the paper's recipe, classification weights that arrive, and a smoke run on real images."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from scripts import here, run, script

from leanconv import models
from leanconv.data import DataNotFound, load
from leanconv.training import build


def classifier(path, variant: str) -> dict[str, torch.Tensor]:
    """Save what `classification.py --smoke` leaves of a variant, untrained; returns its weights."""
    recipe = script("dwoconv1d/classification").smoke_recipe(variant)
    torch.manual_seed(1)
    network = models.build(recipe.model, num_classes=10, in_chans=1, **recipe.model_kwargs)
    torch.save({"model": network.state_dict()}, path)
    return network.state_dict()


def test_detection_recipes_are_the_papers():
    detection = script("dwoconv1d/detection")
    tiny, base = detection.recipe("tiny", "1d"), detection.recipe("base", "1dpp")
    assert (tiny.data, tiny.image_size, tiny.epochs, tiny.batch_size) == ("coco", 800, 36, 16)
    assert (tiny.optimizer, tiny.lr, tiny.betas, tiny.weight_decay) == ("adamw", 2e-4, (0.9, 0.999), 0.05)
    assert (tiny.schedule, tiny.milestones, tiny.decay_rate) == ("multistep", (27, 33), 0.1)
    assert tiny.warmup_lr == pytest.approx(tiny.lr / 1000) and round(tiny.warmup_epochs * (117_266 // 16)) == 500
    assert (tiny.ema_decay, tiny.amp, tiny.clip_grad, tiny.sync_norms) == (None, "none", None, True)
    assert (tiny.drop_path, tiny.layer_decay, base.drop_path, base.layer_decay) == (0.4, 0.7, 0.7, 0.8)
    augment = tiny.augment
    assert (augment.hflip, augment.first_sides, augment.crop) == (0.5, (400, 500, 600), (384, 600))
    assert (augment.sides[0], augment.sides[-1], len(augment.sides)) == (480, 800, 11)
    kwargs = base.model_kwargs["backbone_kwargs"]
    assert base.model_kwargs["backbone"] == "convnext_base_1dpp"
    assert kwargs["kernel_sizes"] == ((15, 31), (15, 31), (15, 27), (13, 13))
    assert kwargs["layer_scale_init_value"] == 1


@pytest.mark.parametrize("size, deepest, rate", [("tiny", 7, 0.7), ("base", 13, 0.8)])
def test_the_stem_learns_slowest(size, deepest, rate):
    recipe = script("dwoconv1d/detection").recipe(size, "1d")
    with torch.device("meta"):
        network = models.build(recipe.model, num_classes=81, **recipe.model_kwargs)
    groups = build.optimizer(recipe, network).param_groups
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    factors = {names[id(p)]: group.get("lr_scale", 1.0) for group in groups for p in group["params"]}
    assert len(factors) == len(names)
    stem = [factor for name, factor in factors.items() if ".downsample_layers.0." in name]
    assert stem and stem == pytest.approx([rate**deepest] * len(stem))
    assert {factor for name, factor in factors.items() if not name.startswith("backbone.")} == {1.0}


def test_detection_names_what_ran_and_keeps_the_papers_numbers_to_its_networks():
    detection = script("dwoconv1d/detection")
    full, smoke = detection.recipe("base", "2dpp", "a.pt"), detection.smoke_recipe("2dpp")

    def card(planned, *changes):
        found = detection.card(planned.override(changes), planned=planned, size="base", variant="2dpp")
        return found["row"], "paper" in found

    assert card(full) == card(full, "lr=1e-3") == ("ConvNeXt-B 2D++, COCO", True)
    assert card(full, "start={}") == ("ConvNeXt-B 2D++, COCO, from scratch", True)
    assert card(full, "data=coco_format") == ("ConvNeXt-B 2D++", False)
    assert card(smoke) == ("narrow ConvNeXt 2D++, from scratch", True)
    other = ("model_kwargs.backbone=resnet50", "model_kwargs.backbone_kwargs={}")
    assert card(full, *other) == ("cascade_mask_rcnn, resnet50 backbone", False)
    paper = detection.card(full, planned=full, size="base", variant="2dpp")["paper"]
    assert (paper["box_map"], paper["mask_map"]) == (52.9, 45.8)


@pytest.mark.parametrize("variant", ["1d", "2dpp"])
def test_classification_weights_arrive_in_the_detector(variant, tmp_path, capsys):
    detection = script("dwoconv1d/detection")
    weights = classifier(tmp_path / "last.pt", variant)
    (start,) = detection._backbone.starts([variant], [f"{variant}={tmp_path / 'last.pt'}"], smoke=True).values()
    recipe = detection.smoke_recipe(variant, start).override(["model_kwargs.num_classes=6"])
    network = models.build(recipe.model, **recipe.model_kwargs)
    assert build.start(recipe, network) == []
    backbone, compared = network.backbone.model.state_dict(), 0
    cut = "dwconv2" if variant == "2dpp" else "dwconv"
    assert f"stages.0.0.{cut}.weight: 13 -> 11 taps; " in capsys.readouterr().err
    for name, value in weights.items():
        if name.startswith(("norm.", "head.")):
            continue
        if name == f"stages.0.0.{cut}.weight":
            value = value[:, 1:-1]
        elif value.shape[1:2] == (1,) and backbone[name].shape[1] == 3:
            value = value.expand_as(backbone[name]) / 3
        assert torch.equal(backbone[name], value), name
        compared += 1
    assert compared == len(backbone) - 4, "all but the norms of two maps"


def test_what_cannot_start_a_backbone_is_refused(tmp_path, monkeypatch, capsys):
    detection = script("dwoconv1d/detection")
    classifier(tmp_path / "last.pt", "2d")
    options = ["detection.py", "--smoke", "--variant", "1d", "--out", str(tmp_path / "out")]
    for given, said in (
        (f"1d={tmp_path / 'last.pt'}", "the checkpoint holds the variant '2d', not '1d'"),
        (f"1d={tmp_path / 'none.pt'}", f"there is no checkpoint at {tmp_path / 'none.pt'}"),
        (f"2d={tmp_path / 'last.pt'}", "--backbone 2d=... is for what does not run: --variant is 1d"),
    ):
        monkeypatch.setattr(sys, "argv", [*options, "--backbone", given])
        assert detection.main() == 1
        assert capsys.readouterr().err.strip().endswith(said)
    assert not (tmp_path / "out").exists()


def test_missing_annotations_are_named(tmp_path):
    for folder in ("train2017", "val2017"):
        (tmp_path / "coco" / folder).mkdir(parents=True)
    flags = ["--data", tmp_path, "--out", tmp_path / "out", "--device", "cpu"]
    last = here("dwoconv1d/detection", *flags, code=1).stderr.splitlines()[-1]
    assert "annotations/instances_train2017.json and annotations/instances_val2017.json are absent" in last


def test_detection_smoke_trains_scores_and_draws(tmp_path):
    try:
        load("composites_coco")
    except DataNotFound as error:
        pytest.skip(f"no network and no package: {error}")
    classifier(tmp_path / "last.pt", "1d")
    few = ["epochs=1", "train_images=16", "test_images=4", "image_size=64"]
    options = ["--smoke", "--variant", "1d", "--backbone", f"1d={tmp_path / 'last.pt'}"]
    done = run("dwoconv1d/detection", *options, "--out", tmp_path / "out", "--device", "cpu", "--set", *few)
    assert "1d: the backbone starts from " in done.stderr
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| narrow ConvNeXt 1D |" in report and "box mAP" in report and "in place of COCO 2017" in report
    assert "50.3 / 43.6 mask mAP, COCO" in report and "ConvNeXt-B 2D++, COCO (52.9 / 45.8)" in report
    folder = tmp_path / "out" / "1d-seed0"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["score"] == "box_map" and summary["chance"] < 0.05
    assert (folder / "predictions.png").stat().st_size > 20_000
