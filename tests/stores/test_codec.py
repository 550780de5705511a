"""JSON as stores write it: whatever is written is read back, to the last bit."""

from __future__ import annotations

import pytest
from hypothesis import given

from dspex.lm.types import LMResponse
from dspex.stores.codec import dumps, loads, response_from_json, response_to_json
from dspex.telemetry.events import Json
from tests.wire_types import RESPONSES


@given(RESPONSES)
def test_any_response_comes_back(response: LMResponse) -> None:
    text = dumps(response_to_json(response))
    text.encode()
    back = response_from_json(loads(text))
    assert back == response
    # Signs of zero are not seen by equality.
    assert repr(back) == repr(response)
    assert back.limits is None


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "text",
        {},
        {"text": 3},
        {"text": "a", "usage": [1, 2, 3, 4, 5, 6]},
        {"text": "a", "usage": 3},
        {"text": "a", "tool_calls": [["id"]]},
        {"text": "a", "tool_calls": 3},
        {"text": "a", "tokens": [["t", 0.5]]},
    ],
)
def test_what_is_no_response_is_refused(stored: Json) -> None:
    with pytest.raises(ValueError, match=r"."):
        response_from_json(stored)
