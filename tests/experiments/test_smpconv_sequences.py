"""The experiments of smpconv with sequences: recipes as in the paper, and smoke runs on real data."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from scripts import here, run, script


def test_smpconv_sequence_recipes_are_the_papers():
    sequence = script("smpconv/sequence")
    recipes = [sequence.recipe(task) for task in ("smnist", "pmnist", "scifar10", "char", "mfcc", "raw")]
    table = [(r.epochs, r.batch_size, r.lr, r.warmup_epochs, r.model_kwargs["length"]) for r in recipes]
    assert table == [
        (200, 64, 1e-4, 5, 784),
        (200, 64, 1e-4, 5, 784),
        (200, 64, 2e-4, 5, 1024),
        (300, 64, 1e-4, 5, 182),
        (300, 32, 2e-3, 5, 161),
        (160, 32, 1e-3, 10, 16000),
    ]
    kwargs = [r.model_kwargs for r in recipes]
    assert [k["radius"] for k in kwargs] == [0.002, 0.002, 0.002, 0.012, 0.012, 0.0002]
    assert [k.get("bias", False) for k in kwargs] == [False, False, True, True, True, False]
    assert [k.get("dropout", 0) for k in kwargs] == [0, 0, 0, 0, 0.2, 0.1]
    assert [k.get("input_dropout", 0) for k in kwargs] == [0.1, 0.1, 0, 0, 0, 0]
    shared = {(r.optimizer, r.weight_decay, r.schedule, r.min_lr, r.warmup_lr, r.clip_grad, r.loss) for r in recipes}
    assert shared == {("adam", 1e-5, "cosine", 1e-6, 0.0, None, "ce")}
    digits, pictures = recipes[1].augment, recipes[2].augment
    assert (digits.rotate, digits.shift, digits.shrink, digits.cutout, digits.chance) == (30, 2, 0.75, 4, 0.5)
    assert (pictures.padding, pictures.hflip) == (4, 0.5)


def test_smpconv_sequence_recipes_build_the_papers_networks():
    from leanconv import models
    from leanconv.data import SETS

    sequence, counts = script("smpconv/sequence"), {}
    for task in sequence.RESULTS:
        planned = sequence.recipe(task)
        entry = SETS[planned.data]
        shape = {"in_chans": entry.in_chans, "num_classes": entry.num_classes}
        length = entry.length if hasattr(entry, "length") else entry.image_size**2
        assert planned.model_kwargs["length"] == length
        with torch.device("meta"):
            network = models.build(planned.model, **shape, **planned.model_kwargs)
        counts[task] = sum(p.numel() for p in network.parameters())
    assert counts == {
        "smnist": 370_960, "pmnist": 370_960, "scifar10": 373_480, "char": 373_790, "mfcc": 391_840, "raw": 370_960,
    }  # fmt: skip


def test_smpconv_sequences_name_what_ran_and_keep_the_papers_numbers_to_its_networks():
    sequence = script("smpconv/sequence")

    def card(*changes, task="char", kind="smp", smoke=False, drop=()):
        planned = (sequence.smoke_recipe if smoke else sequence.recipe)(task, kind, *drop)
        found = sequence.card(planned.override(changes), planned=planned, task=task, kind=kind)
        return found["row"], found.get("paper", {}).get("top1")

    assert card() == card("lr=1e-3") == ("SMPConv TCN on Character Trajectories", 99.53)
    assert card("data=smartwatch") == ("SMPConv TCN on smartwatch exercises", None)
    assert card("model=other") == ("other on Character Trajectories", None)
    assert card(kind="twin") == ("SMPConv TCN as 7-tap twin on Character Trajectories", None)
    dropped = "SMPConv TCN on Character Trajectories, 30% dropped, true lags"
    assert card(drop=(0.3, "times")) == (dropped, None)
    assert sequence.recipe("char", "smp", 0.3, "times").model_kwargs["times"] is True
    assert card(task="fashion", smoke=True) == ("narrow SMPConv TCN on sequential Fashion-MNIST", None)


def test_smpconv_sequence_smoke_trains_reports_and_draws_the_points(tmp_path):
    few = ["epochs=2", "train_images=96", "test_images=100", "batch_size=32", "validation=50"]
    arguments = ["--smoke", "--task", "vowels", "fashion", "--out", tmp_path, "--device", "cpu", "--set", *few]
    run("smpconv/sequence", *arguments)
    report = (tmp_path / "report.md").read_text()
    for data in ("Japanese Vowels", "sequential Fashion-MNIST"):
        assert f"| narrow SMPConv TCN on {data} |" in report
        assert f"| narrow SMPConv TCN as 7-tap twin on {data} |" in report
    assert "| chance |" in report and "| top-1 picked |" in report
    assert "SMPConv TCN on permuted MNIST (99.1)" in report
    folder = tmp_path / "fashion-smp-seed0"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["validation_images"], summary["unit"], summary["data"]) == (50, "sequences", "sfashion_mnist")
    assert 0.1 <= summary["chance"] < 0.2
    assert (folder / "points-first.png").stat().st_size > 10_000
    assert not (tmp_path / "vowels-twin-seed0" / "points.pt").exists(), "the twin has no points"
    again = here("smpconv/sequence", "--resume", *arguments)
    assert "step" not in again.stderr, "finished runs are not run again"


def test_smpconv_sequences_drop_samples_in_both_ways(tmp_path):
    few = ["epochs=1", "train_images=32", "test_images=20", "batch_size=16", "validation=none"]
    dropped = ["--drop-rate", 0.3, "--irregular", "mask", "times"]
    run(
        "smpconv/sequence", "--smoke", "--task", "vowels", *dropped, "--out", tmp_path, "--device", "cpu", "--set", *few
    )
    report = (tmp_path / "report.md").read_text()
    for how in ("zeros and a mask", "true lags"):
        assert f"| narrow SMPConv TCN on Japanese Vowels, 30% dropped, {how} |" in report
    assert "top-1 picked" not in report


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--smoke --task fashion --drop-rate 0.3", "--drop-rate is for series, and fashion has images"),
        ("--smoke --task vowels --drop-rate 1.5", "--drop-rate is a share from 0 to below 1, not 1.5"),
        ("--smoke --task raw", "raw needs --data"),
        ("--smoke --task vowels --irregular times", "--irregular times needs a --drop-rate"),
        ("--smoke --task vowels --kind twin --drop-rate 0.3 --irregular times", "--irregular times needs points"),
    ],
)
def test_smpconv_sequences_refuse_what_they_do_not_have(flags, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sequence.py", *flags.split()])
    with pytest.raises(SystemExit, match="2"):
        script("smpconv/sequence").main()
    assert said in capsys.readouterr().err
