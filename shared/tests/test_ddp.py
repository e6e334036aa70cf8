"""Two gloo processes under torchrun do what one process does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from leanconv import training
from leanconv.data import Augment
from leanconv.training import Recipe, checkpoint, run_folder

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


def torchrun(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "leanconv"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    run_folder.write_json(folder / "recipe.json", RECIPE.override(["accumulate=2"]).to_dict())
    done = torchrun("train", "--config", folder / "recipe.json", "--out", folder / "two", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    # The same samples in parts of the same size: augmentation depends on the parts, not on the processes.
    training.fit(None, RECIPE.override(["accumulate=2"]), out=folder / "one", device="cpu")
    return folder / "one", folder / "two", done


def test_weights_agree(pair):
    one, two = map(checkpoint.load, pair[:2])
    for kind in ("model", "ema"):
        for name, value in one[kind].items():
            # Twenty float32 steps; a gradient is a mean of two sums of 8 instead of one of 16, which moves weights of
            # order 1 by some 1e-7 each step.
            torch.testing.assert_close(two[kind][name], value, rtol=1e-5, atol=5e-6)


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
