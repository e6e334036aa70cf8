"""Reading the weights that the paper's authors published.

Their files hold `{"model": ..., "model_ema": ...}` or a bare state dict. Names are this package's but for
`theta` (here the buffer `angle`), oriented weights of shape (C, 1, 1, K) (here (C, K)), and, in detection and
segmentation backbones, a `.conv` between an oriented layer's name and its tensors.

The published files could not be downloaded while this was written. The rules follow the authors' code, and the tests
hold them against checkpoints built by those rules with random values, not against a real file.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from ._common import weights


def load_original(
    path_or_state_dict: str | PathLike[str] | Mapping[str, Any], model: nn.Module, *, ema: bool = False
) -> nn.Module:
    """Load one of the authors' checkpoints into `model` and return it.

    Args:
        path_or_state_dict: A file, its content, or a bare state dict.
        model: The network of the same variant, size and kernel sizes. For a `features_only=True` network give the
            one it wraps, `network.model`.
        ema: Take the averaged weights, `model_ema`, instead of `model`.

    Raises:
        RuntimeError: Weights of another variant; names that the model misses or that the checkpoint has too many, and
            shapes that differ, all listed by name.
        ValueError: As :func:`read_original`.

    Example:
        >>> model = timm.create_model("convnext_tiny_1d")  # doctest: +SKIP
        >>> load_original("convnext_tiny_1d_best.pth", model, ema=True)  # doctest: +SKIP
    """
    state, own = read_original(path_or_state_dict, ema=ema), model.state_dict()
    found, wanted = variant_of(state), variant_of(own)
    if found and wanted and found != wanted:
        raise RuntimeError(
            f"The checkpoint looks like the variant {found!r}, but the model is {wanted!r}. "
            f"{_listed('Missing', own.keys() - state.keys())} {_listed('Unexpected', state.keys() - own.keys())}"
        )
    model.load_state_dict(state)
    return model


def read_original(
    path_or_state_dict: str | PathLike[str] | Mapping[str, Any], *, ema: bool = False
) -> dict[str, Tensor]:
    """The weights in one of the authors' checkpoints, under this package's names.

    Args:
        path_or_state_dict: A file (read with `weights_only=True`), its content, or a bare state dict.
        ema: Take the averaged weights, `model_ema`, instead of `model`; of leanconv's and timm's checkpoints theirs.

    Raises:
        ValueError: No checkpoint, no weights, or no averaged weights, in the file; or angles stored in half precision.
    """
    checkpoint = path_or_state_dict
    if not isinstance(checkpoint, Mapping):
        checkpoint = weights.read(checkpoint)
    return from_original(_weights(checkpoint, ema))


def from_original(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape a state dict from the authors' convention to this package's.

    A `module.` prefix is removed, and of a detector or segmenter only the `backbone.` part is kept. Weights that
    follow this package's names already pass unchanged.

    Raises:
        ValueError: Angles stored in half precision: the rounding moved them off the directions they stand for.
    """
    state = {name.removeprefix("module."): value for name, value in state_dict.items()}
    if any(name.startswith("backbone.") for name in state):
        state = {name.removeprefix("backbone."): v for name, v in state.items() if name.startswith("backbone.")}
    oriented = {name.removesuffix("theta") for name in state if name.endswith(".theta")}
    converted = {}
    for name, value in state.items():
        layer, leaf = name[: name.rfind(".") + 1], name[name.rfind(".") + 1 :]
        if layer in oriented:
            if layer.endswith(".conv."):
                layer = layer.removesuffix("conv.")
            if leaf == "theta":
                leaf, value = "angle", _angle(name, value)
            elif leaf == "weight":
                value = value.flatten(1)
        converted[layer + leaf] = value
    return converted


def variant_of(state: Mapping[str, Tensor]) -> str:
    """The variant of which these are the names; empty for other networks."""
    plus = any(name.endswith(".dwconv2.weight") for name in state)
    if not plus and not any(name.endswith(".dwconv.weight") for name in state):
        return ""
    oriented = any(name.endswith((".dwconv.angle", ".dwconv1.angle")) for name in state)
    return ("1d" if oriented else "2d") + ("pp" if plus else "")


def _listed(what: str, names: Set[str]) -> str:
    some = ", ".join(sorted(names)[:3])
    return f"{what}: {len(names)} names ({some}{', ...' if len(names) > 3 else ''})."


def _weights(checkpoint: Mapping[str, Any], ema: bool) -> Mapping[str, Tensor]:
    if ema:
        for key in ("model_ema", "ema", "state_dict_ema"):  # as the authors, leanconv and timm call them
            if isinstance(checkpoint.get(key), Mapping):
                return checkpoint[key]
        raise ValueError("ema=True, but the checkpoint holds no 'model_ema'; load it with ema=False")
    for key in ("model", "state_dict"):
        if isinstance(checkpoint.get(key), Mapping):
            return checkpoint[key]
    if not checkpoint or not all(isinstance(value, Tensor) for value in checkpoint.values()):
        raise ValueError(f"the checkpoint holds no weights under 'model' or 'state_dict', only {sorted(checkpoint)}")
    return checkpoint


def _angle(name: str, theta: Tensor) -> Tensor:  # (C,) or (C, 1) -> (C,)
    if theta.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} is {theta.dtype}, too coarse for the tap offsets; load a float32 checkpoint")
    return theta.flatten().float()
