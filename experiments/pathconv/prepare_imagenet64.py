"""Turns the published ImageNet 64x64 (Chrabaszcz et al. 2017) into folders of PNG files that torchvision reads.

    python experiments/pathconv/prepare_imagenet64.py /data/imagenet64-batches /data/imagenet-64

Reads `train_data_batch_1` to `_10` and `val_data`, pickles or `.npz`, and writes `train/<class>/<index>.png` and
`val/<class>/<index>.png`, classes 00001 to 01000, as the authors' script does. A file appears only when it is
whole, so a stopped run goes on where it was; `prepared.json` remembers the SHA-256 sum of every batch that is done.
With `--sums` the batches are first compared with a list as `sha256sum` or `md5sum` prints it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

SIDE, CLASSES, SLAB = 64, 1000, 8192
TRAIN, VAL = [f"train_data_batch_{part}" for part in range(1, 11)], "val_data"
COUNTS = {"train": 1_281_167, "val": 50_000}


class Unusable(ValueError):
    """An input that cannot be used; the message is one sentence."""


class ArraysOnly(pickle.Unpickler):
    """Reads arrays, and refuses what a pickle could run besides."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):  # how Python 2 wrote bytes
            return super().find_class(module, name)
        raise Unusable(f"holds {module}.{name}, which is no array of images")


def find(folder: Path) -> dict[str, Path]:
    """Map the name of every batch to its file, or say which are missing."""
    found = {name: path for name in [*TRAIN, VAL] for path in (folder / name, folder / f"{name}.npz") if path.is_file()}
    missing = [name for name in [*TRAIN, VAL] if name not in found]
    if missing:
        raise Unusable(
            f"{folder} lacks {', '.join(missing)}: unpack both training archives and the validation one there"
        )
    return found


def digest(path: Path, kind: str = "sha256") -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest() if sys.version_info >= (3, 11) else _digest(file, kind)


def _digest(file: Any, kind: str) -> str:
    total = hashlib.new(kind)
    while block := file.read(1 << 20):
        total.update(block)
    return total.hexdigest()


def check_sums(files: dict[str, Path], sums: Path) -> None:
    """Compare every batch with the listed sum of its file name."""
    lines = [line.split(maxsplit=1) for line in sums.read_text(errors="replace").splitlines()]
    listed = {Path(line[1].strip().lstrip("*")).name: line[0].lower() for line in lines if len(line) == 2}
    for path in files.values():
        if path.name not in listed:
            raise Unusable(f"{sums} has no line for {path.name}")
        kind = {32: "md5", 64: "sha256"}.get(len(listed[path.name]))
        if kind is None:
            raise Unusable(f"{sums} must hold MD5 or SHA-256 sums, but that of {path.name} is {listed[path.name]!r}")
        if digest(path, kind) != listed[path.name]:
            raise Unusable(f"{path} is damaged: its {kind} sum is not that in {sums}; fetch it again")


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 64, 64, 3) uint8 and labels (N,) from 1 to 1000."""
    try:
        if path.suffix == ".npz":
            with np.load(path) as archive:
                batch = {name: archive[name] for name in ("data", "labels")}
        else:
            with path.open("rb") as file:
                batch = ArraysOnly(file, encoding="latin1").load()
        data, labels = np.asarray(batch["data"]), np.asarray(batch["labels"], dtype=np.int64)
    except Exception as error:
        raise Unusable(f"{path} cannot be read as a batch of ImageNet 64x64: {error}") from error
    if data.dtype != np.uint8 or data.shape != (len(labels), 3 * SIDE * SIDE):
        raise Unusable(f"{path} holds {data.dtype} of shape {data.shape} instead of uint8 rows of {3 * SIDE * SIDE}")
    if len(labels) and not 1 <= labels.min() <= labels.max() <= CLASSES:
        raise Unusable(f"{path} has labels from {labels.min()} to {labels.max()} instead of 1 to {CLASSES}")
    return data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), labels


def write(folder: Path, item: tuple[int, int, np.ndarray]) -> None:
    """Write one PNG whole or not at all; leave it where it exists."""
    label, index, pixels = item
    target = folder / f"{label:05d}" / f"{index:08d}.png"
    if not target.exists():
        part = target.with_name(f".{target.name}.{os.getpid()}")
        Image.fromarray(np.ascontiguousarray(pixels)).save(part, format="png")
        os.replace(part, target)


def write_all(
    pool: ProcessPoolExecutor, folder: Path, images: np.ndarray, labels: np.ndarray, first: int
) -> Iterator[None]:
    """Write a batch by and by: the pool takes its work at once, and a whole batch in its queue is 1.6 GB."""
    for start in range(0, len(labels), SLAB):
        slab = range(start, min(start + SLAB, len(labels)))
        work = ((int(labels[index]), first + index, images[index]) for index in slab)
        yield from pool.map(partial(write, folder), work, chunksize=256)


def prepare(source: Path, target: Path, sums: Path | None, workers: int) -> None:
    files = find(source)
    if sums:
        check_sums(files, sums)
    record = target / "prepared.json"
    done: dict[str, dict[str, Any]] = json.loads(record.read_text()) if record.exists() else {}
    first = {"train": 1, "val": 0}  # the authors count training images from 1, the others from 0
    for split in first:
        for label in range(1, CLASSES + 1):
            (target / split / f"{label:05d}").mkdir(parents=True, exist_ok=True)
    # Ctrl-C reaches every process of the group; the main one answers.
    with ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        for name, path in files.items():
            split = "val" if name == VAL else "train"
            total = digest(path)
            if name in done and done[name]["sha256"] != total:
                raise Unusable(f"{path} is not the file that {record} remembers: remove {target} and start again")
            if name not in done:
                images, labels = read(path)
                work = write_all(pool, target / split, images, labels, first[split])
                for _ in tqdm(work, total=len(labels), desc=name, unit="images", mininterval=1):
                    pass
                done[name] = {"images": len(labels), "sha256": total}
                part = record.with_suffix(".part")
                part.write_text(json.dumps(done, indent=1) + "\n")
                os.replace(part, record)
            first[split] += done[name]["images"]
    for split, expected in COUNTS.items():
        count = sum(entry["images"] for name, entry in done.items() if (name == VAL) == (split == "val"))
        if count != expected:
            raise Unusable(f"{target / split} has {count} images instead of {expected}: is {source} complete?")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of the batches")
    parser.add_argument("target", type=Path, help="folder for train/ and val/; 1.33 million small files")
    parser.add_argument("--sums", type=Path, help="list of MD5 or SHA-256 sums to check the batches against first")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    args = parser.parse_args()
    if args.workers < 1:
        parser.error(f"--workers must be at least 1, but it is {args.workers}")
    try:
        prepare(args.source, args.target, args.sums, args.workers)
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the same command goes on from here\n")
        return 130
    except (Unusable, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(
        f"{args.target} is ready: python experiments/pathconv/train.py --dataset in64 --data {args.target}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
