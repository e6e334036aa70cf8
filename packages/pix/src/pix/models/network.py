"""`PixResNet`: a residual network whose bottlenecks are squeezed by PiX (section 4 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .._common.checks import positive_int
from .._common.classifier import Classifier
from ..modules import PiX
from .blocks import Bottleneck, Stage, make_stem

EXPANSION = 4  # a stage's channels by those that name it


class PixResNet(Classifier):
    """ResNet with PiX in place of the 1x1 convolutions that squeeze its bottlenecks.

    Names and shapes of the weights are the authors'. A stage named by c channels has 4 c of them and works on
    4 c / zeta; so zeta is smaller in the first block of a stage, which reads the stage before: 1, 2, 2, 2 where it is 4
    elsewhere.

    Input (N, in_chans, H, W) of any size, output (N, num_classes).

    Args:
        layers: number of blocks in each stage.
        channels: of each stage, a quarter of what it hands on; the stem has those of the first.
        zeta: by which PiX reduces the channels within a stage.
        tau: threshold of the gates, see `pick_or_mix`: 0 always mixes, 2 always picks.
        bias: blends with a bias, which the authors' networks have not.
        context: "mean" or "l1", see `PiX`; here they agree.
        pix: False squeezes by convolution, norm and ReLU: the ResNet to compare with, of the same initialisation.
        se: adds squeeze-and-excitation to the blocks, before the addition (table 1, row E4; the paper does not say
            where).
        stem: "imagenet", a 7x7 convolution of stride 2 and max pooling; or "lowres", a 3x3 convolution, for small
            images. (The authors train on CIFAR with the former.)
        in_chans: channels of the images.
        num_classes: number of classes; 0 for no classifier.
        global_pool: "avg", or "" to keep the map: the head then works on every pixel.
        drop_rate: dropout before the classifier (0.1 where the authors' code is not told otherwise).
        drop_path_rate: stochastic depth of the last block; grows linearly from 0 over all blocks.

    Raises:
        TypeError, ValueError: an argument that does not fit, such as channels that no integer zeta gives.

    Example:
        >>> model = PixResNet((1, 1, 1, 1), (8, 16, 32, 64), stem="lowres", num_classes=10)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    classifier_name = "classifier"

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        channels: Sequence[int] = (64, 128, 256, 512),
        *,
        zeta: int = 4,
        tau: float = 0.5,
        bias: bool = False,
        context: str = "mean",
        pix: bool = True,
        se: bool = False,
        stem: str = "imagenet",
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check(layers, channels, zeta)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        gate: dict[str, Any] = {"tau": tau, "bias": bias, "context": context}
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.channels = (channels[0], *(EXPANSION * width for width in channels))  # of the stem and the stages
        self.num_features = self.head_hidden_size = self.channels[-1]
        self.conv_stem, self.maxpool = make_stem(stem, in_chans, channels[0], **dd)
        self.bn_stem = nn.BatchNorm2d(channels[0], **dd)
        self.act = nn.ReLU(inplace=True)
        reduction = self.conv_stem.stride[0]
        self.feature_info = [{"num_chs": channels[0], "reduction": reduction, "module": "act"}]
        reduction = reduction**2  # the pooling has the stride of the convolution

        rates = iter(torch.linspace(0, drop_path_rate, sum(layers), device="cpu").tolist())
        before = channels[0]
        for index, (depth, width) in enumerate(zip(layers, channels), 1):
            squeezed, after = EXPANSION * width // zeta, EXPANSION * width
            stride = 1 if index == 1 else 2
            reduction *= stride
            blocks = []
            for block in range(depth):
                block_args: dict[str, Any] = {"pix": pix, "se": se, "drop_path": next(rates), "gate": gate, **dd}
                block_args |= {"stride": stride, "project": True} if block == 0 else {}
                blocks.append(Bottleneck(before, squeezed, after, **block_args))
                before = after
            self.add_module(f"layer{index}", Stage(blocks))
            self.feature_info.append({"num_chs": after, "reduction": reduction, "module": f"layer{index}"})
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.reset_parameters()

    @property
    def stages(self) -> list[Stage]:
        return [stage for stage in self.children() if isinstance(stage, Stage)]

    def reset_parameters(self) -> None:
        """Start anew, as the authors do: all convolutions and blends from Glorot's uniform distribution, biases from 0.

        After a start on the meta device: `model.to_empty(device=...)`, then this.
        """
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, (nn.Conv2d, PiX)):
                _reset(module)

    def forward_features(self, x: Tensor) -> Tensor:  # (N, in_chans, H, W) -> (N, num_features, h, w)
        x = self.maxpool(self.act(self.bn_stem(self.conv_stem(x))))
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.global_pool:
            x = x.mean((2, 3), keepdim=True)
        x = self.head_drop(x)
        if not pre_logits:
            x = self.get_classifier()(x)
        return x.flatten(1) if self.global_pool else x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Run stem and stages and collect the outputs named by `indices`, as timm's `features_only=True` does.

        Args:
            x: images (N, in_chans, H, W).
            indices: outputs to return, 0 for the stem's, before its pooling: the last n for an int, those listed for a
                sequence, all for None.
            norm: of no effect; there is no final norm.
            stop_early: leave out the stages after the last one asked for.
            output_fmt: "NCHW", the only layout there is.
            intermediates_only: return the list alone, not (last output, list).

        Raises:
            ValueError: `output_fmt` is not "NCHW".
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}; permute the returned maps instead")
        stages = self.stages
        wanted, last = feature_take_indices(len(stages) + 1, indices)
        x = self.act(self.bn_stem(self.conv_stem(x)))
        intermediates = [x] if 0 in wanted else []
        x = self.maxpool(x)
        for index, stage in enumerate(stages[:last] if stop_early else stages, 1):
            x = stage(x)
            if index in wanted:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the outputs named by `indices` do not need; returns the indices counted from the front."""
        stages = len(self.stages)
        wanted, last = feature_take_indices(stages + 1, indices)
        for index in range(last + 1, stages + 1):
            delattr(self, f"layer{index}")
        if last == 0:
            self.maxpool = nn.Identity()
        self.num_features = self.head_hidden_size = self.channels[last]
        if prune_head or last < stages:
            self.reset_classifier(0, "")
        return wanted

    def new_classifier(self, num_classes: int, **dd: Any) -> nn.Module:
        layer = nn.Conv2d(self.num_features, num_classes, 1, **dd)
        _reset(layer)
        return layer

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names to keep from weight decay beyond biases and norms: none; the authors decay PiX's weights too."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict:
        """Patterns by which timm's layer-wise learning-rate decay orders the parameters: by stage, or by block."""
        blocks = r"^layer(\d+)" if coarse else r"^layer(\d+)\.blocks\.(\d+)"
        return {"stem": r"^(?:conv|bn)_stem", "blocks": blocks}


def _reset(layer: nn.Module) -> None:
    """`layer` has weight and bias."""
    nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def _check(layers: Sequence[int], channels: Sequence[int], zeta: int) -> None:
    if len(layers) != len(channels) or not channels or min(layers) < 1:
        raise ValueError(
            f"layers and channels must have an entry of at least 1 for each stage, got {layers!r} and {channels!r}"
        )
    before, zeta = channels[0], positive_int("zeta", zeta)
    for width in channels:
        squeezed = EXPANSION * width / zeta
        if squeezed != int(squeezed) or before % squeezed:
            raise ValueError(
                f"zeta={zeta} does not fit channels={tuple(channels)}: a stage works on {squeezed:g} of its "
                f"{EXPANSION * width} channels, which must be an integer and divide the {before} that it reads"
            )
        before = EXPANSION * width
