"""`param_groups`: every parameter that learns, once."""

from __future__ import annotations

import pytest
import torch
from nets_to_convert import SMALL, net
from torch import nn

from csgconv import convert, generators, param_groups

pytestmark = pytest.mark.filterwarnings("ignore:the model has")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def model(**options) -> nn.Module:
    return convert(net(), **{**SMALL, **options})


def ids(parameters) -> list[int]:
    return sorted(map(id, parameters))


def grouped(groups) -> list[nn.Parameter]:
    return [parameter for group in groups for parameter in group["params"]]


@pytest.mark.parametrize(
    "options", [{}, {"decay_vectors": False}, {"lr_factors": {"generator": 0.25, "^9": 10}}], ids=str
)
@pytest.mark.parametrize("kind", [{}, {"bias": True}, {"binary": True}], ids=str)
def test_nothing_is_left_out(kind, options):
    net = model(**kind)
    groups = param_groups(net, 0.1, **options)
    assert ids(grouped(groups)) == ids(net.parameters())
    assert id(generators(net)[0].codes) in ids(grouped(groups))


def test_rates_and_decay():
    net = model(bias=True)
    owner = generators(net)[0]
    owner.lr_factors = lambda: {"weight": 0.5, "codes": 0.5}
    factors = {r"generator\.codes": 0.25, "^9": 10}
    groups = param_groups(net, 0.1, 1e-4, decay_vectors=False, lr_factors=factors)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    wanted = {
        owner.weight: (0.05, 1e-4),
        owner.codes: (0.025, 1e-4),
        owner.bias: (0.1, 0.0),
        net[0].weight: (0.1, 1e-4),
        net[4].weight: (0.1, 0.0),
        net[9].weight: (1.0, 1e-4),
        net[9].bias: (1.0, 0.0),
    }
    for parameter, pair in wanted.items():
        assert found[id(parameter)] == pytest.approx(pair)
    assert {group["weight_decay"] for group in param_groups(net, 0.1)} == {5e-4}


def test_frozen_parameters_are_left():
    net = model()
    generators(net)[0].weight.requires_grad_(False)
    learning = ids(p for p in net.parameters() if p.requires_grad)
    assert ids(grouped(param_groups(net, 0.1))) == learning
    assert ids(grouped(param_groups(net, 0.1, lr_factors={r"generator\.weight": 2}))) == learning


def test_what_would_leave_something_out_is_refused():
    net = model()
    with pytest.raises(ValueError, match="belongs to no layer of this model"):
        param_groups(net[4:], 0.1)
    with pytest.raises(
        ValueError, match=r"lr_factors=\{'head': 10\} is a regular expression that matches no parameter"
    ):
        param_groups(net, 0.1, lr_factors={"head": 10})
    with pytest.raises(ValueError, match=r"lr_factors=\{'\[': 10\} is no regular expression"):
        param_groups(net, 0.1, lr_factors={"[": 10})
    with pytest.raises(ValueError, match="no parameter that learns"):
        param_groups(net.requires_grad_(False), 0.1)
    with pytest.raises(TypeError, match="model must be an nn"):
        param_groups(net.parameters(), 0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": "0.1"}, "lr must be a number, but it is '0.1'"),
        ({"lr": 0.1, "weight_decay": "none"}, "weight_decay must be a number, but it is 'none'"),
        ({"lr": None}, "lr must be a number, but it is None"),
        ({"lr": [0.1]}, r"lr must be a number, but it is \[0.1\]"),
        ({"lr": 0.1, "lr_factors": {"weight": "2"}}, "the factor of 'weight' in lr_factors must be a number, .* '2'"),
        ({"lr": 0.1, "lr_factors": {3: 2}}, r"lr_factors must be factors by regular expression, .*, not \{3: 2\}"),
        ({"lr": 0.1, "lr_factors": 3}, "lr_factors must be factors by regular expression, such as .*, not 3"),
    ],
)
def test_arguments_of_a_wrong_type(arguments, message):
    with pytest.raises(TypeError, match=message):
        param_groups(nn.Linear(2, 2), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -0.1}, "lr must not be negative, and finite, but it is -0.1"),
        ({"lr": float("nan")}, "lr must not be negative, and finite, but it is nan"),
        ({"lr": 0.1, "weight_decay": -1}, "weight_decay must not be negative, and finite, but it is -1"),
        ({"lr": 0.1, "lr_factors": {"weight": -2}}, "the factor of 'weight' in lr_factors must not be negative"),
    ],
)
def test_rates_that_no_optimizer_looks_at(arguments, message):
    with pytest.raises(ValueError, match=message):
        param_groups(nn.Linear(2, 2), **arguments)
