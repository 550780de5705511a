"""Anthropic's own client against the mock server."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from dspex.testing import Fault, MockServer, RateLimit

from .conftest import REASONED, Told, told

anthropic: Any = pytest.importorskip("anthropic")

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "description": "Tells the weather.", "input_schema": SCHEMA}


@pytest.fixture
def client(server: MockServer) -> Generator[Any]:
    with anthropic.Anthropic(base_url=server.root, api_key="right", max_retries=0) as made:
        yield made


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": text}], **more}


def test_messages(client: Any, server: MockServer) -> None:
    made = client.messages.create(**asked("Hello", system="Be brief."))
    assert made.content[0].text.startswith("answer ")
    assert (made.stop_reason, made.model, made.role) == ("end_turn", "m", "assistant")
    assert (made.usage.input_tokens, made.usage.output_tokens) == (server.input_tokens, server.output_tokens)
    assert server.totals(protocol="anthropic", key="right").completed == 1


def test_messages_in_a_loop(server: MockServer) -> None:
    async def work() -> None:
        async with anthropic.AsyncAnthropic(base_url=server.root, api_key="right") as client:
            whole = await client.messages.create(**asked("Hello"))
            async with client.messages.stream(**asked("Hello")) as stream:
                text = "".join([piece async for piece in stream.text_stream])
                assert text == (await stream.get_final_message()).content[0].text
            assert whole.content[0].text.startswith("answer ")

    asyncio.run(work())


def test_streams_say_what_whole_answers_say(client: Any) -> None:
    for text in ("reason about it", "cut short", "the weather in both"):
        whole = client.messages.create(**asked(text, tools=[TOOL]))
        with client.messages.stream(**asked(text, tools=[TOOL])) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_message()
        plain = [block.model_dump(exclude={"parsed_output", "signature"}) for block in final.content]
        assert plain == [block.model_dump(exclude={"signature"}) for block in whole.content]
        assert final.stop_reason == whole.stop_reason
        assert final.usage.output_tokens == whole.usage.output_tokens
        assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


def test_thinking_and_what_the_cache_read(client: Any) -> None:
    made = client.messages.create(**asked("reason about it", thinking={"type": "enabled", "budget_tokens": 1024}))
    assert [block.type for block in made.content] == ["thinking", "text"]
    assert made.content[0].signature
    usage = made.usage
    told = usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens
    assert (sum(told), *told[1:]) == (REASONED.input_tokens, REASONED.cached_tokens, REASONED.written_tokens)
    assert usage.output_tokens_details.thinking_tokens == REASONED.reasoning_tokens


def test_tools(client: Any) -> None:
    first = client.messages.create(**asked("the weather in both", tools=[TOOL]))
    assert first.stop_reason == "tool_use"
    assert [block.input for block in first.content] == [{"city": "Paris"}, {"city": "Rome"}]
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "18 degrees"}]}
        for block in first.content
    ]
    messages = [
        {"role": "user", "content": "the weather in both"},
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": results},
    ]
    last = client.messages.create(model="m", max_tokens=10, messages=messages, tools=[TOOL])
    assert last.content[0].text.startswith("answer ")
    forced = client.messages.create(**asked("Hello", tools=[TOOL], tool_choice={"type": "tool", "name": "weather"}))
    assert isinstance(forced.content[0].input["city"], str)


def test_a_streams_tool_calls_are_told_as_anthropic_tells_them(client: Any, server: MockServer) -> None:
    calls = Told()
    with client.messages.stream(**asked("the weather in both", tools=[TOOL])) as stream:
        for event in stream:
            if event.type == "content_block_start":
                calls.append((event.content_block.id, event.content_block.name, [""]))
            elif event.type == "input_json" and event.partial_json:
                calls[-1][2].append(event.partial_json)
    assert told("anthropic/m", server.root) == calls
    assert len(calls) == 2


def test_structured_output(client: Any) -> None:
    wanted = {"format": {"type": "json_schema", "schema": {"enum": ["yes", "no"]}}}
    made = client.messages.create(**asked("Hello", output_config=wanted))
    assert made.content[0].text in ('"yes"', '"no"')


def test_counting_and_models(client: Any) -> None:
    counted = client.messages.count_tokens(model="m", messages=[{"role": "user", "content": "one two three"}])
    assert counted.input_tokens == 3
    assert [model.id for model in client.models.list()] == ["mock"]


def test_batches(client: Any, server: MockServer) -> None:
    requests = [
        {"custom_id": name, "params": asked(text)}
        for name, text in (("a", "Hello"), ("b", "too much"), ("c", "reason about it"))
    ]
    made = client.messages.batches.create(requests=requests)
    assert client.messages.batches.retrieve(made.id).processing_status == "in_progress"
    done = client.messages.batches.retrieve(made.id)
    assert (done.processing_status, done.request_counts.succeeded, done.request_counts.errored) == ("ended", 2, 1)
    results = {entry.custom_id: entry.result for entry in client.messages.batches.results(made.id)}
    assert {name: result.type for name, result in results.items()} == {
        "a": "succeeded",
        "b": "errored",
        "c": "succeeded",
    }
    assert results["b"].error.error.message.startswith("prompt is too long")
    assert server.totals().usage.output_tokens == sum(
        result.message.usage.output_tokens for result in results.values() if result.type == "succeeded"
    )
    assert [batch.id for batch in client.messages.batches.list()] == [made.id]
    other = client.messages.batches.create(requests=requests)
    assert client.messages.batches.cancel(other.id).processing_status == "ended"
    assert [entry.result.type for entry in client.messages.batches.results(other.id)] == ["canceled"] * 3
    assert client.messages.batches.delete(made.id).id == made.id


def test_errors(client: Any, server: MockServer) -> None:
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=server.root, api_key="wrong", max_retries=0).messages.create(**asked("Hello"))
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        client.messages.create(**asked("too much"))
    for status, kind in (
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (529, anthropic.InternalServerError),
    ):
        server.faults = (Fault("status", status=status, message="no"),)
        with pytest.raises(kind) as caught:
            client.messages.create(**asked("Hello"))
    assert caught.value.body["error"]["type"] == "overloaded_error"
    server.faults = (Fault("error_event", status=529),)
    with pytest.raises(anthropic.APIStatusError), client.messages.stream(**asked("Hello")) as stream:
        stream.get_final_message()


def test_rate_limits() -> None:
    with MockServer(limit=RateLimit(requests=2), clock=lambda: 1_000_000.0) as server:
        client = anthropic.Anthropic(base_url=server.root, api_key="k", max_retries=0)
        raw = client.messages.with_raw_response.create(**asked("Hello"))
        assert raw.headers["anthropic-ratelimit-requests-remaining"] == "1"
        client.messages.create(**asked("Hello"))
        with pytest.raises(anthropic.RateLimitError) as caught:
            client.messages.create(**asked("Hello"))
        assert caught.value.response.headers["retry-after"] == "30"
