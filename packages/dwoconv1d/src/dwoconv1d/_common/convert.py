# edit in shared/common/python/convert.py
"""Model surgery: walks any `nn.Module`, lets a policy swap layers, and reports what happened to each."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class Swap:
    """A policy's answer for a layer that it replaces."""

    module: nn.Module
    weights: str  # "kept", "refitted" or "reinitialised"
    macs: tuple[int, int]  # multiply-adds per output pixel, before and after
    error: float | None = None  # of refitted weights: norm of what was lost by norm of what was there


@dataclass(frozen=True)
class Layer:
    """One row of the report; `reason` says why a layer was left, and is empty where it was swapped."""

    names: tuple[str, ...]  # several where modules share the layer
    before: str
    after: str = ""
    weights: str = ""
    error: float | None = None
    params: tuple[int, int] = (0, 0)
    macs: tuple[int, int] = (0, 0)
    reason: str = ""


@dataclass
class ConvertReport:
    """What `convert` did; `print(model.convert_report)` shows a table. MACs are per output pixel of each layer."""

    layers: list[Layer] = field(default_factory=list)
    params: tuple[int, int] = (0, 0)  # of the whole model

    @property
    def swapped(self) -> list[Layer]:
        return [layer for layer in self.layers if not layer.reason]

    @property
    def left(self) -> list[Layer]:
        return [layer for layer in self.layers if layer.reason]

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("layer", "was", "is", "weights", "parameters", "MACs/pixel")]
        for layer in self.swapped:
            weights = layer.weights if layer.error is None else f"{layer.weights}, error {layer.error:.3g}"
            counts = (f"{before} -> {after}" for before, after in (layer.params, layer.macs))
            rows.append((", ".join(layer.names), layer.before, layer.after, weights, *counts))
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        reasons: dict[str, list[str]] = {}
        for layer in self.left:
            reasons.setdefault(layer.reason, []).append(layer.names[0])
        for reason, names in reasons.items():
            lines.append(f"left {len(names)} ({reason}): {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")
        before, after = self.params
        lines.append(f"{len(self.swapped)} layers swapped, {len(self.left)} left; parameters {before} -> {after}")
        return "\n".join(lines)


def walk(
    model: nn.Module,
    policy: Callable[[str, nn.Module], Swap | str | None],
    *,
    where: Callable[[str, nn.Module], bool] | str | None,
    inplace: bool,
) -> nn.Module:
    """Replaces the layers for which `policy(name, module)` is a `Swap`; a string says why to leave one, None nothing.

    `where` narrows the choice: a callable of name and module, or a regular expression searched in the name. A layer
    that several modules share is replaced once and stays shared.

    Returns:
        the model, a deep copy unless `inplace`, with a `ConvertReport` as its attribute `convert_report`.
    """
    model = model if inplace else copy.deepcopy(model)
    report, total = ConvertReport(), _count(model)
    for module, names in _occurrences(model):
        answer = policy(names[0], module)
        if isinstance(answer, Swap) and not _selected(where, names, module):
            answer = "not selected by where"
        if answer is None:
            continue
        if isinstance(answer, str):
            report.layers.append(Layer(names, str(module), reason=answer))
            continue
        answer.module.train(module.training)
        for name in names:
            parent, _, child = name.rpartition(".")
            if not name:
                model = answer.module
            else:
                setattr(model.get_submodule(parent), child, answer.module)
        params = (_count(module), _count(answer.module))
        row = (names, str(module), str(answer.module), answer.weights, answer.error, params, answer.macs)
        report.layers.append(Layer(*row))
    report.params = (total, _count(model))
    model.convert_report = report  # type: ignore[assignment]
    return model


def _occurrences(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """Every module once, with all its names."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return ((module, tuple(found)) for module, found in names.items())


def _selected(where, names: tuple[str, ...], module: nn.Module) -> bool:
    if where is None:
        return True
    if callable(where):
        return any(where(name, module) for name in names)
    return any(re.search(where, name) for name in names)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
