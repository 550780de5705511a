"""Brackets: how many candidates race on how many examples, and which of them go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

from dspex.evaluation.dataset import Example
from dspex.optimizers import PairedRace
from dspex.program.schema import Schema
from dspex.study.evaluations import Candidate, Evaluations, Job

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741


def race_cost(entrants: int, first: int, examples: int) -> int:
    """Evaluations that a race of so many new candidates takes."""
    total, alive, used, before = 0, entrants, min(first, examples), 0
    while True:
        total += alive * (used - before)
        if used == examples:
            return total
        alive, before, used = math.ceil(alive / 2), used, min(used * 2, examples)


def entrants_for(evaluations: int | None, first: int, examples: int, most: int) -> int:
    """How many new candidates a race can have within so many evaluations; 0 when not even one first rung fits."""
    if evaluations is None:
        return most
    if evaluations < min(first, examples):
        return 0
    count = 1
    while count < most and race_cost(count + 1, first, examples) <= evaluations:
        count += 1
    return count


class Bracket(Generic[I, O]):
    """One race: the better half of each rung goes on to twice as many examples.

    Args:
        entrants: Who takes part; at least one.
        first: Examples of the first rung.
        examples: All examples, in the one order in which every candidate sees them.

    Attributes:
        alive: Who is still in the race, the best first once a rung was decided.
        used: Examples of the current rung: the first ones.
        done: Whether the race is over.
    """

    def __init__(self, entrants: Sequence[Candidate[I, O]], first: int, examples: Sequence[Example[I, O]]) -> None:
        self.alive = list(entrants)
        self.used = min(first, len(examples))
        self.done = False
        self._examples = examples
        self._before = 0

    @property
    def cost(self) -> int:
        """Evaluations that it takes from here at most."""
        return race_cost(len(self.alive), self.used, len(self._examples)) - len(self.alive) * self._before

    def jobs(self) -> list[Job[I, O]]:
        """The current rung, candidate by candidate."""
        return [Job(each, "validation", example) for each in self.alive for example in self._examples[: self.used]]

    def decide(self, evaluations: Evaluations[I, O]) -> None:
        """End the current rung, all of whose jobs are settled."""
        last = self.used == len(self._examples)
        by_number = {candidate.number: candidate for candidate in self.alive}
        failures: Literal["worst", "exclude"] = "exclude" if evaluations.policy == "exclude" else "worst"
        keep = 1 if last else math.ceil(len(self.alive) / 2)
        worst = evaluations.lowest
        race = PairedRace(list(by_number), self.used, first=self.used, keep=keep, failures=failures, worst=worst)
        for index, job in enumerate(self.jobs()):
            race.report(job.candidate.number, index % self.used, evaluations.known[job.key].score)
        self.alive = [by_number[number] for number in race.survivors()]
        self.done = last or not self.alive
        self._before, self.used = self.used, min(2 * self.used, len(self._examples))
