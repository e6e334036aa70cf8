"""The experiments of csgconv: recipes and networks as in the paper, and what stands beside our numbers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from scripts import script

PARAMS = {  # millions would hide a slip
    ("resnet20", "plain"): 269_722,
    ("resnet20", "csg16-72"): 176_698,
    ("resnet56", "plain"): 853_018,
    ("resnet56", "csg"): 160_450,
    ("resnet56", "csg16"): 347_162,
    ("densenet36", "plain"): 1_542_682,
    ("densenet36", "csg"): 842_842,
    ("densenet48", "plain"): 2_733_130,
    ("densenet48", "csg"): 1_416_394,
}


def params(recipe, **kwargs) -> int:
    from leanconv import models

    with torch.device("meta"):
        return sum(p.numel() for p in models.build(recipe.model, **recipe.model_kwargs, **kwargs).parameters())


def test_csgconv_recipes_are_the_papers():
    cifar, imagenet = script("csgconv/cifar10"), script("csgconv/imagenet")
    small, dense = cifar.recipe("resnet56", "csg16"), cifar.recipe("densenet48", "csg")
    for recipe in (small, dense):
        assert (recipe.epochs, recipe.lr, recipe.weight_decay, recipe.momentum) == (200, 0.05, 5e-4, 0.9)
        assert (recipe.schedule, recipe.milestones, recipe.decay_rate) == ("multistep", (100, 150), 0.1)
        assert (recipe.augment.padding, recipe.augment.hflip, recipe.amp, recipe.clip_grad) == (4, 0.5, "none", None)
    assert (small.batch_size, dense.batch_size) == (192, 128)
    large = imagenet.recipe("50", "csg")
    assert (large.epochs, large.batch_size, large.lr, large.weight_decay) == (100, 256, 0.1, 1e-4)
    assert (large.milestones, large.image_size, large.augment.scale) == ((30, 60, 90), 224, (0.08, 1.0))
    assert (large.augment.hflip, large.augment.eval_crop, large.augment.interpolation) == (0.5, 0.875, "bilinear")


def test_csgconv_everything_decays_and_momentum_is_plain():
    from leanconv import models
    from leanconv.training import build

    recipe = script("csgconv/cifar10").recipe("resnet20", "csg")
    network = models.build(recipe.model, **recipe.model_kwargs)
    optimizer = build.optimizer(recipe, network)
    assert (type(optimizer), optimizer.defaults["nesterov"]) == (torch.optim.SGD, False)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {5e-4}
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in learning} == {id(p) for p in network.parameters()}, "codes and generator are among them"


def test_csgconv_networks_have_the_published_sizes():
    cifar, imagenet = script("csgconv/cifar10"), script("csgconv/imagenet")
    assert cifar.RESULTS.keys() == PARAMS.keys()
    for (network, kind), count in PARAMS.items():
        assert params(cifar.recipe(network, kind, "published")) == count, (network, kind)
    for network, count in (("26", 10_371_368), ("50", 15_163_432)):
        assert params(imagenet.recipe(network, "csg", "published")) == count
    plain, ours = (params(imagenet.smoke_recipe(kind), num_classes=10, in_chans=1) for kind in ("plain", "csg"))
    assert ours < 0.7 * plain


@pytest.mark.parametrize(("network", "std"), [("resnet20", 2**0.5), ("densenet36", 3**-0.5)])
def test_csgconv_published_start_has_the_published_scale(network, std):
    csgconv = pytest.importorskip("csgconv")
    from leanconv import models

    cifar = script("csgconv/cifar10")
    for start, scale in (("published", std), ("he", None)):
        recipe = cifar.recipe(network, "csg", start)
        model = models.build(recipe.model, **recipe.model_kwargs)
        for layer in model.modules():
            if isinstance(layer, csgconv.CSGConv2d):
                wanted = scale or (2 / (9 * layer.out_channels)) ** 0.5
                assert layer.weight.std().item() == pytest.approx(wanted, rel=0.25)


def test_csgconv_names_what_ran_and_keeps_the_papers_numbers_to_its_networks():
    cifar, imagenet = script("csgconv/cifar10"), script("csgconv/imagenet")

    def card(*changes, network="resnet56", kind="csg16", start="he", smoke=False):
        _, chosen, found = cifar.plan(network, kind, start, smoke)
        found = found(chosen.override(changes))
        return found["row"], found.get("paper", {}).get("top1")

    assert card() == card("lr=0.1") == ("ResNet-56 CSG 16-128 on CIFAR-10", 92.75)
    assert card(start="published") == ("ResNet-56 CSG 16-128, published start on CIFAR-10", 92.75)
    assert card(kind="flat") == ("ResNet-56 CSG 12-72 flat on CIFAR-10", None)
    assert card("model_kwargs.code_size=64") == ("csg_resnet56 on CIFAR-10", None)
    assert card("data=cifar100") == ("ResNet-56 CSG 16-128", None)
    assert card(network="mobilenetv2", kind="csg") == ("MobileNetV2 CSG 16-16 on CIFAR-10", None)
    assert card(network="resnet20", kind="plain", smoke=True) == ("ResNet-20", 91.73)

    def large(*changes, network="26", kind="csg", smoke=False):
        planned = imagenet.smoke_recipe(kind) if smoke else imagenet.recipe(network, kind)
        found = partial(imagenet.card, planned=planned, network=network, kind=kind, start="he")(
            planned.override(changes)
        )
        return found["row"], found.get("paper", {}).get("top1")

    assert large() == ("ResNet-26 CSG 16-128 on ImageNet-1K", 71.5)
    assert large(network="18") == ("ResNet-18 CSG 16-128 on ImageNet-1K", None), "the authors' table has another"
    assert large("data=imagefolder") == ("ResNet-26 CSG 16-128", None)
    assert large(network="18", smoke=True) == ("narrow ResNet CSG 12-72", None)


def test_csgconv_reuse_plans_what_its_names_say():
    reuse = script("csgconv/reuse")
    for key, pair in reuse.PAIRS.items():
        assert key == "-".join(pair[:2])
    pair, file = reuse.PAIRS["resnet20-resnet56"], Path("donor.pt")
    kwargs = {kind: reuse.planned(pair, kind, file, False).model_kwargs for kind in reuse.KINDS}
    sizes = {"slice_shape": (16, 16, 3, 3), "code_size": 72}
    assert kwargs["trained"] == {**sizes, "generator": "donor.pt"}
    assert kwargs["random"] == {**sizes, "frozen": True} and kwargs["binary"] == {**sizes, "binary": True}
    assert kwargs["own"] == sizes
    trained = reuse.planned(pair, "trained", file, False)
    found = reuse.card(trained, plan=trained, pair=pair, kind="trained")
    assert found["row"] == "ResNet-56 CSG 16-72, generator of ResNet-20 on CIFAR-10"
    assert found["paper"]["top1"] == 88.24 and found["row"] in found["table"]
    assert "paper" not in reuse.card(trained.override(["model=resnet18"]), plan=trained, pair=pair, kind="trained")
