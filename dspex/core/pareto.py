"""Several objectives: fronts, and the one order of trials that searches with a single loss use."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dspex.core.kernels import hypervolume as sweep
from dspex.core.kernels import pareto
from dspex.errors import CoreError


def single(losses: NDArray[np.float64], needed: int | None = None) -> NDArray[np.float64]:
    """One loss for each trial, by which trials are ordered.

    With one objective it is that loss. With several it is the trial's front, counted from 0, plus a share below 1 that
    is smaller the less crowded the trial is in its front. Of equal trials each is behind the one before it.

    Args:
        losses: (M, n) float64, lower is better; NaN in a column = the trial has no value.
        needed: How many of the best trials are wanted: what is certainly behind them is infinite. None = all.

    Returns:
        (n,) float64; NaN where the trial has no value.
    """
    objectives, count = losses.shape
    if objectives == 1:
        return losses[0]
    missing = np.isnan(losses).any(axis=0)
    if not missing.any():
        return _crowded(np.ascontiguousarray(losses), count if needed is None else needed)
    result = np.full(count, np.nan)
    told = np.flatnonzero(~missing)
    result[told] = _crowded(np.ascontiguousarray(losses[:, told]), told.size if needed is None else needed)
    return result


def front(losses: NDArray[np.float64]) -> NDArray[np.int64]:
    """The trials that no other trial dominates, in ascending order; of equal ones the first.

    Args:
        losses: (M, n) float64, lower is better; NaN in a column = the trial has no value.

    Returns:
        (k,) int64; empty when no trial has a value.
    """
    order = single(losses, 1)
    if losses.shape[0] == 1:
        return np.array([] if np.isnan(order).all() else [np.nanargmin(order)], dtype=np.int64)
    return np.flatnonzero(order < 1.0)


def ranks(losses: NDArray[np.float64], needed: int | None = None) -> NDArray[np.int64]:
    """The front of each trial, counted from 0.

    Args:
        losses: (M, n) float64, M ≥ 2, without NaN; lower is better.
        needed: How many trials of the first fronts are wanted; None = all.

    Returns:
        (n,) int64; -1 beyond the front that completes those needed.
    """
    losses = np.ascontiguousarray(losses)
    return _ranks(losses, _Orders(losses), losses.shape[1] if needed is None else needed)[0]


def hypervolume(losses: NDArray[np.float64], reference: ArrayLike) -> float:
    """Volume that lies behind the trials and before the reference.

    Exact. Two and three objectives take O(n log n) steps on a front of √n stairs; each further objective sweeps over
    the volumes of one less, a factor of n, so a thousand trials of four and a hundred of five are within reach.

    Args:
        losses: (M, n) float64, M ≥ 2, lower is better; NaN in a column = the trial has no value.
        reference: (M,) finite numbers; a trial that is not below it in every objective adds nothing.

    Raises:
        CoreError: DX3027 when the reference does not fit.
    """
    inside, corner = _inside(losses, reference)
    return _volume(np.ascontiguousarray(losses[:, inside]), corner)


def contributions(losses: NDArray[np.float64], reference: ArrayLike) -> NDArray[np.float64]:
    """How much smaller the volume would be without each trial, all others staying.

    Args:
        losses: As in `hypervolume`. For four objectives and more the volume is computed once for each trial.
        reference: As in `hypervolume`.

    Returns:
        (n,) float64, 0 for a trial that is dominated, equal to another one, or without value.

    Raises:
        CoreError: DX3027 when the reference does not fit.
    """
    inside, corner = _inside(losses, reference)
    result = np.zeros(losses.shape[1])
    points = np.ascontiguousarray(losses[:, inside])
    count = inside.size
    if points.shape[0] > 3:
        whole = _volume(points, corner)
        for position, index in enumerate(inside):
            result[index] = max(whole - _volume(np.delete(points, position, axis=1), corner), 0.0)
        return result
    points, order, corner = _solid(points, corner)
    share, strips, state = np.empty(count), np.empty((2, 3 * count)), np.empty((3, count))
    stairs, following, heads = np.empty(count + 1, np.int64), np.empty(3 * count, np.int64), np.empty(count, np.int64)
    sweep.shares(points, order, corner, stairs, strips, following, heads, state, share)
    result[inside] = share
    return result


def _inside(losses: NDArray[np.float64], reference: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The trials below the reference, and the reference as an array."""
    corner = np.array(reference, dtype=np.float64)
    objectives = losses.shape[0]
    if objectives < 2 or corner.shape != (objectives,) or not np.isfinite(corner).all():
        raise CoreError(
            "DX3027",
            f"a reference is one finite number for each of two or more objectives ({objectives}), got {corner}",
        )
    return np.flatnonzero((losses < corner[:, np.newaxis]).all(axis=0)), corner


def _volume(points: NDArray[np.float64], corner: NDArray[np.float64]) -> float:
    objectives = points.shape[0]
    if objectives <= 3:
        points, order, corner = _solid(points, corner)
        return sweep.volume(points, order, corner, np.empty((2, points.shape[1] + 1)))
    points = points[:, _sorted(points[-1])]
    levels = np.append(points[-1], corner[-1])
    total, members = 0.0, np.empty(0, np.int64)
    for index in range(points.shape[1]):
        members = np.append(members, index)
        members = members[front(points[:-1, members])]
        if levels[index + 1] > levels[index]:
            slab = np.ascontiguousarray(points[:-1, members])
            total += (levels[index + 1] - levels[index]) * _volume(slab, corner[:-1])
    return float(total)


def _solid(
    points: NDArray[np.float64], corner: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Points of three losses, their order by the third, and the corner; those of two get a height of 1."""
    if points.shape[0] == 3:
        return points, _sorted(points[2]), corner
    solid = np.concatenate([points, np.zeros((1, points.shape[1]))])
    return solid, _sorted(points[0]), np.append(corner, 1.0)


def _sorted(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return _Orders(np.ascontiguousarray(values)[np.newaxis]).lexicographic


class _Orders:
    """Orders of trials by their losses, with the scratch that sorting takes."""

    def __init__(self, losses: NDArray[np.float64]) -> None:
        count = losses.shape[1]
        self._bits = losses.view(np.uint64)
        self._scratch = (np.empty((2, count), np.uint64), np.empty(count, np.int64), np.empty((8, 256), np.int64))
        self.lexicographic = np.empty(count, np.int64)
        pareto.lexicographic(losses, self._bits, *self._scratch, self.lexicographic)

    def by(self, objective: int) -> NDArray[np.int64]:
        """Trials by one loss, equal ones by index."""
        if objective == 0:
            return self.lexicographic
        order = np.arange(self._bits.shape[1], dtype=np.int64)
        pareto.radix_sort(self._bits[objective], order, *self._scratch, order)
        return order


def _ranks(losses: NDArray[np.float64], orders: _Orders, needed: int) -> tuple[NDArray[np.int64], int]:
    """Ranks, and how many fronts have one."""
    objectives, count = losses.shape
    order, rank, sizes = orders.lexicographic, np.empty(count, np.int64), np.empty(count, np.int64)
    if objectives == 2:
        fronts = pareto.ranks_2d(losses, order, needed, np.empty(sizes.size), sizes, rank)
    elif objectives == 3:
        stairs, spans = np.empty((2, 4 * count)), np.empty((3, count), np.int64)
        fronts = pareto.ranks_3d(losses, order, needed, stairs, spans, sizes, rank)
    else:
        heads, following = np.empty(count, np.int64), np.empty(count, np.int64)
        points = np.empty((count, objectives))
        fronts = pareto.ranks_many(losses, order, needed, points, heads, following, sizes, rank)
    return rank, fronts


def _crowded(losses: NDArray[np.float64], needed: int) -> NDArray[np.float64]:
    """`single` for two or more losses without NaN."""
    objectives, count = losses.shape
    orders = _Orders(losses)
    rank, fronts = _ranks(losses, orders, needed)
    distance = np.zeros(count)
    ends, before = np.empty((2, fronts), np.int64), np.empty((2, fronts), np.int64)
    for objective in range(objectives):
        # On a front of two objectives one descends where the other ascends.
        order = orders.lexicographic if objectives == 2 else orders.by(objective)
        pareto.crowding(losses[objective], order, rank, ends, before, distance)
    return np.where(rank < 0, np.inf, rank + 1.0 / (2.0 + distance))
