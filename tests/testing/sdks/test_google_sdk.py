"""Google's own client against the mock server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from dspex.testing import Fault, MockServer

from .conftest import REASONED

genai: Any = pytest.importorskip("google.genai")
types: Any = pytest.importorskip("google.genai.types")
errors: Any = pytest.importorskip("google.genai.errors")

pytestmark = pytest.mark.filterwarnings("default")


class Verdict(BaseModel):
    label: Literal["yes", "no"]
    sure: bool


def opened(server: MockServer, key: str = "right") -> Any:
    return genai.Client(api_key=key, http_options={"base_url": server.root})


@pytest.fixture
def client(server: MockServer) -> Generator[Any]:
    made = opened(server)
    yield made
    made.close()


def tool() -> Any:
    schema = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]}
    return types.Tool(function_declarations=[{"name": "weather", "parameters": schema}])


def test_content(client: Any, server: MockServer) -> None:
    made = client.models.generate_content(model="gemini-x", contents="Hello")
    assert made.text.startswith("answer ")
    assert (made.candidates[0].finish_reason, made.model_version) == ("STOP", "gemini-x")
    used = made.usage_metadata
    assert (used.prompt_token_count, used.candidates_token_count) == (server.input_tokens, server.output_tokens)
    assert server.totals(protocol="gemini", key="right").completed == 1


def test_content_in_a_loop(server: MockServer) -> None:
    async def work() -> None:
        client = opened(server)
        whole = await client.aio.models.generate_content(model="m", contents="Hello")
        text = ""
        async for chunk in await client.aio.models.generate_content_stream(model="m", contents="Hello"):
            text += chunk.text or ""
        assert text.startswith("answer ")
        assert whole.text.startswith("answer ")
        await client.aio.aclose()

    asyncio.run(work())


def test_streams_thoughts_and_usage(client: Any) -> None:
    whole = client.models.generate_content(model="m", contents="reason about it")
    chunks = list(client.models.generate_content_stream(model="m", contents="reason about it"))
    assert "".join(chunk.text or "" for chunk in chunks) == whole.text == "It is four."
    used = chunks[-1].usage_metadata
    assert used == whole.usage_metadata
    assert used.thoughts_token_count == REASONED.reasoning_tokens
    assert used.candidates_token_count + used.thoughts_token_count == REASONED.output_tokens
    assert used.cached_content_token_count == REASONED.cached_tokens
    assert whole.candidates[0].content.parts[0].thought


def test_tools(client: Any) -> None:
    config = types.GenerateContentConfig(
        tools=[tool()], automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True)
    )
    made = client.models.generate_content(model="m", contents="the weather in both", config=config)
    assert [call.args for call in made.function_calls] == [{"city": "Paris"}, {"city": "Rome"}]
    results = [
        types.Part.from_function_response(name=call.name, response={"result": "18 degrees"})
        for call in made.function_calls
    ]
    contents = [
        types.Content(role="user", parts=[types.Part(text="the weather in both")]),
        made.candidates[0].content,
        types.Content(role="user", parts=results),
    ]
    assert client.models.generate_content(model="m", contents=contents, config=config).text.startswith("answer ")
    *_, last = client.models.generate_content_stream(model="m", contents="the weather in both", config=config)
    assert [call.args["city"] for call in last.function_calls] == ["Paris", "Rome"]


def test_structured_output_and_logprobs(client: Any) -> None:
    config = {"response_mime_type": "application/json", "response_schema": Verdict}
    made = client.models.generate_content(model="m", contents="Is it so?", config=config)
    assert isinstance(made.parsed, Verdict)
    config = {"response_mime_type": "application/json", "response_json_schema": Verdict.model_json_schema()}
    made = client.models.generate_content(model="m", contents="Is it so?", config=config)
    assert Verdict.model_validate(json.loads(made.text))
    config = {"response_logprobs": True, "logprobs": 2}
    made = client.models.generate_content(model="m", contents="Is it so?", config=config)
    told = made.candidates[0].logprobs_result
    assert "".join(token.token for token in told.chosen_candidates) == made.text


def test_embeddings_counting_and_models(client: Any) -> None:
    made = client.models.embed_content(model="e", contents=["one two", "three"], config={"output_dimensionality": 20})
    assert [len(entry.values) for entry in made.embeddings] == [20, 20]
    assert client.models.count_tokens(model="m", contents="one two three").total_tokens == 3
    assert [model.name for model in client.models.list()] == ["models/mock"]


def test_errors(client: Any, server: MockServer) -> None:
    wrong = opened(server, "wrong")
    with pytest.raises(errors.ClientError, match="API key not valid"):
        wrong.models.generate_content(model="m", contents="Hello")
    blocked = client.models.generate_content(model="m", contents="something forbidden")
    assert blocked.prompt_feedback.block_reason == "PROHIBITED_CONTENT"
    with pytest.raises(errors.ClientError, match="exceeds the maximum number of tokens"):
        client.models.generate_content(model="m", contents="too much")
    for status, kind in ((403, errors.ClientError), (429, errors.ClientError), (503, errors.ServerError)):
        server.faults = (Fault("status", status=status, message="no"),)
        with pytest.raises(kind) as caught:
            client.models.generate_content(model="m", contents="Hello")
        assert caught.value.code == status
