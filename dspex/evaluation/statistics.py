"""What many scores say together: means with intervals, and the paired gain of one configuration over another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dspex.errors import DataError

__all__ = ["FAILURE_POLICIES", "FailurePolicy", "Gain", "Interval", "counted", "interval", "paired"]

FailurePolicy = Literal["worst", "exclude", "stop"]
"""What an example without a score counts as: the worst score, nothing at all, or the end of the evaluation."""

FAILURE_POLICIES: tuple[FailurePolicy, ...] = ("worst", "exclude", "stop")


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean score and its 95 % bootstrap interval over ``n`` examples."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Gain:
    """The mean difference of paired scores, its 95 % bootstrap interval, and the two-sided sign-flip p-value."""

    mean: float
    low: float
    high: float
    p_value: float


def interval(scores: Sequence[float], *, seed: int = 0) -> Interval:
    """The mean of `scores` with its 95 % interval (bias-corrected and accelerated bootstrap); the same for any
    seed's rerun.

    Raises:
        DataError: DX5321: there is no score.
    """
    from dspex.core.statistics import mean_interval

    if not scores:
        raise _no_scores()
    found = mean_interval([float(score) for score in scores], seed=seed)
    return Interval(found.mean, found.low, found.high, len(scores))


def paired(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> Gain:
    """The gain of `after` over `before` on the same examples, in the same order.

    Raises:
        DataError: DX5321: there is no score; DX5322: the numbers of scores differ.
    """
    from dspex.core.statistics import paired_interval, paired_p_value

    if len(before) != len(after):
        raise DataError(
            "DX5322", f"paired scores are of the same examples: {len(before)} before and {len(after)} after"
        )
    if not before:
        raise _no_scores()
    first, second = [float(score) for score in before], [float(score) for score in after]
    found = paired_interval(first, second, seed=seed)
    return Gain(found.mean, found.low, found.high, paired_p_value(first, second, seed=seed))


def counted(scores: Sequence[float | None], policy: FailurePolicy, *, worst: float = 0.0) -> list[float]:
    """Scores with failures (None) dealt with as the policy says.

    Args:
        scores: One an example, in order; None for a failure.
        policy: ``worst`` puts `worst` in their place, ``exclude`` leaves them out, ``stop`` raises at the first.
        worst: The worst value that the metric can give.

    Raises:
        DataError: DX5323: the policy is unknown; DX5324: it is ``stop`` and an example failed.
    """
    if policy not in FAILURE_POLICIES:
        raise DataError("DX5323", f"a failure policy is one of {', '.join(FAILURE_POLICIES)}, got {policy!r}")
    failed = sum(score is None for score in scores)
    if policy == "stop" and failed:
        raise DataError(
            "DX5324",
            f"{failed} of {len(scores)} examples failed, and the failure policy is stop",
            fix="see the reasons of the failures, or choose the policy worst or exclude",
        )
    if policy == "exclude":
        return [score for score in scores if score is not None]
    return [worst if score is None else score for score in scores]


def _no_scores() -> DataError:
    return DataError(
        "DX5321", "there is no score to take a mean of", fix="every example failed or was excluded: see their reasons"
    )
