"""Composites in COCO's and in ADE20K's format: exact, always the same, whole or not there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from leanconv.data import DataNotFound, coco, composite_files, composites, load, sources

pytest.importorskip("pycocotools")


@pytest.fixture(scope="module")
def garments():
    """Squares of the kinds' labels, whose brightness tells the kind."""
    labels = np.repeat(np.array(list(composites.KINDS)), 3)
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, 4:24, 4:24] = 100 + 10 * labels[:, None, None]
    return (images, labels), (images, labels)


@pytest.fixture
def few(monkeypatch, tmp_path):
    """A folder of made-up photographs, and a set of few scenes."""
    monkeypatch.setattr(composites, "TRAIN", 24)
    monkeypatch.setattr(composites, "VAL", 12)
    monkeypatch.setattr(composite_files, "HEAPS", 0.4)
    place = tmp_path / "photographs"
    place.mkdir()
    for names, grey in zip(composites.PHOTOGRAPHS.values(), (20, 60)):
        for name in names:
            Image.new("L", (200, 180), grey).save(place / name)
    return place


def scenes(photographs, garments, split):
    return list(composite_files._scenes(photographs, garments, split))


def test_coco_files_hold_what_is_seen_of_each_object(few, garments, tmp_path):
    composite_files.make_coco(few, garments, tmp_path / "made")
    classes, train, val = coco.read(tmp_path / "made")
    assert classes == composites.CLASSES and (len(train), len(val)) == (24, 12)
    assert train.categories == (3, 6, 9, 12, 15), "numbers with gaps, as COCO's"
    assert 0 < len(train.useful()) < 24, "some show no object"
    crowds = 0
    for split, name in ((train, "train"), (val, "val")):
        for index, scene in enumerate(scenes(few, garments, name)):
            target = split.target(index, crowds=True)
            seen = [number for number in range(1, len(scene.labels) + 1) if (scene.objects == number).any()]
            assert target["labels"].tolist() == [scene.labels[number - 1] + 1 for number in seen]
            assert target["crowd"].tolist() == [scene.heaped and number == 1 for number in seen]
            crowds += int(target["crowd"].sum())
            for number, mask, box in zip(seen, target["masks"].numpy(), target["boxes"].tolist()):
                assert np.array_equal(mask.astype(bool), scene.objects == number)
                rows, columns = np.nonzero(mask)
                assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            difference = split.image(index).permute(1, 2, 0).float() - torch.tensor(scene.image).float()
            assert difference.abs().mean() < 6, "what JPEG loses is little"
    assert crowds > 3


def test_what_lies_hidden_wholly_has_no_annotation():
    objects = np.full((20, 20), 3, np.uint8)
    objects[:5, :5] = 1
    scene = composites.Scene(np.zeros((20, 20, 3), np.uint8), objects, (4, 0, 2), heaped=True)
    first, second = composite_files._annotations(scene)
    assert (first["category_id"], first["bbox"], first["area"], first["iscrowd"]) == (15, [0, 0, 5, 5], 25, 1)
    assert (second["category_id"], second["bbox"], second["area"], second["iscrowd"]) == (9, [0, 0, 20, 20], 375, 0)


def test_ade_files_tell_photograph_garments_and_heaps_apart(few, garments, tmp_path):
    composite_files.make_ade(few, garments, tmp_path)
    home, heaped = tmp_path / composite_files.ADE, 0
    for split, folder, count in (("train", "training", 24), ("val", "validation", 12)):
        images, masks = (sorted((home / kind / folder).iterdir()) for kind in ("images", "annotations"))
        assert [path.stem for path in images] == [path.stem for path in masks] and len(images) == count
        for path, scene in zip(masks, scenes(few, garments, split)):
            mask = np.asarray(Image.open(path))
            expected = np.array([1, *(label + 2 for label in scene.labels)])[scene.objects]
            heap = (scene.objects == 1) & scene.heaped
            assert np.array_equal(mask, np.where(heap, 0, expected))
            heaped += scene.heaped
    assert heaped > 3 and len(composite_files.ADE_CLASSES) == 6
    assert not set(composites.PHOTOGRAPHS["train"]) & set(composites.PHOTOGRAPHS["val"])


def test_they_are_always_the_same(few, garments, tmp_path):
    for make in (composite_files.make_coco, composite_files.make_ade):
        folders = [tmp_path / f"{make.__name__}-{number}" for number in range(2)]
        for folder in folders:
            make(few, garments, folder)
        one, other = ({path.relative_to(f): path.read_bytes() for path in f.rglob("*.*")} for f in folders)
        assert one == other and len(one) >= 36


def test_a_set_that_could_not_be_finished_is_not_there(few, garments, tmp_path, monkeypatch):
    def torn(*_):
        raise OSError("disk full")

    monkeypatch.setattr(json, "dumps", torn)
    make = {"make it": lambda folder: composite_files.make_coco(few, garments, folder)}
    with pytest.raises(DataNotFound, match="could not make it: disk full"):
        sources.install(tmp_path / "root" / "composites_coco", make)
    assert composite_files.find_coco(tmp_path / "root") is None and not list((tmp_path / "root").glob("*/*"))


def test_the_stand_in_of_coco_is_found_by_its_usual_box_hardly_ever():
    try:
        data = load("coco", smoke=True)
    except DataNotFound as error:
        pytest.skip(f"no network and no package: {error}")
    assert data.source.endswith("(in place of COCO 2017)") and data.classes == composites.CLASSES
    assert len(data.train) + 79 == composites.TRAIN and len(data.test) == composites.VAL
    assert sum(not record.things for record in data.test) > 10 and any(t.crowd for r in data.test for t in r.things)
    assert 0 < data.chance() < 0.01
