"""Dense prediction: two processes are as one, a resumed run as an unbroken one, and loaders say what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from leanconv import training
from leanconv.data import Augment, DenseData, Scenes
from leanconv.training import Recipe, checkpoint, run_folder

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(
    data="toy", epochs=2, batch_size=4, optimizer="momentum", lr=0.1, workers=0, log_every=1, aux_loss=0.5,
    augment=Augment(hflip=0.5, resize=(0.4, 1.5)),
)  # fmt: skip
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


class Plain(nn.Module):
    """No norm: they have statistics of each process's own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aux = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 3, 3, 1, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = self.body(x).relu()
        return {"out": self.head(x), "aux": self.aux(x)}


def toy(folder) -> DenseData:
    """Twenty pictures of 3 classes, of many sizes; in some much does not count."""
    chance, paths = np.random.default_rng(0), []
    folder.mkdir(exist_ok=True)
    for index in range(20):
        height, width = chance.integers(24, 60, 2).tolist()
        mask = np.zeros((height, width), np.uint8)
        mask[4:20, 5:15], mask[: index * 2, 16:] = 1 + index % 2, 255
        pair = folder / f"{index}.png", folder / f"{index}-mask.png"
        Image.fromarray((chance.integers(0, 80, (height, width, 3)) + 60 * mask[:, :, None]).astype(np.uint8)).save(
            pair[0]
        )
        Image.fromarray(mask).save(pair[1])
        paths.append(pair)
    images, masks = zip(*paths)
    train, test = Scenes(images[:13], masks[:13], 3), Scenes(images[13:], masks[13:], 3)
    tested = {"scored": "resized", "scales": (0.5, 1.0), "flip": True}
    return DenseData("toy", "made", ("none", "one", "two"), 32, (0.5,) * 3, (0.5,) * 3, train, test, **tested)


def fit(folder, out, recipe=RECIPE, **options):
    torch.manual_seed(0)
    return training.fit(Plain(), recipe, toy(folder), out=out, device="cpu", **options)


def test_two_processes_learn_and_score_as_one(tmp_path):
    """Their shares of the pixels that count differ, so the mean of their means would be another loss."""
    fit(tmp_path / "toy", tmp_path / "one")
    script = tmp_path / "two.py"
    script.write_text(
        f"import sys, pathlib\nsys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from test_dense_processes import fit\nhere = pathlib.Path(sys.argv[1])\nfit(here / 'toy', here / 'two')\n"
    )
    script.write_text(script.read_text().replace("from test", "import torch; torch.set_num_threads(1)\nfrom test"))
    done = subprocess.run([*TORCHRUN, script, tmp_path], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    one, two = (checkpoint.load(tmp_path / name)["model"] for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    for alone, shared in zip(*(run_folder.read_metrics(tmp_path / name) for name in ("one", "two")), strict=True):
        assert shared.get("loss", 0) == pytest.approx(alone.get("loss", 0), rel=1e-4)
        for score in ("miou", "miou_multiscale"):
            assert shared.get(score, 0) == pytest.approx(alone.get(score, 0), abs=2e-3)
        assert shared.get("val_loss", 0) == pytest.approx(alone.get("val_loss", 0), rel=1e-4)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_bitwise_the_unbroken_one(tmp_path, workers):
    recipe = RECIPE.override({"workers": workers, "ema_decay": 0.9})
    whole = fit(tmp_path / "toy", tmp_path / "whole", recipe)

    def stop(network, step, steps, folder):
        if step == 2:
            os.kill(os.getpid(), 2)

    with pytest.raises(training.Interrupted):
        fit(tmp_path / "toy", tmp_path / "broken", recipe, watch=stop)
    assert checkpoint.load(tmp_path / "broken")["step"] == 2 < 6
    resumed = fit(tmp_path / "toy", tmp_path / "broken", recipe, resume=True)
    for one, other in ((whole.model, resumed.model), (whole.ema, resumed.ema)):
        assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    assert whole.summary["miou"] == resumed.summary["miou"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_mask_is_one_sentence_from_workers_too(tmp_path, workers):
    data = toy(tmp_path)
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(data.test.masks[3])
    with pytest.raises(ValueError, match=r"^\S+16-mask\.png and its image differ in size: 5x6 and \d+x\d+ pixels$"):
        list(data.loaders(4, workers=workers)[1])
    data.test.images[0].unlink()
    with pytest.raises(OSError, match=r"^cannot read the image \S+13\.png: [^\n]*$"):
        list(data.loaders(4, workers=workers)[1])
