"""Training where there are objects to find."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from detectors import NARROW, narrow

from leanconv import detections, models, report, training
from leanconv.data import DataNotFound, load
from leanconv.training import ConfigError, Recipe, build, checkpoint, detection, run_folder
from leanconv.training.world import World

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(
    model="cascade_mask_rcnn",
    model_kwargs={**NARROW, "width": 24, "hidden": 64, "samples": 32},
    data="composites_coco",
    image_size=96,
    epochs=2,
    batch_size=2,
    lr=3e-3,
    clip_grad=10.0,
    log_every=10,
    workers=0,
)
CARD = {"row": "narrow", "paper": {"box_map": 50.2, "mask_map": 43.6, "on": "COCO", "source": "COCO, 36 epochs"}}


@pytest.fixture(scope="module")
def data():
    """Two images, learned from sixty times an epoch and found in again."""
    pytest.importorskip("pycocotools")
    try:
        whole = load("composites_coco")
    except DataNotFound as error:
        pytest.skip(f"no network and no package: {error}")
    return replace(whole, train=whole.train.pick(torch.arange(2).repeat(60)), test=whole.train.pick(torch.arange(2)))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("detection") / "run"
    return training.fit(None, RECIPE, data, out=folder, device="cpu", card=CARD)


# A run


def test_two_images_are_learned_by_heart(run, data):
    records = [record for record in run_folder.read_metrics(run.folder) if record["kind"] == "step"]
    assert records[-1]["loss"] < 0.6 * records[0]["loss"]
    for record in records:
        parts = {name: value for name, value in record.items() if name.startswith("loss_")}
        assert len(parts) == 11 and sum(parts.values()) == pytest.approx(record["loss"], rel=1e-4)
    assert run.summary["score"] == "box_map" and run.summary["macs"] > 0
    assert run.summary["box_map"] > max(0.5, run.summary["chance"]) and run.summary["mask_map"] > 0.5
    assert run.summary["best_test_box_map"] >= run.summary["box_map"]
    assert "loss" not in run.summary and "val_loss" not in run.summary
    again = training.evaluate(run.model, data.loaders(2, workers=0, image_size=96)[1], RECIPE)
    assert again == {key: run.summary[key] for key in again} and "mask_map50" in again


def test_report_and_pictures(run, data, tmp_path):
    gathered = report.gather([run.folder])
    text = gathered.markdown()
    assert "| box mAP | box mAP EMA | mask mAP |" in text and "50.2 / 43.6 mask mAP, COCO" in text
    assert "COCO's mean average precision" in text and "usual box" in text and "chance alone" not in text
    gathered.save(tmp_path)
    assert (tmp_path / "report.png").stat().st_size > 10_000 and (run.folder / "curves.png").stat().st_size > 10_000
    detections.detections(run.model, data, tmp_path / "predictions.png", count=2)
    assert (tmp_path / "predictions.png").stat().st_size > 20_000


def test_a_stopped_run_resumes_to_the_same_bits(data, tmp_path):
    few = replace(data, train=data.train.pick(torch.arange(20)), test=data.test)
    recipe = RECIPE.override({"batch_size": 4, "accumulate": 2, "amp": "bf16", "ema_decay": 0.5, "log_every": 3})

    def stop(network, step, steps, folder):
        if step == 7:
            signal.raise_signal(signal.SIGTERM)

    whole = training.fit(None, recipe, few, out=tmp_path / "whole", device="cpu")
    with pytest.raises(training.Interrupted, match="stopped after step 7"):
        training.fit(None, recipe, few, out=tmp_path / "stopped", device="cpu", watch=stop)
    training.resume(tmp_path / "stopped", data=few, device="cpu")
    one, two = (checkpoint.load(tmp_path / name) for name in ("whole", "stopped"))
    assert one["step"] == two["step"] == 10
    for kind in ("model", "ema"):
        assert all(torch.equal(value, two[kind][name]) for name, value in one[kind].items())
    clocks = {"seconds", "images_per_second"}
    logs = [run_folder.read_metrics(tmp_path / name) for name in ("whole", "stopped")]
    one, two = ([{k: v for k, v in record.items() if k not in clocks} for record in log] for log in logs)
    assert one == two and "ema_box_map" in whole.summary


# What is refused


def test_what_does_not_go_with_objects_is_refused(data, monkeypatch):
    monkeypatch.setattr("leanconv.data.load", lambda *_, **__: data)
    with pytest.raises(ConfigError, match="composites_coco has objects with boxes: mixup and cutmix must be 0"):
        build.data(RECIPE.override({"mixup": 0.2}))
    for change in ({"label_smoothing": 0.1}, {"compile": True}):
        with pytest.raises(ConfigError, match="label_smoothing must be 0, and compile false"):
            build.data(RECIPE.override(change))
    with pytest.raises(ConfigError, match="resnet18 finds no objects: take a detector, such as cascade_mask_rcnn"):
        build.model(Recipe(model="resnet18"), data)
    with pytest.raises(ValueError, match="must give a dictionary of losses"):
        detection.total(torch.zeros(2, 3))


def test_a_backbone_starts_from_a_classifier(tmp_path):
    pytest.importorskip("dwoconv1d")
    sizes = {**NARROW["backbone_kwargs"], "kernel_sizes": (7, 7, 5, 3)}
    classifier = models.build("convnext_tiny_1d", **sizes)
    torch.save(classifier.state_dict(), tmp_path / "weights.pt")
    kwargs = {**RECIPE.model_kwargs, "backbone": "convnext_tiny_1d", "backbone_kwargs": sizes}
    network = models.build("cascade_mask_rcnn", num_classes=6, **kwargs)
    left_out = build.start(RECIPE.override({"start": {"backbone": str(tmp_path / "weights.pt")}}), network)
    assert {text.rsplit(" ", 1)[1] for text in left_out} == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    weights = classifier.state_dict()
    assert all(
        torch.equal(value, weights[name])
        for name, value in network.backbone.model.state_dict().items()
        if not name.startswith("norm")
    )


# Processes


def test_batch_norms_join_over_gpus_alone():
    for device, size, asked in (("cuda", 2, True), ("cpu", 2, True), ("cuda", 1, True), ("cuda", 2, False)):
        network, recipe = narrow(), RECIPE.override({"sync_norms": asked})
        names = list(network.state_dict())
        found = build.sync_norms(recipe, network, World(0, size, torch.device(device)))
        joined = sum(isinstance(module, torch.nn.SyncBatchNorm) for module in found.modules())
        assert joined == (3 if (device, size, asked) == ("cuda", 2, True) else 0)
        assert list(found.state_dict()) == names


SCRIPT = """
import sys
import torch
from detectors import narrow, objects
from test_detection_training import RECIPE, shared_recipe
from leanconv import training
from leanconv.data import load
from leanconv.training.world import join

with join("cpu") as world:
    network = torch.nn.parallel.DistributedDataParallel(narrow())
    for _ in range(2):  # a parameter that took no part in the first step is told of in the second
        losses = network([torch.randn(3, 64, 80)], [objects(64, 80, 2 * world.rank)])
        sum(losses.values()).backward()
    training.fit(None, shared_recipe(1), load("composites_coco").subset(16, 5), out=sys.argv[1], device="cpu")
"""


def shared_recipe(accumulate: int) -> Recipe:
    """All boxes and anchors are learned from, and no statistics of a batch are kept: then processes change nothing."""
    free = {"model_kwargs.samples": 100_000, "model_kwargs.anchor_samples": 100_000, "model_kwargs.norm": "group"}
    plain = {"optimizer": "sgd", "lr": 0.01, "log_every": 1, "epochs": 1}
    return RECIPE.override({**free, **plain, "batch_size": 4, "accumulate": accumulate})


def test_two_processes_do_what_one_does(data, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [*launch, tmp_path / "script.py", tmp_path / "two"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    few = load("composites_coco").subset(16, 5)
    alone = training.fit(None, shared_recipe(2), few, out=tmp_path / "one", device="cpu")
    one, two = (run_folder.read_metrics(tmp_path / name) for name in ("one", "two"))
    for record, shared in zip(one, two, strict=True):
        for name in record:
            if "loss" in name:
                assert shared[name] == pytest.approx(record[name], rel=1e-3, abs=1e-5), name
    weights = checkpoint.load(tmp_path / "two")["model"]
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)
    scores = [name for name in one[-1] if "_map" in name]
    assert scores and [two[-1][name] for name in scores] == pytest.approx([one[-1][name] for name in scores], abs=0.01)
