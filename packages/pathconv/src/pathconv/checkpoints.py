"""Reading the weights that the paper's authors publish, and moving weights to images of another size.

Their training script saves the weights as "model" beside optimizer, schedule and arguments. Names and shapes are those
of `pathconv.models`.

The authors have published no weights so far. The rules follow their code, and the tests hold them against checkpoints
built by those rules with random values, not against a real file.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._common import weights
from .traversal import tables_of

_PATHS, _EMBEDDING = "pathSampling.paths", "posEmbedding"


def load_original(path_or_state_dict: str | PathLike[str] | Mapping[str, Any], model: nn.Module) -> nn.Module:
    """Load one of the authors' checkpoints into `model` and return it.

    Where the model is made for images of another size, along as many paths, the position embedding is resampled as
    :func:`resize_position_embedding` does. At the same size the paths must be the same.

    Args:
        path_or_state_dict: A file, its content, or a bare state dict; one saved from `pathconv.models` too.
        model: The network of the same stages, number of paths and classes.

    Raises:
        RuntimeError: A network of other stages or another number of paths; other paths at the same size; names that the
            model misses or that the checkpoint has too many, and shapes that differ, all listed by name.
        ValueError: As :func:`read_original`.

    Example:
        >>> model = timm.create_model("pathconv_b", path="g", num_classes=10)  # doctest: +SKIP
        >>> load_original("ckpt_cf10_acc1@93.97.pth", model)  # doctest: +SKIP
    """
    state, own = read_original(path_or_state_dict), model.state_dict()
    found, wanted = _describe(state), _describe(own)
    if found and wanted and found != wanted:
        raise RuntimeError(f"The checkpoint holds {found}, but the model has {wanted}.")
    model.load_state_dict(fit(state, model))
    return model


def read_original(path_or_state_dict: str | PathLike[str] | Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in one of the authors' checkpoints; `["pathSampling.paths"]` are the paths they were trained with.

    Args:
        path_or_state_dict: A file (read with `weights_only=True`), its content, or a bare state dict.

    Raises:
        ValueError: No checkpoint, or no weights, in the file.
    """
    checkpoint = path_or_state_dict
    if not isinstance(checkpoint, Mapping):
        checkpoint = weights.read(checkpoint)
    for key in ("model", "state_dict"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    if not checkpoint or not all(isinstance(value, Tensor) for value in checkpoint.values()):
        raise ValueError(f"the checkpoint holds no weights under 'model' or 'state_dict', only {sorted(checkpoint)}")
    return {name.removeprefix("module."): value for name, value in checkpoint.items()}


def fit(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights for `model`, with the position embedding resampled where its images have another size."""
    state, own = dict(state_dict), model.state_dict()
    if not (_PATHS in state and _PATHS in own):
        return state
    old, new = state[_PATHS], own[_PATHS]
    if len(old) == len(new) and _size(old) != _size(new):
        if _EMBEDDING in state and _EMBEDDING in own:
            state[_EMBEDDING] = resize_position_embedding(state[_EMBEDDING], old, new)
        state[_PATHS] = new
    return state


def resize_position_embedding(
    embedding: Tensor,  # (1, D, L)
    paths: Any,
    new_paths: Any,
) -> Tensor:  # (1, D, L')
    """Resample a position embedding along the grid of pixels, for sequences of other paths or images of another size.

    Neighbours in the sequence of a small image are not those in that of a larger one, but the pixels correspond. So
    for each path p the embedding is laid out as an image, resized (bicubic, with antialiasing), and read along the new
    path p; the result is the mean over the P paths:

        new[:, l] = 1 / P * sum_p resize(image_p)[:, new_index[p, l]],   image_p[:, q] = embedding[:, inverse[p, q]]

    Equal paths of equal size change nothing.

    Args:
        embedding: of sequences along `paths`.
        paths: a tensor of rows and columns (P, L, 2) or (L, 2), a `PathSet`, or tables of paths.
        new_paths: as many, of the same kinds.

    Raises:
        ValueError: the numbers of paths differ, or the embedding has another length than the paths.

    Example:
        >>> old, new = paths.generate(32, 32, "hilbert"), paths.generate(64, 64, "hilbert")
        >>> resize_position_embedding(torch.randn(1, 48, 1024), old, new).shape
        torch.Size([1, 48, 4096])
    """
    old, new = tables_of(paths), tables_of(new_paths)
    if len(old.index) != len(new.index):
        raise ValueError(f"new_paths must be as many as paths, but they are {len(new.index)} and {len(old.index)}.")
    if embedding.shape[2] != old.index.shape[1]:
        raise ValueError(
            f"embedding has {embedding.shape[2]} positions but paths cover {old.height} x {old.width} pixels."
        )
    if torch.equal(old.index, new.index) and old[2:] == new[2:]:
        return embedding.clone()
    total = embedding.new_zeros(())
    for inverse, index in zip(old.inverse.to(embedding.device), new.index.to(embedding.device)):
        image = embedding.float()[:, :, inverse.long()].unflatten(2, (old.height, old.width))
        if old[2:] != new[2:]:
            image = F.interpolate(image, (new.height, new.width), mode="bicubic", antialias=True)
        total = total + image.flatten(2)[:, :, index.long()]
    return (total / len(old.index)).to(embedding.dtype)


def _size(paths: Tensor) -> tuple[int, int]:  # (P, L, 2)
    rows, columns = (paths.reshape(-1, 2).amax(0) + 1).tolist()
    return rows, columns


def _describe(state: Mapping[str, Tensor]) -> str:
    """Stages and paths in words; empty for other networks."""
    if _PATHS not in state or not any(name.startswith("stage.") for name in state):
        return ""
    blocks = [name.split(".") for name in state if name.startswith("stage.") and name.endswith(".scaling")]
    stages = sorted({int(name[1]) for name in blocks})
    depths = [sum(int(name[1]) == stage for name in blocks) for stage in stages]
    dims = [len(state[f"stage.{stage}.0.scaling"]) for stage in stages]
    return f"{depths} blocks of {dims} channels along {len(state[_PATHS])} paths"
