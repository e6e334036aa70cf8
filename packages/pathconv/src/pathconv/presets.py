"""Named sets of paths: the paper's, bit for bit, and cheaper ones that we found."""

from __future__ import annotations

import functools
from dataclasses import replace

from torch import Tensor

from ._common.checks import positive_int
from .curves import PathConfig
from .path_set import PathSet

_PLAIN = {"r": "raster", "s": "serpentine", "og": "hilbert", "oz": "zorder"}
ABOUT = {  # the paper writes its sets C* and C+: the star of g* and z* is ours, and theirs are g and z
    "r": "the raster, a single path",
    "s": "the serpentine, a single path",
    "og": "the Hilbert curve, a single path",
    "oz": "the Z-order curve, a single path",
    "g": "the paper's three shifted Hilbert paths (its HC*)",
    "z": "the paper's three shifted Z-order paths (its ZC*)",
    "mg": "the paper's six Hilbert paths (its HC+)",
    "mz": "the paper's six Z-order paths (its ZC+)",
    "g*": "ours: the cheapest three Hilbert paths, cheaper than g",
    "z*": "ours: the cheapest three Z-order paths, cheaper than z",
}
PRESETS: tuple[str, ...] = tuple(ABOUT)

_SIX_HILBERT = "0 0,0 0 | 5 0,4 0 | 5 4,0 0 | 5 4,4 0 | 5 2,2 0 | 5 2,4 0"

# (name, side) -> "pad row,column rotation | ...". Tables 2 and 10 of the paper, where table 10 prints pad 0 for four
# Hilbert windows that need pad 5, as in the authors' code. Those at 224 are from comments in that code; g is the
# cheaper of its two.
_SHIFTED = {
    ("g", 32): "0 0,0 0 | 24 14,1 180 | 18 7,0 270",
    ("g", 64): "0 0,0 0 | 7 7,0 180 | 40 13,1 0",
    ("g", 224): "13 10,5 270 | 10 5,0 270 | 7 7,0 90",
    ("z", 32): "32 16,26 180 | 32 14,16 0 | 32 12,20 0",
    ("z", 64): "64 36,32 270 | 64 36,34 90 | 64 28,32 0",
    ("z", 224): "32 0,0 0 | 32 11,14 180 | 32 16,14 0",
    ("mg", 32): _SIX_HILBERT,
    ("mg", 64): _SIX_HILBERT,
    ("mz", 32): "0 0,0 0 | 32 16,26 0 | 32 14,16 180 | 32 12,20 180 | 32 8,4 0 | 32 4,8 0",
    ("mz", 64): "0 0,0 0 | 64 36,32 270 | 64 36,34 90 | 64 28,32 0 | 64 4,8 0 | 64 8,4 0",
    ("g*", 32): "0 0,0 0 | 4 4,0 180 | 19 12,0 0",
    ("g*", 64): "2 2,0 0 | 4 4,1 180 | 7 7,0 90",
    ("g*", 224): "5 2,0 0 | 5 0,2 0 | 7 7,0 90",
    ("z*", 32): "32 14,16 0 | 32 14,16 270 | 32 12,20 0",
    ("z*", 64): "64 28,32 0 | 64 28,32 90 | 64 24,28 90",
    ("z*", 224): "32 16,0 0 | 32 16,0 90 | 32 14,18 0",
}


def preset(name: str, height: int, width: int) -> Tensor:  # int64 (P, H * W, 2)
    """The paths of a preset; see `preset_set`."""
    return preset_set(name, height, width).paths


def preset_set(name: str, height: int, width: int) -> PathSet:
    """A preset with its configurations and cost.

    The single paths r, s, og, oz are there for any size. The shifted sets are for squares of side 32, 64 and (but for
    the sets of six) 224: whether they meet the locality constraint depends on the size. The names are the authors'
    (their `--path`). The starred ones are ours: `search.exact` proves that no set of the paper's candidates that meets
    the constraint costs less.

    Raises:
        ValueError: an unknown name, or a set that is not there for this size.

    Example:
        >>> [str(config) for config in preset_set("g", 32, 32).configs]
        ['hilbert', 'hilbert {24, [14, 1], 180}', 'hilbert {18, [7, 0], 270}']
    """
    return _preset_set(name, positive_int("height", height), positive_int("width", width))


@functools.lru_cache(maxsize=64)
def _preset_set(name: str, height: int, width: int) -> PathSet:
    if name not in PRESETS:
        raise ValueError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}.")
    if name in _PLAIN:
        return PathSet.of([PathConfig(_PLAIN[name])], height, width)
    sides = [side for known, side in _SHIFTED if known == name]
    curve = "hilbert" if "g" in name else "zorder"
    if height != width or height not in sides:
        where = f'{height}, {width}, "{curve}"'
        few = curve == "hilbert" and 64 < max(height, width) < 224  # all candidates would take hours and much memory
        chosen = f", universe=pathconv.search.candidates({where}, max_pad=15)" if few else ""
        raise ValueError(
            f'preset "{name}" is there for squares of {", ".join(map(str, sides))}, not for {height} x {width}: '
            f"find the cheapest set in seconds with pathconv.search.exact({where}{chosen}), or use the single path "
            f'"o{name.strip("m*")}".'
        )
    found = PathSet.of(_read(curve, _SHIFTED[name, height]), height, width)
    return replace(found, bound=found.cost, proven=True) if name.endswith("*") else found


def _read(curve: str, text: str) -> list[PathConfig]:
    configs = []
    for window in text.split(" | "):
        pad, offset, rotation = window.split()
        row, column = map(int, offset.split(","))
        configs.append(PathConfig(curve, int(pad), (row, column), int(rotation)))
    return configs
