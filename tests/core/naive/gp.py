"""Oracles of the Gaussian process's kernels: dense linear algebra, finite differences, and formulas as published."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dspex.compiler.lower.lowering import Lowered
from dspex.core import streams
from tests.core import naive
from tests.core.naive import Array


def features(form: Any, row: Any, origin: Array, width: Array, columns: Array) -> Array:
    def one(sort: int, d: int, value: float) -> float:
        inactive = math.isnan(value)
        if sort == 0:
            return 0.5 if inactive else (value - origin[d]) / width[d]
        if sort == 1:
            return -1.0 if inactive else value
        return float(not inactive)

    return np.array([[one(s, d, value) for value in columns[d]] for s, d in zip(form, row, strict=True)])


def distances(labels: int, weight: Array, a: Array, b: Array) -> Array:
    out = np.zeros((a.shape[1], b.shape[1]))
    for f, w in enumerate(weight):
        gaps = np.subtract.outer(a[f], b[f])
        out += w * (gaps**2 if f < labels else gaps != 0.0)
    return out


def covariance(labels: int, weight: Array, amplitude: float, constant: float, a: Array, b: Array) -> Array:
    u = np.sqrt(5.0 * distances(labels, weight, a, b))
    return amplitude * (1.0 + u + u**2 / 3.0) * np.exp(-np.minimum(u, 40.0)) + constant


def likelihood(
    labels: int, weight: Array, amplitude: float, constant: float, points: Array, noise: Array, y: Array
) -> float:
    gram = covariance(labels, weight, amplitude, constant, points, points) + np.diag(noise)
    return float(-0.5 * y @ np.linalg.solve(gram, y) - 0.5 * np.linalg.slogdet(gram)[1])


def gradient(
    labels: int, weight: Array, amplitude: float, constant: float, points: Array, noise: Array, y: Array
) -> Array:
    """Central differences by the logarithms of the weights."""
    out = np.empty(weight.size)
    for f in range(weight.size):
        sides: list[float] = []
        for sign in (1.0, -1.0):
            moved = weight.copy()
            moved[f] *= math.exp(sign * 1e-5)
            sides.append(likelihood(labels, moved, amplitude, constant, points, noise, y))
        out[f] = (sides[0] - sides[1]) / 2e-5
    return out


def log_improvement(z: float) -> float:
    """log ∫ max(0, x) N(x - z) dx by quadrature, with the largest exponent taken out."""
    x = np.linspace(0.0, 12.0, 200_001)[1:] if z > -1.0 else np.linspace(0.0, 60.0 / -z, 200_001)[1:]
    if z > 0.0:
        x = np.linspace(0.0, z + 12.0, 200_001)[1:]
    exponent = -0.5 * (x - z) ** 2 + 0.5 * min(z, 0.0) ** 2
    area = float((x * np.exp(exponent)).sum() * (x[1] - x[0]))
    return math.log(area) - 0.5 * min(z, 0.0) ** 2 - 0.5 * math.log(2.0 * math.pi)


def neighbours(lowered: Lowered, bases: Array, rows: Any, changes: Array, reach: Array, seed: int, step: int) -> Array:
    out = np.stack([bases[:, i % bases.shape[1]] for i in range(changes.size)], axis=1)
    for i in range(changes.size):
        active = [int(d) for d in rows if not math.isnan(out[d, i])]
        if not active:
            continue
        always = active[int(streams.uniform(seed, step, 1 << 40, i) * len(active))]
        for d in active:
            share = (changes[i] - 1.0) / len(active)
            if d == always or streams.uniform(seed, step, (1 << 41) + d, i) < share:
                u = streams.uniform(seed, step, d, i)
                out[d, i] = _moved(lowered, d, float(out[d, i]), u, float(reach[i]))
    return out


def _moved(lowered: Lowered, d: int, value: float, u: float, reach: float) -> float:
    table = lowered.table
    if lowered.variables[d].options:
        weights = table.cat_logp[table.cat_off[d] : table.cat_off[d] + table.ncat[d]]
        others = [c for c, weight in enumerate(weights) if c != value and weight > -math.inf]
        return float(others[int(u * len(others))]) if others else value
    lo, hi = float(table.lo[d]), float(table.hi[d])
    gap = reach * naive.NORMAL.inv_cdf(max(u, 1e-300)) * naive.frame(lowered, d)[1]
    target = value + gap
    if target < lo:
        target = min(2.0 * lo - target, hi)
    elif target > hi:
        target = max(2.0 * hi - target, lo)
    moved = naive.snap(lowered, d, target)
    values = naive.grid(lowered, d)
    # A logarithm's last digit is not the kernels'.
    if values is not None and len(values) > 1 and math.isclose(moved, value, rel_tol=1e-12, abs_tol=1e-12):
        entries = [math.log(v) if table.log_flag[d] else v for v in values]
        place = int(np.argmin([abs(entry - value) for entry in entries]))
        after = place + 1 if (gap >= 0.0 and place + 1 < len(entries)) or place == 0 else place - 1
        return entries[after]
    return moved
