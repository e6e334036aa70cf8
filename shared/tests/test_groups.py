"""How parameters are grouped, what layers ask for, and who sees each step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from leanconv import models, training
from leanconv.networks.backbones import features
from leanconv.training import Recipe, build, run_folder
from leanconv.training.groups import layer_numbers
from leanconv.training.world import join

pytestmark = pytest.mark.usefixtures("one_thread")


class Clipped(nn.Module):
    """A layer with wishes: slow scales, which must stay above 0.5, and centres that do not decay."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.centre = nn.Parameter(torch.full((3, 4), 0.5)), nn.Parameter(torch.ones(3, 4))
        self.weight = nn.Parameter(torch.ones(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.scale * self.weight + self.centre).mean()

    def after_step_(self) -> None:
        with torch.no_grad():
            self.scale.clamp_(min=0.5)

    def lr_factors(self) -> dict[str, float]:
        return {"scale": 0.1}

    def no_weight_decay(self) -> set[str]:
        return {"scale", "centre"}


def grouped(recipe: Recipe, network: nn.Module) -> dict[str, tuple[float, float]]:
    """Decay and factor on the learning rate of each parameter, from the optimizer as the schedule leaves it."""
    optimizer = build.optimizer(recipe, network)
    build.schedule(recipe, optimizer, 10).step_update(3)
    names = {id(p): name for name, p in network.named_parameters()}
    top = max(group["lr"] for group in optimizer.param_groups)
    found = {
        names[id(p)]: (group["weight_decay"], round(group["lr"] / top, 9))
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert found.keys() == set(names.values())
    return found


@pytest.mark.parametrize("decay_biases", [False, True])
def test_layers_say_what_decays_and_what_is_slow(decay_biases):
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Clipped(), nn.LayerNorm(4)))
    recipe = Recipe(weight_decay=0.1, lr=1.0, decay_biases=decay_biases)
    expected = {
        "0.weight": (0.1, 1),
        "0.bias": (0.1 * decay_biases, 1),
        "1.0.scale": (0, 0.1),
        "1.0.centre": (0, 1),
        "1.0.weight": (0.1, 1),
        "1.1.weight": (0, 1),
        "1.1.bias": (0, 1),
    }
    assert grouped(recipe, network) == expected
    faster = grouped(recipe.override({"lr_factors": {"scale": 1.0, "bias": 0.5}}), network)
    assert faster == {**expected, "1.0.scale": (0, 1), "0.bias": (0.1 * decay_biases, 0.5), "1.1.bias": (0, 0.5)}


def test_a_convolution_within_what_is_called_a_norm_decays():
    class ConvNorm(nn.Sequential):
        pass

    recipe = Recipe(weight_decay=0.1, lr=1.0, decay_biases=True)
    found = grouped(recipe, ConvNorm(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)))
    assert {name: decay for name, (decay, _) in found.items()} == {
        "0.weight": 0.1,
        "0.bias": 0.1,
        "1.weight": 0,
        "1.bias": 0,
    }


def test_factors_and_layer_decay_multiply(small):
    network = models.build(small.model, **small.model_kwargs)
    graded, both = (
        grouped(small.override({"layer_decay": 0.5, "lr_factors": factors}), network)
        for factors in ({}, {"weight": 0.2})
    )
    for name, (decay, factor) in graded.items():
        assert both[name][0] == decay
        # The fastest parameter is the head's bias now.
        assert both[name][1] == pytest.approx(factor * (0.2 if name.endswith(".weight") else 1))


# Of the paper's tiny network, whose stages have 3, 3, 9 and 3 blocks.
DEPTHS = {
    "thirds": {
        "stem": 0, "stages.0.2": 1, "before 1": 2, "stages.1.0": 2, "before 2": 3, "stages.2.0": 3, "stages.2.2": 3,
        "stages.2.3": 4, "stages.2.8": 5, "before 3": 6, "stages.3.0": 6, "stages.3.2": 6, "norm1": 7, "head": 7,
    },
    "stage": {
        "stem": 0, "stages.0.2": 1, "before 1": 0, "stages.1.0": 2, "before 2": 0, "stages.2.0": 3, "stages.2.2": 3,
        "stages.2.3": 3, "stages.2.8": 3, "before 3": 0, "stages.3.0": 4, "stages.3.2": 4, "norm1": 7, "head": 7,
    },
}  # fmt: skip


@pytest.mark.parametrize("backbone", ["convnext_tiny_1d", "convnext_tiny"])
@pytest.mark.parametrize("by", ["thirds", "stage"])
def test_a_dense_network_learns_more_slowly_towards_its_stem(by, backbone):
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            narrow = {"depths": (3, 3, 9, 3), "dims": (2, 2, 4, 4), "device": "meta"}
            self.backbone = features(backbone, **narrow)
            self.head = nn.ModuleDict({"stages": nn.ModuleList([nn.Sequential(nn.Linear(4, 4, device="meta"))])})

    def place(name: str) -> str:
        plain = (
            name.replace("stages_", "stages.").replace("blocks.", "").removeprefix("backbone.").removeprefix("model.")
        )
        if plain.startswith(("stem", "downsample_layers.0")):
            return "stem"
        for number in "123":
            if plain.startswith((f"downsample_layers.{number}", f"stages.{number}.downsample")):
                return f"before {number}"
        return ".".join(plain.split(".")[:3]) if plain.startswith("stages") else plain.split(".")[0]

    network = Dense()
    found = {place(name): number for name, number in layer_numbers(network, by).items()}
    expected = DEPTHS[by] if backbone.endswith("1d") else {k: v for k, v in DEPTHS[by].items() if k != "norm1"}
    assert {name: found[name] for name in expected} == expected

    recipe = Recipe(lr=1.0, weight_decay=0.1, layer_decay=0.7, layer_decay_by=by, lr_factors={"head": 2.0})
    rates = grouped(recipe, network)
    for name, number in layer_numbers(network, by).items():
        head = 1.0 if name.startswith("head") else 0.5
        assert rates[name][1] == pytest.approx(head * 0.7 ** (7 - number), rel=1e-6), name
    assert {decay for name, (decay, _) in rates.items() if name.endswith("bias")} == {0.0}


def test_only_staged_networks_are_graded_by_stage():
    with pytest.raises(training.ConfigError, match=r"layer_decay_by 'stage' is for networks .* Linear has none"):
        build.optimizer(Recipe(layer_decay=0.7, layer_decay_by="stage"), nn.Linear(2, 2))


def test_smpconv_is_grouped_as_its_own_function_says():
    smpconv = pytest.importorskip("smpconv")
    network = models.build("smp_tcn", length=30, channels=(4, 4))
    expected = {}
    for group in smpconv.param_groups(network, 1.0, weight_decay=0.3):
        expected |= {id(p): (group["weight_decay"], group["lr"]) for p in group["params"]}
    found = grouped(Recipe(optimizer="adam", lr=1.0, weight_decay=0.3), network)
    assert found == {name: expected[id(p)] for name, p in network.named_parameters()}


def test_sequences_take_no_cutmix():
    with pytest.raises(training.ConfigError, match="cutmix is for images, and japanese_vowels has sequences"):
        build.data(Recipe(data="japanese_vowels", cutmix=1.0))


class Watched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.clipped, self.head = Clipped(), nn.Linear(784, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.clipped(x.flatten(1)))


def test_each_step_is_finished_and_seen(small, tmp_path):
    recipe, seen = small.override({"epochs": 2, "lr": 0.1, "warmup_epochs": 0.0, "schedule": "constant"}), []

    def watch(network: nn.Module, step: int, steps: int, folder: Path) -> None:
        assert folder == tmp_path / "run" and steps == 20
        assert network.clipped.scale.min() >= 0.5
        seen.append((step, network.head.weight.detach().sum().item()))

    network = Watched()
    training.fit(network, recipe, out=tmp_path / "run", device="cpu", watch=watch)
    assert [step for step, _ in seen] == list(range(21))
    assert len({weight for _, weight in seen}) == 21, "after the step, not before it"
    training.fit(Watched(), recipe, out=tmp_path / "run", device="cpu", watch=watch, resume=True)
    assert [step for step, _ in seen[21:]] == [20], "a finished run is shown as it is"


def test_the_epoch_is_picked_by_examples_held_out(small, tmp_path):
    recipe = small.override({"validation": 60, "train_images": 256, "epochs": 3})
    result = training.fit(None, recipe, out=tmp_path / "run", device="cpu")
    epochs = [record for record in run_folder.read_metrics(tmp_path / "run") if record["kind"] == "epoch"]
    best = max(epochs, key=lambda record: record["validation_top1"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["best_validation_top1"], summary["picked_top1"]) == (best["validation_top1"], best["top1"])
    assert summary["top1"] == epochs[-1]["top1"] and "best_test_top1" not in summary
    assert (summary["validation_images"], summary["train_images"], summary["unit"]) == (60, 256, "images")
    assert torch.load(tmp_path / "run" / "best.pt")["step"] == best["step"]
    assert all(round(60 * record["validation_top1"], 6).is_integer() for record in epochs)
    with join("cpu") as world:
        *_, held_out = build.loaders(recipe, build.data(recipe), world)
    assert training.evaluate(result.model, held_out, recipe)["top1"] == epochs[-1]["validation_top1"]
