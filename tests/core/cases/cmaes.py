"""Cases of CatCMA with margin."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from dspex.compiler.lower.lowered import Lowered
from dspex.core.abi import BLOCK
from tests.core import naive
from tests.core.cases.registry import Case, case
from tests.core.naive import Array
from tests.core.naive import cmaes as oracle
from tests.core.spaces import SEEDS, drawn, spaces, stack

COUNTS = st.integers(1, 6)
FIRST = st.integers(0, 2**36)


def _framed(lowered: Lowered) -> tuple[Any, Any]:
    frames = [naive.frame(lowered, d) for d in range(len(lowered.variables))]
    return np.array([each[0] for each in frames]), np.array([each[1] for each in frames])


def _numbers(draw: st.DrawFn, *shape: int) -> Array:
    # Values without structure: an entry on the border of two grid values may go either way.
    generator = np.random.default_rng(draw(SEEDS))
    out: Array = np.zeros(shape)
    generator.standard_normal(out=out)
    return out


def _factor(draw: st.DrawFn, n: int) -> Array:
    return np.triu(0.3 * _numbers(draw, n, n), 1) + np.diag(0.5 + np.abs(_numbers(draw, n)))


def _weights(n: int) -> Array:
    raw = math.log((n + 1) / 2) - np.log(np.arange(1, n + 1)) + 0.01
    return np.where(raw > 0, raw / float(raw[raw > 0].sum()), 0.3 * raw / float(np.abs(raw).sum()))


def _rows(draw: st.DrawFn) -> tuple[Array, Any]:
    """Probabilities of a few categorical rows, some of them 0, and their offsets."""
    parts: list[Array] = []
    for _ in range(draw(st.integers(0, 4))):
        row = np.array([*draw(st.lists(st.sampled_from([0.0, 0.2, 1.0, 3.0]), max_size=3)), 0.7])
        parts.append(row / row.sum())
    offsets = np.concatenate([[0], np.cumsum([part.size for part in parts])]).astype(np.int64)
    return np.concatenate([*parts, np.empty(0)]), offsets


@case("cmaes.draw_latents")
def _(draw: st.DrawFn) -> Case:
    n, count, seed, first = draw(st.integers(0, 4)), draw(COUNTS), draw(SEEDS), draw(FIRST)
    mean, factor, sigma = _numbers(draw, n), _factor(draw, n), draw(st.floats(1e-3, 2.0))
    return Case(
        (mean, factor, sigma, seed, first, np.zeros((count, n))),
        (5,),
        lambda: [oracle.draw_latents(mean, factor, sigma, seed, first, count)],
        1e-8,
    )


@case("cmaes.draw_categories")
def _(draw: st.DrawFn) -> Case:
    weights, offsets = _rows(draw)
    count, seed, first = draw(COUNTS), draw(SEEDS), draw(FIRST)
    out = np.full((count, offsets.size - 1), 9, dtype=np.int64)
    return Case(
        (weights, offsets, seed, first, out),
        (4,),
        lambda: [oracle.draw_categories(weights, offsets, seed, first, count)],
    )


@case("cmaes.compose")
def _(draw: st.DrawFn) -> Case:
    lowered, count = draw(spaces()), draw(st.sampled_from([1, 4, 300]))
    place, numeric, choices = oracle.place(lowered)
    latents = 0.5 + 0.5 * _numbers(draw, count, len(numeric))
    generator = np.random.default_rng(draw(SEEDS))
    categories = np.zeros((count, len(choices)), dtype=np.int64)
    for j, d in enumerate(choices):
        categories[:, j] = generator.integers(len(lowered.variables[d].options) or 2, size=count)
    return Case(
        (lowered.table, *_framed(lowered), place, latents, categories, stack(), np.zeros((place.size, count))),
        (7,),
        lambda: [oracle.compose(lowered, latents, categories)],
        1e-12,
    )


@case("cmaes.absorb")
def _(draw: st.DrawFn) -> Case:
    lowered, count = draw(spaces()), draw(COUNTS | st.just(BLOCK + 3))
    place, numeric, choices = oracle.place(lowered)
    population = drawn(lowered, count, draw(SEEDS))
    latents, categories = np.zeros((count, len(numeric))), np.full((count, len(choices)), 9, dtype=np.int64)
    return Case(
        (lowered.table, *_framed(lowered), place, population, stack(), latents, categories),
        (6, 7),
        lambda: list(oracle.absorb(lowered, population)),
        1e-12,
    )


@case("cmaes.whiten")
def _(draw: st.DrawFn) -> Case:
    n, count, seed = draw(COUNTS), draw(COUNTS), draw(SEEDS)
    factor, steps, longest = _factor(draw, n), _numbers(draw, count, n), draw(st.floats(0.5, 5.0))
    numbers = np.array(draw(st.lists(FIRST, min_size=count, max_size=count)), dtype=np.int64)
    absent = draw(st.lists(st.booleans(), min_size=count * n, max_size=count * n))
    steps[np.array(absent).reshape(count, n)] = np.nan
    before = steps.copy()
    return Case(
        (factor, longest, seed, numbers, steps, np.zeros((count, n))),
        (4, 5),
        lambda: list(oracle.whiten(factor, longest, seed, numbers, before)),
        1e-8,
    )


@case("cmaes.weigh")
def _(draw: st.DrawFn) -> Case:
    losses = np.array(draw(st.lists(st.sampled_from([math.nan, -1.0, 0.0, 2.0, 5.5]), min_size=1, max_size=12)))
    table = _numbers(draw, losses.size)
    return Case((losses, table, np.zeros(losses.size)), (2,), lambda: [oracle.weigh(losses, table)], 1e-12)


@case("cmaes.move")
def _(draw: st.DrawFn) -> Case:
    n, count = draw(COUNTS), draw(st.integers(2, 7))
    steps, whitened = _numbers(draw, count, n), _numbers(draw, count, n)
    weights, rates = np.maximum(_weights(count), 0.0), np.array(draw(st.tuples(*[st.floats(0.05, 0.9)] * 3)))
    held = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), dtype=np.uint8)
    sigma, generation = draw(st.floats(1e-3, 2.0)), draw(st.integers(0, 50))
    mean, path_sigma, path = 0.5 + 0.3 * _numbers(draw, n), _numbers(draw, n), _numbers(draw, n)
    before = mean.copy(), path_sigma.copy(), path.copy()
    return Case(
        (steps, whitened, weights, rates, held, sigma, generation, mean, path_sigma, path),
        (7, 8, 9),
        lambda: oracle.move(steps, whitened, weights, rates, held, sigma, generation, *before),
        1e-9,
    )


@case("cmaes.add_outer")
def _(draw: st.DrawFn) -> Case:
    n, sign = draw(COUNTS), draw(st.sampled_from([1.0, -1.0]))
    factor, vector = _factor(draw, n), _numbers(draw, n)
    # A negative one must leave the sum positive definite.
    coefficient = sign * draw(st.floats(0.0, 0.9))
    if sign < 0:
        _, whitened = oracle.whiten(factor, math.inf, 0, [0], vector[np.newaxis])
        coefficient /= float(np.square(whitened).sum())
    before, outer = factor.copy(), np.outer(vector, vector)
    return Case(
        (coefficient, vector, factor),
        (2,),
        lambda: [oracle.cholesky(before.T @ before + coefficient * outer)],
        1e-8,
    )


@case("cmaes.adapt")
def _(draw: st.DrawFn) -> Case:
    n, count = draw(COUNTS), draw(st.integers(2, 7))
    factor, steps, path = _factor(draw, n), _numbers(draw, count, n), _numbers(draw, n)
    _, whitened = oracle.whiten(factor, math.inf, 0, range(count), steps)
    weights, rate_one, rate_mu = _weights(count), draw(st.floats(0.0, 0.2)), draw(st.floats(0.0, 0.1))
    before = factor.copy()
    return Case(
        (steps, whitened, weights, path, rate_one, rate_mu, np.zeros(n), factor),
        (7,),
        lambda: [oracle.adapt(steps, whitened, weights, path, rate_one, rate_mu, before)],
        1e-8,
    )


@case("cmaes.measure")
def _(draw: st.DrawFn) -> Case:
    n, sigma = draw(COUNTS), draw(st.floats(1e-3, 2.0))
    factor = _factor(draw, n)
    return Case((sigma, factor, np.zeros(n)), (2,), lambda: [sigma * np.sqrt(np.diagonal(factor.T @ factor))], 1e-12)


@case("cmaes.keep_margin")
def _(draw: st.DrawFn) -> Case:
    lowered = draw(spaces())
    _, rows, _ = oracle.place(lowered)
    n, alpha = len(rows), draw(st.sampled_from([0.27, 0.06, 0.01]))
    mean = 0.5 + 0.4 * _numbers(draw, n)
    spreads = np.exp(draw(st.floats(-8.0, 0.0)) + _numbers(draw, n))
    path, factor, held = _numbers(draw, n), _factor(draw, n), np.full(n, 9, dtype=np.uint8)
    before = mean.copy(), spreads.copy(), path.copy(), factor.copy()

    def expected() -> list[Any]:
        moved, widened, kept = oracle.keep_margin(lowered, rows, alpha, before[0], before[1])
        share = widened / before[1]
        return [widened, moved, before[2] * share, before[3] * share, kept]

    return Case(
        (lowered.table, *_framed(lowered), np.array(rows, dtype=np.int64), alpha, spreads, mean, path, factor, held),
        (5, 6, 7, 8, 9),
        expected,
        1e-7,
    )


@case("cmaes.shift_categories")
def _(draw: st.DrawFn) -> Case:
    probabilities, offsets = _rows(draw)
    count = draw(st.integers(2, 7))
    generator = np.random.default_rng(draw(SEEDS))
    categories = np.full((count, offsets.size - 1), -1, dtype=np.int64)
    floor = np.zeros_like(probabilities)
    for j, (begin, end) in enumerate(itertools.pairwise(offsets.tolist())):
        possible = np.flatnonzero(probabilities[begin:end] > 0)
        categories[:, j] = generator.choice(np.append(possible, -1), size=count)
        if possible.size > 1:
            floor[begin + possible] = 0.05 / (possible.size - 1)
    weights, direction = (
        np.maximum(_weights(count), 0.0),
        np.where(probabilities > 0, _numbers(draw, probabilities.size), 0.0),
    )
    trust = np.array([draw(st.floats(0.01, 3.0)), draw(st.floats(0.0, 1.0))])
    before = direction.copy(), trust.copy(), probabilities.copy()
    return Case(
        (categories, weights, offsets, floor, np.zeros_like(floor), direction, trust, probabilities),
        (5, 6, 7),
        lambda: oracle.shift_categories(categories, weights, offsets, floor, *before),
        1e-9,
    )
