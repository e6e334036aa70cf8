"""Randomised rounding, and the linear programme before it, against SciPy's."""

from __future__ import annotations

import pytest
import torch

import pathconv
from pathconv import search
from pathconv.paths import preset_set
from pathconv.search.interior import solve
from pathconv.search.relaxation import relax
from pathconv.search.sorted import matrix


@pytest.mark.parametrize("curve", ("hilbert", "zorder"))
def test_randomized_rounding(curve):
    universe = search.candidates(8, 8, curve)
    best = search.exact(8, 8, curve, universe=universe, progress=False)
    found = [search.randomized_rounding(8, 8, curve, universe=universe, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    for paths in found:
        assert paths.coverage == 1 and paths.bound <= best.cost <= paths.cost
    discarding = search.randomized_rounding(8, 8, curve, universe=universe, repair="discard", rounds=300, alpha=3)
    assert discarding.coverage == 1 and discarding.cost >= best.cost
    with pytest.raises(ValueError, match="none of 1 draws covers all pixels"):
        search.randomized_rounding(8, 8, curve, universe=universe, repair="discard", rounds=1, alpha=1e-6)


def test_the_relaxation_is_that_of_the_whole_programme():
    optimize = pytest.importorskip("scipy.optimize")
    universe = search.candidates(12, 12, "hilbert", max_pad=6)
    everything = matrix(universe, torch.arange(len(universe))).double()
    whole = optimize.linprog(universe.cost.double().numpy(), -everything.T.numpy(), -torch.ones(144).numpy())
    numbers, x, bound = relax(universe)
    assert bound <= whole.fun * (1 + 1e-6) and bound >= 0.97 * whole.fun
    assert (x @ everything[numbers]).min() >= 1 - 1e-6
    assert whole.fun * (1 - 1e-6) <= float(x @ universe.cost[numbers].double()) <= 1.03 * whole.fun


@pytest.mark.parametrize("pixels, count", [(1, 1), (30, 8), (20, 200)])
def test_interior_points_are_solutions_and_near_the_optimum(pixels, count):
    optimize = pytest.importorskip("scipy.optimize")
    generator = torch.Generator().manual_seed(pixels)
    covered = (torch.rand(pixels, count, generator=generator) < 0.4).double()
    covered[:, 0] = 1
    cost = torch.randint(100, 200, (count,), generator=generator).double()
    best = optimize.linprog(cost.numpy(), -covered.numpy(), [-1.0] * pixels).fun
    for gap in (1e-1, 1e-4):
        x, y = solve(covered, cost, gap)
        assert (x > 0).all() and (covered @ x >= 1).all() and (y > 0).all() and (covered.T @ y <= cost).all()
        assert best / (1 + gap) <= float(y.sum()) <= best <= float(cost @ x) <= best * (1 + gap)
    with pytest.raises(RuntimeError):
        solve(covered, cost, -1.0)


@pytest.mark.skipif(pathconv.ops.backends.active("cpu") != "native", reason="takes long in plain PyTorch")
def test_randomized_rounding_at_side_32():
    found, best = search.randomized_rounding(32, 32, "hilbert"), preset_set("g*", 32, 32)
    assert found.coverage == 1 and found.bound < best.cost <= found.cost < 1.05 * best.cost
