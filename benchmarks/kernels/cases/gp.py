"""The Gaussian process: 45 features of which 17 are labels, and acquisition of many candidates."""

from __future__ import annotations

from ctypes import c_double, c_int64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernels.harness import Work, library, pointer, work
from dspex.core.gaussian import panel
from dspex.core.kernels import acquisition, gp

Array = NDArray[np.float64]

NUMBERS, FEATURES = 28, 45
AMPLITUDE, CONSTANT, NOISE = 1.0, 1.0, 1e-2


@dataclass(frozen=True)
class Model:
    """Random observations, their factor and weights."""

    points: Array
    weight: Array
    noise: Array
    lower: Array
    targets: Array
    alpha: Array

    @property
    def head(self) -> tuple[Any, ...]:
        """What C's functions begin with."""
        return c_int64(NUMBERS), c_int64(FEATURES), pointer(self.weight)


SCALES = (c_double(AMPLITUDE), c_double(CONSTANT))


def _points(generator: Any, n: int) -> Array:
    out = generator.random((FEATURES, n))
    out[NUMBERS:] = generator.integers(0, 4, (FEATURES - NUMBERS, n))
    return out


def _model(n: int) -> Model:
    generator: Any = np.random.default_rng(0)
    points, weight = _points(generator, n), generator.uniform(0.0, 0.5, FEATURES)
    noise, lower, targets, alpha = np.full(n, NOISE), np.zeros((n, n)), generator.normal(size=n), np.empty(n)
    gp.factor(NUMBERS, weight, AMPLITUDE, CONSTANT, points, noise, 0, n, lower)
    gp.solve(lower, n, targets, alpha)
    return Model(points, weight, noise, lower, targets, alpha)


def _covariance(weight: Array, a: Array, b: Array) -> Array:
    """NumPy's way: numbers through one matrix product, labels one at a time."""
    root = np.sqrt(weight[:NUMBERS, np.newaxis])
    x, y = a[:NUMBERS] * root, b[:NUMBERS] * root
    squared = np.maximum((x * x).sum(0)[:, np.newaxis] + (y * y).sum(0) - 2.0 * x.T @ y, 0.0)
    for f in range(NUMBERS, FEATURES):
        squared += weight[f] * (a[f][:, np.newaxis] != b[f])
    u = np.sqrt(5.0 * squared)
    return AMPLITUDE * (1.0 + u + u * u / 3.0) * np.exp(-u) + CONSTANT


@work("gp.covariances 200 x 1,000, 45 features")
def _() -> Work:
    n, m = 200, 1_000
    model, candidates = _model(n), _points(np.random.default_rng(1), m)
    ours, theirs, c = np.empty((n, m)), np.empty((n, m)), library("gp")

    def run() -> None:
        for i in range(n):
            gp.add_distances(NUMBERS, model.weight, model.points, i, candidates, 0, ours[i])
            gp.matern(AMPLITUDE, CONSTANT, ours[i])

    return Work(
        ours=run,
        units=n * m,
        unit="covariances",
        c=lambda: c.cross(
            *model.head, *SCALES, pointer(model.points), c_int64(n), pointer(candidates), c_int64(m), pointer(theirs)
        ),
        numpy=lambda: _covariance(model.weight, model.points, candidates),
        equal=lambda: np.allclose(ours, theirs, rtol=1e-9),
    )


def _factor(n: int, first: int) -> Work:
    model = _model(n)
    ours, theirs, c = model.lower.copy(), model.lower.copy(), library("gp")

    def numpy() -> object:
        gram = _covariance(model.weight, model.points, model.points)
        gram.flat[:: n + 1] += NOISE
        return np.linalg.cholesky(gram)

    return Work(
        ours=lambda: gp.factor(NUMBERS, model.weight, AMPLITUDE, CONSTANT, model.points, model.noise, first, n, ours),
        units=n - first,
        unit="rows",
        c=lambda: c.factor(
            *model.head,
            *SCALES,
            pointer(model.points),
            pointer(model.noise),
            c_int64(first),
            c_int64(n),
            pointer(theirs),
        ),
        numpy=numpy,
        equal=lambda: np.allclose(ours, theirs, rtol=1e-7, atol=1e-9),
    )


@work("gp.factor 300 trials")
def _() -> Work:
    return _factor(300, 0)


@work("gp.factor, one more after 499")
def _() -> Work:
    return _factor(500, 499)


@work("gp.posterior of 1,000 candidates, 200 trials")
def _() -> Work:
    n, m = 200, 1_000
    model, candidates, c = _model(n), _points(np.random.default_rng(1), m), library("gp")
    scratch, mean, variance = panel(n), np.empty(m), np.empty(m)
    c_mean, c_variance = np.empty(m), np.empty(m)

    def numpy() -> Array:
        cross = _covariance(model.weight, model.points, candidates)
        return cross.T @ model.alpha + np.square(np.linalg.solve(model.lower, cross)).sum(0)

    return Work(
        ours=lambda: gp.posterior(
            NUMBERS, model.weight, AMPLITUDE, CONSTANT, model.points, n, model.lower, model.alpha, candidates, scratch,
            mean, variance,
        ),
        units=m,
        unit="candidates",
        c=lambda: c.posterior(
            *model.head, *SCALES, pointer(model.points), c_int64(n), pointer(model.lower), pointer(model.alpha),
            pointer(candidates), c_int64(m), pointer(scratch), pointer(c_mean), pointer(c_variance),
        ),
        numpy=numpy,
        equal=lambda: np.allclose(mean, c_mean, rtol=1e-7) and np.allclose(variance, c_variance, rtol=1e-7),
    )  # fmt: skip


@work("gp.gradient of the likelihood, 150 trials")
def _() -> Work:
    n = 150
    model, c = _model(n), library("gp")
    alpha, inverse, precision, scratch = np.empty(n), np.zeros((n, n)), np.zeros((n, n)), np.empty(n)
    ours, theirs = np.empty(FEATURES), np.empty(FEATURES)

    def run() -> None:
        gp.solve(model.lower, n, model.targets, alpha)
        gp.invert(model.lower, n, inverse)
        gp.square(inverse, n, precision)
        gp.gradient(NUMBERS, model.weight, AMPLITUDE, model.points, n, alpha, precision, scratch, ours)

    return Work(
        ours=run,
        units=1,
        unit="gradients",
        c=lambda: c.gradient(
            *model.head, c_double(AMPLITUDE), pointer(model.points), c_int64(n), pointer(model.lower),
            pointer(model.targets), pointer(inverse), pointer(precision), pointer(alpha), pointer(scratch),
            pointer(theirs),
        ),
        equal=lambda: np.allclose(ours, theirs, rtol=1e-7, atol=1e-9),
    )  # fmt: skip


@work("acquisition.log_expected_improvement of 10,000")
def _() -> Work:
    n = 10_000
    generator, c = np.random.default_rng(0), library("gp")
    mean, variance = generator.normal(size=n), generator.uniform(0.01, 1.0, n)
    ours, theirs = np.empty(n), np.empty(n)
    return Work(
        ours=lambda: acquisition.log_expected_improvement(mean, variance, -1.0, ours),
        units=n,
        unit="candidates",
        c=lambda: c.log_expected_improvement(
            pointer(mean), pointer(variance), c_double(-1.0), c_int64(n), pointer(theirs)
        ),
        equal=lambda: np.allclose(ours, theirs, rtol=1e-9),
    )
