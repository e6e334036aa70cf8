"""All kernels of a network by one product for each group of layers, and their gradient."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate, groupby
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from . import ops
from .layouts import Layer, table


@dataclass(frozen=True)
class Group:
    """Layers, one after another, that need the same part of every slice, so that one product makes their kernels.

    Where a slice holds whole rows of filter planes of which `raster` drops the last few, as in the authors' ResNets
    with slices of 12 x 12, the product leaves these out: what it makes are kernels as they lie, and nothing is copied.

    Args:
        layers: their numbers.
        rows: of the codes.
        kept, padded: of every `padded` numbers of a slice the first `kept` are made; all where both are 1.
        copied: kernels do not lie in one piece even so.
        sizes: numbers that the product makes for each layer.
    """

    layers: range
    rows: range
    kept: int
    padded: int
    copied: bool
    sizes: tuple[int, ...]

    def part(self, t: Tensor) -> Tensor:  # (P, ...) -> (P / padded * kept, ...)
        """What the layers need of W, or of a bias."""
        if self.kept == self.padded:
            return t
        return t.reshape(-1, self.padded, *t.shape[1:])[:, : self.kept].reshape(-1, *t.shape[1:])

    def spread(self, t: Tensor) -> Tensor:  # (P / padded * kept, ...) -> (P, ...)
        """The adjoint of `part`."""
        if self.kept == self.padded:
            return t
        t, rest = t.reshape(-1, self.kept, *t.shape[1:]), t.shape[1:]
        return F.pad(t, (0, 0) * len(rest) + (0, self.padded - self.kept)).reshape(-1, *rest)


def _need(layer: Layer) -> tuple[int, int, bool]:
    """`kept`, `padded` and `copied` of a layer."""
    planes, columns = layer.shape[1], layer.blocks[1]
    if layer.contiguous:
        return 1, 1, False
    if planes <= columns and prod(layer.slice_shape) % (columns * layer.taps) == 0:
        return planes * layer.taps, columns * layer.taps, False
    return 1, 1, True


@dataclass(frozen=True)
class Plan:
    """Which rows of the codes make which layer: the live ones of all layers come first, all dead ones after."""

    layers: tuple[Layer, ...] = ()
    slice_size: int = 1  # P
    first: tuple[int, ...] = field(init=False)  # live row of each layer
    live: int = field(init=False)
    rows: int = field(init=False)
    sizes: tuple[int, ...] = field(init=False)  # elements of each layer's kernels
    groups: tuple[Group, ...] = field(init=False)

    def __post_init__(self) -> None:
        lives = [layer.live for layer in self.layers]
        *first, live = accumulate(lives, initial=0)
        groups = []
        for need, found in groupby(range(len(self.layers)), lambda n: _need(self.layers[n])):
            numbers, size = list(found), self.slice_size // need[1] * need[0]
            rows = range(first[numbers[0]], first[numbers[-1]] + lives[numbers[-1]])
            sizes = tuple(lives[n] * size for n in numbers)
            groups.append(Group(range(numbers[0], numbers[-1] + 1), rows, *need, sizes))
        values = {
            "first": tuple(first),
            "live": live,
            "rows": sum(layer.rows for layer in self.layers),
            "sizes": tuple(layer.numel for layer in self.layers),
            "groups": tuple(groups),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def table(self, indices: Iterable[int], start: int) -> list[int]:
        """Of some layers, in slices from row `start` on."""
        indices = list(indices)
        return table([self.layers[n] for n in indices], [self.first[n] - start for n in indices])

    def ranges(self, index: int) -> tuple[range, range]:
        """Rows of the codes that make a layer: live ones, dead ones."""
        layer, start = self.layers[index], self.first[index]
        dead = self.live + sum(other.rows - other.live for other in self.layers[:index])
        return range(start, start + layer.live), range(dead, dead + layer.rows - layer.live)


Sources = tuple[Tensor, Tensor, Tensor | None]  # codes (rows, d), weight (P, d), bias (P,)


def versions(sources: Sources) -> tuple[int, int, int]:
    """They change with every write that torch knows of."""
    codes, weight, bias = sources
    return codes._version, weight._version, 0 if bias is None else bias._version


def without_autocast(t: Tensor) -> contextlib.AbstractContextManager:
    """Where dtypes stay as they are."""
    device = t.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


LARGE = 1 << 20  # products that are worth a longer way


def multiplied(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:  # (m, k), (n, k) -> (m, n)
    """`F.linear`; in float32 by oneDNN where torch has MKL for a processor with AVX-512 that Intel did not make.

    On an AMD EPYC (family 26), the only one of them that was tried, MKL took up to twice as long.
    """
    if (
        a.dtype != torch.float32
        or a.device.type != "cpu"
        or a.shape[0] * b.numel() < LARGE
        or torch.is_grad_enabled()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or not _mkl_is_slow()
        or not torch.backends.mkldnn.enabled
        or ops.backends.active("cpu") != "native"
    ):
        return F.linear(a, b, bias)
    dense = None if bias is None else bias.contiguous()  # oneDNN reads it as if it were
    return torch.ops.mkldnn._linear_pointwise(a, b, dense, "none", [], "")


@functools.cache
def _mkl_is_slow() -> bool:
    has = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.csgconv, "mkl_is_slow")
    return has and known and torch.ops.csgconv.mkl_is_slow()


def kernels(plan: Plan, sources: Sources, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Those of all layers, in `dtype`; views of one tensor for each group."""
    codes, weight, bias = sources
    found: list[Tensor] = []
    with without_autocast(codes):
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        for group in plan.groups:
            rows, parts = group.rows, group.sizes
            live = codes[rows.start : rows.stop].to(dtype)
            slices = multiplied(live, group.part(weight), None if bias is None else group.part(bias))
            if group.copied:
                slices = ops.crop(slices, plan.table(group.layers, rows.start))
                parts = tuple(plan.sizes[n] for n in group.layers)
            for n, part in zip(group.layers, slices.view(-1).split(parts)):
                size = plan.sizes[n]
                found.append((part if len(part) == size else part[:size]).view(plan.layers[n].shape))
    return tuple(found)


class Generate(torch.autograd.Function):
    """`kernels` with a gradient.

    It keeps the sources itself and looks after their versions, as torch would: what recomputes a network, as gradient
    checkpointing does, must see as many saved tensors whether or not a layer finds its kernel made. `kept` refers to
    what keeps the kernels, and is told when their gradient has passed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        dtype: torch.dtype,
        kept: weakref.ref,
        codes: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.plan, ctx.dtype, ctx.kept = plan, dtype, kept
        ctx.sources = codes, weight, bias
        ctx.versions = versions(ctx.sources)
        return kernels(plan, ctx.sources, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        kept = ctx.kept()
        if kept is not None:
            kept.spend()
        if versions(ctx.sources) != ctx.versions:
            raise RuntimeError(
                "codes or weight of a SliceGenerator were changed between the forward pass and its backward pass: step "
                "the optimizer after all backward passes."
            )
        return None, None, None, *gradients(ctx.plan, ctx.sources, ctx.dtype, ctx.needs_input_grad[3:], grads)


def gradients(
    plan: Plan, sources: Sources, dtype: torch.dtype, needs: Sequence[bool], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of codes, weight and bias from those of the kernels, of which some may be missing; differentiable."""
    codes, weight, bias = sources
    of_codes: list[tuple[int, Tensor]] = []
    of_weight: list[Tensor] = []
    of_bias: list[Tensor] = []
    with without_autocast(codes):
        for group in plan.groups:
            numbers = [n for n in group.layers if grads[n] is not None]
            if not numbers:
                continue
            start, end = plan.first[numbers[0]], plan.first[numbers[-1]] + plan.layers[numbers[-1]].live
            slices = _slices(plan, group, numbers, end - start, grads)
            if needs[0]:
                of_codes.append((start, multiplied(slices, group.part(weight.to(dtype)).t())))
            if needs[1]:
                # The small matrix first: the large one is read as it lies.
                part = multiplied(codes[start:end].to(dtype).t(), slices.t()).t().contiguous()
                of_weight.append(group.spread(part))
            if needs[2] and bias is not None:
                of_bias.append(group.spread(slices.sum(0)))
        return (
            _placed(of_codes, codes.shape[0]).to(codes.dtype) if of_codes else None,
            reduce(torch.add, of_weight).to(weight.dtype) if of_weight else None,
            reduce(torch.add, of_bias).to(bias.dtype) if bias is not None and of_bias else None,
        )


def _slices(plan: Plan, group: Group, numbers: list[int], rows: int, grads: Sequence[Tensor | None]) -> Tensor:
    """The gradients of some layers of a group as those of its slices, in `rows` from the first layer on."""
    start, size = plan.first[numbers[0]], plan.slice_size // group.padded * group.kept
    flat = [grad.reshape(-1) for n in numbers if (grad := grads[n]) is not None]
    if group.copied:
        return ops.uncrop(torch.cat(flat), plan.table(numbers, start), rows, size)
    places = [(plan.first[n] - start) * size for n in numbers]
    return _placed(list(zip(places, flat)), rows * size).view(rows, size)


def _placed(parts: Sequence[tuple[int, Tensor]], size: int) -> Tensor:
    """Tensors at their places, in ascending order, along the first dimension of a larger one; zeros elsewhere."""
    found, end = [], 0
    for place, part in [*parts, (size, parts[-1][1][:0])]:
        if place > end:
            found.append(part.new_zeros((place - end, *part.shape[1:])))
        found.append(part)
        end = place + part.shape[0]
    return torch.cat(found)
