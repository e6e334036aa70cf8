# edit in shared/common/python/classifier.py
"""What timm asks of a network's last layer, for the networks of all packages."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .checks import integer


class Classifier(nn.Module):
    """A network whose classifier can be read and replaced, as timm's can.

    A network says what its classifier is called and which pooling it knows, has `num_features`, `forward_features`,
    `forward_head` and `new_classifier`, and calls `reset_classifier` when it is made.
    """

    classifier_name = "head"
    pools: tuple[str, ...] = ("avg", "")
    num_classes: int
    num_features: int
    global_pool: str

    def forward_features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        raise NotImplementedError

    def new_classifier(self, num_classes: int, **dd: Any) -> nn.Module:
        """A classifier of `num_features`, as at the start of training."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer, or an identity when `num_classes` is 0."""
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier, freshly initialised, in the place of the old one.

        Args:
            num_classes: number of classes; 0 for none.
            global_pool: one of `pools`, "" for no pooling; None keeps the present one.

        Raises:
            TypeError: `num_classes` is no integer.
            ValueError: `num_classes` is below 0, or `global_pool` something else.
        """
        num_classes = integer("num_classes", num_classes, 0)
        if global_pool is not None:
            if global_pool not in self.pools:
                raise ValueError(f"global_pool must be {' or '.join(map(repr, self.pools))}, got {global_pool!r}")
            self.global_pool = global_pool
        self.num_classes = num_classes
        layer: nn.Module = nn.Identity()
        if num_classes:
            like = next(self.parameters())
            layer = self.new_classifier(num_classes, device=like.device, dtype=like.dtype)
        self.add_module(self.classifier_name, layer)
