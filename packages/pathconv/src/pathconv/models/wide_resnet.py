"""The paper's wide residual networks: pre-activation blocks, with what its code does otherwise than the usual ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._common.classifier import Classifier

BATCH_NORM_MOMENTUM = 0.9  # as in the paper's code: running statistics are nearly those of the last batch


class WideBlock(nn.Module):
    """x + conv(dropout(conv(x))), each convolution behind a batch norm and a ReLU; the second has the stride."""

    def __init__(self, before: int, after: int, stride: int, drop_rate: float, **dd: Any) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before, momentum=BATCH_NORM_MOMENTUM, **dd)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, **dd)
        self.dropout = nn.Dropout(drop_rate)
        self.bn2 = nn.BatchNorm2d(after, momentum=BATCH_NORM_MOMENTUM, **dd)
        self.conv2 = nn.Conv2d(after, after, 3, stride=stride, padding=1, **dd)
        projected = stride != 1 or before != after
        self.shortcut = nn.Conv2d(before, after, 1, stride=stride, **dd) if projected else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # (N, before, H, W) -> (N, after, H / stride, W / stride)
        y = self.dropout(self.conv1(self.bn1(x).relu()))
        return self.conv2(self.bn2(y).relu()) + self.shortcut(x)


class WideResNet(Classifier):
    """WRN-depth-width for low-resolution images, as the paper compares with.

    The first stage has the size of the image, each of the others half that of the one before, down to 8x8 from 32x32
    in three stages and from 64x64 in four. So "WRN-40-2" at 64 pixels has 4 x 6 blocks, more than its name says: the
    paper's parameter counts are of that network. Convolutions have biases.

    Args:
        depth: 4 more than a multiple of 6; (depth - 4) / 6 blocks per stage.
        width: factor of the channels 16, 32, 64, 128.
        img_size: decides on three stages, or four from 64 pixels on; images of any size pass.
        in_chans: channels of the images.
        num_classes: number of classes; 0 for no classifier.
        drop_rate: dropout within the blocks.

    Raises:
        ValueError: `depth` does not fit.

    Example:
        >>> WideResNet(10, 1, num_classes=10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    classifier_name = "fc"
    pools = ("avg",)

    def __init__(
        self,
        depth: int = 40,
        width: int = 2,
        *,
        img_size: int | tuple[int, int] = 32,
        in_chans: int = 3,
        num_classes: int = 1000,
        drop_rate: float = 0.3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 4 more than a multiple of 6, but it is {depth}.")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        side = img_size if isinstance(img_size, int) else min(img_size)
        dims = [16 * width * 2**index for index in range(4 if side >= 64 else 3)]
        self.num_classes, self.in_chans, self.num_features = num_classes, in_chans, dims[-1]
        self.head_hidden_size = dims[-1]
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, **dd)
        stages = []
        before = 16
        for index, dim in enumerate(dims):
            blocks = []
            for block in range((depth - 4) // 6):
                stride = 2 if index > 0 and block == 0 else 1
                blocks.append(WideBlock(before, dim, stride, drop_rate, **dd))
                before = dim
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.feature_info = [
            {"num_chs": dim, "reduction": 2**index, "module": f"stages.{index}"} for index, dim in enumerate(dims)
        ]
        self.bn1 = nn.BatchNorm2d(before, momentum=BATCH_NORM_MOMENTUM, **dd)
        self.reset_classifier(num_classes, "avg")

    def forward_features(self, x: Tensor) -> Tensor:  # (N, in_chans, H, W) -> (N, num_features, h, w)
        return self.bn1(self.stages(self.conv1(x))).relu()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        return x if pre_logits else self.get_classifier()(x)

    def new_classifier(self, num_classes: int, **dd: Any) -> nn.Module:
        return nn.Linear(self.num_features, num_classes, **dd)
