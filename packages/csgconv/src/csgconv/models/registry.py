"""How the entry points make a network and its generator, and what they tell timm about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg
from torch import nn

from .._common.checks import boolean
from ..checkpoints import from_original
from ..generator import SliceGenerator
from ..modules import generators
from .base import check_entries

Network = Callable[..., nn.Module]


def cfg(**kwargs: Any) -> dict:
    """timm's description of a network of the paper, for ImageNet."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "mit",
        "paper_ids": "arXiv:1906.04309",
        "paper_name": "Associative Convolutional Layers",
        "origin_url": "https://github.com/hamedomidvar/associativeconv",
        **kwargs,
    }


def cifar_cfg(**kwargs: Any) -> dict:
    """The same for CIFAR."""
    sizes: dict[str, Any] = {"num_classes": 10, "input_size": (3, 32, 32), "pool_size": (8, 8), "crop_pct": 1.0}
    pixels = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
    return cfg(**{**sizes, **pixels, "first_conv": "stem.0", "classifier": "head", **kwargs})


def with_generator(
    network: Network,
    *,
    code_size: int,
    slice_shape: Sequence[int],
    layout: str = "raster",
    binary: bool = False,
    init: str = "he",
    generated: bool = True,
    generator: str | PathLike[str] | Mapping[str, Any] | None = None,
    frozen: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """The network with a generator of its own, or without one; `csg_resnet20` says what the arguments are."""
    if not boolean("generated", generated):
        if generator is not None or frozen:
            raise ValueError("generated=False makes a network without a generator: leave out generator and frozen.")
        return network(generator=None, **kwargs)
    place = {key: kwargs.get(key) for key in ("device", "dtype")}
    options: dict[str, Any] = {"layout": layout, "binary": binary, "init": init, **place}
    model = network(generator=SliceGenerator(code_size, slice_shape, **options), **kwargs)  # type: ignore[arg-type]
    if generator is not None:
        from .. import load_generator

        load_generator(model, generator, freeze=True)
    if boolean("frozen", frozen):
        for own in generators(model):
            for name, parameter in own.named_parameters():
                parameter.requires_grad_(name == "codes")
    return model


def create(
    network: Network, name: str, pretrained: bool, *, feature_cfg: dict | None = None, **kwargs: Any
) -> nn.Module:
    """What timm makes of it.

    Raises:
        TypeError: an option that the network has not.
    """
    build: Any = partial(with_generator, network)
    about: dict[str, Any] = {"feature_cfg": feature_cfg, "pretrained_filter_fn": from_original}
    try:
        return build_model_with_cfg(build, name, pretrained, **about, **kwargs)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None or unknown[1] not in kwargs:
            raise
        option = f"{unknown[1]}={kwargs[unknown[1]]!r}"
        raise TypeError(f"{name} has no option {option}: help(csgconv.models.{name}) tells which it has.") from None


def create_staged(network: Network, name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    """The same of a `StagedNetwork`, whose features are its stages' outputs."""
    check_entries("layers", kwargs["layers"])
    features = {"flatten_sequential": True, "out_indices": tuple(range(len(kwargs["layers"])))}
    return create(network, name, pretrained, feature_cfg=features, **kwargs)
