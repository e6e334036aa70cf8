"""Where PiX fits into a network, and why it does not fit elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from .dataflow import Step
from .modules import PiX


def shared_parameters(layers: Iterable[nn.Module]) -> set[int]:
    """The `id` of each parameter that several layers have."""
    count = Counter(id(parameter) for layer in layers for parameter in layer.parameters(recurse=False))
    return {key for key, times in count.items() if times > 1}


def unfit(layer: nn.Conv2d, steps: list[Step], shared: set[int]) -> str:
    """Why no mode changes `layer`; empty where one may."""
    if type(layer) is not nn.Conv2d:
        return f"{type(layer).__name__} may compute something else than nn.Conv2d"
    if _has_hooks(layer):
        return "it has hooks, which would be lost"
    if any(id(parameter) in shared for parameter in layer.parameters()):
        return "other layers have its parameters too, which would be parted"
    if not steps:
        return "it does not run on the example"
    if any(len(step.shapes[0]) != 4 for step in steps):
        return "its input is no batch of maps (N, C, H, W)"
    return ""


@dataclass(frozen=True)
class Site:
    """A squeezing convolution."""

    step: Step
    absorbed: tuple[nn.Module, ...]  # the norm and the activation behind it
    kept: Any  # a ReLU that cannot be taken out, of no effect behind PiX


def squeeze_site(layer: nn.Conv2d, steps: dict[nn.Module, list[Step]], zeta: int | None) -> Site | str:
    """What there is to replace, or why there is nothing."""
    channels, squeezed = layer.in_channels, layer.out_channels
    if layer.kernel_size != (1, 1) or layer.padding not in ((0, 0), "valid", "same"):
        return f"kernel {'x'.join(map(str, layer.kernel_size))}: only 1x1 convolutions without padding squeeze"
    if layer.groups != 1:
        return f"grouped ({layer.groups} groups)"
    if channels < squeezed:
        return "it expands the channels"
    if channels % squeezed:
        return "the channels that it reads are no multiple of those that it writes"
    if zeta is not None and zeta * squeezed != channels:
        return f"it squeezes by {channels // squeezed}, not by zeta={zeta}"
    if layer.stride != (1, 1):
        return f"stride {layer.stride[0]}, which PiX has not"
    if len(steps[layer]) > 1:
        return "it runs more than once in a pass"
    (step,) = steps[layer]
    if step.shapes[0][2:] == (1, 1):
        return "its maps are single pixels on the example, where nothing is gained"
    return _surroundings(step, steps, channels > squeezed)


def _surroundings(step: Step, steps: dict[nn.Module, list[Step]], reduces: bool) -> Site | str:
    """What follows a convolution, if that makes it a squeeze of a bottleneck."""
    absorbed: list[nn.Module] = []
    end, kept = step, None
    for kind in ("is_norm", "is_activation"):
        if len(end.readers) != 1 or not getattr(end.readers[0], kind):
            continue
        (end,) = end.readers
        if isinstance(end.call, nn.Module) and len(steps[end.call]) == end.arguments == 1:
            absorbed.append(end.call)
            if _has_hooks(end.call):
                return f"the {end.name} that follows it has hooks, which would be lost"
        elif end.is_rectifier and step.inputs and step.inputs[0].is_non_negative:
            kept = end
        else:
            return f"the {end.name} that follows it is no layer of its own, to be taken out with it"
    for reader in [kept] if kept else end.readers:
        if reader.in_place and not (reader is kept and isinstance(kept.call, nn.ReLU)):
            return f"the {reader.name} that follows it overwrites what PiX keeps for the backward pass"
    site = Site(step, tuple(absorbed), kept.call if kept else None)
    spatial = [reader.call for reader in end.readers if reader.is_spatial_convolution]
    if not reduces:
        mixed = any(not _is_depthwise(reader) for reader in spatial)
        return site if mixed else "it keeps the number of channels, before nothing spatial that mixes them"
    inverted = any(_is_depthwise(before.call) for before in step.nearest_convolutions)
    if spatial or inverted or any(reader.is_pooling for reader in end.readers):
        return site
    return "no spatial convolution or pooling reads it"


def unfit_for_fewer_channels(layer: nn.Conv2d, step: Step, zeta: int) -> str:
    """Why `layer` must go on reading all its channels; empty where it need not."""
    kernel = "x".join(map(str, layer.kernel_size))
    if max(layer.kernel_size) == 1:
        return "kernel 1x1: only spatial convolutions are to read fewer channels"
    if layer.groups > 1:
        return "depthwise" if _is_depthwise(layer) else f"grouped ({layer.groups} groups)"
    if not step.nearest_convolutions:
        return "it reads the image"
    if step.shapes[1][2:] == (1, 1) and layer.kernel_size == step.shapes[0][2:]:
        return f"kernel {kernel} covers its maps: a fully connected layer"
    if any(isinstance(before.call, PiX) for before in step.sources):
        return "PiX already reduces what it reads"
    if layer.in_channels < zeta:
        return f"{layer.in_channels} channels are fewer than zeta={zeta}"
    return ""


def _is_depthwise(call: Any) -> bool:
    return isinstance(call, nn.Conv2d) and call.groups == call.in_channels > 1


def _has_hooks(layer: nn.Module) -> bool:
    found = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(found)
