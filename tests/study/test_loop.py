"""Studies from beginning to end on a scripted model."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Mapping
from typing import Any, cast

import pytest

import dspex.study.loop as loop
from dspex.errors import DataError, DspexError, NoLMError, ResumeRefused, StudyError, UsageError
from dspex.lm.spend import Budget, Spend
from dspex.lm.types import LMRequest
from dspex.optimizers import names
from dspex.program.context import using
from dspex.program.modules import ChainOfThought, Predict
from dspex.program.program import Program
from dspex.program.schema import Schema
from dspex.stores.memory import MemoryEventStore
from dspex.stores.protocol import Event
from dspex.study.progress import Progress
from dspex.study.report import Report
from dspex.study.resume import History
from dspex.study.stop import StopToken
from dspex.telemetry.events import AttemptFailed, AttemptStarted, Json, StudyEvent, to_dict
from dspex.testing import ScriptedLM
from tests.study.tasks import Message, Router, Team, accuracy, messages, model, scripted, text_of

VOLATILE = ("seconds", "cache_hits", "study", "attempts", "repeats_after_crash", "spent", "failures")


def stable(report: Report) -> Mapping[str, Json]:
    """What must not depend on timing."""
    found = {name: value for name, value in report.as_json().items() if name not in VOLATILE}
    return cast("Mapping[str, Json]", json.loads(json.dumps(found)))


async def study(seed: int = 0, calls: int = 400, rows: int = 160, **options: Any) -> Router:
    options.setdefault("lm", model())
    options.setdefault("store", MemoryEventStore())
    return await loop.optimize_async(
        Router(), messages(rows), accuracy, budget=Budget(calls=calls), seed=seed, study_id="s", **options
    )


def jittery(seed: int) -> ScriptedLM:
    """The same answers after random numbers of turns of the event loop."""
    rng = random.Random(seed)

    async def answer(request: LMRequest) -> Mapping[str, object]:
        for _ in range(rng.randrange(12)):
            await asyncio.sleep(0)
        return scripted(request)

    return ScriptedLM(answer, fingerprint="tests.study.tasks")


async def test_study_improves_and_reports_when_demonstrations_help() -> None:
    lm = model()
    best = await study(lm=lm, calls=600, rows=300)
    assert type(best) is Router
    report = best.study.report
    assert report.status == "complete"
    assert report.held_out["after"].mean > report.held_out["before"].mean + 0.2
    assert report.gain is not None
    assert report.gain.low > 0
    assert report.calls == lm.calls <= 600
    assert report.calls > 500
    assert set(report.baselines) == {"majority", "nearest_neighbour"}
    assert sum(report.labels["want"].values()) == report.held_out["after"].n
    with using(lm=lm):
        assert (await best(Message(text="my parcel and box number 7"))).team == "delivery"


async def test_result_is_the_same_for_every_concurrency_and_latency() -> None:
    reports = [stable((await study(concurrency=width)).study.report) for width in (1, 4, 32)]
    for seed, width in enumerate((3, 8, 32)):
        reports += [stable((await study(lm=jittery(seed), concurrency=width)).study.report)]
    assert all(report == reports[0] for report in reports)


async def test_other_seed_gives_another_study() -> None:
    assert stable((await study(seed=1)).study.report) != stable((await study(seed=2)).study.report)


async def test_parts_share_no_input_and_demonstrations_come_from_train_alone() -> None:
    best = await study()
    splits = cast("Mapping[str, Mapping[str, Json]]", best.study.report.splits)
    assert len({str(part["hash"]) for part in splits.values()}) == 3
    settled = [event for event in best.study.events() if event.kind == "evaluation.settled"]
    by_part: dict[str, set[str]] = {}
    for event in settled:
        by_part.setdefault(str(event.payload["part"]), set()).add(str(event.payload["example"]))
    assert not by_part["validation"] & by_part["held_out"]


async def test_held_out_is_evaluated_after_the_search_alone() -> None:
    best = await study()
    parts = [str(event.payload["part"]) for event in best.study.events() if event.kind == "evaluation.settled"]
    first = parts.index("held_out")
    assert set(parts[first:]) == {"held_out"}


async def test_attempts_are_durable_before_the_request_and_committed_after() -> None:
    best = await study()
    open_: dict[int, str] = {}
    for event in best.study.events():
        if event.kind == "attempt.started":
            open_[event.id] = str(event.payload["key"])
        elif event.kind == "call.committed":
            assert open_.pop(cast(int, event.payload["attempt"])) == event.payload["key"]
    assert not open_


@pytest.mark.parametrize("rows", [0, 1, 2])
async def test_data_error_when_data_are_too_few(rows: int) -> None:
    with pytest.raises(DataError) as caught:
        await loop.optimize_async(
            Router(),
            [{"text": f"my bug {n}", "team": "tech"} for n in range(rows)],
            accuracy,
            budget=Budget(calls=100),
            lm=model(),
            store=MemoryEventStore(),
        )
    assert caught.value.code in ("DX5110", "DX5201")


async def test_budget_refused_with_the_minimum_when_too_small() -> None:
    lm, store = model(), MemoryEventStore()
    with pytest.raises(StudyError) as caught:
        await study(calls=30, lm=lm, store=store)
    assert caught.value.code == "DX6203"
    least = int(re.findall(r"\d+", cast(str, caught.value.fix))[0])
    assert lm.calls == 0
    assert not store.streams()
    best = await study(calls=least)
    assert best.study.report.status == "complete"
    assert best.study.report.calls <= least


async def test_study_error_when_budget_has_no_cap() -> None:
    with pytest.raises(StudyError) as caught:
        await loop.optimize_async(Router(), messages(60), accuracy, lm=model(), store=MemoryEventStore())
    assert caught.value.code == "DX6203"
    with pytest.raises(UsageError):
        Budget(calls=0)


async def test_budget_holds_in_tokens() -> None:
    lm = model()
    best = await loop.optimize_async(
        Router(), messages(120), accuracy, budget=Budget(tokens=30_000), lm=lm, store=MemoryEventStore()
    )
    assert best.study.report.tokens <= 30_000
    assert best.study.report.held_out["after"].n == best.study.report.held_out["before"].n


@pytest.mark.parametrize("kind", ["raises", "nan", "none"])
async def test_study_ends_early_with_the_reason_when_metric_fails(kind: str) -> None:
    def metric(got: Team, want: Team) -> float:
        if kind == "raises":
            raise KeyError("team")
        return float("nan") if kind == "nan" else cast(float, None)

    lm, store = model(), MemoryEventStore()
    with pytest.raises(StudyError) as caught:
        await loop.optimize_async(
            Router(), messages(160), metric, budget=Budget(calls=400), lm=lm, store=store, study_id="s", concurrency=4
        )
    assert caught.value.code == "DX6212"
    assert ": DX5" in caught.value.message
    assert lm.calls < 30
    assert [event.kind for event in store.read("s")][-1] == "study.stopped"


async def test_failing_examples_count_as_the_policy_says() -> None:
    def metric(got: Team, want: Team) -> float:
        if want.team == "tech":
            raise ValueError("no verdict")
        return float(got.team == want.team)

    async def run(policy: Any) -> Report:
        best = await loop.optimize_async(
            Router(),
            messages(160),
            metric,
            budget=Budget(calls=400),
            lm=model(),
            store=MemoryEventStore(),
            on_failure=policy,
        )
        return best.study.report

    worst, excluded = await run("worst"), await run("exclude")
    assert worst.held_out["before"].n > excluded.held_out["before"].n
    with pytest.raises(StudyError) as caught:
        await run("stop")
    assert caught.value.code == "DX6213"


async def test_study_fails_and_can_be_resumed_when_model_is_down() -> None:
    from dspex.errors import ConnectError

    down = True

    def answer(request: LMRequest) -> Mapping[str, object]:
        if down:
            raise ConnectError("DX4101", "connection refused")
        return scripted(request)

    store = MemoryEventStore()
    with pytest.raises(StudyError) as caught:
        await study(lm=ScriptedLM(answer, fingerprint="a"), store=store)
    assert caught.value.code == "DX6211"
    assert "dspex study resume s" in cast(str, caught.value.fix)
    down = False
    lm = ScriptedLM(answer, fingerprint="a")
    best = await loop.resume_async("s", Router(), messages(160), accuracy, lm=lm, store=store)
    assert {**stable(best.study.report), "failures": 0} == {**stable((await study()).study.report), "failures": 0}


async def test_resume_of_a_finished_study_gives_its_report_without_a_call() -> None:
    store = MemoryEventStore()
    first = await study(store=store)
    lm = model()
    again = await loop.resume_async("s", Router(), messages(160), accuracy, lm=lm, store=store)
    assert again.study.report.as_json() == first.study.report.as_json()
    assert again.config == first.config
    assert lm.calls == 0


async def test_resume_is_refused_with_a_diff_when_something_changed() -> None:
    store = MemoryEventStore()
    await study(store=store, stop=_requested())

    def other(got: Team, want: Team) -> float:
        return 1.0

    with pytest.raises(ResumeRefused) as caught:
        await loop.resume_async("s", Router(), messages(161), other, lm=model(), store=store)
    assert caught.value.code == "DX6202"
    for word in ("data", "metric", "rows", "accuracy", "other"):
        assert word in caught.value.message
    assert "program" not in caught.value.message
    best = await loop.resume_async("s", Router(), messages(161), other, lm=model(), store=store, accept_changes=True)
    assert best.study.report.status == "complete"


def _requested() -> StopToken:
    token = StopToken()
    token.request("test")
    return token


async def test_interrupted_study_drains_reports_and_resumes_to_the_same_result() -> None:
    store, token = MemoryEventStore(), StopToken()

    def watch(progress: Progress) -> None:
        if progress.done == 150:
            token.request("ctrl-c")

    lm = model()
    first = await study(store=store, stop=token, progress=watch, lm=lm)
    report = first.study.report
    assert (report.status, report.stopped_because) == ("interrupted", "ctrl-c")
    assert "after" not in report.held_out
    assert "after" in report.validation
    bought = lm.calls
    best = await loop.resume_async("s", Router(), messages(160), accuracy, lm=lm, store=store)
    assert stable(best.study.report) == stable((await study()).study.report)
    assert lm.calls == best.study.report.calls > bought


async def test_second_stop_cancels_what_is_in_flight() -> None:
    token, hanging = StopToken(), asyncio.Event()

    async def answer(request: LMRequest) -> Mapping[str, object]:
        hanging.set()
        await asyncio.Event().wait()
        return {}

    work = asyncio.ensure_future(study(lm=ScriptedLM(answer), stop=token))
    await hanging.wait()
    token.request("first")
    token.request("second")
    best = await work
    assert best.study.report.status == "interrupted"


async def test_study_error_when_two_work_on_one_study() -> None:
    store = MemoryEventStore()
    await study(store=store, stop=_requested())
    with store.lock("s"), pytest.raises(StudyError) as caught:
        await loop.resume_async("s", Router(), messages(160), accuracy, lm=model(), store=store)
    assert caught.value.code == "DX6105"
    with pytest.raises(StudyError) as caught:
        await loop.resume_async("nope", Router(), messages(160), accuracy, lm=model(), store=store)
    assert caught.value.code == "DX6201"
    with pytest.raises(StudyError) as caught:
        await study(store=store)
    assert caught.value.code == "DX6207"


async def test_wall_clock_stop_is_an_event_and_the_study_still_reports() -> None:
    async def answer(request: LMRequest) -> Mapping[str, object]:
        await asyncio.sleep(0.02)
        return scripted(request)

    store = MemoryEventStore()
    best = await loop.optimize_async(
        Router(), messages(90), accuracy, budget=Budget(wall=0.7), lm=ScriptedLM(answer), store=store, concurrency=4
    )
    stopped = [event for event in best.study.events() if event.kind == "study.stopped"]
    assert [event.payload["reason"] for event in stopped] == ["wall"]
    assert best.study.report.stopped_because == "the time is over"
    assert best.study.report.held_out["after"].n > 0


async def test_log_keeps_no_text_when_content_is_off() -> None:
    store = MemoryEventStore()
    first = await study(store=store, content="off")
    text = json.dumps([dict(event.payload) for event in store.read("s")])
    assert "parcel" not in text
    instruction = first.route.settings.instruction
    assert instruction.split(".")[0] not in text
    again = await loop.resume_async("s", Router(), messages(160), accuracy, lm=model(), store=store)
    assert again.config == first.config


async def test_log_that_cannot_be_written_ends_the_study_and_keeps_what_is_there() -> None:
    class Full(MemoryEventStore):
        left = 200

        def append(
            self, stream: str, kind: str, payload: Mapping[str, Json], durable: bool = True
        ) -> asyncio.Future[int]:
            self.left -= 1
            if self.left < 0:
                failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
                failed.set_exception(StudyError("DX6101", "the disk is full"))
                if not durable:
                    failed.exception()
                return failed
            return super().append(stream, kind, payload, durable)

    store = Full()
    with pytest.raises(StudyError) as caught:
        await study(store=store)
    assert caught.value.code == "DX6101"
    kept = list(store.read("s"))
    assert len(kept) >= 199
    store.left = 1 << 30
    best = await loop.resume_async("s", Router(), messages(160), accuracy, lm=model(), store=store)
    assert stable(best.study.report) == stable((await study()).study.report)


class Question(Schema):
    """A question."""

    question: str


class Topic(Schema):
    """Words to search for."""

    topic: str


class Reply(Schema):
    """A short answer."""

    answer: str


class Chain(Program[Question, Reply]):
    """Two steps, of which only the last has labels."""

    topic = Predict(Question, Topic)
    reply = ChainOfThought(Topic, Reply)

    async def __call__(self, x: Question) -> Reply:
        return await self.reply(await self.topic(x))


def _chained(request: LMRequest) -> Mapping[str, object]:
    if "instruction" in request.output_fields:
        return {"instruction": "Think before you answer."}
    text = text_of(request)
    if "topic" in request.output_fields:
        return {"topic": "about " + text.strip()[-12:]}
    return {"reasoning": "because", "answer": "yes" if text.count("about") > 1 or "even" in text else "no"}


async def test_inner_modules_get_bootstrapped_demonstrations_with_reasoning() -> None:
    rows = [{"question": f"{n} {'even' if n % 2 == 0 else 'odd'}", "answer": "yes"} for n in range(120)]

    def right(got: Reply, want: Reply) -> float:
        return float(got.answer == want.answer)

    store = MemoryEventStore()
    best = await loop.optimize_async(
        Chain(), rows, right, budget=Budget(calls=900), lm=ScriptedLM(_chained), store=store, study_id="s"
    )
    made = [event.payload for event in store.read("s", kinds=["proposal.made"])]
    booted = [payload for payload in made if payload["proposer"] == "bootstrap"]
    assert {str(payload["variable"]) for payload in booted} == {"topic.demos", "reply.demos"}
    assert '"reasoning": "because"' in json.dumps([payload["member"] for payload in booted])
    assert best.study.report.held_out["after"].mean == 1.0


async def test_progress_says_phase_spending_and_what_is_left() -> None:
    seen: list[Progress] = []
    await study(progress=seen.append)
    assert list(dict.fromkeys(p.phase for p in seen)) == ["propose", "search", "held-out"]
    assert seen[-1].left.calls is not None
    assert seen[-1].spent.calls + seen[-1].left.calls == 400
    assert seen[-1].best is not None


def test_optimize_works_from_plain_code_and_through_the_method() -> None:
    best = loop.optimize(
        Router, messages(120), accuracy, budget=Budget(calls=300), lm=model(), store=MemoryEventStore()
    )
    assert best.study.report.status == "complete"


@pytest.mark.parametrize("strategy", [name for name in names() if name != "auto"])
async def test_every_optimizer_can_search(strategy: str) -> None:
    best = await study(strategy=strategy)
    assert best.study.report.status == "complete"
    assert best.study.report.gain is not None
    assert best.study.report.gain.low > 0


async def test_unknown_strategy_or_policy_is_an_error() -> None:
    for name in ("strategy", "on_failure", "content"):
        options: dict[str, Any] = {name: "none of them"}
        with pytest.raises(DspexError):
            await study(**options)
    with pytest.raises(DspexError, match=r"DX4501 a budget is a dx\.Budget, got 300"):
        await loop.optimize_async(Router(), messages(60), accuracy, budget=cast("Any", 300), lm=model())
    with pytest.raises(DspexError, match="DX6210 a seed is a whole number, got 'one'"):
        await study(seed=cast("Any", "one"))


async def test_no_study_is_begun_without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSPEX_LM", raising=False)
    store = MemoryEventStore()
    with pytest.raises(NoLMError):
        await loop.optimize_async(Router(), messages(120), accuracy, budget=Budget(calls=400), store=store)
    assert not store.streams()


async def test_a_failure_never_beats_a_score_when_scores_are_negative() -> None:
    def minus_length(got: Team, want: Team) -> float:
        if got.team == "tech":
            raise ValueError("no tech here")
        return -5.0 if got.team != want.team else -1.0

    best = await loop.optimize_async(
        Router(), messages(120), minus_length, budget=Budget(calls=600), lm=model(), store=MemoryEventStore()
    )
    report = best.study.report
    assert report.held_out["before"].low >= -5.0
    assert report.held_out["before"].mean < -1.0


async def test_known_failures_do_not_widen_the_budget_of_a_resumed_study() -> None:
    events: list[Event] = []

    def add(event: StudyEvent) -> int:
        events.append(Event(len(events) + 1, "s", event.kind, to_dict(event), 0.0))
        return len(events)

    for n in range(20):
        attempt = add(AttemptStarted(f"k{n}", "m", 1, 1000, 500, 0.01))
        add(AttemptFailed(attempt, f"k{n}", "DX4203", "429", True, "yes", False, 1))
    unknown = add(AttemptStarted("reset", "m", 1, 1000, 500, 0.01))
    add(AttemptFailed(unknown, "reset", "DX4204", "reset", True, "maybe", True))
    add(AttemptStarted("open", "m", 1, 1000, 500, 0.01))
    history = History.of(events)
    assert history.refused.calls == 20
    assert history.uncertain == Spend(2, 2000, 1000, 0.02)
    assert history.crashed == Spend(1, 1000, 500, 0.01)
