"""What networks and their checkpoints do alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Copies(TorchDispatchMode):
    """Collects the names of operations that move data without computing anything."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("clone", "copy_", "contiguous", "_to_copy"):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def assert_checkpointing_changes_nothing(model: Any, x: Tensor) -> None:
    """Gradients of timm's `set_grad_checkpointing` are the same to the bit; the model may draw no random numbers."""
    model(x).square().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, expected[name]), name


def layer_decay(model: Any) -> tuple[Callable[[Tensor], float], Callable[[Tensor], bool]]:
    """Timm's layer-wise decay: the scale of a parameter's rate, and whether it gets weight decay; all have them."""
    from timm.optim import param_groups_layer_decay

    groups = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.5)
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert len(scale) == len(list(model.parameters()))
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    return lambda parameter: scale[id(parameter)], lambda parameter: id(parameter) in decayed


def assert_refuses_what_is_no_checkpoint(load: Callable[[Path], object], checkpoint: dict, folder: Path) -> None:
    """`load` reads a file with `checkpoint` = {key: weights}, and refuses all else in one sentence that says why."""
    path, (key,) = folder / "best.pth", checkpoint

    def saved(content: object) -> bytes:
        torch.save(content, path)
        return path.read_bytes()

    whole = saved(checkpoint)
    load(path)
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    older = path.read_bytes()
    load(path)
    with_objects = saved({key: {}, "object": range(3)})
    contents = {
        with_objects: "holds more than tensors, which to read is to run: only if you trust it, pass what torch.load",
        b"<!DOCTYPE html><html>Sign in</html>": r"best\.pth is no checkpoint: it starts with b'<!DOCTYPE html><html>",
        b"": "is no checkpoint: it is empty",
        whole[: len(whole) // 2]: "is damaged or no checkpoint: it has no end, so write or download it again",
        older[:30]: "is damaged or no checkpoint",
        saved([1, 2]): "holds a list",
    }
    for content, says in contents.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=says) as caught:
            load(path)
        assert "\n" not in str(caught.value)
    with path.open("rb") as file, pytest.raises(TypeError, match="path must be that of a file, but it is"):
        load(file.fileno())  # type: ignore[arg-type]
