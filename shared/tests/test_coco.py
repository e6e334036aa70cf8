"""Data sets in COCO's format: what is read, what is left out, and what is said of files that are wrong."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pytest
import torch
from coco_files import CAT, DOG, annotation, edit, objects, write
from PIL import Image

from leanconv.data import DataNotFound, coco, load

mask = pytest.importorskip("pycocotools.mask")

SIZE = (40, 60)
ONE = annotation(DOG, (10, 5, 20, 10))


def runs(pixels, compressed):
    encoded = mask.encode(np.asfortranarray(pixels))
    if compressed:
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    flat = pixels.T.ravel()
    ends = np.flatnonzero(np.diff(flat, prepend=0, append=1 - flat[-1]))
    return {"size": encoded["size"], "counts": np.diff(ends, prepend=0).tolist()}


def test_categories_with_gaps_become_labels_from_1(tmp_path):
    write(tmp_path, [(SIZE, [ONE, annotation(CAT, (0, 0, 9, 9))])], [(SIZE, [ONE])])
    data = load("coco_format", root=tmp_path)
    assert data.classes == ("background", "cat", "dog") and data.num_classes == 3
    assert data.test.categories == (CAT, DOG) and data.test.records[0].number == 7
    assert data.train.target(0)["labels"].tolist() == [2, 1]
    assert data.source == f"images in COCO's format, 1 training and 1 test images, from {tmp_path}"


def test_images_without_an_object_to_learn_from_are_tested_but_not_trained_on(tmp_path):
    crowd, flat = annotation(CAT, (0, 0, 30, 30), iscrowd=1), annotation(CAT, (0, 0, 30, 0.5))
    outside = annotation(CAT, (70, 0, 10, 10))
    images = [(SIZE, things) for things in ([ONE], [], [crowd], [flat], [outside], [crowd, ONE, flat])]
    data = load("coco_format", root=write(tmp_path, images, images))
    assert "2 training (4 more, which show no object, are left out) and 6 test images" in data.source
    assert [record.number for record in data.train] == [7, 57] and len(data.test) == 6
    assert data.train.target(1)["labels"].tolist() == [2] and data.train.target(1)["masks"].shape == (1, *SIZE)
    everything = data.train.target(1, crowds=True)
    assert everything["crowd"].tolist() == [True, False] and everything["labels"].tolist() == [1, 2]
    none = data.test.target(1)
    assert none["boxes"].shape == (0, 4) and none["masks"].shape == (0, *SIZE)


def test_polygons_and_both_kinds_of_run_lengths_give_the_same_mask(tmp_path):
    pixels = np.zeros(SIZE, np.uint8)
    pixels[5:15, 10:30] = 1
    pixels[20:30, 40:60] = 1
    parts = [*ONE["segmentation"], [40, 20, 60, 20, 60, 30, 40, 30], [1, 1, 9, 9], []]  # two corners fill nothing
    shapes = [parts, runs(pixels, compressed=True), runs(pixels, compressed=False), [[1, 1, 9, 9]]]
    split = objects(tmp_path / "coco", [(SIZE, [{**ONE, "segmentation": shape} for shape in shapes])])
    masks = split.target(0)["masks"]
    assert masks.dtype == torch.uint8 and masks[3].sum() == 0
    assert all(np.array_equal(each, pixels) for each in masks[:3].numpy())


def test_boxes_end_at_the_border_of_their_image(tmp_path):
    split = objects(tmp_path / "coco", [(SIZE, [annotation(CAT, (-5, 30, 20, 20)), annotation(CAT, (50, -2, 11, 9))])])
    assert split.target(0)["boxes"].tolist() == [[0, 30, 15, 40], [50, 0, 60, 7]]


def test_a_part_of_the_images_shares_the_annotations(tmp_path):
    images = [(SIZE, [annotation(CAT, (i, i, 9, 9))]) for i in range(8)]
    data = load("coco_format", root=write(tmp_path, images, images)).subset(train=4, test=2).hold_out(1)
    assert (len(data.train), len(data.val), len(data.test)) == (3, 1, 2)
    assert data.train.records.bytes is data.val.records.bytes
    copied = pickle.loads(pickle.dumps(data.test))
    assert [record.number for record in copied] == [7, 47] and copied.target(1)["boxes"][0].tolist() == [4, 4, 13, 13]
    assert torch.equal(copied.image(1), data.test.image(1))


# What is wrong

GOOD = [(SIZE, [ONE])]


def content(root):
    return json.loads((root / coco.FILES["val"]).read_text())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"category_id": 4}, "annotation 0 is of category 4, which is not listed"),
        ({"image_id": 8}, "annotation 0 is of image 8, which is not listed"),
        ({"bbox": [1, 2, 3]}, r"annotation 0 has the box \[1, 2, 3\]; it must be left, top, width, height"),
        ({"bbox": [1, 2, -3, 4]}, "must be left, top, width, height"),
        ({"bbox": [1, 2, float("nan"), 4]}, "must be left, top, width, height"),
        ({"segmentation": None}, "annotation 0 has no segmentation"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "a polygon with half a corner"),
        ({"segmentation": {"size": [60, 40], "counts": "P1"}}, "a mask of 60x40 pixels in an image of 40x60"),
        ({"segmentation": {"size": [40, 60], "counts": [5, 6]}}, "run lengths of 11 pixels in an image of 2400"),
        ({"segmentation": {"size": [40, 60], "counts": ""}}, "a mask without run lengths"),
        ({"segmentation": {"size": [40, 60], "counts": [-5, 2405]}}, "run lengths that are no numbers of pixels"),
        ({"segmentation": [[1, 2, 3e9, 4, 5, 6]]}, "a polygon that leads far beyond its image"),
        ({"segmentation": [[1, 2, float("nan"), 4, 5, 6]]}, "a polygon that leads far beyond its image"),
        ({"area": None}, "is not of COCO's format"),
        ({"area": float("nan")}, "area nan and iscrowd 0; they must be a number of pixels, and 0 or 1"),
        ({"iscrowd": "0"}, "iscrowd '0'; they must be"),
    ],
)
def test_what_is_wrong_with_an_annotation_is_said(tmp_path, change, says):
    write(tmp_path, GOOD, GOOD)
    edit(tmp_path, annotations=[{**content(tmp_path)["annotations"][0], **change}])
    with pytest.raises(DataNotFound, match=says) as caught:
        load("coco_format", root=tmp_path)
    assert "instances_val2017.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"height": "40"}, r"image 7 has height and width \('40', 60\); they must be whole numbers of pixels"),
        ({"width": 0}, r"\(40, 0\); they must be whole numbers"),
        ({"file_name": 5}, "image 7 has the file_name 5"),
    ],
)
def test_what_is_wrong_with_an_image_is_said(tmp_path, change, says):
    write(tmp_path, GOOD, GOOD)
    edit(tmp_path, images=[{**content(tmp_path)["images"][0], **change}])
    with pytest.raises(DataNotFound, match=says):
        load("coco_format", root=tmp_path)


@pytest.mark.parametrize("part", [coco.FILES["val"], coco.FOLDERS["train"]])
def test_what_is_absent_is_named(tmp_path, part):
    write(tmp_path, GOOD, GOOD)
    (tmp_path / part).rename(tmp_path / "elsewhere")
    with pytest.raises(DataNotFound, match=f"{part} is absent"):
        load("coco_format", root=tmp_path)


def test_what_to_do_is_said_where_there_is_nothing(tmp_path):
    with pytest.raises(
        DataNotFound, match=r"COCO 2017 is not in .*: unpack train2017\.zip, .* annotations_trainval2017"
    ):
        load("coco", root=tmp_path)


def test_other_data_than_cocos_are_not_taken_for_them(tmp_path):
    write(tmp_path / "coco", GOOD, GOOD)
    with pytest.raises(DataNotFound, match=r"there are 1 \+ 1 images instead of \(118287, 5000\)"):
        load("coco", root=tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "hound"}]}, "differ in their categories"),
        ({"images": None}, "is not of COCO's format: KeyError"),
        ({"annotations": 5}, "is not of COCO's format: TypeError"),
        ({"annotations": []}, "no test image shows an object"),
        ({"annotations": [], "images": []}, "no test image shows an object"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, changes, says):
    edit(write(tmp_path, GOOD, GOOD), **changes)
    with pytest.raises(DataNotFound, match=says):
        load("coco_format", root=tmp_path)


def test_a_torn_file_and_images_with_one_number_are_refused(tmp_path):
    images = content(write(tmp_path, GOOD, GOOD))["images"]
    edit(tmp_path, images=2 * images)
    with pytest.raises(DataNotFound, match="two images have the same id"):
        load("coco_format", root=tmp_path)
    path = tmp_path / coco.FILES["val"]
    path.write_text(path.read_text()[:100])
    with pytest.raises(DataNotFound, match=r"instances_val2017\.json is damaged, no JSON: "):
        load("coco_format", root=tmp_path)


def test_what_is_wrong_with_an_image_is_said_with_its_name(tmp_path):
    split = objects(tmp_path / "coco", 3 * GOOD)
    Image.new("RGB", (60, 41)).save(split.folder / "0.png")
    with pytest.raises(ValueError, match=r"0\.png has 41x60 pixels, and its annotations are for 40x60"):
        split.image(0)
    (split.folder / "1.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"cannot read the image .*1\.png"):
        split.image(1)
    (split.folder / "2.png").unlink()
    with pytest.raises(
        DataNotFound, match=r"1 of the 3 images that .*val2017\.json lists are not in .*, such as 2\.png"
    ):
        load("coco_format", root=tmp_path / "coco")


def test_damaged_run_lengths_are_said_with_their_annotation(tmp_path):
    shape = {"size": list(SIZE), "counts": "garbage!"}
    split = objects(tmp_path / "coco", [(SIZE, [{**ONE, "segmentation": shape, "id": 12}])])
    with pytest.raises(ValueError, match="the mask of annotation 12 is damaged"):
        split.target(0)


def test_without_pycocotools_it_is_named(tmp_path, monkeypatch):
    write(tmp_path, GOOD, GOOD)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(DataNotFound, match=r"pip install pycocotools"):
        load("coco_format", root=tmp_path)
