"""Convolutions as products of spectra, by torch.fft: differentiable to any order, on any device.

Signals are padded to sizes that transforms are fast for, no longer than wrapping around needs, and cut to their own
length afterwards: right for odd lengths too. Sums are float32, float64 for float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .reference import wide


def same_conv2d(
    x: Tensor,  # (N, I, H, W)
    weight: Tensor,  # (O, I, Kh, Kw), or (C, Kh, Kw): depthwise
) -> Tensor:  # (N, O, H, W)
    """The correlation with zeros around the image; Kh and Kw are odd."""
    kernel, sizes = wide(weight), []
    for dim, length in ((-2, x.shape[2]), (-1, x.shape[3])):
        reach = min(kernel.shape[dim] // 2, length - 1)  # taps further away meet zeros alone
        kernel = kernel.narrow(dim, kernel.shape[dim] // 2 - reach, 2 * reach + 1)
        sizes.append(fast_size(length + reach))
    reaches = kernel.shape[-2] // 2, kernel.shape[-1] // 2
    padding = [p for dim in (1, 0) for p in (0, sizes[dim] - kernel.shape[dim - 2])]
    kernel = torch.nn.functional.pad(kernel, padding).roll((-reaches[0], -reaches[1]), (-2, -1))
    spectrum, taps = torch.fft.rfft2(wide(x), s=sizes), torch.fft.rfft2(kernel).conj()
    product = spectrum * taps if weight.dim() == 3 else torch.einsum("nihw,oihw->nohw", spectrum, taps)
    return torch.fft.irfft2(product, s=sizes)[..., : x.shape[2], : x.shape[3]]


def causal_conv1d(
    x: Tensor,  # (N, I, L)
    weight: Tensor,  # (O, I, T)
) -> Tensor:  # (N, O, L)
    """The last tap meets the sample of its own time; earlier taps meet earlier samples, before the first one zeros."""
    length = x.shape[2]
    lags = wide(weight).flip(2)[..., :length]
    size = fast_size(length + lags.shape[2] - 1)
    spectrum, taps = torch.fft.rfft(wide(x), n=size), torch.fft.rfft(lags, n=size)
    return torch.fft.irfft(torch.einsum("nif,oif->nof", spectrum, taps), n=size)[..., :length]


def fast_size(least: int) -> int:
    """The smallest even number from `least` on without a prime factor above 5."""
    size = least + least % 2
    while _without(_without(_without(size, 2), 3), 5) != 1:
        size += 2
    return size


def _without(number: int, factor: int) -> int:
    while number % factor == 0:
        number //= factor
    return number
