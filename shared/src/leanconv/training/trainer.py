"""The training loop: one for every experiment."""

from __future__ import annotations

import inspect
import logging
import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from leanconv.data import Data
from leanconv.training import build, checkpoint, dense, detection, state, summary
from leanconv.training.evaluation import evaluate, evaluate_views
from leanconv.training.groups import after_steps
from leanconv.training.recipe import ConfigError, Recipe
from leanconv.training.run_folder import RunFolder
from leanconv.training.world import Interrupt, World

log = logging.getLogger("leanconv")

# Told the network, the step, the steps in all and the run's folder: before the first step and after each one.
Watch = Callable[[nn.Module, int, int, Path], None]

VOTE_EVERY = 10  # steps between votes on stopping and saving; each vote of several processes costs a round trip


class Diverged(RuntimeError):
    """The loss became infinite or NaN; the message says where and what to try."""


class Interrupted(KeyboardInterrupt):
    """Training stopped on request after a complete step; the message says how to resume."""


class Trainer:
    """State of a run and the steps that change it."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        data: Data,
        folder: RunFolder,
        world: World,
        interrupt: Interrupt,
        card: dict[str, Any],
        watch: Watch | None = None,
    ) -> None:
        self.recipe, self.data, self.folder, self.world, self.interrupt = recipe, data, folder, world, interrupt
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.network = build.sync_norms(recipe, network, world).to(world.device).to(memory_format=layout)
        if not (folder.path / checkpoint.LAST).is_file():
            for name in build.start(recipe, self.network):
                self._say(f"not taken to start from: {name}")
        self.train_loader, self.eval_loader, self.val_loader = build.loaders(recipe, data, world)
        self.views_loader = build.views(recipe, data, world)
        self.steps = len(self.train_loader) // recipe.accumulate
        if self.steps == 0:
            raise ConfigError(f"batch_size {recipe.batch_size} exceeds the {len(data.train)} training {data.unit}")
        self.optimizer = build.optimizer(recipe, self.network)
        self.schedule = build.schedule(recipe, self.optimizer, self.steps)
        self.mixing = build.mixing(recipe, data.num_classes)
        criteria: dict[str, Callable[..., torch.Tensor]] = {
            "classes": build.criterion(recipe, data.num_classes),
            "masks": dense.criterion(recipe),
            "objects": detection.total,
        }
        self.criterion = criteria[data.task]
        self.ema = build.average(recipe, self.network)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.amp == "fp16")
        self.step = self.evaluated = 0  # optimizer steps done, and how many of them at the last evaluation
        self.losses = torch.zeros(2, device=world.device)  # summed since the last log line, since the epoch's start
        self.parts: dict[str, torch.Tensor] = {}  # of the loss, by name, summed since the last log line
        self.best, self.picked, self.seconds, self.card = -1.0, -1.0, 0.0, card
        self.after_step, self.watch = after_steps(self.network), watch if world.main else None
        self.scores: dict[str, float] = {}  # of the last evaluation
        self._restore()
        self.forward = self._wrap()

    def _wrap(self) -> Any:
        model: Any = self.network
        if self.world.size > 1:
            # Buffers that training changes must agree; constant ones (angles) need no traffic at every step.
            norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
            known = inspect.signature(DistributedDataParallel).parameters
            option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch < 2.14
            options: dict[str, Any] = {option: norms}
            model = DistributedDataParallel(model, **options)
        return torch.compile(model) if self.recipe.compile else model

    # The course of a run -----------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train to the end and return the summary."""
        total = self.recipe.epochs * self.steps
        self._say(f"{self.folder.path}: {self.recipe.model} on {self.data.source}, {total} steps")
        self._clock = self._saved = time.monotonic()
        self._look()
        while True:
            if self.step > self.evaluated and self.step % self.steps == 0:
                self._end_epoch()
            if self.step == total:
                break
            self._train_epoch()
        found = summary.of(self)
        self.folder.finish(found)
        return found

    def _train_epoch(self) -> None:
        epoch, done = divmod(self.step, self.steps)
        batches = iter(self.train_loader.epoch(epoch, start_step=done * self.recipe.accumulate))
        name = f"epoch {epoch + 1}/{self.recipe.epochs}"
        plain = not (self.world.main and sys.stderr.isatty())  # a log gets lines instead of a bar
        self.network.train()
        with tqdm(total=self.steps, initial=done, desc=name, unit="step", leave=False, disable=plain) as bar:
            since, logged = time.monotonic(), done
            for position in range(done + 1, self.steps + 1):
                self._train_step(batches)
                bar.update()
                if position % self.recipe.log_every == 0 or position == self.steps:
                    now = time.monotonic()
                    speed = (position - logged) * self.recipe.batch_size / (now - since)
                    loss = self._log_step(position, speed)
                    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                    text = f"step {position}/{self.steps}  loss {loss:.4f}  lr {self._lr():.2e}"
                    self._say(
                        f"{name}  {text}  {speed:.0f} {self.data.unit}/s",
                        level=logging.INFO if plain else logging.DEBUG,
                    )
                    since, logged = now, position
                self._save_or_stop()

    def _train_step(self, batches: Any) -> None:
        recipe = self.recipe
        self.schedule.step_update(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(recipe.accumulate):
            images, labels = next(batches)
            build.seed(recipe.seed, self.step * recipe.accumulate + part, self.world.rank)
            if self.mixing:
                images, labels = self.mixing(images, labels)
            last = part == recipe.accumulate - 1
            with nullcontext() if last or self.world.size == 1 else self.forward.no_sync():
                with build.autocast(recipe, self.world.device):
                    found = self.forward(images, labels) if self.data.task == "objects" else self.forward(images)
                    loss = self.criterion(found, labels) / recipe.accumulate
                self.scaler.scale(loss).backward()
            self.losses += loss.detach()
            if self.data.task == "objects":
                for name, value in found.items():
                    self.parts[name] = self.parts.get(name, 0.0) + value.detach() / recipe.accumulate
        if recipe.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for finish in self.after_step:
            finish()
        self.step += 1
        if self.ema:
            self.ema.update(self.network, self.step if recipe.ema_warmup else None)
        self._look()

    def _look(self) -> None:
        if self.watch:
            self.watch(self.network, self.step, self.recipe.epochs * self.steps, self.folder.path)

    def _log_step(self, position: int, speed: float) -> float:
        steps = (position - 1) % self.recipe.log_every + 1
        loss = self.world.mean(self.losses[0]) / steps
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss became {loss} by step {self.step} (epoch {self._epoch()}, lr {self._lr():.1e}): lower lr, "
                f"lengthen warmup_epochs, set clip_grad, or try amp=none; {self.folder.path} keeps the last checkpoint"
            )
        parts = {f"loss_{name}": self.world.mean(part) / steps for name, part in self.parts.items()}
        self.losses[0], self.parts = 0.0, {}
        record = {"kind": "step", "step": self.step, "loss": loss, "lr": self._lr(), "images_per_second": speed}
        self.folder.write(record | parts)
        return loss

    def _save_or_stop(self) -> None:
        ended = self.step % self.steps == 0
        if self.world.size > 1 and not ended and self.step % VOTE_EVERY:
            return
        due = not ended and time.monotonic() - self._saved > self.recipe.save_seconds  # an epoch's end saves by itself
        # What one process wants, all do: 1 is to save, 2 to save and stop.
        _, wanted = self.world.extremes(2 if self.interrupt.asked else int(due))
        if wanted:
            self._save()
        if wanted == 2:
            self.folder.draw()
            self.world.barrier()
            raise Interrupted(
                f"stopped after step {self.step}, in epoch {self._epoch()}; "
                f"`leanconv train --resume {self.folder.path}` continues exactly there"
            )

    def _end_epoch(self) -> None:
        epoch = self.step // self.steps
        record: dict[str, Any] = {"kind": "epoch", "step": self.step, "epoch": epoch, "lr": self._lr()}
        record["train_loss"] = self.world.mean(self.losses[1]) / self.steps
        if epoch % self.recipe.eval_every == 0 or epoch == self.recipe.epochs:
            self.scores = self._evaluate(last=epoch == self.recipe.epochs)
            record |= self.scores
        self.seconds += time.monotonic() - self._clock
        self._clock = time.monotonic()
        record["seconds"] = self.seconds
        self.losses[1] = 0.0
        self.evaluated = self.step
        self.folder.write(record)
        test = self._newest(record, self.data.score)
        score = self._newest(record, f"validation_{self.data.score}") if self.val_loader else test
        if score > self.best:
            self.best, self.picked = score, test
            if self.world.main:
                checkpoint.save(state.weights(self), self.folder.path / checkpoint.BEST)
        self._save()
        self.folder.draw()
        keys = ("train_loss", "val_loss", self.data.score, f"ema_{self.data.score}")
        shown = (f"{key} {record[key]:.4f}" for key in keys if key in record)
        self._say(f"epoch {epoch}/{self.recipe.epochs}  {'  '.join(shown)}  {self.seconds:.0f} s")

    @staticmethod
    def _newest(record: dict[str, Any], score: str) -> float:
        """Of the averaged weights where there are any; -1 where nothing was evaluated."""
        return record.get(f"ema_{score}", record.get(score, -1.0))

    def _evaluate(self, *, last: bool) -> dict[str, float]:
        """Plain weights under bare names, averaged ones under ``ema_``; views, which take long, are for the end."""
        scores: dict[str, float] = {}
        for prefix, network in (("", self.network), ("ema_", self.ema and self.ema.module)):
            if network is not None:
                self.world.share(network.buffers())
                found = evaluate(network, self.eval_loader, self.recipe)
                # Detection has no loss without targets.
                losses = {"val_loss": found.pop("loss")} if "loss" in found else {}
                if self.val_loader is not None:
                    held = evaluate(network, self.val_loader, self.recipe)
                    found |= {f"validation_{self.data.score}": held[self.data.score]}
                    losses |= {"validation_loss": held["loss"]} if "loss" in held else {}
                if last and self.views_loader is not None:
                    found |= evaluate_views(network, self.views_loader, self.recipe)
                found |= losses
                scores |= {prefix + key: value for key, value in found.items()}
        return scores

    # State -------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """By all processes together: the file holds means over them."""
        self._saved = time.monotonic()
        kept = state.gather(self)
        if self.world.main and torch.isfinite(kept["losses"]).all():  # never keep what a NaN may have reached
            checkpoint.save(kept, self.folder.path / checkpoint.LAST)

    def _restore(self) -> None:
        path = self.folder.path / checkpoint.LAST
        if path.is_file():
            state.put(checkpoint.load(path, self.world.device), self)
            self.folder.rewind(self.step, self.evaluated)
            self._say(f"resumed after step {self.step}")
        else:
            self.folder.rewind(-1, -1)
        first, last = self.world.extremes(self.step)
        if first != last:
            raise ConfigError(
                f"the processes would resume after different steps, {first} to {last}: every machine must see "
                f"{self.folder.path} with the same {checkpoint.LAST}"
            )

    def _say(self, text: str, level: int = logging.INFO) -> None:
        if self.world.main:
            log.log(level, text)

    def _epoch(self) -> int:
        return (self.step - 1) // self.steps + 1

    def _lr(self) -> float:
        return max(group["lr"] for group in self.optimizer.param_groups)
