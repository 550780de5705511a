"""CatCMA with margin over arrays: a Gaussian and categorical distributions that move towards good candidates.

Numeric rows are searched in unit coordinates, those on a grid with a margin; a numeric row with two values is a
categorical one, since order says nothing about it.

Differences from the published method, each because it was better on the problems of `benchmarks/quality` or the
functions of `tests/optimizers/test_cmaes.py`: the covariance is kept as a Cholesky factor; grid values are always
centred in their cells; at the ends of a grid the marginal is widened instead of the mean moved; grid rows on which one
value dominates have no say in the step size; populations begin smaller and the initial step is wider.

Sources: Hamano et al. (2025), arXiv:2504.07884; Hansen (2009), BIPOP-CMA-ES, for restarts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import abi, streams
from dspex.core.abi import ParamTable
from dspex.core.kernels import cmaes, encode
from dspex.core.population import Sampler

CONFIDENCE: Final = 0.73
"""Probability that a generation's average candidate leaves the margins alone: it sets their width."""
SIGMA: Final = 0.22
"""Initial standard deviation, as a share of a row's interval."""
NARROWEST: Final = 1e-7
"""A distribution whose continuous spreads are all below this share of their intervals has converged."""
REPEATS: Final = 10
"""Generations in a row without a new candidate, or with one loss alone, after which it has converged."""

MOST_POPULATION: Final = 1 << 16
MOST_DRAWS: Final = 1 << 36

# Streams of random numbers of this kind of search, kept apart from a sampler's.
_REPAIR: Final = MOST_DRAWS
_RESTART: Final = 1 << 37
_STREAM: Final = -510
_COUNTERS: Final = (
    "generation",
    "population",
    "repeats",
    "flat",
    "stale",
    "restarts",
    "doublings",
    "evaluations_large",
    "evaluations_small",
    "regime",
)
_ARRAYS: Final = ("mean", "path_sigma", "path", "held", "probabilities", "direction", "trust")


@dataclass(frozen=True, slots=True)
class Strategy:
    """Settings that follow from the number of coordinates and the population size.

    Attributes:
        weights: Recombination weight of each rank, (population,) float64; they sum to 1.
        signed: The same for the covariance: ranks without a weight have a negative one.
        rates: c_sigma, d_sigma, c_c, (3,) float64.
        rate_one: Learning rate of the covariance from the path.
        rate_mu: Learning rate of the covariance from a generation.
        longest: Largest Mahalanobis length of a step.
    """

    weights: NDArray[np.float64]
    signed: NDArray[np.float64]
    rates: NDArray[np.float64]
    rate_one: float
    rate_mu: float
    longest: float


def strategy(n: int, population: int) -> Strategy:
    """The settings of n ≥ 1 coordinates and a population of 3 or more.

    Sources: Hansen (2016), table 1; Hansen (2011), eq. 6, for the longest step.
    """
    raw = math.log((population + 1) / 2) - np.log(np.arange(1, population + 1))
    good, bad = np.maximum(raw, 0.0), np.minimum(raw, 0.0)
    mass = float(good.sum() ** 2 / np.square(good).sum())
    against = float(bad.sum() ** 2 / np.square(bad).sum())
    rate_sigma = (mass + 2) / (n + mass + 5)
    # One parent alone has a mass of 1, or by rounding less.
    damping = 1 + rate_sigma + 2 * max(0.0, math.sqrt(max(mass - 1, 0.0) / (n + 1)) - 1)
    rate_path = (4 + mass / n) / (n + 4 + 2 * mass / n)
    rate_one = 2 / ((n + 1.3) ** 2 + mass)
    rate_mu = min(0.8 * (1 - rate_one), 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
    size = 0.0
    if rate_mu > 0.0:
        size = min(1 + rate_one / rate_mu, 1 + 2 * against / (mass + 2), (1 - rate_one - rate_mu) / (n * rate_mu))
    return Strategy(
        good / good.sum(),
        good / good.sum() + size * bad / -bad.sum(),
        np.array([rate_sigma, damping, rate_path]),
        rate_one,
        rate_mu,
        math.sqrt(n) + 2 * n / (n + 2),
    )


class CatCMA:
    """One search distribution over a table's rows.

    Args:
        sampler: Of the table.
        seed: Key of the random numbers, below 2**63.

    Attributes:
        rows: Row of each of the n numeric coordinates, continuous ones first, (n,) int64.
        choices: Row of each of the c categorical distributions, (c,) int64.
        population: Candidates of a generation.
        sigma: Step size.
        mean: (n,) float64, unit coordinates.
        factor: Cholesky factor of the covariance, transposed, (n, n) float64.
        probabilities: Of every category, one row's after the other's, (K,) float64.
    """

    def __init__(self, sampler: Sampler, seed: int) -> None:
        self.sampler = sampler
        self.seed = seed
        table = sampler.table
        values = _grid_values(table)
        ordered = (table.kind <= 1) & (sampler.width > 0.0) & (values != 2)
        continuous = ordered & (values == 0)
        self.rows = np.concatenate([np.flatnonzero(continuous), np.flatnonzero(ordered & ~continuous)])
        self.choices = np.flatnonzero((table.kind > 1) | (values == 2))
        n = self.rows.size
        self.place = np.full(table.kind.shape[0], n, dtype=np.int64)
        self.place[self.rows] = np.arange(n)
        self.place[self.choices] = -1 - np.arange(self.choices.size)
        self._continuous = int(np.count_nonzero(continuous))
        self.sizes = np.maximum(table.ncat, values)[self.choices].astype(np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self._prior = _prior(table, self.choices)
        self.dimensions = n + int(np.count_nonzero(self.sizes > 1))
        discrete = max(self.dimensions - self._continuous, 1)
        self._alpha = 1.0 - CONFIDENCE ** (1.0 / discrete)
        self._floor = _floor(self._prior, self.sizes, self.offsets, self._alpha)
        self.smallest = 3 + int(2.0 * math.log(max(self.dimensions, 1)))
        self.restarts = self.doublings = self.evaluations_large = self.evaluations_small = self.regime = 0
        self._begin(np.full(n, 0.5), self.smallest, SIGMA)

    def draw(self, first: int, count: int) -> NDArray[np.float64]:
        """Candidates of the distribution that obey the rules, (D, count) float64.

        Args:
            first: Number of the first one, below MOST_DRAWS: the key of its random numbers.
            count: How many.

        Raises:
            CoreError: DX3010 as `Sampler.repair`.
        """
        sampler, table = self.sampler, self.sampler.table
        latents = np.empty((count, self.rows.size))
        categories = np.empty((count, self.choices.size), dtype=np.int64)
        cmaes.draw_latents(self.mean, self.factor, self.sigma, self.seed, first, latents)
        cmaes.draw_categories(self.probabilities, self.offsets, self.seed, first, categories)
        population = abi.empty_population(table.kind.shape[0], count)
        cmaes.compose(table, sampler.origin, sampler.width, self.place, latents, categories, sampler.stack, population)
        sampler.repair(population, self.seed, _REPAIR + first)
        encode.settle(table, population)
        return population

    def tell(
        self,
        population: NDArray[np.float64],
        numbers: NDArray[np.int64],
        losses: NDArray[np.float64],
        fresh: bool,
        absolute: bool,
    ) -> None:
        """Update the distribution by a generation, and begin again elsewhere when it has converged.

        Candidates are learnt from as they were evaluated, after bounds, rounding and repair, and need not be the
        distribution's own: a step that is too long for it is shortened.

        Args:
            population: (D, population) float64.
            numbers: What each was drawn as, (population,) int64; any number that no other has for one from elsewhere.
            losses: (population,) float64, lower is better; NaN = failed, the last in rank.
            fresh: Whether one of them was evaluated for this generation.
            absolute: Whether losses of different generations may be compared.
        """
        if self.regime:
            self.evaluations_small += losses.size
        else:
            self.evaluations_large += losses.size
        self.repeats = 0 if fresh else self.repeats + 1
        self.flat = self.flat + 1 if (losses == losses[0]).all() else 0
        self.stale += 1
        reached = np.fmin.reduce(losses)
        if not absolute or reached < self.best:
            self.stale = 0
            self.best = float(reached)
        if not np.isnan(reached):
            self._update(population, numbers, losses)
        if self._converged():
            self._restart()

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Everything that the next draw depends on, but for the table and the seed."""
        kept = {name: np.asarray(getattr(self, name), dtype=np.float64) for name in _ARRAYS}
        kept["factor"] = self.factor[np.triu_indices(self.rows.size)]
        kept["counters"] = np.array([getattr(self, name) for name in _COUNTERS], dtype=np.float64)
        kept["scalars"] = np.array([self.sigma, self.best])
        kept["sizes"] = self.sizes.astype(np.float64)
        return kept

    def lengths(self, sizes: NDArray[np.float64]) -> dict[str, int]:
        """Length of each of `arrays`, when the categorical rows had these sizes."""
        n, total = self.rows.size, int(sizes.sum())
        lengths = {
            "mean": n,
            "factor": n * (n + 1) // 2,
            "path_sigma": n,
            "path": n,
            "held": n,
            "trust": 2,
            "scalars": 2,
        }
        lengths |= {"probabilities": total, "direction": total, "counters": len(_COUNTERS), "sizes": self.sizes.size}
        return lengths

    def adopt(self, arrays: dict[str, NDArray[np.float64]]) -> None:
        """Go on from `arrays` of a table that was this one, or this one with shorter pools.

        New categories of a row share the weight that they have in its prior.
        """
        for name, value in zip(_COUNTERS, arrays["counters"], strict=True):
            setattr(self, name, int(value))
        self.sigma, self.best = arrays["scalars"].tolist()
        n = self.rows.size
        self.mean, self.path_sigma, self.path = (arrays[name].copy() for name in ("mean", "path_sigma", "path"))
        self.factor = np.zeros((n, n))
        self.factor[np.triu_indices(n)] = arrays["factor"]
        self.held = arrays["held"].astype(np.uint8)
        self.trust = arrays["trust"].copy()
        self.probabilities, self.direction = self._prior.copy(), np.zeros_like(self._prior)
        old = 0
        for row, (before, size) in enumerate(zip(arrays["sizes"].astype(np.int64), self.sizes, strict=True)):
            begin, end = self.offsets[row], self.offsets[row] + before
            share = 1.0 if before == size else 1.0 - self.probabilities[end : begin + size].sum()
            self.probabilities[begin:end] = share * arrays["probabilities"][old : old + before]
            self.direction[begin:end] = arrays["direction"][old : old + before]
            old += before
        self._strategy = strategy(max(n, 1), self.population)

    def flaw(self) -> str | None:
        """What cannot be true of a distribution, in words; for arrays that were read from somewhere."""
        numbers = (self.mean, self.path_sigma, self.path, self.factor, self.direction, self.trust)
        if not all(np.isfinite(each).all() for each in numbers) or not 0.0 < self.sigma < math.inf:
            return "its distribution holds a number that is not finite"
        if not (np.diagonal(self.factor) > 0.0).all() or not self.trust[0] > 0.0:
            return "its covariance is not positive definite"
        sums = np.add.reduceat(self.probabilities, self.offsets[:-1]) if self.choices.size else np.ones(1)
        if not (self.probabilities >= 0.0).all() or not (np.abs(sums - 1.0) < 1e-6).all():
            return "the probabilities of its categories do not sum to 1"
        if not 3 <= self.population <= MOST_POPULATION or min(getattr(self, name) for name in _COUNTERS) < 0:
            return "its counters are out of range"
        return None

    def _begin(self, mean: NDArray[np.float64], population: int, sigma: float) -> None:
        n = self.rows.size
        self.population = population
        self._strategy = strategy(max(n, 1), population)
        self.mean, self.factor, self.sigma = mean, np.eye(n), sigma
        self.path_sigma, self.path = np.zeros(n), np.zeros(n)
        self.held = np.zeros(n, dtype=np.uint8)
        self.probabilities, self.direction = self._prior.copy(), np.zeros_like(self._prior)
        self.trust = np.array([1.0, 0.0])
        self.generation = self.repeats = self.flat = self.stale = 0
        self.best = math.inf

    def _update(self, population: NDArray[np.float64], numbers: NDArray[np.int64], losses: NDArray[np.float64]) -> None:
        plan, count, n = self._strategy, losses.size, self.rows.size
        latents, categories = self._absorb(population)
        weights, signed = np.empty(count), np.empty(count)
        cmaes.weigh(losses, plan.weights, weights)
        cmaes.weigh(losses, plan.signed, signed)
        if n:
            sampler = self.sampler
            steps = (latents - self.mean) / self.sigma
            whitened = np.empty_like(steps)
            cmaes.whiten(self.factor, plan.longest, self.seed, numbers, steps, whitened)
            self.sigma = cmaes.move(
                steps,
                whitened,
                weights,
                plan.rates,
                self.held,
                self.sigma,
                self.generation,
                self.mean,
                self.path_sigma,
                self.path,
            )
            cmaes.adapt(steps, whitened, signed, self.path, plan.rate_one, plan.rate_mu, np.empty(n), self.factor)
            cmaes.keep_margin(
                sampler.table,
                sampler.origin,
                sampler.width,
                self.rows,
                self._alpha,
                self._spreads(),
                self.mean,
                self.path,
                self.factor,
                self.held,
            )
        cmaes.shift_categories(
            categories,
            weights,
            self.offsets,
            self._floor,
            np.empty_like(self._prior),
            self.direction,
            self.trust,
            self.probabilities,
        )
        self.generation += 1

    def _absorb(self, population: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        sampler, count = self.sampler, population.shape[1]
        latents = np.empty((count, self.rows.size))
        categories = np.empty((count, self.choices.size), dtype=np.int64)
        frame = sampler.table, sampler.origin, sampler.width
        cmaes.absorb(*frame, self.place, population, sampler.stack, latents, categories)
        return latents, categories

    def _spreads(self) -> NDArray[np.float64]:
        spreads = np.empty(self.rows.size)
        cmaes.measure(self.sigma, self.factor, spreads)
        return spreads

    def _converged(self) -> bool:
        patience = 30 + 30 * self.dimensions // self.population
        if self.repeats >= REPEATS or self.flat >= REPEATS + patience or self.stale >= patience:
            return True
        return self._continuous > 0 and bool((self._spreads()[: self._continuous] < NARROWEST).all())

    def _restart(self) -> None:
        """Elsewhere, in the regime that has used fewer evaluations: a doubled population, or a small narrow one."""
        self.restarts += 1
        self.regime = int(self.evaluations_small < self.evaluations_large)
        population, sigma = self.smallest << min(self.doublings, 8), SIGMA
        if self.regime:
            u, v = (streams.uniform(self.seed, _RESTART + self.restarts, _STREAM, i) for i in range(2))
            population = max(int(self.smallest * (0.5 * population / self.smallest) ** (u * u)), self.smallest)
            sigma *= 10.0 ** (-2.0 * v)
        else:
            self.doublings += 1
            population *= 2
        start = self.sampler.sample(1, self.seed, _RESTART + self.restarts)
        mean = self._absorb(start)[0][0]
        self._begin(np.where(np.isnan(mean), 0.5, mean), population, sigma)


def _grid_values(table: ParamTable) -> NDArray[np.int64]:
    """Values of each numeric row that lies on a grid, 0 for every other row."""
    gridded = (table.kind <= 1) & (table.step > 0.0)
    logarithmic = table.log_flag == 1
    lo, hi = (np.where(logarithmic, np.exp(np.where(logarithmic, end, 0.0)), end) for end in (table.lo, table.hi))
    steps = np.floor((hi - lo) / np.where(gridded, table.step, 1.0) + 1e-9)
    return np.where(gridded, np.minimum(steps, 2.0**60) + 1.0, 0.0).astype(np.int64)


def _prior(table: ParamTable, choices: NDArray[np.int64]) -> NDArray[np.float64]:
    parts = [
        np.exp(table.cat_logp[table.cat_off[d] : table.cat_off[d] + table.ncat[d]])
        if table.ncat[d]
        else np.array([0.5, 0.5])
        for d in choices
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _floor(
    prior: NDArray[np.float64], sizes: NDArray[np.int64], offsets: NDArray[np.int64], alpha: float
) -> NDArray[np.float64]:
    """Least probability of each category: the others of a row have alpha together; one without weight stays out."""
    floor = np.zeros_like(prior)
    for begin, size in zip(offsets, sizes, strict=False):
        possible = prior[begin : begin + size] > 0.0
        others = int(np.count_nonzero(possible)) - 1
        if others > 0:
            floor[begin : begin + size] = np.where(possible, alpha / others, 0.0)
    return floor
