"""Counts against published numbers, time and memory against what must hold anywhere."""

from __future__ import annotations

import argparse
import json
from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from leanconv import benchmark, environment, profiling


def test_resnet18_has_its_published_size():
    model = torchvision.models.resnet18().train()
    model.bn1.eval()
    counts = profiling.count(model, (3, 224, 224))
    assert counts.params == 11_689_512
    assert counts.macs == 1_814_073_344  # 1.81 GMAC: MACs, half of the 3.63 GFLOP others print
    assert sum(cost.params for cost in counts.modules) == counts.params
    assert sum(cost.macs for cost in counts.modules) == counts.macs
    assert model.training and not model.bn1.training  # each module as it was
    assert "1,814,073,344" in str(counts)


def test_macs_belong_to_the_module_that_computes_them():
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(8, 4, bias=False))
            self.weight = nn.Parameter(torch.zeros(2, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.inner(x.flatten(1)), self.weight)

    costs = {cost.name: (cost.params, cost.macs) for cost in profiling.count(Outer(), (2, 2, 2)).modules}
    assert costs == {"": (8, 8), "inner.0": (32, 32)}


def test_count_refuses_an_input_that_does_not_fit():
    with pytest.raises(ValueError, match=r"Conv2d cannot take an input of \(4, 8, 8\)"):
        profiling.count(nn.Conv2d(3, 8, 3), (4, 8, 8))


def test_the_packages_operators_are_counted():
    dwoconv1d = pytest.importorskip("dwoconv1d")
    assert profiling.count(dwoconv1d.OrientedConv1d(8, 31), (8, 14, 14)).macs == 31 * 8 * 14 * 14


def test_latency_describes_its_measurement():
    x = torch.randn(32, 32)
    timing = profiling.latency(torch.mm, x, x, min_seconds=0.05, threads=1)
    assert 0 < timing.median < 0.1 and timing.iqr >= 0 and timing.n >= 1
    assert (timing.threads, timing.device) == (1, "cpu")
    assert f"{timing.median * 1e3:.3f} ms" in str(timing)


def test_memory_is_the_peak_and_not_the_sum():
    x = torch.zeros(2**20)

    def two_then_one() -> torch.Tensor:
        first = x.clone()
        second = first.neg()
        del first
        return second.neg()

    size = 4 * 2**20
    assert profiling.memory(x.clone) == size
    assert profiling.memory(two_then_one) == 2 * size
    assert profiling.memory(lambda: None) == 0


def test_benchmarks_take_turns_and_say_where_they_ran(tmp_path):
    order = []
    calls = {name: partial(order.append, name) for name in ("a", "b")}
    times = benchmark.interleave(calls, "cpu", seconds=0.0, least=9)
    rounds = ["".join(order[i : i + 2]) for i in range(0, 20, 2)]  # the first one to warm up
    assert set(rounds) == {"ab", "ba"}
    assert [len(values) for values in times.values()] == [9, 9]
    assert benchmark.summary([0.001, 0.004, 0.002]) == {"ms": 2.0, "spread_ms": pytest.approx(3.0), "n": 3}

    args = argparse.Namespace(device="cpu", threads=[1], json=tmp_path / "deep" / "x.json")
    where = benchmark.environment(args, {"native_cpu": "available"})
    assert where["hardware"] == environment.cpu_name()
    assert where["arguments"] == {"device": "cpu", "threads": [1]}
    benchmark.write(args.json, {"environment": where})
    assert json.loads(args.json.read_text()) == {"environment": where}
