"""The layers, whose kernels are points: causal sequences, dense images, depthwise images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ._common.checks import positive_int, positive_pair
from .functional import (
    LARGEST,
    causal_conv1d_long,
    check_algorithm,
    conv2d_long,
    depthwise_conv2d,
    rasterize,
    shows_values,
)
from .irregular import irregular_conv1d


class PointKernel(nn.Module):
    """A kernel given by points: what the three layers share. See :func:`smpconv.functional.rasterize`.

    In evaluation on a CPU the kernel is kept between calls. It is made anew whenever a value of the points or the size
    differs from those that it was made of, so that no way to change them leaves an old one in use.

    Args:
        groups: G, sets of points.
        channels: C, kernels of each set.
        kernel_size: taps on each axis.
        n_points: N.
        radius: of all points at the start.
        coord_std: how far the positions spread at the start.
        average: divides by the number of points that touch a tap.
        bias: None, or the number of output channels.
        least_radius: what `clip_radius_` clips to.
    """

    def __init__(
        self,
        groups: int,
        channels: int,
        kernel_size: tuple[int, ...],
        n_points: int,
        *,
        radius: float,
        coord_std: float,
        average: bool,
        bias: int | None,
        least_radius: float,
        algorithm: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        check_algorithm(algorithm)
        if not radius > 0 or not coord_std > 0:
            raise ValueError(f"radius and coord_std must be positive, but they are {radius!r} and {coord_std!r}.")
        self.kernel_size, self.n_points, self.average, self.algorithm = kernel_size, n_points, bool(average), algorithm
        self.initial_radius, self.coord_std, self.least_radius = float(radius), float(coord_std), least_radius
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.coords = nn.Parameter(torch.empty(groups, n_points, len(kernel_size), **place))
        self.radius = nn.Parameter(torch.empty(groups, n_points, **place))
        self.weight = nn.Parameter(torch.empty(groups, channels, n_points, **place))
        self.bias = None if bias is None else nn.Parameter(torch.empty(bias, **place))
        self._kept: tuple[tuple[int, ...], list[Tensor], Tensor, int] | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws points as the authors do: 1D half-normal before the present, 2D normal around the centre."""
        if len(self.kernel_size) == 1:
            nn.init.trunc_normal_(self.coords, 0, self.coord_std, -1, 0)
            with torch.no_grad():
                self.coords.mul_(2).add_(1)
        else:
            nn.init.trunc_normal_(self.coords, 0, self.coord_std, -1, 1)
        nn.init.constant_(self.radius, self.initial_radius)
        nn.init.trunc_normal_(self.weight, 0, 0.02, -2, 2)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def kernel(self) -> Tensor:  # (G, C, *kernel_size)
        """The kernel of the points as they are now."""
        options = {"average": self.average, "flip": len(self.kernel_size) == 2}
        return rasterize(self.coords, self.radius, self.weight, self.kernel_size, **options)

    @torch.no_grad()
    def clip_radius_(self, least: float | None = None, most: float = 1.0) -> None:
        """Clips the radii; to be called after each step of the optimizer."""
        self.radius.clamp_(self.least_radius if least is None else least, most)

    def _current_kernel(self) -> Tensor:
        """`kernel()`, or an equal tensor from an earlier call; for reading only."""
        points = [self.coords, self.radius, self.weight]
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in points)
        if self.training or learns or not shows_values(*points):
            self._kept = None
            return self.kernel()
        if self._kept is not None:
            size, values, kernel, version = self._kept
            same = size == self.kernel_size and all(
                t.dtype == value.dtype and torch.equal(t, value) for t, value in zip(points, values)
            )
            if same and kernel._version == version:
                return kernel
        kernel = self.kernel().detach()
        self._kept = self.kernel_size, [t.detach().clone() for t in points], kernel, kernel._version
        return kernel

    @torch.no_grad()
    def _scale(self, factors: list[float], amplitude: float) -> None:
        """Multiplies the weights so that the kernel's sum stays where the taps' spacing changed by `factors`.

        A tent narrower than the new spacing could fall between taps: it is widened to it, its volume kept.
        """
        self.weight.mul_(amplitude)
        dims = len(self.kernel_size)
        spacing = max(2 / (taps - 1) if taps > 1 else 2.0 for taps in self.kernel_size)
        if max(factors) > 1:
            widened = self.radius.clamp(min=spacing)
            self.weight.mul_((self.radius / widened).pow(dims)[:, None])
            self.radius.copy_(widened)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def _options(self) -> str:
        text = f", n_points={self.n_points}" + ("" if self.bias is None else ", bias=True")
        return text if self.algorithm == "auto" else f"{text}, algorithm={self.algorithm!r}"


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
        return causal_conv1d_long(x, self._current_kernel(), self.bias, algorithm=self.algorithm)

    def irregular(self, x: Tensor, times: Tensor, spacing: float = 1.0) -> Tensor:  # (N, I, L), (N, L) -> (N, O, L)
        """The same for samples at `times`: see :func:`smpconv.irregular_conv1d`; `spacing` is that of regular ones."""
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
        if not rate > 0 or size < 2 or self.kernel_size[0] < 2:
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

    @torch.no_grad()
    def resample(self, size: int | tuple[int, int]) -> _Image:
        """Makes the kernel `size` taps for images that are larger or smaller by as much; in place.

        Tents keep their share of the kernel, and the weights are scaled so that the kernel's sum stays; tents narrower
        than the new space between taps are widened to it.
        """
        new = odd_pair("size", size)
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
        self.channels, size = positive_int("channels", channels), odd_pair("kernel_size", kernel_size)
        if max(size) > LARGEST:
            raise ValueError(f"kernel_size must be at most {LARGEST}, but it is {kernel_size!r}.")
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
        return depthwise_conv2d(x, self._current_kernel().squeeze(0), self.bias, algorithm=self.algorithm)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.kernel_size}{self._options()}"


def odd_pair(name: str, value: Any) -> tuple[int, int]:
    """Returns `(rows, columns)`, both odd."""
    rows, columns = positive_pair(name, value)
    if rows % 2 == 0 or columns % 2 == 0:
        raise ValueError(f"{name} must be odd, so that the kernel has a centre, but it is {value!r}.")
    return rows, columns


def clip_radii_(model: nn.Module) -> None:
    """`clip_radius_()` of all layers in `model`; to be called after each step of the optimizer."""
    for module in model.modules():
        if isinstance(module, PointKernel):
            module.clip_radius_()


def param_groups(
    model: nn.Module, lr: float, radius_lr_factor: float = 0.1, weight_decay: float = 0.05
) -> list[dict[str, Any]]:
    """The parameters of `model` for an optimizer, in groups as the authors train them.

    Positions, biases and other vectors, as of norms, are not decayed; radii neither, and learn at
    `lr * radius_lr_factor`; the rest, the points' weights too, decays. Frozen parameters are left out, empty groups
    too.

    Example:
        >>> [len(group["params"]) for group in param_groups(SMPConv1d(1, 30, 784, bias=True), 1e-4)]
        [1, 2, 1]
    """
    layers = [module for module in model.modules() if isinstance(module, PointKernel)]
    radii, positions = {id(layer.radius) for layer in layers}, {id(layer.coords) for layer in layers}
    decayed, plain, slow = [], [], []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in radii:
            slow.append(parameter)
        elif id(parameter) in positions or parameter.dim() <= 1:
            plain.append(parameter)
        else:
            decayed.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "lr": lr, "weight_decay": weight_decay},
        {"params": plain, "lr": lr, "weight_decay": 0.0},
        {"params": slow, "lr": lr * radius_lr_factor, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
