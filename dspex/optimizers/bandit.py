"""Thompson sampling over categories, cells of intervals, or whole configurations."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import streams
from dspex.core.arms import Arms, enumerated
from dspex.core.history import FAILED, TOLD, History
from dspex.core.kernels import bandit
from dspex.optimizers.optimizer import Optimizer

SMALL: Final = 300
"""Configurations up to which each is an arm of its own."""
STARTUP: Final = 4
WINDOW: Final = 4096
"""Latest trials that posteriors are made from, so that asking costs the same however many there were."""
DRAWN: Final = 16
"""Candidates drawn for each ask; as many again differ from these in one row."""
ROUNDS: Final = 32
_STEP: Final = 1 << 43
_WEIGHTS, _ROW, _COIN = -600, -601, -602
_LEAST = 1e-3


class Bandit(Optimizer):
    """Every categorical row is a bandit over its categories, every numeric one over cells of its interval.

    Rows are judged independently, each only by trials in which it was active. Scores in [0, 1] that are told with a
    number of examples give an arm a beta posterior, pooled over its trials and widened by how much trials differ;
    other values a normal one with unknown variance. In a cell of an interval places near to its best trial are
    preferred. A space of few configurations has one arm for each, whose prior is what its rows' arms predict, and
    top-two Thompson sampling; told values of one configuration are pooled. With several objectives every ask weighs
    them at random.

    Sources: Thompson (1933); Russo (2020); random Chebyshev weights: Knowles (2006).
    """

    name = "bandit"

    def _prepare(self) -> None:
        self._arms = Arms(self._lowered.sampler)
        self._whole = enumerated(self._lowered.sampler, SMALL)

    def _ranked(self, step: int) -> NDArray[np.float64]:
        # Streams apart from the sampler's own.
        key = step + _STEP
        last = self._history.count
        window = slice(max(0, last - WINDOW), last)
        values = self._values(key)[window]
        if np.count_nonzero(~np.isnan(values)) < STARTUP:
            return self._begin(step)
        columns = self._history.columns[:, window]
        arms = self._arms.of(columns)
        kind, parameters = self._posteriors(arms, values, window)
        if self._whole is not None:
            return self._rank_whole(self._whole, columns, values, parameters[0], key)
        near, spread = self._good_places(columns, arms, values)
        return self._arms.columns(self._draw(kind, parameters, key), near, spread, self.seed, key)

    # --- values ---------------------------------------------------------------------------------

    def _values(self, key: int) -> NDArray[np.float64]:
        """One standardised value for each trial, higher is better, a failure as the worst; NaN = pending."""
        losses = self._history.estimates()
        if losses.shape[0] > 1:
            losses = self._weighed(losses, key)
        loss: NDArray[np.float64] = losses[0]
        told = ~np.isnan(loss)
        if not told.any():
            return loss
        spread = float(loss[told].std())
        values: NDArray[np.float64] = (float(loss[told].mean()) - loss) / (spread if spread > 0.0 else 1.0)
        values[self._history.status[: loss.size] == FAILED] = values[told].min()
        return values

    def _weighed(self, losses: NDArray[np.float64], key: int) -> NDArray[np.float64]:
        told = losses[:, ~np.isnan(losses[0])]
        if not told.size:
            return losses[:1]
        low, high = told.min(axis=1, keepdims=True), told.max(axis=1, keepdims=True)
        reached = (losses - low) / np.where(high > low, high - low, 1.0)
        weights = -np.log([1.0 - streams.uniform(self.seed, key, _WEIGHTS, i) for i in range(losses.shape[0])])
        parts = (weights / weights.sum())[:, np.newaxis] * reached
        return (parts.max(axis=0) + 0.05 * parts.sum(axis=0))[np.newaxis]

    def _believed(self) -> NDArray[np.float64]:
        history = self._history
        if len(self._seen) == history.count:
            return super()._believed()
        groups: dict[bytes, list[int]] = {}
        for index in range(history.count):
            groups.setdefault((history.columns[:, index] + 0.0).tobytes(), []).append(index)
        pooled = History(self._lowered.table, history.objectives, max(len(groups), 1))
        for members in groups.values():
            column = pooled.append(history.columns[:, members[0]])
            told = [index for index in members if history.status[index] == TOLD]
            if told:
                _pool(history, told, pooled, column)
        believed = pooled.estimates()
        result = np.full((history.objectives, history.count), np.nan)
        for column, members in enumerate(groups.values()):
            for index in members:
                if history.status[index] == TOLD:
                    result[:, index] = believed[:, column]
        return result

    # --- posteriors -----------------------------------------------------------------------------

    def _posteriors(
        self, arms: NDArray[np.int64], values: NDArray[np.float64], window: slice
    ) -> tuple[int, NDArray[np.float64]]:
        """The posterior of every row's every arm: its kind and parameters."""
        total = int(self._arms.ends[-1])
        shares = self._shares(window)
        parameters = np.zeros((4, total))
        if shares is None:
            moments = self._moments(arms, values, np.ones(values.size))
            parameters[1], parameters[2], parameters[3] = 1.0, 1.5, 1.0
            bandit.update_student(parameters, *moments, parameters)
            return bandit.STUDENT, parameters
        share, examples = shares
        counts, means, _ = self._moments(arms, share, examples)
        mean = min(max(float(np.nansum(share * examples) / np.nansum(examples)), 0.05), 0.95)
        parameters[0], parameters[1] = 2.0 * mean, 2.0 * (1.0 - mean)
        bandit.update_beta(parameters, counts * means, counts * (1.0 - means), parameters)
        return bandit.BETA, parameters

    def _moments(
        self, arms: NDArray[np.int64], values: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        total = int(self._arms.ends[-1])
        counts, means, squares = np.empty(total), np.empty(total), np.empty(total)
        rows = arms.shape[0]
        bandit.pool(arms.reshape(-1), np.tile(values, rows), np.tile(weights, rows), counts, means, squares)
        return counts, means, squares

    def _shares(self, window: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Share of successes of each trial and the examples that it is worth; None when values are not shares."""
        history = self._history
        status, losses = history.status[window], history.losses[0, window]
        told, failed = status == TOLD, status == FAILED
        examples = history.examples[window]
        if history.objectives > 1 or not (examples[told] > 0.0).all() or self._whole is not None:
            return None
        low, high = float(losses[told].min()), float(losses[told].max())
        if not (low >= -1.0 and high <= 0.0) and not (low >= 0.0 and high <= 1.0):
            return None
        share = np.where(failed, 0.0, -losses if low < 0.0 or self._signs[0] < 0.0 else 1.0 - losses)
        # The intraclass correlation by moments: how much more trials differ than their examples explain.
        chance = float((examples[told] * share[told]).sum()) / float(examples[told].sum())
        inverse = float((1.0 / examples[told]).mean())
        noise = max(chance * (1.0 - chance), _LEAST)
        between = (float(np.square(share[told] - chance).mean()) / noise - inverse) / max(1.0 - inverse, _LEAST)
        between = min(max(between, 0.01), 1.0)
        worth = examples / (1.0 + np.maximum(examples - 1.0, 0.0) * between)
        worth[failed] = float(worth[told].mean())
        worth[~told & ~failed] = 0.0
        return share, worth

    # --- candidates -----------------------------------------------------------------------------

    def _draw(self, kind: int, parameters: NDArray[np.float64], key: int) -> NDArray[np.int64]:
        """The arms of each row that were the best in one draw, then the same with one row drawn anew."""
        arms = self._arms
        chosen = np.empty((arms.counts.size, DRAWN), dtype=np.int64)
        bandit.propose(kind, parameters, arms.ends, self.seed, key, np.empty(int(arms.ends[-1])), chosen)
        # What is asked when all of the first ones were asked before.
        varied = chosen.copy()
        for i in range(DRAWN):
            row = streams.below(arms.counts.size, self.seed, key, _ROW, i)
            varied[row, i] = streams.below(int(arms.counts[row]), self.seed, key, _ROW, DRAWN + i)
        return np.hstack([chosen, varied])

    def _good_places(
        self, columns: NDArray[np.float64], arms: NDArray[np.int64], values: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Place of the best trial of each arm and how widely to look around it: less, the more trials it had."""
        total = int(self._arms.ends[-1])
        units = self._arms.units(columns)
        # In ascending order of values, so that what is written last to an arm is its best; NaN goes to the end.
        order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]
        places, owners = units[:, order].reshape(-1), arms[:, order].reshape(-1)
        active = owners >= 0
        near = np.full(total, np.nan)
        near[owners[active]] = places[active]
        count = np.bincount(owners[active], minlength=total)
        return near, 0.5 / self._arms.counts.repeat(self._arms.counts) / np.sqrt(1.0 + count)

    def _begin(self, step: int) -> NDArray[np.float64]:
        """Before anything is known: draws from the prior, or all configurations in a random order."""
        if self._whole is None:
            return self._lowered.sampler.sample(STARTUP, self.seed, step)
        order = streams.shuffled(range(self._whole.shape[1]), self.seed, step + _STEP)
        return self._whole[:, order]

    def _rank_whole(
        self,
        whole: NDArray[np.float64],
        columns: NDArray[np.float64],
        values: NDArray[np.float64],
        effects: NDArray[np.float64],
        key: int,
    ) -> NDArray[np.float64]:
        """All configurations by a draw from their posteriors, one of the top two first."""
        count = whole.shape[1]
        if count == 1:
            return whole
        predicted = self._predicted(whole, effects)
        places = {column.tobytes(): index for index, column in enumerate((whole + 0.0).T)}
        arms = np.array([places.get(column.tobytes(), -1) for column in (columns + 0.0).T], dtype=np.int64)
        counts, means, squares = np.empty(count), np.empty(count), np.empty(count)
        bandit.pool(arms, values, np.ones(values.size), counts, means, squares)
        tried = counts > 0.0
        rest = float(np.square(means[tried] - predicted[tried]).mean()) if tried.any() else 1.0
        posterior = np.zeros((4, count))
        posterior[0], posterior[1] = predicted, 1.0 / max(rest, _LEAST)
        noise = max(self._noise(values, int(np.count_nonzero(tried)), squares), _LEAST)
        bandit.update_normal(posterior, counts * means, counts, noise, posterior)
        draws, pair = np.empty(count), np.empty(2, dtype=np.int64)
        bandit.top_two(bandit.NORMAL, posterior, self.seed, key, ROUNDS, draws, pair)
        if streams.below(2, self.seed, key, _COIN, 0):
            pair = pair[::-1]
        bandit.posterior_draws(bandit.NORMAL, posterior, self.seed, key, 0, draws)
        rest_of = np.argsort(-draws, kind="stable")
        return whole[:, np.concatenate([pair, rest_of[~np.isin(rest_of, pair)]])]

    def _predicted(self, whole: NDArray[np.float64], effects: NDArray[np.float64]) -> NDArray[np.float64]:
        """Value of each configuration when its rows' arms add up."""
        arms = self._arms.of(whole)
        return np.where(arms >= 0, effects[np.maximum(arms, 0)], 0.0).sum(axis=0)

    def _noise(self, values: NDArray[np.float64], tried: int, squares: NDArray[np.float64]) -> float:
        """Variance of one standardised value: what was told, or what repeated configurations show."""
        history = self._history
        told = np.flatnonzero(history.status[: history.count] == TOLD)
        losses, variance = history.losses[0, told], history.noise(0, told)
        spread = float(losses.var())
        repeated = int(np.count_nonzero(~np.isnan(values))) - tried
        shown = float(squares.sum()) / repeated if repeated > 0 else 0.0
        return max(float(variance.mean()) / spread if spread > 0.0 else 0.0, shown)


def _pool(history: History, told: list[int], pooled: History, column: int) -> None:
    """Record the trials `told` of one configuration as one trial of `pooled`."""
    examples, variances, losses = history.examples[told], history.variances[:, told], history.losses[:, told]
    if (examples > 0.0).all():
        weights = examples / examples.sum()
        pooled.record(column, (losses * weights).sum(axis=1), 0.0, int(examples.sum()))
        return
    if (variances > 0.0).all():
        weights = 1.0 / variances[0]
        pooled.record(column, (losses * weights).sum(axis=1) / weights.sum(), 1.0 / float(weights.sum()))
        return
    noise = float(losses.var(axis=1, ddof=1).mean()) / len(told) if len(told) > 1 else float(variances[0, 0])
    pooled.record(column, losses.mean(axis=1), noise)
