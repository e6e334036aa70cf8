"""What mmsegmentation does to photographs with masks beyond flips and sizes, as transforms of torchvision's kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import adjust_hue

from leanconv.data.scenes import IGNORED

TRIES = 10


class Crop(v2.RandomCrop):
    """A square at random, of which no class fills `share` or more: up to `TRIES` times another is drawn.

    Beyond the image it is black, and nothing counts there. (mmsegmentation has the mean colour there, below and to the
    right; here the image may lie anywhere.)
    """

    def __init__(self, size: int, share: float = 1.0) -> None:
        super().__init__(size, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORED})
        self.share = share

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        params = super().make_params(flat_inputs)
        if self.share < 1:
            mask = next(each for each in flat_inputs if isinstance(each, tv_tensors.Mask))
            for _ in range(TRIES):
                if _largest_share(self.transform(mask, params)) < self.share:
                    break
                params = super().make_params(flat_inputs)
        return params


def _largest_share(mask: Tensor) -> float:
    counts = mask.as_subclass(Tensor).flatten().bincount(minlength=IGNORED + 1)[:IGNORED]
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


class Distort(v2.Transform):
    """Brightness, contrast, saturation and hue, each changed with probability 1/2; contrast before the colours or last.

    As in "SSD: Single Shot MultiBox Detector", Liu et al. 2016, in mmsegmentation's reading, where contrast is a
    factor on all levels. (That one rounds to whole levels after each change, here it is done once.)

    Args:
        brightness: levels of 255 added at most, either way.
        contrast, saturation: factors lie in 1 plus or minus these.
        hue: degrees at most, either way.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float) -> None:
        super().__init__()
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        amounts = (2 * torch.rand(4) - 1) * (torch.rand(4) < 0.5)
        brightness, contrast, saturation, hue = amounts.tolist()
        return {
            "brightness": self.brightness * brightness,
            "contrast": 1 + self.contrast * contrast,
            "saturation": 1 + self.saturation * saturation,
            "hue": self.hue * hue,
            "contrast_first": bool(torch.rand(()) < 0.5),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        x = (inpt.as_subclass(Tensor).float() + params["brightness"]).clamp(0, 255)
        if params["contrast_first"]:
            x = (x * params["contrast"]).clamp(0, 255)
        x = saturated(x, params["saturation"])
        if params["hue"]:
            x = adjust_hue(x / 255, params["hue"] / 360) * 255
        if not params["contrast_first"]:
            x = (x * params["contrast"]).clamp(0, 255)
        return tv_tensors.Image(x.round().to(inpt.dtype))


def saturated(x: Tensor, factor: float) -> Tensor:
    """Image (3, H, W) whose saturation in HSV, (max - min) / max, is multiplied, up to 1; hue and max stay."""
    if factor == 1:
        return x
    high, low = x.amax(0), x.amin(0)
    factors = (high / (high - low)).nan_to_num(nan=1.0, posinf=1.0).clamp_max(factor)
    return high - (high - x) * factors
