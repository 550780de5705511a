"""What every optimizer shares: identity of candidates, the history, telling, recommending, state."""

from __future__ import annotations

import math
import operator
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self, cast, overload

import numpy as np
from numpy.typing import NDArray

from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core import pareto
from dspex.core.history import PENDING, History
from dspex.core.kernels import encode
from dspex.errors import CoreError
from dspex.optimizers import snapshot
from dspex.program.space import Space, broken_rule

Direction = Literal["maximize", "minimize"]

MOST_OBJECTIVES = 16
_DIRECTIONS = frozenset(("maximize", "minimize"))
_SEED_MASK = (1 << 63) - 1
_FRESH_DRAWS = 256


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something to evaluate.

    Attributes:
        id: Its number, counted from 0 in the order of asking.
        config: Every Variable's value by name, inactive ones at their defaults.
    """

    id: int
    config: dict[str, Any]


class Optimizer(ABC):
    """Ask, tell, recommend. Safe to call from several threads; results depend on the order of calls alone.

    The default configuration is asked first, then what was enqueued. A candidate that was asked before, by its active
    values, is not asked again while others remain; pending candidates count as asked.

    Args:
        space: The Variables and rules.
        seed: Any integer.
        objectives: The direction of each objective, one or several.
        budget: Trials planned, or None.
    """

    name: ClassVar[str]

    def __init__(
        self,
        space: Space | Lowered,
        *,
        seed: int = 0,
        objectives: Sequence[Direction] = ("maximize",),
        budget: int | None = None,
    ) -> None:
        if isinstance(objectives, str) or not 1 <= len(objectives) <= MOST_OBJECTIVES or set(objectives) - _DIRECTIONS:
            raise CoreError(
                "DX3011",
                f"objectives are 1 to {MOST_OBJECTIVES} of 'maximize' and 'minimize', got {objectives!r}",
                fix="write objectives=('minimize',), or one direction for each number that is told",
            )
        if budget is not None and not (_whole(budget) and budget >= 1):
            raise CoreError("DX3011", f"budget is the number of trials planned, at least 1, got {budget!r}")
        if not _whole(seed):
            raise CoreError("DX3011", f"a seed is a whole number, got {seed!r}")
        self.seed = int(seed) & _SEED_MASK
        self.objectives: tuple[Direction, ...] = tuple(objectives)
        self.budget = None if budget is None else int(budget)
        self._signs = np.array([-1.0 if each == "maximize" else 1.0 for each in objectives])
        self._lock = threading.RLock()
        self._lowered = _lowered(space)
        self._history = History(self._lowered.table, len(self.objectives))
        self._seen: set[bytes] = set()
        self._waiting: dict[int, bytes] = {}
        self._queue: list[NDArray[np.float64]] = []
        self._prepare()

    # --- the public interface -------------------------------------------------------------------

    @overload
    def ask(self, n: None = None) -> Candidate: ...
    @overload
    def ask(self, n: int) -> list[Candidate]: ...
    def ask(self, n: int | None = None) -> Candidate | list[Candidate]:
        """The next candidate, or `n` of them to evaluate at the same time.

        Raises:
            CoreError: DX3010 when no candidate obeys the rules, DX3040 when `n` is no number of candidates.
        """
        if n is not None and not (_whole(n) and n >= 0):
            raise CoreError("DX3040", f"ask() takes a number of candidates, 0 or more, got {n!r}")
        with self._lock:
            return self._ask() if n is None else [self._ask() for _ in range(n)]

    def tell(self, candidate: Candidate | int, value: float | Sequence[float], *, noise: float | None = None) -> None:
        """Report a candidate's value; telling it again replaces what was told before.

        Args:
            candidate: The candidate, or its id.
            value: Its score, or one for each objective, in the objectives' directions; NaN = failed.
            noise: An int is the number of examples that `value` is the mean of, a float its variance; None = exact.

        Raises:
            CoreError: DX3013 for a candidate that was never asked, DX3014 for a value or noise that is no number, or
                for another number of values than there are objectives.
        """
        losses = self._losses(value)
        variance, examples = _noise(noise)
        with self._lock:
            index = self._index(candidate)
            again = self._waiting.pop(index, None) is None
            self._history.record(index, losses, variance, examples)
            self._observe(index, again)

    def learn(self, config: Mapping[str, object], value: float | Sequence[float], *, noise: float | None = None) -> int:
        """Take over a trial of an earlier study: it counts as asked and told. Returns its id.

        Args:
            config: What was evaluated; what it lacks is at its default.
            value: As for `tell`.
            noise: As for `tell`.

        Raises:
            CoreError: DX3014 as for `tell`.
            ProgramError: for a value outside its domain, DX1403 when a rule of this space does not hold.
        """
        losses = self._losses(value)
        variance, examples = _noise(noise)
        with self._lock:
            index = self._append(self._sound(config))
            self._history.record(index, losses, variance, examples)
            self._observe(index, False)
            return index

    def fail(self, candidate: Candidate | int, reason: str = "") -> None:
        """Report that a candidate could not be evaluated. The search keeps away from it.

        Args:
            candidate: The candidate, or its id.
            reason: Kept by whoever records trials; it does not influence the search.
        """
        del reason
        self.tell(candidate, [math.nan] * len(self.objectives))

    def recommend(self) -> Candidate:
        """The candidate with the best posterior mean: a lucky value over few examples is drawn towards the others.

        With several objectives, the one of the front that is nearest to the best of each objective, every objective
        measured by its range over the front.

        Raises:
            CoreError: DX3015 when nothing but failures was told.
        """
        with self._lock:
            losses = self._believed()
            front = self._front(losses)
            reached = losses[:, front]
            low, high = reached.min(axis=1, keepdims=True), reached.max(axis=1, keepdims=True)
            distance = np.square((reached - low) / np.where(high > low, high - low, 1.0)).sum(axis=0)
            return self.candidate(int(front[int(np.argmin(distance))]))

    def front(self) -> list[Candidate]:
        """The candidates that no other one is better than in every objective, by posterior means, in order of id.

        Raises:
            CoreError: DX3015 when nothing but failures was told.
        """
        with self._lock:
            return [self.candidate(int(index)) for index in self._front(self._believed())]

    def estimates(self) -> NDArray[np.float64]:
        """Posterior means by id in the objectives' units; NaN = pending or failed.

        Returns:
            (n,) float64 with one objective, (n, M) with several.
        """
        with self._lock:
            values = (self._signs[:, np.newaxis] * self._believed()).T
            return np.ascontiguousarray(values[:, 0] if len(self.objectives) == 1 else values)

    def importance(self) -> dict[str, float]:
        """How much of the variation of what was told each Variable is behind, by name, the greatest first.

        A Variable's share is that of its total effect over the prior: its part in interactions counts, and so does
        what it decides by conditions. Noise is left out; with several objectives the shares are their mean. Trials
        that crowd around good values say little about the others, and the shares can say no more than they do.

        Returns:
            Shares that sum to 1; empty while nothing can be said: fewer than 8 trials with a value, equal values, or
            differences that noise explains.
        """
        from dspex.core.importance import shares

        with self._lock:
            found = shares(self._lowered.sampler, self._history, self.seed).tolist()
            ranked = sorted(zip(self._lowered.names, found, strict=True), key=lambda pair: -pair[1])
        return dict(ranked) if any(found) else {}

    def regret_bound(self) -> float:
        """How much better than the recommendation any configuration could be, at about 95 % by the own model.

        In the objective's unit, at least 0: a search may stop when this is worth less than its evaluations. NaN while
        the optimizer cannot say, always so for a kind without such a model.
        """
        return math.nan

    def candidate(self, id: int) -> Candidate:
        """The candidate of an id."""
        with self._lock:
            return Candidate(id, self._lowered.decode(self._history.columns[:, self._index(id)]))

    def enqueue(self, config: Mapping[str, object]) -> None:
        """Ask this configuration before searching on; what it lacks is at its default.

        Raises:
            ProgramError: for a value outside its domain, DX1403 when a rule does not hold.
        """
        with self._lock:
            self._queue.append(self._sound(config))

    def grow(self, space: Space | Lowered) -> None:
        """Go on over the same space with longer Text and Demos pools.

        Raises:
            CoreError: DX3012 when anything but the ends of pools changed.
        """
        with self._lock:
            grown = _lowered(space)
            snapshot.check_fit(snapshot.layout(self._lowered), grown)
            self._lowered = grown
            self._prepare()

    @property
    def asked(self) -> int:
        """Candidates asked so far."""
        return self._history.count

    @property
    def pending(self) -> tuple[int, ...]:
        """Ids of candidates that were asked and not told."""
        with self._lock:
            return tuple(self._waiting)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as JSON-able data; `create(name, space, state=...)` continues bit for bit."""
        with self._lock:
            return snapshot.sealed(
                {
                    "schema_version": snapshot.SCHEMA_VERSION,
                    "optimizer": self.name,
                    "seed": self.seed,
                    "objectives": list(self.objectives),
                    "budget": self.budget,
                    "layout": snapshot.layout(self._lowered),
                    "history": snapshot.save_history(self._history),
                    "queue": [snapshot.save_array(column) for column in self._queue],
                    "search": self._search_state(),
                }
            )

    @classmethod
    def resume(cls, space: Space | Lowered, state: Mapping[str, Any]) -> Self:
        """An optimizer that goes on from `state`, over the same space or one with longer pools."""
        lowered = _lowered(space)
        loaded = snapshot.load(state, cls.name, lowered)
        optimizer = cls(lowered, seed=loaded.seed, objectives=loaded.objectives, budget=loaded.budget)
        optimizer._history = loaded.history
        optimizer._queue = loaded.queue
        history = loaded.history
        keys = [_key(column) for column in np.ascontiguousarray(history.columns[:, : history.count].T)]
        optimizer._seen = set(keys)
        optimizer._waiting = {index: key for index, key in enumerate(keys) if history.status[index] == PENDING}
        optimizer._prepare()
        optimizer._restore(loaded.search)
        return optimizer

    # --- for the kinds of optimizer -------------------------------------------------------------

    @abstractmethod
    def _prepare(self) -> None:
        """Build what depends on the lowered space and the history; called again when either is replaced."""

    @abstractmethod
    def _ranked(self, step: int) -> NDArray[np.float64]:
        """Candidates that obey the rules, the best first, (D, N) float64."""

    def _observe(self, index: int, again: bool) -> None:
        """Take note that trial `index` was told or failed, `again` when it had a value or had failed before."""
        del index, again  # the history says enough for most kinds

    def _search_state(self) -> dict[str, Any]:
        """What the kind of optimizer must remember beside the history, as JSON-able data."""
        return {}

    def _restore(self, state: dict[str, Any]) -> None:
        """Take over what `_search_state` gave, after `_prepare`.

        Raises:
            CoreError: DX3012 when it is not what this kind of optimizer writes.
        """
        if state:
            snapshot.reject(f"{self.name} keeps nothing beside its history, it has {sorted(state)}")

    def _believed(self) -> NDArray[np.float64]:
        """Posterior means of the losses of every trial, (M, n) float64; NaN = pending or failed."""
        return self._history.estimates()

    def _front(self, losses: NDArray[np.float64]) -> NDArray[np.int64]:
        front = pareto.front(losses)
        if not front.size:
            raise CoreError("DX3015", "nothing was told yet, or every candidate failed", fix="tell a value first")
        return front

    def _losses(self, value: float | Sequence[float]) -> NDArray[np.float64]:
        values = _floats(value)
        if len(values) != len(self.objectives) or any(math.isinf(each) for each in values):
            raise CoreError(
                "DX3014",
                f"a value is a finite number for each of {len(self.objectives)} objectives, NaN for a failure, "
                f"got {value!r:.200}",
            )
        return self._signs * np.array(values)

    def _sound(self, config: Mapping[str, object]) -> NDArray[np.float64]:
        """The column of a configuration that obeys the rules."""
        column = np.ascontiguousarray(self._lowered.encode(config))
        broken = np.flatnonzero(self._lowered.sampler.holds(column[:, np.newaxis])[:, 0] == 0)
        if broken.size:
            raise broken_rule(self._lowered.rules[int(broken[0])], self._lowered.decode(column))
        return column

    def _append(self, column: NDArray[np.float64]) -> int:
        index = self._history.append(column)
        self._seen.add(_key(column))
        return index

    def _told(self) -> int:
        return self._history.told

    def _ask(self) -> Candidate:
        column = self._next()
        index = self._append(column)
        self._waiting[index] = _key(column)
        return Candidate(index, self._lowered.decode(column))

    def _next(self) -> NDArray[np.float64]:
        step = self._history.count
        if step == 0 or not self._lowered.variables:
            return self._lowered.default
        if self._queue:
            return self._queue.pop(0)
        ranked = self._ranked(step)
        fresh = self._first_fresh(ranked)
        if fresh is None:
            spread = self._lowered.sampler.sample(_FRESH_DRAWS, self.seed, step + (1 << 32))
            fresh = self._first_fresh(spread)
        if fresh is not None:
            return fresh
        # Every draw was asked before, so the space is as good as exhausted: the best that is not being evaluated now.
        busy = set(self._waiting.values())
        columns = self._settled(ranked)
        return next((column for column in columns if _key(column) not in busy), columns[0])

    def _first_fresh(self, candidates: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """The first candidate that was not asked before, as it is kept."""
        for index in range(candidates.shape[1]):
            column = self._settled(candidates[:, index : index + 1])[0]
            if _key(column) not in self._seen:
                return column
        return None

    def _settled(self, candidates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Candidates as they are kept, one in each row: drawn values on a logarithmic scale are not rounded yet."""
        population = np.array(candidates, order="C")
        encode.settle(self._lowered.table, population)
        return np.ascontiguousarray(population.T)

    def _index(self, candidate: Candidate | int) -> int:
        index = candidate.id if isinstance(candidate, Candidate) else candidate
        if not _whole(index) or not 0 <= index < self._history.count:
            raise CoreError(
                "DX3013",
                f"candidate {index!r:.100} was never asked; ids go from 0 to {self._history.count - 1}",
                fix="tell only candidates that this optimizer's ask() returned",
            )
        return operator.index(index)


def _lowered(space: Space | Lowered) -> Lowered:
    if isinstance(space, Lowered):
        return space
    if not isinstance(space, Space):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CoreError("DX3011", f"a search is over a dspex.Space, got {type(space).__name__}")
    return lower(tuple(space.variables.values()), space.rules)


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and value is not True and value is not False


def _key(column: NDArray[np.float64]) -> bytes:
    """Identity by active values: inactive rows are NaN, all with the same bits; -0.0 counts as 0.0."""
    return (column + 0.0).tobytes()


def _floats(value: object) -> list[float]:
    """A number, or each of several, as a float; what is no number as infinity."""
    try:
        given = [value] if isinstance(value, Real) else list(cast("Iterable[object]", value))
        return [float(each) if isinstance(each, Real) else math.inf for each in given]
    except (TypeError, OverflowError):  # not a sequence, or an int beyond every float
        return [math.inf]


def _noise(noise: float | None) -> tuple[float, int]:
    """Variance and number of examples."""
    if noise is None:
        return 0.0, 0
    if _whole(noise) and noise >= 1:
        return 0.0, int(noise)
    if isinstance(noise, Real) and not isinstance(noise, Integral) and math.isfinite(noise) and noise >= 0.0:
        return float(noise), 0
    raise CoreError(
        "DX3014", f"noise is a number of examples (int, 1 or more) or a variance (float, 0 or more), got {noise!r}"
    )
