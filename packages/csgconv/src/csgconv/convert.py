"""Model surgery: one generator makes the kernels of a network's `nn.Conv2d` layers."""

from __future__ import annotations

import copy
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ._common.checks import boolean, positive_int
from ._common.convert import ConvertReport, Swap, brief, selector, walk
from .export import altered
from .fitting import fit_kernels_
from .generator import SliceGenerator
from .layouts import Layer, check_layout, four_sizes
from .modules import CSGConv2d

Size = tuple[int, int, int, int]
KEPT = 1e-6  # relative error that rounding explains
INITS = ("he", "reference", "uniform", "lstsq")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def convert(
    model: nn.Module,
    code_size: int = 72,
    slice_shape: Sequence[int] = (12, 12, 3, 3),
    *,
    layout: str = "raster",
    init: str = "he",
    bias: bool = False,
    binary: bool = False,
    skip_first: bool = True,
    where: Callable[[str, nn.Module], bool] | str | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Gives the convolutions of any network kernels from one `SliceGenerator`.

    Fitting layers are `nn.Conv2d` of one group with kernels as large as the slices, in layout "flat" those of any size
    and groups, whose codes are fewer numbers than their weights; the first convolution stays ordinary, as in all of the
    paper's networks. Stride, padding, dilation, groups, bias, dtype, device and the rest of the model stay. To make
    kernels of two sizes by two generators, convert twice, with other slices. Where all the weights that go are frozen,
    the generator is.

    The network computes something else afterwards: train it. A trained network's kernels are nearly of full rank, so
    that even init="lstsq" keeps only a part of what they know, see the errors in the report.

    Args:
        model: any `nn.Module`.
        code_size: d, numbers in the code of a slice.
        slice_shape: (S0, S1, sh, sw); the paper has (12, 12, 3, 3) with 72 and (16, 16, 3, 3) with 128, for 1x1 kernels
            (16, 16, 1, 1) with 16.
        layout: "raster", as published, "flat" or "tile", see :mod:`csgconv.layouts`.
        init: "he", "reference" and "uniform" start afresh, see `SliceGenerator`; "lstsq" from the weights, by the least
            squares of all layers together, each layer's weights counted by their root mean square.
        bias: of the generator.
        binary: a generator of bits that does not learn; with "lstsq" the codes alone are fitted.
        skip_first: leaves the first convolution that `model` registers.
        where: callable of name and module, or regular expression searched in the name, that narrows the choice.
        inplace: changes `model` itself instead of a deep copy.

    Returns:
        the model, with a `ConvertReport` as its attribute `convert_report`: per layer what replaced what, weights
        reinitialised, refitted (the error is the norm of the change of the kernels by their norm) or kept, parameters,
        of which a layer's are its codes and its bias, and multiply-adds per output pixel, which stay; the generator
        that all layers share; convolutions that were left, with the reason.

    Raises:
        TypeError: `model` is no module, or an argument has the wrong type.
        ValueError: a bad `code_size` or `slice_shape`, an unknown `layout` or `init`, or a `where` that selects none of
            the layers that fit.

    Warns:
        UserWarning: nothing was converted, or the model has more parameters than before.

    Example:
        >>> net = convert(nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 256, 3), nn.Conv2d(256, 256, 3)))
        >>> net.convert_report.params
        (739584, 139968)
    """
    if init not in INITS:
        raise ValueError(f"init must be one of {', '.join(map(repr, INITS))}, but it is {init!r}.")
    check_layout(layout)
    size, code_size = four_sizes("slice_shape", slice_shape), positive_int("code_size", code_size)
    for option, value in (("bias", bias), ("binary", binary), ("skip_first", skip_first), ("inplace", inplace)):
        boolean(option, value)
    if isinstance(model, nn.Module) and not inplace:
        model = copy.deepcopy(model)
    rule = _Rule(model, size, code_size, layout, finite=init == "lstsq", skip_first=skip_first, where=where)
    made: list[tuple[nn.Conv2d, CSGConv2d]] = []

    def policy(name: str, layer: nn.Module) -> Callable[[], Swap] | str | None:
        if not isinstance(layer, nn.Conv2d):
            return None
        return rule.unfit(layer) or partial(swap, layer)

    def swap(layer: nn.Conv2d) -> Swap:
        start: Any = {"bias": bias, "binary": binary, "init": "he" if init == "lstsq" else init}
        place: Any = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        owner = made[0][1].generator if made else SliceGenerator(code_size, size, layout=layout, **start, **place)
        new = _generated(layer, owner)
        made.append((layer, new))
        macs = layer.weight.numel()
        return Swap(new, "reinitialised", (macs, macs), label=f"{brief(new)} of {owner.layers[-1].rows} slices")

    model = walk(model, policy, where=where, inplace=True)
    report: ConvertReport = model.convert_report  # type: ignore[assignment]
    if not made:
        warnings.warn(
            f"slice_shape={size} and layout={layout!r} found no layer that fits and changed nothing: {_why(report)}",
            stacklevel=2,
        )
        return model
    generator = made[0][1].generator
    if not any(layer.weight.requires_grad for layer, _ in made):
        generator.requires_grad_(False)
    errors: list[float | None] = [None] * len(made)
    if init == "lstsq" and not generator.codes.is_meta:
        errors[:] = fit_kernels_(generator, [layer.weight for layer, _ in made])
    _complete(report, made, errors)
    _warn_of_growth(report, generator)
    return model


class _Rule:
    """Which convolutions of `model` become generated."""

    def __init__(
        self,
        model: nn.Module,
        size: Size,
        code_size: int,
        layout: str,
        *,
        finite: bool,
        skip_first: bool,
        where: Callable[[str, nn.Module], bool] | str | None,
    ) -> None:
        convolutions = (nn.Conv2d, CSGConv2d)
        found = [m for m in model.modules() if isinstance(m, convolutions)] if isinstance(model, nn.Module) else []
        self.size, self.code_size, self.layout, self.finite = size, code_size, layout, finite
        self.first = found[0] if found and skip_first else None
        owners = Counter(id(p) for m in model.modules() for p in set(m.parameters(recurse=False))) if found else {}
        self.shared = {p for p, count in owners.items() if count > 1}
        self.selected, self.names = selector(where), defaultdict[nn.Module, list[str]](list)
        for name, module in model.named_modules(remove_duplicate=False) if found else ():
            self.names[module].append(name)
        self.place: tuple[torch.device, torch.dtype] | None = None  # of the generator

    def unfit(self, layer: nn.Conv2d) -> str:
        """Why `layer` cannot become a `CSGConv2d`, or is left; empty where it becomes one."""
        reason = self._unfit(layer)
        if reason or self.place == (place := (layer.weight.device, layer.weight.dtype)):
            return reason
        if not any(self.selected(name, layer) for name in self.names[layer]):
            return ""  # it stays, but decides nothing
        if self.place is None:
            self.place = place
            return ""
        first = f"those of the first layer that becomes one {self.place[1]} on {self.place[0]}"
        return f"its weights are {place[1]} on {place[0]}, {first}"

    def _unfit(self, layer: nn.Conv2d) -> str:
        if type(layer) is not nn.Conv2d:
            return f"{type(layer).__name__} may compute something else than nn.Conv2d"
        if layer is self.first:
            return "the first convolution stays ordinary"
        if altered(layer):
            return "it has hooks or another forward, which would be lost"
        if any(id(parameter) in self.shared for parameter in layer.parameters()):
            return "other layers have its parameters too, which would be parted"
        if self.layout != "flat" and layer.groups != 1:
            return f'grouped ({layer.groups} groups): layout "flat" makes such kernels'
        if self.layout != "flat" and layer.kernel_size != self.size[2:]:
            sizes = ("x".join(map(str, taps)) for taps in (layer.kernel_size, self.size[2:]))
            return 'kernel {} is not of the size of the slices, {}; layout "flat" makes any'.format(*sizes)
        shape: Any = tuple(layer.weight.shape)
        codes = Layer(shape, self.size, self.layout, layer.groups).rows * self.code_size
        if codes >= layer.weight.numel():
            return "its codes would be as many numbers as its weights, or more"
        if layer.weight.dtype not in DTYPES:
            return f"its weights are {layer.weight.dtype}, but kernels are made in float32, 64, 16 and bfloat16"
        if self.finite and not layer.weight.is_meta and not layer.weight.isfinite().all():
            return "its weights are not finite"
        return ""


def _generated(layer: nn.Conv2d, generator: SliceGenerator) -> CSGConv2d:
    new = CSGConv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        generator,
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        layer.groups,
        bias=False,
        padding_mode=layer.padding_mode,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    new.bias = layer.bias  # type: ignore[assignment]
    return new


def _why(report: ConvertReport) -> str:
    """Why no layer fits, by the reason that most of them have."""
    if not report.left:
        return "model has no nn.Conv2d."
    reason, count = Counter(layer.reason for layer in report.left).most_common(1)[0]
    return f"{count} of {len(report.left)} convolutions, {reason}; print(model.convert_report) says all."


def _complete(report: ConvertReport, made: list[tuple[nn.Conv2d, CSGConv2d]], errors: list[float | None]) -> None:
    """Writes into the report what is known when all layers are there."""
    generator, rows = made[0][1].generator, iter(zip(made, errors))
    for index, row in enumerate(report.layers):
        if row.reason:
            continue
        (_, new), error = next(rows)
        verdict, error = ("reinitialised", None) if error is None else ("refitted", error)
        if error is not None and error <= KEPT:
            verdict, error = "kept", None
        own = generator.layers[new.index].rows * generator.code_size + (0 if new.bias is None else new.bias.numel())
        report.layers[index] = replace(row, weights=verdict, error=error, params=(row.params[0], own))
    size = "x".join(map(str, generator.slice_shape))
    numbers = f"{generator.weight.numel()} " + ("bits" if generator.binary else "parameters")
    report.notes.append(f"all by one generator of {size} slices from codes of {generator.code_size}: {numbers}")


def _warn_of_growth(report: ConvertReport, generator: SliceGenerator) -> None:
    before, after = report.params
    if after <= before:
        return
    rows = sum(len(t) for t in generator.parameters() if t.dim() == 2)
    most = (before - after + rows * generator.code_size) // rows
    remedy = f"code_size={most} would have no more" if most > 0 else "only slices of fewer numbers would have fewer"
    warnings.warn(f"the model has {after} parameters, more than the {before} before: {remedy}.", stacklevel=3)
