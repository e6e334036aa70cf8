"""The spectrum of generated kernels and the similarity of codes: CIFAR-10, "Associative Convolutional Layers".

    python experiments/csgconv/spectrum.py --smoke
    python experiments/csgconv/spectrum.py --network resnet56 --kind csg16 --data /data/cifar
    python experiments/csgconv/spectrum.py --run runs/csgconv/cifar10-TIME/resnet56-csg16-seed0
    python experiments/csgconv/spectrum.py --original RN56_1616-128.t7 --network resnet56 --kind csg16 --out runs/rn56

It takes the runs that `cifar10.py` has left last, of a network and of its ordinary twin, trains what is missing, and
leaves beside the former: spectrum.png, how much of all slices, and of each kernel, how many dimensions keep, against
the twin's kernels and against noise; codes.png, how alike the slices are; spectrum.json, the numbers, among them the
error of the best generator of this size for the kernels of the twin.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import _spectrum
from cifar10 import KINDS, NETWORKS, label, of_3x3, plan, recipe

from csgconv.checkpoints import load_original
from leanconv import models
from leanconv.training import experiment


def original(file: Path, network: str, kind: str, out: Path) -> None:
    """Draw a checkpoint that the authors have published."""
    planned = recipe(network, kind)
    model = load_original(file, models.build(planned.model, **planned.model_kwargs))
    out.mkdir(parents=True, exist_ok=True)
    _spectrum.save(model, out, f"{label(network, kind)}, {file.name}")


def trained(network: str, args: argparse.Namespace) -> int:
    """Train what is missing of a network and its twin, then draw. Returns the exit code."""
    args.resume = True
    (twin, *_), (run, *_) = plans = [plan(network, kind, "he", args.smoke) for kind in ("plain", args.kind)]

    def draw(folder: Path) -> None:
        if folder.name.startswith(f"{run}-seed"):  # the twin's of this seed was finished before
            _spectrum.draw(folder, folder.with_name(folder.name.replace(run, twin)))

    return experiment.run(plans, args, after=draw)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    generated = [kind for kind in KINDS if kind != "plain"]
    parser.add_argument("--network", choices=NETWORKS, help="default: resnet56; for --smoke resnet20")
    parser.add_argument("--kind", choices=generated, default="csg")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="draw this run, and train nothing")
    parser.add_argument("--twin", type=Path, metavar="FOLDER", help="with --run: the ordinary network's")
    parser.add_argument("--original", type=Path, metavar="FILE", help="draw this file of the authors' into --out")
    experiment.add_arguments(parser, out="runs/csgconv/cifar10")
    args = parser.parse_args()
    network = args.network or ("resnet20" if args.smoke else "resnet56")
    if "slice_shape" in KINDS[args.kind][1] and not of_3x3(network):
        parser.error(f"--kind {args.kind} has slices of 3x3, and the generated kernels of {network} are 1x1")
    if args.original and not args.out:
        parser.error("--original needs --out, the folder for its pictures")
    if not (args.run or args.original):
        return trained(network, args)
    try:
        if args.run:
            _spectrum.draw(args.run, args.twin)
        if args.original:
            original(args.original, network, args.kind, args.out)
    except (OSError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
