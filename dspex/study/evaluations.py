"""Buying evaluations: candidates on examples, at once but in logical order, each bought once in the life of a study.

Everything that later decides something is recorded here in the order of the jobs: scores, charges, the
place at which a budget ended, and how many failures stand in a row.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

from dspex.errors import BudgetExceeded, StudyError
from dspex.evaluation.dataset import Example
from dspex.evaluation.evaluator import Outcome, outcome_of
from dspex.evaluation.statistics import FailurePolicy
from dspex.lm.spend import NOTHING, Spend
from dspex.lm.types import Price
from dspex.program.program import Program
from dspex.program.schema import Schema
from dspex.program.trace import Trace
from dspex.study.journal import StudyJournal, StudyLog, charge_of, spend_of
from dspex.study.ledger import Ledger, larger, scaled
from dspex.study.resume import EvaluationKey, History, is_down
from dspex.study.schedule import Admission, in_order
from dspex.study.stop import StopToken
from dspex.telemetry.events import EvaluationSettled, Json

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741

Part = Literal["train", "calibration", "validation", "held_out"]

MARGIN = 1.15
"""By how much the final evaluation may cost more an example than validation did."""

PATIENCE = 8
"""So many evaluations in a row without a reachable model, or with a failing metric, end a study."""


@dataclass(eq=False)
class Candidate(Generic[I, O]):
    """One configuration of the program.

    Attributes:
        number: In the order in which candidates were asked; 0 is the default.
        origin: Who proposed it.
        config: Every Variable's value.
        identity: Hash of the active values.
        program: Bound to the configuration.
        calls: Upper bound of calls an example, as far as the program shows it.
        ticket: The optimizer's handle for it.
        fitted_on: Inputs on which the priors of its calibrated modules were measured.
        known_upper, known_final: What `Evaluations.upper` and `final_cost` worked out last, and of what.
    """

    number: int
    origin: str
    config: Mapping[str, object]
    identity: str
    program: Program[I, O]
    calls: int = 1
    ticket: Any = None
    most: Spend = NOTHING
    spent: Spend = NOTHING
    settled: int = 0
    keys: set[str] = field(default_factory=set[str])
    fitted_on: int = 0
    known_upper: tuple[Spend, Spend] | None = None
    known_final: tuple[Spend, int, int, Spend] | None = None

    @cached_property
    def most_output(self) -> int:
        """Tokens that one example can generate at the most, if each module is called once."""
        return sum(module.settings.max_tokens for module in self.program.modules().values())

    def saw(self, charges: Mapping[str, Spend]) -> Spend:
        """Learn what an evaluation costs; the first may have paid for all of them (content-free scores)."""
        cost = NOTHING
        for key, spend in charges.items():
            if key not in self.keys:
                self.keys.add(key)
                cost = cost + spend
        self.most = larger(self.most, cost)
        if self.settled:
            self.spent = self.spent + cost
        self.settled += 1
        return cost


class Job(Generic[I, O]):
    """One candidate on one example."""

    __slots__ = ("candidate", "example", "key", "part")

    def __init__(self, candidate: Candidate[I, O], part: Part, example: Example[I, O]) -> None:
        self.candidate = candidate
        self.part: Part = part
        self.example = example
        self.key: EvaluationKey = (candidate.identity, part, example.hash)


@dataclass(frozen=True, slots=True)
class Judged:
    """What is kept of a settled evaluation; the log has all of it.

    Attributes:
        score: None for a failure.
        code, failure: Why there is none.
        output: What the program gave, on held-out examples alone.
    """

    score: float | None
    code: str | None
    failure: Json
    output: Json


@dataclass
class Halt:
    """Why no further evaluation starts, once something is decided.

    Attributes:
        reason: None while the study goes on.
        position: Evaluations of the search that were settled.
    """

    reason: str | None = None
    position: int = 0
    message: str = ""


@dataclass
class Evaluations(Generic[I, O]):
    """Everything that a study evaluated, and the means to evaluate more.

    Attributes:
        metric: Judges outputs.
        history: What earlier processes settled.
        width: Evaluations in flight at most, now.
        policy: What a failed example counts as.
        deadline: Time of `clock` at which the search ends; None without a wall cap.
        changed: Whether a resume accepted that something differs from what the log records.
        known: Settled evaluations.
        learned: Called with the candidate of every result, before what follows is admitted: what is set aside may
            have to grow.
        notice: Called after every result, for whoever watches.
        done: How many were settled, of all parts.
        lowest: What a failed example counts as under the policy "worst": the lowest score seen, at most 0.
    """

    metric: Any
    log: StudyLog
    journal: StudyJournal
    history: History
    ledger: Ledger
    prices: Mapping[str, Price | None]
    stop: StopToken
    width: Callable[[], int]
    policy: FailurePolicy = "worst"
    deadline: float | None = None
    changed: bool = False
    clock: Callable[[], float] = time.monotonic
    notice: Callable[[], None] | None = None
    learned: Callable[[Candidate[I, O]], None] | None = None
    known: dict[EvaluationKey, Judged] = field(default_factory=dict[EvaluationKey, Judged])
    halt: Halt = field(default_factory=Halt)
    lowest: float = 0.0
    done: int = 0
    cache_hits: int = 0
    most: Spend = NOTHING
    _equal: dict[float | None, Judged] = field(default_factory=dict[float | None, Judged])
    _started: int = 0
    _taken: int = 0
    _working: int = 0
    _down: int = 0
    _refused: int = 0
    _freed: asyncio.Event = field(default_factory=asyncio.Event)

    def score(self, candidate: Candidate[I, O], part: Part, example: Example[I, O]) -> float | None:
        """The score as the failure policy counts it; None where it is excluded or not evaluated."""
        settled = self.known.get((candidate.identity, part, example.hash))
        return None if settled is None else self.counted(settled)

    def has(self, candidate: Candidate[I, O], part: Part, example: Example[I, O]) -> bool:
        return (candidate.identity, part, example.hash) in self.known

    def counted(self, settled: Judged) -> float | None:
        """A settled evaluation's score under the failure policy."""
        if settled.score is None and self.policy == "worst":
            return self.lowest
        return settled.score

    def upper(self, candidate: Candidate[I, O]) -> Spend:
        """What the next evaluation of `candidate` will cost at most, as far as can be known."""
        seen = candidate.most if candidate.settled else self.most
        known = candidate.known_upper
        if known is None or known[0] is not seen:
            calls = max(candidate.calls, candidate.most.calls)
            known = (seen, Spend(calls, seen.input_tokens, seen.output_tokens, seen.usd))
            candidate.known_upper = known
        return known[1]

    def final_cost(self, candidate: Candidate[I, O], examples: int) -> Spend:
        """What to set aside for evaluating `candidate` on so many new examples."""
        upper = self.upper(candidate)
        known = candidate.known_final
        if known is None or known[0] is not upper or known[1] != candidate.settled or known[2] != examples:
            cost = self._final_cost(candidate, upper, examples)
            known = candidate.known_final = (upper, candidate.settled, examples, cost)
        return known[3]

    def _final_cost(self, candidate: Candidate[I, O], upper: Spend, examples: int) -> Spend:
        repeated = candidate.settled - 1
        if repeated < 1:
            return scaled(upper, examples)
        factor = MARGIN * examples / repeated
        spent = candidate.spent
        # Where every evaluation took what the program shows, no margin is needed; repairs take more.
        calls = candidate.calls * examples
        if spent.calls > candidate.calls * repeated:
            calls = max(calls, math.ceil(spent.calls * factor))
        return Spend(
            calls + 1,
            int(spent.input_tokens * factor),
            int(spent.output_tokens * factor),
            None if spent.usd is None else spent.usd * factor,
        )

    async def run(self, jobs: Iterable[Job[I, O]], *, capped: bool = True) -> bool:
        """Evaluate what is not known yet; whether all of it is settled now. Arguments and errors as for `settling`."""
        fresh = {job.key: job for job in jobs if job.key not in self.known}
        left = len(fresh)
        async with aclosing(self.settling(deque(fresh.values()), capped=capped)) as results:
            async for _ in results:
                left -= 1
        return left == 0

    async def settling(
        self, jobs: deque[Job[I, O]], *, capped: bool = True
    ) -> AsyncGenerator[tuple[Job[I, O], Outcome[O] | None]]:
        """Evaluate `jobs`, and yield each once its result counts; with its outcome when it is a calibration.

        Args:
            jobs: In logical order, none known and none twice. They are taken from the left; whoever is given a result
                may append more, so that what follows from it begins while others are under way.
            capped: Whether the ledger's caps and what it sets aside bind; the final evaluation is paid from the latter.

        Raises:
            StudyError: The log cannot be written, the model is unreachable, or every evaluation fails in the metric.
        """
        uppers: dict[EvaluationKey, Spend] = {}
        taken = True

        def admit(job: Job[I, O]) -> Admission:
            if self._halted(capped):
                return "stop"
            if capped:
                upper = self.upper(job.candidate)
                if not self.ledger.fits_now(upper):
                    return "wait"
                uppers[job.key] = upper
                self.ledger.started = self.ledger.started + upper
                self._started += 1
            return "start"

        results = in_order(jobs, self._settle, width=self.width, admit=admit)
        try:
            async for job, (settled, outcome) in results:
                if capped:
                    self.ledger.started = _minus(self.ledger.started, uppers.pop(job.key))
                    if not self.ledger.fits(self.upper(job.candidate)):
                        taken = False
                        break
                self._take(job, settled)
                self._taken += capped
                yield job, outcome
        except BudgetExceeded as refused:
            self._end("account", refused.message)
        finally:
            await results.aclose()
            self.ledger.started = NOTHING
            self.halt.position = self._taken
        if (jobs or not taken) and self.halt.reason is None:
            self._end("budget", "the budget for the search is used")

    def _halted(self, capped: bool) -> bool:
        if self.stop.reason is not None:
            self._end("interrupted", self.stop.reason)
        elif capped and self.halt.reason is None:
            recorded = self.history.stop
            if recorded is not None:
                if self._started >= recorded.position:
                    self._end(recorded.reason, "as recorded")
            elif self.deadline is not None and self.clock() >= self.deadline:
                self._end("wall", "the time for the search is over")
        return self.halt.reason is not None and (capped or self.halt.reason == "interrupted")

    def _end(self, reason: str, message: str) -> None:
        if self.halt.reason is None or reason == "interrupted":
            self.halt = Halt(reason, self._taken, message)

    def _take(self, job: Job[I, O], settled: EvaluationSettled) -> None:
        """Account for a result at its logical place."""
        output = settled.output if job.part == "held_out" else None
        judged = Judged(settled.score, settled.code, settled.failure, output)
        if output is None and judged.code is None:
            judged = self._equal.setdefault(settled.score, judged)
        self.known[job.key] = judged
        if settled.score is not None:
            self.lowest = min(self.lowest, settled.score)
        charges = {key: spend_of(charge) for key, charge in settled.charges.items()}
        self.charge(charges)
        self.most = larger(self.most, job.candidate.saw(charges))
        self.done += 1
        self._watch(settled)
        if self.learned is not None:
            self.learned(job.candidate)
        if self.notice is not None:
            self.notice()

    def charge(self, charges: Mapping[str, Spend]) -> Spend:
        """Charge calls at their logical place; those that were never bought in this study came from a cache."""
        for key in charges:
            if not self.ledger.charged(key):
                self.cache_hits += self.journal.cost(key) is None and not key.startswith("failed ")
        return self.ledger.charge(charges)

    def _watch(self, settled: EvaluationSettled) -> None:
        """End a study whose model or metric does not work."""
        self._down = self._down + 1 if is_down(settled.code) else 0
        if self._refused >= 0:
            self._refused = self._refused + 1 if settled.code is not None and settled.code.startswith("DX5") else -1
        reason = f"{settled.code} {settled.failure}"
        if self._down >= PATIENCE:
            raise StudyError(
                "DX6211",
                f"the model cannot be reached: {self._down} evaluations in a row ended with {reason}",
                where=self.log.study,
                fix=f"see that the model works, then: dspex study resume {self.log.study}",
                retryable=True,
            )
        if self._refused >= PATIENCE:
            raise StudyError(
                "DX6212",
                f"the metric failed on each of the first {self._refused} evaluations: {reason}",
                where=self.log.study,
                fix="correct the metric, then begin a new study",
            )
        if self.policy == "stop" and settled.score is None:
            raise StudyError(
                "DX6213",
                f"an evaluation failed and on_failure is 'stop': {reason}",
                where=self.log.study,
                fix="correct the cause, or choose on_failure='worst' or 'exclude'",
            )

    async def traced(self, jobs: Sequence[Job[I, O]]) -> AsyncGenerator[tuple[Job[I, O], Outcome[O]]]:
        """Evaluate for the sake of the traces; in logical order, and logged like all evaluations.

        On a resume this runs again, out of answers that are paid for already.

        Raises:
            BudgetExceeded: The account has no room for any of them.
        """
        results = in_order(
            deque(jobs),
            self._outcome,
            width=self.width,
            admit=lambda _: "start" if self.stop.reason is None else "stop",
        )
        async with aclosing(results):
            async for job, outcome in results:
                settled = self._settled(job, outcome)
                if job.key not in self.history.evaluations:
                    self.log.note(settled)
                self._take(job, settled)
                yield job, outcome

    async def _settle(self, job: Job[I, O]) -> tuple[EvaluationSettled, Outcome[O] | None]:
        """One evaluation: from the log, or bought now. A calibration runs again, out of answers that are paid for."""
        recorded = self.history.evaluations.get(job.key)
        traced = job.part == "calibration"
        if recorded is not None and not traced:
            return recorded, None
        outcome = await self._outcome(job)
        settled = self._settled(job, outcome)
        if recorded is None:
            self.log.note(settled)
        return settled, outcome if traced else None

    async def _outcome(self, job: Job[I, O]) -> Outcome[O]:
        """The outcome of an evaluation, once the account has room for it."""
        self._working += 1
        try:
            while True:
                try:
                    outcome = await outcome_of(job.candidate.program, job.example, self.metric)
                except BudgetExceeded as refused:
                    await self._room(refused)
                else:
                    break
            if self.journal.broken is not None:
                raise self.journal.broken
            return outcome
        finally:
            self._working -= 1
            self._freed.set()

    async def _room(self, refused: BudgetExceeded) -> None:
        """Wait until another evaluation ended: what it had reserved beyond its cost is free then."""
        self._working -= 1
        try:
            if self._working <= 0:
                raise refused
            self._freed.clear()
            await self._freed.wait()
        finally:
            self._working += 1

    def charges(self, trace: Trace, place: str) -> dict[str, Spend]:
        """What each call in a trace costs by its key, whether it was bought now or not; failed attempts by `place`."""
        charges: dict[str, Spend] = {}
        failed = 0
        for call in trace.calls:
            if call.key is None or call.response is None:
                failed += call.attempts
                continue
            failed += max(0, call.attempts - 1)
            bought = self.journal.cost(call.key)
            if bought is None:
                usage, price = call.response.usage, self.prices.get(call.model)
                bought = Spend(
                    1,
                    usage.input_tokens if usage else 0,
                    usage.output_tokens if usage else 0,
                    None if price is None else price.cost(usage) if usage else 0.0,
                )
            charges[call.key] = bought
        if failed:
            charges[f"failed {place}"] = Spend(failed)
        return charges

    def _settled(self, job: Job[I, O], outcome: Outcome[O]) -> EvaluationSettled:
        spent = outcome.spent
        output: Json = None
        if outcome.got is not None:
            output = outcome.got.model_dump(mode="json")
        return EvaluationSettled(
            job.candidate.number,
            job.candidate.number,
            job.example.hash,
            job.part,
            outcome.score,
            outcome.code,
            outcome.failure,
            outcome.feedback,
            output,
            outcome.trace.cached,
            spent.calls,
            spent.input_tokens,
            spent.output_tokens,
            spent.usd,
            round(outcome.seconds, 6),
            {key: charge_of(spend) for key, spend in self.charges(outcome.trace, " ".join(job.key)).items()},
        )


def _minus(a: Spend, b: Spend) -> Spend:
    usd = None if a.usd is None or b.usd is None else a.usd - b.usd
    return Spend(a.calls - b.calls, a.input_tokens - b.input_tokens, a.output_tokens - b.output_tokens, usd)


def mean(scores: Sequence[float | None]) -> float | None:
    """Mean of the scores that there are."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None
