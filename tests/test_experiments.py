"""The experiment scripts: their recipes are the papers', and their smoke runs train, resume and report."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FEW = ["epochs=1", "train_images=640", "test_images=200", "batch_size=64"]


def script(name: str):
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), ROOT / "experiments" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where worker processes look for it
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments, code: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "experiments" / f"{name}.py", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done


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
    again = run("dwoconv1d/classification", "--resume", *arguments)
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
    done = run("dwoconv1d/classification", "--out", tmp_path, code=1)
    assert done.stderr.splitlines()[-1].startswith("give --data PATH")


def test_runtime_smoke_stands_beside_the_paper(tmp_path):
    pytest.importorskip("dwoconv1d")
    arguments = ["--smoke", "--sides", 14, "--kernel-sizes", 7, "--seconds", 0.01, "--out", tmp_path, "--device", "cpu"]
    done = run("dwoconv1d/runtime", *arguments)
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


# pathconv ------------------------------------------------------------------------------------------------------------


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
    done = run("pathconv/train", *flags, code=1)
    assert "CIFAR-10 is not in" in done.stderr


# ImageNet-64 --------------------------------------------------------------------------------------------------------


@pytest.fixture
def batches(tmp_path, monkeypatch):
    """Eleven small batches in both formats that are published, and the script that expects only these."""
    prepare = script("pathconv/prepare_imagenet64")
    source = tmp_path / "batches"
    source.mkdir()
    for part, name in enumerate([*prepare.TRAIN, prepare.VAL]):
        source_of_numbers = np.random.default_rng(part)
        batch = {
            "data": source_of_numbers.integers(0, 256, (3, 3 * 64 * 64), dtype=np.uint8),
            "labels": source_of_numbers.integers(1, 1001, 3).tolist(),
        }
        if part % 2:
            np.savez(source / f"{name}.npz", **batch)
        else:
            (source / name).write_bytes(pickle.dumps(batch, protocol=2))
    monkeypatch.setattr(prepare, "COUNTS", {"train": 30, "val": 3})
    return prepare, source, tmp_path / "imagenet64"


def test_imagenet64_becomes_the_folders_of_its_batches(batches):
    prepare, source, target = batches
    prepare.prepare(source, target, None, workers=1)
    for split, first, names in (("train", 1, prepare.TRAIN), ("val", 0, [prepare.VAL])):
        index = first
        for name in names:
            images, labels = prepare.read(prepare.find(source)[name])
            for image, label in zip(images, labels):
                with Image.open(target / split / f"{label:05d}" / f"{index:08d}.png") as file:
                    assert np.array_equal(np.asarray(file), image)
                index += 1
        assert len(list((target / split).glob("*/*"))) == index - first
    assert len(list((target / "train").iterdir())) == 1000


def test_imagenet64_goes_on_where_it_was_stopped(batches, monkeypatch):
    prepare, source, target = batches
    whole, seen = prepare.write_all, []

    def stops(pool, folder, images, labels, first):
        seen.append(first)
        if len(seen) == 4:
            list(whole(pool, folder, images[:2], labels[:2], first))
            raise KeyboardInterrupt
        return whole(pool, folder, images, labels, first)

    monkeypatch.setattr(prepare, "write_all", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(source, target, None, workers=1)
    assert len(json.loads((target / "prepared.json").read_text())) == 3
    before = {file: file.stat().st_mtime_ns for file in target.glob("train/*/*.png")}
    assert len(before) == 11
    prepare.prepare(source, target, None, workers=1)
    assert seen == [1, 4, 7, 10, 10, 13, 16, 19, 22, 25, 28, 0]
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    assert len(list(target.glob("train/*/*.png"))) == 30


class Evil:
    def __reduce__(self):
        return os.system, ("exit 3",)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda source: (source / "train_data_batch_1").unlink(), "lacks train_data_batch_1"),
        (lambda source: (source / "train_data_batch_1").write_bytes(pickle.dumps(Evil())), "posix.system"),
        (lambda source: (source / "train_data_batch_3").write_bytes(b"half"), "cannot be read as a batch"),
        (lambda source: np.savez(source / "train_data_batch_2.npz", data=np.zeros((2, 5)), labels=[1, 2]), "(2, 5)"),
        (
            lambda source: np.savez(
                source / "train_data_batch_2.npz", data=np.zeros((1, 12288), np.uint8), labels=[1001]
            ),
            "instead of 1 to 1000",
        ),
        (lambda source: (source / "sums").write_text(f"{'0' * 64}  train_data_batch_1\n"), "is damaged: its sha256"),
        (lambda source: (source / "sums").write_text("no-list\n"), "has no line for train_data_batch_1"),
    ],
)
def test_imagenet64_refuses_what_it_cannot_use(batches, spoil, says):
    prepare, source, target = batches
    spoil(source)
    sums = source / "sums"
    with pytest.raises(prepare.Unusable, match=re.escape(says)):
        prepare.prepare(source, target, sums if sums.exists() else None, workers=1)
    assert not list(target.glob("*/*/.*"))


def test_imagenet64_remembers_which_batches_it_read(batches):
    prepare, source, target = batches
    prepare.prepare(source, target, None, workers=1)
    (source / "train_data_batch_1").write_bytes((source / "train_data_batch_3").read_bytes())
    with pytest.raises(prepare.Unusable, match="is not the file that"):
        prepare.prepare(source, target, None, workers=1)


# Path sets ----------------------------------------------------------------------------------------------------------


def test_path_sets_smoke_stands_beside_the_paper(tmp_path):
    arguments = ["--smoke", "--curves", "zorder", "--solvers", "greedy", "exact", "--out", tmp_path]
    done = run("pathconv/path_sets", *arguments)
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


# pix -----------------------------------------------------------------------------------------------------------------


def test_pix_recipes_are_the_papers():
    imagenet = script("pix/imagenet")
    readme, table = imagenet.recipe("readme", "101", "pix"), imagenet.recipe("table1", "50-half", "resnet")
    assert (readme.model, readme.model_kwargs) == ("pix_resnet101", {"drop_rate": 0.05, "tau": 0.5})
    assert (readme.epochs, readme.batch_size, readme.warmup_epochs, readme.warmup_lr) == (300, 1024, 5, 0)
    assert (readme.optimizer, readme.lr, readme.min_lr, readme.weight_decay) == ("lamb", 3.5e-3, 1e-6, 0.35)
    assert (readme.betas, readme.eps, readme.clip_grad, readme.amp) == ((0.9, 0.999), 1e-8, None, "none")
    assert (readme.loss, readme.label_smoothing, readme.mixup, readme.cutmix) == ("bce", 0.1, 0.15, 1.0)
    assert (readme.mix_prob, readme.switch_prob, readme.ema_decay, readme.ema_warmup) == (1.0, 0.5, 0.99996, False)
    augment = readme.augment
    assert (augment.rand_augment, augment.erase, augment.erase_mode) == ("rand-m7-mstd0.5-inc1", 0.25, "pixel")
    assert (augment.hflip, augment.interpolation, augment.eval_crop) == (0.5, "bicubic", 0.875)
    assert (table.model, table.model_kwargs) == ("resnet50", {"zero_init_last": False, "base_width": 32})
    assert (table.epochs, table.batch_size, table.optimizer, table.ema_decay) == (120, 256, "momentum", None)
    assert [imagenet.recipe("table1", "50", kind).model_kwargs for kind in ("avg", "max")] == [{"tau": 0}, {"tau": 2}]


def test_pix_momentum_is_plain_and_lamb_is_as_the_authors():
    """What timm makes of the recipes' names: its "sgd" is Nesterov's, and LAMB has a clipping of its own."""
    from leanconv.training import build

    imagenet, network = script("pix/imagenet"), torch.nn.Conv2d(4, 4, 1)
    sgd = build.optimizer(imagenet.TABLE1, network)
    assert (type(sgd), sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (torch.optim.SGD, 0.9, False)
    weights, biases = sorted(
        build.optimizer(imagenet.README, network).param_groups, key=lambda group: -group["weight_decay"]
    )
    assert (weights["params"], weights["weight_decay"]) == ([network.weight], 0.35)
    assert (biases["params"], biases["weight_decay"]) == ([network.bias], 0)
    assert all(
        group["eps"] == 1e-8 and group["max_grad_norm"] == 1 and group["grad_averaging"] for group in (weights, biases)
    )


def test_pix_networks_are_those_of_table_1():
    """Parameters of the table, in millions and cut off as there, for each row; MACs where they are exact."""
    from leanconv import models

    imagenet, millions = script("pix/imagenet"), {"50": 25.5, "101": 44.5, "152": 60.1, "50-half": 12.3, "50-se": 28.0}
    for (network, kind), _ in imagenet.RESULTS.items():
        planned = imagenet.recipe("table1", network, kind)
        with torch.device("meta"):
            params = sum(p.numel() for p in models.build(planned.model, **planned.model_kwargs).parameters())
        assert params // 100_000 == round(10 * millions[network]), (network, kind, params)


def test_pix_names_what_ran_and_keeps_the_papers_numbers_to_its_networks():
    imagenet, cifar = script("pix/imagenet"), script("pix/cifar")

    def card(*changes, smoke=False, kind="avg", network="50"):
        ran = imagenet.smoke_recipe(kind) if smoke else imagenet.recipe("table1", network, kind)
        found = imagenet.card(ran.override(changes), name="table1", network=network, kind=kind)
        return found["row"], found.get("paper", {}).get("top1")

    assert card() == card("lr=0.2") == ("ResNet-50 + PiX(Avg) on ImageNet-1K", 76.58)
    assert card("data=imagefolder") == ("ResNet-50 + PiX(Avg)", None)
    assert card("model=resnet18") == ("resnet18 on ImageNet-1K", None)
    assert card(kind="max", network="101") == ("ResNet-101 + PiX(Max) on ImageNet-1K", None)
    assert card(kind="pix", network="50-half") == ("ResNet-50 zeta 8 + PiX on ImageNet-1K", 74.47)
    assert card(smoke=True) == ("narrow ResNet + PiX(Avg)", 76.58)
    planned = cifar.recipe("usual", "cifar100", "18", "pix4", "lowres")
    assert (planned.model, planned.model_kwargs) == ("pix_resnet18", {"stem": "lowres", "zeta": 4})
    found = cifar.card(planned, planned=planned, network="18", kind="pix4")
    assert found == {"row": "ResNet-18 + PiX, zeta 4, lowres stem on CIFAR-100"}
    readme = cifar.recipe("readme", "cifar100", "50", "pix", "imagenet")
    assert (readme.optimizer, readme.loss, readme.image_size, readme.augment.padding) == ("lamb", "bce", None, 4)


def test_pix_smoke_trains_reports_and_draws_the_picks(tmp_path):
    arguments = ["--smoke", "--kind", "pix", "avg", "--out", tmp_path, "--device", "cpu", "--set", *FEW]
    run("pix/imagenet", *arguments)
    report = (tmp_path / "report.md").read_text()
    assert "| narrow ResNet + PiX |" in report and "76.77, ImageNet-1K" in report
    assert "Not run here" in report and "ResNet-152 + PiX on ImageNet-1K (78.12)" in report
    picks, picture = (tmp_path / "pix-seed0" / name for name in ("picks.json", "picks.png"))
    assert picture.stat().st_size > 10_000
    layers = json.loads(picks.read_text())["layers"]
    assert [layer["zeta"] for layer in layers.values()] == [1, 4, 2, 4, 2, 4, 2, 4]
    assert all(0 <= layer["always"] <= layer["picks"] <= 1 - layer["never"] <= 1 for layer in layers.values())
    assert not (tmp_path / "avg-seed0" / "picks.png").exists(), "an average never picks"
    picture.unlink()
    again = run("pix/imagenet", "--resume", *arguments)
    assert "step" not in again.stderr and picture.exists(), "what was stopped while drawing is drawn"


def test_pix_cifar_smoke_downscales(tmp_path):
    run("pix/cifar", "--smoke", "--kind", "resnet", "pix2", "--out", tmp_path, "--device", "cpu", "--set", *FEW)
    macs = {
        kind: json.loads((tmp_path / f"{kind}-seed0" / "summary.json").read_text())["macs"]
        for kind in ("resnet", "pix2")
    }
    assert macs["pix2"] < 0.7 * macs["resnet"]
    refused = run("pix/cifar", "--network", 50, "--kind", "pix4", "--data", tmp_path, code=2)
    assert "ResNet-50 has its zeta from its widths" in refused.stderr


def test_pix_latency_smoke_stands_beside_the_paper(tmp_path):
    arguments = ["--smoke", "--side", 64, "--seconds", 0.01, "--ways", "eager", "exported", "training"]
    done = run("pix/latency", *arguments, "--out", tmp_path, "--device", "cpu")
    assert done.stdout == (tmp_path / "latency.md").read_text()
    rows = [line for line in done.stdout.splitlines() if line.startswith("| 1 |")]
    assert [row.split("|")[2].strip() for row in rows] == [
        f"8-block ResNet-50{kind}" for kind in ("", " + PiX", " + PiX(Avg)", " + PiX(Max)")
    ]
    assert rows[0].endswith("| 575 |") and rows[1].endswith("| 359 (0.62) |")
    cells = json.loads((tmp_path / "latency.json").read_text())["cells"]
    assert all(set(cell["milliseconds"]) == {"eager", "exported", "training"} for cell in cells)
    assert cells[1]["macs"] == cells[2]["macs"] < cells[0]["macs"]


# smpconv sequences ---------------------------------------------------------------------------------------------------


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
    again = run("smpconv/sequence", "--resume", *arguments)
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


# smpconv images ------------------------------------------------------------------------------------------------------


def test_smpconv_image_recipes_are_the_papers():
    imagenet, cifar = script("smpconv/imagenet"), script("smpconv/cifar")
    base = imagenet.recipe("base", "smp")
    assert (base.model, base.model_kwargs, base.drop_path) == ("smp_base", {}, 0.5)
    assert imagenet.recipe("tiny", "7x7").drop_path == 0.1
    assert (base.epochs, base.batch_size, base.lr, base.min_lr) == (300, 2048, 4e-3, 1e-6)
    assert (base.warmup_epochs, base.warmup_lr) == (10, 0)
    assert (base.optimizer, base.weight_decay, base.betas, base.eps) == ("adamw", 0.05, (0.9, 0.999), 1e-8)
    assert (base.mixup, base.cutmix, base.mix_prob, base.switch_prob) == (0.8, 1.0, 1.0, 0.5)
    assert (base.label_smoothing, base.ema_decay, base.ema_warmup, base.amp) == (0.1, 0.9999, False, "none")
    augment = base.augment
    assert (augment.rand_augment, augment.erase, augment.erase_mode) == ("rand-m9-mstd0.5-inc1", 0.25, "pixel")
    assert (augment.hflip, augment.interpolation, augment.eval_crop) == (0.0, "random", 0.875)

    small = cifar.recipe("cifar10", "smp")
    assert (small.model, small.model_kwargs, small.data) == ("smp_resnet", {"dropout": 0.1}, "cifar10")
    assert (small.epochs, small.batch_size, small.lr, small.min_lr) == (210, 64, 5e-3, 1e-6)
    assert (small.optimizer, small.weight_decay, small.warmup_epochs, small.clip_grad) == ("adam", 1e-5, 10, None)
    assert (small.augment.padding, small.augment.hflip, small.label_smoothing) == (4, 0.5, 0)


@pytest.mark.parametrize("name", ("imagenet", "cifar"))
def test_smpconv_points_learn_as_the_authors_let_them(name):
    """Radii at a tenth of the rate; they, positions, biases and norms do not decay, the points' weights do."""
    from leanconv import models
    from leanconv.training import build

    recipe = script(f"smpconv/{name}").smoke_recipe("smp")
    network = models.build(recipe.model, **recipe.model_kwargs)
    groups = build.optimizer(recipe, network).param_groups
    found = {id(p): (group.get("lr_scale", 1.0), group["weight_decay"]) for group in groups for p in group["params"]}
    for key, parameter in network.named_parameters():
        last = key.rpartition(".")[2]
        decays = recipe.weight_decay if parameter.dim() > 1 and last not in ("coords", "radius") else 0
        assert found[id(parameter)] == (0.1 if last == "radius" else 1.0, decays), key


def test_smpconv_recipes_build_the_papers_networks_and_their_twins():
    from leanconv import models

    imagenet, cifar = script("smpconv/imagenet"), script("smpconv/cifar")

    def params(recipe, **kwargs):
        with torch.device("meta"):
            return sum(p.numel() for p in models.build(recipe.model, **recipe.model_kwargs, **kwargs).parameters())

    assert params(imagenet.recipe("tiny", "smp")) == 26_705_248
    assert params(imagenet.recipe("base", "smp")) == 79_546_520
    assert params(cifar.recipe("cifar10", "smp"), num_classes=10) == 489_646
    assert params(cifar.recipe("cifar100", "smp"), num_classes=100) == 494_056
    for recipe, points in ((imagenet.smoke_recipe, 7), (cifar.smoke_recipe, 3)):
        pair = [models.build(recipe(kind).model, **recipe(kind).model_kwargs) for kind in ("smp", f"{points}x{points}")]
        assert ["SMPBranches" in {type(m).__name__ for m in network.modules()} for network in pair] == [True, False]


def test_smpconv_images_name_what_ran_and_keep_the_papers_numbers_to_its_networks():
    imagenet, cifar = script("smpconv/imagenet"), script("smpconv/cifar")

    def card(*changes, smoke=False, kind="smp", size="base"):
        ran = imagenet.smoke_recipe(kind) if smoke else imagenet.recipe(size, kind)
        found = imagenet.card(ran.override(changes), size=size, kind=kind)
        return found["row"], found.get("paper", {}).get("top1")

    assert card() == card("lr=1e-3") == ("SMPConv-B on ImageNet-1K", 83.8)
    assert card("data=imagefolder") == ("SMPConv-B", None)
    assert card("model=resnet18") == ("resnet18 on ImageNet-1K", None)
    assert card(kind="7x7", size="tiny") == ("SMPConv-T as 7x7 twin on ImageNet-1K", None)
    assert card(smoke=True, size="tiny") == ("narrow SMPConv", 82.5)
    assert card(smoke=True, size="tiny", kind="7x7") == ("narrow SMPConv as 7x7 twin", None)

    def small(*changes, smoke=False, kind="smp", dataset="cifar10"):
        ran = cifar.smoke_recipe(kind) if smoke else cifar.recipe(dataset, kind)
        found = cifar.card(ran.override(changes), dataset=dataset, kind=kind)
        return found["row"], found.get("paper", {}).get("top1")

    assert small() == ("SMPConv ResNet on CIFAR-10", 93.0)
    assert small(dataset="cifar100") == ("SMPConv ResNet on CIFAR-100", None)
    assert small("model_kwargs.dropout=0.2") == ("smp_resnet on CIFAR-10", None)
    assert small(kind="3x3") == ("SMPConv ResNet as 3x3 twin on CIFAR-10", None)
    assert small(smoke=True) == ("narrow SMPConv ResNet", 93.0)


@pytest.mark.parametrize(("name", "twin"), [("imagenet", "7x7"), ("cifar", "3x3")])
def test_smpconv_image_smoke_trains_reports_and_draws_the_points(name, twin, tmp_path):
    arguments = ["--smoke", "--out", tmp_path, "--device", "cpu", "--set", *FEW]
    run(f"smpconv/{name}", *arguments)
    report = (tmp_path / "report.md").read_text()
    assert f"| narrow SMPConv{' ResNet' if name == 'cifar' else ''} as {twin} twin |" in report
    assert "82.5, ImageNet-1K" in report if name == "imagenet" else "93.0, CIFAR-10" in report
    assert "Not run here" in report
    folder = tmp_path / "smp-seed0"
    for layer in torch.load(folder / "points.pt").values():
        steps, coords, radii, _ = zip(*layer["history"])
        assert steps == tuple(range(11))
        assert not torch.equal(coords[0], coords[-1]) and not torch.equal(radii[0], radii[-1])
    pictures = [folder / f"points-{end}" for end in ("first.png", "last.png", "first.gif")]
    assert min(picture.stat().st_size for picture in pictures) > 10_000
    assert not (tmp_path / f"{twin}-seed0" / "points.pt").exists()
    pictures[1].unlink()
    again = run(f"smpconv/{name}", "--resume", *arguments)
    assert "step" not in again.stderr and pictures[1].exists(), "what was stopped while drawing is drawn"


def test_smpconv_latency_smoke_stands_beside_the_twin(tmp_path):
    arguments = ["--smoke", "--seconds", 0.01, "--ways", "as trained", "eager", "exported", "training"]
    done = run("smpconv/latency", *arguments, "--out", tmp_path, "--device", "cpu")
    assert done.stdout == (tmp_path / "latency.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines() if line.startswith("| 1 |")]
    assert [row[2] for row in rows] == ["narrow SMPConv", "narrow SMPConv as 7x7 twin"]
    assert all("(" in cell for cell in rows[0][5:9]) and not any("(" in cell for cell in rows[1])
    cells = json.loads((tmp_path / "latency.json").read_text())["cells"]
    assert [list(cell["milliseconds"]) for cell in cells] == [["as trained", "eager", "exported", "training"]] * 2


def test_smpconv_latency_refuses_batches_of_nothing(tmp_path):
    refused = run("smpconv/latency", "--smoke", "--batch", 1, 0, "--out", tmp_path / "out", "--device", "cpu", code=2)
    assert "--batch must be at least 1, but it is 0" in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("size", "groups"), [((21, 21), 1), ((9, 15), 3), ((100,), 3)])
def test_smpconv_movement_is_kept_and_drawn(size, groups, tmp_path):
    smpconv, points = pytest.importorskip("smpconv"), script("smpconv/_points")
    if len(size) == 1:
        layer = smpconv.SMPConv1d(2, groups, *size)
    else:
        layer = smpconv.SMPDepthwiseConv2d(4, size) if groups == 1 else smpconv.SMPConv2d(2, groups, size)
    network = torch.nn.Sequential(torch.nn.Identity(), layer)
    for step in range(101):
        points.record(network, step, 100, tmp_path)
        with torch.no_grad():
            layer.coords[-1].add_(0.001)
    (kept,) = torch.load(tmp_path / "points.pt").values()
    assert [moment[0] for moment in kept["history"]] == list(range(0, 101, 4))
    points.record(network, 48, 100, tmp_path)  # resumed from there
    (kept,) = torch.load(tmp_path / "points.pt").values()
    assert [moment[0] for moment in kept["history"]] == list(range(0, 49, 4))
    own, title = points._one_set(kept["history"], "title")
    assert torch.equal(own[-1][1][0], kept["history"][-1][1][-1])
    assert title == ("title" if groups == 1 else f"title, output channel {groups - 1}")
    points.draw(tmp_path)
    found = {path.name for path in tmp_path.glob("points-*")}
    assert found == {"points-first.png", *(["points-first.gif"] if len(size) == 2 else [])}


def test_smpconv_pictures_have_their_points_where_their_taps_are():
    """A point to the right and above lights the tap that the picture shows there."""
    points = script("smpconv/_points")
    moment = (0, torch.tensor([[[0.5, 1.0]]]), torch.full((1, 1), 0.3), torch.ones(1, 1, 1))
    taps = points._kernel(moment, (5, 5), False)
    assert taps.nonzero().tolist() == [[0, 3]]
