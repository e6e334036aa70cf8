"""The authors' networks, rebuilt from what is known of their code in plain torch: weights under their names, logits.

Nothing here is shared with the package. A network's first run draws the weights that it finds missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Published:
    """Weights under the authors' names, and the layers that read them.

    Args:
        slice_shape, code_size: of the generator; code_size=0 for the ordinary network, "org" in their code.
        binary: draws a generator of +-0.5.
    """

    def __init__(
        self, slice_shape: Sequence[int] = (12, 12, 3, 3), code_size: int = 72, *, binary: bool = False
    ) -> None:
        self.slice_shape, self.code_size, self.binary = slice_shape, code_size, binary
        self.state: dict[str, Tensor] = {}
        self.random = torch.Generator().manual_seed(1)

    def draw(self, name: str, *shape: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
        if name not in self.state:
            self.state[name] = mean + std * torch.randn(shape, generator=self.random, dtype=torch.float64)
        return self.state[name]

    def conv(
        self, name: str, x: Tensor, out: int, k: int, *, bias: bool = False, groups: int = 1, **options: Any
    ) -> Tensor:
        weight = self.draw(
            f"{name}.weight", out, x.shape[1] // groups, k, k, std=math.sqrt(2 / (k * k * x.shape[1] / groups))
        )
        values = self.draw(f"{name}.bias", out, std=0.3) if bias else None
        return F.conv2d(x, weight, values, groups=groups, **{"padding": k // 2, **options})

    def norm(self, name: str, x: Tensor) -> Tensor:
        c = x.shape[1]
        weight, bias = self.draw(f"{name}.weight", c, mean=1, std=0.3), self.draw(f"{name}.bias", c, std=0.3)
        mean = self.draw(f"{name}.running_mean", c, std=0.3)
        var = self.state.setdefault(f"{name}.running_var", 0.5 + self.draw(f"{name}.tmp", c) ** 2)
        self.state.pop(f"{name}.tmp", None)
        self.state.setdefault(f"{name}.num_batches_tracked", torch.tensor(391))
        return F.batch_norm(x, mean, var, weight, bias)

    def linear(self, name: str, x: Tensor, out: int) -> Tensor:
        weight = self.draw(f"{name}.weight", out, x.shape[1], std=x.shape[1] ** -0.5)
        return F.linear(x, weight, self.draw(f"{name}.bias", out))

    def generator(self, owners: Sequence[str]) -> Tensor:
        """Registered in the network and again in each part of it that uses it: one tensor."""
        size, name = math.prod(self.slice_shape), f"{owners[0]}CSG.weight"
        weight = self.draw(name, size, self.code_size, std=self.code_size**-0.5)
        if self.binary:
            weight = self.state[name] = weight.sign() / 2
        for owner in owners:
            self.state[f"{owner}CSG.weight"] = weight
        return weight

    def generated(
        self, code: str, plain: str, x: Tensor, out: int, k: int = 3, *, owners: Sequence[str] = ("",), **options: Any
    ) -> Tensor:
        """Codes times generator, reshaped row by row and cropped; the convolution `plain` in the ordinary network."""
        if not self.code_size:
            return self.conv(plain, x, out, k, **options)
        (s0, s1, *_), before = self.slice_shape, x.shape[1]
        codes = self.draw(
            code, math.ceil(before / s0) * math.ceil(out / s1), self.code_size, std=math.sqrt(2 / out) / k
        )
        slices = codes @ self.generator(owners).T
        kernel = slices.view(math.ceil(out / s0) * s0, math.ceil(before / s1) * s1, k, k)[:out, :before]
        return F.conv2d(x, kernel, **{"padding": k // 2, **options})


def resnet(
    net: Published, x: Tensor, layers: Sequence[int] = (9, 9, 9), channels: Sequence[int] = (16, 32, 64)
) -> Tensor:
    x = net.norm("bn_1", net.conv("conv_1_3x3", x, channels[0], 3)).relu()
    for s, (depth, after) in enumerate(zip(layers, channels), 1):
        for b in range(depth):
            block, stride = f"stage_{s}.{b}.", 2 if s > 1 and b == 0 else 1
            owners = ("", block)
            y = net.generated(f"{block}code", f"{block}conv_a", x, after, owners=owners, stride=stride)
            y = net.norm(f"{block}bn_a", y).relu()
            y = net.norm(f"{block}bn_b", net.generated(f"{block}code2", f"{block}conv_b", y, after, owners=owners))
            if stride == 2:
                x = F.avg_pool2d(x, 1, stride)
                x = torch.cat((x, x * 0), 1)
            x = (x + y).relu()
    return net.linear("classifier", x.mean((2, 3)), 10)


def densenet(net: Published, x: Tensor, layers: Sequence[int] = (6, 6, 6), growth: int = 48) -> Tensor:
    x = net.conv("conv1", x, 2 * growth, 3)
    for s, depth in enumerate(layers, 1):
        for b in range(depth):
            block = f"dense{s}.{b}."
            y = net.conv(f"{block}conv1", net.norm(f"{block}bn1", x).relu(), 4 * growth, 1)
            y = net.norm(f"{block}bn2", y).relu()
            x = torch.cat((net.generated(f"{block}code2", f"{block}conv2", y, growth, owners=("", block)), x), 1)
        x = net.norm(f"trans{s}.bn", x).relu()
        if s < len(layers):
            x = F.avg_pool2d(net.conv(f"trans{s}.conv", x, x.shape[1] // 2, 1), 2)
    return net.linear("linear", x.mean((2, 3)), 10)


MOBILE = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def mobilenet(
    net: Published, x: Tensor, blocks: Sequence[tuple[int, int, int, int]] = MOBILE, last: int = 1280
) -> Tensor:
    """`blocks`: expansion, channels, repetitions, stride of the first."""
    x, count = net.norm("bn1", net.conv("conv1", x, 32, 3)).relu(), 0
    for expansion, after, depth, first in blocks:
        for stride in [first] + [1] * (depth - 1):
            block, inner = f"layers.{count}.", expansion * x.shape[1]
            y = net.generated(f"{block}code1", f"{block}conv1", x, inner, 1, owners=("", block))
            y = net.norm(f"{block}bn1", y).relu()
            y = net.norm(f"{block}bn2", net.conv(f"{block}conv2", y, inner, 3, groups=inner, stride=stride)).relu()
            y = net.norm(f"{block}bn3", net.conv(f"{block}conv3", y, after, 1))
            if stride == 1 and x.shape[1] != after:
                x = net.norm(f"{block}shortcut.1", net.conv(f"{block}shortcut.0", x, after, 1))
            x, count = y + x if stride == 1 else y, count + 1
    x = net.norm("bn2", net.conv("conv2", x, last, 1)).relu()
    return net.linear("linear", x.mean((2, 3)), 10)


def shuffle(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)


def shufflenet(
    net: Published, x: Tensor, layers: Sequence[int] = (3, 7, 3), channels: Sequence[int] = (48, 96, 192, 1024)
) -> Tensor:
    def step(name: str, number: int, y: Tensor, out: int, relu: bool, **options: Any) -> Tensor:
        """Pointwise, or depthwise where `options` tell."""
        y = net.conv(f"{name}.conv{number}", y, out, 3 if options else 1, **options)
        y = net.norm(f"{name}.bn{number}", y)
        return y.relu() if relu else y

    x = net.norm("bn1", net.conv("conv1", x, 24, 3)).relu()
    for s, (depth, after) in enumerate(zip(layers, channels), 1):
        name, half, before = f"layer{s}.0", after // 2, x.shape[1]
        left = step(name, 2, step(name, 1, x, before, False, groups=before, stride=2), half, True)
        right = step(name, 4, step(name, 3, x, half, True), half, False, groups=half, stride=2)
        x = shuffle(torch.cat((left, step(name, 5, right, half, True)), 1))
        for b in range(1, depth + 1):
            name = f"layer{s}.{b}"
            y = step(name, 2, step(name, 1, x[:, half:], half, True), half, False, groups=half)
            x = shuffle(torch.cat((x[:, :half], step(name, 3, y, half, True)), 1))
    x = net.norm("bn2", net.generated("code2", "conv2", x, channels[-1], 1)).relu()
    return net.linear("linear", x.mean((2, 3)), 10)


def backbone(
    net: Published,
    x: Tensor,
    layers: Sequence[int],
    channels: Sequence[int],
    kind: str = "bottleneck",
    *,
    prefix: str = "",
    strides: Sequence[int] = (1, 2, 2, 2),
    dilations: Sequence[Sequence[int]] = ((1,), (1,), (1,), (1,)),
) -> list[Tensor]:
    """The stages' outputs. `kind`: "bottleneck", "basic", or "first" for basic blocks with one generated convolution.

    `dilations` of each stage's blocks; the last one is that of all blocks after it.
    """
    x = net.norm(f"{prefix}bn1", net.conv(f"{prefix}conv1", x, 64, 7, stride=2)).relu()
    x, outputs = F.max_pool2d(x, 3, 2, 1), []
    for s, (depth, width) in enumerate(zip(layers, channels)):
        after = 4 * width if kind == "bottleneck" else width
        for b in range(depth):
            block, stride = f"{prefix}layer{s + 1}.{b}.", strides[s] if b == 0 else 1
            dilation = dilations[s][min(b, len(dilations[s]) - 1)]
            common: dict[str, Any] = {"owners": (prefix, block)}

            def norm(number: int, y: Tensor, block: str = block) -> Tensor:
                return net.norm(f"{block}bn{number}", y)

            if kind == "bottleneck":
                y = norm(1, net.conv(f"{block}conv1", x, width, 1)).relu()
                options = {"stride": stride, "dilation": dilation, "padding": dilation}
                y = norm(2, net.generated(f"{block}code2", f"{block}conv2", y, width, **common, **options)).relu()
                y = norm(3, net.conv(f"{block}conv3", y, after, 1))
            else:
                y = norm(1, net.generated(f"{block}code1", f"{block}conv1", x, width, **common, stride=stride)).relu()
                if kind == "basic":
                    y = norm(2, net.generated(f"{block}code2", f"{block}conv2", y, width, **common))
                else:
                    y = norm(2, net.conv(f"{block}conv2", y, width, 3))
            if stride != 1 or x.shape[1] != after:
                x = net.norm(f"{block}downsample.1", net.conv(f"{block}downsample.0", x, after, 1, stride=stride))
            x = (x + y).relu()
        outputs.append(x)
    return outputs


def imagenet(net: Published, x: Tensor, layers: Sequence[int], channels: Sequence[int], kind: str) -> Tensor:
    x = backbone(net, x, layers, channels, kind)[-1]
    return net.linear("fc", x.mean((2, 3)), 1000)


def deeplab(
    net: Published, x: Tensor, layers: Sequence[int], channels: Sequence[int], width: int, stride: int
) -> Tensor:
    """With an output stride of 16 or 8."""
    if stride == 16:
        strides, dilations, rates = (1, 2, 2, 1), ((1,), (1,), (1,), (2, 4, 8)), (6, 12, 18)
    else:
        strides, dilations, rates = (1, 2, 1, 1), ((1,), (1,), (2,), (4, 8, 16)), (12, 24, 36)
    low, *_, late = backbone(net, x, layers, channels, prefix="backbone.", strides=strides, dilations=dilations)
    maps = [net.norm("aspp.aspp1.bn", net.conv("aspp.aspp1.atrous_conv", late, width, 1)).relu()]
    for number, rate in enumerate(rates, 2):
        name = f"aspp.aspp{number}"
        options = {"owners": ("", "aspp.", f"{name}."), "dilation": rate, "padding": rate}
        if not net.code_size:
            del options["owners"]
        y = net.generated(f"{name}.code", f"{name}.atrous_conv", late, width, **options)
        maps.append(net.norm(f"{name}.bn", y).relu())
    pooled = net.conv("aspp.global_avg_pool.1", late.mean((2, 3), keepdim=True), width, 1)
    maps.append(net.norm("aspp.global_avg_pool.2", pooled).relu().expand_as(maps[0]))
    y = net.norm("aspp.bn1", net.conv("aspp.conv1", torch.cat(maps, 1), width, 1)).relu()
    low = net.norm("decoder.bn1", net.conv("decoder.conv1", low, 48, 1)).relu()
    y = F.interpolate(y, low.shape[2:], mode="bilinear", align_corners=True)
    y = net.conv("decoder.last_conv.0", torch.cat((y, low), 1), width, 3)
    y = net.conv("decoder.last_conv.4", net.norm("decoder.last_conv.1", y).relu(), width, 3)
    y = net.conv("decoder.last_conv.8", net.norm("decoder.last_conv.5", y).relu(), 21, 1, bias=True)
    return F.interpolate(y, x.shape[2:], mode="bilinear", align_corners=True)
