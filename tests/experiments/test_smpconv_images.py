"""The experiments of smpconv with images: recipes as in the paper, and smoke runs on real data."""

from __future__ import annotations

import json

import pytest
import torch
from scripts import FEW, here, run, script


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
    again = here(f"smpconv/{name}", "--resume", *arguments)
    assert "step" not in again.stderr and pictures[1].exists(), "what was stopped while drawing is drawn"


def test_smpconv_latency_smoke_stands_beside_the_twin(tmp_path):
    arguments = ["--smoke", "--seconds", 0.01, "--ways", "as trained", "eager", "exported", "training"]
    done = here("smpconv/latency", *arguments, "--out", tmp_path, "--device", "cpu")
    assert done.stdout == (tmp_path / "latency.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines() if line.startswith("| 1 |")]
    assert [row[2] for row in rows] == ["narrow SMPConv", "narrow SMPConv as 7x7 twin"]
    assert all("(" in cell for cell in rows[0][5:9]) and not any("(" in cell for cell in rows[1])
    cells = json.loads((tmp_path / "latency.json").read_text())["cells"]
    assert [list(cell["milliseconds"]) for cell in cells] == [["as trained", "eager", "exported", "training"]] * 2


def test_smpconv_latency_refuses_batches_of_nothing(tmp_path):
    flags = ["--smoke", "--batch", 1, 0, "--out", tmp_path / "out", "--device", "cpu"]
    assert "--batch must be at least 1, but it is 0" in here("smpconv/latency", *flags, code=2).stderr
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
