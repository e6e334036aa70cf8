"""From a recipe's numbers to objects, mostly timm's: data, model, optimizer, schedule, mixup, loss, moving average."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from leanconv import data as datasets
from leanconv import models, profiling
from leanconv.data import Data, DenseData
from leanconv.data.dense import DenseViews
from leanconv.data.loaders import EvalLoader, TrainLoader
from leanconv.training import checkpoint
from leanconv.training.groups import grouping
from leanconv.training.recipe import ConfigError, Recipe
from leanconv.training.world import World


def data(recipe: Recipe) -> Data:
    """The recipe's data set, or as much of it as the recipe asks for.

    Raises:
        ConfigError: the recipe asks for cutmix, and the data are sequences, or for what masks or objects cannot follow.
    """
    whole = datasets.load(recipe.data, root=recipe.data_root, smoke=recipe.smoke, **recipe.data_kwargs)
    if recipe.cutmix and len(whole.input_size(recipe.image_size)) != 3:
        raise ConfigError(f"cutmix is for images, and {recipe.data} has sequences: mixup is for both")
    if whole.task != "classes" and (recipe.mixup or recipe.cutmix or recipe.loss != "ce"):
        what = {"masks": "a label for every pixel", "objects": "objects with boxes"}[whole.task]
        raise ConfigError(f"{recipe.data} has {what}: mixup and cutmix must be 0, and loss be ce")
    if whole.task == "objects" and (recipe.label_smoothing or recipe.compile):
        raise ConfigError(f"{recipe.data} has objects with boxes: label_smoothing must be 0, and compile false")
    whole = whole if recipe.validation is None else whole.hold_out(recipe.validation)
    return whole.subset(recipe.train_images, recipe.test_images)


def loaders(recipe: Recipe, data: Data, world: World) -> tuple[TrainLoader, EvalLoader, EvalLoader | None]:
    """Loaders of the training, the test and, where there is one, the validation split."""
    options: dict[str, Any] = {
        "augment": recipe.augment,
        "seed": recipe.seed,
        "workers": recipe.workers,
        "rank": world.rank,
        "world_size": world.size,
        "device": world.device,
        "image_size": recipe.image_size,
        "channels_last": recipe.channels_last,
    }
    size = recipe.batch_size // recipe.accumulate
    train, test = data.loaders(size, **options)
    if data.val is None:
        return train, test, None
    held_out = replace(data, test=data.val)  # type: ignore[type-var]
    return train, test, held_out.loaders(size, **options)[1]


def views(recipe: Recipe, data: Data, world: World) -> DenseViews | None:
    """A loader of several views of each test image, where the data have such."""
    if not isinstance(data, DenseData):
        return None
    return data.views(
        workers=recipe.workers,
        rank=world.rank,
        world_size=world.size,
        device=world.device,
        image_size=recipe.image_size,
        channels_last=recipe.channels_last,
    )


def model(recipe: Recipe, data: Data) -> nn.Module:
    """The recipe's network for this data set; the same seed gives the same weights.

    Raises:
        ConfigError: the network does not take the recipe's ``model_kwargs``, or inputs of this size, or it takes no
            targets where there are objects to find.
    """
    seed(recipe.seed)
    shape = {"num_classes": data.num_classes, "in_chans": data.in_chans}
    drop_path = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    try:
        network = models.build(recipe.model, **{**shape, **drop_path, **recipe.model_kwargs})
    except TypeError as error:
        raise ConfigError(f"{recipe.model} cannot be built with these model_kwargs or drop_path: {error}") from error
    if data.task == "objects" and len(inspect.signature(network.forward).parameters) < 2:
        raise ConfigError(f"{recipe.model} finds no objects: take a detector, such as cascade_mask_rcnn")
    size = data.input_size(recipe.image_size)
    try:
        profiling.count(network, size)
    except ValueError as error:
        images = "try another image_size, or in model_kwargs a smaller patch_size where the network has one"
        hint = images if len(size) == 3 else "it must take sequences (N, C, L)"
        what = "x".join(map(str, size[1:])) + (" images" if len(size) == 3 else " steps")
        raise ConfigError(f"{recipe.model} cannot be trained on {what}; {hint} ({error})") from error
    freeze(recipe, network)
    return network


def freeze(recipe: Recipe, network: nn.Module) -> None:
    """Let the recipe's ``frozen`` parameters not learn.

    Raises:
        ConfigError: no parameter has such a part in its name.
    """
    parts = {name: set(name.split(".")) for name, _ in network.named_parameters()}
    for part in recipe.frozen:
        if not any(part in each for each in parts.values()):
            raise ConfigError(f"frozen: no parameter of {recipe.model} has the part {part!r} in its name")
    for name, parameter in network.named_parameters():
        if parts[name] & set(recipe.frozen):
            parameter.requires_grad_(False)


def start(recipe: Recipe, network: nn.Module) -> list[str]:
    """Give parts of the network the weights that the recipe's ``start`` names; returns what was left out of them.

    Raises:
        ConfigError: the network has no such part, or the weights do not fit it.
        FileNotFoundError: there are no such weights.
    """
    left_out = []
    for part, path in recipe.start.items():
        known = dict(network.named_modules()) | {"network": network}
        if part not in known:
            raise ConfigError(f"start: {recipe.model} has no part {part!r}")
        weights = checkpoint.weights(path)
        try:
            missing, unexpected = known[part].load_state_dict(weights, strict=False)
        except RuntimeError as error:
            last = str(error).splitlines()[-1].strip()  # torch has a line for each
            raise ConfigError(f"start: the weights in {path} do not fit {part}: {last}") from error
        fresh = _starting_fresh(known[part])
        missing = [name for name in missing if name not in fresh]
        if missing:
            raise ConfigError(f"start: {path} lacks {len(missing)} of the weights of {part}, such as {missing[0]}")
        left_out += [f"{path}: {name}" for name in unexpected]
    return left_out


def _starting_fresh(network: nn.Module) -> set[str]:
    """The weights that modules say, by a method ``starts_fresh() -> names``, need not be in a file to start from."""
    found: set[str] = set()
    for prefix, module in network.named_modules():
        names: set[str] = getattr(module, "starts_fresh", set)()
        found |= {f"{prefix}.{name}".lstrip(".") for name in names}
    return found


def sync_norms(recipe: Recipe, network: nn.Module, world: World) -> nn.Module:
    """The network, its batch norms over all GPUs where the recipe asks for it and there are several."""
    if recipe.sync_norms and world.size > 1 and world.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return network


def optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """timm's optimizer with decayed and undecayed groups, and one pair of groups per layer under ``layer_decay``.

    Parameters whose layers ask for it are spared decay or learn more slowly: see :mod:`leanconv.training.groups`.
    """
    adaptive: dict[str, Any] = {"betas": recipe.betas, "eps": recipe.eps} if "sgd" not in recipe.optimizer else {}
    return create_optimizer_v2(
        network,
        opt=recipe.optimizer,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        layer_decay=recipe.layer_decay,
        param_group_fn=grouping(recipe, network),
        **adaptive,
    )


def schedule(recipe: Recipe, optim: torch.optim.Optimizer, steps_per_epoch: int) -> Scheduler:
    """Learning rate as a pure function of the step: linear warm-up, then the rest of ``epochs`` by name."""
    warm = round(recipe.warmup_epochs * steps_per_epoch)
    milestones = [epoch * steps_per_epoch - warm for epoch in recipe.milestones]
    scheduler, _ = create_scheduler_v2(  # its "epochs" are our steps
        optim,
        sched=recipe.schedule,
        num_epochs=recipe.epochs * steps_per_epoch - warm,
        warmup_epochs=warm,
        warmup_lr=recipe.warmup_lr,
        warmup_prefix=True,
        min_lr=recipe.min_lr,
        decay_milestones=[step + 1 for step in milestones],  # timm drops one step before a milestone
        decay_epochs=milestones[0] if milestones else None,
        decay_rate=recipe.decay_rate,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return scheduler


def mixing(recipe: Recipe, num_classes: int) -> Mixup | None:
    """timm's mixup and cutmix, or None when the recipe has neither.

    Images are mixed with those of their own part of the batch, so results depend on ``accumulate`` and world size.
    """
    if not (recipe.mixup or recipe.cutmix):
        return None
    return Mixup(
        recipe.mixup,
        recipe.cutmix,
        prob=recipe.mix_prob,
        switch_prob=recipe.switch_prob,
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )


def criterion(recipe: Recipe, num_classes: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Loss of logits (N, classes) against labels (N,) or, after mixing, probabilities (N, classes)."""

    def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
        # Mixup has smoothed its targets already.
        smoothing = recipe.label_smoothing if target.ndim == 1 else 0.0
        return F.cross_entropy(logits, target, label_smoothing=smoothing)

    def binary(logits: Tensor, target: Tensor) -> Tensor:
        if target.ndim == 1:
            off = recipe.label_smoothing / num_classes
            on = 1.0 - recipe.label_smoothing + off
            target = torch.full_like(logits, off).scatter_(1, target[:, None], on)
        return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))

    return cross_entropy if recipe.loss == "ce" else binary


def average(recipe: Recipe, network: nn.Module) -> ModelEmaV3 | None:
    """Moving average of the weights, or None."""
    if recipe.ema_decay is None:
        return None
    return ModelEmaV3(network, decay=recipe.ema_decay, use_warmup=recipe.ema_warmup)


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The precision the recipe asks for, as a context."""
    dtype = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.amp]
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def local_batch(recipe: Recipe, world_size: int) -> int:
    """Images one process sees per part of a step.

    Raises:
        ConfigError: the global batch does not divide evenly, or mixing meets an odd number.
    """
    parts = recipe.accumulate * world_size
    if recipe.batch_size % parts:
        raise ConfigError(f"batch_size {recipe.batch_size} does not divide into {parts} (accumulate x processes) parts")
    if (recipe.mixup or recipe.cutmix) and recipe.batch_size // parts % 2:
        raise ConfigError(f"mixup needs an even batch per process and part, got {recipe.batch_size // parts}")
    return recipe.batch_size // parts


def seed(*numbers: int) -> None:
    """Seed torch, numpy and random from a tuple of numbers.

    Called at every part of every step with (seed, step, rank), it makes dropout, drop-path and mixup functions of
    these alone, so a resumed run draws what an unbroken one would have drawn and no generator state is stored.
    """
    value = int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])
    torch.manual_seed(value)
    np.random.seed(value)
    random.seed(value)
