"""OpenAI's own client against the mock server."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Generator
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from dspex.testing import Fault, MockServer

from .conftest import REASONED, Told, told

openai: Any = pytest.importorskip("openai")

HELLO = [{"role": "user", "content": "Hello, who is there?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS, "strict": True}}
FLAT_TOOL = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}


class Verdict(BaseModel):
    label: Literal["yes", "no"]
    sure: bool


@pytest.fixture
def client(server: MockServer) -> Generator[Any]:
    with openai.OpenAI(base_url=server.url, api_key="right", max_retries=0) as made:
        yield made


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_chat(client: Any, server: MockServer) -> None:
    made = client.chat.completions.create(model="m", messages=HELLO)
    assert made.choices[0].message.content.startswith("answer ")
    assert (made.choices[0].finish_reason, made.model) == ("stop", "m")
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (server.input_tokens, server.output_tokens)


def test_chat_in_a_loop(server: MockServer) -> None:
    async def work() -> None:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="right") as client:
            whole = await client.chat.completions.create(model="m", messages=HELLO)
            text = ""
            async for chunk in await client.chat.completions.create(model="m", messages=HELLO, stream=True):
                text += chunk.choices[0].delta.content or ""
            assert text.startswith("answer ")
            assert whole.choices[0].message.content.startswith("answer ")

    asyncio.run(work())


def test_a_streamed_chat_says_what_a_whole_one_says(client: Any) -> None:
    asked = {"model": "m", "messages": said("reason about it")}
    whole = client.chat.completions.create(**asked)
    with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content == "It is four."
    assert final.usage == whole.usage
    details = whole.usage.completion_tokens_details.reasoning_tokens, whole.usage.prompt_tokens_details.cached_tokens
    assert details == (REASONED.reasoning_tokens, REASONED.cached_tokens)
    assert "content.delta" in kinds


def test_tools(client: Any) -> None:
    messages: list[Any] = said("What is the weather in both?")
    first = client.chat.completions.create(model="m", messages=messages, tools=[TOOL]).choices[0]
    assert first.finish_reason == "tool_calls"
    assert [json.loads(call.function.arguments)["city"] for call in first.message.tool_calls] == ["Paris", "Rome"]
    messages.append(first.message)
    messages += [
        {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"} for call in first.message.tool_calls
    ]
    last = client.chat.completions.create(model="m", messages=messages, tools=[TOOL]).choices[0]
    assert last.finish_reason == "stop"
    with client.chat.completions.stream(model="m", messages=messages[:1], tools=[TOOL]) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    called = [(call.id, call.function.name, call.function.arguments) for call in first.message.tool_calls]
    assert [(call.id, call.function.name, call.function.arguments) for call in streamed] == called
    forced = client.chat.completions.create(model="m", messages=HELLO, tools=[TOOL], tool_choice="required")
    assert forced.choices[0].message.tool_calls[0].function.name == "weather"


def test_a_streams_tool_calls_are_told_as_openai_tells_them(client: Any, server: MockServer) -> None:
    calls = Told()
    for chunk in client.chat.completions.create(
        model="m", messages=said("the weather in both"), tools=[TOOL], stream=True
    ):
        for part in (chunk.choices and chunk.choices[0].delta.tool_calls) or ():
            if part.id:
                calls.append((part.id, part.function.name, []))
            calls[-1][2].append(part.function.arguments)
    assert told("openai/m", server.url) == calls
    assert len(calls) == 2


def test_streamed_responses_tell_their_calls_as_openai_tells_them(client: Any, server: MockServer) -> None:
    calls = Told()
    for event in client.responses.create(model="m", input="the weather in both", tools=[FLAT_TOOL], stream=True):
        if event.type == "response.output_item.added":
            calls.append((event.item.call_id, event.item.name, [""]))
        elif event.type == "response.function_call_arguments.delta":
            calls[-1][2].append(event.delta)
    assert told("openai-responses/m", server.url) == calls
    assert len(calls) == 2


def test_structured_output_and_logprobs(client: Any) -> None:
    made = client.chat.completions.parse(model="m", messages=HELLO, response_format=Verdict)
    assert isinstance(made.choices[0].message.parsed, Verdict)
    made = client.chat.completions.create(model="m", messages=HELLO, response_format={"type": "json_object"})
    assert isinstance(json.loads(made.choices[0].message.content), dict)
    made = client.chat.completions.create(model="m", messages=HELLO, logprobs=True, top_logprobs=2)
    tokens = made.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == made.choices[0].message.content
    assert {len(token.top_logprobs) for token in tokens} == {2}


def test_raw_completions(client: Any) -> None:
    whole = client.completions.create(model="m", prompt="Once").choices[0].text
    streamed = client.completions.create(model="m", prompt="Once", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed).startswith("answer ")
    assert whole.startswith("answer ")


def test_responses(client: Any) -> None:
    made = client.responses.create(model="m", input="reason about it", instructions="Be brief.")
    assert made.output_text == "It is four."
    assert [item.type for item in made.output] == ["reasoning", "message"]
    assert made.usage.output_tokens_details.reasoning_tokens == REASONED.reasoning_tokens
    assert made.usage.input_tokens_details.cached_tokens == REASONED.cached_tokens
    cut = client.responses.create(model="m", input="cut short")
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    parsed = client.responses.parse(model="m", input="Is it so?", text_format=Verdict)
    assert isinstance(parsed.output_parsed, Verdict)


def test_streamed_responses_and_their_tools(client: Any) -> None:
    *_, last = client.responses.create(model="m", input="cut short", stream=True)
    assert (last.type, last.response.incomplete_details.reason) == ("response.incomplete", "max_output_tokens")
    for asked in ("reason about it", "the weather in both"):
        whole = client.responses.create(model="m", input=asked, tools=[FLAT_TOOL])
        with client.responses.stream(model="m", input=asked, tools=[FLAT_TOOL]) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        assert [item.type for item in final.output] == [item.type for item in whole.output]
        assert final.usage == whole.usage
        assert final.output_text == whole.output_text
        assert kinds[0] == "response.created"
    calls = [item for item in whole.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Paris", "Rome"]
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"} for call in calls]
    given: list[Any] = [*said("the weather in both"), *whole.output, *results]
    assert client.responses.create(model="m", input=given, tools=[FLAT_TOOL]).output_text.startswith("answer ")


def test_embeddings(client: Any, server: MockServer) -> None:
    made = client.embeddings.create(model="e", input=["one two", "two three"], dimensions=40)
    plain = client.embeddings.create(model="e", input="one two", dimensions=40, encoding_format="float")
    assert [len(entry.embedding) for entry in made.data] == [40, 40]
    assert made.data[0].embedding == pytest.approx(plain.data[0].embedding)
    assert server.input_tokens == 6 == made.usage.prompt_tokens + plain.usage.prompt_tokens


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["mock"]
    assert client.models.retrieve("other").id == "other"


def test_batches(client: Any, server: MockServer) -> None:
    lines = [
        {
            "custom_id": name,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": said(text)},
        }
        for name, text in (("a", "Hello"), ("b", "too much"), ("c", "reason about it"))
    ]
    content = io.BytesIO("\n".join(map(json.dumps, lines)).encode())
    content.name = "batch.jsonl"
    file = client.files.create(file=content, purpose="batch")
    assert client.files.retrieve(file.id).filename == "batch.jsonl"
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"run": "1"}
    )
    assert client.batches.retrieve(made.id).status == "in_progress"
    done = client.batches.retrieve(made.id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 2, 1)
    results = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert {entry["custom_id"] for entry in results} == {"a", "c"}
    errors = [json.loads(line) for line in client.files.content(done.error_file_id).text.splitlines()]
    assert errors[0]["response"]["body"]["error"]["code"] == "context_length_exceeded"
    used = sum(entry["response"]["body"]["usage"]["total_tokens"] for entry in results)
    assert server.totals().usage.total_tokens == used
    assert [batch.id for batch in client.batches.list()] == [made.id]
    assert client.batches.cancel(made.id).status == "completed"
    assert client.files.delete(file.id).deleted


def test_errors(server: MockServer) -> None:
    asked = {"model": "m", "messages": HELLO}
    wrong = openai.OpenAI(base_url=server.url, api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.chat.completions.create(**asked)
    client = openai.OpenAI(base_url=server.url, api_key="right", max_retries=0)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=said("too much"))
    assert caught.value.code == "context_length_exceeded"
    for status, kind in (
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ):
        server.faults = (Fault("status", status=status, message="no"),)
        with pytest.raises(kind):
            client.chat.completions.create(**asked)
    server.faults = (Fault("quota"),)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**asked)
    assert caught.value.code == "insufficient_quota"
    for kind in ("reset", "close", "truncate"):
        server.faults = (Fault(kind),)
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(**asked)


def test_the_client_s_own_retries_get_through(server: MockServer) -> None:
    server.faults = (Fault("status", status=429, retry_after=0.01, attempts=1),)
    client = openai.OpenAI(base_url=server.url, api_key="right", max_retries=2)
    assert client.chat.completions.create(model="m", messages=HELLO).choices[0].message.content
    assert [request.attempt for request in server.requests] == [0, 1]


def test_errors_within_a_stream(server: MockServer) -> None:
    client = openai.OpenAI(base_url=server.url, api_key="right", max_retries=0)
    server.faults = (Fault("error_event", status=500, message="lost it"),)
    with pytest.raises(openai.APIError, match="lost it"):
        list(client.chat.completions.create(model="m", messages=HELLO, stream=True))
    *_, last = client.responses.create(model="m", input="Hello", stream=True)
    assert (last.type, last.message) == ("error", "lost it")
