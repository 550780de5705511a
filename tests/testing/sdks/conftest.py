"""The server that the official clients talk to, and what it says."""

from __future__ import annotations

import json
from collections.abc import Generator

import pytest

from dspex.lm.types import LMResponse, ToolCall, Usage
from dspex.testing import MockRequest, MockServer, Trouble, default_answer
from dspex.testing.request import Said

REASONED = Usage(100, 40, 30, 25, 10)


def talk(request: MockRequest) -> Said:
    """What is asked for by name, else the default answer."""
    text = request.text
    if "reason about it" in text:
        return LMResponse("It is four.", REASONED, reasoning="Two and two make four, as everybody knows.")
    if "cut short" in text:
        return LMResponse("It is", stop="length")
    if "something forbidden" in text:
        return Trouble("content_filter")
    if "too much" in text:
        return Trouble("context_length")
    if "weather" in text and "18 degrees" not in text:
        cities = ("Paris", "Rome") if "both" in text else ("Paris",)
        calls = [ToolCall(f"call_{i}", "weather", json.dumps({"city": city})) for i, city in enumerate(cities)]
        return LMResponse("", stop="tool_calls", tool_calls=tuple(calls))
    return default_answer(request)


@pytest.fixture
def server() -> Generator[MockServer]:
    with MockServer(talk, api_key="right") as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "testing/sdks" in item.nodeid:
            # What other people's clients leave open is theirs to mend.
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
