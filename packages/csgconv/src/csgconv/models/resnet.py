"""`CSGResNet`: the residual networks for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import nn

from ..generator import SliceGenerator
from .base import StagedNetwork, check_stages, conv_norm, drop_path_rates
from .blocks import Stage, basic_block
from .registry import cifar_cfg, create_staged


class CSGResNet(StagedNetwork):
    """A ResNet of basic blocks for small images, all of whose 3x3 convolutions but the stem are generated.

    Input (N, in_chans, H, W) of any size, output (N, num_classes). Shortcuts have no parameters.

    Args:
        layers: number of blocks in each stage; 6 times their sum and 2 make the paper's number of layers.
        channels: of each stage; the stem has those of the first.
        generator: of the kernels; None for the ordinary network.
        in_chans: channels of the images.
        num_classes: number of classes; 0 for no classifier.
        global_pool: "avg", or "" to keep the map: the head then works on every pixel.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0 over all blocks.

    Raises:
        TypeError, ValueError: an argument that does not fit.

    Example:
        >>> model = CSGResNet((1, 1), (8, 16), SliceGenerator(16, (8, 8, 3, 3)))
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 3, 3),
        channels: Sequence[int] = (16, 32, 64),
        generator: SliceGenerator | None = None,
        *,
        in_chans: int = 3,
        num_classes: int = 10,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_stages(layers=layers, channels=channels)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        width = channels[0]
        self.stem = nn.Sequential(*conv_norm(in_chans, width, 3, **dd))
        rates = iter(drop_path_rates(drop_path_rate, sum(layers)))
        stages = []
        for index, (depth, after) in enumerate(zip(layers, channels)):
            blocks = []
            for block in range(depth):
                stride = 2 if index and not block else 1
                blocks.append(basic_block(width, after, stride, generator, drop_path=next(rates), **dd))
                width = after
            stages.append(Stage(*blocks))
        self.stages = nn.Sequential(*stages)
        self.neck = nn.Identity()
        self._finish(channels, width, num_classes, global_pool, drop_rate)

    def _start(self, module: nn.Module) -> None:
        """Starts one layer as the authors do: convolutions as He et al. by fan out, the classifier by fan in."""
        super()._start(module)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)


_DEPTHS = (20, 32, 44, 56, 110)
default_cfgs = generate_default_cfgs({f"csg_resnet{depth}": cifar_cfg() for depth in _DEPTHS})


def _create(depth: int, pretrained: bool, /, **kwargs: Any) -> nn.Module:
    sizes = {"layers": ((depth - 2) // 6,) * 3, "code_size": 72, "slice_shape": (12, 12, 3, 3)}
    return create_staged(CSGResNet, f"csg_resnet{depth}", pretrained, **{**sizes, **kwargs})


@register_model
def csg_resnet20(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 for CIFAR: 115,426 parameters instead of 269,722.

    With the paper's larger slices, (16, 16, 3, 3), and code_size=128, it has more than the ordinary one: 312,218.

    Args:
        code_size, slice_shape, layout, binary, init: see :class:`csgconv.SliceGenerator`; by default 72 and
            (12, 12, 3, 3). The authors start with init="reference".
        generated: False for the ordinary network.
        generator: file or state dict of another network, whose generator is taken and does not learn: see
            :func:`csgconv.load_generator`.
        frozen: True for a generator that does not learn, though its codes do.
        kwargs: those of :class:`CSGResNet`, without `generator`.
    """
    return _create(20, pretrained, **kwargs)


@register_model
def csg_resnet32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-32: 130,434 parameters instead of 464,154. Arguments are those of `csg_resnet20`."""
    return _create(32, pretrained, **kwargs)


@register_model
def csg_resnet44(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-44: 145,442 parameters instead of 658,586. Arguments are those of `csg_resnet20`."""
    return _create(44, pretrained, **kwargs)


@register_model
def csg_resnet56(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-56: 160,450 parameters instead of 853,018. Arguments are those of `csg_resnet20`.

    The paper also has slice_shape=(16, 16, 3, 3) with code_size=128: 347,162 parameters.
    """
    return _create(56, pretrained, **kwargs)


@register_model
def csg_resnet110(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-110: 227,986 parameters instead of 1,727,962. Arguments are those of `csg_resnet20`."""
    return _create(110, pretrained, **kwargs)
