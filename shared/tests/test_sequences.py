"""Data of sequences: real series and images pixel by pixel, their files, their loaders."""

from __future__ import annotations

import io
import os
import wave

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F

from leanconv.data import SETS, Augment, DataNotFound, Series, SeriesData, default_root, load, series
from leanconv.data.sequences import PERMUTATION

OFFLINE = ("japanese_vowels", "smartwatch")


def small(length=20, train=22, test=11, **options) -> SeriesData:
    values = torch.randn(train + test, 2, length, generator=torch.Generator().manual_seed(0))
    values[:, :, :3] = torch.nan
    labels = torch.arange(train + test)  # each series its own label, so that labels tell series apart
    whole = Series(values, labels, labels + 100)
    splits = whole.pick(labels[:train]), whole.pick(labels[train:])
    return SeriesData("small", "random", train + test, 2, length, *splits[0].statistics(), *splits, **options)


def gather(loader, *args):
    batches = list(loader.epoch(*args))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


# Real data: it must be there or fetched, so absence is a failure ----------------------------------------------------


@pytest.mark.parametrize("name", OFFLINE)
def test_real_series(name):
    entry, data = SETS[name], load(name)
    assert (len(data.train), len(data.test)) == entry.counts and data.val is None
    assert data.input_size() == (entry.in_chans, entry.length) and entry.shape == f"{entry.in_chans}x{entry.length}"
    train, test = entry.counts
    place = entry.find(default_root())
    assert data.source == f"{entry.title}, {train} training and {test} test series, from {place}"
    keys = torch.cat((data.train.keys, data.test.keys))
    assert keys.sort().values.tolist() == list(range(sum(entry.counts)))
    known = data.train.values.isfinite().all(1)
    assert known[:, -1].all(), "what is padded is padded before the series"
    assert (known.int().diff(dim=1) >= 0).all()
    loader, _ = data.loaders(len(data.train))
    x, _ = gather(loader, 0)
    order = next(loader.order.steps(0, 0))[1]
    for channel in range(entry.in_chans):
        samples = x[:, channel][known[order]]
        assert abs(samples.mean()) < 1e-4 and abs(samples.std() - 1) < 1e-3
    assert (x.masked_fill(known[order][:, None], 0) == 0).all()
    shares = data.test.labels.bincount()
    assert data.chance() == shares.max().item() / len(data.test)


def test_what_is_known_of_the_vowels_and_the_watch():
    vowels, watch = (load(name) for name in OFFLINE)
    assert vowels.train.labels.bincount().tolist() == [30] * 9
    assert vowels.test.labels.bincount().tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]  # as the archive says
    lengths = vowels.train.values.isfinite().all(1).sum(1)
    assert (lengths.min().item(), lengths.max().item()) == (7, 26)
    assert vowels.train.values[0, 0, -20:][0].item() == pytest.approx(1.860936)
    lengths = torch.cat([split.values.isfinite().all(1).sum(1) for split in (watch.train, watch.test)])
    assert (lengths.min().item(), lengths.max().item()) == (947, 2618)
    assert watch.train.labels.bincount().tolist() == [12] * 7 and watch.test.labels.bincount().tolist() == [8] * 7


def test_pixels_are_those_of_the_images_one_by_one():
    images, rows, mixed = (load(name) for name in ("fashion_mnist", "sfashion_mnist", "pfashion_mnist"))
    assert rows.input_size() == mixed.input_size() == (1, 784) and rows.chance() == 0.1
    order = torch.randperm(784, generator=torch.Generator().manual_seed(PERMUTATION))
    for part in (0, 1):
        loaders = (data.loaders(16, augment=Augment(hflip=0.5))[part] for data in (images, rows, mixed))
        (x, y), (flat, labels), (shuffled, _) = (
            next(loader.epoch(0) if part == 0 else iter(loader)) for loader in loaders
        )
        assert torch.equal(x.flatten(2), flat) and torch.equal(y, labels)
        assert torch.equal(flat[:, :, order], shuffled), "training and test have one permutation"
    few = rows.loaders(4, image_size=14, channels_last=True)[0]
    assert next(few.epoch(0))[0].shape == (4, 1, 196) and rows.input_size(14) == (1, 196)


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLINE)
def test_fetched_from_nothing(tmp_path, name):
    data = load(name, tmp_path)
    assert str(tmp_path / name) in data.source
    assert len(load(name, tmp_path, download=False).train) == len(data.train)


def test_smoke_stands_in_for_the_papers_sets():
    assert load("char_trajectories", smoke=True).source.endswith("(in place of Character Trajectories)")
    assert load("pmnist", smoke=True).name == "pfashion_mnist"
    assert load("smartwatch", smoke=True).name == "smartwatch"


def test_fashion_is_not_taken_for_mnist():
    place = SETS["fashion_mnist"].find(default_root())
    with pytest.raises(DataNotFound, match="these are files of Fashion-MNIST"):
        load("smnist", place)


# Loaders -------------------------------------------------------------------------------------------------------------


def test_a_resumed_epoch_equals_the_unbroken_one_and_epochs_differ():
    loader, _ = small().loaders(4, seed=3)
    whole = list(loader.epoch(1))
    assert len(whole) == len(loader) == 5
    for (x, y), (x_again, y_again) in zip(whole[1:], loader.epoch(1, start_step=1), strict=True):
        assert torch.equal(x, x_again) and torch.equal(y, y_again)
    assert not torch.equal(gather(loader, 0)[1], gather(loader, 1)[1])
    assert not torch.equal(gather(loader, 0)[1], gather(small().loaders(4)[0], 0)[1])


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_global_batch(world_size):
    data = small(drop_rate=0.3)
    alone, _ = data.loaders(4)
    ranks = [data.loaders(4, rank=rank, world_size=world_size) for rank in range(world_size)]
    for (x, y), *parts in zip(alone.epoch(2), *(loader.epoch(2) for loader, _ in ranks), strict=True):
        assert torch.equal(torch.cat([part[0] for part in parts]), x)
        assert torch.equal(torch.cat([part[1] for part in parts]), y)
    seen = [label for _, loader in ranks for _, labels in loader for label in labels.tolist()]
    assert sorted(seen) == data.test.labels.tolist()


def test_dropped_samples_are_the_same_ones_in_both_forms():
    plain, mask, times = (
        small(**options) for options in ({}, {"drop_rate": 0.3}, {"drop_rate": 0.3, "irregular": "times"})
    )
    assert (plain.in_chans, mask.in_chans, times.in_chans) == (2, 3, 3)
    assert (mask.input_size(), times.input_size()) == ((3, 20), (3, 14))
    x, zeroed, short = (next(iter(data.loaders(11)[1]))[0] for data in (plain, mask, times))
    assert zeroed.shape == (11, 3, 20) and short.shape == (11, 3, 14)
    moments = short[:, 2].long()
    assert (moments.diff(dim=1) > 0).all()
    assert torch.equal(short[:, :2], x.gather(2, moments[:, None].expand(-1, 2, -1)))
    kept = torch.zeros(11, 20).scatter(1, moments, 1.0)
    assert torch.equal(zeroed[:, :2], x * kept[:, None])
    kept[:, :3] = 0  # what is padded was never observed
    assert torch.equal(zeroed[:, 2], kept)
    assert len({tuple(row) for row in moments.tolist()}) == 11, "each series loses others"
    some = mask.hold_out(5).subset(test=3)
    again = next(iter(some.loaders(3)[1]))
    assert torch.equal(again[0], zeroed[again[1] - 22]), "and always the same ones"


def test_held_out_examples_are_the_same_in_every_run_and_of_no_other_split():
    data = small().hold_out(6)
    assert (len(data.train), len(data.val), len(data.test)) == (16, 6, 11)
    assert sorted(data.train.labels.tolist() + data.val.labels.tolist()) == list(range(22))
    assert torch.equal(data.val.labels, small().hold_out(6).val.labels)
    assert data.source.endswith("6 of the training sequences are held out for validation")
    assert data.mean == small().mean
    images = load("fashion_mnist").hold_out(1000)
    assert (len(images.train), len(images.val)) == (59_000, 1000) and images.val.labels.bincount().min() > 60
    for wrong in (0, 22):
        with pytest.raises(ValueError, match=f"cannot hold {wrong} of 22 training sequences out"):
            small().hold_out(wrong)
    with pytest.raises(ValueError, match="has a validation split of its own"):
        data.hold_out(2)


def test_statistics_are_those_of_the_samples_there_are():
    values = torch.randn(2500, 2, 5) * torch.tensor([[2.0], [0.1]]) + torch.tensor([[1.0], [-3.0]])
    values[::3, :, :2] = torch.nan
    mean, std = Series(values, torch.zeros(2500), torch.zeros(2500)).statistics()
    for channel in (0, 1):
        samples = values[:, channel][values[:, channel].isfinite()].double()
        assert mean[channel] == pytest.approx(samples.mean().item())
        assert std[channel] == pytest.approx(samples.std(correction=0).item())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"augment": Augment(hflip=0.5)}, "augment, image_size and channels_last are for images, and small has none"),
        ({"channels_last": True}, "are for images"),
        ({"image_size": 20}, "are for images"),
        ({"batch_size": 23}, "batch_size=23 exceeds the 22 training examples"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        small().loaders(**{"batch_size": 4, **options})


def test_wrong_irregularities_are_refused():
    with pytest.raises(ValueError, match=r"drop_rate must lie in \[0, 1\), got 1"):
        small(drop_rate=1)
    with pytest.raises(ValueError, match="irregular must be mask or times, got 'nan'"):
        small(irregular="nan")
    with pytest.raises(ValueError, match="irregular='times' needs a drop_rate above 0"):
        small(irregular="times")
    for options, said in (({"drop_rate": 1.5}, r"\[0, 1\), got 1.5"), ({"irregular": "times"}, "needs a drop_rate")):
        with pytest.raises(ValueError, match=said):  # before any file is looked for
            load("char_trajectories", **options)
    with pytest.raises(ValueError, match="fashion_mnist does not take drop_rate"):
        load("fashion_mnist", drop_rate=0.1)
    with pytest.raises(ValueError, match="smartwatch does not take rate"):
        load("smartwatch", rate=0.1)


# Files ---------------------------------------------------------------------------------------------------------------

HEADER = "#A comment\n@problemName X\n@timeStamps false\n@classLabel true b a\n@data\n"


def test_text_of_the_archive():
    found, labels = series.read_ts(io.BytesIO(f"{HEADER}1,2,3:4,5,6:a\n\n7:8:b\n".encode()))
    assert [one.tolist() for one in found] == [[[1, 2, 3], [4, 5, 6]], [[7], [8]]] and labels == [1, 0]
    for text, said in (
        (HEADER, "there is no series"),
        ("<html>404</html>", "there is no series"),
        (f"{HEADER}1,2:3:a\n", "line 6 is no series"),
        (f"{HEADER}1,x:a\n", "line 6 is no series"),
        (f"{HEADER}1,2:c\n", "line 6 is no series"),
    ):
        with pytest.raises(ValueError, match=said):
            series.read_ts(io.BytesIO(text.encode()))


def write_trajectories(folder, counts=(1422, 1436)):
    source = np.random.default_rng(0)
    for name, count in zip(series.TRAJECTORIES, counts):
        lines = ["@classLabel true " + " ".join(map(str, range(1, 21))), "@data"]
        for index in range(count):
            length = int(source.integers(60, 183))
            channel = ",".join(f"{value:.3f}" for value in source.normal(size=length))
            lines.append(f"{channel}:{channel}:{channel}:{index % 20 + 1}")
        (folder / name).write_text("\n".join(lines) + "\n")


def test_character_trajectories_are_split_alike_in_each_class(tmp_path):
    write_trajectories(tmp_path)
    data = load("char_trajectories", tmp_path)
    parts = data.train, data.val, data.test
    assert [len(part) for part in parts] == [2000, 429, 429], "as many as the paper has"
    keys = torch.cat([part.keys for part in parts])
    assert keys.sort().values.tolist() == list(range(2858))
    for part, share in zip(parts, (0.7, 0.15, 0.15)):
        counts = part.labels.bincount(minlength=20)
        assert (counts - share * 2858 / 20).abs().max() <= 2
    last = data.train.values[:, :, -1:]
    assert (data.train.values[:, :, 170:] == last).all((1, 2)).float().mean() > 0.5, "short ones keep their last value"
    (tmp_path / series.TRAJECTORIES[0]).write_text(f"{HEADER}1,2:a\n")
    with pytest.raises(DataNotFound, match=r"Character Trajectories in .* cannot be used"):
        load("char_trajectories", tmp_path)


def write_words(folder, count=4, rate=16_000, width=2):
    source = np.random.default_rng(0)
    for word in series.WORDS:
        (folder / word).mkdir(parents=True)
        for index in range(count):
            samples = source.integers(-(2**15), 2**15, rate if index else 8000).astype("<i2")
            with wave.open(str(folder / word / f"{index}.wav"), "wb") as file:
                file.setparams((1, width, rate, 0, "NONE", ""))
                file.writeframes(samples.astype(f"<i{width}").tobytes())


def test_spoken_words_that_last_a_second(tmp_path):
    write_words(tmp_path / "speech_commands")
    assert series.find_speech(tmp_path) == tmp_path / "speech_commands"
    train, val, test = series.read_speech(tmp_path / "speech_commands")
    assert [len(part) for part in (train, val, test)] == [21, 4, 5], "a clip of half a second is left out"
    assert train.values.shape == (21, 1, 16000) and train.values.dtype == torch.int16
    cepstra, *_ = series.read_speech_mfcc(tmp_path / "speech_commands")
    assert cepstra.values.shape == (21, 20, 161) and torch.equal(cepstra.labels, train.labels)
    with pytest.raises(DataNotFound, match=r"there are \(21, 4, 5\) series instead of \(24482, 5246, 5247\)"):
        load("speech_raw", tmp_path)
    (tmp_path / "speech_commands" / "go" / "1.wav").write_bytes(b"RIFF")
    with pytest.raises(DataNotFound, match=r"go/1.wav is no whole wave file"):
        load("speech_raw", tmp_path)


def test_recordings_of_another_rate_are_refused(tmp_path):
    write_words(tmp_path, rate=8000)
    with pytest.raises(DataNotFound, match="is no recording of 16-bit samples at 16 kHz"):
        load("speech_mfcc", tmp_path)


def test_cepstra_follow_their_definition():
    """Frame by frame with numpy's FFT and scipy's cosine transform."""
    waves = torch.randn(2, 1600, dtype=torch.float64)
    found = series.mfcc(waves)
    padded = F.pad(waves[:, None], (100, 100), mode="reflect")[:, 0].numpy()
    hann = np.sin(np.pi * np.arange(200) / 200) ** 2
    points = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 66) / 2595) - 1)
    for frame in range(17):
        power = np.abs(np.fft.rfft(padded[:, 100 * frame : 100 * frame + 200] * hann)) ** 2
        bank = [np.interp(np.arange(101) * 80.0, points[m : m + 3], [0, 1, 0], left=0, right=0) for m in range(64)]
        expected = scipy.fft.dct(np.log(power @ np.array(bank).T + 1e-6), type=2, norm="ortho")[:, :20]
        np.testing.assert_allclose(found[:, :, frame].numpy(), expected, rtol=1e-9, atol=1e-9)


class Evil:
    def __reduce__(self):
        return os.system, ("exit 3",)


def test_a_file_of_arrays_cannot_bring_code_along(tmp_path):
    table = {"X": [np.ones((4, 6))], "y": np.array([1])}
    for objects, said in ((table, None), ({"X": Evil()}, "holds more than arrays: posix.system")):
        file = io.BytesIO()
        np.save(file, np.array(objects, dtype=object), allow_pickle=True)
        file.seek(0)
        if said is None:
            assert series._plain_objects(file).item()["X"][0].shape == (4, 6)
        else:
            with pytest.raises(ValueError, match=said):
                series._plain_objects(file)
    (tmp_path / "watch_dataset.npy").write_bytes(file.getvalue()[:-30])
    with pytest.raises(DataNotFound, match=r"smartwatch exercises in .* cannot be used"):
        load("smartwatch", tmp_path)
