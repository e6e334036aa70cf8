"""UPerNet: its size, its shapes over any backbone, and where its losses come from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from leanconv import models, profiling
from leanconv.networks import UPerNet, features
from leanconv.networks.upernet import PyramidPooling
from leanconv.training import Recipe, build, dense

pytestmark = pytest.mark.usefixtures("one_thread")

# The paper's table, and 1D++'s 60.64 M is 60 M there.
PAPER = {"2d": (60, 60_242_636), "1d": (60, 60_074_252), "1dpp": (60, 60_643_596), "2dpp": (61, 60_869_324)}


def small(**options):
    torch.manual_seed(0)
    return models.build("upernet", num_classes=5, **{"backbone": "resnet18", "width": 16, "aux_width": 8, **options})


@pytest.mark.parametrize("variant", PAPER)
def test_it_is_as_large_as_published(variant):
    dwoconv1d = pytest.importorskip("dwoconv1d.models")
    sizes = dwoconv1d.BACKBONE_KERNEL_SIZES[variant]
    with torch.device("meta"):
        network = models.build(
            "upernet", num_classes=150, backbone=f"convnext_tiny_{variant}", backbone_kwargs={"kernel_sizes": sizes}
        )
    published, exact = PAPER[variant]
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == exact and abs(count / 1e6 - published) < 0.65


def test_multiply_adds_are_as_published():
    pytest.importorskip("dwoconv1d")
    with torch.device("meta"):
        network = models.build("upernet", num_classes=150, backbone="convnext_tiny_2d")
        counted = profiling.count(network, (3, 512, 2048))
    assert round(counted.macs / 1e9) == pytest.approx(939, abs=1), "paper: 939G"


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (40, 33)])
def test_classes_of_every_pixel_and_the_auxiliary_heads_in_training(size):
    network, images = small(), torch.randn(2, 3, *size)
    found = network(images)
    assert found.keys() == {"out", "aux"} and all(each.shape == (2, 5, *size) for each in found.values())
    dense.criterion(Recipe())(found, torch.randint(5, (2, *size))).backward()
    learning = {name for name, p in network.named_parameters() if p.grad is not None}
    assert learning == {name for name, _ in network.named_parameters()}
    assert network.eval()(images).keys() == {"out"}
    assert small(aux_width=0)(images).keys() == {"out"}


def test_two_maps_do_and_one_does_not():
    two = features("resnet18", out_indices=(1, 4))
    assert UPerNet(two, 3, 8)(torch.randn(2, 3, 64, 64))["aux"].shape == (2, 3, 64, 64)
    with pytest.raises(ValueError, match="a backbone of two maps or more"):
        UPerNet(features("resnet18", out_indices=(4,)), 3, 8)
    with pytest.raises(ValueError, match="upernet has no published weights"):
        models.build("upernet", pretrained=True)


def test_pooling_sees_means_over_grids():
    pooling = PyramidPooling(2, 3, pools=(1, 2)).eval()
    x = torch.randn(1, 2, 4, 4)
    kernels = [pool[1][0].weight[:, :, 0, 0] for pool in pooling.pools]
    scale = (1 + 1e-5) ** -0.5  # a fresh norm's
    grids = [x.mean((2, 3), keepdim=True), x.view(1, 2, 2, 2, 2, 2).mean((3, 5))]
    parts = [F.relu(torch.einsum("oc,nchw->nohw", k, g) * scale) for k, g in zip(kernels, grids)]
    parts = [F.interpolate(part, (4, 4), mode="bilinear") for part in parts]
    expected = F.relu(F.conv2d(torch.cat([x, *parts], 1), pooling.join[0].weight, padding=1) * scale)
    torch.testing.assert_close(pooling(x), expected)


def test_the_pyramid_adds_the_coarse_to_the_fine():
    """Against the paper's figure, written out for two maps."""
    network = UPerNet(features("resnet18", out_indices=(3, 4)), 4, 8, dropout=0.5).eval()
    x = torch.randn(1, 3, 64, 64)
    fine, coarse = network.backbone(x)
    top = network.pooling(coarse)
    side = network.laterals[0](fine) + F.interpolate(top, fine.shape[-2:], mode="bilinear")
    joined = torch.cat([network.smooth[0](side), F.interpolate(top, fine.shape[-2:], mode="bilinear")], 1)
    logits = network.classifier[1](network.fuse(joined))
    torch.testing.assert_close(network(x)["out"], F.interpolate(logits, (64, 64), mode="bilinear"))


def test_the_backbone_learns_stage_by_stage_and_starts_from_weights(tmp_path):
    pytest.importorskip("dwoconv1d")
    narrow = {"depths": (1, 4, 1), "dims": (8, 12, 16), "patch_size": 2}
    network = small(backbone="convnext_tiny_2d", backbone_kwargs=narrow)
    recipe = Recipe(optimizer="adamw", lr=1.0, layer_decay=0.5, layer_decay_by="stage")
    optimizer = build.optimizer(recipe, network)
    build.schedule(recipe, optimizer, 10).step_update(0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in network.named_parameters()}
    assert found["backbone.model.downsample_layers.2.1.weight"] == pytest.approx(0.5**5)  # L = 2 + ceil(4 / 3)
    assert found["backbone.model.stages.1.3.gamma"] == pytest.approx(0.5**3)
    assert found["backbone.model.norm2.weight"] == found["classifier.1.weight"] == found["pooling.join.0.weight"] == 1

    donor = models.build("convnext_tiny_2d", num_classes=7, **narrow)
    torch.save(donor.state_dict(), tmp_path / "weights.pt")
    left_out = build.start(recipe.override({"start": {"backbone": str(tmp_path / "weights.pt")}}), network)
    assert sorted(name.rpartition(" ")[2] for name in left_out) == [
        "head.bias",
        "head.weight",
        "norm.bias",
        "norm.weight",
    ]
    assert torch.equal(network.backbone.model.stages[1][3].gamma, donor.stages[1][3].gamma)
