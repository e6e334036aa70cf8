"""Networks timed in one way: what may be timed, and that no way is timed that computes something else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from leanconv import routes


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def test_norms_take_the_statistics_of_the_images():
    model, x = network(), 5 + torch.randn(4, 3, 8, 8)
    routes.settle(model, x)
    y = model.eval()[:2](x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    assert model[1].momentum == 0.1


def test_a_cpu_has_no_cuda_graphs_and_onnx_runs_float32_there():
    assert "graphs" not in routes.possible("cpu") and "graphs" in routes.possible("cuda")
    assert "ONNX" not in [*routes.possible("cpu", "float16"), *routes.possible("cuda")]


@pytest.mark.parametrize("way", ("eager", "exported", "training"))
def test_every_network_gets_a_time(way):
    models = {"one": network(), "other": network()}
    times = routes.timed(way, models, torch.randn(2, 3, 8, 8), 0.01, deploy=copy.deepcopy)
    assert list(times) == ["one", "other"] and min(times.values()) > 0
    assert all(model.training == (way == "training") for model in models.values())


def test_what_computes_something_else_is_refused():
    with pytest.raises(ArithmeticError, match="eager: the result differs"):
        routes.timed("eager", {"one": network()}, torch.randn(2, 3, 8, 8), 0.01, deploy=lambda model: model[:2])
