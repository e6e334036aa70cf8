"""`PathSet`: several paths over images of one size, as a value that can be kept in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._common.checks import positive_int
from .curves import PathConfig
from .locality import Locality, distances, raster_distances

_FORMAT, _VERSION = "pathconv path set", 1


@dataclass(frozen=True)
class PathSet:
    """P paths over images of one size, with what is known of their locality.

    A value: it compares and hashes by its fields. `PathSet.of` makes one from configurations.

    Args:
        height: of the images.
        width: of the images.
        configs: one per path.
        cost: the paper's total distance, each pair of neighbours counted twice, summed over the paths.
        bound: no set of the candidates searched that meets the locality constraint costs less; 0 where none is known.
        proven: `cost` is the least of them.
        coverage: part of the pixels that at least one path is strictly better at than the raster.

    Example:
        >>> best = PathSet.of([PathConfig("hilbert"), PathConfig("zorder")], 32, 32)
        >>> best.paths.shape, best.cost
        (torch.Size([2, 1024, 2]), 396584)
    """

    height: int
    width: int
    configs: tuple[PathConfig, ...]
    cost: int
    bound: int | float = 0
    proven: bool = False
    coverage: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "configs", tuple(self.configs))  # a list could not be hashed

    @classmethod
    def of(
        cls,
        configs: Iterable[PathConfig],
        height: int,
        width: int,
        *,
        bound: int | float = 0,
        proven: bool = False,
    ) -> PathSet:
        """The set of these paths, measured.

        Raises:
            TypeError: something else than configurations.
            ValueError: none of them, or one that does not fit this size.
        """
        height, width = positive_int("height", height), positive_int("width", width)
        configs = tuple(configs)
        paths = _paths(configs, height, width)
        measured = Locality(distances(paths, height, width), raster_distances(height, width))
        return cls(height, width, configs, measured.cost, bound, proven, measured.coverage)

    @property
    def num_paths(self) -> int:
        """P."""
        return len(self.configs)

    @property
    def paths(self) -> Tensor:  # int64 (P, H * W, 2)
        """Rows and columns in the order of reading."""
        return _paths(self.configs, self.height, self.width)

    @property
    def index(self) -> Tensor:  # int32 (P, H * W)
        """The same as pixel numbers row * width + column."""
        return to_index(self.paths, self.width)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Writes the set as JSON; a file of that name is replaced whole or, where writing fails, left alone."""
        file = Path(file)
        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps({"format": _FORMAT, "version": _VERSION, **asdict(self)}, indent=1) + "\n")
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> PathSet:
        """Reads a set that `save` wrote, and measures it again.

        Raises:
            ValueError: the file holds no path set, one of a newer version, or other paths than its cost says.
        """
        try:
            content = json.loads(Path(file).read_text())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} holds no path set: it is no JSON ({error}).") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f'{file} holds no path set: there is no "format": "{_FORMAT}" in it.')
        if content.get("version") != _VERSION:
            raise ValueError(
                f"{file} is a path set of version {content.get('version')}, but this is pathconv for version "
                f"{_VERSION}: update pathconv, or save the set again."
            )
        return cls._checked(content, file)

    @classmethod
    def _checked(cls, content: dict[str, Any], file: object) -> PathSet:
        try:
            configs = [PathConfig(**config) for config in content["configs"]]
            cost, bound, proven = content["cost"], content["bound"], content["proven"]
            made = cls.of(configs, content["height"], content["width"], bound=bound, proven=proven)
            possible = isinstance(proven, bool) and bound <= made.cost and (bound == made.cost or not proven)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} holds no valid path set: {error!r}.") from error
        if made.cost != cost:
            raise ValueError(
                f'{file} says "cost": {cost!r}, but its paths cost {made.cost}. Where they were changed by hand, write '
                f'"cost": {made.cost}, "bound": 0 and "proven": false; else the file is damaged.'
            )
        if not possible:
            raise ValueError(
                f'{file} says "bound": {bound!r} and "proven": {proven!r} of a cost of {cost}, but a bound is at most '
                'the cost, and equal to it where that is proven: "bound": 0 and "proven": false always do.'
            )
        return made


def to_index(
    path: Tensor,  # (..., H * W, 2) rows, columns
    width: int,
) -> Tensor:  # int32 (..., H * W)
    """Pixel numbers row * width + column.

    Example:
        >>> to_index(torch.tensor([[0, 1], [2, 0]]), 3).tolist()
        [1, 6]
    """
    return (path[..., 0].long() * width + path[..., 1]).int()


def inverse(index: Tensor) -> Tensor:  # (..., H * W) -> int32 (..., H * W)
    """Of a permutation, the place of each number: `inverse[..., index[..., l]] = l`.

    Example:
        >>> inverse(torch.tensor([2, 0, 1])).tolist()
        [1, 2, 0]
    """
    place = torch.arange(index.shape[-1], dtype=torch.int32, device=index.device)
    return torch.empty_like(index, dtype=torch.int32).scatter_(-1, index.long(), place.expand_as(index))


def _paths(configs: tuple[PathConfig, ...], height: int, width: int) -> Tensor:
    for config in configs:
        if not isinstance(config, PathConfig):
            what = "a tensor: put several into one by torch.stack" if isinstance(config, Tensor) else repr(config)
            raise TypeError(f"configs must hold PathConfig, but there is {what}.")
    if not configs:
        raise ValueError("configs is empty: a set holds at least one path.")
    return torch.stack([config.path(height, width) for config in configs])
