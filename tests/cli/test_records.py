"""What the list of studies and an unfinished study's report say, from its events alone."""

from __future__ import annotations

import pytest

from dspex.errors import StudyError
from dspex.stores.memory import MemoryEventStore
from dspex.study.journal import StudyLog
from dspex.study.records import Origin, origin_of, report_of, summaries
from dspex.telemetry.events import Json, StudyCreated, StudyStopped

ORIGIN = Origin("bot:Bot", "/data/train.jsonl", "bot:accuracy", "/data", lm="openai/x", artifact="/data/best.dspex")


def log(*events: StudyStopped, origin: dict[str, Json] | None = None) -> MemoryEventStore:
    """A store with one study, which has these events after its first."""
    store = MemoryEventStore()
    details: dict[str, Json] = {
        "program": {"class": "bot:Bot"},
        "origin": ORIGIN.as_json() if origin is None else origin,
    }
    study = StudyLog(store, "s", "full")
    study.commit_now(StudyCreated("s", "p", "d", "m", 7, "auto", {"dspex": "1"}, {"calls": 9}, {}, details))
    for event in events:
        study.commit_now(event)
    return store


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ((), "open"),
        ((StudyStopped("wall", 3, 4, "the time is over"),), "open"),
        ((StudyStopped("interrupted", 3, 0, "signal"),), "interrupted"),
        ((StudyStopped("failed", 3, 0, "DX6212 the metric failed"),), "failed"),
        ((StudyStopped("unreachable", 3, 0, "DX6211 no answer"),), "failed"),
    ],
)
def test_the_status_in_the_list(events: tuple[StudyStopped, ...], status: str) -> None:
    (found,) = summaries(log(*events))
    assert (found.study, found.program, found.seed, found.status) == ("s", "bot:Bot", 7, status)


def test_the_report_of_a_study_that_failed_says_why() -> None:
    report = report_of(log(StudyStopped("failed", 3, 0, "DX6212 the metric failed")), "s")
    assert report.status == "failed"
    assert report.error is not None
    assert (report.error.code, report.error.message) == ("DX6212", "the metric failed")


def test_the_report_of_a_study_without_an_end() -> None:
    report = report_of(log(StudyStopped("wall", 3, 4, "the time is over")), "s")
    assert (report.status, report.error, report.seed) == ("interrupted", None, 7)


def test_the_origin_comes_back() -> None:
    assert origin_of(log(), "s") == ORIGIN


def test_an_origin_with_fields_of_a_newer_version() -> None:
    assert origin_of(log(origin={**ORIGIN.as_json(), "later": 1}), "s") == ORIGIN


def test_a_study_without_an_origin() -> None:
    with pytest.raises(StudyError, match="DX6209"):
        origin_of(log(origin={}), "s")
    with pytest.raises(StudyError, match="DX6201"):
        origin_of(log(), "another")
