"""COCO's average precision: by hand, against torchmetrics, over processes, and of nothing."""

from __future__ import annotations

import pytest
import torch
from coco_files import CAT, DOG, annotation, objects
from torch import distributed, multiprocessing

from leanconv.average_precision import AveragePrecision

pytest.importorskip("pycocotools")

SIZE = (100, 120)
CONTENTS = [
    (SIZE, [annotation(CAT, (10, 10, 40, 30)), annotation(DOG, (60, 20, 20, 20))]),
    (SIZE, []),
    (SIZE, [annotation(CAT, (0, 50, 100, 50)), annotation(CAT, (5, 5, 30, 30))]),
    (SIZE, [annotation(DOG, (30, 30, 50, 50)), annotation(CAT, (0, 0, 119, 20), iscrowd=1)]),
]
KINDS = ("box", "mask")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return objects(tmp_path_factory.mktemp("precision") / "coco", CONTENTS)


def truth(split, index):
    """What there is in an image, as a network would say it; no crowds."""
    known = split.target(index)
    scores = torch.linspace(1, 0.9, len(known["labels"]))
    return {"boxes": known["boxes"], "labels": known["labels"], "scores": scores, "masks": known["masks"].float()}


def target(split, index, size=SIZE):
    return {"image_id": split.records[index].number, "size": size, "original_size": SIZE}


def scored(split, found):
    """A meter that was told `found(index, what there is)` of each image."""
    scores = AveragePrecision(split)
    for index in range(len(split)):
        scores.update([found(index, truth(split, index))], [target(split, index)])
    return scores


def box(left, top, width, height, label=1, score=1.0):
    """One found object, whose mask fills its box."""
    mask = torch.zeros(1, *SIZE)
    mask[0, top : top + height, left : left + width] = 1
    corners = torch.tensor([[left, top, left + width, top + height]]).float()
    return {"boxes": corners, "labels": torch.tensor([label]), "scores": torch.tensor([score]), "masks": mask}


def together(*found):
    return {key: torch.cat([each[key] for each in found]) for key in found[0]}


def nothing(known):
    return {key: value[:0] for key, value in known.items()}


def test_what_is_found_exactly_scores_1_and_sizes_that_do_not_occur_are_left_out(split, capsys):
    scores = scored(split, lambda _, known: known).compute()
    for kind in KINDS:
        for name in ("map", "map50", "map75", "map_small", "map_medium", "recall10", "recall100"):
            assert scores[f"{kind}_{name}"] == pytest.approx(1)
        assert f"{kind}_map_large" not in scores
    assert scores["box_recall1"] == pytest.approx((2 / 3 + 1) / 2), "of two cats in one image the surest alone counts"
    assert len(scores) == 2 * (12 - 2) and all(0 <= value <= 1 for value in scores.values())
    assert capsys.readouterr().out == "", "pycocotools is kept quiet"


def test_a_shifted_box_counts_up_to_its_iou(tmp_path):
    """Moved by 10 of 40 pixels: 30 of 50 are shared, IoU 0.6, so it is found at 0.5, 0.55 and 0.6 of ten thresholds."""
    split = objects(tmp_path / "coco", [(SIZE, [annotation(CAT, (10, 10, 40, 40))])])
    scores = scored(split, lambda *_: box(20, 10, 40, 40)).compute()
    for kind in KINDS:
        assert scores[f"{kind}_map50"] == pytest.approx(1) and scores[f"{kind}_map75"] == 0
        assert scores[f"{kind}_map"] == pytest.approx(0.3)


@pytest.mark.parametrize(("surest", "expected"), [("right", 1.0), ("wrong", 0.5)])
def test_a_wrong_or_double_detection_costs_what_it_outranks(tmp_path, surest, expected):
    split = objects(tmp_path / "coco", [(SIZE, [annotation(CAT, (10, 10, 40, 40))])])
    right, wrong = box(10, 10, 40, 40, score=0.8), box(60, 40, 40, 40, score=0.9 if surest == "wrong" else 0.7)
    again = box(10, 10, 40, 40, score=0.6)
    scores = scored(split, lambda *_: together(right, again, wrong)).compute()
    assert scores["box_map"] == pytest.approx(expected) and scores["mask_map"] == pytest.approx(expected)


def test_a_crowd_forgives_what_is_found_in_it_and_needs_not_be_found(split):
    """COCO's rule, which holds in the crowd's class alone: there a cat, label 1."""

    def with_one_more(label):
        more = box(0, 0, 50, 20, label, score=2.0)
        return scored(split, lambda index, known: together(known, more) if index == 3 else known).compute()

    assert with_one_more(1)["box_map"] == with_one_more(1)["mask_map"] == pytest.approx(1)
    assert with_one_more(2)["box_map"] < 0.9


def test_nothing_found_is_0(split):
    scores = scored(split, lambda _, known: nothing(known)).compute()
    assert set(scores.values()) == {0.0} and len(scores) == 20


def test_what_is_not_finite_was_not_found(split):
    def spoilt(_, known):
        return known | {"scores": known["scores"] * torch.nan}

    assert scored(split, spoilt).compute()["box_map"] == 0


def test_boxes_alone_have_no_mask_map(split):
    scores = scored(split, lambda _, known: {key: value for key, value in known.items() if key != "masks"}).compute()
    assert scores["box_map"] == pytest.approx(1) and not any(key.startswith("mask") for key in scores)


def test_what_was_found_in_a_resized_image_is_brought_back(split):
    scores = AveragePrecision(split)
    for index in range(len(split)):
        known = truth(split, index)
        half = known["masks"][:, None, ::2, ::2]  # nearly all corners have even coordinates
        found = known | {"boxes": known["boxes"] / 2, "masks": half}
        scores.update([found], [target(split, index, size=(50, 60))])
    found = scores.compute()
    assert found["box_map"] == pytest.approx(1)
    assert found["mask_map"] > 0.95, "a mask loses its corners when it is enlarged"


def noisy(index, known):
    """Boxes moved, labels changed and some invented, with scores without ties."""
    draw = torch.Generator().manual_seed(index)
    n = len(known["labels"])
    boxes = known["boxes"].repeat(3, 1) + torch.randint(-6, 7, (3 * n, 4), generator=draw)
    boxes = torch.cat([boxes, torch.tensor([[3.0, 4.0, 33.0, 40.0]])])
    masks = torch.zeros(len(boxes), *SIZE)
    for mask, (left, top, right, bottom) in zip(masks, boxes.clamp(min=0).int().tolist()):
        mask[top:bottom, left:right] = 1
    labels = torch.randint(1, 3, (len(boxes),), generator=draw)
    labels[: 2 * n] = known["labels"].repeat(2)
    scores = torch.rand(len(boxes), generator=draw)
    return {"boxes": boxes, "labels": labels, "scores": scores, "masks": masks}


def test_torchmetrics_computes_the_same(split):
    detection = pytest.importorskip("torchmetrics.detection")
    theirs = detection.MeanAveragePrecision(iou_type=("bbox", "segm"))
    for index in range(len(split)):
        found, known = noisy(index, truth(split, index)), split.target(index, crowds=True)
        found["masks"] = found["masks"].bool()
        wanted = {"boxes": known["boxes"], "labels": known["labels"], "masks": known["masks"].bool()}
        theirs.update([found], [wanted | {"iscrowd": known["crowd"].int()}])
    expected, scores = theirs.compute(), scored(split, noisy).compute()
    for kind, other in (("box", "bbox"), ("mask", "segm")):
        names = {"map": "map", "map50": "map_50", "map75": "map_75", "map_small": "map_small", "recall100": "mar_100"}
        for name, called in names.items():
            assert scores[f"{kind}_{name}"] == pytest.approx(expected[f"{other}_{called}"].item(), abs=1e-6)
    assert 0.1 < scores["box_map"] < 0.9


def one_of_two(rank, split, folder):
    torch.set_num_threads(1)  # the parent's do not live on in a fork
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    scores = AveragePrecision(split)
    for index in range(rank * 3, 3 + rank):  # three images and one
        scores.update([noisy(index, truth(split, index))], [target(split, index)])
    scores.sync()
    torch.save(scores.compute(), f"{folder}/{rank}")
    distributed.destroy_process_group()


def test_two_processes_compute_what_one_does(split, tmp_path):
    multiprocessing.start_processes(one_of_two, (split, tmp_path), nprocs=2, start_method="fork")
    expected = scored(split, noisy).compute()
    assert torch.load(tmp_path / "0") == torch.load(tmp_path / "1") == expected


def test_each_image_is_scored_once(split):
    scores = AveragePrecision(split)
    scores.update([truth(split, 0)], [target(split, 0)])
    with pytest.raises(ValueError, match="image 7 was scored twice"):
        scores.update([truth(split, 0)], [target(split, 0)])
    with pytest.raises(ValueError, match="3 of the 4 images were not scored, such as 17"):
        scores.compute()


def test_labels_must_be_the_data_sets(split):
    with pytest.raises(ValueError, match=r"labels must lie in \[1, 2\], got 0"):
        scored(split, lambda *_: box(0, 0, 5, 5, label=0))


def test_without_any_object_there_is_no_average_precision(tmp_path):
    split = objects(tmp_path / "coco", [(SIZE, [])])
    with pytest.raises(ValueError, match="no object in these images"):
        scored(split, lambda *_: box(0, 0, 5, 5)).compute()
