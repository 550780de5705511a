"""Oracle of the randomised trees, with lists."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from dspex.core import streams
from dspex.core.kernels.importance import STREAM


@dataclass
class Tree:
    """Nodes in the order of their numbers."""

    rows: list[int] = field(default_factory=list[int])
    children: list[int] = field(default_factory=list[int])
    cuts: list[float] = field(default_factory=list[float])
    values: list[float] = field(default_factory=list[float])

    def predict(self, ncat: Any, column: Any) -> float:
        node = 0
        while self.rows[node] >= 0:
            d = self.rows[node]
            node = self.children[node] + (not left(int(ncat[d]), float(column[d]), self.cuts[node]))
        return self.values[node]


def left(categories: int, z: float, cut: float) -> bool:
    return z == cut if categories else z <= cut


def cut(categories: int, entries: list[float], u: float) -> float:
    """A random place to divide the entries of a node's trials, in their order."""
    if categories:
        return entries[int(u * len(entries))]
    known = [z for z in entries if not math.isnan(z)]
    if not known:
        return math.nan
    if min(known) < max(known):
        return min(known) + u * (max(known) - min(known))
    return max(known) if len(known) < len(entries) else math.nan


def grow(
    ncat: Any, columns: Any, losses: Any, weights: Any, least: int, seed: int, tree: int, members: list[int]
) -> Tree:
    found = Tree()
    waiting = [list(members)]
    node = 0
    while node < len(waiting):
        here = waiting[node]
        total = _sum(weights[i] for i in here)
        mean = _sum(weights[i] * losses[i] for i in here) / total
        highest, row, place = 0.0, -1, 0.0
        for d in range(len(columns)) if len(here) >= 2 * least else ():
            u = streams.uniform(seed, STREAM + tree, d, node)
            at = cut(int(ncat[d]), [float(columns[d][i]) for i in here], u)
            part = [i for i in here if left(int(ncat[d]), columns[d][i], at)]
            if least <= len(part) <= len(here) - least:
                weight = _sum(weights[i] for i in part)
                moment = _sum(weights[i] * (losses[i] - mean) for i in part)
                gain = moment * moment * (1.0 / weight + 1.0 / (total - weight))
                if gain > highest:
                    highest, row, place = gain, d, at
        found.values.append(mean)
        found.rows.append(row)
        found.cuts.append(place)
        found.children.append(len(waiting) if row >= 0 else -1)
        if row >= 0:
            inside = [left(int(ncat[row]), columns[row][i], place) for i in here]
            waiting.append([i for i, yes in zip(here, inside, strict=True) if yes])
            waiting.append([i for i, yes in zip(here, inside, strict=True) if not yes])
        node += 1
    return found


def _sum(terms: Any) -> float:
    """From the left: a sum in another order may turn a tie of two cuts."""
    total = 0.0
    for term in terms:
        total += float(term)
    return total
