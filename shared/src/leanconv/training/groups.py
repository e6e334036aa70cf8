"""Which parameters decay, and how fast each learns: the recipe says it, and layers may.

A layer that wants to be trained in its own way says so by methods, which any submodule may have:

    no_weight_decay() -> names of its parameters that must not decay (timm asks the whole network the same)
    lr_factors() -> {name of its parameter: factor on the learning rate}
    after_step_() -> None, called after each step of the optimizer
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from leanconv.training.recipe import ConfigError, Recipe

Groups = list[dict[str, Any]]

# Where a parameter of a staged network stands, as dwoconv1d, timm and the authors name it, under any prefix.
_PLACE = re.compile(
    r"(?:^|\.)(?:stem|downsample_layers[._](?P<before>\d+)"
    r"|stages[._](?P<stage>\d+)\.(?:blocks\.)?(?:(?P<block>\d+)|downsample))(?=[._])"
)


def grouping(recipe: Recipe, network: nn.Module) -> Callable[[nn.Module], Groups] | None:
    """The network's parameters in groups, as a function for timm; None where timm's own groups are right."""
    spared, factors = _said(network, "no_weight_decay"), _factors(recipe, network)
    if recipe.layer_decay is not None and recipe.layer_decay_by != "block":
        depths = layer_numbers(network, recipe.layer_decay_by)
        head = max(depths.values())
        for name, depth in depths.items():
            factors[name] = factors.get(name, 1.0) * recipe.layer_decay ** (head - depth)
    if not (spared or factors or recipe.decay_biases):
        return None

    def groups(model: nn.Module) -> Groups:
        if recipe.decay_biases:
            found = _with_biases(model, recipe, spared)
        elif recipe.layer_decay is not None and recipe.layer_decay_by == "block":
            found = param_groups_layer_decay(model, recipe.weight_decay, spared, layer_decay=recipe.layer_decay)
        else:
            found = param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=spared)
        return _by_factor(found, {id(p): factors[name] for name, p in model.named_parameters() if name in factors})

    return groups


def after_steps(network: nn.Module) -> list[Callable[[], None]]:
    """What layers want to have done after each step of the optimizer."""
    layers: list[Any] = [module for module in network.modules() if hasattr(module, "after_step_")]
    return [layer.after_step_ for layer in layers]


def layer_numbers(network: nn.Module, by: str) -> dict[str, int]:
    """How deep each parameter of a staged backbone lies, by which its rate is decayed; all else is one deeper still.

    With n stages whose last but one has d blocks, the deepest is L = n - 1 + ceil(d / 3): 6 and 12 of the paper's tiny
    and base networks.

    "thirds", as ConvNeXt is trained for detection: the stem is 0, stage s and what is in front of it s + 1, but block b
    of the last but one n - 1 + b // 3, and the last stage L. "stage", as for segmentation: the stem and what is in
    front of the stages are 0, stage s is s + 1.

    Raises:
        ConfigError: the network has no stages of blocks.
    """
    inside = "backbone." if hasattr(network, "backbone") else ""
    places = {name: _PLACE.search(name) if name.startswith(inside) else None for name, _ in network.named_parameters()}
    blocks = {(int(p["stage"]), int(p["block"])) for p in places.values() if p and p["block"]}
    last = max((stage for stage, _ in blocks), default=0)
    if last == 0:
        raise ConfigError(
            f"layer_decay_by {by!r} is for networks whose parameters lie in stages.0.0, stages.0.1 and so on, as those "
            f"of ConvNeXt, and {type(network).__name__} has none: take 'block'"
        )
    deepest = last + -(-(1 + max(block for stage, block in blocks if stage == last - 1)) // 3)

    def number(place: re.Match[str] | None) -> int:
        if place is None:
            return deepest + 1
        block, stage = place["block"], int(place["stage"] or place["before"] or 0)
        if block is None and (by == "stage" or stage == 0):
            return 0
        if by == "thirds" and stage == last:
            return deepest
        return stage + 1 + (int(block or 0) // 3 if by == "thirds" and stage == last - 1 else 0)

    return {name: number(place) for name, place in places.items()}


def _said(network: nn.Module, method: str) -> dict[str, Any]:
    """What all submodules answer, under the parameters' full names."""
    answers: dict[str, Any] = {}
    for prefix, module in network.named_modules():
        own: dict[str, Any] | set[str] = getattr(module, method, dict)()
        values = own if isinstance(own, dict) else dict.fromkeys(own)
        answers |= {f"{prefix}.{name}".lstrip("."): value for name, value in values.items()}
    return answers


def _factors(recipe: Recipe, network: nn.Module) -> dict[str, float]:
    """Factors by full name: as the layers say or, for the last part of a name, the recipe; times that of the first."""
    factors, asked = _said(network, "lr_factors"), recipe.lr_factors
    for name, _ in network.named_parameters():
        first, last = name.partition(".")[0], name.rpartition(".")[2]
        if last in asked:
            factors[name] = asked[last]
        if first in asked and first != name:
            factors[name] = factors.get(name, 1.0) * asked[first]
    return factors


def _by_factor(groups: Groups, factors: dict[int, float]) -> Groups:
    """The groups, each split by the factor of its parameters; the schedule multiplies by `lr_scale`."""
    split: Groups = []
    for group in groups:
        parts: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
        for factor, parameters in sorted(parts.items(), reverse=True):
            scaled = {} if factor == 1 else {"lr_scale": group.get("lr_scale", 1.0) * factor}
            split.append({**group, **scaled, "params": parameters})
    return split


def _with_biases(network: nn.Module, recipe: Recipe, spared: dict[str, Any]) -> Groups:
    """Two groups: `spared` and, without `decay_norms`, what torch and timm call norms, undecayed; all else decayed."""
    norms = {
        id(parameter)
        for module in network.modules()
        if not recipe.decay_norms and "norm" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False)  # not those of a convolution in what is called ConvNorm
    }
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups[id(parameter) not in norms and name not in spared].append(parameter)
    return [
        {"params": groups[True], "weight_decay": recipe.weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]
