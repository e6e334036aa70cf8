"""Where series lie and how they are read: the text of the UEA archive, a smartwatch's recordings, spoken words.

As in :mod:`leanconv.data.sources`, a ``find_*`` returns a path or None, a ``fetch_*`` fills a folder. A ``read_*``
returns the series of each split.
"""

from __future__ import annotations

import pickle
import wave
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from leanconv.data import sources
from leanconv.data.order import generator
from leanconv.data.sequences import Series

Splits = tuple[Series, Series | None, Series]  # for training, validation and testing

SPLIT = 0  # seed of the splits that are drawn here


# Files in packages ---------------------------------------------------------------------------------------------------


def find_files(package: str, folder: str, names: Sequence[str], own: str, root: Path) -> Path | None:
    """The folder or wheel that holds files: those of an installed package, or what lies in `root` or `root / own`."""
    installed = sources.inside_distribution(package, f"{folder}/{names[0]}") if package else None
    if installed is not None:
        return installed.parent
    for place in (root, root / own):
        if all((place / name).is_file() for name in names):
            return place
        wheel = next(place.glob(f"{package}-*.whl"), None) if package else None
        if wheel is not None:
            return wheel
    return None


@contextmanager
def opened(place: Path, folder: str, name: str) -> Any:
    if place.suffix != ".whl":
        with (place / name).open("rb") as file:
            yield file
        return
    try:
        with zipfile.ZipFile(place) as wheel, wheel.open(f"{folder}/{name}") as file:
            yield file
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{place} does not hold {folder}/{name}: {error}") from error


# The UEA and UCR archives --------------------------------------------------------------------------------------------

VOWELS_FOLDER = "aeon/datasets/data/JapaneseVowels"
VOWELS = ("JapaneseVowels_TRAIN.ts", "JapaneseVowels_TEST.ts")
TRAJECTORIES = ("CharacterTrajectories_TRAIN.ts", "CharacterTrajectories_TEST.ts")


def read_ts(file: IO[bytes]) -> tuple[list[np.ndarray], list[int]]:
    """Series (C, L) and their labels, as numbers in the order that the header names them in.

    Raises:
        ValueError: it is not such a file.
    """
    classes: list[str] = []
    series, labels, data = [], [], False
    for number, raw in enumerate(file, 1):
        line = raw.decode().strip()
        if data and line:
            *channels, label = line.split(":")
            try:
                series.append(np.array([channel.split(",") for channel in channels], dtype=np.float32))
                labels.append(classes.index(label.strip()))
            except ValueError as error:
                raise ValueError(f"line {number} is no series of the archive's format: {error}") from error
        elif line.lower().startswith("@classlabel"):
            classes = line.split()[2:]
        elif line.lower() == "@data":
            data = True
    if not series:
        raise ValueError("there is no series of the archive's format in it")
    return series, labels


def read_vowels(place: Path) -> Splits:
    """As published: the speakers' test utterances were recorded later."""
    (train, train_labels), (test, test_labels) = _read_pair(place, VOWELS_FOLDER, VOWELS)
    length, count = max(s.shape[1] for s in train + test), len(train)
    pad = partial(_stack, length=length, how="before")
    return pad(train, train_labels, range(count)), None, pad(test, test_labels, range(count, count + len(test)))


def read_trajectories(place: Path) -> Splits:
    """The two files merged and split anew, 70 : 15 : 15 and the same in each class, as the paper did.

    Its split is not known to the series. Short ones are continued with their last value.
    """
    (train, train_labels), (test, test_labels) = _read_pair(place, "", TRAJECTORIES)
    series = train + test
    whole = _stack(series, train_labels + test_labels, range(len(series)), 182, how="after")
    return split(whole)


def _read_pair(place: Path, folder: str, names: Iterable[str]) -> list[tuple[list[np.ndarray], list[int]]]:
    found = []
    for name in names:
        with opened(place, folder, name) as file:
            found.append(read_ts(file))
    return found


def _stack(series: Sequence[np.ndarray], labels: Sequence[int], keys: Iterable[int], length: int, how: str) -> Series:
    """One tensor (N, C, length): NaN before the short ones, or their last value after them."""
    padded = []
    for one in series:
        room = length - one.shape[1]
        if room < 0:
            raise ValueError(f"a series has {one.shape[1]} steps instead of at most {length}")
        if how == "after":
            padded.append(np.pad(one, ((0, 0), (0, room)), mode="edge"))
        else:
            padded.append(np.pad(one, ((0, 0), (room, 0)), constant_values=np.nan))
    values = torch.from_numpy(np.stack(padded))
    return Series(values, torch.tensor(labels, dtype=torch.int64), torch.tensor(list(keys)))


def split(whole: Series, share: float = 0.7) -> Splits:
    """Training, and half of the rest each for validation and testing; classes are shared out alike, by a fixed draw."""
    place = torch.empty(len(whole), dtype=torch.float64)
    for label in whole.labels.unique():
        mine = (whole.labels == label).nonzero().flatten()
        drawn = mine[torch.randperm(len(mine), generator=generator(SPLIT, int(label)))]
        place[drawn] = (torch.arange(len(mine), dtype=torch.float64) + 0.5) / len(mine)
    order = place.argsort(stable=True)
    first = int(share * len(whole))
    train, val, test = order.tensor_split((first, first + (len(whole) - first) // 2))
    return whole.pick(train.sort().values), whole.pick(val.sort().values), whole.pick(test.sort().values)


# A smartwatch --------------------------------------------------------------------------------------------------------

WATCH_FOLDER, WATCH = "seglearn/data", ("watch_dataset.npy",)
WATCH_TEST = (7, 8, 9, 10)  # people, of 10, whose recordings are for testing


def read_watch(place: Path) -> Splits:
    """140 recordings of acceleration and rotation at 50 Hz; whoever is tested on was never trained on."""
    with opened(place, WATCH_FOLDER, WATCH[0]) as file:
        table = _plain_objects(file).item()
    series = [np.asarray(one, dtype=np.float32).T for one in table["X"]]
    whole = _stack(series, table["y"].tolist(), range(len(series)), max(s.shape[1] for s in series), how="before")
    tested = torch.from_numpy(np.isin(table["subject"], WATCH_TEST))
    return whole.pick((~tested).nonzero().flatten()), None, whole.pick(tested.nonzero().flatten())


class _Arrays(pickle.Unpickler):
    """Reads arrays, lists and dictionaries; any other object could bring code along."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("numpy._core", "numpy.core"), name) in {
            ("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"),
            ("numpy.core.multiarray", "scalar"), ("_codecs", "encode"),
        }:  # fmt: skip
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise ValueError(f"it holds more than arrays: {module}.{name}")


def _plain_objects(file: IO[bytes]) -> np.ndarray:
    """What ``np.load(file, allow_pickle=True)`` reads, without running what may be in it."""
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header(file)
    try:
        return _Arrays(file, encoding="latin1").load()
    except (EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"it is no whole file of arrays: {error}") from error


# Speech Commands -----------------------------------------------------------------------------------------------------

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
RATE = 16_000  # samples in a second, and in each clip that is used


def find_speech(root: Path) -> Path | None:
    return sources.first_with((root, root / "speech_commands"), *WORDS)


def read_speech(place: Path) -> Splits:
    """Clips of ten words that last exactly a second, of any speaker in any split, as in the paper."""
    clips, labels = [], []
    for label, word in enumerate(WORDS):
        for path in sorted((place / word).glob("*.wav")):
            samples = _read_wave(path)
            if len(samples) == RATE:
                clips.append(samples)
                labels.append(label)
    if not clips:
        raise ValueError("no clip in it lasts a second")
    values = torch.from_numpy(np.stack(clips))[:, None]
    return split(Series(values, torch.tensor(labels), torch.arange(len(labels))))


def read_speech_mfcc(place: Path) -> Splits:
    """The same clips as 20 cepstral coefficients in 161 frames."""
    raw = read_speech(place)
    parts = (torch.cat([mfcc(clips[:, 0] / 2**15) for clips in part.values.split(256)]) for part in raw if part)
    return tuple(Series(v, part.labels, part.keys) for v, part in zip(parts, raw) if part)  # type: ignore[return-value]


def _read_wave(path: Path) -> np.ndarray:
    try:
        with wave.open(str(path)) as file:
            if (file.getframerate(), file.getsampwidth(), file.getnchannels()) != (RATE, 2, 1):
                raise ValueError(f"{path} is no recording of 16-bit samples at 16 kHz")
            return np.frombuffer(file.readframes(file.getnframes()), "<i2")
    except (EOFError, wave.Error) as error:
        raise ValueError(f"{path} is no whole wave file: {error}") from error


def mfcc(
    waves: Tensor,  # (N, T)
    coefficients: int = 20,
    window: int = 200,
    mels: int = 64,
) -> Tensor:  # (N, coefficients, 1 + T // (window // 2))
    """Mel-frequency cepstral coefficients with the settings of the paper, which are torchaudio's but for these three.

    Power spectra of half-overlapping Hann windows, through triangles of equal width on the mel scale
    2595 log10(1 + f / 700), then log(. + 1e-6), then an orthonormal cosine transform.
    """
    hann = torch.hann_window(window, dtype=waves.dtype)
    power = torch.stft(waves, window, window // 2, window=hann, return_complex=True).abs().square()  # (N, F, frames)
    frequencies = torch.linspace(0, RATE / 2, window // 2 + 1, dtype=torch.float64)
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, mels + 2, dtype=torch.float64) / 2595) - 1)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    bank = torch.minimum(rising, falling).clamp_min(0).to(waves.dtype)  # (mels, F)
    logs = torch.log(bank @ power + 1e-6)
    numbers = torch.arange(max(coefficients, mels), dtype=torch.float64)
    angles = torch.outer(numbers[:coefficients], numbers[:mels] + 0.5) * torch.pi / mels
    cosines = torch.cos(angles) * (2 / mels) ** 0.5
    cosines[0] /= 2**0.5
    return cosines.to(waves.dtype) @ logs
