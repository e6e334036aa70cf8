"""Cascade Mask R-CNN: its published sizes, its arithmetic, and images with nothing in them."""

from __future__ import annotations

import pytest
import torch
from detectors import narrow, objects
from torch.nn.functional import one_hot
from torchvision.ops import generalized_box_iou

from leanconv import models, profiling
from leanconv.networks import cascade, detector, regions

SIZES = ((80, 100), (96, 70))


@pytest.fixture(scope="module")
def built():
    return narrow()


@pytest.fixture
def network(built):
    return built.train()


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return [torch.randn(3, *size) for size in SIZES]


# Sizes


@pytest.mark.parametrize(
    ("backbone", "millions"),
    [
        *zip([f"convnext_tiny_{variant}" for variant in ("2d", "1d", "1dpp", "2dpp")], (86, 86, 86, 87)),
        *zip([f"convnext_base_{variant}" for variant in ("2d", "1d", "1dpp", "2dpp")], (146, 145, 147, 148)),
    ],
)
def test_parameters_are_those_of_the_paper(backbone, millions):
    sizes = pytest.importorskip("dwoconv1d.models").BACKBONE_KERNEL_SIZES[backbone.rsplit("_", 1)[1]]
    with torch.device("meta"):
        network = models.build("cascade_mask_rcnn", backbone=backbone, backbone_kwargs={"kernel_sizes": sizes})
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions


def test_macs_do_not_depend_on_the_image(network):
    counts = profiling.count(network, (3, 64, 96))
    assert counts == profiling.count(narrow(), (3, 64, 96)) and network.training
    assert sum(cost.macs for cost in counts.modules) == counts.macs
    macs = {cost.name: cost.macs for cost in counts.modules}
    assert macs["heads.stages.2.box_head.0.0"] == 30 * 9 * 16 * 16 * 7 * 7
    assert macs["heads.masks.1.0.0.0"] == 100 * 9 * 16 * 16 * 14 * 14
    assert macs["proposals.head.conv.0.0"] == 9 * 16 * 16 * (16 * 24 + 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2)


# Boxes and maps


def test_anchors_lie_at_multiples_of_the_strides():
    maps = [torch.zeros(1, 1, *size, dtype=torch.bfloat16) for size in ((7, 5), (3, 3))]
    images = detector.ImageList(torch.zeros(2, 3, 50, 40), [(50, 40)] * 2)
    first, second = regions.Anchors((8, 16), 4)(images, maps)
    assert torch.equal(first, second) and first.dtype == torch.float32
    middles = (first[:, :2] + first[:, 2:]) / 2
    wanted = [(x * s, y * s) for s, h, w in ((8, 7, 5), (16, 3, 3)) for y in range(h) for x in range(w) for _ in "abc"]
    assert middles.tolist() == [list(each) for each in wanted]
    sides = first[:, 2:] - first[:, :2]
    assert sides[:3].tolist() == [[46, 22], [32, 32], [22, 46]] and sides[-2].tolist() == [64, 64]


def test_regions_hold_the_map_where_the_box_lies():
    def ramp(stride: int, number: int) -> torch.Tensor:
        """Of each pixel the place of its middle in the image, and the number of the map."""
        line = (torch.arange(256 // stride) + 0.5) * stride
        x, y = torch.meshgrid(line, line, indexing="xy")
        return torch.stack((x, y, torch.full_like(x, number)))[None].bfloat16().float().repeat(2, 1, 1, 1)

    maps = [ramp(stride, number) for number, stride in enumerate((4, 8))]
    boxes = [torch.tensor([[20.0, 30, 90, 72], [40, 20, 180, 200]]), torch.tensor([[8.0, 9, 119, 120]])]
    found = regions.RegionAlign(7, (4, 8))(maps, boxes)
    assert found[:, 2].flatten(1).unique(dim=1).flatten().tolist() == [0, 1, 0]
    for got, (left, top, right, bottom) in zip(found, torch.cat(boxes).tolist()):
        torch.testing.assert_close(got[0, 0], left + (torch.arange(7) + 0.5) * (right - left) / 7, rtol=0, atol=1e-3)
        torch.testing.assert_close(got[1, :, 0], top + (torch.arange(7) + 0.5) * (bottom - top) / 7, rtol=0, atol=1e-3)
    assert regions.RegionAlign(7, (4, 8))(maps, [torch.zeros(0, 4)] * 2).shape == (0, 3, 7, 7)


def test_masks_are_pasted_where_their_boxes_lie():
    masks = torch.ones(4, 28, 28)
    masks[1, :, 14:] = 0
    boxes = torch.tensor([[2.0, 3, 12, 9], [10, 10, 38, 24], [-5, -5, 3, 3], [50, 50, 60, 60]])
    pasted = regions.paste(masks, boxes, (32, 40))[:, 0] > 0.5
    wanted = torch.zeros(4, 32, 40, dtype=torch.bool)
    wanted[0, 3:9, 2:12] = wanted[1, 10:24, 10:24] = wanted[2, :3, :3] = True
    assert torch.equal(pasted, wanted)
    assert regions.paste(masks[:0], boxes[:0], (32, 40)).shape == (0, 1, 32, 40)


# The stages


def test_a_stage_learns_and_refines_the_boxes_of_the_true_class(network):
    stage = network.heads.stages[1]
    target = objects(80, 100, 2)
    boxes = target["boxes"] + torch.tensor([1.0, -1, 2, 1.5])
    sample = stage.sample([boxes], [target])
    assert sample.given[0].tolist() == [False, False, True, True]
    assert sample.labels[0].tolist() == target["labels"].tolist() * 2  # their IoU exceeds 0.6
    codes = torch.zeros(4, 4, 4)
    codes[:2] = torch.stack([stage.box_coder.encode_single(t[None], b[None]) for t, b in zip(target["boxes"], boxes)])
    codes = codes * one_hot(sample.labels[0], 4)[..., None]  # other classes stay where they are
    logits = torch.zeros(4, 4, requires_grad=True)
    class_loss, box_loss = stage.losses(sample, logits, codes.flatten(1), [target])
    assert class_loss.item() == pytest.approx(torch.tensor(4.0).log().item()) and abs(box_loss) < 1e-4
    class_loss, box_loss = stage.losses(sample, logits, torch.zeros(4, 16), [target])
    giou = generalized_box_iou(boxes, target["boxes"]).diag()
    assert box_loss.item() == pytest.approx(10 * (1 - giou).sum().item() / 4, rel=1e-4)
    (refined,) = stage.refine(sample.boxes, logits, codes.flatten(1), [(80, 100)], sample)
    torch.testing.assert_close(refined, target["boxes"], rtol=0, atol=1e-3)
    likely = one_hot(sample.labels[0], 4).float()
    (tested,) = stage.refine(sample.boxes, likely, codes.flatten(1), [(80, 100)])
    torch.testing.assert_close(tested[:2], refined)
    assert not (refined.requires_grad or tested.requires_grad)


def test_stages_ask_for_more_and_more_and_count_for_less_and_less(network, images, monkeypatch):
    target = objects(80, 100, 1) | {"boxes": torch.tensor([[10.0, 10, 50, 50]])}
    near = torch.tensor([[10.0, 10, 50, 10 + 40 * iou] for iou in (0.45, 0.55, 0.65, 0.75)])
    (label,) = target["labels"].tolist()
    for stage, found, factor in zip(network.heads.stages, ((0, 1, 1, 1), (0, 0, 1, 1), (0, 0, 0, 1)), (10, 20, 30)):
        _, (labels,) = stage.assign_targets_to_proposals([near], [target["boxes"]], [target["labels"]])
        assert labels.tolist() == [label * each for each in found]
        moved = stage.box_coder.encode_single(target["boxes"] + 4, target["boxes"])  # by a tenth of its sides
        torch.testing.assert_close(moved, torch.tensor([[factor / 10, factor / 10, 0, 0]]))
        (many,) = stage.sample([target["boxes"].repeat(30, 1)], [target]).labels
        assert len(many) == 24 // 4, "objects are a quarter of the 24 samples"
        codes = torch.zeros(1, 4, 4)
        codes[..., 2:] = 50
        (wide,) = stage.refine([near[:1]], torch.zeros(1, 4), codes.flatten(1), [(80, 100)])
        assert wide.tolist() == [[0, 0, 100, 80]], "inside the image"
    monkeypatch.setattr(cascade.Stage, "losses", lambda *_: (torch.tensor(1.0), torch.tensor(2.0)))
    monkeypatch.setattr(network.heads, "_mask_loss", lambda *_: torch.tensor(3.0))
    losses = network(images[:1], [target])
    for number, weight in enumerate((1, 0.5, 0.25)):
        parts = [losses[f"{name}_{number}"].item() for name in ("class", "box", "mask")]
        assert parts == [weight, 2 * weight, 3 * weight]


def test_mask_loss_is_that_of_the_objects_class_in_the_box(network):
    target = objects(80, 100, 2)
    target["masks"][:] = torch.tensor([1, 0])[:, None, None]  # the first is another object's
    left, top, right, bottom = target["boxes"][1].int().tolist()
    target["masks"][1, top:bottom, left : (left + right) // 2] = 1
    labels = target["labels"][1:]
    sample = cascade.Sample([target["boxes"][1:]], [labels], [torch.tensor([1])], [torch.tensor([True])])

    class Half(torch.nn.Module):
        def forward(self, x):
            logits = torch.full((1, 4, 28, 28), 50.0)
            logits[:, labels, :, 14:] = -50.0
            return logits

    maps = [torch.zeros(1, 16, 8, 8)] * 4
    assert network.heads._mask_loss(Half(), maps, sample, [target]) < 50 * 0.05  # no more than one column is wrong


def test_a_cascade_averages_what_its_stages_say(network, images):
    heads = network.eval().heads
    maps = list(network._maps(detector.batched(images)).values())
    boxes = [torch.tensor([[0.0, 0, 50, 60], [10, 10, 40, 40]])] * 2
    with torch.no_grad():
        found = heads.detect(maps, boxes, list(SIZES))
        every, refined = [], boxes
        for stage in heads.stages:
            logits, codes = stage(heads.box_regions(maps, refined))
            every.append(logits)
            refined = stage.refine(refined, logits, codes, list(SIZES))
    scores = sum(every).div(3).softmax(1)[:, 1:]
    for each, own in zip(found, scores.split(2)):
        assert len(each["scores"]) <= 6 and each["scores"].diff().le(0).all()
        distance = (each["scores"][:, None] - own.flatten()).abs()
        assert distance.min(1).values.max() < 1e-6 and each["labels"].min() >= 1
    with torch.no_grad():
        masks = sum(head(heads.mask_regions(maps, [each["boxes"] for each in found])).sigmoid() for head in heads.masks)
    for each, of_all in zip(found, masks.div(3).split([len(each["boxes"]) for each in found])):
        own = of_all[torch.arange(len(of_all)), each["labels"]]
        size = tuple(each["masks"].shape[2:])
        assert len(own) and torch.allclose(each["masks"], regions.paste(own, each["boxes"], size), atol=1e-6)


# Images with nothing in them


@pytest.mark.parametrize("case", ["some", "none", "crowds", "no proposals", "neither"])
def test_every_loss_is_finite_and_every_parameter_has_a_gradient(case, images, monkeypatch):
    network = narrow()
    targets = [objects(*SIZES[0], 2), objects(*SIZES[1], 0)]
    if case in ("none", "neither"):
        targets[0] = objects(*SIZES[0], 0)
    if case == "crowds":
        targets[0]["crowd"] = torch.tensor([True, True])
    if case in ("no proposals", "neither"):
        monkeypatch.setattr(network.proposals, "min_size", 1e6)
    losses = network(images, targets)
    assert len(losses) == 11 and all(loss.isfinite() for loss in losses.values())
    empty = case in ("none", "crowds", "neither")
    assert all((losses[f"{name}_{i}"] == 0) == empty for name in ("box", "mask") for i in range(3))
    sum(losses.values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    for found, size in zip(network.eval()(images), SIZES):
        assert found["masks"].shape == (len(found["boxes"]), 1, *size)


def test_what_is_not_a_number_is_told_and_touches_no_foreign_memory(images):
    network = narrow()
    with torch.no_grad():
        network.heads.stages[0].box_predictor.bbox_pred.bias.fill_(torch.nan)
    losses = network(images, [objects(*size, 2) for size in SIZES])
    assert losses["box_0"].isnan() and losses["mask_1"].isfinite()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
        assert all(loss.isnan() for loss in network(images, [objects(*size, 2) for size in SIZES]).values())
        assert [len(found["boxes"]) for found in network.eval()(images)] == [0, 0]


def test_a_seed_decides_what_is_learned_from(images):
    targets = [objects(*size, 2) for size in SIZES]
    network, found = narrow(samples=8, anchor_samples=8), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append({name: loss.item() for name, loss in network(images, targets).items()})
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("kind", [torch.float64, torch.int64])
def test_boxes_may_be_any_numbers(kind, network, images):
    target, losses = objects(80, 100, 2), []
    for boxes in (target["boxes"], target["boxes"].to(kind)):
        torch.manual_seed(3)
        losses.append(sum(network(images[:1], [target | {"boxes": boxes}]).values()))
    assert torch.equal(*losses)


# What is refused


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"masks": None}, "this one lacks masks"),
        ({"masks": torch.zeros(2, 80, 99)}, r"masks must be \(2, 80, 100\) for this image, got \(2, 80, 99\)"),
        ({"boxes": torch.zeros(3, 4)}, r"boxes must be \(2, 4\)"),
        ({"boxes": torch.ones(2, 4)}, "a box without width or height"),
        ({"boxes": torch.tensor([[0, 0, 5, 5], [0, 0, torch.inf, 5]])}, "beyond its image of 80x100 pixels"),
        ({"boxes": torch.tensor([[0.0, 0, 5, 5], [0, 0, 9, 80.5]])}, "beyond its image of 80x100 pixels"),
        ({"boxes": torch.tensor([[-0.5, 0, 5, 5], [0, 0, 9, 80]])}, "beyond its image of 80x100 pixels"),
        ({"labels": torch.tensor([1, 0])}, r"labels must lie in \[1, 3\], 0 being the background"),
        ({"labels": torch.tensor([1, 4])}, r"labels must lie in \[1, 3\], 0 being the background"),
    ],
)
def test_targets_that_do_not_fit_are_refused(change, says, network, images):
    target = {key: value for key, value in (objects(80, 100, 2) | change).items() if value is not None}
    with pytest.raises(ValueError, match=says):
        network(images[:1], [target])


def test_what_cannot_be_built_or_trained_is_refused(network, images):
    with pytest.raises(ValueError, match="learns from targets"):
        network(images)
    for bad, says in (([], "none"), (images[0], r"\(80, 100\)"), ([images[0][None]], r"\(1, 3, 80, 100\)")):
        with pytest.raises(ValueError, match=rf"takes images \(C, H, W\), one at least; got {says}"):
            network.eval()(bad)
    with pytest.raises(ValueError, match="strides of the backbone's maps must double"):
        narrow(backbone="vit_tiny_patch16_224", backbone_kwargs={})
    with pytest.raises(ValueError, match="norm must be one of batch, group, none"):
        narrow(norm="layer")
    with pytest.raises(ValueError, match="num_classes counts the background and must be at least 2, got 1"):
        narrow(num_classes=1)
    with pytest.raises(ValueError, match="no published weights"):
        narrow(pretrained=True)
