"""`SMPResNet`: the paper's network for CIFAR (section 4.3), a residual network of dense kernels of points."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import nn

from .._common.checks import positive_int
from ..branches import SMPBranches
from ..modules import SMPConv2d
from .base import StagedNetwork, drop_path_rates
from .blocks import ConvNorm, ResidualBlock, Stage, init_weights


class SMPResNet(StagedNetwork):
    """Residual blocks of two convolutions with kernels as large as the image, at full resolution throughout.

    Input (N, in_chans, H, W) of any size, output (N, num_classes), of one image too (the authors' code then drops the
    first dimension). For inference, `smpconv.fuse(model)` leaves one convolution of each pair, and no norm.

    `points=False` is the twin with ordinary convolutions of `kernel_size`, such as 3 or 7, each with its norm, in the
    place of the points and the small convolution beside them.

    Args:
        channels: of each block; blocks of one width in a row are a stage. The stem has those of the first.
        kernel_size: odd, or a pair; 33 for images of 32.
        small_kernel_size: of the convolution beside the points.
        n_points: per output channel.
        radius: of the points at the start; by default 4 / kernel_size.
        coord_std: how far the points spread at the start.
        bias: of the layers of points.
        points: False for ordinary kernels.
        dropout: behind the first activation of a block.
        algorithm: of `functional.conv2d_long`.
        in_chans: channels of the images.
        num_classes: number of classes; 0 for no classifier.
        global_pool: "avg", or "" to keep the map: the head then works on every pixel.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0 over all blocks.

    Raises:
        TypeError, ValueError: an argument that does not fit.

    Example:
        >>> SMPResNet((8, 12), 9, num_classes=10)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

    def __init__(
        self,
        channels: Sequence[int] = (24, 24, 36, 36, 36, 48, 48),
        kernel_size: int | tuple[int, int] = 33,
        *,
        small_kernel_size: int = 3,
        n_points: int = 16,
        radius: float | None = None,
        coord_std: float = 0.05,
        bias: bool = False,
        points: bool = True,
        dropout: float = 0.0,
        algorithm: str = "auto",
        in_chans: int = 3,
        num_classes: int = 10,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError("channels must have an entry for each block, but it is empty")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chans, self.num_classes = in_chans, num_classes

        def conv(before: int, after: int, small_bias: bool = False) -> nn.Module:
            if not points:
                return ConvNorm(before, after, positive_int("kernel_size", kernel_size), act="", **dd)
            options: dict[str, Any] = {"radius": radius, "coord_std": coord_std, "bias": bias, "algorithm": algorithm}
            smp = SMPConv2d(before, after, kernel_size, n_points, **options, **dd)
            return SMPBranches(smp, small_kernel_size, small_bias=small_bias)

        width = channels[0]
        self.stem = nn.Sequential(conv(in_chans, width, small_bias=True), nn.ReLU())
        rates = iter(drop_path_rates(drop_path_rate, len(channels)))
        stages, widths = [], []
        for after, group in groupby(channels):
            blocks = []
            for _ in group:
                shortcut = nn.Identity() if width == after else nn.Conv2d(width, after, 1, **dd)
                rate: dict[str, Any] = {"dropout": dropout, "drop_path": next(rates)}
                blocks.append(ResidualBlock(conv(width, after), conv(after, after), shortcut, **rate))
                width = after
            stages.append(Stage(nn.Identity(), blocks))
            widths.append(after)
        self.stages = nn.ModuleList(stages)
        self.norm = nn.Identity()
        self._finish(widths, [1] * len(widths), num_classes, global_pool, drop_rate)
        self.reset_parameters()

    def new_classifier(self, num_classes: int, **dd: Any) -> nn.Module:
        layer = nn.Linear(self.num_features, num_classes, **dd)
        _init_head(layer)
        return layer

    def reset_parameters(self) -> None:
        """Start anew, as the authors do: weights from N(0, 0.02^2), the classifier's from He's normal distribution.

        Biases are 0, points as each layer draws them. After a start on the meta device:
        `model.to_empty(device=...)`, then this.
        """
        self.apply(init_weights)
        head = self.get_classifier()
        if isinstance(head, nn.Linear):
            _init_head(head)


def _init_head(layer: nn.Linear) -> None:
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
