"""The layers, whose kernels are points: causal sequences, dense images, depthwise images."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor

from ._common.checks import positive_int, positive_pair
from .functional import LARGEST, causal_conv1d_long, conv2d_long, depthwise_conv2d
from .irregular import irregular_conv1d
from .ops import shows_values
from .points import PointKernel


class SMPConv1d(PointKernel):
    """Causal convolution of sequences with kernels of points, dense and averaged.

    Position 1 is the present, -1 the oldest tap. Each output channel has points of its own, shared by its inputs.

    Args:
        in_channels: I.
        out_channels: O.
        kernel_size: T, usually the length of the sequence.
        n_points: per output channel.
        radius: at the start; by default the space between taps, about what the authors take.
        coord_std: the positions start at 1 - 2 |z| with z of this standard deviation.
        average: divides by the number of points that touch a tap, as the authors do.
        bias: learns one number per output channel.
        algorithm: of `functional.causal_conv1d_long`.

    Example:
        >>> SMPConv1d(1, 30, 784)(torch.randn(2, 1, 784)).shape
        torch.Size([2, 30, 784])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        n_points: int = 30,
        *,
        radius: float | None = None,
        coord_std: float = 0.1,
        average: bool = True,
        bias: bool = False,
        algorithm: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.in_channels = positive_int("in_channels", in_channels)
        self.out_channels = positive_int("out_channels", out_channels)
        size = positive_int("kernel_size", kernel_size)
        super().__init__(
            self.out_channels,
            self.in_channels,
            (size,),
            positive_int("n_points", n_points),
            radius=2 / max(size - 1, 1) if radius is None else radius,
            coord_std=coord_std,
            average=average,
            bias=self.out_channels if bias else None,
            least_radius=1e-4,
            algorithm=algorithm,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor) -> Tensor:  # (N, I, L) -> (N, O, L)
        _check_channels(x, 3, "in_channels", self.in_channels)
        return causal_conv1d_long(x, self.reached(self._current_kernel()), self.bias, algorithm=self.algorithm)

    def reached(self, kernel: Tensor) -> Tensor:
        """The newest taps of the kernel, from the oldest one that a tent reaches: what is before is zero."""
        if torch.jit.is_tracing() or not shows_values(self.coords, self.radius) or kernel.shape[2] < 2:
            return kernel
        with torch.no_grad():
            oldest = (self.coords[:, :, 0].double() - self.radius).amin().item()
        first = int((oldest + 1) / 2 * (kernel.shape[2] - 1))
        return kernel[:, :, min(max(first, 0), kernel.shape[2] - 1) :]

    def irregular(self, x: Tensor, times: Tensor, spacing: float = 1.0) -> Tensor:  # (N, I, L), (N, L) -> (N, O, L)
        """The same for samples at `times`: see :func:`smpconv.irregular_conv1d`; `spacing` is that of regular ones."""
        _check_channels(x, 3, "in_channels", self.in_channels)
        points, span = (self.coords, self.radius, self.weight), (self.kernel_size[0] - 1) * spacing
        return irregular_conv1d(x, times, *points, self.bias, span=span, spacing=spacing, average=self.average)

    @torch.no_grad()
    def resample(self, size: int, rate: float = 1.0) -> SMPConv1d:
        """Makes the kernel `size` taps long, of a signal sampled `rate` times as often; in place.

        Tents stay where they are in time: at the same rate a longer kernel has the same taps, and older ones before
        them. At another rate the weights are divided by it, so that the kernel's sum stays; tents narrower than the new
        space between taps are widened to it.
        """
        size = positive_int("size", size)
        if not 0 < rate < inf or size < 2 or self.kernel_size[0] < 2:
            raise ValueError(f"rate must be positive and kernels have 2 taps or more, but {rate=} and {size=}.")
        shrink = (self.kernel_size[0] - 1) * rate / (size - 1)  # of a span of time in units of half the kernel
        self.kernel_size = (size,)
        self.coords.sub_(1).mul_(shrink).add_(1)
        self.radius.mul_(shrink)
        self._scale([1 / rate], 1 / rate)
        return self

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, {self.kernel_size[0]}{self._options()}"


class _Image(PointKernel):
    """Kernels of points for images."""

    largest: int | None = None  # taps on an axis

    @torch.no_grad()
    def resample(self, size: int | tuple[int, int]) -> _Image:
        """Makes the kernel `size` taps for images that are larger or smaller by as much; in place.

        Tents keep their share of the kernel, and the weights are scaled so that the kernel's sum stays. Where taps
        become coarser, tents narrower than twice the space between them are widened to it; averaged ones only to the
        space itself, and their sum changes with how many tents then share a tap.
        """
        new = odd_pair("size", size, self.largest)
        if min(*new, *self.kernel_size) < 2:
            raise ValueError(f"size must be 3 or more from a kernel of 3 or more, but it is {size!r}.")
        factors = [(old - 1) / (taps - 1) for old, taps in zip(self.kernel_size, new)]
        self.kernel_size = new
        self._scale(factors, factors[0] * factors[1])
        return self


class SMPConv2d(_Image):
    """Convolution of images with kernels of points, dense and averaged; the image keeps its size.

    Args:
        in_channels: I.
        out_channels: O.
        kernel_size: odd, or a pair.
        n_points: per output channel, which share them over the inputs.
        radius: at the start; by default 4 / kernel_size, about what the authors take.
        coord_std: how far the positions spread at the start.
        average: divides by the number of points that touch a tap, as the authors do.
        bias: learns one number per output channel.
        algorithm: of `functional.conv2d_long`.

    Example:
        >>> SMPConv2d(3, 24, 33)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 24, 32, 32])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        n_points: int = 16,
        *,
        radius: float | None = None,
        coord_std: float = 0.05,
        average: bool = True,
        bias: bool = False,
        algorithm: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.in_channels = positive_int("in_channels", in_channels)
        self.out_channels = positive_int("out_channels", out_channels)
        size = odd_pair("kernel_size", kernel_size)
        super().__init__(
            self.out_channels,
            self.in_channels,
            size,
            positive_int("n_points", n_points),
            radius=4 / max(size) if radius is None else radius,
            coord_std=coord_std,
            average=average,
            bias=self.out_channels if bias else None,
            least_radius=1e-4,
            algorithm=algorithm,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor) -> Tensor:  # (N, I, H, W) -> (N, O, H, W)
        _check_channels(x, 4, "in_channels", self.in_channels)
        return conv2d_long(x, self._current_kernel(), self.bias, algorithm=self.algorithm)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, {self.kernel_size}{self._options()}"


class SMPDepthwiseConv2d(_Image):
    """Depthwise convolution of images with large kernels of points, which all channels share; not averaged.

    Args:
        channels: C.
        kernel_size: odd, up to 63, or a pair.
        n_points: of the layer; by default a quarter of the taps.
        radius: at the start; by default 4 / kernel_size.
        coord_std: how far the positions spread at the start.
        average: divides by the number of points that touch a tap; the authors' networks do not.
        bias: learns one number per channel.
        algorithm: of `functional.depthwise_conv2d`.

    Example:
        >>> SMPDepthwiseConv2d(96, 31)(torch.randn(1, 96, 56, 56)).shape
        torch.Size([1, 96, 56, 56])
    """

    largest = LARGEST

    def __init__(
        self,
        channels: int,
        kernel_size: int | tuple[int, int],
        n_points: int | None = None,
        *,
        radius: float | None = None,
        coord_std: float = 0.2,
        average: bool = False,
        bias: bool = False,
        algorithm: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.channels = positive_int("channels", channels)
        size = odd_pair("kernel_size", kernel_size, self.largest)
        super().__init__(
            1,
            self.channels,
            size,
            max(size[0] * size[1] // 4, 1) if n_points is None else positive_int("n_points", n_points),
            radius=4 / max(size) if radius is None else radius,
            coord_std=coord_std,
            average=average,
            bias=self.channels if bias else None,
            least_radius=1e-3,
            algorithm=algorithm,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, H, W)
        _check_channels(x, 4, "channels", self.channels)
        return depthwise_conv2d(x, self._current_kernel().squeeze(0), self.bias, algorithm=self.algorithm)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.kernel_size}{self._options()}"


def _check_channels(x: Any, dims: int, name: str, channels: int) -> None:
    if isinstance(x, Tensor) and x.dim() == dims and x.shape[1] != channels:  # the functions check all else
        raise ValueError(f"x has {x.shape[1]} channels, but {name} is {channels}: give the layer an x with as many.")


def odd_pair(name: str, value: Any, largest: int | None = None) -> tuple[int, int]:
    """Returns `(rows, columns)`, both odd, and at most `largest`."""
    rows, columns = positive_pair(name, value)
    if largest is not None and max(rows, columns) > largest:
        raise ValueError(f"{name} must be at most {largest}, but it is {value!r}: only the dense SMPConv2d takes more.")
    if rows % 2 == 0 or columns % 2 == 0:
        raise ValueError(f"{name} must be odd, so that the kernel has a centre, but it is {value!r}.")
    return rows, columns
