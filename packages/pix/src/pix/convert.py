"""Model surgery: PiX in place of convolutions that squeeze channels, or before convolutions that then read fewer."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._common.checks import positive_int
from ._common.convert import Swap, brief, walk
from .dataflow import Step, watch
from .modules import PiX
from .sites import Site, shared_parameters, squeeze_site, unfit, unfit_for_fewer_channels

MODES = ("squeeze", "downscale", "prune")


def convert(
    model: nn.Module,
    mode: str = "squeeze",
    zeta: int | None = None,
    *,
    tau: float = 0.5,
    bias: bool = False,
    context: str = "mean",
    example_input: Any = None,
    where: Callable[[str, nn.Module], bool] | str | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Puts PiX into any convolutional network, in one of the paper's three modes.

    "squeeze": PiX replaces 1x1 convolutions that reduce the channels to 1 / zeta, a ratio that must be an integer, and
    with them the norm and the activation that follow (a ReLU that is used elsewhere too stays, and changes nothing).
    These are the squeezes of bottlenecks, which a spatial convolution reads (zeta = 1 included, as in the paper's first
    block), those before a pooling, as in DenseNet's transitions, and those after a depthwise convolution, as in
    inverted bottlenecks. The convolution's weight becomes the one that blends the means. The network computes something
    else afterwards: train it.

    "downscale": PiX(zeta) comes before every spatial convolution but the first, which then reads ceil(C / zeta)
    channels; both start afresh. "prune": the same network, that starts from the weights of the old one. All gates are
    1 / 2, so that PiX takes half the mean of each subset (as long as tau is no larger), and each convolution has 2 zeta
    times the mean of its weights over the subset, which is the least-squares fit. (For these two modes the authors
    published no code; that PiX precedes the spatial convolutions is a reconstruction.)

    The model runs once, in inference, on `example_input`: the sites are found by what reads what, and multiply-adds are
    counted.

    Args:
        model: any `nn.Module`.
        mode: "squeeze", "downscale" or "prune".
        zeta: channels per subset. By default 2; in the mode "squeeze", which takes each convolution's own ratio, it
            narrows the choice to convolutions of this one.
        tau: threshold of the gate, see `pick_or_mix`.
        bias: blends with a bias, from 0; the bias of a replaced convolution is kept in any case.
        context: "mean" or "l1", see `PiX`. They agree on what follows a ReLU.
        example_input: a tensor, or a tuple of the arguments of `model`. By default one black image of the size that
            the model's `pretrained_cfg` names, or of 224 x 224 pixels.
        where: callable of name and module, or regular expression searched in the name, that narrows the choice.
        inplace: changes `model` itself instead of a deep copy.

    Returns:
        the model, with a `ConvertReport` as its attribute `convert_report`: per layer what replaced what, weights kept,
        refitted (the error is the norm of the change of the weights by their norm) or reinitialised, parameters and
        multiply-adds of the pass, also of the whole model; convolutions that were left, with the reason.

    Raises:
        TypeError: `model` is no module, or an argument has the wrong type.
        ValueError: an unknown `mode` or `context`, a bad `zeta`, a `where` that selects none of the layers that fit, or
            the model does not run on the example.

    Warns:
        UserWarning: nothing was converted.

    Example:
        >>> net = convert(timm.create_model("resnet50"))  # doctest: +SKIP
        >>> net.convert_report.macs  # doctest: +SKIP
        (4089184256, 3155824640)
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, but it is {mode!r}.")
    if zeta is not None:
        zeta = positive_int("zeta", zeta)
    gate: dict[str, Any] = {"tau": tau, "context": context}
    PiX(1, 1, bias=bias, device="meta", **gate)  # says what is wrong before any layer is touched
    if isinstance(model, nn.Module) and not inplace:
        model = copy.deepcopy(model)
    steps, macs = _run(model, example_input)
    shared = shared_parameters(steps)

    def policy(name: str, layer: nn.Module) -> Callable[[], Swap] | str | None:
        if not isinstance(layer, nn.Conv2d):
            return None
        reason = unfit(layer, steps.get(layer, []), shared)
        if reason:
            return reason
        if mode == "squeeze":
            site = squeeze_site(layer, steps, zeta)
            return site if isinstance(site, str) else partial(_squeeze, layer, site, bias, gate)
        reason = unfit_for_fewer_channels(layer, steps[layer][0], zeta or 2)
        return reason or partial(_reduce, layer, steps[layer], zeta or 2, mode == "prune", bias, gate)

    model = walk(model, policy, where=where, inplace=True)
    report: Any = model.convert_report
    if not report.swapped:
        others = " or ".join(repr(other) for other in MODES if other != mode)
        warnings.warn(
            f"mode={mode!r} found no layer that fits and changed nothing: print(model.convert_report) says why; mode "
            f"{others} may fit.",
            stacklevel=2,
        )
    if macs is not None:
        before, after = (sum(layer.macs[i] for layer in report.swapped) for i in (0, 1))
        report.macs, report.unit = (macs, macs - before + after), "MACs"
    return model


def _run(model: nn.Module, example: Any) -> tuple[dict[nn.Module, list[Step]], int | None]:
    """Which layers ran when, and multiply-adds; nothing of a model without convolutions."""
    if not isinstance(model, nn.Module):
        return {}, None  # `walk` complains
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None:
        return {}, None
    given = example is not None
    if not given:
        cfg = getattr(model, "pretrained_cfg", None) or {}
        size = (first.in_channels, *(cfg.get("input_size") or (0, 224, 224))[1:])
        example = first.weight.new_zeros(1, *size)
    arguments = example if isinstance(example, tuple) else (example,)
    try:
        seen = watch(model, *arguments)
    except Exception as error:
        what = "example_input" if given else f"a black image of shape {tuple(example.shape)}: pass an example_input"
        raise ValueError(f"the model does not run on {what} ({_first_line(error)}).") from error
    return seen.steps, seen.macs


def _squeeze(layer: nn.Conv2d, site: Site, bias: bool, gate: dict[str, Any]) -> Swap:
    zeta = layer.in_channels // layer.out_channels
    new = _pix(layer, layer.in_channels, zeta, bias or layer.bias is not None, gate)
    with torch.no_grad():
        new.weight.copy_(layer.weight)
        if new.bias is not None:
            new.bias.zero_() if layer.bias is None else new.bias.copy_(layer.bias)
    if isinstance(site.kept, nn.ReLU):
        site.kept.inplace = False  # PiX keeps its result for the backward pass
    reads, writes = site.step.shapes
    macs = (prod(writes) * layer.in_channels, reads[0] * layer.weight.numel())
    return Swap(_like(new, layer), "kept", macs, label=f"PiX zeta={zeta}", absorbed=site.absorbed)


def _reduce(layer: nn.Conv2d, steps: list[Step], zeta: int, refit: bool, bias: bool, gate: dict[str, Any]) -> Swap:
    pix = _pix(layer, layer.in_channels, zeta, bias, gate)
    conv = nn.Conv2d(
        -(-layer.in_channels // zeta),
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    error = _refit(layer, pix, conv, zeta) if refit else None
    new = nn.Sequential(OrderedDict(pix=_like(pix, layer), conv=_like(conv, layer)))
    macs = [0, 0]
    for step in steps:
        macs[0] += prod(step.shapes[1]) * layer.weight[0].numel()
        macs[1] += prod(step.shapes[1]) * conv.weight[0].numel() + step.shapes[0][0] * pix.weight.numel()
    label = f"PiX zeta={zeta} + {brief(conv)}"
    return Swap(new, "refitted" if refit else "reinitialised", (macs[0], macs[1]), error, label)


@torch.no_grad()
def _refit(layer: nn.Conv2d, pix: PiX, conv: nn.Conv2d, zeta: int) -> float | None:
    """Gives the two the weights that come closest to `layer`, with every p = 1/2; returns the relative error.

    PiX then yields sum(x) / (2 zeta) of a subset, and the fit to weights w that multiply each x is mean(w) * 2 zeta.
    """
    for tensor in pix.parameters():
        tensor.zero_()
    if layer.bias is not None and conv.bias is not None:
        conv.bias.copy_(layer.bias)
    if layer.weight.is_meta:
        return None
    kernel = layer.weight.detach().double()  # (O, C, Kh, Kw)
    short = -layer.in_channels % zeta
    sizes = kernel.new_full((conv.in_channels, 1, 1), zeta)
    sizes[-1] -= short
    mean = _pad(kernel, short).unflatten(1, (-1, zeta)).sum(2) / sizes  # (O, C', Kh, Kw)
    conv.weight.copy_(mean * 2 * zeta)
    lost = kernel - mean.repeat_interleave(zeta, 1)[:, : layer.in_channels]
    return (lost.norm() / kernel.norm()).nan_to_num().item()


def _pix(layer: nn.Conv2d, channels: int, zeta: int, bias: bool, gate: dict[str, Any]) -> PiX:
    return PiX(channels, zeta, bias=bias, device=layer.weight.device, dtype=layer.weight.dtype, **gate)


def _like(new: nn.Module, layer: nn.Conv2d) -> nn.Module:
    """`new`, frozen where `layer` is."""
    for parameter in new.parameters():
        parameter.requires_grad_(layer.weight.requires_grad)
    return new


def _pad(kernel: Tensor, channels: int) -> Tensor:
    return F.pad(kernel, (0, 0, 0, 0, 0, channels))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error) or '-').splitlines()[0]}"
