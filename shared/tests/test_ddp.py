"""Two gloo processes under torchrun do what one process does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from leanconv import training
from leanconv.data import Augment
from leanconv.training import Recipe, checkpoint, run_folder
from leanconv.training.world import join

RECIPE = Recipe(
    model="convnext_tiny_1d",
    model_kwargs={"depths": (1, 1), "dims": (8, 16), "kernel_sizes": (5, 3), "stem_width": 8, "stem_kernel_size": 5,
                  "layer_scale_init_value": 0.5},
    data="fashion_mnist",
    smoke=True,
    train_images=330,
    test_images=101,
    epochs=2,
    batch_size=32,
    optimizer="sgd",
    lr=0.05,
    ema_decay=0.9,
    log_every=1,
    augment=Augment(padding=2, hflip=0.5),
)  # fmt: skip


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "leanconv"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    run_folder.write_json(folder / "recipe.json", RECIPE.override(["accumulate=2"]).to_dict())
    command = [*TORCHRUN, "train", "--config", folder / "recipe.json", "--out", folder / "two", "--device", "cpu"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    # The same samples in parts of the same size: augmentation depends on the parts, not on the processes.
    training.fit(None, RECIPE.override(["accumulate=2"]), out=folder / "one", device="cpu")
    return folder / "one", folder / "two", done


def test_weights_agree(pair):
    one, two = map(checkpoint.load, pair[:2])
    for kind in ("model", "ema"):
        for name, value in one[kind].items():
            # Twenty float32 steps of size 0.05 along gradients summed in another order: where 32 terms nearly cancel,
            # as before a norm, that moves a weight by 1e-6. A missing or doubled reduction would move it by 1e-3.
            torch.testing.assert_close(two[kind][name], value, rtol=1e-5, atol=2e-5)


def test_evaluation_counts_every_image_once(pair):
    one, two = (run_folder.read_metrics(run) for run in pair[:2])
    for alone, shared in zip(one, two, strict=True):
        assert alone["kind"] == shared["kind"]
        if alone["kind"] == "step":
            assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        else:
            assert shared["top1"] * 101 == pytest.approx(round(shared["top1"] * 101), abs=1e-9)
            assert shared["top1"] == pytest.approx(alone["top1"], abs=1.01 / 101)  # a tie may fall the other way
            assert shared["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-4)


def test_only_the_first_process_writes_and_speaks(pair):
    _, two, done = pair
    assert done.stdout.count("top-1 EMA") == 1
    assert done.stderr.count("epoch 2/2  train_loss") == 1
    assert len(list(two.glob("events.*"))) == 1
    assert (two / "summary.json").is_file()


STOPPED = """
import os, pathlib, signal, sys
from leanconv import training
from leanconv.training.world import join

folder = pathlib.Path(sys.argv[1])
recipe = training.run_folder.read_recipe(folder)


def stop(network, step, steps, run):
    if step == 9:
        os.kill(os.getpid(), signal.SIGTERM)


with join("cpu") as world:
    training.fit(None, recipe, out=folder / "whole", device="cpu")
    try:
        training.fit(None, recipe, out=folder / "stopped", device="cpu", watch=stop)
    except training.Interrupted:
        training.fit(None, recipe, out=folder / "stopped", resume=True, device="cpu")
    training.fit(None, recipe, out=folder / ("whole" if world.main else "elsewhere"), resume=True, device="cpu")
"""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run as it is, the same stopped and resumed between two lines of its log, and what is said in the end."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "script.py").write_text(STOPPED)
    recipe = RECIPE.override({"epochs": 1, "batch_size": 16, "log_every": 8})
    run_folder.write_json(folder / "recipe.json", recipe.to_dict())
    command = [*TORCHRUN[:-2], folder / "script.py", folder]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    return folder / "whole", folder / "stopped", done.stderr


def test_losses_after_a_resume_are_those_of_all_processes(stopped):
    whole, resumed = (run_folder.read_metrics(run) for run in stopped[:2])
    assert "resumed after step 10" in (stopped[1] / "run.log").read_text()
    for wanted, found in zip(whole, resumed, strict=True):
        assert found["step"] == wanted["step"] and found.keys() == wanted.keys()
        for name in wanted.keys() & {"loss", "train_loss", "val_loss"}:
            assert found[name] == pytest.approx(wanted[name], rel=1e-6)


def test_a_folder_that_one_process_alone_sees_is_not_resumed(stopped):
    assert "ConfigError: the processes would resume after different steps, 0 to 20" in stopped[2]


def test_ctrl_c_stops_all_processes_after_the_same_step(tmp_path):
    run = tmp_path / "run"
    recipe = RECIPE.override({"epochs": 500, "save_seconds": 1e9})
    run_folder.write_json(tmp_path / "recipe.json", recipe.to_dict())
    command = [*TORCHRUN, "train", "--config", tmp_path / "recipe.json", "--out", run, "--device", "cpu"]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        while len(run_folder.read_metrics(run)) < 5 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)  # torchrun passes it on
        said = process.communicate(timeout=200)[1]
    assert said.count("stopped after step") == 2
    assert checkpoint.load(run)["step"] == run_folder.read_metrics(run)[-1]["step"]


def test_an_existing_process_group_is_believed(tmp_path, monkeypatch):
    """Not the environment: processes may have been started by other means than torchrun."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    torch.distributed.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    try:
        with join("cpu") as world:
            assert (world.rank, world.size) == (0, 1)
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()
