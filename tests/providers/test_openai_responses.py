"""The Responses API: what is sent, how recorded answers and streams are read, what goes back in the next turn."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import LMError, RateLimited, RequestRejected, ServerError
from dspex.lm.model import LM
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
from dspex.providers.openai.responses import OpenAIResponsesModel, open_openai_responses
from tests.providers.recorded import Recorded, called, plain, shape

KEY = "sk-canary-0123456789abcdef"
ASK = LMRequest(messages=(Message("system", "Be brief."), Message("user", "Capital of France?")), max_tokens=64)
WEATHER = ToolSpec(
    "weather",
    "Weather of a city",
    '{"additionalProperties":false,"properties":{"city":{"type":"string"}},"required":["city"],"type":"object"}',
)
CLOCK = ToolSpec("clock", "", '{"properties":{"zone":{"type":"string"}},"type":"object"}')
USAGE = Usage(328, 52, 256, 40, 64)
THOUGHT = "Recall the capital.\n\nAnswer in French."


def opened(transport: Recorded, model: str = "gpt-5.4", **lm: Any) -> OpenAIResponsesModel:
    return open_openai_responses(LM(f"openai-responses/{model}", api_key=KEY, **lm), transport)


def ask(name: str, request: LMRequest = ASK, model: str = "gpt-5.4") -> LMResponse:
    return asyncio.run(opened(Recorded(f"openai/{name}.json"), model).complete(request))


def sent(request: LMRequest, model: str = "gpt-5.4", **lm: Any) -> dict[str, Any]:
    """The body that a request becomes."""
    transport = Recorded("openai/responses_choice.json" if request.choices else "openai/responses_plain.json")
    asyncio.run(opened(transport, model, **lm).complete(request))
    assert str(transport.requests[0].url) == "https://api.openai.com/v1/responses"
    return transport.body


def stream(transport: Recorded, request: LMRequest = ASK) -> list[Delta]:
    async def work() -> list[Delta]:
        return [delta async for delta in opened(transport).stream(request)]

    return asyncio.run(work())


def asked(*messages: Message, **changes: Any) -> LMRequest:
    return LMRequest(messages=messages, max_tokens=64, **changes)


def test_a_request_is_sent_whole_and_with_nothing_else() -> None:
    request = LMRequest(messages=ASK.messages, max_tokens=9, temperature=0.5, top_p=0.9, seed=3, stop=("\n",))
    assert sent(request, "gpt-4.1") == {
        "model": "gpt-4.1",
        "input": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Capital of France?"},
        ],
        "max_output_tokens": 9,
        "store": False,
        "temperature": 0.5,
        "top_p": 0.9,
    }
    thinking = sent(LMRequest(messages=ASK.messages, reasoning="low", temperature=0.5))
    assert thinking["reasoning"] == {"effort": "low", "summary": "auto"}
    assert thinking["include"] == ["reasoning.encrypted_content"]
    able = Capabilities(reasoning=True, logprobs=True)
    both = sent(asked(Message("user", "Hi"), top_logprobs=0), capabilities=able)
    assert both["include"] == ["reasoning.encrypted_content", "message.output_text.logprobs"]
    assert "temperature" not in thinking


def test_formats_tools_and_log_probabilities_have_the_protocols_form() -> None:
    schema = '{"type":"object","properties":{"n":{"type":"integer","default":3}}}'
    text = sent(asked(Message("user", "Hi"), json_schema=schema))["text"]["format"]
    assert (text["type"], text["name"], text["strict"]) == ("json_schema", "output", True)
    assert text["schema"]["required"] == ["n"]
    assert sent(asked(Message("user", "Hi"), json_mode=True))["text"] == {"format": {"type": "json_object"}}
    choice = sent(asked(Message("user", "Hi"), choices=("a", "b")))["text"]["format"]
    assert choice["schema"]["properties"]["answer"]["enum"] == ["a", "b"]
    body = sent(asked(Message("user", "Hi"), tools=(WEATHER, CLOCK), tool_choice="clock", parallel_tools=False))
    assert [(tool["type"], tool["name"], tool["strict"]) for tool in body["tools"]] == [
        ("function", "weather", True),
        ("function", "clock", False),
    ]
    assert body["tool_choice"] == {"type": "function", "name": "clock"}
    assert body["parallel_tool_calls"] is False
    logprobs = sent(asked(Message("user", "Hi"), top_logprobs=2), "gpt-4.1")
    assert (logprobs["top_logprobs"], logprobs["include"]) == (2, ["message.output_text.logprobs"])
    further = sent(asked(Message("user", "Hi"), json_mode=True), extra={"text": {"verbosity": "low"}, "user": "u"})
    assert further["text"] == {"format": {"type": "json_object"}, "verbosity": "low"}
    assert further["user"] == "u"


def test_turns_are_items() -> None:
    call = ToolCall("call_1", "weather", '{"city":"Paris"}')
    picture = Attachment("image", "image/png", "aW1n")
    pdf, far = Attachment("file", "application/pdf", "cGRm"), Attachment("file", "application/pdf", url="https://f/1")
    body = sent(
        asked(
            Message("user", "Look", (picture, pdf, far)),
            Message("assistant", "", tool_calls=(call,)),
            Message("tool", "sunny", tool_call_id="call_1"),
            Message("assistant", "It is sunny.", tool_calls=(call,)),
        )
    )
    function = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Paris"}'}
    assert body["input"] == [
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": "data:image/png;base64,aW1n", "detail": "auto"},
                {"type": "input_file", "filename": "file.pdf", "file_data": "data:application/pdf;base64,cGRm"},
                {"type": "input_file", "file_url": "https://f/1"},
                {"type": "input_text", "text": "Look"},
            ],
        },
        function,
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        {"role": "assistant", "content": "It is sunny."},
        function,
    ]


@pytest.mark.parametrize(
    "request_",
    [
        LMRequest(prompt="Once upon"),
        asked(Message("user", "Hi"), reasoning=1000),
        asked(Message("user", "Hi", (Attachment("audio", "audio/wav", url="https://sounds.example/1.wav"),))),
    ],
)
def test_what_the_protocol_has_no_words_for_is_refused(request_: LMRequest) -> None:
    able = Capabilities(raw_prompt=True, reasoning=True, media=("audio",))
    transport = Recorded("openai/responses_plain.json")
    with pytest.raises(RequestRejected) as caught:
        asyncio.run(opened(transport, capabilities=able).complete(request_))
    assert (caught.value.code, caught.value.sent, transport.requests) == ("DX4201", "no", [])


PLAIN = LMResponse("Paris.", USAGE)
CALLS = (ToolCall("call_1", "weather", '{"city":"Paris"}'), ToolCall("call_2", "clock", "{}"))
ANSWERS: dict[str, LMResponse] = {
    "text": LMResponse("Paris.", USAGE, reasoning=THOUGHT),
    "plain": PLAIN,
    "tools": LMResponse("", USAGE, "tool_calls", tool_calls=CALLS, reasoning=THOUGHT),
    "refusal": LMResponse("I'm sorry, I can't help.", USAGE, "content_filter"),
    "cut": LMResponse("Par", USAGE, "length", reasoning=THOUGHT),
    "filtered": LMResponse("Par", USAGE, "content_filter"),
    "choice": LMResponse("b", USAGE),
    "logprobs": LMResponse(
        "Paris",
        USAGE,
        logprobs=(
            TokenLogprob("Par", -0.25, (("Par", -0.25), ("Ly", -1.75))),
            TokenLogprob("is", -0.0009765625, (("is", -0.0009765625), ("as", -7.5))),
        ),
    ),
}
REQUESTS = {
    "choice": LMRequest(messages=ASK.messages, choices=("a", "b")),
    "logprobs": LMRequest(messages=ASK.messages, top_logprobs=2),
}
CAN = Capabilities(choices=True, logprobs=True)


@pytest.mark.parametrize("name", ANSWERS)
def test_recorded_answers_and_streams_are_read_alike(name: str) -> None:
    request, expected = REQUESTS.get(name, ASK), ANSWERS[name]
    whole = asyncio.run(opened(Recorded(f"openai/responses_{name}.json"), capabilities=CAN).complete(request))
    assert whole.model == "gpt-5.4-2026-03-05"
    for field in ("text", "usage", "stop", "tool_calls", "reasoning", "logprobs"):
        assert getattr(whole, field) == getattr(expected, field), field
    output = json.loads(shape(f"openai/responses_{name}.json"))["output"]
    thinks = any(item["type"] == "reasoning" for item in output)
    assert (json.loads(whole.state) if whole.state else None) == ({"openai-responses": output} if thinks else None)

    async def streamed(piece: int) -> list[Delta]:
        model = opened(Recorded(f"openai/responses_{name}.sse", piece=piece), capabilities=CAN)
        return [delta async for delta in model.stream(request)]

    for piece in (3, 1 << 16):
        deltas = asyncio.run(streamed(piece))
        assert deltas[-1].response == whole
        assert "".join(delta.text for delta in deltas) == whole.text
        assert "".join(delta.reasoning for delta in deltas) == whole.reasoning
        assert called(deltas) == plain(whole.tool_calls)


def test_a_state_goes_back_as_the_items_that_it_holds() -> None:
    answer = ask("responses_tools")
    turns = (*ASK.messages, Message("assistant", answer.text, tool_calls=answer.tool_calls, state=answer.state))
    items = sent(LMRequest(messages=turns))["input"]
    assert items[2:] == json.loads(shape("openai/responses_tools.json"))["output"]


@pytest.mark.parametrize("state", ['{"reasoning_details":[]}', '[{"type":"thinking"}]', "{", '{"openai-responses":3}'])
def test_the_state_of_another_protocol_is_left_out(state: str) -> None:
    items = sent(asked(Message("user", "Hi"), Message("assistant", "Hello.", state=state)))["input"]
    assert items[1] == {"role": "assistant", "content": "Hello."}


def test_stop_texts_are_applied_here() -> None:
    request = LMRequest(messages=ASK.messages, stop=("is",))
    assert ask("responses_plain", request).text == "Par"
    deltas = stream(Recorded("openai/responses_plain.sse"), request)
    assert deltas[-1].response == ask("responses_plain", request)
    assert "".join(delta.text for delta in deltas) == "Par"


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("responses_failed", RateLimited, "DX4207"),
        ("responses_error", ServerError, "DX4208"),
        ("responses_error_nested", RequestRejected, "DX4209"),
    ],
)
def test_failures_in_a_stream_are_classified(name: str, kind: type[LMError], code: str) -> None:
    with pytest.raises(kind) as caught:
        stream(Recorded(f"openai/{name}.sse"))
    assert (caught.value.code, caught.value.sent) == (code, "yes")


def test_a_failed_answer_is_an_error() -> None:
    with pytest.raises(RateLimited, match="Rate limit reached"):
        ask("responses_failed")


@pytest.mark.parametrize("policy", ["bio_policy", "image_content_policy_violation", "misalignment_policy_violation"])
def test_a_policy_that_stops_an_answer_is_a_content_filter(policy: str) -> None:
    error = {"code": policy, "message": "No."}
    body = json.dumps({**json.loads(shape("openai/responses_failed.json")), "error": error})

    class Failing(Recorded):
        async def handle_async_request(self, request: Any) -> Any:
            response = await super().handle_async_request(request)
            return type(response)(200, content=body)

    with pytest.raises(RequestRejected) as caught:
        asyncio.run(opened(Failing("openai/responses_failed.json")).complete(ASK))
    assert caught.value.code == "DX4210"


def test_a_stream_without_its_end_is_broken_off() -> None:
    whole = shape("openai/responses_plain.sse")

    class Cut(Recorded):
        async def handle_async_request(self, request: Any) -> Any:
            response = await super().handle_async_request(request)
            return type(response)(200, content=whole[: whole.rindex(b"event: response.completed")])

    with pytest.raises(LMError) as caught:
        stream(Cut("openai/responses_plain.sse"))
    assert (caught.value.code, caught.value.sent, caught.value.retryable) == ("DX4107", "yes", True)


KEYS = ["status", "output", "type", "message", "reasoning", "content", "text", "output_text", "summary", "usage"]
MORE = ["function_call", "completed", "incomplete", "incomplete_details", "response", "delta", "error", "refusal"]


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(KEYS + MORE),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS + MORE), inner),
    )
)
def test_no_json_raises_anything_but_a_coded_error(body: object) -> None:
    text = json.dumps(body).encode()

    class Made(Recorded):
        async def handle_async_request(self, request: Any) -> Any:
            response = await super().handle_async_request(request)
            streams = b'"stream":true' in request.content
            return type(response)(200, content=b"data: %b\n\n" % text if streams else text)

    with contextlib.suppress(LMError):
        asyncio.run(opened(Made("openai/responses_plain.json")).complete(ASK))
    with contextlib.suppress(LMError):
        stream(Made("openai/responses_plain.sse"))


@pytest.mark.parametrize("name", ["context_openai", "context_responses", "error_429_quota", "filter_openai"])
def test_errors_are_those_of_the_family(name: str) -> None:
    code = {"context": "DX4209", "filter": "DX4210", "error": "DX4207"}[name.partition("_")[0]]
    transport = Recorded(f"openai/{name}.json", status=429 if code == "DX4207" else 400)
    with pytest.raises(LMError) as caught:
        asyncio.run(opened(transport).complete(ASK))
    assert (caught.value.code, caught.value.retryable) == (code, False)
