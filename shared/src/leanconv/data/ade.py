"""ADE20K as the MIT Scene Parsing Benchmark has it: where its photographs and masks of 150 classes lie."""

from __future__ import annotations

from pathlib import Path

from leanconv.data import sources
from leanconv.data.scenes import Scenes

FOLDER = "ADEChallengeData2016"
SPLITS = ("training", "validation")
NAMES = "classes.txt"
CLASSES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "window", "grass", "cabinet", "sidewalk",
    "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water", "painting", "sofa",
    "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp",
    "bathtub", "railing", "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand",
    "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table",
    "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet", "flower",
    "book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
    "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning", "street lamp",
    "booth", "television", "airplane", "dirt track", "clothes", "pole", "land", "bannister", "escalator", "ottoman",
    "bottle", "buffet", "poster", "stage", "van", "ship", "fountain", "conveyor belt", "canopy", "washing machine",
    "toy", "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven",
    "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher",
    "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "trash can", "fan", "pier",
    "CRT screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)  # fmt: skip


def find(folder: str, root: Path) -> Path | None:
    """The folder that ADEChallengeData2016 lies in; `root` may also be the latter."""
    entries = [f"{FOLDER}/{kind}/{split}" for kind in ("images", "annotations") for split in SPLITS]
    return sources.first_with((root, root / folder, root.parent), *entries)


def read(place: Path, num_classes: int = len(CLASSES)) -> tuple[Scenes, Scenes]:
    """Training and validation split. What the files call 0 is "other", which does not count.

    Raises:
        ValueError: an image has no mask, or a mask has no image.
    """
    train, val = (_read(place / FOLDER, split, num_classes) for split in SPLITS)
    return train, val


def find_format(root: Path) -> Path | None:
    """A folder with images/ and annotations/ as ADE20K has them, and the names of its classes."""
    entries = [f"{kind}/{split}" for kind in ("images", "annotations") for split in SPLITS]
    return sources.first_with((root, root / "ade_format"), *entries, NAMES)


def names(place: Path) -> tuple[str, ...]:
    """Of the classes of such a folder: what masks call 1, 2 and so on."""
    found = tuple(line.strip() for line in (place / NAMES).read_text().splitlines() if line.strip())
    if not 2 <= len(found) <= 254:
        raise ValueError(f"{NAMES} must hold the names of 2 to 254 classes, a line each, but it holds {len(found)}")
    return found


def read_format(place: Path) -> tuple[Scenes, Scenes]:
    """As `read`, of such a folder."""
    train, val = (_read(place, split, len(names(place))) for split in SPLITS)
    return train, val


def _read(home: Path, split: str, num_classes: int) -> Scenes:
    images, masks = (
        {path.stem: path for path in sorted((home / kind / split).glob(f"*.{suffix}"))}
        for kind, suffix in (("images", "jpg"), ("annotations", "png"))
    )
    for lacking, which, wanted, other in ((masks, "images", images, "mask"), (images, "annotations", masks, "image")):
        odd = [path for stem, path in wanted.items() if stem not in lacking]
        if odd:
            raise ValueError(f"{len(odd)} of the {which} in {home / which / split} have no {other}, such as {odd[0]}")
    return Scenes(tuple(images.values()), tuple(masks[stem] for stem in images), num_classes, first=1)
