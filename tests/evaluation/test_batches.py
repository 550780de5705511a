"""Evaluations whose calls go as batches: over real sockets, through kills, and accounted to the cent."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspex.compiler import compile as compile_program
from dspex.errors import BudgetExceeded, DataError, DspexError, StudyError, UsageError
from dspex.evaluation.evaluation import Evaluation, evaluate, evaluate_async
from dspex.executor import models
from dspex.executor.batches import Batches, cancel_batch
from dspex.executor.budget import BudgetAccount
from dspex.executor.deferral import deferring
from dspex.executor.models import gate_for
from dspex.lm.model import LM
from dspex.lm.spend import Budget
from dspex.lm.types import LMResponse, Price, Usage
from dspex.program.context import ledger
from dspex.program.modules import Predict
from dspex.program.program import Program
from dspex.program.schema import Schema
from dspex.stores.sqlite import SqliteEventStore
from dspex.testing import Fault, MockRequest, MockServer, ScriptedLM
from dspex.testing.request import Trouble

PRICE = Price(1.0, 2.0)
PROVIDERS = ["openai", "openai-responses", "azure", "anthropic"]


class Ask(Schema):
    question: str


class Draft(Schema):
    draft: str


class Answer(Schema):
    answer: str


class TwoSteps(Program[Ask, Answer]):
    def __init__(self) -> None:
        self.think = Predict(Ask, Draft)
        self.say = Predict(Draft, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.say(await self.think(x))


def step(request: MockRequest) -> LMResponse:
    """``q3`` gives ``d3``, and that gives ``a3``, for a usage of 10 and 2 tokens."""
    word = request.text.split()[-1]
    return LMResponse({"q": "d", "d": "a"}[word[0]] + word[1:], Usage(10, 2))


ROWS = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(6)]


@pytest.fixture(autouse=True)
def fresh_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "_shared", models._Shared())  # pyright: ignore[reportPrivateUsage]
    yield
    models.response_cache().close()


def same(got: Answer, want: Answer) -> float:
    return float(got == want)


def served(server: MockServer, name: str = "openai", **options: Any) -> LM:
    url = server.url if name.startswith("openai") else server.root
    options = {"cache": "off", "price": PRICE, **options}
    return LM(f"{name}/mock", url, api_key="k", **options)


def done(tmp_path: Path, lm: LM, **options: Any) -> Evaluation[Ask, Answer]:
    quick = Batches(tmp_path / "folder", interval=0.01, quiet=0.05)
    return evaluate(TwoSteps(), options.pop("rows", ROWS), same, lm=lm, batch=quick, **options)


def mean(found: Evaluation[Ask, Answer]) -> tuple[int, float]:
    """Rows that count, and their mean."""
    assert found.score is not None
    return found.score.n, found.score.mean


def asked(server: MockServer) -> list[list[str]]:
    """What each batch asks for, in order."""
    return [[item.text.split()[-1] for item in batch.items.values()] for batch in server.batches.values()]


@pytest.mark.parametrize("name", PROVIDERS)
def test_each_step_of_a_program_is_one_batch(name: str, tmp_path: Path) -> None:
    with MockServer(step) as server:
        lm = served(server, name)
        account = BudgetAccount(Budget(usd=1.0))
        with ledger() as opened:
            found = done(tmp_path, lm, budget=account)
        assert asked(server) == [[f"q{n}" for n in range(6)], [f"d{n}" for n in range(6)]]
        assert not any(request.text for request in server.requests if "batch" not in request.path)
        plain = evaluate(TwoSteps(), ROWS, same, lm=lm)
    assert [one.score for one in found.outcomes] == [one.score for one in plain.outcomes] == [1.0] * 6
    assert found.score == plain.score
    # A server that is not the provider's own is not known to charge less for batches.
    share = 1.0 if name.startswith("openai") else 0.5
    usd = 12 * PRICE.cost(Usage(10, 2))
    assert plain.spent.usd == pytest.approx(usd)
    assert [found.spent.usd, account.settled.usd, opened.total.usd] == [pytest.approx(share * usd)] * 3
    assert (account.settled.calls, account.reserved.calls, account.uncertain.calls) == (12, 0, 0)


def test_what_a_cache_knows_and_what_is_in_the_air_goes_into_no_batch(tmp_path: Path) -> None:
    with MockServer(step) as server:
        lm = served(server, cache="on")
        evaluate(TwoSteps(), ROWS[:2], same, lm=lm)
        found = done(tmp_path, lm, rows=[*ROWS, *ROWS])
        assert asked(server) == [["q2", "q3", "q4", "q5"], ["d2", "d3", "d4", "d5"]]
        assert found.spent.calls == 8
        assert done(tmp_path, lm).spent.calls == 0
        assert len(server.batches) == 2
    assert [one.score for one in found.outcomes] == [1.0] * 12


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_request_that_fails_is_the_failure_of_its_row_and_is_asked_again_alone(name: str, tmp_path: Path) -> None:
    bad = True

    def answer(request: MockRequest) -> LMResponse | Trouble:
        return Trouble("request", message="no such thing") if bad and request.text.endswith("q1") else step(request)

    with MockServer(answer) as server:
        lm = served(server, name)
        found = done(tmp_path, lm)
        ((row, failed),) = found.failures
        assert (row.where, failed.code) == ("row 1", "DX4205")
        assert "no such thing" in str(failed.failure)
        assert mean(found)[1] == pytest.approx(5 / 6)
        assert re.search("(?s)0.8333 .* over 6 of 6 rows\n  1 failed, first row 1: DX4205", str(found))
        assert found.rows()[1]["error"] == {"code": "DX4205", "message": failed.failure}
        bad = False
        again = done(tmp_path, lm)
        assert [one.score for one in again.outcomes] == [1.0] * 6
        assert asked(server)[2:] == [["q1"], ["d1"]]


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("retries", [0, 1])
def test_what_an_expired_batch_left_is_told_or_goes_with_the_next(name: str, retries: int, tmp_path: Path) -> None:
    def expiring(server: MockServer) -> None:
        assert server.wait_until(lambda s: len(s.batches) == 1, 60)
        server.batch_polls = 0
        for batch in server.batches.values():
            batch.most, batch.waits = 4, 0

    with MockServer(step, batch_polls=10**9) as server:
        helper = threading.Thread(target=expiring, args=(server,))
        helper.start()
        account = BudgetAccount(Budget(calls=100))
        found = done(tmp_path, served(server, name, retries=retries), budget=account)
        helper.join()
        codes = [None] * 6 if retries else [None] * 4 + ["DX4215"] * 2
        assert [one.code for one in found.outcomes] == codes
        # What was not answered has cost nothing.
        assert account.settled.calls == found.spent.calls == 2 * codes.count(None)
        assert account.uncertain.calls == 0
        again = done(tmp_path, served(server, name, retries=retries))
        assert [one.code for one in again.outcomes] == [None] * 6
        assert Counter(word for batch in asked(server) for word in batch) == {
            **{f"q{n}": 1 + (n > 3) for n in range(6)},
            **{f"d{n}": 1 for n in range(6)},
        }


CHILD = """
import json, sys
from dspex.errors import DspexError
from dspex.evaluation.evaluation import evaluate
from dspex.executor.batches import Batches
from dspex.executor.budget import BudgetAccount
from dspex.lm.spend import Budget
from tests.evaluation.test_batches import LM, PRICE, ROWS, TwoSteps, same

name, url, folder = sys.argv[1:]
lm = LM(f"{name}/mock", url, api_key="k", cache="off", price=PRICE)
account = BudgetAccount(Budget(calls=100))
found = evaluate(TwoSteps(), ROWS, same, lm=lm, budget=account, batch=Batches(folder, interval=0.01, quiet=0.05))
print(json.dumps([[one.score for one in found.outcomes], account.settled.calls, account.uncertain.calls]))
"""


def child(server: MockServer, name: str, folder: Path) -> subprocess.Popen[str]:
    url = server.url if name.startswith("openai") else server.root
    command = [sys.executable, "-W", "error", "-c", CHILD, name, url, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> list[Any]:
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    return json.loads(out)


def looked_at(server: MockServer, number: int) -> bool:
    """Whether somebody waits for batch `number`."""
    names = list(server.batches)
    return len(names) > number and any(r.method == "GET" and r.path.endswith(names[number]) for r in server.requests)


@pytest.mark.parametrize("name", ["openai", "anthropic"])
@pytest.mark.parametrize("killed_in", [0, 1])
def test_a_process_killed_while_it_waits_pays_no_batch_twice(name: str, killed_in: int, tmp_path: Path) -> None:
    with MockServer(step, batch_polls=10**9) as server:
        with child(server, name, tmp_path) as process:
            for number in range(killed_in + 1):
                assert server.wait_until(lambda s, n=number: looked_at(s, n), 60)
                if number < killed_in:
                    list(server.batches.values())[number].waits = 0
            process.kill()
        server.batch_polls = 0
        for batch in server.batches.values():
            batch.waits = 0
        # What was read before is read again, and so this account has all of it as well.
        assert ended(child(server, name, tmp_path)) == [[1.0] * 6, 12, 0]
        assert asked(server) == [[f"q{n}" for n in range(6)], [f"d{n}" for n in range(6)]]


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_a_process_killed_while_it_hands_in_leaves_a_doubt_that_is_counted(name: str, tmp_path: Path) -> None:
    at = 1 if name == "openai" else 0
    with MockServer(step, batch_polls=0, faults=[Fault("hang", at=at)]) as server:
        with child(server, name, tmp_path) as process:
            assert server.wait_until(lambda s: len(s.requests) == at + 1, 60)
            process.kill()
        assert ended(child(server, name, tmp_path)) == [[1.0] * 6, 12, 6]
        assert asked(server) == [[f"q{n}" for n in range(6)], [f"d{n}" for n in range(6)]]
        # The doubt is over.
        assert ended(child(server, name, tmp_path)) == [[1.0] * 6, 12, 6]
        assert len(server.batches) == 2


def test_rows_that_wait_for_one_another_stop_nothing(tmp_path: Path) -> None:
    async def scenario(lm: LM) -> Evaluation[Ask, Answer]:
        turns = asyncio.Semaphore(4)

        class Narrow(Program[Ask, Answer]):
            def __init__(self) -> None:
                self.inner = TwoSteps()

            async def __call__(self, x: Ask, /) -> Answer:
                async with turns:
                    return await self.inner(x)

        quick = Batches(tmp_path, interval=0.01, quiet=0.05)
        return await evaluate_async(Narrow(), ROWS, same, lm=lm, batch=quick)

    with MockServer(step, batch_polls=0) as server:
        found = asyncio.run(scenario(served(server)))
        assert [one.score for one in found.outcomes] == [1.0] * 6
        assert [len(words) for words in asked(server)] == [4, 4, 2, 2]


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    async def scenario(lm: LM) -> None:
        with SqliteEventStore(tmp_path / "batches.db") as store:
            async with deferring(store):
                with pytest.raises(StudyError, match="DX6105") as refused:
                    await evaluate_async(TwoSteps(), ROWS, same, lm=lm, batch=tmp_path)
                assert refused.value.where == str(tmp_path)

    with MockServer(step) as server:
        asyncio.run(scenario(served(server)))
        assert server.requests == []


def test_a_budget_that_the_batch_could_break_hands_nothing_in_and_loses_nothing(tmp_path: Path) -> None:
    with MockServer(step) as server:
        account = BudgetAccount(Budget(calls=5))
        with pytest.raises(BudgetExceeded, match=r"(?s)DX4502.*a lower concurrency lets fewer wait"):
            done(tmp_path, served(server), budget=account)
        assert server.requests == []
        assert (account.settled.calls, account.reserved.calls, account.uncertain.calls) == (0, 0, 0)


def test_a_model_without_batches_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    lm = ScriptedLM(lambda _: "d1")
    with pytest.raises(UsageError, match="DX4711"):
        evaluate(TwoSteps(), ROWS, same, lm=lm, batch=tmp_path)
    assert lm.calls == 0

    class Mixed(TwoSteps):
        def __init__(self) -> None:
            self.think = Predict(Ask, Draft)
            self.say = Predict(Draft, Answer, lm=lm)

    with MockServer(step) as server:
        with pytest.raises(UsageError, match="DX4711"):
            done(tmp_path, served(server, fallback=(lm,)))
        for program in (Mixed(), compile_program(Mixed())):
            with pytest.raises(UsageError, match="DX4711"):
                evaluate(program, ROWS, same, lm=served(server), batch=tmp_path)
        assert server.requests == []


def test_a_metric_that_asks_the_model_waits_as_well_and_one_on_a_loop_of_its_own_does_not(tmp_path: Path) -> None:
    judge = Predict(Draft, Answer)

    async def waiting(got: Answer, want: Answer) -> float:
        return float((await judge(Draft(draft=f"d9{got.answer[1:]}"))).answer == f"a9{want.answer[1:]}")

    def blocking(got: Answer, want: Answer) -> float:
        return float(judge.run(Draft(draft=f"d8{got.answer[1:]}")).answer == f"a8{want.answer[1:]}")

    with MockServer(step, batch_polls=0) as server:
        quick = Batches(tmp_path, interval=0.01, quiet=0.05)
        found = evaluate(TwoSteps(), ROWS, waiting, lm=served(server), batch=quick)
        assert mean(found)[1] == 1.0
        assert asked(server)[2:] == [[f"d9{n}" for n in range(6)]]
        before = len(server.requests)
        found = evaluate(TwoSteps(), ROWS[:1], blocking, lm=served(server), batch=quick)
        assert mean(found)[1] == 1.0
        assert len(server.batches) == 3
        assert [r.text.split()[-1] for r in server.requests[before:] if "completions" in r.path] == ["d80"]


def test_a_server_that_refuses_a_batch_is_told_on_every_row(tmp_path: Path) -> None:
    with MockServer(step, faults=[Fault("status", status=400, message="no batches of this model")]) as server:
        account = BudgetAccount(Budget(calls=100))
        found = done(tmp_path, served(server), budget=account)
    assert {one.code for one in found.outcomes} == {"DX4205"}
    assert "no batches of this model" in str(found)
    assert mean(found)[1] == 0.0
    assert (account.settled.calls, account.uncertain.calls) == (0, 0)


def test_time_that_runs_out_is_no_failure_of_the_rows_and_costs_no_batch(tmp_path: Path) -> None:
    with MockServer(step, batch_polls=10**9) as server:
        for budget in (Budget(wall=0.5), BudgetAccount(Budget(wall=0.5))):
            with pytest.raises(BudgetExceeded, match="DX4502 the budget's wall cap"):
                done(tmp_path, served(server), budget=budget)
        server.batch_polls = 0
        for batch in server.batches.values():
            batch.waits = 0
        assert mean(done(tmp_path, served(server))) == (6, 1.0)
        assert len(server.batches) == 2


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "folder"
    with MockServer(step) as server:
        with pytest.raises(StudyError, match="DX6103") as refused:
            evaluate(TwoSteps(), ROWS, same, lm=served(server), batch=folder)
        assert server.requests == []
    assert refused.value.where == str(folder)
    assert "another folder" in str(refused.value.fix)


def test_who_is_told_of_batches_can_spoil_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(line: str) -> None:
        raise BrokenPipeError(line)

    with MockServer(step, batch_polls=0) as server:
        quick = Batches(tmp_path, interval=0.01, quiet=0.05, tell=broken)
        found = evaluate(TwoSteps(), ROWS, same, lm=served(server), batch=quick)
    assert mean(found) == (6, 1.0)
    assert "BrokenPipeError" in caplog.text


def test_batches_that_nothing_asks_for_any_more_are_told(tmp_path: Path) -> None:
    said: list[str] = []

    async def scenario(server: MockServer) -> None:
        lm, quick = served(server), Batches(tmp_path, interval=0.01, quiet=0.05, tell=said.append)
        work = asyncio.ensure_future(evaluate_async(TwoSteps(), ROWS[:1], same, lm=lm, batch=quick))
        assert await asyncio.to_thread(server.wait_until, lambda s: looked_at(s, 0), 60)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        server.batch_polls = 0
        await evaluate_async(TwoSteps(), ROWS[1:], same, lm=lm, batch=quick)

    with MockServer(step, batch_polls=10**9) as server:
        asyncio.run(scenario(server))
        first = next(iter(server.batches))
    assert said[0] == f"openai/mock: batch {first} of 1 request is handed in"
    assert said[-1] == f"batch {first} of 1 request is not asked for any more, and goes on"
    assert sum("not asked for" in line for line in said) == 1


def test_a_wait_that_is_cancelled_is_taken_up(tmp_path: Path) -> None:
    async def scenario(server: MockServer) -> None:
        lm, quick = served(server), Batches(tmp_path, interval=0.01, quiet=0.05)
        account = BudgetAccount(Budget(calls=100))
        work = asyncio.ensure_future(evaluate_async(TwoSteps(), ROWS, same, lm=lm, batch=quick, budget=account))
        assert await asyncio.to_thread(server.wait_until, lambda s: looked_at(s, 0), 60)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        # The provider goes on with it.
        assert (account.reserved.calls, account.uncertain.calls) == (0, 6)
        server.batch_polls = 0
        for batch in server.batches.values():
            batch.waits = 0
        found = await evaluate_async(TwoSteps(), ROWS, same, lm=lm, batch=quick)
        assert [one.score for one in found.outcomes] == [1.0] * 6

    with MockServer(step, batch_polls=10**9) as server:
        asyncio.run(scenario(server))
        assert len(server.batches) == 2


def test_a_batch_can_be_ended_by_the_folder_alone(tmp_path: Path) -> None:
    async def scenario(server: MockServer) -> int:
        lm = served(server)
        work = asyncio.ensure_future(
            evaluate_async(TwoSteps(), ROWS, same, lm=lm, batch=Batches(tmp_path, interval=0.01, quiet=0.05))
        )
        assert await asyncio.to_thread(server.wait_until, lambda s: looked_at(s, 0), 60)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        with SqliteEventStore(tmp_path / "batches.db") as store:
            return await cancel_batch(await gate_for(lm), record=store)

    with MockServer(step, batch_polls=10**9) as server:
        assert asyncio.run(scenario(server)) == 1
        assert [batch.state for batch in server.batches.values()] == ["cancelled"]


# ----------------------------------------------------------------- evaluations as such


def test_an_evaluation_without_batches_sums_up_its_rows(tmp_path: Path) -> None:
    def shaky(got: Answer, want: Answer) -> float:
        if want.answer == "a2":
            raise ValueError("cannot judge")
        return -1.0 if want.answer == "a4" else float(got == want)

    with MockServer(step) as server:
        lm = served(server)
        found = evaluate(TwoSteps(), ROWS, shaky, lm=lm, concurrency=2)
        assert mean(found) == (6, pytest.approx(2 / 6))
        assert [(row.where, one.code) for row, one in found.failures] == [("row 2", "DX5401")]
        assert " over 6 of 6 rows\n  1 failed, first row 2: DX5401" in str(found)
        left = evaluate(TwoSteps(), ROWS, shaky, lm=lm, on_failure="exclude")
        assert " over 5 of 6 rows\n  1 failed, first row 2: DX5401" in str(left)
        assert mean(left) == (5, pytest.approx(3 / 5))
        with pytest.raises(DataError, match="DX5401"):
            evaluate(TwoSteps(), ROWS, shaky, lm=lm, on_failure="stop")
        assert server.most_open <= 64
        none = evaluate(TwoSteps(), ROWS[2:3], shaky, lm=lm, on_failure="exclude")
        assert none.score is None
        assert str(none).startswith("no score over 0 of 1 rows")
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        of_file = evaluate(TwoSteps(), path, same, lm=lm)
    assert mean(of_file)[1] == 1.0
    assert str(of_file) == "1 [1, 1] over 6 of 6 rows"
    assert of_file.rows()[0] == {
        "where": f"{path}:1",
        "score": 1.0,
        "error": None,
        "output": {"answer": "a0"},
        "calls": 2,
        "tokens": 24,
        "usd": pytest.approx(2 * PRICE.cost(Usage(10, 2))),
    }


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"concurrency": 0}, "DX8103"),
        ({"on_failure": "ignore"}, "DX5323"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], code: str) -> None:
    with pytest.raises((UsageError, DataError), match=code):
        evaluate(TwoSteps(), ROWS, same, lm=ScriptedLM(lambda _: "d1"), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"interval": -1.0},
        {"quiet": float("inf")},
        {"interval": "30"},
        {"size": 0},
        {"size": 2.5},
        {"tell": "me"},
        {"folder": True},
    ],
)
def test_batches_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"folder": "folder", **options}
    with pytest.raises(UsageError, match="DX4716"):
        Batches(**given)


def test_what_is_no_program_no_metric_or_no_folder_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    lm: Any = ScriptedLM(lambda _: "d1")

    def drafts(got: Draft, want: Draft) -> float:
        return 1.0

    refused: list[tuple[Any, Any, Any, str]] = [
        (TwoSteps, same, None, "DX2008 evaluate takes a program, got the class TwoSteps"),
        (len, same, None, "DX2008 evaluate takes a program, got an object of builtin_function_or_method"),
        (TwoSteps(), None, None, "DX1521"),
        (TwoSteps(), lambda got: 1.0, None, "DX1521"),  # pyright: ignore[reportUnknownLambdaType]
        (TwoSteps(), drafts, None, "DX1520"),
        (compile_program(TwoSteps()), drafts, None, "DX1520"),
        (TwoSteps(), same, True, "DX4716"),
    ]
    for program, metric, batch, message in refused:
        with pytest.raises(DspexError, match=message):
            evaluate(program, ROWS, metric, lm=lm, batch=batch)
    assert lm.calls == 0
