"""Reports of run folders that small real runs have left."""

from __future__ import annotations

import json
import statistics

import pytest

from leanconv import plots, report, training
from leanconv.cli import main
from leanconv.training import Recipe
from leanconv.training.run_folder import write_json

RECIPE = Recipe(
    model="convnext_tiny_2d",
    model_kwargs={"depths": (1, 1), "dims": (8, 16), "kernel_sizes": (5, 3), "layer_scale_init_value": 0.5},
    data="fashion_mnist",
    smoke=True,
    train_images=640,
    test_images=200,
    epochs=2,
    batch_size=64,
    lr=5e-3,
    ema_decay=0.8,
)
CARD = {
    "row": "narrow 2D",
    "paper": {"top1": 81.8, "ema_top1": 82.0, "on": "ImageNet-1K", "source": "ImageNet-1K, 300 epochs"},
    "table": {"narrow 2D": "-", "the real thing": "81.8 / 82.0"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        training.fit(None, RECIPE.override({"seed": seed}), out=folder / f"2d-seed{seed}", device="cpu", card=CARD)
    one = {"model": "convnext_tiny_1d", "ema_decay": None, "epochs": 1}
    training.fit(None, RECIPE.override(one), out=folder / "1d", device="cpu")
    (folder / "stopped").mkdir()
    write_json(folder / "stopped" / "recipe.json", RECIPE.to_dict())
    return folder


def test_rows_join_seeds_and_stand_beside_the_paper(runs):
    gathered = report.gather([runs])
    one, two = gathered.rows
    assert (one.label, len(one.runs)) == ("convnext_tiny_1d", 1)
    assert (two.label, len(two.runs)) == ("narrow 2D", 2)
    top1 = [100 * json.loads((runs / f"2d-seed{seed}" / "summary.json").read_text())["top1"] for seed in (0, 1)]
    assert two.spread("top1") == f"{statistics.mean(top1):.2f} ± {abs(top1[0] - top1[1]) / 2**0.5:.2f}"
    assert "±" not in one.spread("top1")
    assert one.spread("ema_top1") == "-"
    for text in (gathered.text(), gathered.markdown()):
        assert "81.8 / 82.0 EMA, ImageNet-1K" in text
        assert "Paper: ImageNet-1K, 300 epochs." in text
        assert "Not run here (paper's numbers in brackets): the real thing (81.8 / 82.0)." in text
        assert f"Not finished: {runs / 'stopped'}, no step logged" in text
        assert two.runs[0]["data_source"] in text
    rows = [line for line in gathered.markdown().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert len(rows) == 4


def test_a_repeated_seed_is_not_a_second_seed(runs, tmp_path):
    training.fit(None, RECIPE.override({"epochs": 1}), out=tmp_path / "first", device="cpu")
    training.fit(None, RECIPE.override({"epochs": 1, "workers": 1}), out=tmp_path / "second", device="cpu")
    (row,) = report.gather([tmp_path]).rows
    assert [run["folder"] for run in row.runs] == [str(tmp_path / "second")]


def test_command_writes_table_numbers_and_picture(runs, tmp_path, capsys):
    assert main(["report", str(runs), "--out", str(tmp_path / "out")]) == 0
    assert "narrow 2D" in capsys.readouterr().out
    assert "| narrow 2D |" in (tmp_path / "out" / "report.md").read_text()
    assert set(json.loads((tmp_path / "out" / "report.json").read_text())) == {"narrow 2D", "convnext_tiny_1d"}
    assert (tmp_path / "out" / "report.png").stat().st_size > 10_000


def test_a_folder_without_runs_is_said_plainly(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert f"no run at or below {tmp_path}" in capsys.readouterr().err


def test_shares_are_drawn(tmp_path):
    rows = {"layer1": (0.2, 0.3, 0.5), "layer2": (0.0, 1.0, 0.0)}
    for name, marks in (("plain", None), ("marked", ("a mark", (0.3, 0.6)))):
        plots.shares(rows, ("a", "b", "c"), "title", tmp_path / f"{name}.png", marks)
    plain, marked = ((tmp_path / f"{name}.png").stat().st_size for name in ("plain", "marked"))
    assert 5_000 < plain < marked
