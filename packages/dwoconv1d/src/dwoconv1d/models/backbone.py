"""Classification weights -> weights for detection and segmentation: kernels shortened to what those maps can use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

from torch import Tensor

from ..checkpoints import read_original, variant_of
from ..functional import tap_offsets
from .variants import BACKBONE_KERNEL_SIZES, VARIANTS, resolve_kernel_sizes

_DEPTHWISE = re.compile(r"stages\.(\d+)\.\d+\.dwconv([12]?)\.angle")


class Crop(NamedTuple):
    """What one oriented kernel loses.

    Attributes:
        before, after: taps of a channel.
        largest_dropped: largest absolute weight among the dropped ones.
        dropped: taps, over all channels.
        live_dropped: those of them that met the map in training; the others never touched a pixel.
    """

    before: int
    after: int
    largest_dropped: float
    dropped: int
    live_dropped: int

    def __str__(self) -> str:
        return (
            f"{self.before} -> {self.after} taps; {self.live_dropped} of {self.dropped} dropped taps met the map, "
            f"none larger than {self.largest_dropped:.3g}"
        )


Checkpoint = str | PathLike[str] | Mapping[str, Any]


def kernel_crops(
    path_or_state_dict: Checkpoint,
    variant: str,
    kernel_sizes: Sequence | None = None,
    *,
    ema: bool = False,
    maps: Sequence[int] | None = None,
) -> dict[str, Crop]:
    """Say what :func:`to_backbone` would cut, weight by weight, leaving out kernels that keep their length.

    Args:
        maps: Side of each stage's map in training, which tells which taps met it; by default 56, 28, 14 and 7 pixels,
            as of images of 224.
    """
    state = _read(path_or_state_dict, variant, ema)
    crops = {}
    for name, stage, size in _oriented_kernels(state, variant, kernel_sizes):
        weight, angle = state[name], state[name.removesuffix("weight") + "angle"]
        taps = weight.shape[1]
        if size < taps:
            side = 56 >> stage if maps is None else maps[stage]
            rows, columns = tap_offsets(taps, angle)
            live = (rows.abs() < side) & (columns.abs() < side)
            margin = (taps - size) // 2
            ends = [*range(margin), *range(taps - margin, taps)]
            crops[name] = Crop(
                taps, size, weight[:, ends].abs().max().item(), live[:, ends].numel(), int(live[:, ends].sum())
            )
    return crops


def to_backbone(
    path_or_state_dict: Checkpoint, variant: str, kernel_sizes: Sequence | None = None, *, ema: bool = False
) -> dict[str, Tensor]:
    """Centre-crop the oriented kernels of a classification network and drop its head.

    At 224 pixels the maps of stages 3 and 4 are 14 and 7 pixels wide, so the outer taps of a 31-tap kernel mostly fall
    outside and were hardly trained; on larger images they would come alive. The paper's dense tasks therefore use the
    lengths of `BACKBONE_KERNEL_SIZES`. The middle tap stays in the middle; angles, biases and everything else are
    copied. (The authors' script for this step copies a normal checkpoint unchanged and says that it is done; the crop
    is what their README and issue tracker describe.)

    The crop is exact for directions along the axes. An oblique kernel covers less ground with the same taps, so at 45
    degrees and 7 pixels 19 taps were alive and 13 are kept: fine-tune. :func:`kernel_crops` shows the size of the loss.

    Args:
        path_or_state_dict: A checkpoint of classification: a file, its content or a bare state dict, under this
            package's names or the authors'; a run of leanconv leaves such a file as `last.pt`.
        variant: "2d", "1d", "1dpp", "2dpp", or a model name that ends so, like "convnext_tiny_1d".
        kernel_sizes: Lengths to crop to, as :class:`ConvNeXt` takes them; by default `BACKBONE_KERNEL_SIZES`.
        ema: Take the averaged weights of a checkpoint that has some.

    Returns:
        A state dict for `ConvNeXt(..., kernel_sizes=kernel_sizes, num_classes=0)` without `norm`, which is what
        `features_only=True` wraps as its `model`.

    Raises:
        ValueError: An unknown variant or a checkpoint of another one, a kernel shorter than asked for, an odd number of
            taps to cut, or no ConvNeXt in the checkpoint; and as :func:`dwoconv1d.checkpoints.read_original`.

    Example:
        >>> weights = to_backbone("convnext_tiny_1d_best.pth", "1d", ema=True)  # doctest: +SKIP
        >>> backbone = timm.create_model(
        ...     "convnext_tiny_1d", features_only=True, kernel_sizes=BACKBONE_KERNEL_SIZES["1d"]
        ... )  # doctest: +SKIP
        >>> backbone.model.load_state_dict(weights)  # doctest: +SKIP
    """
    state = _read(path_or_state_dict, variant, ema)
    for name, _, size in list(_oriented_kernels(state, variant, kernel_sizes)):
        start = (state[name].shape[1] - size) // 2
        state[name] = state[name][:, start : start + size].clone()
    return {name: value for name, value in state.items() if not name.startswith(("norm.", "head."))}


def _read(checkpoint: Checkpoint, variant: str, ema: bool) -> dict[str, Tensor]:
    state, variant = read_original(checkpoint, ema=ema), _suffix(variant)
    found = variant_of(state)
    if not found:
        raise ValueError("the checkpoint holds no ConvNeXt of this package: there are no stages.*.dwconv* in it")
    if variant in VARIANTS and found != variant:
        raise ValueError(f"the checkpoint holds the variant {found!r}, not {variant!r}")
    return state


def _suffix(name: str) -> str:
    return name.rsplit("_", 1)[-1]


def _oriented_kernels(
    state: Mapping[str, Tensor], variant: str, kernel_sizes: Sequence | None
) -> Iterator[tuple[str, int, int]]:
    """Weight's name, stage and wanted length of every oriented kernel in the stages."""
    variant = _suffix(variant)
    stages = len({name.split(".")[1] for name in state if name.startswith("stages.")})
    if kernel_sizes is None:
        kernel_sizes = BACKBONE_KERNEL_SIZES.get(variant)
    sizes = resolve_kernel_sizes(variant, kernel_sizes, stages)
    for name in state:
        match = _DEPTHWISE.fullmatch(name)
        if match is None:
            continue
        stage, which = int(match[1]), int(match[2] or 1)
        size, name = sizes[stage][which - 1], name.removesuffix("angle") + "weight"
        taps = state[name].shape[1]
        if size > taps or (taps - size) % 2:
            raise ValueError(f"{name} has {taps} taps and cannot be centre-cropped to {size}")
        yield name, stage, size
