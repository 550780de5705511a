"""What every provider must do, over each of them."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import threading
import traceback
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dspex.errors import LMError, RateLimited, RequestRejected, ResponseError, ServerError
from dspex.lm.model import LanguageModel, StreamingModel
from dspex.lm.types import (
    Attachment,
    Capabilities,
    Delta,
    LMRequest,
    LMResponse,
    Message,
    RateLimits,
    ToolCall,
    ToolSpec,
    Usage,
)
from dspex.testing import Fault, MockRequest, MockServer, default_answer
from dspex.testing.faults import FaultKind
from dspex.testing.request import Said

from .recorded import called, plain
from .subjects import ABLE, CHOICES, KEY, REQUESTS, SUBJECTS, Subject, chat
from .subjects.subject import At


@pytest.fixture(params=list(SUBJECTS))
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with SUBJECTS[request.param]() as subject:
        yield subject


async def ask_all(model: LanguageModel, requests: tuple[LMRequest, ...] = REQUESTS) -> list[LMResponse]:
    try:
        return await asyncio.gather(*(model.complete(request) for request in requests))
    finally:
        await model.aclose()


def fresh(usage: Usage | None) -> Usage | None:
    return None if usage is None else replace(usage, cached_tokens=0)


def test_implements_the_protocol(subject: Subject) -> None:
    model = subject.open()
    assert isinstance(model, LanguageModel)
    assert "/" in model.name
    assert model.fingerprint
    asyncio.run(model.aclose())


def test_answers_are_a_function_of_the_request(subject: Subject) -> None:
    first = asyncio.run(ask_all(subject.open()))
    backwards = asyncio.run(ask_all(subject.open(), REQUESTS[::-1]))
    assert [r.text for r in first] == [r.text for r in backwards[::-1]]
    # What a prompt cache serves does depend on what came before, the answer does not.
    assert [fresh(r.usage) for r in first] == [fresh(r.usage) for r in backwards[::-1]]


def test_two_openings_have_one_fingerprint(subject: Subject) -> None:
    assert subject.open().fingerprint == subject.open().fingerprint


def test_choices_are_kept(subject: Subject) -> None:
    model = subject.open()
    assert model.capabilities.choices
    for response in asyncio.run(ask_all(model, REQUESTS[2:])):
        assert response.text in CHOICES


def test_streams_end_with_the_whole_answer(subject: Subject) -> None:
    async def work() -> list[list[Delta]]:
        model = subject.open()
        assert isinstance(model, StreamingModel)
        try:
            return [[delta async for delta in model.stream(request)] for request in REQUESTS]
        finally:
            await model.aclose()

    streams = asyncio.run(work())
    for deltas, whole in zip(streams, asyncio.run(ask_all(subject.open())), strict=True):
        last = deltas[-1].response
        assert last is not None
        assert all(delta.response is None for delta in deltas[:-1])
        assert "".join(delta.text for delta in deltas) == last.text
        # A mock server's own answers depend on all that was sent, the wish for a stream included.
        if subject.at is None:
            assert replace(last, usage=fresh(last.usage)) == replace(whole, usage=fresh(whole.usage))


def test_a_model_answers_while_and_after_a_stream_of_it_is_left(subject: Subject) -> None:
    async def work() -> None:
        model = subject.open()
        assert isinstance(model, StreamingModel)
        alone = (await model.complete(REQUESTS[0])).text
        stream = model.stream(REQUESTS[1])
        await anext(stream)
        assert (await model.complete(REQUESTS[0])).text == alone
        await stream.aclose()
        assert (await model.complete(REQUESTS[0])).text == alone
        await model.aclose()

    asyncio.run(work())
    assert subject.released()


def test_usage_is_reported(subject: Subject) -> None:
    if not subject.usage:
        pytest.skip("reports none")
    for response in asyncio.run(ask_all(subject.open())):
        assert response.usage is not None
        assert response.usage.input_tokens > 0
        assert response.usage.output_tokens > 0


def test_close_is_idempotent_and_closes_connections(subject: Subject) -> None:
    async def work() -> None:
        model = subject.open()
        await model.complete(REQUESTS[0])
        await model.aclose()
        await model.aclose()

    asyncio.run(work())
    assert subject.released()


def test_close_before_any_call_is_fine(subject: Subject) -> None:
    asyncio.run(subject.open().aclose())


def test_one_model_serves_event_loops_in_turn(subject: Subject) -> None:
    model = subject.open()

    async def ask() -> str:
        return (await model.complete(REQUESTS[0])).text

    assert asyncio.run(ask()) == asyncio.run(ask())
    assert subject.released()


def test_one_model_serves_event_loops_at_once(subject: Subject) -> None:
    model = subject.open()
    texts: list[str] = []
    together = threading.Barrier(3)

    def work() -> None:
        async def ask() -> str:
            together.wait()
            return (await model.complete(REQUESTS[0])).text

        texts.append(asyncio.run(ask()))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 3
    assert len(set(texts)) == 1
    assert subject.released()


def test_cancelling_a_call_releases_its_connection_at_once(subject: Subject) -> None:
    if subject.hang is None:
        pytest.skip("answers at once")
    model = subject.hang()

    async def work() -> None:
        tasks = [asyncio.create_task(model.complete(REQUESTS[0])) for _ in range(20)]
        assert await asyncio.to_thread(subject.waiting, len(tasks))
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)
        # While the model is still open: it is the cancellation that must release them.
        assert await asyncio.to_thread(subject.released)
        await model.aclose()

    asyncio.run(work())


def test_errors_are_classified(subject: Subject) -> None:
    if subject.refuse is None:
        pytest.skip("does not fail")
    model = subject.refuse()
    with pytest.raises(LMError) as caught:
        asyncio.run(ask_all(model, REQUESTS[:1]))
    error = caught.value
    assert error.code.startswith("DX4")
    assert error.sent in ("no", "maybe", "yes")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.code, copy.retryable, copy.sent) == (type(error), error.code, error.retryable, error.sent)


# ----------------------------------------------------------------- over HTTP


@pytest.fixture
def at(subject: Subject) -> At:
    if subject.at is None:
        pytest.skip("no protocol over HTTP")
    return subject.at


async def streamed(model: LanguageModel, request: LMRequest) -> list[Delta]:
    assert isinstance(model, StreamingModel)
    try:
        return [delta async for delta in model.stream(request)]
    finally:
        await model.aclose()


def complete(model: LanguageModel, request: LMRequest) -> LMResponse:
    return asyncio.run(ask_all(model, (request,)))[0]


def fail(model: LanguageModel, request: LMRequest, stream: bool = False) -> LMError:
    ask = streamed(model, request) if stream else ask_all(model, (request,))
    with pytest.raises(LMError) as caught:
        asyncio.run(ask)
    return caught.value


def alike(request: MockRequest) -> Said:
    """The default answer, the same for a request and for its like that wants a stream."""
    return default_answer(replace(request, digest="0" * 64))


LOOK = ToolSpec(
    "look_up",
    "Finds a parcel",
    '{"additionalProperties":false,"properties":{"parcel":{"type":"integer"}},"required":["parcel"],"type":"object"}',
)
CLOCK = ToolSpec("clock", "Tells the time", '{"properties":{},"type":"object"}')
CALLS = (ToolCall("call_1", "look_up", '{"parcel":7000000000007}'), ToolCall("call_2", "clock", "{}"))

SAID: dict[str, tuple[LMRequest, LMResponse]] = {
    "text": (chat("Why?"), LMResponse("Because the sky — 空 — is up, and \n\nthe ground is down.")),
    "nothing": (chat("Why?"), LMResponse("")),
    "cut off": (chat("Why?"), LMResponse("Because the", stop="length")),
    "reasoning": (
        chat("Why?", reasoning="low"),
        LMResponse("Because.", Usage(40, 30, 16, 20), reasoning="It asks for the cause of everything."),
    ),
    "tools": (chat("Where is it?", tools=(LOOK, CLOCK)), LMResponse("Let me look.", tool_calls=CALLS)),
    "tools alone": (chat("Where is it?", tools=(LOOK, CLOCK)), LMResponse("", tool_calls=CALLS[:1])),
}


@pytest.mark.parametrize("name", SAID)
def test_a_stream_gives_what_complete_gives(at: At, name: str) -> None:
    request, said = SAID[name]
    with MockServer(lambda _: said) as server:
        whole = complete(at(server), request)
        deltas = asyncio.run(streamed(at(server), request))
        assert server.wait_until(lambda s: s.open == 0)
    last = deltas[-1].response
    assert last is not None
    # The state holds ids that no two answers share.
    assert replace(last, state="") == replace(whole, state="")
    assert bool(last.state) == bool(whole.state)
    assert all(delta.response is None for delta in deltas[:-1])
    assert "".join(delta.text for delta in deltas) == whole.text == said.text
    assert "".join(delta.reasoning for delta in deltas) == whole.reasoning
    assert whole.stop == ("tool_calls" if said.tool_calls else said.stop)
    assert [(call.name, json.loads(call.arguments)) for call in whole.tool_calls] == [
        (call.name, json.loads(call.arguments)) for call in said.tool_calls
    ]
    assert len({call.id for call in whole.tool_calls}) == len(said.tool_calls)


def test_tool_calls_show_while_they_are_written(subject: Subject, at: At) -> None:
    request, said = SAID["tools"]
    with MockServer(lambda _: said) as server:
        deltas = asyncio.run(streamed(at(server), request))
    response = deltas[-1].response
    assert response is not None
    # The last part comes when everything is written, and brings nothing new of a call.
    assert not deltas[-1].calls
    assert called(deltas) == plain(response.tool_calls)
    pieces = [part.arguments for delta in deltas for part in delta.calls if part.index == 0 and part.arguments]
    assert (len(pieces) == 1) == subject.whole_calls


def test_a_call_that_a_stop_text_may_void_shows_at_the_end(at: At) -> None:
    request = replace(chat("Where is it?", tools=(LOOK,)), stop=("\n\n",))
    with MockServer(lambda _: LMResponse("Let me", tool_calls=CALLS[:1])) as server:
        deltas = asyncio.run(streamed(at(server), request))
        response = deltas[-1].response
        assert response is not None
        assert called(deltas) == plain(response.tool_calls)
        assert len(response.tool_calls) == 1


def test_a_stream_keeps_the_choices(at: At) -> None:
    with MockServer(alike) as server:
        deltas = asyncio.run(streamed(at(server), REQUESTS[2]))
        assert deltas[-1].response == complete(at(server), REQUESTS[2])
    assert "".join(delta.text for delta in deltas) in CHOICES


def test_usage_is_the_servers(subject: Subject, at: At) -> None:
    usage = Usage(100, 50, 64, 30, 8)
    with MockServer(lambda _: LMResponse("Because.", usage, reasoning="It asks.")) as server:
        got = complete(at(server), chat("Why?")).usage
        deltas = asyncio.run(streamed(at(server), chat("Why?")))
    told = {name: getattr(usage, name) for name in subject.tells}
    assert got == Usage(100, 50, **told)
    last = deltas[-1].response
    assert last is not None
    assert last.usage == got


def test_calls_agree_with_the_servers_ledger(at: At) -> None:
    requests = tuple(chat(f"question {'very ' * (i % 7)}{i}", rollout=i % 3) for i in range(60))
    with MockServer() as server:
        usages = [r.usage for r in asyncio.run(ask_all(at(server), requests))]
        total = sum((usage for usage in usages if usage is not None), Usage())
        ledger = server.totals().usage
        assert (total.input_tokens, total.output_tokens) == (ledger.input_tokens, ledger.output_tokens)


@pytest.mark.parametrize("choice", ["auto", "required", "clock", "none"])
def test_tools_are_offered_as_they_are(subject: Subject, at: At, choice: str) -> None:
    request = chat("Where is it?", tools=(LOOK, CLOCK), tool_choice=choice, parallel_tools=not subject.one_call)
    with MockServer() as server:
        if choice not in subject.tool_choices:
            assert fail(at(server), request).code == "DX4201"
            assert server.requests == []
            return
        if not subject.one_call and choice != "none":
            assert fail(at(server), replace(request, parallel_tools=False)).code == "DX4201"
            assert server.requests == []
    with MockServer(lambda _: "No idea.") as server:
        complete(at(server), request)
        (seen,) = server.requests
    if choice == "none" and not seen.tools:
        # A protocol without the word offers none.
        return
    assert set(seen.tools) == {"look_up", "clock"}
    assert seen.tools["look_up"]["properties"] == {"parcel": {"type": "integer"}}
    forced = {"auto": None, "required": "look_up", "clock": "clock", "none": None}[choice]
    assert seen.forced_tool == forced


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_go_there_and_back(at: At, stream: bool) -> None:
    def answer(request: MockRequest) -> LMResponse:
        if "parcel seven is in Lyon" in request.text:
            assert "half past nine" in request.text
            return LMResponse("It is in Lyon.")
        return LMResponse("Let me look.", reasoning="It needs the tool.", tool_calls=CALLS)

    first = chat("Where is it?", tools=(LOOK, CLOCK))
    with MockServer(answer) as server:
        if stream:
            asked = asyncio.run(streamed(at(server), first))[-1].response
            assert asked is not None
        else:
            asked = complete(at(server), first)
        results = ("parcel seven is in Lyon", "half past nine")
        turns = (
            Message("assistant", asked.text, tool_calls=asked.tool_calls, state=asked.state),
            *(
                Message("tool", result, tool_call_id=call.id)
                for call, result in zip(asked.tool_calls, results, strict=True)
            ),
        )
        second = replace(first, messages=(*first.messages, *turns))
        assert complete(at(server), second).text == "It is in Lyon."


FOREIGN = ('{"another-protocol":[1]}', '[{"type":"unknown"}]', "not even JSON")


@pytest.mark.parametrize("state", FOREIGN)
def test_the_state_of_another_protocol_is_left_out(at: At, state: str) -> None:
    turns = (Message("user", "Hello?"), Message("assistant", "Hi.", state=state), Message("user", "And?"))
    with MockServer(lambda _: "Well.") as server:
        assert complete(at(server), LMRequest(messages=turns)).text == "Well."
        assert "Hi." in server.requests[0].text
        assert "another-protocol" not in repr(server.requests[0].body)


TROUBLES: dict[str, tuple[Fault, type[LMError], str, bool]] = {
    "400": (Fault("status", status=400, message="the server's words"), RequestRejected, "DX4205", False),
    "401": (Fault("status", status=401, message="the server's words"), RequestRejected, "DX4202", False),
    "403": (Fault("status", status=403, message="the server's words"), RequestRejected, "DX4203", False),
    "404": (Fault("status", status=404, message="the server's words"), RequestRejected, "DX4204", False),
    "429": (Fault("status", status=429, message="the server's words", retry_after=7), RateLimited, "DX4207", True),
    "500": (Fault("status", status=500, message="the server's words"), ServerError, "DX4208", True),
    "503": (Fault("status", status=503, message="the server's words"), ServerError, "DX4208", True),
    "529": (Fault("status", status=529, message="the server's words"), ServerError, "DX4208", True),
    "redirect": (Fault("redirect"), RequestRejected, "DX4206", False),
    "context": (Fault("context_length"), RequestRejected, "DX4209", False),
    "filter": (Fault("content_filter"), RequestRejected, "DX4210", False),
    "quota": (Fault("quota"), RateLimited, "DX4207", False),
    "not JSON": (Fault("not_json"), ResponseError, "DX4301", True),
    "shape": (Fault("shape"), ResponseError, "DX4302", True),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", TROUBLES)
def test_troubles_are_classified(subject: Subject, at: At, name: str, stream: bool) -> None:
    fault, kind, code, retryable = TROUBLES[name]
    if stream and name in ("not JSON", "shape"):
        pytest.skip("no stream")
    with MockServer(faults=[fault]) as server:
        error = fail(at(server), chat("Why?"), stream)
        assert server.wait_until(lambda s: s.open == 0)
    code = subject.codes.get(name, code)
    assert error.code == code, str(error)
    if name not in subject.codes:
        assert (type(error), error.retryable) == (kind, retryable), str(error)
    assert error.sent == "yes"
    assert fault.message in error.message
    if name == "429":
        assert isinstance(error, RateLimited)
        assert error.retry_after == 7.0


@pytest.mark.parametrize("kind", ["no_end", "truncate", "error_event", "reset_body"])
def test_a_stream_that_breaks_is_an_error_and_not_an_answer(at: At, kind: FaultKind) -> None:
    with MockServer(lambda _: "word " * 40, faults=[Fault(kind)]) as server:
        error = fail(at(server), chat("Why?"), stream=True)
        assert server.wait_until(lambda s: s.open == 0)
    assert error.code in (("DX4208", "DX4207") if kind == "error_event" else ("DX4106", "DX4107")), str(error)
    assert (error.sent, error.retryable) == ("yes", True)


def test_a_stream_that_ends_gives_its_connection_back(at: At) -> None:
    async def work(server: MockServer) -> None:
        model = at(server)
        assert isinstance(model, StreamingModel)
        for _ in range(3):
            assert [delta async for delta in model.stream(chat("Why?"))]
            await model.complete(chat("Why?"))
        await model.aclose()

    with MockServer() as server:
        asyncio.run(work(server))
        assert server.connections == 1


@pytest.mark.parametrize("cancelled", [False, True])
def test_leaving_a_stream_closes_its_connection(at: At, cancelled: bool) -> None:
    async def work(server: MockServer) -> None:
        model = at(server)
        assert isinstance(model, StreamingModel)
        deltas = model.stream(chat("Why?"))
        first = await anext(deltas)
        assert first.text
        assert server.open == 1
        if cancelled:
            begun = asyncio.Event()

            async def rest() -> None:
                begun.set()
                async for _ in deltas:
                    pass

            task = asyncio.create_task(rest())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            await deltas.aclose()
        # While the model is still open: it is leaving the stream that must close the connection.
        assert await asyncio.to_thread(server.wait_until, lambda s: s.open == 0)
        await model.aclose()

    with MockServer(lambda _: "word " * 40, faults=[Fault("hang_body")]) as server:
        asyncio.run(work(server))


def test_the_key_is_sent_and_shown_nowhere(at: At, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    with MockServer() as server:
        model = at(server)
        shown += [repr(model), model.fingerprint, model.name, repr(complete(model, chat("Why?")))]
        (request,) = server.requests
        assert KEY in repr(request.headers)
        assert KEY not in request.path
    for status in (301, 400, 401, 403, 404, 429, 500):
        echo = Fault("status", status=status, message=f"Bad key {KEY} of header Bearer {KEY}")
        for stream in (False, True):
            with MockServer(faults=[echo]) as server:
                error = fail(at(server), chat("Why?"), stream)
            shown += [str(error), repr(error), *traceback.format_exception(error), repr(pickle.dumps(error))]
    assert not [text for text in shown if "canary" in text]
    assert "canary" not in caplog.text


UNKNOWN: dict[str, LMRequest] = {
    "tools": chat("Why?", tools=(LOOK,)),
    "choices": chat("Why?", choices=CHOICES),
    "scores": chat("Why?", choices=CHOICES, score_choices=True),
    "raw prompt": LMRequest(prompt="Once upon"),
    "reasoning": chat("Why?", reasoning="high"),
    "log-probabilities": chat("Why?", top_logprobs=2),
    "image": LMRequest(messages=(Message("user", "What?", (Attachment("image", "image/png", "aGk="),)),)),
    "sound": LMRequest(messages=(Message("user", "What?", (Attachment("audio", "audio/wav", "aGk="),)),)),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_a_model_is_not_known_to_do_is_refused_before_sending(at: At, name: str, stream: bool) -> None:
    with MockServer() as server:
        error = fail(at(server, Capabilities()), UNKNOWN[name], stream)
        assert server.requests == []
    assert (type(error), error.code, error.sent, error.retryable) == (RequestRejected, "DX4201", "no", False)


UNSAYABLE: dict[str, LMRequest] = {
    "scores": chat("Why?", choices=CHOICES, score_choices=True),
    "tools with a raw prompt": LMRequest(prompt="Once upon", tools=(LOOK,)),
    "an image in a system turn": LMRequest(
        messages=(Message("system", "", (Attachment("image", "image/png", "aGk="),)),)
    ),
}


@pytest.mark.parametrize("name", UNSAYABLE)
def test_what_a_protocol_has_no_words_for_is_refused_whatever_a_user_says(at: At, name: str) -> None:
    with MockServer() as server:
        model = at(server, replace(ABLE, score_choices=True))
        error = fail(model, UNSAYABLE[name])
        assert server.requests == []
    assert (error.code, error.sent) == ("DX4201", "no")
    assert not model.capabilities.score_choices


def test_a_schema_that_is_enforced_is_kept(subject: Subject, at: At) -> None:
    if not subject.schema:
        pytest.skip("the protocol enforces none")
    schema = {
        "additionalProperties": False,
        "properties": {"city": {"type": "string"}, "people": {"maximum": 9, "minimum": 3, "type": "integer"}},
        "required": ["city", "people"],
        "type": "object",
    }
    request = chat("Which?", json_schema=json.dumps(schema))
    with MockServer(alike) as server:
        response = complete(at(server), request)
        assert asyncio.run(streamed(at(server), request))[-1].response == response
        assert server.requests[0].schema is not None
    answer = json.loads(response.text)
    assert isinstance(answer["city"], str)
    assert 3 <= answer["people"] <= 9


def test_rate_limits_reach_the_response(at: At) -> None:
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    limits = RateLimits(60, 59, 1.0, 150_000, 149_984, 360.0)
    with MockServer(headers=headers) as server:
        assert complete(at(server), chat("Why?")).limits == limits
        last = asyncio.run(streamed(at(server), chat("Why?")))[-1].response
        assert last is not None
        assert last.limits == limits


def test_text_that_cannot_be_sent_is_refused_before_sending(at: At) -> None:
    with MockServer() as server:
        with pytest.raises(RequestRejected) as caught:
            complete(at(server), chat("half a pair: \ud83d"))
        assert (caught.value.code, caught.value.sent) == ("DX4217", "no")
        assert not server.requests
