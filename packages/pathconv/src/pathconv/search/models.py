"""The set cover as an integer programme for general solvers: slow, and independent of the native search."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from ..path_set import PathSet
from .sorted import matrix
from .universe import Universe


def solve(universe: Universe, numbers: Tensor, solver: str, time_limit: float | None) -> PathSet:
    """The best set of the candidates `numbers` that `solver` finds in time."""
    covered, cost = matrix(universe, numbers), universe.cost[numbers]
    chosen, bound = SOLVERS[solver](covered, cost, time_limit)
    if chosen is None:
        raise ValueError(f"{solver} found no set in {time_limit:.3g} s: give it more time, or use the native solver.")
    picked = [number for number, taken in zip(numbers.tolist(), chosen) if taken]
    total = int(universe.cost[picked].sum())
    bound = max(bound, int(cost.min()))
    return universe.path_set(picked, bound=min(bound, total), proven=bound >= total)


def _cbc(covered: Tensor, cost: Tensor, time_limit: float | None) -> tuple[list[bool] | None, int]:
    try:
        import pulp
    except ImportError:
        raise ImportError('solver="cbc" needs PuLP: pip install "pathconv[search]".') from None
    model = pulp.LpProblem("paths", pulp.LpMinimize)
    x = [pulp.LpVariable(f"x{i}", cat=pulp.LpBinary) for i in range(len(cost))]
    model += pulp.lpSum(price * variable for price, variable in zip(cost.tolist(), x))
    for column in covered.T.unique(dim=0):
        model += pulp.lpSum(x[i] for i in column.nonzero().flatten().tolist()) >= 1
    model.solve(pulp.PULP_CBC_CMD(msg=False, timeLimit=time_limit, gapRel=0, threads=1))
    if model.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return None, 0
    # PuLP does not pass on CBC's bound.
    bound = round(pulp.value(model.objective)) if model.sol_status == pulp.LpSolutionOptimal else 0
    return [variable.value() > 0.5 for variable in x], bound


def _highs(covered: Tensor, cost: Tensor, time_limit: float | None) -> tuple[list[bool] | None, int]:
    try:
        import numpy as np
        from scipy.optimize import LinearConstraint, milp
        from scipy.sparse import csr_matrix
    except ImportError:
        raise ImportError('solver="highs" needs SciPy: pip install "pathconv[search]".') from None
    rows = csr_matrix(covered.T.unique(dim=0).double().numpy())
    options = {"mip_rel_gap": 0.0} | ({} if time_limit is None else {"time_limit": time_limit})
    solved = milp(
        cost.double().numpy(),
        constraints=LinearConstraint(rows, lb=1),
        integrality=np.ones(len(cost)),
        bounds=(0, 1),
        options=options,
    )
    if solved.x is None:
        return None, 0
    bound = solved.mip_dual_bound  # none, or infinite, where the time ended first
    known = bound is not None and math.isfinite(bound)
    return (solved.x > 0.5).tolist(), math.ceil(bound * (1 - 1e-9)) if known else 0


SOLVERS: dict[str, Callable[[Tensor, Tensor, float | None], tuple[list[bool] | None, int]]] = {
    "cbc": _cbc,
    "highs": _highs,
}
