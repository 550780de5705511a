"""Ollama's protocol: what is sent, how answers, streams and refusals are read, where server and key come from."""

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
    FREE,
    Attachment,
    Capabilities,
    Delta,
    Embeddings,
    LMRequest,
    LMResponse,
    Message,
    Price,
    TokenLogprob,
    ToolCall,
    ToolSpec,
    Usage,
)
from dspex.providers.ollama import OllamaModel, open_ollama, server_named
from tests.providers.recorded import Recorded, called, plain, shape

KEY = "ollama-canary-0123456789abcdef"
ASK = LMRequest(messages=(Message("system", "Be brief."), Message("user", "Capital of France?")), max_tokens=64)
CONTINUE = LMRequest(prompt="The capital of France is", max_tokens=6)
WEATHER = ToolSpec("weather", "Weather of a city", '{"type":"object","properties":{"city":{"type":"string"}}}')
NOW = ToolSpec("now", "", '{"type":"object","properties":{}}')
CHOICES = ("billing", "shipping")
CAN = Capabilities(
    raw_prompt=True,
    json_schema=True,
    choices=True,
    json_mode=True,
    tools=True,
    media=("image",),
    reasoning=True,
    logprobs=True,
    seed=True,
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OLLAMA_HOST", "OLLAMA_API_KEY", "DSPEX_PRICES"):
        monkeypatch.delenv(name, raising=False)


def opened(transport: Recorded, model: str = "qwen3:8b", **lm: Any) -> OllamaModel:
    lm.setdefault("capabilities", CAN)
    return open_ollama(LM(f"ollama/{model}", **lm), transport)


def ask(transport: Recorded, request: LMRequest = ASK, **lm: Any) -> LMResponse:
    return asyncio.run(opened(transport, **lm).complete(request))


def stream(transport: Recorded, request: LMRequest = ASK) -> list[Delta]:
    async def work() -> list[Delta]:
        return [delta async for delta in opened(transport).stream(request)]

    return asyncio.run(work())


def sent(request: LMRequest, **lm: Any) -> dict[str, Any]:
    """The body that a request becomes."""
    name = "choice" if request.choices else "chat" if request.prompt is None else "generate"
    transport = Recorded(f"ollama/{name}.json")
    ask(transport, request, **lm)
    return transport.body


def asked(*messages: Message, **changes: Any) -> LMRequest:
    return LMRequest(messages=messages or ASK.messages, max_tokens=64, **changes)


def refused(name: str, status: int) -> LMError:
    with pytest.raises(LMError) as caught:
        ask(Recorded(f"ollama/{name}.json", status=status), api_key=KEY)
    assert KEY not in str(caught.value) + repr(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.code, copy.retryable, copy.sent) == (caught.value.code, caught.value.retryable, "yes")
    return caught.value


# ----------------------------------------------------------------- requests


def test_a_request_has_the_protocols_body() -> None:
    transport = Recorded("ollama/chat.json")
    ask(transport, asked(stop=("\n",), temperature=0.5, top_p=0.9, seed=3, rollout=2))
    assert str(transport.requests[0].url) == "http://127.0.0.1:11434/api/chat"
    assert "authorization" not in transport.requests[0].headers
    assert transport.body == {
        "model": "qwen3:8b",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital of France?"}],
        "options": {"temperature": 0.5, "num_predict": 64, "top_p": 0.9, "stop": ["\n"], "seed": 5},
        "stream": False,
        "truncate": False,
        "shift": False,
    }


def test_a_raw_prompt_is_continued() -> None:
    transport = Recorded("ollama/generate.json")
    answer = ask(transport, CONTINUE)
    assert str(transport.requests[0].url) == "http://127.0.0.1:11434/api/generate"
    assert transport.body["prompt"] == "The capital of France is"
    assert transport.body["raw"] is True
    assert "messages" not in transport.body
    assert answer == LMResponse(" Paris, the city of light", Usage(5, 6), "length", "qwen3:8b")


@pytest.mark.parametrize(
    ("reasoning", "think"),
    [("none", False), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high")],
)
def test_reasoning_is_asked_for(reasoning: Any, think: object) -> None:
    assert sent(asked(reasoning=reasoning))["think"] == think


def test_reasoning_can_be_switched_off_without_being_able_to() -> None:
    assert sent(asked(reasoning="none"), capabilities=None)["think"] is False
    assert "think" not in sent(ASK)


def test_an_answer_is_enforced() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}}
    assert sent(asked(json_schema=json.dumps(schema)))["format"] == schema
    assert "format" not in sent(asked(json_schema=json.dumps(schema)), capabilities=Capabilities())
    assert sent(asked(json_mode=True))["format"] == "json"
    assert sent(asked(choices=CHOICES))["format"] == {"type": "string", "enum": ["billing", "shipping"]}


def test_tools_are_declared() -> None:
    request = asked(tools=(WEATHER, NOW))
    assert sent(request)["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Weather of a city",
                "parameters": json.loads(WEATHER.parameters),
            },
        },
        {"type": "function", "function": {"name": "now", "description": "", "parameters": json.loads(NOW.parameters)}},
    ]
    assert "tools" not in sent(asked(tools=(NOW,), tool_choice="none", parallel_tools=False))


def test_a_tools_schema_is_sent_without_references() -> None:
    schema = {
        "type": "object",
        "properties": {
            "trip": {"$ref": "#/$defs/Trip", "description": "the trip"},
            "legs": {"type": "array", "items": {"$ref": "#/$defs/Leg"}},
        },
        "$defs": {
            "Trip": {"type": "object", "properties": {"first": {"$ref": "#/$defs/Leg"}}},
            "Leg": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Leg"}, {"type": "null"}]}}},
        },
    }
    leg = {"type": "object", "properties": {"next": {"anyOf": [{"type": "object"}, {"type": "null"}]}}}
    tool = ToolSpec("plan", "", json.dumps(schema))
    for _ in range(2):
        assert sent(asked(tools=(tool,)))["tools"][0]["function"]["parameters"] == {
            "type": "object",
            "properties": {
                "trip": {"type": "object", "properties": {"first": leg}, "description": "the trip"},
                "legs": {"type": "array", "items": leg},
            },
        }


def test_calls_and_results_are_told() -> None:
    body = sent(
        asked(
            Message("user", "Weather?", (Attachment("image", "image/png", data="aW1n"),)),
            Message(
                "assistant",
                "",
                tool_calls=(ToolCall("a", "weather", '{"city": "Paris"}'), ToolCall("b", "now", "")),
                state='{"other": "provider"}',
            ),
            Message("tool", "18 °C", tool_call_id="a"),
            Message("tool", "noon", tool_call_id="gone"),
        )
    )
    assert body["messages"] == [
        {"role": "user", "content": "Weather?", "images": ["aW1n"]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "a", "function": {"name": "weather", "arguments": {"city": "Paris"}}},
                {"id": "b", "function": {"name": "now", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "18 °C", "tool_name": "weather", "tool_call_id": "a"},
        {"role": "tool", "content": "noon", "tool_call_id": "gone"},
    ]


def test_what_a_model_thought_before_its_calls_goes_back() -> None:
    answer = ask(Recorded("ollama/thinking_tools.json"), asked(tools=(WEATHER,)))
    turn = Message("assistant", answer.text, tool_calls=answer.tool_calls, state=answer.state)
    messages = sent(asked(*ASK.messages, turn))["messages"]
    assert messages[2]["thinking"] == "Both cities are asked for."
    assert messages[2]["tool_calls"][0]["id"] == "call_f5a1"


@pytest.mark.parametrize("state", ["[1]", "not JSON", '"text"'])
def test_a_foreign_state_is_left_out(state: str) -> None:
    messages = sent(asked(Message("assistant", "x", state=state)))["messages"]
    assert messages == [{"role": "assistant", "content": "x"}]


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (asked(choices=CHOICES, score_choices=True), "scores"),
        (asked(reasoning=100), "reasoning in tokens"),
        (asked(tools=(NOW,), tool_choice="required"), "must be called"),
        (asked(tools=(NOW,), tool_choice="now"), "must be called"),
        (asked(tools=(NOW,), parallel_tools=False), "one tool call at a time"),
        (asked(Message("user", "", (Attachment("image", "image/png", url="https://a.example/a.png"),))), "by URL"),
    ],
)
def test_what_the_protocol_lacks_is_refused_before_sending(request_: LMRequest, what: str) -> None:
    transport = Recorded("ollama/chat.json")
    with pytest.raises(RequestRejected, match=f"DX4201.*{what}") as caught:
        ask(transport, request_)
    assert caught.value.sent == "no"
    assert not transport.requests


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (asked(tools=(NOW,)), "tools"),
        (asked(reasoning="low"), "reasoning"),
        (asked(Message("user", "", (Attachment("image", "image/png", data="aa"),))), "kind image"),
    ],
)
def test_what_a_model_may_lack_is_refused_unless_it_is_said(request_: LMRequest, what: str) -> None:
    with pytest.raises(RequestRejected, match=f"DX4201.*{what}"):
        ask(Recorded("ollama/chat.json"), request_, capabilities=None)


def test_what_the_user_adds_goes_first_and_joins() -> None:
    extra: dict[str, Any] = {"keep_alive": "10m", "truncate": True, "options": {"num_ctx": 8192}}
    body = sent(ASK, extra=extra)
    assert body["options"] == {"temperature": 0.0, "num_predict": 64, "num_ctx": 8192}
    assert (body["keep_alive"], body["truncate"]) == ("10m", True)


# ----------------------------------------------------------------- answers


def test_an_answer_is_read_with_its_usage() -> None:
    answer = ask(Recorded("ollama/chat.json"))
    assert answer == LMResponse("The capital of France is Paris — of course.", Usage(26, 11), "stop", "qwen3:8b")
    assert ask(Recorded("ollama/no_usage.json")) == LMResponse("hi", None, "stop", "qwen3:8b")


def test_calls_and_reasoning_are_read() -> None:
    answer = ask(Recorded("ollama/thinking_tools.json"))
    assert answer.reasoning == "Both cities are asked for."
    assert answer.tool_calls == (
        ToolCall("call_f5a1", "weather", '{"city":"Paris"}'),
        ToolCall("call_f5a2", "weather", '{"city":"Lyon"}'),
    )
    assert answer.stop == "tool_calls"
    assert ask(Recorded("ollama/old_tools.json")).tool_calls == (
        ToolCall("call_0", "weather", '{"city":"Tokyo"}'),
        ToolCall("call_1", "now", "{}"),
    )


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("chat", ASK),
        ("thinking_tools", asked(tools=(WEATHER,))),
        ("choice", asked(choices=CHOICES)),
        ("generate", CONTINUE),
        ("logprobs", asked(top_logprobs=2)),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 65536])
def test_a_stream_adds_up_to_the_answer(name: str, request_: LMRequest, piece: int) -> None:
    whole = ask(Recorded(f"ollama/{name}.json"), request_)
    transport = Recorded(f"ollama/{name}.ndjson", piece=piece)
    deltas = stream(transport, request_)
    assert transport.body["stream"] is True
    assert deltas[-1].response == whole
    assert all(delta.response is None for delta in deltas[:-1])
    assert "".join(delta.text for delta in deltas) == whole.text
    assert "".join(delta.reasoning for delta in deltas) == whole.reasoning
    assert called(deltas) == plain(whole.tool_calls)
    assert transport.closed == 1


def test_a_stream_that_is_left_is_closed() -> None:
    transport = Recorded("ollama/chat.ndjson", piece=64)

    async def work() -> None:
        parts = opened(transport).stream(ASK)
        assert (await anext(parts)).text == "The capital"
        await parts.aclose()
        assert transport.closed == 1

    asyncio.run(work())


def test_log_probabilities_are_read() -> None:
    transport = Recorded("ollama/logprobs.json")
    answer = ask(transport, asked(top_logprobs=2))
    assert (transport.body["logprobs"], transport.body["top_logprobs"]) == (True, 2)
    assert answer.logprobs == (
        TokenLogprob("Paris", -0.1, (("Paris", -0.1), ("Lyon", -2.5))),
        TokenLogprob(".", -0.2, ((".", -0.2), ("!", -1.9))),
    )


def test_a_model_that_is_not_said_to_reason_chooses_at_once() -> None:
    transport = Recorded("ollama/choice.json")
    ask(transport, asked(choices=CHOICES), capabilities=Capabilities(choices=True))
    assert transport.body["think"] is False
    ask(transport, asked(choices=CHOICES), capabilities=Capabilities(choices=True, reasoning=True))
    assert "think" not in transport.body


def test_an_enforced_choice_is_unwrapped() -> None:
    assert ask(Recorded("ollama/choice.json"), asked(choices=CHOICES)).text == "shipping"
    with pytest.raises(ResponseError, match="DX4303"):
        ask(Recorded("ollama/chat.json"), asked(choices=CHOICES))


def test_texts_are_embedded() -> None:
    transport = Recorded("ollama/embed.json")
    model = opened(transport, "nomic-embed-text", extra={"dimensions": 3})
    assert isinstance(model, EmbeddingModel)
    found = asyncio.run(model.embed(("a", "b")))
    assert found == Embeddings(((0.6, -0.8, 0.0), (1.0, 0.0, 0.0)), Usage(8, 0), "nomic-embed-text")
    assert str(transport.requests[0].url).endswith("/api/embed")
    assert transport.body == {"model": "nomic-embed-text", "input": ["a", "b"], "truncate": False, "dimensions": 3}
    with pytest.raises(ResponseError, match="DX4302"):
        asyncio.run(model.embed(("a",)))


# ----------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "status", "kind", "code", "retryable"),
    [
        ("error_400_context", 400, RequestRejected, "DX4209", False),
        ("error_400_context_prompt", 400, RequestRejected, "DX4209", False),
        ("error_400_tools", 400, RequestRejected, "DX4205", False),
        ("error_401", 401, RequestRejected, "DX4202", False),
        ("error_403", 403, RequestRejected, "DX4203", False),
        ("error_404", 404, RequestRejected, "DX4204", False),
        ("error_429", 429, RateLimited, "DX4207", True),
        ("error_429_spent", 429, RateLimited, "DX4207", False),
        ("error_500", 500, ServerError, "DX4208", True),
        ("error_503", 503, ServerError, "DX4208", True),
    ],
)
def test_refusals_are_classified(name: str, status: int, kind: type[LMError], code: str, retryable: bool) -> None:
    error = refused(name, status)
    assert type(error) is kind
    assert (error.code, error.retryable) == (code, retryable)
    told = str(json.loads(shape(f"ollama/{name}.json"))["error"])
    assert " ".join(told.split())[:60] in error.message


def test_a_model_that_is_missing_is_to_be_pulled() -> None:
    assert str(refused("error_404", 404).fix).startswith("ollama pull qwen3:8b")


@pytest.mark.parametrize(
    ("name", "kind", "code"), [("failed", ServerError, "DX4208"), ("too_long", RequestRejected, "DX4209")]
)
def test_an_error_within_a_stream_is_that_error(name: str, kind: type[LMError], code: str) -> None:
    async def work() -> LMError:
        parts = opened(Recorded(f"ollama/{name}.ndjson")).stream(ASK)
        assert (await anext(parts)).text == "The capital"
        with pytest.raises(kind, match=code) as caught:
            await anext(parts)
        return caught.value

    assert asyncio.run(work()).sent == "yes"


def test_a_stream_without_its_end_is_broken() -> None:
    with pytest.raises(ResponseError, match="DX4107") as caught:
        stream(Recorded("ollama/truncated.ndjson"))
    assert (caught.value.retryable, caught.value.sent) == (True, "yes")


PARTS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["message", "content", "done", "tool_calls", "function", "eval_count", "logprobs", "thinking"]
            ),
            inner,
            max_size=4,
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
        ask(Answering("ollama/chat.json"))
    except LMError as error:
        assert error.code == "DX4302"  # noqa: PT017


# ----------------------------------------------------------------- server, key, price and identity


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        (":56789", "http://127.0.0.1:56789"),
        ("1.2.3.4:56789", "http://1.2.3.4:56789"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("https://example.com", "https://example.com:443"),
        ("https://example.com:56789/path/", "https://example.com:56789/path"),
        ("example.com/", "http://example.com:11434"),
        ("example.com:56789/path", "http://example.com:56789/path"),
        ("[0001:002:003:0004::1]", "http://[0001:002:003:0004::1]:11434"),
        ("https://[0001:002:003:0004::1]:56789/path", "https://[0001:002:003:0004::1]:56789/path"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("http://[::]:8080", "http://127.0.0.1:8080"),
        (' "localhost" ', "http://localhost:11434"),
    ],
)
def test_the_environment_names_the_server_in_ollamas_forms(host: str, url: str) -> None:
    assert server_named(host) == url


@pytest.mark.parametrize("host", ["ftp://example.com", "http://a b", "host:port", "x?y=1", "http://x:99999"])
def test_a_host_that_is_none_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    with pytest.raises(UsageError, match="DX8114"):
        opened(Recorded("ollama/chat.json"))


def test_the_server_and_the_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "gpu7:8080")
    monkeypatch.setenv("OLLAMA_API_KEY", KEY)
    transport = Recorded("ollama/chat.json")
    ask(transport)
    assert str(transport.requests[-1].url) == "http://gpu7:8080/api/chat"
    assert transport.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    ask(transport, base_url="http://other:1/api")
    assert str(transport.requests[-1].url) == "http://other:1/api/chat"
    assert "authorization" not in transport.requests[-1].headers


def test_ollamas_own_server_needs_a_key() -> None:
    with pytest.raises(UsageError, match="DX8111"):
        opened(Recorded("ollama/chat.json"), base_url="https://ollama.com")


def test_what_costs_nothing_and_what_is_not_known() -> None:
    transport = Recorded("ollama/chat.json")
    assert opened(transport).price == FREE
    assert opened(transport, base_url="http://gpu7:11434").price == FREE
    assert opened(transport, "gpt-oss:120b-cloud").price is None
    assert opened(transport, base_url="https://ollama.com", api_key=KEY).price is None
    assert opened(transport, price=Price(1, 2)).price == Price(1, 2)


def test_the_identity_holds_what_shapes_answers_and_no_key() -> None:
    transport = Recorded("ollama/chat.json")
    variants = [
        opened(transport),
        opened(transport, "qwen3:14b"),
        opened(transport, base_url="http://gpu7:1"),
        opened(transport, extra={"options": {"num_ctx": 1}}),
        opened(transport, capabilities=Capabilities()),
    ]
    assert len({model.fingerprint for model in variants}) == len(variants)
    assert opened(transport, api_key=KEY).fingerprint == variants[0].fingerprint
    assert KEY not in "".join(model.fingerprint + repr(model) + model.name for model in variants)


def test_it_is_a_model_that_streams() -> None:
    model = opened(Recorded("ollama/chat.json"))
    assert isinstance(model, StreamingModel)
    assert model.name == "ollama/qwen3:8b"
