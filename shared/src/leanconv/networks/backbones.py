"""Any network that timm knows as a backbone: its maps, from fine to coarse, and weights that find their places."""

from __future__ import annotations

import re
from typing import Any

import timm
from torch import Tensor, nn

from leanconv import models

MAPS = 4  # those of strides 4 to 32, where a network has one of stride 2 as well
_NORM = re.compile(r"norm\d+\.(weight|bias)")


class Features(nn.Module):
    """A network's maps: images (N, in_chans, H, W) -> list of (N, channels[i], ~H / reductions[i], ~W / reductions[i]).

    Weights of the network itself, or of timm's own ``features_only`` form of it, can be loaded as they are: a name is
    found whether or not it begins with "model." and whether timm joins its parts with dots or underscores. What they
    have beyond the maps, such as a classifier, is unexpected, as anywhere in torch.

    Attributes:
        channels, reductions: of each map.
    """

    def __init__(self, maps: Any) -> None:
        super().__init__()
        getter = hasattr(getattr(maps, "model", None), "forward_intermediates")  # timm's FeatureGetterNet
        self.model: Any = maps.model if getter else maps
        self.indices = list(maps.out_indices)[-MAPS:] if getter else None
        self.channels: list[int] = maps.feature_info.channels()[-MAPS:]
        self.reductions: list[int] = maps.feature_info.reduction()[-MAPS:]
        self.channels_last = not getter and getattr(maps, "output_fmt", "NCHW") == "NHWC"
        self.register_load_state_dict_pre_hook(_rename)

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.indices is not None:
            return self.model.forward_intermediates(x, indices=self.indices, output_fmt="NCHW", intermediates_only=True)
        maps = list(self.model(x))[-MAPS:]
        return [each.permute(0, 3, 1, 2) for each in maps] if self.channels_last else maps

    def starts_fresh(self) -> set[str]:
        """Weights that those of a classifier lack: the norms on the maps."""
        names = dict(self.model.named_parameters())
        return {f"model.{name}" for name in names if _NORM.fullmatch(name)}


def features(name: str, in_chans: int = 3, drop_path_rate: float = 0.0, **kwargs: Any) -> Features:
    """The maps of the network of this name, at most its last four; dwoconv1d's ConvNeXts norm each of them.

    Args:
        kwargs: for the network's constructor; `drop_path_rate` is given to it unless it is 0.

    Raises:
        ValueError: no such network, or it has no maps to give out.
        TypeError: the network does not take these arguments.

    Example:
        >>> features("resnet18").channels
        [64, 128, 256, 512]
    """
    models.check(name)
    if models.package(name) == "dwoconv1d":
        kwargs = {"out_norms": True, **kwargs}
    try:
        # timm drops arguments that are None
        maps: Any = timm.create_model(
            name, features_only=True, in_chans=in_chans, drop_path_rate=drop_path_rate or None, **kwargs
        )
    except (AssertionError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be a backbone: it has no maps to give out ({error})") from error
    return Features(maps)


def _rename(module: Features, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    own = {_plain(name): name for name in nn.Module.state_dict(module)}
    for key in [key for key in state if key.startswith(prefix)]:
        name = own.get(_plain(key.removeprefix(prefix)))
        if name is not None:
            state[prefix + name] = state.pop(key)


def _plain(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")
