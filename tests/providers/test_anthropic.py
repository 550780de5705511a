"""Anthropic's protocol: what is sent, how answers, streams, batches and refusals are read, where keys go."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from dspex.errors import LMError, RateLimited, RequestRejected, ResponseError, ServerError, UsageError
from dspex.lm.model import LM, BatchModel, BatchStatus, StreamingModel
from dspex.lm.types import (
    Attachment,
    Capabilities,
    Delta,
    LMRequest,
    LMResponse,
    Message,
    Price,
    ToolCall,
    ToolSpec,
    Usage,
)
from dspex.providers.anthropic.messages import AnthropicModel, open_anthropic
from dspex.testing import MockServer
from tests.providers.recorded import Recorded, called, plain, shape

KEY = "sk-ant-canary-0123456789abcdef"
ASK = LMRequest(messages=(Message("system", "Be brief."), Message("user", "Capital of France?")), max_tokens=64)
WEATHER = ToolSpec("weather", "Weather of a city", '{"type":"object","properties":{"city":{"type":"string"}}}')
NOW = ToolSpec("now", "", '{"type":"object","properties":{}}')


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def opened(transport: Recorded, model: str = "claude-sonnet-4-5", **lm: Any) -> AnthropicModel:
    return open_anthropic(LM(f"anthropic/{model}", api_key=KEY, **lm), transport)


def ask(transport: Recorded, request: LMRequest = ASK, model: str = "claude-sonnet-4-5", **lm: Any) -> LMResponse:
    return asyncio.run(opened(transport, model, **lm).complete(request))


def sent(request: LMRequest, model: str = "claude-sonnet-4-5", **lm: Any) -> dict[str, Any]:
    """The body that a request becomes."""
    transport = Recorded("anthropic/choice.json" if request.choices else "anthropic/text.json")
    ask(transport, request, model, **lm)
    return transport.body


def stream(transport: Recorded, request: LMRequest = ASK, model: str = "claude-sonnet-4-5") -> list[Delta]:
    async def work() -> list[Delta]:
        return [delta async for delta in opened(transport, model).stream(request)]

    return asyncio.run(work())


def asked(*messages: Message, **changes: Any) -> LMRequest:
    return LMRequest(messages=messages, max_tokens=4096, **changes)


# ----------------------------------------------------------------- requests


def test_a_request_has_the_protocols_headers_and_body() -> None:
    transport = Recorded("anthropic/text.json")
    ask(transport, LMRequest(messages=ASK.messages, max_tokens=64, stop=("END", "\n"), temperature=0.5, seed=3))
    request = transport.requests[0]
    assert str(request.url) == "https://api.anthropic.com/v1/messages"
    assert request.headers["x-api-key"] == KEY
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in request.headers
    assert transport.body == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 64,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Capital of France?"}],
        "stop_sequences": ["END"],
        "temperature": 0.5,
    }


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        ("claude-3-5-sonnet-20241022", True),
        ("claude-sonnet-4-20250514", True),
        ("claude-haiku-4-5-20251001", True),
        ("claude-opus-4-6", True),
        ("claude-opus-4-7", False),
        ("claude-sonnet-5", False),
        ("claude-haiku-5-5", False),
        ("claude-fable-5-2", False),
        ("claude-mythos-preview", False),
        ("claude-of-the-future", False),
        ("kimi-k3", True),
    ],
)
def test_a_temperature_is_sent_to_models_that_take_one(model: str, takes: bool) -> None:
    assert ("temperature" in sent(ASK, model)) is takes


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (0.0, 0.9, {"temperature": 0.0}),
        (1.0, 0.9, {"top_p": 0.9}),
        (0.5, 0.9, {"temperature": 0.5, "top_p": 0.9}),
        (0.5, None, {"temperature": 0.5}),
    ],
)
def test_the_sampling_setting_that_changes_nothing_is_left_out(
    temperature: float, top_p: float | None, expected: dict[str, float]
) -> None:
    body = sent(asked(Message("user", "Hi"), temperature=temperature, top_p=top_p))
    assert {key: body[key] for key in ("temperature", "top_p") if key in body} == expected


@pytest.mark.parametrize(
    ("model", "reasoning", "thinking", "effort"),
    [
        ("claude-sonnet-4-5", None, None, None),
        ("claude-sonnet-4-5", "medium", {"type": "enabled", "budget_tokens": 2048}, None),
        ("claude-sonnet-4-5", "minimal", {"type": "enabled", "budget_tokens": 1024}, None),
        ("claude-sonnet-4-5", 3000, {"type": "enabled", "budget_tokens": 3000}, None),
        ("claude-sonnet-4-5", "none", {"type": "disabled"}, None),
        ("claude-opus-4-6", 3000, {"type": "enabled", "budget_tokens": 3000}, None),
        ("claude-opus-4-6", "high", {"type": "adaptive", "display": "summarized"}, "high"),
        ("claude-opus-5", "minimal", {"type": "adaptive", "display": "summarized"}, "low"),
        ("claude-opus-5", "none", {"type": "disabled"}, None),
        ("claude-sonnet-5-5", "none", {"type": "between_tools"}, None),
        ("claude-3-haiku-20240307", "none", None, None),
    ],
)
def test_reasoning_is_asked_for_as_the_model_takes_it(
    model: str, reasoning: Any, thinking: object, effort: str | None
) -> None:
    body = sent(asked(Message("user", "Hi"), reasoning=reasoning), model)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort
    if thinking is not None and reasoning != "none":
        assert "temperature" not in body


def test_turns_alternate_and_results_of_calls_stand_together() -> None:
    body = sent(
        asked(
            Message("user", "Weather in Paris and the time?"),
            Message(
                "assistant",
                "Let me see.",
                tool_calls=(ToolCall("a", "weather", '{"city": "Paris"}'), ToolCall("b", "now", "")),
            ),
            Message("tool", "18 °C", tool_call_id="a"),
            Message("tool", "", tool_call_id="b"),
            Message("user", "And?"),
            tools=(WEATHER, NOW),
        )
    )
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"] == [
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Paris"}},
        {"type": "tool_use", "id": "b", "name": "now", "input": {}},
    ]
    assert body["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "18 °C"}]},
        {"type": "tool_result", "tool_use_id": "b", "content": []},
        {"type": "text", "text": "And?"},
    ]
    assert body["tools"] == [
        {"name": "weather", "description": "Weather of a city", "input_schema": json.loads(WEATHER.parameters)},
        {"name": "now", "input_schema": json.loads(NOW.parameters)},
    ]


ROLES = st.sampled_from(["user", "assistant", "tool"])


@given(st.lists(st.tuples(ROLES, st.text(max_size=4), st.booleans()), min_size=1, max_size=12))
def test_any_conversation_becomes_alternating_turns_that_lose_no_text(turns: list[tuple[Any, str, bool]]) -> None:
    messages = tuple(Message(role, text, tool_call_id="t", cache_point=mark) for role, text, mark in turns)
    body = sent(asked(*messages), prompt_cache=True)
    roles = [turn["role"] for turn in body["messages"]]
    assert all(a != b for a, b in pairwise(roles))

    def texts(content: Any) -> str:
        if isinstance(content, str):
            return content
        return "".join(b["text"] if b["type"] == "text" else texts(b["content"]) for b in content)

    assert "".join(texts(turn["content"]) for turn in body["messages"]) == "".join(text for _, text, _ in turns)
    assert json.dumps(body).count("cache_control") == min(4, sum(bool(t) or r == "tool" for r, t, m in turns if m))


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        ("auto", True, {"type": "auto"}),
        ("auto", False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", True, {"type": "any"}),
        ("none", False, {"type": "none"}),
        ("weather", False, {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}),
    ],
)
def test_the_choice_of_tools_is_said(choice: str, parallel: bool, expected: dict[str, object]) -> None:
    body = sent(asked(Message("user", "Hi"), tools=(WEATHER,), tool_choice=choice, parallel_tools=parallel))
    assert body["tool_choice"] == expected


def test_arguments_that_are_no_json_go_back_wrapped() -> None:
    body = sent(
        asked(
            Message("user", "Hi"),
            Message("assistant", "", tool_calls=(ToolCall("a", "weather", '{"city": '),)),
            Message("tool", "not JSON", tool_call_id="a"),
        )
    )
    assert body["messages"][1]["content"][0]["input"] == {"INVALID_JSON": '{"city": '}


def test_attachments_stand_before_the_text() -> None:
    note = base64.b64encode("Grüße".encode()).decode()
    body = sent(
        asked(
            Message(
                "user",
                "What is this?",
                attachments=(
                    Attachment("image", "image/png", data="aW1n"),
                    Attachment("image", "image/png", url="https://example.com/a.png"),
                    Attachment("file", "application/pdf", data="cGRm", name="bill"),
                    Attachment("file", "text/plain", data=note),
                ),
            )
        )
    )
    assert body["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aW1n"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "cGRm"},
            "title": "bill",
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"}},
        {"type": "text", "text": "What is this?"},
    ]


def test_cache_points_mark_the_system_text_and_turns() -> None:
    request = asked(Message("system", "Long.", cache_point=True), Message("user", "Hi", cache_point=True))
    body = sent(request, prompt_cache=True)
    mark = {"type": "ephemeral"}
    assert body["system"] == [{"type": "text", "text": "Long.", "cache_control": mark}]
    assert body["messages"][0]["content"] == [{"type": "text", "text": "Hi", "cache_control": mark}]
    body = sent(request)
    assert (body["system"], body["messages"][0]["content"]) == ("Long.", "Hi")


def test_a_schema_is_enforced_in_the_dialect_of_the_api() -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1, "description": "Its name"},
            "size": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}], "default": None},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}, "minItems": 3},
            "stars": {"type": "integer", "minimum": 1, "maximum": 3},
            "year": {"type": "integer", "minimum": 1900, "maximum": 2100},
            "since": {"type": "string", "format": "date"},
        },
        "required": ["city"],
        "$defs": {"Tag": {"enum": ["a", "b"]}},
    }
    body = sent(asked(Message("user", "Hi"), json_schema=json.dumps(schema), reasoning="low"), "claude-opus-4-6")
    assert body["output_config"] == {
        "effort": "low",
        "format": {
            "type": "json_schema",
            "schema": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Its name (minLength: 1)"},
                    "size": {"anyOf": [{"type": "integer", "description": "(minimum: 0)"}, {"type": "null"}]},
                    "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}, "description": "(minItems: 3)"},
                    "stars": {"type": "integer", "enum": [1, 2, 3]},
                    "year": {"type": "integer", "description": "(minimum: 1900, maximum: 2100)"},
                    "since": {"type": "string", "format": "date"},
                },
                "required": ["city"],
                "additionalProperties": False,
                "$defs": {"Tag": {"enum": ["a", "b"]}},
            },
        },
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": {"x": {}}},
        {"type": "object", "properties": {"x": {"type": "array", "prefixItems": [{"type": "string"}]}}},
        {"$ref": "#/$defs/Tree", "$defs": {"Tree": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}},
    ],
)
def test_a_schema_that_cannot_be_enforced_is_not_sent(schema: dict[str, object]) -> None:
    assert "output_config" not in sent(asked(Message("user", "Hi"), json_schema=json.dumps(schema)))


def test_extra_fields_are_merged_into_the_body() -> None:
    body = sent(
        asked(Message("user", "Hi"), reasoning="low"),
        "claude-opus-5",
        extra={"metadata": {"user_id": "7"}, "output_config": {"effort": "max"}},
    )
    assert body["metadata"] == {"user_id": "7"}
    assert body["output_config"] == {"effort": "max"}
    assert body["thinking"]["type"] == "adaptive"


@pytest.mark.parametrize(
    ("request_", "model"),
    [
        (LMRequest(prompt="Once"), "claude-opus-5"),
        (asked(Message("user", "Hi"), choices=("a", "b"), score_choices=True), "claude-opus-5"),
        (asked(Message("user", "Hi"), choices=("a", "b")), "claude-3-haiku-20240307"),
        (asked(Message("user", "Hi"), top_logprobs=0), "claude-opus-5"),
        (asked(Message("user", "Hi"), reasoning="low"), "claude-3-haiku-20240307"),
        (asked(Message("user", "Hi"), reasoning=2048), "claude-opus-5"),
        (asked(Message("user", "Hi"), Message("system", "Late.")), "claude-opus-5"),
        (asked(Message("user", "", attachments=(Attachment("audio", "audio/wav", data="eA=="),))), "claude-opus-5"),
        (asked(Message("user", "", attachments=(Attachment("file", "text/csv", data="eA=="),))), "claude-opus-5"),
        (asked(Message("user", "", attachments=(Attachment("image", "image/png", data="eA=="),))), "kimi-k3"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_sending(request_: LMRequest, model: str) -> None:
    transport = Recorded("anthropic/text.json")
    with pytest.raises(RequestRejected) as caught:
        ask(transport, request_, model)
    assert caught.value.code == "DX4201"
    assert caught.value.sent == "no"
    assert not transport.requests


# ----------------------------------------------------------------- answers


def test_an_answer_has_text_usage_and_limits() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-tokens-limit": "40000",
        "anthropic-ratelimit-tokens-remaining": "39000",
    }
    response = ask(Recorded("anthropic/text.json", headers=headers))
    assert response.text == "Paris is the capital of France."
    assert response.usage == Usage(14 + 1024 + 256, 9, cached_tokens=1024, written_tokens=256)
    assert response.stop == "stop"
    assert response.model == "claude-sonnet-5"
    assert response.state == ""
    assert response.limits is not None
    assert (response.limits.requests, response.limits.tokens_left) == (50, 39000)


def test_thinking_and_calls_are_read_and_go_back_as_they_came() -> None:
    transport = Recorded("anthropic/thinking_tools.json", "anthropic/text.json")
    model = opened(transport)
    request = asked(Message("user", "Weather?"), tools=(WEATHER, NOW), reasoning="low")
    response = asyncio.run(model.complete(request))
    assert response.text == "Let me look that up."
    assert response.stop == "tool_calls"
    assert response.reasoning.startswith("Both cities")
    assert response.usage == Usage(412, 128, reasoning_tokens=64)
    assert [(call.name, json.loads(call.arguments)) for call in response.tool_calls] == [
        ("weather", {"city": "Paris", "days": [1, 2]}),
        ("now", {}),
    ]
    again = asked(
        *request.messages,
        Message("assistant", response.text, tool_calls=response.tool_calls, state=response.state),
        *(Message("tool", "fine", tool_call_id=call.id) for call in response.tool_calls),
        tools=request.tools,
    )
    asyncio.run(model.complete(again))
    assert transport.body["messages"][1]["content"] == json.loads(shape("anthropic/thinking_tools.json"))["content"]


@pytest.mark.parametrize(("name", "stop"), [("refusal", "content_filter"), ("cut", "length")])
def test_why_an_answer_ended_is_told(name: str, stop: str) -> None:
    assert ask(Recorded(f"anthropic/{name}.json")).stop == stop


def test_a_stop_text_of_blanks_is_kept_on_this_side() -> None:
    request = replace(ASK, stop=(" cap", " "))
    assert sent(request)["stop_sequences"] == [" cap"]
    whole = ask(Recorded("anthropic/text.json"), request)
    assert (whole.text, whole.stop) == ("Paris", "stop")
    assert whole.usage == Usage(14 + 1024 + 256, 9, cached_tokens=1024, written_tokens=256)
    deltas = stream(Recorded("anthropic/text.sse"), request)
    assert "".join(delta.text for delta in deltas) == "Paris"
    assert deltas[-1].response == whole


def test_calls_behind_a_stop_text_were_never_made() -> None:
    response = ask(Recorded("anthropic/thinking_tools.json"), replace(ASK, stop=(" ",)))
    assert (response.text, response.stop, response.tool_calls, response.state) == ("Let", "stop", (), "")


def test_a_choice_is_enforced_by_a_schema_and_unwrapped() -> None:
    transport = Recorded("anthropic/choice.json")
    response = ask(transport, asked(Message("user", "Which?"), choices=("billing", "shipping")))
    assert response.text == "billing"
    schema = transport.body["output_config"]["format"]["schema"]
    assert schema["properties"]["answer"]["enum"] == ["billing", "shipping"]


def test_a_choice_that_was_not_enforced_is_an_error() -> None:
    with pytest.raises(ResponseError, match="DX4303"):
        ask(Recorded("anthropic/choice.json"), asked(Message("user", "Which?"), choices=("a", "b")))


# ----------------------------------------------------------------- streams


@pytest.mark.parametrize("name", ["text", "thinking_tools", "refusal"])
@settings(max_examples=15, deadline=None)
@given(piece=st.integers(1, 700))
def test_a_stream_ends_with_what_the_whole_answer_says(name: str, piece: int) -> None:
    deltas = stream(Recorded(f"anthropic/{name}.sse", piece=piece))
    whole = ask(Recorded(f"anthropic/{name}.json"))
    assert deltas[-1].response == whole
    assert all(delta.response is None for delta in deltas[:-1])
    assert "".join(delta.text for delta in deltas) == whole.text
    assert "".join(delta.reasoning for delta in deltas) == whole.reasoning
    assert called(deltas) == plain(whole.tool_calls)


def test_a_streamed_choice_shows_when_it_is_whole() -> None:
    deltas = stream(Recorded("anthropic/choice.sse"), asked(Message("user", "?"), choices=("billing", "other")))
    assert [delta.text for delta in deltas] == ["billing"]
    assert deltas[0].response is not None
    assert deltas[0].response.text == "billing"


def test_a_stream_is_asked_for_and_tells_limits() -> None:
    transport = Recorded("anthropic/text.sse", headers={"anthropic-ratelimit-requests-remaining": "7"})
    response = stream(transport)[-1].response
    assert transport.body["stream"] is True
    assert transport.requests[0].headers["accept"] == "text/event-stream"
    assert response is not None
    assert response.limits is not None
    assert response.limits.requests_left == 7


def test_an_error_within_a_stream_is_the_error_of_its_kind() -> None:
    with pytest.raises(ServerError, match="529: Overloaded") as caught:
        stream(Recorded("anthropic/overloaded.sse"))
    assert (caught.value.retryable, caught.value.sent) == (True, "yes")


def test_a_stream_without_its_end_is_broken() -> None:
    with pytest.raises(ResponseError) as caught:
        stream(Recorded("anthropic/truncated.sse"))
    assert (caught.value.code, caught.value.sent, caught.value.retryable) == ("DX4107", "yes", True)


def test_closing_a_stream_frees_its_connection() -> None:
    transport = Recorded("anthropic/text.sse", piece=64)

    async def work() -> None:
        deltas = opened(transport).stream(ASK)
        assert (await anext(deltas)).text == "Paris is"
        await deltas.aclose()
        assert transport.closed == 1

    asyncio.run(work())


# ----------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "status", "code", "kind", "retryable"),
    [
        ("error_400", 400, "DX4205", RequestRejected, False),
        ("error_400_context", 400, "DX4209", RequestRejected, False),
        ("error_400_context_sum", 400, "DX4209", RequestRejected, False),
        ("error_400_filter", 400, "DX4210", RequestRejected, False),
        ("error_401", 401, "DX4202", RequestRejected, False),
        ("error_403", 403, "DX4203", RequestRejected, False),
        ("error_404", 404, "DX4204", RequestRejected, False),
        ("error_413", 413, "DX4205", RequestRejected, False),
        ("error_429", 429, "DX4207", RateLimited, True),
        ("error_429_spent", 429, "DX4207", RateLimited, False),
        ("error_500", 500, "DX4208", ServerError, True),
        ("error_529", 529, "DX4208", ServerError, True),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_is_classified_with_the_servers_words(
    name: str, status: int, code: str, kind: type[LMError], retryable: bool, streamed: bool
) -> None:
    transport = Recorded(f"anthropic/{name}.json", status=status, headers={"retry-after": "7"})
    call = stream if streamed else ask
    with pytest.raises(kind) as caught:
        call(transport)
    error = caught.value
    assert (error.code, error.retryable, error.sent) == (code, retryable, "yes")
    assert json.loads(shape(f"anthropic/{name}.json"))["error"]["message"][:40] in error.message
    if isinstance(error, RateLimited | ServerError):
        assert error.retry_after == 7.0


def test_an_error_with_status_200_is_still_an_error() -> None:
    with pytest.raises(ServerError, match="529"):
        ask(Recorded("anthropic/error_529.json"))


def test_another_shape_is_an_error() -> None:
    with pytest.raises(ResponseError, match="DX4302"):
        ask(Recorded("anthropic/batch_running.json"))


# ----------------------------------------------------------------- batches

BATCH = "msgbatch_013Zva2CMHLNnXjNJJKqJ2EF"


def test_a_batch_is_handed_in_and_its_outcomes_are_read() -> None:
    transport = Recorded(
        "anthropic/batch_running.json", "anthropic/batch_done.json", "anthropic/batch_results.jsonl", piece=100
    )
    model = opened(transport)
    assert isinstance(model, BatchModel)
    choice = asked(Message("user", "Which?"), choices=("billing", "shipping"))

    async def work() -> dict[int, LMResponse | LMError]:
        assert await model.submit([choice, ASK, ASK, ASK, ASK]) == BATCH
        return {index: outcome async for index, outcome in model.results(BATCH)}

    outcomes = asyncio.run(work())
    ids = [item["custom_id"] for item in transport.bodies[0]["requests"]]
    assert ids == ["0-choice", "1", "2", "3", "4"]
    assert transport.bodies[0]["requests"][1]["params"]["messages"] == [
        {"role": "user", "content": "Capital of France?"}
    ]
    assert transport.requests[2].method == "GET"
    assert str(transport.requests[2].url) == f"https://api.anthropic.com/v1/messages/batches/{BATCH}/results"
    assert sorted(outcomes) == [0, 1, 2, 3, 4]
    first, second = outcomes[0], outcomes[1]
    assert isinstance(first, LMResponse)
    assert isinstance(second, LMResponse)
    assert (first.text, second.text) == ("billing", "Paris is the capital of France.")
    assert second.usage == Usage(14, 9)
    failures = [outcomes[index] for index in (2, 3, 4)]
    assert [(f.code, f.sent, f.retryable) for f in failures if isinstance(f, LMError)] == [
        ("DX4209", "yes", False),
        ("DX4215", "no", True),
        ("DX4215", "no", True),
    ]


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("running", BatchStatus("running", 0, 0, 5)),
        ("cancelling", BatchStatus("running", 0, 0, 5)),
        ("cancelled", BatchStatus("cancelled", 2, 3, 5)),
        ("done", BatchStatus("done", 4, 1, 5)),
    ],
)
def test_how_far_a_batch_is(name: str, status: BatchStatus) -> None:
    transport = Recorded(f"anthropic/batch_{name}.json")
    assert asyncio.run(opened(transport).status(BATCH)) == status
    assert transport.requests[0].method == "GET"


def test_a_batch_without_requests_or_without_an_end_is_refused() -> None:
    transport = Recorded("anthropic/batch_running.json")
    model = opened(transport)
    with pytest.raises(RequestRejected, match="DX4212"):
        asyncio.run(model.submit([]))
    assert not transport.requests
    with pytest.raises(RequestRejected, match="DX4213"):
        asyncio.run(anext(model.results(BATCH)))


def test_a_batch_cuts_answers_and_refuses_what_no_id_can_say() -> None:
    transport = Recorded("anthropic/batch_running.json")
    model = opened(transport)
    asyncio.run(model.submit([replace(ASK, stop=("\n\n",))]))
    assert transport.body["requests"][0]["custom_id"] == "0-cut-0a0a"
    with pytest.raises(RequestRejected, match="DX4201"):
        asyncio.run(model.submit([replace(ASK, stop=("\n" * 40,))]))


def test_a_batch_is_cancelled() -> None:
    transport = Recorded("anthropic/batch_cancelling.json")
    asyncio.run(opened(transport).cancel(BATCH))
    assert transport.requests[0].url.path.endswith(f"/batches/{BATCH}/cancel")


def test_a_batch_is_answered_by_a_server() -> None:
    choice = asked(Message("user", "Which?"), choices=("billing", "shipping"))

    async def work(base_url: str) -> dict[int, LMResponse | LMError]:
        can = Capabilities(json_schema=True, choices=True)
        model = open_anthropic(LM("anthropic/mock", api_key=KEY, base_url=base_url, capabilities=can))
        batch = await model.submit([ASK, choice, ASK])
        state = await model.status(batch)
        while state.state == "running":
            state = await model.status(batch)
        assert state == BatchStatus("done", 3, 0, 3)
        outcomes = {index: outcome async for index, outcome in model.results(batch)}
        await model.aclose()
        return outcomes

    with MockServer() as server:
        outcomes = asyncio.run(work(server.root))
        assert server.wait_until(lambda s: s.open == 0)
    assert sorted(outcomes) == [0, 1, 2]
    answers = [outcomes[index] for index in range(3)]
    assert all(isinstance(answer, LMResponse) and answer.usage is not None for answer in answers)
    assert isinstance(answers[1], LMResponse)
    assert answers[1].text in choice.choices


def test_a_batch_costs_half() -> None:
    price = Price(4.0, 20.0, cached=0.4, written=5.0)
    assert opened(Recorded("anthropic/text.json"), price=price).batch_price == Price(2.0, 10.0, cached=0.2, written=2.5)


# ----------------------------------------------------------------- against Anthropic's own library

REQUESTS = (
    ASK,
    asked(
        Message("system", "Long.", cache_point=True),
        Message("user", "What is it?", (Attachment("image", "image/png", "eA=="),), cache_point=True),
        stop=("end",),
        reasoning="low",
    ),
    asked(Message("user", "", (Attachment("file", "application/pdf", "eA==", name="a"),)), choices=("a", "b")),
    asked(
        Message("user", "Weather?"),
        Message("assistant", "", tool_calls=(ToolCall("a", "weather", "{}"),)),
        Message("tool", "18 °C", tool_call_id="a"),
        tools=(WEATHER, NOW),
        tool_choice="weather",
        parallel_tools=False,
        json_schema=WEATHER.parameters,
    ),
)


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "claude-opus-5", "claude-sonnet-5-5"])
def test_requests_are_of_the_librarys_types(request_: LMRequest, model: str) -> None:
    params: Any = pytest.importorskip("anthropic.types.message_create_params")
    transport = Recorded("anthropic/cut.json")
    ask(transport, request_, model, prompt_cache=True)
    TypeAdapter(params.MessageCreateParamsNonStreaming).validate_python(transport.body)
    # Sampling is not in the library's types any more, and older models still have it.
    known = {*params.MessageCreateParamsBase.__annotations__, "temperature", "top_p"}
    assert set(transport.body) <= known


def test_recorded_answers_are_of_the_librarys_types() -> None:
    types: Any = pytest.importorskip("anthropic.types")
    batches: Any = pytest.importorskip("anthropic.types.messages")
    for name in ("text", "thinking_tools", "refusal", "cut", "choice"):
        types.Message.model_validate_json(shape(f"anthropic/{name}.json"))
    for name in ("running", "cancelling", "cancelled", "done"):
        batches.MessageBatch.model_validate_json(shape(f"anthropic/batch_{name}.json"))
    for line in shape("anthropic/batch_results.jsonl").splitlines():
        batches.MessageBatchIndividualResponse.model_validate_json(line)
    events = TypeAdapter[Any](types.RawMessageStreamEvent)
    for name in ("text", "thinking_tools", "refusal", "choice"):
        for line in shape(f"anthropic/{name}.sse").splitlines():
            if line.startswith(b"data:") and b'"ping"' not in line:
                events.validate_json(line[5:])


# ----------------------------------------------------------------- names, keys and places


def test_a_model_says_what_it_can_do_by_its_name() -> None:
    transport = Recorded("anthropic/text.json")
    new = opened(transport, "claude-opus-5")
    assert isinstance(new, StreamingModel)
    assert new.capabilities == Capabilities(
        json_schema=True,
        choices=True,
        context_tokens=1_000_000,
        tools=True,
        tool_choice=True,
        media=("image", "file"),
        reasoning=True,
    )
    assert not opened(transport, "claude-3-opus-20240229").capabilities.json_schema
    assert opened(transport, "claude-opus-4-1").capabilities.json_schema
    assert opened(transport, "kimi-k3").capabilities == Capabilities(tools=True)


def test_further_fields_of_one_model_leave_another_alone() -> None:
    request = replace(ASK, json_schema='{"type":"object","properties":{"n":{"type":"integer"}}}')
    told = sent(request, extra={"output_config": {"format": {"schema": {"title": "N"}}}})
    assert told["output_config"]["format"]["schema"]["title"] == "N"
    assert "title" not in sent(request)["output_config"]["format"]["schema"]


def test_the_fingerprint_tells_models_servers_and_extras_apart() -> None:
    transport = Recorded("anthropic/text.json")
    prints = {
        opened(transport, "claude-opus-5").fingerprint,
        opened(transport, "claude-opus-4-6").fingerprint,
        opened(transport, "claude-opus-5", base_url="http://127.0.0.1:9000").fingerprint,
        opened(transport, "claude-opus-5", extra={"top_k": 5}).fingerprint,
        opened(transport, "claude-opus-5", extra={"a": 1, "b": 2}).fingerprint,
    }
    assert len(prints) == 5
    assert opened(transport, "claude-opus-5", extra={"b": 2, "a": 1}).fingerprint in prints


def test_a_key_is_needed_for_anthropic_alone() -> None:
    with pytest.raises(UsageError, match="DX8111"):
        open_anthropic(LM("anthropic/claude-opus-5"))
    transport = Recorded("anthropic/text.json")
    model = open_anthropic(LM("anthropic/kimi-k3", base_url="http://127.0.0.1:9000/v1/"), transport)
    asyncio.run(model.complete(ASK))
    assert str(transport.requests[0].url) == "http://127.0.0.1:9000/v1/messages"
    assert "x-api-key" not in transport.requests[0].headers


def test_a_key_of_the_environment_stays_with_the_server_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    transport = Recorded("anthropic/text.json")
    asyncio.run(open_anthropic(LM("anthropic/claude-opus-5"), transport).complete(ASK))
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://gateway.example.com/anthropic")
    asyncio.run(open_anthropic(LM("anthropic/claude-opus-5"), transport).complete(ASK))
    elsewhere = LM("anthropic/claude-opus-5", base_url="https://other.example.com")
    asyncio.run(open_anthropic(elsewhere, transport).complete(ASK))
    assert [request.headers.get("x-api-key") for request in transport.requests] == [KEY, KEY, None]
    assert str(transport.requests[1].url) == "https://gateway.example.com/anthropic/v1/messages"


def test_a_function_is_asked_for_each_request() -> None:
    keys = iter(["zero", "one", "two"])
    transport = Recorded("anthropic/text.json")
    model = open_anthropic(LM("anthropic/claude-opus-5", api_key=lambda: next(keys)), transport)

    async def work() -> None:
        for _ in range(2):
            await model.complete(ASK)

    asyncio.run(work())
    assert [request.headers["x-api-key"] for request in transport.requests] == ["one", "two"]


def test_the_key_shows_nowhere() -> None:
    transport = Recorded("anthropic/error_401.json", status=401)
    model = opened(transport, "claude-opus-5", extra={"top_k": 1})
    with pytest.raises(RequestRejected) as caught:
        asyncio.run(model.complete(ASK))
    assert KEY not in f"{model!r}{model.name}{model.fingerprint}{caught.value}{caught.value!r}{caught.value.__dict__}"
