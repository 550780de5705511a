"""Brackets: how many candidates race on how many examples, and which of them go on."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container, Iterable, Sequence
from typing import Generic, Literal, TypeVar

from dspex.evaluation.dataset import Example
from dspex.evaluation.evaluator import Outcome
from dspex.optimizers import PairedRace
from dspex.program.schema import Schema
from dspex.study.calibration import module_scores
from dspex.study.evaluations import Candidate, Evaluations, Job
from dspex.study.resume import EvaluationKey

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
        missing: Evaluations that it waits for.
        fitting: Paths of the modules whose priors are being measured, by the candidate's number.
        rows: What was measured of them: scores of the choices, a row an input.
        done: Whether the race is over.
    """

    def __init__(self, entrants: Sequence[Candidate[I, O]], first: int, examples: Sequence[Example[I, O]]) -> None:
        self.alive = list(entrants)
        self.used = min(first, len(examples))
        self.missing = len(self.alive) * self.used
        self.fitting: dict[int, list[str]] = {}
        self.rows: dict[tuple[int, str], list[Sequence[float]]] = {}
        self.done = False
        self._examples = examples

    @property
    def cost(self) -> int:
        """Evaluations that it takes from here at most."""
        alive = len(self.alive)
        return race_cost(alive, self.used, len(self._examples)) - alive * self.used + self.missing

    @property
    def examples(self) -> Sequence[Example[I, O]]:
        """Those of the current rung."""
        return self._examples[: self.used]

    def jobs(self, known: Container[EvaluationKey]) -> list[Job[I, O]]:
        """What the current rung lacks, candidate by candidate."""
        jobs = (Job(each, "validation", example) for each in self.alive for example in self.examples)
        return [job for job in jobs if job.key not in known]

    def measure(self, job: Job[I, O], outcome: Outcome[O]) -> None:
        """Keep what the outcome of a calibration says."""
        number = job.candidate.number
        for path in self.fitting[number]:
            self.rows.setdefault((number, path), []).extend(module_scores(outcome.trace.calls, path))

    def decide(self, evaluations: Evaluations[I, O]) -> None:
        """End the current rung, which lacks nothing."""
        last = self.used == len(self._examples)
        by_number = {candidate.number: candidate for candidate in self.alive}
        failures: Literal["worst", "exclude"] = "exclude" if evaluations.policy == "exclude" else "worst"
        keep = 1 if last else math.ceil(len(self.alive) / 2)
        worst = evaluations.lowest
        race = PairedRace(list(by_number), self.used, first=self.used, keep=keep, failures=failures, worst=worst)
        for candidate in self.alive:
            for place, example in enumerate(self.examples):
                score = evaluations.known[candidate.identity, "validation", example.hash].score
                race.report(candidate.number, place, score)
        self.alive = [by_number[number] for number in race.survivors()]
        self.done = last or not self.alive
        before, self.used = self.used, min(2 * self.used, len(self._examples))
        self.missing = len(self.alive) * (self.used - before)


class Races(Generic[I, O]):
    """Brackets that race at once, and the one queue of what they need evaluated.

    Attributes:
        brackets: Those under way, the first begun first.
        queue: Jobs that nobody has started.
    """

    def __init__(self) -> None:
        self.brackets: list[Bracket[I, O]] = []
        self.queue: deque[Job[I, O]] = deque()
        self._waiting: dict[EvaluationKey, list[Bracket[I, O]]] = {}

    @property
    def ahead(self) -> int:
        """Evaluations that are queued or under way."""
        return len(self._waiting)

    @property
    def candidates(self) -> tuple[Candidate[I, O], ...]:
        """Everybody in a race, each once."""
        return tuple(dict.fromkeys(candidate for bracket in self.brackets for candidate in bracket.alive))

    def wait(self, bracket: Bracket[I, O], jobs: Iterable[Job[I, O]]) -> None:
        """Let the bracket wait for `jobs`; those that no other waits for are queued."""
        bracket.missing = 0
        for job in jobs:
            waiting = self._waiting.get(job.key)
            if waiting is None:
                waiting = self._waiting[job.key] = []
                self.queue.append(job)
            waiting.append(bracket)
            bracket.missing += 1

    def settled(self, job: Job[I, O], outcome: Outcome[O] | None) -> list[Bracket[I, O]]:
        """The brackets that waited for this evaluation last."""
        waiting = self._waiting.pop(job.key)
        for bracket in waiting:
            bracket.missing -= 1
            if outcome is not None:
                bracket.measure(job, outcome)
        return [bracket for bracket in waiting if not bracket.missing]
