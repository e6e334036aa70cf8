"""Loading a data set by name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets import ImageFolder

from leanconv.data import ade, sources
from leanconv.data.catalogue import IMAGENET_MEAN, IMAGENET_STD, SETS
from leanconv.data.dense import DenseData, check_scored
from leanconv.data.detection import DetectionData
from leanconv.data.entries import DataSet, DenseSet, DetectionSet, Entry, SeriesSet, default_root, place
from leanconv.data.sequences import Pixels, SeriesData, check_irregular
from leanconv.data.sources import DataNotFound
from leanconv.data.splits import Data, Split, VisionData


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
    found = place(entry, root, download)
    try:
        if isinstance(entry, SeriesSet):
            return _read_series(entry, found, options)
        if isinstance(entry, DenseSet):
            return _read_dense(entry, found, options)
        return _read_objects(entry, found, options) if isinstance(entry, DetectionSet) else _read_images(entry, found)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataNotFound(f"{entry.title} in {found} cannot be used: {error}") from error


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
    if entry.counts not in (None, (len(train), len(test))):
        own = _own("ade_format") if entry.name == "ade20k" else ""
        raise ValueError(f"there are {len(train)} + {len(test)} images instead of {entry.counts}{own}")
    if not len(train) or not len(test):
        raise ValueError(f"there are {len(train)} + {len(test)} images: both folders need some")
    source = f"{entry.title}, {len(train)} training and {len(test)} test images, from {place}"
    classes = ade.names(place) if entry.classes is None else entry.classes
    facts = (entry.name, source, classes, entry.image_size, IMAGENET_MEAN, IMAGENET_STD)
    options = {**options, "scales": tuple(options.get("scales", ()))}
    return DenseData(*facts, train, test, **options)


def _own(name: str) -> str:
    return f"; images of your own are the data set {name}: --set data={name}, or load({name!r}, ...) in Python"


def _read_objects(entry: DetectionSet, place: Path, options: dict[str, Any]) -> DetectionData:
    classes, listed, test = entry.read(place)
    counts = len(listed), len(test)
    if entry.counts not in (None, counts):
        own = _own("coco_format") if entry.name == "coco" else ""
        raise ValueError(f"there are {counts[0]} + {counts[1]} images instead of {entry.counts}{own}")
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
