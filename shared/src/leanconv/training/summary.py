"""What a run has to say when it is finished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leanconv import environment, profiling

if TYPE_CHECKING:
    from leanconv.training.trainer import Trainer


def of(trainer: Trainer) -> dict[str, Any]:
    """What was trained on what, the scores, how large and how long, and where."""
    recipe, data, score = trainer.recipe, trainer.data, trainer.data.score
    size = data.input_size(recipe.image_size)
    counts = profiling.count(trainer.network, size)
    best = (
        {f"best_test_{score}": trainer.best}  # chosen by the test examples: not a result
        if trainer.val_loader is None
        else {f"best_validation_{score}": trainer.best, f"picked_{score}": trainer.picked}
    )
    return {
        "model": recipe.model,
        "data": data.name,
        "data_source": data.source,
        "train_images": len(data.train),
        "test_images": len(data.test),
        "validation_images": 0 if data.val is None else len(data.val),
        "unit": data.unit,
        "score": score,
        "image_size": size[-1],
        "chance": data.chance(),
        "epochs": recipe.epochs,
        "seed": recipe.seed,
        "params": counts.params,
        "macs": counts.macs,
        **trainer.scores,
        **best,
        "seconds": trainer.seconds,
        "hardware": environment.hardware(trainer.world.device),
        "processes": trainer.world.size,
        "environment": environment.describe(),
        **trainer.card,
    }
