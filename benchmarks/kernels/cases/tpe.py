"""The tree-structured Parzen estimator: mixtures, proposals and densities."""

from __future__ import annotations

from ctypes import c_double, c_int64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernels.cases.sampling import bound
from benchmarks.kernels.harness import Work, library, work
from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core.kernels import tpe
from dspex.program.variables import Choice, Float

Array = NDArray[np.float64]
SMOOTHING = 0.1


@dataclass
class Mixture:
    """A mixture over numbers, a quarter of the rows categories where `mixed`, and candidates from the prior."""

    space: Lowered
    centres: Array
    below: Array
    mass: Array
    members: NDArray[np.int64]
    history: Array
    sigma: Array
    weights: Array
    groups: NDArray[np.int64]
    candidates: Array

    @classmethod
    def of(cls, rows: int, kernels: int, candidates: int, mixed: bool = False) -> Mixture:
        space = lower(
            [
                Choice(f"v{row}", tuple("abcde")) if mixed and row % 4 == 3 else Float(f"v{row}", -5, 5)
                for row in range(rows)
            ]
        )
        groups = np.empty((rows, 4), np.int64)
        centres, below, mass = np.empty((3, rows, kernels))
        made = cls(
            space,
            centres,
            below,
            mass,
            members=np.arange(kernels - 1),
            history=space.sampler.sample(kernels, 1),
            sigma=np.full(rows, 0.1),
            weights=np.full(kernels, 1.0 / kernels),
            groups=groups[: tpe.group_rows(space.table, space.sampler.width, groups)].copy(),
            candidates=space.sampler.sample(candidates, 2),
        )
        made.build()
        return made

    def build(self) -> None:
        sampler = self.space.sampler
        tpe.build_mixture(
            sampler.table, sampler.origin, sampler.width, self.history, self.members, self.sigma, self.centres,
            self.below, self.mass,
        )  # fmt: skip


@work("tpe.build_mixture 40 x 128")
def _() -> Work:
    rows, kernels = 40, 128
    ours, theirs = Mixture.of(rows, kernels, 1, mixed=True), np.empty((3, rows, kernels))
    sampler = ours.space.sampler
    arrays = (sampler.table.kind, sampler.origin, sampler.width, ours.history, ours.members, ours.sigma, *theirs)
    c = bound(library("tpe").build_mixture, *(c_int64(number) for number in (rows, kernels, kernels)), *arrays)

    def equal() -> bool:
        c()
        own = (ours.centres, ours.below, ours.mass)
        return all(np.allclose(a, b, rtol=1e-9, equal_nan=True) for a, b in zip(own, theirs, strict=True))

    return Work(ours=ours.build, units=rows * kernels, unit="kernels", c=c, equal=equal)


@work("tpe.propose 40 rows, 1,024 candidates")
def _() -> Work:
    rows, kernels, count = 40, 25, 1024
    mixture = Mixture.of(rows, kernels, count)
    sampler, table = mixture.space.sampler, mixture.space.table
    stack, picks, ours = sampler.stack, np.empty(count, np.int64), np.empty((rows, count))
    theirs, cumulative = np.empty_like(ours), np.cumsum(mixture.weights)
    parts = (mixture.centres, mixture.below, mixture.mass, cumulative, mixture.sigma)
    numbers = [c_int64(number) for number in (0, 1, rows, kernels, count)]
    arrays = (sampler.origin, sampler.width, table.lo, table.hi, *parts, np.empty_like(picks), theirs)
    c = bound(library("tpe").propose, *numbers, *arrays)

    def propose() -> None:
        tpe.propose(table, sampler.origin, sampler.width, *parts, SMOOTHING, 0, 1, stack, picks, ours)

    def equal() -> bool:
        propose()
        c()
        return np.allclose(ours, theirs, rtol=1e-9)

    return Work(ours=propose, units=count, unit="candidates", c=c, equal=equal)


def _densities(rows: int, kernels: int, count: int, mixed: bool) -> None:
    @work(f"tpe.log_density {rows} rows, {kernels:,} kernels, {count:,} candidates")
    def _() -> Work:
        mixture = Mixture.of(rows, kernels, count, mixed)
        sampler, table = mixture.space.sampler, mixture.space.table
        ours, theirs, weights = np.empty(count), np.empty(count), np.log(mixture.weights)
        terms, scratch = np.empty((5, kernels)), np.empty((kernels + 10, tpe.DENSITY_BLOCK))
        frame, parts = (sampler.origin, sampler.width), (mixture.centres, mixture.mass, weights, mixture.sigma)
        arrays = (table.kind, table.cat_off, table.cat_logp, *frame, *parts)
        numbers = [c_int64(number) for number in (rows, kernels, count)]
        rest = (c_double(SMOOTHING), mixture.candidates, scratch, theirs)
        c = bound(library("tpe").log_density, *numbers, *arrays, *rest)

        def score() -> None:
            tpe.log_density(table, mixture.groups, *frame, *parts, SMOOTHING, mixture.candidates, terms, scratch, ours)

        def equal() -> bool:
            score()
            c()
            return np.allclose(ours, theirs, rtol=1e-9)

        def product() -> Array:
            x = (mixture.candidates - frame[0][:, np.newaxis]) / (frame[1] * mixture.sigma)[:, np.newaxis]
            centre = mixture.centres[:, :-1] / mixture.sigma[:, np.newaxis]
            norm = -np.log(mixture.mass[:, :-1] * mixture.sigma[:, np.newaxis] * np.sqrt(2 * np.pi)).sum(axis=0)
            square = np.square(x).sum(axis=0) + np.square(centre).sum(axis=0)[:, np.newaxis] - 2.0 * centre.T @ x
            logs = np.vstack([norm[:, np.newaxis] - 0.5 * square, np.zeros(count)]) + weights[:, np.newaxis]
            highest = logs.max(axis=0)
            return highest + np.log(np.exp(logs - highest).sum(axis=0))

        return Work(
            ours=score,
            units=rows * kernels * count,
            unit="terms",
            c=c,
            numpy=None if mixed else product,
            equal=equal,
        )


_densities(40, 100, 1024, mixed=False)
_densities(40, 128, 64, mixed=True)
_densities(64, 1000, 10_000, mixed=False)
