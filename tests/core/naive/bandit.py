"""Oracles of arms with conjugate posteriors."""

from __future__ import annotations

import math

import numpy as np

from dspex.core import streams
from tests.core.naive import NORMAL, Array

MASK = (1 << 64) - 1


def unit(word: int) -> float:
    return (word >> 11) * 2.0**-53 + 2.0**-54


def gamma(shape: float, word: int) -> float:
    """Marsaglia & Tsang's method over Leva's normal variates; a shape below one by a power of a uniform number."""
    words = (streams.mix(word + count * streams.GOLDEN) for count in range(1, 1000))
    d = (shape + 1 if shape < 1 else shape) - 1 / 3
    while True:
        u, v = unit(next(words)), 1.7156 * (unit(next(words)) - 0.5)
        if v * v > -4 * u * u * math.log(u):  # outside the region of the ratio of uniforms
            continue
        x = v / u
        if 1 + x / math.sqrt(9 * d) <= 0:
            continue
        cube = (1 + x / math.sqrt(9 * d)) ** 3
        if math.log(unit(next(words))) < x * x / 2 + d - d * cube + d * math.log(cube):
            break
    return d * cube if shape >= 1 else d * cube * unit(next(words)) ** (1 / shape)


def beta(alpha: float, other: float, word: int) -> float:
    first, second = gamma(alpha, word), gamma(other, word ^ MASK)
    return first / (first + second)


def draws(kind: int, parameters: Array, seed: int, step: int, dim: int) -> Array:
    out: list[float] = []
    for arm in range(parameters.shape[1]):
        word = streams.bits(seed, step, dim, arm)
        a, b, c, d = (float(each) for each in parameters[:, arm])
        if kind == 0:
            out.append(a + NORMAL.inv_cdf(unit(word)) / math.sqrt(b))
        elif kind == 1:
            out.append(a + NORMAL.inv_cdf(unit(word)) * math.sqrt(d / gamma(c, word ^ MASK) / b))
        elif kind == 2:
            out.append(beta(a, b, word))
        else:
            out.append(gamma(a, word) / b)
    return np.array(out)


def highest(values: Array, skip: int) -> int:
    known = [i for i in range(len(values)) if i != skip and not math.isnan(values[i])]
    return max(known, key=lambda i: (values[i], -i), default=-1)


def top_two(rounds: list[Array]) -> tuple[Array, list[int]]:
    """The draws last looked at and the pair, when every round's draws are known."""
    leader = highest(rounds[0], -1)
    for each in rounds[1:]:
        if highest(each, -1) != leader:
            return each, [leader, highest(each, -1)]
    return rounds[-1], [leader, highest(rounds[-1], leader)]


def student(prior: Array, values: list[list[float]]) -> Array:
    """Murphy (2007), equations 86 to 89."""
    out = prior.copy()
    for arm, seen in enumerate(values):
        mean, kappa, shape, rate = prior[:, arm]
        n = len(seen)
        centre = sum(seen) / n if n else 0.0
        out[0, arm] = (kappa * mean + sum(seen)) / (kappa + n)
        out[1, arm] = kappa + n
        out[2, arm] = shape + n / 2
        out[3, arm] = rate + sum((x - centre) ** 2 for x in seen) / 2
        out[3, arm] += kappa * n * (centre - mean) ** 2 / (2 * (kappa + n))
    return out


def moments(arms: list[int], values: list[float], weights: list[float], count: int) -> list[Array]:
    out = [np.zeros(count), np.zeros(count), np.zeros(count)]
    for arm in range(count):
        mine = [
            (value, weight)
            for owner, value, weight in zip(arms, values, weights, strict=True)
            if owner == arm and weight > 0 and not math.isnan(value)
        ]
        total = sum(weight for _, weight in mine)
        if mine:
            mean = sum(value * weight for value, weight in mine) / total
            out[0][arm], out[1][arm] = total, mean
            out[2][arm] = sum(weight * (value - mean) ** 2 for value, weight in mine)
    return out


def kl_bound(p: float, count: float, total: float) -> float:
    """The bound by bisection."""
    if count <= 0 or p >= 1:
        return 1.0
    level = math.log(max(total, 1.0)) / count
    if level == 0:
        return p

    def divergence(q: float) -> float:
        first = p * math.log(p / q) if p > 0 else 0.0
        return first + (1 - p) * math.log((1 - p) / (1 - q))

    low, high = p, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if divergence(middle) <= level:
            low = middle
        else:
            high = middle
    return low
