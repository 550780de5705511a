"""The Gaussian process of one objective: features of a space, priors, fit and posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core.abi import Kind
from dspex.core.ascent import ascend
from dspex.core.kernels import gp
from dspex.core.population import Sampler

Array = NDArray[np.float64]

LEAST_NOISE: Final = 1e-6
"""Least noise variance of a standardised loss: what keeps factors sound where trials coincide."""
_LINE: Final = 8
"""Numbers in a cache line."""
_MUCH_NOISE: Final = 0.1
"""Noise variance at one of the fit's beginnings: short lengthscales and much noise explain the same small sample."""


@dataclass(frozen=True, slots=True)
class Prior:
    """Log-normal priors of the hyperparameters, in standardised units; wider and narrower ones were no better.

    Attributes:
        length: Median lengthscale of a number in its unit interval, for one feature; it grows with the root of their
            count, which keeps the typical distance of two candidates (Hvarfner et al., 2024).
        label: The same for a label, whose difference is 1.
        spread: Deviation of the logarithm of a lengthscale.
        amplitude: Deviation of the logarithm of the variance; its median is 1.
        noise: Median noise variance.
        noise_spread: Deviation of its logarithm.
        constant: Variance of the mean that trials far from all others return to.
    """

    length: float = 0.25
    label: float = 0.5
    spread: float = 1.0
    amplitude: float = 1.0
    noise: float = 1e-3
    noise_spread: float = 2.0
    constant: float = 1.0


class Features:
    """Which features the candidates of a space have; rows with a single value have none."""

    def __init__(self, sampler: Sampler) -> None:
        table = sampler.table
        self._sampler = sampler
        numbers = [d for d in range(table.kind.size) if table.kind[d] <= 1 and sampler.width[d] > 0.0]
        # A pool may grow: its row keeps its feature from the first entry on.
        categories = [
            d for d in range(table.kind.size) if table.ncat[d] > 1 or table.kind[d] in (Kind.TEXT, Kind.DEMOS)
        ]
        conditions: dict[tuple[int, int, int], int] = {}
        for d in numbers:
            condition = (int(table.parent[d]), int(table.parent_val[d]), int(table.cond_pc[d]))
            if condition[0] >= 0 or condition[2] >= 0:
                conditions.setdefault(condition, d)
        activity = list(conditions.values())
        self.form = np.array([0] * len(numbers) + [1] * len(categories) + [2] * len(activity), dtype=np.int64)
        self.row = np.array([*numbers, *categories, *activity], dtype=np.int64)
        self.numbers = len(numbers)
        # A lengthscale below a grid's step would be noise by another name.
        self.finest = np.concatenate([np.maximum(0.03, self._paces(numbers)), np.full(self.count - len(numbers), 0.4)])

    def _paces(self, rows: list[int]) -> Array:
        table, sampler = self._sampler.table, self._sampler
        linear = (table.step[rows] > 0.0) & (table.log_flag[rows] == 0)
        return np.where(linear, np.minimum(table.step[rows] / sampler.width[rows], 1.0), 0.0)

    @property
    def count(self) -> int:
        """F."""
        return self.form.shape[0]

    def of(self, columns: Array) -> Array:
        """Features of candidates, (D, N) to (F, N) float64."""
        out = np.empty((self.count, columns.shape[1]))
        gp.features(self.form, self.row, self._sampler.origin, self._sampler.width, columns, out)
        return out


class Process:
    """A Gaussian process over features.

    Its hyperparameters, `theta`, are the logarithms of the features' weights (inverse squared lengthscales), of the
    amplitude and of the learnt noise variance, (F + 2,) float64.

    Attributes:
        centre: Medians of the prior.
    """

    def __init__(self, features: Features, prior: Prior) -> None:
        self.features = features
        self.prior = prior
        scale = max(features.count, 1) ** 0.5
        labels = features.count - features.numbers
        self.centre: Array = np.concatenate(
            [
                np.full(features.numbers, -2.0 * math.log(prior.length * scale)),
                np.full(labels, -2.0 * math.log(prior.label * scale)),
                [0.0, math.log(prior.noise)],
            ]
        )
        self._spread = np.concatenate(
            [np.full(features.count, 2.0 * prior.spread), [prior.amplitude, prior.noise_spread]]
        )
        self._low = np.concatenate([np.full(features.count, math.log(1e-4)), [-4.0, math.log(LEAST_NOISE)]])
        self._high = np.concatenate([-2.0 * np.log(features.finest), [4.0, 0.0]])
        self._theta = self.centre
        self._count = 0
        self._points = np.empty((features.count, 0))
        self._noise = np.empty(0)
        self._lower = np.empty((0, 0))
        self._alpha = np.empty(0)

    def fit(self, points: Array, targets: Array, variances: Array, start: Array, rounds: int, afresh: bool) -> Array:
        """Hyperparameters near a maximum of their posterior density.

        Args:
            points: (F, n) float64.
            targets: (n,) float64, standardised.
            variances: Known noise variance of each, (n,) float64.
            start: Where to begin, (F + 2,) float64.
            rounds: Most steps of each ascent.
            afresh: Whether to begin at the prior's medians as well, with little noise and with much.
        """
        posterior = _Posterior(self, points, targets, variances)
        value, theta = ascend(posterior, start, self._low, self._high, rounds)
        if afresh:
            noisy = self.centre.copy()
            noisy[-1] = math.log(_MUCH_NOISE)
            for other in (self.centre, noisy):
                found, fresh = ascend(posterior, other, self._low, self._high, rounds)
                if found > value:
                    value, theta = found, fresh
        return theta

    def log_prior(self, theta: Array) -> tuple[float, Array]:
        """Logarithm of the prior's density, up to a constant, and its gradient."""
        pull = (theta - self.centre) / self._spread
        return -0.5 * float((pull * pull).sum()), -pull / self._spread

    def condition(self, theta: Array, points: Array, targets: Array, variances: Array) -> None:
        """Take these as the model; shapes as for `fit`. What leads the points as before keeps its factor."""
        n = targets.size
        noise = variances + float(np.exp(theta[-1]))
        same = self._unchanged(theta, points, noise)
        if n > self._noise.size:
            size = max(64, 2 * n)
            lower, kept, held = np.empty((size, size)), np.empty((self.features.count, size)), np.empty(size)
            lower[:same, :same] = self._lower[:same, :same]
            kept[:, :same], held[:same] = self._points[:, :same], self._noise[:same]
            self._lower, self._points, self._noise = lower, kept, held
        self._points[:, same:n], self._noise[same:n] = points[:, same:], noise[same:]
        self._theta, self._count = theta.copy(), n
        weight, amplitude, constant = self._scales()
        gp.factor(self.features.numbers, weight, amplitude, constant, self._points, self._noise, same, n, self._lower)
        self._alpha = np.empty(n)
        gp.solve(self._lower, n, targets, self._alpha)

    def posterior(self, features: Array) -> tuple[Array, Array]:
        """Means and variances, without noise, of (F, M) features: two arrays (M,) float64."""
        mean, variance = np.empty(features.shape[1]), np.empty(features.shape[1])
        weight, amplitude, constant = self._scales()
        gp.posterior(
            self.features.numbers, weight, amplitude, constant, self._points, self._count, self._lower, self._alpha,
            features, panel(self._count), mean, variance,
        )  # fmt: skip
        return mean, variance

    def _unchanged(self, theta: Array, points: Array, noise: Array) -> int:
        """How many of the first points have their rows in the factor already."""
        most = min(self._count, noise.size)
        if not most or not np.array_equal(theta, self._theta):
            return 0
        equal = (self._points[:, :most] == points[:, :most]).all(axis=0) & (self._noise[:most] == noise[:most])
        return most if equal.all() else int(np.argmin(equal))

    def _scales(self) -> tuple[Array, float, float]:
        count = self.features.count
        return np.exp(self._theta[:count]), float(np.exp(self._theta[count])), self.prior.constant


class _Posterior:
    """Log posterior density of hyperparameters and its gradient. Source: Rasmussen & Williams (2006), §5.4.1."""

    def __init__(self, process: Process, points: Array, targets: Array, variances: Array) -> None:
        n, count = targets.size, process.features.count
        self._process, self._points, self._targets, self._variances = process, points, targets, variances
        self._lower, self._inverse, self._precision = np.empty((n, n)), np.empty((n, n)), np.zeros((n, n))
        self._alpha, self._scratch, self._slopes = np.empty(n), np.empty(n), np.empty(count)

    def __call__(self, theta: Array) -> tuple[float, Array]:
        labels, constant = self._process.features.numbers, self._process.prior.constant
        n, count = self._targets.size, self._slopes.size
        lower, alpha, precision = self._lower, self._alpha, self._precision
        weight, amplitude, jitter = np.exp(theta[:count]), float(np.exp(theta[count])), float(np.exp(theta[-1]))
        noise = self._variances + jitter
        gp.factor(labels, weight, amplitude, constant, self._points, noise, 0, n, lower)
        gp.solve(lower, n, self._targets, alpha)
        gp.invert(lower, n, self._inverse)
        gp.square(self._inverse, n, precision)
        gp.gradient(labels, weight, amplitude, self._points, n, alpha, precision, self._scratch, self._slopes)
        fitted, diagonal = float((self._targets * alpha).sum()), precision.diagonal()
        surplus = alpha * alpha - diagonal
        # The Matérn part is the covariance less noise and constant, so its products follow from theirs.
        total = 2.0 * float(precision.sum()) - float(diagonal.sum())
        by_constant = float(alpha.sum()) ** 2 - total
        by_amplitude = 0.5 * (fitted - n - float((noise * surplus).sum()) - constant * by_constant)
        by_noise = 0.5 * jitter * float(surplus.sum())
        prior, pull = self._process.log_prior(theta)
        value = -0.5 * fitted - float(np.log(lower.diagonal()).sum()) + prior
        return value, np.concatenate([self._slopes, [by_amplitude, by_noise]]) + pull


def panel(count: int) -> Array:
    """Scratch for `gp.posterior`, (count, PANEL) float64, that begins at a cache line: a third faster than one beside.

    NumPy's own arrays begin 16 bytes after one, so that every load of a whole line would touch two.
    """
    room = np.empty(count * gp.PANEL + _LINE - 1)
    begin = -(room.ctypes.data // room.itemsize) % _LINE
    return room[begin : begin + count * gp.PANEL].reshape(count, gp.PANEL)
