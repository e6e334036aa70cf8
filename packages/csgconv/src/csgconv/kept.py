"""Kernels that are kept between calls, and how to know that they still hold."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils import _python_dispatch

from . import ops
from ._common.checks import DTYPES
from .bits import replaced
from .product import Generate, Plan, Sources, kernels, versions

if TYPE_CHECKING:
    from .generator import SliceGenerator

PLAIN = (Tensor, nn.Parameter)
_interpreters, _modes = torch._C._functorch.peek_interpreter_stack, torch._C._len_torch_dispatch_stack
_tracing, _autocast, _task = torch._C._is_tracing, torch.is_autocast_enabled, torch._C._current_graph_task_id


class KernelSet:
    """The kernels of all layers as they were made at once.

    Args:
        sources: what they are made of.
        dtype: of the kernels.
        made: the kernels.
    """

    def __init__(self, sources: Sources, dtype: torch.dtype, made: tuple[Tensor, ...]) -> None:
        self.sources, self.dtype, self.versions = sources, dtype, versions(sources)
        self.kernels, self.kernel_versions = made, [kernel._version for kernel in made]
        self.checksum, self.values = ops.checksum(sources[0].device.type), 0

    def look(self) -> None:
        """Remembers the values, which may be written past torch."""
        self.values = self.checksum(*self.sources)

    def holds(self) -> bool:
        """Whether they are what they were."""
        return self.checksum(*self.sources) == self.values

    def fits(self, index: int, sources: Sources, dtype: torch.dtype) -> bool:
        """Whether the same tensors, unchanged as far as torch knows, would make the same kernel of a layer."""
        mine = self.sources
        return (
            mine[0] is sources[0]
            and mine[1] is sources[1]
            and mine[2] is sources[2]
            and self.dtype == dtype
            and self.versions == versions(sources)
            and self.kernels[index]._version == self.kernel_versions[index]
        )


class LearningSet(KernelSet):
    """Kernels of one training step.

    A layer in front of the one that had them made begins another step, if values were written past torch: that one may
    have been asked alone, long before.

    Args:
        plan: which rows make which layer.
        sources, dtype: as of `KernelSet`.
        owner: forgets the set when its gradient has passed, which nothing else would free.
        index: the layer that has them made.
    """

    def __init__(self, plan: Plan, sources: Sources, dtype: torch.dtype, owner: SliceGenerator, index: int) -> None:
        self.asked, self.first = {index}, index  # layers, in this step
        self.task = _task()  # the backward pass that it was made in, -1 outside
        self.learning, self._owner = _learning(sources), weakref.ref(owner)
        super().__init__(sources, dtype, Generate.apply(plan, dtype, weakref.ref(self), *sources))
        if index > 0 and self.task == -1:
            self.look()

    def in_step(self, index: int) -> bool:
        """Whether a layer takes its kernel of this set: once in a step, or as a backward pass recomputes."""
        task = _task()
        if self.learning != _learning(self.sources):
            return False
        if task != -1:
            return self.task in (-1, task)
        return index not in self.asked and self.task == -1 and (index > self.first or self.holds())

    def spend(self) -> None:
        """A gradient has passed. What a backward pass recomputed is kept until the next step, or each layer would make
        a set of its own."""
        owner = self._owner()
        if owner is not None and owner._learning is self and self.task == -1:
            owner._learning = None


class RestingSet(KernelSet):
    """Kernels that do not learn, kept until what they are made of changes.

    Torch's version numbers tell of most changes, and every layer asks for them. Writes through `.data` leave no trace,
    so on a CPU a checksum of the values is compared once in a round. A layer continues a round if it comes right after
    the one that asked last; any other begins one, and from then on whenever it asks. Where layers are called in the
    order in which they were made, that is once in a pass of the network; another order costs more questions. A write
    through `.data` between two parts of a pass, of which the second begins where the first one ended, is seen by the
    next pass.

    Args:
        plan: which rows make which layer.
        sources, dtype: as of `KernelSet`.
        owner: where the sources are registered.
    """

    def __init__(self, plan: Plan, sources: Sources, dtype: torch.dtype, owner: SliceGenerator) -> None:
        # An inference tensor has no version, and cannot be trained on.
        with torch.inference_mode(False), torch.no_grad():
            super().__init__(sources, dtype, kernels(plan, sources, dtype))
        codes = sources[0]
        self.device, self.cast = codes.device.type, dtype != codes.dtype or codes.is_meta
        self.look()
        self.codes_version, self.weight_version, self.bias_version = self.versions
        self.parameters = owner._parameters
        self.weights = owner._buffers if owner.binary else owner._parameters
        self.binary, self.unpacked = owner.binary, owner._unpacked
        self.next = -1  # the layer that continues the round
        self.following = [*range(1, len(plan.layers)), -1]  # after each layer; -1 where that one begins a round

    def at_once(self, index: int) -> Tensor | None:
        """The kernel of a layer in a pass without gradients: the usual case, seen quickly; None in any other.

        Written out, as every layer asks. What is left out is asked when a round begins. Where autocast begins within
        one, the convolution itself casts the kernel; to a function that torch transforms within one the kernel is a
        constant, as parameters that are transformed are others than those registered.
        """
        registered = self.parameters
        codes, weight, bias = self.sources
        if (
            self.cast
            or registered.get("codes") is not codes
            or codes._version != self.codes_version
            or self.weights.get("weight") is not weight
            or weight._version != self.weight_version
            or registered.get("bias") is not bias
            or (bias is not None and bias._version != self.bias_version)
            or (self.binary and replaced(self.weights, self.unpacked))
            or _python_dispatch._is_in_torch_dispatch_mode
        ):
            return None
        if index != self.next:
            if transformed() or capturing(self.sources) or _autocast(self.device) or not self.holds():
                return None
            self.go_on(index)
        self.next = self.following[index]
        return self.kernels[index]

    def go_on(self, index: int) -> None:
        """After the kernel of a layer was given in a pass of the network."""
        if index != self.next and index > 0:
            self.following[index - 1] = -1
        self.next = self.following[index]

    def begin(self, index: int) -> None:
        """After the first kernel was given: whether that layer stands alone is not known, unless it is the first."""
        self.go_on(index)
        if index > 0:
            self.next = -1


def transformed() -> bool:
    """Whether a program is made, or a function transformed, so that nothing may be kept."""
    return _interpreters() is not None or _modes() > 0 or forward_ad._current_level >= 0 or _tracing()


def capturing(sources: Sources) -> bool:
    """Whether a CUDA graph is recorded, which would read the memory of kept kernels after they are forgotten."""
    return sources[0].is_cuda and torch.cuda.is_current_stream_capturing()


def ordinary(sources: Sources) -> bool:
    """Whether kernels of these can be kept: of no subclass, of a dtype that the checksum reads, and none of inference
    mode, which have no version."""
    return all(t is None or (type(t) in PLAIN and t.dtype in DTYPES and not t.is_inference()) for t in sources)


def _learning(sources: Sources) -> tuple[bool, ...]:
    codes, weight, bias = sources
    return codes.requires_grad, weight.requires_grad, bias is not None and bias.requires_grad
