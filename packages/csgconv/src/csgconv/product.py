"""All kernels of a network by one product, and its gradient."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .functional import cropped
from .layouts import ENTRIES, Layer, table


@dataclass(frozen=True)
class Plan:
    """Which rows of the codes make which layer: the live ones of all layers come first, all dead ones after."""

    layers: tuple[Layer, ...] = ()
    slice_size: int = 1  # P
    first: tuple[int, ...] = field(init=False)  # live row of each layer
    live: int = field(init=False)
    rows: int = field(init=False)
    numbers: list[int] = field(init=False)  # what the ops read
    dense: bool = field(init=False)  # whether the kernels, one after another, are the live slices as they lie

    def __post_init__(self) -> None:
        *first, live = accumulate((layer.live for layer in self.layers), initial=0)
        values = {
            "first": tuple(first),
            "live": live,
            "rows": sum(layer.rows for layer in self.layers),
            "numbers": table(self.layers, first),
            "dense": all(layer.contiguous and layer.numel == layer.live * self.slice_size for layer in self.layers),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def ranges(self, index: int) -> tuple[range, range]:
        """Rows of the codes that make a layer: live ones, dead ones."""
        layer, start = self.layers[index], self.first[index]
        dead = self.live + sum(other.rows - other.live for other in self.layers[:index])
        return range(start, start + layer.live), range(dead, dead + layer.rows - layer.live)


Sources = tuple[Tensor, Tensor, Tensor | None]  # codes (rows, d), weight (P, d), bias (P,)


def versions(sources: Sources) -> tuple[int, int, int]:
    """They change with every write that torch knows of."""
    codes, weight, bias = sources
    return codes._version, weight._version, -1 if bias is None else bias._version


def without_autocast(t: Tensor) -> contextlib.AbstractContextManager:
    """Where dtypes stay as they are."""
    device = t.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def kernels(plan: Plan, sources: Sources, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Those of all layers, in `dtype`; views of one tensor."""
    codes, weight, bias = sources
    with without_autocast(codes):
        live = codes[: plan.live].to(dtype)
        slices = F.linear(live, weight.to(dtype), None if bias is None else bias.to(dtype))
        parts = cropped(slices, plan.layers, plan.numbers)
    return tuple(part.view(layer.shape) for part, layer in zip(parts, plan.layers))


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
    found = [(index, grad) for index, grad in enumerate(grads) if grad is not None]
    if not found:
        return None, None, None
    (codes, weight, bias), size = sources, plan.slice_size
    start = plan.first[found[0][0]]
    end = plan.first[found[-1][0]] + plan.layers[found[-1][0]].live
    with without_autocast(codes):
        flat = torch.cat([grad.reshape(-1) for _, grad in found])
        if plan.dense and flat.numel() == (end - start) * size:
            slices = flat.view(-1, size)
        else:
            slices = ops.uncrop(flat, _part(plan, [index for index, _ in found], start), end - start, size)
        grad_codes = grad_weight = grad_bias = None
        if needs[0]:
            grad_codes = (slices @ weight.to(dtype)).to(codes.dtype)
            if end - start < codes.shape[0]:
                grad_codes = F.pad(grad_codes, (0, 0, start, codes.shape[0] - end))
        if needs[1]:
            grad_weight = (slices.t() @ codes[start:end].to(dtype)).to(weight.dtype)
        if needs[2] and bias is not None:
            grad_bias = slices.sum(0).to(bias.dtype)
    return grad_codes, grad_weight, grad_bias


def _part(plan: Plan, indices: list[int], start: int) -> list[int]:
    """The table of some layers, in slices from row `start` on."""
    if len(indices) == len(plan.layers):
        return plan.numbers
    numbers = [number for n in indices for number in plan.numbers[ENTRIES * n : ENTRIES * (n + 1)]]
    numbers[::ENTRIES] = [number - start * plan.slice_size for number in numbers[::ENTRIES]]
    return numbers
