"""Studies as a store keeps them: their list, their reports, and where a study's program, data and metric came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import cast

from dspex.errors import StudyError
from dspex.stores.protocol import Event, EventStore
from dspex.study.report import Failure, Report, Status
from dspex.study.resume import POSITIONED, History
from dspex.telemetry.events import Json, StudyCreated, StudyFinished, StudyResumed, StudyStopped, from_dict


@dataclass(frozen=True)
class Origin:
    """What a command line named, so that `dspex study resume` finds it again.

    Attributes:
        program, metric: ``module:name`` or ``path/to/file.py:name``.
        data, held_out: Absolute paths.
        folder: The folder in which the study began.
        lm: The model that was chosen on the command line.
        artifact, page: Absolute paths of the results to write.
    """

    program: str
    data: str
    metric: str
    folder: str
    held_out: str | None = None
    lm: str | None = None
    artifact: str | None = None
    page: str | None = None

    def as_json(self) -> dict[str, Json]:
        return cast("dict[str, Json]", asdict(self))


@dataclass(frozen=True)
class Summary:
    """One study in a list. ``status`` is ``open`` while it has no end: it runs, or its process was killed."""

    study: str
    program: str
    seed: int
    status: str
    created: float

    def as_json(self) -> dict[str, Json]:
        return cast("dict[str, Json]", asdict(self))


def summaries(store: EventStore) -> list[Summary]:
    """Every study in the store, the newest first."""
    found: list[Summary] = []
    kinds = (StudyCreated.kind, StudyStopped.kind, StudyFinished.kind, StudyResumed.kind)
    for stream in store.streams():
        events = list(store.read(stream, kinds=kinds))
        if not events or events[0].kind != StudyCreated.kind:
            continue
        created = cast(StudyCreated, from_dict(events[0].kind, events[0].payload))
        program = created.details.get("program")
        name = str(program.get("class", "")) if isinstance(program, Mapping) else ""
        found.append(Summary(stream, name, created.seed, _status(events[-1]), events[0].at))
    return sorted(found, key=lambda summary: -summary.created)


def _status(last: Event) -> str:
    match from_dict(last.kind, last.payload):
        case StudyFinished(report=report):
            return str(report.get("status", "complete"))
        case StudyStopped(reason=reason) if reason not in POSITIONED:
            return "interrupted" if reason == "interrupted" else "failed"
        case _:
            return "open"


def report_of(store: EventStore, study: str) -> Report:
    """The report of a finished study; for another, what it has spent and how far it came.

    Raises:
        StudyError: DX6201: there is no such study.
    """
    history = History.read(store, study)
    if history.finished is not None:
        return Report.from_json(history.finished.report)
    created = cast(StudyCreated, history.created)
    status: Status = "interrupted"
    reason = "it runs, or its process was killed"
    last = list(store.read(study, kinds=(StudyStopped.kind, StudyResumed.kind)))[-1:]
    error: Failure | None = None
    if last and _status(last[0]) != "open":
        stopped = cast(StudyStopped, from_dict(last[0].kind, last[0].payload))
        reason = str(stopped.message or stopped.reason)
        if stopped.reason != "interrupted":
            status = "failed"
            # The log keeps the error as one text, its code first.
            code, _, message = reason.partition(" ")
            error = Failure(code, message, f"dspex explain {code}")
    return Report(
        study=study,
        seed=created.seed,
        strategy=created.strategy,
        status=status,
        stopped_because=reason,
        calls=history.settled.calls,
        attempts=history.attempts,
        tokens=history.settled.tokens,
        usd=history.settled.usd,
        seconds=history.seconds,
        failures=dict(sorted(history.failures.items())),
        repeats_after_crash=history.repeats,
        settled=history.settled,
        uncertain=history.uncertain,
        search={"trials": len(history.asked), "evaluations": len(history.evaluations)},
        versions=dict(created.versions),
        error=error,
    )


def origin_of(store: EventStore, study: str) -> Origin:
    """Where the study's program, data and metric are.

    Raises:
        StudyError: DX6201: there is no such study; DX6209: it was not begun from the command line.
    """
    created = cast(StudyCreated, History.read(store, study).created)
    recorded = created.details.get("origin")
    names = {field.name for field in fields(Origin)}
    if not isinstance(recorded, Mapping) or not {"program", "data", "metric", "folder"} <= set(recorded):
        raise StudyError(
            "DX6209",
            f"study {study} was begun from Python: its program, data and metric have no import paths",
            where=study,
            fix=f"resume it there: dspex.study.loop.resume({study!r}, program, data, metric)",
        )
    return Origin(**{name: cast(str, value) for name, value in recorded.items() if name in names})
