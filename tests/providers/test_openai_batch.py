"""OpenAI's batches: over real sockets from end to end, and against recorded shapes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dspex.errors import LMError, RateLimited, RequestRejected, ServerError
from dspex.lm.model import LM, BatchModel, BatchStatus
from dspex.lm.types import Capabilities, LMRequest, LMResponse, Message, Price, Usage
from dspex.providers import open_model
from dspex.providers.openai.batch import MOST_REQUESTS
from dspex.providers.openai.chat import OpenAIModel, open_openai
from dspex.testing import Fault, MockServer
from tests.providers.recorded import Recorded

ABLE = Capabilities(raw_prompt=True, json_schema=True, choices=True, reasoning=True, logprobs=True)
CHOICES = ("billing", "shipping", "other")


def requests(count: int) -> list[LMRequest]:
    return [
        LMRequest(
            messages=(Message("user", f"Question {i}?"),),
            choices=CHOICES if i % 3 == 0 else (),
            top_logprobs=1 if i % 3 == 1 else None,
        )
        for i in range(count)
    ]


def opened(transport: Recorded, **lm: Any) -> OpenAIModel:
    return open_openai(LM("openai/gpt-4.1-mini", api_key="sk-canary-0123456789", **lm), transport)


async def gathered(model: BatchModel, batch: str) -> dict[int, LMResponse | LMError]:
    return {index: outcome async for index, outcome in model.results(batch)}


@pytest.mark.parametrize("name", ["openai/mock", "openai-responses/mock", "azure/mock"])
def test_a_batch_answers_what_single_calls_answer_and_another_process_may_fetch_it(name: str) -> None:
    def model(server: MockServer) -> BatchModel:
        base_url = server.root if name.startswith("azure") else server.url
        opened = open_model(LM(name, base_url=base_url, api_key="k", capabilities=ABLE))
        assert isinstance(opened, BatchModel)
        return opened

    async def work(server: MockServer) -> None:
        asked = requests(7)
        first = model(server)
        batch = await first.submit(asked)
        assert await first.status(batch) == BatchStatus("running", 0, 0, 7)
        await first.aclose()
        second = model(server)
        while (status := await second.status(batch)).state == "running":
            pass
        assert status == BatchStatus("done", 7, 0, 7)
        outcomes = await gathered(second, batch)
        assert sorted(outcomes) == list(range(7))
        for index, request in enumerate(asked):
            outcome = outcomes[index]
            assert isinstance(outcome, LMResponse)
            if request.choices:
                assert outcome.text in CHOICES
            else:
                assert outcome.text
            assert (outcome.logprobs is not None) == (request.top_logprobs is not None)
            assert outcome.usage is not None
        await second.aclose()

    with MockServer() as server:
        asyncio.run(work(server))


def test_a_batch_can_be_cancelled() -> None:
    async def work(server: MockServer) -> None:
        model = open_model(LM("openai/mock", base_url=server.url, capabilities=ABLE))
        assert isinstance(model, BatchModel)
        batch = await model.submit(requests(3))
        await model.cancel(batch)
        assert (await model.status(batch)).state == "cancelled"
        outcomes = await gathered(model, batch)
        assert all(isinstance(outcome, ServerError) and outcome.retryable for outcome in outcomes.values())
        await model.aclose()

    with MockServer(batch_polls=5) as server:
        asyncio.run(work(server))


def test_recorded_results_are_read_with_their_errors() -> None:
    transport = Recorded("openai/batch_done.json", "openai/batch_output.jsonl", "openai/batch_errors.jsonl")
    outcomes = asyncio.run(gathered(opened(transport), "batch_abc123"))
    assert [request.url.path for request in transport.requests] == [
        "/v1/batches/batch_abc123",
        "/v1/files/file-out/content",
        "/v1/files/file-err/content",
    ]
    assert {request.method for request in transport.requests} == {"GET"}
    assert list(outcomes) == [2, 0, 3, 1]
    choice, rejected, plain, scored = (outcomes[i] for i in range(4))
    assert isinstance(choice, LMResponse)
    assert choice.text == "b"
    assert isinstance(plain, LMResponse)
    assert (plain.text, plain.usage) == ("Paris — la ville lumière.", Usage(1117, 46, 1024, 32, 64))
    assert plain.logprobs is None
    assert isinstance(scored, LMResponse)
    assert scored.logprobs is not None
    assert isinstance(rejected, RequestRejected)
    assert (rejected.code, rejected.retryable) == ("DX4209", False)


def test_requests_that_were_never_answered_say_so() -> None:
    names = ("openai/batch_expired.json", "openai/batch_expired_output.jsonl", "openai/batch_expired_errors.jsonl")
    outcomes = asyncio.run(gathered(opened(Recorded(*names)), "batch_abc123"))
    assert isinstance(outcomes[0], LMResponse)
    for index, words in ((1, "batch_expired"), (2, "before this request was answered")):
        outcome = outcomes[index]
        assert isinstance(outcome, ServerError)
        assert (outcome.code, outcome.retryable) == ("DX4215", True)
        assert words in outcome.message


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("batch_new", BatchStatus("running", 0, 0, 0)),
        ("batch_running", BatchStatus("running", 1, 1, 4)),
        ("batch_done", BatchStatus("done", 3, 1, 4)),
        ("batch_expired", BatchStatus("done", 1, 0, 3)),
        ("batch_failed", BatchStatus("failed", 0, 0, 0)),
        ("batch_cancelled", BatchStatus("cancelled", 0, 0, 2)),
    ],
)
def test_every_state_is_known(name: str, status: BatchStatus) -> None:
    assert asyncio.run(opened(Recorded(f"openai/{name}.json")).status("batch_abc123")) == status


def test_a_batch_that_runs_has_no_results_yet() -> None:
    with pytest.raises(RequestRejected) as caught:
        asyncio.run(gathered(opened(Recorded("openai/batch_running.json")), "batch_abc123"))
    assert caught.value.code == "DX4213"


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("batch_failed", RateLimited, "Enqueued token limit reached"),
        ("batch_invalid", RequestRejected, "Line 2: the model does not exist"),
    ],
)
def test_each_request_of_a_batch_that_failed_as_a_whole_has_its_reason(
    name: str, kind: type[LMError], words: str
) -> None:
    transport = Recorded(f"openai/{name}.json", "openai/batch_input.jsonl")
    outcomes = asyncio.run(gathered(opened(transport), "batch_abc123"))
    assert transport.requests[1].url.path == "/v1/files/file-abc123/content"
    assert sorted(outcomes) == [0, 1]
    for outcome in outcomes.values():
        assert isinstance(outcome, kind)
        assert (outcome.code, outcome.retryable) == ("DX4214", kind is RateLimited)
        assert words in outcome.message


def test_an_id_cannot_lead_elsewhere() -> None:
    transport = Recorded("openai/batch_new.json")
    asyncio.run(opened(transport).status("../files/x?y"))
    assert transport.requests[0].url.raw_path == b"/v1/batches/..%2Ffiles%2Fx%3Fy"


def test_what_is_uploaded_is_the_single_calls_bodies() -> None:
    with MockServer() as server:
        model = open_model(LM("openai/mock", base_url=server.url, capabilities=ABLE))
        assert isinstance(model, BatchModel)
        batch = asyncio.run(model.submit(requests(2)))
        assert batch
        ((name, content), *_) = server.files.values()
    assert name == "batch.jsonl"
    lines = [json.loads(line) for line in content.splitlines()]
    assert [(line["custom_id"], line["method"], line["url"]) for line in lines] == [
        ("0-choice", "POST", "/v1/chat/completions"),
        ("1-logprobs", "POST", "/v1/chat/completions"),
    ]
    assert lines[1]["body"]["messages"] == [{"role": "user", "content": "Question 1?"}]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ([], "DX4212"),
        ([requests(1)[0]] * (MOST_REQUESTS + 1), "DX4212"),
        ([LMRequest(prompt="Once")], "DX4201"),
    ],
    ids=["none", "many", "raw"],
)
def test_a_batch_that_the_provider_would_refuse_is_not_uploaded(asked: list[LMRequest], code: str) -> None:
    with MockServer() as server:
        model = open_model(LM("openai/mock", base_url=server.url, capabilities=ABLE))
        assert isinstance(model, BatchModel)
        with pytest.raises(RequestRejected) as caught:
            asyncio.run(model.submit(asked))
        assert (caught.value.code, server.requests) == (code, [])


def test_stop_texts_that_only_a_caller_can_apply_stand_in_the_id() -> None:
    with MockServer() as server:
        model = open_model(LM("openai-responses/mock", base_url=server.url, capabilities=ABLE))
        assert isinstance(model, BatchModel)
        asyncio.run(model.submit([LMRequest(messages=(Message("user", "Hi"),), stop=("\n",))]))
        ((_, content),) = server.files.values()
    (line,) = map(json.loads, content.splitlines())
    assert (line["custom_id"], "stop" in line["body"]) == ("0-cut-0a", False)


def test_a_failed_upload_is_the_servers_error() -> None:
    with MockServer(faults=[Fault("status", status=500)]) as server:
        model = open_model(LM("openai/mock", base_url=server.url, capabilities=ABLE))
        assert isinstance(model, BatchModel)
        with pytest.raises(ServerError):
            asyncio.run(model.submit(requests(1)))


def test_a_batch_of_openai_costs_half() -> None:
    price = Price(4.0, 8.0, 1.0, 5.0, ((100, Price(8.0, 16.0)),))
    transport = Recorded("openai/text.json")
    model = opened(transport, price=price)
    assert model.batch_price == Price(2.0, 4.0, 0.5, 2.5, ((100, Price(4.0, 8.0)),))
    assert open_openai(LM("openai/m", base_url="http://h/v1", price=price), transport).batch_price is None
    assert open_openai(LM("openai/no-such-model", api_key="k"), transport).batch_price is None
