"""The pieces of a study, each on its own."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import deque
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import StudyError
from dspex.evaluation.statistics import Gain, Interval
from dspex.lm.spend import NOTHING, Budget, Spend
from dspex.lm.types import LMResponse, Usage
from dspex.program.demos import Demo, DemoSet
from dspex.stores.codec import response_to_json
from dspex.stores.memory import MemoryEventStore
from dspex.study.bracket import entrants_for, race_cost
from dspex.study.calibration import fitted_prior, label_shares
from dspex.study.journal import StudyJournal, StudyLog
from dspex.study.ledger import Caps, Ledger
from dspex.study.plan import make_plan
from dspex.study.report import Prompt, Report
from dspex.study.resume import History, compare
from dspex.study.schedule import Admission, in_order
from dspex.study.stop import StopToken
from dspex.study.strategy import ModuleNames, Seeds, is_zero_shot
from dspex.telemetry.events import Json, StudyCreated
from tests.study.tasks import Router, messages


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 40), st.integers(1, 9), st.randoms(use_true_random=False))
def test_results_come_in_the_order_of_the_jobs_and_within_the_width(count: int, width: int, rng: random.Random) -> None:
    running, most, started = 0, 0, list[int]()

    async def run(job: int) -> int:
        nonlocal running, most
        started.append(job)
        running += 1
        most = max(most, running)
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
        running -= 1
        return job * 2

    async def main() -> list[tuple[int, int]]:
        return [pair async for pair in in_order(deque(range(count)), run, width=lambda: width, admit=lambda _: "start")]

    assert asyncio.run(main()) == [(job, job * 2) for job in range(count)]
    assert started == list(range(count))
    assert most <= width


async def test_schedule_waits_for_a_result_and_stops_when_nothing_is_under_way() -> None:
    taken: list[int] = []

    def admit(job: int) -> Admission:
        return "start" if job == 0 or (job == 1 and taken == [0]) else "wait"

    async def run(job: int) -> int:
        await asyncio.sleep(0)
        return job

    async for job, _ in in_order(deque(range(4)), run, width=lambda: 2, admit=admit):
        taken.append(job)
    assert taken == [0, 1]


async def test_schedule_cancels_what_runs_when_a_job_fails() -> None:
    cancelled: list[int] = []

    async def run(job: int) -> None:
        if job == 0:
            raise ValueError("first")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(job)
            raise

    with pytest.raises(ValueError, match="first"):
        async for _ in in_order(deque(range(4)), run, width=lambda: 3, admit=lambda _: "start"):
            pass
    assert cancelled == [1, 2]


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9), max_size=4), max_size=12))
def test_ledger_charges_every_call_once(charges: list[dict[str, int]]) -> None:
    ledger = Ledger(Caps(calls=100))
    priced = [{key: Spend(1, cost, 0, 0.5) for key, cost in charge.items()} for charge in charges]
    for charge in priced:
        ledger.charge(charge)
    first: dict[str, Spend] = {}
    for charge in priced:
        for key, spend in charge.items():
            first.setdefault(key, spend)
    assert ledger.spent == sum(first.values(), NOTHING)


def test_ledger_keeps_clear_of_what_is_set_aside() -> None:
    ledger = Ledger(Caps(calls=10, tokens=1_000))
    ledger.aside = Spend(6)
    assert ledger.fits(Spend(4))
    assert not ledger.fits(Spend(5))
    assert not ledger.fits(Spend(1, 1_001))
    ledger.started = Spend(3)
    assert not ledger.fits_now(Spend(2))
    assert ledger.evaluations_left(Spend(2, 100)) == 2


@given(st.integers(0, 2_000), st.integers(1, 20), st.integers(1, 200), st.integers(1, 30))
def test_race_fits_its_evaluations(left: int, first: int, examples: int, most: int) -> None:
    count = entrants_for(left, first, examples, most)
    assert 0 <= count <= most
    if count > 1:
        assert race_cost(count, first, examples) <= left
    if 0 < count < most:
        assert race_cost(count + 1, first, examples) > left


async def _journalled() -> MemoryEventStore:
    """Three attempts: one answered, one failed unsent, one in flight; then a resume that sends the last again."""
    store = MemoryEventStore()
    log = StudyLog(store, "s", "full")
    journal = StudyJournal(log, History())
    first = journal.started("a", "m", Spend(1, 10, 5, 0.1))
    await first
    journal.committed(first, "a", LMResponse("yes", Usage(7, 2)), Spend(1, 7, 2, 0.05))
    await journal.started("b", "m", Spend(1, 10, 5, 0.1))
    return store


async def test_fold_counts_what_is_settled_uncertain_and_sent_again() -> None:
    store = await _journalled()
    history = History.of(store.read("s"))
    assert history.settled == Spend(1, 7, 2, 0.05)
    assert history.uncertain == Spend(1, 10, 5, 0.1)
    assert (history.in_flight, history.attempts, history.lost) == (1, 2, {"b": 1})
    journal = StudyJournal(StudyLog(store, "s", "full"), history)
    assert journal.settled("a") == LMResponse("yes", Usage(7, 2))
    assert journal.settled("b") is None
    store.append_now("s", "study.resumed", {"pid": 1, "uncertain": 1, "accepted": ()})
    again = journal.started("b", "m", Spend(1, 10, 5, 0.1))
    await again
    journal.committed(again, "b", LMResponse("no"), Spend(1))
    assert journal.repeats == 1
    later = History.of(store.read("s"))
    assert (later.repeats, later.in_flight, later.lost) == (1, 0, {})
    assert later.uncertain == Spend(1, 10, 5, 0.1)
    assert set(later.answers) == {"a", "b"}


async def test_journal_sends_nothing_more_once_the_log_is_broken() -> None:
    class Full(MemoryEventStore):
        asked = 0

        def append(
            self, stream: str, kind: str, payload: Mapping[str, Json], durable: bool = True
        ) -> asyncio.Future[int]:
            self.asked += 1
            failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            failed.set_exception(StudyError("DX6101", "the disk is full"))
            return failed

    store = Full()
    journal = StudyJournal(StudyLog(store, "s", "full"), History())
    first = journal.started("a", "m", NOTHING)
    await asyncio.wait((first,))
    journal.unsent(first, "a")
    with pytest.raises(StudyError, match="the disk is full"):
        journal.started("b", "m", NOTHING)
    assert (store.asked, journal.attempts) == (1, 0)


class Held(MemoryEventStore):
    """Tells that events are durable when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[asyncio.Future[int], int]] = []

    def append(self, stream: str, kind: str, payload: Mapping[str, Json], durable: bool = True) -> asyncio.Future[int]:
        if not durable:
            return super().append(stream, kind, payload, durable)
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.held.append((waiting, self.append_now(stream, kind, payload)))
        return waiting

    def release(self) -> None:
        for waiting, number in self.held:
            waiting.set_result(number)
        self.held.clear()


@pytest.mark.parametrize("early", [True, False])
async def test_an_attempt_that_was_not_sent_is_none(early: bool) -> None:
    store = Held()
    journal = StudyJournal(StudyLog(store, "s", "full"), History())
    sent, unsent = (journal.started(key, "m", Spend(1, 10, 5, 0.1)) for key in "ab")
    assert journal.attempts == 2
    if early:
        journal.unsent(unsent, "b")
    store.release()
    await asyncio.gather(sent, unsent)
    if not early:
        journal.unsent(unsent, "b")
    # What waits for the number of an attempt is told of it in the loop's next pass.
    await asyncio.sleep(0)
    history = History.of(store.read("s"))
    assert (history.attempts, journal.attempts, history.failures) == (1, 1, {})
    assert (history.uncertain, history.lost) == (Spend(1, 10, 5, 0.1), {"a": 1})


async def test_fold_reads_no_answers_that_were_not_kept() -> None:
    store = MemoryEventStore()
    journal = StudyJournal(StudyLog(store, "s", "hash"), History())
    attempt = journal.started("a", "m", Spend(1))
    await attempt
    journal.committed(attempt, "a", LMResponse("secret"), Spend(1, 3, 4))
    assert "secret" not in json.dumps([dict(event.payload) for event in store.read("s")])
    history = History.of(store.read("s"))
    assert (history.answers, history.unread, history.costs) == ({}, 1, {"a": Spend(1, 3, 4)})


def test_comparison_names_what_differs() -> None:
    def created(program: str, numpy: str, text: str) -> StudyCreated:
        details: dict[str, Json] = {"program": {"route.instruction": text}}
        return StudyCreated("s", program, "d", "m", 0, "auto", {"numpy": numpy}, {}, {}, details)

    assert compare(created("p", "2.0", "x"), created("p", "2.0", "x")) == []
    lines = compare(created("p", "2.0", "x"), created("q", "2.1", "y"))
    assert any("route.instruction: x when it began, y now" in line for line in lines)
    assert any("numpy: 2.0 when it began, 2.1 now" in line for line in lines)


@given(
    st.lists(st.lists(st.floats(-20, 0), min_size=3, max_size=3), min_size=1, max_size=20),
    st.lists(st.floats(-50, 50), min_size=20, max_size=20),
)
def test_prior_does_not_depend_on_how_scores_are_normalised(rows: list[list[float]], shifts: list[float]) -> None:
    shifted = [[score + shift for score in row] for row, shift in zip(rows, shifts, strict=False)]
    first, second = fitted_prior(rows), fitted_prior(shifted)
    assert first is not None
    assert second is not None
    assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(first, second, strict=True))


def test_prior_makes_answers_as_frequent_as_the_labels() -> None:
    rng = random.Random(0)
    rows = [[rng.gauss(0, 1) - 5.0, rng.gauss(0, 1), rng.gauss(0, 1) - 2.0] for _ in range(400)]
    prior = fitted_prior(rows, label_shares({"a": 200, "b": 100, "c": 100}, ("a", "b", "c")))
    assert prior is not None
    corrected = [[score - bias for score, bias in zip(row, prior, strict=True)] for row in rows]
    best = [row.index(max(row)) for row in corrected]
    assert best.count(0) > best.count(1) > 60
    assert fitted_prior([]) is None
    assert fitted_prior([[float("-inf"), 0.0]]) is None


def test_plan_fits_parts_to_the_budget_and_takes_a_given_held_out_part_whole() -> None:
    data = messages(400)
    small = make_plan(data, None, Budget(calls=200), 0, 1)
    assert 20 <= len(small.held_out) <= 200 // 6 + 1
    large = make_plan(data, None, Budget(calls=5_000), 0, 1)
    assert len(large.held_out) == len(large.split.held_out) > 100
    known = {example.input_hash for example in data}
    theirs = messages(90, seed=9)
    theirs = theirs.but([example for example in theirs if example.input_hash not in known])
    assert len(make_plan(data, theirs, Budget(calls=400), 0, 1).held_out) == len(theirs) > 60
    with pytest.raises(StudyError) as caught:
        make_plan(data, theirs, Budget(calls=100), 0, 1)
    assert caught.value.code == "DX6203"


def test_seeds_begin_with_the_default_and_stay_in_the_space() -> None:
    from dspex.proposers.proposal import Proposal

    program = Router()
    demos = DemoSet([Demo({"text": "a"}, {"team": "tech"})], "one")
    program = program.with_pools({"route.demos": [demos]})
    names = [ModuleNames.of(module, program.space) for module in program.modules().values()]
    groups = [[Proposal("route.demos", demos, "labelled")]]
    seeds = Seeds(program.space, program.config, names, groups, {}).all()
    assert seeds[0].overrides == {}
    configs = [{**program.config, **seed.overrides} for seed in seeds]
    assert len({program.space.identity(config) for config in configs}) == len(configs) > 5
    for config in configs:
        program.bind(config)
    zero = [config for config in configs if is_zero_shot(config, program.config, names)]
    assert zero[0] == program.config
    assert all(config["route.demos"] != demos for config in zero)
    frozen: dict[str, object] = {"route.format": "chat", "route.scoring": "generate"}
    kept = Seeds(program.space, program.config, names, groups, frozen).all()
    assert all(not set(seed.overrides) & set(frozen) for seed in kept)


def _report() -> Report:
    return Report(
        study="s",
        seed=3,
        strategy="auto",
        held_out={"before": Interval(0.2, 0.1, 0.3, 90), "after": Interval(0.7, 0.6, 0.8, 90)},
        gain=Gain(0.5, 0.4, 0.6, 0.0001),
        baselines={"majority": Interval(0.17, 0.1, 0.2, 90)},
        labels={"before": {"a<b": 60}, "want": {"a<b": 30}},
        warnings=("<script>alert(1)</script>",),
        calls=5,
        settled=Spend(5, 10, 2, 0.5),
        configuration={"route.k": 3},
        prompts=(Prompt("route", "Say <b>", "x -> y", {"format": "chat"}),),
        search={"trials": 4},
    )


def test_report_survives_json() -> None:
    report = _report()
    text = json.dumps(report.as_json())
    again = Report.from_json(cast("Mapping[str, Json]", json.loads(text)))
    assert again.as_json() == report.as_json()
    assert json.loads(text)["held_out"]["zero_shot"] is None
    assert json.loads(text)["gain"] == {"mean": 0.5, "low": 0.4, "high": 0.6, "p_value": 0.0001}


def test_report_as_text_is_short_and_says_the_scores() -> None:
    text = _report().as_text()
    assert len(text.splitlines()) <= 60
    assert "0.700 [0.600, 0.800]" in text
    assert "+0.500" in text


def test_report_as_html_is_sound_and_escaped() -> None:
    page = _report().as_html()
    open_: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag != "script"
            if tag not in ("meta", "rect"):
                open_.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag != "rect":
                assert open_.pop() == tag

    Checker().feed(page)
    assert not open_
    assert "Say &lt;b&gt;" in page
    assert "http" not in page


def test_stop_token_tells_its_listeners_and_the_second_request_cancels() -> None:
    token, told = StopToken(), list[bool]()
    remove = token.listen(lambda: told.append(token.cancelled))
    token.request("a")
    token.request("b")
    remove()
    token.cancel()
    assert (token.reason, told) == ("a", [False, True])


def test_answers_are_kept_as_they_were() -> None:
    response = LMResponse("x", Usage(1, 2), choice_logprobs=(-0.5, -1.0))
    assert cast("Mapping[str, Json]", response_to_json(response))["text"] == "x"
