"""`PathConvNet`: a convolutional network on images read along paths (section 4 of the paper, figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .._common.classifier import Classifier
from ..checkpoints import resize_position_embedding
from ..functional import traverse_conv1d
from ..modules import LAYER_NORM_EPS, ChannelNorm, DepthwiseConv1d, PathConvBlock, Traverse


class Stem(nn.Module):
    """A convolution of kernel size 1 over the channels of all paths, a depthwise one of 11, and a norm (figure 7)."""

    def __init__(self, in_channels: int, dim: int, **dd: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(in_channels, dim, 1, **dd)
        self.conv2 = nn.Sequential(DepthwiseConv1d(dim, 11, **dd), ChannelNorm(dim, eps=LAYER_NORM_EPS, **dd))

    def forward(self, x: Tensor, traversal: Traverse) -> Tensor:  # (N, C, H, W) -> (N, dim, L)
        x = traverse_conv1d(x, traversal.tables, self.conv1.weight, self.conv1.bias, channels_last=True)
        return self.conv2(x)


class PathConvNet(Classifier):
    """The paper's network: traversal, stem, position embedding, four stages of 1D blocks, mean, norm, classifier.

    The sequence of L = height * width positions is halved between stages. Within, activations lie as (N, L, C) in
    memory; the traversal and the stem's first convolution are one operation.

    Images have the size that the network was made for: position embedding and paths belong to it.
    :meth:`set_input_size` moves a trained network to another one.

    Args:
        depths: number of blocks in each stage.
        dims: channels of each stage; multiples of the number of paths, each a multiple of the one before.
        img_size: of the images, an integer or (height, width).
        path: how images are read: the name of a preset, a `PathSet`, `PathConfig`s, or a tensor of rows and columns,
            (HW, 2) or (P, HW, 2).
        in_chans: channels of the images.
        num_classes: number of classes; 0 for no classifier.
        global_pool: "avg", or "" to keep the sequence: the head then works on every position.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0 over all blocks.
        attention: False leaves the path-aware attention out, as in the paper's ablation (table 5).
        position_embedding: False leaves the position embedding out, likewise.
        layer_scale_init_value: of the blocks' layer scales.

    Raises:
        TypeError, ValueError: an argument that does not fit, such as paths for another size or a number of paths that
            does not divide `dims`; in the forward pass, images of another size or number of channels.

    Example:
        >>> model = PathConvNet(depths=(1, 1), dims=(12, 24), img_size=32, path="g", num_classes=10)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    posEmbedding: nn.Parameter | None  # (1, dims[0], L)

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 2, 2),
        dims: Sequence[int] = (48, 96, 192, 384),
        *,
        img_size: int | tuple[int, int] = 32,
        path: Any = "g",
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        attention: bool = True,
        position_embedding: bool = True,
        layer_scale_init_value: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.pathSampling = Traverse(path, img_size, device=device)
        paths, length = self.pathSampling.num_paths, self.pathSampling.length
        _check(depths, dims, paths)
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = dims[-1]
        self.grad_checkpointing = False

        self.stem = Stem(paths * in_chans, dims[0], **dd)
        embedding = nn.Parameter(torch.empty(1, dims[0], length, **dd)) if position_embedding else None
        self.register_parameter("posEmbedding", embedding)
        self.downsample = nn.ModuleList(
            nn.Sequential(
                DepthwiseConv1d(before, 9, multiplier=after // before, stride=2, **dd),
                ChannelNorm(after, eps=LAYER_NORM_EPS, **dd),
            )
            for before, after in pairwise(dims)
        )
        block: dict[str, Any] = {"attention": attention, "layer_scale_init_value": layer_scale_init_value}
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        self.stage = nn.ModuleList(
            nn.Sequential(*(PathConvBlock(dim, paths, next(rates), **block, **dd) for _ in range(depth)))
            for dim, depth in zip(dims, depths)
        )
        self.feature_info = [
            {"num_chs": dim, "reduction": 2**index, "module": f"stage.{index}"} for index, dim in enumerate(dims)
        ]
        self.norm: nn.Module = nn.LayerNorm(dims[-1], eps=LAYER_NORM_EPS, **dd)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew, as the authors do: convolutions from He's normal distribution, linear layers from Glorot's.

        Biases are 0 in convolutions and 0.01 in linear layers; the position embedding is drawn from N(0, 1). After a
        start on the meta device: `model.to_empty(device=...)`, then this.
        """
        if self.posEmbedding is not None:
            nn.init.normal_(self.posEmbedding)
        for module in self.modules():
            if isinstance(module, (nn.LayerNorm, Traverse)):
                module.reset_parameters()
            elif isinstance(module, (nn.Conv1d, DepthwiseConv1d)):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                _reset_linear(module)
            elif isinstance(module, PathConvBlock):
                nn.init.constant_(module.scaling, module.layer_scale_init_value)

    def set_input_size(self, img_size: int | tuple[int, int], path: Any = None) -> None:
        """Make this network one for images of another size or along other paths, as many as before.

        The position embedding is resampled along the grid of pixels, see
        :func:`pathconv.checkpoints.resize_position_embedding`; all other weights stay. Make the optimizer after this.

        Args:
            img_size: the new size.
            path: the new paths; by default those with which the network was made, where they have a name.

        Raises:
            ValueError: the number of paths differs, or no path is given and the old one has no name.
        """
        old = self.pathSampling
        if path is None:
            if not isinstance(old.source, str):
                raise ValueError("path is missing: this network's paths have no name, so say which to take.")
            path = old.source
        new = Traverse(path, img_size, device=old.paths.device)
        if new.num_paths != old.num_paths:
            raise ValueError(f"path has {new.num_paths} paths, but this network was made for {old.num_paths}.")
        embedding = self.posEmbedding
        if embedding is not None:
            resampled = resize_position_embedding(embedding.detach(), old.tables, new.tables)
            self.posEmbedding = nn.Parameter(resampled, requires_grad=embedding.requires_grad)
        self.pathSampling = new

    def forward_features(self, x: Tensor) -> Tensor:  # (N, in_chans, H, W) -> (N, dims[-1], l)
        x = self._embed(x)
        for index in range(len(self.stage)):
            x = self._stage(x, index)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean(2) if self.global_pool else x.mT
        x = self.head_drop(self.norm(x))
        if not pre_logits:
            x = self.get_classifier()(x)
        return x if self.global_pool else x.mT

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCL",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Run the stages and collect the outputs named by `indices`, as timm's `features_only=True` does.

        Args:
            x: images (N, in_chans, H, W).
            indices: stages to return: the last n for an int, those listed for a sequence, all for None.
            norm: apply the final layer norm to the last stage's output.
            stop_early: leave out the stages after the last one asked for.
            output_fmt: "NCL" or "NLC". A position belongs to one pixel on every path, so there are no maps;
                `pathconv.untraverse` makes one of a full-length sequence of P groups of channels.
            intermediates_only: return the list alone, not (last output, list).

        Raises:
            ValueError: `output_fmt` is neither.
        """
        if output_fmt not in ("NCL", "NLC"):
            raise ValueError(f"output_fmt must be 'NCL' or 'NLC', got {output_fmt!r}: features are sequences, not maps")
        wanted, last = feature_take_indices(len(self.stage), indices)
        intermediates = []
        x = self._embed(x)
        for index in range(last + 1 if stop_early else len(self.stage)):
            x = self._stage(x, index)
            if index not in wanted:
                continue
            out = x
            if norm and index == len(self.stage) - 1:
                out = self.norm(out.mT).mT
            intermediates.append(out.mT if output_fmt == "NLC" else out)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the outputs named by `indices` do not need; returns the indices counted from the front."""
        wanted, last = feature_take_indices(len(self.stage), indices)
        shortened = last < len(self.stage) - 1
        self.stage, self.downsample = self.stage[: last + 1], self.downsample[:last]
        self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return wanted

    def new_classifier(self, num_classes: int, **dd: Any) -> nn.Module:
        layer = nn.Linear(self.num_features, num_classes, **dd)
        _reset_linear(layer)
        return layer

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names to keep from weight decay beyond biases, norms and layer scales: none, as in the paper.

        (The authors decay biases and layer scales too, all but the norms.)
        """
        return set()

    def group_matcher(self, coarse: bool = False) -> dict:
        """Patterns by which timm's layer-wise learning-rate decay orders the parameters: by stage, or by block."""
        stem = r"^(?:stem|posEmbedding)"
        if coarse:
            return {"stem": stem, "blocks": r"^(?:stage|downsample)\.(\d+)"}
        by_block = [
            (r"^stage\.(\d+)\.(\d+)", None),
            (r"^downsample\.(\d+)", (999,)),  # behind the blocks of its stage
            (r"^norm", (99999,)),
        ]
        return {"stem": stem, "blocks": by_block}

    def _embed(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise ValueError(
                f"x must have shape (N, {self.in_chans}, H, W), but it has shape {tuple(x.shape)}: images of other "
                "channels need a network made with in_chans."
            )
        x = self.stem(x, self.pathSampling)
        if self.posEmbedding is None:
            return x
        return x + self.posEmbedding.mT.contiguous().mT  # in the layout of x, or the addition crawls

    def _stage(self, x: Tensor, index: int) -> Tensor:
        if index > 0:
            x = self.downsample[index - 1](x)
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint_seq(self.stage[index], x)
        return self.stage[index](x)


def _check(depths: Sequence[int], dims: Sequence[int], paths: int) -> None:
    if len(depths) != len(dims) or not dims:
        raise ValueError(
            f"depths and dims must have an entry at least and be equally long, got {len(depths)} and {len(dims)} stages"
        )
    if any(dim % paths for dim in dims):
        raise ValueError(
            f"{paths} paths do not divide the channels of the stages, {', '.join(map(str, dims))}: take as many paths "
            f"as divide all of them, or other dims."
        )
    if any(after % before for before, after in pairwise(dims)):
        raise ValueError(f"each of dims must be a multiple of the one before, got {tuple(dims)}")


def _reset_linear(layer: nn.Linear) -> None:
    nn.init.xavier_normal_(layer.weight)
    nn.init.constant_(layer.bias, 0.01)
