"""timm's residual networks with a stem for small images, as the paper compares with."""

from __future__ import annotations

from typing import Any

from timm.models.resnet import ResNet
from torch import nn


class LowResolutionResNet(ResNet):
    """ResNet with a 3x3 first convolution of stride 1 and no max pooling; its last maps are an eighth of the image.

    (The paper's training script builds torchvision's network, whose last maps are a 32nd, instead; its tables are of
    this one.) Arguments are those of timm's `ResNet`, whose initialisation it has.

    Example:
        >>> from timm.models.resnet import BasicBlock
        >>> LowResolutionResNet(BasicBlock, (2, 2, 2, 2), num_classes=10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, block: Any, layers: tuple[int, ...], *, in_chans: int = 3, **kwargs: Any) -> None:
        super().__init__(block, layers, in_chans=in_chans, **kwargs)
        dd: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
        conv = nn.Conv2d(in_chans, 64, 3, padding=1, bias=False, **dd)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        self.add_module("conv1", conv)
        self.add_module("maxpool", nn.Identity())
        reductions = (1, *(2**index for index in range(len(self.feature_info))))  # of the stem, then of the stages
        self.feature_info = [{**info, "reduction": by} for info, by in zip(self.feature_info, reductions)]
