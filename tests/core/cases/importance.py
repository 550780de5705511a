"""Cases of the trees behind importance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.core.cases.registry import Case, case
from tests.core.naive import importance as naive
from tests.core.spaces import SEEDS, drawn, spaces

UNITS = st.floats(0, 1, exclude_max=True)


def _trials(draw: st.DrawFn) -> tuple[Any, Any, Any, Any]:
    """Categories, columns, losses and weights."""
    lowered = draw(spaces())
    columns = drawn(lowered, draw(st.integers(2, 12)), draw(SEEDS))
    n = columns.shape[1]
    losses = np.array(draw(st.lists(st.integers(-8, 8), min_size=n, max_size=n))) / 4
    weights = np.array(draw(st.lists(st.sampled_from([1.0, 0.5, 3.0]), min_size=n, max_size=n)))
    return lowered.table.ncat, columns, losses, weights


@case("importance.goes_left")
def _(draw: st.DrawFn) -> Case:
    categories, cut = draw(st.sampled_from([0, 3])), float(draw(st.integers(0, 2)))
    z = draw(st.sampled_from([math.nan, 0.0, 1.0, 2.0]))
    return Case((categories, z, cut), (), lambda: [naive.left(categories, z, cut)])


@case("importance.draw_cut")
def _(draw: st.DrawFn) -> Case:
    ncat, columns, _, _ = _trials(draw)
    d, n, u = draw(st.integers(0, columns.shape[0] - 1)), columns.shape[1], draw(UNITS)
    entries = columns[d, draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n))]
    return Case((int(ncat[d]), entries, u), (), lambda: [naive.cut(int(ncat[d]), entries.tolist(), u)])


@case("importance.grow_tree")
def _(draw: st.DrawFn) -> Case:
    ncat, columns, losses, weights = _trials(draw)
    n, least, seed, tree = columns.shape[1], draw(st.integers(1, 3)), draw(SEEDS), draw(st.integers(0, 500))
    members = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))
    m = len(members)
    nodes = [np.full(2 * m, 7), np.full(2 * m, 7), np.full(2 * m, 7.0), np.full(2 * m, 7.0)]

    def expected() -> list[Any]:
        found = naive.grow(ncat, columns, losses, weights, least, seed, tree, members)
        out: list[Any] = [each.copy() for each in nodes]
        for array, values in zip(out, (found.rows, found.children, found.cuts, found.values), strict=True):
            array[: len(values)] = values
        return [*out, len(found.rows)]

    scratch = np.zeros((2 * m, 2), dtype=np.int64), np.zeros(m, dtype=np.int64), np.zeros((3, m))
    order = np.array(members, dtype=np.int64)
    return Case(
        (ncat, columns, losses, weights, least, seed, tree, order, *scratch, *nodes), (11, 12, 13, 14), expected
    )


@case("importance.add_tree")
def _(draw: st.DrawFn) -> Case:
    ncat, columns, losses, weights = _trials(draw)
    tree = naive.grow(ncat, columns, losses, weights, 1, draw(SEEDS), 0, list(range(columns.shape[1])))
    arrays = np.array(tree.rows), np.array(tree.children), np.array(tree.cuts), np.array(tree.values)
    rate, before = draw(UNITS), losses.copy()
    return Case(
        (ncat, *arrays, rate, columns, losses),
        (7,),
        lambda: [[value + rate * tree.predict(ncat, column) for value, column in zip(before, columns.T, strict=True)]],
    )
