"""ImageNet-64 made ready from its batches, for pathconv."""

from __future__ import annotations

import json
import os
import pickle
import re

import numpy as np
import pytest
from PIL import Image
from scripts import script


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
