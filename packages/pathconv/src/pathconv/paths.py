"""Paths over images: curves, presets, sets, and what turns them into tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._common.checks import positive_int
from .curves import CURVES, PathConfig, generate
from .locality import Locality, locality
from .path_set import PathSet, inverse, to_index
from .presets import PRESETS, preset, preset_set

__all__ = [
    "CURVES",
    "PRESETS",
    "Locality",
    "PathConfig",
    "PathSet",
    "generate",
    "inverse",
    "locality",
    "preset",
    "preset_set",
    "resolve",
    "to_index",
]


def resolve(path: Any, height: int, width: int) -> Tensor:  # int64 (P, H * W, 2)
    """The paths that `path` means over an image of this size, checked.

    Args:
        path: the name of a preset, a `PathSet`, a `PathConfig` or a sequence of them, or a tensor of rows and columns
            (H * W, 2) or (P, H * W, 2).
        height: of the image.
        width: of the image.

    Raises:
        TypeError: something else, or a tensor that holds no integers.
        ValueError: what does not fit this size, or a tensor that does not visit each pixel once.

    Example:
        >>> resolve("g", 32, 32).shape
        torch.Size([3, 1024, 2])
    """
    height, width = positive_int("height", height), positive_int("width", width)
    if isinstance(path, str):
        return preset(path, height, width)
    if isinstance(path, PathSet):
        if (path.height, path.width) != (height, width):
            raise ValueError(
                f"path is a set for images of {path.height} x {path.width} pixels, not for {height} x {width}: search "
                "one for this size, or pass its configs, which meet the locality constraint only by luck."
            )
        return path.paths
    if isinstance(path, PathConfig):
        return path.path(height, width)[None]
    if isinstance(path, Tensor):
        return _checked(path, height, width)
    if isinstance(path, (tuple, list)):
        return PathSet.of(path, height, width).paths
    raise TypeError(
        "path must be the name of a preset, a PathSet, PathConfigs or a tensor (P, H * W, 2), but it is a "
        f"{type(path).__name__}."
    )


def _checked(path: Tensor, height: int, width: int) -> Tensor:
    if path.is_floating_point() or path.is_complex() or path.dtype == torch.bool:
        raise TypeError(f"path must hold integers, rows and columns, but it is {path.dtype}.")
    pixels = height * width
    if path.dim() not in (2, 3) or path.shape[-2:] != (pixels, 2) or not len(path):
        raise ValueError(
            f"path must have shape (P, {pixels}, 2) or ({pixels}, 2), rows and columns of {height} x {width} pixels, "
            f"but it has shape {tuple(path.shape)}."
        )
    path = path.long().reshape(-1, pixels, 2)
    inside = ((path >= 0) & (path < path.new_tensor((height, width)))).all(2)
    once = torch.arange(pixels, device=path.device)
    for number, whole in enumerate(inside.all(1).tolist()):
        if not whole or not torch.equal(to_index(path[number], width).long().sort().values, once):
            raise ValueError(f"path {number} does not visit each of the {height} x {width} pixels once.")
    return path
