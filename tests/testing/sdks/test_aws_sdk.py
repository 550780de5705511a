"""AWS's own client against the mock server."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from dspex.testing import Fault, MockServer

from .conftest import REASONED, Told, talk, told

session: Any = pytest.importorskip("botocore.session")
config: Any = pytest.importorskip("botocore.config")
exceptions: Any = pytest.importorskip("botocore.exceptions")

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = {"tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": SCHEMA}}}]}


@pytest.fixture
def server() -> Generator[MockServer]:
    with MockServer(talk, api_key="AKIDMOCK") as running:
        yield running


@pytest.fixture
def client(server: MockServer) -> Any:
    return session.get_session().create_client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=server.root,
        aws_access_key_id="AKIDMOCK",
        aws_secret_access_key="secret",
        config=config.Config(retries={"max_attempts": 0}, proxies={}),
    )


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"modelId": "a.model-v1:0", "messages": [{"role": "user", "content": [{"text": text}]}], **more}


def joined(stream: Any, *path: str) -> str:
    text = ""
    for event in stream:
        found = event.get("contentBlockDelta", {}).get("delta", {})
        for name in path:
            found = found.get(name, {})
        text += found or ""
    return text


def test_converse(client: Any, server: MockServer) -> None:
    made = client.converse(**asked("Hello", system=[{"text": "Be brief."}]))
    assert made["output"]["message"]["content"][0]["text"].startswith("answer ")
    assert made["stopReason"] == "end_turn"
    assert made["usage"]["totalTokens"] == server.input_tokens + server.output_tokens
    assert server.requests[0].model == "a.model-v1:0"
    assert server.totals(protocol="bedrock", key="AKIDMOCK").completed == 1


def test_streams_say_what_whole_answers_say(client: Any) -> None:
    whole = client.converse(**asked("reason about it"))
    events = list(client.converse_stream(**asked("reason about it"))["stream"])
    thought, text = whole["output"]["message"]["content"]
    assert joined(events, "text") == text["text"] == "It is four."
    assert joined(events, "reasoningContent", "text") == thought["reasoningContent"]["reasoningText"]["text"]
    assert events[0] == {"messageStart": {"role": "assistant"}}
    assert events[-1]["metadata"]["usage"] == whole["usage"]
    assert whole["usage"]["cacheReadInputTokens"] == REASONED.cached_tokens
    assert whole["usage"]["cacheWriteInputTokens"] == REASONED.written_tokens


def test_tools_and_structured_output(client: Any) -> None:
    whole = client.converse(**asked("the weather in both", toolConfig=TOOLS))
    blocks = whole["output"]["message"]["content"]
    assert [block["toolUse"]["input"]["city"] for block in blocks] == ["Paris", "Rome"]
    events = client.converse_stream(**asked("the weather in both", toolConfig=TOOLS))["stream"]
    assert joined(events, "toolUse", "input") == '{"city":"Paris"}{"city":"Rome"}'
    results = [
        {"toolResult": {"toolUseId": block["toolUse"]["toolUseId"], "content": [{"text": "18 degrees"}]}}
        for block in blocks
    ]
    messages = [
        {"role": "user", "content": [{"text": "the weather in both"}]},
        whole["output"]["message"],
        {"role": "user", "content": results},
    ]
    last = client.converse(modelId="m", messages=messages, toolConfig=TOOLS)
    assert last["output"]["message"]["content"][0]["text"].startswith("answer ")
    forced = client.converse(**asked("Hello", toolConfig={**TOOLS, "toolChoice": {"any": {}}}))
    assert forced["stopReason"] == "tool_use"
    wanted = {
        "textFormat": {
            "type": "json_schema",
            "structure": {"jsonSchema": {"schema": json.dumps(SCHEMA), "name": "answer"}},
        }
    }
    made = client.converse(**asked("Hello", outputConfig=wanted))
    assert set(json.loads(made["output"]["message"]["content"][0]["text"])) == {"city"}


def test_a_streams_tool_calls_are_told_as_aws_tells_them(client: Any, server: MockServer) -> None:
    calls = Told()
    for event in client.converse_stream(**asked("the weather in both", toolConfig=TOOLS))["stream"]:
        if begun := event.get("contentBlockStart"):
            use = begun["start"]["toolUse"]
            calls.append((use["toolUseId"], use["name"], [""]))
        elif more := event.get("contentBlockDelta"):
            calls[-1][2].append(more["delta"]["toolUse"]["input"])
    assert told("bedrock/m", server.root, "AKIDMOCK") == calls
    assert len(calls) == 2


def test_errors(client: Any, server: MockServer) -> None:
    with pytest.raises(client.exceptions.ValidationException, match="too long"):
        client.converse(**asked("too much"))
    for status, name in (
        (429, "ThrottlingException"),
        (503, "ServiceUnavailableException"),
        (500, "InternalServerException"),
    ):
        server.faults = (Fault("status", status=status, message="no"),)
        with pytest.raises(exceptions.ClientError) as caught:
            client.converse(**asked("Hello"))
        assert caught.value.response["Error"]["Code"] == name
    server.faults = (Fault("error_event", status=500, message="lost it"),)
    with pytest.raises(exceptions.EventStreamError, match="lost it"):
        list(client.converse_stream(**asked("Hello"))["stream"])
    server.faults = ()
    server.api_key = "another"
    with pytest.raises(exceptions.ClientError, match="UnrecognizedClientException"):
        client.converse(**asked("Hello"))
