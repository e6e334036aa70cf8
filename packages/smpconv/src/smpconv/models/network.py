"""`SMPNet`: the paper's network for ImageNet (section 4.4), RepLKNet with kernels of points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..branches import SMPBranches
from ..modules import SMPDepthwiseConv2d
from .base import StagedNetwork, drop_path_rates, per_stage
from .blocks import ConvFFN, ConvNorm, SMPBlock, Stage, init_weights

_STEM_STRIDES = {1: (1, 1), 2: (2, 1), 4: (2, 2)}


class SMPNet(StagedNetwork):
    """A stem, and stages of blocks: large depthwise convolution, then two pointwise ones, each with a shortcut.

    Input (N, in_chans, H, W) of any size, output (N, num_classes). For inference, `smpconv.fuse(model)` leaves one
    large convolution of each block, and no norm but the last.

    The twin with ordinary kernels is `points=False`: a depthwise `nn.Conv2d` and its norm take the place of the points
    and the small convolution beside them. A narrow network for 28x28 grey images, and its 7x7 twin::

        small = dict(layers=(2, 2, 2), channels=(32, 64, 128), stem_stride=2, in_chans=1, num_classes=10)
        moving = SMPNet(kernel_sizes=(15, 15, 7), **small)
        twin = SMPNet(kernel_sizes=7, points=False, **small)

    Args:
        layers: number of blocks in each stage; a block is a large convolution and a feed-forward part.
        channels: of each stage; the stem has those of the first.
        kernel_sizes: of the large convolutions, one for all stages or one for each; odd.
        small_kernel_size: of the convolution beside the points.
        n_points: of each layer, one for all stages or one for each; by default a quarter of the taps.
        radius: of the points at the start, likewise; by default 4 / kernel size.
        coord_std: how far the points spread at the start.
        points: False for ordinary kernels.
        ffn_ratio: how much wider the feed-forward part is inside.
        stem_stride: by which the stem makes images smaller: 4, or 2 or 1 for small ones.
        algorithm: of `functional.depthwise_conv2d`.
        in_chans: channels of the images.
        num_classes: number of classes; 0 for no classifier.
        global_pool: "avg", or "" to keep the map: the head then works on every pixel.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0 over all blocks.

    Raises:
        TypeError, ValueError: an argument that does not fit.

    Example:
        >>> model = SMPNet((1, 1), (8, 16), kernel_sizes=(15, 7), stem_stride=1, num_classes=10)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        layers: Sequence[int] = (2, 2, 8, 2),
        channels: Sequence[int] = (96, 192, 384, 768),
        *,
        kernel_sizes: int | Sequence[int] = (31, 29, 27, 13),
        small_kernel_size: int = 5,
        n_points: int | Sequence[int] | None = None,
        radius: float | Sequence[float] | None = None,
        coord_std: float = 0.2,
        points: bool = True,
        ffn_ratio: int = 4,
        stem_stride: int = 4,
        algorithm: str = "auto",
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(layers) != len(channels) or not channels or min(layers) < 1:
            raise ValueError(
                f"layers and channels must have an entry of at least 1 for each stage, got {layers!r} and {channels!r}"
            )
        if stem_stride not in _STEM_STRIDES:
            raise ValueError(f"stem_stride must be 1, 2 or 4, got {stem_stride!r}")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chans, self.num_classes = in_chans, num_classes
        first, last = _STEM_STRIDES[stem_stride]
        width = channels[0]
        self.stem = nn.Sequential(
            ConvNorm(in_chans, width, 3, first, **dd),
            ConvNorm(width, width, 3, groups=width, **dd),
            ConvNorm(width, width, **dd),
            ConvNorm(width, width, 3, last, groups=width, **dd),
        )
        sizes = per_stage("kernel_sizes", kernel_sizes, len(layers))
        counts, radii = per_stage("n_points", n_points, len(layers)), per_stage("radius", radius, len(layers))
        rates = iter(drop_path_rates(drop_path_rate, sum(layers)))
        stages = []
        for stage, (depth, after) in enumerate(zip(layers, channels)):
            blocks: list[nn.Module] = []
            for _ in range(depth):
                if points:
                    options: dict[str, Any] = {"radius": radii[stage], "coord_std": coord_std, "algorithm": algorithm}
                    smp = SMPDepthwiseConv2d(after, sizes[stage], counts[stage], **options, **dd)
                    large: nn.Module = SMPBranches(smp, small_kernel_size)
                else:
                    large = ConvNorm(after, after, sizes[stage], groups=after, act="", **dd)
                rate = next(rates)
                blocks += [SMPBlock(after, large, rate, **dd), ConvFFN(after, ffn_ratio, rate, **dd)]
            downsample: nn.Module = nn.Identity()
            if stage:
                halve = ConvNorm(after, after, 3, 2, groups=after, **dd)
                downsample = nn.Sequential(ConvNorm(width, after, **dd), halve)
            stages.append(Stage(downsample, blocks))
            width = after
        self.stages = nn.ModuleList(stages)
        self.norm = nn.BatchNorm2d(width, **dd)
        reductions = [stem_stride * 2**stage for stage in range(len(layers))]
        self._finish(channels, reductions, num_classes, global_pool, drop_rate)
        self.reset_parameters()

    def new_classifier(self, num_classes: int, **dd: Any) -> nn.Module:
        layer = nn.Linear(self.num_features, num_classes, **dd)
        init_weights(layer)
        return layer

    def reset_parameters(self) -> None:
        """Start anew, as the authors do: weights from N(0, 0.02^2), biases 0, points as each layer draws them.

        After a start on the meta device: `model.to_empty(device=...)`, then this.
        """
        self.apply(init_weights)
