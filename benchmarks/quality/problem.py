"""What a problem is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.quality.space import Config, Space


@dataclass(frozen=True)
class Problem:
    """Something to minimise.

    Attributes:
        space: What may be varied.
        best: The lowest true value, under the rules.
        truth: The true value of a configuration.
        observe: What an optimizer is told: (configuration, the run's seed, the evaluation's number) → value.
        examples: Size of the sample that an observation is the mean of, where an optimizer may know it.
    """

    space: Space
    best: float
    truth: Callable[[Config], float]
    observe: Callable[[Config, int, int], float]
    examples: int | None = None
