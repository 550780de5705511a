"""Bedrock's Converse protocol: what is sent and signed, how answers, streams and refusals are read, where keys go."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from dspex.errors import LMError, RateLimited, RequestRejected, ResponseError, ServerError, UsageError
from dspex.lm.model import LM, StreamingModel
from dspex.lm.types import Attachment, Capabilities, Delta, LMRequest, LMResponse, Message, ToolCall, ToolSpec, Usage
from dspex.providers.bedrock.converse import BedrockModel, open_bedrock
from dspex.providers.bedrock.eventstream import FrameReader
from dspex.providers.bedrock.sigv4 import Credentials, Signer
from dspex.testing import Fault, MockServer
from tests.providers.recorded import Recorded, called, plain, shape

KEY = "ABSKcanary0123456789abcdefg=="
SECRET = "canarySecret/0123456789abcdefghijklmnop"
TOKEN = "canaryToken0123456789abcdefghijklmnopq"
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NEW = "global.anthropic.claude-opus-5-v1:0"
ASK = LMRequest(messages=(Message("system", "Be brief."), Message("user", "Capital of France?")), max_tokens=64)
WEATHER = ToolSpec("weather", "Weather of a city", '{"type":"object","properties":{"city":{"type":"string"}}}')
NOW = ToolSpec("now", "", '{"type":"object","properties":{}}')


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without credentials, in a known region."""
    for name in (
        "AWS_BEARER_TOKEN_BEDROCK",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


def opened(transport: Recorded, model: str = CLAUDE, **lm: Any) -> BedrockModel:
    lm.setdefault("api_key", KEY)
    return open_bedrock(LM(f"bedrock/{model}", **lm), transport)


def ask(transport: Recorded, request: LMRequest = ASK, model: str = CLAUDE, **lm: Any) -> LMResponse:
    return asyncio.run(opened(transport, model, **lm).complete(request))


def sent(request: LMRequest, model: str = CLAUDE, **lm: Any) -> dict[str, Any]:
    """The body that a request becomes."""
    transport = Recorded("bedrock/choice.json" if request.choices else "bedrock/text.json")
    ask(transport, request, model, **lm)
    return transport.body


def stream(transport: Recorded, request: LMRequest = ASK) -> list[Delta]:
    async def work() -> list[Delta]:
        return [delta async for delta in opened(transport).stream(request)]

    return asyncio.run(work())


def asked(*messages: Message, **changes: Any) -> LMRequest:
    return LMRequest(messages=messages, max_tokens=4096, **changes)


HI = Message("user", "Hi")


# ----------------------------------------------------------------- requests


def test_a_request_has_the_protocols_place_and_body() -> None:
    transport = Recorded("bedrock/text.json")
    ask(transport, LMRequest(messages=ASK.messages, max_tokens=64, stop=("END", "\n"), temperature=0.5, seed=3))
    request = transport.requests[0]
    assert str(request.url) == (
        "https://bedrock-runtime.eu-west-1.amazonaws.com/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse"
    )
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert transport.body == {
        "system": [{"text": "Be brief."}],
        "messages": [{"role": "user", "content": [{"text": "Capital of France?"}]}],
        "inferenceConfig": {"maxTokens": 64, "temperature": 0.5, "stopSequences": ["END"]},
    }


def test_an_arn_is_one_part_of_the_path() -> None:
    transport = Recorded("bedrock/text.json")
    ask(transport, model="arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.amazon.nova-lite-v1:0")
    assert transport.requests[0].url.raw_path == (
        b"/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A123456789012%3Ainference-profile%2Feu.amazon.nova-lite-v1%3A0"
        b"/converse"
    )


@pytest.mark.parametrize(
    ("model", "reasoning", "thinking", "effort", "temperature"),
    [
        (CLAUDE, None, None, None, True),
        (CLAUDE, "medium", {"type": "enabled", "budget_tokens": 2048}, None, False),
        (CLAUDE, 3000, {"type": "enabled", "budget_tokens": 3000}, None, False),
        (CLAUDE, "none", {"type": "disabled"}, None, True),
        (NEW, "high", {"type": "adaptive"}, "high", False),
        (NEW, None, None, None, False),
        ("openai.gpt-oss-120b-1:0", "minimal", None, "low", True),
        ("openai.gpt-oss-120b-1:0", "none", None, None, True),
    ],
)
def test_reasoning_is_asked_for_as_the_model_takes_it(
    model: str, reasoning: Any, thinking: object, effort: str | None, temperature: bool
) -> None:
    can = Capabilities(tools=True, reasoning=True)
    body = sent(asked(HI, reasoning=reasoning), model, capabilities=can)
    assert body.get("additionalModelRequestFields", {}).get("thinking") == thinking
    assert body.get("outputConfig", {}).get("effort") == effort
    assert ("temperature" in body["inferenceConfig"]) is temperature


def test_turns_alternate_and_results_of_calls_stand_together() -> None:
    body = sent(
        asked(
            Message("user", "Weather in Paris and the time?"),
            Message(
                "assistant",
                "Let me see.",
                tool_calls=(ToolCall("a", "weather", '{"city": "Paris"}'), ToolCall("b", "now", "{")),
            ),
            Message("tool", "18 °C", tool_call_id="a"),
            Message("tool", "", tool_call_id="b"),
            Message("user", "And?", cache_point=True),
            tools=(WEATHER, NOW),
        ),
        prompt_cache=True,
    )
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"] == [
        {"text": "Let me see."},
        {"toolUse": {"toolUseId": "a", "name": "weather", "input": {"city": "Paris"}}},
        {"toolUse": {"toolUseId": "b", "name": "now", "input": {"INVALID_JSON": "{"}}},
    ]
    assert body["messages"][2]["content"] == [
        {"toolResult": {"toolUseId": "a", "content": [{"text": "18 °C"}]}},
        {"toolResult": {"toolUseId": "b", "content": []}},
        {"text": "And?"},
        {"cachePoint": {"type": "default"}},
    ]
    assert body["toolConfig"] == {
        "tools": [
            {
                "toolSpec": {
                    "name": "weather",
                    "description": "Weather of a city",
                    "inputSchema": {"json": json.loads(WEATHER.parameters)},
                }
            },
            {"toolSpec": {"name": "now", "inputSchema": {"json": json.loads(NOW.parameters)}}},
        ]
    }


CALLED = (
    Message("user", "Weather?"),
    Message("assistant", "", tool_calls=(ToolCall("a", "weather", "{}"),)),
    Message("tool", "18 °C", tool_call_id="a"),
)


@pytest.mark.parametrize(
    ("messages", "choice", "parallel", "config", "further"),
    [
        ((HI,), "required", True, {"any": {}}, None),
        ((HI,), "weather", True, {"tool": {"name": "weather"}}, None),
        ((HI,), "auto", False, None, {"type": "auto", "disable_parallel_tool_use": True}),
        ((HI,), "weather", False, None, {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}),
        (CALLED, "none", True, None, {"type": "none"}),
    ],
)
def test_the_choice_of_tools_is_said(
    messages: tuple[Message, ...], choice: str, parallel: bool, config: object, further: object
) -> None:
    body = sent(asked(*messages, tools=(WEATHER,), tool_choice=choice, parallel_tools=parallel))
    assert body["toolConfig"].get("toolChoice") == config
    assert body.get("additionalModelRequestFields", {}).get("tool_choice") == further


def test_tools_that_may_not_be_called_are_left_out_of_a_conversation_without_calls() -> None:
    assert "toolConfig" not in sent(asked(HI, tools=(WEATHER,), tool_choice="none"))


def test_attachments_have_a_format_and_documents_a_name_of_their_own() -> None:
    can = Capabilities(media=("image", "audio", "file"))
    body = sent(
        asked(
            Message(
                "user",
                "What is this?",
                attachments=(
                    Attachment("image", "image/jpg", data="aW1n"),
                    Attachment("image", "image/png", url="s3://bucket/a.png"),
                    Attachment("audio", "audio/mpeg", data="c25k"),
                    Attachment("file", "application/pdf", data="cGRm", name="bill_2026.pdf"),
                    Attachment("file", "text/plain", data="dHh0"),
                ),
            )
        ),
        capabilities=can,
    )
    assert body["messages"][0]["content"] == [
        {"image": {"format": "jpeg", "source": {"bytes": "aW1n"}}},
        {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://bucket/a.png"}}}},
        {"audio": {"format": "mp3", "source": {"bytes": "c25k"}}},
        {"document": {"format": "pdf", "name": "bill 2026 pdf 1", "source": {"bytes": "cGRm"}}},
        {"document": {"format": "txt", "name": "document 2", "source": {"bytes": "dHh0"}}},
        {"text": "What is this?"},
    ]


def test_a_schema_is_enforced() -> None:
    schema = {"type": "object", "properties": {"size": {"type": "integer", "minimum": 0}}}
    body = sent(asked(HI, json_schema=json.dumps(schema), reasoning="low"), NEW)
    assert body["outputConfig"]["effort"] == "low"
    form = body["outputConfig"]["textFormat"]
    assert form["type"] == "json_schema"
    assert json.loads(form["structure"]["jsonSchema"]["schema"]) == {
        "type": "object",
        "properties": {"size": {"type": "integer", "description": "(minimum: 0)"}},
        "additionalProperties": False,
    }


def test_extra_fields_are_merged_into_the_body() -> None:
    extra = {"serviceTier": {"type": "flex"}, "inferenceConfig": {"topP": 0.5}}
    body = sent(ASK, extra=extra)
    assert body["serviceTier"] == {"type": "flex"}
    assert body["inferenceConfig"] == {"maxTokens": 64, "temperature": 0.0, "topP": 0.5}


@pytest.mark.parametrize(
    ("request_", "model"),
    [
        (LMRequest(prompt="Once"), CLAUDE),
        (asked(HI, choices=("a", "b")), "amazon.nova-lite-v1:0"),
        (asked(HI, choices=("a", "b")), "us.anthropic.claude-opus-4-1-20250805-v1:0"),
        (asked(HI, top_logprobs=0), CLAUDE),
        (asked(HI, reasoning="low"), "amazon.nova-lite-v1:0"),
        (asked(HI, reasoning=2048), NEW),
        (asked(HI, Message("system", "Late.")), CLAUDE),
        (asked(HI, tools=(WEATHER,), parallel_tools=False), "amazon.nova-lite-v1:0"),
        (asked(*CALLED, tools=(WEATHER,), tool_choice="none"), "amazon.nova-lite-v1:0"),
        (asked(Message("user", "", attachments=(Attachment("file", "application/zip", data="eA=="),))), CLAUDE),
        (asked(Message("user", "", attachments=(Attachment("image", "image/png", url="https://a.b/c"),))), CLAUDE),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_sending(request_: LMRequest, model: str) -> None:
    transport = Recorded("bedrock/text.json")
    with pytest.raises(RequestRejected) as caught:
        ask(transport, request_, model)
    assert (caught.value.code, caught.value.sent) == ("DX4201", "no")
    assert not transport.requests


# ----------------------------------------------------------------- answers


def test_an_answer_has_text_and_usage() -> None:
    response = ask(Recorded("bedrock/text.json"))
    assert response.text == "Paris is the capital of France."
    assert response.usage == Usage(14 + 1024 + 256, 9, cached_tokens=1024, written_tokens=256)
    assert response.stop == "stop"


def test_reasoning_and_calls_are_read_and_go_back_as_they_came() -> None:
    transport = Recorded("bedrock/reasoning_tools.json", "bedrock/text.json")
    model = opened(transport)
    request = asked(Message("user", "Weather?"), tools=(WEATHER, NOW), reasoning="low")
    response = asyncio.run(model.complete(request))
    assert (response.text, response.stop) == ("Let me look that up.", "tool_calls")
    assert response.reasoning.startswith("Both cities")
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
    recorded = json.loads(shape("bedrock/reasoning_tools.json"))["output"]["message"]["content"]
    assert transport.body["messages"][1]["content"] == recorded


@pytest.mark.parametrize(
    ("name", "stop", "text"),
    [
        ("filtered", "content_filter", "Sorry, I cannot answer that."),
        ("cut", "length", "Paris is the"),
        ("cited", "stop", "Paris."),
    ],
)
def test_why_an_answer_ended_is_told(name: str, stop: str, text: str) -> None:
    response = ask(Recorded(f"bedrock/{name}.json"))
    assert (response.stop, response.text, response.state) == (stop, text, "")


def test_a_stop_text_of_blanks_is_kept_on_this_side_for_claude() -> None:
    request = replace(ASK, stop=(" ",))
    whole = ask(Recorded("bedrock/text.json"), request)
    assert (whole.text, whole.stop) == ("Paris", "stop")
    deltas = stream(Recorded("bedrock/text.frames"), request)
    assert "".join(delta.text for delta in deltas) == "Paris"
    assert deltas[-1].response == whole
    assert sent(request, "amazon.nova-lite-v1:0")["inferenceConfig"]["stopSequences"] == [" "]


def test_a_choice_is_enforced_by_a_schema_and_unwrapped() -> None:
    request = asked(Message("user", "Which?"), choices=("billing", "shipping"))
    assert ask(Recorded("bedrock/choice.json"), request).text == "billing"
    schema = json.loads(sent(request)["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"])
    assert schema["properties"]["answer"]["enum"] == ["billing", "shipping"]
    with pytest.raises(ResponseError, match="DX4303"):
        ask(Recorded("bedrock/choice.json"), asked(Message("user", "Which?"), choices=("a", "b")))


# ----------------------------------------------------------------- streams


@pytest.mark.parametrize("name", ["text", "reasoning_tools"])
@settings(max_examples=15, deadline=None)
@given(piece=st.integers(1, 700))
def test_a_stream_ends_with_what_the_whole_answer_says(name: str, piece: int) -> None:
    transport = Recorded(f"bedrock/{name}.frames", piece=piece)
    deltas = stream(transport)
    whole = ask(Recorded(f"bedrock/{name}.json"))
    assert deltas[-1].response == whole
    assert "".join(delta.text for delta in deltas) == whole.text
    assert "".join(delta.reasoning for delta in deltas) == whole.reasoning
    assert called(deltas) == plain(whole.tool_calls)
    assert transport.requests[0].url.raw_path.endswith(b"/converse-stream")
    assert transport.requests[0].headers["accept"] == "application/vnd.amazon.eventstream"


def test_a_streamed_choice_shows_when_it_is_whole() -> None:
    deltas = stream(Recorded("bedrock/choice.frames"), asked(HI, choices=("billing", "other")))
    assert [delta.text for delta in deltas] == ["billing"]


def test_a_whole_answer_without_its_usage_is_not_lost() -> None:
    response = stream(Recorded("bedrock/no_metadata.frames"))[-1].response
    assert response is not None
    assert (response.text, response.usage) == ("Paris.", None)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [("throttled", RateLimited, "Your request rate is too high"), ("stream_error", ServerError, "The model stopped")],
)
def test_an_exception_within_a_stream_is_the_error_of_its_kind(name: str, kind: type[LMError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        stream(Recorded(f"bedrock/{name}.frames"))
    assert (caught.value.retryable, caught.value.sent) == (True, "yes")


def test_a_stream_without_its_end_is_broken() -> None:
    with pytest.raises(ResponseError, match="DX4107") as caught:
        stream(Recorded("bedrock/truncated.frames"))
    assert (caught.value.sent, caught.value.retryable) == ("yes", True)


def test_a_damaged_stream_is_broken() -> None:
    with pytest.raises(ResponseError, match=r"DX4107.*checksum"):
        stream(Recorded("bedrock/text.json"))


def test_closing_a_stream_frees_its_connection() -> None:
    transport = Recorded("bedrock/text.frames", piece=64)

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
        ("error_401", 401, "DX4202", RequestRejected, False),
        ("error_403", 403, "DX4202", RequestRejected, False),
        ("error_403_denied", 403, "DX4203", RequestRejected, False),
        ("error_404", 404, "DX4204", RequestRejected, False),
        ("error_408", 408, "DX4208", ServerError, True),
        ("error_424", 424, "DX4205", RequestRejected, False),
        ("error_429", 429, "DX4207", RateLimited, True),
        ("error_500", 500, "DX4208", ServerError, True),
        ("error_503", 503, "DX4208", ServerError, True),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_is_classified_with_the_servers_words(
    name: str, status: int, code: str, kind: type[LMError], retryable: bool, streamed: bool
) -> None:
    call = stream if streamed else ask
    with pytest.raises(kind) as caught:
        call(Recorded(f"bedrock/{name}.json", status=status))
    error = caught.value
    assert (error.code, error.retryable, error.sent) == (code, retryable, "yes")
    assert json.loads(shape(f"bedrock/{name}.json"))["message"][:40] in error.message


def test_another_shape_is_an_error() -> None:
    with pytest.raises(ResponseError, match="DX4302"):
        ask(Recorded("bedrock/error_500.json"))


# ----------------------------------------------------------------- against AWS's own description


def faults(operation: str, part: str, value: dict[str, Any]) -> str:
    """What botocore's description of the API says against a request, an answer or an event."""
    loaders: Any = pytest.importorskip("botocore.loaders")
    model: Any = pytest.importorskip("botocore.model")
    validate: Any = pytest.importorskip("botocore.validate")
    service = model.ServiceModel(loaders.Loader().load_service_model("bedrock-runtime", "service-2"))
    known = service.operation_model(operation)
    if part == "request":
        value, shape = {"modelId": CLAUDE, **value}, known.input_shape
    elif part == "answer":
        shape = known.output_shape
    else:
        shape = known.output_shape.members["stream"].members[part]
    return validate.ParamValidator().validate(value, shape).generate_report()


REQUESTS = (
    ASK,
    asked(
        Message("system", "Long.", cache_point=True),
        Message("user", "What is it?", (Attachment("image", "image/png", "eA=="),), cache_point=True),
        stop=("end",),
        top_p=0.5,
        temperature=1.0,
    ),
    asked(Message("user", "", (Attachment("file", "application/pdf", "eA==", name="a.b"),)), choices=("a", "b")),
    asked(HI, Message("user", "", (Attachment("image", "image/png", url="s3://bucket/a.png"),))),
    asked(*CALLED, tools=(WEATHER, NOW), tool_choice="required", json_schema=WEATHER.parameters),
    asked(*CALLED, tools=(WEATHER, NOW), parallel_tools=False, reasoning="low"),
)


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("model", [CLAUDE, NEW])
def test_requests_are_as_aws_describes_them(request_: LMRequest, model: str) -> None:
    transport = Recorded("bedrock/cut.json")
    ask(transport, request_, model, prompt_cache=True)
    assert not faults("Converse", "request", transport.body)


@pytest.mark.parametrize("name", ["text", "reasoning_tools", "filtered", "cut", "choice", "cited"])
def test_recorded_answers_are_as_aws_describes_them(name: str) -> None:
    assert not faults("Converse", "answer", json.loads(shape(f"bedrock/{name}.json")))


@pytest.mark.parametrize("name", ["text", "reasoning_tools", "choice", "no_metadata"])
def test_recorded_events_are_as_aws_describes_them(name: str) -> None:
    for frame in FrameReader().feed(shape(f"bedrock/{name}.frames")):
        event = json.loads(frame.payload)
        del event["p"]  # padding
        assert not faults("ConverseStream", frame.headers[":event-type"], event)


# ----------------------------------------------------------------- names, keys and places


def test_a_model_says_what_it_can_do_by_its_name() -> None:
    transport = Recorded("bedrock/text.json")
    assert isinstance(opened(transport), StreamingModel)
    assert opened(transport, CLAUDE).capabilities.json_schema
    assert opened(transport, NEW).capabilities.context_tokens == 1_000_000
    assert not opened(transport, "us.anthropic.claude-opus-4-1-20250805-v1:0").capabilities.json_schema
    assert not opened(transport, "us.anthropic.claude-fable-5-1").capabilities.choices
    assert opened(transport, "amazon.nova-lite-v1:0").capabilities == Capabilities(tools=True)


def signature(transport: Recorded) -> str:
    return transport.requests[-1].headers.get("authorization", "")


def test_credentials_of_the_environment_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    transport = Recorded("bedrock/text.json")
    ask(transport, api_key=None)
    assert "Credential=AKIAENV/" in signature(transport)
    assert "/eu-west-1/bedrock/aws4_request" in signature(transport)
    assert "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token" in signature(transport)
    assert transport.requests[0].headers["x-amz-security-token"] == TOKEN
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", KEY)
    ask(transport, api_key=None)
    assert signature(transport) == f"Bearer {KEY}"


def test_credentials_of_the_shared_files_sign(monkeypatch: pytest.MonkeyPatch, aws: Path) -> None:
    monkeypatch.delenv("AWS_REGION")
    (aws / "config").write_text(
        "[default]\nregion = us-west-2\ns3 =\n  addressing_style = path\n[profile work]\nregion=ap-south-1\n"
        "aws_access_key_id=AKIACONFIG\naws_secret_access_key=x\n"
    )
    (aws / "credentials").write_text(
        f"[default]\naws_access_key_id = AKIAFILE\naws_secret_access_key = {SECRET}\n"
        f"[work]\naws_access_key_id = AKIAWORK\naws_secret_access_key = {SECRET}%(x)s\naws_session_token = {TOKEN}\n"
    )
    transport = Recorded("bedrock/text.json")
    ask(transport, api_key=None)
    assert "Credential=AKIAFILE/" in signature(transport)
    assert transport.requests[0].url.host == "bedrock-runtime.us-west-2.amazonaws.com"
    monkeypatch.setenv("AWS_PROFILE", "work")
    ask(transport, api_key=None)
    assert "Credential=AKIAWORK/" in signature(transport)
    assert "/ap-south-1/" in signature(transport)
    assert transport.requests[1].headers["x-amz-security-token"] == TOKEN


def test_credentials_in_code_sign() -> None:
    transport = Recorded("bedrock/text.json")
    ask(transport, api_key=f"AKIACODE:{SECRET}:{TOKEN}")
    assert "Credential=AKIACODE/" in signature(transport)
    assert transport.requests[0].headers["x-amz-security-token"] == TOKEN
    ask(transport, api_key=lambda: f"AKIACALL:{SECRET}", base_url="http://127.0.0.1:9000")
    assert "Credential=AKIACALL/" in signature(transport)
    assert "x-amz-security-token" not in transport.requests[1].headers


@pytest.mark.parametrize("token", ["", TOKEN])
def test_what_is_signed_is_what_arrives(token: str) -> None:
    key = f"AKIACODE:{SECRET}:{token}"
    with MockServer() as server:
        model = open_bedrock(LM(f"bedrock/{CLAUDE}", api_key=key, base_url=server.root))
        asyncio.run(model.complete(ASK))
        (seen,) = server.requests
    moment = datetime.strptime(seen.headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
    signer = Signer(Credentials("AKIACODE", SECRET, token), "eu-west-1", "bedrock", lambda: moment)
    url = f"http://{seen.headers['host']}{seen.path}"
    added = signer.sign("POST", url, to_json(seen.body), {"content-type": seen.headers["content-type"]})
    assert seen.path == "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse"
    assert {name: seen.headers[name] for name in added} == added


def test_a_function_is_asked_for_each_request() -> None:
    keys = iter(["unused", f"AKIAONE:{SECRET}", f"AKIATWO:{SECRET}:{TOKEN}", f"AKIATWO:{SECRET}:{TOKEN}"])
    transport = Recorded("bedrock/text.json")
    model = opened(transport, api_key=lambda: next(keys), base_url="https://bedrock-runtime.us-east-1.amazonaws.com")

    async def work() -> None:
        for _ in range(2):
            await model.complete(ASK)

    asyncio.run(work())
    named = [re.search("AKIA[A-Z]+", request.headers["authorization"]) for request in transport.requests]
    assert [found and found[0] for found in named] == ["AKIAONE", "AKIATWO"]


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, aws: Path) -> None:
    transport = Recorded("bedrock/text.json")
    with pytest.raises(UsageError, match="DX8131"):
        opened(transport, api_key=None)
    (aws / "config").write_text("[profile sso]\nsso_session = corp\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_PROFILE", "sso")
    with pytest.raises(UsageError, match=r"DX8131.*'sso' gets them by sso_session"):
        opened(transport, api_key=None)
    with pytest.raises(UsageError, match="DX8133"):
        opened(transport, api_key="AKIACODE:")
    (aws / "config").write_text(f"[default\naws_secret_access_key={SECRET}\n")
    with pytest.raises(UsageError, match="DX8132") as caught:
        opened(transport, api_key=None)
    assert SECRET not in f"{caught.value}{caught.value.__cause__}"
    (aws / "config").unlink()
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(UsageError, match="DX8130"):
        opened(transport)


@pytest.mark.parametrize(
    ("base_url", "region", "signed"),
    [
        ("https://bedrock-runtime.us-east-1.amazonaws.com", "us-east-1", True),
        ("https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1", True),
        ("https://vpce-1.bedrock-runtime.ap-southeast-2.vpce.amazonaws.com", "ap-southeast-2", True),
        ("http://bedrock-runtime.us-east-1.amazonaws.com", "", False),
        ("https://bedrock-runtime.us-east-1.amazonaws.com.example.com", "", False),
        ("http://127.0.0.1:9000", "", False),
    ],
)
def test_credentials_of_the_environment_go_to_aws_alone(
    monkeypatch: pytest.MonkeyPatch, base_url: str, region: str, signed: bool
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    transport = Recorded("bedrock/text.json")
    ask(transport, api_key=None, base_url=base_url)
    assert ("AKIAENV" in signature(transport)) is signed
    assert f"/{region}/bedrock/" in signature(transport) or not signed
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", KEY)
    ask(transport, api_key=None, base_url=base_url)
    assert (KEY in signature(transport)) is signed


def test_a_server_of_the_environment_gets_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "http://127.0.0.1:9000/")
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", KEY)
    transport = Recorded("bedrock/text.json")
    ask(transport, api_key=None)
    assert str(transport.requests[0].url).startswith("http://127.0.0.1:9000/model/")
    assert signature(transport) == f"Bearer {KEY}"


def test_regions_of_china_have_a_name_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "cn-north-1")
    transport = Recorded("bedrock/text.json")
    ask(transport)
    assert transport.requests[0].url.host == "bedrock-runtime.cn-north-1.amazonaws.com.cn"


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("key", [KEY, f"AKIACODE:{SECRET}:{TOKEN}"])
def test_keys_show_nowhere(key: str, called: bool) -> None:
    keys = iter([key.replace("canary", "before"), key])
    echo = Fault("status", status=403, message=f"Who is {KEY}, {SECRET} or {TOKEN}?")
    with MockServer(faults=[echo]) as server:
        lm = LM(f"bedrock/{CLAUDE}", api_key=(lambda: next(keys)) if called else key, base_url=server.root)
        model = open_bedrock(lm)
        with pytest.raises(RequestRejected, match="Who is") as caught:
            asyncio.run(model.complete(ASK))
        asyncio.run(model.aclose())
    shown = f"{model!r}{model.name}{model.fingerprint}{caught.value}{caught.value!r}{caught.value.__dict__}"
    assert not [secret for secret in key.split(":") if "canary" in secret and secret in shown]
