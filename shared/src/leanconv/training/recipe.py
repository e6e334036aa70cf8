"""The recipe: every hyperparameter of a training run in one frozen dataclass."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from timm.optim import list_optimizers

from leanconv import ranges
from leanconv.data import Augment

RANGES = {
    "epochs batch_size accumulate train_images test_images image_size validation": "[1, inf)",
    "milestones eval_every log_every": "[1, inf)",
    "lr weight_decay eps warmup_epochs warmup_lr min_lr mixup cutmix seed workers aux_loss": "[0, inf)",
    "clip_grad decay_rate": "(0, inf)",
    "layer_decay": "(0, 1]",
    "mix_prob switch_prob": "[0, 1]",
    "momentum betas label_smoothing drop_path ema_decay": "[0, 1)",
    "save_seconds": "[0, inf]",
}


class ConfigError(ValueError):
    """A recipe, flag or override that cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one run; reads like the table in a paper.

    Attributes:
        model, model_kwargs: name known to timm (the packages' networks included) and its keyword arguments.
        start: parts of the network ("network" is the whole) -> the run folder, checkpoint or file of weights that they
            start from; what a file has beyond the part, such as a classifier, is left out.
        frozen: parameters that never learn, by any part of their dotted names.
        data, data_kwargs, data_root, smoke: data set by name, what :func:`leanconv.data.load` takes beyond it, where it
            lies, and whether a small stand-in may replace it.
        validation: hold so many training examples out, the same in every run, and pick the best epoch by them.
        train_images, test_images: use only so many of what is left; None uses all.
        image_size: side of the training and evaluation images; None keeps the data set's own.
        epochs, batch_size, accumulate: ``batch_size`` images enter each optimizer step, over all processes and over
            the ``accumulate`` parts the step is computed in.
        optimizer, lr, weight_decay, momentum, betas, eps: for ``timm.optim.create_optimizer_v2``; biases, norms and
            other one-dimensional parameters are not decayed, under ``decay_biases`` norms alone are not, and
            under ``decay_norms`` they are too.
        layer_decay, layer_decay_by: factor on the learning rate per layer counted from the head; a layer is what timm
            takes for one, "block", or as for ConvNeXt in detection and in segmentation, "thirds" and "stage" (see
            :func:`leanconv.training.groups.layer_numbers`).
        lr_factors: factors on the learning rate of parameters by the last part of their name; they win over what layers
            ask for themselves (see :mod:`leanconv.training.groups`). By the first part of the name, such as a head's,
            they come on top of both.
        schedule, warmup_epochs, warmup_lr, min_lr, milestones, decay_rate: for timm's schedulers, stepped at every
            optimizer step; the warm-up is part of ``epochs``. Under "poly" ``decay_rate`` is the power.
        loss, label_smoothing: "ce" or "bce" (one sigmoid per class).
        aux_loss: weight of the loss of the output "aux", where a network of dense prediction has one.
        mixup, cutmix, mix_prob, switch_prob: as in ``timm.data.Mixup``.
        augment: what happens to each image (see :class:`leanconv.data.Augment`).
        drop_path: stochastic depth, given to the model as ``drop_path_rate``.
        ema_decay, ema_warmup: moving average of the weights, updated at every step; with warm-up the decay rises as
            1 - (1 + step)^(-2/3) to ``ema_decay``, which suits runs shorter than a few 1/(1 - decay) steps.
        amp: "none", "bf16" or "fp16" (with loss scaling).
        sync_norms: whether batch norms take their statistics over all GPUs; on CPUs torch cannot, and each process has
            its own.
        compile, channels_last, clip_grad, seed, deterministic: as they say; ``deterministic`` asks torch for
            deterministic algorithms, which on CUDA an exactly repeatable run needs.
        workers: loader processes for data sets that do not fit in memory.
        eval_every, save_seconds, log_every: epochs, seconds and steps between evaluations, checkpoints, log lines.
    """

    model: str = "resnet18"
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    start: dict[str, str] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    data: str = "fashion_mnist"
    data_kwargs: dict[str, Any] = field(default_factory=dict)
    data_root: str | None = None
    smoke: bool = False
    validation: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    image_size: int | None = None
    epochs: int = 10
    batch_size: int = 128
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    decay_biases: bool = False
    decay_norms: bool = False
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    layer_decay: float | None = None
    layer_decay_by: Literal["block", "thirds", "stage"] = "block"
    lr_factors: dict[str, float] = field(default_factory=dict)
    schedule: Literal["cosine", "constant", "step", "multistep", "poly"] = "cosine"
    warmup_epochs: float = 0.0
    warmup_lr: float = 0.0
    min_lr: float = 1e-6
    milestones: tuple[int, ...] = ()
    decay_rate: float = 0.1
    loss: Literal["ce", "bce"] = "ce"
    label_smoothing: float = 0.0
    aux_loss: float = 0.4
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    switch_prob: float = 0.5
    augment: Augment = field(default_factory=Augment)
    drop_path: float = 0.0
    ema_decay: float | None = None
    ema_warmup: bool = False
    amp: Literal["none", "bf16", "fp16"] = "none"
    sync_norms: bool = False
    compile: bool = False
    channels_last: bool = False
    clip_grad: float | None = None
    seed: int = 0
    deterministic: bool = False
    workers: int = 2
    eval_every: int = 1
    save_seconds: float = 300.0
    log_every: int = 50

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, _convert(name, getattr(self, name), hint))
        try:
            ranges.check(self, RANGES)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if self.optimizer.lower().removeprefix("lookahead_") not in list_optimizers():
            raise ConfigError(f"optimizer must be one of timm.optim.list_optimizers(), got {self.optimizer!r}")
        if self.batch_size % self.accumulate:
            raise ConfigError(f"batch_size {self.batch_size} does not divide into accumulate={self.accumulate} parts")
        if self.warmup_epochs >= self.epochs and self.schedule in ("cosine", "poly"):
            raise ConfigError(f"warmup_epochs {self.warmup_epochs} leaves nothing of epochs {self.epochs}")
        if self.decay_biases and self.layer_decay is not None:
            raise ConfigError("decay_biases and layer_decay cannot be combined")
        if self.decay_norms and not self.decay_biases:
            raise ConfigError("decay_norms decays all that is one-dimensional: set decay_biases with it")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(f"milestones must rise, got {self.milestones}")
        if "step" in self.schedule and not self.milestones:
            raise ConfigError(f"schedule {self.schedule!r} needs milestones, the epochs after which lr falls")

    def override(self, changes: Mapping[str, Any] | Iterable[str]) -> Recipe:
        """A copy with changes given as a mapping or as ``"key=value"`` strings; nested keys are dotted.

        Raises:
            ConfigError: unknown key (with the nearest known ones) or a value of the wrong type or out of range.

        Example:
            >>> Recipe().override(["lr=4e-3", "augment.hflip=0.5", "ema_decay=none"]).lr
            0.004
        """
        if not isinstance(changes, Mapping):
            changes = dict(_split(text) for text in changes)
        return _apply(self, changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-ready values; ``Recipe().override(d)`` reads them back."""
        return dataclasses.asdict(self)


def _split(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"'{text}' is not of the form key=value")
    words = {"true": True, "false": False, "none": None, "null": None}
    try:
        return key.strip(), words[value.lower()] if value.lower() in words else ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key.strip(), value


def _apply(config: Any, changes: Mapping[str, Any], prefix: str = "") -> Any:
    """``config``, a dataclass or a dictionary, with all changes made at once; ``prefix`` is for messages."""
    values: dict[str, Any] = {}
    free = isinstance(config, Mapping)  # a dictionary takes any key and any value
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        if not free:
            _check_known(config, head, prefix)
        current = values[head] if head in values else config.get(head, {}) if free else getattr(config, head)
        if rest and not (dataclasses.is_dataclass(current) or isinstance(current, Mapping)):
            raise ConfigError(f"'{prefix}{key}': {prefix}{head} has no parts")
        if rest:
            value = _apply(current, {rest: value}, f"{prefix}{head}.")
        elif dataclasses.is_dataclass(current) and isinstance(value, Mapping):
            value = _apply(current, value, f"{prefix}{head}.")
        elif not free:
            value = _convert(f"{prefix}{head}", value, get_type_hints(type(config))[head])
        values[head] = value
    if free:
        return {**config, **values}
    try:
        return dataclasses.replace(config, **values)
    except ValueError as error:
        raise ConfigError(f"{prefix}{error}") from error


def _check_known(config: Any, name: str, prefix: str) -> None:
    names = [f.name for f in dataclasses.fields(config)]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
        raise ConfigError(f"unknown key '{prefix}{name}': {hint}")


def _convert(key: str, value: Any, hint: Any) -> Any:
    """``value`` as the annotated type, or a ConfigError that names both."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        kind = get_origin(option) or option
        if kind is Literal and value in get_args(option):
            return value
        if kind is Literal or (isinstance(value, bool) and kind is not bool):
            continue
        if kind is bool and value in (0, 1):
            return bool(value)
        if kind is float and isinstance(value, int):
            return float(value)
        if kind is tuple and isinstance(value, list | tuple):
            return _convert_parts(key, value, get_args(option))
        if isinstance(value, kind):
            return value
    wanted = " or ".join(map(str, get_args(hint))) if get_origin(hint) is Literal else getattr(hint, "__name__", hint)
    raise ConfigError(f"{key} must be {str(wanted).replace('typing.', '')}, got {value!r}")


def _convert_parts(key: str, values: list[Any] | tuple[Any, ...], hints: tuple[Any, ...]) -> tuple[Any, ...]:
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(values)
    if len(values) != len(hints):
        raise ConfigError(f"{key} must hold {len(hints)} numbers, got {values!r}")
    return tuple(_convert(f"{key}[{index}]", *pair) for index, pair in enumerate(zip(values, hints)))
