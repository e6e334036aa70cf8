"""The recipe: overrides, types and ranges."""

from __future__ import annotations

import json

import pytest

from leanconv import training
from leanconv.training import Recipe, build


def test_overrides_are_typed_and_survive_json():
    recipe = Recipe().override(["lr=1", "ema_decay=none", "compile=true", "betas=(0.8,0.9)", "augment.hflip=0.5",
                                "model_kwargs.dims=[8,16]", "amp=bf16", "data_root=/some/where"])  # fmt: skip
    assert (recipe.lr, recipe.ema_decay, recipe.compile, recipe.betas) == (1.0, None, True, (0.8, 0.9))
    assert isinstance(recipe.lr, float)
    assert (recipe.augment.hflip, recipe.model_kwargs, recipe.amp) == (0.5, {"dims": [8, 16]}, "bf16")
    assert Recipe().override(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lrr=1", "unknown key 'lrr': did you mean lr"),
        ("augment.hflp=1", "unknown key 'augment.hflp': did you mean hflip"),
        ("lr", "'lr' is not of the form key=value"),
        ("lr=fast", "lr must be float, got 'fast'"),
        ("epochs=1.5", "epochs must be int, got 1.5"),
        ("epochs=true", "epochs must be int, got True"),
        ("epochs=0", "epochs must lie in [1, inf), got 0"),
        ("amp=fp8", "amp must be none or bf16 or fp16, got 'fp8'"),
        ("lr.x=1", "'lr.x': lr has no parts"),
        ("lr=1e999", "lr must lie in [0, inf), got inf"),
        ("ema_decay=2.0", "ema_decay must lie in [0, 1), got 2.0"),
        ("mixup=-1", "mixup must lie in [0, inf), got -1.0"),
        ("clip_grad=0", "clip_grad must lie in (0, inf), got 0.0"),  # would zero every gradient
        ("label_smoothing=2", "label_smoothing must lie in [0, 1), got 2.0"),
        ("drop_path=1.5", "drop_path must lie in [0, 1), got 1.5"),
        ("workers=-1", "workers must lie in [0, inf), got -1"),
        ("seed=-1", "seed must lie in [0, inf), got -1"),
        ("train_images=0", "train_images must lie in [1, inf), got 0"),
        ("betas=[0.9]", "betas must hold 2 numbers, got [0.9]"),
        ("betas=0.9", "betas must be tuple, got 0.9"),
        ("betas=[0.9,1]", "betas must lie in [0, 1), got (0.9, 1.0)"),
        ("milestones=['a']", "milestones[0] must be int, got 'a'"),
        ("milestones=[5,3]", "milestones must rise, got (5, 3)"),
        ("augment.ratio=[2,1]", "augment.ratio must be a pair (low, high), got (2.0, 1.0)"),
        ("schedule=step", "schedule 'step' needs milestones"),
        ("augment.hflip=3", "augment.hflip must lie in [0, 1], got 3.0"),
        ("augment.scale=[0.1]", "augment.scale must hold 2 numbers, got [0.1]"),
        ("augment.interpolation=cubic", "augment.interpolation must be one of bicubic"),
        ("optimizer=adamx", "optimizer must be one of timm.optim.list_optimizers(), got 'adamx'"),
        ("accumulate=3", "batch_size 128 does not divide into accumulate=3 parts"),
    ],
)
def test_bad_overrides_are_one_plain_sentence(text, message):
    with pytest.raises(training.ConfigError) as error:
        Recipe().override([text])
    assert message in str(error.value)


@pytest.mark.parametrize("value", [{"lr": float("nan")}, {"lr": "1"}, {"amp": "fp8"}, {"betas": (0.9,)}])
def test_a_recipe_made_in_python_is_checked_too(value):
    with pytest.raises(training.ConfigError, match=next(iter(value))):
        Recipe(**value)


def test_the_edges_of_the_ranges_are_allowed():
    recipe = Recipe(optimizer="lookahead_RAdam", mix_prob=1.0, workers=0, layer_decay=1.0, save_seconds=float("inf"))
    assert Recipe(betas=[0, 0.99]).betas == (0.0, 0.99)
    assert recipe.override(["clip_grad=none", "warmup_lr=0", "augment.hflip=1"]).augment.hflip == 1.0


def test_batches_that_cannot_be_split_are_refused(small):
    with pytest.raises(training.ConfigError, match="does not divide into 3"):
        build.local_batch(small, world_size=3)
    with pytest.raises(training.ConfigError, match="mixup needs an even batch"):
        build.local_batch(small.override(["batch_size=33", "mixup=0.1"]), world_size=1)
