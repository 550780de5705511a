"""Every protocol says the same answer, whole and as a stream; the official clients check the rest (`nox -s sdks`)."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspex.lm.types import LMResponse, ToolCall, Usage
from dspex.testing import MockServer, Trouble
from dspex.testing.request import Said

from .talk import CHAT, WIRES, ask, events, http, text_of, tokens_of

SCHEMA = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]}


class Speaker:
    """A server whose next answer the test chooses."""

    said: Said = ""

    def __init__(self) -> None:
        self.server = MockServer(lambda request: self.said)


@pytest.fixture(scope="module")
def speaker() -> Generator[Speaker]:
    made = Speaker()
    with made.server:
        yield made


@pytest.mark.parametrize("name", WIRES)
def test_default_answers_are_equal_whole_and_streamed_but_for_the_request(name: str) -> None:
    with MockServer() as server:
        for stream in (False, True):
            answer = ask(server, WIRES[name].request(stream))
            assert (answer.status, answer.complete) == (200, True)
            assert text_of(name, answer.body, stream).startswith("answer ")


def usage(cached: int, written: int, fresh: int, thought: int, said: int) -> Usage:
    return Usage(cached + written + fresh, thought + said, cached, thought, written)


usages = st.builds(usage, *[st.integers(0, 1000)] * 5)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


@pytest.mark.parametrize("name", WIRES)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts, reasoning=texts, cost=usages)
def test_texts_and_usage_arrive_as_they_were_said(
    speaker: Speaker, name: str, text: str, reasoning: str, cost: Usage
) -> None:
    speaker.said = LMResponse(text, cost, reasoning=reasoning)
    for stream in (False, True):
        answer = ask(speaker.server, WIRES[name].request(stream))
        assert text_of(name, answer.body, stream) == text
        assert tokens_of(name, answer.body, stream) == (cost.input_tokens, cost.output_tokens)


def calls_of(name: str, body: dict[str, Any]) -> list[tuple[str, Any]]:
    """(name, arguments) of the tool calls of a whole answer."""
    match name:
        case "openai" | "ollama":
            message = body["message"] if name == "ollama" else body["choices"][0]["message"]
            return [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]
        case "responses":
            return [(item["name"], item["arguments"]) for item in body["output"]]
        case "anthropic":
            return [(block["name"], block["input"]) for block in body["content"]]
        case "gemini":
            parts = body["candidates"][0]["content"]["parts"]
            return [(part["functionCall"]["name"], part["functionCall"]["args"]) for part in parts]
        case _:
            blocks = body["output"]["message"]["content"]
            return [(block["toolUse"]["name"], block["toolUse"]["input"]) for block in blocks]


@pytest.mark.parametrize("name", WIRES.keys() - {"completions"})
def test_tool_calls_arrive(speaker: Speaker, name: str) -> None:
    arguments = {"city": "Paris", "days": [1, 2]}
    calls = (ToolCall("1", "weather", json.dumps(arguments)), ToolCall("2", "time", "{}"))
    speaker.said = LMResponse("", tool_calls=calls, stop="tool_calls")
    found = calls_of(name, ask(speaker.server, WIRES[name].request(False)).json)
    assert [called for called, _ in found] == ["weather", "time"]
    assert [json.loads(given) if isinstance(given, str) else given for _, given in found] == [arguments, {}]
    streamed = ask(speaker.server, WIRES[name].request(True)).body
    assert b"weather" in streamed
    assert b"time" in streamed


FORMATS: dict[str, dict[str, Any]] = {
    "openai": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    "responses": {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
    "anthropic": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "gemini": {"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}},
    "ollama": {"format": SCHEMA},
    "bedrock": {
        "outputConfig": {
            "textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": json.dumps(SCHEMA)}}}
        }
    },
}
TOOLS: dict[str, dict[str, Any]] = {
    "openai": {
        "tools": [{"type": "function", "function": {"name": "t", "parameters": SCHEMA}}],
        "tool_choice": {"type": "function", "function": {"name": "t"}},
    },
    "responses": {
        "tools": [{"type": "function", "name": "t", "parameters": SCHEMA}],
        "tool_choice": {"type": "function", "name": "t"},
    },
    "anthropic": {"tools": [{"name": "t", "input_schema": SCHEMA}], "tool_choice": {"type": "any"}},
    "gemini": {
        "tools": [{"functionDeclarations": [{"name": "t", "parameters": SCHEMA}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
    },
    "bedrock": {
        "toolConfig": {
            "tools": [{"toolSpec": {"name": "t", "inputSchema": {"json": SCHEMA}}}],
            "toolChoice": {"tool": {"name": "t"}},
        }
    },
}


@pytest.mark.parametrize("name", FORMATS)
def test_default_answers_fit_an_enforced_schema(name: str) -> None:
    with MockServer() as server:
        answer = ask(server, WIRES[name].request(False, **FORMATS[name]))
        assert json.loads(text_of(name, answer.body, False))["label"] in ("a", "b")


@pytest.mark.parametrize("name", TOOLS)
def test_default_answers_call_a_forced_tool(name: str) -> None:
    with MockServer() as server:
        ((called, given),) = calls_of(name, ask(server, WIRES[name].request(False, **TOOLS[name])).json)
        assert called == "t"
        assert (json.loads(given) if isinstance(given, str) else given)["label"] in ("a", "b")


STOPS = {
    "openai": ("length", "content_filter"),
    "completions": ("length", "content_filter"),
    "responses": ("incomplete", "incomplete"),
    "anthropic": ("max_tokens", "refusal"),
    "gemini": ("MAX_TOKENS", "SAFETY"),
    "ollama": ("length", "stop"),
    "bedrock": ("max_tokens", "content_filtered"),
}


@pytest.mark.parametrize("name", WIRES)
def test_reasons_to_stop_have_the_protocol_s_names(speaker: Speaker, name: str) -> None:
    for stop, wanted in zip(("length", "content_filter"), STOPS[name], strict=True):
        speaker.said = LMResponse("It is", stop=stop)  # type: ignore[arg-type]
        for stream in (False, True):
            assert f'"{wanted}"'.encode() in ask(speaker.server, WIRES[name].request(stream)).body


WORDS: dict[str, dict[str, str]] = {
    "openai": {"context_length": "context_length_exceeded", "content_filter": "content_filter", "quota": "quota"},
    "anthropic": {"context_length": "prompt is too long", "content_filter": "content filter", "quota": "credit"},
    "gemini": {"context_length": "exceeds the maximum", "content_filter": "blockReason", "quota": "QuotaFailure"},
    "ollama": {"context_length": "context length", "content_filter": "blocked", "quota": "usage limit"},
    "bedrock": {"context_length": "too long", "content_filter": "content filter", "quota": "quota"},
}


@pytest.mark.parametrize("name", WORDS)
def test_troubles_have_the_protocol_s_own_shape(speaker: Speaker, name: str) -> None:
    for kind, words in WORDS[name].items():
        speaker.said = Trouble(kind)  # type: ignore[arg-type]
        for stream in (False, True):
            answer = ask(speaker.server, WIRES[name].request(stream))
            assert answer.status != 200 or "blockReason" in words
            assert words in answer.body.decode()


def test_requests_that_the_real_server_refuses_are_refused() -> None:
    with MockServer() as server:
        refused: tuple[tuple[str, dict[str, Any]], ...] = (
            ("/v1/messages", {"model": "m", "messages": [{"role": "user", "content": "x"}]}),
            ("/v1/responses", {"input": "x"}),
            ("/v1beta/models/m:generateContent", {}),
            ("/api/chat", {"messages": []}),
            ("/model/m/converse", {"messages": []}),
            ("/v1/embeddings", {"input": []}),
            ("/v1/batches", {"input_file_id": "none"}),
        )
        for path, body in refused:
            assert ask(server, http(path, json.dumps(body).encode())).status == 400
        assert server.totals().refused == len(refused)


def test_a_gemini_stream_without_sse_is_a_json_array(speaker: Speaker) -> None:
    speaker.said = "one two three four"
    body = WIRES["gemini"].request(True).replace(b"?alt=sse", b"")
    chunks = json.loads(ask(speaker.server, body).body)
    assert "".join(chunk["candidates"][0]["content"]["parts"][0]["text"] for chunk in chunks) == "one two three four"


def test_prefixes_of_compatible_servers_are_understood() -> None:
    with MockServer() as server:
        for prefix in ("/openai/deployments/d", "/openai/v1", "/api/v1", "", "http://elsewhere.example/v1"):
            request = CHAT.request(False).replace(b"/v1/chat", f"{prefix}/chat".encode(), 1)
            assert ask(server, request).status == 200
        assert {request.protocol for request in server.requests} == {"openai"}


def test_what_an_answer_function_sees() -> None:
    seen: list[object] = []

    def answer(request: Any) -> str:
        seen.append((request.protocol, request.model, request.key, request.text))
        return "x"

    with MockServer(answer) as server:
        for name in ("openai", "anthropic", "gemini", "ollama", "bedrock"):
            ask(server, WIRES[name].request(False, "Hello", "key", system="Be brief."))
    assert seen == [
        (name, "m", "key", "Be brief.\nHello") for name in ("openai", "anthropic", "gemini", "ollama", "bedrock")
    ]


def test_what_an_answer_function_raises_is_raised_again() -> None:
    def answer(request: Any) -> str:
        raise LookupError("no such city")

    def block() -> None:
        with MockServer(answer) as server:
            reply = ask(server, CHAT.request(False))
            assert reply.status == 500
            assert "no such city" in reply.body.decode()

    with pytest.raises(LookupError):
        block()


def test_events_end_as_their_protocol_wants(speaker: Speaker) -> None:
    speaker.said = "one two"
    streams = {name: ask(speaker.server, WIRES[name].request(True)).body for name in WIRES}
    assert streams["openai"].endswith(b"data: [DONE]\n\n")
    assert events(streams["anthropic"])[-1] == {"type": "message_stop"}
    assert events(streams["ollama"])[-1]["done"] is True
    assert events(streams["responses"])[-1]["type"] == "response.completed"
    assert events(streams["gemini"])[-1]["candidates"][0]["finishReason"] == "STOP"
