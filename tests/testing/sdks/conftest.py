"""The server that the official clients talk to, and what it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator

import pytest

from dspex.lm.model import LM, StreamingModel
from dspex.lm.types import Capabilities, LMRequest, LMResponse, Message, ToolCall, ToolSpec, Usage
from dspex.providers import open_model
from dspex.testing import MockRequest, MockServer, Trouble, default_answer
from dspex.testing.request import Said

SCHEMA = '{"properties":{"city":{"type":"string"}},"required":["city"],"type":"object"}'
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


Told = list[tuple[str, str, list[str]]]
"""Id, name and parts of the arguments of each tool call in a stream."""


def told(model: str, base_url: str, key: str = "right") -> Told:
    """What dspex tells of the calls for the weather in both cities."""

    async def work() -> Told:
        opened = open_model(LM(model, base_url=base_url, api_key=key, capabilities=Capabilities(tools=True)))
        assert isinstance(opened, StreamingModel)
        request = LMRequest((Message("user", "the weather in both"),), tools=(ToolSpec("weather", "", SCHEMA),))
        calls = Told()
        async for delta in opened.stream(request):
            for part in delta.calls:
                if part.name:
                    calls.append((part.id, part.name, []))
                calls[part.index][2].append(part.arguments)
        await opened.aclose()
        return calls

    return asyncio.run(work())


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
