"""Networks by name: those of the installed packages, our own of dense prediction, and timm's."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from fnmatch import fnmatchcase
from typing import Any

import timm
from torch import nn

PACKAGES = ("dwoconv1d", "pathconv", "pix", "smpconv", "csgconv")
OWN = "leanconv.networks"


@functools.cache
def _register() -> None:
    """Import the networks of the packages that are installed, and ours; importing registers them with timm."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) and importlib.util.find_spec(f"{package}.models"):
            importlib.import_module(f"{package}.models")
    importlib.import_module(OWN)


def names(pattern: str = "*", timm_too: bool = False) -> list[str]:
    """Names that match a shell pattern: the packages' networks and ours, with `timm_too` also those of timm itself."""
    _register()
    found = (name for name in timm.list_models() if fnmatchcase(name, pattern))
    return [name for name in found if timm_too or package(name) in (*PACKAGES, "leanconv")]


def package(name: str) -> str:
    """The package that brings this network."""
    return timm.model_entrypoint(name).__module__.split(".")[0]


def check(name: str) -> None:
    """Raise a ValueError unless a network has this name."""
    _register()
    if not timm.is_model(name):
        raise ValueError(
            f"no network is called {name!r}; `leanconv models` lists them, `leanconv models --timm` timm's too"
        )


def build(name: str, **options: Any) -> nn.Module:
    """The network of this name with fresh weights; `options` go to its constructor (`num_classes`, `in_chans`, ...).

    Raises:
        ValueError: no such network.

    Example:
        >>> build("convnext_tiny_1d", num_classes=10).num_classes
        10
    """
    check(name)
    return timm.create_model(name, **options)
