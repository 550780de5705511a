"""The paired model of a race: who is how good, judged over shared examples."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dspex.core.kernels import paired

WIDE: Final = 4.0
"""Variance of the candidates' effects in units of all scores' variance, where next to nothing is assumed of them."""
_NOISE, _SPREAD, _EFFECT = 0.75, 0.25, 0.1
"""Parts of the variance, before there is any evidence: of noise, of examples, and of candidates beside them."""
_NOISE_WEIGHT, _SPREAD_WEIGHT, _EFFECT_WEIGHT = 10.0, 5.0, 3.0
"""Degrees of freedom that these count for."""
_LEAST = 0.02


class Model(NamedTuple):
    """Normal posterior of the candidates' effects, standardised: an effect x is a mean score of centre + scale x.

    Attributes:
        centre: Mean of all scores.
        scale: Their standard deviation, > 0.
        mean: (candidates,) float64.
        factor: (candidates, candidates) float64, the lower triangle L of the precision L Lᵀ.
    """

    centre: float
    scale: float
    mean: NDArray[np.float64]
    factor: NDArray[np.float64]


def fit(scores: NDArray[np.float64], shared: int, *, wide: bool) -> Model | None:
    """The posterior after these scores, or None while no two of them differ or there are none.

    Scores that all lie in [0, 1] are never taken to be without noise: one success and one failure are added to them.

    Args:
        scores: (examples, candidates) float64 in the order of the examples; NaN = not scored or left out.
        shared: The first examples, which candidates were scored on whatever they had scored before. How much
            candidates vary is estimated from these, because on later ones only the good ones were scored.
        wide: Assume next to nothing of the candidates' effects, which is best for exploring; otherwise their variance
            is estimated too, so that a candidate with few scores is drawn towards the others.
    """
    told = scores[~np.isnan(scores)]
    if not told.size:
        return None
    centre = float(told.mean())
    total = float(np.square(told - centre).sum())
    if float(told.min()) >= 0.0 and float(told.max()) <= 1.0:
        share = (float(told.sum()) + 1.0) / (told.size + 2.0)
        variance = (total + 2.0 * share * (1.0 - share)) / (told.size + 2.0)
    else:
        variance = total / told.size
    scale = float(np.sqrt(variance))
    # Below this the differences are rounding.
    if not scale > 1e-12 * float(np.abs(told).max()):
        return None
    standard = np.ascontiguousarray((scores - centre) / scale)
    effect = WIDE if wide else effect_variance(standard[:shared])
    mean, factor = _posterior(standard, _NOISE, _SPREAD, effect)
    noise, spread = noise_and_spread(standard, mean)
    mean, factor = _posterior(standard, noise, spread, effect)
    return Model(centre, scale, mean, factor)


def _posterior(
    standard: NDArray[np.float64], noise: float, spread: float, effect: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    candidates = int(standard.shape[1])
    mean, factor = np.empty(candidates), np.zeros((candidates, candidates))
    paired.posterior(standard, noise, spread, effect, np.empty(candidates, dtype=np.int64), factor, mean)
    return mean, factor


def noise_and_spread(standard: NDArray[np.float64], effects: NDArray[np.float64]) -> tuple[float, float]:
    """Variance of one score's noise and of examples, from what the candidates' effects leave unexplained."""
    sums = np.empty(4)
    paired.residual_sums(standard, effects, sums)
    within, between, count, examples = sums.tolist()
    freedom = max(count - examples - effects.size + 1.0, 0.0)
    noise = (within + _NOISE_WEIGHT * _NOISE) / (freedom + _NOISE_WEIGHT)
    spread = (between - (examples - 1.0) * noise) / count
    return noise, _weighed(spread, count / examples, examples - 1.0, _SPREAD, _SPREAD_WEIGHT)


def effect_variance(block: NDArray[np.float64]) -> float:
    """Variance between candidates, from those that were scored on every example of the block.

    Args:
        block: Standardised scores, (examples, candidates) float64.

    Source: Searle, Casella & McCulloch (1992), §4.7, the balanced two-way table without replication.
    """
    complete = block[:, ~np.isnan(block).any(axis=0)]
    rows, columns = (int(each) for each in complete.shape)
    if rows < 2 or columns < 2:
        return _EFFECT
    centred = complete - complete.mean()
    by_example, by_candidate = centred.mean(axis=1, keepdims=True), centred.mean(axis=0, keepdims=True)
    rest = float(np.square(centred - by_example - by_candidate).sum())
    noise = (rest + _NOISE_WEIGHT * _NOISE) / ((rows - 1.0) * (columns - 1.0) + _NOISE_WEIGHT)
    found = float(np.square(by_candidate).sum()) / (columns - 1.0) - noise / rows
    return _weighed(found, rows, columns - 1.0, _EFFECT, _EFFECT_WEIGHT)


def _weighed(found: float, each: float, freedom: float, expected: float, weight: float) -> float:
    """A component between estimate and expectation; `each` scores behind every mean tell how sharp the estimate is."""
    reliability = each * expected / (each * expected + _NOISE)
    freedom *= reliability * reliability
    return max((freedom * found + weight * expected) / (freedom + weight), _LEAST)


def deviations(model: Model) -> NDArray[np.float64]:
    """Posterior standard deviation of each candidate's mean score, (candidates,) float64."""
    out = np.empty(model.mean.size)
    paired.deviations(model.factor, np.empty_like(model.factor), out)
    return out * model.scale


def best_shares(model: Model, draws: int, seed: int, step: int) -> NDArray[np.float64]:
    """Probability that each candidate is the best, by joint draws, (candidates,) float64; they sum to 1."""
    counts = np.empty(model.mean.size, dtype=np.int64)
    paired.wins(model.factor, model.mean, seed, step, draws, np.empty(model.mean.size), counts)
    return counts / draws
