"""From a recipe's numbers to objects, mostly timm's: data, model, optimizer, schedule, mixup, loss, moving average."""

from __future__ import annotations

import random
from collections.abc import Callable
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
from leanconv.data import VisionData
from leanconv.training.recipe import ConfigError, Recipe


def data(recipe: Recipe) -> VisionData:
    """The recipe's data set, or as much of it as the recipe asks for."""
    whole = datasets.load(recipe.data, root=recipe.data_root, smoke=recipe.smoke)
    return whole.subset(recipe.train_images, recipe.test_images)


def model(recipe: Recipe, vision: VisionData) -> nn.Module:
    """The recipe's network for this data set; the same seed gives the same weights.

    Raises:
        ConfigError: the network does not take the recipe's ``model_kwargs``, or images of this size.
    """
    seed(recipe.seed)
    shape = {"num_classes": vision.num_classes, "in_chans": vision.in_chans}
    drop_path = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    try:
        network = models.build(recipe.model, **{**shape, **drop_path, **recipe.model_kwargs})
    except TypeError as error:
        raise ConfigError(f"{recipe.model} cannot be built with these model_kwargs or drop_path: {error}") from error
    size = recipe.image_size or vision.image_size
    try:
        profiling.count(network, (vision.in_chans, size, size))
    except ValueError as error:
        hint = "try another image_size, or in model_kwargs a smaller patch_size where the network has one"
        raise ConfigError(f"{recipe.model} cannot be trained on {size}x{size} images; {hint} ({error})") from error
    return network


def optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """timm's optimizer with decayed and undecayed groups, and one pair of groups per layer under ``layer_decay``."""
    adaptive: dict[str, Any] = {"betas": recipe.betas, "eps": recipe.eps} if "sgd" not in recipe.optimizer else {}
    return create_optimizer_v2(
        _all_but_norms(network, recipe.weight_decay) if recipe.decay_biases else network,
        opt=recipe.optimizer,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        layer_decay=recipe.layer_decay,
        **adaptive,
    )


def _all_but_norms(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: what torch and timm call norms undecayed, everything else decayed."""
    norms = {
        id(p) for module in network.modules() if "norm" in type(module).__name__.lower() for p in module.parameters()
    }
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in network.parameters():
        if parameter.requires_grad:
            groups[id(parameter) not in norms].append(parameter)
    return [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}]


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
