"""Reading the weights that the paper's authors publish, and those of the ResNet that a network was made from.

Their training script saves the weights as "model", averaged ones as "model_ema", beside optimizer, epoch, scaler and
the parsed command line. Names and shapes are those of `pix.models.PixResNet`.

The published files could not be downloaded while this was written. The rules follow a description of the authors'
code, and the tests hold them against checkpoints built by those rules with random values, not against a real file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

from torch import Tensor, nn

from ._common import weights

_BLOCK = {
    "conv1": "conv_sqz",
    "conv2": "conv_ce",
    "bn2": "bn_ce",
    "conv3": "conv_exp",
    "bn3": "bn_exp",
    "downsample.0": "conv_proj",
    "downsample.1": "bn_proj",
    "se": "se",
}


def load_original(
    path_or_state_dict: str | PathLike[str] | Mapping[str, Any], model: nn.Module, *, ema: bool = False
) -> nn.Module:
    """Load one of the authors' checkpoints into `model` and return it.

    Args:
        path_or_state_dict: a file, its content, or a bare state dict; one saved from `pix.models` too.
        model: the network of the same depth, width and classes.
        ema: take the averaged weights, `model_ema`, instead of `model`.

    Raises:
        RuntimeError: a network of other blocks or channels; names that the model misses or that the checkpoint has too
            many, and shapes that differ, all listed by name.
        ValueError: as :func:`read_original`; the weights of a ResNet, which :func:`from_resnet` takes.

    Example:
        >>> model = timm.create_model("pix_resnet50")  # doctest: +SKIP
        >>> load_original("checkpoint-best.pth", model)  # doctest: +SKIP
    """
    state = read_original(path_or_state_dict, ema=ema)
    found, wanted = _describe(state), _describe(model.state_dict())
    if wanted and not found and "layer1.0.conv3.weight" in state:
        raise ValueError(
            "the checkpoint holds a ResNet, not a PixResNet: model.load_state_dict(pix.checkpoints.from_resnet(state)) "
            "starts from its weights."
        )
    if found and wanted and found != wanted:
        raise RuntimeError(f"The checkpoint holds {found}, but the model has {wanted}.")
    model.load_state_dict(state)
    return model


def read_original(
    path_or_state_dict: str | PathLike[str] | Mapping[str, Any], *, ema: bool = False
) -> dict[str, Tensor]:
    """The weights in one of the authors' checkpoints.

    Args:
        path_or_state_dict: a file (read with `weights_only=True`), its content, or a bare state dict.
        ema: take the averaged weights, `model_ema`, instead of `model`.

    Raises:
        ValueError: no checkpoint, no weights, or no averaged weights, in the file.
    """
    checkpoint = path_or_state_dict
    if not isinstance(checkpoint, Mapping):
        checkpoint = weights.read(checkpoint)
    if ema:
        if not isinstance(checkpoint.get("model_ema"), Mapping):
            raise ValueError("ema=True, but the checkpoint holds no 'model_ema'; load it with ema=False")
        checkpoint = checkpoint["model_ema"]
    for key in ("model", "state_dict"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    if not checkpoint or not all(isinstance(value, Tensor) for value in checkpoint.values()):
        raise ValueError(f"the checkpoint holds no weights under 'model' or 'state_dict', only {sorted(checkpoint)}")
    return {name.removeprefix("module."): value for name, value in checkpoint.items()}


def from_resnet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a bottleneck ResNet of timm or torchvision, under the names of `PixResNet`, as a warm start.

    The squeezing convolutions become the blends of PiX; their norms have no counterpart and are left out. `PixResNet`
    computes something else than the ResNet did, so it has to be trained: the same as `pix.convert` of that ResNet.

    Raises:
        ValueError: names of another network, such as a ResNet without bottlenecks.

    Example:
        >>> resnet = timm.create_model("resnet50", pretrained=True)  # doctest: +SKIP
        >>> model = timm.create_model("pix_resnet50")  # doctest: +SKIP
        >>> model.load_state_dict(from_resnet(resnet.state_dict()))  # doctest: +SKIP
    """
    converted, foreign = {}, []
    for name, value in state_dict.items():
        name = name.removeprefix("module.")
        inner = re.fullmatch(r"layer(\d+)\.(\d+)\.((?:downsample\.\d|[a-z]+\d?))\.(.+)", name)
        if inner and inner[3] == "bn1":
            continue
        if inner and inner[3] in _BLOCK:
            name = f"layer{inner[1]}.blocks.{inner[2]}.{_BLOCK[inner[3]]}.{inner[4]}"
        elif name.startswith(("conv1.", "bn1.")):
            name = name.replace("1.", "_stem.", 1)
        elif name.startswith("fc."):
            name = name.replace("fc.", "classifier.", 1)
            value = value[:, :, None, None] if value.dim() == 2 else value
        else:
            foreign.append(name)
        converted[name] = value
    if foreign:
        raise ValueError(f"state_dict is no ResNet's: {len(foreign)} names such as {', '.join(foreign[:3])}.")
    if not any(name.endswith(".conv_exp.weight") for name in converted):
        raise ValueError("state_dict holds no bottlenecks: take that of a ResNet-50, 101 or 152.")
    return converted


def _describe(state: Mapping[str, Tensor]) -> str:
    """Blocks and channels in words; empty for other networks."""
    blocks = [name.split(".") for name in state if re.fullmatch(r"layer\d+\.blocks\.\d+\.conv_exp\.weight", name)]
    stages = sorted({stage for stage, *_ in blocks}, key=lambda stage: int(stage.removeprefix("layer")))
    depths = [sum(stage == block[0] for block in blocks) for stage in stages]
    shapes = [state[f"{stage}.blocks.0.conv_exp.weight"].shape for stage in stages]
    if not blocks:
        return ""
    return f"{depths} blocks of {[s[0] for s in shapes]} channels squeezed to {[s[1] for s in shapes]}"
