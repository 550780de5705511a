"""Cases of the Gaussian process, its acquisition and its neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from dspex.core.kernels import gp as kernels
from tests.core.cases.registry import Case, case
from tests.core.naive import Array
from tests.core.naive import gp as naive
from tests.core.spaces import SEEDS, STEPS, drawn, spaces


@dataclass(frozen=True)
class Model:
    """Random observations and hyperparameters; arrays are longer than what is in use, as callers keep them."""

    labels: int
    weight: Array
    amplitude: float
    constant: float
    points: Array
    noise: Array
    y: Array

    @property
    def used(self) -> Array:
        return self.points[:, : self.y.size]

    @property
    def gram(self) -> Array:
        noise = np.diag(self.noise[: self.y.size])
        return naive.covariance(self.labels, self.weight, self.amplitude, self.constant, self.used, self.used) + noise

    def factor(self) -> Array:
        out = np.zeros((self.noise.size, self.noise.size))
        n = self.y.size
        out[:n, :n] = np.linalg.cholesky(self.gram)
        return out


def _points(generator: Any, labels: int, count: int, n: int) -> Array:
    numbers = generator.integers(0, 9, (labels, n)) / 8
    return np.ascontiguousarray(np.concatenate([numbers, generator.integers(-1, 3, (count - labels, n)).astype(float)]))


def _model(draw: st.DrawFn) -> Model:
    generator = np.random.default_rng(draw(SEEDS))
    labels, others, n = draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.integers(1, 9))
    # Noise bounds the condition number, and with it how far orders of summation may differ.
    return Model(
        labels,
        generator.uniform(0.0, 3.0, labels + others),
        draw(st.floats(0.5, 2.0)),
        draw(st.sampled_from([0.0, 1.0])),
        _points(generator, labels, labels + others, n + 2),
        generator.uniform(0.1, 1.0, n + 2),
        generator.normal(size=n),
    )


@case("gp.features")
def _(draw: st.DrawFn) -> Case:
    lowered = draw(spaces())
    columns, sampler, table = drawn(lowered, draw(st.integers(1, 5)), draw(SEEDS)), lowered.sampler, lowered.table
    kinds = [(0 if table.kind[d] <= 1 else 1, d) for d in range(table.kind.size) if sampler.width[d] or table.ncat[d]]
    pairs = kinds + [(2, d) for _, d in kinds]
    form, row = (np.array([pair[k] for pair in pairs], dtype=np.int64) for k in (0, 1))
    args = (form, row, sampler.origin, sampler.width, columns)
    out = np.zeros((form.size, columns.shape[1]))
    return Case((*args, out), (5,), lambda: [naive.features(*args).reshape(out.shape)], 1e-14)


@case("gp.add_distances")
def _(draw: st.DrawFn) -> Case:
    model, generator = _model(draw), np.random.default_rng(draw(SEEDS))
    others = _points(generator, model.labels, model.weight.size, 7)
    first = draw(st.integers(0, 6))
    return Case(
        (model.labels, model.weight, model.points, 0, others, first, np.ones(7 - first)),
        (6,),
        lambda: [naive.distances(model.labels, model.weight, model.points[:, :1], others)[0, first:]],
        1e-13,
    )


@case("gp.decay")
def _(draw: st.DrawFn) -> Case:
    u = draw(st.floats(0.0, 60.0))
    return Case((u,), (), lambda: [math.exp(-min(u, 40.0))], 2e-12)


@case("gp.matern")
def _(draw: st.DrawFn) -> Case:
    values = np.array(draw(st.lists(st.floats(0.0, 50.0), max_size=9)))
    one, zero = np.ones(1), np.zeros((1, 1))
    before = values.copy()
    return Case(
        (1.5, 0.5, values),
        (2,),
        lambda: [naive.covariance(1, one, 1.5, 0.5, zero, np.sqrt(before)[np.newaxis])[0]],
        2e-12,
    )


@case("gp.factor")
def _(draw: st.DrawFn) -> Case:
    model = _model(draw)
    n, first = model.y.size, draw(st.integers(0, model.y.size))
    lower = model.factor()
    expected = np.tril(lower)
    lower[first:] = 0.0
    return Case(
        (model.labels, model.weight, model.amplitude, model.constant, model.points, model.noise, first, n, lower),
        (8,),
        lambda: [expected],
        1e-10,
        part=lambda written: [np.tril(written[0])],
    )


@case("gp.solve")
def _(draw: st.DrawFn) -> Case:
    model = _model(draw)
    n = model.y.size
    return Case((model.factor(), n, model.y, np.zeros(n)), (3,), lambda: [np.linalg.solve(model.gram, model.y)], 1e-10)


@case("gp.posterior")
def _(draw: st.DrawFn) -> Case:
    model, generator = _model(draw), np.random.default_rng(draw(SEEDS))
    n, m = model.y.size, draw(st.sampled_from([1, 5, 70]))
    candidates = _points(generator, model.labels, model.weight.size, m)
    alpha = np.linalg.solve(model.gram, model.y)

    def expected() -> list[Any]:
        cross = naive.covariance(model.labels, model.weight, model.amplitude, model.constant, model.used, candidates)
        explained = (cross * np.linalg.solve(model.gram, cross)).sum(axis=0)
        return [cross.T @ alpha, model.amplitude + model.constant - explained]

    return Case(
        (model.labels, model.weight, model.amplitude, model.constant, model.points, n, model.factor(), alpha,
         candidates, np.zeros((n + 2, kernels.PANEL)), np.zeros(m), np.zeros(m)),
        (10, 11),
        expected,
        1e-9,
    )  # fmt: skip


@case("gp.invert")
def _(draw: st.DrawFn) -> Case:
    model = _model(draw)
    n, lower = model.y.size, model.factor()
    return Case(
        (lower, n, np.zeros_like(lower)),
        (2,),
        lambda: [np.tril(np.linalg.inv(lower[:n, :n]))],
        1e-10,
        part=lambda written: [np.tril(written[0][:n, :n])],
    )


@case("gp.square")
def _(draw: st.DrawFn) -> Case:
    model = _model(draw)
    n, inverse = model.y.size, model.factor()
    inverse[:n, :n] = np.tril(np.linalg.inv(inverse[:n, :n]))
    return Case(
        (inverse, n, np.zeros_like(inverse)),
        (2,),
        lambda: [np.tril(np.linalg.inv(model.gram))],
        1e-10,
        part=lambda written: [np.tril(written[0][:n, :n])],
    )


@case("gp.gradient")
def _(draw: st.DrawFn) -> Case:
    model = _model(draw)
    n = model.y.size
    alpha, precision = np.linalg.solve(model.gram, model.y), np.zeros((n + 2, n + 2))
    precision[:n, :n] = np.linalg.inv(model.gram)
    return Case(
        (model.labels, model.weight, model.amplitude, model.points, n, alpha, precision, np.zeros(n),
         np.zeros(model.weight.size)),
        (8,),
        lambda: [
            naive.gradient(
                model.labels, model.weight, model.amplitude, model.constant, model.used, model.noise[:n], model.y
            )
        ],
        1e-7,
    )  # fmt: skip


@case("acquisition.log_improvement")
def _(draw: st.DrawFn) -> Case:
    z = draw(st.floats(-200.0, 20.0))
    return Case((z,), (), lambda: [naive.log_improvement(z)], 1e-6)


@case("acquisition.log_expected_improvement")
def _(draw: st.DrawFn) -> Case:
    pairs = draw(st.lists(st.tuples(st.floats(-5.0, 5.0), st.floats(0.01, 4.0)), max_size=6))
    mean, variance = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    return Case(
        (mean, variance, 0.5, np.zeros(mean.size)),
        (3,),
        lambda: [np.array([naive.log_improvement((0.5 - m) / math.sqrt(v)) + 0.5 * math.log(v) for m, v in pairs])],
        1e-6,
    )


@case("acquisition.neighbours")
def _(draw: st.DrawFn) -> Case:
    lowered = draw(spaces())
    sampler, seed, step, n = lowered.sampler, draw(SEEDS), draw(STEPS), draw(st.integers(1, 9))
    bases = drawn(lowered, draw(st.integers(1, 3)), draw(SEEDS))
    rows = np.array([d for d in range(bases.shape[0]) if sampler.width[d] or lowered.table.ncat[d] > 1], dtype=np.int64)
    changes, reach = np.full(n, draw(st.floats(1.0, 3.0))), np.full(n, draw(st.floats(0.001, 0.3)))
    return Case(
        (lowered.table, sampler.origin, sampler.width, bases, rows, changes, reach, seed, step,
         np.zeros((bases.shape[0], n))),
        (9,),
        lambda: [naive.neighbours(lowered, bases, rows, changes, reach, seed, step)],
        1e-9,
    )  # fmt: skip
