"""Before anything is spent: the split of the data, how much of it a budget carries, and the least a study costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from dspex.errors import StudyError
from dspex.evaluation.dataset import Dataset, Example
from dspex.evaluation.split import Split, split
from dspex.lm.spend import Budget
from dspex.program.schema import Schema
from dspex.telemetry.events import Json

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741

FINAL_SHARE = 0.5
"""Share of a call budget that the final evaluation may take, when the held-out part is ours to choose."""

LEAST_HELD_OUT = 20
MOST_HELD_OUT = 500
LEAST_VALIDATION = 16
MOST_VALIDATION = 400
FIRST_RUNG = 16

AMPLE = 5_000
"""Evaluations from which a budget is ample: what one more of them tells is worth less than a server that waits."""

FINALISTS = 3
"""Evaluated on held-out examples: the default, the best zero-shot format, the winner."""


@dataclass(frozen=True)
class Plan(Generic[I, O]):
    """What a study works on.

    Attributes:
        split: All of the data.
        validation: The validation examples that candidates are scored on, in the order that all of them share.
        held_out: The held-out examples that the report is about.
        minimum_calls: The least budget in calls.
    """

    split: Split[I, O]
    validation: tuple[Example[I, O], ...]
    held_out: tuple[Example[I, O], ...]
    minimum_calls: int

    def described(self) -> dict[str, Json]:
        """Sizes and hashes for the report."""
        used = {
            "train": len(self.split.train),
            "validation": len(self.validation),
            "held_out": len(self.held_out),
        }
        found: dict[str, Json] = {}
        for name, part in (
            ("train", self.split.train),
            ("validation", self.split.validation),
            ("held_out", self.split.held_out),
        ):
            found[name] = {"size": used[name], "of": len(part), "hash": part.hash}
        return found


def make_plan(
    data: Dataset[I, O], held_out: Dataset[I, O] | None, budget: Budget, seed: int, calls_per_example: int
) -> Plan[I, O]:
    """Split the data and fit the parts to the budget.

    Raises:
        DataError: The data are too few, or share inputs with `held_out`.
        StudyError: DX6203: the budget has no cap, or is too small; the message names the least one.
    """
    if not budget:
        raise StudyError(
            "DX6203",
            "a study needs a budget, and this one has no cap",
            where="budget",
            fix="for example dx.Budget(calls=500), dx.Budget(usd=2.0) or dx.Budget(wall='4m')",
        )
    parts = split(data, seed, held_out=held_out)
    each = calls_per_example * FINALISTS
    size = len(parts.held_out)
    if held_out is None:
        size = min(size, MOST_HELD_OUT)
        if budget.calls is not None:
            size = min(size, max(int(budget.calls * FINAL_SHARE) // each, min(size, LEAST_HELD_OUT)))
    rung = min(FIRST_RUNG, len(parts.validation))
    minimum = size * each + 2 * rung * calls_per_example
    if budget.calls is not None and budget.calls < minimum:
        raise StudyError(
            "DX6203",
            f"a budget of {budget.calls} calls is too small: the default, the best zero-shot format and the winner on "
            f"{size} held-out examples, and two candidates on {rung} validation examples, take {minimum}",
            where="budget",
            fix=f"give at least {minimum} calls, or fewer held-out examples",
        )
    validation = min(len(parts.validation), MOST_VALIDATION)
    if budget.calls is not None:
        searching = (budget.calls - size * each) // calls_per_example
        validation = min(validation, max(LEAST_VALIDATION, searching // 3))
    return Plan(parts, tuple(parts.validation)[:validation], tuple(parts.held_out)[:size], minimum)
