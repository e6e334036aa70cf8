"""Images with masks: their files, what is made of them, and the loaders."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from leanconv.data import (
    IGNORED,
    SETS,
    Augment,
    DataNotFound,
    DenseData,
    Scenes,
    composites,
    default_root,
    load,
    scenes,
)
from leanconv.data.order import stream
from leanconv.training import ConfigError, Recipe, build


def write(folder, name, mask, image=None):
    """An image whose red channel tells the mask, stored without loss, and the mask."""
    shown = np.zeros((*mask.shape, 3), np.uint8) if image is None else image
    if image is None:
        shown[:, :, 0] = 10 * mask
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.png", folder / f"{name}-mask.png"
    Image.fromarray(shown).save(paths[0])
    Image.fromarray(mask).save(paths[1])
    return paths


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DenseData:
    """Twelve pictures of 3 classes, of different sizes; black outside the mask's two shapes."""
    folder, pairs = tmp_path_factory.mktemp("dense"), []
    for index in range(12):
        mask = np.zeros((40 + index, 52 - index), np.uint8)
        mask[5 : 15 + index, 20:30] = 1
        mask[25:35, 5:18] = 2
        pairs.append(write(folder, str(index), mask))
    images, masks = zip(*pairs)
    train, test = Scenes(images[:7], masks[:7], 3), Scenes(images[7:], masks[7:], 3)
    return DenseData("toy", "made", ("none", "one", "two"), 32, (0.0,) * 3, (1.0,) * 3, train, test)


# Files


def test_composites_are_garments_with_exact_masks_and_are_always_the_same():
    try:
        data = load("voc2012", smoke=True)
    except DataNotFound as error:
        pytest.skip(f"no network and no package: {error}")
    assert data.source.endswith("(in place of PASCAL VOC 2012)") and data.num_classes == 6
    assert (len(data.train), len(data.test)) == SETS["composites"].counts == (480, 120)
    assert not set(composites.PHOTOGRAPHS["train"]) & set(composites.PHOTOGRAPHS["val"])
    root = default_root()
    place = composites.find_photographs(root)
    photographs = [composites.read_photograph(place, name) for name in composites.PHOTOGRAPHS["val"]]
    garments = composites.choose(*SETS["fashion_mnist"].read(SETS["fashion_mnist"].find(root))[1])
    assert np.bincount(garments[1]).tolist() == [1000] * 5
    for index in (0, 77):
        scene = composites.compose(photographs, *garments, seed=stream(1, index), side=composites.SIDES)
        image, mask = data.test.read(index)
        assert np.array_equal(scene.mask, mask.numpy()) and set(np.unique(scene.objects)) <= {0, 1, 2, 3}
        difference = (image.permute(1, 2, 0).int() - torch.tensor(scene.image).int()).abs().float()
        assert difference.mean() < 6, "what JPEG loses is little"
    frequent = data.subset(test=30)
    assert 0.5 / 6 < frequent.chance() < 1 / 6


def test_a_garments_mask_is_its_silhouette_without_holes():
    pixels = np.zeros((28, 28), np.uint8)
    pixels[6:22, 6:22] = 200
    pixels[12:16, 12:16] = 0  # a dark print

    class Middle:
        def integers(self, low, high):
            return 56

        def uniform(self, low, high, count=None):
            return 0.0 if count is None else np.full(count, 0.5)

    look, shape = composites._garment(pixels, Middle(), composites.GARMENT)
    expected = np.zeros((56, 56), np.uint8)
    expected[12:44, 12:44] = 255
    assert np.array_equal(np.asarray(shape), expected)
    assert np.asarray(look)[14, 14].tolist() == [100] * 3


def test_voc_and_sbd_are_read_where_they_lie(tmp_path):
    home = tmp_path / scenes.VOC
    for name in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (home / name).mkdir(parents=True)
    for split, names in (("train", ["a", "b"]), ("val", ["c"])):
        (home / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names))
    assert SETS["voc2012"].find(tmp_path) == SETS["voc2012"].find(home) == tmp_path
    with pytest.raises(DataNotFound, match=r"there are 2 \+ 1 images instead of \(1464, 1449\)"):
        load("voc2012", root=tmp_path)
    with pytest.raises(DataNotFound, match="benchmark_RELEASE"):
        load("voc2012_sbd", root=tmp_path)

    more = tmp_path / scenes.SBD
    for name in ("cls", "img"):
        (more / name).mkdir(parents=True)
    (more / "train.txt").write_text("a\nd\nc\n")
    (more / "val.txt").write_text("e\nd\n")
    mask = np.array([[0, 20], [7, 255]], np.uint8)
    scipy.io.savemat(more / "cls" / "d.mat", {"GTcls": {"Segmentation": mask}})
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(more / "img" / "d.jpg")
    assert SETS["voc2012_sbd"].find(tmp_path) == tmp_path
    train, val = scenes.read_voc_sbd(tmp_path)
    assert [path.stem for path in train.images] == [path.stem for path in train.masks] == ["a", "b", "d", "e"]
    assert [path.name for path in val.masks] == ["c.png"]
    assert train.read(2)[1].tolist() == mask.tolist()


def test_what_is_wrong_with_a_mask_is_said_with_its_name(tmp_path):
    good = np.ones((4, 6), np.uint8)
    bad = {
        "size": (good[:3], r"size-mask\.png and its image differ in size: 3x6 and 4x6 pixels"),
        "class": (good * 5, r"class-mask\.png holds class 5; there are 5 classes"),
        "colour": (np.zeros((4, 6, 3), np.uint8), "one channel of bytes"),
    }
    for name, (mask, says) in bad.items():
        paths = write(tmp_path, name, mask, image=np.zeros((4, 6, 3), np.uint8))
        with pytest.raises(ValueError, match=says):
            Scenes(*[(path,) for path in paths], 5).read(0)
    image, mask = write(tmp_path, "torn", good)
    mask.write_bytes(mask.read_bytes()[:40])
    with pytest.raises(OSError, match=r"cannot read the mask .*torn-mask\.png"):
        Scenes((image,), (mask,), 5).read(0)
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        Scenes((image,), (tmp_path / "absent.png",), 5).read(0)


# Loaders


def epoch(data, number=0, start_step=0, **options):
    train, _ = data.loaders(
        min(3, len(data.train)), **{"workers": 0, "augment": Augment(hflip=0.5, resize=(0.5, 2.0)), **options}
    )
    return list(train.epoch(number, start_step))


def test_mask_and_image_stay_together(data):
    """The red channel tells the class, but for what interpolation does at edges and black means beyond the image."""
    batches = epoch(data)
    assert len(batches) == 2
    images, masks = (torch.cat(parts) for parts in zip(*batches))
    assert images.shape == (6, 3, 32, 32) and masks.shape == (6, 32, 32) and masks.dtype == torch.int64
    told = (images[:, 0] * 255 / 10).round().long()
    inside = masks != IGNORED
    assert (told[~inside] == 0).all() and 0.01 < (~inside).float().mean() < 0.6
    assert (told == masks)[inside].float().mean() > 0.95
    assert set(masks.unique().tolist()) == {0, 1, 2, IGNORED}


def test_a_resized_mask_lies_where_its_image_does(tmp_path):
    """What is bright is what the mask shows, at any size, but for the edge's own pixels; half a pixel aside is more."""
    mask = np.zeros((100, 140), np.uint8)
    mask[30:70, 40:90] = 1
    images, masks = zip(write(tmp_path, "square", mask, image=np.repeat(mask[:, :, None] * 255, 3, 2)))
    scenes = Scenes(images, masks, 2)
    facts = ("toy", "made", ("none", "one"), 100, (0.0,) * 3, (1.0,) * 3, scenes, scenes)
    wrong = []
    for size in range(53, 200, 9):
        ((tested, told),) = DenseData(*facts, scored="crop").loaders(1, workers=0, image_size=size)[1]
        ((trained, also),) = epoch(DenseData(*facts), augment=Augment(resize=(size / 100,) * 2))
        wrong += [((x[:, 0] > 0.5) != (y == 1)).float().mean().item() for x, y in ((tested, told), (trained, also))]
    assert np.mean(wrong) < 0.002


def test_batches_are_functions_of_seed_epoch_and_step(data):
    def same(one, other):
        return all(torch.equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair))

    first = epoch(data)
    assert same(first, epoch(data)) and same(first[1:], epoch(data, start_step=1))
    assert not same(first, epoch(data, 1)) and not same(first, epoch(data, seed=1))
    ranks = [epoch(data, rank=rank, world_size=3) for rank in range(3)]
    joined = [[torch.cat(parts) for parts in zip(*step)] for step in zip(*ranks)]
    assert same(first, joined)


def test_blur_and_jitter_leave_masks_alone(data):
    plain, changed = (epoch(data, augment=Augment(**options)) for options in ({}, {"blur": 1.0, "color_jitter": 0.4}))
    for (images, masks), (other, same) in zip(plain, changed):
        assert masks.shape == same.shape and not torch.equal(images, other)


@pytest.mark.parametrize("scored", ["whole", "crop"])
def test_testing_sees_every_image_once(data, scored):
    kind = DenseData(**{**vars(data), "scored": scored})
    batches = [list(kind.loaders(4, rank=rank, world_size=2, workers=0)[1]) for rank in range(2)]
    sizes = [tuple(masks.shape) for share in batches for _, masks in share]
    if scored == "whole":
        assert sizes == [(1, 47 + i, 45 - i) for i in range(5)]
        images, masks = batches[0][0]
        read = data.test.read(0)
        assert torch.equal(masks[0], read[1].long()) and torch.equal((images[0] * 255).round(), read[0].float())
    else:
        assert sizes == [(2, 32, 32), (2, 32, 32), (1, 32, 32)]


def test_what_masks_cannot_follow_is_refused(data):
    with pytest.raises(ValueError, match="images with masks do not take padding, erase: augment them by hflip, resize"):
        data.loaders(2, augment=Augment(padding=4, erase=0.5))
    with pytest.raises(ValueError, match="batch_size counts all ranks: 4 is not a positive multiple of world_size=3"):
        data.loaders(4, world_size=3)
    with pytest.raises(ValueError, match="rank must lie in"):
        data.loaders(4, rank=1)
    with pytest.raises(ValueError, match="resize, blur, share and distort are for images with masks"):
        load("fashion_mnist", smoke=True).loaders(2, augment=Augment(blur=0.5))
    with pytest.raises(ValueError, match="voc2012 does not take drop_rate"):
        load("voc2012", drop_rate=0.5)
    with pytest.raises(ValueError, match="scored must be whole, crop or resized, got 'half'"):
        load("voc2012", scored="half")
    for change in ({"mixup": 0.2}, {"loss": "bce"}):
        with pytest.raises(ConfigError, match="has a label for every pixel"):
            build.data(Recipe(data="composites", **change))


def test_chance_is_what_the_commonest_class_gets(data):
    masks = [data.test.read(i)[1] for i in range(len(data.test))]
    pixels = torch.cat([mask.flatten() for mask in masks])
    assert data.chance() == pytest.approx((pixels == 0).float().mean().item() / 3)
    crops = DenseData(**{**vars(data), "scored": "crop"})
    pixels = torch.cat([mask.flatten() for _, masks in crops.loaders(3, workers=0)[1] for mask in masks])
    assert crops.chance() == pytest.approx((pixels == 0).float().mean().item() / 3) != data.chance()
    few = data.subset(train=3, test=2)
    assert (len(few.train), len(few.test)) == (3, 2) and "of these 3 train, 2 test images" in few.source
    held = data.hold_out(2)
    assert (len(held.train), len(held.val)) == (5, 2)
