"""A convolution of points beside a small one, each with a batch norm, and the one convolution that both are.

In the authors' networks no kernel of points stands alone: section 3.4. They announce the merging below, and their code
never does it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._common.checks import positive_int
from .functional import causal_conv1d_long, conv2d_long, depthwise_conv2d
from .modules import SMPConv1d, SMPDepthwiseConv2d
from .points import PointKernel
from .reference import channels_last

FEW_PIXELS = 256  # up to which contiguous images are turned for a product, and back: the weights take longer to read


class CausalConv1d(nn.Conv1d):
    """`nn.Conv1d` that reads the past alone."""

    def forward(self, x: Tensor) -> Tensor:  # (N, I, L) -> (N, O, L)
        return super().forward(F.pad(x, (self.dilation[0] * (self.kernel_size[0] - 1), 0)))


class SMPBranches(nn.Module):
    """norm(smp(x)) + small_norm(small(x)): in evaluation one convolution, see `fuse`.

    Args:
        smp: the layer of points.
        small_kernel_size: odd for images; the authors take 5, and 3 for small images.
        small_bias: of the small convolution.

    Raises:
        TypeError: `smp` is no layer of points.
        ValueError: a small kernel that does not fit.

    Example:
        >>> SMPBranches(SMPDepthwiseConv2d(96, 31), 5)(torch.randn(1, 96, 56, 56)).shape
        torch.Size([1, 96, 56, 56])
    """

    def __init__(self, smp: PointKernel, small_kernel_size: int = 5, *, small_bias: bool = False) -> None:
        super().__init__()
        if not isinstance(smp, PointKernel):
            raise TypeError(f"smp must be SMPConv1d, SMPConv2d or SMPDepthwiseConv2d, but it is {type(smp).__name__}.")
        size = positive_int("small_kernel_size", small_kernel_size)
        sequence, depthwise = isinstance(smp, SMPConv1d), isinstance(smp, SMPDepthwiseConv2d)
        if size > min(smp.kernel_size) or (size % 2 == 0 and not sequence):
            raise ValueError(
                f"small_kernel_size must fit into the kernel of {smp.kernel_size} taps, and be odd for images, but it "
                f"is {size}."
            )
        place: dict[str, Any] = {"device": smp.weight.device, "dtype": smp.weight.dtype}
        channels: int = smp.channels if isinstance(smp, SMPDepthwiseConv2d) else smp.out_channels  # type: ignore[assignment]
        inputs: int = channels if isinstance(smp, SMPDepthwiseConv2d) else smp.in_channels  # type: ignore[assignment]
        self.smp = smp
        self.small: nn.Conv1d | nn.Conv2d
        if sequence:
            self.small = CausalConv1d(inputs, channels, size, bias=small_bias, **place)
        else:
            groups = channels if depthwise else 1
            self.small = nn.Conv2d(inputs, channels, size, padding=size // 2, groups=groups, bias=small_bias, **place)
        norm = nn.BatchNorm1d if sequence else nn.BatchNorm2d
        self.norm, self.small_norm = norm(channels, **place), norm(channels, **place)
        nn.init.trunc_normal_(self.small.weight, 0, 0.02, -2, 2)
        if self.small.bias is not None:
            nn.init.zeros_(self.small.bias)

    def forward(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """With `times` (N, L), of sequences sampled irregularly: see `SMPConv1d.irregular`."""
        large = self.smp(x) if times is None else self.smp.irregular(x, times)  # type: ignore[operator]
        return self.norm(large) + self.small_norm(self.small(x))

    @torch.no_grad()
    def fused(self) -> LargeConv:
        """The convolution that this is in evaluation.

        With s = sqrt(var + eps) of each norm: K = gamma_1 / s_1 * K_smp + gamma_2 / s_2 * K_small, the small one in the
        middle of the large, or at the end of a causal one; bias = sum(beta + gamma / s * (b - mean)).
        """
        large, depthwise = self.smp.kernel(), isinstance(self.smp, SMPDepthwiseConv2d)
        if depthwise:
            large = large[0][:, None]
        small = self.small.weight
        if isinstance(self.smp, SMPConv1d):  # without the zeros before what any point reaches
            large = large[:, :, -max(self.smp.reached(large).shape[2], small.shape[2]) :]
        margins: list[int] = []
        for size, own in zip(reversed(large.shape[2:]), reversed(small.shape[2:])):
            margins += [size - own, 0] if large.dim() == 3 else [(size - own) // 2] * 2
        weight = torch.zeros_like(large, dtype=torch.float64)
        bias = weight.new_zeros(len(large))
        pairs = ((large, self.smp.bias, self.norm), (F.pad(small, margins), self.small.bias, self.small_norm))
        for kernel, constant, norm in pairs:
            scale, shift = scale_and_shift(norm)
            weight += kernel * scale.view(-1, *[1] * (kernel.dim() - 1))
            bias += shift if constant is None else shift + scale * constant
        return LargeConv(
            weight.to(large.dtype), bias.to(large.dtype), depthwise=depthwise, algorithm=self.smp.algorithm
        )


class LargeConv(nn.Module):
    """A convolution with a large kernel of plain weights: what `fuse` leaves."""

    def __init__(self, weight: Tensor, bias: Tensor, *, depthwise: bool = False, algorithm: str = "auto") -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.depthwise, self.algorithm = depthwise, algorithm

    def forward(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        if times is not None:
            raise ValueError("a fused convolution has taps, not points, and takes no times: use the network unfused.")
        functions = {False: conv2d_long, True: depthwise_conv2d}
        function = causal_conv1d_long if self.weight.dim() == 3 else functions[self.depthwise]
        return function(x, self.weight, self.bias, algorithm=self.algorithm)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}"


class PointwiseConv(nn.Module):
    """A 1x1 convolution with its weights as (I, O): what `fuse` leaves of one, for channels_last images above all.

    There it is one matrix product over all pixels. Few pixels then read the weights in the order in which they lie,
    which is what a small batch waits for.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.t().contiguous()), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:  # (N, I, H, W) -> (N, O, H, W)
        if torch.compiler.is_compiling():  # which chooses for itself
            return F.conv2d(x, self.weight.t()[:, :, None, None], self.bias)
        n, inputs, height, width = x.shape
        last = channels_last(x)
        if last or height * width <= FEW_PIXELS:
            y = torch.addmm(self.bias, x.permute(0, 2, 3, 1).reshape(-1, inputs), self.weight)
            y = y.view(n, height, width, len(self.bias)).permute(0, 3, 1, 2)
            return y if last else y.contiguous()
        y = torch.baddbmm(self.bias[:, None], self.weight.t().expand(n, -1, -1), x.flatten(2))
        return y.view(n, len(self.bias), height, width)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.weight.shape))


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies by and adds in evaluation, in float64."""
    mean, var, weight, bias = (getattr(norm, name, None) for name in ("running_mean", "running_var", "weight", "bias"))
    if mean is None or var is None:
        raise ValueError(
            f"{norm} cannot be fused: it has no running statistics, so train it with track_running_stats=True, or "
            "leave that module out."
        )
    if weight is None or bias is None:
        raise ValueError(
            f"{norm} cannot be fused: it has no weight and bias, so build it with affine=True, or leave that "
            "module out."
        )
    scale = weight.double() / (var.double() + norm.eps).sqrt()
    return scale, bias - scale * mean.double()


def fuse(model: nn.Module, inplace: bool = False) -> nn.Module:
    """`model` for inference: every `SMPBranches` becomes one convolution. Its points are gone from there.

    So does every other module with a method `fused`, which returns what it is in evaluation: the networks of
    `smpconv.models` fold their other norms this way. Outputs differ from those of the model in evaluation by rounding.
    Norms that have learnt no statistics, or have no weights, cannot be fused.

    Raises:
        TypeError: `model` is no module.
        ValueError: such a norm; the model is then unchanged.

    Example:
        >>> fuse(SMPBranches(SMPDepthwiseConv2d(96, 31))).weight.shape
        torch.Size([96, 1, 31, 31])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, but it is a {type(model).__name__}.")
    model = model if inplace else copy.deepcopy(model)
    if hasattr(model, "fused"):
        return _fused(model, "model")
    found = []
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            if hasattr(child, "fused"):
                found.append((module, child_name, _fused(child, f"{name}.{child_name}".lstrip("."))))
    for module, child_name, merged in found:  # only now, so that a norm that cannot be fused leaves all as it was
        setattr(module, child_name, merged)
    return model


def _fused(module: Any, name: str) -> nn.Module:
    try:
        return module.fused().train(module.training)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
