"""dwoconv1d's segmentation: the paper's recipe, where backbones start, and a smoke run on real images."""

from __future__ import annotations

import json
import os

import pytest
import torch
from scripts import here, run, script

pytest.importorskip("dwoconv1d")

from leanconv import models
from leanconv.data import DataNotFound, load
from leanconv.training import ConfigError, build

CLASSIFIED = ["epochs=1", "train_images=128", "test_images=50", "batch_size=64"]
SEGMENTED = ["epochs=1", "train_images=16", "test_images=3", "batch_size=8", "image_size=48"]


@pytest.fixture(scope="module")
def backbone():
    script("dwoconv1d/segmentation")  # puts its folder on the path
    return script("dwoconv1d/_backbone")


@pytest.fixture
def classified(backbone, tmp_path, monkeypatch):
    """A finished smoke run of classification, made up, where scripts look for such."""
    monkeypatch.chdir(tmp_path)
    recipe = script("dwoconv1d/classification").smoke_recipe("1d")
    folder = tmp_path / "runs/dwoconv1d/classification-smoke-20260101-000000/1d-seed0"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    plain, averaged = (models.build(recipe.model, in_chans=1, num_classes=10, **recipe.model_kwargs) for _ in range(2))
    torch.save({"model": plain.state_dict(), "ema": averaged.state_dict(), "step": 1}, folder / "last.pt")
    (folder / "recipe.json").write_text(json.dumps(recipe.to_dict()))
    (folder / "summary.json").write_text("{}")
    return folder, averaged


# The recipe


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_segmentation_recipe_is_the_papers(size):
    segmentation = script("dwoconv1d/segmentation")
    recipe = segmentation.recipe(size, "1dpp")
    assert recipe.model_kwargs["backbone"] == f"convnext_{size}_1dpp"
    kwargs = recipe.model_kwargs["backbone_kwargs"]
    assert [tuple(pair) for pair in kwargs["kernel_sizes"]] == [(15, 31), (15, 31), (15, 27), (13, 13)]
    assert kwargs["layer_scale_init_value"] == 1.0 and recipe.drop_path == 0.4
    steps = 20_210 // recipe.batch_size
    assert recipe.batch_size == 16 and recipe.epochs * steps == pytest.approx(160_000, abs=steps / 2)
    assert (recipe.optimizer, recipe.lr, recipe.betas, recipe.weight_decay) == ("adamw", 1e-4, (0.9, 0.999), 0.05)
    assert (recipe.layer_decay, recipe.layer_decay_by) == (0.9, "stage")
    assert (recipe.schedule, recipe.decay_rate, recipe.min_lr) == ("poly", 1.0, 0.0)
    assert recipe.warmup_epochs * steps == pytest.approx(1500) and recipe.warmup_lr / recipe.lr == pytest.approx(1e-6)
    assert (recipe.aux_loss, recipe.sync_norms, recipe.amp, recipe.clip_grad) == (0.4, True, "none", None)
    augment = recipe.augment
    assert (augment.hflip, augment.resize, augment.share) == (0.5, (0.5, 2.0), 0.75)
    assert augment.distort == (32, 0.5, 0.5, 18 * 2)
    assert (recipe.data, recipe.image_size, recipe.image_size * recipe.data_kwargs["aspect"]) == ("ade20k", 512, 2048)
    assert recipe.data_kwargs["scales"] == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75) and recipe.data_kwargs["flip"]


def test_rates_rise_for_1500_steps_and_fall_to_nothing():
    recipe = script("dwoconv1d/segmentation").recipe("tiny", "2d")
    with torch.device("meta"):
        network = models.build(recipe.model, num_classes=150, **recipe.model_kwargs)
    optimizer = build.optimizer(recipe, network)
    steps = 20_210 // 16
    schedule = build.schedule(recipe, optimizer, steps)
    names = {id(p): name for name, p in network.named_parameters()}
    rates = {}
    for step in (0, 750, 1500, 80_000, recipe.epochs * steps):
        schedule.step_update(step)
        rates[step] = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    head = [each["classifier.1.weight"] for each in rates.values()]
    total = recipe.epochs * steps
    falling = 1 - (80_000 - 1500) / (total - 1500)
    assert head == pytest.approx([1e-10, 0.5e-4, 1e-4, 1e-4 * falling, 0], rel=1e-5)
    assert 1e-4 * falling == pytest.approx(1e-4 * (1 - 80_000 / total), rel=0.01), "the authors' falls from the start"
    for name, power in (("downsample_layers.3.1.weight", 7), ("stages.0.2.gamma", 6), ("stages.3.0.gamma", 3)):
        assert rates[80_000][f"backbone.model.{name}"] == pytest.approx(0.9**power * head[3])


def test_segmentation_names_what_ran():
    segmentation = script("dwoconv1d/segmentation")

    def card(planned, *changes):
        found = segmentation.card(planned.override(changes), planned=planned, size="tiny", variant="1dpp")
        return found["row"], found.get("paper", {}).get("miou_multiscale")

    full = segmentation.recipe("tiny", "1dpp", "weights.pt")
    assert full.start == {"backbone": "weights.pt"}
    assert card(full) == ("UPerNet, ConvNeXt-T 1D++ on ADE20K", 47.4)
    assert card(full, "data=composites_ade") == ("UPerNet, ConvNeXt-T 1D++", None)
    assert card(segmentation.recipe("tiny", "1dpp"))[0].endswith("on ADE20K, from scratch")
    assert card(full, "model_kwargs.width=8") == ("upernet, changed", None)
    assert card(segmentation.smoke_recipe("1dpp", "weights.pt")) == ("narrow UPerNet 1D++", 47.4)


# Where backbones start


def test_a_smoke_run_starts_from_the_newest_one_of_classification(backbone, classified, capsys):
    folder, averaged = classified
    found = backbone.starts(["1d", "2d"], [], smoke=True)
    assert found == {"1d": str(folder.relative_to(folder.parents[3]) / "last-backbone.pt")}
    said = capsys.readouterr().err
    assert "1d: the backbone starts from averaged weights in runs/dwoconv1d/" in said
    assert "stages.0.0.dwconv.weight: 13 -> 11 taps; 32 of 32 dropped taps met the map" in said
    assert "2d: the backbone starts at random: no finished smoke run of its classification lies in" in said
    weights, own = torch.load(found["1d"]), averaged.state_dict()
    assert torch.equal(weights["stages.0.0.dwconv.weight"], own["stages.0.0.dwconv.weight"][:, 1:-1])
    first = "downsample_layers.0.pw1.weight"
    torch.testing.assert_close(weights[first].sum(1, keepdim=True), own[first])
    assert weights[first].shape[1] == 3 and not list(folder.glob("*.partial"))

    recipe = script("dwoconv1d/segmentation").smoke_recipe("1d", found["1d"])
    network = models.build(recipe.model, num_classes=6, **recipe.model_kwargs)
    assert build.start(recipe, network) == []
    assert torch.equal(network.backbone.model.stages[1][1].gamma, own["stages.1.1.gamma"])


def test_runs_of_other_networks_and_unfinished_ones_are_passed_over(backbone, classified):
    folder, _ = classified
    recipe = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps({**recipe, "model_kwargs": {"depths": [1, 1]}}))
    assert backbone.starts(["1d"], [], smoke=True) == {}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert len(backbone.starts(["1d"], [], smoke=True)) == 1
    (folder / "summary.json").unlink()
    assert backbone.starts(["1d"], [], smoke=True) == {} == backbone.starts(["1d"], [])


def test_what_is_resumed_starts_from_what_it_started_from(backbone, classified, tmp_path):
    for variant, start in (("1d", {"backbone": "old.pt"}), ("2d", {})):
        (tmp_path / "out" / f"{variant}-seed0").mkdir(parents=True)
        (tmp_path / "out" / f"{variant}-seed0" / "recipe.json").write_text(json.dumps({"start": start}))
    assert backbone.starts(["1d", "2d"], [], smoke=True, begun=tmp_path / "out") == {"1d": "old.pt"}


def test_of_several_processes_the_first_writes(backbone, classified, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    found = backbone.starts(["1d"], [], smoke=True)
    assert found and not os.path.exists(found["1d"]) and capsys.readouterr().err == ""


def test_backbones_that_cannot_be_are_one_sentence(backbone, classified, tmp_path):
    folder, _ = classified
    for given, kind, says in (
        ("1d", ConfigError, r"--backbone must read VARIANT=RUN_OR_FILE, a variant being one of 2d, 1d, .*, got '1d'"),
        ("3d=a", ConfigError, "--backbone must read"),
        ("2d=a", ConfigError, r"--backbone 2d=\.\.\. is for what does not run: --variant is 1d"),
        (f"1d={tmp_path}/absent", FileNotFoundError, r"--backbone 1d: there is no checkpoint at \S+absent"),
    ):
        with pytest.raises(kind, match=says):
            backbone.starts(["1d"], [given], smoke=True)
    with pytest.raises(ValueError, match=r"--backbone 1dpp: \S+last\.pt: the checkpoint holds the variant '1d'"):
        backbone.starts(["1dpp"], [f"1dpp={folder}"], smoke=True)
    (folder / "last.pt").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"last\.pt is no checkpoint"):
        backbone.starts(["1d"], [f"1d={folder}"], smoke=True)


def test_another_backbone_starts_at_random(backbone, classified, capsys):
    assert backbone.starts(["1d"], [], smoke=True, others=True) == {}
    assert capsys.readouterr().err == "1d: the backbone starts at random\n"
    assert list(backbone.starts(["1d"], [], smoke=True)) == ["1d"]


def test_a_bad_backbone_ends_the_script_before_anything_is_made(tmp_path):
    out = tmp_path / "out"
    flags = ["--smoke", "--variant", "1d", "--backbone", "1d=absent", "--out", out]
    said = here("dwoconv1d/segmentation", *flags, code=1).stderr
    assert said == "--backbone 1d: there is no checkpoint at absent\n" and not out.exists()


# A smoke run


def test_classified_weights_flow_into_segmentation(tmp_path):
    try:
        load("composites_ade")
    except DataNotFound as error:
        pytest.skip(f"no network and no package: {error}")
    donor = tmp_path / "classification"
    arguments = ["--smoke", "--variant", "1dpp", "--device", "cpu"]
    run("dwoconv1d/classification", *arguments, "--out", donor, "--set", *CLASSIFIED)
    arguments += ["--backbone", f"1dpp={donor}/1dpp-seed0", "--out", tmp_path / "out"]
    done = run("dwoconv1d/segmentation", *arguments, "--set", *SEGMENTED)
    assert "stages.0.0.dwconv2.weight: 13 -> 11 taps" in done.stderr
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| narrow UPerNet 1D++ |" in report and "| mIoU | mIoU EMA | mIoU multi-scale |" in report
    assert "47.4 mIoU multi-scale, ADE20K" in report and "(in place of ADE20K)" in report
    folder = tmp_path / "out" / "1dpp-seed0"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["score"] == "miou" and 0 < summary["miou_multiscale"] < 1 and summary["chance"] > 0
    assert (folder / "predictions.png").stat().st_size > 20_000
    again = here("dwoconv1d/segmentation", *arguments, "--resume", "--set", *SEGMENTED)
    assert "step" not in again.stderr, "finished runs are not run again"
