"""Sampling, decoding and rules."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_int64
from typing import Any, TypeVarTuple, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernels.harness import Work, bandwidth, library, pointer, work
from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core.jit import bind, settle
from dspex.core.kernels import encode, sampling
from dspex.core.rules import evaluate_rules
from dspex.program.variables import Choice, Float, Int, Var

Ts = TypeVarTuple("Ts")


def genes(rows: int, conditional: bool = True) -> Lowered:
    """Floats, logarithmic floats and integers in equal parts; a third active under a choice."""
    mode = Choice("mode", ("a", "b"))
    variables: list[Var[Any]] = [mode]
    for index in range(rows - 1):
        when = mode.is_("b") if conditional and index % 3 == 2 else None
        name = f"v{index}"
        if index % 3 == 0:
            variables.append(Float(name, -5, 5, when=when))
        elif index % 3 == 1:
            variables.append(Float(name, 1e-5, 1e-1, log=True, when=when))
        else:
            variables.append(Int(name, 1, 64, when=when))
    return lower(variables)


def ruled() -> Lowered:
    """Ten floats under ten rules."""
    x = [Float(f"x{index}", 0, 1, default=0.5) for index in range(10)]
    return lower(x, [x[index] + x[(index + 1) % 10] <= 1.8 for index in range(10)])


def bound(function: Callable[..., object], *arguments: object) -> Callable[[], object]:
    """A call of a C function, arrays by their addresses; it keeps them alive."""
    passed = [pointer(cast("NDArray[Any]", each)) if isinstance(each, np.ndarray) else each for each in arguments]

    def call(kept: tuple[object, ...] = arguments) -> object:
        del kept
        return function(*passed)

    return call


def prepared(kernel: Callable[[*Ts], object], *arguments: *Ts) -> Callable[[], object]:
    """A call of a kernel with its addresses taken ahead, as `bound` takes those of the C function."""
    kernel(*arguments)
    settle()  # before it is compiled, there is no address to call
    return bind(kernel, *arguments)


@work("sample 10,000 x 64")
def _() -> Work:
    space, generator = genes(64), np.random.default_rng(0)
    table, sampler = space.table, space.sampler
    stack, ours, theirs = sampler.stack, np.empty((64, 10_000)), np.empty((64, 10_000))
    numbers = [c_int64(number) for number in (0, 0, 64, 10_000)]
    arrays = (table.kind, table.lo, table.hi, table.step, sampler.origin, sampler.width, table.ncat, table.cat_off)
    shares = np.cumsum(np.exp(table.cat_logp))
    c = bound(library("sampling").sample, *numbers, *arrays, shares, table.parent, table.parent_val, theirs)

    def draw_ours() -> None:
        sampling.sample(table, sampler.origin, sampler.width, 0, 0, stack, ours)

    def equal() -> bool:
        draw_ours()
        c()
        return np.array_equal(ours, theirs, equal_nan=True)

    def draw() -> NDArray[np.float64]:
        out = np.empty((64, 10_000))
        out[0] = generator.integers(0, 2, 10_000)
        for row in range(63):
            if row % 3 == 0:
                out[row + 1] = generator.uniform(-5, 5, 10_000)
            elif row % 3 == 1:
                out[row + 1] = generator.uniform(np.log(1e-5), np.log(1e-1), 10_000)
            else:
                out[row + 1] = np.where(out[0] == 1, generator.integers(1, 65, 10_000), np.nan)
        return out

    return Work(
        ours=draw_ours,
        units=10_000,
        unit="candidates",
        c=c,
        numpy=draw,
        equal=equal,
        limit="memory",
        limit_seconds=8.0 * theirs.size / bandwidth(),
    )


@work("decode 10,000 x 64")
def _() -> Work:
    space = genes(64)
    population = space.sampler.sample(10_000, 0)
    out, theirs, logarithmic = np.empty_like(population), np.empty_like(population), space.table.log_flag == 1
    powers = 10.0 ** np.arange(23)

    def twelve_digits() -> NDArray[np.float64]:
        values = population.copy()
        numbers = np.exp(values[logarithmic])
        # All values of this space are below 1e11.
        power = powers[11 - np.floor(np.log10(numbers)).astype(np.int64)]
        values[logarithmic] = np.rint(numbers * power) / power
        return values

    def equal() -> bool:
        encode.decode(space.table, population, out)
        c()
        return np.allclose(out, theirs, rtol=1e-12, equal_nan=True)

    arrays = (space.table.kind, space.table.log_flag, population, theirs)
    c = bound(library("sampling").decode, c_int64(64), c_int64(10_000), *arrays)
    return Work(
        ours=lambda: encode.decode(space.table, population, out),
        units=10_000,
        unit="candidates",
        c=c,
        numpy=twelve_digits,
        equal=equal,
    )


def _rules(candidates: int) -> None:
    @work(f"10 rules, {candidates:,} candidates")
    def _() -> Work:
        space = ruled()
        table, x = space.table, space.sampler.sample(candidates, 0)
        ours, theirs = np.empty((10, candidates), np.uint8), np.empty((10, candidates), np.uint8)
        stack = space.sampler.stack
        code = (table.op, table.arg, table.const, c_int64(table.op.size))
        c = bound(library("sampling").rules, c_int64(candidates), *code, x, theirs)
        judge = prepared(evaluate_rules, table, x, stack, ours)

        def equal() -> bool:
            judge()
            c()
            return np.array_equal(ours, theirs)

        return Work(
            ours=judge,
            units=candidates,
            unit="candidates",
            c=c,
            numpy=lambda: np.stack([x[index] + x[(index + 1) % 10] <= 1.8 for index in range(10)]),
            equal=equal,
        )


_rules(24)
_rules(10_000)
