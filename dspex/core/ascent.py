"""Limited-memory quasi-Newton ascent inside a box, in sums that no thread count changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MEMORY: Final = 8
_HALVINGS: Final = 8


def ascend(
    function: Callable[[Array], tuple[float, Array]], start: Array, low: Array, high: Array, rounds: int
) -> tuple[float, Array]:
    """A point near a local maximum, and its value.

    Args:
        function: Value and gradient at a point.
        start: (k,) float64.
        low: Lower bounds, (k,) float64.
        high: Upper bounds, (k,) float64.
        rounds: Most steps.

    Source: Nocedal (1980) for the two-loop recursion; the step is projected on the box and halved until it rises.
    """
    point = np.clip(start, low, high)
    value, gradient = function(point)
    steps: list[tuple[Array, Array, float]] = []
    for _ in range(rounds):
        free = ~(((point <= low) & (gradient < 0.0)) | ((point >= high) & (gradient > 0.0)))
        climb = np.where(free, gradient, 0.0)
        if not float(np.abs(climb).max()) > 1e-3:
            break
        direction = np.where(free, _two_loops(climb, steps), 0.0)
        if not float((direction * climb).sum()) > 0.0:
            direction = climb / max(1.0, float(np.abs(climb).max()))
        # Parameters are logarithms: a step beyond 2 leaves what the gradient knows.
        direction = direction * min(1.0, 2.0 / float(np.abs(direction).max()))
        length = 1.0
        for _ in range(_HALVINGS):
            trial = np.clip(point + length * direction, low, high)
            found, slope = function(trial)
            if found > value + 1e-4 * float((gradient * (trial - point)).sum()):
                break
            length *= 0.5
        else:
            break
        move, change = trial - point, gradient - slope
        curvature = float((move * change).sum())
        if curvature > 1e-10 * float((change * change).sum()):
            steps = [*steps[1 - _MEMORY :], (move, change, curvature)]
        gain, value, point, gradient = found - value, found, trial, slope
        if gain < 1e-4:
            break
    return value, point


def _two_loops(gradient: Array, steps: list[tuple[Array, Array, float]]) -> Array:
    if not steps:
        return gradient / max(1.0, float(np.abs(gradient).max()))
    direction, shares = gradient, list[float]()
    for move, change, curvature in reversed(steps):
        share = float((move * direction).sum()) / curvature
        shares.append(share)
        direction = direction - share * change
    _, change, curvature = steps[-1]
    direction = direction * (curvature / float((change * change).sum()))
    for (move, change, curvature), share in zip(steps, reversed(shares), strict=True):
        direction = direction + (share - float((change * direction).sum()) / curvature) * move
    return direction
