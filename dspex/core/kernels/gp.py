"""A Gaussian process over mixed rows: features, covariances, factors, the fit's gradient, the posterior.

A trial is a column of features: unit coordinates first, then labels that are equal or not. Every feature adds
`weight * difference**2` or `weight * (labels differ)` to one squared distance, and the covariance is a Matérn 5/2 of it
plus a constant, which stands for an unknown mean. A number that is inactive is at the middle of its interval, and
whether it is active is a label of its own: two trials in which it is inactive are not apart in it, and how far apart an
active and an inactive one are is learnt. All of these are Euclidean embeddings, so the covariance is positive definite.

Sources: Rasmussen & Williams (2006), §2.2, §4.2 and §5.4; Lévesque et al. (2017) for imputed inactive numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dspex.core.jit import int64, kernel

PANEL = 64
"""Candidates whose covariances are held at once: a panel of 300 trials stays in the second-level cache."""


@kernel
def features(
    form: NDArray[np.int64],
    row: NDArray[np.int64],
    origin: NDArray[np.float64],
    width: NDArray[np.float64],
    columns: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Features of candidates.

    Args:
        form: What each feature is, (F,) int64: 0 = unit coordinate of a row, 1 = category, 2 = whether it is active.
        row: The table's row behind each feature, (F,) int64.
        origin: From `sampling.frame`.
        width: From `sampling.frame`, > 0 in rows of form 0.
        columns: (D, N) float64.
        out: (F, N) float64, overwritten.
    """
    for f in range(form.shape[0]):
        d, sort = row[f], form[f]
        for i in range(columns.shape[1]):
            value = columns[d, i]
            if sort == 0:
                out[f, i] = (value - origin[d]) / width[d] if value == value else 0.5
            elif sort == 1:
                out[f, i] = value if value == value else -1.0
            else:
                out[f, i] = 1.0 if value == value else 0.0


@kernel
def add_distances(
    labels: int,
    weight: NDArray[np.float64],
    points: NDArray[np.float64],
    i: int,
    others: NDArray[np.float64],
    first: int,
    out: NDArray[np.float64],
) -> None:
    """Weighted squared distances from one point to others.

    Args:
        labels: First feature that is a label.
        weight: Of each feature, (F,) float64, ≥ 0.
        points: (F, N) float64.
        i: Which of them.
        others: (F, M) float64.
        first: First of the others that is meant.
        out: (n,) float64, n ≤ M - first, overwritten.
    """
    n = out.shape[0]
    for j in range(n):
        out[j] = 0.0
    for f in range(labels):
        x, w = points[f, i], weight[f]
        other = others[f, first : first + n]
        for j in range(n):
            gap = other[j] - x
            out[j] += w * gap * gap
    for f in range(labels, weight.shape[0]):
        x, w = points[f, i], weight[f]
        other = others[f, first : first + n]
        for j in range(n):
            out[j] += w if other[j] != x else 0.0


@kernel
def decay(u: float) -> float:
    """exp(-u) for u ≥ 0, with a relative error under 2e-12 up to 40; exp(-40) above.

    (Taylor polynomial of -u / 1024) to the power 1024: no table and no branch, so loops over it vectorise.
    """
    t = min(u, 40.0) * -0.0009765625
    e = 1.0 + t * (1.0 + t * (1.0 / 2.0 + t * (1.0 / 6.0 + t * (1.0 / 24.0 + t * (1.0 / 120.0)))))
    e *= e
    e *= e
    e *= e
    e *= e
    e *= e
    e *= e
    e *= e
    e *= e
    e *= e
    return e * e


@kernel
def matern(amplitude: float, constant: float, values: NDArray[np.float64]) -> None:
    """Squared distances become covariances: amplitude · Matérn 5/2 + constant.

    Args:
        amplitude: Variance of the Matérn part.
        constant: Variance of the unknown mean.
        values: (n,) float64, changed in place.
    """
    for j in range(values.shape[0]):
        u = math.sqrt(5.0 * values[j])
        values[j] = amplitude * (1.0 + u + u * u * (1.0 / 3.0)) * decay(u) + constant


@kernel
def factor(
    labels: int,
    weight: NDArray[np.float64],
    amplitude: float,
    constant: float,
    points: NDArray[np.float64],
    noise: NDArray[np.float64],
    first: int,
    count: int,
    lower: NDArray[np.float64],
) -> None:
    """Rows `first` to `count` of the Cholesky factor of the points' covariance; the rows before are taken as they are.

    A row comes out the same, bit for bit, whether the rows before it were made in this call or in earlier ones.

    Args:
        labels: First feature that is a label.
        weight: (F,) float64.
        amplitude: As in `matern`.
        constant: As in `matern`.
        points: (F, N) float64.
        noise: Noise variance of each point, (N,) float64, > 0.
        first: First row to make.
        count: Rows in the end, at most N.
        lower: (N, N) float64; entries on and under the diagonal of the rows are overwritten.
    """
    for i in range(first, count):
        row = lower[i]
        add_distances(labels, weight, points, i, points, int64(0), row[:i])
        matern(amplitude, constant, row[:i])
        pivot = amplitude + constant + noise[i]
        for j in range(i):
            other = lower[j]
            total = 0.0
            for k in range(j):
                total += row[k] * other[k]
            row[j] = (row[j] - total) / other[j]
        total = 0.0
        for k in range(i):
            total += row[k] * row[k]
        # Rounding may eat the whole pivot where points coincide; half of the noise is what must remain of it.
        row[i] = math.sqrt(max(pivot - total, 0.5 * noise[i]))


@kernel
def solve(lower: NDArray[np.float64], count: int, values: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """The covariance's inverse applied to values.

    Args:
        lower: (N, N) float64 from `factor`.
        count: Rows to use.
        values: (count,) float64.
        out: (count,) float64, overwritten.
    """
    for i in range(count):
        row = lower[i]
        total = 0.0
        for k in range(i):
            total += row[k] * out[k]
        out[i] = (values[i] - total) / row[i]
    for i in range(count - 1, -1, -1):
        row = lower[i]
        x = out[i] / row[i]
        out[i] = x
        for k in range(i):
            out[k] -= row[k] * x


@kernel
def posterior(
    labels: int,
    weight: NDArray[np.float64],
    amplitude: float,
    constant: float,
    points: NDArray[np.float64],
    count: int,
    lower: NDArray[np.float64],
    alpha: NDArray[np.float64],
    candidates: NDArray[np.float64],
    panel: NDArray[np.float64],
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> None:
    """Posterior mean and variance, without noise, of many candidates.

    Args:
        labels: First feature that is a label.
        weight: (F,) float64.
        amplitude: As in `matern`.
        constant: As in `matern`.
        points: (F, N) float64.
        count: Points to use.
        lower: (N, N) float64 from `factor`.
        alpha: (count,) float64 from `solve`.
        candidates: (F, M) float64.
        panel: (N, PANEL) float64, scratch.
        mean: (M,) float64, overwritten.
        variance: (M,) float64, overwritten; > 0.
    """
    prior = amplitude + constant
    for begin in range(0, candidates.shape[1], PANEL):
        n = min(PANEL, candidates.shape[1] - begin)
        average, spread = mean[begin : begin + n], variance[begin : begin + n]
        for c in range(n):
            average[c] = 0.0
            spread[c] = 0.0
        for i in range(count):
            row = panel[i, :n]
            add_distances(labels, weight, points, i, candidates, begin, row)
            matern(amplitude, constant, row)
            a = alpha[i]
            for c in range(n):
                average[c] += a * row[c]
            # Four earlier rows at once: the row in hand is loaded and stored once for four products.
            factors = lower[i]
            whole = i - i % 4
            for k in range(0, whole, 4):
                f0, f1, f2, f3 = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
                p0, p1, p2, p3 = panel[k, :n], panel[k + 1, :n], panel[k + 2, :n], panel[k + 3, :n]
                for c in range(n):
                    row[c] -= f0 * p0[c] + f1 * p1[c] + f2 * p2[c] + f3 * p3[c]
            for k in range(whole, i):
                f0, p0 = factors[k], panel[k, :n]
                for c in range(n):
                    row[c] -= f0 * p0[c]
            scale = 1.0 / factors[i]
            for c in range(n):
                x = row[c] * scale
                row[c] = x
                spread[c] += x * x
        for c in range(n):
            spread[c] = max(prior - spread[c], 1e-12 * prior)


@kernel
def invert(lower: NDArray[np.float64], count: int, inverse: NDArray[np.float64]) -> None:
    """Inverse of the factor.

    Args:
        lower: (N, N) float64 from `factor`.
        count: Rows to use.
        inverse: (N, N) float64; entries on and under the diagonal are overwritten.
    """
    for i in range(count):
        factors, row = lower[i], inverse[i]
        for j in range(i):
            row[j] = 0.0
        for k in range(i):
            f, other = factors[k], inverse[k]
            for j in range(k + 1):
                row[j] -= f * other[j]
        scale = 1.0 / factors[i]
        for j in range(i):
            row[j] *= scale
        row[i] = scale


@kernel
def square(inverse: NDArray[np.float64], count: int, precision: NDArray[np.float64]) -> None:
    """The covariance's inverse from the factor's.

    Args:
        inverse: (N, N) float64 from `invert`.
        count: Rows to use.
        precision: (N, N) float64; entries on and under the diagonal are overwritten.
    """
    for i in range(count):
        source = inverse[i]
        for j in range(i + 1):
            precision[i, j] = 0.0
        for j in range(i + 1):
            x, row = source[j], precision[j]
            for k in range(j + 1):
                row[k] += x * source[k]


@kernel
def gradient(
    labels: int,
    weight: NDArray[np.float64],
    amplitude: float,
    points: NDArray[np.float64],
    count: int,
    alpha: NDArray[np.float64],
    precision: NDArray[np.float64],
    scratch: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Derivatives of the log likelihood by the logarithm of each weight.

    Args:
        labels: First feature that is a label.
        weight: (F,) float64.
        amplitude: As in `matern`.
        points: (F, N) float64.
        count: Points to use.
        alpha: (count,) float64 from `solve`.
        precision: (N, N) float64 from `square`.
        scratch: (N,) float64.
        out: (F,) float64, overwritten.

    Source: Rasmussen & Williams (2006), eq. 5.9.
    """
    for f in range(weight.shape[0]):
        out[f] = 0.0
    for i in range(count):
        row, inner, a = scratch[:i], precision[i], alpha[i]
        add_distances(labels, weight, points, i, points, int64(0), row)
        for j in range(i):
            u = math.sqrt(5.0 * row[j])
            row[j] = (a * alpha[j] - inner[j]) * (1.0 + u) * decay(u)
        for f in range(labels):
            x, other, total = points[f, i], points[f], 0.0
            for j in range(i):
                gap = other[j] - x
                total += row[j] * gap * gap
            out[f] += total
        for f in range(labels, weight.shape[0]):
            x, other, total = points[f, i], points[f], 0.0
            for j in range(i):
                total += row[j] if other[j] != x else 0.0
            out[f] += total
    for f in range(weight.shape[0]):
        out[f] *= -5.0 / 6.0 * amplitude * weight[f]
