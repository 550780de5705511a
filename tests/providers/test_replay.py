"""Recordings: bit for bit, once per request, and clear about what they do not hold."""

from __future__ import annotations

import asyncio
import resource
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import LMError, RequestRejected, ServerError, UsageError
from dspex.lm.model import LM
from dspex.lm.types import Capabilities, Delta, LMRequest, LMResponse, Message, Price, Usage
from dspex.providers import open_model
from dspex.testing import MockServer, ReplayLM, ScriptedLM, replay
from tests.wire_types import REQUESTS, RESPONSES


def chat(text: str, temperature: float = 0.0, rollout: int = 0) -> LMRequest:
    return LMRequest(messages=(Message("user", text),), temperature=temperature, rollout=rollout)


def ask(model: ReplayLM, *requests: LMRequest, streamed: bool = False) -> list[LMResponse]:
    async def one(request: LMRequest) -> LMResponse:
        if not streamed:
            return await model.complete(request)
        last = [part.response async for part in model.stream(request)][-1]
        assert last is not None
        return last

    async def work() -> list[LMResponse]:
        try:
            return [await one(request) for request in requests]
        finally:
            await model.aclose()

    return asyncio.run(work())


def parts(model: ReplayLM, request: LMRequest) -> list[Delta]:
    async def work() -> list[Delta]:
        try:
            return [part async for part in model.stream(request)]
        finally:
            await model.aclose()

    return asyncio.run(work())


class Whole:
    """A model without streams."""

    name = "whole/model"
    fingerprint = "whole"
    capabilities = Capabilities()
    price = None

    def __init__(self, response: LMResponse) -> None:
        self.response = response

    async def complete(self, request: LMRequest, /) -> LMResponse:
        return self.response

    async def aclose(self) -> None: ...


class Slow(Whole):
    """A model whose stream waits behind its first part."""

    def __init__(self, gate: asyncio.Event) -> None:
        super().__init__(LMResponse("one two"))
        self.gate = gate
        self.left = False

    async def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        try:
            yield Delta("one ")
            await self.gate.wait()
            yield Delta("two")
            yield Delta(response=self.response)
        except GeneratorExit:
            self.left = True
            raise


def counting() -> ScriptedLM:
    """Never gives the same answer twice."""
    lm: ScriptedLM
    lm = ScriptedLM(lambda request: f"answer {lm.calls} to {request.messages[-1].content}", fingerprint="counting")
    return lm


@settings(deadline=None)
@given(st.dictionaries(REQUESTS, RESPONSES, max_size=4), st.booleans(), st.booleans())
def test_what_was_recorded_is_replayed_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    answers: dict[LMRequest, LMResponse],
    recorded_streamed: bool,
    replayed_streamed: bool,
) -> None:
    path = tmp_path_factory.mktemp("replay") / "r.jsonl"
    lm = ScriptedLM(lambda request: answers[request], fingerprint="f")
    recorded = ask(replay(path, lm, mode="record"), *answers, streamed=recorded_streamed)
    again = replay(path)
    replayed = ask(again, *answers, streamed=replayed_streamed)
    assert replayed == recorded == list(answers.values())
    assert [repr(r) for r in replayed] == [repr(r) for r in recorded]
    assert all(r.limits is None for r in replayed)
    assert len(again) == len(answers)


@given(RESPONSES)
def test_a_stream_of_a_recording_is_its_answer_in_parts(
    tmp_path_factory: pytest.TempPathFactory, response: LMResponse
) -> None:
    path = tmp_path_factory.mktemp("replay") / "r.jsonl"
    ask(replay(path, ScriptedLM(lambda _: response, fingerprint="f"), mode="record"), chat("a"))
    first, again = (parts(replay(path), chat("a")) for _ in range(2))
    assert first == again
    assert "".join(part.text for part in first) == response.text
    assert "".join(part.reasoning for part in first) == response.reasoning
    assert [part.response for part in first] == [None] * (len(first) - 1) + [response]


def test_a_stream_is_passed_on_while_it_is_recorded(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def work() -> None:
        live = Slow(gate)
        recorder = replay(tmp_path / "r", live, mode="record")
        stream = recorder.stream(chat("a"))
        assert (await anext(stream)).text == "one "
        assert len(recorder) == 0
        gate.set()
        rest = [part async for part in stream]
        assert [part.text for part in rest] == ["two", ""]
        # From now on it is the recorded one.
        assert [part.text async for part in recorder.stream(chat("a"))] == ["one", " two", ""]
        assert (await recorder.complete(chat("a"))).text == "one two"
        assert recorder.asked == 1
        await recorder.aclose()

    asyncio.run(work())
    assert parts(replay(tmp_path / "r"), chat("a"))[-1].response == LMResponse("one two")


def test_a_stream_that_is_left_is_not_recorded(tmp_path: Path) -> None:
    async def work() -> bool:
        live = Slow(asyncio.Event())
        recorder = replay(tmp_path / "r", live, mode="record")
        stream = recorder.stream(chat("a"))
        await anext(stream)
        await stream.aclose()
        await recorder.aclose()
        return live.left

    assert asyncio.run(work())
    assert len(replay(tmp_path / "r")) == 0


def test_a_model_without_streams_is_recorded_through_one(tmp_path: Path) -> None:
    whole = LMResponse("one two")
    recorded = parts(replay(tmp_path / "r", Whole(whole), mode="record"), chat("a"))
    assert recorded == parts(replay(tmp_path / "r"), chat("a"))
    assert recorded[-1].response == whole


OLD = """\
{"dspex_recording":1,"name":"openai/m","fingerprint":"f","capabilities":{"raw_prompt":true,"json_schema":false,\
"choices":true,"score_choices":false,"context_tokens":99,"parallel":null},"price":{"input":1.0,"output":2.0,"cached":null}}
{"request":{"messages":[{"role":"user","content":"a"}],"stop":["x"]},"response":{"text":"b","usage":{"input_tokens":1,\
"output_tokens":2,"cached_tokens":0,"reasoning_tokens":0},"choice_logprobs":[-0.5,-Infinity]}}
"""


def test_recordings_of_before_there_were_tools_and_streams_are_read(tmp_path: Path) -> None:
    (tmp_path / "r").write_text(OLD)
    model = replay(tmp_path / "r")
    assert model.capabilities == Capabilities(raw_prompt=True, choices=True, context_tokens=99)
    assert model.price == Price(1, 2)
    (response,) = ask(model, LMRequest((Message("user", "a"),), stop=("x",)))
    assert response == LMResponse("b", Usage(1, 2), choice_logprobs=(-0.5, float("-inf")))


def test_the_recording_stands_in_for_the_model(tmp_path: Path) -> None:
    with MockServer() as server:
        able = Capabilities(raw_prompt=True, context_tokens=99)
        live = open_model(LM("openai/mock", base_url=server.url, price=Price(1, 2, 0.5), capabilities=able))
        recorder = replay(tmp_path / "r.jsonl", live, mode="record")
        (recorded,) = ask(recorder, chat("hello"))
    model = open_model(LM(f"replay/{tmp_path}/r.jsonl"))
    assert (model.name, model.fingerprint) == (live.name, live.fingerprint)
    assert (model.capabilities, model.price) == (able, Price(1, 2, 0.5))
    assert asyncio.run(model.complete(chat("hello"))) == recorded


def test_each_request_is_asked_once_and_rollouts_are_requests_of_their_own(tmp_path: Path) -> None:
    lm = counting()
    recorder = replay(tmp_path / "r", lm, mode="record")
    first, again, other = ask(recorder, chat("a"), chat("a"), chat("a", rollout=1))
    assert first == again != other
    assert (lm.calls, recorder.asked) == (2, 2)
    # A further session continues the recording and repeats nothing.
    more = replay(tmp_path / "r", lm, mode="record")
    assert ask(more, chat("a"), chat("b"))[0] == first
    assert lm.calls == 3
    assert len(replay(tmp_path / "r")) == 3


def test_equal_requests_in_flight_get_one_answer(tmp_path: Path) -> None:
    async def work() -> list[LMResponse]:
        gate = asyncio.Event()

        async def script(_: LMRequest) -> str:
            await gate.wait()
            return str(lm.calls + len(done))

        done: list[int] = []
        lm = ScriptedLM(script, fingerprint="f")
        recorder = replay(tmp_path / "r", lm, mode="record")
        tasks = [asyncio.create_task(recorder.complete(chat("a"))) for _ in range(4)]
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*tasks)

    answers = asyncio.run(work())
    assert len(set(answers)) == 1
    assert ask(replay(tmp_path / "r"), chat("a")) == answers[:1]


def test_failures_are_not_recorded(tmp_path: Path) -> None:
    def script(request: LMRequest) -> str:
        raise ServerError("DX4208", "down", retryable=True, sent="yes")

    recorder = replay(tmp_path / "r", ScriptedLM(script), mode="record")
    with pytest.raises(ServerError):
        ask(recorder, chat("a"))
    assert len(replay(tmp_path / "r")) == 0


def test_a_recording_is_private(tmp_path: Path) -> None:
    ask(replay(tmp_path / "r", counting(), mode="record"), chat("a"))
    assert stat.S_IMODE((tmp_path / "r").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (chat("What is the capital of Spain?"), "messages[0].content at character 23"),
        (chat("What is the capital of France?", temperature=0.7), "temperature (0.0 recorded, 0.7 asked)"),
        (chat("What is the capital of France?", rollout=2), "rollout (0 recorded, 2 asked)"),
        (LMRequest(messages=(Message("system", "x"), Message("user", "y"))), "messages (1 recorded, 2 asked)"),
    ],
)
def test_an_unrecorded_request_names_the_nearest_and_the_difference(
    tmp_path: Path, asked: LMRequest, told: str
) -> None:
    recorded = [chat("What is the capital of France?"), chat("Name a river."), chat("Count to ten.")]
    ask(replay(tmp_path / "r", counting(), mode="record"), *recorded)
    with pytest.raises(RequestRejected) as caught:
        ask(replay(tmp_path / "r"), asked)
    error = caught.value
    assert (error.code, error.sent, error.retryable) == ("DX4401", "no", False)
    assert told in error.message
    assert "3 recorded" in error.message


def test_a_last_line_cut_off_by_a_crash_is_forgotten_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "r"
    ask(replay(path, counting(), mode="record"), chat("a"), chat("b"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert len(replay(path)) == 1
    with pytest.raises(RequestRejected, match="1 lines of the file were cut off"):
        ask(replay(path), chat("b"))
    # Recording goes on behind the fragment.
    answers = ask(replay(path, counting(), mode="record"), chat("b"), chat("c"))
    assert ask(replay(path), chat("b"), chat("c")) == answers
    assert len(replay(path)) == 3


def test_a_process_killed_while_recording_loses_no_answered_request(tmp_path: Path) -> None:
    script = """
import asyncio, os, signal, sys
from dspex.lm.types import LMRequest
from dspex.testing import ScriptedLM, replay
model = replay(sys.argv[1], ScriptedLM(lambda r: r.prompt or "", fingerprint="f"), mode="record")
async def work():
    for n in range(50):
        await model.complete(LMRequest(prompt=str(n)))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(work())
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "r")], check=False, timeout=60)
    assert done.returncode == -9
    assert len(replay(tmp_path / "r")) == 50


def test_wrong_uses_are_coded(tmp_path: Path) -> None:
    path = tmp_path / "r"
    ask(replay(path, counting(), mode="record"), chat("a"))
    (tmp_path / "other").write_text('{"some": "json"}\n')
    (tmp_path / "old").write_text('{"dspex_recording": 99}\n')

    def code(*arguments: object) -> str:
        with pytest.raises(UsageError) as caught:
            replay(*arguments)  # type: ignore[arg-type]
        return caught.value.code

    assert code(path, counting()) == "DX8115"
    assert code(path, None, "record") == "DX8115"
    assert code(path, None, "rewind") == "DX8115"
    assert code(tmp_path / "missing") == "DX8116"
    assert code(tmp_path / "other") == "DX8116"
    assert code(tmp_path / "old") == "DX8116"
    assert code(tmp_path) == "DX8116"
    assert code(path, ScriptedLM(lambda _: "x"), "record") == "DX8116"


def test_a_full_disk_is_a_coded_error_and_loses_nothing_recorded(tmp_path: Path) -> None:
    path = tmp_path / "r"
    ask(replay(path, counting(), mode="record"), chat("a"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
    try:
        with pytest.raises(LMError) as caught:
            ask(replay(path, counting(), mode="record"), chat("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.code, caught.value.sent) == ("DX4402", "yes")
    ask(replay(path, counting(), mode="record"), chat("c"))
    assert len(ask(replay(path), chat("a"), chat("c"))) == 2
