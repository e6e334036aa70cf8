"""What is known of a data set before it is loaded, and how its files are found or fetched."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from leanconv.data import coco, scenes, series, sources
from leanconv.data.objects import Objects
from leanconv.data.sources import DataNotFound

# For smoke runs, best first: these need no more than packages.
OFFLINE = ("fashion_mnist", "mnist5k", "digits")
OFFLINE_SERIES = ("japanese_vowels", "smartwatch")
OFFLINE_DENSE = ("composites",)
OFFLINE_ADE = ("composites_ade",)
OFFLINE_OBJECTS = ("composites_coco",)


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
    classes: tuple[str, ...] | None  # None: as the folder names them
    image_size: int  # of the squares that are cropped from images for training
    counts: tuple[int, int] | None  # training and test images; None: as many as there are
    advice: str
    find: Callable[[Path], Path | None]
    read: Callable[[Path], tuple[scenes.Scenes, scenes.Scenes]]
    fetchers: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    folder: str = ""
    stand_ins: tuple[str, ...] = OFFLINE_DENSE

    @property
    def num_classes(self) -> int | None:
        return None if self.classes is None else len(self.classes)

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


def default_root() -> Path:
    """``$LEANCONV_DATA``, else ``leanconv`` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LEANCONV_DATA") or Path(cache, "leanconv")).expanduser()


def place(entry: Entry, root: Path, download: bool) -> Path:
    """Where the data set lies, in `root` or where packages install it; what is absent is fetched if that is allowed.

    Raises:
        DataNotFound: it is absent and could not be fetched.
    """
    found = entry.find(root)
    if found is None and download and entry.fetchers:
        try:
            sources.install(root / (entry.folder or entry.name), entry.fetchers)
        except (DataNotFound, OSError) as error:
            raise DataNotFound(f"{_absent(entry, root)}\n{error}") from error
        found = entry.find(root)
    if found is None:
        raise DataNotFound(_absent(entry, root))
    return found


def _absent(entry: Entry, root: Path) -> str:
    return f"{entry.title} is not in {root} nor in {root / (entry.folder or entry.name)}: {entry.advice}"
