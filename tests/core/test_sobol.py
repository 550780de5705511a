"""Scrambled Sobol' points fill space evenly, in every dimension and at any index."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dspex.core import sobol
from tests.core.naive import Array

SOME = settings(max_examples=20, deadline=None)


def cells(points: Array, splits: tuple[int, ...]) -> NDArray[np.int64]:
    """Points in each box, when axis d is divided into 2**splits[d] parts."""
    sides = [2**split for split in splits]
    places = [np.floor(axis * side).astype(int) for axis, side in zip(points, sides, strict=True)]
    return np.bincount(np.ravel_multi_index(places, sides), minlength=int(np.prod(sides)))


def discrepancy(points: Array) -> float:
    """The L2 star discrepancy. Source: Warnock (1972)."""
    dimensions, n = points.shape
    pairs = np.prod(1.0 - np.maximum(points[:, :, np.newaxis], points[:, np.newaxis, :]), axis=0)
    single = np.prod((1.0 - points**2) / 2.0, axis=0)
    return float(np.sqrt(pairs.sum() / n**2 - 2.0 * single.sum() / n + 3.0**-dimensions))


@SOME
@given(seed=st.integers(0, 2**63 - 1), block=st.integers(0, 500), m=st.integers(0, 9), data=st.data())
def test_the_first_two_dimensions_are_a_net(seed: int, block: int, m: int, data: st.DataObject) -> None:
    split = data.draw(st.integers(0, m))
    points = sobol.points(2, 2**m, seed, block * 2**m)
    assert (cells(points, (split, m - split)) == 1).all()


@SOME
@given(seed=st.integers(0, 2**63 - 1), block=st.integers(0, 2**20))
def test_every_dimension_is_stratified(seed: int, block: int) -> None:
    points = sobol.points(sobol.DIMENSIONS, 32, seed, block * 32)
    assert (np.sort(np.floor(points * 32), axis=1) == np.arange(32)).all()


@pytest.mark.parametrize(("dimensions", "ratio"), [(2, 0.13), (5, 0.46), (8, 0.8)])
def test_points_are_more_even_than_random_ones(dimensions: int, ratio: float) -> None:
    random = math.sqrt((2.0**-dimensions - 3.0**-dimensions) / 256)  # root mean square over independent points
    for seed in range(5):
        assert discrepancy(sobol.points(dimensions, 256, seed)) < ratio * random


def test_pairs_of_later_dimensions_are_even_too() -> None:
    points = sobol.points(64, 256, 1)
    most = [cells(points[[a, b]], (3, 3)).max() for a in range(64) for b in range(a)]
    assert np.mean(most) < 7  # four points a box on average; about ten in the fullest when drawn independently


def test_a_point_depends_on_its_index_alone() -> None:
    together = sobol.points(5, 40, 7)
    assert np.array_equal(np.hstack([sobol.points(5, 15, 7), sobol.points(5, 25, 7, 15)]), together)
    assert np.array_equal(sobol.points(9, 40, 7)[:5], together)
    assert not np.array_equal(sobol.points(5, 40, 8), together)


def test_the_last_index_is_a_point() -> None:
    points = sobol.points(3, 1, 0, 2**sobol.BITS - 1)
    assert ((points >= 0) & (points < 1)).all()


def test_coordinates_without_direction_numbers_are_uniform() -> None:
    points = sobol.points(sobol.DIMENSIONS + 3, 512, 5)[sobol.DIMENSIONS :]
    assert points.mean() == pytest.approx(0.5, abs=0.05)
    assert np.abs(np.corrcoef(points) - np.eye(3)).max() < 0.15


def test_scrambling_is_uniform_over_seeds() -> None:
    first = np.array([sobol.points(1, 1, seed)[0, 0] for seed in range(400)])
    assert first.mean() == pytest.approx(0.5, abs=0.05)
    assert np.mean(first < 0.25) == pytest.approx(0.25, abs=0.07)


def test_direction_numbers_are_those_of_the_published_set() -> None:
    """The generating integers of the first dimensions: odd, below 2**k, and as the recurrence says."""
    numbers = sobol.directions() >> np.arange(sobol.BITS - 1, -1, -1)
    assert numbers[0, :6].tolist() == [1, 1, 1, 1, 1, 1]
    assert numbers[1, :8].tolist() == [1, 3, 5, 15, 17, 51, 85, 255]  # x + 1: Pascal's triangle modulo 2
    assert (numbers % 2 == 1).all()
    assert (numbers < 2.0 ** np.arange(1, sobol.BITS + 1)).all()
    assert len({tuple(row) for row in numbers}) == sobol.DIMENSIONS
