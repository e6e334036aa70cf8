"""dwoconv1d's receptive fields: a smoke run on real photographs, what goes on, and what is refused."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from PIL import Image
from scripts import script

from leanconv import models
from leanconv.data import DataNotFound, load


@pytest.fixture
def erf(tmp_path, monkeypatch):
    """Runs the script where there are no runs of others; returns its exit code."""
    module = script("dwoconv1d/erf")
    monkeypatch.chdir(tmp_path)

    def call(*arguments) -> int:
        monkeypatch.setattr(sys, "argv", ["erf.py", *map(str, arguments)])
        return module.main()

    return call


@pytest.fixture
def folder(tmp_path):
    """Two pictures as ImageNet lies, and one beside them that is not ImageNet's."""
    for name, colour in (("imagenet/val/a/1.png", 50), ("imagenet/val/b/2.png", 200), ("coco/3.png", 90)):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        Image.radial_gradient("L").point(lambda v, c=colour: (v + c) % 256).convert("RGB").save(path)
    return tmp_path / "data"


def test_averaged_weights_are_measured_where_a_file_holds_them(tmp_path):
    module, name = script("dwoconv1d/erf"), "convnext_tiny_1d"
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in models.build(name).state_dict().items()}
    plain, averaged = ({key: torch.tensor(value).expand(s) for key, s in shapes.items()} for value in (0.25, 0.5))
    for content, wanted in (({"model": plain, "model_ema": averaged}, 0.5), ({"model": plain}, 0.25)):
        torch.save(content, tmp_path / "file.pth")
        network = module.of_name(name, str(tmp_path / "file.pth")).build()
        assert all((value == wanted).all() for value in network.parameters())


def test_blocks_of_untrained_networks_add_something():
    network = script("dwoconv1d/erf").of_name("resnet18", None).build()
    assert network.layer1[0].bn2.weight.all() and not network.layer1[0].bn2.bias.any()
    assert (script("dwoconv1d/erf").of_name("convnext_atto", None).build().stages[0].blocks[0].gamma == 1).all()


def test_weights_of_another_network_are_one_sentence(tmp_path):
    module = script("dwoconv1d/erf")
    torch.save(models.build("resnet18").state_dict(), tmp_path / "other.pt")
    with pytest.raises(module.Problem, match=r"--weights resnet34=.*other\.pt holds those of another network: Missing"):
        module.of_name("resnet34", str(tmp_path / "other.pt")).build()


def test_smoke_measures_photographs_and_goes_on(erf, tmp_path, capsys):
    try:
        load("composites_coco")  # made of them
    except DataNotFound as error:
        pytest.skip(f"no network and no package: {error}")
    options = ["--smoke", "--image-size", 64, "--model", "convnext_tiny_1d", "convnext_atto", "--device", "cpu"]
    ignored = ["--set", "epochs=1", "--seeds", 0]
    assert erf(*options, "--images", 1, "--out", "out", *ignored) == 0
    table = capsys.readouterr().out
    assert table == (tmp_path / "out" / "erf.md").read_text()
    assert "| convnext_tiny_1d, untrained |" in table and "| convnext_atto, untrained |" in table
    assert (tmp_path / "out" / "erf.png").stat().st_size > 10_000
    first = json.loads((tmp_path / "out" / "erf.json").read_text())["networks"]
    assert [row["images"] for row in first] == [1, 1]
    for row in first:
        sides = [square["side"] for square in row["squares"]]
        assert sides == sorted(sides) and sides[-1] <= 64

    assert erf(*options, "--images", 1, "--out", "out") == 1
    assert "is there already: add --resume" in capsys.readouterr().err
    assert erf(*options, "--images", 1, "--out", "out", "--resume") == 0
    assert json.loads((tmp_path / "out" / "erf.json").read_text())["networks"] == first


def test_of_a_folder_of_data_sets_imagenets_are_measured(erf, folder, tmp_path):
    options = ["--data", folder, "--image-size", 32, "--model", "convnext_atto", "--device", "cpu", "--out", "out"]
    assert erf(*options) == 0
    (row,) = json.loads((tmp_path / "out" / "erf.json").read_text())["networks"]
    assert row["images"] == 2


def test_what_cannot_be_measured_is_said(erf, folder, capsys):
    def said(*arguments) -> str:
        assert erf(*arguments) == 1
        return capsys.readouterr().err.strip()

    small = ["--image-size", 32, "--device", "cpu", "--out", "out", "--data"]
    assert said(*small, folder / "none", "--model", "convnext_atto").endswith("none is no folder")
    (folder / "empty").mkdir()
    assert "holds no images (" in said(*small, folder / "empty", "--model", "convnext_atto")
    assert "--weights must read NETWORK=FILE" in said(*small, folder, "--model", "convnext_atto", "--weights", "a.pth")
    assert "no_such_network" in said(*small, folder, "--model", "no_such_network")
    with pytest.raises(SystemExit):
        erf("--model", "convnext_atto")
    assert "give --data FOLDER" in capsys.readouterr().err
