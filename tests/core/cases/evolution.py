"""Cases of sorting, hypervolume, selection, crossover and mutation."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from dspex.compiler.lower.lowering import Lowered
from tests.core import naive
from tests.core.cases.registry import Case, case
from tests.core.naive import Array, evolution
from tests.core.spaces import SEEDS, STEPS, drawn, spaces, stack

LEVELS = st.sampled_from([-2.0, -0.0, 0.0, 0.25, 1.0, 3.0]) | st.floats(-4.0, 4.0)
INSIDE = st.sampled_from([-1.0, 0.0, 0.25, 0.5]) | st.floats(-1.0, 0.9)


def _losses(draw: st.DrawFn, objectives: int, levels: st.SearchStrategy[float] = LEVELS, most: int = 30) -> Array:
    n = draw(st.integers(0, most))
    cells = draw(st.lists(levels, min_size=objectives * n, max_size=objectives * n))
    return np.array(cells).reshape(objectives, n)


def _order(losses: Array) -> Any:
    return np.array(sorted(range(losses.shape[1]), key=lambda i: (*losses[:, i], i)), dtype=np.int64)


def _sorting(n: int) -> tuple[Any, ...]:
    return np.zeros((2, n), np.uint64), np.zeros(n, np.int64), np.zeros((8, 256), np.int64)


@case("pareto.radix_sort")
def _(draw: st.DrawFn) -> Case:
    values = _losses(draw, 1, st.floats(allow_nan=False) | LEVELS)[0]
    start = np.array(draw(st.permutations(range(values.size))), dtype=np.int64)
    return Case(
        (values.view(np.uint64), start, *_sorting(values.size), np.zeros(values.size, np.int64)),
        (2, 5),
        lambda: [sorted(start, key=lambda i: values[i]), evolution.radix_passes(values) % 2],
        part=lambda written: written[1:2],
    )


@case("pareto.lexicographic")
def _(draw: st.DrawFn) -> Case:
    losses = _losses(draw, draw(st.integers(1, 4)), most=60)
    n = losses.shape[1]
    return Case((losses, losses.view(np.uint64), *_sorting(n), np.zeros(n, np.int64)), (5,), lambda: [_order(losses)])


def _ranking(draw: st.DrawFn, losses: Array, *scratch: Any) -> Case:
    n = losses.shape[1]
    needed = draw(st.integers(0, n))
    rank = evolution.ranks(losses, needed)
    arguments = (losses, _order(losses), needed, *scratch, np.zeros(n, np.int64), np.full(n, 9, np.int64))
    return Case(arguments, (len(arguments) - 1,), lambda: [rank, int(rank.max(initial=-1)) + 1])


@case("pareto.ranks_2d")
def _(draw: st.DrawFn) -> Case:
    losses = _losses(draw, 2)
    return _ranking(draw, losses, np.zeros(losses.shape[1]))


@case("pareto.ranks_3d")
def _(draw: st.DrawFn) -> Case:
    losses = _losses(draw, 3)
    n = losses.shape[1]
    return _ranking(draw, losses, np.zeros((2, 4 * n)), np.zeros((3, n), np.int64))


@case("pareto.ranks_many")
def _(draw: st.DrawFn) -> Case:
    losses = _losses(draw, draw(st.integers(2, 5)))
    n = losses.shape[1]
    return _ranking(draw, losses, np.zeros(losses.T.shape), np.zeros(n, np.int64), np.zeros(n, np.int64))


@case("pareto.crowding")
def _(draw: st.DrawFn) -> Case:
    values = _losses(draw, 1)
    n = values.shape[1]
    rank = evolution.ranks(np.concatenate([values, _rounded(draw, n)]), draw(st.integers(0, n)))
    fronts = int(rank.max(initial=-1)) + 1
    order = _order(values)
    scratch = np.zeros((2, fronts), np.int64), np.zeros((2, fronts), np.int64)
    before = np.array(draw(st.lists(st.sampled_from([0.0, 0.5, np.inf]), min_size=n, max_size=n)))
    return Case(
        (values[0], order, rank, *scratch, before),
        (5,),
        lambda: [before + evolution.crowding(values, rank)],
        1e-12,
    )


def _rounded(draw: st.DrawFn, n: int) -> Array:
    return np.array(draw(st.lists(LEVELS, min_size=n, max_size=n))).reshape(1, n)


def _solid(draw: st.DrawFn) -> tuple[Array, Any, Array]:
    points = _losses(draw, 3, INSIDE, most=7)
    order = np.array(sorted(range(points.shape[1]), key=lambda i: points[2, i]), dtype=np.int64)
    return points, order, np.ones(3)


@case("hypervolume.volume")
def _(draw: st.DrawFn) -> Case:
    points, order, reference = _solid(draw)
    stairs = np.zeros((2, points.shape[1] + 1))
    return Case((points, order, reference, stairs), (), lambda: [evolution.volume(points, reference)], 1e-12)


@case("hypervolume.shares")
def _(draw: st.DrawFn) -> Case:
    points, order, reference = _solid(draw)
    n = points.shape[1]
    return Case(
        (points, order, reference, np.zeros(n + 1, np.int64), np.zeros((2, 3 * n)), np.zeros(3 * n, np.int64),
         np.zeros(n, np.int64), np.zeros((3, n)), np.zeros(n)),
        (8,),
        lambda: [evolution.shares(points, reference)],
        1e-12,
    )  # fmt: skip


FITNESS = st.sampled_from([0.0, 0.5, 1.5, np.inf])


@case("selection.duels")
def _(draw: st.DrawFn) -> Case:
    fitness = np.array(draw(st.lists(FITNESS | st.just(np.nan), min_size=1, max_size=9)))
    words = draw(st.lists(st.integers(0, 2**64 - 1), max_size=64))
    return Case((fitness, np.array(words, np.uint64).view(np.int64)), (), lambda: [evolution.duels(fitness, words)])


@case("selection.mate")
def _(draw: st.DrawFn) -> Case:
    fitness = np.array(draw(st.lists(FITNESS | st.just(np.nan), min_size=1, max_size=9)))
    pairs, share, seed, step = (
        draw(st.sampled_from([0, 1, 5, 70])),
        draw(st.floats(0.0, 1.0)),
        draw(SEEDS),
        draw(STEPS),
    )
    blank = np.full(pairs, 9, np.int64)
    return Case(
        (fitness, seed, step, share, blank, blank.copy(), np.full(pairs, 9, np.uint8)),
        (4, 5, 6),
        lambda: list(evolution.mate(fitness, seed, step, share, pairs)),
    )


@case("selection.survivors")
def _(draw: st.DrawFn) -> Case:
    size = draw(st.integers(1, 8))
    fitness = np.array(draw(st.lists(FITNESS, min_size=2 * size, max_size=2 * size)))
    come, gone = evolution.survivors(fitness)
    return Case(
        (fitness, float(np.sort(fitness)[size - 1]), np.zeros(size, np.int64), np.zeros(size, np.int64)),
        (2, 3),
        lambda: [come, gone, len(come)],
        part=lambda written: [each[: len(come)] for each in written],
    )


@case("selection.replace")
def _(draw: st.DrawFn) -> Case:
    n, rows = draw(st.integers(1, 6)), draw(st.integers(0, 3))
    count = draw(st.integers(0, n))
    sources, places = (np.array(draw(st.permutations(range(n)))[:count], dtype=np.int64) for _ in range(2))
    parents = np.arange(float(rows * n)).reshape(rows, n)
    children = -1.0 - parents
    wanted = parents.copy()
    wanted[:, places] = children[:, sources]
    return Case((children, sources, places, parents), (3,), lambda: [wanted])


@case("crossover.cross")
def _(draw: st.DrawFn) -> Case:
    lowered = draw(spaces())
    parents = drawn(lowered, draw(st.integers(1, 4)), draw(SEEDS))
    size, pairs = parents.shape[1], draw(st.sampled_from([1, 3, 260]))
    mothers, fathers = (np.arange(pairs, dtype=np.int64) * draw(st.integers(1, 5)) % size for _ in range(2))
    mates = np.array([i % 4 != 3 for i in range(pairs)], dtype=np.uint8)
    blended, seed, step = draw(st.booleans()), draw(SEEDS), draw(STEPS)
    return Case(
        (lowered.table, parents, mothers, fathers, mates, int(blended), seed, step,
         np.zeros((parents.shape[0], 2 * pairs))),
        (8,),
        lambda: [evolution.cross(lowered, parents, mothers, fathers, mates, blended, seed, step)],
        1e-9,
    )  # fmt: skip


UNIT = st.floats(0.0, 1.0, exclude_max=True)


def _row(draw: st.DrawFn, categorical: bool) -> tuple[Lowered, int]:
    lowered = draw(spaces())
    d = draw(st.integers(0, len(lowered.variables) - 1))
    assume(bool(lowered.variables[d].options) == categorical)
    return lowered, d


@case("mutation.perturb")
def _(draw: st.DrawFn) -> Case:
    lo, width, share, u = draw(st.floats(-5, 5)), draw(st.floats(0.01, 9.0)), draw(st.floats(0, 1)), draw(UNIT)
    z = min(lo + share * width, lo + width)
    return Case((lo, lo + width, z, u), (), lambda: [evolution.perturb(lo, lo + width, z, u)], 1e-9)


@case("mutation.other_number")
def _(draw: st.DrawFn) -> Case:
    lowered, d = _row(draw, False)
    table, z, u = lowered.table, naive.draw(lowered, d, draw(UNIT)), draw(UNIT)
    numbers = (float(table.lo[d]), float(table.hi[d]), float(table.step[d]), *naive.frame(lowered, d))
    return Case(
        (int(table.kind[d]), int(table.log_flag[d]), *numbers, z, u),
        (),
        lambda: [evolution.other_number(lowered, d, z, u)],
        1e-9,
    )


@case("mutation.other_category")
def _(draw: st.DrawFn) -> Case:
    lowered, d = _row(draw, True)
    table, u = lowered.table, draw(UNIT)
    current = draw(st.integers(0, int(table.ncat[d]) - 1))
    return Case(
        (table.cat_logp, int(table.cat_off[d]), int(table.ncat[d]), current, u),
        (),
        lambda: [evolution.other_category(lowered, d, current, u)],
    )


@case("mutation.mutate")
def _(draw: st.DrawFn) -> Case:
    lowered = draw(spaces())
    population = drawn(lowered, draw(st.sampled_from([1, 4, 260])), draw(SEEDS))
    # Rows moved against each other: conditions do not hold, as after crossover.
    for d in range(population.shape[0]):
        population[d] = np.roll(population[d], draw(st.integers(0, 3)))
    rate, seed, step = draw(st.floats(0.01, 1.0)), draw(SEEDS), draw(STEPS)
    before = population.copy()
    sampler = lowered.sampler
    return Case(
        (lowered.table, sampler.origin, sampler.width, rate, seed, step, stack(), np.zeros(256),
         np.zeros(256, np.int64), population),
        (9,),
        lambda: [evolution.mutate(lowered, rate, seed, step, before)],
        1e-9,
    )  # fmt: skip
