"""Calls of modules that wait for admission: what they hold meanwhile, and what comes of them."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspex.errors import CallTimeout, RequestRejected
from dspex.executor import models
from dspex.executor.admission import Limit, Permit
from dspex.executor.caching import call_key
from dspex.executor.models import gate_for, here
from dspex.lm.model import LM, CacheMode
from dspex.lm.types import LMRequest, LMResponse
from dspex.program.context import bounded, trace, using
from dspex.program.demos import Demo, DemoSet, Nearest
from dspex.program.modules import Predict
from dspex.program.schema import Schema
from tests.executor.models import StepsLM
from tests.executor.queued_runs import Answer, Asked, Question

ROOT = Path(__file__).resolve().parents[2]


class Ask(Schema):
    question: str
    tags: list[str] = []


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StepsLM]:
    """What every configuration opens."""
    made = StepsLM(LMResponse("Paris"))

    def open_model(lm: LM) -> StepsLM:
        return made

    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("dspex.providers.open.open_model", open_model)
    monkeypatch.setattr(models, "_shared", models._Shared())  # pyright: ignore[reportPrivateUsage]
    yield made
    models.response_cache().close()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def full(lm: LM) -> tuple[Limit, Permit]:
    """The limit of `lm`, and the permit that fills it."""
    limit = (await gate_for(lm)).routes[0].limit
    assert limit is not None
    permit = limit.try_acquire()
    assert permit is not None
    return limit, permit


@pytest.mark.parametrize(
    ("cache", "deadline", "form", "most"),
    [("off", 0, "plain", 1.3), ("on", 0, "plain", 1.4), ("off", 1e12, "plain", 1.45), ("off", 0, "compiled", 1.3)],
)
def test_a_queued_call_holds_little_more_than_a_bare_task_that_waits(
    tmp_path: Path, cache: str, deadline: float, form: str, most: float
) -> None:
    command = [sys.executable, "-m", "tests.executor.queued_runs", cache, str(deadline), form]
    env = {**os.environ, "DSPEX_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    own, bare = map(float, done.stdout.split())
    assert own <= most * bare


def requests() -> int:
    """Requests that there are in this process."""
    gc.collect()
    return sum(type(one) is LMRequest for one in gc.get_objects())


@pytest.mark.parametrize("form", ["chat", "completion"])
@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("cache", ["off", "on"])
def test_a_queued_call_holds_no_prompt_and_sends_what_it_was_called_with(
    model: StepsLM, form: str, nearest: bool, cache: CacheMode
) -> None:
    members = [Demo({"question": f"question {i} " * 10, "tags": []}, {"answer": f"answer {i}"}) for i in range(8)]
    source = Nearest(members, k=2) if nearest else DemoSet(members)
    module = Predict(Ask, Answer, demos=source, format=form)  # pyright: ignore[reportArgumentType]

    async def scenario() -> None:
        inputs = [Ask(question=f"question {number}", tags=["one"]) for number in range(20)]
        with using(lm=(lm := LM("test/m", concurrency=1, cache="off"))):
            await asyncio.gather(*[module(x) for x in inputs])
        wanted, model.requests = model.requests, []
        with using(lm=(lm := LM("test/m", concurrency=1, cache=cache))), trace() as t:
            _, permit = await full(lm)
            before = requests()
            tasks = [asyncio.ensure_future(module(x)) for x in inputs]
            await settle()
            assert requests() == before
            for x in inputs:
                x.tags.append("two")
            permit.release()
            await asyncio.gather(*tasks)
        assert model.requests == wanted
        assert [call.request for call in t.calls] == wanted
        if cache == "on":
            assert [call.key for call in t.calls] == [call_key(model.fingerprint, request) for request in wanted]

    asyncio.run(scenario())


@pytest.mark.parametrize("joins", [False, True])
def test_a_deadline_ends_a_call_that_waits_and_no_other(model: StepsLM, joins: bool) -> None:
    async def scenario() -> None:
        with using(lm=(lm := LM("test/m", concurrency=1))), trace() as t:
            limit, permit = await full(lm)
            program, x = Asked(), Question(question="why?")
            patient = asyncio.ensure_future(program(x)) if joins else None
            await settle()
            with bounded(deadline=time.monotonic() + 0.01), pytest.raises(CallTimeout, match="DX4702") as ended:
                await program(x)
            assert (ended.value.where, ended.value.attempts, ended.value.sent) == ("solve", 0, "no")
            assert [(call.module, call.request.messages[-1].content) for call in t.calls] == [("solve", "why?")]
            assert (limit.waiting, len(here().flights), len(model.requests)) == (joins, joins, 0)
            permit.release()
            if patient is not None:
                assert await patient == Answer(answer="Paris")
            assert (limit.active, limit.waiting, len(here().flights)) == (0, 0, 0)

    asyncio.run(scenario())


def test_a_failure_that_a_queued_call_shares_with_an_equal_one_names_its_module(model: StepsLM) -> None:
    async def scenario() -> None:
        model.steps = [RequestRejected("DX4209", "too long", sent="yes")]
        with using(lm=(lm := LM("test/m", concurrency=1))), trace() as t:
            _, permit = await full(lm)
            program = Asked()
            tasks = [asyncio.ensure_future(program(Question(question="why?"))) for _ in range(3)]
            await settle()
            permit.release()
            errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(error, "where", None) for error in errors] == ["solve"] * 3
        assert [(call.module, call.request) for call in t.calls] == [("solve", model.requests[0])] * 3
        assert [call.attempts for call in t.calls] == [1, 0, 0]

    asyncio.run(scenario())
