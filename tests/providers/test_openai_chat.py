"""Chat completions in full: tools, media, reasoning, log-probabilities, streams; against recorded shapes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dspex.errors import LMError, RateLimited, RequestRejected, ResponseError, ServerError
from dspex.lm.model import LM, LanguageModel, StreamingModel
from dspex.lm.types import (
    Attachment,
    Capabilities,
    Delta,
    LMRequest,
    LMResponse,
    Message,
    TokenLogprob,
    ToolCall,
    ToolSpec,
    Usage,
)
from dspex.providers.openai.chat import OpenAIModel, open_openai
from dspex.providers.openai.compatible import open_compatible
from tests.providers.recorded import Recorded, called, plain, shape

KEY = "sk-canary-0123456789abcdef"
ASK = LMRequest(messages=(Message("system", "Be brief."), Message("user", "Capital of France?")), max_tokens=64)
WEATHER = ToolSpec(
    "weather",
    "Weather of a city",
    '{"additionalProperties":false,"properties":{"city":{"type":"string"}},"required":["city"],"type":"object"}',
)
CLOCK = ToolSpec("clock", "", '{"properties":{"zone":{"default":"UTC","type":"string"}},"type":"object"}')
USAGE = Usage(1117, 46, 1024, 32, 64)
EVERYTHING = Capabilities(
    raw_prompt=True,
    json_schema=True,
    choices=True,
    json_mode=True,
    tools=True,
    media=("image", "audio", "file"),
    reasoning=True,
    logprobs=True,
    seed=True,
)


def opened(transport: Recorded, model: str = "openai/gpt-4.1-mini", **lm: Any) -> OpenAIModel:
    opener = open_openai if model.startswith("openai/") else open_compatible
    return opener(LM(model, api_key=KEY, **lm), transport)


def ask(name: str, request: LMRequest = ASK, model: str = "openai/gpt-4.1-mini", **lm: Any) -> LMResponse:
    return asyncio.run(opened(Recorded(name), model, **lm).complete(request))


def sent(request: LMRequest, model: str = "openai/gpt-4.1-mini", **lm: Any) -> dict[str, Any]:
    """The body that a request becomes."""
    transport = Recorded("openai/choice.json" if request.choices else "openai/text.json")
    asyncio.run(opened(transport, model, **lm).complete(request))
    return transport.body


def stream(model: StreamingModel, request: LMRequest = ASK) -> list[Delta]:
    async def work() -> list[Delta]:
        return [delta async for delta in model.stream(request)]

    return asyncio.run(work())


def asked(*messages: Message, **changes: Any) -> LMRequest:
    return LMRequest(messages=messages, max_tokens=64, **changes)


# ----------------------------------------------------------------- requests


def test_tools_are_sent_strict_where_their_schema_is() -> None:
    body = sent(asked(Message("user", "Hi"), tools=(WEATHER, CLOCK), tool_choice="weather", parallel_tools=False))
    first, second = body["tools"]
    assert first == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather of a city",
            "parameters": json.loads(WEATHER.parameters),
            "strict": True,
        },
    }
    assert "strict" not in second["function"]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert body["parallel_tool_calls"] is False
    elsewhere = sent(
        asked(Message("user", "Hi"), tools=(WEATHER,), tool_choice="required"),
        base_url="http://server.example/v1",
        capabilities=EVERYTHING,
    )
    assert "strict" not in elsewhere["tools"][0]["function"]
    assert elsewhere["tool_choice"] == "required"
    assert not {"tool_choice", "parallel_tool_calls"} & sent(asked(Message("user", "Hi"), tools=(WEATHER,))).keys()


def test_turns_with_tools_have_the_protocols_form() -> None:
    call = ToolCall("call_1", "weather", '{"city":"Paris"}')
    body = sent(
        asked(
            Message("user", "Hi"),
            Message("assistant", "", tool_calls=(call,)),
            Message("tool", "sunny", tool_call_id="call_1"),
            Message("assistant", "It is sunny.", tool_calls=(call,)),
            Message("tool", "rain", tool_call_id="call_1"),
        )
    )
    function = {"name": "weather", "arguments": '{"city":"Paris"}'}
    calls = [{"id": "call_1", "type": "function", "function": function}]
    assert body["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "It is sunny.", "tool_calls": calls},
        {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
    ]


def test_attachments_stand_before_the_text() -> None:
    message = Message(
        "user",
        "What is it?",
        (
            Attachment("image", "image/png", "aW1n"),
            Attachment("image", "image/jpeg", url="https://pictures.example/1.jpg"),
            Attachment("audio", "audio/x-wav", "c291bmQ="),
            Attachment("audio", "audio/mpeg", "c291bmQ="),
            Attachment("file", "application/pdf", "cGRm", name="report.pdf"),
            Attachment("file", "application/pdf", "cGRm"),
        ),
    )
    (turn,) = sent(asked(message), capabilities=EVERYTHING)["messages"]
    assert turn["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aW1n"}},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/1.jpg"}},
        {"type": "input_audio", "input_audio": {"data": "c291bmQ=", "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": "c291bmQ=", "format": "mp3"}},
        {"type": "file", "file": {"filename": "report.pdf", "file_data": "data:application/pdf;base64,cGRm"}},
        {"type": "file", "file": {"filename": "file.pdf", "file_data": "data:application/pdf;base64,cGRm"}},
        {"type": "text", "text": "What is it?"},
    ]
    bare = Message("user", "", (Attachment("image", "image/png", "aW1n"),))
    assert len(sent(asked(bare))["messages"][0]["content"]) == 1


@pytest.mark.parametrize(
    "message",
    [
        Message("user", "x", (Attachment("audio", "audio/ogg", "eA=="),)),
        Message("user", "x", (Attachment("audio", "audio/wav", url="https://sounds.example/1.wav"),)),
        Message("user", "x", (Attachment("file", "application/pdf", url="https://files.example/1.pdf"),)),
        Message("tool", "x", (Attachment("image", "image/png", "eA=="),), tool_call_id="call_1"),
        Message("system", "x", (Attachment("image", "image/png", "eA=="),)),
    ],
)
def test_attachments_that_the_protocol_has_no_form_for_are_refused(message: Message) -> None:
    transport = Recorded("openai/text.json")
    with pytest.raises(RequestRejected) as caught:
        asyncio.run(opened(transport, capabilities=EVERYTHING).complete(asked(message)))
    assert (caught.value.code, caught.value.sent) == ("DX4201", "no")
    assert transport.requests == []


def test_a_reasoning_model_gets_an_effort_and_no_sampling_settings() -> None:
    request = asked(Message("user", "Hi"), reasoning="high", temperature=0.7, top_p=0.5, stop=("\n",))
    for name in ("gpt-5.4", "o4-mini", "gpt-6.2-astra", "gpt-10-x"):
        body = sent(request, f"openai/{name}")
        assert body["reasoning_effort"] == "high"
        assert not {"temperature", "top_p", "stop"} & body.keys()
    for name in ("gpt-4.1", "gpt-5-chat-latest", "chatgpt-4o-latest"):
        with pytest.raises(RequestRejected):
            sent(request, f"openai/{name}")
    body = sent(asked(Message("user", "Hi"), temperature=0.7, top_p=0.5, stop=("\n",)))
    assert (body["temperature"], body["top_p"], body["stop"]) == (0.7, 0.5, ["\n"])


def test_a_bound_on_reasoning_is_refused_where_there_is_no_word_for_it() -> None:
    with pytest.raises(RequestRejected, match="bound on the tokens of reasoning"):
        sent(asked(Message("user", "Hi"), reasoning=1000), "openai/gpt-5.4")


def test_json_mode_and_log_probabilities() -> None:
    body = sent(asked(Message("user", "JSON!"), json_mode=True, top_logprobs=3))
    assert body["response_format"] == {"type": "json_object"}
    assert (body["logprobs"], body["top_logprobs"]) == (True, 3)
    schema = sent(asked(Message("user", "JSON!"), json_mode=True, json_schema='{"type":"object","properties":{}}'))
    assert schema["response_format"]["type"] == "json_schema"
    raw = Recorded("openai/raw.json")
    model = opened(raw, base_url="http://server.example/v1", capabilities=EVERYTHING)
    asyncio.run(model.complete(LMRequest(prompt="The capital of France is", max_tokens=2, top_logprobs=2)))
    assert raw.body["logprobs"] == 2


def test_further_fields_go_into_the_body_and_win() -> None:
    request = asked(Message("user", "Hi"), json_mode=True)
    extra = {"top_k": 20, "temperature": 0.3, "response_format": {"type": "text"}}
    transport = Recorded("openai/text.json")
    asyncio.run(opened(transport, extra=extra).complete(request))
    text = transport.requests[0].content
    assert text.count(b"response_format") == 1
    assert transport.body["response_format"] == {"type": "text"}
    assert (transport.body["top_k"], transport.body["temperature"]) == (20, 0.3)


def test_further_fields_are_part_of_the_fingerprint() -> None:
    def fingerprint(**lm: Any) -> str:
        return opened(Recorded("openai/text.json"), **lm).fingerprint

    plain = fingerprint()
    assert fingerprint(extra={"a": 1, "b": [2]}) == fingerprint(extra={"b": [2], "a": 1}) != plain
    assert fingerprint(timeout=3, concurrency=1) == plain
    assert len({plain, fingerprint(extra={"a": 1}), fingerprint(capabilities=Capabilities())}) == 3


# ----------------------------------------------------------------- answers

ANSWERS: dict[str, tuple[str, LMRequest, LMResponse, dict[str, Any]]] = {
    "text": ("openai/gpt-4.1-mini", ASK, LMResponse("Paris — la ville lumière.", USAGE), {}),
    "tools": (
        "openai/gpt-4.1-mini",
        ASK,
        LMResponse(
            "",
            USAGE,
            "tool_calls",
            tool_calls=(
                ToolCall("call_DdmO9pD3xa9XTPNJ32zg2hcA", "weather", '{"city":"Paris"}'),
                ToolCall("call_62136354dE9", "clock", "{}"),
            ),
        ),
        {},
    ),
    "refusal": (
        "openai/gpt-4.1-mini",
        ASK,
        LMResponse("I'm sorry, I can't assist with that.", USAGE, "content_filter"),
        {},
    ),
    "logprobs": (
        "openai/gpt-4.1-mini",
        LMRequest(messages=ASK.messages, top_logprobs=2),
        LMResponse(
            "Paris",
            USAGE,
            logprobs=(
                TokenLogprob("Par", -0.25, (("Par", -0.25), ("Ly", -1.75))),
                TokenLogprob("is", -0.0009765625, (("is", -0.0009765625), ("as", -7.5))),
            ),
        ),
        {},
    ),
    "raw": (
        "vllm/gpt-3.5-turbo-instruct",
        LMRequest(prompt="The capital of France is", max_tokens=2, top_logprobs=2),
        LMResponse(
            " Paris",
            Usage(5, 2),
            "length",
            logprobs=(
                TokenLogprob(" Par", -0.5, ((" Par", -0.5), (" Ly", -1.5))),
                TokenLogprob("is", -0.125, (("is", -0.125),)),
            ),
        ),
        {},
    ),
    "choice": (
        "openai/gpt-4.1-mini",
        LMRequest(messages=ASK.messages, choices=("a", "b")),
        LMResponse("b", USAGE),
        {},
    ),
    "deepseek": (
        "deepseek/deepseek-v4-flash",
        ASK,
        LMResponse("9.8 is greater.", Usage(120, 60, 64, 48), reasoning="Compare 0.8 and 0.11."),
        {"reasoning_content": "Compare 0.8 and 0.11."},
    ),
    "openrouter": (
        "openrouter/anthropic/claude-sonnet-4.5",
        ASK,
        LMResponse(
            "Let me look.",
            Usage(30, 25, 8, 18, 4),
            "tool_calls",
            tool_calls=(ToolCall("toolu_01", "weather", '{"city": "Lyon"}'),),
            reasoning="Think of rivers.",
        ),
        {
            "reasoning_details": [
                {
                    "type": "reasoning.text",
                    "text": "Think of rivers.",
                    "signature": "c2lnbmVk",
                    "id": "r1",
                    "format": "anthropic-claude-v1",
                    "index": 0,
                },
                {
                    "type": "reasoning.encrypted",
                    "data": "ZW5jcnlwdGVk",
                    "id": "r2",
                    "format": "anthropic-claude-v1",
                    "index": 1,
                },
            ]
        },
    ),
    "mistral": (
        "mistral/magistral-medium-2509",
        ASK,
        LMResponse("Yes, he is.", Usage(12, 20), reasoning="John is a man."),
        {},
    ),
}


def test_every_recorded_answer_is_read_field_by_field() -> None:
    for name, (model, request, expected, state) in ANSWERS.items():
        got = ask(f"openai/{name}.json", request, model)
        assert json.loads(got.state or '{"chat": {}}') == {"chat": state}, name
        for field in ("text", "usage", "stop", "tool_calls", "reasoning", "logprobs"):
            assert getattr(got, field) == getattr(expected, field), (name, field)
        assert got.model


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
@pytest.mark.parametrize("name", ANSWERS)
def test_a_recorded_stream_is_the_recorded_answer(name: str, piece: int) -> None:
    model, request, _, _ = ANSWERS[name]
    transport = Recorded(f"openai/{name}.sse", piece=piece)
    deltas = stream(opened(transport, model), request)
    whole = ask(f"openai/{name}.json", request, model)
    assert deltas[-1].response == whole
    assert "".join(delta.text for delta in deltas) == whole.text
    assert "".join(delta.reasoning for delta in deltas) == whole.reasoning
    assert called(deltas) == plain(whole.tool_calls)
    assert transport.body["stream"] is True
    asks = model.partition("/")[0] not in ("mistral", "together")
    assert transport.body.get("stream_options") == ({"include_usage": True} if asks else None)
    assert transport.closed == 1


def test_azures_filter_results_do_not_disturb_a_stream() -> None:
    deltas = stream(opened(Recorded("openai/azure.sse")))
    last = deltas[-1].response
    assert last is not None
    assert (last.text, last.stop, last.usage) == ("Bonjour.", "content_filter", USAGE)


@pytest.mark.parametrize("name", ["deepseek", "openrouter"])
def test_what_a_server_wants_back_goes_back_to_it_alone(name: str) -> None:
    model, request, _, state = ANSWERS[name]
    answer = ask(f"openai/{name}.json", request, model)
    turns = (*request.messages, Message("assistant", answer.text, state=answer.state), Message("user", "And?"))
    back = sent(LMRequest(messages=turns), model)["messages"][2]
    assert {key: back[key] for key in state} == state
    assert sent(LMRequest(messages=turns))["messages"][2] == {"role": "assistant", "content": answer.text}


def test_arguments_that_come_as_an_object_are_text_again() -> None:
    body = json.loads(shape("openai/tools.json"))
    body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] = {"city": "Paris"}
    model = opened(_Bodies(json.dumps(body).encode()))
    assert asyncio.run(model.complete(ASK)).tool_calls[0].arguments == '{"city":"Paris"}'


class _Bodies(Recorded):
    """`Recorded` with a body that the test made."""

    def __init__(self, body: bytes, media_type: str = "application/json", **more: Any) -> None:
        super().__init__("openai/text.json", **more)
        self._made = (body, media_type)

    async def handle_async_request(self, request: Any) -> Any:
        response = await super().handle_async_request(request)
        body, media_type = self._made
        return type(response)(response.status_code, content=body, headers={"content-type": media_type})


# ----------------------------------------------------------------- stop texts where a server has none


def test_stop_texts_are_applied_to_a_reasoning_models_answer() -> None:
    request = LMRequest(messages=ASK.messages, stop=(" la", " ville"))
    for name in ("openai/gpt-5.4", "openai/gpt-4.1-mini"):
        cut = name.endswith("5.4")
        whole = ask("openai/text.json", request, name)
        assert whole.text == ("Paris —" if cut else "Paris — la ville lumière.")
        deltas = stream(opened(Recorded("openai/text.sse"), name), request)
        assert deltas[-1].response == whole
        assert "".join(delta.text for delta in deltas) == whole.text


# ----------------------------------------------------------------- errors

ERRORS: dict[str, tuple[int, type[LMError], str, bool]] = {
    "error_401": (401, RequestRejected, "DX4202", False),
    "error_404": (404, RequestRejected, "DX4204", False),
    "error_429": (429, RateLimited, "DX4207", True),
    "error_429_quota": (429, RateLimited, "DX4207", False),
    "error_500": (500, ServerError, "DX4208", True),
    **{
        f"context_{server}": (400, RequestRejected, "DX4209", False)
        for server in ("openai", "vllm", "vllm_old", "llamacpp", "mistral", "groq", "openrouter", "deepseek")
    },
    "filter_azure": (400, RequestRejected, "DX4210", False),
    "filter_openai": (400, RequestRejected, "DX4210", False),
    "filter_openrouter": (403, RequestRejected, "DX4210", False),
}


@pytest.mark.parametrize("name", ERRORS)
def test_recorded_errors_are_classified(name: str) -> None:
    status, kind, code, retryable = ERRORS[name]
    transport = Recorded(f"openai/{name}.json", status=status, headers={"x-ratelimit-remaining-requests": "0"})
    for work in (opened(transport).complete(ASK), anext(opened(transport).stream(ASK))):
        with pytest.raises(LMError) as caught:
            asyncio.run(_awaited(work))
        error = caught.value
        assert (type(error), error.code, error.retryable, error.sent) == (kind, code, retryable, "yes")
        if isinstance(error, RateLimited):
            assert error.limits is not None
            assert error.limits.requests_left == 0


async def _awaited(work: Any) -> Any:
    return await work


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("failed", "DX4208", "The server had an error"),
        ("openrouter_failed", "DX4208", "Provider disconnected"),
    ],
)
def test_an_error_in_the_middle_of_a_stream_is_that_error(name: str, code: str, words: str) -> None:
    model = opened(Recorded(f"openai/{name}.sse"))
    with pytest.raises(ServerError, match=words) as caught:
        stream(model)
    assert (caught.value.code, caught.value.sent, caught.value.retryable) == (code, "yes", True)


def test_an_error_inside_a_choice_is_that_error() -> None:
    with pytest.raises(RateLimited, match="Provider returned error"):
        ask("openai/openrouter_failed.json")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_a_stream_without_its_end_is_broken_off(keep: float) -> None:
    body = shape("openai/text.sse")
    model = opened(_Bodies(body[: int(len(body) * keep)], "text/event-stream"))
    with pytest.raises(ResponseError) as caught:
        stream(model)
    assert (caught.value.code, caught.value.retryable) in (("DX4107", True), ("DX4301", True))


def test_the_end_mark_alone_is_no_answer() -> None:
    with pytest.raises(ResponseError) as caught:
        stream(opened(_Bodies(b"data: [DONE]\n\n", "text/event-stream")))
    assert caught.value.code == "DX4107"


def test_the_protocols_of_a_model_are_all_there() -> None:
    model = opened(Recorded("openai/text.json"))
    assert isinstance(model, LanguageModel)
    assert isinstance(model, StreamingModel)
