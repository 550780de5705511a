"""What a study's log says: the fold over its events, and whether it may be taken up again.

Resuming is running the same search again with what is known already: answers that were paid for are not
bought again, evaluations that are settled are not repeated, and every decision is checked against the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dspex.errors import ResumeRefused, StudyError
from dspex.lm.spend import NOTHING, Spend
from dspex.lm.types import LMResponse
from dspex.stores.codec import response_from_json
from dspex.stores.protocol import Event, EventStore
from dspex.telemetry.events import (
    AttemptFailed,
    AttemptStarted,
    CallCommitted,
    EvaluationSettled,
    Json,
    ProposalMade,
    StudyCreated,
    StudyFinished,
    StudyResumed,
    StudyStopped,
    TrialAsked,
    TrialTold,
    from_dict,
)

POSITIONED = frozenset({"wall", "account"})
"""Reasons for a stop that a resumed study repeats at the same place; the others are over once it resumes."""
UNREACHABLE = "unreachable"

_DOWN = ("DX40", "DX41", "DX4202", "DX4203", "DX4204", "DX4207", "DX4208", "DX4731", "DX7")

EvaluationKey = tuple[str, str, str]
"""(identity of the configuration, part of the data, hash of the example)."""


def is_down(code: str | None) -> bool:
    """Whether a failure says that the model could not be reached or refused, rather than what it answered."""
    return code is not None and code.startswith(_DOWN)


@dataclass
class History:
    """The fold over a study's events.

    Attributes:
        answers: Answers that were paid for and can be read back, by call key.
        models: Name of the model that gave each of them.
        costs: What each of them cost; also of answers whose text was not kept.
        evaluations: Settled evaluations.
        asked: Trials by number.
        proposals: Digest of each proposal by Variable and index.
        told: How often each trial was told.
        in_flight: Attempts that no event settles when the log ends.
        lost: How many attempts a crash left unsettled and nobody sent again, by call key.
        settled: Sum of what answered calls cost.
        uncertain: Upper bound of what attempts without a known outcome cost.
        crashed: The part of it that was in flight when a process ended.
        refused: What attempts cost that are known to have failed.
        attempts: Attempts started.
        failures: Failed attempts by code.
        repeats: Attempts that were sent again after a crash.
        unread: Answers whose content was not kept.
        stop: Where the wall clock or the account ended the search.
        seconds: Seconds that earlier processes worked.
    """

    created: StudyCreated | None = None
    finished: StudyFinished | None = None
    stop: StudyStopped | None = None
    answers: dict[str, LMResponse] = field(default_factory=dict[str, LMResponse])
    models: dict[str, str] = field(default_factory=dict[str, str])
    costs: dict[str, Spend] = field(default_factory=dict[str, Spend])
    evaluations: dict[EvaluationKey, EvaluationSettled] = field(default_factory=dict[EvaluationKey, EvaluationSettled])
    asked: dict[int, TrialAsked] = field(default_factory=dict[int, TrialAsked])
    proposals: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    told: dict[int, int] = field(default_factory=dict[int, int])
    in_flight: int = 0
    lost: dict[str, int] = field(default_factory=dict[str, int])
    settled: Spend = NOTHING
    uncertain: Spend = NOTHING
    crashed: Spend = NOTHING
    refused: Spend = NOTHING
    attempts: int = 0
    failures: dict[str, int] = field(default_factory=dict[str, int])
    repeats: int = 0
    unread: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, events: Iterable[Event]) -> History:
        """Fold events, oldest first."""
        fold = _Fold(cls())
        for event in events:
            fold.take(event)
        return fold.end()

    @classmethod
    def read(cls, store: EventStore, study: str) -> History:
        """Fold a study's stream.

        Raises:
            StudyError: DX6201: there is no such study.
        """
        history = cls.of(store.read(study))
        if history.created is None:
            known = store.streams()[-5:]
            raise StudyError(
                "DX6201",
                f"there is no study {study!r} in this store",
                fix=f"the latest studies are {', '.join(known)}" if known else "this store holds no studies",
            )
        return history


class _Fold:
    """The state of a fold that its result does not need."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.open: dict[int, AttemptStarted] = {}
        self.lost: dict[str, int] = {}
        self.since: float | None = None
        self.until = 0.0
        self.suspects: list[EvaluationKey] = []

    def take(self, event: Event) -> None:
        h = self.history
        match from_dict(event.kind, event.payload):
            case StudyCreated() as created:
                h.created = created
                self.since = event.at
            case StudyResumed():
                self._crashed()
                h.finished = None
                if self.since is not None:
                    h.seconds += max(0.0, self.until - self.since)
                self.since = event.at
            case AttemptStarted() as started:
                h.attempts += 1
                self.open[event.id] = started
                if self.lost.get(started.key, 0) > 0:
                    self.lost[started.key] -= 1
                    h.repeats += 1
            case CallCommitted() as call:
                self.open.pop(call.attempt, None)
                spent = Spend(call.calls, call.input_tokens, call.output_tokens, call.usd)
                h.settled = h.settled + spent
                h.costs[call.key] = spent
                try:
                    h.answers[call.key] = response_from_json(call.response)
                    h.models[call.key] = call.model
                except ValueError:
                    h.unread += 1
            case AttemptFailed(code="") as unsent:
                self.open.pop(unsent.attempt, None)
                h.attempts -= 1
            case AttemptFailed() as failed:
                started = self.open.pop(failed.attempt, None)
                h.failures[failed.code] = h.failures.get(failed.code, 0) + 1
                if failed.uncertain and started is not None:
                    h.uncertain = h.uncertain + _reserved(started)
                else:
                    h.refused = h.refused + Spend(failed.calls, failed.input_tokens, failed.output_tokens, failed.usd)
            case TrialAsked() as asked:
                h.asked[asked.trial] = asked
            case TrialTold() as told:
                h.told[told.trial] = h.told.get(told.trial, 0) + 1
            case ProposalMade() as made:
                h.proposals[made.variable, made.index] = made.digest
            case EvaluationSettled() as settled:
                asked = h.asked.get(settled.candidate)
                if asked is not None:
                    key = (asked.identity, settled.part, settled.example)
                    h.evaluations[key] = settled
                    if is_down(settled.code):
                        self.suspects.append(key)
                    else:
                        self.suspects.clear()
            case StudyStopped() as stopped:
                if stopped.reason in POSITIONED:
                    h.stop = stopped
                elif stopped.reason == UNREACHABLE:
                    # The model was down, so these evaluations say nothing about their candidates.
                    for key in self.suspects:
                        h.evaluations.pop(key, None)
                    self.suspects.clear()
            case StudyFinished() as finished:
                h.finished = finished
        self.until = event.at

    def _crashed(self) -> None:
        """Whatever is open now was in flight when a process ended."""
        for started in self.open.values():
            self.lost[started.key] = self.lost.get(started.key, 0) + 1
            self.history.uncertain = self.history.uncertain + _reserved(started)
            self.history.crashed = self.history.crashed + _reserved(started)
        self.open.clear()

    def end(self) -> History:
        h = self.history
        h.in_flight = len(self.open)
        self._crashed()
        h.lost = {key: count for key, count in self.lost.items() if count > 0}
        if self.since is not None:
            h.seconds += max(0.0, self.until - self.since)
        return h


def _reserved(started: AttemptStarted) -> Spend:
    return Spend(started.calls, started.input_tokens, started.output_tokens, started.usd)


def compare(recorded: StudyCreated, now: StudyCreated) -> list[str]:
    """What differs between the study as it was begun and as it would be resumed, a line each."""
    lines: list[str] = []
    for name in ("program", "data", "metric"):
        before, after = str(getattr(recorded, name)), str(getattr(now, name))
        if before != after:
            lines.append(f"{name}: {before[:12]} when it began, {after[:12]} now")
            lines += _changes(_mapping(recorded.details.get(name)), _mapping(now.details.get(name)), "  ")
    lines += _changes(recorded.versions, now.versions, "version of ")
    return lines


def _changes(before: Mapping[str, Json], after: Mapping[str, Json], prefix: str) -> list[str]:
    lines: list[str] = []
    for name in [*before, *(n for n in after if n not in before)]:
        if before.get(name) != after.get(name):
            was = f"{before[name]!s:.60}" if name in before else "absent"
            now = f"{after[name]!s:.60}" if name in after else "absent"
            lines.append(f"{prefix}{name}: {was} when it began, {now} now")
    return lines


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}


def check(recorded: StudyCreated, now: StudyCreated, accept_changes: bool) -> tuple[str, ...]:
    """The accepted differences.

    Raises:
        ResumeRefused: DX6202: something differs and `accept_changes` is not given.
    """
    differences = compare(recorded, now)
    if differences and not accept_changes:
        raise ResumeRefused(
            "DX6202",
            f"the study {recorded.study} was begun with something else:\n    " + "\n    ".join(differences),
            where=recorded.study,
            fix="undo the change, begin a new study, or resume with accept_changes=True (--accept-changes)",
        )
    return tuple(differences)
