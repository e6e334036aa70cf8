"""The backbones of the paper's dense tasks, and the classification weights that they start from."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import classification
import torch
from torch import Tensor

from leanconv.training import Recipe, checkpoint, experiment

VARIANTS = tuple(classification.NARROW_KERNELS)
RUNS = Path("runs/dwoconv1d")
SMOKE_RUNS = "classification-smoke-*"

# The first stage's long kernels lose two taps, so that a smoke run crops as a real one does.
NARROW_KERNELS: dict[str, tuple] = {
    "2d": (7, 7, 3),
    "1d": (11, 7, 5),
    "1dpp": ((7, 11), (7, 7), (5, 5)),
    "2dpp": ((7, 11), (7, 7), (3, 5)),
}
NARROW_MAPS = (14, 7, 3)  # sides of the stages' maps of 28 pixels
AVERAGED = ("model_ema", "ema", "state_dict_ema")  # as the authors, leanconv and timm call such weights


def network(size: str, variant: str, *, smoke: bool = False) -> dict[str, Any]:
    """Name and arguments of a backbone, for detectors and segmenters that take `backbone` and `backbone_kwargs`."""
    if smoke:
        stem = classification.NARROW_1D_STEM if variant.startswith("1d") else {}
        kwargs = {**classification.NARROW, **stem, "kernel_sizes": NARROW_KERNELS[variant]}
    else:
        from dwoconv1d.models import BACKBONE_KERNEL_SIZES

        kwargs = {"kernel_sizes": BACKBONE_KERNEL_SIZES[variant], "layer_scale_init_value": 1.0}
    return {"backbone": f"convnext_{size}_{variant}", "backbone_kwargs": kwargs}


def main(
    description: str | None,
    out: str,
    recipe: Callable[[str, str, str | None], Recipe],
    smoke_recipe: Callable[[str, str | None], Recipe],
    card: Callable[..., dict[str, Any]],
    after: Callable[[Path], None],
) -> int:
    """The command line of a dense task: of what size and which variants, and what each starts from. The exit code."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, help="default: 1d; for --smoke with its 2d twin")
    parser.add_argument("--size", choices=classification.DROP_PATH, default="tiny")
    parser.add_argument(
        "--backbone", nargs="+", default=[], metavar="VARIANT=RUN_OR_FILE", help="classification weights to start from"
    )
    experiment.add_arguments(parser, out, folders=False)
    args = parser.parse_args()
    variants = args.variant or (["1d", "2d"] if args.smoke else ["1d"])
    size = "tiny" if args.smoke else args.size
    begun = (args.out or experiment.folder(args)) if args.resume else None
    others = any(word.startswith(("model=", "model_kwargs=", "model_kwargs.backbone=")) for word in args.set)
    try:
        found = starts(variants, args.backbone, args.smoke, begun, others)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    plans: list[experiment.Plan] = []
    for variant in variants:
        start = found.get(variant)
        planned = smoke_recipe(variant, start) if args.smoke else recipe(size, variant, start)
        plans.append((variant, planned, partial(card, planned=planned, size=size, variant=variant)))
    return experiment.run(plans, args, after=after)


def starts(
    variants: Sequence[str],
    given: Iterable[str],
    smoke: bool = False,
    begun: Path | None = None,
    others: bool = False,
) -> dict[str, str]:
    """Files of backbone weights that these variants start from, made of classification weights and written beside them.

    Says on stderr what each variant starts from and what every kernel loses.

    Args:
        given: "VARIANT=PATH": a run of classification.py, its checkpoint, or a file of the authors'. Averaged weights
            are taken where there are such.
        smoke: Networks are the narrow ones. A variant that is not given starts from the newest finished smoke run of
            classification.py where there is one; else all start at random.
        begun: A folder of runs to be resumed: they start from what they started from.
        others: Networks are replaced by some that are not ours: what is not given starts at random.

    Raises:
        ConfigError: what is given does not read so, is for a variant that does not run, or for one twice.
        OSError: there is no such file, or no place to write to.
        ValueError: it holds other weights.
    """
    wanted = experiment.paths("--backbone", given, "VARIANT=RUN_OR_FILE", VARIANTS, ("--variant", variants))
    found = {}
    for variant in variants:
        kept = _kept(variant, begun) if variant not in wanted else None
        if kept is not None:
            found.update({variant: kept} if kept else {})
            continue
        path = wanted.get(variant) or (_newest(variant) if smoke and not others else None)
        if path is None:
            lying = f": no finished smoke run of its classification lies in {RUNS}" if smoke and not others else ""
            _say(f"{variant}: the backbone starts at random{lying}")
            continue
        found[variant] = str(_convert(Path(path), variant, smoke))
    return found


def _kept(variant: str, begun: Path | None) -> str | None:
    """What runs of this variant in a folder start from, "" for nothing; None where there are no runs."""
    recipes = sorted(begun.glob(f"{variant}-seed*/recipe.json")) if begun else []
    return json.loads(recipes[0].read_text())["start"].get("backbone", "") if recipes else None


def _newest(variant: str) -> Path | None:
    """The run folder of the newest finished smoke run whose network is the narrow one."""
    planned = json.loads(json.dumps(classification.smoke_recipe(variant).to_dict()))
    finished = sorted(RUNS.glob(f"{SMOKE_RUNS}/{variant}-seed*/summary.json"), key=lambda path: path.stat().st_mtime)
    for run in reversed([path.parent for path in finished]):
        recipe = json.loads((run / "recipe.json").read_text())
        if all(recipe.get(key) == planned[key] for key in ("model", "model_kwargs")):
            return run
    return None


def has_averaged(content: Mapping) -> bool:
    """Whether a checkpoint holds averaged weights beside the plain ones: then these are what is evaluated."""
    return any(isinstance(content.get(name), Mapping) for name in AVERAGED)


def _convert(path: Path, variant: str, smoke: bool) -> Path:
    from dwoconv1d._common import weights as files
    from dwoconv1d.models import kernel_crops, to_backbone

    path = path / checkpoint.LAST if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"--backbone {variant}: there is no checkpoint at {path}")
    content = files.read(path)
    averaged = has_averaged(content)
    sizes, maps = (NARROW_KERNELS[variant], NARROW_MAPS) if smoke else (None, None)
    try:
        crops = kernel_crops(content, variant, sizes, ema=averaged, maps=maps)
        weights = _in_colours(to_backbone(content, variant, sizes, ema=averaged))
    except ValueError as error:
        raise ValueError(f"--backbone {variant}: {path}: {error}") from error
    target = path.with_name(f"{path.stem}-backbone.pt")
    _say(f"{variant}: the backbone starts from {'averaged weights in ' * averaged}{path}")
    for name, crop in crops.items():
        _say(f"  {name}: {crop}")
    if not crops:
        _say("  no kernel is shortened")
    if _first():
        checkpoint.save(weights, target)
    return target


def _in_colours(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a network for grey images as of one for red, green and blue, which says the same of a grey one."""
    for name, value in weights.items():
        if name in ("downsample_layers.0.pw1.weight", "downsample_layers.0.0.weight") and value.shape[1] == 1:
            weights[name] = torch.cat([value] * 3, dim=1) / 3
    return weights


def _say(text: str) -> None:
    if _first():
        sys.stderr.write(f"{text}\n")


def _first() -> bool:
    """Whether this is the first of torchrun's processes: all convert, and one writes before the others meet it."""
    return int(os.environ.get("RANK", "0")) == 0
