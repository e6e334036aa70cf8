"""Reading the weights that the paper's authors publish.

Their script for ImageNet saves the weights as "state_dict", averaged ones as "state_dict_ema"; that for CIFAR and
sequences as "model". Points are `weight_coord` (here `coords`), `radius` of shape (G, N, 1) or (G, N, 1, 1) (here
(G, N)) and `weights` (here `weight`); a buffer beside them tells how many taps the kernel had.

The published files could not be downloaded while this was written. The rules follow a description of the authors'
code, and the tests hold them against checkpoints built by those rules with random values, not against a real file.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from itertools import groupby
from os import PathLike
from typing import Any

from torch import Tensor, nn

from ._common import weights
from .points import PointKernel

_POINTS = {"weight_coord": "coords", "radius": "radius", "weights": "weight"}
_RULES = (
    # ImageNet.
    (r"(stages\.\d+\.blocks\.\d+)\.pre(?:lkb|ffn)_bn\.(\w+)", r"\1.pw1.pre_norm.\2"),
    (r"(stages\.\d+\.blocks\.\d+)\.large_kernel\.smp\.conv\.(\w+)", r"\1.large.smp.\2"),
    (r"(stages\.\d+\.blocks\.\d+)\.large_kernel\.smp\.bn\.(\w+)", r"\1.large.norm.\2"),
    (r"(stages\.\d+\.blocks\.\d+)\.large_kernel\.small_conv\.conv\.(\w+)", r"\1.large.small.\2"),
    (r"(stages\.\d+\.blocks\.\d+)\.large_kernel\.small_conv\.bn\.(\w+)", r"\1.large.small_norm.\2"),
    (r"((?:stages|stem)\..+)\.bn\.(\w+)", r"\1.norm.\2"),
    # CIFAR and sequences, behind the name of a block.
    (r"(.*)cconv([12])\.(?:Kernel\.)?(\w+)", r"\1conv\2.smp.\3"),
    (r"(.*)cconv([12])s\.(\w+)", r"\1conv\2.small.\3"),
    (r"(.*)norm([12])\.(\w+)", r"\1conv\2.norm.\3"),
    (r"(.*)norm([12])s\.(\w+)", r"\1conv\2.small_norm.\3"),
    (r"(.*)shortcut\.0\.(\w+)", r"\1shortcut.\2"),
    (r"(?:finallyr|out_layer)\.(\w+)", r"head.\1"),
)


def load_original(
    path_or_state_dict: str | PathLike[str] | Mapping[str, Any], model: nn.Module, *, ema: bool = False
) -> nn.Module:
    """Load one of the authors' checkpoints into `model` and return it.

    The model may have kernels of other sizes with as many points: these are resampled, see :func:`from_original`.

    Args:
        path_or_state_dict: a file, its content, or a bare state dict; one saved from `smpconv.models` too.
        model: the network of the same depth, width, points and classes.
        ema: take the averaged weights, `state_dict_ema`, instead of `state_dict`.

    Raises:
        RuntimeError: a network of other layers; names that the model misses or that the checkpoint has too many, and
            shapes that differ, all listed by name.
        ValueError: as :func:`read_original`.

    Example:
        >>> model = timm.create_model("smp_tiny")  # doctest: +SKIP
        >>> load_original("smpconv_t.pth.tar", model, ema=True)  # doctest: +SKIP
    """
    state = from_original(read_original(path_or_state_dict, ema=ema), model)
    found, wanted = _describe(state), _describe(model.state_dict())
    if found and wanted and found != wanted:
        raise RuntimeError(f"The checkpoint holds {found}, but the model has {wanted}.")
    model.load_state_dict(state)
    return model


def read_original(
    path_or_state_dict: str | PathLike[str] | Mapping[str, Any], *, ema: bool = False
) -> dict[str, Tensor]:
    """The weights in one of the authors' checkpoints, under their names.

    Args:
        path_or_state_dict: a file (read with `weights_only=True`), its content, or a bare state dict.
        ema: take the averaged weights, `state_dict_ema`, instead of `state_dict`.

    Raises:
        ValueError: no checkpoint, no weights, or no averaged weights, in the file.
    """
    checkpoint = path_or_state_dict
    if not isinstance(checkpoint, Mapping):
        checkpoint = weights.read(checkpoint)
    if ema:
        if not isinstance(checkpoint.get("state_dict_ema"), Mapping):
            raise ValueError("ema=True, but the checkpoint holds no 'state_dict_ema'; load it with ema=False")
        checkpoint = checkpoint["state_dict_ema"]
    for key in ("state_dict", "model"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    if not checkpoint or not all(isinstance(value, Tensor) for value in checkpoint.values()):
        raise ValueError(f"the checkpoint holds no weights under 'state_dict' or 'model', only {sorted(checkpoint)}")
    return {name.removeprefix("module."): value for name, value in checkpoint.items()}


def from_original(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename and reshape the authors' weights to those of `model`; ones under this package's names pass unchanged.

    Where the checkpoint tells that a kernel had another size than the model's, its points are resampled: kernels for
    images are stretched and keep their sum, causal ones are extended to older taps or cut, see `SMPConv2d.resample`
    and `SMPConv1d.resample`.
    """
    state: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    blocks = _blocks(model)
    for name, value in state_dict.items():
        name = _renamed(name, blocks)
        layer, _, leaf = name.rpartition(".")
        if leaf == "kernel_coord":  # (1, 2, K, K)
            sizes[layer] = value.shape[-1]
        elif leaf == "train_length":  # 0 before the first forward pass
            sizes[layer] = int(value.flatten()[0])
        elif layer.endswith(".smp"):
            leaf = _POINTS.get(leaf, leaf)
            state[f"{layer}.{leaf}"] = value.flatten(1) if leaf == "radius" else value
        else:
            state[name] = value.flatten(1) if name == "head.weight" else value
    for layer, module in model.named_modules():
        if isinstance(module, PointKernel) and sizes.get(layer):
            size = (sizes[layer],) * len(module.kernel_size)
            points = {leaf: state.get(f"{layer}.{leaf}") for leaf in module.state_dict()}
            if size != module.kernel_size and _fit(module, points):
                state |= {f"{layer}.{leaf}": value for leaf, value in _resampled(module, size, points).items()}
    return state


def _blocks(model: nn.Module) -> list[str]:
    """The names of the blocks, which the authors count through."""
    found = (re.match(r"((?:stages\.\d+\.)?blocks\.\d+)\.", name) for name in model.state_dict())
    return list(dict.fromkeys(match[1] for match in found if match))


def _renamed(name: str, blocks: list[str]) -> str:
    transition = re.fullmatch(r"transitions\.(\d+)\.(.+)", name)
    if transition:
        name = f"stages.{int(transition[1]) + 1}.downsample.{transition[2]}"
    block = re.fullmatch(r"(?:backbone|blocks)\.(\d+)\.((?:cconv|norm|shortcut).+)", name)
    if block and int(block[1]) < len(blocks):
        name = f"{blocks[int(block[1])]}.{block[2]}"
    for pattern, ours in _RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return re.sub(r"^conv1\.", "stem.0.", match.expand(ours))
    return name


def _fit(module: PointKernel, points: Mapping[str, Tensor | None]) -> bool:
    return all(getattr(points[leaf], "shape", None) == own.shape for leaf, own in module.state_dict().items())


def _resampled(module: PointKernel, size: tuple[int, ...], points: Mapping[str, Any]) -> dict[str, Tensor]:
    """`points` of a kernel of `size`, as `module`, which has another, takes them."""
    twin: Any = copy.deepcopy(module)
    twin.kernel_size = size
    twin.load_state_dict(points)
    twin.resample(module.kernel_size if len(size) == 2 else module.kernel_size[0])
    return twin.state_dict()


def _describe(state: Mapping[str, Tensor]) -> str:
    """The layers of points in words; empty where there are none."""
    shapes = [value.shape for name, value in state.items() if name.endswith(".smp.weight")]
    runs = groupby((shape[1] if shape[0] == 1 else shape[0], shape[2]) for shape in shapes)
    layers = [f"{len(list(run))} x {channels} channels of {points} points" for (channels, points), run in runs]
    return f"layers of {', '.join(layers)}" if layers else ""
