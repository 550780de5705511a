"""The identity of a call: the same for equal requests, in every process, and another one for any other request."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import fields, replace
from typing import Any, get_type_hints

from hypothesis import given
from hypothesis import strategies as st

from dspex.executor.caching import call_key
from dspex.lm.types import Attachment, LMRequest, Message, ToolSpec
from tests.wire_types import REQUESTS, arbitrary, without_marks

PRINT = """
import pickle, sys
from dspex.executor.caching import call_key
for request in pickle.load(sys.stdin.buffer):
    print(call_key("m", request))
"""


def changed(data: st.DataObject, value: Any) -> Any:
    """`value` with another value, which may be an equal one, in one field."""
    field = data.draw(st.sampled_from(fields(value)))
    hints = get_type_hints(value.__class__)
    return replace(value, **{field.name: data.draw(arbitrary(hints[field.name]))})


@given(st.data(), REQUESTS)
def test_keys_are_equal_where_requests_are(data: st.DataObject, request: LMRequest) -> None:
    if request.messages and data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(request.messages) - 1))
        turns = list(request.messages)
        turns[place] = changed(data, turns[place])
        other = replace(request, messages=tuple(turns))
    else:
        other = changed(data, request)
    same = without_marks(request) == without_marks(other)
    assert (call_key("m", request) == call_key("m", other)) == same
    assert call_key("m", request) != call_key("n", request)
    assert call_key("m", request) == call_key("m", pickle.loads(pickle.dumps(request)))


def test_numbers_that_are_equal_give_one_key() -> None:
    for one, other in (
        (LMRequest(temperature=0), LMRequest(temperature=0.0)),
        (LMRequest(temperature=-0.0), LMRequest(temperature=0.0)),
        (LMRequest(top_p=1), LMRequest(top_p=1.0)),
    ):
        assert one == other
        assert call_key("m", one) == call_key("m", other)


def test_an_attachment_counts_beside_a_text_without_utf_8() -> None:
    def turn(data: str) -> LMRequest:
        return LMRequest((Message("user", "\ud800", (Attachment("image", "image/png", data),)),))

    assert call_key("m", turn("eA==")) != call_key("m", turn("eQ=="))


def test_two_halves_of_a_character_are_not_the_character() -> None:
    whole, halves = (LMRequest((Message("user", text + "\ud800 "),)) for text in ("\U0001f600", "\ud83d\ude00"))
    assert call_key("m", whole) != call_key("m", halves)


def test_keys_are_the_same_in_every_process() -> None:
    requests = [
        LMRequest((Message("system", "a"), Message("user", "b")), temperature=0.1 + 0.2, stop=("x", "y"), seed=3),
        LMRequest(prompt="\ud800", choices=("a", "b"), score_choices=True),
        LMRequest((Message("user", "ü"),), tools=(ToolSpec("f", "does", "{}"),), reasoning="low", top_p=0.9),
    ]
    expected = [call_key("m", request) for request in requests]
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", PRINT],
            input=pickle.dumps(requests),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        )
        assert done.stdout.decode().split() == expected
