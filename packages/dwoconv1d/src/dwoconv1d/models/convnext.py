"""ConvNeXt with 2D, oriented 1D, or both kinds of depthwise convolution (figure 3 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from timm.layers import LayerNorm2d, trunc_normal_
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .._common.classifier import Classifier
from ..modules import OrientedConv1d
from .blocks import (
    LAYER_NORM_EPS,
    ResidualBlock,
    channels_first,
    channels_last,
    make_block,
    make_stem,
    sizes_can_be_checked,
)
from .variants import VARIANTS, resolve_kernel_sizes


class ConvNeXt(Classifier):
    """ConvNeXt in the four variants of the paper.

    "2d" is ConvNeXt itself; "1d" replaces every depthwise convolution and the stem by oriented 1D kernels; "1dpp" and
    "2dpp" add an oriented convolution to each block's hidden layer. The 2x2 convolutions between stages stay dense in
    all four, as in the paper. Block b of a stage starts its directions at 90 degrees when b is odd (`rotate`).

    Input (N, in_chans, H, W) of any size that leaves the last stage at least one pixel; a patch stem and the layers
    between stages round sizes down, an oriented stem rounds up. Output (N, num_classes).

    Smaller networks are arguments: `depths` and `dims` of any common length, `patch_size` for small images. A
    narrow network for 28x28 grey images, with maps of 14, 7 and 3 pixels, and its 2D twin::

        small = dict(depths=(2, 2, 2), dims=(32, 64, 128), patch_size=2, in_chans=1, num_classes=10)
        oriented = ConvNeXt("1d", kernel_sizes=(15, 15, 7), stem_width=32, **small)
        twin = ConvNeXt("2d", **small)

    Args:
        variant: One of "2d", "1d", "1dpp", "2dpp".
        depths: Number of blocks in each stage.
        dims: Channels of each stage.
        kernel_sizes: One entry per stage: an int for "2d" and "1d", a pair for "1dpp" and "2dpp". By default the
            paper's classification setting, the same in every stage.
        stem: "patch" (one dense convolution) or "oriented" (:class:`Stem1D`); by default the variant's own.
        stem_kernel_size: Taps of the oriented stem; by default the first kernel size of the first stage.
        stem_width: Channels inside the oriented stem.
        patch_size: Reduction of the stem: any with a patch stem; 1, 2 or 4 with an oriented one.
        directions: Number of evenly spaced directions in every oriented convolution, the stem's included.
        rotate: Whether odd blocks turn their directions by 90 degrees.
        in_chans: Channels of the input.
        num_classes: Number of classes; 0 for no classifier.
        global_pool: "avg", or "" to keep the map: the head then works on every pixel.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; grows linearly from 0 over all blocks.
        layer_scale_init_value: Initial layer scale (1e-6 for classification, 1.0 in the paper's dense tasks); None or
            0 for none.
        out_norms: Adds the layer norms `norm0` ... on the outputs that `features_only` returns, as the paper's
            detection and segmentation backbones have them. Of no effect on classification.

    Raises:
        ValueError: An argument does not fit the variant or the number of stages; in the forward pass, unless compiled,
            images that are too small or, with an oriented stem, have not `in_chans` channels.

    Example:
        >>> model = ConvNeXt("1dpp", depths=(1, 1, 1, 1), dims=(8, 16, 32, 64))
        >>> model(torch.zeros(2, 3, 65, 96)).shape
        torch.Size([2, 1000])
    """

    def __init__(
        self,
        variant: str = "1d",
        *,
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        kernel_sizes: Sequence[int] | Sequence[tuple[int, int]] | None = None,
        stem: str | None = None,
        stem_kernel_size: int | None = None,
        stem_width: int = 64,
        patch_size: int = 4,
        directions: int = 8,
        rotate: bool = True,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = 1e-6,
        out_norms: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(depths) != len(dims):
            raise ValueError(f"depths and dims must be equally long, got {len(depths)} and {len(dims)} stages")
        kernels = resolve_kernel_sizes(variant, kernel_sizes, len(depths))
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.variant = variant
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = dims[-1]
        self.grad_checkpointing = False

        stem = VARIANTS[variant].stem if stem is None else stem
        stem_kernel_size = kernels[0][0] if stem_kernel_size is None else stem_kernel_size
        self.downsample_layers = nn.ModuleList(
            [make_stem(stem, in_chans, dims[0], patch_size, stem_kernel_size, stem_width, directions, dd)]
        )
        for before, after in pairwise(dims):
            norm = LayerNorm2d(before, eps=LAYER_NORM_EPS, **dd)
            self.downsample_layers.append(nn.Sequential(norm, nn.Conv2d(before, after, 2, stride=2, **dd)))

        self.stages = nn.ModuleList()
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        for dim, sizes, depth in zip(dims, kernels, depths):
            blocks = [
                make_block(
                    dim,
                    sizes,
                    oriented=VARIANTS[variant].oriented,
                    directions=directions,
                    offset=(index % 2) / 2 if rotate else 0.0,
                    drop_path=next(rates),
                    layer_scale_init_value=layer_scale_init_value,
                    **dd,
                )
                for index in range(depth)
            ]
            self.stages.append(nn.Sequential(*blocks))
        self.feature_info = [
            {"num_chs": dim, "reduction": patch_size * 2**index, "module": f"stages.{index}"}
            for index, dim in enumerate(dims)
        ]
        self.out_norms = out_norms
        if out_norms:
            for index, dim in enumerate(dims):
                self.add_module(f"norm{index}", LayerNorm2d(dim, eps=LAYER_NORM_EPS, **dd))

        self.norm: nn.Module = nn.LayerNorm(dims[-1], eps=LAYER_NORM_EPS, **dd)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew: convolution and linear weights from a truncated normal, zero biases, the rest as built.

        After a start on the meta device: `model.to_empty(device=...)`, then this.
        """
        for module in self.modules():
            if isinstance(module, (nn.LayerNorm, OrientedConv1d)):
                module.reset_parameters()
            if isinstance(module, (nn.Conv2d, nn.Linear, OrientedConv1d)):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, ResidualBlock) and module.gamma is not None:
                nn.init.constant_(module.gamma, module.layer_scale_init_value)

    def forward_features(self, x: Tensor) -> Tensor:  # (N, in_chans, H, W) -> (N, dims[-1], h, w)
        for index in range(len(self.stages)):
            x = self._stage(x, index)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = channels_last(x)
        if self.global_pool:
            x = x.mean((1, 2))
        x = self.head_drop(self.norm(x))
        if not pre_logits:
            x = self.get_classifier()(x)
        return x if self.global_pool else channels_first(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Run the stages and collect the outputs named by `indices`, as timm's `features_only=True` does.

        Args:
            x: Images (N, in_chans, H, W).
            indices: Stages to return: the last n for an int, those listed for a sequence, all for None.
            norm: Apply the final layer norm to the last stage's output.
            stop_early: Leave out the stages after the last one asked for.
            output_fmt: "NCHW", the only layout there is.
            intermediates_only: Return the list alone, not (last output, list).

        Raises:
            ValueError: `output_fmt` is not "NCHW".
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}; permute the returned maps instead")
        wanted, last = feature_take_indices(len(self.stages), indices)
        intermediates = []
        for index in range(last + 1 if stop_early else len(self.stages)):
            x = self._stage(x, index)
            if index not in wanted:
                continue
            out = self.get_submodule(f"norm{index}")(x) if self.out_norms else x
            if norm and index == len(self.stages) - 1:
                out = channels_first(self.norm(channels_last(out)))
            intermediates.append(out)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the outputs named by `indices` do not need; returns the indices counted from the front."""
        wanted, last = feature_take_indices(len(self.stages), indices)
        shortened = last < len(self.stages) - 1
        if self.out_norms:
            for index in set(range(len(self.stages))) - set(wanted):
                self.add_module(f"norm{index}", nn.Identity())
        self.stages = self.stages[: last + 1]
        self.downsample_layers = self.downsample_layers[: last + 1]
        self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return wanted

    def new_classifier(self, num_classes: int, **dd: Any) -> nn.Module:
        layer = nn.Linear(self.num_features, num_classes, **dd)
        trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
        return layer

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names to keep from weight decay beyond biases, norms and layer scales: none."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict:
        """Patterns by which timm's layer-wise learning-rate decay orders the parameters: by stage, or by block."""
        if coarse:
            return {"stem": r"^downsample_layers\.0", "blocks": r"^(?:downsample_layers|stages)\.(\d+)"}
        by_block = [
            (r"^downsample_layers\.(\d+)", (0,)),
            (r"^stages\.(\d+)\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return {"stem": r"^downsample_layers\.0", "blocks": by_block}

    def _stage(self, x: Tensor, index: int) -> Tensor:
        if sizes_can_be_checked(x):
            self._check_size(x, index)
        x = self.downsample_layers[index](x)
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint_seq(self.stages[index], x)
        return self.stages[index](x)

    def _check_size(self, x: Tensor, index: int) -> None:
        for layer in self.downsample_layers[index].children():
            if isinstance(layer, nn.Conv2d) and layer.padding == (0, 0) and min(x.shape[2:]) < max(layer.kernel_size):
                raise ValueError(
                    f"The images are too small: {'x'.join(map(str, x.shape[2:]))} pixels are left before stage "
                    f"{index + 1} of {len(self.stages)}, which takes at least {'x'.join(map(str, layer.kernel_size))}; "
                    f"images of {self.feature_info[len(self.stages) - 1]['reduction']} pixels a side are large enough."
                )
