"""Rows as bandits: every category and every small domain's value is an arm, and so is a share of a wide interval."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import rng
from dspex.core.factorial import Factorial, levels, values
from dspex.core.kernels import encode, sampling
from dspex.core.population import Sampler

CELLS: Final = 8
"""Arms of a row with more values than that: equal shares of its prior."""
_PLACES, _NEAR, _STEPS = 0, 1, 2
"""Streams of random numbers for places in a cell, each as many dims apart as there are rows."""


class Arms:
    """The arms of every row of a table, one row's after another's.

    Args:
        sampler: Of the table.

    Attributes:
        counts: Arms of each row, (D,) int64.
        ends: End of each row's arms among all, (D,) int64.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        table = sampler.table
        self._entries: list[NDArray[np.float64] | None] = [
            each if count is not None and count <= max(CELLS, int(categories)) else None
            for each, count, categories in zip(levels(sampler, CELLS), values(table), table.ncat, strict=True)
        ]
        self.counts = np.array([CELLS if each is None else each.size for each in self._entries], dtype=np.int64)
        self.ends = np.cumsum(self.counts)
        self._wide = np.array([each is None for each in self._entries], dtype=np.bool_)

    def units(self, population: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places in the unit interval of wide rows, (D, N) float64; 0 in other rows, NaN where inactive."""
        origin, width = self._sampler.origin[:, np.newaxis], self._sampler.width[:, np.newaxis]
        wide = self._wide[:, np.newaxis]
        return np.clip(np.where(wide, population - origin, population * 0.0) / np.where(wide, width, 1.0), 0.0, 1.0)

    def of(self, population: NDArray[np.float64]) -> NDArray[np.int64]:
        """The arm of each entry among all arms, (D, N) int64; -1 where the row is inactive."""
        result = np.full(population.shape, -1, dtype=np.int64)
        units = self.units(population)
        for row, entries in enumerate(self._entries):
            active = ~np.isnan(population[row])
            if entries is None:
                places = np.minimum((units[row, active] * CELLS).astype(np.int64), CELLS - 1)
            else:
                # Entries are ascending; the nearest one, because a saved entry may differ from them by rounding.
                places = (population[row, active][:, np.newaxis] > (entries[1:] + entries[:-1]) / 2.0).sum(axis=1)
            result[row, active] = places + self.ends[row] - self.counts[row]
        return result

    def columns(
        self, chosen: NDArray[np.int64], near: NDArray[np.float64], spread: NDArray[np.float64], seed: int, step: int
    ) -> NDArray[np.float64]:
        """Candidates that obey the rules, with the chosen arms where rows are active and rules allow them.

        In a cell of a wide row the place is drawn from the prior, or, for half of the candidates, near to a place that
        was good.

        Args:
            chosen: Place of the arm in each row, (D, N) int64.
            near: A good place in the unit interval for each arm, (arms,) float64; NaN = none is known.
            spread: Standard deviation about it in the unit interval, (arms,) float64.
            seed: Key of the random numbers.
            step: Key of the random numbers.
        """
        sampler, table = self._sampler, self._sampler.table
        rows, count = chosen.shape
        population = np.zeros((rows, count))
        for row, entries in enumerate(self._entries):
            if entries is not None:
                population[row] = entries[chosen[row]]
                continue
            place, normal, coin = np.empty(count), np.empty(count), np.empty(count)
            rng.fill_uniform(seed, step, _PLACES * rows + row, 0, place)
            rng.fill_uniform(seed, step, _NEAR * rows + row, 0, coin)
            rng.fill_uniform(seed, step, _STEPS * rows + row, 0, normal)
            arms = chosen[row] + self.ends[row] - self.counts[row]
            unit = (chosen[row] + place) / CELLS
            # A triangular step: within two deviations of what was good, and no logarithm in it.
            local = near[arms] + spread[arms] * 2.45 * (place + normal - 1.0)
            local = np.clip(local, chosen[row] / CELLS, (chosen[row] + 1) / CELLS)
            unit = np.where((coin < 0.5) & ~np.isnan(local), local, unit)
            population[row] = sampler.origin[row] + sampler.width[row] * unit
        natural = np.empty_like(population)
        encode.decode(table, population, natural)
        encode.encode(table, natural, population)
        nothing, index = np.zeros(population.shape, dtype=np.uint8), np.arange(count, dtype=np.int64)
        # With nothing chosen, this clears what is inactive.
        sampling.redraw(table, sampler.origin, sampler.width, seed, step, index, nothing, sampler.stack, population)
        sampler.repair(population, seed, step)
        return population


def enumerated(sampler: Sampler, most: int) -> NDArray[np.float64] | None:
    """Every configuration that obeys the rules, once, (D, N) float64; None when there may be more than `most`."""
    counts = values(sampler.table)
    total = 1
    for count in counts:
        if count is None or (total := total * count) > 16 * most:
            return None
    population = Factorial(sampler, levels(sampler, 16 * most), 0).candidates(0, total)
    population = population[:, sampler.holds(population).min(axis=0, initial=1) == 1]
    first = {column.tobytes(): index for index, column in reversed(list(enumerate((population + 0.0).T)))}
    if not 1 <= len(first) <= most:
        return None
    return np.ascontiguousarray(population[:, sorted(first.values())])
