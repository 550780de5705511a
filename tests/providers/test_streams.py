"""Streams of every protocol, however they are cut, dressed or broken: the same answer, or an error with a code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from dspex.errors import LMError
from dspex.lm.model import LM
from dspex.lm.types import CallDelta, Capabilities, Delta, LMRequest, LMResponse, Message, ToolSpec
from dspex.providers.anthropic.messages import open_anthropic
from dspex.providers.bedrock.converse import open_bedrock
from dspex.providers.gemini.generate import open_gemini
from dspex.providers.ollama import open_ollama
from dspex.providers.openai.chat import open_openai
from dspex.providers.openai.compatible import open_compatible
from dspex.providers.openai.responses import open_openai_responses

from .recorded import SHAPES, called, frame, plain, shape

TYPES = {
    ".json": "application/json",
    ".sse": "text/event-stream",
    ".ndjson": "application/x-ndjson",
    ".frames": "application/vnd.amazon.eventstream",
}
OPENERS: dict[str, Callable[..., Any]] = {
    "anthropic": open_anthropic,
    "bedrock": open_bedrock,
    "deepseek": open_compatible,
    "gemini": open_gemini,
    "mistral": open_compatible,
    "ollama": open_ollama,
    "openai": open_openai,
    "openai-responses": open_openai_responses,
    "openrouter": open_compatible,
}
CAN = Capabilities(raw_prompt=True, choices=True, tools=True, reasoning=True, logprobs=True)
LOOK = ToolSpec("look_up", "Finds a parcel", '{"type":"object"}')
STREAMS = sorted(
    str(path.relative_to(SHAPES)) for path in SHAPES.rglob("*") if path.suffix in (".sse", ".ndjson", ".frames")
)
NO_ANSWERS = ("batch", "context", "embed", "error", "file", "filter_")
ANSWERS = sorted(
    str(path.relative_to(SHAPES)) for path in SHAPES.rglob("*.json") if not path.stem.startswith(NO_ANSWERS)
)


def provider(name: str) -> str:
    family, _, file = name.partition("/")
    if file.startswith("responses"):
        return "openai-responses"
    own = file.partition(".")[0].partition("_")[0]
    return own if own in OPENERS else family


def request(name: str) -> LMRequest:
    options: dict[str, Any] = {"max_tokens": 50}
    if "raw" in name or "generate" in name:
        return LMRequest(prompt="Where?", **options)
    if "choice" in name:
        options["choices"] = ("red", "green")
    if "tools" in name:
        options["tools"] = (LOOK,)
    if "logprobs" in name:
        options["top_logprobs"] = 2
    return LMRequest((Message("user", "Where?"),), **options)


async def pieces_of(body: bytes, size: int) -> AsyncGenerator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def gather(parts: AsyncGenerator[Delta], found: list[Delta]) -> None:
    async for part in parts:
        found.append(part)  # noqa: PERF401 - what came before an error counts


def read(name: str, body: bytes, size: int = 1 << 20) -> tuple[list[Delta], str]:
    """The parts that `body` has as the answer to what `name` answers, and the code of the error at its end."""

    async def scenario() -> tuple[list[Delta], str]:
        headers = {"content-type": TYPES[Path(name).suffix]}
        found: list[Delta] = []
        transport = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, content=pieces_of(body, size)))
        who = provider(name)
        lm = LM(f"{who}/m", base_url="http://127.0.0.1:1", api_key="k", capabilities=CAN)
        model = OPENERS[who](lm, transport)
        try:
            if name.endswith(".json"):
                found.append(Delta(response=await model.complete(request(name))))
            else:
                await gather(model.stream(request(name)), found)
        except LMError as error:
            return found, error.code
        finally:
            await model.aclose()
        return found, ""

    return asyncio.run(scenario())


def shown(found: tuple[list[Delta], str]) -> tuple[object, ...]:
    """What a reader has of a stream in the end, wherever its parts ended."""
    deltas, code = found
    response = None if code else deltas[-1].response
    text = "".join(delta.text for delta in deltas)
    if response is not None:
        assert response.text == text
        assert called(deltas) == plain(response.tool_calls)
    return text, "".join(delta.reasoning for delta in deltas), called(deltas) if not code else None, response, code


def dressed(text: str) -> Iterator[str]:
    """The same events, written otherwise."""
    yield text.replace("\n", "\r\n")
    yield text.replace("\n", "\r")
    yield "\ufeff" + text.replace("data: ", "data:")
    yield "".join(f": ping\nid: 3\nretry: 5\n{line}" for line in text.splitlines(keepends=True))
    yield "\n".join(spread(line) for line in text.split("\n"))


def spread(line: str) -> str:
    """A line of data as several."""
    if not line.startswith("data: {"):
        return line
    written = json.dumps(json.loads(line.removeprefix("data: ")), indent=1, ensure_ascii=False)
    return "\n".join(f"data: {part}" for part in written.split("\n"))


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_does_not_depend_on_where_its_bytes_are_cut_or_how_it_is_dressed(name: str) -> None:
    body = shape(name)
    whole = shown(read(name, body))
    assert shown(read(name, body, 1)) == whole
    for text in dressed(body.decode()) if name.endswith(".sse") else ():
        assert shown(read(name, text.encode(), 1)) == whole


# --- broken ones --------------------------------------------------------------------------------


def places(node: object, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where something stands within `node`."""
    inner: Iterable[tuple[str | int, object]] = ()
    if isinstance(node, dict):
        inner = cast("dict[str, object]", node).items()
    elif isinstance(node, list):
        inner = enumerate(cast("list[object]", node))
    for key, value in inner:
        yield (*above, key)
        yield from places(value, (*above, key))


def spoilt(written: str, value: object) -> Iterator[str]:
    """The JSON `written` with `value` instead of one of all that it holds."""
    for place in places(json.loads(written)):
        whole = node = json.loads(written)
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value
        yield json.dumps(whole)


def spoilt_bodies(name: str, value: object) -> Iterator[bytes]:
    if name.endswith(".json"):
        yield from (text.encode() for text in spoilt(shape(name).decode(), value))
        return
    lines = (SHAPES / name).read_text(encoding="utf-8").split("\n")
    headers: list[dict[str, str]] = []
    if name.endswith(".frames"):
        headers = [json.loads(line)["headers"] for line in lines if line]
        lines = [json.dumps(json.loads(line)["payload"]) for line in lines if line]
    for index, line in enumerate(lines):
        head, brace, rest = line.partition("{")
        for text in spoilt(brace + rest, value) if brace else ():
            said = [*lines[:index], head + text, *lines[index + 1 :]]
            if name.endswith(".frames"):
                yield b"".join(frame(kind, part.encode()) for kind, part in zip(headers, said, strict=True))
            else:
                yield "\n".join(said).encode()


def texts(deltas: Sequence[Delta]) -> Iterator[object]:
    """All that has to be text."""
    for delta in deltas:
        yield from (delta.text, delta.reasoning)
        for part in delta.calls:
            yield from (part.id, part.name, part.arguments)
        if delta.response is not None:
            yield from (delta.response.text, delta.response.reasoning, delta.response.state)
            for call in delta.response.tool_calls:
                yield from (call.id, call.name, call.arguments)


@pytest.mark.parametrize("name", [*STREAMS, *ANSWERS])
def test_whatever_stands_in_an_answer_it_is_read_or_an_error_with_a_code(name: str) -> None:
    # No text, no number, no object, nothing that a table may be asked for.
    odd: list[dict[str, object]] = [{}]
    for body in spoilt_bodies(name, odd):
        deltas, _ = read(name, body)
        assert all(type(text) is str for text in texts(deltas)), body


# --- what some servers do -----------------------------------------------------------------------


def sse(*events: dict[str, Any], done: bool = False) -> bytes:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode() + b"data: [DONE]\n\n" * done


def chunks(*deltas: list[dict[str, Any]]) -> bytes:
    """Chat completions, each with pieces of tool calls."""
    said: list[dict[str, Any]] = [{"delta": {"tool_calls": pieces}} for pieces in deltas]
    said.append({"delta": {}, "finish_reason": "tool_calls"})
    return sse(*({"model": "m", "choices": [choice]} for choice in said), done=True)


def piece(index: int | None, arguments: object, known: str = "", name: str = "") -> dict[str, Any]:
    return {"index": index, "id": known or None, "function": {"name": name or None, "arguments": arguments}}


def calls_of(name: str, body: bytes) -> list[tuple[str, str, Any]]:
    deltas, code = read(name, body)
    assert not code
    response = deltas[-1].response
    assert isinstance(response, LMResponse)
    assert called(deltas) == plain(response.tool_calls)
    return called(deltas)


A: tuple[str, str, Any] = ("a", "look_up", {"parcel": 1})
B: tuple[str, str, Any] = ("b", "clock", {})


@pytest.mark.parametrize(
    "body",
    [
        chunks(
            [piece(0, '{"parcel', "a", "look_up")], [piece(1, "", "b", "clock")], [piece(0, '":1}')], [piece(1, "{}")]
        ),
        chunks([piece(0, '{"parcel', "a", "look_up")], [piece(1, "{}", "b", "clock"), piece(0, '":1}')]),
        chunks([piece(0, '{"parcel', "a", "look_up"), piece(1, "{", "b", "clock")], [piece(1, "}"), piece(0, '":1}')]),
        chunks([piece(0, '{"parcel', "a", "look_up")], [piece(0, '":1}', "a")], [piece(0, "{}", "b", "clock")]),
        chunks([piece(None, '{"parcel":1}', "a", "look_up")], [piece(None, "{}", "b", "clock")]),
        chunks([piece(0, {"parcel": 1}, "a", "look_up"), piece(1, {}, "b", "clock")]),
    ],
    ids=["interleaved", "one begins while another goes on", "two at once", "one index", "no index", "objects"],
)
def test_parallel_calls_of_a_chat_completion_are_told_apart(body: bytes) -> None:
    assert calls_of("openai/tools.sse", body) == [A, B]


def test_a_message_whose_blocks_begin_with_what_they_have_shows_it() -> None:
    def block(index: int, **content: object) -> list[dict[str, Any]]:
        begun = {"type": "content_block_start", "index": index, "content_block": content}
        return [begun, {"type": "content_block_stop", "index": index}]

    use = {"type": "tool_use", "id": "a", "name": "look_up", "input": {"parcel": 1}}
    body = sse(
        {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 1}}},
        *block(0, type="thinking", thinking="Hm"),
        *block(1, type="text", text="Let me look"),
        *block(2, **use),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    )
    assert calls_of("anthropic/tools.sse", body) == [A]
    text, reasoning, *_ = shown(read("anthropic/tools.sse", body))
    assert (text, reasoning) == ("Let me look", "Hm")


def test_a_response_whose_arguments_come_whole_shows_them() -> None:
    item = {"type": "function_call", "call_id": "a", "name": "look_up", "arguments": '{"parcel":1}'}
    body = sse(
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "arguments": ""}},
        {"type": "response.function_call_arguments.done", "output_index": 0, "arguments": item["arguments"]},
        {"type": "response.completed", "response": {"status": "completed", "model": "m", "output": [item]}},
    )
    assert calls_of("openai/responses_tools.sse", body) == [A]


def test_a_call_that_breaks_off_is_shown_as_far_as_it_came() -> None:
    body = chunks([piece(0, '{"parcel', "a", "look_up")])
    deltas, code = read("openai/tools.sse", body[: body.index(b'"finish_reason"')])
    assert code == "DX4301"
    assert [part for delta in deltas for part in delta.calls] == [CallDelta(0, "a", "look_up", '{"parcel')]
