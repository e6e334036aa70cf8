"""Classification weights -> weights for detection and segmentation: kernels shortened to what those maps can use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from ..checkpoints import from_original
from .variants import BACKBONE_KERNEL_SIZES, resolve_kernel_sizes

_DEPTHWISE = re.compile(r"stages\.(\d+)\.\d+\.dwconv([12]?)\.angle")


class Crop(NamedTuple):
    """What one oriented kernel loses: taps before and after, and the largest absolute weight among those dropped."""

    before: int
    after: int
    largest_dropped: float


def kernel_crops(
    state_dict: Mapping[str, Tensor], variant: str, kernel_sizes: Sequence | None = None
) -> dict[str, Crop]:
    """Say what :func:`to_backbone` would cut, weight by weight, leaving out kernels that keep their length."""
    return {
        name: Crop(weight.shape[1], size, _dropped(weight, size))
        for name, weight, size in _oriented_kernels(from_original(state_dict), variant, kernel_sizes)
        if size < weight.shape[1]
    }


def to_backbone(
    state_dict: Mapping[str, Tensor], variant: str, kernel_sizes: Sequence | None = None
) -> dict[str, Tensor]:
    """Centre-crop the oriented kernels of a classification network and drop its head.

    At 224 pixels the maps of stages 3 and 4 are 14 and 7 pixels wide, so the outer taps of a 31-tap kernel mostly fall
    outside and were hardly trained; on larger images they would come alive. The paper's dense tasks therefore use the
    lengths of `BACKBONE_KERNEL_SIZES`. The middle tap stays in the middle; angles, biases and everything else are
    copied. (The authors' script for this step does not run; the crop is what their README and issue tracker describe.)

    The crop is exact for directions along the axes. An oblique kernel covers less ground with the same taps, so at 45
    degrees and 7 pixels 19 taps were alive and 13 are kept: fine-tune. :func:`kernel_crops` shows the size of the loss.

    Args:
        state_dict: Weights of the classification network, under this package's names or the authors'.
        variant: "2d", "1d", "1dpp", "2dpp", or a model name that ends so, like "convnext_tiny_1d".
        kernel_sizes: Lengths to crop to, as :class:`ConvNeXt` takes them; by default `BACKBONE_KERNEL_SIZES`.

    Returns:
        A state dict for `ConvNeXt(..., kernel_sizes=kernel_sizes, num_classes=0)` without `norm`, which is what
        `features_only=True` wraps as its `model`.

    Raises:
        ValueError: An unknown variant, a kernel shorter than asked for, an odd number of taps to cut, or no network in
            the state dict (of a file, give the weights: `checkpoints.read_original(path)`).

    Example:
        >>> weights = to_backbone(read_original("convnext_tiny_1d_best.pth", ema=True), "1d")  # doctest: +SKIP
        >>> backbone = timm.create_model(
        ...     "convnext_tiny_1d", features_only=True, kernel_sizes=BACKBONE_KERNEL_SIZES["1d"]
        ... )  # doctest: +SKIP
        >>> backbone.model.load_state_dict(weights)  # doctest: +SKIP
    """
    state = from_original(state_dict)
    for name, weight, size in list(_oriented_kernels(state, variant, kernel_sizes)):
        start = (weight.shape[1] - size) // 2
        state[name] = weight[:, start : start + size].clone()
    return {name: value for name, value in state.items() if not name.startswith(("norm.", "head."))}


def _oriented_kernels(
    state: Mapping[str, Tensor], variant: str, kernel_sizes: Sequence | None
) -> Iterator[tuple[str, Tensor, int]]:
    """Name, weight (C, K) and wanted length of every oriented kernel in the stages."""
    variant = variant.rsplit("_", 1)[-1]
    stages = len({name.split(".")[1] for name in state if name.startswith("stages.")})
    if stages == 0:
        raise ValueError(
            "the state dict has no weights under stages.*: of a checkpoint file, give the weights alone, "
            "as dwoconv1d.checkpoints.read_original(path) returns them"
        )
    if kernel_sizes is None:
        kernel_sizes = BACKBONE_KERNEL_SIZES.get(variant)
    sizes = resolve_kernel_sizes(variant, kernel_sizes, stages)
    for name in state:
        match = _DEPTHWISE.fullmatch(name)
        if match is None:
            continue
        stage, which = match.groups()
        size = sizes[int(stage)][int(which or 1) - 1]
        name = name.removesuffix("angle") + "weight"
        taps = state[name].shape[1]
        if size > taps or (taps - size) % 2:
            raise ValueError(f"{name} has {taps} taps and cannot be centre-cropped to {size}")
        yield name, state[name], size


def _dropped(weight: Tensor, size: int) -> float:
    margin = (weight.shape[1] - size) // 2
    return max(weight[:, :margin].abs().max().item(), weight[:, weight.shape[1] - margin :].abs().max().item())
