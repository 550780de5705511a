"""Maximising a score over a mixed space: a screen of draws and neighbours, then steepest ascent among neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core.kernels import acquisition, sampling
from dspex.core.population import Sampler

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Score = Callable[[Array], Array]

# Streams of random numbers, apart from the sampler's.
_SCREEN: Final = 1 << 44
_ROUND: Final = 1 << 46


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard to look: what a few milliseconds allow.

    Attributes:
        draws: Candidates from the prior in the screen.
        near: Neighbours of the best trials in the screen.
        starts: Candidates that climb.
        rounds: Steps of each.
        steps: Neighbours tried in a step.
        reach: Longest deviation of a neighbour, in unit coordinates.
    """

    draws: int = 512
    near: int = 512
    starts: int = 6
    rounds: int = 10
    steps: int = 24
    reach: float = 0.3


class Climber:
    """Finds candidates of one space that score high and obey the rules."""

    def __init__(self, sampler: Sampler, effort: Effort) -> None:
        table = sampler.table
        self._sampler = sampler
        self._effort = effort
        self._rows = np.flatnonzero((sampler.width > 0.0) | (table.ncat > 1))
        self._conditional = bool((table.parent >= 0).any() or (table.cond_pc >= 0).any())

    def search(self, score: Score, tops: Array, seed: int, step: int, local: bool) -> tuple[Array, Array]:
        """Everything that was scored, the best first, and the scores.

        Args:
            score: Scores of (D, n) candidates, (n,) float64.
            tops: Trials around which good ones are expected, the best first, (D, k) float64, k ≥ 1.
            seed: Key of the random numbers.
            step: Key of the random numbers, below 2**40.
            local: Whether to look around `tops` alone.
        """
        effort, key = self._effort, step + _SCREEN
        place: Indices = np.arange(effort.near)
        # From one row to half of them, from steps of the whole reach to hundredths of it.
        changes = 1.0 + (place % 4) * max(self._rows.size, 4) / 16.0
        pool = self._near(tops, changes, _halved(effort.reach, place % 7), seed, key)
        self._sampler.repair(pool, seed, key)
        if not local:
            pool = np.concatenate([pool, self._sampler.sample(effort.draws, seed, step)], axis=1)
        values = score(pool)
        best = np.argsort(-values, kind="stable")[: effort.starts - 1]
        bases = np.concatenate([pool[:, best], tops[:, :1]], axis=1)
        heights = np.concatenate([values[best], score(np.ascontiguousarray(tops[:, :1]))])
        pools, scores = [pool], [values]
        scale = np.full(bases.shape[1], effort.reach)
        for turn in range(effort.rounds):
            trial, value = self._step(score, bases, scale, seed, key + _ROUND * (turn + 1))
            pools.append(trial)
            scores.append(value)
            table = value.reshape(-1, bases.shape[1])
            lines = np.arange(int(bases.shape[1]), dtype=np.int64)
            winner = table.argmax(axis=0)
            reached = table[winner, lines]
            better = reached > heights
            bases = np.where(better, trial[:, winner * lines.size + lines], bases)
            heights = np.where(better, reached, heights)
            scale = np.where(better, scale, 0.5 * scale)
        values = np.concatenate(scores)
        order = np.argsort(-values, kind="stable")
        return np.concatenate(pools, axis=1)[:, order], values[order]

    def _step(self, score: Score, bases: Array, scale: Array, seed: int, key: int) -> tuple[Array, Array]:
        """Neighbours of each base in turn, and their scores; those that break a rule have none."""
        lines = int(bases.shape[1])
        place: Indices = np.arange(lines * self._effort.steps)
        wave = place // lines
        changes = np.where(wave % 3 == 2, 2.0, 1.0)
        trial = self._near(bases, changes, _halved(scale[place % lines], wave % 4), seed, key)
        value = score(trial)
        value[~self._sampler.holds(trial).all(axis=0)] = -math.inf
        return trial, value

    def _near(self, bases: Array, changes: Array, reach: Array, seed: int, key: int) -> Array:
        sampler, n = self._sampler, changes.size
        out = np.empty((bases.shape[0], n))
        bases = np.ascontiguousarray(bases)
        acquisition.neighbours(
            sampler.table, sampler.origin, sampler.width, bases, self._rows, changes, reach, seed, key, out
        )
        if self._conditional:
            index, none = np.arange(n), np.zeros(out.shape, dtype=np.uint8)
            sampling.redraw(sampler.table, sampler.origin, sampler.width, seed, key, index, none, sampler.stack, out)
        return out


def _halved(value: float | Array, times: Indices) -> Array:
    return value * np.exp2(-times.astype(np.float64))
