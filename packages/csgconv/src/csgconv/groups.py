"""The parameters of a network with generated kernels, for an optimizer: all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf
from types import NoneType
from typing import Any

from torch import nn

from .modules import registered_generators


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 5e-4,
    *,
    decay_vectors: bool = True,
    lr_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """The parameters of `model` that learn, in groups by learning rate and weight decay; none is left out.

    The authors' code for segmentation collects the parameters of convolutions and norms alone, so that neither codes
    nor generators are ever trained. Here every trainable parameter is in exactly one group.

    Args:
        lr: of what has no factor.
        weight_decay: the authors' for CIFAR; 1e-4 for ImageNet.
        decay_vectors: False spares biases, norms and other vectors; the authors decay everything.
        lr_factors: factors on `lr` by regular expression, searched in the names of parameters; of several that match,
            the last one counts. They win over what a module says of its parameters by a method `lr_factors()`.

    Raises:
        TypeError: `model` is no module, `lr`, `weight_decay` or a factor no number, or `lr_factors` no mapping.
        ValueError: a number that is negative or not finite, a generator that belongs to no layer of `model`, nothing
            that learns, or an expression that matches no name.

    Example:
        >>> layer = CSGConv2d(16, 32, 3, SliceGenerator(72, (12, 12, 3, 3)))
        >>> net = nn.Sequential(layer, nn.Flatten(), nn.Linear(32, 9))
        >>> [(group["lr"], len(group["params"])) for group in param_groups(net, 0.05, lr_factors={"^2": 10})]
        [(0.05, 3), (0.5, 2)]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, but it is a {type(model).__name__}.")
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        _check_rate(name, value)
    sound = isinstance(lr_factors, (Mapping, NoneType))
    if not sound or not all(isinstance(pattern, (str, re.Pattern)) for pattern in lr_factors or ()):
        raise TypeError(
            f"lr_factors must be factors by regular expression, such as {{'codes': 2}}, not {lr_factors!r}."
        )
    registered_generators(model)
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not names:
        raise ValueError("model has no parameter that learns: each has requires_grad=False.")
    factors = _factors(model)
    for pattern, factor in (lr_factors or {}).items():
        _check_rate(f"the factor of {pattern!r} in lr_factors", factor)
        try:
            found = [name for name, _ in model.named_parameters() if re.search(pattern, name)]
        except re.error as error:
            raise ValueError(f"lr_factors={{{pattern!r}: {factor}}} is no regular expression: {error}.") from None
        if not found:
            raise ValueError(f"lr_factors={{{pattern!r}: {factor}}} is a regular expression that matches no parameter.")
        factors |= dict.fromkeys(found, factor)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in names.items():
        decay = weight_decay if decay_vectors or parameter.dim() > 1 else 0.0
        groups.setdefault((lr * factors.get(name, 1.0), decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def _check_rate(name: str, value: Any) -> None:
    """Of a number that an optimizer does not look at, where it is that of a group."""
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, but it is {value!r}.")
    if not 0 <= value < inf:
        raise ValueError(f"{name} must not be negative, and finite, but it is {value!r}.")


def _factors(model: nn.Module) -> dict[str, float]:
    """What submodules say of their parameters, by full name."""
    found: dict[str, float] = {}
    for prefix, module in model.named_modules():
        if callable(said := getattr(module, "lr_factors", None)):
            found |= {f"{prefix}.{name}".lstrip("."): factor for name, factor in said().items()}
    return found
