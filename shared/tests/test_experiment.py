"""What experiments show, where they go on, and what they say when they are stopped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from leanconv.training import ConfigError, Interrupted, experiment

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_experiment_shows_each_finished_run_once(small, tmp_path):
    parser = argparse.ArgumentParser()
    experiment.add_arguments(parser, out="nowhere")
    flags = ["--smoke", "--out", str(tmp_path), "--device", "cpu"]
    plans = [(name, small.override({"epochs": 1, "lr": lr}), lambda ran: {}) for name, lr in (("a", 1e-3), ("b", 2e-3))]
    for again in ([], ["--resume"]):  # those finished before count again: what looks at them may have been stopped
        seen: list[Path] = []
        assert experiment.run(plans, parser.parse_args(flags + again), after=seen.append) == 0
        assert seen == [tmp_path / "a-seed0", tmp_path / "b-seed0"]
    assert (tmp_path / "report.md").is_file()


def test_an_experiment_with_nothing_to_resume_starts(small, tmp_path, caplog):
    parser = argparse.ArgumentParser()
    experiment.add_arguments(parser, out=str(tmp_path / "what"))
    plans = [("a", small.override({"epochs": 1}), lambda ran: {})]
    caplog.set_level("INFO")
    for _ in range(2):
        assert experiment.run(plans, parser.parse_args(["--smoke", "--resume", "--device", "cpu"])) == 0
    said = [line for line in caplog.messages if "nothing to resume" in line]
    (folder,) = tmp_path.iterdir()
    assert said == [f"nothing to resume: there is no {tmp_path}/what-smoke-*; starting in {folder}"]


@pytest.mark.parametrize("again", [[], ["--resume"]])
def test_a_stopped_experiment_says_what_to_type(again, small, tmp_path, monkeypatch, capsys):
    def stopped(*_, **__):
        raise Interrupted("stopped after step 3")

    typed = ["python3", "the script.py", "--smoke", "--device", "cpu", "--out", str(tmp_path / "a"), *again]
    parser = argparse.ArgumentParser()
    experiment.add_arguments(parser, out="nowhere")
    monkeypatch.setattr(experiment, "fit", stopped)
    monkeypatch.setattr(sys, "orig_argv", typed)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert experiment.run([("a", small, lambda ran: {})], parser.parse_args(typed[2:])) == 130
    command = f"python3 'the script.py' --smoke --device cpu --out {tmp_path / 'a'} --resume"
    said = f"stopped after step 3; `{command}` goes on with all that this experiment has left\n"
    assert capsys.readouterr().err == said
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert experiment.run([("a", small, lambda ran: {})], parser.parse_args(typed[2:])) == 130
    assert "the same launch with --resume goes on" in capsys.readouterr().err


def test_what_a_flag_gives_by_name():
    def paths(*texts):
        return experiment.paths("--backbone", texts, "KIND=RUN", ("csg", "one", "plain"), ("--kind", ["csg", "plain"]))

    assert paths() == {} and paths("csg=runs/a=b", "plain=c") == {"csg": "runs/a=b", "plain": "c"}
    for texts, says in (
        (["runs/a"], "--backbone must read KIND=RUN, a kind being one of csg, one, plain, got 'runs/a'"),
        (["csg="], "--backbone must read KIND=RUN, .*, got 'csg='"),
        (["two=a"], "--backbone must read KIND=RUN, .*, got 'two=a'"),
        (["csg=a", "one=b"], "--backbone one=... is for what does not run: --kind is csg plain"),
        (["csg=a", "csg=b"], "--backbone csg=... is given twice, 'a' and 'b'"),
    ):
        with pytest.raises(ConfigError, match=says):
            paths(*texts)
    assert experiment.paths("--weights", ["b=c"], "NETWORK=FILE", ["b"]) == {"b": "c"}


@pytest.mark.parametrize("folders", [True, False])
def test_help_names_image_folders_where_they_are_of_use(folders, capsys):
    parser = argparse.ArgumentParser()
    experiment.add_arguments(parser, out="nowhere", folders=folders)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "one with it under its name (imagenet/" in said and ("data=imagefolder" in said) == folders
