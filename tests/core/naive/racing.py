"""Oracles of halving, of the paired model and of the signed-rank test."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np

from dspex.core import streams
from tests.core.naive import NORMAL, Array, bandit


def halving(candidates: int, examples: int, budget: int, eta: int, rungs: int) -> tuple[list[int], list[int]]:
    sizes = [candidates]
    while len(sizes) < rungs:
        sizes.append(math.ceil(Fraction(sizes[-1], eta)))
    targets: list[int] = []
    for size in sizes:
        more = math.floor(Fraction(budget, rungs * size))
        targets.append(min(examples, max(1, (targets or [0])[-1] + more)))
    return sizes, targets


def brackets(count: int, eta: int) -> list[int]:
    deepest = count - 1
    return [math.ceil(Fraction((deepest + 1) * eta**s, s + 1)) for s in range(deepest, -1, -1)]


def effects(scores: Array, noise: float, spread: float, prior: float) -> tuple[Array, Array]:
    """Mean and covariance of the candidates' effects, from the joint normal distribution of effects and scores."""
    examples, candidates = scores.shape
    cells = [(e, c) for e in range(examples) for c in range(candidates) if not math.isnan(scores[e, c])]
    own, shared = np.zeros((len(cells), candidates)), np.zeros((len(cells), examples))
    for index, (e, c) in enumerate(cells):
        own[index, c], shared[index, e] = 1.0, 1.0
    covariance = prior * own @ own.T + spread * shared @ shared.T + noise * np.eye(len(cells))
    gain = prior * np.linalg.solve(covariance, own).T
    mean: Array = (gain @ np.array([scores[cell] for cell in cells])).astype(np.float64)
    return mean, prior * np.eye(candidates) - gain @ own * prior


def residual_sums(scores: Array, effects: Array) -> list[float]:
    left = [[x - effect for x, effect in zip(row, effects, strict=True) if not math.isnan(x)] for row in scores]
    left = [row for row in left if row]
    means = [sum(row) / len(row) for row in left]
    within = sum((x - mean) ** 2 for row, mean in zip(left, means, strict=True) for x in row)
    between = sum(len(row) * mean**2 for row, mean in zip(left, means, strict=True))
    return [within, between, sum(len(row) for row in left), len(left)]


def draw(factor: Array, mean: Array, seed: int, step: int, dim: int) -> Array:
    normal = [NORMAL.inv_cdf(bandit.unit(streams.bits(seed, step, dim, i))) for i in range(mean.size)]
    return mean + np.linalg.solve(np.tril(factor).T, np.array(normal))


def doubled_ranks(magnitudes: list[float]) -> list[int]:
    """Twice the mean of the ranks that equal values share; 0 for a zero."""
    below = [sum(other < x for other in magnitudes) for x in magnitudes]
    equal = [magnitudes.count(x) for x in magnitudes]
    return [2 * b + e + 1 if x else 0 for x, b, e in zip(magnitudes, below, equal, strict=True)]


def exact_tail(ranks: list[int], observed: int) -> float:
    kept = [rank for rank in ranks if rank]
    sums = [
        sum(rank for rank, sign in zip(kept, signs, strict=True) if sign)
        for signs in itertools.product((0, 1), repeat=len(kept))
    ]
    return sum(each >= observed for each in sums) / len(sums)


def normal_tail(ranks: list[int], observed: int) -> float:
    halves = [rank / 2 for rank in ranks]
    deviation = math.sqrt(sum(rank**2 for rank in halves) / 4)
    return 1 - NORMAL.cdf((observed / 2 - 0.5 - sum(halves) / 2) / deviation) if deviation else 1.0
