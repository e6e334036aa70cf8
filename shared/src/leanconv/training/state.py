"""What the file of a run holds, and how a trainer goes on from it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from leanconv.training.trainer import Trainer


def weights(trainer: Trainer) -> dict[str, Any]:
    """The network, its average, and of which step they are."""
    ema = trainer.ema.module.state_dict() if trainer.ema else None
    return {"model": trainer.network.state_dict(), "ema": ema, "step": trainer.step, "best": trainer.best}


def gather(trainer: Trainer) -> dict[str, Any]:
    """All that `put` needs. Processes must call it together: of the sums of losses, which each has its own of, the
    means over them are kept, as whoever goes on may be one or many."""
    return weights(trainer) | {
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "evaluated": trainer.evaluated,
        "picked": trainer.picked,
        "losses": torch.tensor([trainer.world.mean(loss) for loss in trainer.losses]),
        "parts": {name: torch.tensor(trainer.world.mean(part)) for name, part in trainer.parts.items()},
        "scores": trainer.scores,
        "seconds": trainer.seconds + time.monotonic() - trainer._clock,
        "card": trainer.card,
    }


def put(state: Mapping[str, Any], trainer: Trainer) -> None:
    """Give a trainer the state that `gather` found."""
    trainer.network.load_state_dict(state["model"])
    if trainer.ema:
        trainer.ema.module.load_state_dict(state["ema"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.step, trainer.evaluated = state["step"], state["evaluated"]
    trainer.best, trainer.picked = state["best"], state["picked"]
    trainer.losses, trainer.seconds = state["losses"].to(trainer.world.device), state["seconds"]
    trainer.scores, trainer.card = state["scores"], trainer.card or state["card"]
    trainer.parts = state.get("parts", {})  # runs of before there was detection have none
