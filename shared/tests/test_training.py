"""Training runs on real images: exact resume, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from leanconv import models, training
from leanconv.training import Recipe, checkpoint, run_folder
from leanconv.training.trainer import Trainer
from leanconv.training.world import Interrupt

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 10  # per epoch


@pytest.fixture(scope="module")
def full(small) -> Recipe:
    """Everything that holds state or draws random numbers."""
    return small.override({"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "drop_path": 0.3, "accumulate": 2,
                           "ema_decay": 0.9, "ema_warmup": True, "clip_grad": 1.0, "warmup_epochs": 1.0, "amp": "fp16",
                           "channels_last": True, "save_seconds": 0.0,
                           "augment": {"padding": 2, "hflip": 0.5, "erase": 0.3}})  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(full, one_thread, tmp_path_factory) -> Path:
    return fit(full, tmp_path_factory.mktemp("run") / "unbroken").folder


def fit(recipe: Recipe, out: Path, **kwargs) -> training.Result:
    return training.fit(None, recipe, out=out, device="cpu", **kwargs)


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


# The command line, where the last epoch but one waits for the signal: it may come at any step, yet never too late.
WAITING = f"""
import sys, time
from leanconv.cli import main
from leanconv.training.trainer import Trainer

step, started = Trainer._train_step, time.monotonic()

def wait(self, batches):
    while self.step == {3 * STEPS} and not self.interrupt.asked and time.monotonic() < started + 300:
        time.sleep(0.01)
    step(self, batches)

Trainer._train_step = wait
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_stopped_run_resumes_to_the_same_bits(full, number, unbroken, tmp_path):
    run, config = tmp_path / "run", tmp_path / "recipe.json"
    run_folder.write_json(config, full.to_dict())
    command = [sys.executable, "-c", WAITING, "train", "--config", config, "--out", run, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while len(metrics(run, "step")) < STEPS + 3 and process.poll() is None:
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
    # A background job, such as a test run in CI, inherits from its shell that Ctrl-C be ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGTERM)  # as batch systems send it, treated like Ctrl-C
            assert interrupt.asked
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_during_the_last_evaluation_reaches_the_caller(small, tmp_path, monkeypatch):
    """Nothing is left to stop in the run itself; a script with further runs must not begin them."""
    once = Trainer._evaluate

    def interrupted(self, **options):
        signal.raise_signal(signal.SIGTERM)
        return once(self, **options)

    monkeypatch.setattr(Trainer, "_evaluate", interrupted)
    with pytest.raises(training.Interrupted, match="is finished"):
        fit(small.override({"epochs": 1}), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["top1"] >= 0


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


def test_a_run_is_not_overwritten_nor_resumed_by_another_recipe(full, unbroken):
    with pytest.raises(training.ConfigError, match="already holds a run"):
        fit(full, unbroken)
    with pytest.raises(training.ConfigError, match=r"lr 0.002 there, 0.001 here"):
        fit(full.override(["lr=1e-3"]), unbroken, resume=True)


# What a run leaves behind --------------------------------------------------------------------------------------------


def test_the_run_folder_is_complete(full, unbroken):
    files = {path.name for path in unbroken.iterdir()}
    assert {"recipe.json", "environment.json", "metrics.jsonl", "summary.json", "curves.png", "run.log"} <= files
    assert {"last.pt", "best.pt"} <= files
    assert "epoch 4/4  train_loss" in (unbroken / "run.log").read_text()
    assert not list(unbroken.glob("*.partial"))
    assert any(name.startswith("events.out.tfevents") for name in files)
    assert run_folder.read_recipe(unbroken).lr == full.lr
    summary = json.loads((unbroken / "summary.json").read_text())
    assert (summary["train_images"], summary["test_images"], summary["epochs"]) == (330, 101, 4)
    assert summary["top1"] == metrics(unbroken, "epoch")[-1]["top1"]
    network = models.build(full.model, in_chans=1, num_classes=10, **full.model_kwargs)
    assert summary["params"] == sum(p.numel() for p in network.parameters())
    assert summary["macs"] > 0
    epochs = metrics(unbroken, "epoch")
    assert summary["best_test_top1"] == max(epoch["ema_top1"] for epoch in epochs)
    assert checkpoint.load(unbroken / "best.pt")["best"] == summary["best_test_top1"]
    assert summary["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert (unbroken / "curves.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model=no_such_network", "no network is called 'no_such_network'"),
        ("data=no_such_data", "no data set is called 'no_such_data'"),
        ("batch_size=33", "mixup needs an even batch"),
    ],
)
def test_what_cannot_run_is_refused_before_data_are_fetched(change, said, small, tmp_path, monkeypatch):
    monkeypatch.setattr("leanconv.data.sets._load", lambda *_: pytest.fail("data were looked for"))
    with pytest.raises(ValueError, match=said):
        fit(small.override(["mixup=0.1", change]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_used_is_refused_before_data_are_fetched(small, unbroken, tmp_path, monkeypatch):
    monkeypatch.setattr("leanconv.data.sets._load", lambda *_: pytest.fail("data were looked for"))
    (tmp_path / "file").touch()
    for out, said in ((unbroken, "already holds a run"), (tmp_path / "file", "is a file: a run needs a folder")):
        with pytest.raises(training.ConfigError, match=said):
            fit(small, out)


def test_eval_scores_a_checkpoint_as_training_did(unbroken, capsys):
    from leanconv.cli import main

    assert main(["eval", str(unbroken), "--device", "cpu"]) == 0
    last = metrics(unbroken, "epoch")[-1]
    out = capsys.readouterr().out
    assert f"weights at step 40: top1 {last['top1']:.4f}" in out
    assert f"averaged weights at step 40: top1 {last['ema_top1']:.4f}" in out
    assert main(["eval", str(unbroken), "--root", str(unbroken / "nowhere")]) == 1
    assert "nowhere is not a folder" in capsys.readouterr().err
    assert main(["eval", str(unbroken / "nothing.pt")]) == 1
    assert "nothing.pt: no such file or folder" in capsys.readouterr().err


def test_load_reads_weights_and_data_back(unbroken, small, tmp_path):
    last = metrics(unbroken, "epoch")[-1]
    for ema in (False, True):
        network, data = training.load(unbroken, ema=ema)
        _, loader = data.loaders(16, channels_last=True)
        scores = training.evaluate(network.to(memory_format=torch.channels_last), loader)
        assert scores["top1"] == last["ema_top1" if ema else "top1"]
        assert len(data.train) == 330
    fit(small.override({"epochs": 1}), tmp_path / "run")
    with pytest.raises(ValueError, match="has no averaged weights"):
        training.load(tmp_path / "run", ema=True)


def test_train_from_the_command_line(small, tmp_path, capsys):
    from leanconv.cli import main

    config = tmp_path / "recipe.json"
    run_folder.write_json(config, small.to_dict())
    run = tmp_path / "run"
    arguments = ["train", small.model, "--data", "fashion_mnist", "--config", str(config), "--out", str(run)]
    assert main([*arguments, "--device", "cpu", "--set", "epochs=1", "lr=1e-3"]) == 0
    assert "convnext_tiny_1d" in capsys.readouterr().out
    assert run_folder.read_recipe(run).lr == 1e-3
    assert main([*arguments, "--set", "epoch=1"]) == 1
    assert "did you mean epochs" in capsys.readouterr().err
    for ignored in (["--set", "lr=1"], ["--out", str(tmp_path / "other")]):
        assert main(["train", "--resume", str(run), *ignored]) == 1
        assert "continues a run unchanged" in capsys.readouterr().err
    before = (run / "summary.json").read_bytes()
    assert main(["train", "--resume", str(run)]) == 0
    out, err = capsys.readouterr()
    assert f"{run} is finished" in err and "convnext_tiny_1d" in out
    assert (run / "summary.json").read_bytes() == before
    (run / "summary.json").unlink()
    assert main(["train", "--resume", str(run), "--root", str(tmp_path / "nothing")]) == 1
    assert "nothing is not a folder" in capsys.readouterr().err
    elsewhere = tmp_path / "elsewhere"
    assert main([*arguments, "--out", str(elsewhere), "--set", "model_kwargs.foo=1"]) == 1
    assert "cannot be built with these model_kwargs" in capsys.readouterr().err
    assert main([*arguments, "--out", str(elsewhere), "--set", "model_kwargs={}"]) == 1
    assert "convnext_tiny_1d cannot be trained on 28x28 images; try another image_size" in capsys.readouterr().err
    assert not elsewhere.exists()
    for text, said in (("[1]", "holds no recipe"), ('{"lr": 1', "is not JSON"), ("", "is not JSON")):
        config.write_text(text)
        assert main(["train", "--config", str(config)]) == 1
        assert f"{config} {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "gpus", "says"),
    [
        ("cuda", 0, "device is cuda, but torch sees no GPU here: leave it out, or take cpu"),
        ("cuda:3", 1, "device is cuda:3, but the last GPU that torch sees here is cuda:0"),
        ("gpu", 0, "device must be cpu, cuda, cuda:1, ..., but it is 'gpu'"),
    ],
)
def test_absent_devices_are_refused_in_one_sentence(device, gpus, says, tmp_path, monkeypatch, capsys):
    from leanconv.cli import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    arguments = ["convnext_tiny_1d", "--data", "fashion_mnist", "--out", str(tmp_path / "run"), "--device", device]
    assert main(["train", *arguments]) == 1
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1
    assert not (tmp_path / "run").exists()
