"""Halving, resampling, ranks, the paired model and Thompson sampling."""

from __future__ import annotations

from ctypes import c_double, c_int64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernels.harness import Work, library, pointer, work
from dspex.core.kernels import bandit, bootstrap, paired, racing, signed_rank
from dspex.core.statistics import mean_interval

SEED, STEP = c_int64(7), c_int64(3)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@work("racing.promote 64 of 256 x 100")
def _() -> Work:
    scores: NDArray[np.float64] = np.round(generator().random((256, 100)), 2)
    means, out = np.empty((2, 256)), np.zeros((2, 256), dtype=np.int64)
    c = library("racing").promote

    def numpy() -> object:
        ranked: NDArray[np.int64] = np.argsort(-np.mean(scores, axis=1), kind="stable")
        return ranked[:64]

    return Work(
        ours=lambda: racing.promote(scores, 100, 64, means[0], out[0]),
        units=25_600,
        unit="scores",
        c=lambda: c(
            pointer(scores), c_int64(256), c_int64(100), c_int64(100), c_int64(64), pointer(means[1]), pointer(out[1])
        ),
        numpy=numpy,
        equal=lambda: bool((out[0, :64] == out[1, :64]).all()) and np.array_equal(means[0], means[1]),
    )


@work("bootstrap.resampled_means 10,000 of 200")
def _() -> Work:
    values, out, theirs, drawn = np.linspace(0, 1, 200), np.empty(10_000), np.empty(10_000), generator()
    c = library("racing").resampled_means
    return Work(
        ours=lambda: bootstrap.resampled_means(values, 7, 3, out),
        units=10_000,
        unit="resamples",
        c=lambda: c(pointer(values), c_int64(200), SEED, STEP, pointer(theirs), c_int64(10_000)),
        numpy=lambda: values[drawn.integers(0, 200, (10_000, 200))].mean(axis=1),
        equal=lambda: np.allclose(out, theirs, rtol=1e-12),
    )


@work("statistics.mean_interval 10,000 of 200")
def _() -> Work:
    values = np.linspace(0, 1, 200)
    return Work(ours=lambda: mean_interval(values), units=10_000, unit="resamples")


@work("bootstrap.sign_flip_exceedances 10,000 of 200")
def _() -> Work:
    differences, drawn = generator().normal(0.02, 1.0, 200), generator()
    c, found = library("racing").sign_flip_exceedances, [0, 0]

    def ours() -> None:
        found[0] = bootstrap.sign_flip_exceedances(differences, 7, 3, 10_000)

    def theirs() -> None:
        found[1] = c(pointer(differences), c_int64(200), SEED, STEP, c_int64(10_000))

    return Work(
        ours=ours,
        units=10_000,
        unit="resamples",
        c=theirs,
        numpy=lambda: (drawn.integers(0, 2, (10_000, 200)) * 2.0 - 1.0) @ differences,
        equal=lambda: found[0] == found[1],
    )


@work("bootstrap.sign_flip_exact 14")
def _() -> Work:
    differences, found = generator().normal(0.3, 1.0, 14), [0, 0]
    c = library("racing").sign_flip_exact

    def ours() -> None:
        found[0] = bootstrap.sign_flip_exact(differences)

    def theirs() -> None:
        found[1] = c(pointer(differences), c_int64(14))

    return Work(ours=ours, units=1 << 14, unit="patterns", c=theirs, equal=lambda: found[0] == found[1])


@work("signed_rank.doubled_ranks 10,000")
def _() -> Work:
    magnitudes = np.sort(np.round(generator().random(10_000), 3))
    ranks = np.zeros((2, 10_000), dtype=np.int64)
    c = library("racing").doubled_ranks
    return Work(
        ours=lambda: signed_rank.doubled_ranks(magnitudes, ranks[0]),
        units=10_000,
        unit="differences",
        c=lambda: c(pointer(magnitudes), c_int64(10_000), pointer(ranks[1])),
        equal=lambda: np.array_equal(ranks[0], ranks[1]),
    )


@work("signed_rank.exact_tail 50")
def _() -> Work:
    ranks = 2 * np.arange(1, 51, dtype=np.int64)
    shares = np.empty((2, 2, int(ranks.sum()) + 1))
    c, found = library("racing").exact_tail, [0.0, 0.0]
    c.restype = c_double

    def ours() -> None:
        found[0] = signed_rank.exact_tail(ranks, 1700, shares[0])

    def theirs() -> None:
        found[1] = c(pointer(ranks), c_int64(50), c_int64(1700), pointer(shares[1]), c_int64(shares.shape[2]))

    return Work(ours=ours, units=50, unit="ranks", c=theirs, equal=lambda: np.allclose(*found, rtol=1e-12))


def _thompson(kind: int, name: str, rows: tuple[NDArray[np.float64], ...], numpy: Any) -> Work:
    parameters = np.ones((4, 256))
    for row, values in enumerate(rows):
        parameters[row] = values
    draws, chosen = np.empty((2, 256)), [0, 0]
    c = getattr(library("racing"), name)

    def ours() -> None:
        chosen[0] = bandit.thompson(kind, parameters, 7, 3, 0, draws[0])

    def theirs() -> None:
        chosen[1] = c(pointer(parameters), c_int64(256), SEED, STEP, pointer(draws[1]))

    return Work(
        ours=ours,
        units=256,
        unit="arms",
        c=theirs,
        numpy=numpy,
        equal=lambda: chosen[0] == chosen[1] and np.allclose(draws[0], draws[1], rtol=1e-9),
    )


@work("bandit.thompson normal, 256 arms")
def _() -> Work:
    drawn, mean, precision = generator(), generator().normal(size=256), np.full(256, 4.0)
    return _thompson(bandit.NORMAL, "thompson_normal", (mean, precision), lambda: drawn.normal(mean, 0.5).argmax())


@work("bandit.thompson Student, 256 arms")
def _() -> Work:
    drawn, mean, shape = generator(), generator().normal(size=256), generator().uniform(2, 20, 256)
    rows = (mean, np.full(256, 3.0), shape, np.full(256, 2.0))
    return _thompson(bandit.STUDENT, "thompson_student", rows, lambda: (mean + drawn.standard_t(2.0 * shape)).argmax())


@work("bandit.thompson beta, 256 arms")
def _() -> Work:
    drawn, won, lost = generator(), generator().uniform(1, 30, 256), generator().uniform(1, 30, 256)
    return _thompson(bandit.BETA, "thompson_beta", (won, lost), lambda: drawn.beta(won, lost).argmax())


@work("bandit.thompson gamma, 256 arms")
def _() -> Work:
    drawn, shape, rate = generator(), generator().uniform(0.5, 30, 256), np.full(256, 2.0)
    return _thompson(bandit.GAMMA, "thompson_gamma", (shape, rate), lambda: (drawn.gamma(shape) / rate).argmax())


@work("bandit.pool 100,000 values, 256 arms")
def _() -> Work:
    m, drawn = 100_000, generator()
    arms, values, weights = drawn.integers(0, 256, m), drawn.normal(size=m), drawn.random(m)
    found = np.empty((2, 3, 256))
    c = library("racing").pool

    def theirs() -> None:
        out = (pointer(found[1, each]) for each in range(3))
        c(pointer(arms), pointer(values), pointer(weights), c_int64(m), *out, c_int64(256))

    return Work(
        ours=lambda: bandit.pool(arms, values, weights, found[0, 0], found[0, 1], found[0, 2]),
        units=m,
        unit="values",
        c=theirs,
        numpy=lambda: np.bincount(arms, weights * values, 256) / np.bincount(arms, weights, 256),
        equal=lambda: np.allclose(found[0], found[1], rtol=1e-9),
    )


@work("bandit.kl_ucb 256 arms")
def _() -> Work:
    means, counts = generator().random(256), np.floor(1.0 + 100.0 * generator().random(256))
    found = np.empty((2, 256))
    c = library("racing").kl_ucb
    return Work(
        ours=lambda: bandit.kl_ucb(means, counts, found[0]),
        units=256,
        unit="arms",
        c=lambda: c(pointer(means), pointer(counts), pointer(found[1]), c_int64(256)),
        equal=lambda: np.allclose(found[0], found[1], rtol=1e-9),
    )


def _raced(candidates: int = 50, examples: int = 300) -> NDArray[np.float64]:
    """Scores of a race that was decided: the later the example, the fewer candidates it was scored on."""
    scores = generator().normal(size=(examples, candidates))
    scores[np.arange(examples)[:, np.newaxis] > examples / (1.0 + np.arange(candidates))] = np.nan
    return scores


def _factor(candidates: int = 50) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    factor, mean = np.zeros((candidates, candidates)), np.empty(candidates)
    paired.posterior(_raced(candidates), 0.7, 0.2, 4.0, np.empty(candidates, dtype=np.int64), factor, mean)
    return factor, mean


@work("paired.posterior 50 candidates, 300 examples")
def _() -> Work:
    scores, n = _raced(), 50
    members, factor, mean = np.empty(n, dtype=np.int64), np.zeros((2, n, n)), np.empty((2, n))
    c = library("racing").posterior
    sizes, parts = (c_int64(300), c_int64(n)), (c_double(0.7), c_double(0.2), c_double(4.0))
    return Work(
        ours=lambda: paired.posterior(scores, 0.7, 0.2, 4.0, members, factor[0], mean[0]),
        units=int(np.count_nonzero(~np.isnan(scores))),
        unit="scores",
        c=lambda: c(pointer(scores), *sizes, *parts, pointer(members), pointer(factor[1]), pointer(mean[1])),
        equal=lambda: np.allclose(mean[0], mean[1], rtol=1e-8) and np.allclose(factor[0], factor[1], rtol=1e-8),
    )


@work("paired.residual_sums 50 candidates, 300 examples")
def _() -> Work:
    scores, effects, sums = _raced(), np.linspace(0, 1, 50), np.empty((2, 4))
    c = library("racing").residual_sums
    return Work(
        ours=lambda: paired.residual_sums(scores, effects, sums[0]),
        units=15_000,
        unit="cells",
        c=lambda: c(pointer(scores), c_int64(300), c_int64(50), pointer(effects), pointer(sums[1])),
        equal=lambda: np.allclose(sums[0], sums[1], rtol=1e-9),
    )


@work("paired.wins 50 candidates, 1,000 draws")
def _() -> Work:
    (factor, mean), out, counts = _factor(), np.empty(50), np.empty((2, 50), dtype=np.int64)
    c = library("racing").wins
    return Work(
        ours=lambda: paired.wins(factor, mean, 7, 3, 1000, out, counts[0]),
        units=1000,
        unit="draws",
        c=lambda: c(
            pointer(factor), pointer(mean), c_int64(50), SEED, STEP, c_int64(1000), pointer(out), pointer(counts[1])
        ),
        equal=lambda: bool((np.abs(counts[0] - counts[1]) <= 1).all()),
    )


@work("paired.deviations 50 candidates")
def _() -> Work:
    (factor, _), scratch, out = _factor(), np.empty((50, 50)), np.empty((2, 50))
    c = library("racing").deviations
    return Work(
        ours=lambda: paired.deviations(factor, scratch, out[0]),
        units=50,
        unit="candidates",
        c=lambda: c(pointer(factor), c_int64(50), pointer(scratch), pointer(out[1])),
        equal=lambda: np.allclose(out[0], out[1], rtol=1e-9),
    )
