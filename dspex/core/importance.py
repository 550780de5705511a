"""How much of an objective's variation each row is behind, estimated from a history of trials.

The share of a row is its total effect (Sobol' index): the expected squared change of the objective when that row alone
is drawn again from its prior, together with the rows that it activates. It therefore counts the row's part in
interactions, and what it decides by conditions. The objective is known at the trials alone, so boosted trees
stand in for it, in pairs that were fitted to disjoint halves of the trials: the product of what the two say about a
change has no part that comes from noise, as its square would have, so a row that does not matter gets about zero.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import abi, sobol, streams
from dspex.core.history import TOLD, History
from dspex.core.kernels import importance, sampling
from dspex.core.population import Sampler

FEWEST: Final = 8
"""Trials below which nothing is said."""
PAIRS: Final = 8
ROUNDS: Final = 30
RATE: Final = 0.3
LEAF: Final = 0.5
"""Fewest trials in a leaf, as a multiple of the square root of all: smooth enough for few, fine enough for many."""
MOST: Final = 2000
"""Trials that trees are fitted to; of a longer history, that many spread over it."""
_POINTS: Final = 32768
_STEP: Final = 1 << 39


class Trees:
    """Boosted trees: each is fitted to what those before it leave of the losses.

    Args:
        ncat: Categories of each row, (D,) int32.
        columns: Trials, (D, m) float64.
        losses: (m,) float64.
        weights: (m,) float64, > 0.
        seed: Key of the random numbers.
        number: Key of the random numbers.

    Source: Friedman (2001), for squared error.
    """

    def __init__(
        self,
        ncat: NDArray[np.int32],
        columns: NDArray[np.float64],
        losses: NDArray[np.float64],
        weights: NDArray[np.float64],
        seed: int,
        number: int,
    ) -> None:
        m = losses.size
        self._ncat = ncat
        self._rows, self._children = np.empty((2, ROUNDS, 2 * m), dtype=np.int64)
        self._cuts, self._values = np.empty((2, ROUNDS, 2 * m))
        scratch = np.empty((2 * m, 2), dtype=np.int64), np.empty(m, dtype=np.int64), np.empty((3, m))
        left = losses.copy()
        least = max(1, round(LEAF * math.sqrt(m)))
        for round_ in range(ROUNDS):
            tree = self._rows[round_], self._children[round_], self._cuts[round_], self._values[round_]
            members, key = np.arange(m), number * ROUNDS + round_
            importance.grow_tree(ncat, columns, left, weights, least, seed, key, members, *scratch, *tree)
            importance.add_tree(ncat, *tree, -RATE, columns, left)

    def predict(self, population: NDArray[np.float64]) -> NDArray[np.float64]:
        """Losses of candidates, (N,) float64."""
        out = np.zeros(population.shape[1])
        for tree in zip(self._rows, self._children, self._cuts, self._values, strict=True):
            importance.add_tree(self._ncat, *tree, RATE, population, out)
        return out


def shares(sampler: Sampler, history: History, seed: int) -> NDArray[np.float64]:
    """Each row's share of the variation of the objectives, (D,) float64, ≥ 0, summing to 1; the mean over objectives.

    All zero when nothing can be said: fewer than 8 trials with a value, equal values, or only noise.
    """
    rows = abi.dimension_count(sampler.table)
    told = np.flatnonzero(history.status[: history.count] == TOLD)
    if told.size < FEWEST:
        return np.zeros(rows)
    kept = min(told.size, MOST)
    told = told[np.arange(kept) * told.size // kept]
    columns = np.ascontiguousarray(history.columns[:, told])
    base, changed, sound = _changes(sampler, min(max(_POINTS // max(rows, 1), 128), 1024), seed)
    found: list[NDArray[np.float64]] = []
    for objective in range(history.objectives):
        losses, weights = _weighted(history, objective, told)
        if losses.min() < losses.max():
            trees = _pairs(sampler.table.ncat, columns, losses, weights, seed)
            effects = _effects(trees, base, changed, sound)
            # About the standard error of the products, so that noise alone is not divided into shares.
            if effects.sum() > float(np.mean(losses * losses)) / math.sqrt(told.size):
                found.append(effects / effects.sum())
    return sum(found, np.zeros(rows)) / max(len(found), 1)


def _weighted(
    history: History, objective: int, told: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Losses on a scale of their own, and weights: less for noisier ones."""
    losses: NDArray[np.float64] = history.losses[objective, told]
    variances = history.noise(objective, told)
    losses = losses - losses.mean()
    scale = float(np.abs(losses).max())
    if scale > 0.0:
        losses, variances = losses / scale, variances / scale / scale
    spread = float(np.mean(losses * losses))
    between = max(spread - float(variances.mean()), 0.1 * spread)
    return losses, (1.0 / (between + variances) if between > 0.0 else np.ones(told.size))


def _changes(
    sampler: Sampler, count: int, seed: int
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]], NDArray[np.bool_]]:
    """Candidates; for each row the same ones with that row drawn again; which of these, (D, N), obey the rules."""
    base = sobol.candidates(sampler, count, seed)
    sampler.repair(base, seed, _STEP)
    changed: list[NDArray[np.float64]] = []
    sound = np.ones(base.shape, dtype=np.bool_)
    index = np.arange(count, dtype=np.int64)
    for row in range(base.shape[0]):
        chosen = np.zeros(base.shape, dtype=np.uint8)
        chosen[row] = 1
        other = base.copy()
        sampling.redraw(
            sampler.table, sampler.origin, sampler.width, seed, _STEP + row, index, chosen, sampler.stack, other
        )
        sound[row] = sampler.holds(other).min(axis=0, initial=1) == 1
        changed.append(other)
    return base, changed, sound


def _pairs(
    ncat: NDArray[np.int32],
    columns: NDArray[np.float64],
    losses: NDArray[np.float64],
    weights: NDArray[np.float64],
    seed: int,
) -> list[tuple[Trees, Trees]]:
    """What is learnt from each half, for each division of the trials into halves."""
    pairs: list[tuple[Trees, Trees]] = []
    for number in range(PAIRS):
        order = streams.shuffled(range(losses.size), seed, _STEP + number)
        halves = order[: losses.size // 2], order[losses.size // 2 :]
        one, other = (
            Trees(ncat, np.ascontiguousarray(columns[:, half]), losses[half], weights[half], seed, 2 * number + side)
            for side, half in enumerate(halves)
        )
        pairs.append((one, other))
    return pairs


def _effects(
    pairs: list[tuple[Trees, Trees]],
    base: NDArray[np.float64],
    changed: list[NDArray[np.float64]],
    sound: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Total effect of each row, (D,) float64, ≥ 0. Source: Jansen (1999), with a product in place of the square."""
    before = [(one.predict(base), other.predict(base)) for one, other in pairs]
    effects = np.zeros(len(changed))
    for row, population in enumerate(changed):
        total = np.zeros(base.shape[1])
        for (one, other), (first, second) in zip(pairs, before, strict=True):
            total += (one.predict(population) - first) * (other.predict(population) - second)
        if sound[row].any():
            effects[row] = max(0.5 * float(total[sound[row]].mean()) / len(pairs), 0.0)
    return effects
