"""Every kind of event survives a store, and redaction leaves no content behind."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.errors import StudyError, UsageError
from dspex.stores.codec import dumps, loads
from dspex.telemetry.events import (
    KINDS,
    AttemptFailed,
    AttemptStarted,
    CallCommitted,
    ContentMode,
    EvaluationSettled,
    Json,
    ProposalMade,
    StudyCreated,
    StudyEvent,
    StudyFinished,
    StudyResumed,
    StudyStopped,
    TrialAsked,
    TrialTold,
    content_mode,
    digest,
    from_dict,
    to_dict,
)

SECRET = "what the customer wrote"
EXAMPLES: tuple[StudyEvent, ...] = (
    StudyCreated(
        study="s1", program="p", data="d", metric="m", seed=0, strategy="auto",
        versions={"dspex": "0.1.0"}, budget={"calls": 500, "usd": None}, splits={"train": "t"}, details={"x": [1, 2]},
    ),
    StudyResumed(pid=7, uncertain=3, accepted=("data", "versions")),
    TrialAsked(trial=1, candidate=1, config={"k": 3, "solver": "cot", "temperature": 0.5}, identity="abc"),
    AttemptStarted(key="k", model="m", calls=1, input_tokens=9, output_tokens=9, usd=None),
    CallCommitted(attempt=4, key="k", model="m", response={"text": SECRET, "usage": [1, 2, 0, 0]}, calls=1),
    AttemptFailed(attempt=4, key="k", code="DX4101", message=SECRET, retryable=True, sent="yes"),
    EvaluationSettled(trial=1, candidate=1, example="e", part="validation", score=0.5, feedback=SECRET),
    EvaluationSettled(
        trial=1, candidate=1, example="e", part="train", score=None, code="DX4401", failure=SECRET, output={"a": SECRET}
    ),
    TrialTold(trial=1, candidate=1, value=None, reason="every example failed"),
    ProposalMade(variable="answer.instruction", index=2, proposer="instructions", digest="h", member=SECRET),
    StudyStopped(reason="budget", trials=4, message=SECRET),
    StudyFinished(best={"k": 3}, report={"gain": 0.1}),
)  # fmt: skip


def test_every_kind_has_an_example() -> None:
    assert {type(event) for event in EXAMPLES} == set(KINDS.values()) == set(get_args(StudyEvent))
    assert all(cls.kind == kind for kind, cls in KINDS.items())


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.kind)
def test_an_event_comes_back_from_json(event: StudyEvent) -> None:
    payload = loads(dumps(to_dict(event)))
    assert isinstance(payload, dict)
    assert from_dict(event.kind, payload) == event


@pytest.mark.parametrize("content", ["hash", "off"])
@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.kind)
def test_redaction_leaves_no_content_and_keeps_the_rest(event: StudyEvent, content: ContentMode) -> None:
    payload = to_dict(event, content)
    text = dumps(payload)
    assert SECRET not in text
    whole = to_dict(event)
    for name, value in whole.items():
        if SECRET not in json.dumps(value):
            assert payload[name] == value
        elif content == "hash":
            assert payload[name] == {"redacted": digest(value)}
        else:
            assert payload[name] == {"redacted": None}
    read = loads(text)
    assert isinstance(read, dict)
    assert to_dict(from_dict(event.kind, read)) == payload  # a redacted event can still be read


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.text(), min_size=2))
def test_digest_does_not_depend_on_the_order_of_keys(value: dict[str, Json]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))
    assert digest(value) != digest({**value, "one more": 1})


@pytest.mark.parametrize(
    ("kind", "payload", "code"),
    [
        ("study.unknown", {}, "DX6121"),
        ("study.resumed", {}, "DX6122"),
        ("study.resumed", {"pid": 1, "extra": 2}, "DX6122"),
        ("study.resumed", {"pid": "1"}, "DX6122"),
        ("study.resumed", {"pid": True}, "DX6122"),
        ("study.resumed", {"pid": 1, "accepted": [1]}, "DX6122"),
        ("trial.told", {"trial": 1, "candidate": 1, "value": "high"}, "DX6122"),
        ("trial.asked", {"trial": 1, "candidate": 1, "config": [1]}, "DX6122"),
        ("attempt.failed", {"attempt": 1, "key": "k", "code": "c", "message": None, "sent": "perhaps"}, "DX6122"),
    ],
)
def test_a_payload_of_another_shape_is_refused(kind: str, payload: dict[str, Json], code: str) -> None:
    with pytest.raises(StudyError) as caught:
        from_dict(kind, payload)
    assert caught.value.code == code


def test_content_mode_is_checked() -> None:
    assert content_mode("hash") == "hash"
    with pytest.raises(UsageError, match="DX8211") as caught:
        content_mode("Full")
    assert "DSPEX_CONTENT" in str(caught.value.fix)
