"""The cheapest set of paths, with its proof."""

from __future__ import annotations

import os
import time

import torch

from ..path_set import PathSet
from .greedy import complete, resolve
from .models import SOLVERS, solve
from .native import on_cpu
from .progress import Bar
from .sorted import Sorted
from .state import State
from .universe import Universe

_SECONDS_AT_ONCE, _SECONDS_BETWEEN_SAVES = 0.25, 5.0


@on_cpu
def exact(
    height: int,
    width: int,
    curve: str,
    *,
    universe: Universe | None = None,
    solver: str = "native",
    time_limit: float | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> PathSet:
    """Finds the cheapest set of candidates that covers all pixels, of whatever number of paths, and proves it.

    The search goes through the sets of one path, of two, and so on, as long as so many of the cheapest candidate cost
    less than the best set known (greedy's at first), and within that by the cheapest member. Where the time limit
    ends it, the set's `bound` says what is proven so far. Results depend neither on threads nor on interruptions.

    Args:
        height: of the image.
        width: of the image.
        curve: "hilbert" or "zorder".
        universe: other candidates than `candidates(height, width, curve)`; the curve then does not count.
        solver: "native", or a check by an independent programme for small sizes: "cbc" through PuLP, "highs" through
            SciPy; these need the extra `pathconv[search]`.
        time_limit: seconds; evaluating the candidates and greedy always come to their end.
        resume: file that keeps the state of the native search, every few seconds, at the time limit and on Ctrl-C. A
            search for the same candidates goes on from there.
        progress: show a bar, where tqdm is installed and there is a terminal.

    Raises:
        ValueError: an unknown solver, a universe for another size or one that leaves a pixel uncovered, a file that
            is no state of this search.
        ImportError: the solver is not installed.
        KeyboardInterrupt: as always on Ctrl-C; its text says where the state is.

    Example:
        >>> best = exact(16, 16, "zorder")
        >>> best.cost, best.num_paths, best.proven
        (66228, 3, True)
    """
    if solver != "native" and solver not in SOLVERS:
        raise ValueError(f'solver must be "native", {", ".join(map(repr, SOLVERS))}, but it is {solver!r}.')
    if time_limit is not None and time_limit < 0:
        raise ValueError(f"time_limit must not be negative, but it is {time_limit}.")
    if solver != "native" and resume is not None:
        raise ValueError(f"resume is for the native search alone: {solver} keeps no state.")
    end = None if time_limit is None else time.monotonic() + time_limit
    universe = resolve(height, width, curve, universe, progress)
    if solver != "native":
        left = None if end is None else max(end - time.monotonic(), 0.1)
        return solve(universe, Sorted(universe).undominated(), solver, left)

    state = State.load(resume, universe) if resume is not None and os.path.exists(resume) else None
    if state is None:
        start = complete(universe, [])
        state = State(int(universe.cost[start].sum()), start)
    if resume is not None:
        state.save(resume, universe)  # what cannot be written fails now, not after the search
    try:
        bound = _search(universe, state, end, resume, progress)
    except KeyboardInterrupt:
        kept = "without resume nothing is kept"
        if resume is not None:
            state.save(resume, universe)
            kept = f"the state is in {os.fspath(resume)}"
        raise KeyboardInterrupt(f"interrupted with a set of cost {state.cost:,}; {kept}") from None
    if resume is not None:
        state.save(resume, universe)
    return universe.path_set(state.chosen, bound=bound, proven=bound == state.cost)


def _search(
    universe: Universe,
    state: State,
    end: float | None,
    resume: str | os.PathLike[str] | None,
    progress: bool,
) -> int:
    """Improves `state` up to the optimum or the end of the time; returns a lower bound of the optimum."""
    candidates = Sorted(universe)
    firsts = torch.arange(len(universe))
    if universe.half_turned():  # then every set may be turned by 180 degrees, and so that its first member is of these
        firsts = firsts[universe.windows[candidates.numbers, 4] < 2]
    price, least, saved = candidates.cost[firsts].tolist(), int(candidates.cost[0]), time.monotonic()
    while state.members * least < state.cost and state.members <= universe.pixels:  # one member per pixel is enough
        size, at_once = state.members, 1
        with Bar(f"sets of {size}", len(firsts), progress) as bar:
            bar.move(state.position)
            # Members cost at least as much as the first one.
            while state.position < len(firsts) and size * price[state.position] < state.cost:
                start = time.monotonic()
                # Sets of this size not looked at yet, and larger ones.
                bound = min(state.cost, size * price[state.position], (size + 1) * least)
                if end is not None and start >= end:
                    return bound
                chunk = firsts[state.position : state.position + at_once].contiguous()
                found = candidates.covers(chunk, size, state.cost)
                if found:
                    state.cost, state.chosen = found
                state.position += len(chunk)
                bar.move(len(chunk), f"cost {state.cost:,}, bound {bound:,}")
                now = time.monotonic()
                at_once = max(1, min(2 * at_once, int(at_once * _SECONDS_AT_ONCE / max(now - start, 1e-6))))
                if resume is not None and now - saved > _SECONDS_BETWEEN_SAVES:
                    state.save(resume, universe)
                    saved = now
        state.position, state.members = 0, size + 1
    return state.cost
