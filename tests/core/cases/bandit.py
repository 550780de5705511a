"""Cases of arms with conjugate posteriors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from dspex.core.kernels import bandit
from tests.core.cases.registry import Case, case
from tests.core.naive import bandit as naive
from tests.core.spaces import SEEDS, STEPS

WORDS = st.integers(0, 2**64 - 1)
SHAPES = st.floats(0.3, 40.0)
VALUES = st.sampled_from([math.nan, -2.0, 0.0, 0.5, 0.5, 3.0])


def _posterior(draw: st.DrawFn, least: int = 1) -> tuple[int, Any]:
    kind, arms = draw(st.integers(0, 3)), draw(st.integers(least, 5))
    columns = [[draw(SHAPES) for _ in range(4)] for _ in range(arms)]
    parameters = np.array(columns).T.copy()
    if kind in (bandit.NORMAL, bandit.STUDENT):
        parameters[0] -= 10.0
    return kind, parameters


def _counts(draw: st.DrawFn, arms: int) -> Any:
    return np.array([float(draw(st.integers(0, 9))) for _ in range(arms)])


@case("bandit.open_uniform")
def _(draw: st.DrawFn) -> Case:
    word = draw(WORDS)
    return Case((np.uint64(word),), (), lambda: [naive.unit(word)])


@case("bandit.gamma_variate")
def _(draw: st.DrawFn) -> Case:
    shape, word = draw(SHAPES | st.sampled_from([1.0, 0.0, -1.0, math.nan])), draw(WORDS)
    return Case((shape, np.uint64(word)), (), lambda: [naive.gamma(shape, word) if shape > 0 else math.nan], 1e-7)


@case("bandit.beta_variate")
def _(draw: st.DrawFn) -> Case:
    alpha, beta, word = draw(SHAPES), draw(SHAPES), draw(WORDS)
    return Case((alpha, beta, np.uint64(word)), (), lambda: [naive.beta(alpha, beta, word)], 1e-7)


@case("bandit.posterior_draws")
def _(draw: st.DrawFn) -> Case:
    kind, parameters = _posterior(draw)
    seed, step, dim = draw(SEEDS), draw(STEPS), draw(STEPS)
    out = np.zeros(parameters.shape[1])
    return Case(
        (kind, parameters, seed, step, dim, out), (5,), lambda: [naive.draws(kind, parameters, seed, step, dim)], 1e-7
    )


@case("bandit.highest")
def _(draw: st.DrawFn) -> Case:
    values = np.array(draw(st.lists(VALUES, min_size=1, max_size=6)))
    skip = draw(st.integers(-1, values.size))
    return Case((values, skip), (), lambda: [naive.highest(values, skip)])


@case("bandit.thompson")
def _(draw: st.DrawFn) -> Case:
    kind, parameters = _posterior(draw)
    seed, step, dim = draw(SEEDS), draw(STEPS), draw(STEPS)

    def expected() -> list[Any]:
        drawn = naive.draws(kind, parameters, seed, step, dim)
        return [drawn, naive.highest(drawn, -1)]

    return Case((kind, parameters, seed, step, dim, np.zeros(parameters.shape[1])), (5,), expected, 1e-7)


@case("bandit.top_two")
def _(draw: st.DrawFn) -> Case:
    kind, parameters = _posterior(draw, least=2)
    seed, step, rounds = draw(SEEDS), draw(STEPS), draw(st.integers(0, 4))
    drawn = [naive.draws(kind, parameters, seed, step, dim) for dim in range(rounds + 1)]
    pair = np.zeros(2, dtype=np.int64)
    return Case(
        (kind, parameters, seed, step, rounds, np.zeros(parameters.shape[1]), pair),
        (5, 6),
        lambda: list(naive.top_two(drawn)),
        1e-7,
    )


@case("bandit.update_normal")
def _(draw: st.DrawFn) -> Case:
    _, prior = _posterior(draw)
    values = [draw(st.lists(st.floats(-5, 5), max_size=4)) for _ in range(prior.shape[1])]
    variance = draw(st.floats(0.1, 4.0))
    totals, counts = np.array([sum(each, 0.0) for each in values]), np.array([float(len(each)) for each in values])

    def expected() -> list[Any]:
        out = prior.copy()
        for arm, seen in enumerate(values):
            mean, precision = float(prior[0, arm]), float(prior[1, arm])
            for value in seen:  # one observation after the other
                mean = (mean * precision + value / variance) / (precision + 1 / variance)
                precision += 1 / variance
            out[:2, arm] = mean, precision
        return [out]

    return Case((prior, totals, counts, variance, prior.copy()), (4,), expected, 1e-9)


@case("bandit.update_student")
def _(draw: st.DrawFn) -> Case:
    _, prior = _posterior(draw)
    values = [draw(st.lists(st.floats(-5, 5), max_size=4)) for _ in range(prior.shape[1])]
    means = np.array([sum(each) / len(each) if each else math.nan for each in values])
    squares = np.array([sum(((x - mean) ** 2 for x in each), 0.0) for each, mean in zip(values, means, strict=True)])
    counts = np.array([float(len(each)) for each in values])
    return Case((prior, counts, means, squares, prior.copy()), (4,), lambda: [naive.student(prior, values)], 1e-9)


@case("bandit.update_beta")
def _(draw: st.DrawFn) -> Case:
    _, prior = _posterior(draw)
    won, lost = _counts(draw, prior.shape[1]), _counts(draw, prior.shape[1])
    return Case(
        (prior, won, lost, prior.copy()),
        (3,),
        lambda: [np.vstack([prior[:2] + np.array([won, lost]), prior[2:]])],
    )


@case("bandit.update_gamma")
def _(draw: st.DrawFn) -> Case:
    _, prior = _posterior(draw)
    events, exposures = _counts(draw, prior.shape[1]), _counts(draw, prior.shape[1]) / 3
    return Case(
        (prior, events, exposures, prior.copy()),
        (3,),
        lambda: [np.vstack([prior[:2] + np.array([events, exposures]), prior[2:]])],
    )


@case("bandit.pool")
def _(draw: st.DrawFn) -> Case:
    m, n = draw(st.integers(0, 12)), draw(st.integers(1, 4))
    arms = draw(st.lists(st.integers(-1, n - 1), min_size=m, max_size=m))
    values = draw(st.lists(VALUES, min_size=m, max_size=m))
    weights = draw(st.lists(st.floats(0.0, 3.0), min_size=m, max_size=m))
    return Case(
        (np.array(arms, dtype=np.int64), np.array(values), np.array(weights), np.ones(n), np.ones(n), np.ones(n)),
        (3, 4, 5),
        lambda: list(naive.moments(arms, values, weights, n)),
        1e-9,
    )


@case("bandit.ucb1")
def _(draw: st.DrawFn) -> Case:
    n = draw(st.integers(1, 5))
    means, counts, scale = np.linspace(0, 1, n), _counts(draw, n), draw(st.floats(0.1, 3.0))

    def expected() -> list[Any]:
        width = math.log(max(counts.sum(), 1))
        return [
            np.array(
                [m + scale * math.sqrt(2 * width / c) if c else math.inf for m, c in zip(means, counts, strict=True)]
            )
        ]

    return Case((means, counts, scale, np.zeros(n)), (3,), expected, 1e-12)


@case("bandit.kl_ucb")
def _(draw: st.DrawFn) -> Case:
    n = draw(st.integers(1, 5))
    means = np.array([draw(st.floats(0, 1) | st.sampled_from([0.0, 1.0])) for _ in range(n)])
    counts = _counts(draw, n) * draw(st.sampled_from([1.0, 40.0]))
    return Case(
        (means, counts, np.zeros(n)),
        (2,),
        lambda: [
            np.array([naive.kl_bound(p, c, counts.sum()) for p, c in zip(means.tolist(), counts.tolist(), strict=True)])
        ],
        1e-9,
    )


@case("bandit.propose")
def _(draw: st.DrawFn) -> Case:
    kind, parameters = _posterior(draw)
    arms = parameters.shape[1]
    ends = sorted(draw(st.sets(st.integers(1, arms))) | {arms})
    seed, step, count = draw(SEEDS), draw(STEPS), draw(st.integers(1, 4))

    def expected() -> list[Any]:
        out = np.zeros((len(ends), count), dtype=np.int64)
        for i in range(count):
            drawn = naive.draws(kind, parameters, seed, step, i)
            for group, (first, end) in enumerate(zip([0, *ends], ends, strict=False)):
                out[group, i] = naive.highest(drawn[first:end], -1)
        return [out]

    return Case(
        (kind, parameters, np.array(ends, dtype=np.int64), seed, step, np.zeros(arms),
         np.zeros((len(ends), count), dtype=np.int64)),
        (6,),
        expected,
    )  # fmt: skip
