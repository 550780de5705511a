"""What every optimizer shares: identity of candidates, the history, telling, recommending, state."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core.parzen import PENDING, TOLD, History
from dspex.errors import CoreError
from dspex.optimizers import snapshot
from dspex.program.space import Space

Direction = Literal["maximize", "minimize"]

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
        objectives: One direction.
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
        if len(objectives) != 1 or objectives[0] not in ("maximize", "minimize"):
            raise CoreError(
                "DX3011",
                f"objectives must be one of ('maximize',) and ('minimize',), got {tuple(objectives)!r}",
                fix="combine several scores into one number before telling it",
            )
        if budget is not None and budget < 1:
            raise CoreError("DX3011", f"budget is the number of trials planned, at least 1, got {budget}")
        self.seed = seed & _SEED_MASK
        self.objectives: tuple[Direction, ...] = tuple(objectives)
        self.budget = budget
        self._sign = -1.0 if objectives[0] == "maximize" else 1.0
        self._lock = threading.RLock()
        self._lowered = _lowered(space)
        self._history = History(self._lowered.table)
        self._seen: Counter[bytes] = Counter()
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
            CoreError: DX3010 when no candidate obeys the rules.
        """
        with self._lock:
            return self._ask() if n is None else [self._ask() for _ in range(n)]

    def tell(self, candidate: Candidate | int, value: float | Sequence[float], *, noise: float | None = None) -> None:
        """Report a candidate's value; telling it again replaces what was told before.

        Args:
            candidate: The candidate, or its id.
            value: Its score in the direction of the objective; NaN = failed.
            noise: An int is the number of examples that `value` is the mean of, a float its variance; None = exact.

        Raises:
            CoreError: DX3013 for a candidate that was never asked, DX3014 for a value or noise that is no number.
        """
        number = _single(value)
        variance, examples = _noise(noise)
        with self._lock:
            self._history.record(self._index(candidate), self._sign * number, variance, examples)

    def fail(self, candidate: Candidate | int, reason: str = "") -> None:
        """Report that a candidate could not be evaluated. The search keeps away from it.

        Args:
            candidate: The candidate, or its id.
            reason: Kept by whoever records trials; it does not influence the search.
        """
        del reason
        self.tell(candidate, math.nan)

    def recommend(self) -> Candidate:
        """The candidate with the best posterior mean: a lucky value over few examples is drawn towards the others.

        Raises:
            CoreError: DX3015 when nothing but failures was told.
        """
        with self._lock:
            estimates = self.estimates()
            if np.isnan(estimates).all():
                raise CoreError("DX3015", "nothing was told yet, or every candidate failed", fix="tell a value first")
            index = int(np.nanargmin(self._sign * estimates))
            return self.candidate(index)

    def estimates(self) -> NDArray[np.float64]:
        """Posterior mean of every candidate by id, in the objective's units; NaN = pending or failed."""
        with self._lock:
            return self._sign * self._history.estimates()

    def candidate(self, id: int) -> Candidate:
        """The candidate of an id."""
        with self._lock:
            return Candidate(id, self._lowered.decode(self._history.columns[:, self._index(id)]))

    def enqueue(self, config: Mapping[str, object]) -> None:
        """Ask this configuration before searching on; what it lacks is at its default.

        Raises:
            ProgramError: for a value outside its domain.
        """
        with self._lock:
            self._queue.append(self._lowered.encode(config))

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
            return tuple(np.flatnonzero(self._history.status[: self._history.count] == PENDING).tolist())

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as JSON-able data; `create(name, space, state=...)` continues bit for bit."""
        with self._lock:
            return {
                "schema_version": snapshot.SCHEMA_VERSION,
                "optimizer": self.name,
                "seed": self.seed,
                "objectives": list(self.objectives),
                "budget": self.budget,
                "layout": snapshot.layout(self._lowered),
                "history": snapshot.save_history(self._history),
                "queue": [snapshot.save_array(column) for column in self._queue],
            }

    @classmethod
    def resume(cls, space: Space | Lowered, state: Mapping[str, Any]) -> Self:
        """An optimizer that goes on from `state`, over the same space or one with longer pools."""
        lowered = _lowered(space)
        loaded = snapshot.load(state, cls.name, lowered)
        optimizer = cls(lowered, seed=loaded.seed, objectives=loaded.objectives, budget=loaded.budget)
        optimizer._history = loaded.history
        optimizer._queue = loaded.queue
        optimizer._seen = Counter(_key(loaded.history.columns[:, i]) for i in range(loaded.history.count))
        return optimizer

    # --- for the kinds of optimizer -------------------------------------------------------------

    @abstractmethod
    def _prepare(self) -> None:
        """Build what depends on the lowered space; called again when it grows."""

    @abstractmethod
    def _ranked(self, step: int) -> NDArray[np.float64]:
        """Candidates that obey the rules, the best first, (D, N) float64."""

    def _told(self) -> int:
        return int(np.count_nonzero(self._history.status[: self._history.count] == TOLD))

    def _ask(self) -> Candidate:
        column = np.ascontiguousarray(self._next())
        index = self._history.append(column)
        self._seen[_key(column)] += 1
        return Candidate(index, self._lowered.decode(column))

    def _next(self) -> NDArray[np.float64]:
        step = self._history.count
        if step == 0:
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
        busy = {_key(self._history.columns[:, i]) for i in self.pending}
        idle = [i for i in range(ranked.shape[1]) if _key(ranked[:, i]) not in busy]
        return ranked[:, idle[0] if idle else 0]

    def _first_fresh(self, candidates: NDArray[np.float64]) -> NDArray[np.float64] | None:
        for index in range(candidates.shape[1]):
            if _key(candidates[:, index]) not in self._seen:
                return candidates[:, index]
        return None

    def _index(self, candidate: Candidate | int) -> int:
        index = candidate.id if isinstance(candidate, Candidate) else candidate
        if not 0 <= index < self._history.count:
            raise CoreError(
                "DX3013",
                f"candidate {index} was never asked; ids go from 0 to {self._history.count - 1}",
                fix="tell only candidates that this optimizer's ask() returned",
            )
        return index


def _lowered(space: Space | Lowered) -> Lowered:
    return space if isinstance(space, Lowered) else lower(tuple(space.variables.values()), space.rules)


def _key(column: NDArray[np.float64]) -> bytes:
    """Identity by active values: inactive rows are NaN, all with the same bits; -0.0 counts as 0.0."""
    return (column + 0.0).tobytes()


def _single(value: float | Sequence[float]) -> float:
    values = [value] if isinstance(value, int | float) else list(value)
    if len(values) != 1 or math.isinf(float(values[0])):
        raise CoreError("DX3014", f"a value is one number, NaN for a failure, got {value!r}")
    return float(values[0])


def _noise(noise: float | None) -> tuple[float, int]:
    """Variance and number of examples."""
    if noise is None:
        return 0.0, 0
    if isinstance(noise, int) and not isinstance(noise, bool) and noise >= 1:
        return 0.0, noise
    if isinstance(noise, float) and math.isfinite(noise) and noise >= 0.0:
        return noise, 0
    raise CoreError(
        "DX3014", f"noise is a number of examples (int, 1 or more) or a variance (float, 0 or more), got {noise!r}"
    )
