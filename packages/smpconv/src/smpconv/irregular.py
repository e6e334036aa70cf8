"""Causal convolution of sequences that are sampled whenever they are: a kernel of points needs no grid.

The paper promises it (section 3.1); its code fills a regular grid with zeros instead. Between the edges and the centres
of its tents a kernel is a line in the lag, so its sum over the samples between two of them follows from two prefix
sums, of x and of x * t: a sequence costs O(points * L * log L), however wide the tents are.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from ._common.checks import floating_tensor, same_device, same_dtype
from .reference import EPSILON


def irregular_conv1d(
    x: Tensor,  # (N, I, L)
    times: Tensor,  # (N, L) or (L,)
    coords: Tensor,  # (O, P, 1)
    radius: Tensor,  # (O, P)
    weight: Tensor,  # (O, I, P)
    bias: Tensor | None = None,  # (O,)
    *,
    span: float,
    spacing: float,
    average: bool,
) -> Tensor:  # (N, O, L)
    """The causal convolution at the true lags.

        y[n, o, l] = bias[o] + sum_{m, i} K[o, i](t_l - t_m) * x[n, i, m] * dt_m / spacing    0 <= t_l - t_m <= span

    with dt_m = t_m - t_{m-1}, and `spacing` for the first sample. A lag of 0 is position 1 of the kernel, one of `span`
    position -1. At times `spacing` apart, with `span` = (T - 1) * spacing, it is `causal_conv1d_long` with the T taps
    that `rasterize` draws. Sums are float64. Gradients exist for x, coords, radius, weight and bias. Where a sample
    lies exactly on the edge of a tent, the averaged kernel may count that tent.

    Args:
        x: float32, float64, float16 or bfloat16.
        times: finite, in ascending order along each sequence.
        coords, radius, weight: as `functional.rasterize` takes them, d = 1.
        bias: one number per output channel.
        span: time from the newest to the oldest end of the kernel.
        spacing: time between samples for which the kernel was made.
        average: divides by the number of tents over a lag.

    Raises:
        TypeError: a tensor that is not floating point.
        ValueError: shapes that do not fit, times out of order, times or points that are not finite, a radius, span or
            spacing that is not positive.

    Example:
        >>> times = torch.rand(2, 50).cumsum(1)
        >>> points = torch.rand(4, 6, 1), torch.full((4, 6), 0.1), torch.randn(4, 3, 6)
        >>> irregular_conv1d(torch.randn(2, 3, 50), times, *points, span=20.0, spacing=0.5, average=True).shape
        torch.Size([2, 4, 50])
    """
    _check(x, times, coords, radius, weight, bias, span, spacing)
    t = (times if times.dim() == 2 else times[None]).detach().double()
    t = (t - t[:, :1]).contiguous()  # small numbers: the sums of x * t cancel
    steps = torch.cat((torch.full_like(t[:, :1], spacing), t.diff(dim=1)), 1) / spacing
    samples = x.double() * steps[:, None]
    sums = [torch.nn.functional.pad(s.cumsum(2), (1, 0)) for s in (samples, samples * t[:, None])]  # (N, I, L + 1)
    edges, constants, slopes = _lines(coords, radius, weight, span, average)
    out = []
    for edge, constant, slope in zip(edges, constants, slopes):  # one output channel at a time: (E,), (I, E), (I, E)
        # The lines' parameters change at each edge, whose samples are all those up to it.
        z0, z1, z2 = (
            torch.einsum("ie,nil->nel", c, s) for c, s in ((constant, sums[0]), (slope, sums[0]), (slope, sums[1]))
        )
        targets = t[:, None] - edge[:, None]  # (N or 1, E, L)
        upto = torch.searchsorted(t, targets.flatten(1), right=True).view(targets.shape)
        upto[:, -1] = torch.searchsorted(t, targets[:, -1].contiguous())  # the oldest lag still belongs to the kernel
        upto = upto.expand(len(x), -1, -1)
        lines = z0.gather(2, upto) + t[:, None] * z1.gather(2, upto) - z2.gather(2, upto)
        out.append(lines.sum(1))
    y = torch.stack(out, 1)
    return (y if bias is None else y + bias.double()[:, None]).to(x.dtype)


def _lines(
    coords: Tensor, radius: Tensor, weight: Tensor, span: float, average: bool
) -> tuple[Tensor, Tensor, Tensor]:  # (O, E), (O, I, E), (O, I, E)
    """The lags at which the kernel bends, and by how much the two parameters of its line change there."""
    centre, reach = (1 - coords[:, :, 0].double()) * span / 2, radius.double() * span / 2  # (O, P)
    with torch.no_grad():
        ends = centre.new_tensor([0.0, span]).expand(len(centre), 2)
        edges = torch.cat((centre - reach, centre, centre + reach, ends), 1).clamp(0, span).sort(1).values
        middle = (edges[:, 1:] + edges[:, :-1]) / 2
        away = middle[:, None] - centre[:, :, None]  # (O, P, E - 1)
        active = away.abs() < reach[:, :, None]
        sides = away.sign() * active
        share = 1 / (active.sum(1, keepdim=True, dtype=torch.float64) + EPSILON) if average else 1.0
    steepness = sides / reach[:, :, None]
    constants = torch.matmul(weight.double(), (active + steepness * centre[:, :, None]) * share)  # (O, I, E - 1)
    slopes = torch.matmul(weight.double(), -steepness * share)
    pad = torch.nn.functional.pad
    constants, slopes = (pad(line, (0, 1)) - pad(line, (1, 0)) for line in (constants, slopes))
    return edges, constants, slopes


def _check(
    x: Tensor,
    times: Tensor,
    coords: Tensor,
    radius: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    span: float,
    spacing: float,
) -> None:
    floating_tensor("x", x, "(N, I, L)")
    floating_tensor("coords", coords, "(O, P, 1)")
    floating_tensor("radius", radius, "(O, P)")
    floating_tensor("weight", weight, "(O, I, P)")
    floating_tensor("times", times, "(L,)" if isinstance(times, Tensor) and times.dim() == 1 else "(N, L)")
    groups, points, dims = coords.shape
    if dims != 1 or radius.shape != (groups, points) or weight.shape != (groups, x.shape[1], points):
        raise ValueError(
            f"coords (O, P, 1), radius (O, P) and weight (O, {x.shape[1]}, P) must fit x, but their shapes are "
            f"{tuple(coords.shape)}, {tuple(radius.shape)} and {tuple(weight.shape)}."
        )
    if times.shape not in {(x.shape[2],), (x.shape[0], x.shape[2])}:
        raise ValueError(
            f"times must have shape {(x.shape[2],)} or {(x.shape[0], x.shape[2])} for x, but it has shape "
            f"{tuple(times.shape)}."
        )
    for name, tensor in (("times", times), ("coords", coords)):
        same_device(name, tensor, "x", x)
    for name, tensor in (("radius", radius), ("weight", weight)):
        same_device(name, tensor, "coords", coords)
        same_dtype(name, tensor, "coords", coords)
    if bias is not None:
        floating_tensor("bias", bias, "(O,)")
        same_device("bias", bias, "x", x)
        if len(bias) != groups:
            raise ValueError(f"bias must have one entry for each of the {groups} output channels, but has {len(bias)}.")
    if not (0 < span < inf and 0 < spacing < inf):
        raise ValueError(
            f"span and spacing must be positive, but they are {span!r} and {spacing!r}; a kernel of one tap has no "
            "span."
        )
    for name, tensor in (("times", times), ("coords", coords), ("radius", radius)):
        if wrong := int((~tensor.isfinite()).sum()):
            remedy = ": leave samples without a time out, of x too" if tensor is times else ""
            raise ValueError(f"{name} must be finite, but {wrong} of {tensor.numel()} numbers are not{remedy}.")
    if wrong := int((radius <= 0).sum()):
        raise ValueError(
            f"radius must be positive, but {wrong} of {radius.numel()} are not: clip it after each step of the "
            "optimizer, as clip_radius_() of the layers does."
        )
    if not bool((times.diff(dim=-1) >= 0).all()):
        raise ValueError("times must be in ascending order along each sequence: sort them, and x with them.")
