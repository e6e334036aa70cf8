"""The experiments of dwoconv1d: recipes as in the paper, and smoke runs on real data."""

from __future__ import annotations

import json

import pytest
from scripts import FEW, here, run, script


def test_dwoconv1d_recipes_are_the_papers():
    classification = script("dwoconv1d/classification")
    recipe = classification.recipe("base", "1dpp")
    assert (recipe.model, recipe.drop_path) == ("convnext_base_1dpp", 0.5)
    assert classification.recipe("tiny", "2d").drop_path == 0.1
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.min_lr, recipe.warmup_epochs) == (
        300,
        4096,
        4e-3,
        1e-6,
        20,
    )
    assert (recipe.optimizer, recipe.weight_decay, recipe.betas, recipe.eps) == ("adamw", 0.05, (0.9, 0.999), 1e-8)
    assert (recipe.mixup, recipe.cutmix, recipe.label_smoothing, recipe.ema_decay) == (0.8, 1.0, 0.1, 0.9999)
    augment = recipe.augment
    assert (augment.rand_augment, augment.erase, augment.erase_mode) == ("rand-m9-mstd0.5-inc1", 0.25, "pixel")
    assert (recipe.amp, recipe.clip_grad, recipe.layer_decay, recipe.augment.eval_crop) == ("none", None, None, 0.875)


def test_classification_smoke_trains_resumes_and_reports(tmp_path):
    arguments = ["--smoke", "--variant", "1d", "2d", "--out", tmp_path, "--device", "cpu", "--set", *FEW]
    done = run("dwoconv1d/classification", *arguments)
    assert done.stdout == f"{tmp_path}/report.md holds the numbers; `leanconv report {tmp_path}` prints them\n"
    report = (tmp_path / "report.md").read_text()
    assert "narrow ConvNeXt 1D" in report
    assert "82.2 / 82.2 EMA, ImageNet-1K" in report
    assert "Not run here" in report
    assert "ConvNeXt-B 2D++ on ImageNet-1K (83.6 / 84.0)" in report
    assert (tmp_path / "report.png").stat().st_size > 10_000
    summary = json.loads((tmp_path / "1d-seed0" / "summary.json").read_text())
    again = here("dwoconv1d/classification", "--resume", *arguments)
    assert "step" not in again.stderr, "finished runs are not run again"
    assert json.loads((tmp_path / "1d-seed0" / "summary.json").read_text()) == summary


def test_classification_names_what_ran_and_keeps_the_papers_numbers_to_its_networks():
    classification = script("dwoconv1d/classification")

    full, smoke = classification.recipe("tiny", "1d"), classification.smoke_recipe("1d")

    def card(*changes, recipe=full):
        found = classification.card(recipe.override(changes), size="tiny", variant="1d")
        return found["row"], "paper" in found

    assert card() == card("lr=1e-3") == ("ConvNeXt-T 1D on ImageNet-1K", True)
    assert card("data=imagefolder") == ("ConvNeXt-T 1D", False)
    assert card("model=resnet18") == ("resnet18 on ImageNet-1K", False)
    changed = card("data=imagefolder", "model_kwargs={'depths': (1, 1), 'dims': (8, 16)}")
    assert changed == ("convnext_tiny_1d, own depths, dims", False)
    assert card(recipe=smoke) == card("data=imagenet", recipe=smoke) == ("narrow ConvNeXt 1D", True)
    assert card("smoke=false", recipe=smoke)[1] is False


def test_classification_without_data_says_what_to_give(tmp_path):
    said = here("dwoconv1d/classification", "--out", tmp_path, code=1).stderr
    assert said.splitlines()[-1].startswith("give --data PATH")


def test_runtime_smoke_stands_beside_the_paper(tmp_path):
    pytest.importorskip("dwoconv1d")
    arguments = ["--smoke", "--sides", 14, "--kernel-sizes", 7, "--seconds", 0.01, "--out", tmp_path, "--device", "cpu"]
    done = here("dwoconv1d/runtime", *arguments)
    assert done.stdout == (tmp_path / "runtime.md").read_text()
    assert "radians" in done.stdout
    stock, ours = (line for line in done.stdout.splitlines() if line.startswith("| 14x14"))
    assert stock.endswith("| 0.4 (N 64) |")
    assert ours.endswith("| 0.3 (N 64) |")
    record = json.loads((tmp_path / "runtime.json").read_text())
    times = record["cells"][1]["milliseconds"]
    assert set(times) == {"as published", "forward", "input gradient", "weight gradient"}
    assert all(len(values) == 3 and min(values) > 0 for values in times.values())
    assert max(record["directions"]) < 3.15
