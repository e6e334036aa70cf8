"""`OrientedConv1d`: the layer around `functional.oriented_conv1d`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import functional, reference
from ._common.checks import positive_int, positive_pair
from .functional import oriented_conv1d_at

torch.fx.wrap("oriented_conv1d_at")  # one node where a model is traced symbolically


class OrientedConv1d(nn.Module):
    """Oriented 1D depthwise convolution: see :func:`dwoconv1d.oriented_conv1d`.

    Angles are constants: a float32 buffer `angle` that is saved with the model and stays float32 under `.half()` or
    `.to(dtype)`. The taps' pixels, the buffer `offsets`, follow it through assignment, change in place and
    `load_state_dict`; compiled code sees such changes only after the module ran once outside it.

    Args:
        channels: C, input and output.
        kernel_size: K, taps per line.
        angle: radians, one for all channels or one per channel; instead of `directions` and `offset`.
        directions: number of angles that the channels share, see `assign_angles`.
        offset: turns all angles by this part of half a turn; the published networks use 0.5 in every second block.
        stride: step of rows and columns, or a pair of them.
        dilation: distance of neighbouring taps along the line.
        bias: learns one number per channel to be added.
        residual: adds the identity.
        rounding: "trunc" (the authors') or "nearest", see `tap_offsets`.

    Raises:
        TypeError, ValueError: as `oriented_conv1d` does.

    Warns:
        UserWarning: an angle beyond 2 pi, which is most likely meant in degrees.

    Example:
        >>> OrientedConv1d(96, 31)(torch.randn(1, 96, 56, 56)).shape
        torch.Size([1, 96, 56, 56])
    """

    angle: Tensor  # (C,)
    offsets: Tensor  # int32 (2, C, K)

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        *,
        angle: Tensor | Sequence[float] | float | None = None,
        directions: int = 8,
        offset: float = 0.0,
        stride: int | tuple[int, int] = 1,
        dilation: int = 1,
        bias: bool = True,
        residual: bool = False,
        rounding: str = "trunc",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = positive_int("channels", channels)
        self.kernel_size = positive_int("kernel_size", kernel_size)
        self.stride = positive_pair("stride", stride)
        self.dilation, self.residual, self.rounding = positive_int("dilation", dilation), bool(residual), rounding
        self.directions, self.offset, self.own_angle = directions, offset, angle is not None
        # Kept beside the buffer: `reset_parameters` needs it after a start on the meta device.
        self._first_angle = self._resolve(angle)
        functional.tap_offsets(1, self._first_angle, dilation=dilation, rounding=rounding)  # for its checks
        if self.own_angle:
            functional.warn_of_degrees(self._first_angle, stacklevel=3)
        self.weight = nn.Parameter(torch.empty(channels, kernel_size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(channels, device=device, dtype=dtype)) if bias else None
        self.register_buffer("angle", self._first_angle.to(self.weight.device, copy=True))
        self.register_buffer("offsets", None, persistent=False)
        self._seen: tuple[Tensor, int] | None = None  # the angle that `offsets` belong to, and its version
        self._refresh()
        self.reset_parameters()

    def _resolve(self, angle: Tensor | Sequence[float] | float | None) -> Tensor:
        with torch.device("cpu"):
            if angle is None:
                return functional.assign_angles(self.channels, self.directions, self.offset)
            angle = torch.as_tensor(angle).detach()
            functional.check_precision(angle)
            angle = angle.to("cpu", torch.float32)
            return angle.expand(self.channels).clone() if angle.dim() == 0 else angle.clone()

    def reset_parameters(self) -> None:
        """Draws weight and bias as `nn.Conv2d` does, and brings back the angles of the constructor."""
        bound = self.kernel_size**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)
        with torch.no_grad():
            self.angle.copy_(self._first_angle)
        self._refresh()

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride))
        if not torch.compiler.is_compiling():
            self._refresh()
        return oriented_conv1d_at(x, self.weight, self.offsets, self.bias, stride=self.stride, residual=self.residual)

    def _refresh(self) -> None:
        """Computes `offsets` anew if `angle` is another tensor than last time or was changed in place."""
        angle, seen = self.angle, self._seen
        version = 0 if angle.is_inference() else angle._version
        if seen is not None and seen[0] is angle and seen[1] == version:
            return
        if angle.shape != (self.channels,):
            raise ValueError(f"angle must have shape {(self.channels,)}, but it has shape {tuple(angle.shape)}.")
        if angle.dtype != torch.float32:
            functional.check_angle(angle)
            self.angle = angle = angle.float()
        # DDP writes into buffers at every step, and on CUDA a look at their values waits for the device.
        if not angle.is_cuda or seen is None or seen[0] is not angle:
            functional.check_angle(angle)
        taps = reference.tap_offsets(self.kernel_size, angle, dilation=self.dilation, rounding=self.rounding)
        self.offsets = torch.stack(taps).int()
        self._seen = (angle, 0 if angle.is_inference() else angle._version)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OrientedConv1d:
        angle = self.angle
        super()._apply(fn, recurse)
        if self.angle.dtype != torch.float32:  # .half() and .to(dtype) would bend the lines
            self.angle = angle.to(self.angle.device)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._seen = None  # the versions of a copied or unpickled tensor start anew

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        try:
            if f"{prefix}angle" in state_dict:
                functional.check_precision(state_dict[f"{prefix}angle"])
            self._refresh()
        except (TypeError, ValueError) as error:
            errors: list[str] = rest[-1]
            errors.append(f"{prefix}angle: {error}")

    def extra_repr(self) -> str:
        parts = [f"{self.channels}, {self.kernel_size}"]
        defaults = {
            "directions": 8,
            "offset": 0.0,
            "stride": (1, 1),
            "dilation": 1,
            "residual": False,
            "rounding": "trunc",
        }
        values = {name: getattr(self, name) for name in defaults}
        if self.own_angle:
            values["directions"], values["offset"] = 8, 0.0
            parts.append("angle=...")
        parts += [f"{name}={value!r}" for name, value in values.items() if value != defaults[name]]
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)
