"""Intervals and tests for means of example scores, over the bootstrap and signed-rank kernels."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dspex.core import checks
from dspex.core.kernels import bootstrap, signed_rank
from dspex.errors import CoreError

EXACT_PAIRS = 14
"""Up to this many non-zero differences the permutation test enumerates every sign pattern."""

EXACT_RANKS = 50
"""Up to this many non-zero differences the signed-rank test counts its distribution exactly."""


class MeanInterval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(
    values: Sequence[float] | NDArray[np.float64], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> MeanInterval:
    """Bias-corrected and accelerated bootstrap interval of the mean.

    When all values are equal the bootstrap has nothing to say and the interval is that point.

    Raises:
        CoreError: DX3008 for empty or non-finite values, DX3009 for a confidence outside (0, 1) or too few resamples.

    Source: Efron (1987), §3; the acceleration by the jackknife, DiCiccio & Efron (1996), eq. 6.6.
    """
    if not 0.0 < confidence < 1.0 or resamples < 100:
        raise CoreError("DX3009", f"confidence {confidence} lies in (0, 1) and resamples {resamples} is at least 100")
    array = checks.sample_values(values, "values")
    mean = float(array.mean())
    if array.size == 1 or float(np.ptp(array)) == 0.0:
        return MeanInterval(mean, mean, mean)
    means = np.empty(resamples)
    bootstrap.resampled_means(array, seed, 0, means)
    normal = NormalDist()
    # Half of the ties count as below: scores are often 0 or 1 and resampled means repeat.
    tolerance = 1e-12 * max(abs(mean), float(np.abs(array).max()))
    below = np.count_nonzero(means < mean - tolerance) + 0.5 * np.count_nonzero(np.abs(means - mean) <= tolerance)
    bias = normal.inv_cdf(min(max(below / resamples, 0.5 / resamples), 1.0 - 0.5 / resamples))
    influence = array - mean  # the jackknife means deviate by -influence / (n - 1)
    acceleration = float((influence**3).sum() / (6.0 * (influence**2).sum() ** 1.5))

    def level(tail: float) -> float:
        z = bias + normal.inv_cdf(tail)
        return normal.cdf(bias + z / (1.0 - acceleration * z))

    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [level(tail), level(1.0 - tail)])
    return MeanInterval(mean, min(float(low), mean), max(float(high), mean))


def paired_interval(
    before: Sequence[float] | NDArray[np.float64],
    after: Sequence[float] | NDArray[np.float64],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> MeanInterval:
    """Interval of the mean of `after - before`, resampling whole pairs."""
    return mean_interval(_differences(before, after), confidence=confidence, resamples=resamples, seed=seed)


def paired_p_value(
    before: Sequence[float] | NDArray[np.float64],
    after: Sequence[float] | NDArray[np.float64],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value of the paired sign-flip permutation test that the mean difference is zero.

    Exact for up to 14 non-zero differences; else by random patterns, the observed one counted among them, so that it
    is never zero. 1.0 when nothing differs.
    """
    differences = _differences(before, after)
    changed = np.ascontiguousarray(differences[differences != 0.0])
    if changed.size == 0:
        return 1.0
    if changed.size <= EXACT_PAIRS:
        return bootstrap.sign_flip_exact(changed) / float(1 << changed.size)
    return (1 + bootstrap.sign_flip_exceedances(changed, seed, 0, resamples)) / (1 + resamples)


def signed_rank_p_value(
    before: Sequence[float] | NDArray[np.float64],
    after: Sequence[float] | NDArray[np.float64],
    *,
    alternative: Literal["two-sided", "greater"] = "two-sided",
) -> float:
    """p-value of Wilcoxon's paired signed-rank test, `"greater"` that `after` is.

    Zeros are ranked and then dropped, ties share the mean of their ranks. Exact, under ties too, for up to 50 non-zero
    differences; else the normal approximation with continuity correction. 1.0 when nothing differs.

    Raises:
        CoreError: DX3008 for empty or non-finite values, or when their numbers differ.

    Sources: Wilcoxon (1945); Pratt (1959).
    """
    differences = _differences(before, after)
    size = float(np.abs(differences).max())
    if size == 0.0:
        return 1.0
    # Rounded, so that differences that are equal but for rounding tie.
    differences = np.round(differences / size, 12)
    magnitudes = np.abs(differences)
    order = np.argsort(magnitudes, kind="stable")
    ranks = np.empty(order.size, dtype=np.int64)
    signed_rank.doubled_ranks(np.ascontiguousarray(magnitudes[order]), ranks)
    positive = int(ranks[differences[order] > 0.0].sum())
    total = int(ranks.sum())
    if np.count_nonzero(ranks) <= EXACT_RANKS:
        shares = np.empty((2, total + 1))
        upper = signed_rank.exact_tail(ranks, positive, shares)
        lower = signed_rank.exact_tail(ranks, total - positive, shares)
    else:
        upper, lower = signed_rank.normal_tail(ranks, positive), signed_rank.normal_tail(ranks, total - positive)
    return upper if alternative == "greater" else min(1.0, 2.0 * min(upper, lower))


def _differences(
    before: Sequence[float] | NDArray[np.float64], after: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.float64]:
    first, second = checks.sample_values(before, "before"), checks.sample_values(after, "after")
    if first.shape != second.shape:
        raise CoreError("DX3008", f"paired values must match: {first.size} before, {second.size} after")
    return second - first
