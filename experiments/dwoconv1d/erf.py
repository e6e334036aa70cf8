"""Effective receptive fields, as "Convolutional Networks with Oriented 1D Kernels" (ICCV 2023) measures them.

    python experiments/dwoconv1d/erf.py --smoke
    python experiments/dwoconv1d/erf.py --data /data/imagenet/val --weights convnext_tiny_1d=best.pth
    python experiments/dwoconv1d/erf.py --model resnet50 convnext_tiny_1dpp --data ~/photographs --images 50

How much each pixel moves the middle of the last map, before its norm, as a mean over images brought to one square size;
and the smallest squares around the middle that hold 20, 30, 50 and 99 % of it (see :mod:`leanconv.receptive`). It
leaves erf.png, heat maps with these squares, erf.md and erf.json with the numbers, and for each network the field as
NumPy's .npz. Any network of timm that gives out maps will do. A stopped measurement goes on with --resume.

The authors measure at 1024 pixels networks that were trained at 224: their last map is 32 pixels wide there and not 7,
and taps that never met a pixel in training are at work. Their paper's figures are not known to us, and none stand here.

--smoke measures, on the photographs that come with scikit-image, the paper's tiny networks without weights: layer
scales are 1, so that all blocks take part, and what is seen is how far kernels reach before any training. Beside them
stand the narrow networks that `classification.py --smoke` has trained last, where there are some.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.transforms import v2
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from _backbone import has_averaged

from dwoconv1d._common import weights as files
from dwoconv1d.checkpoints import load_original
from leanconv import environment, models, receptive, training
from leanconv.data import catalogue, composites, sources
from leanconv.training import checkpoint, experiment
from leanconv.training.run_folder import write_json

NETWORKS = ("convnext_tiny_2d", "convnext_tiny_1d", "convnext_tiny_1dpp")
NAMES = " ".join(NETWORKS)
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
SAVE_EVERY = 20  # images
SCIKIT = "the photographs of scikit-image"


class Problem(ValueError):
    """What the user can put right; the message is one sentence."""


@dataclass(frozen=True)
class Subject:
    """A network to be measured, built when its turn comes, and how it wants its images."""

    label: str
    file: str  # stem of its field's
    build: Callable[[], nn.Module]
    channels: int = 3
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN
    std: Sequence[float] = IMAGENET_DEFAULT_STD


def of_name(name: str, weights: str | None) -> Subject:
    """A network that timm knows, with weights from a run folder or a file, the authors' included, or fresh ones.

    Of fresh ones, scales of norms and layers that begin at zero, or next to it, are one: or blocks would add nothing.
    """
    models.check(name)
    ours = models.package(name) == "dwoconv1d"

    def build() -> nn.Module:
        torch.manual_seed(0)
        network = models.build(name)
        if weights is None:
            for key, scale in network.named_parameters():
                if scale.ndim == 1 and not key.endswith("bias") and scale.abs().max() < 1e-3:
                    nn.init.ones_(scale)
            return network
        try:
            if ours and not Path(weights).is_dir():
                content = files.read(Path(weights))
                return load_original(content, network, ema=has_averaged(content))
            network.load_state_dict(checkpoint.weights(weights))
        except RuntimeError as error:  # torch lists all weights of both
            told = [line.strip() for line in str(error).splitlines()]
            raise Problem(
                f"--weights {name}={weights} holds those of another network: {told[min(1, len(told) - 1)]:.200}"
            ) from None
        return network

    if weights is None:
        return Subject(f"{name}, untrained", name, build)
    return Subject(f"{name}, {weights}", f"{name}-{Path(weights).stem}", build)


def of_run(folder: Path) -> Subject:
    """The network of a run of leanconv on images, with its newest weights."""
    network, data = training.load(folder)
    if len(data.input_size()) != 3 or data.task != "classes":
        raise Problem(f"{folder} is not a run of image classification")
    name = json.loads((folder / "summary.json").read_text()).get("row", folder.name)
    return Subject(
        f"{name} on {data.name}",
        f"{folder.parent.name}-{folder.name}",
        lambda: network,
        data.in_chans,
        data.mean,
        data.std,
    )


def trained_last() -> list[Path]:
    """The finished runs that `classification.py --smoke` has left last."""
    found = sorted(Path("runs/dwoconv1d").glob("classification-smoke-[0-9]*"))
    return sorted(path.parent for path in found[-1].glob("*/summary.json")) if found else []


def pictures(args: argparse.Namespace) -> list[Any]:
    """What is looked at: paths, or names of scikit-image's photographs with where they lie."""
    if args.data is None:
        place = catalogue.photographs()
        return [(place, name) for split in composites.PHOTOGRAPHS.values() for name in split]
    folder = Path(args.data)
    if not folder.is_dir():
        raise Problem(f"--data {folder} is no folder")
    folder = next((part for part in (folder / "imagenet" / "val", folder / "val") if part.is_dir()), folder)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise Problem(f"--data: {folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return found


def opened(picture: Any) -> Image.Image:
    return composites.read_photograph(*picture) if isinstance(picture, tuple) else sources.read_photograph(str(picture))


def chosen(found: list[Any], count: int) -> list[Any]:
    """So many of them, spread evenly: sorted folders would otherwise give the first classes alone."""
    count = min(count, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def batches(found: list[Any], size: int, subject: Subject) -> Iterator[Tensor]:
    transform = v2.Compose(
        [
            v2.ToImage(),
            *([v2.Grayscale()] if subject.channels == 1 else []),
            v2.Resize((size, size), v2.InterpolationMode.BICUBIC, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(subject.mean, subject.std),
        ]
    )
    for picture in found:
        yield transform(opened(picture))[None]


def measure(subject: Subject, found: list[Any], args: argparse.Namespace) -> receptive.Mean:
    """The mean field of one network; gone on with where its file has some of the images."""
    path = args.out / f"{subject.file}.npz"
    if path.is_file() and not args.resume:
        raise Problem(f"{path} is there already: add --resume to go on with it, or choose another --out")
    what = f"{subject.label}, {len(found)} images of {args.image_size} pixels from {args.data or SCIKIT}"
    mean = receptive.Mean(path, what)
    if mean.seen >= len(found):
        return mean
    network = subject.build().to(args.device).eval().requires_grad_(False)
    rest = batches(found[mean.seen :], args.image_size, subject)
    plain = not sys.stderr.isatty()
    try:
        with tqdm(rest, subject.label, len(found), initial=mean.seen, unit="image", leave=False, disable=plain) as bar:
            for images in bar:
                mean.add(receptive.contributions(network, images.to(args.device)))
                if mean.seen % SAVE_EVERY == 0:
                    mean.save()
    finally:
        if mean.seen:
            mean.save()
    return mean


def table(rows: list[dict[str, Any]], title: str) -> str:
    """Markdown: sides in pixels, and in brackets the part of the image."""
    shares = [square["share"] for square in rows[0]["squares"]]
    lines = [title, "", f"| network | {' | '.join(f'{share:.0%}' for share in shares)} |"]
    lines.append("|" + " --- |" * (len(shares) + 1))
    for row in rows:
        cells = (f"{square['side']} ({100 * square['area']:.1f} %)" for square in row["squares"])
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    note = "Side in pixels of the smallest square around the middle that holds so much, and its part of the image."
    return "\n".join([*lines, "", note]) + "\n"


def run(args: argparse.Namespace) -> None:
    weights = experiment.paths("--weights", args.weights, "NETWORK=FILE", args.model)
    subjects = [of_name(name, weights.get(name)) for name in args.model]
    subjects += [of_run(folder) for folder in args.run]
    found = chosen(pictures(args), args.images)
    args.out.mkdir(parents=True, exist_ok=True)
    fields, rows = [], []
    for subject in subjects:
        mean = measure(subject, found, args)
        field = mean.compute()
        squares = receptive.squares(field)
        fields.append((subject.label, field, squares))
        left_out = {"not_finite": mean.skipped} if mean.skipped else {}
        rows.append({"name": subject.label, "images": mean.count, "squares": [vars(s) for s in squares], **left_out})
        logging.info("%s: %s", subject.label, ", ".join(f"{s.share:.0%} in {s.side} pixels" for s in squares))
    birth = environment.describe()
    title = (
        f"Effective receptive fields, mean of {rows[0]['images']} images of {args.image_size} pixels "
        f"({args.data or SCIKIT}), {birth['date'][:10]}"
    )
    receptive.draw(fields, args.out / "erf.png")
    write_json(args.out / "erf.json", {"networks": rows, "image_size": args.image_size, "environment": birth})
    (args.out / "erf.md").write_text(table(rows, title))
    sys.stdout.write(table(rows, title))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="ten photographs that come with scikit-image, 224 pixels")
    parser.add_argument("--model", nargs="+", metavar="NETWORK", help=f"names known to timm (default: {NAMES})")
    parser.add_argument("--weights", nargs="+", default=[], metavar="NETWORK=FILE", help="checkpoints or run folders")
    parser.add_argument("--run", nargs="+", type=Path, metavar="FOLDER", help="networks as runs of leanconv left them")
    parser.add_argument(
        "--data", metavar="FOLDER", help="images, also in folders of it; of ImageNet or what holds imagenet/, its val/"
    )
    parser.add_argument("--images", type=int, default=1000, help="so many of them, spread evenly (default: 1000)")
    parser.add_argument("--image-size", type=int, help="default: 1024, with --smoke 224")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="default: runs/dwoconv1d/erf-TIME")
    parser.add_argument("--resume", action="store_true", help="go on in --out, by default the newest")
    parser.add_argument("--set", "--seeds", nargs="+", help="not used: nothing is trained here")
    args = parser.parse_args()
    args.image_size = args.image_size or (224 if args.smoke else 1024)
    if args.images < 1 or args.image_size < 32:
        parser.error(f"--images must be at least 1 and --image-size 32, got {args.images} and {args.image_size}")
    if not (args.smoke or args.data):
        parser.error("give --data FOLDER of images, or --smoke for photographs that come with scikit-image")
    if args.model is None:
        args.model = [] if args.run else list(NETWORKS)
    args.run = args.run or (trained_last() if args.smoke and args.data is None else [])
    stem = "erf-smoke" if args.smoke else "erf"
    before = sorted(Path("runs/dwoconv1d").glob(f"{stem}-[0-9]*")) if args.resume else []
    fresh = Path("runs/dwoconv1d", f"{stem}-{datetime.now():%Y%m%d-%H%M%S}")
    args.out = args.out or (before[-1] if before else fresh)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        run(args)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; this command with --resume goes on\n")
        return 130
    except (OSError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
