"""timm's residual networks with a stem for small images, as the paper compares with."""

from __future__ import annotations

from typing import Any

from timm.models.resnet import ResNet
from torch import nn


class LowResolutionResNet(ResNet):
    """ResNet whose first convolution is 3x3 with stride 1 and which has no max pooling: 8 times smaller maps at its end.

    (The paper's training script builds torchvision's network of 32 times smaller maps instead; its tables are of
    this one.) Arguments are those of timm's `ResNet`, whose initialisation it has.

    Example:
        >>> from timm.models.resnet import BasicBlock
        >>> LowResolutionResNet(BasicBlock, (2, 2, 2, 2), num_classes=10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, block: type[nn.Module], layers: tuple[int, ...], in_chans: int = 3, **kwargs: Any) -> None:
        super().__init__(block, layers, in_chans=in_chans, **kwargs)
        like = self.conv1.weight
        self.conv1 = nn.Conv2d(
            in_chans, like.shape[0], 3, padding=1, bias=False, device=like.device, dtype=like.dtype
        )
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        stem, *stages = self.feature_info
        self.feature_info = [{**stem, "reduction": 1}] + [{**s, "reduction": s["reduction"] // 4} for s in stages]
