"""Bayesian optimisation with Gaussian processes over mixed rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import rng
from dspex.core.climb import Climber, Effort, Score
from dspex.core.gaussian import Features, Prior
from dspex.core.kernels import acquisition
from dspex.core.surrogate import Fit, Surrogate
from dspex.optimizers import snapshot
from dspex.optimizers.optimizer import Optimizer

Array = NDArray[np.float64]

_RANKED: Final = 256
_DESIGN_DRAWS: Final = 64
_DIRECTIONS: Final = 64
# Streams of random numbers, apart from those of rows.
_RADIUS: Final = 1 << 40
_ANGLE: Final = 1 << 41
_BOUND: Final = 1.96


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the search; of the defaults, `cycle` was chosen among neighbours by `benchmarks.quality`.

    Attributes:
        prior: Of the hyperparameters.
        effort: Of maximising the acquisition.
        startup: Told trials before the model is used.
        tops: Best trials around which good ones are looked for.
        cycle: Of so many turns …
        locals: … how many look around the best trials alone.
    """

    prior: Prior = field(default_factory=Prior)
    effort: Effort = field(default_factory=Effort)
    startup: int = 8
    tops: int = 5
    cycle: int = 3
    locals: int = 1


class GP(Optimizer):
    """Asks where the expected improvement on the best posterior mean is highest, everywhere and near the best in turn.

    Several objectives: each has a process of its own, and what counts is by how much lower confidence bounds would
    enlarge the volume that the trials dominate.

    Sources: Ament et al. (2023) for the acquisition; Eriksson et al. (2019) and Wan et al. (2021) for local turns over
    mixed spaces; Ponweiser et al. (2008) for the volume of confidence bounds.
    """

    name = "gp"

    _settings = Settings()

    def configure(self, settings: Settings) -> None:
        """Use other settings from now on; they are not part of the state."""
        with self._lock:
            self._settings = settings
            self._prepare()

    def regret_bound(self) -> float:
        """As for every optimizer; NaN with several objectives and before the model is used."""
        with self._lock:
            if len(self.objectives) > 1 or not self._begun():
                return math.nan
            model = self._model()
            tops = self._tops(model, model.believed[0])

            def promise(columns: Array) -> Array:
                mean, variance = model.posterior(columns)
                return _BOUND * np.sqrt(variance[0]) - mean[0]

            _, values = self._climber.search(promise, tops, self.seed, self._history.count, False)
            low, best = model.warps[0].inverse(np.array([-values[0], model.believed[0].min()]))
            return max(float(best - low), 0.0)

    def _prepare(self) -> None:
        sampler = self._lowered.sampler
        self._surrogate = Surrogate(Features(sampler), len(self.objectives), self._settings.prior)
        self._climber = Climber(sampler, self._settings.effort)
        self._fit = self._next_fit = self._surrogate.unfitted
        self._changes = 0
        self._modelled = (-1, -1)

    def _observe(self, index: int, again: bool) -> None:
        del index, again
        self._changes += 1

    def _search_state(self) -> dict[str, Any]:
        return {"thetas": snapshot.save_array(self._fit.thetas), "fitted": self._fit.trials}

    def _restore(self, state: dict[str, Any]) -> None:
        trials, shape = state.get("fitted"), self._fit.thetas.shape
        if state.keys() != {"thetas", "fitted"} or type(trials) is not int or not 0 <= trials <= self._history.count:
            snapshot.reject(f"the search of gp keeps hyperparameters and their age, it has {sorted(state)}")
        thetas = snapshot.load_array(state["thetas"], "<f8", self._fit.thetas.size, "thetas").reshape(shape)
        if not (np.abs(thetas) < 50.0).all():
            snapshot.reject("its hyperparameters are out of range")
        self._fit = self._next_fit = Fit(thetas, trials)

    def _ranked(self, step: int) -> Array:
        if not self._begun():
            return self._design(step)
        model = self._model()
        # Kept by asking alone: what is recommended in between must not change what is asked.
        self._fit = self._next_fit
        local = step % self._settings.cycle < self._settings.locals
        if len(self.objectives) == 1:
            tops, score = self._tops(model, model.believed[0]), _improvement(model)
        else:
            volume = Volume(model, self.seed, step)
            tops, score = self._tops(model, volume.one_way()), volume.score
        return self._climber.search(score, tops, self.seed, step, local)[0][:, :_RANKED]

    def _believed(self) -> Array:
        if not self._begun():
            return self._history.estimates()
        model = self._model()
        losses = self._history.estimates()
        told = np.flatnonzero(~np.isnan(losses[0]))
        means, _ = model.posterior(np.ascontiguousarray(self._history.columns[:, told]))
        for m, warp in enumerate(model.warps):
            losses[m, told] = warp.inverse(means[m])
        return losses

    def _startup(self) -> int:
        # An eighth of a short search, so that most of it learns.
        most = self._settings.startup
        return most if self.budget is None else min(most, max(3, self.budget // 8))

    def _begun(self) -> bool:
        return self._told() >= self._startup()

    def _design(self, step: int) -> Array:
        """Draws from the prior, the one farthest from all trials first."""
        draws = self._lowered.sampler.sample(_DESIGN_DRAWS, self.seed, step)
        features = self._surrogate.features
        new = features.of(draws)
        nearest = np.full(draws.shape[1], math.inf)
        for old in features.of(np.ascontiguousarray(self._history.columns[:, max(0, step - 64) : step])).T:
            gaps = new - old[:, np.newaxis]
            gaps[features.numbers :] = 0.5 * (gaps[features.numbers :] != 0.0)
            nearest = np.minimum(nearest, np.square(gaps).sum(axis=0))
        return draws[:, np.argsort(-nearest, kind="stable")]

    def _model(self) -> Surrogate:
        now = (self._changes, self._history.count)
        if self._modelled != now:
            self._next_fit = self._surrogate.condition(self._history, self._fit)
            self._modelled = now
        return self._surrogate

    def _tops(self, model: Surrogate, merit: Array) -> Array:
        """The told trials of the model with the lowest merit."""
        order = np.argsort(merit, kind="stable")[: self._settings.tops]
        return np.ascontiguousarray(self._history.columns[:, model.told[order]])


def _improvement(model: Surrogate) -> Score:
    best = float(model.believed[0].min())

    def score(columns: Array) -> Array:
        mean, variance = model.posterior(columns)
        out = np.empty(columns.shape[1])
        acquisition.log_expected_improvement(mean[0], variance[0], best, out)
        return out

    return score


class Volume:
    """The dominated volume, as the mean over random directions of how far trials reach from the worst corner.

    Any number of objectives costs the same for each direction. Source: Zhang & Golovin (2020), lemma 5.
    """

    def __init__(self, model: Surrogate, seed: int, step: int) -> None:
        self._model = model
        worst = model.believed.max(axis=1, keepdims=True)
        self._corner = worst + 0.1 * (worst - model.believed.min(axis=1, keepdims=True))
        objectives = worst.size
        radius, angle = np.empty(objectives * _DIRECTIONS), np.empty(objectives * _DIRECTIONS)
        rng.fill_uniform(seed, step, _RADIUS, 0, radius)
        rng.fill_uniform(seed, step, _ANGLE, 0, angle)
        normal = np.abs(np.sqrt(-2.0 * np.log(1.0 - radius)) * np.cos(2.0 * math.pi * angle)) + 1e-6
        ways = normal.reshape(objectives, _DIRECTIONS)
        self._ways = ways / np.sqrt(np.square(ways).sum(axis=0))
        self._reached = self._reach(model.believed)
        self._farthest = self._reached.max(axis=1, keepdims=True)

    def one_way(self) -> Array:
        """Trials ordered by a single direction, lower is farther."""
        return -self._reached[0]

    def score(self, columns: Array) -> Array:
        """By how much the volume would grow; where it would not, how near candidates come to that."""
        mean, variance = self._model.posterior(columns)
        reach = self._reach(mean - np.sqrt(variance))
        power = self._corner.size
        gain: Array = np.maximum(np.maximum(reach, 0.0) ** power - self._farthest**power, 0.0).mean(axis=0)
        short: Array = (reach - self._farthest).max(axis=0)
        return np.where(gain > 0.0, gain, short)

    def _reach(self, losses: Array) -> Array:
        """(M, n) to (directions, n): the distance from the corner at which a direction leaves what losses dominate."""
        gaps: Array = (self._corner - losses)[:, np.newaxis] / self._ways[:, :, np.newaxis]
        return gaps.min(axis=0)
