"""The search for path sets: the authors' candidates and results, proofs checked by other programmes and by hand."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re

import pytest
import torch

import pathconv
from pathconv import search
from pathconv.paths import PathConfig, PathSet, locality, preset_set
from pathconv.search import reference
from pathconv.search.bits import ones, pack, unpack
from pathconv.search.exact import _search
from pathconv.search.native import kernel
from pathconv.search.sorted import Sorted, matrix
from pathconv.search.state import State

NATIVE = pathconv.ops.backends.active("cpu") == "native"
needs_native = pytest.mark.skipif(not NATIVE, reason="takes long in plain PyTorch")

# Candidates by the authors' code; greedy's sets by table 2 and the code's comments: pad, row, column, rotation.
COUNTS = {
    "hilbert": {8: 452, 16: 4_484, 28: 26_212, 32: 39_684, 224: 4_484},
    "zorder": {8: 225, 16: 961, 28: 49, 32: 3_969, 64: 16_129, 224: 3_969},
}
GREEDY = {
    ("hilbert", 32): (686_166, [(0, 0, 0, 0), (24, 14, 1, 180), (18, 7, 0, 270)]),
    ("zorder", 32): (582_984, [(0, 0, 0, 0), (32, 10, 18, 0), (32, 12, 20, 0)]),
    ("zorder", 64): (4_856_128, [(0, 0, 0, 0), (64, 32, 16, 0), (64, 28, 42, 90), (64, 24, 40, 0)]),
}


@pytest.fixture(scope="module")
def small() -> search.Universe:
    return search.candidates(8, 8, "hilbert")


def configs(curve: str, windows) -> set[PathConfig]:
    return {PathConfig(curve, pad, (row, column), rotation) for pad, row, column, rotation in windows}


def cheapest_by_trying_all(universe: search.Universe, members: int) -> int | None:
    """Of sets of at most so many members."""
    covered, best = matrix(universe, torch.arange(len(universe))), None
    for size in range(1, members + 1):
        for chosen in itertools.combinations(range(len(universe)), size):
            if covered[list(chosen)].any(0).all():
                cost = int(universe.cost[list(chosen)].sum())
                best = cost if best is None else min(best, cost)
    return best


@pytest.mark.parametrize("curve, side", [(c, s) for c in COUNTS for s in (8, 28, *((16, 32, 64, 224) if NATIVE else ()))
                                         if s in COUNTS[c]])  # fmt: skip
def test_candidates_are_the_authors(curve, side):
    universe = search.candidates(side, side, curve)
    assert len(universe) == COUNTS[curve][side]
    assert len({universe.config(i) for i in range(0, len(universe), 97)}) == len(range(0, len(universe), 97))


@pytest.mark.parametrize(
    "curve, height, width", [("hilbert", 9, 9), ("zorder", 8, 8), ("hilbert", 6, 9), ("zorder", 7, 10)]
)
def test_candidates_are_measured_as_their_paths(curve, height, width):
    universe = search.candidates(height, width, curve)
    for number in torch.randperm(len(universe), generator=torch.Generator().manual_seed(0))[:40].tolist():
        measured = locality([universe.config(number)], height, width)
        assert int(universe.cost[number]) == measured.cost
        assert torch.equal(unpack(universe.better[[number]], height * width)[0], measured.mask[0].flatten())


def test_options_of_candidates(small):
    everything = search.candidates(8, 8, "hilbert", diagonal_windows=True)
    assert len(everything) == 4 + 4 * sum((pad + 1) ** 2 for pad in range(1, 8))
    assert len(search.candidates(8, 8, "hilbert", max_pad=3)) == 4 + 4 * (2 + 6)
    assert len(search.candidates(8, 8, "hilbert", max_pad=0, rotate_plain=False)) == 1
    assert len(search.candidates(8, 8, "zorder", max_pad=24)) == 225 + 4 * 24 * 23
    assert len(search.candidates(8, 8, "zorder", rotate_plain=True)) == 228
    assert {search.candidates(6, 9, "hilbert").config(i).rotation for i in range(20)} == {0, 180}
    assert small.half_turned() and not search.candidates(8, 8, "zorder").half_turned()
    assert search.exact(8, 8, "hilbert", universe=everything, progress=False).cost <= 6096


@needs_native
@pytest.mark.parametrize("curve, side", GREEDY)
def test_greedy_finds_what_the_authors_found(curve, side):
    cost, windows = GREEDY[curve, side]
    found = search.greedy(side, side, curve)
    assert found.coverage == 1 and not found.proven and found.bound <= found.cost
    assert found.cost == cost and set(found.configs) <= configs(curve, windows)


@pytest.mark.parametrize(
    "curve, side, options", [("hilbert", 6, {"max_pad": 4}), ("zorder", 28, {}), ("zorder", 8, {})]
)
def test_exact_is_the_least_of_all_sets(curve, side, options):
    universe = search.candidates(side, side, curve, **options)
    best = search.exact(side, side, curve, universe=universe, progress=False)
    assert best.proven and best.bound == best.cost and best.coverage == 1
    members = 3 if len(universe) < 100 else 2
    assert (members + 1) * int(universe.cost.min()) > best.cost  # larger sets cost more
    assert best.cost == cheapest_by_trying_all(universe, members)


@pytest.mark.parametrize("solver", ("cbc", "highs"))
@pytest.mark.parametrize("curve, side", [("hilbert", 8), ("zorder", 8), ("zorder", 28), ("hilbert", 7)])
def test_other_programmes_prove_the_same(curve, side, solver):
    pytest.importorskip({"cbc": "pulp", "highs": "scipy"}[solver])
    universe = search.candidates(side, side, curve)
    ours = search.exact(side, side, curve, universe=universe, progress=False)
    theirs = search.exact(side, side, curve, universe=universe, solver=solver)
    assert ours.proven and theirs.proven and theirs.coverage == 1
    assert theirs.cost == theirs.bound == ours.cost


@needs_native
@pytest.mark.parametrize("curve, side", [("hilbert", 32), ("zorder", 32), ("zorder", 64), ("zorder", 224)])
def test_exact_beats_the_published_sets(curve, side):
    letter = {"hilbert": "g", "zorder": "z"}[curve]
    best = search.exact(side, side, curve, progress=False)
    assert best.proven and best.coverage == 1 and best.num_paths == 3
    assert best.cost == preset_set(f"{letter}*", side, side).cost < preset_set(letter, side, side).cost


@pytest.mark.slow
@needs_native
@pytest.mark.parametrize("side", (64, 224))
def test_exact_beats_the_published_hilbert_sets(side):
    best = search.exact(side, side, "hilbert", progress=False)
    assert best.proven and best.cost == preset_set("g*", side, side).cost < preset_set("g", side, side).cost


def test_sets_of_any_size_are_considered():
    """Four members that cost less together than the only pair: the first pair that covers is not the end."""
    masks = torch.zeros(6, 36, dtype=torch.bool)
    for number in range(4):
        masks[number, 9 * number : 9 * number + 9] = True
    masks[4, :18] = masks[5, 18:] = True
    windows = torch.tensor([(0, pad, 0, 0, 0) for pad in range(6)], dtype=torch.int32)
    cost = torch.tensor([10, 10, 10, 10, 21, 21])
    universe = search.Universe(6, 6, windows, cost, pack(masks))
    sorted_ = Sorted(universe)
    assert sorted_.covers(torch.arange(6), 2, 1000) == (42, [4, 5])
    assert sorted_.covers(torch.arange(6), 3, 42) == (41, [0, 1, 5]) or sorted_.covers(torch.arange(6), 3, 42)[0] == 41
    assert sorted_.covers(torch.arange(6), 4, 41)[0] == 40
    assert sorted_.covers(torch.arange(6), 4, 40) is None
    assert sorted_.covers(torch.arange(6), 1, 1000) is None


def test_the_order_of_candidates_does_not_matter():
    """Half turns halve the search, but among candidates of equal cost only if these are looked at in a fixed order."""
    generator = torch.Generator().manual_seed(0)
    windows = torch.tensor([(0, 1, row, 0, turns) for row in range(5) for turns in (0, 2)], dtype=torch.int32)
    for trial in range(20):
        upright = torch.rand(5, 12, generator=generator) < 0.45
        upright[0] |= ~(upright | upright.flip(1)).any(0)
        masks = torch.stack((upright, upright.flip(1)), 1).flatten(0, 1)
        cost = torch.randint(5, 8, (5,), generator=generator).repeat_interleave(2)
        order = torch.randperm(10, generator=generator)
        universe = search.Universe(3, 4, windows[order], cost[order], pack(masks[order]))
        state = State(int(cost.sum()), list(range(10)))
        assert _search(universe, state, None, None, False) == state.cost == cheapest_by_trying_all(universe, 5), trial


def test_the_default_device_does_not_matter(tmp_path):
    with torch.device("meta"):
        found = search.exact(8, 8, "zorder", resume=tmp_path / "state", progress=False)
        rounded = search.randomized_rounding(8, 8, "zorder")
        greedy = search.greedy(8, 8, "zorder")
    assert found == search.exact(8, 8, "zorder", progress=False) and greedy == search.greedy(8, 8, "zorder")
    assert rounded == search.randomized_rounding(8, 8, "zorder")


def test_a_solver_out_of_time_has_no_bound(monkeypatch, small):
    optimize = pytest.importorskip("scipy.optimize")
    whole = optimize.milp

    def hasty(*arguments, **options):
        solved = whole(*arguments, **options)
        solved.mip_dual_bound = -float("inf")
        return solved

    monkeypatch.setattr(optimize, "milp", hasty)
    found = search.exact(8, 8, "hilbert", universe=small, solver="highs")
    assert not found.proven and found.bound == int(small.cost.min())


def test_a_state_that_cannot_be_kept_is_said_before_the_search(tmp_path, small, monkeypatch):
    monkeypatch.setattr(Sorted, "covers", None)
    with pytest.raises(FileNotFoundError):
        search.exact(8, 8, "hilbert", universe=small, resume=tmp_path / "no" / "state", progress=False)


def test_a_single_path_may_do():
    universe = search.candidates(8, 8, "hilbert")
    masks = unpack(universe.better, 64)
    masks[5] = True
    universe = search.Universe(8, 8, universe.windows, universe.cost, pack(masks))
    assert Sorted(universe).covers(torch.arange(len(universe)), 1, 1 << 40) == (int(universe.cost[5]), [5])


def test_two_curves_are_searched_together(small):
    both = small + search.candidates(8, 8, "zorder")
    best = search.exact(8, 8, "hilbert", universe=both, progress=False)
    assert best.proven and best.cost <= 5176
    with pytest.raises(ValueError, match="8 x 8 and for 9 x 9 pixels cannot be searched together"):
        small + search.candidates(9, 9, "hilbert")


@needs_native
def test_native_kernels_equal_the_reference():
    universe = search.candidates(9, 9, "hilbert", max_pad=5, diagonal_windows=True)
    with pathconv.use_backend("reference"):
        same = search.candidates(9, 9, "hilbert", max_pad=5, diagonal_windows=True)
    assert torch.equal(universe.cost, same.cost) and torch.equal(universe.better, same.better)
    mask = ones(50)
    assert torch.equal(kernel("count")(universe.better, mask[: universe.better.shape[1]]),
                       reference.count(universe.better, mask))  # fmt: skip
    assert torch.equal(kernel("transpose")(universe.better, 81), reference.transpose(universe.better, 81))
    s = Sorted(universe)
    assert torch.equal(kernel("dominated")(s.columns, s.table, s.cost), reference.dominated(s.columns, s.table, s.cost))
    firsts = torch.arange(0, len(universe), 7)
    for members, limit in ((1, 10**6), (2, 10**6), (3, int(3.2 * s.cost[0])), (4, int(4.05 * s.cost[0]))):
        arguments = (s.columns, s.table, s.cost, firsts, members, limit)
        assert torch.equal(kernel("covers")(*arguments), reference.covers(*arguments))


@pytest.mark.skipif(not NATIVE, reason="of the native library")
def test_every_instruction_set_finds_the_same():
    level = torch.ops.pathconv.cpu_level()
    found = []
    try:
        for name in ("baseline", "avx2", "avx512"):
            torch.ops.pathconv.set_cpu_level(name)
            universe = search.candidates(13, 13, "hilbert")
            best = search.exact(13, 13, "hilbert", universe=universe, progress=False)
            found.append((universe.fingerprint(), best, Sorted(universe).undominated().tolist()))
    finally:
        torch.ops.pathconv.set_cpu_level(level)
    assert found[0] == found[1] == found[2]


def test_threads_change_nothing():
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(search.exact(8, 8, "zorder", progress=False))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_undominated_candidates_suffice(small):
    kept = Sorted(small).undominated()
    covered, everything = matrix(small, kept), matrix(small, torch.arange(len(small)))
    assert 0 < len(kept) < len(small)
    for number in range(len(small)):
        assert ((covered >= everything[number]).all(1) & (small.cost[kept] <= small.cost[number])).any()
    for i, j in itertools.permutations(range(len(kept)), 2):
        assert not ((covered[j] >= covered[i]).all() and small.cost[kept[j]] <= small.cost[kept[i]])


def test_time_limit_gives_a_bound_and_resuming_the_rest(tmp_path, small, monkeypatch):
    state, whole = tmp_path / "state.json", search.exact(8, 8, "hilbert", universe=small, progress=False)
    part = search.exact(8, 8, "hilbert", universe=small, time_limit=0, resume=state, progress=False)
    assert not part.proven and 0 < part.bound <= whole.cost <= part.cost and part.coverage == 1
    bounds, calls = [part.bound], []
    covers = Sorted.covers
    for _ in range(4):  # interrupted again and again, each time a little later

        def interrupted(self, *arguments):
            calls.append(arguments)
            if len(calls) % 4 == 0:
                raise KeyboardInterrupt
            return covers(self, *arguments)

        monkeypatch.setattr(Sorted, "covers", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"interrupted with a set of cost [\d,]+; the state is in .*state"):
            search.exact(8, 8, "hilbert", universe=small, resume=state, progress=False)
        monkeypatch.undo()
        part = search.exact(8, 8, "hilbert", universe=small, time_limit=0, resume=state, progress=False)
        bounds.append(part.bound)
    assert bounds == sorted(bounds)
    assert search.exact(8, 8, "hilbert", universe=small, resume=state, progress=False) == whole
    assert search.exact(8, 8, "hilbert", universe=small, resume=state, progress=False) == whole  # nothing left to do
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def test_candidates_that_differ_in_a_pixel_are_told_apart(small):
    same = search.Universe(8, 8, small.windows.clone(), small.cost.clone(), small.better.clone())
    assert same.fingerprint() == same.fingerprint() == small.fingerprint()
    for name in ("windows", "cost", "better"):
        changed = getattr(small, name).clone()
        changed.view(-1)[0] ^= 1
        assert dataclasses.replace(small, **{name: changed}).fingerprint() != small.fingerprint(), name


def test_states_of_other_searches_are_refused(tmp_path, small):
    state = tmp_path / "state.json"
    search.exact(8, 8, "hilbert", universe=small, resume=state, progress=False)
    with pytest.raises(ValueError, match="is the state of a search among other candidates"):
        search.exact(8, 8, "zorder", resume=state, progress=False)
    known = json.loads(state.read_text())
    first = small.numbers([PathConfig(**known["configs"][0])])
    alone = {"configs": known["configs"][:1], "cost": int(small.cost[first].sum())}
    for change in ({"members": 0}, {"position": -1}, alone):
        state.write_text(json.dumps(known | change))
        with pytest.raises(ValueError, match="it is no point that a search can be at"):
            search.exact(8, 8, "hilbert", universe=small, resume=state, progress=False)
    state.write_text(json.dumps(known))
    for content in ("", "{}", json.dumps({"format": "pathconv path set", "version": 1}),
                    state.read_text().replace('"cost": ', '"cost": 1')):  # fmt: skip
        state.write_text(content)
        with pytest.raises(ValueError, match="holds no state of a search"):
            search.exact(8, 8, "hilbert", universe=small, resume=state, progress=False)


def test_a_pixel_that_nothing_covers_is_named():
    with pytest.raises(ValueError, match=r"no candidate is better than the raster at pixel \(\d, \d\): search more"):
        search.greedy(8, 8, "hilbert", universe=search.candidates(8, 8, "hilbert", max_pad=0))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: search.candidates(8, 8, "raster"), 'curve must be "hilbert" or "zorder"'),
        (lambda: search.candidates(0, 8, "hilbert"), "height must be at least 1"),
        (lambda: search.candidates(8, 8, "hilbert", max_pad=-1), "max_pad must be at least 0, but it is -1"),
        (lambda: search.candidates(2000, 2000, "hilbert", max_pad=60), "GiB, but this machine has"),
        (lambda: search.exact(8, 8, "hilbert", solver="glpk"), "solver must be \"native\", 'cbc', 'highs'"),
        (lambda: search.exact(8, 8, "hilbert", time_limit=-1), "time_limit must not be negative"),
        (lambda: search.exact(8, 8, "hilbert", solver="cbc", resume="x"), "cbc keeps no state"),
        (lambda: search.randomized_rounding(8, 8, "hilbert", repair="no"), 'repair must be "greedy" or "discard"'),
        (lambda: search.randomized_rounding(8, 8, "hilbert", rounds=0), "rounds must be at least 1"),
    ],
)
def test_errors_are_sentences(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_universe_for_another_size_is_refused(small):
    for solve in (search.greedy, search.exact, search.randomized_rounding):
        with pytest.raises(ValueError, match="universe holds candidates for 8 x 8 pixels, not for 9 x 9"):
            solve(9, 9, "hilbert", universe=small)


def test_found_sets_are_values(tmp_path):
    found = search.greedy(8, 8, "hilbert")
    found.save(tmp_path / "set.json")
    assert PathSet.load(tmp_path / "set.json") == found
