"""Loaders of images with objects: what is transformed together, repeated exactly, shared out, refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
import torch
from coco_files import CAT, DOG, annotation, write
from torch import nn

from leanconv.data import Augment, DetectionData, load
from leanconv.data.detection import restored
from leanconv.detections import detections

pytest.importorskip("pycocotools")

PAPER = Augment(hflip=0.5, sides=(48, 64, 80), first_sides=(50, 60), crop=(30, 50))
CONTENTS = [
    ((60 + 4 * i, 90 - 2 * i), [annotation(CAT, (10, 8, 20, 30)), annotation(DOG, (40, 30 + i, 24, 12))][: 1 + i % 2])
    for i in range(10)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DetectionData:
    root = write(tmp_path_factory.mktemp("detection") / "coco", CONTENTS, [*CONTENTS[:4], ((50, 50), [])])
    return replace(load("coco_format", root=root, longest=100), image_size=64)


def epoch(data, number=0, start_step=0, **options):
    train, _ = data.loaders(4, **{"workers": 0, "augment": PAPER, **options})
    return list(train.epoch(number, start_step))


def samples(batches):
    return [pair for images, targets in batches for pair in zip(images, targets)]


def pixels(data, image):
    """As they were before they were normalised."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    return (image * std + mean) * 255


def test_image_boxes_and_masks_stay_together(data):
    """The colour tells the class, and the mask, a rectangle, tells the box."""
    seen = [pair for number in range(6) for pair in samples(epoch(data, number))]
    cut, beside = 0, []
    for image, target in seen:
        shown = pixels(data, image)
        assert target.keys() == {"boxes", "labels", "masks", "image_id"}
        assert target["masks"].shape == (len(target["boxes"]), *image.shape[1:])
        for box, label, mask in zip(target["boxes"], target["labels"].tolist(), target["masks"].bool()):
            inner = mask.clone()
            inner[1:] &= mask[:-1]
            inner[:-1] &= mask[1:]
            inner[:, 1:] &= mask[:, :-1]
            inner[:, :-1] &= mask[:, 1:]
            if inner.any():
                assert shown[:, inner].median().item() == pytest.approx(2 * (CAT, DOG)[label - 1], abs=1.5)
            rows, columns = (mask.any(axis).nonzero() for axis in (1, 0))
            around = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (box - around).abs().max() < 4  # a mask's pixels are enlarged up to 80 / 30
            beside.append((box - around).mean())
            cut += bool((box == 0).any())
    assert abs(torch.stack(beside).mean()) < 0.1, "masks lie upon their boxes, not half a pixel beside them"
    assert cut > 3 and len({target["image_id"] for _, target in seen}) == 10


def test_sizes_are_the_papers_two_ways(data):
    seen = samples(pair for number in range(6) for pair in epoch(data, number))
    bounded = [max(image.shape[1:]) >= 99 for image, _ in seen]  # longest
    assert 0 < sum(bounded) < len(seen) and max(max(image.shape[1:]) for image, _ in seen) == 100
    assert {min(image.shape[1:]) for (image, _), at_most in zip(seen, bounded) if not at_most} == {48, 64, 80}
    ratios = {record.number: record.height / record.width for record in data.train}
    changed = [abs(image.shape[1] / image.shape[2] / ratios[target["image_id"]] - 1) > 0.05 for image, target in seen]
    assert 0.2 < sum(changed) / len(seen) < 0.6, "one half is cropped"
    plain = samples(epoch(data, augment=Augment(sides=(48, 64, 80))))
    assert all(len(target["boxes"]) == 1 + (target["image_id"] // 10) % 2 for _, target in plain)
    assert {min(image.shape[1:]) for image, _ in samples(epoch(data, augment=Augment()))} == {64}, "image_size"
    assert {max(image.shape[1:]) for image, _ in samples(epoch(data, augment=Augment(sides=(99,))))} <= {99, 100}


def test_a_crop_may_leave_no_object_but_never_an_empty_one(data):
    tiny = Augment(first_sides=(60,), crop=(8, 8), sides=(16,))
    targets = [target for number in range(6) for _, target in samples(epoch(data, number, augment=tiny))]
    assert any(len(target["boxes"]) == 0 for target in targets)
    for target in targets:
        sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
        assert (sides >= 1).all() and (target["masks"].flatten(1).sum(1) > 0).all()
        assert target["boxes"].dtype == torch.float32 and target["masks"].dtype == torch.uint8


def same(one, other):
    def equal(a, b):
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    pairs = zip(samples(one), samples(other), strict=True)
    return all(
        equal(a, b) and all(equal(t[key], u[key]) for key in t | u) for (a, t), (b, u) in pairs if a.shape == b.shape
    )


def images_equal(one, other):
    pairs = list(zip(samples(one), samples(other), strict=True))
    return all(a.shape == b.shape and torch.equal(a, b) for (a, _), (b, _) in pairs)


def test_batches_are_functions_of_seed_epoch_and_step(data):
    first = epoch(data)
    assert len(first) == 2
    assert images_equal(first, epoch(data)) and same(first, epoch(data))
    assert images_equal(first[1:], epoch(data, start_step=1)) and same(first[1:], epoch(data, start_step=1))
    assert images_equal(first, epoch(data, workers=2))
    assert not images_equal(first, epoch(data, 1)) and not images_equal(first, epoch(data, seed=1))
    ranks = [epoch(data, rank=rank, world_size=2) for rank in range(2)]
    joined = [tuple(list(chain(*parts)) for parts in zip(*step)) for step in zip(*ranks)]
    assert images_equal(first, joined) and same(first, joined)


def test_testing_sees_every_image_once_and_alone(data):
    shares = [list(data.loaders(4, rank=rank, world_size=2, workers=0)[1]) for rank in range(2)]
    batches = [pair for share in shares for pair in share]
    assert [targets[0]["image_id"] for _, targets in batches] == [7, 17, 27, 37, 47]
    for index, (images, targets) in enumerate(batches):
        assert len(images) == len(targets) == 1
        height, width = data.test.image(index).shape[1:]
        assert targets[0]["original_size"] == (height, width) and targets[0]["size"] == tuple(images[0].shape[1:])
        assert min(images[0].shape[1:]) == 64 or max(images[0].shape[1:]) == 100


def test_what_is_found_is_restored_to_the_images_file():
    mask = torch.zeros(9, 1, 20, 30)
    mask[:, :, 5:10, 10:20] = 0.9
    found = {"boxes": torch.tensor([[10.0, 5.0, 20.0, 10.0]]).repeat(9, 1), "masks": mask}
    boxes, masks = restored(found, {"size": (20, 30), "original_size": (40, 90)})
    assert boxes[8].tolist() == [30, 10, 60, 20] and masks.dtype == torch.bool
    expected = torch.zeros(40, 90, dtype=torch.bool)
    expected[10:20, 30:60] = True
    assert (masks[8] != expected).sum() <= 4, "corners are rounded"
    nothing = {key: value[:0] for key, value in found.items()}
    assert restored(nothing, {"size": (20, 30), "original_size": (40, 90)})[1].shape == (0, 40, 90)


def test_chance_is_the_score_of_the_usual_box_of_the_commonest_class(data, tmp_path):
    assert 0 < data.chance() < 0.5
    images = [((40, 60), [annotation(CAT, (10, 10, 20, 20))]), ((80, 120), [annotation(CAT, (20, 20, 40, 40))])]
    assert load("coco_format", root=write(tmp_path, images, images)).chance() == pytest.approx(1)


def test_what_objects_cannot_follow_is_refused(data):
    with pytest.raises(ValueError, match="images with objects do not take padding, blur: augment them by hflip, sides"):
        data.loaders(2, augment=Augment(padding=4, blur=0.5))
    with pytest.raises(ValueError, match="sides and first_sides are for images with objects"):
        load("fashion_mnist", smoke=True).loaders(2, augment=Augment(sides=(480,)))
    with pytest.raises(ValueError, match="batch_size counts all ranks: 3 is not a positive multiple of world_size=2"):
        data.loaders(3, world_size=2)
    with pytest.raises(ValueError, match="longest must exceed the image_size of 100, got 100"):
        data.loaders(2, image_size=100)
    with pytest.raises(ValueError, match=r"crop must be a pair \(low, high\), got \(600, 384\)"):
        Augment(crop=(600, 384))
    with pytest.raises(ValueError, match="coco does not take scored"):
        load("coco", scored="crop")
    with pytest.raises(ValueError, match="images with masks do not take sides"):
        load("composites").loaders(2, augment=Augment(sides=(480,)))


class Seer(nn.Module):
    """Finds one object of class 1 surely and one of class 2 not surely, with or without masks."""

    def __init__(self, masks: bool) -> None:
        super().__init__()
        self.weight, self.masks = nn.Parameter(torch.zeros(1)), masks

    def forward(self, images):
        boxes = torch.tensor([[4.0, 4.0, 30.0, 40.0], [10.0, 10.0, 50.0, 60.0]])
        found = {"boxes": boxes, "labels": torch.tensor([1, 2]), "scores": torch.tensor([0.8, 0.3])}
        return [found | ({"masks": torch.ones(2, 1, *image.shape[1:])} if self.masks else {}) for image in images]


@pytest.mark.parametrize("masks", [True, False])
def test_detections_are_drawn_beside_what_there_is(data, tmp_path, masks, monkeypatch):
    drawn = []
    monkeypatch.setattr("leanconv.detections._show", lambda axes, *what: drawn.append(what))
    detections(Seer(masks), data, tmp_path / "few.png", count=5)
    truth, found = drawn[2:4]
    assert [len(each[1]) for each in drawn[::2]] == [1, 2, 1, 2, 0] and [len(each[1]) for each in drawn[1::2]] == [
        1
    ] * 5
    assert truth[4] == ["cat", "dog"] and found[4] == ["cat 0.80"] and (found[2] is not None) == masks
    monkeypatch.undo()
    detections(Seer(masks), data, tmp_path / "two.png", count=2)
    assert (tmp_path / "two.png").stat().st_size > 10_000
