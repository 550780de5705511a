"""Gemini's protocol: what is sent, how answers, streams and refusals are read, where keys go."""

from __future__ import annotations

import asyncio
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.errors import LMError, RateLimited, RequestRejected, ResponseError, ServerError, UsageError
from dspex.lm.model import LM, EmbeddingModel, StreamingModel
from dspex.lm.types import (
    Attachment,
    Capabilities,
    Delta,
    Embeddings,
    LMRequest,
    LMResponse,
    Message,
    Price,
    RateLimits,
    TokenLogprob,
    ToolCall,
    ToolSpec,
    Usage,
)
from dspex.providers.gemini.generate import GeminiModel, open_gemini
from dspex.providers.gemini.request import known_schema
from tests.providers.recorded import Recorded, called, plain, shape

KEY = "AIza-canary-0123456789abcdefghijklmnop"
ASK = LMRequest(messages=(Message("system", "Be brief."), Message("user", "Capital of France?")), max_tokens=64)
WEATHER = ToolSpec("weather", "Weather of a city", '{"type":"object","properties":{"city":{"type":"string"}}}')
NOW = ToolSpec("now", "", '{"type":"object","properties":{}}')
CHOICES = ("billing", "shipping")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", "DSPEX_PRICES"):
        monkeypatch.delenv(name, raising=False)


def opened(transport: Recorded, model: str = "gemini-2.5-flash", **lm: Any) -> GeminiModel:
    lm.setdefault("api_key", KEY)
    return open_gemini(LM(f"gemini/{model}", **lm), transport)


def ask(transport: Recorded, request: LMRequest = ASK, model: str = "gemini-2.5-flash", **lm: Any) -> LMResponse:
    return asyncio.run(opened(transport, model, **lm).complete(request))


def stream(transport: Recorded, request: LMRequest = ASK) -> list[Delta]:
    async def work() -> list[Delta]:
        return [delta async for delta in opened(transport).stream(request)]

    return asyncio.run(work())


def sent(request: LMRequest, model: str = "gemini-2.5-flash", **lm: Any) -> dict[str, Any]:
    """The body that a request becomes."""
    transport = Recorded("gemini/choice.json" if request.choices else "gemini/text.json")
    ask(transport, request, model, **lm)
    return transport.body


def asked(*messages: Message, **changes: Any) -> LMRequest:
    return LMRequest(messages=messages or ASK.messages, max_tokens=4096, **changes)


def refused(name: str, status: int, headers: dict[str, str] | None = None) -> LMError:
    with pytest.raises(LMError) as caught:
        ask(Recorded(f"gemini/{name}.json", status=status, headers=headers))
    assert KEY not in str(caught.value) + repr(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.code, copy.retryable, copy.sent) == (caught.value.code, caught.value.retryable, "yes")
    return caught.value


# ----------------------------------------------------------------- requests


def test_a_request_has_the_protocols_headers_and_body() -> None:
    transport = Recorded("gemini/text.json")
    ask(transport, asked(stop=("\n",), temperature=0.5, top_p=0.9, seed=3, rollout=2))
    request = transport.requests[0]
    assert str(request.url) == (
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent"
    )
    assert request.headers["x-goog-api-key"] == KEY
    assert "authorization" not in request.headers
    assert transport.body == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [{"role": "user", "parts": [{"text": "Capital of France?"}]}],
        "generationConfig": {
            "temperature": 0.5,
            "maxOutputTokens": 4096,
            "topP": 0.9,
            "stopSequences": ["\n"],
            "seed": 5,
        },
    }


def test_a_stream_asks_for_events() -> None:
    transport = Recorded("gemini/text.sse")
    stream(transport)
    assert str(transport.requests[0].url).endswith("/models/gemini-2.5-flash:streamGenerateContent?alt=sse")


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://gateway.example", "https://gateway.example/v1beta/models/m:generateContent"),
        ("https://gateway.example/google/v1/", "https://gateway.example/google/v1/models/m:generateContent"),
    ],
)
def test_a_server_without_a_path_is_asked_under_its_version(given: str, url: str) -> None:
    transport = Recorded("gemini/text.json")
    ask(transport, model="m", base_url=given)
    assert str(transport.requests[0].url) == url


def test_a_tuned_model_names_its_own_path() -> None:
    transport = Recorded("gemini/text.json")
    ask(transport, model="tunedModels/mine 1")
    assert transport.requests[0].url.raw_path == b"/v1beta/tunedModels/mine%201:generateContent"


@pytest.mark.parametrize(
    ("model", "reasoning", "expected"),
    [
        ("gemini-2.5-pro", None, None),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0, "includeThoughts": False}),
        ("gemini-2.5-flash", "minimal", {"thinkingBudget": 1024, "includeThoughts": True}),
        ("gemini-2.5-flash", "high", {"thinkingBudget": 24576, "includeThoughts": True}),
        ("gemini-2.5-flash", 500, {"thinkingBudget": 500, "includeThoughts": True}),
        ("gemini-3-pro-preview", "low", {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("gemini-3-pro-preview", 500, {"thinkingBudget": 500, "includeThoughts": True}),
        ("gemini-4-flash", "none", {"thinkingLevel": "MINIMAL", "includeThoughts": False}),
        ("gemini-flash-latest", "medium", {"thinkingLevel": "MEDIUM", "includeThoughts": True}),
        ("gemini-2.0-flash", "none", None),
        ("gemma-3-27b-it", "none", None),
    ],
)
def test_reasoning_is_asked_for_as_the_model_takes_it(model: str, reasoning: Any, expected: object) -> None:
    assert sent(asked(reasoning=reasoning), model)["generationConfig"].get("thinkingConfig") == expected


def test_an_answer_is_enforced() -> None:
    schema = '{"type":"object","properties":{"n":{"type":"integer","exclusiveMinimum":3}},"required":["n"]}'
    config = sent(asked(json_schema=schema))["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert config["responseJsonSchema"] == {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
    }
    assert "responseMimeType" not in sent(asked(json_schema=schema), capabilities=Capabilities())["generationConfig"]
    config = sent(asked(json_mode=True))["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert "responseJsonSchema" not in config
    config = sent(asked(choices=CHOICES))["generationConfig"]
    assert config["responseJsonSchema"] == {"type": "string", "enum": ["billing", "shipping"]}


def test_a_schema_keeps_what_the_server_knows() -> None:
    schema = {
        "$defs": {"Leg": {"type": "object", "properties": {"to": {"type": "string", "pattern": "^[a-z]+$"}}}},
        "type": "object",
        "title": "Trip",
        "additionalProperties": False,
        "properties": {
            "legs": {"type": "array", "items": {"$ref": "#/$defs/Leg", "description": "a leg"}, "maxItems": 3},
            "title": {"const": "trip", "default": "trip"},
            "kind": {"enum": ["a", 1]},
            "sure": {"enum": [True], "type": "boolean"},
            "enum": {"anyOf": [{"type": "null"}, {"type": "number", "minimum": 0, "multipleOf": 2}]},
        },
        "required": ["legs"],
    }
    assert known_schema(json.dumps(schema)) == {
        "$defs": {"Leg": {"type": "object", "properties": {"to": {"type": "string"}}}},
        "type": "object",
        "title": "Trip",
        "additionalProperties": False,
        "properties": {
            "legs": {"type": "array", "items": {"$ref": "#/$defs/Leg"}, "maxItems": 3},
            "title": {"enum": ["trip"]},
            "kind": {"enum": ["a", 1]},
            "sure": {"type": "boolean"},
            "enum": {"anyOf": [{"type": "null"}, {"type": "number", "minimum": 0}]},
        },
        "required": ["legs"],
    }


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", None),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ("now", {"mode": "ANY", "allowedFunctionNames": ["now"]}),
    ],
)
def test_tools_are_declared(choice: str, config: object) -> None:
    body = sent(asked(tools=(WEATHER, NOW), tool_choice=choice))
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {
                    "name": "weather",
                    "description": "Weather of a city",
                    "parametersJsonSchema": json.loads(WEATHER.parameters),
                },
                {"name": "now", "description": "", "parametersJsonSchema": json.loads(NOW.parameters)},
            ]
        }
    ]
    assert body.get("toolConfig", {}).get("functionCallingConfig") == config


def test_media_stand_before_the_text() -> None:
    image = Attachment("image", "image/png", data="aW1n")
    film = Attachment("file", "application/pdf", url="https://files.example/a.pdf")
    body = sent(asked(Message("user", "What is this?", (image, film)), Message("user", "", (image,))))
    assert body["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": "aW1n"}},
        {"fileData": {"mimeType": "application/pdf", "fileUri": "https://files.example/a.pdf"}},
        {"text": "What is this?"},
    ]
    assert body["contents"][1]["parts"] == [{"inlineData": {"mimeType": "image/png", "data": "aW1n"}}]


def test_calls_of_another_model_are_told_by_name() -> None:
    turns = (
        Message("user", "Weather in Paris and the time?"),
        Message(
            "assistant",
            "Let me see.",
            tool_calls=(ToolCall("a", "weather", '{"city": "Paris"}'), ToolCall("b", "now", "")),
            state='{"other": "provider"}',
        ),
        Message("tool", '{"celsius": 18}', tool_call_id="a"),
        Message("tool", "noon", tool_call_id="b"),
        Message("assistant", "", tool_calls=(ToolCall("a", "now", "[1"),)),
        Message("tool", "", tool_call_id="a"),
        Message("user", "And?"),
    )
    body = sent(asked(*turns, tools=(WEATHER, NOW)), "gemini-2.5-flash")
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "Weather in Paris and the time?"}]},
        {
            "role": "model",
            "parts": [
                {"text": "Let me see."},
                {"functionCall": {"name": "weather", "args": {"city": "Paris"}}},
                {"functionCall": {"name": "now", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "weather", "response": {"output": {"celsius": 18}}}},
                {"functionResponse": {"name": "now", "response": {"output": "noon"}}},
            ],
        },
        {"role": "model", "parts": [{"functionCall": {"name": "now", "args": {"INVALID_JSON": "[1"}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "now", "response": {"output": ""}}}]},
        {"role": "user", "parts": [{"text": "And?"}]},
    ]
    # The newest models refuse a call without a signature, and take this in its place.
    parts = sent(asked(*turns, tools=(WEATHER, NOW)), "gemini-3-pro-preview")["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [None, "skip_thought_signature_validator", None]


@pytest.mark.parametrize("name", ["gemini/thinking_tools.json", "gemini/thinking_tools.sse"])
def test_signed_calls_go_back_as_they_came(name: str) -> None:
    if name.endswith("json"):
        answer = ask(Recorded(name))
    else:
        last = stream(Recorded(name))[-1].response
        assert last is not None
        answer = last
    turn = Message("assistant", answer.text, tool_calls=answer.tool_calls, state=answer.state)
    results = tuple(Message("tool", "mild", tool_call_id=call.id) for call in answer.tool_calls)
    contents = sent(asked(*ASK.messages, turn, *results, tools=(WEATHER,)))["contents"]
    whole = json.loads(shape("gemini/thinking_tools.json"))["candidates"][0]["content"]["parts"]
    assert contents[1] == {"role": "model", "parts": [part for part in whole if not part.get("thought")]}
    assert [part["functionResponse"]["id"] for part in contents[2]["parts"]] == ["fc-7481", "fc-7482"]


def test_a_result_without_its_call_is_refused() -> None:
    with pytest.raises(RequestRejected, match=r"DX4231.*'b'") as caught:
        sent(asked(Message("user", "x"), Message("tool", "y", tool_call_id="b")))
    assert caught.value.sent == "no"


ROLES = st.sampled_from(["system", "user", "assistant", "tool"])


@given(st.lists(st.tuples(ROLES, st.text(max_size=4)), min_size=1, max_size=12))
def test_no_text_of_a_conversation_is_lost(turns: list[tuple[Any, str]]) -> None:
    first = Message("assistant", "", tool_calls=(ToolCall("t", "now", "{}"),))
    messages = (first, *(Message(role, f"<{text}>", tool_call_id="t") for role, text in turns))
    body = sent(asked(*messages))
    parts = [part for turn in body["contents"] for part in turn["parts"] if "functionCall" not in part]
    texts = [part["text"] if "text" in part else part["functionResponse"]["response"]["output"] for part in parts]
    assert texts == [f"<{text}>" for role, text in turns if role != "system"]
    system = body.get("systemInstruction", {"parts": []})
    assert [part["text"] for part in system["parts"]] == [f"<{text}>" for role, text in turns if role == "system"]


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (LMRequest(prompt="Once"), "raw prompts"),
        (asked(choices=CHOICES, score_choices=True), "scores"),
        (asked(top_logprobs=1), "log-probabilities"),
        (asked(tools=(NOW,), parallel_tools=False), "one tool call at a time"),
    ],
)
def test_what_the_protocol_lacks_is_refused_before_sending(request_: LMRequest, what: str) -> None:
    transport = Recorded("gemini/text.json")
    with pytest.raises(RequestRejected, match=f"DX4201.*{what}") as caught:
        ask(transport, request_)
    assert caught.value.sent == "no"
    assert not transport.requests


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (asked(choices=CHOICES), "choices"),
        (asked(tools=(NOW,)), "tools"),
        (asked(reasoning="low"), "reasoning"),
        (asked(Message("user", "", (Attachment("audio", "audio/wav", data="aa"),))), "kind audio"),
    ],
)
def test_what_the_model_lacks_is_refused_before_sending(request_: LMRequest, what: str) -> None:
    with pytest.raises(RequestRejected, match=f"DX4201.*{what}"):
        ask(Recorded("gemini/text.json"), request_, capabilities=Capabilities(media=("image",)))


def test_what_the_user_adds_goes_first_and_joins() -> None:
    extra: dict[str, Any] = {
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        "generationConfig": {"topK": 20, "temperature": 1.0},
    }
    body = sent(ASK, extra=extra)
    assert body["generationConfig"] == {"topK": 20, "temperature": 1.0, "maxOutputTokens": 64}
    assert body["safetySettings"] == extra["safetySettings"]
    assert sent(ASK, extra=extra) == body
    assert extra["generationConfig"] == {"topK": 20, "temperature": 1.0}


# ----------------------------------------------------------------- answers


def test_an_answer_is_read_with_its_usage() -> None:
    answer = ask(Recorded("gemini/text.json"))
    assert answer == LMResponse(
        "The capital of France is Paris — of course.",
        Usage(1034, 51, cached_tokens=1024, reasoning_tokens=42),
        "stop",
        "gemini-2.5-flash",
    )


def test_calls_reasoning_and_state_are_read() -> None:
    answer = ask(Recorded("gemini/thinking_tools.json"))
    assert answer.text == "I look it up."
    assert answer.reasoning == "**Two cities**\n\nBoth are asked for."
    assert answer.tool_calls == (
        ToolCall("fc-7481", "weather", '{"city":"Paris"}'),
        ToolCall("fc-7482", "weather", '{"city":"Lyon"}'),
    )
    assert answer.stop == "tool_calls"
    assert answer.usage == Usage(87, 167, reasoning_tokens=136)


def test_calls_without_ids_are_numbered() -> None:
    answer = ask(Recorded("gemini/plain_tools.json"))
    assert answer.tool_calls == (ToolCall("call_0", "weather", '{"city":"Paris"}'), ToolCall("call_1", "now", "{}"))
    assert answer.state == ""
    turn = Message("assistant", "", tool_calls=answer.tool_calls)
    contents = sent(asked(Message("user", "?"), turn, Message("tool", "1", tool_call_id="call_1")))["contents"]
    assert contents[2]["parts"] == [{"functionResponse": {"name": "now", "response": {"output": 1}}}]


def test_a_signature_beside_text_is_kept() -> None:
    answer = ask(Recorded("gemini/signed_text.json"))
    assert answer.text == "It is mild."
    contents = sent(asked(Message("user", "?"), Message("assistant", answer.text, state=answer.state)))["contents"]
    assert contents[1]["parts"] == [{"text": "It is mild.", "thoughtSignature": "EjQKMgFwfLMq"}]


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("text", ASK),
        ("thinking_tools", asked(tools=(WEATHER,))),
        ("choice", asked(choices=CHOICES)),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 65536])
def test_a_stream_adds_up_to_the_answer(name: str, request_: LMRequest, piece: int) -> None:
    whole = ask(Recorded(f"gemini/{name}.json"), request_)
    transport = Recorded(f"gemini/{name}.sse", piece=piece)
    deltas = stream(transport, request_)
    assert deltas[-1].response == whole
    assert all(delta.response is None for delta in deltas[:-1])
    assert "".join(delta.text for delta in deltas) == whole.text
    assert "".join(delta.reasoning for delta in deltas) == whole.reasoning
    assert called(deltas) == plain(whole.tool_calls)
    assert transport.closed == 1


def test_a_stream_that_is_left_is_closed() -> None:
    transport = Recorded("gemini/text.sse", piece=64)

    async def work() -> None:
        parts = opened(transport).stream(ASK)
        assert (await anext(parts)).text == "The capital"
        await parts.aclose()
        assert transport.closed == 1

    asyncio.run(work())


@pytest.mark.parametrize(
    ("name", "text", "stop", "usage"),
    [
        ("cut", "The capital", "length", Usage(10, 2)),
        ("cut_thinking", "", "length", Usage(10, 60, reasoning_tokens=60)),
        ("safety", "", "content_filter", Usage(10, 0)),
    ],
)
def test_why_an_answer_ended(name: str, text: str, stop: str, usage: Usage) -> None:
    answer = ask(Recorded(f"gemini/{name}.json"))
    assert (answer.text, answer.stop, answer.usage) == (text, stop, usage)


def test_log_probabilities_are_read() -> None:
    can = Capabilities(logprobs=True)
    transport = Recorded("gemini/logprobs.json")
    answer = ask(transport, asked(top_logprobs=2), capabilities=can)
    assert transport.body["generationConfig"]["responseLogprobs"] is True
    assert transport.body["generationConfig"]["logprobs"] == 2
    assert answer.logprobs == (
        TokenLogprob("Paris", -0.1, (("Paris", -0.1), ("Lyon", -2.5))),
        TokenLogprob(".", -0.2, ((".", -0.2), ("!", -1.9))),
    )
    ask(transport, asked(top_logprobs=0), capabilities=can)
    assert "logprobs" not in transport.body["generationConfig"]


def test_an_enforced_choice_is_unwrapped() -> None:
    assert ask(Recorded("gemini/choice.json"), asked(choices=CHOICES)).text == "shipping"
    with pytest.raises(ResponseError, match="DX4303"):
        ask(Recorded("gemini/choice.json"), asked(choices=("a", "b")))
    assert ask(Recorded("gemini/cut.json"), asked(choices=CHOICES)).text == "The capital"


def test_limits_are_read_from_headers() -> None:
    headers = {"x-ratelimit-limit-requests": "100", "x-ratelimit-remaining-requests": "99"}
    assert ask(Recorded("gemini/text.json", headers=headers)).limits == RateLimits(100, 99)
    deltas = stream(Recorded("gemini/text.sse", headers=headers))
    assert deltas[-1].response is not None
    assert deltas[-1].response.limits == RateLimits(100, 99)


def test_texts_are_embedded() -> None:
    transport = Recorded("gemini/embeddings.json")
    model = opened(transport, "gemini-embedding-001", extra={"outputDimensionality": 3})
    assert isinstance(model, EmbeddingModel)
    found = asyncio.run(model.embed(("a", "b")))
    assert found == Embeddings(((0.25, -0.5, 0.125), (1.0, 0.0, 0.0)), Usage(7, 0), "gemini-embedding-001")
    assert str(transport.requests[0].url).endswith("/models/gemini-embedding-001:batchEmbedContents")
    one = {"model": "models/gemini-embedding-001", "outputDimensionality": 3}
    assert transport.body == {
        "requests": [{**one, "content": {"parts": [{"text": text}]}} for text in ("a", "b")],
    }
    with pytest.raises(ResponseError, match="DX4302"):
        asyncio.run(model.embed(("a",)))


# ----------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "status", "kind", "code", "retryable"),
    [
        ("error_400", 400, RequestRejected, "DX4205", False),
        ("error_400_key", 400, RequestRejected, "DX4202", False),
        ("error_400_context", 400, RequestRejected, "DX4209", False),
        ("error_array", 400, RequestRejected, "DX4209", False),
        ("error_401", 401, RequestRejected, "DX4202", False),
        ("error_403", 403, RequestRejected, "DX4203", False),
        ("error_404", 404, RequestRejected, "DX4204", False),
        ("error_429", 429, RateLimited, "DX4207", True),
        ("error_429_day", 429, RateLimited, "DX4207", False),
        ("error_500", 500, ServerError, "DX4208", True),
        ("error_503", 503, ServerError, "DX4208", True),
    ],
)
def test_refusals_are_classified(name: str, status: int, kind: type[LMError], code: str, retryable: bool) -> None:
    error = refused(name, status)
    assert type(error) is kind
    assert (error.code, error.retryable) == (code, retryable)
    told = shape(f"gemini/{name}.json").decode().partition('"message": "')[2][:40]
    assert told.partition("\\")[0] in error.message


def test_the_pause_is_told_by_the_body_or_by_the_header() -> None:
    limited = refused("error_429", 429)
    assert isinstance(limited, RateLimited)
    assert limited.retry_after == 23.5
    limited = refused("error_429", 429, {"retry-after": "7"})
    assert isinstance(limited, RateLimited)
    assert limited.retry_after == 7.0
    failed = refused("error_503", 503)
    assert isinstance(failed, ServerError)
    assert failed.retry_after == 2.0


@pytest.mark.parametrize("name", ["gemini/blocked.json", "gemini/blocked.sse"])
def test_a_blocked_prompt_is_a_refusal(name: str) -> None:
    with pytest.raises(RequestRejected, match=r"DX4210.*PROHIBITED_CONTENT") as caught:
        ask(Recorded(name)) if name.endswith("json") else stream(Recorded(name))
    assert (caught.value.retryable, caught.value.sent) == (False, "yes")


def test_a_call_that_nobody_can_read_is_tried_again() -> None:
    with pytest.raises(ResponseError, match=r"DX4230.*MALFORMED_FUNCTION_CALL") as caught:
        ask(Recorded("gemini/malformed_call.json"), asked(tools=(WEATHER,)))
    assert (caught.value.retryable, caught.value.sent) == (True, "yes")


def test_an_error_within_a_stream_is_that_error() -> None:
    async def work() -> LMError:
        parts = opened(Recorded("gemini/overloaded.sse")).stream(ASK)
        assert (await anext(parts)).text == "The capital"
        with pytest.raises(ServerError, match=r"DX4208.*503.*overloaded") as caught:
            await anext(parts)
        return caught.value

    error = asyncio.run(work())
    assert (error.retryable, error.sent) == (True, "yes")


def test_a_stream_without_its_end_is_broken() -> None:
    with pytest.raises(ResponseError, match="DX4107") as caught:
        stream(Recorded("gemini/truncated.sse"))
    assert (caught.value.retryable, caught.value.sent) == (True, "yes")


PARTS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["candidates", "content", "parts", "text", "functionCall", "name", "usageMetadata", "promptTokenCount"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(PARTS)
def test_a_body_of_any_shape_is_an_answer_or_a_coded_error(body: Any) -> None:
    class Answering(Recorded):
        async def handle_async_request(self, request: Any) -> Any:
            response = await super().handle_async_request(request)
            return type(response)(200, content=json.dumps(body).encode())

    try:
        ask(Answering("gemini/text.json"))
    except LMError as error:
        assert error.code in ("DX4302", "DX4208", "DX4210")  # noqa: PT017


# ----------------------------------------------------------------- keys and identity


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "second")
    transport = Recorded("gemini/text.json")
    ask(transport, api_key=None)
    assert transport.requests[-1].headers["x-goog-api-key"] == "second"
    monkeypatch.setenv("GOOGLE_API_KEY", "first")
    ask(transport, api_key=None)
    assert transport.requests[-1].headers["x-goog-api-key"] == "first"
    ask(transport, api_key=None, base_url="https://gateway.example")
    assert "x-goog-api-key" not in transport.requests[-1].headers
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "https://gateway.example")
    ask(transport, api_key=None)
    assert transport.requests[-1].url.host == "gateway.example"
    assert transport.requests[-1].headers["x-goog-api-key"] == "first"


def test_googles_own_server_needs_a_key() -> None:
    with pytest.raises(UsageError, match=r"(?s)DX8111.*GOOGLE_API_KEY or GEMINI_API_KEY"):
        open_gemini(LM("gemini/m"))


def test_the_identity_holds_what_shapes_answers_and_no_key() -> None:
    transport = Recorded("gemini/text.json")
    variants = [
        opened(transport),
        opened(transport, "gemini-2.5-pro"),
        opened(transport, base_url="https://gateway.example"),
        opened(transport, extra={"generationConfig": {"topK": 1}}),
        opened(transport, capabilities=Capabilities()),
        opened(transport, capabilities=Capabilities(json_schema=True)),
    ]
    assert len({model.fingerprint for model in variants}) == len(variants)
    assert opened(transport).fingerprint == opened(transport, api_key="other").fingerprint
    assert KEY not in "".join(model.fingerprint + repr(model) + model.name for model in variants)


def test_it_is_a_model_that_streams() -> None:
    model = opened(Recorded("gemini/text.json"))
    assert isinstance(model, StreamingModel)
    assert model.name == "gemini/gemini-2.5-flash"
    assert model.capabilities.tools
    assert not opened(Recorded("gemini/text.json"), "gemini-2.0-flash").capabilities.reasoning


def test_the_price_is_the_lists_or_the_users() -> None:
    listed = opened(Recorded("gemini/text.json"), "gemini-2.5-pro").price
    assert listed is not None
    assert listed.above
    assert listed.above[0][0] == 200_000
    assert opened(Recorded("gemini/text.json"), price=Price(1, 2)).price == Price(1, 2)
    assert opened(Recorded("gemini/text.json"), "no-such-model").price is None
