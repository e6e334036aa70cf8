"""From generated kernels back to ordinary ones, and what of the codes reaches them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ._common.convert import Swap, walk
from .modules import CSGConv2d, registered_generators
from .product import without_autocast


def export(model: nn.Module, inplace: bool = False) -> nn.Module:
    """`model` with an `nn.Conv2d` for every `CSGConv2d`: no generator is left, and outputs are the same to the bit,
    outside of autocast.

    For inference without this package, or to train on with ordinary kernels, all of which learn: an optimizer must be
    made anew. A model trained in parallel is to be exported without its wrapper.

    Args:
        model: any `nn.Module` with generated layers.
        inplace: changes `model` itself instead of a deep copy.

    Returns:
        the model, with a `ConvertReport` as its attribute `convert_report`.

    Raises:
        TypeError: `model` is no module.
        ValueError: it has no generated layers, only some of those of a generator, one with hooks or another forward,
            which would be lost, or one of a subclass.

    Example:
        >>> layer = CSGConv2d(16, 32, 3, SliceGenerator(72, (12, 12, 3, 3)))
        >>> export(layer)
        Conv2d(16, 32, kernel_size=(3, 3), stride=(1, 1))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, but it is a {type(model).__name__}.")
    registered_generators(model)
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, CSGConv2d)]
    if not layers:
        raise ValueError("model has no CSGConv2d: there is nothing to export.")
    for name, layer in layers:
        if type(layer) is not CSGConv2d:
            kind = type(layer).__name__
            raise ValueError(f"{name or 'the layer'} is a {kind}, which may compute something else than CSGConv2d.")
        if altered(layer):
            raise ValueError(f"{name or 'the layer'} has hooks or another forward, which would be lost: remove them.")

    def policy(name: str, layer: nn.Module) -> Callable[[], Swap] | None:
        return (lambda: _plain(layer)) if isinstance(layer, CSGConv2d) else None

    with torch.inference_mode(False):  # an inference tensor cannot be trained on
        return walk(model, policy, where=None, inplace=inplace)


def altered(layer: nn.Module) -> bool:
    """Whether something is attached to it that one in its place would not have."""
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    return any(hooks) or "forward" in vars(layer)


def _plain(layer: Any) -> Swap:
    with torch.no_grad(), without_autocast(layer.generator.codes):
        weight = layer.weight.clone(memory_format=torch.contiguous_format)
    new = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        bias=False,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    new.weight = nn.Parameter(weight)
    new.bias = layer.bias
    return Swap(new, "kept", (weight.numel(), weight.numel()))


@dataclass(frozen=True)
class DeadCodes:
    """Codes that reach no kernel, of all rows of codes."""

    dead: int
    rows: int
    parameters: int  # numbers in the dead ones
    layers: dict[str, tuple[int, int]]  # dead and all rows of each layer that has dead ones, by name

    def __str__(self) -> str:
        lines = [f"{name}: {dead} of {rows} codes" for name, (dead, rows) in self.layers.items()]
        return "\n".join([*lines, f"{self.dead} of {self.rows} codes, {self.parameters} parameters, are dead"])


def dead_codes(model: nn.Module) -> DeadCodes:
    """Which codes are never used: in layout "raster" those of slices that lie beyond the kernel.

    They get no gradient and only decay. The network computes the same without them; `save_compact` leaves them out.

    Raises:
        TypeError: `model` is no module.

    Example:
        >>> generator = SliceGenerator(72, (12, 12, 3, 3))
        >>> print(dead_codes(CSGConv2d(16, 16, 3, generator)))
        the layer: 1 of 4 codes
        1 of 4 codes, 72 parameters, are dead
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, but it is a {type(model).__name__}.")
    dead = rows = parameters = 0
    layers: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, CSGConv2d):
            continue
        live, unused = module.generator.rows(module.index)
        dead, rows = dead + len(unused), rows + len(live) + len(unused)
        parameters += len(unused) * module.generator.code_size
        if unused:
            layers[name or "the layer"] = (len(unused), len(live) + len(unused))
    return DeadCodes(dead, rows, parameters, layers)
