"""Fronts, crowding, hypervolume, selection, crossover, mutation and whole generations of NSGA-II."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_double, c_int64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernels.harness import Work, bandwidth, library, pointer, work
from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core.evolution import NSGA2
from dspex.core.jit import settle
from dspex.core.kernels import crossover, hypervolume, mutation, pareto, selection
from dspex.program.variables import Choice, Float, Int, Var

Array = NDArray[np.float64]
SIZE, ROWS = 10_000, 40


def cloud(objectives: int, count: int) -> Array:
    """Uniform points in a cube."""
    return np.random.default_rng(0).random((objectives, count))


def shell(objectives: int, count: int, depth: float = 0.0) -> Array:
    """Points on the positive part of a unit sphere, or up to `depth` outside of it."""
    generator = np.random.default_rng(1)
    points = np.abs(generator.normal(size=(objectives, count)))
    return points / np.sqrt(np.square(points).sum(axis=0)) * (1.0 + depth * generator.random(count))


def integers(*shape: int) -> NDArray[np.int64]:
    return np.empty(shape, np.int64)


def scratch(count: int) -> tuple[Any, ...]:
    """What sorting takes."""
    return np.empty((2, count), np.uint64), integers(count), integers(8, 256)


def ordered(losses: Array) -> NDArray[np.int64]:
    return np.lexsort(losses[::-1]).astype(np.int64)


def peel(losses: Array) -> NDArray[np.int64]:
    """Ranks in NumPy: all pairs at once, then front after front."""
    ahead = np.ones((losses.shape[1],) * 2, dtype=np.bool_)
    for values in losses:
        ahead &= values[:, np.newaxis] <= values
    np.fill_diagonal(ahead, False)
    left, rank, front = ahead.sum(axis=0), np.full(losses.shape[1], -1), 0
    while (rank < 0).any():
        best = (left == 0) & (rank < 0)
        rank[best] = front
        left -= ahead[best].sum(axis=0)
        front += 1
    return rank


@work("pareto.radix_sort 20,000")
def _() -> Work:
    n = 2 * SIZE
    values, c = cloud(1, n)[0], library("evolution")
    start, ours, theirs = np.arange(n), integers(n), np.arange(n)
    keys, moved, counts = scratch(n)

    def plain() -> None:
        theirs[:] = start
        c.radix_sort(pointer(values), c_int64(n), pointer(keys), pointer(moved), pointer(theirs))

    return Work(
        ours=lambda: pareto.radix_sort(values.view(np.uint64), start, keys, moved, counts, ours),
        units=n,
        unit="values",
        c=plain,
        numpy=lambda: np.argsort(values, kind="stable"),
        equal=lambda: np.array_equal(ours, theirs),
    )


@work("pareto.lexicographic 20,000 x 2")
def _() -> Work:
    n = 2 * SIZE
    losses, c = cloud(2, n).round(4), library("evolution")
    ours, theirs = integers(n), integers(n)
    keys, moved, counts = scratch(n)
    return Work(
        ours=lambda: pareto.lexicographic(losses, losses.view(np.uint64), keys, moved, counts, ours),
        units=n,
        unit="trials",
        c=lambda: c.lexicographic(
            pointer(losses), c_int64(2), c_int64(n), pointer(keys), pointer(moved), pointer(theirs)
        ),
        numpy=lambda: np.lexsort(losses[::-1]),
        equal=lambda: np.array_equal(ours, theirs),
    )


def _fronts(name: str, losses: Array) -> None:
    objectives, n = losses.shape

    @work(f"pareto.ranks {n:,} x {objectives}, {name}")
    def _() -> Work:
        c, order, sizes = library("evolution"), ordered(losses), integers(n)
        ours, theirs = integers(n), integers(n)
        if objectives == 2:
            tails = np.empty(n)
            call: Callable[[], object] = lambda: pareto.ranks_2d(losses, order, n, tails, sizes, ours)  # noqa: E731
            plain: Callable[[], object] = lambda: c.ranks_2d(  # noqa: E731
                pointer(losses), pointer(order), c_int64(n), pointer(tails), pointer(theirs)
            )
        elif objectives == 3:
            stairs, spans = np.empty((2, 4 * n)), integers(3, n)
            call = lambda: pareto.ranks_3d(losses, order, n, stairs, spans, sizes, ours)  # noqa: E731
            memory = (stairs[0], stairs[1], spans, theirs)
            plain = lambda: c.ranks_3d(  # noqa: E731
                pointer(losses), pointer(order), c_int64(n), *map(pointer, memory)
            )
        else:
            points, heads, following = np.empty((n, objectives)), integers(n), integers(n)
            call = lambda: pareto.ranks_many(losses, order, n, points, heads, following, sizes, ours)  # noqa: E731
            plain = lambda: c.ranks_many(  # noqa: E731
                *map(pointer, (losses, order)),
                *map(c_int64, (objectives, n)),
                *map(pointer, (points, heads, following, theirs)),
            )
        few = losses[:, :2000]
        return Work(
            ours=call,
            units=n,
            unit="trials",
            c=plain,
            numpy=(lambda: peel(few)) if n == 2000 else None,
            equal=lambda: np.array_equal(ours, theirs),
        )


_fronts("in a cube", cloud(2, SIZE))
_fronts("in a cube", cloud(3, SIZE))
_fronts("near a sphere", shell(3, SIZE, 0.02))
_fronts("near a sphere", shell(3, 2000, 0.02))
_fronts("in a cube", cloud(4, SIZE))
_fronts("near a sphere", shell(4, 2000, 0.02))


@work("pareto.crowding 20,000")
def _() -> Work:
    n = 2 * SIZE
    losses, c = cloud(2, n), library("evolution")
    order, rank = ordered(losses), integers(n)
    fronts = pareto.ranks_2d(losses, order, n, np.empty(n), integers(n), rank)
    ends, before = integers(2, fronts), integers(2, fronts)
    ours, theirs = np.zeros(n), np.zeros(n)

    def call() -> None:
        ours[:] = 0.0
        pareto.crowding(losses[0], order, rank, ends, before, ours)

    def plain() -> None:
        theirs[:] = 0.0
        sizes = (c_int64(n), c_int64(fronts))
        c.crowding(*map(pointer, (losses, order, rank)), *sizes, *map(pointer, (ends, before, theirs)))

    def vectorised() -> None:
        by_front = np.lexsort((losses[0], rank))
        values, front = losses[0][by_front], rank[by_front]
        inner = (front[2:] == front[1:-1]) & (front[1:-1] == front[:-2])
        gaps = np.full(n, np.inf)
        gaps[1:-1][inner] = (values[2:] - values[:-2])[inner]
        starts = np.flatnonzero(np.diff(front, prepend=-1))
        extent = np.maximum.reduceat(values, starts) - np.minimum.reduceat(values, starts)
        gaps /= extent[front]

    return Work(
        ours=call,
        units=n,
        unit="trials",
        c=plain,
        numpy=vectorised,
        equal=lambda: np.allclose(ours, theirs, rtol=1e-12),
    )


def _volumes(count: int) -> None:
    @work(f"hypervolume.volume {count:,} x 3")
    def _() -> Work:
        points, reference, c = shell(3, count), np.full(3, 1.1), library("evolution")
        c.volume.restype = c_double
        order, stairs = np.argsort(points[2]), np.empty((2, count + 1))
        call = lambda: hypervolume.volume(points, order, reference, stairs)  # noqa: E731
        plain = lambda: c.volume(  # noqa: E731
            pointer(points), pointer(order), c_int64(count), pointer(reference), pointer(stairs)
        )
        return Work(call, count, "points", plain, equal=lambda: bool(np.isclose(call(), plain(), rtol=1e-12)))

    @work(f"hypervolume.shares {count:,} x 3")
    def _() -> Work:
        points, reference, c = shell(3, count), np.full(3, 1.1), library("evolution")
        order, ours, theirs = np.argsort(points[2]), np.empty(count), np.empty(count)
        strips, state = np.empty((2, 3 * count)), np.empty((3, count))
        stairs, following, heads = integers(count + 1), integers(3 * count), integers(count)
        return Work(
            ours=lambda: hypervolume.shares(points, order, reference, stairs, strips, following, heads, state, ours),
            units=count,
            unit="points",
            c=lambda: c.shares(pointer(points), pointer(order), c_int64(count), pointer(reference), pointer(theirs)),
            equal=lambda: np.allclose(ours, theirs, rtol=1e-9, atol=1e-15),
        )


_volumes(1_000)
_volumes(10_000)


def floats() -> Lowered:
    return lower([Float(f"x{d}", -1, 2) for d in range(ROWS)])


@work("selection.mate 100,000")
def _() -> Work:
    fitness, size, pairs, c = cloud(1, 10 * SIZE)[0], 10 * SIZE, 5 * SIZE, library("evolution")
    ours = integers(pairs), integers(pairs), np.empty(pairs, np.uint8)
    theirs = integers(pairs), integers(pairs), np.empty(pairs, np.uint8)
    generator = np.random.default_rng(0)

    def vectorised() -> Any:
        for _ in range(2):
            one, other = generator.integers(0, size, (2, pairs))
            np.where(fitness[other] < fitness[one], other, one)
        return generator.random(pairs) < 0.9

    return Work(
        ours=lambda: selection.mate(fitness, 1, 2, 0.9, *ours),
        units=size,
        unit="parents",
        c=lambda: c.mate(
            pointer(fitness), *map(c_int64, (size, 1, 2)), c_double(0.9), c_int64(pairs), *map(pointer, theirs)
        ),
        numpy=vectorised,
        equal=lambda: all(map(np.array_equal, ours, theirs)),
    )


@work("selection.survivors 20,000")
def _() -> Work:
    fitness, c = cloud(1, 2 * SIZE)[0].round(4), library("evolution")
    threshold = float(np.sort(fitness)[SIZE - 1])
    came = int((np.argsort(fitness, kind="stable")[:SIZE] >= SIZE).sum())
    ours, theirs = np.zeros((2, SIZE), np.int64), np.zeros((2, SIZE), np.int64)
    return Work(
        ours=lambda: selection.survivors(fitness, threshold, ours[0], ours[1]),
        units=2 * SIZE,
        unit="individuals",
        c=lambda: c.survivors(
            pointer(fitness), c_int64(SIZE), c_double(threshold), pointer(theirs[0]), pointer(theirs[1])
        ),
        numpy=lambda: np.argpartition(fitness, SIZE)[:SIZE],
        equal=lambda: np.array_equal(ours[:, :came], theirs[:, :came]),
    )


@work("selection.replace 10,000 x 40")
def _() -> Work:
    children, c, generator = cloud(ROWS, SIZE), library("evolution"), np.random.default_rng(2)
    sources, places = (np.sort(generator.permutation(SIZE)[: SIZE // 2]) for _ in range(2))
    ours, theirs = np.zeros((ROWS, SIZE)), np.zeros((ROWS, SIZE))

    def vectorised() -> None:
        ours[:, places] = children[:, sources]

    return Work(
        ours=lambda: selection.replace(children, sources, places, ours),
        units=SIZE // 2,
        unit="individuals",
        c=lambda: c.replace(
            *map(pointer, (children, sources, places)), *map(c_int64, (ROWS, SIZE, SIZE // 2)), pointer(theirs)
        ),
        numpy=vectorised,
        equal=lambda: np.array_equal(ours, theirs),
        limit="memory",
        limit_seconds=8.0 * ROWS * SIZE / bandwidth(),
    )


@work("crossover.cross 10,000 x 40")
def _() -> Work:
    table, parents, pairs, c = floats().table, 3.0 * cloud(ROWS, SIZE) - 1.0, SIZE // 2, library("evolution")
    generator = np.random.default_rng(3)
    mothers, fathers = generator.integers(0, SIZE, (2, pairs))
    mates = (generator.random(pairs) < 0.9).astype(np.uint8)
    ours, theirs = np.empty((ROWS, SIZE)), np.empty((ROWS, SIZE))
    sizes = [c_int64(each) for each in (ROWS, SIZE, pairs, 1, 2)]

    def vectorised() -> Array:
        a, b = parents[:, mothers], parents[:, fathers]
        low, high = np.minimum(a, b), np.maximum(a, b)
        gap, u = high - low, generator.random((ROWS, pairs))
        near, far = (u * (2 - (1 + 2 * room / gap) ** -16.0) for room in (low + 1, 2 - high))
        near, far = (np.where(x <= 1, x, 1 / (2 - x)) ** (1 / 16) for x in (near, far))
        one, other = 0.5 * (low + high - near * gap), 0.5 * (low + high + far * gap)
        takes, swaps = generator.random((2, ROWS, pairs)) < 0.5
        takes &= mates == 1
        children = np.concatenate(
            [np.where(takes, np.where(swaps, other, one), a), np.where(takes, np.where(swaps, one, other), b)], axis=1
        )
        return np.clip(children, -1, 2, out=children)

    return Work(
        ours=lambda: crossover.cross(table, parents, mothers, fathers, mates, 1, 1, 2, ours),
        units=SIZE,
        unit="children",
        c=lambda: c.cross(
            *map(pointer, (parents, mothers, fathers, mates, table.lo, table.hi)), *sizes, pointer(theirs)
        ),
        numpy=vectorised,
        equal=lambda: np.allclose(ours, theirs, rtol=1e-9, atol=1e-12),
    )


@work("mutation.mutate 10,000 x 40")
def _() -> Work:
    space, start, c = floats(), 3.0 * cloud(ROWS, SIZE) - 1.0, library("evolution")
    table, sampler, rate = space.table, space.sampler, 1 / ROWS
    scratch, generator = (sampler.stack, np.empty(256), integers(256)), np.random.default_rng(4)
    ours, theirs = np.empty_like(start), np.empty_like(start)

    def call() -> None:
        ours[:] = start
        mutation.mutate(table, sampler.origin, sampler.width, rate, 1, 2, *scratch, ours)

    def plain() -> None:
        theirs[:] = start
        bounds = pointer(table.lo), pointer(table.hi)
        c.mutate(*bounds, c_int64(ROWS), c_int64(SIZE), c_double(rate), c_int64(1), c_int64(2), pointer(theirs))

    def vectorised() -> Array:
        children = start.copy()
        chosen = generator.random(children.shape) < rate
        z, u = (children[chosen] + 1) / 3, generator.random(int(chosen.sum()))
        down = 1 - (2 * u + (1 - 2 * u) * (1 - z) ** 16) ** (1 / 16)
        up = 1 - (2 * (1 - u) + (2 * u - 1) * z**16) ** (1 / 16)
        children[chosen] += 3 * np.where(u < 0.5, -down, up)
        return np.clip(children, -1, 2, out=children)

    return Work(
        ours=call,
        units=SIZE,
        unit="children",
        c=plain,
        numpy=vectorised,
        equal=lambda: np.allclose(ours, theirs, rtol=1e-9, atol=1e-12),
    )


def mixed() -> Lowered:
    """Floats, logarithmic floats, integers and categories in equal parts; a fifth active under a choice."""
    mode = Choice("mode", ("a", "b"))
    variables: list[Var[Any]] = [mode]
    for index in range(ROWS - 1):
        name, when = f"v{index}", mode.is_("b") if index % 5 == 4 else None
        variables.append(
            (
                Float(name, 0, 1, when=when),
                Float(name, 1e-4, 1, log=True, when=when),
                Int(name, 1, 32, when=when),
                Choice(name, tuple("abcd"), when=when),
            )[index % 4]
        )
    return lower(variables)


def bent(x: Array, objectives: int) -> Array:
    """Two losses in opposition, or three on an eighth of a sphere; what they cost is not counted."""
    unit = np.nan_to_num(x, nan=0.5)
    unit = (unit - unit.min(axis=1, keepdims=True)) / np.maximum(np.ptp(unit, axis=1, keepdims=True), 1e-9)
    size = 1 + np.square(unit[objectives - 1 :] - 0.5).sum(axis=0)
    angles = unit[: objectives - 1] * np.pi / 2
    losses = np.stack([size] * objectives)
    for m, angle in enumerate(angles):
        losses[: objectives - 1 - m] *= np.cos(angle)
        losses[objectives - 1 - m] *= np.sin(angle)
    return losses


def _generations(name: str, space: Callable[[], Lowered], size: int, objectives: int) -> None:
    @work(f"NSGA-II generation, {size:,} x {ROWS} {name}, {objectives} objectives")
    def _() -> Work:
        engine = NSGA2(space().sampler, size, objectives)
        for _ in range(3):
            engine.tell(bent(engine.ask(), objectives))
        settle()  # so small a population is served from Python until its kernels are compiled
        state, losses = engine.state(), bent(engine.ask(), objectives)

        def generation() -> None:
            engine.restore(state)
            engine.ask()
            engine.tell(losses)

        return Work(generation, size, "individuals")


for _size in (100, 1_000, 10_000, 100_000, 1_000_000):
    _generations("floats", floats, _size, 2)
for _size in (1_000, 10_000, 100_000):
    _generations("floats", floats, _size, 3)
_generations("floats", floats, 1_000, 4)
for _objectives in (2, 3):
    _generations("mixed", mixed, 10_000, _objectives)
