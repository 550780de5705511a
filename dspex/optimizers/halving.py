"""Schedules of a race: what successive halving and Hyperband evaluate next, given what is known.

Each is a function of what was handed out and of what is known, so nothing but these has to be kept. A pair is a row
(a candidate's place among the candidates) and a place (an example's in the fixed order).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core.kernels import racing

MOST_BRACKETS: Final = 5


@dataclass(frozen=True, slots=True)
class Board:
    """What a schedule looks at.

    Attributes:
        scores: (examples, candidates) float64; NaN = not known, or failed and left out.
        known: (examples, candidates) bool: results that a decision may use.
        handed: (examples, candidates) bool: handed out, or known without.
    """

    scores: NDArray[np.float64]
    known: NDArray[np.bool_]
    handed: NDArray[np.bool_]


Pair = tuple[int, int]


def rungs(candidates: int, examples: int, budget: int, eta: int, count: int | None = None) -> NDArray[np.int64]:
    """Examples that each member has at the end of each rung, (rungs,) int64; by default until one is left."""
    sizes = np.empty(racing.rungs_for(candidates, eta) if count is None else count, dtype=np.int64)
    targets = np.empty_like(sizes)
    racing.halving_rungs(candidates, examples, budget, eta, sizes, targets)
    return targets


def halving_pair(board: Board, members: NDArray[np.int64], targets: NDArray[np.int64], eta: int) -> Pair | None:
    """The next pair of a bracket, by examples and then by candidates; None while it waits and when it is decided."""
    alive = members
    for target in targets.tolist():
        pair = first_open(board, alive, target)
        if pair is not None:
            return pair
        if not alive.size or not board.known[:target, alive].all():
            return None
        chosen, means = np.empty(alive.size, dtype=np.int64), np.empty(alive.size)
        scores = np.ascontiguousarray(board.scores[:target, alive].T)
        found = racing.promote(scores, target, math.ceil(alive.size / eta), means, chosen)
        alive = np.sort(alive[chosen[:found]])
    return None


def first_open(board: Board, members: NDArray[np.int64], target: int) -> Pair | None:
    """The first pair that was not handed out, of the first `target` examples and these candidates."""
    free = ~board.handed[:target, members]
    index = int(free.argmax()) if free.size else 0
    if not free.size or not free.flat[index]:
        return None
    return int(members[index % members.size]), index // members.size


def hyperband_sizes(candidates: int, eta: int) -> NDArray[np.int64]:
    """Sizes of the brackets of one round: as many brackets as the candidates fill, at most five."""
    chosen = np.empty(1, dtype=np.int64)
    racing.bracket_sizes(eta, chosen)
    for count in range(2, MOST_BRACKETS + 1):
        sizes = np.empty(count, dtype=np.int64)
        if racing.bracket_sizes(eta, sizes) > candidates:
            break
        chosen = sizes
    return chosen


def hyperband_pair(board: Board, sizes: NDArray[np.int64], budget: int, eta: int) -> Pair | None:
    """The next pair of the bracket that has had the fewest evaluations so far.

    Candidates fill the brackets of one round after the other in the order in which they came, and the brackets of all
    rounds that begin with as few examples race together.
    """
    examples, candidates = board.handed.shape
    ends = np.cumsum(sizes)
    position = np.arange(int(candidates)) % int(ends[-1])
    best: tuple[int, Pair] | None = None
    for j in range(sizes.size):
        members = np.flatnonzero((position >= ends[j] - sizes[j]) & (position < ends[j]))
        if not members.size:
            continue
        targets = rungs(members.size, examples, budget // sizes.size, eta, sizes.size - j)
        pair = halving_pair(board, members, targets, eta)
        spent = int(np.count_nonzero(board.handed[:, members]))
        if pair is not None and (best is None or spent < best[0]):
            best = spent, pair
    return None if best is None else best[1]
