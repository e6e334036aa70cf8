"""The training loop on real images: exact resume, arithmetic, schedules, configuration, and what it leaves behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from leanconv import models, training
from leanconv.training import Recipe, build, checkpoint, run_folder

NARROW = {"depths": (1, 1), "dims": (8, 16), "patch_size": 4, "kernel_sizes": (5, 3), "layer_scale_init_value": 0.5}
SMALL = Recipe(
    model="convnext_tiny_1d",
    model_kwargs={**NARROW, "stem_width": 8, "stem_kernel_size": 5},
    data="fashion_mnist",
    smoke=True,
    train_images=330,
    test_images=101,
    epochs=4,
    batch_size=32,
    lr=2e-3,
    log_every=1,
    workers=0,
)
STEPS = 10  # per epoch; 10 images are left over
# Everything that holds state or draws random numbers.
FULL = SMALL.override({"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "drop_path": 0.3, "accumulate": 2,
                       "ema_decay": 0.9, "ema_warmup": True, "clip_grad": 1.0, "warmup_epochs": 1.0, "amp": "fp16",
                       "channels_last": True, "save_seconds": 0.0,
                       "augment": {"padding": 2, "hflip": 0.5, "erase": 0.3}})  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a sum over threads may depend on their number, and the child processes have one
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return fit(FULL, tmp_path_factory.mktemp("run") / "unbroken").folder


def fit(recipe: Recipe, out: Path, model: nn.Module | None = None, **kwargs) -> training.Result:
    return training.fit(model, recipe, out=out, device="cpu", **kwargs)


def metrics(run: Path, kind: str) -> list[dict]:
    return [record for record in run_folder.read_metrics(run) if record["kind"] == kind]


def assert_same(one, other, where="") -> None:
    """Bitwise equality of nested states."""
    assert type(one) is type(other), where
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert one == other, where


def state(run: Path) -> dict:
    saved = checkpoint.load(run)
    return {key: value for key, value in saved.items() if key != "seconds"}


# Exact resume --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_stopped_run_resumes_to_the_same_bits(number, unbroken, tmp_path):
    run, config = tmp_path / "run", tmp_path / "recipe.json"
    run_folder.write_json(config, FULL.to_dict())
    command = [sys.executable, "-m", "leanconv", "train", "--config", config, "--out", run, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while len(metrics(run, "step")) < STEPS + 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(number)
        said = process.communicate()[1]
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130, said
        assert said.splitlines()[-1].startswith("stopped after step")
        assert f"leanconv train --resume {run}" in said
    stopped_at = checkpoint.load(run)["step"]
    assert STEPS < stopped_at < 4 * STEPS

    training.resume(run, device="cpu")
    assert_same(state(run), state(unbroken))
    for kind in ("step", "epoch"):
        for resumed, whole in zip(metrics(run, kind), metrics(unbroken, kind), strict=True):
            clocks = {"seconds", "images_per_second"}
            assert {k: v for k, v in resumed.items() if k not in clocks} == {
                k: v for k, v in whole.items() if k not in clocks
            }


def test_a_finished_run_resumes_to_itself(unbroken):
    before = state(unbroken)
    training.resume(unbroken, device="cpu")
    assert_same(state(unbroken), before)


def test_second_interrupt_is_not_swallowed():
    from leanconv.training.world import Interrupt

    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)  # as batch systems send it, treated like Ctrl-C
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_checkpoint_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    whole = {"model": {}, "ema": None, "step": 1}
    checkpoint.save(whole, path)

    def torn(state, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save({**whole, "step": 2}, path)
    assert checkpoint.load(tmp_path) == whole


def test_a_foreign_or_damaged_checkpoint_is_refused(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "foreign.pt")
    (tmp_path / "damaged.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"foreign.pt is not a checkpoint of a run"):
        checkpoint.load(tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match=r"damaged.pt cannot be read"):
        checkpoint.load(tmp_path / "damaged.pt")


def test_a_run_is_not_overwritten_nor_resumed_by_another_recipe(unbroken):
    with pytest.raises(training.ConfigError, match="already holds a run"):
        fit(FULL, unbroken)
    with pytest.raises(training.ConfigError, match=r"lr 0.002 there, 0.001 here"):
        fit(FULL.override(["lr=1e-3"]), unbroken, resume=True)


# Arithmetic ----------------------------------------------------------------------------------------------------------


class Double(nn.Module):
    """The recipe's network in float64, where a different order of summation is far below any tolerance."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        build.seed(recipe.seed)
        self.network = models.build(recipe.model, num_classes=10, in_chans=1, **recipe.model_kwargs).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.double())


def test_accumulation_equals_the_bigger_batch(tmp_path):
    recipe = SMALL.override({"epochs": 1, "lr": 1e-2, "ema_decay": 0.9})
    whole, parts = (fit(recipe.override([f"accumulate={n}"]), tmp_path / str(n), Double(recipe)) for n in (1, 4))
    for one, other in ((whole.model, parts.model), (whole.ema, parts.ema)):
        torch.testing.assert_close(other.state_dict(), one.state_dict(), rtol=1e-7, atol=1e-9)
    assert (whole.model.network.head.weight - Double(recipe).network.head.weight).abs().max() > 1e-3


def test_average_follows_its_recursion(tmp_path, monkeypatch):
    seen = []
    original = build.ModelEmaV3.update

    def update(self, model, step=None):
        seen.append({name: value.double().clone() for name, value in model.state_dict().items()})
        return original(self, model, step)

    monkeypatch.setattr(build.ModelEmaV3, "update", update)
    recipe = SMALL.override(["epochs=1", "ema_decay=0.8"])
    network = models.build(recipe.model, num_classes=10, in_chans=1, **recipe.model_kwargs)
    expected = {name: value.double().clone() for name, value in network.state_dict().items()}
    result = fit(recipe, tmp_path / "run", network)
    assert len(seen) == STEPS
    for weights in seen:
        expected = {name: 0.8 * expected[name] + 0.2 * weights[name] for name in expected}
    for name, value in result.ema.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_learning_rate_warms_up_and_falls_as_a_cosine(unbroken):
    rates = [record["lr"] for record in metrics(unbroken, "step")]
    warm, total = STEPS, 4 * STEPS
    for step, rate in enumerate(rates):
        fall = FULL.min_lr + (FULL.lr - FULL.min_lr) * (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2
        assert rate == pytest.approx(FULL.lr * step / warm if step < warm else fall, rel=1e-9)


def test_milestones_are_epochs_of_the_whole_run():
    recipe = SMALL.override(
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


def test_weight_decay_spares_vectors_and_layer_decay_grades_the_rest():
    network = models.build(SMALL.model, **SMALL.model_kwargs)
    groups = build.optimizer(SMALL, network).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert decay[id(parameter)] == (0.0 if parameter.ndim == 1 else SMALL.weight_decay), name
    graded = build.optimizer(SMALL.override(["layer_decay=0.5"]), network)
    build.schedule(SMALL, graded, STEPS).step_update(0)
    rate = {id(p): group["lr"] for group in graded.param_groups for p in group["params"]}
    stem, head = network.downsample_layers[0].pw1.weight, network.head.weight
    assert rate[id(head)] == SMALL.lr
    assert rate[id(stem)] < SMALL.lr / 2


def test_losses_of_labels_and_of_mixed_targets_agree():
    logits, labels = torch.randn(6, 5, dtype=torch.float64), torch.arange(6) % 5
    for loss in ("ce", "bce"):
        criterion = build.criterion(SMALL.override({"loss": loss, "label_smoothing": 0.2}), 5)
        smooth = 0.2 / 5 + 0.8 * nn.functional.one_hot(labels, 5).double()
        torch.testing.assert_close(criterion(logits, labels), criterion(logits, smooth))


def test_every_precision_and_compile_train(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # the wiring, not the compiler
    short = SMALL.override(["epochs=1"])
    plain = fit(short, tmp_path / "plain")
    compiled = fit(short.override(["compile=true"]), tmp_path / "compiled")
    assert_same(compiled.model.state_dict(), plain.model.state_dict())
    half = fit(short.override(["amp=bf16"]), tmp_path / "bf16")
    assert half.summary["val_loss"] == pytest.approx(plain.summary["val_loss"], rel=0.05)
    assert half.summary["val_loss"] != plain.summary["val_loss"]
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}


def test_a_lost_run_stops_and_keeps_its_last_good_weights(tmp_path):
    recipe = SMALL.override(["optimizer=sgd", "lr=1e30", "warmup_epochs=1", "schedule=constant", "save_seconds=0"])
    with pytest.raises(training.Diverged, match=r"the loss became (nan|inf) by step \d+ .*lower lr"):
        fit(recipe, tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run")["model"]
    assert all(torch.isfinite(value).all() for value in saved.values())


def test_it_learns(tmp_path):
    network = {"depths": (1, 1), "dims": (16, 32), "kernel_sizes": (5, 3), "layer_scale_init_value": 5.0}
    changes = {"train_images": 1500, "test_images": 300, "lr": 5e-3, "warmup_epochs": 0.5, "ema_decay": 0.95}
    recipe = SMALL.override({"model": "convnext_tiny_2d", "model_kwargs": network, "log_every": 1000, **changes})
    summary = fit(recipe, tmp_path / "run").summary
    assert summary["top1"] > 0.6
    assert summary["ema_top1"] > 0.6


# Configuration -------------------------------------------------------------------------------------------------------


def test_overrides_are_typed_and_survive_json():
    recipe = Recipe().override(["lr=1", "ema_decay=none", "compile=true", "betas=(0.8,0.9)", "augment.hflip=0.5",
                                "model_kwargs.dims=[8,16]", "amp=bf16", "data_root=/some/where"])  # fmt: skip
    assert (recipe.lr, recipe.ema_decay, recipe.compile, recipe.betas) == (1.0, None, True, (0.8, 0.9))
    assert isinstance(recipe.lr, float)
    assert (recipe.augment.hflip, recipe.model_kwargs, recipe.amp) == (0.5, {"dims": [8, 16]}, "bf16")
    assert Recipe().override(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lrr=1", "unknown key 'lrr': did you mean lr"),
        ("augment.hflp=1", "unknown key 'augment.hflp': did you mean hflip"),
        ("lr", "'lr' is not of the form key=value"),
        ("lr=fast", "lr must be float, got 'fast'"),
        ("epochs=1.5", "epochs must be int, got 1.5"),
        ("epochs=true", "epochs must be int, got True"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("amp=fp8", "amp must be none or bf16 or fp16, got 'fp8'"),
        ("lr.x=1", "'lr.x': lr has no parts"),
        ("accumulate=3", "batch_size 128 does not divide into accumulate=3 parts"),
    ],
)
def test_bad_overrides_are_one_plain_sentence(text, message):
    with pytest.raises(training.ConfigError) as error:
        Recipe().override([text])
    assert message in str(error.value)


def test_batches_that_cannot_be_split_are_refused(tmp_path):
    with pytest.raises(training.ConfigError, match="does not divide into 3"):
        build.local_batch(SMALL, world_size=3)
    with pytest.raises(training.ConfigError, match="mixup needs an even batch"):
        fit(SMALL.override(["batch_size=33", "mixup=0.1"]), tmp_path / "run")


# What a run leaves behind --------------------------------------------------------------------------------------------


def test_the_run_folder_is_complete(unbroken):
    files = {path.name for path in unbroken.iterdir()}
    assert {"recipe.json", "environment.json", "metrics.jsonl", "summary.json", "curves.png", "run.log"} <= files
    assert {"last.pt", "best.pt"} <= files
    assert "epoch 4/4  train_loss" in (unbroken / "run.log").read_text()
    assert not list(unbroken.glob("*.partial"))
    assert any(name.startswith("events.out.tfevents") for name in files)
    assert run_folder.read_recipe(unbroken).lr == FULL.lr
    summary = json.loads((unbroken / "summary.json").read_text())
    assert (summary["train_images"], summary["test_images"], summary["epochs"]) == (330, 101, 4)
    assert summary["top1"] == metrics(unbroken, "epoch")[-1]["top1"]
    network = models.build(FULL.model, in_chans=1, num_classes=10, **FULL.model_kwargs)
    assert summary["params"] == sum(p.numel() for p in network.parameters())
    assert summary["macs"] > 0
    assert summary["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert (unbroken / "curves.png").stat().st_size > 10_000


def test_eval_scores_a_checkpoint_as_training_did(unbroken, capsys):
    from leanconv.cli import main

    assert main(["eval", str(unbroken), "--device", "cpu"]) == 0
    last = metrics(unbroken, "epoch")[-1]
    out = capsys.readouterr().out
    assert f"weights at step 40: top1 {last['top1']:.4f}" in out
    assert f"averaged weights at step 40: top1 {last['ema_top1']:.4f}" in out
    assert main(["eval", str(unbroken / "nothing.pt")]) == 1
    assert "no checkpoint at" in capsys.readouterr().err


def test_train_from_the_command_line(tmp_path, capsys):
    from leanconv.cli import main

    config = tmp_path / "recipe.json"
    run_folder.write_json(config, SMALL.to_dict())
    run = tmp_path / "run"
    arguments = ["train", SMALL.model, "--data", "fashion_mnist", "--config", str(config), "--out", str(run)]
    assert main([*arguments, "--device", "cpu", "--set", "epochs=1", "lr=1e-3"]) == 0
    assert "convnext_tiny_1d" in capsys.readouterr().out
    assert run_folder.read_recipe(run).lr == 1e-3
    assert main([*arguments, "--set", "epoch=1"]) == 1
    assert "did you mean epochs" in capsys.readouterr().err
    for ignored in (["--set", "lr=1"], ["--out", str(tmp_path / "other")]):
        assert main(["train", "--resume", str(run), *ignored]) == 1
        assert "continues a run unchanged" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--root", str(tmp_path / "nothing")]) == 1
    assert "nothing is not a folder" in capsys.readouterr().err
    assert main([*arguments, "--set", "model_kwargs.foo=1"]) == 1
    assert "cannot be built with these model_kwargs" in capsys.readouterr().err
    config.write_text("[1]")
    assert main(["train", "--config", str(config)]) == 1
    assert "holds no recipe" in capsys.readouterr().err
