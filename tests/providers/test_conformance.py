"""What every provider must do, over each of them."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dspex.errors import LMError
from dspex.lm.model import LanguageModel
from dspex.lm.types import LMRequest, LMResponse, Usage

from .subjects import CHOICES, REQUESTS, SUBJECTS, Subject


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
