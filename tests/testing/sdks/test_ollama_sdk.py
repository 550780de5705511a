"""Ollama's own client against the mock server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dspex.testing import Fault, MockServer

ollama: Any = pytest.importorskip("ollama")

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Weather.", "parameters": SCHEMA}}


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def client(server: MockServer) -> Any:
    return ollama.Client(host=server.root, headers={"Authorization": "Bearer right"})


def test_chat_and_generate(client: Any, server: MockServer) -> None:
    made = client.chat(model="m", messages=said("Hello"))
    assert made.message.content.startswith("answer ")
    assert (made.done, made.done_reason) == (True, "stop")
    assert (made.prompt_eval_count, made.eval_count) == (server.input_tokens, server.output_tokens)
    made = client.generate(model="m", prompt="Hello", system="Be brief.")
    assert made.response.startswith("answer ")


def test_in_a_loop(server: MockServer) -> None:
    async def work() -> None:
        client = ollama.AsyncClient(host=server.root, headers={"Authorization": "Bearer right"})
        assert (await client.chat(model="m", messages=said("Hello"))).message.content.startswith("answer ")
        pieces = [piece async for piece in await client.chat(model="m", messages=said("Hello"), stream=True)]
        assert "".join(piece.message.content for piece in pieces).startswith("answer ")

    asyncio.run(work())


def test_streams_and_thinking(client: Any) -> None:
    whole = client.chat(model="m", messages=said("reason about it"), think=True)
    *pieces, last = client.chat(model="m", messages=said("reason about it"), think=True, stream=True)
    assert "".join(piece.message.content for piece in pieces) == whole.message.content == "It is four."
    assert "".join(piece.message.thinking or "" for piece in pieces) == whole.message.thinking
    assert (last.prompt_eval_count, last.eval_count) == (whole.prompt_eval_count, whole.eval_count)
    assert client.generate(model="m", prompt="cut short").done_reason == "length"


def test_tools_and_structured_output(client: Any) -> None:
    made = client.chat(model="m", messages=said("the weather in both"), tools=[TOOL])
    assert [call.function.arguments["city"] for call in made.message.tool_calls] == ["Paris", "Rome"]
    streamed = list(client.chat(model="m", messages=said("the weather in both"), tools=[TOOL], stream=True))
    assert sum(len(piece.message.tool_calls or ()) for piece in streamed) == 2
    made = client.chat(model="m", messages=said("Hello"), format=SCHEMA)
    assert set(json.loads(made.message.content)) == {"city"}
    made = client.chat(model="m", messages=said("Hello"), format="json")
    assert isinstance(json.loads(made.message.content), dict)
    made = client.chat(model="m", messages=said("Hello"), logprobs=True, top_logprobs=2)
    assert "".join(token.token for token in made.logprobs) == made.message.content


def test_embeddings_and_models(client: Any) -> None:
    made = client.embed(model="e", input=["one two", "three"])
    assert len(made.embeddings) == 2
    assert made.prompt_eval_count == 3
    assert [model.model for model in client.list().models] == ["mock"]
    assert "completion" in client.show("mock").capabilities


def test_errors(client: Any, server: MockServer) -> None:
    with pytest.raises(ollama.ResponseError, match="input length exceeds"):
        client.chat(model="m", messages=said("too much"))
    server.faults = (Fault("status", status=404, message="model 'm' not found"),)
    with pytest.raises(ollama.ResponseError, match="not found") as caught:
        client.chat(model="m", messages=said("Hello"))
    assert caught.value.status_code == 404
    server.faults = (Fault("error_event", message="lost it"),)
    with pytest.raises(ollama.ResponseError, match="lost it"):
        list(client.chat(model="m", messages=said("Hello"), stream=True))
