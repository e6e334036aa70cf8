"""The experiments of pathconv: recipes as in the paper, and smoke runs on real data."""

from __future__ import annotations

import json

import pytest
from scripts import FEW, here, run, script


def test_pathconv_recipes_are_the_papers():
    train = script("pathconv/train")
    cifar, imagenet, resnet = (
        train.recipe("cf10", "s", "g"),
        train.recipe("in64", "b", "mz"),
        train.recipe("svhn", "r18", ""),
    )
    assert (cifar.data, cifar.model, cifar.model_kwargs) == ("cifar10", "pathconv_s", {"img_size": 32, "path": "g"})
    assert (imagenet.data, imagenet.model_kwargs) == ("imagenet64", {"img_size": 64, "path": "mz"})
    assert [(r.epochs, r.warmup_epochs, r.weight_decay, r.label_smoothing) for r in (cifar, imagenet, resnet)] == [
        (300, 10, 2e-4, 0.05)
    ] * 3
    assert [(r.optimizer, r.lr, r.batch_size, r.drop_path) for r in (cifar, imagenet, resnet)] == [
        ("adamw", 4e-3, 512, 0.1),
        ("adamw", 1e-2, 384, 0.1),
        ("sgd", 2e-2, 512, 0.0),
    ]
    assert all(r.warmup_lr == pytest.approx(0.2 * r.lr) and r.min_lr == 0 for r in (cifar, imagenet, resnet))
    assert (cifar.mixup, cifar.cutmix, imagenet.mixup, imagenet.cutmix) == (0.0, 0.0, 0.2, 0.6)
    assert (cifar.augment.padding, cifar.augment.hflip, cifar.augment.rand_augment) == (4, 0.5, "torchvision-m7-n2")
    assert imagenet.augment.rand_augment == "torchvision-m9-n2"


def test_pathconv_names_what_ran_and_keeps_the_papers_numbers_to_its_networks():
    train, ablation = script("pathconv/train"), script("pathconv/ablation")

    def card(*changes, smoke=False):
        ran = train.smoke_recipe("b", "g") if smoke else train.recipe("svhn", "b", "g")
        found = train.card(ran.override(changes), dataset="svhn", model="b", path="g")
        return found["row"], found.get("paper", {}).get("top1")

    assert card() == card("lr=1e-3") == ("PathConvB-HC* on SVHN", 97.81)
    assert card("data=imagefolder") == ("PathConvB-HC*", None)
    assert card("model=resnet18") == ("resnet18 on SVHN", None)
    assert card(smoke=True) == ("narrow PathConvB-HC*", 97.81)
    ours = train.card(train.recipe("cf10", "s", "g*"), dataset="cf10", model="s", path="g*")
    assert "paper" not in ours and ours["row"] == "PathConvS-H-ours on CIFAR-10"
    neither = ablation.card(ablation.planned("neither", "in64", False), variant="neither", dataset="in64")
    assert (neither["row"], neither["paper"]["top1"]) == ("PathConvB-HC* without both on ImageNet-64", 52.91)


@pytest.mark.parametrize("name", ("train", "ablation"))
def test_pathconv_smoke_trains_and_reports(name, tmp_path):
    which = ["--model", "s", "--path", "og"] if name == "train" else ["--variant", "neither"]
    run(f"pathconv/{name}", "--smoke", *which, "--out", tmp_path, "--device", "cpu", "--set", *FEW)
    report = (tmp_path / "report.md").read_text()
    assert "narrow PathConvS-H" in report
    assert "Not run here" in report


def test_pathconv_takes_the_flags_of_the_authors(tmp_path):
    flags = [
        "--bs",
        128,
        "--dataset",
        "cf10",
        "--path",
        "r",
        "--model",
        "s",
        "--data",
        tmp_path,
        "--out",
        tmp_path / "o",
    ]
    assert "CIFAR-10 is not in" in here("pathconv/train", *flags, code=1).stderr


def test_path_sets_smoke_stands_beside_the_paper(tmp_path):
    arguments = ["--smoke", "--curves", "zorder", "--solvers", "greedy", "exact", "--out", tmp_path]
    done = here("pathconv/path_sets", *arguments)
    assert done.stdout == (tmp_path / "path_sets.md").read_text()
    lines = done.stdout.splitlines()
    assert "| 32 | 188,480 | 215,640 | 79.102% | 180,944 | 74.609% |" in lines
    assert any(line.startswith("| Z-order | 32 | the paper | 3 | 576,988 |") for line in lines)
    assert any(line.startswith("| Z-order | 32 | exact | 3 | 574,652 | 0.40% | proven |") for line in lines)
    record = json.loads((tmp_path / "path_sets.json").read_text())
    assert [row["method"] for row in record["sets"]] == ["published", "greedy", "exact"]
    assert all(row["coverage"] == 1 for row in record["sets"])
    assert json.loads((tmp_path / "zorder_32_exact.json").read_text())["proven"]
    assert (tmp_path / "zorder_32.png").stat().st_size > 10_000
