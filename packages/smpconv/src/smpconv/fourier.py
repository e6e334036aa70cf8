"""Convolutions as products of spectra, by torch.fft: differentiable to any order, on any device.

Signals are padded to sizes that transforms are fast for, no longer than wrapping around needs, and cut to their own
length afterwards: right for odd lengths too. Sums are float32, float64 for float64.
"""

from __future__ import annotations

from math import log2, prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .reference import wide


def same_conv2d(
    x: Tensor,  # (N, I, H, W)
    weight: Tensor,  # (O, I, Kh, Kw), or (C, Kh, Kw): depthwise
) -> Tensor:  # (N, O, H, W)
    """The correlation with zeros around the image; Kh and Kw are odd."""
    kernel, reaches = wide(weight), []
    for dim, length in ((-2, x.shape[2]), (-1, x.shape[3])):
        reach = min(kernel.shape[dim] // 2, length - 1)  # taps further away meet zeros alone
        kernel = kernel.narrow(dim, kernel.shape[dim] // 2 - reach, 2 * reach + 1)
        reaches.append(reach)
    return _correlate(wide(x), kernel, tuple(reaches))


def causal_conv1d(
    x: Tensor,  # (N, I, L)
    weight: Tensor,  # (O, I, T)
) -> Tensor:  # (N, O, L)
    """The last tap meets the sample of its own time; earlier taps meet earlier samples, before the first one zeros."""
    kernel = wide(weight)[..., -x.shape[2] :]
    return _correlate(wide(x), kernel, (kernel.shape[2] - 1,))


def _correlate(x: Tensor, weight: Tensor, before: tuple[int, ...]) -> Tensor:
    """y[n, o, l] = sum_{i, t} weight[o, i, t] * x[n, i, l + t - before], with l as for x; depthwise without i."""
    sizes = tuple(fast_size(length + zeros) for length, zeros in zip(x.shape[2:], before))
    followed = torch.compiler.is_compiling() or torch.jit.is_tracing() or forward_ad._current_level >= 0
    if followed or torch._C._functorch.peek_interpreter_stack() is not None:
        return _composed(x, weight, before, sizes)
    return _Correlation.apply(x, weight, before, sizes)


def _composed(x: Tensor, weight: Tensor, before: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    """The same in functions that torch differentiates, transforms and compiles."""
    dims, margins = tuple(range(-len(sizes), 0)), []
    for size, length, zeros in zip(reversed(sizes), reversed(x.shape[2:]), reversed(before)):
        margins += [zeros, size - zeros - length]
    spectrum = torch.fft.rfftn(torch.nn.functional.pad(x, margins), dim=dims)
    taps = torch.fft.rfftn(weight, s=sizes, dim=dims).conj()
    if weight.dim() < x.dim():
        product = spectrum * taps
    else:
        product = torch.einsum("nif,oif->nof", spectrum.flatten(2), taps.flatten(2)).unflatten(2, spectrum.shape[2:])
    return _window(torch.fft.irfftn(product, s=sizes, dim=dims), (0,) * len(sizes), x.shape[2:])


class _Correlation(torch.autograd.Function):
    """`_composed` with three products of spectra, which it keeps: torch would transform zeros and imaginary parts.

    With conjugate spectra K of the kernels and G of the gradient, both products of the backward pass are free of
    conjugates: K^T G is conjugate to the spectrum of the gradient of x, and G X^T is that of the kernels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, before: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
        dense = weight.dim() == x.dim()
        at = (0,) * len(sizes)
        images = _spectra(x.transpose(0, 1), before, sizes, dense)
        taps = _spectra(weight if dense else weight.unsqueeze(1), at, sizes, dense, conjugate=True)
        y = _signals(taps @ images if dense else taps * images, at, x.shape[2:], sizes, dense)
        ctx.before, ctx.sizes = before, sizes
        ctx.save_for_backward(
            x,
            weight,
            images if ctx.needs_input_grad[1] else None,
            taps if ctx.needs_input_grad[0] else None,
        )
        return y.transpose(0, 1).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, images, taps = ctx.saved_tensors
        needs, before, sizes, dense = ctx.needs_input_grad, ctx.before, ctx.sizes, weight.dim() == x.dim()
        if torch.is_grad_enabled():  # the gradients will be differentiated
            x, weight = x.view_as(x), weight.view_as(weight)  # apart from what one may owe to the other
            wanted = [t for t, needed in zip((x, weight), needs) if needed]
            grads = iter(torch.autograd.grad(_composed(x, weight, before, sizes), wanted, grad, create_graph=True))
            return *(next(grads) if needed else None for needed in needs[:2]), None, None
        grad_x = grad_weight = None
        at = (0,) * len(sizes)
        errors = _spectra(grad.transpose(0, 1), at, sizes, dense, conjugate=True)
        if needs[0]:
            product = taps.mT @ errors if dense else taps * errors
            grad_x = _signals(product, before, x.shape[2:], sizes, dense, conjugate=True).transpose(0, 1).contiguous()
        if needs[1]:
            product = errors @ images.mT if dense else (errors * images).sum(1, keepdim=True)
            grad_weight = _signals(product, at, weight.shape[-len(sizes) :], sizes, dense).reshape(weight.shape)
        return grad_x, grad_weight, None, None


def _spectra(t: Tensor, at: tuple[int, ...], sizes: tuple[int, ...], dense: bool, conjugate: bool = False) -> Tensor:
    """Spectra of (A, B, *lengths) between zeros that end `at`: (A, B, *frequencies), where `dense` (F, A, B)."""
    padded = t.new_zeros(*t.shape[:2], *sizes)
    _window(padded, at, t.shape[2:]).copy_(t)
    spectra = torch.fft.rfftn(padded, dim=tuple(range(2, t.dim())))
    if not dense:
        return spectra.conj() if conjugate else spectra
    rows = spectra.flatten(2).flatten(0, 1).t()
    matrices = torch.empty_like(rows, memory_format=torch.contiguous_format)
    return matrices.copy_(rows.conj() if conjugate else rows).unflatten(1, t.shape[:2])


def _signals(
    spectra: Tensor,
    at: tuple[int, ...],
    lengths: tuple[int, ...],
    sizes: tuple[int, ...],
    dense: bool,
    conjugate: bool = False,
) -> Tensor:  # (A, B, *lengths)
    """What stands `at` in the signals of such spectra."""
    if dense:
        rows = spectra.flatten(1).t()
        signals = torch.empty_like(rows, memory_format=torch.contiguous_format)
        signals.copy_(rows.conj() if conjugate else rows)
        spectra = signals.unflatten(0, spectra.shape[1:]).unflatten(2, (*sizes[:-1], sizes[-1] // 2 + 1))
    elif conjugate:
        spectra = spectra.conj()
    return _window(torch.fft.irfftn(spectra, s=sizes, dim=tuple(range(2, spectra.dim()))), at, lengths)


def _window(t: Tensor, at: tuple[int, ...], lengths: tuple[int, ...]) -> Tensor:
    for dim, (begin, length) in enumerate(zip(at, lengths), t.dim() - len(at)):
        t = t.narrow(dim, begin, length)
    return t


# Products of a direct convolution that take as long as one element of a transform, per factor log2(size). Measured
# forward and backward on one core with AVX-512, of F.conv1d and F.conv2d, and of this package's depthwise kernels.
DENSE_RATIOS, DEPTHWISE_RATIO = {1: 9, 2: 16}, 17


def pays(x: Tensor, weight: Tensor, padding: tuple[int, ...]) -> bool:
    """Whether spectra are the faster way, with as many zeros on each side as `padding` says."""
    if not all(isinstance(length, int) for length in x.shape[2:]):  # transforms would fix what an export leaves open
        return False
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
    return products > (DEPTHWISE_RATIO if depthwise else DENSE_RATIOS[len(lengths)]) * transforms * units * log2(units)


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
