"""Studies that share one model's limit, with each other and with a program that serves; studies on a failing server.

All of it against a real server; what came first is read from the order in which requests reached it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import dspex as dx
from dspex.evaluation.dataset import Dataset, load
from dspex.lm.spend import Budget
from dspex.program.context import ledger, using
from dspex.stores.memory import MemoryEventStore
from dspex.study.loop import optimize_async
from dspex.study.progress import Progress, Watcher
from dspex.study.report import Report
from dspex.telemetry.events import Json
from dspex.testing import Fault, MockServer
from tests.study.tasks import Message, Router, Team, accuracy, messages, served

CAPACITY = 4
WIDE = 64
"""Evaluations that a study has in work: far more than the model takes."""

# Whoever waits gets every second slot; requests on several connections may pass each other on the way.
NEAR = 4 * CAPACITY

# What these depend on is which attempt failed, and how many did; the result must not.
VOLATILE = ("seconds", "cache_hits", "study", "attempts", "repeats_after_crash", "spent", "failures")


def rows(name: str, count: int = 120) -> Dataset[Message, Team]:
    """The task's messages, so that requests tell whose they are."""
    return load(
        [{"text": f"{name}: {example.input.text}", "team": example.want.team} for example in messages(count)],
        Message,
        Team,
    )


def asked_by(server: MockServer, names: Sequence[str]) -> list[str]:
    """Who made each evaluation's request, in the order of arrival: of examples in one prompt, the last counts."""
    found: list[str] = []
    for request in server.requests:
        places = {name: request.text.rfind(f"{name}: my") for name in names}
        last = max(places, key=lambda name: places[name])
        if places[last] >= 0:
            found.append(last)
    return found


async def study(
    name: str, lm: dx.LM, width: int | None = WIDE, calls: int = 260, progress: Watcher | None = None
) -> Report:
    best = await optimize_async(
        Router(),
        rows(name),
        accuracy,
        budget=Budget(calls=calls),
        lm=lm,
        concurrency=width,
        progress=progress,
        store=MemoryEventStore(),
        study_id=name,
    )
    return best.study.report


def model(server: MockServer, **options: Any) -> dx.LM:
    settings: dict[str, Any] = {"concurrency": CAPACITY, **options}
    return dx.LM("openai/mock", server.url, api_key="x", cache="off", **settings)


async def test_two_studies_take_turns_however_many_evaluations_each_has_in_work() -> None:
    with MockServer(served) as server:
        lm = model(server)
        await asyncio.gather(study("wide", lm), study("narrow", lm, width=2 * CAPACITY))
        order = asked_by(server, ("wide", "narrow"))
    both = order[: min(len(order) - order[::-1].index(name) for name in ("wide", "narrow"))]
    # First come, first served would give the wide one eight times as much.
    assert both.count("wide") < 2 * both.count("narrow")
    assert both.count("narrow") < 2 * both.count("wide")
    assert len(both) > 200


async def test_a_serving_program_waits_for_no_study() -> None:
    with MockServer(served) as server:
        lm = model(server)
        searching = asyncio.ensure_future(study("study", lm))
        program = Router()
        with using(lm=lm):
            # One after the other, as a user's requests come.
            for number in range(30):
                await program(Message(text=f"serving: my parcel number {number}"))
        assert not searching.done()
        await searching
        order = asked_by(server, ("study", "serving"))
    places = [place for place, name in enumerate(order) if name == "serving"]
    assert max(later - earlier for earlier, later in pairwise(places)) <= NEAR


async def test_calls_of_a_higher_priority_go_before_all_evaluations() -> None:
    with MockServer(served) as server:
        lm = model(server)
        program, busy = Router(), asyncio.Event()

        def watch(progress: Progress) -> None:
            if progress.phase == "search" and progress.done >= 100:
                busy.set()

        with using(priority=-1):
            searching = asyncio.ensure_future(study("study", lm, calls=1_000, progress=watch))
        await busy.wait()
        with using(lm=lm):
            await program(Message(text="serving: my parcel number 0"))
            batch = [program(Message(text=f"serving: my parcel number {number}")) for number in range(1, 61)]
            await asyncio.gather(*batch)
        assert not searching.done()
        await searching
        order = asked_by(server, ("study", "serving"))
    places = [place for place, name in enumerate(order) if name == "serving"]
    between = order[places[0] : places[-1]].count("study")
    assert between <= NEAR


async def test_a_study_is_a_tenant_of_its_own_unless_the_caller_names_one() -> None:
    with MockServer(served) as server, ledger() as opened:
        lm = model(server)
        own = await study("one", lm)
        with using(tenant="acme"):
            theirs = await study("two", lm)
    by_tenant = opened.by("tenant")
    assert {name: entry.attempts for name, entry in by_tenant.items()} == {"one": own.attempts, "acme": theirs.attempts}


def stable(report: Report) -> Mapping[str, Json]:
    found = {name: value for name, value in report.as_json().items() if name not in VOLATILE}
    return cast("Mapping[str, Json]", json.loads(json.dumps(found)))


AMPLE = 4_000
"""Calls that no study here uses up. Hedges and retries are calls too, so that a budget that binds, binds earlier."""


async def test_result_does_not_depend_on_a_limit_that_is_found_while_it_runs() -> None:
    with MockServer(served) as server:
        fixed = await study("s", model(server), calls=AMPLE)
    with MockServer(served, capacity=6, queue=0, overload=429) as server:
        found = await study("s", model(server, concurrency="auto"), width=None, calls=AMPLE)
        assert server.most_served <= 6
    assert fixed.stopped_because == "the space is exhausted"
    assert stable(found) == stable(fixed)


async def test_result_does_not_depend_on_hedges() -> None:
    with MockServer(served) as server:
        plain = await study("s", model(server), calls=AMPLE)
    slow = (Fault("slow", delay=0.2, share=0.02),)
    with MockServer(served, faults=slow) as server:
        hedged = await study("s", model(server, hedge=True), calls=AMPLE)
    assert hedged.attempts > plain.attempts
    # Both attempts at a straggler may be answered, and paid.
    paid = {"calls": 0, "tokens": 0, "usd": 0}
    assert {**stable(hedged), **paid} == {**stable(plain), **paid}


async def test_study_goes_on_with_the_fallback_when_the_breaker_is_open() -> None:
    with MockServer(faults=(Fault("status", status=500),)) as broken, MockServer(served) as server:
        lm = model(broken, fallback=(model(server),), retries=0)
        report = await study("s", lm, calls=2_000)
        asked = len(broken.requests)
    assert report.status == "complete"
    assert report.held_out["before"].n > 0
    # The breaker opened: most calls went to the fallback without asking the broken server first.
    assert asked < report.calls / 2
