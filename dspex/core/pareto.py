"""Several objectives: fronts, and the one order of trials that searches with a single loss use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def single(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """One loss for each trial, by which trials are ordered.

    With one objective it is that loss. With several it is the trial's front, counted from 0, plus a share below 1 that
    is smaller the less crowded the trial is in its front.

    Args:
        losses: (M, n) float64, lower is better; NaN in a column = the trial has no value.

    Returns:
        (n,) float64; NaN where the trial has no value.
    """
    return losses[0]


def front(losses: NDArray[np.float64]) -> NDArray[np.int64]:
    """The trials that no other trial dominates, in ascending order; of equal ones the first.

    Args:
        losses: (M, n) float64, lower is better; NaN in a column = the trial has no value.

    Returns:
        (k,) int64; empty when no trial has a value.
    """
    order = single(losses)
    if losses.shape[0] == 1:
        return np.array([] if np.isnan(order).all() else [np.nanargmin(order)], dtype=np.int64)
    return np.flatnonzero(order < 1.0)
