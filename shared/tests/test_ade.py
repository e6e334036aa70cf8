"""ADE20K: where it lies, what counts in it, how it is cropped and distorted, and from how many views it is tested."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision import tv_tensors

from leanconv import overlays, training
from leanconv.data import IGNORED, SETS, Augment, DataNotFound, DenseData, Scenes, ade, load
from leanconv.data.distort import Crop, Distort, saturated
from leanconv.data.photographs import seeded
from leanconv.training import Recipe, dense
from leanconv.training.evaluation import evaluate_views

pytestmark = pytest.mark.usefixtures("one_thread")


def make(home, counts=(3, 2), size=(30, 40)):
    """A folder in the layout of ADE20K: masks of 0, 1, 2, 3 in stripes."""
    mask = np.arange(size[1], dtype=np.uint8)[None].repeat(size[0], 0) * 4 // size[1]
    for split, short, count in zip(ade.SPLITS, ("train", "val"), counts):
        for kind in ("images", "annotations"):
            (home / ade.FOLDER / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            stem = f"ADE_{short}_{index:08d}"
            Image.fromarray(np.stack([mask * 60] * 3, 2)).save(home / ade.FOLDER / "images" / split / f"{stem}.jpg")
            Image.fromarray(mask.astype(np.uint8)).save(home / ade.FOLDER / "annotations" / split / f"{stem}.png")
    return home


def toy(tmp_path, **options) -> DenseData:
    train, test = ade.read(make(tmp_path), 3)
    return DenseData("toy", "made", ("a", "b", "c"), 24, (0.5,) * 3, (0.5,) * 3, train, test, **options)


# Files


def test_what_files_call_0_does_not_count(tmp_path):
    train, val = ade.read(make(tmp_path), 3)
    assert (len(train), len(val)) == (3, 2) and train.first == 1
    assert train.read(0)[1].unique().tolist() == [0, 1, 2, IGNORED]
    assert (train.read(0)[1][:, :10] == IGNORED).all() and (train.read(0)[1][:, -10:] == 2).all()
    assert train.pick(torch.tensor([2])).read(0)[1].unique().tolist() == [0, 1, 2, IGNORED]
    with pytest.raises(ValueError, match=r"ADE_train_00000000\.png holds class 3; there are 2 classes, from 1"):
        ade.read(tmp_path, 2)[0].read(0)
    Image.fromarray(np.full((30, 40), 255, np.uint8)).save(train.masks[0])
    assert (train.mask(0) == IGNORED).all()


def test_wrong_layouts_are_one_sentence(tmp_path):
    assert len(ade.CLASSES) == len(set(ade.CLASSES)) == 150 == SETS["ade20k"].num_classes
    with pytest.raises(DataNotFound, match=r"ADE20K is not in .*: unpack ADEChallengeData2016\.zip there"):
        load("ade20k", root=tmp_path)
    home = make(tmp_path) / ade.FOLDER
    assert SETS["ade20k"].find(tmp_path) == SETS["ade20k"].find(home) == tmp_path
    with pytest.raises(DataNotFound, match=r"there are 3 \+ 2 images instead of \(20210, 2000\)"):
        load("ade20k", root=tmp_path)
    (home / "annotations/training/ADE_train_00000001.png").unlink()
    with pytest.raises(DataNotFound, match=r"1 of the images in .*training have no mask, such as .*_00000001\.jpg"):
        load("ade20k", root=tmp_path)
    (home / "images/training/ADE_train_00000001.jpg").unlink()
    (home / "images/validation/ADE_val_00000000.jpg").unlink()
    with pytest.raises(DataNotFound, match=r"1 of the annotations in .*validation have no image, such as .*\.png"):
        load("ade20k", root=tmp_path)


def test_images_of_ones_own(tmp_path):
    home = make(tmp_path) / ade.FOLDER
    with pytest.raises(DataNotFound, match=r"images of your own are the data set ade_format: --set data=ade_format"):
        load("ade20k", root=tmp_path)
    with pytest.raises(DataNotFound, match=r"is not in .*classes\.txt, which names the classes 1, 2, "):
        load("ade_format", root=home)
    (home / "classes.txt").write_text("left\nmiddle\nright\n")
    data = load("ade_format", root=home)
    assert data.classes == ("left", "middle", "right") and (len(data.train), len(data.test)) == (3, 2)
    assert data.train.read(0)[1].unique().tolist() == [0, 1, 2, IGNORED]
    for file in (*home.glob("*/validation/*.jpg"), *home.glob("*/validation/*.png")):
        file.unlink()
    with pytest.raises(DataNotFound, match=r"there are 3 \+ 0 images: both folders need some"):
        load("ade_format", root=home)
    (home / "classes.txt").write_text("one\n")
    with pytest.raises(DataNotFound, match=r"classes\.txt must hold the names of 2 to 254 classes, .* but it holds 1"):
        load("ade_format", root=home)


def test_the_stand_in_is_read_as_ade():
    try:
        data = load("ade20k", smoke=True, scored="resized")
    except DataNotFound as error:
        pytest.skip(f"no network and no package: {error}")
    assert data.source.endswith("(in place of ADE20K)") and data.classes[0] == "photograph" and data.train.first == 1
    assert (len(data.train), len(data.test)) == (480, 120)


def test_options_out_of_range_are_refused():
    for options, says in (
        ({"scales": (0.5, 0)}, "scales must be positive factors"),
        ({"scales": (0.5,)}, "scales and flip are for images that are scored resized, not whole"),
        ({"scored": "resized", "aspect": 1.0}, "aspect must be above 1"),
        ({"scored": "half"}, "scored must be whole, crop or resized, got 'half'"),
    ):
        with pytest.raises(ValueError, match=says):
            load("ade20k", **options)
    with pytest.raises(ValueError, match="distort must hold brightness, contrast, saturation and hue"):
        Augment(distort=(1.0, 2.0))
    with pytest.raises(ValueError, match="share and distort are for images with masks"):
        load("fashion_mnist", smoke=True).loaders(2, augment=Augment(share=0.75))


# Crops and colours


def test_no_class_fills_a_crop_where_another_can_be_drawn():
    mask = torch.zeros(40, 160, dtype=torch.uint8)
    mask[:, 120:] = 1
    mask[:20, 20:80] = IGNORED
    image, target = tv_tensors.Image(mask[None].repeat(3, 1, 1)), tv_tensors.Mask(mask)

    def shares(share):
        found = []
        for seed in range(200):
            with seeded(seed):
                crop = Crop(32, share)(image, target)
            assert torch.equal(crop[0][0].as_subclass(torch.Tensor), crop[1].as_subclass(torch.Tensor))
            counts = crop[1].flatten().bincount(minlength=256)[:IGNORED]
            found.append((counts.max() / counts.sum()).item())
        return torch.tensor(found)

    free, bound = shares(1.0), shares(0.75)
    good, better = ((found < 0.75).float().mean().item() for found in (free, bound))
    assert 0.05 < good < 0.25 and better == pytest.approx(1 - (1 - good) ** 11, abs=0.15)


def test_distortion_changes_what_it_says_and_nothing_by_default():
    chance = torch.Generator().manual_seed(0)
    image = tv_tensors.Image(torch.randint(0, 256, (3, 9, 9), generator=chance, dtype=torch.uint8))
    nothing = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, "contrast_first": True}
    distort = Distort(32, 0.5, 0.5, 36)
    assert torch.equal(distort.transform(image, nothing), image)
    x = image.as_subclass(torch.Tensor).float()
    for change, expected in (
        ({"brightness": -20.0}, (x - 20).clamp_min(0)),
        ({"contrast": 1.5}, (x * 1.5).clamp_max(255)),
        ({"brightness": 30.0, "contrast": 0.5, "contrast_first": False}, (x + 30).clamp_max(255) / 2),
    ):
        found = distort.transform(image, {**nothing, **change})
        assert found.dtype == torch.uint8 and (found.as_subclass(torch.Tensor) - expected).abs().max() <= 0.5
    turned = distort.transform(image, {**nothing, "hue": 36.0}).as_subclass(torch.Tensor).float()
    for before, after in zip(x.flatten(1).T.tolist(), turned.flatten(1).T.tolist()):
        hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in before))
        expected = colorsys.hsv_to_rgb((hue + 0.1) % 1, saturation, value)
        assert after == pytest.approx([255 * level for level in expected], abs=1.1)
    amounts = []
    for seed in range(300):
        with seeded(seed):
            amounts.append(distort.make_params([]))
    for name, middle, most in (("brightness", 0, 32), ("contrast", 1, 0.5), ("saturation", 1, 0.5), ("hue", 0, 36)):
        values = np.array([each[name] for each in amounts]) - middle
        assert 0.9 * most < np.abs(values).max() <= most and 0.4 < (values == 0).mean() < 0.6


def test_saturation_is_that_of_hsv():
    x = torch.tensor([[200.0, 90, 90, 0], [100, 30, 90, 0], [40, 90, 90, 0]])[:, None]
    for factor in (0.5, 1.5, 1.0):
        found = saturated(x, factor)[:, 0].T.tolist()
        for before, after in zip(x[:, 0].T.tolist(), found):
            hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in before))
            expected = colorsys.hsv_to_rgb(hue, min(1.0, saturation * factor), value)
            assert after == pytest.approx([255 * level for level in expected], abs=1e-3)


def test_training_is_a_function_of_seed_epoch_and_image(tmp_path):
    data = toy(tmp_path, scored="resized", aspect=4.0)
    augment = Augment(hflip=0.5, resize=(0.5, 2.0), share=0.75, distort=(32, 0.5, 0.5, 36))

    def epoch(number=0, seed=0):
        return next(iter(data.loaders(3, augment=augment, workers=0, seed=seed)[0].epoch(number)))

    (images, masks), again = epoch(), epoch()
    assert images.shape == (3, 3, 24, 24) and torch.equal(images, again[0]) and torch.equal(masks, again[1])
    assert not torch.equal(images, epoch(1)[0]) and not torch.equal(images, epoch(seed=1)[0])


# Testing


@pytest.mark.parametrize("size, expected", [((30, 40), (24, 32)), ((40, 30), (32, 24)), ((10, 100), (9, 96))])
def test_images_are_resized_and_masks_are_not(tmp_path, size, expected):
    train, test = ade.read(make(tmp_path, size=size), 3)
    data = DenseData(
        "toy", "made", ("a", "b", "c"), 24, (0.5,) * 3, (0.5,) * 3, train, test, None, "resized", 4.0, (0.5, 1.0), True
    )
    image, mask = next(iter(data.loaders(2, workers=0)[1]))
    assert image.shape == (1, 3, *expected) and mask.shape == (1, *size)
    (half, whole), mask = next(iter(data.views(workers=0)))
    assert torch.equal(whole, image) and mask.shape == (1, *size) and mask.dtype == torch.int64
    assert min(half.shape[-2:]) == pytest.approx(min(expected) / 2, abs=1)
    ranks = [len(list(data.views(workers=0, rank=rank, world_size=2))) for rank in range(2)]
    assert sum(ranks) == len(test) and toy(tmp_path).views() is None


class Sided(nn.Module):
    """Says of each pixel what its column and its brightness are: neither mirrored nor resized images give the same."""

    def __init__(self, num_classes: int = 3, in_chans: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(in_chans, num_classes, 3, padding=1)

    def forward(self, x):
        return {"out": self.layer(x) * torch.linspace(0, 4, x.shape[-1])}


def test_the_mean_over_views_is_that_of_probabilities_of_the_masks_size():
    network, views = Sided(), [torch.randn(1, 3, 6, 8), torch.randn(1, 3, 9, 12)]
    expected = torch.zeros(1, 3, 12, 16)
    for view in views:
        for mirrored in (False, True):
            said = network(view.flip(3) if mirrored else view)["out"]
            said = F.interpolate(said, (12, 16), mode="bilinear")
            expected += (said.flip(3) if mirrored else said).softmax(1) / 4
    torch.testing.assert_close(dense.averaged(network, views, (12, 16), True), expected)
    one = dense.averaged(network, views[:1], (12, 16), False)
    torch.testing.assert_close(one, F.interpolate(network(views[0])["out"], (12, 16), mode="bilinear").softmax(1))


def test_a_run_ends_with_both_scores_and_pictures(tmp_path):
    data = toy(tmp_path / "data", scored="resized", scales=(0.5, 1.0), flip=True)
    recipe = Recipe(epochs=2, batch_size=3, lr=0.01, workers=0, augment=Augment(resize=(0.5, 1.5)))
    result = training.fit(Sided(), recipe, data, out=tmp_path / "run", device="cpu")
    again = evaluate_views(result.model, data.views(workers=0), recipe)
    assert result.summary["miou_multiscale"] == again["miou_multiscale"]
    assert result.summary["miou"] == training.evaluate(result.model, data.loaders(3, workers=0)[1], recipe)["miou"]
    told = [line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if "multiscale" in line]
    assert len(told) == 1, "at the end alone"
    overlays.overlays(result.model, data, tmp_path / "predictions.png", 2)
    assert (tmp_path / "predictions.png").stat().st_size > 10_000


def test_scenes_without_a_shift_are_as_they_were(tmp_path):
    mask = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(mask)
    assert Scenes((mask,), (mask,), 2).mask(0).tolist() == [[0, 1, 255]]
