"""What the networks for CIFAR share: a stem, stages, a neck, a classifier, and timm's ways to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._common.classifier import Classifier
from ..generator import SliceGenerator


class StagedNetwork(Classifier):
    """`stem`, `stages`, `neck` and `head`, one after another; a network makes them and calls `_finish`."""

    stem: nn.Module
    stages: nn.Sequential
    neck: nn.Module

    def _finish(
        self,
        widths: Sequence[int],
        num_features: int,
        num_classes: int,
        global_pool: str,
        drop_rate: float,
        first_reduction: int = 1,
    ) -> None:
        """The classifier behind stages of `widths`, each with maps half as high and wide as the one before."""
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": width, "reduction": first_reduction * 2**index, "module": f"stages.{index}"}
            for index, width in enumerate(widths)
        ]
        self.num_features = self.head_hidden_size = num_features
        self.drop_rate, self.head_drop = drop_rate, nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew; after a start on the meta device: `model.to_empty(device=...)`, then this."""
        for module in self.modules():
            self._start(module)

    def _start(self, module: nn.Module) -> None:
        """Starts one layer as torch does; kernels as their generator does."""
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear, SliceGenerator)):
            module.reset_parameters()

    def new_classifier(self, num_classes: int, **dd: Any) -> nn.Module:
        layer = nn.Linear(self.num_features, num_classes, **dd)
        self._start(layer)
        return layer

    def forward_features(self, x: Tensor) -> Tensor:  # (N, in_chans, H, W) -> (N, num_features, h, w)
        return self.neck(self.stages(self.stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3)) if self.global_pool else x.permute(0, 2, 3, 1)
        x = self.head_drop(x)
        if not pre_logits:
            x = self.get_classifier()(x)
        return x if self.global_pool else x.permute(0, 3, 1, 2)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def no_weight_decay(self) -> set[str]:
        """Names to keep from weight decay beyond biases and norms: none; the authors decay codes and generator too."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict:
        """Patterns by which timm's layer-wise learning-rate decay orders the parameters: by stage, or by block.

        The generator counts as part of the first layer that it makes a kernel for.
        """
        if coarse:
            return {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}
        by_block = [
            (r"^stages\.(\d+)\.transition", (0,)),
            (r"^stages\.(\d+)\.(\d+)", None),
            (r"^neck", (99999,)),
        ]
        return {"stem": r"^stem", "blocks": by_block}


def conv_norm(in_channels: int, channels: int, kernel_size: int, **options: Any) -> list[nn.Module]:
    """Convolution without bias that keeps the map's size, norm, ReLU."""
    dd = {key: options[key] for key in ("device", "dtype")}
    conv = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2, bias=False, **options)
    return [conv, nn.BatchNorm2d(channels, **dd), nn.ReLU(inplace=True)]


def drop_path_rates(last: float, blocks: int) -> list[float]:
    """Growing linearly from 0."""
    if not 0 <= last < 1:
        raise ValueError(f"drop_path_rate must be at least 0 and below 1, got {last!r}")
    return torch.linspace(0, last, blocks, device="cpu").tolist()


def check_entries(name: str, values: Any) -> None:
    """Raises where `values` are no tuple or list."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(f"{name} must have an entry for each stage in a tuple, but it is {values!r}.")


def check_stages(**sizes: Sequence[int]) -> None:
    """Raises where `sizes` have no entry of at least 1 for each stage, or not as many as one another."""
    for name, values in sizes.items():
        check_entries(name, values)
    same = len({len(values) for values in sizes.values()}) == 1
    if not same or not all(values and min(values) > 0 for values in sizes.values()):
        names, given = " and ".join(sizes), " and ".join(repr(tuple(values)) for values in sizes.values())
        raise ValueError(f"{names} must have an entry of at least 1 for each stage, got {given}")
