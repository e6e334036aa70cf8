"""Training and testing where each pixel has a label."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import nn

from leanconv import overlays, report, training
from leanconv.data import IGNORED, Augment, DataNotFound, load
from leanconv.training import ConfigError, Recipe, build, dense, run_folder

pytestmark = pytest.mark.usefixtures("one_thread")


class TinyDense(nn.Module):
    """Logits of half the image's size, and those of an auxiliary head, as torchvision's networks give them."""

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(in_chans, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.classifier = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, num_classes, 1))
        self.aux = nn.Conv2d(16, num_classes, 1)

    def forward(self, x):
        x = self.backbone(x)
        return {"out": self.classifier(x), "aux": self.aux(x)}


@register_model
def tiny_dense(pretrained=False, num_classes=21, in_chans=3, **kwargs):
    return TinyDense(num_classes, in_chans)


RECIPE = Recipe(
    model="tiny_dense",
    data="composites",
    image_size=32,
    train_images=64,
    test_images=10,
    epochs=3,
    batch_size=16,
    optimizer="momentum",
    lr=0.05,
    schedule="poly",
    decay_rate=0.9,
    lr_factors={"classifier": 2.0},
    augment=Augment(hflip=0.5, resize=(0.5, 1.0)),
    log_every=1,
    workers=0,
)


@pytest.fixture(scope="module")
def data():
    try:
        return load("composites")
    except DataNotFound as error:
        pytest.skip(f"no network and no package: {error}")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense") / "run"
    card = {"row": "tiny", "paper": {"miou": 50.5, "on": "VOC", "source": "VOC, 50 epochs"}}
    return training.fit(None, RECIPE, out=folder, device="cpu", card=card)


# Arithmetic


def test_loss_is_the_mean_over_pixels_that_count():
    torch.manual_seed(0)
    logits, aux = torch.randn(2, 5, 6, 7), torch.randn(2, 5, 3, 4)
    target = torch.randint(5, (2, 6, 7))
    target[0, :3] = IGNORED
    by_hand = -logits.log_softmax(1).gather(1, target.where(target < 5, 0)[:, None])[:, 0][target < 5].mean()
    torch.testing.assert_close(dense.criterion(RECIPE)(logits, target), by_hand)
    enlarged = F.interpolate(aux, (6, 7), mode="bilinear")
    both = by_hand + 0.5 * F.cross_entropy(enlarged, target, ignore_index=IGNORED)
    found = dense.criterion(RECIPE.override({"aux_loss": 0.5}))({"out": logits, "aux": aux}, target)
    torch.testing.assert_close(found, both)
    nothing = dense.criterion(RECIPE.override({"aux_loss": 0.0}))({"out": logits, "aux": aux.requires_grad_()}, target)
    torch.testing.assert_close(nothing, by_hand)
    assert (torch.autograd.grad(nothing, aux)[0] == 0).all(), "several processes wait for a gradient"
    smooth = dense.criterion(RECIPE.override({"label_smoothing": 0.2}))(logits, target)
    torch.testing.assert_close(smooth, F.cross_entropy(logits, target, ignore_index=IGNORED, label_smoothing=0.2))
    empty = dense.criterion(RECIPE)(logits.requires_grad_(), torch.full_like(target, IGNORED))
    empty.backward()
    assert empty == 0 and (logits.grad == 0).all()


def test_poly_and_the_heads_factor():
    network = TinyDense(3, 3)
    recipe = RECIPE.override({"lr": 1.0, "min_lr": 0.0, "lr_factors": {"classifier": 10.0, "bias": 0.5}})
    optimizer = build.optimizer(recipe, network)
    schedule = build.schedule(recipe, optimizer, 10)
    names = {id(p): name for name, p in network.named_parameters()}
    for step in (0, 7, 29):
        schedule.step_update(step)
        rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        poly = (1 - step / 30) ** 0.9
        assert rates["backbone.0.weight"] == rates["aux.weight"] == pytest.approx(poly)
        assert rates["classifier.0.weight"] == pytest.approx(10 * poly)
        assert rates["classifier.2.bias"] == pytest.approx(5 * poly)


# Runs


def test_naming_one_class_everywhere_scores_chance(data):
    class Background(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.eye(6)[0])

        def forward(self, x):
            return self.logits.view(1, -1, 1, 1).expand(len(x), -1, 4, 4)

    few = data.subset(test=30)
    scores = training.evaluate(Background(), few.loaders(8, workers=0)[1])
    assert scores["miou"] == pytest.approx(few.chance())
    assert scores["fwiou"] == pytest.approx(scores["pixel_accuracy"] ** 2)
    assert scores["class_accuracy"] == pytest.approx(1 / 6)


def test_a_run_learns_and_leaves_its_scores(run):
    summary = run.summary
    losses = [record["train_loss"] for record in run_folder.read_metrics(run.folder) if record["kind"] == "epoch"]
    assert losses[-1] < 0.9 * losses[0]
    assert {"miou", "pixel_accuracy", "val_loss", "best_test_miou"} <= summary.keys() and "top1" not in summary
    assert (summary["score"], summary["image_size"], summary["unit"]) == ("miou", 32, "images")
    assert 0 < summary["chance"] < 1 / 6 and (run.folder / "best.pt").is_file()
    network, few = training.load(run.folder)
    again = training.evaluate(network, few.loaders(4, workers=0)[1], RECIPE)
    assert again["miou"] == summary["miou"] and again["loss"] == summary["val_loss"]


def test_report_has_columns_for_its_scores(run, tmp_path):
    gathered = report.gather([run.folder])
    text = gathered.text()
    assert "mIoU EMA" in text and "top-1" not in text and "50.5, VOC" in text
    assert "Mean IoU in percent after the last epoch" in text and "chance alone may part" not in text
    assert "Chance: the mean IoU of naming everywhere the class that has most pixels" in text
    gathered.save(tmp_path)
    assert (tmp_path / "report.png").stat().st_size > 10_000
    classified = {**run.summary, "score": "top1", "top1": 0.5, "paper": {"top1": 60, "on": "-", "source": "-"}}
    classes = report.Row("classes", [classified])
    both = report.Report([*gathered.rows, classes], [], []).markdown()
    assert "| mIoU | mIoU EMA | top-1 | top-1 EMA |" in both and "chance alone may part" in both


def test_predictions_are_drawn(run, data, monkeypatch):
    asked = []
    original = type(data).eval_transform
    monkeypatch.setattr(type(data), "eval_transform", lambda *args: asked.append(args[1:]) or original(*args))
    overlays.draw(run.folder, count=2)
    assert asked == [(RECIPE.image_size,)], "at the size that the run was tested at"
    assert (run.folder / "predictions.png").stat().st_size > 20_000


def test_blend_colours_what_is_not_background():
    image, colours = torch.full((3, 1, 3), 0.5), overlays.palette(3)
    shown = overlays.blend(image, torch.tensor([[0, 2, IGNORED]]), colours)
    assert shown[:, 0, 0].tolist() == [0.5] * 3 and shown[:, 0, 2].tolist() == [0.5] * 3
    assert torch.allclose(shown[:, 0, 1], 0.4 * image[:, 0, 1] + 0.6 * colours[2])
    assert len(set(map(tuple, overlays.palette(21).tolist()))) == 21


# Where networks start, and what does not learn


def test_frozen_parts_and_a_start_from_another_run(run, data, tmp_path):
    recipe = RECIPE.override({"start": {"backbone": str(tmp_path / "file.pt")}, "frozen": ("backbone", "aux")})
    weights = {name.removeprefix("backbone."): value for name, value in run.model.state_dict().items()}
    weights = {name: value for name, value in weights.items() if name[0].isdigit()}
    torch.save({**weights, "fc.weight": torch.zeros(1)}, tmp_path / "file.pt")
    result = training.fit(None, recipe.override({"epochs": 1}), out=tmp_path / "run", device="cpu")
    for name, parameter in result.model.named_parameters():
        learns = name.startswith("classifier")
        assert parameter.requires_grad == learns
        if name.startswith("backbone"):
            assert torch.equal(parameter, run.model.get_parameter(name))
    assert "not taken to start from" in (tmp_path / "run" / "run.log").read_text()
    whole = TinyDense(6, 3)
    assert build.start(RECIPE.override({"start": {"network": str(run.folder)}}), whole) == []
    assert torch.equal(whole.aux.weight, run.model.aux.weight)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["frozen"] == ["backbone", "aux"]


def test_what_cannot_begin_leaves_no_folder(data, tmp_path):
    torch.save({"0.weight": torch.zeros(1), "0.bias": torch.zeros(1)}, tmp_path / "other.pt")
    recipe = RECIPE.override({"start": {"classifier": str(tmp_path / "other.pt")}})
    with pytest.raises(ConfigError, match=r"^start: the weights in \S+ do not fit classifier: size mismatch[^\n]*$"):
        training.fit(None, recipe, data.subset(64, 10), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change, says",
    [
        ({"frozen": ("neck",)}, "frozen: no parameter of tiny_dense has the part 'neck' in its name"),
        ({"start": {"neck": "file.pt"}}, "start: tiny_dense has no part 'neck'"),
        ({"start": {"aux": "file.pt"}}, "lacks 1 of the weights of aux, such as bias"),
        ({"start": {"classifier": "other.pt"}}, "do not fit classifier"),
    ],
)
def test_what_cannot_start_or_freeze_is_said(change, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(3, 16, 1, 1)}, "file.pt")
    torch.save({"0.weight": torch.zeros(1)}, "other.pt")
    prepare = build.freeze if "frozen" in change else build.start
    with pytest.raises(ConfigError, match=says):
        prepare(RECIPE.override(change), TinyDense(3, 3))
