"""`SMPTCN`: the paper's network for sequences (sections 4.1 and 4.2), and the tasks that it was made for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._common.checks import positive_int
from .._common.classifier import Classifier
from ..branches import SMPBranches
from ..modules import SMPConv1d
from .base import points_of
from .blocks import CausalNorm, ResidualBlock, init_weights


class SMPTCN(Classifier):
    """Residual blocks of two causal convolutions, whose kernels reach back over the whole sequence.

    Input (N, in_chans, L), output (N, num_classes) from the last step. L is usually `length`; in a longer sequence
    the kernels reach back over the last `length` steps. For inference, `smpconv.fuse(model)` leaves one convolution of
    each pair, and no norm.

    `points=False` is the twin with ordinary causal convolutions of `kernel_size` taps in the place of the points and
    the small convolution beside them.

    Args:
        in_chans: channels of the sequences; a mask of what was observed counts as one.
        num_classes: number of classes; 0 for no classifier.
        length: of the sequences, and of the kernels.
        channels: of all blocks, or of each.
        depth: number of blocks, where `channels` does not say it.
        small_kernel_size: of the convolution beside the points; at most `length`.
        n_points: per output channel.
        radius: of the points at the start; by default the space between taps.
        coord_std: the points start at 1 - 2 |z| with z of this standard deviation.
        bias: of the layers of points.
        dropout: behind every activation but the last of a block.
        input_dropout: before the first block.
        points: False for ordinary kernels.
        kernel_size: of those; of no effect on points.
        times: the last channel of the input is no feature but says when the samples were taken, ascending, in units of
            a step of `length`. Points then meet samples at their true lags, see `SMPConv1d.irregular`; the small
            convolutions count samples.
        algorithm: of `functional.causal_conv1d_long`.
        global_pool: "last", "avg" for the mean over all steps, or "" to keep them: the head then works on every step.

    Multiply-adds that are counted are those of the taps that the points reach now, so they grow as points wander to the
    past; where a convolution goes through spectra, its transforms are not counted.

    Raises:
        TypeError, ValueError: an argument that does not fit.

    Example:
        >>> SMPTCN(1, 10, 784)(torch.zeros(2, 1, 784)).shape
        torch.Size([2, 10])
    """

    pools = ("last", "avg", "")

    def __init__(
        self,
        in_chans: int = 1,
        num_classes: int = 10,
        length: int = 784,
        *,
        channels: int | Sequence[int] = 30,
        depth: int = 6,
        small_kernel_size: int = 5,
        n_points: int = 30,
        radius: float | None = None,
        coord_std: float = 0.1,
        bias: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        points: bool = True,
        kernel_size: int = 7,
        times: bool = False,
        algorithm: str = "auto",
        global_pool: str = "last",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        widths = list(channels) if isinstance(channels, Sequence) else [channels] * positive_int("depth", depth)
        if not widths:
            raise ValueError("channels must have an entry for each block, but it is empty")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chans, self.length = positive_int("in_chans", in_chans), positive_int("length", length)
        self.times = bool(times)
        if self.times and (in_chans < 2 or not points):
            raise ValueError(
                f"times=True needs points, and in_chans of 2 or more, one for the times, but {points=} and {in_chans=}."
            )
        self.num_features = self.head_hidden_size = widths[-1]

        def conv(before: int, after: int) -> nn.Module:
            if not points:
                return CausalNorm(before, after, positive_int("kernel_size", kernel_size), **dd)
            options: dict[str, Any] = {"radius": radius, "coord_std": coord_std, "bias": bias, "algorithm": algorithm}
            return SMPBranches(SMPConv1d(before, after, length, n_points, **options, **dd), small_kernel_size)

        self.input_dropout = nn.Dropout(input_dropout)
        blocks, width = [], in_chans - self.times
        for after in widths:
            shortcut = nn.Identity() if width == after else nn.Conv1d(width, after, 1, **dd)
            first, second = conv(width, after), conv(after, after)
            blocks.append(ResidualBlock(first, second, shortcut, dropout=dropout, act_last=True))
            width = after
        self.blocks = nn.Sequential(*blocks)
        self.reset_classifier(num_classes, global_pool)
        self.reset_parameters()

    def forward_features(self, x: Tensor) -> Tensor:  # (N, in_chans, L) -> (N, num_features, L)
        if not self.times:
            return self.blocks(self.input_dropout(x))
        x, times = self.input_dropout(x[:, :-1]), x[:, -1]
        for block in self.blocks:
            x = block(x, times)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x[:, :, -1] if self.global_pool == "last" else x.mean(2) if self.global_pool else x.mT
        if not pre_logits:
            x = self.get_classifier()(x)
        return x if self.global_pool else x.mT

    def new_classifier(self, num_classes: int, **dd: Any) -> nn.Module:
        layer = nn.Linear(self.num_features, num_classes, **dd)
        _init_head(layer)
        return layer

    def reset_parameters(self) -> None:
        """Start anew, as the authors do: small convolutions from N(0, 0.02^2), the classifier from N(0, 0.01^2).

        Its bias is 0; the pointwise convolutions of shortcuts start as torch has them, points as each layer draws them.
        After a start on the meta device: `model.to_empty(device=...)`, then this.
        """
        self.apply(init_weights)
        for block in self.blocks:
            if isinstance(block.shortcut, nn.Conv1d):
                block.shortcut.reset_parameters()
        head = self.get_classifier()
        if isinstance(head, nn.Linear):
            _init_head(head)

    def no_weight_decay(self) -> set[str]:
        """Names to keep from weight decay beyond biases and norms: positions and radii, as the authors do."""
        return points_of(self)


def _init_head(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, 0, 0.01)
    nn.init.zeros_(layer.bias)


# The paper's tasks: what `SMPTCN` takes for each.
TASKS: dict[str, dict[str, Any]] = {
    "smnist": {"in_chans": 1, "num_classes": 10, "length": 784, "radius": 0.002, "input_dropout": 0.1},
    "pmnist": {"in_chans": 1, "num_classes": 10, "length": 784, "radius": 0.002, "input_dropout": 0.1},
    "scifar10": {"in_chans": 3, "num_classes": 10, "length": 1024, "radius": 0.002, "bias": True},
    "character_trajectories": {"in_chans": 3, "num_classes": 20, "length": 182, "radius": 0.012, "bias": True},
    "speech_commands_mfcc": {
        "in_chans": 20,
        "num_classes": 10,
        "length": 161,
        "radius": 0.012,
        "bias": True,
        "dropout": 0.2,
    },
    "speech_commands_raw": {"in_chans": 1, "num_classes": 10, "length": 16000, "radius": 0.0002, "dropout": 0.1},
}
