"""The optimizer that chooses between the others, and says why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from dspex.compiler.lower.lowering import Lowered
from dspex.core.factorial import size, values
from dspex.core.history import PENDING
from dspex.errors import CoreError
from dspex.optimizers import create, names, snapshot
from dspex.optimizers.optimizer import Direction, Optimizer
from dspex.program.space import Space

GP_TRIALS: Final = 300
"""Trials with a value from which on a Gaussian process gains nothing over cheaper models."""
GP_VARIABLES: Final = 100
"""Variables above which a Gaussian process cannot tell, from a few hundred trials, which of them matter."""
TINY: Final = 12
"""Configurations that are evaluated one after another, because a model would learn no sooner than that."""
DISTRIBUTION_VARIABLES: Final = 200
"""Variables above which a joint search distribution costs more than it gains."""

# Seconds of an ask and a tell on one core, over the 42 Variables of benchmarks/quality/overhead.py: 8.5 ms after 100
# trials, 23.4 ms after 500. They are constants because a choice that depended on a clock would not be the same twice.
GP_SECONDS: Final = (7.9e-3, 6.2e-8)
"""Constant, and factor of the squared number of trials."""
QUICK: Final = 1e-4
"""Below it, every model costs more than an evaluation."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a space decides between optimizers.

    Attributes:
        variables: Rows with more than one value.
        conditional: Whether some Variables are active only under a condition.
        configurations: How many there are, an upper bound; None when a Variable is continuous.
    """

    variables: int
    conditional: bool
    configurations: int | None

    @classmethod
    def of(cls, lowered: Lowered) -> Shape:
        """The shape of a space."""
        table = lowered.table
        counts = values(table)
        whole = [count for count in counts if count is not None]
        return cls(
            sum(count != 1 for count in counts),
            bool((table.parent >= 0).any() or (table.cond_pc >= 0).any()),
            size(table, whole) if len(whole) == len(counts) else None,
        )


class Auto(Optimizer):
    """Chooses an optimizer by what is to be searched and by how much is known, and changes over as that grows.

    All of them work over the same trials, so nothing is forgotten when one takes over from another, and
    recommendations come from the model that is at work. What it chooses depends on the space, the objectives, what was
    told and `evaluation_seconds`; never on a clock.

    Args:
        space: As for every optimizer, as are `seed`, `objectives` and `budget`.
        evaluation_seconds: What one evaluation takes, when known; a model that takes longer to think than that is not
            used. None = evaluations take longer than any model, as calls of language models do.

    Raises:
        CoreError: DX3011 for a time that is negative or not finite.
    """

    name = "auto"

    def __init__(
        self,
        space: Space | Lowered,
        *,
        seed: int = 0,
        objectives: Sequence[Direction] = ("maximize",),
        budget: int | None = None,
        evaluation_seconds: float | None = None,
    ) -> None:
        self.evaluation_seconds = _seconds(evaluation_seconds)
        super().__init__(space, seed=seed, objectives=objectives, budget=budget)

    @property
    def current(self) -> str:
        """Name of the optimizer that is at work."""
        return self._inner.name

    def explain(self) -> str:
        """Which optimizer is at work, why, and what comes after it."""
        with self._lock:
            return f"{self.current}: {self._choose()[1]}"

    def regret_bound(self) -> float:
        """As for every optimizer, by the model at work."""
        with self._lock:
            return self._inner.regret_bound()

    def _choose(self) -> tuple[str, str]:
        """The optimizer for what is known now, and why."""
        shape, told = self._shape, self._told()
        several = len(self.objectives) > 1
        count = shape.configurations
        if count is not None and count <= TINY and not several:
            here = f"there are {count} configurations"
            if self._history.noisy:
                return "bandit", f"{here}, and values are noisy: each evaluation goes where it tells the most."
            return "grid", f"{here}, so all of them are evaluated."
        most, limit = self._gp_trials()
        after, later = self._after()
        seen = f"{told} trial{'' if told == 1 else 's'} with a value"
        if told >= most:
            return after, f"{seen}; {limit}: {later}."
        few = "from which it learns more than any other"
        return "gp", f"{seen}, {few}; {limit}, then {after} goes on: {later}."

    def _gp_trials(self) -> tuple[int, str]:
        """Trials up to which a Gaussian process is the choice, and what limits it."""
        variables = self._shape.variables
        if variables > GP_VARIABLES:
            return 0, f"a Gaussian process over {variables} Variables cannot tell which of them matter"
        if self.evaluation_seconds is not None:
            constant, square = GP_SECONDS
            affordable = math.isqrt(max(int((self.evaluation_seconds - constant) / square), 0))
            if affordable < GP_TRIALS:
                begins = f"from {affordable} on " if affordable else ""
                cost = f"takes longer than the {self.evaluation_seconds:g} s of an evaluation"
                return affordable, f"{begins}a Gaussian process {cost}"
        return GP_TRIALS, f"from {GP_TRIALS} on a Gaussian process gains nothing over cheaper models"

    def _after(self) -> tuple[str, str]:
        """What follows a Gaussian process, and why."""
        shape, seconds = self._shape, self.evaluation_seconds
        if len(self.objectives) > 1:
            return "genetic", "sorting by dominance keeps a whole front"
        if seconds is not None and seconds < QUICK:
            return "genetic", "evaluations are quicker than any model"
        if shape.variables > DISTRIBUTION_VARIABLES:
            return "tpe", f"densities of each of {shape.variables} Variables need no more than they know"
        if shape.conditional:
            return "genetic", "children keep what is active in their parents, whatever the conditions"
        return "cmaes", "a search distribution that has seen all trials narrows down on the best"

    def _prepare(self) -> None:
        self._shape = Shape.of(self._lowered)
        self._use(self._choose()[0])

    def _use(self, kind: str) -> None:
        inner: Optimizer | None = getattr(self, "_inner", None)
        begins = inner is None or inner.name != kind
        if inner is None or inner.name != kind:
            inner = create(kind, self._lowered, seed=self.seed, objectives=self.objectives, budget=self.budget)
        inner._lowered, inner._history, inner._seen = self._lowered, self._history, self._seen
        inner._prepare()
        if begins:
            # What learns result by result is told all of them once more, in the order of asking.
            for index in np.flatnonzero(self._history.status[: self._history.count] != PENDING).tolist():
                inner._observe(index, False)
        self._inner = inner

    def _ranked(self, step: int) -> NDArray[np.float64]:
        return self._inner._ranked(step)

    def _observe(self, index: int, again: bool) -> None:
        self._inner._observe(index, again)
        kind = self._choose()[0]
        if kind != self.current:
            self._use(kind)

    def _believed(self) -> NDArray[np.float64]:
        return self._inner._believed()

    def _search_state(self) -> dict[str, Any]:
        return {
            "evaluation_seconds": self.evaluation_seconds,
            "kind": self.current,
            "search": self._inner._search_state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        seconds, kind, search = (state.get(key) for key in ("evaluation_seconds", "kind", "search"))
        if len(state) != 3 or not isinstance(seconds, int | float | None) or not isinstance(search, dict):
            snapshot.reject(f"auto's search is {sorted(state)}")
        self.evaluation_seconds = _seconds(seconds)
        self._prepare()
        if kind == self.current:
            self._inner._restore(cast("dict[str, Any]", search))
        elif kind not in names():  # another one is at work where pools grew since
            snapshot.reject(f"no optimizer is named {kind!r}")


def _seconds(value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value >= 0.0):
        raise CoreError(
            "DX3011", f"evaluation_seconds is the time of one evaluation in seconds, at least 0, got {value!r}"
        )
    return value
