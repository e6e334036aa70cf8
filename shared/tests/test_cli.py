"""The command line as a script sees it: exit codes, what goes to stdout and what to stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from leanconv import __version__, cli, environment, models


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"leanconv {__version__}\n"


def test_a_reader_that_stops_early_causes_no_traceback():
    command = f"{sys.executable} -m leanconv models --timm 'resnet1*' | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("resnet") and "Error" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["bench"],
        ["bench", "resnet18", "--batch", "0"],
        ["bench", "resnet18", "--device", "toaster"],
        ["train"],
        ["train", "--set", "epochs=1"],
    ],
)
def test_wrong_usage_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and "usage: leanconv" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "resnet18", "--size", "x"], "--size: must be a whole number of at least 1, got 'x'"),
        (["train"], "error: name a network, such as convnext_tiny_1d"),
    ],
)
def test_wrong_usage_is_explained(arguments, said, capsys):
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "no_such_network"], "no network is called 'no_such_network'"),
        (["models", "no_such_*"], "no network's name matches"),
        (["datasets", "--root", "/no/such/folder"], "/no/such/folder is not a folder"),
        (["bench", "resnet18", "--size", "32", "--seconds", "0.01", "--json", "/no/such/folder/f"], "No such file"),
        (["train", "--data", "/my/images"], "use --data imagefolder --root /my/images"),
        (["train", "resnet18", "--set", "optimizer=no_such"], "optimizer must be one of"),
        (["eval", "/no/such/run"], "/no/such/run: no such file or folder"),
        (["eval", __file__], f"{__file__} is not a run's checkpoint: beside it lies no recipe.json"),
    ],
)
def test_expected_errors_are_one_line_and_exit_1(arguments, said, capsys):
    assert cli.main(arguments) == 1
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err
    with pytest.raises((OSError, ValueError)):
        cli.main(["--traceback", *arguments])


def test_ctrl_c_exits_130_and_passes_on_what_training_says(monkeypatch, capsys):
    def stop(_):
        raise KeyboardInterrupt("go on with --resume")

    monkeypatch.setattr(cli, "_datasets", stop)
    assert cli.main(["datasets"]) == 130
    assert capsys.readouterr().err == "go on with --resume\n"


def test_datasets_tells_where_and_how(tmp_path, capsys):
    for name in ("train_32x32.mat", "test_32x32.mat"):
        (tmp_path / name).touch()
    assert cli.main(["datasets", "--root", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["svhn"].endswith(str(tmp_path))
    assert "absent: " in lines["cifar10"] and "cifar-10-python.tar.gz" in lines["cifar10"]
    assert f"`leanconv datasets --get cifar10 --root {tmp_path}` (to download with torchvision)" in lines["cifar10"]
    assert str(tmp_path) in err


def test_datasets_fetches_what_is_asked_for(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("leanconv.data.sources.install", lambda target, fetchers: asked.append((target, [*fetchers])))
    assert cli.main(["datasets", "--get", "svhn", "--root", str(tmp_path)]) == 1
    assert asked == [(tmp_path / "svhn", ["download with torchvision"])]
    assert "SVHN is not in" in capsys.readouterr().err


def test_models_lists_the_packages_networks(capsys):
    assert cli.main(["models", "--timm", "resnet18"]) == 0
    assert capsys.readouterr().out.split() == ["resnet18", "timm", "11,689,512", "parameters"]
    if models.names():
        assert cli.main(["models", "*tiny_1d"]) == 0
        assert capsys.readouterr().out.split() == ["convnext_tiny_1d", "dwoconv1d", "28,476,040", "parameters"]


def test_bench_writes_what_it_prints(tmp_path, capsys):
    file = tmp_path / "bench.json"
    options = ["--size", "32", "--batch", "2", "--seconds", "0.02", "--threads", "1", "--backward", "--json", str(file)]
    assert cli.main(["bench", "resnet18", "resnet10t", *options]) == 0
    out = capsys.readouterr().out
    assert "batch 2, 3x32x32" in out
    record = json.loads(file.read_text())
    assert [result["model"] for result in record["results"]] == ["resnet18", "resnet10t"]
    assert record["results"][0]["threads"] == 1 and record["environment"]["versions"]["torch"]
    assert f"{record['results'][1]['median'] * 1e3:.2f}" in out and "forward and backward" in out


def test_bench_takes_grey_images(tmp_path, capsys):
    grey, coloured = (
        [*["bench", "resnet10t", "--size", "32", "--seconds", "0.01"], *more] for more in (["--in-chans", "1"], [])
    )
    assert cli.main(grey) == cli.main(coloured) == 0
    one, three = (line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("resnet10t"))
    assert int(three.replace(",", "")) - int(one.replace(",", "")) == 2 * 24 * 9  # the stem's kernels


def test_a_record_tells_which_kernels_ran(monkeypatch):
    monkeypatch.setitem(sys.modules, "pix", SimpleNamespace(backend_info=lambda: {"active_cpu": "reference"}))
    monkeypatch.setitem(sys.modules, "smpconv", None)
    kernels = environment.describe()["kernels"]
    assert kernels["pix"] == {"active_cpu": "reference"} and "smpconv" not in kernels
    json.dumps(kernels)


def test_a_repository_around_an_installed_package_is_not_ours(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    file = tmp_path / "site-packages" / "environment.py"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setattr(environment, "__file__", str(file))
    assert environment.commit() is None
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "theirs")
    assert environment.commit() is None
    git("add", ".")
    git("commit", "-q", "-m", "ours")
    assert len(environment.commit()) == 40
    file.write_text("changed")
    assert environment.commit().endswith("+changes")
