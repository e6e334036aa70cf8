"""`python -m pathconv`: what it prints, writes and answers to wrong usage."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pathconv.cli import main
from pathconv.paths import PathConfig, PathSet, preset_set
from pathconv.presets import ABOUT
from pathconv.search.sorted import Sorted


def call(capsys, *arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr()


def test_without_a_command_it_tells_the_backends(capsys):
    lines = call(capsys).out.splitlines()
    assert lines[0].startswith("pathconv ")
    assert {"chosen", "native_cpu", "reference"} <= {line.split()[0] for line in lines[1:]}


def test_locality_prints_table_1(capsys):
    lines = call(capsys, "locality", "--size", 32, 64).out.splitlines()
    assert len(lines) == 3
    assert lines[1].split("|")[0].split() == ["32", "x", "32", "188,480"]
    assert lines[1].split("|")[1].split() == ["215,640", "810", "2", "79.102%"]
    assert lines[2].split("|")[2].split() == ["1,499,664", "3,332", "0", "81.348%"]


def test_locality_of_paths(capsys):
    lines = call(capsys, "locality", "g").out.splitlines()
    assert lines[1].split() == ["raster", "188,480"]
    assert lines[3].split() == ["hilbert", "{24,", "[14,", "1],", "180}", "233,576", "770", "0", "254", "75.195%"]
    assert lines[-1].split() == ["all", "686,166", "1,024", "0", "100.000%"]
    both = call(capsys, "locality", "oz", "hilbert:6,1,5,90", "--size", 16).out.splitlines()
    assert both[3].startswith("hilbert {6, [1, 5], 90} ") and both[4].startswith("all together ") and len(both) == 5


def test_locality_of_several_sets_measures_each(capsys):
    lines = call(capsys, "locality", "g", "g*", "og").out.splitlines()
    unions = [line.split()[:4] for line in lines if line.startswith("all ")]
    assert unions == [
        ["all", "of", "g", "686,166"],
        ["all", "of", "g*", "674,834"],
        ["all", "together", "1,576,640", "1,024"],
    ]
    assert len(lines) == 2 + 4 + 4 + 1 + 1


def test_paths_of_a_file_bring_their_size(capsys, tmp_path):
    file = tmp_path / "set.json"
    PathSet.of([PathConfig("hilbert"), PathConfig("hilbert", 3, (1, 2))], 12, 18).save(file)
    lines = call(capsys, "locality", file, "raster").out.splitlines()
    assert lines[0].startswith("12 x 18 ") and len(lines) == 7 and lines[4].startswith("all of set.json ")
    error = call(capsys, "locality", file, "--size", 12, code=1).err
    assert error == f"pathconv: {file} is for 12 x 18 pixels, not for 12 x 12.\n"


@pytest.mark.parametrize("suffix", ["png", "svg", "gif"])
def test_draw_writes_the_file(capsys, tmp_path, suffix):
    file = tmp_path / f"out.{suffix}"
    done = call(capsys, "draw", "og", "zorder", "--size", 8, "--seconds", 0.2, "-o", file)
    assert done.out == f"{file}\n" and done.err == ""
    assert file.stat().st_size > 1000


def test_draw_names_the_file_after_the_paths(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset_set("og", 8, 8).save("own set.json")
    assert call(capsys, "draw", "own set.json", "--show", "better").out == "own-set_better_8x8.png\n"
    assert call(capsys, "draw", "hilbert:6,1,5,0", "--size", 6, 8).out == "hilbert-6-1-5-0_6x8.png\n"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("draw", "peano"), "'peano' is no preset, no curve and no .json file; --help says what there is."),
        (
            ("draw", "hilbert:6,1"),
            "'hilbert:6,1' must be hilbert:pad,row,column,rotation, such as hilbert:24,14,1,180.",
        ),
        (("locality", "g", "--size", 8, 8, 8), "--size takes one or two numbers here, but there are 3."),
        (("locality", "no.json"), "No such file or directory"),
        (("draw", "og", "-o", "drawing"), "--out drawing has no ending that says what to write: .png, .svg"),
        (("draw", "og", "--show", "better", "-o", "a.gif"), "--show better has no animation, but --out a.gif is one"),
        (
            ("search", "hilbert", "--solver", "greedy", "--time-limit", 5),
            "--time-limit is for exact searches, but --solver is greedy.",
        ),
        (("search", "zorder", "--solver", "rounding", "--resume", "a"), "--resume is for exact searches"),
        (("search", "zorder", "-o", "no/set.json"), "there is no folder no to write set.json into: make it first."),
        (("search", "zorder", "--resume", "no/state"), "there is no folder no to write state into: make it first."),
        (
            ("locality", "z", "--size", 48),
            'preset "z" is there for squares of 32, 64, 224, not for 48 x 48: find the cheapest set in seconds with '
            'pathconv.search.exact(48, 48, "zorder"), or use the single path "oz".',
        ),
        (("locality", "mg", "--size", 96), 'candidates(96, 96, "hilbert", max_pad=15)), or use the single path "og".'),
        (
            ("search", "hilbert", "--size", 1),
            "no path at all is better than the raster at pixel (0, 0) of 1 x 1, whose neighbours could not be nearer",
        ),
        (("search", "zorder", "--size", 3, 3), "no path at all is better than the raster at pixel (1, 1) of 3 x 3"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(capsys, arguments, words):
    error = call(capsys, *arguments, code=1).err
    assert error.startswith("pathconv: ") and words in error and error.count("\n") == 1


def test_search_prints_and_keeps_the_set(capsys, tmp_path):
    file = tmp_path / "set.json"
    done = call(capsys, "search", "zorder", "-o", file)
    cost = preset_set("z*", 32, 32).cost
    assert done.out.splitlines()[-1] == f"cost {cost:,}; no set of the 3,969 candidates costs less"
    found = PathSet.load(file)
    assert (found.cost, found.bound, found.proven, found.coverage) == (cost, cost, True, 1.0)
    assert call(capsys, "locality", file).out.splitlines() == done.out.splitlines()[:-1]


def test_search_without_a_proof_prints_its_bound(capsys):
    lines = call(capsys, "search", "hilbert", "--size", 16, "--solver", "greedy").out.splitlines()
    assert lines[-1].split("; ")[1].startswith("at least ") and lines[-1].endswith("any set of the 4,484 candidates")


def test_search_takes_its_options(capsys, tmp_path):
    state = tmp_path / "state"
    arguments = ["search", "hilbert", "--size", 12, 18, "--max-pad", 6, "--diagonal-windows", "--quiet"]
    lines = call(capsys, *arguments, "--resume", state).out.splitlines()
    assert state.exists() and lines[-1].endswith("candidates costs less")
    assert call(capsys, *arguments, "--resume", state).out.splitlines() == lines
    rounded = call(capsys, "search", "zorder", "--size", 8, "--solver", "rounding", "--rounds", 3, "--seed", 1).out
    assert rounded.splitlines()[-1].startswith("cost 5,")


@pytest.mark.parametrize("keeps", [False, True])
def test_an_interrupted_search_says_how_to_go_on(capsys, tmp_path, monkeypatch, keeps):
    covers, calls = Sorted.covers, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return covers(self, *arguments)

    monkeypatch.setattr(Sorted, "covers", interrupted)
    command = ["search", "hilbert", "--size", 8, "--quiet", *(["--resume", tmp_path / "state"] if keeps else [])]
    error = call(capsys, *command, code=130).err
    assert error.startswith("interrupted with a set of cost ") and error.count("\n") == 1
    if keeps:
        assert error.endswith(f"; the state is in {tmp_path / 'state'}; run the same command again to continue\n")
        assert call(capsys, *command).out.splitlines()[-1].endswith("; no set of the 452 candidates costs less")
    else:
        assert error.endswith("; without resume nothing is kept\n")


def test_wrong_usage(capsys):
    for arguments in (
        ["draw"],
        ["fly"],
        ["locality", "--size", "0"],
        ["search", "raster"],
        ["draw", "g", "--show", "x"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "usage: python -m pathconv" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["draw"], ["locality"], ["search"]])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m pathconv") and "%" not in text
    if command in (["draw"], ["locality"]):
        assert all(f"\n  {name:3} {about}\n" in text for name, about in ABOUT.items())


def test_errors_can_be_traced():
    with pytest.raises(ValueError, match="is no preset"):
        main(["--traceback", "draw", "peano"])


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "pathconv", "locality", "og", "--size", "8"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stdout.splitlines()[2].split()[:2] == ["hilbert", "2,712"]
