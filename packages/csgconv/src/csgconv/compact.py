"""A network in one small file: one generator, the live codes, and the rest."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from . import packing
from ._common import weights
from .generator import SliceGenerator
from .modules import CSGConv2d, registered_generators
from .product import without_autocast


@dataclass(frozen=True)
class CompactReport:
    """What `save_compact` wrote."""

    path: Path
    dtype: str
    size: int  # bytes of the file
    state_size: int  # bytes of the numbers in the model's state dict
    plain_size: int  # bytes of the numbers in the state dict of `export(model)`
    errors: dict[str, float] = field(repr=False)  # by name of the layer: norm of the change of the kernel by its norm
    rest_error: float  # the largest of such an error of all other tensors

    def __str__(self) -> str:
        worst = max(self.errors, key=self.errors.__getitem__)
        return (
            f"{self.path}: {self.size} bytes in {self.dtype}, {self.plain_size / self.size:.1f} times fewer than the "
            f"{self.plain_size} of the exported network; largest relative error of a kernel {self.errors[worst]:.2g} "
            f"({worst or 'the layer'}), of another tensor {self.rest_error:.2g}"
        )


def save_compact(model: nn.Module, path: str | PathLike[str], dtype: str = "fp32") -> CompactReport:
    """Writes all that `model.state_dict()` holds but the dead codes into one file, which `load_compact` reads.

    The file is written beside `path` and renamed, so that no one ever finds half of it.

    Args:
        model: a network with generated layers.
        path: of the file, which is replaced.
        dtype: "fp32" keeps float32 as it is. "fp16" rounds all floats. "int8" has generators and codes in 8 bits,
            symmetrically with a scale per row, and the rest in float16. A tensor that float16 does not hold stays
            float32; float64 becomes float32; integers, and bits of a binary generator, stay.

    Returns:
        a report with the size and the errors; `print` shows it in one line.

    Raises:
        TypeError: `model` is no module, `path` no path, or the model's state dict holds more than tensors.
        ValueError: no generated layers, only some of those of a generator, or an unknown `dtype`.
        OSError: `path` is a folder, its folder is missing, or the file cannot be written.

    Example:
        >>> net = convert(timm.create_model("resnet18"))  # doctest: +SKIP
        >>> print(save_compact(net, "net.csg", "int8"))  # doctest: +SKIP
    """
    if dtype not in packing.DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(repr, packing.DTYPES))}, but it is {dtype!r}.")
    owners, state = _owners(model, "save its state dict as usual"), dict(model.state_dict())
    packing.check_place(path)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"the state dict must hold tensors, but {name!r} is a {type(value).__name__}.")
    for prefix, generator in owners.items():
        state[f"{prefix}codes"] = state[f"{prefix}codes"][: _live(generator)]
    about = {"dtype": dtype, "generators": _about(model, owners)}
    rows = {f"{prefix}{name}" for prefix in owners for name in ("codes", "weight")}
    content = packing.pack(state, packing.DTYPES[dtype], rows, about)
    read = packing.unpack(content)[1]
    rest = {name: value for name, value in state.items() if not name.startswith(tuple(owners))}
    errors, kernels = _kernel_errors(model, owners, read)
    rest_error = max((_error(read[name], value) for name, value in rest.items()), default=0.0)
    packing.replace_file(Path(path), content)
    sizes = _size(model.state_dict().values()), _size(rest.values()) + kernels
    return CompactReport(Path(path), dtype, Path(path).stat().st_size, *sizes, errors, rest_error)


def load_compact(model: nn.Module, path: str | PathLike[str] | Mapping[str, Any]) -> nn.Module:
    """Loads a file of `save_compact` into a network of the same layers, and returns it. Dead codes become 0.

    Args:
        model: built, or converted, as the one that was saved.
        path: the file, or its content.

    Raises:
        TypeError: `model` is no module.
        OSError: there is no such file.
        ValueError: another file, a damaged one, or generators of other sizes, of other layers, or of layers that were
            made in another order; the model is then unchanged.
        RuntimeError: names or shapes of the rest that differ, all listed.
    """
    owners = _owners(model, "build, or convert, it as the one that was saved")
    about, state = packing.unpack(path if isinstance(path, Mapping) else weights.read(path))
    found, wanted = about.get("generators"), _about(model, owners)
    if found != wanted:
        raise ValueError(_unlike(found, wanted))
    model.load_state_dict(_padded(state, owners))
    return model


def _owners(model: nn.Module, remedy: str) -> dict[str, SliceGenerator]:
    """The generators by what their names in the state dict begin with; one has several where layers have."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, but it is a {type(model).__name__}.")
    found = registered_generators(model)
    if not any(isinstance(module, CSGConv2d) for module in model.modules()):
        raise ValueError(f"model has no CSGConv2d, and so no codes: {remedy}.")
    if any(is_parametrized(generator, "codes") for generator in found):
        raise ValueError("model has a generator whose codes are parametrized: remove the parametrization first.")
    modules = model.named_modules(remove_duplicate=False)
    return {f"{name}.": module for name, module in modules if isinstance(module, SliceGenerator)}


def _about(model: nn.Module, owners: Mapping[str, SliceGenerator]) -> dict[str, Any]:
    """What must agree, in plain values; layers by name, as codes lie in the order in which they were made."""
    modules = model.named_modules()
    names = {(m.generator, m.index): name for name, m in modules if isinstance(m, CSGConv2d)}
    return {
        prefix: {
            "code_size": generator.code_size,
            "slice_shape": list(generator.slice_shape),
            "bias": generator.bias is not None,
            "binary": generator.binary,
            "layers": [
                [names.get((generator, index), ""), *layer.shape, layer.layout]
                for index, layer in enumerate(generator.layers)
            ],
        }
        for prefix, generator in owners.items()
    }


def _unlike(found: Any, wanted: Mapping[str, Any]) -> str:
    """What two of `_about` say and, where that reads alike, the first layer that differs."""
    told = _in_words(wanted)
    try:
        held = _in_words(found)
        if held == told:
            layers = ([layer for about in one.values() for layer in about["layers"]] for one in (found, wanted))
            differing = [pair for pair in zip(*layers) if pair[0] != pair[1]]
            held, told = (f"{told}, one of them {name!r} of {shape}" for name, *shape in differing[0])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # a file may hold anything
        held = "something else than generators"
    return f"The checkpoint holds {held}, but the model has {told}: build it as the one that was saved."


def _in_words(generators: Mapping[str, Any]) -> str:
    texts = []
    for prefix, about in generators.items():
        layouts = Counter(layer[-1] for layer in about["layers"])
        kind = ", ".join(word for word in ("bias", "binary") if about[word])
        parts = (f"{count} {layout} layers" for layout, count in layouts.items())
        size = "x".join(map(str, about["slice_shape"]))
        texts.append(f"{prefix}{about['code_size']}-{size}{f' ({kind})' if kind else ''} of {' and '.join(parts)}")
    return "; ".join(texts)


def _live(generator: SliceGenerator) -> int:
    return sum(layer.live for layer in generator.layers)


def _padded(state: Mapping[str, Tensor], owners: Mapping[str, SliceGenerator]) -> dict[str, Tensor]:
    """`state` with dead codes of zero."""
    missing = {f"{prefix}codes": len(generator.codes) - _live(generator) for prefix, generator in owners.items()}
    return {
        name: F.pad(t, (0, 0, 0, missing[name])) if name in missing and t.dim() == 2 else t for name, t in state.items()
    }


@torch.no_grad()
def _kernel_errors(
    model: nn.Module, owners: Mapping[str, SliceGenerator], state: Mapping[str, Tensor]
) -> tuple[dict[str, float], int]:
    """How far the kernels that `state` makes are from the model's, and the bytes of these."""
    state, twins = _padded(state, owners), {}
    for prefix, generator in owners.items():
        twins[generator] = copy.deepcopy(generator)
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        twins[generator].load_state_dict({name: own[name] for name in twins[generator].state_dict()})
    errors, size = {}, 0
    for name, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, CSGConv2d):
            with without_autocast(layer.generator.codes):
                found, wanted = twins[layer.generator].kernel(layer.index), layer.weight
            errors[name] = _error(found, wanted)
            size += _size([wanted])
    return errors, size


def _error(found: Tensor, wanted: Tensor) -> float:
    """Norm of the change by the norm; of what has no finite norm, or none, whether it changed."""
    norm = wanted.double().norm().item()
    if not 0 < norm < inf:
        return 0.0 if torch.equal(found.nan_to_num().cpu(), wanted.nan_to_num().cpu()) else inf
    return (found.to(wanted.device).double() - wanted.double()).norm().item() / norm


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
