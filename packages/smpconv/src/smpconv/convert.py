"""Model surgery: large depthwise `nn.Conv2d` layers become `SMPDepthwiseConv2d`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from ._common.checks import positive_int
from ._common.convert import Swap, walk
from .fitting import fit_points
from .functional import LARGEST
from .modules import SMPDepthwiseConv2d

KEPT = 1e-6  # relative error that rounding explains


def convert(
    model: nn.Module,
    n_points: int | float = 0.25,
    *,
    smallest: int = 5,
    weights: str = "refit",
    steps: int = 100,
    where: Callable[[str, nn.Module], bool] | str | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Gives the large depthwise convolutions of any model kernels of points.

    Fitting layers are `nn.Conv2d` with one group per channel, stride 1, an odd kernel with an axis of `smallest` taps
    or more, and the padding that keeps the size: those of ConvNeXt (7x7), RepLKNet (31x31) and their relatives. Bias,
    dtype, device and the rest of the model stay. All channels of a layer share its points, so its kernels lie in a
    space of `n_points` dimensions: where they do not, outputs change with the error, which the report tells for each
    layer, and the model wants training. The authors' rule of a quarter of the taps is made for 13x13 and more; kernels
    of 7x7 want more points to stay what they were, and with one for each tap every kernel is kept exactly.

    Args:
        model: any `nn.Module`.
        n_points: of each layer, or a share of its taps, a float up to 1.0; at most one for each tap.
        smallest: taps of the larger axis of the smallest kernels to swap.
        weights: "refit" fits points to each layer's kernels, see :func:`smpconv.fit_points`; "reset" starts afresh.
        steps: of the fit, see there. Layers of 7x7 take less than a second each, those of 31x31 some seconds.
        where: callable of name and module, or regular expression searched in the name, that narrows the choice.
        inplace: changes `model` itself instead of a deep copy.

    Returns:
        the model, with a `ConvertReport` as its attribute `convert_report`: per layer what replaced what, weights
        kept, refitted (the error is the norm of the change of the kernels by their norm) or reinitialised, parameters,
        and multiply-adds per output pixel, which stay; convolutions that were left, with the reason.

    Raises:
        TypeError: `model` is no module, or an argument has the wrong type.
        ValueError: a bad `n_points`, `smallest` or `steps`, an unknown `weights`, or a `where` that selects none of the
            layers that fit.

    Example:
        >>> net = convert(nn.Sequential(nn.Conv2d(96, 96, 7, padding=3, groups=96)), n_points=12)
        >>> net.convert_report.swapped[0].params
        (4800, 1284)
    """
    _check(n_points, smallest, weights, steps)

    def policy(name: str, layer: nn.Module) -> Callable[[], Swap] | str | None:
        if not isinstance(layer, nn.Conv2d):
            return None
        return _unfit(layer, smallest) or partial(swap, layer)

    def swap(layer: nn.Conv2d) -> Swap:
        height, width = layer.kernel_size
        taps, channels = height * width, layer.out_channels
        points = min(n_points if isinstance(n_points, int) else max(int(n_points * taps), 1), taps)
        new = SMPDepthwiseConv2d(
            channels,
            (height, width),
            points,
            bias=layer.bias is not None,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )
        verdict, error = "reinitialised", None
        if weights == "refit" and not layer.weight.is_meta:
            error = _refit(layer, new, steps)
            verdict, error = ("refitted", error) if error > KEPT else ("kept", None)
        for parameter in (new.coords, new.radius, new.weight):
            parameter.requires_grad_(layer.weight.requires_grad)
        if layer.bias is not None and new.bias is not None:
            new.bias.requires_grad_(layer.bias.requires_grad)
        label = f"SMPDepthwiseConv2d {height}x{width} of {points} points"
        return Swap(new, verdict, (channels * taps, channels * taps), error, label)

    model = walk(model, policy, where=where, inplace=inplace)
    report: Any = model.convert_report
    if not report.swapped:
        warnings.warn(
            f"smallest={smallest!r} found no layer that fits and changed nothing: print(model.convert_report) says "
            "why; a smaller one may fit.",
            stacklevel=2,
        )
    return model


def _check(n_points: object, smallest: object, weights: object, steps: object) -> None:
    if isinstance(n_points, float):
        if not 0 < n_points <= 1:
            raise ValueError(f"n_points must be an integer or a share of the taps, up to 1.0, but it is {n_points!r}.")
    else:
        positive_int("n_points", n_points)
    positive_int("smallest", smallest)
    if weights not in ("refit", "reset"):
        raise ValueError(f'weights must be "refit" or "reset", but it is {weights!r}.')
    if not isinstance(steps, int) or isinstance(steps, bool):
        raise TypeError(f"steps must be an integer, but it is a {type(steps).__name__}.")
    if steps < 0:
        raise ValueError(f"steps must be 0 or more, but it is {steps}.")


def _unfit(layer: nn.Conv2d, smallest: int) -> str:
    """Why `layer` cannot become an `SMPDepthwiseConv2d`; empty where it can."""
    height, width = layer.kernel_size
    if type(layer) is not nn.Conv2d:
        return f"{type(layer).__name__} may compute something else than nn.Conv2d"
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return "it has hooks, which would be lost"
    if not layer.groups == layer.in_channels == layer.out_channels:
        return "not depthwise (groups is not the number of channels)"
    if max(height, width) < smallest:
        return f"kernel {height}x{width} is smaller than {smallest}"
    if height % 2 == 0 or width % 2 == 0:
        return f"kernel {height}x{width} is not odd"
    if max(height, width) > LARGEST:
        return f"kernel {height}x{width} is larger than {LARGEST}"
    if layer.stride != (1, 1):
        return f"stride {layer.stride}: only 1"
    if layer.dilation != (1, 1):
        return f"dilation {layer.dilation}: only 1"
    if layer.padding != "same" and layer.padding != (height // 2, width // 2):
        return f"padding {layer.padding} does not keep the size: {(height // 2, width // 2)} would"
    if layer.padding_mode != "zeros":
        return f"padding mode {layer.padding_mode!r}: only zeros"
    if not layer.weight.is_meta and not layer.weight.isfinite().all():
        return "its weights are not finite"
    return ""


@torch.no_grad()
def _refit(layer: nn.Conv2d, new: SMPDepthwiseConv2d, steps: int) -> float:
    """Gives `new` the points that fit the kernels of `layer`; returns the relative error."""
    kernels = layer.weight.detach().squeeze(1)
    points = fit_points(kernels, new.n_points, steps=steps)
    for parameter, value in ((new.coords, points.coords), (new.radius, points.radius), (new.weight, points.weight)):
        parameter.copy_(value[None])
    if layer.bias is not None and new.bias is not None:
        new.bias.copy_(layer.bias)
    return points.error
