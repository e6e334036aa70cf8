"""The arithmetic of training: accumulation, averages, schedules, losses, precisions."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from leanconv import models, training
from leanconv.training import Recipe, build, checkpoint, run_folder

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 10  # per epoch


def fit(recipe: Recipe, out: Path, model: nn.Module | None = None, **kwargs) -> training.Result:
    return training.fit(model, recipe, out=out, device="cpu", **kwargs)


class Double(nn.Module):
    """The recipe's network in float64, where a different order of summation is far below any tolerance."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        build.seed(recipe.seed)
        self.network = models.build(recipe.model, num_classes=10, in_chans=1, **recipe.model_kwargs).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.double())


def test_accumulation_equals_the_bigger_batch(small, tmp_path):
    recipe = small.override({"epochs": 1, "lr": 1e-2, "ema_decay": 0.9})
    whole, parts = (fit(recipe.override([f"accumulate={n}"]), tmp_path / str(n), Double(recipe)) for n in (1, 4))
    for one, other in ((whole.model, parts.model), (whole.ema, parts.ema)):
        torch.testing.assert_close(other.state_dict(), one.state_dict(), rtol=1e-7, atol=1e-9)
    assert (whole.model.network.head.weight - Double(recipe).network.head.weight).abs().max() > 1e-3


def test_average_follows_its_recursion(small, tmp_path, monkeypatch):
    seen = []
    original = build.ModelEmaV3.update

    def update(self, model, step=None):
        seen.append({name: value.double().clone() for name, value in model.state_dict().items()})
        return original(self, model, step)

    monkeypatch.setattr(build.ModelEmaV3, "update", update)
    recipe = small.override(["epochs=1", "ema_decay=0.8"])
    network = models.build(recipe.model, num_classes=10, in_chans=1, **recipe.model_kwargs)
    expected = {name: value.double().clone() for name, value in network.state_dict().items()}
    result = fit(recipe, tmp_path / "run", network)
    assert len(seen) == STEPS
    for weights in seen:
        expected = {name: 0.8 * expected[name] + 0.2 * weights[name] for name in expected}
    for name, value in result.ema.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_learning_rate_warms_up_and_falls_as_a_cosine(small, tmp_path):
    recipe = small.override(["warmup_epochs=1", "accumulate=2"])
    run = fit(recipe, tmp_path / "run").folder
    rates = [record["lr"] for record in run_folder.read_metrics(run) if record["kind"] == "step"]
    warm, total = STEPS, 4 * STEPS
    assert len(rates) == total
    for step, rate in enumerate(rates):
        fall = (
            recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2
        )
        assert rate == pytest.approx(recipe.lr * step / warm if step < warm else fall, rel=1e-9)


def test_milestones_are_epochs_of_the_whole_run(small):
    recipe = small.override(
        {"schedule": "multistep", "milestones": (2, 3), "epochs": 4, "warmup_epochs": 0.5, "lr": 1.0}
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    schedule = build.schedule(recipe, optimizer, STEPS)
    rates = []
    for step in range(4 * STEPS):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:6] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[6:] == pytest.approx([1.0] * (2 * STEPS - 6) + [0.1] * STEPS + [0.01] * STEPS)


def test_weight_decay_spares_vectors_and_layer_decay_grades_the_rest(small):
    network = models.build(small.model, **small.model_kwargs)
    groups = build.optimizer(small, network).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert decay[id(parameter)] == (0.0 if parameter.ndim == 1 else small.weight_decay), name
    graded = build.optimizer(small.override(["layer_decay=0.5"]), network)
    build.schedule(small, graded, STEPS).step_update(0)
    rate = {id(p): group["lr"] for group in graded.param_groups for p in group["params"]}
    stem, head = network.downsample_layers[0].pw1.weight, network.head.weight
    assert rate[id(head)] == small.lr
    assert rate[id(stem)] < small.lr / 2


def test_decay_biases_spares_norms_which_decay_norms_does_not():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=True), nn.LayerNorm(2))
    recipe = Recipe(decay_biases=True, weight_decay=0.1, optimizer="sgd")
    decay = {id(p): g["weight_decay"] for g in build.optimizer(recipe, network).param_groups for p in g["params"]}
    assert [decay[id(p)] for p in network.parameters()] == [0.1, 0.1, 0.0, 0.0, 0.1, 0.1, 0.0, 0.0]
    everything = build.optimizer(recipe.override({"decay_norms": True}), network).param_groups
    assert [group["weight_decay"] for group in everything if group["params"]] == [0.1]
    with pytest.raises(training.ConfigError, match="set decay_biases with it"):
        Recipe(decay_norms=True)


def test_losses_of_labels_and_of_mixed_targets_agree(small):
    logits, labels = torch.randn(6, 5, dtype=torch.float64), torch.arange(6) % 5
    for loss in ("ce", "bce"):
        criterion = build.criterion(small.override({"loss": loss, "label_smoothing": 0.2}), 5)
        smooth = 0.2 / 5 + 0.8 * nn.functional.one_hot(labels, 5).double()
        torch.testing.assert_close(criterion(logits, labels), criterion(logits, smooth))


def test_every_precision_and_compile_train(small, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # the wiring, not the compiler
    short = small.override(["epochs=1"])
    plain = fit(short, tmp_path / "plain")
    compiled = fit(short.override(["compile=true"]), tmp_path / "compiled")
    for name, value in plain.model.state_dict().items():
        assert torch.equal(compiled.model.state_dict()[name], value), name
    half = fit(short.override(["amp=bf16"]), tmp_path / "bf16")
    assert half.summary["val_loss"] == pytest.approx(plain.summary["val_loss"], rel=0.05)
    assert half.summary["val_loss"] != plain.summary["val_loss"]
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}


def test_a_lost_run_stops_and_keeps_its_last_good_weights(small, tmp_path):
    recipe = small.override(["optimizer=sgd", "lr=1e30", "warmup_epochs=1", "schedule=constant", "save_seconds=0"])
    with pytest.raises(training.Diverged, match=r"the loss became (nan|inf) by step \d+ .*lower lr"):
        fit(recipe, tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run")["model"]
    assert all(torch.isfinite(value).all() for value in saved.values())


def test_it_learns(small, tmp_path):
    network = {"depths": (1, 1), "dims": (16, 32), "kernel_sizes": (5, 3), "layer_scale_init_value": 5.0}
    changes = {"train_images": 1500, "test_images": 300, "lr": 5e-3, "warmup_epochs": 0.5, "ema_decay": 0.95}
    recipe = small.override({"model": "convnext_tiny_2d", "model_kwargs": network, "log_every": 1000, **changes})
    summary = fit(recipe, tmp_path / "run").summary
    assert summary["top1"] > 0.6
    assert summary["ema_top1"] > 0.6
