"""Reading the weights that the paper's authors publish.

Their training scripts save the weights as "net", that for segmentation as "state_dict", all of them with the prefix
"module." where they ran on a GPU. Each layer has codes of its own, `code`, `code1` or `code2`; the generator, `CSG`, in
earlier files `CLG`, is there once for every block that uses it. Some files are in half precision.

The published files could not be downloaded while this was written. The rules follow the authors' code and a description
of their files, and the tests hold them against checkpoints built by those rules with random values, not against a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from ._common import weights
from .generator import SliceGenerator, pack
from .modules import CSGConv2d

_GENERATOR = re.compile(r"(?:module\.)?(?:(.*)\.)?C[SL]G\.weight")
_CODES = (r"(.*)\.code([12])", r"\1.conv\2.codes")
_CLASSIFIER = (r"(?:linear|classifier)\.(\w+)", r"head.\1")
# By a name that tells the network, what its names become: {2} is 1, conv in brackets 0 and bn 1, [2] the third block.
_RULES: dict[str, tuple[tuple[str, str], ...]] = {
    "conv_1_3x3.weight": (  # ResNet for CIFAR
        (r"(conv|bn)_1(?:_3x3)?\.(\w+)", r"stem.{\1}.\2"),
        (r"stage_(\d)\.(\d+)\.code", r"stages.{\1}.\2.conv1.codes"),
        (r"stage_(\d)\.(\d+)\.code2", r"stages.{\1}.\2.conv2.codes"),
        (r"stage_(\d)\.(\d+)\.(conv|bn)_a\.(\w+)", r"stages.{\1}.\2.\g<3>1.\4"),
        (r"stage_(\d)\.(\d+)\.(conv|bn)_b\.(\w+)", r"stages.{\1}.\2.\g<3>2.\4"),
        _CLASSIFIER,
    ),
    "dense1.0.conv1.weight": (
        (r"conv1\.(\w+)", r"stem.0.\1"),
        (r"dense(\d)\.(\d+)\.code2", r"stages.{\1}.\2.conv2.codes"),
        (r"dense(\d)\.(.+)", r"stages.{\1}.\2"),
        (r"trans3\.bn\.(\w+)", r"neck.0.\1"),
        (r"trans(\d)\.conv\.(\w+)", r"stages.\1.transition.2.\2"),
        (r"trans(\d)\.bn\.(\w+)", r"stages.\1.transition.0.\2"),
        _CLASSIFIER,
    ),
    "layers.0.conv2.weight": (  # MobileNetV2
        (r"(conv|bn)1\.(\w+)", r"stem.{\1}.\2"),
        (r"(conv|bn)2\.(\w+)", r"neck.{\1}.\2"),
        (r"layers\.(\d+)\.code1", r"[\1].conv1.codes"),
        (r"layers\.(\d+)\.(.+)", r"[\1].\2"),
        _CLASSIFIER,
    ),
    "layer1.0.conv5.weight": (  # ShuffleNetV2
        (r"(conv|bn)1\.(\w+)", r"stem.{\1}.\2"),
        (r"(conv|bn)2\.(\w+)", r"neck.{\1}.\2"),
        (r"code2", r"neck.0.codes"),
        (r"layer(\d)\.(.+)", r"stages.{\1}.\2"),
        _CLASSIFIER,
    ),
    "aspp.aspp1.atrous_conv.weight": (  # DeepLab
        (r"aspp\.aspp(\d)\.code", r"classifier.aspp.convs.{\1}.0.codes"),
        (r"aspp\.aspp(\d)\.(?:atrous_)?(conv|bn)\.(\w+)", r"classifier.aspp.convs.{\1}.{\2}.\3"),
        (r"aspp\.global_avg_pool\.(\d)\.(\w+)", r"classifier.aspp.convs.4.\1.\2"),
        (r"aspp\.(conv|bn)1\.(\w+)", r"classifier.aspp.project.{\1}.\2"),
        (r"decoder\.(conv|bn)1\.(\w+)", r"classifier.low.{\1}.\2"),
        (r"decoder\.last_conv\.(\d)\.(\w+)", r"classifier.layers.\1.\2"),
        _CODES,
    ),
    "layer1.0.bn1.weight": (_CODES,),  # ResNet for ImageNet
}


def load_original(path_or_state_dict: str | PathLike[str] | Mapping[str, Any], model: nn.Module) -> nn.Module:
    """Load one of the authors' checkpoints into `model` and return it.

    All codes are kept, those of slices that do not reach a kernel too. Half precision becomes the model's.

    Args:
        path_or_state_dict: a file, its content, or a bare state dict; one saved from `csgconv.models` too.
        model: the network of the same depth, width, classes, slices and codes, with layout="raster".

    Raises:
        TypeError: `model` is no module.
        OSError: there is no such file.
        RuntimeError: names that the model misses or that the checkpoint has too many, and shapes that differ, all
            listed by name.
        ValueError: as :func:`read_original` and :func:`from_original`.

    Example:
        >>> model = timm.create_model("csg_resnet56")  # doctest: +SKIP
        >>> load_original("RN56_1212-72/ckptt7.t7", model)  # doctest: +SKIP
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, and comes second, but it is a {type(model).__name__}.")
    model.load_state_dict(from_original(read_original(path_or_state_dict), model))
    return model


def read_original(path_or_state_dict: str | PathLike[str] | Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in one of the authors' checkpoints, under their names.

    Args:
        path_or_state_dict: a file (read with `weights_only=True`), its content, or a bare state dict.

    Raises:
        ValueError: no checkpoint, or no weights in the file.
    """
    checkpoint = path_or_state_dict
    if not isinstance(checkpoint, Mapping):
        checkpoint = weights.read(checkpoint)
    for key in ("net", "state_dict", "model"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    if not checkpoint or not all(isinstance(n, str) and isinstance(value, Tensor) for n, value in checkpoint.items()):
        raise ValueError(
            f"the checkpoint holds no weights under 'net', 'state_dict' or 'model', only {sorted(map(str, checkpoint))}"
        )
    return {name.removeprefix("module."): value for name, value in checkpoint.items()}


def from_original(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Rename the authors' weights to those of `model` and gather its generators' codes; others pass unchanged.

    Raises:
        ValueError: a model without generated convolutions, or in which codes mean something else; a generator of
            another size, or whose copies differ.
    """
    given = read_original(state_dict)
    rules = next((rules for telling, rules in _RULES.items() if telling in given), None)
    if rules is None:
        return given
    blocks = [name for name, _ in model.named_modules() if re.fullmatch(r"stages\.\d+\.\d+", name)]
    generators: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, value in given.items():
        match = _GENERATOR.fullmatch(name)
        if match is None:
            state[_renamed(name, rules, blocks)] = value
            continue
        part = "backbone" if "aspp.conv1.weight" in given and (match[1] or "").startswith("backbone") else ""
        if not torch.equal(generators.setdefault(part, value), value):
            raise ValueError(f"the checkpoint's copies of the generator differ: {name} is not what came before it.")
    return _gathered(state, generators, model) if generators else state


def _renamed(name: str, rules: Sequence[tuple[str, str]], blocks: list[str]) -> str:
    for pattern, ours in rules:
        match = re.fullmatch(pattern, name)
        if match:
            name = re.sub(r"\{(\d)\}", lambda stage: str(int(stage[1]) - 1), match.expand(ours))
            name = name.replace("{conv}", "0").replace("{bn}", "1")
            return re.sub(r"^\[(\d+)\]", lambda block: (blocks + [block[0]])[min(int(block[1]), len(blocks))], name)
    return name


def _gathered(state: dict[str, Tensor], weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`state` with each generator's weight and codes in the place of its layers' codes."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, CSGConv2d)}
    if not layers:
        raise ValueError(
            "the checkpoint holds generated convolutions, but the model has none: build it with generated=True."
        )
    for where, generator in model.named_modules():
        if isinstance(generator, SliceGenerator):
            own = {name: layer for name, layer in layers.items() if layer.generator is generator}
            parts = {"backbone" if "backbone" in weights and name.startswith("backbone.") else "" for name in own}
            if len(parts) > 1:
                raise ValueError(
                    "the checkpoint holds two generators, but the model has one: build it with generators=2."
                )
            weight = weights[parts.pop()]
            if weight.shape != generator.weight.shape:
                (p, d), (own_p, own_d) = weight.shape, generator.weight.shape
                raise ValueError(
                    f"the checkpoint's generator makes slices of {p} numbers from {d}, but the model's makes {own_p} "
                    f"from {own_d}: build it with code_size={d} and a slice_shape of {p}."
                )
            state |= {f"{where}.{leaf}": value for leaf, value in _stored(generator, weight).items()}
            codes = _codes(generator, own, state)
            if codes is not None:
                state[f"{where}.codes"] = codes
    return state


def _stored(generator: SliceGenerator, weight: Tensor) -> dict[str, Tensor]:
    """W as the generator keeps it."""
    if not generator.binary:
        return {"weight": weight}
    if not (weight.abs() == 0.5).all():
        raise ValueError("the checkpoint's generator is not binary, but the model's is: build it with binary=False.")
    return {"bits": pack(weight < 0)}


def _codes(generator: SliceGenerator, layers: Mapping[str, CSGConv2d], state: dict[str, Tensor]) -> Tensor | None:
    """The codes of all layers, taken from `state`; None where some are not there or of another number."""
    taken: dict[int, Tensor] = {}
    for name, layer in layers.items():
        if layer.layout != "raster":
            raise ValueError(f'the checkpoint holds codes of layout "raster", but {name} has "{layer.layout}".')
        codes = state.get(f"{name}.codes")
        if codes is None or len(codes) != generator.layers[layer.index].rows:
            return None
        taken[layer.index] = codes
    matrix = next(iter(taken.values())).new_empty(generator.codes.shape)
    for name, layer in layers.items():
        codes, (live, dead) = state.pop(f"{name}.codes"), generator.rows(layer.index)
        matrix[live.start : live.stop], matrix[dead.start : dead.stop] = codes[: len(live)], codes[len(live) :]
    return matrix
