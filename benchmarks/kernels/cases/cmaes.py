"""CatCMA with margin: 100 coordinates and 30 categorical rows of 10, generations of 16."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_double, c_int64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernels.harness import Work, library, pointer, work
from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core.catcma import CatCMA, strategy
from dspex.core.kernels import cmaes
from dspex.program.variables import Choice, Float

N, ROWS, SIZE, COUNT = 100, 30, 10, 16
SEED, FIRST = 7, 3
PLAN = strategy(N, COUNT)
Array = NDArray[np.float64]


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def factor() -> Array:
    return np.triu(generator().normal(size=(N, N)), 1) * 0.05 + np.diag(generator().random(N) + 0.5)


def steps() -> tuple[Array, Array]:
    """Steps, and the same whitened."""
    whitened = generator().normal(size=(COUNT, N))
    return whitened @ factor(), whitened


def space(grids: int) -> Lowered:
    numbers = [Float(f"x{i}", 0.0, 1.0, step=0.1 if i < grids else None) for i in range(N)]
    return lower([*numbers, *(Choice(f"c{i}", tuple(range(SIZE))) for i in range(ROWS))], [])


def categories(count: int) -> NDArray[np.int64]:
    return generator().integers(SIZE, size=(count, ROWS))


def engine(grids: int) -> CatCMA:
    return CatCMA(space(grids).sampler, SEED)


def both(*starts: NDArray[Any]) -> tuple[list[NDArray[Any]], list[NDArray[Any]], Callable[[], None]]:
    """Two sets of arrays to write to, and what puts them back to the start."""
    ours, theirs = [start.copy() for start in starts], [start.copy() for start in starts]

    def reset() -> None:
        for each in (ours, theirs):
            for array, start in zip(each, starts, strict=True):
                array[...] = start

    return ours, theirs, reset


def same(ours: list[NDArray[Any]], theirs: list[NDArray[Any]], run: Callable[[], object]) -> Callable[[], bool]:
    def check() -> bool:
        run()
        return all(np.allclose(one, other, rtol=1e-9, atol=1e-12) for one, other in zip(ours, theirs, strict=True))

    return check


def once(reset: Callable[[], None], *calls: Callable[[], object]) -> Callable[[], None]:
    """Both ways, once, from the start."""

    def run() -> None:
        reset()
        for call in calls:
            call()

    return run


@work("cmaes.draw_latents 1,000 of 100")
def _() -> Work:
    mean, spread, out, theirs = np.full(N, 0.5), factor(), np.empty((1_000, N)), np.empty((1_000, N))
    c = library("cmaes").draw_latents
    drawn = generator()
    return Work(
        ours=lambda: cmaes.draw_latents(mean, spread, 0.2, SEED, FIRST, out),
        units=1_000,
        unit="candidates",
        c=lambda: c(
            pointer(mean), pointer(spread), c_double(0.2), c_int64(SEED), c_int64(FIRST), pointer(theirs),
            c_int64(1_000), c_int64(N),
        ),
        numpy=lambda: mean + 0.2 * drawn.standard_normal((1_000, N)) @ spread,
        equal=lambda: np.allclose(out, theirs, rtol=1e-9),
    )  # fmt: skip


@work("cmaes.draw_categories 1,000 of 30 x 10")
def _() -> Work:
    weights, offsets = np.full(ROWS * SIZE, 1.0 / SIZE), np.arange(0, ROWS * SIZE + 1, SIZE)
    out, theirs = np.empty((1_000, ROWS), dtype=np.int64), np.empty((1_000, ROWS), dtype=np.int64)
    c = library("cmaes").draw_categories
    return Work(
        ours=lambda: cmaes.draw_categories(weights, offsets, SEED, FIRST, out),
        units=30_000,
        unit="categories",
        c=lambda: c(
            pointer(weights), pointer(offsets), c_int64(SEED), c_int64(FIRST), pointer(theirs), c_int64(1_000),
            c_int64(ROWS),
        ),
        equal=lambda: np.array_equal(out, theirs),
    )  # fmt: skip


@work("cmaes.compose 1,000 x 130")
def _() -> Work:
    found, chosen, latents = engine(0), categories(1_000), 0.5 + 0.3 * generator().normal(size=(1_000, N))
    sampler = found.sampler
    out, theirs = np.empty((N + ROWS, 1_000)), np.empty((N + ROWS, 1_000))
    stack, c = sampler.stack, library("cmaes").compose
    return Work(
        ours=lambda: cmaes.compose(
            sampler.table, sampler.origin, sampler.width, found.place, latents, chosen, stack, out
        ),
        units=130_000,
        unit="entries",
        c=lambda: c(
            pointer(sampler.origin), pointer(sampler.width), pointer(latents), pointer(chosen), pointer(theirs),
            c_int64(N), c_int64(0), c_int64(ROWS), c_int64(1_000),
        ),
        equal=lambda: np.allclose(out, theirs, rtol=1e-12),
    )  # fmt: skip


@work("cmaes.compose 1,000 x 130, grids")
def _() -> Work:
    found, chosen, latents = engine(N), categories(1_000), 0.5 + 0.3 * generator().normal(size=(1_000, N))
    sampler = found.sampler
    out, theirs = np.empty((N + ROWS, 1_000)), np.empty((N + ROWS, 1_000))
    stack, c = sampler.stack, library("cmaes").compose
    return Work(
        ours=lambda: cmaes.compose(
            sampler.table, sampler.origin, sampler.width, found.place, latents, chosen, stack, out
        ),
        units=130_000,
        unit="entries",
        c=lambda: c(
            pointer(sampler.origin), pointer(sampler.width), pointer(latents), pointer(chosen), pointer(theirs),
            c_int64(N), c_int64(N), c_int64(ROWS), c_int64(1_000),
        ),
        equal=lambda: np.allclose(out, theirs, rtol=1e-12),
    )  # fmt: skip


@work("cmaes.absorb 1,000 x 130")
def _() -> Work:
    found = engine(0)
    sampler = found.sampler
    population = sampler.sample(1_000, SEED)
    ours = np.empty((1_000, N)), np.empty((1_000, ROWS), dtype=np.int64)
    theirs = np.empty((1_000, N)), np.empty((1_000, ROWS), dtype=np.int64)
    c = library("cmaes").absorb
    return Work(
        ours=lambda: cmaes.absorb(
            sampler.table, sampler.origin, sampler.width, found.place, population, sampler.stack, *ours
        ),
        units=130_000,
        unit="entries",
        c=lambda: c(
            pointer(sampler.origin), pointer(sampler.width), pointer(population), pointer(theirs[0]),
            pointer(theirs[1]), c_int64(N), c_int64(ROWS), c_int64(1_000),
        ),
        equal=lambda: np.allclose(ours[0], theirs[0], rtol=1e-12) and np.array_equal(ours[1], theirs[1]),
    )  # fmt: skip


@work("cmaes.whiten 16 of 100")
def _() -> Work:
    spread, (start, _), numbers = factor(), steps(), np.arange(COUNT)
    ours, theirs, reset = both(start, np.zeros((COUNT, N)))
    c = library("cmaes").whiten

    def mine() -> None:
        cmaes.whiten(spread, 30.0, SEED, numbers, ours[0], ours[1])

    def other() -> None:
        c(pointer(spread), c_double(30.0), pointer(theirs[0]), pointer(theirs[1]), c_int64(COUNT), c_int64(N))

    return Work(
        ours=mine,
        units=COUNT,
        unit="steps",
        c=other,
        numpy=lambda: np.linalg.solve(spread.T, start.T),
        equal=same(ours, theirs, once(reset, mine, other)),
    )


@work("cmaes.weigh 64")
def _() -> Work:
    losses, table = np.round(generator().random(64), 1), generator().random(64)
    losses[::9] = np.nan
    out, theirs = np.empty(64), np.empty(64)
    c = library("cmaes").weigh
    return Work(
        ours=lambda: cmaes.weigh(losses, table, out),
        units=64,
        unit="losses",
        c=lambda: c(pointer(losses), pointer(table), pointer(theirs), c_int64(64)),
        equal=lambda: np.allclose(out, theirs, rtol=1e-12),
    )


@work("cmaes.move 16 of 100")
def _() -> Work:
    (start, whitened), held = steps(), np.zeros(N, dtype=np.uint8)
    ours, theirs, reset = both(np.full(N, 0.5), np.zeros(N), np.zeros(N))
    c = library("cmaes").move
    c.restype = c_double

    def mine() -> float:
        return cmaes.move(start, whitened, PLAN.weights, PLAN.rates, held, 0.01, 3, ours[0], ours[1], ours[2])

    def other() -> float:
        return c(
            pointer(start), pointer(whitened), pointer(PLAN.weights), pointer(PLAN.rates), pointer(held),
            c_double(0.01), c_int64(3), *(pointer(each) for each in theirs), c_int64(COUNT), c_int64(N),
        )  # fmt: skip

    return Work(ours=mine, units=COUNT, unit="steps", c=other, equal=same(ours, theirs, once(reset, mine, other)))


@work("cmaes.adapt 16 of 100")
def _() -> Work:
    (start, whitened), path = steps(), np.full(N, 0.1)
    ours, theirs, reset = both(np.empty(N), factor())
    c = library("cmaes").adapt

    def mine() -> None:
        cmaes.adapt(start, whitened, PLAN.signed, path, PLAN.rate_one, PLAN.rate_mu, ours[0], ours[1])

    def other() -> None:
        c(
            pointer(start), pointer(whitened), pointer(PLAN.signed), pointer(path), c_double(PLAN.rate_one),
            c_double(PLAN.rate_mu), pointer(theirs[0]), pointer(theirs[1]), c_int64(COUNT), c_int64(N),
        )  # fmt: skip

    def numpy() -> object:
        covariance = factor().T @ factor() + np.outer(path, path) + (start.T * PLAN.signed) @ start
        return np.linalg.eigh(covariance)

    # From the start each time: updates of one generation over and over would leave the positive definite.
    return Work(
        ours=once(reset, mine),
        units=COUNT,
        unit="steps",
        c=once(reset, other),
        numpy=numpy,
        equal=same(ours[1:], theirs[1:], once(reset, mine, other)),
    )


@work("cmaes.add_outer 200")
def _() -> Work:
    vector = generator().normal(size=200)
    ours, theirs, reset = both(vector, np.eye(200))
    c = library("cmaes").add_outer

    def mine() -> None:
        cmaes.add_outer(0.1, ours[0], ours[1])

    def other() -> None:
        c(c_double(0.1), pointer(theirs[0]), pointer(theirs[1]), c_int64(200))

    return Work(
        ours=once(reset, mine), units=1, unit="updates", c=once(reset, other),
        equal=same(ours, theirs, once(reset, mine, other)),
    )  # fmt: skip


@work("cmaes.measure 100")
def _() -> Work:
    spread, out, theirs = factor(), np.empty(N), np.empty(N)
    c = library("cmaes").measure
    return Work(
        ours=lambda: cmaes.measure(0.2, spread, out),
        units=N,
        unit="coordinates",
        c=lambda: c(c_double(0.2), pointer(spread), pointer(theirs), c_int64(N)),
        numpy=lambda: 0.2 * np.sqrt(np.square(spread).sum(axis=0)),
        equal=lambda: np.allclose(out, theirs, rtol=1e-12),
    )


@work("cmaes.keep_margin 100")
def _() -> Work:
    sampler, rows = engine(N).sampler, np.arange(N)
    mean = generator().random(N)
    spreads = 0.02 * generator().random(N) + 0.01
    ours, theirs, reset = both(spreads, mean, np.zeros(N), factor(), np.zeros(N, dtype=np.uint8))
    c = library("cmaes").keep_margin

    def mine() -> None:
        cmaes.keep_margin(sampler.table, sampler.origin, sampler.width, rows, 0.01, *ours)

    def other() -> None:
        c(pointer(sampler.origin), pointer(sampler.width), c_double(0.01), *map(pointer, theirs), c_int64(N))

    return Work(
        ours=once(reset, mine),
        units=N,
        unit="coordinates",
        c=once(reset, other),
        equal=same(ours, theirs, once(reset, mine, other)),
    )


@work("cmaes.shift_categories 16 of 30 x 10")
def _() -> Work:
    chosen, offsets = categories(COUNT), np.arange(0, ROWS * SIZE + 1, SIZE)
    floor = np.full(ROWS * SIZE, 1e-3)
    ours, theirs, reset = both(
        np.zeros(ROWS * SIZE), np.zeros(ROWS * SIZE), np.array([1.0, 0.0]), np.full(ROWS * SIZE, 1.0 / SIZE)
    )
    c = library("cmaes").shift_categories

    def mine() -> None:
        cmaes.shift_categories(chosen, PLAN.weights, offsets, floor, *ours)

    def other() -> None:
        c(
            pointer(chosen), pointer(PLAN.weights), pointer(offsets), pointer(floor), *map(pointer, theirs),
            c_int64(COUNT), c_int64(ROWS),
        )  # fmt: skip

    return Work(
        ours=once(reset, mine),
        units=COUNT,
        unit="candidates",
        c=once(reset, other),
        equal=same(ours, theirs, once(reset, mine, other)),
    )
