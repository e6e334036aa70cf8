"""The READMEs' Python runs as printed, and nothing in them is left to fill in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md"))]

readmes = pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))


@readmes
def test_examples_run(readme, tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", readme.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        for file in re.findall(r'"(\w+)_best\.pth"', block):  # what a user would have downloaded
            import timm

            weights = timm.create_model(file).state_dict()
            torch.save({"model": weights, "model_ema": weights}, f"{file}_best.pth")
        exec(compile(block, str(readme), "exec"), names)


@readmes
def test_nothing_is_left_to_fill_in(readme):
    assert not re.findall(r"@@\w*|TODO|\bTBD\b", readme.read_text())


@readmes
def test_links_within_the_tree_lead_somewhere(readme):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", readme.read_text()):
        assert (readme.parent / target).exists(), target
