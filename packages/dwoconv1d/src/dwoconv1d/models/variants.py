"""The paper's four variants and their kernel sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One column of figure 3: stem, first depthwise convolution, kernel sizes of a block's one or two convolutions."""

    stem: str
    oriented: bool
    kernel_sizes: tuple[int, ...]


VARIANTS = {
    "2d": Variant(stem="patch", oriented=False, kernel_sizes=(7,)),
    "1d": Variant(stem="oriented", oriented=True, kernel_sizes=(31,)),
    "1dpp": Variant(stem="oriented", oriented=True, kernel_sizes=(15, 31)),
    "2dpp": Variant(stem="patch", oriented=False, kernel_sizes=(7, 31)),
}

# For detection and segmentation, stage by stage.
BACKBONE_KERNEL_SIZES: dict[str, tuple] = {
    "2d": (7, 7, 7, 7),
    "1d": (31, 31, 27, 13),
    "1dpp": ((15, 31), (15, 31), (15, 27), (13, 13)),
    "2dpp": ((7, 31), (7, 31), (7, 27), (7, 13)),
}


def resolve_kernel_sizes(
    variant: str, kernel_sizes: Sequence[int] | Sequence[tuple[int, int]] | None, stages: int
) -> list[tuple[int, ...]]:
    """One tuple of kernel sizes per stage, as long as a block of `variant` has depthwise convolutions."""
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(map(repr, VARIANTS))}, got {variant!r}")
    default = VARIANTS[variant].kernel_sizes
    if kernel_sizes is None:
        return [default] * stages
    sizes = [(size,) if isinstance(size, int) else tuple(size) for size in kernel_sizes]
    if len(sizes) != stages or any(len(size) != len(default) for size in sizes):
        entry = "an int" if len(default) == 1 else "a pair of ints"
        raise ValueError(
            f"kernel_sizes must hold {entry} for each of the {stages} stages of a {variant!r} network, "
            f"got {kernel_sizes!r}"
        )
    return sizes
