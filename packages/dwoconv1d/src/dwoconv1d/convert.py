"""Model surgery: depthwise `nn.Conv2d` layers become `OrientedConv1d`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from ._common.checks import positive_int
from ._common.convert import Swap, walk
from .functional import assign_angles, tap_offsets
from .modules import OrientedConv1d


def convert(
    model: nn.Module,
    kernel_size: int | None = None,
    *,
    directions: int = 8,
    offset: float | Callable[[str], float] = 0.0,
    rounding: str = "trunc",
    weights: str = "refit",
    where: Callable[[str, nn.Module], bool] | str | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Swaps the depthwise convolutions of any model for oriented 1D ones.

    Fitting layers are `nn.Conv2d` with one group per channel, an odd kernel (1, K), (K, 1) or (K, K) and the padding
    that keeps the size; stride, dilation, bias, dtype and device stay. A (1, K) kernel becomes angle 0 and a (K, 1)
    kernel angle pi / 2, which changes nothing in the model's output. The channels of a (K, K) kernel get
    `assign_angles(channels, directions, offset)`.

    Args:
        model: any `nn.Module`.
        kernel_size: taps of the new layers; the old layer's K where it is not given.
        directions: see `assign_angles`.
        offset: see `assign_angles`; a callable is asked with the layer's name, for the paper's turn in every second
            block.
        rounding: see `tap_offsets`.
        weights: "refit" keeps of each kernel what lies on its line, which is the least-squares fit; "reset" starts
            afresh.
        where: callable of name and module, or regular expression searched in the name, that narrows the choice.
        inplace: changes `model` itself instead of a deep copy.

    Returns:
        the model, with a `ConvertReport` as its attribute `convert_report`: per layer what replaced what, weights
        kept, refitted (the error is the norm of what does not lie on the line by the norm of the kernel) or
        reinitialised, parameters, and multiply-adds per output pixel; convolutions that were left, with the reason.

    Raises:
        TypeError: `model` is no module, or an argument has the wrong type.
        ValueError: a bad `kernel_size`, `directions` or `offset`, an unknown `rounding` or `weights`, or a `where` that
            selects none of the layers that fit.

    Warns:
        UserWarning: layers got their K = 3 from 3x3 kernels, and their oblique lines are a single pixel.

    Example:
        >>> net = convert(nn.Sequential(nn.Conv2d(8, 8, 7, padding=3, groups=8)))
        >>> net.convert_report.swapped[0].params
        (400, 64)
    """
    if kernel_size is not None:
        positive_int("kernel_size", kernel_size)
    if weights not in ("refit", "reset"):
        raise ValueError(f'weights must be "refit" or "reset", but it is {weights!r}.')
    tap_offsets(1, assign_angles(1, directions), rounding=rounding)  # says what is wrong before any layer is touched

    short: list[str] = []

    def policy(name: str, layer: nn.Module) -> Callable[[], Swap] | str | None:
        if not isinstance(layer, nn.Conv2d):
            return None
        return _unfit(layer) or partial(swap, name, layer)

    def swap(name: str, layer: nn.Conv2d) -> Swap:
        height, width = layer.kernel_size
        channels, taps = layer.out_channels, kernel_size or max(height, width)
        new = OrientedConv1d(
            channels,
            taps,
            angle=None if height == width else 0.0 if height == 1 else torch.pi / 2,
            directions=directions,
            offset=offset(name) if callable(offset) else offset,
            stride=(layer.stride[0], layer.stride[1]),
            dilation=layer.dilation[0 if width == 1 else 1],
            bias=layer.bias is not None,
            rounding=rounding,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )
        if taps == 3 and not new.offsets.is_meta and not new.offsets.any(2).any(0).all():  # a channel of (0, 0) alone
            short.append(name)
        verdict, error = "reinitialised", None
        if weights == "refit" and not layer.weight.is_meta:
            error = _refit(layer, new) or None
            verdict = "refitted" if error else "kept"
        for old_parameter, parameter in zip(layer.parameters(), new.parameters()):
            parameter.requires_grad_(old_parameter.requires_grad)
        return Swap(new, verdict, (channels * height * width, channels * taps), error)

    model = walk(model, policy, where=where, inplace=inplace)
    if short and kernel_size is None:
        warnings.warn(
            f"{len(short)} layers got K = 3 from their 3x3 kernels, where an oblique line is a single pixel: "
            "pass kernel_size=7 or so.",
            stacklevel=2,
        )
    return model


def _unfit(layer: nn.Conv2d) -> str:
    """Why `layer` cannot become an `OrientedConv1d`; empty where it can."""
    (height, width), (dilation_h, dilation_w) = layer.kernel_size, layer.dilation
    if type(layer) is not nn.Conv2d:
        return f"{type(layer).__name__} may compute something else than nn.Conv2d"
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return "it has hooks, which would be lost"
    if not layer.groups == layer.in_channels == layer.out_channels:
        return "not depthwise (groups is not the number of channels)"
    if height * width == 1:
        return "a single tap has no direction"
    if not (height % 2 and width % 2 and (height == width or 1 in (height, width))):
        return f"kernel {height}x{width} is not odd and (1, K), (K, 1) or square"
    if height == width and dilation_h != dilation_w:
        return f"dilations {dilation_h} and {dilation_w} of rows and columns differ"
    same = (dilation_h * (height // 2), dilation_w * (width // 2))
    if layer.padding != "same" and layer.padding != same:
        return f"padding {layer.padding} does not keep the size: {same} would"
    if layer.padding_mode != "zeros":
        return f"padding mode {layer.padding_mode!r}: only zeros"
    return ""


@torch.no_grad()
def _refit(layer: nn.Conv2d, new: OrientedConv1d) -> float:
    """Gives `new` the taps closest to the kernel of `layer` in the least-squares sense; returns the relative error.

    Each pixel of the line takes the kernel's weight there, shared evenly by the taps that fall on it; what lies
    beside is lost.
    """
    kernel = layer.weight.detach().squeeze(1).double()  # (C, Kh, Kw), on a grid as coarse as the dilation
    (height, width), offsets, dilation = kernel.shape[1:], new.offsets.long(), new.dilation
    row = offsets[0].div(dilation, rounding_mode="floor") + height // 2
    column = offsets[1].div(dilation, rounding_mode="floor") + width // 2
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (offsets % dilation == 0).all(0)
    channel, tap = inside.nonzero(as_tuple=True)
    pixel = channel, row[channel, tap], column[channel, tap]
    sharing = (offsets[:, :, :, None] == offsets[:, :, None]).all(0).sum(2)  # taps on the pixel of each tap
    new.weight.zero_()
    new.weight[channel, tap] = (kernel[pixel] / sharing[channel, tap]).to(new.weight.dtype)
    if layer.bias is not None and new.bias is not None:
        new.bias.copy_(layer.bias)
    beside = kernel.index_put(pixel, kernel.new_zeros(()))
    return (beside.norm() / kernel.norm()).nan_to_num().item()
