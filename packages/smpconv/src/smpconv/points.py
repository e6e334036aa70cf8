"""Kernels of points as a module: what the layers share, and how points are trained."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from .functional import check_algorithm, rasterize
from .ops import shows_values


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
        for name, value in (("radius", radius), ("coord_std", coord_std)):
            if not 0 < value < inf:
                raise ValueError(f"{name} must be positive and finite, but it is {value!r}.")
        self.kernel_size, self.n_points, self.average, self.algorithm = kernel_size, n_points, bool(average), algorithm
        self.initial_radius, self.coord_std, self.least_radius = float(radius), float(coord_std), least_radius
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.coords = nn.Parameter(torch.empty(groups, n_points, len(kernel_size), **place))
        self.radius = nn.Parameter(torch.empty(groups, n_points, **place))
        self.weight = nn.Parameter(torch.empty(groups, channels, n_points, **place))
        self.bias = None if bias is None else nn.Parameter(torch.empty(bias, **place))
        self._kept: tuple[tuple[object, ...], list[Tensor], Tensor, int] | None = None
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

    # How the authors train points; `leanconv.training` asks any layer for these.

    def after_step_(self) -> None:
        """What training does after each step of the optimizer: `clip_radius_`."""
        self.clip_radius_()

    def lr_factors(self) -> dict[str, float]:
        """Factors on the learning rate, by name of the parameter."""
        return {"radius": 0.1}

    def no_weight_decay(self) -> set[str]:
        """Parameters to keep from weight decay."""
        return {"coords", "radius"}

    def _current_kernel(self) -> Tensor:
        """`kernel()`, or an equal tensor from an earlier call; for reading only."""
        points = [self.coords, self.radius, self.weight]
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in points)
        if self.training or learns or not shows_values(*points):
            self._kept = None
            return self.kernel()
        kind = self.kernel_size, self.average
        if self._kept is not None:
            known, values, kernel, version = self._kept
            same = known == kind and all(
                t.dtype == value.dtype and torch.equal(t, value) for t, value in zip(points, values)
            )
            if same and kernel._version == version:
                return kernel
        with (
            torch.inference_mode(False),
            torch.no_grad(),
        ):  # an inference tensor has no version, and cannot be trained on
            kernel = self.kernel()
            self._kept = kind, [t.detach().clone() for t in points], kernel, kernel._version
        return kernel

    @torch.no_grad()
    def _scale(self, factors: list[float], amplitude: float) -> None:
        """Multiplies the weights so that the kernel's sum stays where the taps' spacing changed by `factors`.

        A narrow tent could fall between taps: where these become coarser it is widened, its volume kept. In the middle
        of four taps, where the next one is a whole spacing away, one of twice the spacing still has four. Averages lose
        more to wider tents, which share more taps, than to those that miss them: theirs become as wide as the spacing.
        """
        self.weight.mul_(amplitude)
        dims = len(self.kernel_size)
        spacing = max(2 / (taps - 1) if taps > 1 else 2.0 for taps in self.kernel_size)
        if max(factors) > 1:
            widened = self.radius.clamp(min=spacing * (1 if self.average else dims))
            self.weight.mul_((self.radius / widened).pow(dims)[:, None])
            self.radius.copy_(widened)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def _options(self) -> str:
        text = f", n_points={self.n_points}" + ("" if self.bias is None else ", bias=True")
        return text if self.algorithm == "auto" else f"{text}, algorithm={self.algorithm!r}"


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

    Raises:
        ValueError: a number that is negative or not finite: optimizers do not look at those of groups.

    Example:
        >>> [len(group["params"]) for group in param_groups(smpconv.SMPConv1d(1, 30, 784, bias=True), 1e-4)]
        [1, 2, 1]
    """
    for name, value in (("lr", lr), ("radius_lr_factor", radius_lr_factor), ("weight_decay", weight_decay)):
        if not 0 <= value < inf:
            raise ValueError(f"{name} must not be negative, and finite, but it is {value}.")
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
