"""`PiX`: the layer around `functional.pix`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ._common.checks import positive_int
from .functional import CONTEXTS, pix, pix_and_gates, threshold

torch.fx.wrap("pix")  # one node where a model is traced symbolically


class PiX(nn.Module):
    """Samples one channel of every `zeta` by the whole input: see :func:`pix.functional.pix`.

    It stands where a 1x1 convolution squeezes channels, and `weight` has the shape of that convolution's, so that
    weights move over as they are; but it multiplies one number per channel in place of all pixels.

    Args:
        in_channels: C.
        zeta: channels per output channel.
        tau: gates below pick the maximum, others mix: 0 always mixes, 2 always picks.
        bias: learns one number per output channel; the paper's equation has one, the authors' networks none.
        context: "mean" or "l1".
        count_short: a short last subset is divided by its own size, not by `zeta`.
        fused: False composes the layer of `pick_or_mix` and torch's own functions: for second derivatives.

    Raises:
        TypeError, ValueError: as `functional.pix` does.

    Example:
        >>> PiX(256, 4)(torch.randn(1, 256, 56, 56)).shape
        torch.Size([1, 64, 56, 56])
    """

    def __init__(
        self,
        in_channels: int,
        zeta: int,
        tau: float = 0.5,
        *,
        bias: bool = False,
        context: str = "mean",
        count_short: bool = False,
        fused: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.zeta = positive_int("in_channels", in_channels), positive_int("zeta", zeta)
        self.out_channels, self.tau = math.ceil(self.in_channels / self.zeta), threshold(tau)
        if context not in CONTEXTS:
            raise ValueError(f'context must be "mean" or "l1", but it is {context!r}.')
        self.context, self.count_short, self.fused = context, bool(count_short), bool(fused)
        shape = (self.out_channels, self.in_channels, 1, 1)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.out_channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weight as the authors do, and sets the bias to 0."""
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, ceil(C / zeta), H, W)
        if isinstance(x, Tensor) and x.dim() == 4 and x.shape[1] != self.in_channels:
            raise ValueError(f"x has {x.shape[1]} channels, but this PiX was made for in_channels={self.in_channels}.")
        return pix(x, self.weight, self.bias, **self._options())

    def gates(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, ceil(C / zeta))
        """The gates that `forward` finds for `x`."""
        return pix_and_gates(x, self.weight, self.bias, **self._options())[1]

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("zeta", "tau", "context", "count_short", "fused")}

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.zeta}"
        defaults = {"tau": 0.5, "context": "mean", "count_short": False, "fused": True}
        values = {name: getattr(self, name) for name in defaults}
        text += "".join(f", {name}={value!r}" for name, value in values.items() if value != defaults[name])
        return text if self.bias is None else f"{text}, bias=True"
