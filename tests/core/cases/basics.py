"""Cases of encoding, random numbers, rules, sampling, TPE, racing and resampling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from dspex.compiler.lower.lowering import Lowered
from dspex.core import streams
from dspex.core.kernels import tpe
from tests.core import naive
from tests.core.cases.registry import Case, case
from tests.core.naive import elementary
from tests.core.spaces import SEEDS, STEPS, drawn, spaces, stack

COUNTS = st.integers(1, 5)
DIGITS = 2e-12
"""Values of 12 digits: one unit of the last place of an exponential may decide how the last of them is rounded."""


def _row(draw: st.DrawFn) -> tuple[Lowered, int]:
    lowered = draw(spaces())
    return lowered, draw(st.integers(0, len(lowered.variables) - 1))


def _scalars(lowered: Lowered, d: int) -> tuple[Any, ...]:
    """kind, log_flag, lo, hi and step of a row."""
    table = lowered.table
    return int(table.kind[d]), int(table.log_flag[d]), float(table.lo[d]), float(table.hi[d]), float(table.step[d])


def _framed(lowered: Lowered) -> tuple[Any, Any]:
    frames = [naive.frame(lowered, d) for d in range(len(lowered.variables))]
    return np.array([each[0] for each in frames]), np.array([each[1] for each in frames])


def _population(draw: st.DrawFn) -> tuple[Lowered, Any]:
    lowered = draw(spaces())
    return lowered, drawn(lowered, draw(COUNTS), draw(SEEDS))


@case("encode.canonical")
def _(draw: st.DrawFn) -> Case:
    value = draw(st.floats(-1e30, 1e30) | st.floats(-10, 10) | st.integers(-(10**6), 10**6).map(float))
    return Case((value,), (), lambda: [naive.canonical(value)], 1.1e-11)


@case("encode.natural")
def _(draw: st.DrawFn) -> Case:
    lowered, d = _row(draw)
    z = float(drawn(lowered, 1, draw(SEEDS))[d, 0])
    return Case(
        (*_scalars(lowered, d)[:2], z), (), lambda: [z if math.isnan(z) else naive.natural(lowered, d, z)], DIGITS
    )


@case("encode.read_row")
def _(draw: st.DrawFn) -> Case:
    lowered, d = _row(draw)
    n = draw(st.integers(1, 20))
    first = draw(st.integers(0, n - 1))
    population = drawn(lowered, n, draw(SEEDS))
    return Case(
        (*_scalars(lowered, d)[:2], population, d, first, n - first, np.zeros((3, 24)), 1),
        (6,),
        lambda: [naive.naturals(lowered, population)[d, first:]],
        DIGITS,
        part=lambda written: [written[0][1, : n - first]],
    )


@case("encode.transformed")
def _(draw: st.DrawFn) -> Case:
    lowered, d = _row(draw)
    value = draw(st.floats(0.01, 100.0))
    return Case(
        (*_scalars(lowered, d)[:2], value), (), lambda: [math.log(value) if lowered.table.log_flag[d] else value], 1e-15
    )


def _entry(draw: st.DrawFn, lowered: Lowered, d: int) -> float:
    """Any number about the row's interval, away from the middle between two values."""
    origin, width = naive.frame(lowered, d)
    z = origin + draw(st.floats(-0.5, 1.5)) * max(width, 1.0)
    values = naive.grid(lowered, d)
    if values is not None:  # a tie may go either way
        target = math.exp(z) if lowered.table.log_flag[d] else z
        gaps = sorted(abs(value - target) for value in values)
        if len(gaps) > 1 and gaps[1] - gaps[0] < 1e-9 * max(gaps[1], 1.0):
            z += 1e-3 * max(width, 1.0)
    return z


@case("encode.snap")
def _(draw: st.DrawFn) -> Case:
    lowered, d = _row(draw)
    z = _entry(draw, lowered, d)
    return Case((*_scalars(lowered, d), z), (), lambda: [naive.snap(lowered, d, z)], 1e-13)


@case("encode.snap_row")
def _(draw: st.DrawFn) -> Case:
    lowered, d = _row(draw)
    entries = np.array([_entry(draw, lowered, d) for _ in range(draw(st.integers(1, 20)))])
    return Case(
        (*_scalars(lowered, d), entries), (5,), lambda: [np.array([naive.snap(lowered, d, z) for z in entries])], 1e-13
    )


@case("encode.on_grid")
def _(draw: st.DrawFn) -> Case:
    lowered, d = _row(draw)
    values = naive.grid(lowered, d)
    assume(values is not None and not lowered.variables[d].options)
    assert values is not None
    step = float(lowered.table.step[d])
    value = draw(st.sampled_from(values)) + draw(st.floats(-0.4, 0.4)) * step
    return Case(
        (int(lowered.table.kind[d]), values[0], values[-1], step, value),
        (),
        lambda: [min(values, key=lambda each: abs(each - value))],
        1e-12,
    )


@case("encode.settle")
def _(draw: st.DrawFn) -> Case:
    lowered, population = _population(draw)
    return Case((lowered.table, population.copy()), (1,), lambda: [naive.settled(lowered, population)], 1e-13)


@case("encode.flawed")
def _(draw: st.DrawFn) -> Case:
    lowered, population = _population(draw)
    places = list(np.ndindex(population.shape))
    for place in draw(st.lists(st.sampled_from(places), max_size=2)):
        population[place] = draw(st.sampled_from([math.inf, -math.inf, -1.0, 0.5, 99.0, math.nan]))

    def first() -> int:
        for d, variable in enumerate(lowered.variables):
            for z in population[d].tolist():
                fits = z in range(len(variable.options)) if variable.options else not math.isinf(z)
                if not fits and not math.isnan(z):
                    return d
        return -1

    return Case((lowered.table, population), (), lambda: [first()])


@case("encode.decode")
def _(draw: st.DrawFn) -> Case:
    lowered, population = _population(draw)

    return Case(
        (lowered.table, population, np.zeros_like(population)),
        (2,),
        lambda: [naive.naturals(lowered, population)],
        DIGITS,
    )


@case("encode.encode")
def _(draw: st.DrawFn) -> Case:
    lowered, population = _population(draw)
    values = naive.naturals(lowered, population)
    return Case(
        (lowered.table, values, np.zeros_like(values)), (2,), lambda: [naive.settled(lowered, population)], 1e-13
    )


@case("rng.mix")
def _(draw: st.DrawFn) -> Case:
    word = draw(st.integers(0, 2**64 - 1))
    return Case((np.uint64(word),), (), lambda: [streams.mix(word)])


@case("rng.random_bits")
def _(draw: st.DrawFn) -> Case:
    key = (draw(SEEDS), draw(STEPS), draw(STEPS), draw(STEPS))
    return Case(key, (), lambda: [streams.bits(*key)])


@case("rng.uniform")
def _(draw: st.DrawFn) -> Case:
    key = (draw(SEEDS), draw(STEPS), draw(STEPS), draw(STEPS))
    return Case(key, (), lambda: [streams.uniform(*key)])


@case("rng.fill_uniform")
def _(draw: st.DrawFn) -> Case:
    key = (draw(SEEDS), draw(STEPS), draw(STEPS), draw(STEPS))
    n = draw(COUNTS)
    return Case(
        (*key, np.zeros(n)), (4,), lambda: [np.array([streams.uniform(*key[:3], key[3] + i) for i in range(n)])]
    )


@case("rng.normal_quantile")
def _(draw: st.DrawFn) -> Case:
    p = draw(st.floats(1e-300, 1.0, exclude_max=True) | st.floats(0.001, 0.999))
    return Case((p,), (), lambda: [naive.NORMAL.inv_cdf(p)], 1e-9)


@case("rng.normal_cdf")
def _(draw: st.DrawFn) -> Case:
    x = draw(st.floats(-8.0, 8.0) | st.sampled_from([math.inf, -math.inf, math.nan, 0.0]))
    return Case((x,), (), lambda: [elementary.normal_cdf(x)], 1e-14)


@case("rules.run_programs")
def _(draw: st.DrawFn) -> Case:
    lowered = draw(spaces().filter(lambda each: bool(each.rules)))
    population = drawn(lowered, draw(COUNTS), draw(SEEDS))
    n = population.shape[1]
    first = draw(st.integers(0, n - 1))
    held = np.full((len(lowered.rules), n), 9, dtype=np.uint8)
    return Case(
        (lowered.table, population, first, n - first, 0, stack(), held),
        (6,),
        lambda: [naive.holds(lowered, population)[:, first:]],
        part=lambda written: [written[0][:, first:]],
    )


@case("rules.evaluate_rules")
def _(draw: st.DrawFn) -> Case:
    lowered = draw(spaces())
    population = drawn(lowered, draw(st.sampled_from([1, 3, 300])), draw(SEEDS))
    held = np.full((len(lowered.rules), population.shape[1]), 9, dtype=np.uint8)
    return Case((lowered.table, population, stack(), held), (3,), lambda: [naive.holds(lowered, population)])


@case("rules.activate")
def _(draw: st.DrawFn) -> Case:
    lowered, population = _population(draw)
    d, n = draw(st.integers(0, population.shape[0] - 1)), population.shape[1]
    return Case(
        (lowered.table, population, d, 0, n, stack()),
        (5,),
        lambda: [np.array([float(naive.active(lowered, column, d)) for column in population.T])],
        part=lambda written: [written[0][0, :n]],
    )


@case("sampling.frame")
def _(draw: st.DrawFn) -> Case:
    lowered = draw(spaces())
    rows = len(lowered.variables)
    return Case((lowered.table, np.zeros(rows), np.zeros(rows)), (1, 2), lambda: list(_framed(lowered)), 1e-12)


@case("sampling.draw_number")
def _(draw: st.DrawFn) -> Case:
    lowered, d = _row(draw)
    assume(not lowered.variables[d].options)
    u = streams.uniform(draw(SEEDS), 0, 0, 0)
    return Case((*_scalars(lowered, d), *naive.frame(lowered, d), u), (), lambda: [naive.draw(lowered, d, u)], 1e-13)


@case("sampling.draw_category")
def _(draw: st.DrawFn) -> Case:
    lowered, d = _row(draw)
    assume(bool(lowered.variables[d].options))
    table, u = lowered.table, streams.uniform(draw(SEEDS), 0, 0, 0)
    return Case((table.cat_logp, int(table.cat_off[d]), int(table.ncat[d]), u), (), lambda: [naive.draw(lowered, d, u)])


@case("sampling.draw_categories")
def _(draw: st.DrawFn) -> Case:
    lowered, d = _row(draw)
    assume(bool(lowered.variables[d].options))
    table, seed = lowered.table, draw(SEEDS)
    quantiles = np.array([streams.uniform(seed, 0, 0, i) for i in range(draw(st.integers(1, 20)))])
    # Scratch for fewer categories than the row has, too.
    shares = np.zeros(draw(st.integers(0, 4)))
    return Case(
        (table.cat_logp, int(table.cat_off[d]), int(table.ncat[d]), shares, quantiles, np.zeros(quantiles.size)),
        (5,),
        lambda: [np.array([naive.draw(lowered, d, u) for u in quantiles])],
    )


@case("sampling.sample")
def _(draw: st.DrawFn) -> Case:
    lowered, n = draw(spaces()), draw(COUNTS)
    seed, step, rows = draw(SEEDS), draw(STEPS), len(lowered.variables)
    blank = np.full((rows, n), np.nan)
    return Case(
        (lowered.table, *_framed(lowered), seed, step, stack(), np.zeros((rows, n))),
        (6,),
        lambda: [naive.redraw(lowered, seed, step, np.arange(n), np.ones((rows, n)), blank)],
        1e-12,
    )


@case("sampling.redraw")
def _(draw: st.DrawFn) -> Case:
    lowered, population = _population(draw)
    rows, n = population.shape
    seed, step = draw(SEEDS), draw(STEPS)
    index = np.array(draw(st.lists(st.integers(0, 10**6), min_size=n, max_size=n)), dtype=np.int64)
    bits = draw(st.lists(st.integers(0, 1), min_size=rows * n, max_size=rows * n))
    chosen = np.array(bits, dtype=np.uint8).reshape(rows, n)
    before = population.copy()
    return Case(
        (lowered.table, *_framed(lowered), seed, step, index, chosen, stack(), population),
        (8,),
        lambda: [naive.redraw(lowered, seed, step, index, chosen, before)],
        1e-12,
    )


@case("sampling.rule_rows")
def _(draw: st.DrawFn) -> Case:
    lowered = draw(spaces())
    rows = np.full((len(lowered.rules), len(lowered.variables)), 9, dtype=np.uint8)
    return Case((lowered.table, rows), (1,), lambda: [naive.rule_rows(lowered)])


@case("sampling.mark_broken")
def _(draw: st.DrawFn) -> Case:
    lowered, population = _population(draw)
    seed, step = draw(SEEDS), draw(STEPS)
    rows, held = naive.rule_rows(lowered), naive.holds(lowered, population)
    index = np.arange(population.shape[1], dtype=np.int64) * 3
    out = np.full(population.shape, 9, dtype=np.uint8)
    return Case((rows, held, seed, step, index, out), (5,), lambda: [naive.mark_broken(rows, held, seed, step, index)])


LOSSES = st.lists(st.sampled_from([math.nan, 0.0, 0.25, 0.5, 1.0, -3.0]), min_size=1, max_size=12)


@case("tpe.prior")
def _(draw: st.DrawFn) -> Case:
    values = np.array(draw(LOSSES))
    variances = np.array(draw(st.lists(st.floats(0, 2), min_size=values.size, max_size=values.size)))
    return Case((values, variances, np.zeros(2)), (2,), lambda: [np.array(naive.prior(values, variances))], 1e-9)


@case("tpe.shrink")
def _(draw: st.DrawFn) -> Case:
    values = np.array(draw(LOSSES))
    variances = np.array(draw(st.lists(st.floats(0, 2), min_size=values.size, max_size=values.size)))
    mean, between = draw(st.floats(-2, 2)), draw(st.floats(0.1, 3))
    return Case(
        (values, variances, mean, between, np.zeros(values.size)),
        (4,),
        lambda: [mean + between / (between + variances) * (values - mean)],
        1e-12,
    )


@case("tpe.split")
def _(draw: st.DrawFn) -> Case:
    losses, k = np.array(draw(LOSSES)), draw(st.integers(0, 8))
    best = naive.split(losses, k)
    return Case(
        (losses, np.zeros(k, dtype=np.int64)), (1,), lambda: [best, len(best)], part=lambda w: [w[0][: len(best)]]
    )


def _mixture(draw: st.DrawFn) -> tuple[Lowered, Any, Any, Any]:
    lowered = draw(spaces())
    history = drawn(lowered, 8, draw(SEEDS))
    members = np.array(draw(st.lists(st.integers(0, 7), max_size=5)), dtype=np.int64)
    sigma = np.array([draw(st.floats(0.05, 0.6)) for _ in lowered.variables])
    return lowered, history, members, sigma


@case("tpe.group_rows")
def _(draw: st.DrawFn) -> Case:
    lowered = draw(spaces(most=12))
    rows = len(lowered.variables)
    groups = naive.groups(lowered)
    return Case(
        (lowered.table, _framed(lowered)[1], np.zeros((rows, 4), dtype=np.int64)),
        (2,),
        lambda: [np.array(groups).reshape(-1, 4), len(groups)],
        part=lambda written: [written[0][: len(groups)]],
    )


@case("tpe.build_mixture")
def _(draw: st.DrawFn) -> Case:
    lowered, history, members, sigma = _mixture(draw)
    shape = (len(lowered.variables), members.size + 1)
    return Case(
        (lowered.table, *_framed(lowered), history, members, sigma, np.zeros(shape), np.zeros(shape), np.zeros(shape)),
        (6, 7, 8),
        lambda: list(naive.mixture(lowered, history, members, sigma)),
        1e-9,
    )


@case("tpe.propose")
def _(draw: st.DrawFn) -> Case:
    lowered, history, members, sigma = _mixture(draw)
    mixture = naive.mixture(lowered, history, members, sigma)
    cumulative = np.cumsum(np.full(members.size + 1, 1 / (members.size + 1)))
    smoothing, seed, step, n = draw(st.floats(0.05, 2.0)), draw(SEEDS), draw(STEPS), draw(COUNTS)
    return Case(
        (lowered.table, *_framed(lowered), *mixture, cumulative, sigma, smoothing, seed, step, stack(),
         np.zeros(n, dtype=np.int64), np.zeros((len(lowered.variables), n))),
        (12, 13),
        lambda: list(naive.propose(lowered, mixture[0], cumulative, sigma, smoothing, seed, step, n)),
        1e-6,
    )  # fmt: skip


@case("tpe.log_density")
def _(draw: st.DrawFn) -> Case:
    lowered, history, members, sigma = _mixture(draw)
    centres, _, mass = naive.mixture(lowered, history, members, sigma)
    weights = np.array([draw(st.floats(0.1, 1.0)) for _ in range(members.size + 1)])
    log_weight, smoothing = np.log(weights / weights.sum()), draw(st.floats(0.05, 2.0))
    candidates = drawn(lowered, draw(st.sampled_from([1, 3, tpe.DENSITY_BLOCK + 2])), draw(SEEDS))
    n, k = candidates.shape[1], members.size + 1
    groups = np.array(naive.groups(lowered), dtype=np.int64).reshape(-1, 4)
    return Case(
        (lowered.table, groups, *_framed(lowered), centres, mass, log_weight, sigma, smoothing, candidates,
         np.zeros((5, k)), np.zeros((k + 10, tpe.DENSITY_BLOCK)), np.zeros(n)),
        (12,),
        lambda: [naive.log_density(lowered, centres, mass, log_weight, sigma, smoothing, candidates)],
        1e-9,
    )  # fmt: skip


@case("racing.promote")
def _(draw: st.DrawFn) -> Case:
    n, m = draw(COUNTS), draw(COUNTS)
    cells = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, math.nan]), min_size=n * m, max_size=n * m))
    scores = np.array(cells).reshape(n, m)
    used, keep = draw(st.integers(1, m)), draw(st.integers(0, n))
    means, best = naive.promote(scores, used, keep)
    return Case(
        (scores, used, keep, np.zeros(n), np.zeros(n, dtype=np.int64)),
        (3, 4),
        lambda: [means, best, len(best)],
        part=lambda written: [written[0], written[1][: len(best)]],
    )


DIFFERENCES = st.lists(st.sampled_from([-1.0, -0.5, 0.25, 1.0]), min_size=1, max_size=7).map(np.array)


@case("bootstrap.resampled_means")
def _(draw: st.DrawFn) -> Case:
    values, seed, step = draw(DIFFERENCES), draw(SEEDS), draw(STEPS)
    return Case((values, seed, step, np.zeros(6)), (3,), lambda: [naive.resampled_means(values, seed, step, 6)], 1e-12)


@case("bootstrap.sign_flip_exceedances")
def _(draw: st.DrawFn) -> Case:
    values, seed, step = np.tile(draw(DIFFERENCES), draw(st.sampled_from([1, 20]))), draw(SEEDS), draw(STEPS)
    return Case((values, seed, step, 9), (), lambda: [naive.sign_flip_exceedances(values, seed, step, 9)])


@case("bootstrap.sign_flip_exact")
def _(draw: st.DrawFn) -> Case:
    values = draw(DIFFERENCES)
    return Case((values,), (), lambda: [naive.sign_flip_exact(values)])
