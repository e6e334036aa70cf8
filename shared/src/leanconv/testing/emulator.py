"""CUDA source run on the CPU by the repository's tests/emulator, with tensors that show what a kernel may not do.

Around and between the elements of its inputs lies NaN, its outputs begin as NaN, and so does what lies around them.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[4]
CODES = {torch.float64: 1, torch.float32: 0, torch.float16: 2, torch.bfloat16: 3}  # what C++ calls the dtypes
# Largest `error` of kernels, whose sums have some hundred terms.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
LAYOUTS = ["first", "last", "slice", "slice_last", "reversed"]  # of (N, C, ...): where the channels lie, and in what
MARGIN = 64  # elements around a tensor
UNSEEN = 0xAB  # of integers that no kernel writes; floats are NaN


def by_dtype(*dtypes: torch.dtype) -> pytest.MarkDecorator:
    """Run a test for each of `dtypes`; without any, for all."""
    return pytest.mark.parametrize("dtype", dtypes or list(CODES), ids=lambda dtype: str(dtype)[6:])


def build(sources: dict[str, Path], csrc: Path, folder: Path) -> dict[str, ctypes.CDLL]:
    """Compile C++ files that include CUDA source of `csrc` into libraries for the CPU; skip where that cannot be."""
    init = REPOSITORY / "tests/emulator/__init__.py"
    if not init.exists():
        pytest.skip("leanconv does not lie in its repository, where tests/emulator is")
    spec = importlib.util.spec_from_file_location("emulator", init)
    assert spec and spec.loader
    emulator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(emulator)
    if emulator.COMPILER is None:
        pytest.skip("g++ is not installed")
    return {part: emulator.build(source, csrc, folder / f"{part}.so") for part, source in sources.items()}


class Outputs:
    """Makes dense tensors for results, and remembers the last ones, to see whether a kernel wrote beside them."""

    def __init__(self, remembered: int = 8):
        self.buffers: deque[Tensor] = deque(maxlen=remembered)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        unseen = torch.nan if dtype.is_floating_point else UNSEEN
        self.buffers.append(torch.full([math.prod(shape) + 2 * MARGIN], unseen, dtype=dtype))
        return self.buffers[-1][MARGIN:-MARGIN].view(tuple(shape))

    def empty_images(self, shape: Sequence[int], dtype: torch.dtype, last: bool) -> Tensor:
        """(N, C, ...), with the channels last in memory or first."""
        if not last:
            return self.empty(shape, dtype)
        n, c, *size = shape
        return self.empty((n, *size, c), dtype).movedim(-1, 1)

    def check(self, name: str) -> None:
        """Fail if the kernel `name` wrote beside a tensor."""
        for buffer in self.buffers:
            for margin in (buffer[:MARGIN], buffer[-MARGIN:]):
                untouched = margin.isnan() if margin.is_floating_point() else margin == UNSEEN
                assert untouched.all(), f"{name} wrote outside a tensor"


def place(values: Tensor, dtype: torch.dtype, layout: str = "first") -> Tensor:
    """`values` in a layout, with NaN, or 99 in integers, wherever no element lies.

    `layout` is one of `LAYOUTS`, for (N, C, ...), or "odd" or "odd_last", where no vector begins at the first element.
    """
    where = layout.removeprefix("odd").removeprefix("_") or "first"
    around, cut = _lay(tuple(values.shape), where)
    start = MARGIN + layout.startswith("odd")
    buffer = torch.full([math.prod(around) + 2 * MARGIN], torch.nan if dtype.is_floating_point else 99, dtype=dtype)
    return cut(buffer[start : start + math.prod(around)].view(around)).copy_(values)


def _lay(shape: tuple[int, ...], layout: str) -> tuple[tuple[int, ...], Callable[[Tensor], Tensor]]:
    """The shape of memory for a tensor of `shape`, and how it is cut out of that."""
    if layout == "first":
        return shape, lambda t: t
    n, c, *size = shape
    inner, more = [slice(1, -2)] * len(size), [s + 3 for s in size]
    if layout == "last":
        return (n, *size, c), lambda t: t.movedim(-1, 1)
    if layout == "slice":
        cut = (slice(1, None), slice(1, -1), *inner)
        return (n + 1, c + 2, *more), lambda t: t[cut]
    if layout == "slice_last":
        cut = (slice(1, None), *inner, slice(2, -1))
        return (n + 1, *more, c + 3), lambda t: t[cut].movedim(-1, 1)
    if layout == "reversed":
        return shape[::-1], lambda t: t.permute(*range(t.dim())[::-1])
    raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, odd, odd_last, got {layout!r}.")


def draw(shape: Sequence[int], dtype: torch.dtype, layout: str = "first", seed: int = 0) -> Tensor:
    """Random numbers in the places of `place`; the same ones for every dtype and layout."""
    generator = torch.Generator().manual_seed(seed)
    return place(torch.randn(tuple(shape), generator=generator, dtype=torch.float64), dtype, layout)


def drawing(seed: int) -> Callable[[int, int], int]:
    """number(low, high): an integer drawn from low to high."""
    draws = torch.Generator().manual_seed(seed)
    return lambda low, high: int(torch.randint(low, high + 1, (), generator=draws))


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest value where that is above 1; NaN where there is one."""
    if not expected.numel():
        return 0.0
    return ((found.double() - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
