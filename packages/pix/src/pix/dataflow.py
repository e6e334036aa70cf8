"""One pass of a model, watched: which layer reads what which other wrote, and how much it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary

# What hands on its input, and what has no negative results, or none from inputs that have none.
_TRANSPARENT = {"Identity", "Dropout", "Dropout2d", "ZeroPad2d", "dropout", "pad", "contiguous", "split", "chunk"}
_RECTIFIERS = {"ReLU", "relu", "relu_"}
_NON_NEGATIVE = {*_RECTIFIERS, "ReLU6", "relu6", "Sigmoid", "sigmoid", "Hardsigmoid", "hardsigmoid"}
_ACROSS = {"GLU", "Softmax", "Softmax2d", "Softmin", "LogSoftmax"}  # activations that mix what they read
_MONOTONE = {"MaxPool2d", "AvgPool2d", "max_pool2d", "avg_pool2d", "cat", "add", "__add__", "PiX", *_TRANSPARENT}


@dataclass(eq=False)
class Step:
    """One call: of a layer, or of a function outside of all layers."""

    call: Any  # the nn.Module or the function
    inputs: tuple[Step, ...]  # whose results it reads; none where it reads the model's input
    shapes: tuple[tuple[int, ...], tuple[int, ...]]  # of the first tensor that it reads, and that it writes
    in_place: bool  # whether it changes what it reads
    arguments: int  # numbers and tensors that it is given
    strange: bool  # whether one of them is negative, or comes from no step
    users: list[Step] = field(default_factory=list)  # that read its result

    @property
    def name(self) -> str:
        return type(self.call).__name__ if isinstance(self.call, nn.Module) else self.call.__name__

    @property
    def is_norm(self) -> bool:
        return isinstance(self.call, nn.Module) and _is_norm(self.call)

    @property
    def is_activation(self) -> bool:
        of_this_kind = isinstance(self.call, nn.Module) and "activation" in type(self.call).__module__
        return self.name in _NON_NEGATIVE or (
            of_this_kind and self.name not in _ACROSS and not any(self.call.children())
        )

    @property
    def is_rectifier(self) -> bool:
        return self.name in _RECTIFIERS

    @property
    def is_pooling(self) -> bool:
        return "pool" in self.name.lower()

    @property
    def is_convolution(self) -> bool:
        return _is_convolution(self.call) or self.name == "conv2d"

    @property
    def is_spatial_convolution(self) -> bool:
        return isinstance(self.call, nn.Conv2d) and max(self.call.kernel_size) > 1

    @property
    def readers(self) -> list[Step]:
        """The users, behind those that only hand on."""
        hands_on = [user.name in _TRANSPARENT and not user.in_place for user in self.users]
        return [reader for user, only in zip(self.users, hands_on) for reader in (user.readers if only else [user])]

    @property
    def sources(self) -> list[Step]:
        """The inputs, behind those that hand on what they read, or its non-negative part."""
        passing = _TRANSPARENT | _RECTIFIERS
        return [source for step in self.inputs for source in (step.sources if step.name in passing else [step])]

    @property
    def nearest_convolutions(self) -> list[Step]:
        """The convolutions before this step with none in between."""
        found, seen, waiting = [], set(), list(self.inputs)
        while waiting:
            step = waiting.pop()
            if step in seen:
                continue
            seen.add(step)
            if step.is_convolution:
                found.append(step)
            else:
                waiting += step.inputs
        return found

    @property
    def is_non_negative(self) -> bool:
        """Whether the result certainly is."""
        waiting, seen = [self], set()
        while waiting:
            step = waiting.pop()
            if step in seen or step.name in _NON_NEGATIVE:
                continue
            if step.name not in _MONOTONE or step.strange:
                return False
            seen.add(step)
            waiting += step.inputs
        return True


@dataclass
class Pass:
    """What one pass of a model did."""

    steps: dict[nn.Module, list[Step]]  # by layer, in order
    macs: int  # of convolutions and products of matrices


class _Watch(TorchFunctionMode):
    """Notes the calls of layers and, outside of them, of functions."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._layer: nn.Module | None = None  # that is running
        self._versions: list[int] = []  # of what it reads, before
        self._writers = WeakTensorKeyDictionary()  # a changed tensor belongs to what changed it

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._layer is not None:
            return func(*args, **(kwargs or {}))
        arguments = (args, kwargs)
        versions = _versions(arguments)
        result = func(*args, **(kwargs or {}))
        self._note(func, arguments, result, versions)
        return result

    def enter(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
        if self._layer is None:
            self._layer, self._versions = layer, _versions((args, kwargs))

    def leave(self, layer: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        if self._layer is layer:
            self._layer = None
            self._note(layer, (args, kwargs), result, self._versions)

    def _note(self, call: Any, arguments: Any, result: Any, versions: list[int]) -> None:
        reads, writes = _tensors(arguments), _tensors(result)
        if not writes:  # a question about a shape, say
            return
        inputs = tuple(dict.fromkeys(self._writers[t] for t in reads if t in self._writers))
        shapes = (tuple(reads[0].shape) if reads else (), tuple(writes[0].shape))
        given = [leaf for leaf in tree_leaves(arguments) if leaf is not None]
        strange = any(leaf not in self._writers if isinstance(leaf, Tensor) else _is_negative(leaf) for leaf in given)
        # Dropout changes nothing here, but will in training.
        in_place = _versions(arguments) != versions or getattr(call, "inplace", False) is True
        step = Step(call, inputs, shapes, in_place, len(given), strange)
        self.steps.append(step)
        for writer in inputs:
            writer.users.append(step)
        for tensor in writes:
            self._writers[tensor] = step


@torch.no_grad()
def watch(model: nn.Module, *args: Any) -> Pass:
    """Runs `model(*args)` as in inference, and leaves no trace in it.

    Layers are modules without children, convolutions and norms; what they do within is not looked at.
    """
    training = {module: module.training for module in model.modules()}
    watcher, hooks = _Watch(), []
    for layer in _layers(model):
        hooks.append(layer.register_forward_pre_hook(watcher.enter, with_kwargs=True))
        hooks.append(layer.register_forward_hook(watcher.leave, with_kwargs=True))
    try:
        model.eval()
        with FlopCounterMode(display=False) as counter, watcher:
            model(*args)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    steps: dict[nn.Module, list[Step]] = {}
    for step in watcher.steps:
        if isinstance(step.call, nn.Module):
            steps.setdefault(step.call, []).append(step)
    return Pass(steps, counter.get_total_flops() // 2)


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if not any(module.children()) or _is_convolution(module) or _is_norm(module):
            yield module


def _is_convolution(call: Any) -> bool:
    return isinstance(call, nn.modules.conv._ConvNd)


def _is_norm(module: nn.Module) -> bool:
    """Also one with an activation in it, but not a block of convolution, norm and activation."""
    return "norm" in type(module).__name__.lower() and not any(map(_is_convolution, module.modules()))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_negative(value: Any) -> bool:
    return isinstance(value, (int, float)) and value < 0


def _versions(tree: Any) -> list[int]:
    """How often each tensor was changed in place so far."""
    return [0 if tensor.is_inference() else tensor._version for tensor in _tensors(tree)]
