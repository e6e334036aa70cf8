"""`PathTables`: paths as the ops read them, made once per value, size and device."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.weak import WeakTensorKeyDictionary

from .path_set import inverse as inverse_of
from .path_set import to_index
from .paths import resolve


class PathTables(NamedTuple):
    """P paths over an image as int32 permutations (P, L), L = height * width, on one device.

    Modules keep the two tensors as buffers, so that they move with the module and appear in exported programs.
    """

    # index[p, l]: the pixel row * width + column at position l of path p; it hides a method that no tables need
    index: Tensor  # type: ignore[assignment]
    inverse: Tensor  # inverse[p, q]: the position of pixel q in path p
    height: int
    width: int


def path_tables(
    paths: Any,
    height: int,
    width: int,
    device: torch.device | str | None = None,
) -> PathTables:
    """The tables of `paths`, anything that the functions of this package take, over an image of this size.

    Tables given are returned as they are. The rest is kept: a call with equal values costs a look-up. A tensor of rows
    and columns is read again when torch has changed it in place; changes behind torch's back, such as through a NumPy
    array that shares its memory, go unseen. Compiled code keeps the tables that it was compiled with, whatever happens
    to a tensor afterwards; compiled with `dynamic=True` it takes nothing but tables.

    Raises:
        TypeError: `paths` is no name, configuration, `PathSet` or tensor.
        ValueError: no such preset, or paths that do not visit each pixel of this size once.

    Example:
        >>> path_tables("r", 2, 2).index
        tensor([[1, 0, 3, 2]], dtype=torch.int32)
    """
    if isinstance(paths, PathTables):
        return paths
    device, mode = torch.device("cpu" if device is None else device), _fake_mode()
    index, inverse = _known(paths, height, width, torch.device("cpu") if mode else device)
    if mode:
        index, inverse = (mode.from_tensor(table, static_shapes=True).to(device) for table in (index, inverse))
    return PathTables(index, inverse, height, width)


def _fake_mode() -> Any:
    """The mode in which tensors have no numbers and mix with none that have, if one is on.

    Tracers, which know what to do with tensors that have numbers, get those: they become constants of the graph.
    """
    modes = torch._C._TorchDispatchModeKey
    if torch.compiler.is_compiling() or torch._C._get_dispatch_mode(modes.PROXY) is not None:
        return None
    mode: Any = torch._C._get_dispatch_mode(modes.FAKE)
    return None if mode is None or mode.allow_non_fake_inputs else mode


@torch.compiler.assume_constant_result
def _known(paths: Any, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    if not isinstance(paths, Tensor):
        paths = tuple(paths) if isinstance(paths, list) else paths
        try:
            hash(paths)
        except TypeError:
            return _make(paths, height, width, device)  # which says what is wrong
        return _of_value(paths, height, width, device)
    if paths.is_inference():  # does not count its changes
        return _make(paths, height, width, device)
    known = _of_tensors.setdefault(paths, {})
    key = (paths._version, height, width, device)
    tables = known.get(key)
    if tables is None:
        for old in list(known):
            if old[0] != paths._version:
                known.pop(old, None)
        tables = known[key] = _make(paths, height, width, device)
    return tables


def image_size(length: int, paths: Any, height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width of the image that sequences of this length come from, as far as they are not given.

    Raises:
        ValueError: one of them given alone, or no way to know them.
    """
    if (height is None) != (width is None):
        raise ValueError(f"height and width go together, but they are {height} and {width}.")
    if height is not None and width is not None:
        return height, width
    if hasattr(paths, "height") and hasattr(paths, "width"):
        return paths.height, paths.width
    if isinstance(paths, Tensor) and paths.shape[-1] == 2 and paths.numel() > 0:
        return _extent(paths)
    side = math.isqrt(length)
    if side * side != length:
        raise ValueError(f"y has {length} positions, which is no square: pass height and width of the image.")
    return side, side


@torch.compiler.assume_constant_result
def _extent(paths: Tensor) -> tuple[int, int]:
    rows, columns = (paths.reshape(-1, 2).amax(0) + 1).tolist()
    return rows, columns


_of_tensors: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


@functools.lru_cache(maxsize=64)
def _of_value(paths: Any, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return _make(paths, height, width, device)


def _make(paths: Any, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    # Plain tensors, as they are kept: also where a graph is traced with tensors that have no numbers, under torch.func,
    # and in inference mode, whose tensors no gradient could use later.
    with _disable_current_modes(), temporarily_clear_interpreter_stack(), torch.inference_mode(False):
        index = to_index(resolve(paths, height, width), width)
        return index.to(device), inverse_of(index).to(device)
