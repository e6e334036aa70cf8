"""The program that compares calls with a large copy: what it leaves, here with a clock that says one millisecond."""

from __future__ import annotations

import json

import pytest
import torch

from leanconv import benchmark


@pytest.fixture
def device(monkeypatch):
    """A CPU in the place of a GPU that copies a gigabyte per second."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    monkeypatch.setattr(benchmark, "copy_bandwidth", lambda: 1e9)
    monkeypatch.setattr(benchmark, "milliseconds", lambda call, repeats: call(0) or 1.0)


def test_calls_beside_a_copy(device, monkeypatch, tmp_path, capsys):
    called = []

    def cases(quick):
        for size in (1, 2):
            yield {"kind": "sum", "size": size}, lambda size=size: {"ours": (called.append, 5 * 10**5 * size)}
            assert len(json.loads((tmp_path / "b.json").read_text())["results"]) == size
        assert quick

    monkeypatch.setattr("sys.argv", ["b.py", "--quick", "--json", str(tmp_path / "b.json"), "--device", "cuda"])
    benchmark.bandwidth("b.py", "doc", lambda: {"active": "native"}, cases)
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["environment"]["hardware"] == "a GPU" and report["environment"]["copy GB/s"] == 1
    assert report["results"][1] == {"kind": "sum", "size": 2, "ours": {"ms": 1.0, "bytes": 10**6, "of copy": 1.0}}
    assert called == [0, 0]
    assert "sum 1: ours 1.000 (50%)\nsum 2: ours 1.000 (100%)\n" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["b.py", "--json", str(tmp_path / "b.json")])
    benchmark.bandwidth("b.py", "doc", dict, lambda quick: [])
    assert "not measured" in capsys.readouterr().out and not (tmp_path / "b.json").exists()
