"""Arms with conjugate posteriors: updates, draws, top-two Thompson sampling and confidence bounds; higher is better.

A posterior of n arms is a (4, n) matrix; which rows are used, and for what, is its kind:

NORMAL   mean, precision                                    of a mean, noise variance known
STUDENT  mean, observations, shape, rate                    of a mean, noise variance unknown (normal-inverse-gamma)
BETA     successes, failures                                of a share
GAMMA    shape, rate                                        of a rate of events

Sources: Gelman et al. (2013), ch. 2 and 3; Thompson (1933); Russo (2020) for the top two.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import streams
from dspex.core.jit import int64, kernel
from dspex.core.rng import mix, normal_quantile, random_bits

NORMAL: Final = 0
STUDENT: Final = 1
BETA: Final = 2
GAMMA: Final = 3

_GOLDEN: Final = np.uint64(streams.GOLDEN)
_S11: Final = np.uint64(11)
_HALF: Final = 2.0**-54
_UNIT: Final = 2.0**-53
_THIRD: Final = 1.0 / 3.0
_ATTEMPTS: Final = 128


@kernel(exact=True)
def open_uniform(word: np.uint64) -> float:
    """A float strictly between 0 and 1 from 64 random bits."""
    return float(word >> _S11) * _UNIT + _HALF


@kernel(exact=True)
def gamma_variate(shape: float, word: np.uint64) -> float:
    """A gamma variate of rate 1 that depends on the 64 random bits `word` alone; NaN unless shape > 0.

    Normal variates by a ratio of uniform numbers; what is rejected is tried again with the next words of the splitmix
    sequence that begins at `word`.

    Sources: Marsaglia & Tsang (2000); Leva (1992) for the normal variates.
    """
    if not shape > 0.0:
        return math.nan
    d = (shape if shape >= 1.0 else shape + 1.0) - _THIRD
    c = 1.0 / math.sqrt(9.0 * d)
    value = d
    for _ in range(_ATTEMPTS):
        word += _GOLDEN
        u = open_uniform(np.uint64(mix(word)))
        word += _GOLDEN
        v = 1.7156 * (open_uniform(np.uint64(mix(word))) - 0.5)
        right, above = u - 0.449871, abs(v) + 0.386595
        edge = right * right + above * (0.196 * above - 0.25472 * right)
        if edge > 0.27846 or (edge > 0.27597 and v * v > -4.0 * math.log(u) * u * u):
            continue
        x = v / u
        root = 1.0 + c * x
        if root <= 0.0:
            continue
        cube, square = root * root * root, x * x
        word += _GOLDEN
        u = open_uniform(np.uint64(mix(word)))
        if u < 1.0 - 0.0331 * square * square or math.log(u) < 0.5 * square + d * (1.0 - cube + math.log(cube)):
            value = d * cube
            break
    if shape < 1.0:
        value *= open_uniform(np.uint64(mix(word + _GOLDEN))) ** (1.0 / shape)
    return value


@kernel(exact=True)
def beta_variate(alpha: float, beta: float, word: np.uint64) -> float:
    """A beta variate that depends on the 64 random bits `word` alone; NaN unless both parameters are > 0."""
    first = gamma_variate(alpha, word)
    second = gamma_variate(beta, ~word)
    total = first + second
    if total == 0.0:
        # Both underflowed, so the parameters are tiny, and there nearly all of the mass is at 0 and at 1.
        return 1.0 if open_uniform(np.uint64(mix(word))) * (alpha + beta) < alpha else 0.0
    return first / total


@kernel(exact=True)
def posterior_draws(
    kind: int, parameters: NDArray[np.float64], seed: int, step: int, dim: int, out: NDArray[np.float64]
) -> None:
    """One draw of every arm's mean, share or rate.

    Args:
        kind: NORMAL, STUDENT, BETA or GAMMA.
        parameters: (4, n) float64 of that kind.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        dim: Key of the random numbers.
        out: (n,) float64, overwritten.
    """
    if kind <= STUDENT:
        # In a loop of its own, which becomes vectors.
        for arm in range(out.shape[0]):
            out[arm] = normal_quantile(open_uniform(np.uint64(random_bits(seed, step, dim, arm))))
    for arm in range(out.shape[0]):
        word = np.uint64(random_bits(seed, step, dim, arm))
        if kind == NORMAL:
            out[arm] = parameters[0, arm] + out[arm] / math.sqrt(parameters[1, arm])
        elif kind == STUDENT:
            variance = parameters[3, arm] / gamma_variate(parameters[2, arm], ~word)
            out[arm] = parameters[0, arm] + out[arm] * math.sqrt(variance / parameters[1, arm])
        elif kind == BETA:
            out[arm] = beta_variate(parameters[0, arm], parameters[1, arm], word)
        else:
            out[arm] = gamma_variate(parameters[0, arm], word) / parameters[1, arm]


@kernel(exact=True)
def highest(values: NDArray[np.float64], skip: int) -> int:
    """Index of the greatest value other than that at `skip`, the lower index among equals; -1 when all are NaN."""
    best = -1
    for i in range(values.shape[0]):
        if i != skip and values[i] == values[i] and (best < 0 or values[i] > values[best]):
            best = i
    return best


@kernel(exact=True)
def thompson(
    kind: int, parameters: NDArray[np.float64], seed: int, step: int, dim: int, draws: NDArray[np.float64]
) -> int:
    """The arm whose draw from its posterior is the greatest.

    Args:
        kind: As for `posterior_draws`.
        parameters: As for `posterior_draws`.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        dim: Key of the random numbers.
        draws: (n,) float64, overwritten.
    """
    posterior_draws(kind, parameters, seed, step, dim, draws)
    return highest(draws, int64(-1))


@kernel(exact=True)
def top_two(
    kind: int,
    parameters: NDArray[np.float64],
    seed: int,
    step: int,
    rounds: int,
    draws: NDArray[np.float64],
    pair: NDArray[np.int64],
) -> None:
    """The arm that is best in one draw, and the first other one that is best in a later draw.

    When no other arm is best within the rounds, the challenger is the second best of the last draw.

    Args:
        kind: As for `posterior_draws`.
        parameters: As for `posterior_draws`, two arms or more.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        rounds: Most draws for the challenger.
        draws: (n,) float64, overwritten.
        pair: (2,) int64, overwritten: leader and challenger.

    Source: Russo (2020), §3.4.
    """
    leader = thompson(kind, parameters, seed, step, int64(0), draws)
    challenger = leader
    for attempt in range(rounds):
        challenger = thompson(kind, parameters, seed, step, attempt + 1, draws)
        if challenger != leader:
            break
    if challenger == leader:
        challenger = highest(draws, leader)
    pair[0], pair[1] = leader, challenger


@kernel(exact=True)
def update_normal(
    prior: NDArray[np.float64],
    totals: NDArray[np.float64],
    counts: NDArray[np.float64],
    variance: float,
    out: NDArray[np.float64],
) -> None:
    """NORMAL posterior after observations with a known noise variance.

    Args:
        prior: (4, n) float64, NORMAL.
        totals: Sum of each arm's observations, (n,) float64.
        counts: How many they are, (n,) float64.
        variance: Noise variance of one observation, > 0.
        out: (4, n) float64; rows 0 and 1 are overwritten. May be `prior`.
    """
    for arm in range(totals.shape[0]):
        precision = prior[1, arm] + counts[arm] / variance
        out[0, arm] = (prior[0, arm] * prior[1, arm] + totals[arm] / variance) / precision
        out[1, arm] = precision


@kernel(exact=True)
def update_student(
    prior: NDArray[np.float64],
    counts: NDArray[np.float64],
    means: NDArray[np.float64],
    squares: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """STUDENT posterior after observations, from their moments.

    Args:
        prior: (4, n) float64, STUDENT.
        counts: Observations of each arm, (n,) float64; weights that are not whole are allowed.
        means: Their means, (n,) float64; not read where the count is 0.
        squares: Their sums of squared deviations from the mean, (n,) float64.
        out: (4, n) float64, overwritten. May be `prior`.
    """
    for arm in range(counts.shape[0]):
        mean, kappa, n = prior[0, arm], prior[1, arm], counts[arm]
        out[2, arm], out[3, arm] = prior[2, arm], prior[3, arm]
        if n > 0.0:
            gap = means[arm] - mean
            out[2, arm] += 0.5 * n
            out[3, arm] += 0.5 * (squares[arm] + kappa * n * gap * gap / (kappa + n))
            mean += n * gap / (kappa + n)
        out[0, arm], out[1, arm] = mean, kappa + n


@kernel(exact=True)
def update_beta(
    prior: NDArray[np.float64],
    successes: NDArray[np.float64],
    failures: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """BETA posterior after trials.

    Args:
        prior: (4, n) float64, BETA.
        successes: Successes of each arm, (n,) float64; shares of one are allowed.
        failures: Failures of each arm, (n,) float64.
        out: (4, n) float64; rows 0 and 1 are overwritten. May be `prior`.
    """
    for arm in range(successes.shape[0]):
        out[0, arm] = prior[0, arm] + successes[arm]
        out[1, arm] = prior[1, arm] + failures[arm]


@kernel(exact=True)
def update_gamma(
    prior: NDArray[np.float64],
    events: NDArray[np.float64],
    exposures: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """GAMMA posterior of a Poisson rate after counts of events.

    Args:
        prior: (4, n) float64, GAMMA.
        events: Events of each arm, (n,) float64.
        exposures: Time, calls or whatever the events were counted over, (n,) float64.
        out: (4, n) float64; rows 0 and 1 are overwritten. May be `prior`.
    """
    for arm in range(events.shape[0]):
        out[0, arm] = prior[0, arm] + events[arm]
        out[1, arm] = prior[1, arm] + exposures[arm]


@kernel(exact=True)
def pool(
    arms: NDArray[np.int64],
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    counts: NDArray[np.float64],
    means: NDArray[np.float64],
    squares: NDArray[np.float64],
) -> None:
    """Weighted moments of the values of each arm.

    Args:
        arms: The arm of each value, (m,) int64; negative = none.
        values: (m,) float64; NaN = left out.
        weights: (m,) float64, ≥ 0.
        counts: Sum of weights of each arm, (n,) float64, overwritten.
        means: (n,) float64, overwritten; 0 where the arm has no value.
        squares: Weighted sum of squared deviations from the mean, (n,) float64, overwritten.

    Source: West (1979).
    """
    counts[:], means[:], squares[:] = 0.0, 0.0, 0.0
    for i in range(arms.shape[0]):
        arm, weight = arms[i], weights[i]
        if arm < 0 or values[i] != values[i] or weight <= 0.0:
            continue
        counts[arm] += weight
        gap = values[i] - means[arm]
        means[arm] += gap * weight / counts[arm]
        squares[arm] += weight * gap * (values[i] - means[arm])


@kernel(exact=True)
def ucb1(means: NDArray[np.float64], counts: NDArray[np.float64], scale: float, out: NDArray[np.float64]) -> None:
    """Upper confidence bounds of means; +inf for an arm that was never tried.

    Args:
        means: (n,) float64.
        counts: Observations of each arm, (n,) float64.
        scale: Range of one observation.
        out: (n,) float64, overwritten.

    Source: Auer, Cesa-Bianchi & Fischer (2002), fig. 1.
    """
    total = 0.0
    for arm in range(counts.shape[0]):
        total += counts[arm]
    width = 2.0 * math.log(max(total, 1.0))
    for arm in range(counts.shape[0]):
        if counts[arm] > 0.0:
            out[arm] = means[arm] + scale * math.sqrt(width / counts[arm])
        else:
            out[arm] = math.inf


@kernel(exact=True)
def kl_ucb(means: NDArray[np.float64], counts: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Upper confidence bounds of shares by the Kullback–Leibler divergence; 1 for an arm that was never tried.

    Args:
        means: (n,) float64 in [0, 1].
        counts: Observations of each arm, (n,) float64.
        out: (n,) float64, overwritten: the greatest q with n kl(p, q) ≤ log of all observations.

    Source: Garivier & Cappé (2011), with c = 0.
    """
    total = 0.0
    for arm in range(counts.shape[0]):
        total += counts[arm]
    budget = math.log(max(total, 1.0))
    for arm in range(counts.shape[0]):
        p = means[arm]
        if counts[arm] <= 0.0 or p >= 1.0:
            out[arm] = 1.0
            continue
        if budget == 0.0:
            out[arm] = p
            continue
        level = budget / counts[arm]
        entropy = p * math.log(p) if p > 0.0 else 0.0
        # The divergence is convex and at least `level` here, so Newton's steps come down to the root from above.
        q = 1.0 - (1.0 - p) * math.exp((entropy - level) / (1.0 - p))
        for _ in range(_ATTEMPTS):
            if not (p < q < 1.0):
                break
            divergence = entropy - p * math.log(q) + (1.0 - p) * math.log((1.0 - p) / (1.0 - q))
            move = (divergence - level) * q * (1.0 - q) / (q - p)
            q -= move
            if abs(move) <= 1e-15:
                break
        out[arm] = min(max(q, p), 1.0)


@kernel(exact=True)
def propose(
    kind: int,
    parameters: NDArray[np.float64],
    ends: NDArray[np.int64],
    seed: int,
    step: int,
    draws: NDArray[np.float64],
    out: NDArray[np.int64],
) -> None:
    """For each candidate, the arm of every group whose draw is the greatest of its group.

    Args:
        kind: As for `posterior_draws`.
        parameters: As for `posterior_draws`, the arms of one group after those of another.
        ends: End of each group in the arms, (groups,) int64; no group is empty.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        draws: (arms,) float64, scratch.
        out: (groups, candidates) int64, overwritten: places in the groups.
    """
    for i in range(out.shape[1]):
        posterior_draws(kind, parameters, seed, step, i, draws)
        first = 0
        for group in range(ends.shape[0]):
            out[group, i] = highest(draws[first : ends[group]], int64(-1))
            first = ends[group]
