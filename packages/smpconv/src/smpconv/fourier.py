"""Convolutions as products of spectra, by torch.fft: differentiable to any order, on any device.

Signals are padded to sizes that transforms are fast for, no longer than wrapping around needs, and cut to their own
length afterwards: right for odd lengths too. Sums are float32, float64 for float64.
"""

from __future__ import annotations

from math import log2, prod

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


# Products of a direct convolution that take as long as one element of a transform, per factor log2(size). Measured
# forward and backward on one core with AVX-512, of F.conv1d and F.conv2d, and of this package's depthwise kernels.
DENSE_RATIO, DEPTHWISE_RATIO = 15, 21


def pays(x: Tensor, weight: Tensor, padding: tuple[int, ...]) -> bool:
    """Whether spectra are the faster way, with as many zeros on each side as `padding` says."""
    if torch.compiler.is_compiling():  # sizes may be symbols, and a choice by them would fix them
        return x.dim() == weight.dim() and prod(weight.shape[2:]) >= (64 if x.dim() == 3 else 169)
    n, c, *lengths = x.shape
    depthwise = weight.dim() < x.dim()
    units, products = 1.0, 1.0
    for length, taps, zeros in zip(lengths, weight.shape[-len(lengths) :], padding):
        reach = min(zeros, length - 1)
        units *= fast_size(length + reach)
        products *= length * taps if not depthwise else length * (2 * reach + 1) - reach * (reach + 1)
    transforms = (2 * n + 1) * c if depthwise else n * c + len(weight) * c + n * len(weight)
    products *= n * c * (1 if depthwise else len(weight))
    return products > (DEPTHWISE_RATIO if depthwise else DENSE_RATIO) * transforms * units * log2(units)


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
