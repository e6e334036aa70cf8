"""The experiments of csgconv run small on real data: what is stored, reused and drawn."""

from __future__ import annotations

import json

import pytest
import torch
from scripts import here, run, script

FEW = ["epochs=1", "train_images=96", "test_images=100", "batch_size=32"]


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    out = tmp_path_factory.mktemp("cifar10")
    arguments = ["--smoke", "--kind", "plain", "csg", "binary", "--out", out, "--device", "cpu", "--set", *FEW]
    run("csgconv/cifar10", *arguments)
    return out


def test_csgconv_smoke_trains_and_tells_what_storing_takes(cifar10):
    report = (cifar10 / "report.md").read_text()
    assert "| ResNet-20 CSG 12-72 |" in report and "91.73, CIFAR-10" in report
    assert "ResNet-56 CSG 16-128 on CIFAR-10 (92.75)" in report
    found = {
        kind: json.loads((cifar10 / f"resnet20-{kind}-seed0" / "storage.json").read_text())
        for kind in ("plain", "csg", "binary")
    }
    plain, csg, binary = found.values()
    assert "fp32" not in plain and plain["learned"] == plain["parameters"] == 269_434
    assert csg["parameters"] == csg["learned"] == binary["parameters"] == 115_138
    assert binary["learned"] == 115_138 - 93_312
    for one in (csg, binary):
        assert one["int8"]["bytes"] < one["fp16"]["bytes"] < one["fp32"]["bytes"] <= one["state dict"]["bytes"]
        assert one["fp32"]["top1"] == one["top1"], "what is not rounded is as it was"
        assert abs(one["int8"]["top1"] - one["top1"]) < 0.1 and 0 < one["int8"]["kernel_error"] < 0.02
    assert binary["int8"]["bytes"] < 0.5 * csg["int8"]["bytes"]
    table = (cifar10 / "storage.md").read_text()
    assert table.count("| ResNet-20") == 3 and "| 115,138 | 21,826 |" in table


def test_csgconv_spectrum_takes_the_runs_that_are_there(cifar10):
    folder = cifar10 / "resnet20-csg-seed0"
    assert "plain" not in json.loads((folder / "spectrum.json").read_text())["ranks"]
    done = here("csgconv/spectrum", "--smoke", "--out", cifar10, "--device", "cpu", "--set", *FEW)
    assert "step" not in done.stderr, "nothing is trained again"
    found = json.loads((folder / "spectrum.json").read_text())
    assert found["slices"] == [240, 1296] and len(found["kernels"]) == 18
    assert found["ranks"]["generated"][-1] <= 72 < found["ranks"]["gaussian"][0] and 0.5 < found["plain_error"] < 1
    assert min((folder / name).stat().st_size for name in ("spectrum.png", "codes.png")) > 10_000
    assert not (cifar10 / "resnet20-plain-seed0" / "codes.png").exists()


def test_csgconv_reuse_freezes_the_generator_it_has_loaded(tmp_path):
    run("csgconv/reuse", "--smoke", "--out", tmp_path, "--device", "cpu", "--set", *FEW)
    name = "stages.0.0.conv1.generator."
    runs = ("resnet32-donor", "resnet20-trained", "resnet20-random")
    donor, trained, random = (torch.load(tmp_path / f"{one}-seed0" / "last.pt")["model"] for one in runs)
    assert torch.equal(trained[f"{name}weight"], donor[f"{name}weight"])
    assert not torch.equal(random[f"{name}weight"], donor[f"{name}weight"])
    table = (tmp_path / "storage.md").read_text()
    assert "| ResNet-20 CSG 12-72, generator of ResNet-32 | 115,138 | 21,826 |" in table


def test_csgconv_imagenet_smoke_trains(tmp_path):
    run("csgconv/imagenet", "--smoke", "--kind", "csg", "--out", tmp_path, "--device", "cpu", "--set", *FEW)
    assert "| narrow ResNet CSG 12-72 |" in (tmp_path / "report.md").read_text()
    assert "ResNet-26 CSG 16-128 on ImageNet-1K (71.5)" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "csg-seed0" / "codes.png").exists()


@pytest.mark.parametrize("bias", [False, True])
def test_csgconv_spectrum_measures_the_slices_themselves(bias):
    csgconv, spectrum = pytest.importorskip("csgconv"), script("csgconv/_spectrum")
    generator = csgconv.SliceGenerator(3, (2, 2, 3, 3), bias=bias)
    net = torch.nn.Sequential(
        csgconv.CSGConv2d(4, 4, 3, generator), csgconv.CSGConv2d(4, 5, 3, generator), torch.nn.Conv2d(5, 5, 3)
    ).double()
    if bias:
        torch.nn.init.normal_(generator.bias)
    parts = spectrum.slices(net)
    assert list(parts) == ["0", "1"] and [len(part) for part in parts.values()] == [4, 5]
    slices = torch.nn.functional.linear(generator.codes, generator.weight, generator.bias)[:9].detach()
    found = torch.cat(list(parts.values()))
    torch.testing.assert_close(found @ found.T, slices @ slices.T)
    squares = torch.linalg.svdvals(slices).square().cumsum(0)
    kept = (squares / squares[-1])[: found.shape[1]]
    torch.testing.assert_close(spectrum.energies(found), kept)
    assert spectrum.ranks(torch.diag(torch.tensor([3.0, 1.0, 0.1, 0.01]))) == [2, 2, 3]
    unit = torch.nn.functional.normalize(slices, dim=1)
    torch.testing.assert_close(spectrum.cosines(parts), unit @ unit.T)
    between = (unit[:4] @ unit[4:].T).square().mean().mul(found.shape[1]).sqrt()
    within = (unit[:4] @ unit[:4].T).fill_diagonal_(0).square().sum().div(12).mul(found.shape[1]).sqrt()
    torch.testing.assert_close(spectrum.alike(parts)[0], torch.stack([within, between]))
    assert [tuple(piece.shape) for piece in spectrum.cut(net, ["2"], 36).values()] == [(7, 36)]
