"""Fronts, hypervolume and NSGA-II on arrays: what holds for every input."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core import pareto
from dspex.core.evolution import NSGA2, Variation, breed
from dspex.core.population import Sampler
from dspex.errors import CoreError
from dspex.program.variables import Choice, Float, Int
from tests.core import library, naive
from tests.core.naive import evolution
from tests.core.spaces import SEEDS, UNHURRIED, drawn, spaces

Array = NDArray[np.float64]
OFTEN = settings(max_examples=60, deadline=None, suppress_health_check=UNHURRIED)
VALUES = st.sampled_from([-1.0, 0.0, 0.25, 1.0]) | st.floats(-3.0, 3.0)


@st.composite
def losses(draw: st.DrawFn, values: st.SearchStrategy[float] = VALUES, most: int = 25, widest: int = 5) -> Array:
    objectives, n = draw(st.integers(2, widest)), draw(st.integers(0, most))
    cells = draw(st.lists(values, min_size=objectives * n, max_size=objectives * n))
    return np.array(cells).reshape(objectives, n)


@OFTEN
@given(losses())
def test_no_member_of_a_front_precedes_another_and_each_has_one_before_it_in_the_front_before(each: Array) -> None:
    rank = pareto.ranks(each)
    for j in range(each.shape[1]):
        ahead = [int(rank[i]) for i in range(each.shape[1]) if i != j and evolution.precedes(each, i, j)]
        assert rank[j] == max(ahead, default=-1) + 1


@OFTEN
@given(losses(st.sampled_from([0.0, 0.5, 1.0, 2.0, np.nan])))
def test_the_front_is_what_nothing_dominates_and_trials_without_value_are_nowhere(each: Array) -> None:
    told = np.flatnonzero(~np.isnan(each).any(axis=0))
    wanted = told[evolution.ranks(each[:, told], told.size) == 0]
    assert pareto.front(each).tolist() == wanted.tolist()
    single = pareto.single(each)
    assert np.array_equal(np.isnan(single), np.isnan(each).any(axis=0))


@OFTEN
@given(losses(st.floats(-3.0, 3.0)), st.integers(0, 99))
def test_the_order_of_different_trials_does_not_matter(each: Array, seed: int) -> None:
    each = each[:, np.unique(each[0], return_index=True)[1]]
    mixed = np.random.default_rng(seed).permutation(each.shape[1])
    assert pareto.ranks(each)[mixed].tolist() == pareto.ranks(each[:, mixed]).tolist()
    if each.shape[0] == 2:
        np.testing.assert_allclose(pareto.single(each)[mixed], pareto.single(each[:, mixed]), rtol=1e-12)


@OFTEN
@given(losses(), st.data())
def test_what_is_needed_has_the_order_it_has_among_all(each: Array, data: st.DataObject) -> None:
    needed = data.draw(st.integers(0, each.shape[1]))
    whole, part = pareto.single(each), pareto.single(each, needed)
    kept = np.isfinite(part)
    assert kept.sum() >= needed
    assert part[kept].tolist() == whole[kept].tolist()
    assert not kept.any() or (whole[~kept] > whole[kept].max()).all()


def test_one_objective_is_its_own_order() -> None:
    each = np.array([[3.0, np.nan, 1.0, 1.0]])
    assert pareto.front(each).tolist() == [2]
    np.testing.assert_array_equal(pareto.single(each), each[0])
    assert pareto.front(np.full((1, 2), np.nan)).size == 0


@OFTEN
@given(losses(st.sampled_from([0.0, 0.5, 1.0, 2.0]) | st.floats(-1.0, 1.5), most=6), st.data())
def test_hypervolume_is_that_of_inclusion_and_exclusion(each: Array, data: st.DataObject) -> None:
    reference = np.ones(each.shape[0])
    volume = pareto.hypervolume(each, reference)
    assert volume == pytest.approx(evolution.volume(each, reference), abs=1e-12)
    np.testing.assert_allclose(pareto.contributions(each, reference), evolution.shares(each, reference), atol=1e-12)
    fewer = each[:, : data.draw(st.integers(0, each.shape[1]))]
    assert pareto.hypervolume(fewer, reference) <= volume + 1e-12


def test_hypervolume_leaves_out_what_has_no_value_or_is_not_below_the_reference() -> None:
    each = np.array([[0.5, np.nan, 0.0, 1.0], [0.5, 0.0, 2.0, 0.0]])
    assert pareto.hypervolume(each, (1.0, 1.0)) == 0.25
    assert pareto.contributions(each, [1.0, 1.0]).tolist() == [0.25, 0.0, 0.0, 0.0]
    assert pareto.hypervolume(np.empty((3, 0)), np.ones(3)) == 0.0
    for reference in ((1.0,), (1.0, np.inf), (1.0, 1.0, 1.0)):
        with pytest.raises(CoreError, match="DX3027"):
            pareto.hypervolume(each, reference)
    with pytest.raises(CoreError, match="DX3027"):
        pareto.contributions(np.zeros((1, 2)), (1.0,))


def test_hypervolume_of_a_large_front_is_the_integral() -> None:
    x = np.linspace(0.0, 1.0, 2001)
    assert pareto.hypervolume(np.stack([x, 1.0 - x]), (1.0, 1.0)) == pytest.approx(0.5, abs=1e-3)
    simplex = np.random.default_rng(0).dirichlet((1, 1, 1), 4000).T
    assert pareto.hypervolume(simplex, np.ones(3)) == pytest.approx(5 / 6, abs=0.02)


@OFTEN
@given(spaces(), SEEDS, st.integers(1, 9), st.booleans())
def test_children_are_sound(lowered: Lowered, seed: int, count: int, blend: bool) -> None:
    parents = lowered.sampler.sample(6, seed)
    fitness = np.arange(6.0)
    children = breed(lowered.sampler, parents, fitness, count, seed, 1, Variation(0.9, 0.3, blend))
    assert children.shape == (len(lowered.variables), count)
    assert lowered.sampler.holds(children).all()
    for column in children.T:
        for d, z in enumerate(column):
            assert np.isnan(z) != naive.active(lowered, column, d)
            if not np.isnan(z):
                assert naive.snap(lowered, d, float(z)) == pytest.approx(z, rel=1e-9, abs=1e-9)
                assert lowered.table.lo[d] - 1e-12 <= z <= lowered.table.hi[d] + 1e-12


@OFTEN
@given(spaces(), SEEDS)
def test_without_crossover_and_mutation_children_are_copies(lowered: Lowered, seed: int) -> None:
    parents = lowered.sampler.sample(5, seed)
    children = breed(lowered.sampler, parents, np.arange(5.0), 8, seed, 1, Variation(0.0, 0.0))
    known = {column.tobytes() for column in parents.T}
    assert all(column.tobytes() in known for column in children.T)


def continuous(rows: int) -> Sampler:
    return lower([Float(f"x{d}", 0, 1) for d in range(rows)]).sampler


def bent(x: Array) -> Array:
    """Two losses in opposition; the front is reached where all rows but the first are 0."""
    rest = 1.0 + x[1:].sum(axis=0)
    return np.stack([x[0], rest * (1.0 - np.sqrt(x[0] / rest))])


def sphere(x: Array) -> Array:
    """Three losses whose front is an eighth of a unit sphere."""
    size = 1.0 + np.square(x[2:] - 0.5).sum(axis=0)
    a, b = x[0] * np.pi / 2, x[1] * np.pi / 2
    return size * np.stack([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)])


def bowl(x: Array) -> Array:
    """One loss, 0 where every row is 0.3."""
    return np.square(x - 0.3).sum(axis=0, keepdims=True)


def evolve(engine: NSGA2, function: Callable[[Array], Array], generations: int) -> NSGA2:
    for _ in range(generations):
        engine.tell(function(engine.ask()))
    return engine


def test_two_losses_reach_their_front() -> None:
    engine = evolve(NSGA2(continuous(10), 60, 2, seed=3), bent, 120)
    assert np.abs(engine.losses[1] - 1.0 + np.sqrt(engine.losses[0])).mean() < 0.01
    assert engine.front().size > 50
    assert pareto.hypervolume(engine.losses, (1.0, 1.0)) > 0.645  # 2/3 at most


def test_three_losses_reach_their_front() -> None:
    engine = evolve(NSGA2(continuous(8), 80, 3, seed=1), sphere, 80)
    assert np.abs(np.square(engine.losses).sum(axis=0) - 1.0).mean() < 0.05
    found = pareto.hypervolume(engine.losses, np.full(3, 1.2))
    draws = sphere(continuous(8).sample(80 * 80, 1))
    assert found > pareto.hypervolume(draws, np.full(3, 1.2)) + 0.05


def test_one_loss_reaches_its_minimum() -> None:
    engine = evolve(NSGA2(continuous(6), 30, 1), bowl, 60)
    assert engine.losses.max() < 1e-4


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("size", [2, 7, 20])
def test_a_state_continues_bit_for_bit_and_the_best_are_never_lost(objectives: int, size: int) -> None:
    sampler = library.lowered().sampler

    def function(x: Array) -> Array:
        known = np.nan_to_num(x, nan=-1.0)
        values = np.stack([known.sum(axis=0), -known[3] * known[2], np.abs(known[1] - 1)])[:objectives].round(1)
        values[:, np.abs(known[0] * 10 + known[1]) % 3 == 2] = np.nan
        return values

    engine, best = NSGA2(sampler, size, objectives, seed=5), np.inf
    for _ in range(12):
        other = NSGA2(sampler, size, objectives, seed=5)
        other.restore(engine.state())
        assert np.array_equal(engine.ask(), other.ask(), equal_nan=True)
        children = engine.ask()
        assert sampler.holds(children).all()
        told = function(children)
        engine.tell(told)
        other.tell(told)
        for one, two in zip(engine.state(), other.state(), strict=True):
            assert np.array_equal(one, two, equal_nan=True)
        best = min(best, np.nanmin(told[0], initial=np.inf))
        assert np.nanmin(engine.losses[0], initial=np.inf) == best
        assert np.array_equal(function(engine.population), engine.losses, equal_nan=True)


def test_failed_individuals_lose_against_every_other() -> None:
    engine = NSGA2(continuous(3), 10, 2)
    engine.tell(np.full((2, 10), np.nan))
    assert engine.front().size == 0
    engine.tell(np.concatenate([np.zeros((2, 4)), np.full((2, 6), np.nan)], axis=1))
    assert np.isfinite(engine.losses).all(axis=0).sum() == 4


def test_misuse_is_refused() -> None:
    sampler = continuous(2)
    for arguments in ((1, 2), (1 << 31, 2), (4, 0)):
        with pytest.raises(CoreError, match="DX3025"):
            NSGA2(sampler, *arguments)
    with pytest.raises(CoreError, match="DX3025"):
        NSGA2(sampler, 4, variation=Variation(1.5))
    engine = NSGA2(sampler, 4, 2)
    with pytest.raises(CoreError, match="DX3026"):
        engine.tell(np.zeros((2, 5)))
    engine.tell(np.zeros((2, 4)))
    with pytest.raises(CoreError, match="DX3025"):
        NSGA2(sampler, 5, 2).restore(engine.state())
    with pytest.raises(CoreError, match="DX3007"):
        NSGA2(continuous(3), 4, 2).restore(engine.state())


_SEARCH = """
import hashlib
import numpy as np
from tests.core.test_evolution import NSGA2, bent, continuous, evolve
engine = evolve(NSGA2(continuous(5), 200, 2, seed=9), bent, 10)
print(hashlib.sha256(engine.population.tobytes()).hexdigest())
"""


def test_the_number_of_threads_changes_nothing() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", _SEARCH],
            env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), threads),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(found) == 1


def test_a_grid_row_that_mutates_moves() -> None:
    lowered = lower([Int("k", 1, 3), Choice("c", ("a", "b", "c")), Float("g", 0, 1, step=0.5)])
    parents = drawn(lowered, 1, 0)
    children = breed(lowered.sampler, parents, np.zeros(1), 50, 3, 1, Variation(0.0, 1.0))
    assert (children != parents).all()
