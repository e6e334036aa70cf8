"""Kernels that are kept between calls, and how to know that they still hold."""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .product import Generate, Plan, Sources, kernels, versions

if TYPE_CHECKING:
    from .generator import SliceGenerator

PLAIN = (Tensor, nn.Parameter)


class KernelSet:
    """The kernels of all layers as they were made at once.

    Args:
        plan: which rows make which layer.
        sources: what they are made of.
        dtype: of the kernels.
        owner: of a set that learns: forgets it when its gradient has passed, which nothing else would free.
    """

    def __init__(self, plan: Plan, sources: Sources, dtype: torch.dtype, owner: SliceGenerator | None = None) -> None:
        self.sources, self.dtype, self.versions = sources, dtype, versions(sources)
        self.asked: set[int] = set()  # layers, in this round
        self.task = torch._C._current_graph_task_id()  # the backward pass that it was made in, -1 outside
        self.learning, self.values = _learning(sources), []  # type: tuple[bool, ...], list[Tensor | None]
        if owner is not None:
            self._owner = weakref.ref(owner)
            self.kernels = Generate.apply(plan, dtype, weakref.ref(self), *sources)
        else:
            # An inference tensor has no version, and cannot be trained on.
            with torch.inference_mode(False), torch.no_grad():
                self.kernels = kernels(plan, sources, dtype)
                if sources[0].is_cpu:
                    self.values = [None if t is None else t.detach().clone() for t in sources]
        self._made = [kernel._version for kernel in self.kernels]
        device = sources[0].device.type
        self._device = "" if device == "meta" or torch.is_autocast_enabled(device) else device

    def fits(self, sources: Sources, dtype: torch.dtype) -> bool:
        """Whether the same tensors, unchanged as far as torch knows, would make the same kernels."""
        mine = self.sources
        return (
            mine[0] is sources[0]
            and mine[1] is sources[1]
            and mine[2] is sources[2]
            and self.dtype == dtype
            and self.versions == versions(sources)
            and [kernel._version for kernel in self.kernels] == self._made
        )

    def lasts(self, index: int, codes: Tensor | None, weight: Tensor | None, bias: Tensor | None) -> bool:
        """Whether a layer takes its kernel of this set, in a round that has begun: the usual case, seen quickly."""
        mine = self.sources
        if index in self.asked or codes is not mine[0] or weight is not mine[1] or bias is not mine[2]:
            return False
        if self.versions != versions(mine) or self.kernels[index]._version != self._made[index]:
            return False
        if not self._device or torch.is_autocast_enabled(self._device):
            return False
        self.asked.add(index)
        return True

    def in_step(self, index: int) -> bool:
        """Whether a learning layer takes its kernel of this set: once in a step, or as a backward pass recomputes."""
        task = torch._C._current_graph_task_id()
        if self.learning != _learning(self.sources):
            return False
        return index not in self.asked and self.task == -1 if task == -1 else self.task in (-1, task)

    def same_values(self) -> bool:
        """Whether the sources hold what they held, wherever a CPU can look, though it was written past torch."""
        return all(t is None or value is None or _same(t, value) for t, value in zip(self.sources, self.values))

    def spend(self) -> None:
        """A gradient has passed. What a backward pass recomputed is kept until the next step, or each layer would make
        a set of its own."""
        owner = self._owner()
        if owner is not None and owner._learning is self and self.task == -1:
            owner._learning = None


def ordinary(sources: Sources) -> bool:
    """Whether these are tensors that can be kept: no subclass, and none of inference mode, which have no version."""
    return all(t is None or (type(t) in PLAIN and not t.is_inference()) for t in sources)


def _learning(sources: Sources) -> tuple[bool, ...]:
    codes, weight, bias = sources
    return codes.requires_grad, weight.requires_grad, bias is not None and bias.requires_grad


def _same(t: Tensor, value: Tensor) -> bool:
    compare = _memcmp()
    if compare is None or not t.is_contiguous() or t.dtype != value.dtype or t.shape != value.shape:
        return torch.equal(t, value)
    return compare(t.data_ptr(), value.data_ptr(), t.nbytes) == 0


@functools.cache
def _memcmp() -> Callable[[int, int, int], int] | None:
    """C's, which takes a fortieth of `torch.equal`'s time."""
    try:
        compare = ctypes.CDLL(None).memcmp
    except (AttributeError, OSError, TypeError):  # where there is no such library
        return None
    compare.argtypes, compare.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t), ctypes.c_int
    return compare
