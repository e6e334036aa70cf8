"""What the networks for images share: a stem, stages, a norm, a classifier, and timm's ways to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .._common.classifier import Classifier
from ..points import PointKernel


class StagedNetwork(Classifier):
    """`stem`, `stages`, `norm` and `head`, one after another; a network makes them and calls `_finish`."""

    stem: nn.Module
    stages: nn.ModuleList
    norm: nn.Module

    def _finish(
        self, widths: Sequence[int], reductions: Sequence[int], num_classes: int, global_pool: str, drop_rate: float
    ) -> None:
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": width, "reduction": reduction, "module": f"stages.{index}"}
            for index, (width, reduction) in enumerate(zip(widths, reductions))
        ]
        self.num_features = self.head_hidden_size = widths[-1]
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:  # (N, in_chans, H, W) -> (N, num_features, h, w)
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3)) if self.global_pool else x.permute(0, 2, 3, 1)
        x = self.head_drop(x)
        if not pre_logits:
            x = self.get_classifier()(x)
        return x if self.global_pool else x.permute(0, 3, 1, 2)

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
            x: images (N, in_chans, H, W).
            indices: stages to return: the last n for an int, those listed for a sequence, all for None.
            norm: apply the final norm to the last stage's output.
            stop_early: leave out the stages after the last one asked for.
            output_fmt: "NCHW", the only layout there is.
            intermediates_only: return the list alone, not (last output, list).

        Raises:
            ValueError: `output_fmt` is not "NCHW".
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}; permute the returned maps instead")
        wanted, last = feature_take_indices(len(self.stages), indices)
        intermediates = []
        x = self.stem(x)
        for index in range(last + 1 if stop_early else len(self.stages)):
            x = self.stages[index](x)
            if index in wanted:
                intermediates.append(self.norm(x) if norm and index == len(self.stages) - 1 else x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the outputs named by `indices` do not need; returns the indices counted from the front."""
        wanted, last = feature_take_indices(len(self.stages), indices)
        shortened = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return wanted

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def no_weight_decay(self) -> set[str]:
        """Names to keep from weight decay beyond biases and norms: positions and radii, as the authors do.

        See `smpconv.param_groups`, which also gives the radii their learning rate.
        """
        return points_of(self)

    def group_matcher(self, coarse: bool = False) -> dict:
        """Patterns by which timm's layer-wise learning-rate decay orders the parameters: by stage, or by block."""
        if coarse:
            return {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}
        by_block = [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return {"stem": r"^stem", "blocks": by_block}


def points_of(model: nn.Module) -> set[str]:
    """Names of the positions and radii."""
    layers = ((name, module) for name, module in model.named_modules() if isinstance(module, PointKernel))
    return {f"{name}.{leaf}" for name, module in layers for leaf in module.no_weight_decay()}


def per_stage(name: str, value: Any, stages: int) -> list[Any]:
    """`value` for each stage: one for all, or a sequence of them."""
    if not isinstance(value, Sequence):
        return [value] * stages
    if len(value) != stages:
        raise ValueError(f"{name} must be one value or have an entry for each of {stages} stages, got {value!r}")
    return list(value)


def drop_path_rates(last: float, blocks: int) -> list[float]:
    """Growing linearly from 0."""
    if not 0 <= last < 1:
        raise ValueError(f"drop_path_rate must be at least 0 and below 1, got {last!r}")
    return torch.linspace(0, last, blocks, device="cpu").tolist()
