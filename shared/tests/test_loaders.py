"""The loaders: what is seen depends on (seed, epoch, step) and on nothing else."""

from __future__ import annotations

import multiprocessing
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from leanconv.data import Augment, Split, VisionData, load

EVERYTHING = Augment(padding=2, hflip=0.5, erase=0.5, erase_mode="pixel", cutout=3)


def small(train=22, test=11, chans=3, side=8) -> VisionData:
    images = torch.randint(0, 256, (train + test, chans, side, side), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(train + test)  # each image its own label, so that labels tell images apart
    splits = [Split(images[s].to(torch.uint8), labels[s]) for s in (slice(train), slice(train, None))]
    stats = (0.5,) * chans, (0.25,) * chans
    return VisionData("small", "random", train + test, chans, side, *stats, *splits)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> VisionData:
    root = tmp_path_factory.mktemp("photographs")
    for split, count in (("train", 5), ("val", 4)):
        for number, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                noise = np.random.default_rng([number, index]).integers(0, 255, (9, 8, 3), dtype=np.uint8)
                Image.fromarray(noise).resize((80, 90)).save(root / split / name / f"{index}.png")
    return load("imagefolder", root)


def kinds(photographs):
    """(data, options) for the tensor loader, for photographs, and for tensors that go through timm's transforms."""
    photo = Augment(hflip=0.5, erase=0.3, color_jitter=0.3, rand_augment="rand-m9-mstd0.5-inc1", erase_mode="pixel")
    return [
        (small(), {"augment": EVERYTHING}),
        (photographs, {"augment": photo, "image_size": 32, "workers": 0}),
        (small(), {"augment": Augment(rand_augment="rand-m7"), "workers": 0}),
    ]


def gather(loader, *args):
    batches = list(loader.epoch(*args))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


@pytest.mark.parametrize("kind", range(3))
def test_a_resumed_epoch_equals_the_unbroken_one(photographs, kind):
    data, options = kinds(photographs)[kind]
    loader, _ = data.loaders(4, seed=3, **options)
    whole = list(loader.epoch(1))
    assert len(whole) == len(loader) == len(data.train) // 4
    fresh, _ = data.loaders(4, seed=3, **options)
    for (x, y), (x_again, y_again) in zip(whole[1:], fresh.epoch(1, start_step=1), strict=True):
        assert torch.equal(x, x_again) and torch.equal(y, y_again)
    assert list(fresh.epoch(1, start_step=len(fresh))) == []


@pytest.mark.parametrize("kind", range(3))
def test_epochs_and_seeds_differ(photographs, kind):
    data, options = kinds(photographs)[kind]
    loader, _ = data.loaders(4, **options)
    other, _ = data.loaders(4, seed=1, **options)
    images, labels = gather(loader, 0)
    assert len(labels.unique()) > 1 and images.isfinite().all()
    for again, _ in (gather(loader, 1), gather(other, 0)):
        assert not torch.equal(images, again)


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_global_batch(photographs, kind, world_size):
    data, options = kinds(photographs)[kind]
    alone, _ = data.loaders(4, **options)
    ranks = [data.loaders(4, rank=rank, world_size=world_size, **options)[0] for rank in range(world_size)]
    for (x, y), *parts in zip(alone.epoch(2), *(loader.epoch(2) for loader in ranks), strict=True):
        assert all(len(part[1]) == 4 // world_size for part in parts)
        assert torch.equal(torch.cat([part[0] for part in parts]), x)
        assert torch.equal(torch.cat([part[1] for part in parts]), y)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("test", [1, 7, 12, 13])
def test_evaluation_sees_every_image_once(world_size, test):
    data = small(test=test)
    seen = []
    for rank in range(world_size):
        _, loader = data.loaders(12, rank=rank, world_size=world_size)
        batches = list(loader)
        assert len(batches) == len(loader)
        seen += [label for _, labels in batches for label in labels.tolist()]
    assert sorted(seen) == data.test.labels.tolist()


def test_evaluation_of_photographs_is_sharded_and_fixed(photographs):
    options = {"image_size": 32, "workers": 0}
    _, alone = photographs.loaders(3, **options)
    whole = torch.cat([images for images, _ in alone])
    parts = [photographs.loaders(3, rank=rank, world_size=3, **options)[1] for rank in range(3)]
    assert torch.equal(torch.cat([images for part in parts for images, _ in part]), whole)
    assert whole.shape == (8, 3, 32, 32) and len(alone) == 3


def test_padding_keeps_small_images_at_their_size():
    """A pad-and-crop alone moves the pixels by whole steps: every row of the result is a shifted row, or black."""
    data = small(side=12)
    loader, _ = data.loaders(22, augment=Augment(padding=2, rand_augment="torchvision-m0-n0"), workers=0)
    images, _ = next(loader.epoch(0))
    order = next(loader.steps.order.steps(0, 0))[1]
    shift = -torch.tensor(data.mean).view(1, -1, 1, 1) / torch.tensor(data.std).view(1, -1, 1, 1)
    plain = data.train.images[order].float() / 255 / torch.tensor(data.std).view(1, -1, 1, 1) + shift
    padded = torch.nn.functional.pad(plain - shift, [2] * 4) + shift
    windows = padded.unfold(2, 12, 1).unfold(3, 12, 1)  # (N, C, 5, 5, 12, 12)
    distances = (windows - images[:, :, None, None]).abs().amax((1, 4, 5)).flatten(1)
    assert distances.min(1).values.max() < 1e-5
    assert len(set(distances.argmin(1).tolist())) > 5


@pytest.mark.parametrize("chans", (1, 3))
def test_torchvisions_rand_augment_draws_from_the_key_alone(chans):
    augment = Augment(padding=4, hflip=0.5, rand_augment="torchvision-m9-n2", erase=0.3)
    (first, _), (second, _), (other, _) = (
        gather(small(chans=chans, side=16).loaders(4, augment=augment, workers=0, seed=seed)[0], 1)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_workers_change_nothing_and_end_with_the_loader(photographs):
    options = {"augment": Augment(hflip=0.5, rand_augment="rand-m9"), "image_size": 32}
    before = torch.get_rng_state()
    reference, _ = photographs.loaders(2, workers=0, **options)
    expected = [gather(reference, epoch) for epoch in range(2)]
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    loader, _ = photographs.loaders(2, workers=2, **options)
    for epoch in range(2):  # the second time the workers live on
        assert torch.equal(gather(loader, epoch)[0], expected[epoch][0])
    broken = loader.epoch(0)
    next(broken)
    broken.close()
    assert torch.equal(gather(loader, 1)[0], expected[1][0]), "an epoch left half-way leaks into no other"
    assert len(multiprocessing.active_children()) >= 2
    del loader, broken
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


def test_no_augmentation_is_plain_normalisation():
    data = small()
    train, test = data.loaders(11)
    images, labels = gather(train, 0)
    assert sorted(labels.tolist()) == list(range(22)), "every training image once"
    expected = (data.train.images[labels].float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(images, expected)
    images, _ = next(iter(test))
    torch.testing.assert_close(images, (data.test.images.float() / 255 - 0.5) / 0.25)


def test_crops_and_flips_are_what_they_say():
    data = small(train=64)
    loader, _ = data.loaders(64, augment=Augment(padding=2, hflip=0.5))
    found = set()
    images, labels = gather(loader, 0)
    padded = F.pad(data.train.images, [2] * 4)
    for image, label in zip(images, labels, strict=True):
        for top in range(5):
            for left in range(5):
                crop = (padded[label, :, top : top + 8, left : left + 8].float() / 255 - 0.5) / 0.25
                found |= {
                    (top, left, flip) for flip in (0, 1) if torch.allclose(image, crop.flip(-1) if flip else crop)
                }
    assert {top for top, _, _ in found} == {left for _, left, _ in found} == set(range(5))
    assert {flip for _, _, flip in found} == {0, 1}
    assert len(found) > 20


def test_always_flip_flips_all():
    data = small()
    images, labels = gather(data.loaders(22, augment=Augment(hflip=1.0))[0], 0)
    torch.testing.assert_close(images, (data.train.images[labels].flip(-1).float() / 255 - 0.5) / 0.25)


def test_cutout_and_erasing_cover_what_they_should():
    white = torch.full((500, 1, 16, 16), 255, dtype=torch.uint8)
    split = Split(white, torch.zeros(500, dtype=torch.long))
    data = VisionData("white", "white", 1, 1, 16, (0.5,), (0.25,), split, split)

    def erased(**augment) -> torch.Tensor:
        images, _ = gather(data.loaders(500, augment=Augment(**augment))[0], 0)
        return (images[:, 0] == 0).float()

    cut = erased(cutout=4)
    assert cut.sum((1, 2)).max() == 16 and cut.sum((1, 2)).min() >= 4  # whole, or a quarter of it in a corner
    assert cut.mean(0).min() > 0, "every pixel is cut at times"
    sometimes = erased(erase=0.25)
    share = sometimes.sum((1, 2)).gt(0).float().mean().item()
    assert 0.17 < share < 0.33
    areas = erased(erase=1.0).mean((1, 2))
    assert areas.min() > 0 and areas.max() < 0.45 and 0.12 < areas.mean() < 0.22  # uniform in 0.02 ... 0.33
    noise, _ = gather(data.loaders(500, augment=Augment(erase=1.0, erase_mode="pixel"))[0], 0)
    changed = noise[(noise - 2).abs() > 1e-4]
    assert abs(changed.mean()) < 0.05 and abs(changed.std() - 1) < 0.05


def randomly(policy: str, chans: int):
    return small(chans=chans, side=12).loaders(4, augment=Augment(rand_augment=policy), workers=0)[0].loader.dataset


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "rand-m1-mstd1", "v0-mstd2", "augmix-m9"])
@pytest.mark.parametrize("chans", [1, 3])
def test_every_draw_of_a_policy_gives_an_image(policy, chans):
    data = randomly(policy, chans)
    for draw in range(4000 if policy.startswith("rand") else 100):
        assert data[draw, draw % 22][0].isfinite().all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_posterize_keeps_the_highest_bits(mode):
    """None at timm's top level, which pillow 13 refuses and older ones made black."""
    (step,) = [step for step in randomly("rand-m9-inc1", 3).transform.transforms if hasattr(step, "ops")]
    (operation,) = [operation for operation in step.ops if operation.name == "PosterizeIncreasing"]
    operation.prob = 1.0
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert(mode)
    for level, bits in ((0, 4), (5, 2), (9, 1), (10, 0)):
        operation.magnitude = level
        lost = np.asarray(ramp, dtype=int) % 2 ** (8 - bits)
        np.testing.assert_array_equal(np.asarray(operation(ramp)), np.asarray(ramp) - lost)


def test_size_and_layout_on_request():
    loader, evaluation = small().loaders(4, augment=EVERYTHING, image_size=12, channels_last=True)
    for images, _ in (next(loader.epoch(0)), next(iter(evaluation))):
        assert images.shape == (4, 3, 12, 12) and images.is_contiguous(memory_format=torch.channels_last)
    images, _ = next(small().loaders(4, augment=EVERYTHING)[0].epoch(0))
    assert images.is_contiguous() and images.dtype == torch.float32


def test_batches_are_the_callers_to_change():
    _, evaluation = small().loaders(4)
    first, _ = next(iter(evaluation))
    kept = first.clone()
    first.zero_()
    assert torch.equal(next(iter(evaluation))[0], kept)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "not a positive multiple"),
        ({"batch_size": 5, "world_size": 2}, "5 is not a positive multiple of world_size=2"),
        ({"batch_size": 23}, "batch_size=23 exceeds the 22 training examples"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "rank must lie in"),
        ({"batch_size": 4, "augment": Augment(color_jitter=0.4)}, "color_jitter is for photographs"),
        ({"batch_size": 4, "augment": Augment(rand_augment="rand-m9", cutout=4)}, "cutout is for images in memory"),
        (
            {"batch_size": 4, "augment": Augment(rand_augment="torchvision-m31")},
            "magnitude 0 to 30, got 'torchvision-m31'",
        ),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        small().loaders(**options)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"hflip": 3}, r"hflip must lie in \[0, 1\], got 3"),
        ({"scale": (0.0, 1.0)}, r"scale must lie in \(0, 1\], got \(0.0, 1.0\)"),
        ({"scale": (0.5,)}, r"scale must be a pair \(low, high\), got \(0.5,\)"),
        ({"color_jitter": float("nan")}, r"color_jitter must lie in \[0, inf\), got nan"),
        ({"padding": "2"}, r"padding must lie in \[0, inf\), got '2'"),
        ({"erase_mode": "rand"}, "erase_mode must be one of const, pixel, got 'rand'"),
        ({"interpolation": "cubic"}, "interpolation must be one of bicubic"),
    ],
)
def test_an_augmentation_out_of_range_is_refused(option, said):
    with pytest.raises(ValueError, match=said):
        Augment(**option)


def test_a_start_beyond_the_epoch_is_refused():
    with pytest.raises(ValueError, match=r"start_step must lie in \[0, 5\], got 6"):
        next(small().loaders(4)[0].epoch(0, start_step=6))


# Affine maps ---------------------------------------------------------------------------------------------------------


def mapped(matrix, images):
    loader, _ = small(train=len(images), side=images.shape[-1], chans=images.shape[1]).loaders(len(images))
    count = len(images)
    none = (
        torch.zeros(count, 2, dtype=torch.long),
        torch.zeros(count, dtype=torch.bool),
        torch.zeros(count, 0, 4).long(),
    )
    maps = torch.tensor(matrix, dtype=torch.float32).expand(count, -1, -1)
    return (loader.transform(images, *none, 0.0, maps) * 0.25 + 0.5) * 255


def test_maps_turn_move_and_shrink():
    images = torch.randint(0, 256, (3, 2, 8, 8), dtype=torch.uint8)
    plain = images.float()
    torch.testing.assert_close(mapped([[1.0, 0, 0], [0, 1, 0]], images), plain, rtol=0, atol=0.01)
    turned = mapped([[0.0, -1, 0], [1, 0, 0]], images)
    torch.testing.assert_close(turned, plain.rot90(1, (2, 3)), rtol=0, atol=0.01)
    moved = mapped([[1.0, 0, -0.5], [0, 1, 0]], images)  # reads two pixels further left: the image goes to the right
    torch.testing.assert_close(moved, F.pad(plain, (2, -2)), rtol=0, atol=0.01)


def test_maps_are_drawn_within_what_was_asked_for():
    loader, _ = small(train=4000).loaders(4000, augment=Augment(rotate=30, shift=2, shrink=0.75, chance=0.5))
    maps = loader.affine(torch.Generator().manual_seed(0))
    scale = 1 / torch.linalg.det(maps[:, :, :2]).sqrt()
    angle = torch.rad2deg(torch.atan2(maps[:, 1, 0], maps[:, 0, 0]))
    move = -torch.linalg.solve(maps[:, :, :2], maps[:, :, 2:])[:, :, 0] * 8 / 2  # in pixels
    for values, low, high, rest in (
        (scale, 0.75, 1, 1),
        (angle, -30, 30, 0),
        (move[:, 0], -2, 2, 0),
        (move[:, 1], -2, 2, 0),
    ):
        drawn = values[(values - rest).abs() > 1e-3]
        assert 0.45 < len(drawn) / 4000 < 0.55
        assert low - 1e-3 < drawn.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < drawn.max() < high + 1e-3


def test_chance_concerns_cutout_too():
    white = torch.full((500, 1, 16, 16), 255, dtype=torch.uint8)
    split = Split(white, torch.zeros(500, dtype=torch.long))
    data = VisionData("white", "white", 1, 1, 16, (0.5,), (0.25,), split, split)
    images, _ = gather(data.loaders(500, augment=Augment(cutout=4, chance=0.5))[0], 0)
    assert 0.4 < (images == 0).any(3).any(2).float().mean() < 0.6


def test_maps_are_for_images_in_memory(photographs):
    with pytest.raises(ValueError, match="rotate, shift and shrink are for images in memory"):
        photographs.loaders(2, augment=Augment(shift=1))
