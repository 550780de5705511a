"""The OpenAI protocol: what is sent, how answers and refusals are read, where keys go and do not go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import pickle
import traceback
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import (
    ConnectError,
    LMError,
    RateLimited,
    RequestRejected,
    ResponseError,
    ServerError,
    UsageError,
)
from dspex.lm.model import LM
from dspex.lm.types import Capabilities, LMRequest, LMResponse, Message, Price, Usage
from dspex.providers import open_model
from dspex.providers.openai.chat import OpenAIModel, open_openai
from dspex.providers.openai.schema import strict_schema
from dspex.providers.refusals import Redactor, retry_after
from dspex.testing import Fault, MockServer

CHAT = LMRequest(messages=(Message("system", "Be brief."), Message("user", "Hello?")), max_tokens=7)
ABLE = Capabilities(raw_prompt=True, json_schema=True, choices=True)
KEY = "sk-canary-0123456789abcdef"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


class Answering:
    """A model over `httpx.MockTransport`: keeps what was sent and answers one response."""

    def __init__(
        self,
        answer: object = None,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **lm: Any,
    ) -> None:
        self.sent: list[dict[str, Any]] = []
        self.requests: list[httpx.Request] = []
        if answer is None:
            answer = completion("hi")
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()

        def handle(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            self.sent.append(json.loads(request.content))
            return httpx.Response(status, content=content, headers=headers)

        settings: dict[str, Any] = {"api_key": KEY, "base_url": "http://server.example/v1", **lm}
        model = settings.pop("model", "openai/m")
        self.model = open_openai(LM(model, **settings), httpx.MockTransport(handle))

    def ask(self, request: LMRequest = CHAT) -> LMResponse:
        return asyncio.run(self.model.complete(request))

    def fail(self, request: LMRequest = CHAT) -> LMError:
        with pytest.raises(LMError) as caught:
            self.ask(request)
        return caught.value


def completion(content: object, **changes: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "model": "m-2026",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        **changes,
    }


# ----------------------------------------------------------------- what is sent


def test_a_chat_request_is_sent_whole_and_with_nothing_else() -> None:
    asked = Answering()
    asked.ask(LMRequest(messages=CHAT.messages, temperature=0.5, max_tokens=9, stop=("\n",), seed=11, rollout=2))
    assert asked.sent == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}],
            "max_tokens": 9,
            "temperature": 0.5,
            "stop": ["\n"],
            "seed": 13,
        }
    ]
    assert str(asked.requests[0].url) == "http://server.example/v1/chat/completions"
    assert asked.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_raw_prompt_goes_to_completions() -> None:
    body = {"model": "m", "choices": [{"index": 0, "text": " Paris", "finish_reason": "length"}]}
    asked = Answering(body, capabilities=ABLE)
    response = asked.ask(LMRequest(prompt="The capital of France is", max_tokens=1))
    assert response == LMResponse(" Paris", None, "length", "m")
    assert asked.sent[0]["prompt"] == "The capital of France is"
    assert "messages" not in asked.sent[0]
    assert asked.requests[0].url.path == "/v1/completions"


def test_openai_itself_gets_its_own_dialect() -> None:
    asked = Answering(base_url=None)
    assert asked.model.capabilities == Capabilities(
        json_schema=True,
        choices=True,
        json_mode=True,
        tools=True,
        media=("image", "file"),
        logprobs=True,
        seed=True,
        tool_choice=True,
    )
    schema = {"type": "object", "properties": {"n": {"type": "integer", "default": 3}}}
    asked.ask(LMRequest(messages=CHAT.messages, json_schema=json.dumps(schema)))
    sent = asked.sent[0]
    assert sent["max_completion_tokens"] == 512
    assert "max_tokens" not in sent
    form = sent["response_format"]["json_schema"]
    assert form["strict"] is True
    assert form["schema"] == {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "additionalProperties": False,
        "required": ["n"],
    }
    reasoning = Answering(base_url=None, model="openai/o4-mini")
    reasoning.ask(LMRequest(messages=CHAT.messages, stop=("x",)))
    assert not {"temperature", "stop"} & reasoning.sent[0].keys()


def test_choices_are_enforced_by_a_schema_and_unwrapped() -> None:
    asked = Answering(completion('{"answer": "b"}'), capabilities=ABLE)
    assert asked.ask(LMRequest(messages=CHAT.messages, choices=("a", "b"))).text == "b"
    schema = asked.sent[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["answer"]["enum"] == ["a", "b"]


@pytest.mark.parametrize("content", ['{"answer": "c"}', "b", "{}", '["b"]', '{"answer": 1}'])
def test_choices_that_were_not_enforced_are_an_error(content: str) -> None:
    error = Answering(completion(content), capabilities=ABLE).fail(
        LMRequest(messages=CHAT.messages, choices=("a", "b"))
    )
    assert (type(error), error.code, error.sent) == (ResponseError, "DX4303", "yes")


@pytest.mark.parametrize(
    "request_",
    [
        LMRequest(prompt="x"),
        LMRequest(messages=CHAT.messages, choices=("a", "b")),
        LMRequest(messages=CHAT.messages, choices=("a", "b"), score_choices=True),
    ],
)
def test_what_a_server_is_not_known_to_do_is_refused_before_sending(request_: LMRequest) -> None:
    asked = Answering()
    assert asked.model.capabilities == Capabilities()
    error = asked.fail(request_)
    assert (type(error), error.code, error.sent, error.retryable) == (RequestRejected, "DX4201", "no", False)
    assert asked.sent == []


def test_a_schema_is_not_sent_to_a_server_that_is_not_known_to_enforce_it() -> None:
    asked = Answering()
    asked.ask(LMRequest(messages=CHAT.messages, json_schema='{"type": "object"}'))
    assert "response_format" not in asked.sent[0]


# ----------------------------------------------------------------- what is read


def test_usage_with_cached_and_reasoning_tokens() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 30,
        "total_tokens": 130,
        "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 20, "accepted_prediction_tokens": 0},
    }
    response = Answering(completion("hi", usage=usage)).ask()
    assert response == LMResponse("hi", Usage(100, 30, 64, 20), "stop", "m-2026")


@pytest.mark.parametrize("details", [None, {}, {"cached_tokens": None}])
def test_missing_details_count_as_none(details: object) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": details}
    assert Answering(completion("hi", usage=usage)).ask().usage == Usage(5, 2)


def test_no_usage_is_none_and_not_zero() -> None:
    assert Answering(completion("hi", usage=None)).ask().usage is None


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("model_length", "length"),
        (None, "unknown"),
    ],
)
def test_finish_reasons(reason: object, stop: str) -> None:
    body = completion("hi")
    body["choices"][0]["finish_reason"] = reason
    assert Answering(body).ask().stop == stop


def test_a_refusal_is_an_answer_with_its_usage() -> None:
    body = completion(None)
    body["choices"][0]["message"]["refusal"] = "I cannot help with that."
    assert Answering(body).ask() == LMResponse("I cannot help with that.", Usage(5, 2), "content_filter", "m-2026")


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "Par"}, {"type": "thinking", "thinking": "…"}, {"type": "text", "text": "is"}]
    assert Answering(completion(parts)).ask().text == "Paris"


MISSHAPEN: list[object] = [
    {},
    [],
    3,
    None,
    {"choices": []},
    {"choices": None},
    {"choices": [{}]},
    {"choices": [{"message": None}]},
    {"choices": [{"message": {"content": 3}}]},
    {"choices": [{"message": {"content": [3]}}]},
    completion("hi", usage={"prompt_tokens": "many"}),
    completion("hi", usage={"prompt_tokens": -1}),
]


@pytest.mark.parametrize("body", MISSHAPEN, ids=repr)
def test_json_of_another_shape_is_a_response_error(body: object) -> None:
    error = Answering(b"null" if body is None else body).fail()
    assert (type(error), error.code, error.retryable, error.sent) == (ResponseError, "DX4302", True, "yes")


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"choices": [', b"\xff\xfe"])
def test_a_body_that_is_not_json_is_a_response_error(body: bytes) -> None:
    error = Answering(body).fail()
    assert (type(error), error.code, error.retryable, error.sent) == (ResponseError, "DX4301", True, "yes")


MORE = ["tool_calls", "function", "name", "arguments", "id", "reasoning", "type", "thinking", "code", "delta", "index"]


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda s: (
            st.lists(s)
            | st.dictionaries(
                st.sampled_from(["choices", "message", "content", "text", "usage", "error", "finish_reason", *MORE]), s
            )
        ),
    )
)
def test_no_json_body_raises_anything_but_a_coded_error(body: object) -> None:
    asked = Answering(json.dumps(body).encode())
    with contextlib.suppress(LMError):
        asked.ask()
    streaming = Answering(f"data: {json.dumps(body)}\n\ndata: [DONE]\n\n".encode())

    async def stream() -> None:
        async for _ in streaming.model.stream(CHAT):
            pass

    with contextlib.suppress(LMError):
        asyncio.run(stream())


# ----------------------------------------------------------------- refusals

STATUSES = [
    (400, RequestRejected, "DX4205", False),
    (401, RequestRejected, "DX4202", False),
    (402, RequestRejected, "DX4205", False),
    (403, RequestRejected, "DX4203", False),
    (404, RequestRejected, "DX4204", False),
    (422, RequestRejected, "DX4205", False),
    (301, RequestRejected, "DX4206", False),
    (408, ServerError, "DX4208", True),
    (409, ServerError, "DX4208", True),
    (429, RateLimited, "DX4207", True),
    (500, ServerError, "DX4208", True),
    (501, ServerError, "DX4208", False),
    (503, ServerError, "DX4208", True),
    (529, ServerError, "DX4208", True),
]


@pytest.mark.parametrize(("status", "kind", "code", "retryable"), STATUSES)
def test_statuses(status: int, kind: type[LMError], code: str, retryable: bool) -> None:
    body = {"error": {"message": "the server's own words", "type": "x", "code": None}}
    error = Answering(body, status=status, headers={"location": "https://other.example/?token=1"}).fail()
    assert (type(error), error.code, error.retryable, error.sent) == (kind, code, retryable, "yes")
    assert str(status) in error.message
    assert error.fix or code == "DX4205"
    if status != 301:
        assert "the server's own words" in error.message
    else:
        assert "https://other.example/" in str(error)
        assert "token" not in str(error)


def test_a_redirect_to_a_path_is_shown_whole() -> None:
    error = Answering({}, status=307, headers={"location": "/elsewhere?token=1"}).fail()
    assert "://" in str(error.fix)
    assert "(://" not in str(error.fix)
    assert "/elsewhere)" in str(error.fix)


def test_the_wait_that_a_server_asks_for_is_in_the_message() -> None:
    error = Answering({}, status=429, headers={"retry-after": "3600"}).fail()
    assert "asks to wait 3600 s" in error.message
    assert "asks to wait" not in Answering({}, status=429).fail().message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": "plain words"}, "plain words"),
        ({"message": "flat words"}, "flat words"),
        ({"detail": "nested detail"}, "nested detail"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        (b"<html>gateway down</html>", "gateway down"),
        (b"", "without a message"),
        (b"\xff\xfe", "500"),
    ],
)
def test_the_servers_words_are_found_in_other_shapes(body: object, words: str) -> None:
    assert words in Answering(body, status=500).fail().message


def test_an_empty_account_is_not_retried() -> None:
    body = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    error = Answering(body, status=429).fail()
    assert isinstance(error, RateLimited)
    assert not error.retryable


@pytest.mark.parametrize(
    ("code", "kind"), [(502, ServerError), (429, RateLimited), (400, RequestRejected), ("x", ServerError)]
)
def test_an_error_inside_a_200_is_read_as_one(code: object, kind: type[LMError]) -> None:
    error = Answering({"error": {"code": code, "message": "upstream failed"}}).fail()
    assert type(error) is kind
    assert "upstream failed" in error.message


def test_retry_after_in_both_forms_reaches_the_error() -> None:
    error = Answering({}, status=429, headers={"Retry-After": "7"}).fail()
    assert isinstance(error, RateLimited)
    assert error.retry_after == 7.0
    with MockServer(faults=[Fault("status", status=503, retry_after=100, date=True)]) as server:
        model = open_model(LM("openai/m", base_url=server.url))
        with pytest.raises(ServerError) as caught:
            asyncio.run(model.complete(CHAT))
    assert caught.value.retry_after is not None
    assert 90 < caught.value.retry_after <= 100


def test_retry_after_headers() -> None:
    now = 1_445_412_480.0  # Wed, 21 Oct 2015 07:28:00 GMT
    assert retry_after({}) is None
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, now) == 30.0
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:30 -0000"}, now) == 30.0
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT"}, now) == 0.0
    for nonsense in ("soon", "-3", "inf", "nan", "Wed, 99 Oct 2015", "Wed, 21 Oct 99999 07:28:00 GMT"):
        assert retry_after({"retry-after": nonsense}, now) in (None, 0.0)


@settings(deadline=None)
@given(st.text())
def test_no_retry_after_header_breaks_the_client(value: str) -> None:
    seconds = retry_after({"retry-after": value}, 0.0)
    assert seconds is None or 0.0 <= seconds < float("inf")


# ----------------------------------------------------------------- keys


def test_keys_come_from_where_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    def authorization(**lm: Any) -> str | None:
        asked = Answering(**lm)
        asked.ask()
        return asked.requests[0].headers.get("authorization")

    with pytest.raises(UsageError) as caught:
        open_model(LM("openai/m"))
    assert caught.value.code == "DX8111"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-environment")
    assert authorization(base_url=None, api_key=None) == "Bearer sk-from-environment"
    assert authorization(base_url=None, api_key="sk-argument") == "Bearer sk-argument"
    # A key for OpenAI never goes to a server that the code names.
    assert authorization(api_key=None) is None
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gateway.example/v1/")
    asked = Answering(base_url=None, api_key=None)
    asked.ask()
    assert asked.requests[0].headers["authorization"] == "Bearer sk-from-environment"
    assert str(asked.requests[0].url) == "http://gateway.example/v1/chat/completions"


def test_a_function_is_asked_for_the_key_of_each_request_and_every_key_is_hidden() -> None:
    keys = iter(f"sk-canary-number-{i}" for i in range(9))
    asked = Answering(api_key=lambda: next(keys))
    asked.ask()
    asked.ask()
    sent = [request.headers["authorization"] for request in asked.requests]
    assert sent == ["Bearer sk-canary-number-1", "Bearer sk-canary-number-2"]
    echo = {"error": {"message": "known: sk-canary-number-0, sk-canary-number-1, also /sk-canary-number-1/"}}
    failing = Answering(echo, status=400, api_key=lambda: "sk-canary-number-1")
    assert "canary" not in str(failing.fail())


@pytest.mark.parametrize("region", ["", "eu.", "us."])
def test_openai_is_known_in_every_region(region: str) -> None:
    base_url = f"https://{region}api.openai.com/v1"
    asked = Answering(base_url=base_url)
    asked.ask()
    assert asked.model.capabilities.json_schema
    assert "max_completion_tokens" in asked.sent[0]
    with pytest.raises(UsageError) as caught:
        open_model(LM("openai/m", base_url=base_url))
    assert caught.value.code == "DX8111"
    assert not Answering(base_url="https://api.openai.com.example/v1").model.capabilities.json_schema


def test_a_key_from_a_file_may_end_in_a_line_end_and_others_are_refused_unprinted() -> None:
    asked = Answering(api_key=f"{KEY}\n")
    asked.ask()
    assert asked.requests[0].headers["authorization"] == f"Bearer {KEY}"
    with pytest.raises(UsageError) as caught:
        Answering(api_key="sk-canary\r\nX-Evil: 1")
    assert caught.value.code == "DX8113"
    assert "canary" not in str(caught.value)


def test_no_key_is_ever_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    echo = {"error": {"message": f"Incorrect API key provided: {KEY}. Header was Bearer {KEY}", "type": KEY}}
    for status in (200, 301, 400, 401, 403, 404, 429, 500):
        for body in (echo, f"<html>{KEY}</html>".encode()):
            asked = Answering(body, status=status)
            error = asked.fail()
            shown += [str(error), repr(error), *traceback.format_exception(error), repr(pickle.dumps(error))]
            shown += [repr(asked.model), asked.model.fingerprint, asked.model.name]
    shown.append(repr(LM("openai/m", api_key=KEY)))
    with pytest.raises(ConnectError) as caught:
        asyncio.run(open_model(LM("openai/m", base_url="http://127.0.0.1:1/v1", api_key=KEY)).complete(CHAT))
    shown.append("".join(traceback.format_exception(caught.value)))
    assert not [text for text in shown if "canary" in text]
    assert "canary" not in caplog.text


@settings(deadline=None)
@given(st.text(), st.text(), st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=8))
def test_the_redactor_takes_out_its_key_and_keeps_one_short_line(before: str, after: str, key: str) -> None:
    shown = Redactor(key).excerpt(before + key + after)
    assert key not in shown
    cut = Redactor(key).excerpt(b" " * (3200 - len(key) // 2) + key.encode())
    assert key[:4] not in cut
    assert len(shown) <= 400
    assert "\n" not in shown


@pytest.mark.parametrize(
    "url",
    [
        "server.example/v1",
        "ftp://server/v1",
        "http://",
        "http:///v1",
        "http://h:x/v1",
        "http://[h/v1",
        "http://h/v1?key=canary",
    ],
)
def test_malformed_base_urls_are_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_model(LM("openai/m", base_url=url, api_key="k"))
    assert caught.value.code == "DX8114"
    assert "canary" not in str(caught.value)


# ----------------------------------------------------------------- the rest


def test_prices() -> None:
    priced = Price(1.0, 2.0)
    assert open_model(LM("openai/m", base_url="http://127.0.0.1:1/v1", price=priced)).price == priced
    assert open_model(LM("openai/m", base_url="http://127.0.0.1:1/v1")).price is None
    assert open_model(LM("openai/m", base_url="https://unknown.example/v1")).price is None
    assert open_model(LM("openai/no-such-model", api_key="k")).price is None
    listed = open_model(LM("openai/gpt-4.1-mini", api_key="k")).price
    assert listed is not None
    assert 0 < listed.input < listed.output
    assert listed.cached is not None
    assert listed.cached < listed.input


def test_a_fingerprint_names_server_and_model_and_no_secret() -> None:
    def fingerprint(**lm: Any) -> str:
        settings: dict[str, Any] = {"model": "openai/m", "base_url": "http://h:1/v1", "api_key": "canary", **lm}
        return open_model(LM(**settings)).fingerprint

    assert "canary" not in fingerprint()
    assert fingerprint() == fingerprint(api_key="other", timeout=3, concurrency=1)
    enforcing = Capabilities(json_schema=True)
    others = [{"model": "openai/n"}, {"base_url": "http://h:2/v1"}, {"capabilities": enforcing}]
    assert len({fingerprint(), *(fingerprint(**other) for other in others)}) == 4


def test_an_unknown_provider_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"known: anthropic, azure, .*, openai, openai-responses, ") as caught:
        open_model(LM("opneai/gpt"))
    assert caught.value.code == "DX8110"


def test_calls_over_real_sockets_agree_with_the_servers_ledger() -> None:
    async def work(model: OpenAIModel) -> Usage:
        requests = [
            LMRequest(messages=(Message("user", f"question {'very ' * (i % 7)}{i}"),), rollout=i % 3)
            for i in range(200)
        ]
        usages = [r.usage for r in await asyncio.gather(*(model.complete(request) for request in requests))]
        await model.aclose()
        return sum((usage for usage in usages if usage is not None), Usage())

    with MockServer() as server:
        model = open_openai(LM("openai/mock", base_url=server.url, concurrency=16))
        total = asyncio.run(work(model))
        assert (total.input_tokens, total.output_tokens) == (server.input_tokens, server.output_tokens)
        assert server.most_open <= 16


LEAVES: list[dict[str, Any]] = [{"type": "string"}, {"type": "integer", "default": 3}, {"enum": ["a", "default"]}]


def an_object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def an_array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


SCHEMAS: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.dictionaries(st.text(max_size=8), inner).map(an_object) | inner.map(an_array),
)


@settings(deadline=None)
@given(SCHEMAS)
def test_the_strict_dialect_is_closed_and_stable(schema: dict[str, Any]) -> None:
    strict = strict_schema(schema)
    assert strict is not None
    assert strict_schema(strict) == strict

    def check(node: dict[str, Any]) -> None:
        if node.get("type") == "object":
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])
            for inner in node["properties"].values():
                check(inner)
        elif node.get("type") == "array":
            check(node["items"])
        else:
            assert "default" not in node

    check(strict)


def test_free_keys_have_no_strict_form() -> None:
    assert strict_schema({"type": "object", "additionalProperties": {"type": "string"}}) is None
