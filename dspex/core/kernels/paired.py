"""Candidates compared over shared examples: a score is the candidate's effect, the example's effect and noise.

Examples' effects are integrated out, so candidates that were scored on different examples are compared fairly. All
effects and the noise are normal with known variances. Source: Searle, Casella & McCulloch (1992), ch. 7.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dspex.core.jit import int64, kernel
from dspex.core.kernels.bandit import highest, open_uniform
from dspex.core.rng import normal_quantile, random_bits


@kernel
def posterior(
    scores: NDArray[np.float64],
    noise: float,
    spread: float,
    prior: float,
    members: NDArray[np.int64],
    factor: NDArray[np.float64],
    mean: NDArray[np.float64],
) -> None:
    """Posterior mean of the candidates' effects, and the factor of its precision.

    Args:
        scores: (examples, candidates) float64, of mean about 0; NaN = not scored.
        noise: Variance of the noise, > 0.
        spread: Variance of the examples' effects, > 0.
        prior: Variance of the candidates' effects, > 0.
        members: (candidates,) int64, scratch.
        factor: (candidates, candidates) float64; the lower triangle L, L Lᵀ = precision, is overwritten.
        mean: (candidates,) float64, overwritten.
    """
    examples, candidates = scores.shape
    for c in range(candidates):
        mean[c] = 0.0
        for d in range(c):
            factor[c, d] = 0.0
        factor[c, c] = 1.0 / prior
    for e in range(examples):
        seen, total = 0, 0.0
        for c in range(candidates):
            if scores[e, c] == scores[e, c]:
                members[seen] = c
                seen += 1
                total += scores[e, c]
        if seen == 0:
            continue
        shared = 1.0 / (noise * (noise / spread + seen))
        for i in range(seen):
            c = members[i]
            mean[c] += scores[e, c] / noise - total * shared
            factor[c, c] += 1.0 / noise
            for j in range(i + 1):
                factor[c, members[j]] -= shared
    factorise(factor)
    for i in range(candidates):
        value = mean[i]
        for k in range(i):
            value -= factor[i, k] * mean[k]
        mean[i] = value / factor[i, i]
    solve_back(factor, mean)


@kernel
def factorise(matrix: NDArray[np.float64]) -> None:
    """Cholesky factor of a positive definite matrix's lower triangle, in place."""
    for i in range(matrix.shape[0]):
        for j in range(i):
            value = matrix[i, j]
            for k in range(j):
                value -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = value / matrix[j, j]
        value = matrix[i, i]
        for k in range(i):
            value -= matrix[i, k] * matrix[i, k]
        matrix[i, i] = math.sqrt(value)


@kernel
def solve_back(factor: NDArray[np.float64], x: NDArray[np.float64]) -> None:
    """Solve Lᵀ y = x in place; L, (n, n) float64, is the lower triangle of `factor`, x is (n,) float64."""
    for i in range(x.shape[0] - 1, -1, -1):
        x[i] /= factor[i, i]
        for k in range(i):
            x[k] -= factor[i, k] * x[i]


@kernel
def residual_sums(scores: NDArray[np.float64], effects: NDArray[np.float64], sums: NDArray[np.float64]) -> None:
    """Squares of what the candidates' effects leave unexplained, within examples and between them.

    Args:
        scores: (examples, candidates) float64; NaN = not scored.
        effects: (candidates,) float64.
        sums: (4,) float64, overwritten: squares within examples, squares of the examples' means, each times its number
            of scores, the number of scores, and the number of examples with a score.
    """
    sums[:] = 0.0
    for e in range(scores.shape[0]):
        count, mean = 0, 0.0
        for c in range(scores.shape[1]):
            if scores[e, c] == scores[e, c]:
                count += 1
                mean += scores[e, c] - effects[c]
        if count == 0:
            continue
        mean /= count
        for c in range(scores.shape[1]):
            if scores[e, c] == scores[e, c]:
                gap = scores[e, c] - effects[c] - mean
                sums[0] += gap * gap
        sums[1] += count * mean * mean
        sums[2] += count
        sums[3] += 1.0


@kernel
def draw(
    factor: NDArray[np.float64],
    mean: NDArray[np.float64],
    seed: int,
    step: int,
    dim: int,
    out: NDArray[np.float64],
) -> None:
    """One joint draw of all effects from their posterior.

    Args:
        factor: From `posterior`.
        mean: From `posterior`.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        dim: Key of the random numbers.
        out: (candidates,) float64, overwritten.
    """
    n = out.shape[0]
    for i in range(n):
        out[i] = normal_quantile(open_uniform(np.uint64(random_bits(seed, step, dim, i))))
    solve_back(factor, out)
    for i in range(n):
        out[i] += mean[i]


@kernel
def top_two(
    factor: NDArray[np.float64],
    mean: NDArray[np.float64],
    seed: int,
    step: int,
    rounds: int,
    out: NDArray[np.float64],
    pair: NDArray[np.int64],
) -> None:
    """The candidate that is best in one draw, and the first other one that is best in a later draw.

    When no other one is best within the rounds, the challenger is the second best of the last draw.

    Args:
        factor: From `posterior`, of two candidates or more.
        mean: From `posterior`.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        rounds: Most draws for the challenger.
        out: (candidates,) float64, overwritten.
        pair: (2,) int64, overwritten: leader and challenger.

    Source: Russo (2020), §3.4.
    """
    draw(factor, mean, seed, step, int64(0), out)
    leader = highest(out, int64(-1))
    challenger = leader
    for attempt in range(rounds):
        draw(factor, mean, seed, step, attempt + 1, out)
        challenger = highest(out, int64(-1))
        if challenger != leader:
            break
    if challenger == leader:
        challenger = highest(out, leader)
    pair[0], pair[1] = leader, challenger


@kernel
def wins(
    factor: NDArray[np.float64],
    mean: NDArray[np.float64],
    seed: int,
    step: int,
    draws: int,
    out: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:
    """In how many joint draws each candidate is the best.

    Args:
        factor: From `posterior`.
        mean: From `posterior`.
        seed: Key of the random numbers.
        step: Key of the random numbers.
        draws: How many to take.
        out: (candidates,) float64, scratch.
        counts: (candidates,) int64, overwritten; they sum to `draws`.
    """
    counts[:] = 0
    for each in range(draws):
        draw(factor, mean, seed, step, each, out)
        counts[highest(out, int64(-1))] += 1


@kernel
def deviations(factor: NDArray[np.float64], inverse: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Posterior standard deviation of each effect.

    Args:
        factor: From `posterior`.
        inverse: (candidates, candidates) float64, scratch: the lower triangle of the factor's inverse.
        out: (candidates,) float64, overwritten.
    """
    n = out.shape[0]
    out[:] = 0.0
    for i in range(n):
        for c in range(i):
            inverse[i, c] = 0.0
        inverse[i, i] = 1.0
        for k in range(i):
            for c in range(k + 1):
                inverse[i, c] -= factor[i, k] * inverse[k, c]
        for c in range(i + 1):
            inverse[i, c] /= factor[i, i]
            out[c] += inverse[i, c] * inverse[i, c]
    for c in range(n):
        out[c] = math.sqrt(out[c])
