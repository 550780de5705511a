"""Racing without a barrier: which candidate on which example next, and who is best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from dspex.core import paired, streams
from dspex.core.kernels import paired as kernels
from dspex.core.statistics import signed_rank_p_value
from dspex.errors import CoreError
from dspex.optimizers.halving import Board, Pair, first_open, halving_pair, hyperband_pair, hyperband_sizes, rungs
from dspex.optimizers.paired_race import entrants

Policy = Literal["auto", "halving", "hyperband", "top-two"]

SCHEMA_VERSION: Final = 1
FEW: Final = 10
"""Evaluations for each candidate from which top-two does better than halving; with 5 they are even."""
LEAST_SHARED: Final = 2
ROUNDS: Final = 16
"""Draws within which top-two looks for a challenger."""
_POLICIES: Final = ("auto", "halving", "hyperband", "top-two")
_FAILURES: Final = ("worst", "exclude")
_SEED_MASK: Final = (1 << 63) - 1
# Streams of random numbers apart from those of an optimizer with the same seed.
_STREAM: Final = 1 << 44
_WINS: Final = 1 << 43
_COIN: Final = -601


class _Settings(NamedTuple):
    budget: int | None
    policy: Policy
    eta: int
    lag: int | None
    gate: float | None
    seed: int
    failures: Literal["worst", "exclude"]
    worst: float


class Standing(NamedTuple):
    """What a race knows about one candidate.

    Attributes:
        candidate: Its id.
        examples: Examples that were reported for it, failed ones included.
        mean: Posterior mean of its score on an average example.
        deviation: Posterior standard deviation of that.
        best: Probability that it is the best of the race.
    """

    candidate: int
    examples: int
    mean: float
    deviation: float
    best: float


class Race:
    """Which candidate to evaluate on which example next, when evaluations run at the same time.

    All candidates see the examples in one order, each its own first ones, so their scores are paired. There is no
    barrier: `next` has work while the budget and the examples last. Candidates may be added at any time.

    **What decides.** Decision t (the t-th pair handed out) is a function of the arguments, the candidates added and
    the results that count by then.

    - With `lag=None` every result counts from its report on: the same sequence of calls gives the same pairs, and
      with several evaluations in flight that sequence depends on which of them is done first.
    - With `lag=n` decision t waits for, and uses, the results of decisions 0 to t - n and no later ones. At most n
      pairs are in flight, and `next` hands out fewer while one that it waits for is outstanding. Whatever the order of
      arrival and however many are asked for at a time, the pairs are the same; a serial run is `lag=1`. Add
      candidates, and report pairs that were not handed out, at the same decision (`race.asked`) for this to hold.

    `posterior()` and `winner()` use everything reported, and the order in which it came changes nothing.

    Policies:

    - `"halving"`: every rung gets an equal part of the budget, and a share 1/eta of its candidates goes on.
    - `"hyperband"`: brackets of halving, some of which begin with more examples.
    - `"top-two"`: every candidate gets a few examples, a quarter of the budget; then one of the two that are best in
      two draws from the paired posterior gets its next one.
    - `"auto"`: halving below `FEW` evaluations for each candidate, top-two from there.

    Where halving or Hyperband wait for results, or are decided before the budget is spent, top-two takes their turn.

    Args:
        candidates: Ids; at least one, none twice. The first is the incumbent.
        examples: How many examples there are, or their indices in the order to use.
        budget: Most pairs to hand out; None = all there are.
        policy: As above.
        eta: For halving and Hyperband.
        lag: As above.
        gate: Largest p-value, of the one-sided paired signed-rank test over the examples that both were scored on, at
            which another candidate takes the incumbent's place in `winner()`; the incumbent is then scored on every
            example before the others are. None = the best posterior mean wins.
        seed: Of the draws.
        failures: `"worst"` scores a failed example as `worst`, `"exclude"` leaves it out.
        worst: The score of a failed example.

    Raises:
        CoreError: DX3016 when an argument is out of range.

    Sources: Karnin, Koren & Somekh (2013); Li et al. (2018, 2020); Russo (2020).
    """

    def __init__(
        self,
        candidates: Sequence[int],
        examples: int | Sequence[int],
        *,
        budget: int | None = None,
        policy: Policy = "auto",
        eta: int = 2,
        lag: int | None = None,
        gate: float | None = None,
        seed: int = 0,
        failures: Literal["worst", "exclude"] = "worst",
        worst: float = 0.0,
    ) -> None:
        self.order, first = entrants(candidates, examples)
        if (
            eta < 2
            or (budget is not None and budget < 0)
            or (lag is not None and lag < 1)
            or (gate is not None and not 0.0 < gate < 1.0)
            or not math.isfinite(worst)
            or policy not in _POLICIES
            or failures not in _FAILURES
        ):
            raise CoreError(
                "DX3016",
                f"a race needs eta >= 2, budget >= 0, lag >= 1, gate in (0, 1), a finite worst, failures of "
                f"{_FAILURES} and a policy of {_POLICIES}, "
                f"got {eta}, {budget}, {lag}, {gate}, {worst}, {failures!r}, {policy!r}",
            )
        self._settings = _Settings(budget, policy, eta, lag, gate, seed & _SEED_MASK, failures, worst)
        self._places = {example: place for place, example in enumerate(self.order)}
        self._rows: dict[int, int] = {}
        self._turns: list[Pair] = []
        self._reports: dict[Pair, float | None] = {}
        self._counting: list[Pair] = []
        """Pairs whose results count for decisions, in the order in which they came to count."""
        self._landed = 0
        """Pairs that were handed out and reported."""
        self._waited = 0
        """Decisions whose results count; with a lag alone."""
        shape = (len(self.order), 0)
        self._scores, self._settled_scores = np.empty(shape), np.empty(shape)
        self._handed, self._known = np.empty(shape, dtype=np.bool_), np.empty(shape, dtype=np.bool_)
        self._settled = 0
        self._model: tuple[tuple[int, int], NDArray[np.int64], paired.Model | None] | None = None
        for candidate in first:
            self.add(candidate)

    # --- what is asked --------------------------------------------------------------------------

    @property
    def candidates(self) -> tuple[int, ...]:
        """Ids in the order in which they were added."""
        return tuple(self._rows)

    @property
    def asked(self) -> int:
        """Pairs handed out so far: the number of the next decision."""
        return len(self._turns)

    @property
    def budget(self) -> int:
        """Most pairs to hand out."""
        if self._settings.budget is not None:
            return self._settings.budget
        return len(self._rows) * len(self.order)

    @property
    def policy(self) -> Policy:
        """The policy in use: `"auto"` resolved for the candidates so far."""
        if self._settings.policy != "auto":
            return self._settings.policy
        return "halving" if self.budget < FEW * len(self._rows) else "top-two"

    @property
    def pending(self) -> tuple[Pair, ...]:
        """(candidate, example) pairs that were handed out and not reported, in the order of handing out."""
        return tuple(self._named(pair) for pair in self._turns if pair not in self._reports)

    @property
    def done(self) -> bool:
        """Whether nothing is left to hand out and everything that was is reported."""
        left = len(self._turns) < self.budget and not self._handed.all()
        return self._landed == len(self._turns) and not left

    def add(self, candidate: int) -> None:
        """Let another candidate take part from now on.

        Raises:
            CoreError: DX3016 when it takes part already.
        """
        if candidate in self._rows:
            raise CoreError("DX3016", f"candidate {candidate} takes part in this race already")
        self._rows[candidate] = len(self._rows)
        column = (len(self.order), 1)
        self._scores = np.hstack([self._scores, np.full(column, np.nan)])
        self._settled_scores = np.hstack([self._settled_scores, np.full(column, np.nan)])
        self._handed = np.hstack([self._handed, np.zeros(column, dtype=np.bool_)])
        self._known = np.hstack([self._known, np.zeros(column, dtype=np.bool_)])

    def next(self, k: int = 1) -> list[tuple[int, int]]:
        """Up to `k` (candidate, example) pairs to evaluate now.

        Fewer when the budget or the examples are used up, or, with a lag, while a result is awaited.
        """
        pairs: list[tuple[int, int]] = []
        while len(pairs) < k and len(self._turns) < self.budget and self._caught_up():
            pair = self._choose()
            if pair is None:
                break
            self._turns.append(pair)
            self._handed[pair[1], pair[0]] = True
            pairs.append(self._named(pair))
        return pairs

    def report(self, candidate: int, example: int, score: float | None) -> None:
        """Record one result; None = the example failed. A pair that was not handed out may be reported too, once.

        Raises:
            CoreError: DX3017 for an unknown pair, a second report with another score, or a score that is not finite.
        """
        if candidate not in self._rows or example not in self._places:
            raise CoreError("DX3017", f"candidate {candidate}, example {example} is not part of this race")
        if score is not None and not math.isfinite(score):
            raise CoreError("DX3017", f"a score is finite or None, got {score}", fix="report a failure as None")
        pair = self._rows[candidate], self._places[example]
        if pair in self._reports:
            if self._reports[pair] != score:
                raise CoreError(
                    "DX3017",
                    f"candidate {candidate}, example {example} was {self._reports[pair]}, now reported as {score}",
                )
            return
        self._reports[pair] = score
        row, place = pair
        if not self._handed[place, row]:
            self._handed[place, row] = True
            self._count(pair)
            return
        self._landed += 1
        if self._settings.lag is None:
            self._count(pair)

    # --- what is known --------------------------------------------------------------------------

    def posterior(self, draws: int = 4096) -> list[Standing]:
        """Mean, deviation and probability of being the best, of every candidate in the order of adding.

        The model is a candidate's effect, an example's effect and noise, so candidates that were scored on different
        examples compare fairly; one with few scores is drawn towards the others. Where no two scores differ, the
        deviations are 0 and all are the best with equal probability; without any score means and deviations are NaN.

        Args:
            draws: Joint draws from which the probabilities are counted.
        """
        n = len(self._rows)
        counts = [0] * n
        for row, _ in self._reports:
            counts[row] += 1
        model = self._fitted()
        if model is None:
            values = [value for pair in self._reports if (value := self._value(pair)) is not None]
            mean, deviation = (values[0], 0.0) if values else (math.nan, math.nan)
            return [Standing(id, counts[row], mean, deviation, 1.0 / n) for id, row in self._rows.items()]
        means = model.centre + model.scale * model.mean
        deviations = paired.deviations(model)
        best = paired.best_shares(model, draws, self._settings.seed, _STREAM + _WINS)
        return [
            Standing(id, counts[row], float(means[row]), float(deviations[row]), float(best[row]))
            for id, row in self._rows.items()
        ]

    def winner(self) -> int:
        """The candidate with the best posterior mean, the one added first among equals; or the incumbent, by the gate.

        Raises:
            CoreError: DX3015 when nothing was reported, or nothing but failures that are left out.
        """
        told = {row for row, place in self._reports if self._value((row, place)) is not None}
        if not told:
            raise CoreError("DX3015", "nothing was reported yet, or every example failed", fix="report results first")
        model = self._fitted()
        leader = min(told)
        if model is not None:
            # Rounded, so that candidates with equal scores tie.
            rounded = {row: round(float(model.mean[row]), 9) for row in sorted(told)}
            leader = max(rounded, key=lambda row: (rounded[row], -row))
        gate = self._settings.gate
        if gate is not None and 0 in told and leader != 0 and self._p_value(leader) > gate:
            leader = 0
        return self.candidates[leader]

    def scores(self, candidate: int) -> list[tuple[int, float | None]]:
        """(example, score) of a candidate in the fixed order; None = failed."""
        row = self._rows[candidate]
        found = sorted((place, score) for (owner, place), score in self._reports.items() if owner == row)
        return [(self.order[place], score) for place, score in found]

    # --- its state ------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as JSON-able data; `Race.resume(state)` decides as this race would."""
        return {
            "schema_version": SCHEMA_VERSION,
            "settings": self._settings._asdict(),
            "examples": list(self.order),
            "candidates": list(self._rows),
            "turns": [list(pair) for pair in self._turns],
            "reports": [[*pair, score] for pair, score in self._reports.items()],
            "counting": [list(pair) for pair in self._counting],
            "waited": self._waited,
        }

    @classmethod
    def resume(cls, state: Mapping[str, Any]) -> Self:
        """A race that goes on from `state`; pairs that were handed out and not reported are in `pending`.

        Raises:
            CoreError: DX3035 when it is not the state of a race.
        """
        try:
            if state["schema_version"] != SCHEMA_VERSION:
                raise CoreError("DX3035", f"version {state['schema_version']!r} of a race's state is not known")
            if not all(isinstance(state[name], list) for name in ("candidates", "turns", "reports", "counting")):
                raise TypeError("a part of it is no list")
            settings = _Settings(**state["settings"])
            race = cls(state["candidates"], state["examples"], **settings._asdict())
            race._turns = [_pair(each, race) for each in state["turns"]]
            for row, place, score in state["reports"]:
                if score is not None and not math.isfinite(score):
                    raise ValueError(f"score {score}")
                race._reports[_pair((row, place), race)] = score
            race._landed = sum(pair in race._reports for pair in race._turns)
            for pair in (*race._turns, *race._reports):
                race._handed[pair[1], pair[0]] = True
            for each in state["counting"]:
                race._count(_pair(each, race))
            race._waited = int(state["waited"])
            counts = len(set(race._turns)), len(set(race._counting))
            if not 0 <= race._waited <= len(race._turns) or counts != (len(race._turns), len(race._counting)):
                raise ValueError("its counts contradict each other")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CoreError(
                "DX3035", f"this is not the state of a race: {error!r}", fix="use what Race.state() returned"
            ) from error
        return race

    # --- how it decides -------------------------------------------------------------------------

    def _named(self, pair: Pair) -> tuple[int, int]:
        return self.candidates[pair[0]], self.order[pair[1]]

    def _value(self, pair: Pair) -> float | None:
        score = self._reports[pair]
        return self._settings.worst if score is None and self._settings.failures == "worst" else score

    def _count(self, pair: Pair) -> None:
        """From now on the result of `pair` is known to decisions."""
        self._counting.append(pair)
        value = self._value(pair)
        self._known[pair[1], pair[0]] = True
        self._scores[pair[1], pair[0]] = math.nan if value is None else value

    def _caught_up(self) -> bool:
        """With a lag: let the results of all decisions but the last `lag - 1` count, if they are there."""
        lag = self._settings.lag
        while lag is not None and self._waited <= len(self._turns) - lag:
            pair = self._turns[self._waited]
            if pair not in self._reports:
                return False
            self._count(pair)
            self._waited += 1
        return True

    def _choose(self) -> Pair | None:
        """Row and place of the next pair, or None when all were handed out."""
        board = Board(self._scores, self._known, self._handed)
        n, examples = len(self._rows), len(self.order)
        settings, pair = self._settings, None
        if self.policy == "halving":
            pair = halving_pair(board, np.arange(n), rungs(n, examples, self.budget, settings.eta), settings.eta)
        elif self.policy == "hyperband":
            pair = hyperband_pair(board, hyperband_sizes(n, settings.eta), self.budget, settings.eta)
        if pair is None:
            pair = self._top_two(board)
        if pair is not None and settings.gate is not None and not self._handed[pair[1], 0]:
            return 0, pair[1]
        return pair

    def _shared(self) -> int:
        """Examples that every candidate is scored on, whatever its scores are."""
        return min(len(self.order), max(LEAST_SHARED, self.budget // (4 * len(self._rows))))

    def _top_two(self, board: Board) -> Pair | None:
        n = len(self._rows)
        pair = first_open(board, np.arange(n), self._shared())
        if pair is not None:
            return pair
        open_rows = np.flatnonzero(~self._handed.all(axis=0))
        if not open_rows.size:
            return None
        rows, model = self._recent()
        if model is None or rows.size < 2:
            row = int(open_rows[np.argmin(self._handed[:, open_rows].sum(axis=0))])
        else:
            row = self._drawn(rows, model, open_rows)
        return row, int(np.argmin(self._handed[:, row]))

    def _drawn(self, rows: NDArray[np.int64], model: paired.Model, open_rows: NDArray[np.int64]) -> int:
        """One of the best two of two draws from the posterior; of those that have examples left."""
        seed, step = self._settings.seed, _STREAM + len(self._turns)
        pair = np.empty(2, dtype=np.int64)
        kernels.top_two(model.factor, model.mean, seed, step, ROUNDS, np.empty(rows.size), pair)
        if streams.below(2, seed, step, _COIN, 0):
            pair = pair[::-1]
        for index in pair.tolist():
            if rows[index] in open_rows:
                return int(rows[index])
        believed = {int(row): mean for row, mean in zip(rows, model.mean.tolist(), strict=True)}
        return max(open_rows.tolist(), key=lambda row: (believed.get(row, -math.inf), -row))

    def _recent(self) -> tuple[NDArray[np.int64], paired.Model | None]:
        """Rows with a score and their posterior; with many candidates it is a few results old."""
        n = len(self._rows)
        every = max(1, n // 16)
        upto = len(self._counting) // every * every
        if self._model is None or self._model[0] != (n, upto):
            for row, place in self._counting[self._settled : upto]:
                self._settled_scores[place, row] = self._scores[place, row]
            self._settled = upto
            rows = np.flatnonzero(~np.isnan(self._settled_scores).all(axis=0))
            model = paired.fit(self._settled_scores[:, rows], self._shared(), wide=True)
            self._model = (n, upto), rows, model
        return self._model[1], self._model[2]

    def _fitted(self) -> paired.Model | None:
        """The posterior from everything reported."""
        scores = np.full(self._scores.shape, np.nan)
        for pair in self._reports:
            value = self._value(pair)
            if value is not None:
                scores[pair[1], pair[0]] = value
        return paired.fit(scores, self._shared(), wide=False)

    def _p_value(self, challenger: int) -> float:
        """Of the hypothesis that the challenger is not better than the incumbent."""
        both = [
            (own, value)
            for place in range(len(self.order))
            if (0, place) in self._reports
            and (challenger, place) in self._reports
            and (own := self._value((0, place))) is not None
            and (value := self._value((challenger, place))) is not None
        ]
        if not both:
            return 1.0
        return signed_rank_p_value([pair[0] for pair in both], [pair[1] for pair in both], alternative="greater")


def _pair(values: Sequence[int], race: Race) -> Pair:
    row, place = (int(each) for each in values)
    if not 0 <= row < len(race.candidates) or not 0 <= place < len(race.order):
        raise ValueError(f"the pair {row}, {place} lies outside the race")
    return row, place
