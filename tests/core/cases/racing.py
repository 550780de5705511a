"""Cases of halving, of the paired model and of the signed-rank test."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.core.cases.registry import Case, case
from tests.core.naive import Array, bandit
from tests.core.naive import racing as naive
from tests.core.spaces import SEEDS, STEPS

ETAS = st.integers(2, 4)
VARIANCES = st.floats(0.05, 5.0)


@case("racing.rungs_for")
def _(draw: st.DrawFn) -> Case:
    candidates, eta = draw(st.integers(1, 300)), draw(ETAS)

    def expected() -> list[Any]:
        sizes, _ = naive.halving(candidates, 1, 0, eta, 20)
        return [max(sizes.index(1), 1)]

    return Case((candidates, eta), (), expected)


@case("racing.halving_rungs")
def _(draw: st.DrawFn) -> Case:
    candidates, examples, budget = draw(st.integers(1, 60)), draw(st.integers(1, 90)), draw(st.integers(0, 4000))
    eta, rungs = draw(ETAS), draw(st.integers(1, 7))
    out = np.zeros(rungs, dtype=np.int64), np.zeros(rungs, dtype=np.int64)
    return Case(
        (candidates, examples, budget, eta, *out),
        (4, 5),
        lambda: list(naive.halving(candidates, examples, budget, eta, rungs)),
    )


@case("racing.bracket_sizes")
def _(draw: st.DrawFn) -> Case:
    count, eta = draw(st.integers(1, 6)), draw(ETAS)
    sizes = naive.brackets(count, eta)
    return Case((eta, np.zeros(count, dtype=np.int64)), (1,), lambda: [sizes, sum(sizes)])


def _scores(draw: st.DrawFn) -> Array:
    examples, candidates = draw(st.integers(1, 6)), draw(st.integers(2, 5))
    cells = draw(
        st.lists(
            st.sampled_from([math.nan, -1.0, 0.0, 0.5, 1.5]),
            min_size=examples * candidates,
            max_size=examples * candidates,
        )
    )
    return np.array(cells).reshape(examples, candidates)


def _precision(draw: st.DrawFn) -> Array:
    """A positive definite matrix; its upper triangle is not to be read by what takes a factor."""
    n = draw(st.integers(2, 5))
    root = np.array([[draw(st.floats(-1, 1)) for _ in range(n)] for _ in range(n)])
    return root @ root.T + np.eye(n)


def _posterior(draw: st.DrawFn) -> tuple[Array, Array]:
    """Factor and mean."""
    precision = _precision(draw)
    factor: Array = np.linalg.cholesky(precision).astype(np.float64) + np.triu(np.full(precision.shape, 9.0), 1)
    return factor, np.array([draw(st.floats(-1, 1)) for _ in range(len(precision))])


@case("paired.posterior")
def _(draw: st.DrawFn) -> Case:
    scores = _scores(draw)
    noise, spread, prior = draw(VARIANCES), draw(VARIANCES), draw(VARIANCES)
    n = scores.shape[1]

    def expected() -> list[Any]:
        mean, covariance = naive.effects(scores, noise, spread, prior)
        return [np.linalg.cholesky(np.linalg.inv(covariance)), mean]

    return Case(
        (scores, noise, spread, prior, np.zeros(n, dtype=np.int64), np.zeros((n, n)), np.zeros(n)),
        (5, 6),
        expected,
        1e-8,
    )


@case("paired.factorise")
def _(draw: st.DrawFn) -> Case:
    matrix = _precision(draw)
    wanted = np.linalg.cholesky(matrix) + np.triu(matrix, 1)
    return Case((matrix,), (0,), lambda: [wanted], 1e-10)


@case("paired.solve_back")
def _(draw: st.DrawFn) -> Case:
    factor, x = _posterior(draw)
    wanted = np.linalg.solve(np.tril(factor).T, x)
    return Case((factor, x), (1,), lambda: [wanted], 1e-10)


@case("paired.residual_sums")
def _(draw: st.DrawFn) -> Case:
    scores = _scores(draw)
    effects = np.array([draw(st.floats(-1, 1)) for _ in range(scores.shape[1])])
    return Case((scores, effects, np.zeros(4)), (2,), lambda: [naive.residual_sums(scores, effects)], 1e-9)


@case("paired.draw")
def _(draw: st.DrawFn) -> Case:
    factor, mean = _posterior(draw)
    seed, step, dim = draw(SEEDS), draw(STEPS), draw(STEPS)
    return Case(
        (factor, mean, seed, step, dim, np.zeros(mean.size)),
        (5,),
        lambda: [naive.draw(factor, mean, seed, step, dim)],
        1e-8,
    )


@case("paired.top_two")
def _(draw: st.DrawFn) -> Case:
    factor, mean = _posterior(draw)
    seed, step, rounds = draw(SEEDS), draw(STEPS), draw(st.integers(0, 3))
    drawn = [naive.draw(factor, mean, seed, step, dim) for dim in range(rounds + 1)]
    return Case(
        (factor, mean, seed, step, rounds, np.zeros(mean.size), np.zeros(2, dtype=np.int64)),
        (5, 6),
        lambda: list(bandit.top_two(drawn)),
        1e-8,
    )


@case("paired.wins")
def _(draw: st.DrawFn) -> Case:
    factor, mean = _posterior(draw)
    seed, step, draws = draw(SEEDS), draw(STEPS), draw(st.integers(0, 12))

    def expected() -> list[Any]:
        best = [bandit.highest(naive.draw(factor, mean, seed, step, dim), -1) for dim in range(draws)]
        return [np.array([best.count(c) for c in range(mean.size)])]

    out = np.zeros(mean.size), np.zeros(mean.size, dtype=np.int64)
    return Case((factor, mean, seed, step, draws, *out), (6,), expected)


@case("paired.deviations")
def _(draw: st.DrawFn) -> Case:
    factor, mean = _posterior(draw)
    lower = np.tril(factor)
    wanted = np.sqrt(np.diag(np.linalg.inv(lower @ lower.T)))
    return Case((factor, np.zeros(lower.shape), np.zeros(mean.size)), (2,), lambda: [wanted], 1e-9)


RANKED = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.5, 1.0, 2.0]), min_size=1, max_size=9).map(sorted)


@case("signed_rank.doubled_ranks")
def _(draw: st.DrawFn) -> Case:
    magnitudes = draw(RANKED)
    return Case(
        (np.array(magnitudes), np.zeros(len(magnitudes), dtype=np.int64)),
        (1,),
        lambda: [naive.doubled_ranks(magnitudes)],
    )


@case("signed_rank.exact_tail")
def _(draw: st.DrawFn) -> Case:
    ranks = naive.doubled_ranks(draw(RANKED))
    observed = draw(st.integers(0, sum(ranks)))
    return Case(
        (np.array(ranks, dtype=np.int64), observed, np.zeros((2, sum(ranks) + 1))),
        (),
        lambda: [naive.exact_tail(ranks, observed)],
        1e-12,
    )


@case("signed_rank.normal_tail")
def _(draw: st.DrawFn) -> Case:
    ranks = naive.doubled_ranks(draw(RANKED))
    observed = draw(st.integers(0, sum(ranks)))
    return Case((np.array(ranks, dtype=np.int64), observed), (), lambda: [naive.normal_tail(ranks, observed)], 1e-9)
