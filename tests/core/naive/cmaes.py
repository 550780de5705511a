"""Oracles of CatCMA with margin, on full matrices."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspex.compiler.lower.lowered import Lowered
from dspex.core import streams
from tests.core import naive
from tests.core.naive import Array

HALF = 2.0**-54


def place(lowered: Lowered) -> tuple[NDArray[np.int64], list[int], list[int]]:
    """Place of each row, rows of the coordinates, rows of the categorical distributions."""
    numeric: list[int] = []
    choices: list[int] = []
    single: list[int] = []
    for d, variable in enumerate(lowered.variables):
        values = naive.grid(lowered, d)
        if variable.options or (values is not None and len(values) == 2):
            choices.append(d)
        elif naive.frame(lowered, d)[1] == 0.0:
            single.append(d)
        else:
            numeric.append(d)
    out = np.full(len(lowered.variables), len(numeric), dtype=np.int64)
    for index, d in enumerate(numeric):
        out[d] = index
    for index, d in enumerate(choices):
        out[d] = -1 - index
    return out, numeric, choices


def normal(seed: int, step: int, dim: int, index: int) -> float:
    return naive.NORMAL.inv_cdf(streams.uniform(seed, step, dim, index) + HALF)


def draw_latents(mean: Array, factor: Array, sigma: float, seed: int, first: int, count: int) -> Array:
    n = len(mean)
    draws = [[normal(seed, first + i, -500, k) for k in range(n)] for i in range(count)]
    return mean + sigma * np.array(draws).reshape(count, n) @ factor


def draw_categories(weights: Array, offsets: Any, seed: int, first: int, count: int) -> NDArray[np.int64]:
    out = np.zeros((count, len(offsets) - 1), dtype=np.int64)
    for i, j in np.ndindex(*out.shape):
        row = weights[offsets[j] : offsets[j + 1]]
        below = np.cumsum(row)
        u = streams.uniform(seed, first + i, -501, j)
        possible = [k for k in range(len(row)) if row[k] > 0]
        out[i, j] = next((k for k in possible if u < below[k]), possible[-1])
    return out


def compose(lowered: Lowered, latents: Array, categories: Any) -> Array:
    table = lowered.table
    where, numeric, choices = place(lowered)
    out = np.full((len(lowered.variables), latents.shape[0]), np.nan)
    for i in range(out.shape[1]):
        for d, variable in enumerate(lowered.variables):
            if not naive.active(lowered, out[:, i], d):
                continue
            if d in numeric:
                origin, width = naive.frame(lowered, d)
                out[d, i] = naive.snap(lowered, d, origin + latents[i, where[d]] * width)
            elif d in choices:
                k = int(categories[i, -1 - where[d]])
                out[d, i] = k if variable.options else naive.snap(lowered, d, float((table.lo, table.hi)[k][d]))
            else:
                out[d, i] = table.lo[d]
    return out


def absorb(lowered: Lowered, population: Array) -> tuple[Array, Any]:
    _, numeric, choices = place(lowered)
    n = population.shape[1]
    latents, categories = np.full((n, len(numeric)), np.nan), np.full((n, len(choices)), -1, dtype=np.int64)
    for i in range(n):
        for p, d in enumerate(numeric):
            origin, width = naive.frame(lowered, d)
            latents[i, p] = (population[d, i] - origin) / width
        for j, d in enumerate(choices):
            entry = float(population[d, i])
            if not math.isnan(entry):
                categories[i, j] = entry if lowered.variables[d].options else entry > lowered.table.lo[d]
    return latents, categories


def whiten(factor: Array, longest: float, seed: int, numbers: Any, steps: Array) -> tuple[Array, Array]:
    steps, whitened = steps.copy(), np.zeros_like(steps)
    for i, number in enumerate(numbers):
        for k in range(factor.shape[0]):
            earlier = float(whitened[i, :k] @ factor[:k, k])
            if math.isnan(steps[i, k]):
                steps[i, k] = earlier + factor[k, k] * normal(seed, int(number), -500, k)
            whitened[i, k] = (steps[i, k] - earlier) / factor[k, k]
    assert np.allclose(whitened @ factor, steps)
    share = np.minimum(1.0, longest / np.maximum(np.linalg.norm(whitened, axis=1), 1e-300))[:, np.newaxis]
    return steps * share, whitened * share


def weigh(losses: Array, table: Array) -> Array:
    order = sorted(range(len(losses)), key=lambda i: math.inf if math.isnan(losses[i]) else losses[i])
    same: dict[str, list[float]] = {}
    for rank, i in enumerate(order):
        same.setdefault(str(losses[i]), []).append(table[rank])
    return np.array([float(np.mean(same[str(loss)])) for loss in losses])


def move(
    steps: Array, whitened: Array, weights: Array, rates: Array, held: Any, sigma: float, generation: int,
    mean: Array, path_sigma: Array, path: Array,
) -> list[Any]:  # fmt: skip
    mass = 1.0 / (weights**2).sum()
    n = mean.size
    mean = np.clip(mean + sigma * weights @ steps, 0.0, 1.0)
    path_sigma = (1 - rates[0]) * path_sigma + math.sqrt(rates[0] * (2 - rates[0]) * mass) * weights @ whitened
    free = path_sigma[held == 0]
    n = free.size
    expected = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n)) if n else 1.0
    length = float(np.linalg.norm(free)) if n else expected
    longest = (1.4 + 2 / (n + 1)) * expected * math.sqrt(1 - (1 - rates[0]) ** (2 * (generation + 1)))
    path = (1 - rates[2]) * path
    if n == 0 or length < longest:
        path = path + math.sqrt(rates[2] * (2 - rates[2]) * mass) * weights @ steps
    return [mean, path_sigma, path, sigma * math.exp(min(1.0, rates[0] / rates[1] * (length / expected - 1)))]


def cholesky(matrix: Array) -> Array:
    """The factor, transposed."""
    factor = np.zeros_like(matrix)
    for k in range(matrix.shape[0]):
        rest = matrix[k] - factor[:k, k] @ factor[:k]
        factor[k, k:] = rest[k:] / math.sqrt(rest[k])
    return factor


def adapt(
    steps: Array, whitened: Array, weights: Array, path: Array, rate_one: float, rate_mu: float, factor: Array
) -> Array:
    n = factor.shape[0]
    lengths = (whitened**2).sum(axis=1)
    scaled = np.where(weights < 0, weights * n / np.maximum(lengths, 1e-300), weights)
    covariance = (1 - rate_one - rate_mu * weights.sum()) * factor.T @ factor
    covariance += rate_one * np.outer(path, path) + rate_mu * (steps.T * scaled) @ steps
    return cholesky(covariance)


def keep_margin(
    lowered: Lowered, rows: list[int], alpha: float, mean: Array, spreads: Array
) -> tuple[Array, Array, Any]:
    mean, spreads, held = mean.copy(), spreads.copy(), np.zeros(len(rows), dtype=np.uint8)
    for p, d in enumerate(rows):
        values = naive.grid(lowered, d)
        if values is None:
            continue
        origin, width = naive.frame(lowered, d)
        log, half = bool(lowered.table.log_flag[d]), float(lowered.table.step[d]) / 2

        def unit(value: float) -> float:
            return ((math.log(value) if log else value) - origin) / width  # noqa: B023

        entry = naive.snap(lowered, d, origin + mean[p] * width)
        here = naive.natural(lowered, d, entry)
        index = int(np.argmin([abs(value - here) for value in values]))
        low = unit(values[index] - half) if index > 0 else 0.0
        high = unit(values[index] + half) if index < len(values) - 1 else 1.0
        m, s = float(mean[p]), float(spreads[p])
        below, above = naive.NORMAL.cdf((low - m) / s), naive.NORMAL.cdf((m - high) / s)
        if index == 0:
            m = max(m, unit(values[0]))
            s = max(s, (high - m) / naive.NORMAL.inv_cdf(1 - alpha))
        elif index == len(values) - 1:
            m = min(m, unit(values[-1]))
            s = max(s, (m - low) / naive.NORMAL.inv_cdf(1 - alpha))
        elif min(below, above) < alpha / 2:
            wanted = np.maximum([below, 1 - below - above, above], alpha / 2)
            wanted -= (wanted.sum() - 1) / (wanted.sum() - 1.5 * alpha) * (wanted - alpha / 2)
            left, right = (naive.NORMAL.inv_cdf(1 - float(wanted[k])) for k in (0, 2))
            m, s = (low * right + high * left) / (left + right), max(s, (high - low) / (left + right))
        mean[p], spreads[p], held[p] = m, s, high - low > 1.35 * s
    return mean, spreads, held


def shift_categories(
    categories: Any, weights: Array, offsets: Any, floor: Array, direction: Array, trust: Array, probabilities: Array
) -> list[Array]:
    gradient = np.zeros_like(probabilities)
    freedom = 0
    for j, (begin, end) in enumerate(itertools.pairwise(offsets)):
        row = probabilities[begin:end]
        freedom += int((row > 0).sum()) - 1
        for category, weight in zip(categories[:, j], weights, strict=True):
            if category >= 0:
                gradient[begin:end] += weight * (np.eye(end - begin)[category] - row)
    root = np.sqrt(np.where(probabilities > 0, probabilities, 1.0))
    scaled = gradient / root
    norm = float(np.linalg.norm(scaled))
    if norm <= 1e-12 or freedom == 0:
        return [direction, trust, probabilities]
    beta = min(trust[0] / math.sqrt(freedom), 1.0)
    direction = (1 - beta) * direction + math.sqrt(beta * (2 - beta)) * scaled / norm
    gamma = (1 - beta) ** 2 * trust[1] + beta * (2 - beta)
    moved = np.maximum(probabilities + trust[0] / norm * gradient, floor)
    for begin, end in itertools.pairwise(offsets):
        row, least = moved[begin:end], floor[begin:end]
        if (row - least).sum() > 0:
            row += (1 - row.sum()) / (row - least).sum() * (row - least)
    return [direction, np.array([trust[0] * math.exp(beta * ((direction**2).sum() / 1.5 - gamma)), gamma]), moved]
