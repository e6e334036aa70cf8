"""A generator that was trained in one network, in another one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from . import packing
from ._common import weights
from .bits import pack, unpack
from .checkpoints import read_original
from .generator import SliceGenerator
from .modules import registered_generators

_OURS = re.compile(r"(?:(.*)\.)?generator\.(weight|bits|bias|codes)")
_ALONE = re.compile(r"()(weight|bits|bias|codes)")  # of a generator's own state dict
_PUBLISHED = re.compile(r"(?:.*\.)?C[SL]G\.weight")


def load_generator(
    model: nn.Module,
    path_or_state_dict: str | PathLike[str] | Mapping[str, Any],
    freeze: bool = True,
    *,
    match_scale: bool = False,
) -> nn.Module:
    """Puts a generator that was trained in another network into `model`, and by default freezes it.

    W is replaced, and b, by 0 where the file has none; the codes stay. (The authors' code for this selects nothing from
    the file and then freezes what was drawn at random.) A model and a file of several generators have as many, in the
    same order; a single one in the file goes into all of the model's.

    Args:
        model: a network with generated layers, with slices of the same size and codes of the same length.
        path_or_state_dict: a file or its content: a state dict of any network with a generator, of a `SliceGenerator`
            itself, what `save_compact` wrote, or one of the authors' checkpoints.
        freeze: the generator does not learn any more, though its codes may; False leaves that as it is.
        match_scale: multiplies the codes so that kernels keep their scale on average, where W has another one. For
            codes as they were drawn for `init="he"`.

    Returns:
        the model.

    Raises:
        TypeError: `model` is no module.
        OSError: there is no such file.
        ValueError: no generator in `model` or in the file, one of another size or kind, or another number of them, one
            in `model` that is parametrized or on the meta device, or `match_scale` and a W without scale; the model is
            then unchanged.

    Example:
        >>> load_generator(timm.create_model("csg_resnet56"), "csg_resnet20.pt")  # doctest: +SKIP
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, but it is a {type(model).__name__}.")
    owners, found = registered_generators(model), _generators(path_or_state_dict)
    if not owners:
        raise ValueError("model has no CSGConv2d, and so no generator to replace.")
    if len(found) != len(owners):
        found = _distinct(found)
    if any(is_parametrized(owner) for owner in owners):
        raise ValueError("model has a generator that is parametrized: remove the parametrizations first.")
    if any(owner.weight.is_meta for owner in owners):
        raise ValueError("model is on the meta device, where nothing can be loaded: model.to_empty(device=...) first.")
    if len(found) not in (1, len(owners)):
        raise ValueError(f"The checkpoint holds {len(found)} generators, but the model has {len(owners)}.")
    pairs = [(owner, _fitted(owner, state)) for owner, state in zip(owners, found * len(owners))]
    if match_scale and not all(0 < _norm(weight) < inf for _, (weight, _) in pairs):
        raise ValueError("match_scale=True, but the checkpoint's generator has no scale: it is zero, or not finite.")
    for owner, (weight, bias) in pairs:  # only now, so that one that does not fit leaves all as it was
        _replace(owner, weight, bias, match_scale)
        if freeze:
            for parameter in (owner.weight, owner.bias):
                if isinstance(parameter, nn.Parameter):
                    parameter.requires_grad_(False)
    return model


def _generators(path_or_state_dict: str | PathLike[str] | Mapping[str, Any]) -> list[dict[str, Tensor]]:
    """What of each generator a file holds, by name."""
    content = path_or_state_dict
    if not isinstance(content, Mapping):
        content = weights.read(content)
    state = packing.unpack(content)[1] if packing.is_packed(content) else read_original(content)
    found: dict[str, dict[str, Tensor]] = {}
    published: list[Tensor] = []
    for name, value in state.items():
        if match := _OURS.fullmatch(name) or _ALONE.fullmatch(name):
            found.setdefault(match[1], {})[match[2]] = value
        elif (
            _PUBLISHED.fullmatch(name)
            and _is_matrix(value)
            and not any(torch.equal(value, other) for other in published)
        ):
            # They have the same in every block. That of DeepLab itself may come before that of its backbone.
            published.insert(0 if name.startswith("backbone.") else len(published), value)
    ours = [own for own in found.values() if _whole(own)]
    if not ours and not published:
        raise ValueError(
            "The checkpoint holds no generator: no 'generator.weight' or 'generator.bits' beside its codes."
        )
    return ours + [{"weight": weight} for weight in published]


def _distinct(found: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """A layer that a network has under several names has its generator under several, too."""
    distinct: list[dict[str, Tensor]] = []
    for state in found:
        if not any(state.keys() == one.keys() and all(torch.equal(state[n], one[n]) for n in one) for one in distinct):
            distinct.append(state)
    return distinct


def _whole(state: Mapping[str, Tensor]) -> bool:
    """Whether these are matrices W, or its bits, and C."""
    codes, weight = state.get("codes"), state.get("weight", state.get("bits"))
    if codes is None or weight is None or codes.dim() != 2 or not codes.shape[1]:
        return False
    return _is_matrix(weight) if "weight" in state else weight.dim() == 1 and weight.dtype == torch.uint8


def _is_matrix(t: Tensor) -> bool:
    return t.dim() == 2 and t.is_floating_point() and t.layout == torch.strided


def _norm(t: Tensor) -> float:
    return t.double().norm().item()


def _fitted(owner: SliceGenerator, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """W and b as `owner` takes them."""
    (rows, size), bias = owner.weight.shape, state.get("bias")
    weight, length = state.get("weight"), state["codes"].shape[1] if "codes" in state else 0
    if weight is None:
        bits = state["bits"]
        count = rows * size if len(bits) == -(-rows * size // 8) else 8 * len(bits) // length * length
        weight = torch.where(unpack(bits, count), -0.5, 0.5).view(-1, length)
    if weight.shape != (rows, size):
        made, given = weight.shape
        raise ValueError(
            f"The checkpoint's generator makes slices of {made} numbers from codes of {given}, but the model's makes "
            f"slices of {rows} numbers from codes of {size}."
        )
    if owner.binary and not bool((weight.abs() == 0.5).all()):
        raise ValueError("The checkpoint's generator is not binary, but the model's is: build it with binary=False.")
    if bias is not None and owner.bias is None:
        raise ValueError("The checkpoint's generator has a bias, but the model's has none: build it with bias=True.")
    if bias is not None and bias.shape != (rows,):
        raise ValueError(f"The checkpoint's generator has a bias of shape {tuple(bias.shape)}, but slices of {rows}.")
    return weight, bias


@torch.no_grad()
def _replace(owner: Any, weight: Tensor, bias: Tensor | None, match_scale: bool) -> None:
    if match_scale:
        owner.codes.mul_(_norm(owner.weight) / _norm(weight))
    owner.weight.copy_(weight)
    if owner.binary:
        owner.bits.copy_(pack(weight < 0))
    if owner.bias is not None:
        owner.bias.zero_() if bias is None else owner.bias.copy_(bias)
    owner.invalidate()
