"""Randomised regression trees over mixed rows, for asking which rows matter."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core.jit import int64, kernel
from dspex.core.rng import uniform

STREAM: Final = 7 << 45
"""Step of the random numbers used here: beyond every step that a search draws with."""


@kernel(exact=True)
def goes_left(categories: int, z: float, cut: float) -> bool:
    """Whether an entry goes to a node's first child: a number up to the cut, the category `cut`; NaN never does."""
    if categories > 0:
        return z == cut
    return z <= cut


@kernel(exact=True)
def draw_cut(categories: int, entries: NDArray[np.float64], u: float) -> float:
    """A random place to divide a node's members by one row, NaN where the row cannot.

    Args:
        categories: Of the row, 0 for a numeric one.
        entries: The members' in the row, (k,) float64, k ≥ 1.
        u: In [0, 1), uniform.

    Returns:
        A number between the least and the greatest entry, the greatest where all are equal and only inactive ones
        could go elsewhere; or the category of one member.
    """
    if categories > 0:
        return float(entries[int64(u * entries.shape[0])])
    least, greatest, missing = math.inf, -math.inf, 0
    for i in range(entries.shape[0]):
        z = float(entries[i])
        least = z if z < least else least
        greatest = z if z > greatest else greatest
        missing += 1 if z != z else 0
    if least < greatest:
        return least + u * (greatest - least)
    return greatest if 0 < missing < entries.shape[0] else math.nan


@kernel(exact=True)
def grow_tree(
    ncat: NDArray[np.int32],
    columns: NDArray[np.float64],
    losses: NDArray[np.float64],
    weights: NDArray[np.float64],
    least: int,
    seed: int,
    tree: int,
    members: NDArray[np.int64],
    spans: NDArray[np.int64],
    spare: NDArray[np.int64],
    terms: NDArray[np.float64],
    rows: NDArray[np.int64],
    children: NDArray[np.int64],
    cuts: NDArray[np.float64],
    values: NDArray[np.float64],
) -> int:
    """An extremely randomised tree: at each node the best of one random cut in every row.

    Args:
        ncat: Categories of each row, (D,) int32.
        columns: Trials, (D, n) float64.
        losses: (n,) float64.
        weights: (n,) float64, > 0.
        least: Fewest trials in a leaf.
        seed: Key of the random numbers.
        tree: Key of the random numbers.
        members: Trials that the tree is grown on, (m,) int64; reordered.
        spans: (2 m, 2) int64, scratch.
        spare: (m,) int64, scratch.
        terms: (3, m) float64, scratch.
        rows: (2 m,) int64, overwritten: row that a node divides by, -1 for a leaf.
        children: (2 m,) int64, overwritten: a node's first child; the second follows it.
        cuts: (2 m,) float64, overwritten.
        values: (2 m,) float64, overwritten: weighted mean of the losses in a node.

    Returns:
        The number of nodes.

    Source: Geurts, Ernst & Wehenkel (2006), with every row tried at every node.
    """
    nodes = int64(1)
    spans[0, 0], spans[0, 1] = 0, members.shape[0]
    node = int64(0)
    while node < nodes:
        begin, end = spans[node, 0], spans[node, 1]
        here, size = members[begin:end], end - begin
        # What every row adds up, and the entries of one row, side by side in memory.
        shares, moments, entries = terms[0, :size], terms[1, :size], terms[2, :size]
        total, mean = 0.0, 0.0
        for i in range(size):
            member = np.uint64(here[i])  # unsigned, so that no index is tested for being negative
            shares[i] = weights[member]
            total += weights[member]
            mean += weights[member] * losses[member]
        mean /= total
        values[node], rows[node], children[node], cuts[node] = mean, -1, -1, 0.0
        for i in range(size):
            moments[i] = shares[i] * (losses[np.uint64(here[i])] - mean)
        highest = 0.0
        for d in range(columns.shape[0]):
            if size < 2 * least:
                break
            categories, column = int64(ncat[d]), columns[d]
            for i in range(size):
                entries[i] = column[np.uint64(here[i])]
            cut = draw_cut(categories, entries, uniform(seed, STREAM + tree, int64(d), node))
            weight, moment, count = 0.0, 0.0, 0
            for i in range(size):
                # Loaded whether they count or not: at a random cut, a branch is predicted wrong every other time.
                added, turned, left = shares[i], moments[i], goes_left(categories, float(entries[i]), cut)
                weight += added if left else 0.0
                moment += turned if left else 0.0
                count += 1 if left else 0
            if least <= count <= size - least:
                # The deviations of the whole node sum to zero, so one side tells the gain of both.
                gain = moment * moment * (1.0 / weight + 1.0 / (total - weight))
                if gain > highest:
                    highest = gain
                    rows[node], cuts[node] = d, cut
        if rows[node] >= 0:
            d, cut = rows[node], cuts[node]
            categories = int64(ncat[d])
            kept, moved = int64(0), int64(0)
            for i in range(size):
                if goes_left(categories, float(columns[d, here[i]]), cut):
                    here[kept] = here[i]
                    kept += 1
                else:
                    spare[moved] = here[i]
                    moved += 1
            for i in range(moved):
                here[kept + i] = spare[i]
            children[node] = nodes
            spans[nodes, 0], spans[nodes, 1] = begin, begin + kept
            spans[nodes + 1, 0], spans[nodes + 1, 1] = begin + kept, end
            nodes += 2
        node += 1
    return nodes


@kernel(exact=True)
def add_tree(
    ncat: NDArray[np.int32],
    rows: NDArray[np.int64],
    children: NDArray[np.int64],
    cuts: NDArray[np.float64],
    values: NDArray[np.float64],
    rate: float,
    population: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Add a share of what a tree says about candidates.

    Args:
        ncat: Categories of each row, (D,) int32.
        rows: From `grow_tree`, as are `children`, `cuts` and `values`.
        children: As above.
        cuts: As above.
        values: As above.
        rate: The share.
        population: (D, N) float64.
        out: (N,) float64, changed in place.
    """
    for i in range(population.shape[1]):
        node, d = int64(0), rows[0]
        while d >= 0:
            child = children[node]
            if not goes_left(int64(ncat[d]), population[d, i], cuts[node]):
                child += 1
            node, d = child, rows[child]
        out[i] += rate * values[node]
