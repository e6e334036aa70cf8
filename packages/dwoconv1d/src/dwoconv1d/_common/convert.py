# edit in shared/common/python/convert.py
"""Model surgery: walks any `nn.Module`, lets a policy swap layers, and reports what happened to each."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from textwrap import shorten

from torch import nn


@dataclass(frozen=True)
class Swap:
    """What replaces a layer."""

    module: nn.Module
    weights: str  # "kept", "refitted" or "reinitialised"
    macs: tuple[int, int]  # multiply-adds before and after, in the report's unit
    error: float | None = None  # of refitted weights: norm of what was lost by norm of what was there
    label: str = ""  # for the report, where class, kernel and stride do not say it
    absorbed: tuple[nn.Module, ...] = ()  # other layers whose work is done or gone with it: they become nn.Identity


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
    """What `convert` did; `print(model.convert_report)` shows a table."""

    layers: list[Layer] = field(default_factory=list)
    params: tuple[int, int] = (0, 0)  # of the whole model
    macs: tuple[int, int] | None = None  # of the whole model, where they were counted
    unit: str = "MACs/pixel"  # of each layer's MACs
    notes: list[str] = field(default_factory=list)  # lines on what is no layer's own

    @property
    def swapped(self) -> list[Layer]:
        return [layer for layer in self.layers if not layer.reason]

    @property
    def left(self) -> list[Layer]:
        return [layer for layer in self.layers if layer.reason]

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("layer", "was", "is", "weights, error", "parameters", self.unit)]
        for _, group in groupby(self.swapped, lambda row: (row.before, row.after, row.weights, row.params, row.macs)):
            alike = list(group)
            times = f"{len(alike)} x " if len(alike) > 1 else ""
            counts = (" -> ".join(map(_thousands, pair)) for pair in (alike[0].params, alike[0].macs))
            weights = " ".join([alike[0].weights, *_span([row.error for row in alike if row.error is not None])])
            rows.append((_joined_names(alike), times + alike[0].before, alike[0].after, weights, *counts))
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        if not self.swapped:
            lines = []
        if any(layer.error is not None for layer in self.swapped):
            lines.append("error is the relative error: norm of what was lost by norm of the weights before")
        lines += self.notes
        reasons: dict[str, list[str]] = {}
        for layer in self.left:
            reasons.setdefault(layer.reason, []).append(layer.names[0] or "the model itself")
        for reason, names in reasons.items():
            lines.append(shorten(f"left {len(names)}, {reason}: {', '.join(names)}", 100, placeholder=" ..."))
        totals = {"parameters": self.params, "MACs": self.macs}
        changes = [f"{name} {pair[0]} -> {pair[1]}" for name, pair in totals.items() if pair]
        lines.append("; ".join([f"{len(self.swapped)} layers swapped, {len(self.left)} left", *changes]))
        return "\n".join(lines)


def walk(
    model: nn.Module,
    policy: Callable[[str, nn.Module], Callable[[], Swap] | str | None],
    *,
    where: Callable[[str, nn.Module], bool] | str | None,
    inplace: bool,
) -> nn.Module:
    """Replaces the layers that `policy` fits and `where` selects.

    `policy(name, module)` is a function that makes the `Swap`, a string that says why to leave a layer, or None where
    there is nothing to say. `where` narrows the choice: a callable of name and module, or a regular expression searched
    in the name. A layer that several modules share is replaced once and stays shared.

    Returns:
        the model, a deep copy unless `inplace`, with a `ConvertReport` as its attribute `convert_report`.

    Raises:
        TypeError: `model` or `where` is something else.
        ValueError: `where` is no regular expression, or selects none of the layers that fit.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, but it is a {type(model).__name__}.")
    selected = selector(where)
    model = model if inplace else copy.deepcopy(model)
    report, total = ConvertReport(), _count(model)
    occurrences = dict(_occurrences(model))
    choices = [(module, names, policy(names[0], module)) for module, names in occurrences.items()]
    fitting = [(module, names) for module, names, answer in choices if callable(answer)]
    chosen = {names for module, names in fitting if any(selected(name, module) for name in names)}
    if fitting and not chosen:
        what = "where" if callable(where) else f"where={where!r} is a regular expression searched in names and"
        some = ", ".join(repr(names[0]) for _, names in fitting[:3])
        raise ValueError(f"{what} selects none of the {len(fitting)} layers that fit, such as {some}.")
    for module, names, answer in choices:
        if callable(answer) and names not in chosen:
            answer = "not selected by where"
        if answer is None:
            continue
        if isinstance(answer, str):
            report.layers.append(Layer(names, brief(module), reason=answer))
            continue
        swap = answer()
        model = _put(model, names, swap.module.train(module.training))
        for other in swap.absorbed:
            model = _put(model, occurrences[other], nn.Identity().train(other.training))
        gone = (module, *swap.absorbed)
        params = (sum(map(_count, gone)), _count(swap.module))
        row = (names, " + ".join(map(brief, gone)), swap.label or brief(swap.module))
        report.layers.append(Layer(*row, swap.weights, swap.error, params, swap.macs))
    report.params = (total, _count(model))
    model.convert_report = report  # type: ignore[assignment]
    return model


def _put(model: nn.Module, names: tuple[str, ...], module: nn.Module) -> nn.Module:
    """`model` with `module` under these names; `module` itself where a name is that of the model."""
    for name in names:
        parent, _, child = name.rpartition(".")
        if not name:
            return module
        setattr(model.get_submodule(parent), child, module)
    return model


def _occurrences(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """Every module once, with all its names."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return ((module, tuple(found)) for module, found in names.items())


def selector(where: Callable[[str, nn.Module], bool] | str | None) -> Callable[[str, nn.Module], bool]:
    """Whether `where` selects a layer, by name and module; raises as `walk` does."""
    if where is None:
        return lambda name, module: True
    if callable(where):
        return where
    if not isinstance(where, (str, re.Pattern)):
        raise TypeError(f"where must be a regular expression or a callable of name and module, but it is {where!r}.")
    try:
        pattern = re.compile(where)
    except re.error as error:
        raise ValueError(f"where={where!r} is not a regular expression: {error}.") from None
    return lambda name, module: pattern.search(name) is not None


def brief(module: nn.Module) -> str:
    """Class, kernel and stride, such as "Conv2d 7x7 /2"."""
    kernel, stride = getattr(module, "kernel_size", None), getattr(module, "stride", 1)
    strides = stride if isinstance(stride, tuple) else (stride,)
    parts = [type(module).__name__]
    if kernel is not None:
        parts.append("x".join(map(str, kernel)) if isinstance(kernel, tuple) else f"K={kernel}")
    if set(strides) != {1}:
        parts.append("/" + "x".join(map(str, strides if len(set(strides)) > 1 else strides[:1])))
    return " ".join(parts)


def _joined_names(layers: list[Layer]) -> str:
    """`stages.0.blocks.0-2` where the names count one part up, else the first and the last name."""
    if len(layers) == 1:
        return ", ".join(layers[0].names)
    names = [layer.names[0].split(".") for layer in layers]
    varying = [i for i, parts in enumerate(zip(*names)) if len(set(parts)) > 1]
    if len(set(map(len, names))) == 1 and len(varying) == 1:
        (i,) = varying
        first, last = names[0][i], names[-1][i]
        if first.isdecimal() and [name[i] for name in names] == [str(int(first) + n) for n in range(len(names))]:
            return ".".join([*names[0][:i], f"{first}-{last}", *names[0][i + 1 :]])
    return f"{layers[0].names[0]} to {layers[-1].names[0]}"


def _span(errors: list[float]) -> list[str]:
    return ["-".join(dict.fromkeys(f"{error:.2g}" for error in (min(errors), max(errors))))] if errors else []


def _thousands(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
