"""The arithmetic of the optimizers' quality report, on values made by hand. No peer is needed."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from benchmarks.quality import scores
from benchmarks.quality.runs import Run, values_at

BEST = {"p": 1.0, "q": -10.0}
RANDOM = {("p", 0): 2.0, ("p", 1): 3.0, ("p", 2): 7.0, ("q", 0): -8.0, ("q", 1): -6.0, ("q", 2): 0.0}


def test_regret_is_nought_at_the_optimum_and_one_at_the_median_of_random_search() -> None:
    values = {("p", 0): 1.0, ("p", 1): 3.0, ("q", 0): -6.0, ("q", 5): -2.0}
    assert scores.regrets(values, BEST, RANDOM) == {("p", 0): 0.0, ("p", 1): 1.0, ("q", 0): 1.0, ("q", 5): 2.0}


def test_regret_is_refused_when_random_search_finds_the_optimum() -> None:
    with pytest.raises(ValueError, match="optimum of q"):
        scores.regrets(RANDOM, {"p": 1.0, "q": -6.0}, RANDOM)


def test_ranks_go_from_first_to_last_and_ties_share_their_mean() -> None:
    columns = np.array([[1.0, 5.0, 2.0], [2.0, 5.0, 2.0], [3.0, 4.0, 2.0]])
    assert_allclose(scores.ranks(columns), [[0.0, 0.75, 0.5], [0.5, 0.75, 0.5], [1.0, 0.0, 0.5]])


@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=2, max_size=6))
def test_ranks_of_a_pair_average_one_half(rows: list[list[int]]) -> None:
    found = scores.ranks(np.array(rows, float))
    assert_allclose(found.mean(axis=0), 0.5)
    assert ((found >= 0.0) & (found <= 1.0)).all()


def test_wins_are_by_the_mean_over_seeds_and_equal_means_count_half() -> None:
    own = {("p", 0): 0.0, ("p", 1): 4.0, ("q", 0): 1.0, ("r", 0): 5.0, ("s", 0): 0.0}
    peer = {("p", 0): 1.0, ("p", 1): 2.0, ("q", 0): 1.0, ("r", 0): 6.0, ("s", 0): 9.0}
    assert scores.win_share(own, peer) == (0.0 + 0.5 + 1.0 + 1.0) / 4


@pytest.mark.parametrize(
    "differences", [[1.0, 2.0, -3.0, 4.0, 5.0, 6.0, 7.5, 8.0, 9.0, -0.5], [-1.0, -1.0, 2.0, 2.0, 2.0, 3.0, 4.0, -4.0]]
)
def test_signed_rank_is_near_the_exact_p_value(differences: list[float]) -> None:
    sizes = np.abs(differences)
    ranks = np.array([(sizes < size).sum() + ((sizes == size).sum() + 1) / 2 for size in sizes])
    statistic = abs(float((ranks * np.sign(differences)).sum()))
    signs = np.array(list(product((-1.0, 1.0), repeat=len(ranks))))
    # Half of the chance of the statistic itself, as a continuous approximation has it.
    totals = np.abs(signs @ ranks)
    exact = float((totals > statistic).mean() + 0.5 * (totals == statistic).mean())
    assert scores.signed_rank(differences) == pytest.approx(exact, abs=0.03)


def test_signed_rank_leaves_zeros_out_and_knows_nothing_of_zeros_alone() -> None:
    assert scores.signed_rank([0.0, 0.0]) == 1.0
    assert scores.signed_rank([0.0, 1.0, -2.0, 3.0]) == scores.signed_rank([1.0, -2.0, 3.0])
    assert scores.signed_rank([1.0, -2.0, 3.0]) == pytest.approx(scores.signed_rank([-1.0, 2.0, -3.0]))


def test_interval_holds_the_mean_and_is_as_wide_as_the_problems_differ() -> None:
    alike = {(problem, seed): 0.25 for problem in "pqr" for seed in range(4)}
    assert scores.interval(alike) == (0.25, 0.25)
    # Seeds agree within a problem, so only the draw of problems varies: one of 2 problems, twice.
    apart = {(problem, seed): value for problem, value in (("p", -1.0), ("q", 1.0)) for seed in range(4)}
    assert scores.interval(apart) == (-1.0, 1.0)


def test_interval_is_narrower_with_more_seeds() -> None:
    def width(seeds: int) -> float:
        noise = np.random.default_rng(3).normal(size=(6, seeds))
        low, high = scores.interval({(f"p{i}", seed): noise[i, seed] for i in range(6) for seed in range(seeds)})
        return high - low

    assert width(40) < width(5)


def test_comparison_uses_the_pairs_that_all_have_and_the_whole_of_random_search() -> None:
    values = {
        "own": {("p", 0): 1.0, ("p", 1): 2.0, ("q", 0): -10.0},
        "peer": {("p", 0): 3.0, ("q", 0): -2.0, ("q", 1): -10.0},
        "random": RANDOM,
    }
    found = scores.compare("own", ["peer", "random"], values, BEST, "random")
    assert found.pairs == 2
    assert found.mean_rank == {"own": 0.0, "peer": 1.0, "random": 0.5}
    assert found.mean_regret == {"own": 0.0, "peer": 1.5, "random": 0.5}
    peer, random = found.versus
    assert (peer.peer, peer.rank_difference, peer.wins) == ("peer", -1.0, 1.0)
    assert (random.peer, random.rank_difference, random.wins) == ("random", -0.5, 1.0)
    assert (peer.low, peer.high) == (-1.0, -1.0)


def test_values_are_those_after_so_many_evaluations() -> None:
    runs = [Run("a", "p", 0, [10, 20], [5.0, 4.0], 0.1), Run("a", "p", 1, [10], [6.0], 0.1)]
    assert values_at(runs, 20) == {"a": {("p", 0): 4.0}}
    assert values_at(runs, 10) == {"a": {("p", 0): 5.0, ("p", 1): 6.0}}
