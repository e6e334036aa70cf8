"""The experiments of pix: recipes as in the paper, and smoke runs on real data."""

from __future__ import annotations

import json

import torch
from scripts import FEW, here, run, script


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
    again = here("pix/imagenet", "--resume", *arguments)
    assert "step" not in again.stderr and picture.exists(), "what was stopped while drawing is drawn"


def test_pix_cifar_smoke_downscales(tmp_path):
    run("pix/cifar", "--smoke", "--kind", "resnet", "pix2", "--out", tmp_path, "--device", "cpu", "--set", *FEW)
    macs = {
        kind: json.loads((tmp_path / f"{kind}-seed0" / "summary.json").read_text())["macs"]
        for kind in ("resnet", "pix2")
    }
    assert macs["pix2"] < 0.7 * macs["resnet"]
    said = here("pix/cifar", "--network", 50, "--kind", "pix4", "--data", tmp_path, code=2).stderr
    assert "ResNet-50 has its zeta from its widths" in said


def test_pix_latency_smoke_stands_beside_the_paper(tmp_path):
    arguments = ["--smoke", "--side", 64, "--seconds", 0.01, "--ways", "eager", "exported", "training"]
    done = here("pix/latency", *arguments, "--out", tmp_path, "--device", "cpu")
    assert done.stdout == (tmp_path / "latency.md").read_text()
    rows = [line for line in done.stdout.splitlines() if line.startswith("| 1 |")]
    assert [row.split("|")[2].strip() for row in rows] == [
        f"8-block ResNet-50{kind}" for kind in ("", " + PiX", " + PiX(Avg)", " + PiX(Max)")
    ]
    assert rows[0].endswith("| 575 |") and rows[1].endswith("| 359 (0.62) |")
    cells = json.loads((tmp_path / "latency.json").read_text())["cells"]
    assert all(set(cell["milliseconds"]) == {"eager", "exported", "training"} for cell in cells)
    assert cells[1]["macs"] == cells[2]["macs"] < cells[0]["macs"]
