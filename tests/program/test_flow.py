from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import dspex as dx
from dspex.program.concurrency import majority, together
from dspex.testing import ScriptedLM
from tests.program.running import asynchronous
from tests.program.schemas import Answer, Ask, Note

ASK = Ask(question="?")


class Both(dx.Schema):
    draft: Answer
    facts: Note
    extra: int = 1


class Step(dx.Program[Ask, Answer]):
    """Says when it begins, waits for a gate, and ends as it is told."""

    def __init__(self, name: str, log: list[str], end: Callable[[], Awaitable[str]]) -> None:
        self.name = name
        self.log = log
        self.end = end

    async def __call__(self, x: Ask, /) -> Answer:
        self.log.append(f"{self.name} begins")
        try:
            text = await self.end()
        except asyncio.CancelledError:
            # Cancellation takes a while: the one who cancels has to await it.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.log.append(f"{self.name} cancelled")
            raise
        except Exception:
            self.log.append(f"{self.name} fails")
            raise
        self.log.append(f"{self.name} ends")
        return Answer(answer=text)


class Noted(dx.Program[Ask, Note]):
    async def __call__(self, x: Ask, /) -> Note:
        return Note(text="n")


def gives(text: str, after: asyncio.Event | None = None) -> Callable[[], Awaitable[str]]:
    async def end() -> str:
        if after is not None:
            await after.wait()
        return text

    return end


def raises(error: Exception, after: asyncio.Event | None = None) -> Callable[[], Awaitable[str]]:
    async def end() -> str:
        if after is not None:
            await after.wait()
        raise error

    return end


async def forever() -> str:
    return await asyncio.get_running_loop().create_future()


def failed(text: str) -> dx.LMError:
    return dx.ServerError("DX4005", text)


def nothing_left() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


class Two(dx.Schema):
    one: Answer
    two: Answer
    three: Answer


@asynchronous
async def test_parallel_runs_its_branches_together_and_merges_their_outputs() -> None:
    gate, log = asyncio.Event(), list[str]()

    async def open_gate() -> str:
        await asyncio.sleep(0)  # the third begins
        gate.set()
        return "b"

    program = dx.parallel(
        Two, one=Step("a", log, gives("a", gate)), two=Step("b", log, open_gate), three=Step("c", log, gives("c"))
    )
    got = await program(ASK)
    assert (got.one.answer, got.two.answer, got.three.answer) == ("a", "b", "c")
    assert log[:3] == ["a begins", "b begins", "c begins"]
    assert list(program.children()) == ["one", "two", "three"]
    assert nothing_left()


@asynchronous
async def test_parallel_raises_the_first_failure_in_source_order_and_cancels_later_branches() -> None:
    gate, log = asyncio.Event(), list[str]()
    boom = failed("b")

    async def fail_then_open() -> str:
        await asyncio.sleep(0)  # the third begins
        gate.set()
        raise boom

    program = dx.parallel(
        Two, one=Step("a", log, gives("a", gate)), two=Step("b", log, fail_then_open), three=Step("c", log, forever)
    )
    with pytest.raises(dx.ServerError) as caught:
        await program(ASK)
    assert caught.value is boom
    assert log == ["a begins", "b begins", "c begins", "b fails", "a ends", "c cancelled"]
    assert nothing_left()


@asynchronous
async def test_of_two_failures_the_first_in_order_is_raised_although_it_comes_later() -> None:
    gate, log = asyncio.Event(), list[str]()
    first, second = failed("first"), failed("second")

    async def fail_then_open() -> str:
        gate.set()
        raise second

    program = dx.parallel(
        Two, one=Step("a", log, raises(first, gate)), two=Step("b", log, fail_then_open), three=Step("c", log, forever)
    )
    with pytest.raises(dx.ServerError) as caught:
        await program(ASK)
    assert caught.value is first
    assert nothing_left()


@pytest.mark.parametrize("form", ["parallel", "race", "vote", "map"])
@asynchronous
async def test_a_cancelled_caller_leaves_no_task_behind(form: str) -> None:
    log: list[str] = []
    all_begun = asyncio.Event()

    async def wait() -> str:
        if len(log) == 3:
            all_begun.set()
        return await forever()

    a, b, c = (Step(name, log, wait) for name in "abc")
    call: Any = {
        "parallel": lambda: dx.parallel(Two, one=a, two=b, three=c)(ASK),
        "race": lambda: dx.race(a, b, c)(ASK),
        "vote": lambda: dx.vote(a, b, c)(ASK),
        "map": lambda: dx.map(a, [ASK, ASK, ASK]),
    }[form]
    task = asyncio.ensure_future(call())
    await all_begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # a second one, while the branches still end
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sum(entry.endswith("cancelled") for entry in log) == 3
    assert nothing_left()


@asynchronous
async def test_race_takes_the_first_success_and_awaits_the_cancellation_of_the_others() -> None:
    log: list[str] = []
    program = dx.race(Step("a", log, forever), Step("b", log, raises(failed("b"))), Step("c", log, gives("c")))
    assert (await program(ASK)).answer == "c"
    assert log[-1] == "a cancelled"
    assert nothing_left()


@asynchronous
async def test_a_race_that_all_lose_raises_the_first_branch_s_error() -> None:
    gate, log = asyncio.Event(), list[str]()

    async def fail_then_open() -> str:
        gate.set()
        raise failed("b")

    program = dx.race(Step("a", log, raises(failed("a"), gate)), Step("b", log, fail_then_open))
    with pytest.raises(dx.ServerError, match="a"):
        await program(ASK)


@pytest.mark.parametrize("combine", [dx.race, dx.fallback])
@asynchronous
async def test_a_mistake_and_a_spent_budget_are_raised_at_once(combine: Any) -> None:
    for error in (ValueError("mistake"), dx.BudgetExceeded("DX4501", "spent")):
        log: list[str] = []
        with pytest.raises(type(error)):
            await combine(Step("a", log, raises(error)), Step("b", log, forever))(ASK)
        assert nothing_left()


@asynchronous
async def test_fallback_tries_in_order_and_stops_at_the_first_that_works() -> None:
    log: list[str] = []
    wrong = dx.OutputError("DX4602", "does not fit")
    program = dx.fallback(
        Step("a", log, raises(failed("a"))),
        Step("b", log, raises(wrong)),
        c=Step("c", log, gives("c")),
    )
    assert (await program(ASK)).answer == "c"
    assert list(program.children()) == ["branch1", "branch2", "c"]
    assert await dx.fallback(program, Step("d", log, forever))(ASK) == Answer(answer="c")


@asynchronous
async def test_a_fallback_that_fails_raises_the_last_error_with_the_earlier_ones_as_notes() -> None:
    log: list[str] = []
    program = dx.fallback(*(Step(name, log, raises(failed(f"way {name}"))) for name in "abc"))
    with pytest.raises(dx.ServerError) as caught:
        await program(ASK)
    assert caught.value.message == "way c"
    assert [note.splitlines()[0] for note in caught.value.__notes__] == [
        "way 1 of 3 failed before: DX4005 way a",
        "way 2 of 3 failed before: DX4005 way b",
    ]
    assert isinstance(caught.value.__context__, dx.ServerError)


@asynchronous
async def test_vote_gives_the_commonest_output_and_of_equals_the_first() -> None:
    log: list[str] = []

    def said(*texts: str) -> dx.Vote[Ask, Answer]:
        return dx.vote(*(Step(text, log, gives(text)) for text in texts))

    assert (await said("x", "y", "y")(ASK)).answer == "y"
    assert (await said("x", "y", "y", "x")(ASK)).answer == "x"
    assert majority(
        [Both(draft=Answer(answer=a), facts=Note(text=t)) for a, t in ("ax", "bx", "cy")], "facts"
    ).facts == (Note(text="x"))


@asynchronous
async def test_when_chooses_by_the_input_and_cond_by_a_value() -> None:
    log: list[str] = []
    then, otherwise = Step("then", log, gives("then")), Step("otherwise", log, gives("otherwise"))
    program = dx.when(lambda x: len(x.question) > 3, then, otherwise)
    assert (await program(Ask(question="long"))).answer == "then"
    assert (await program(ASK)).answer == "otherwise"
    assert (await dx.cond([1], then, otherwise, ASK)).answer == "then"
    assert (await dx.cond("", then, otherwise, ASK)).answer == "otherwise"


@asynchronous
async def test_map_works_on_all_items_together_and_keeps_their_order() -> None:
    begun: list[str] = []
    everybody = asyncio.Event()

    class Wait(dx.Program[Ask, Answer]):
        async def __call__(self, x: Ask, /) -> Answer:
            begun.append(x.question)
            if len(begun) == 3:
                everybody.set()
            await everybody.wait()
            return Answer(answer=x.question)

    got = await dx.map(Wait(), (Ask(question=text) for text in "abc"))
    assert [answer.answer for answer in got] == ["a", "b", "c"]
    assert await dx.map(Wait(), []) == []


@asynchronous
async def test_together_hands_on_a_cancellation_that_comes_from_inside() -> None:
    async def cancels() -> str:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await together([cancels, forever])
    assert nothing_left()


def test_combinators_are_programs_with_paths_variables_and_identity() -> None:
    class Bot(dx.Program[Ask, Answer]):
        tone: dx.Var[str] = dx.var("plain", choices=("plain", "strict"))
        solver = dx.fallback(
            dx.vote(dx.Predict(Ask, Answer, instruction="Be {tone}."), dx.ChainOfThought(Ask, Answer), by="answer"),
            strong=dx.when(lambda x: True, dx.Predict(Ask, Answer), dx.Predict(Ask, Answer)),
        )

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.solver(x)

    bot = Bot()
    assert list(bot.modules()) == [
        "solver.branch1.branch1",
        "solver.branch1.branch2",
        "solver.strong.then",
        "solver.strong.otherwise",
    ]
    other = bot.bind({"tone": "strict", "solver.strong.then.format": "completion"})
    assert other.modules()["solver.branch1.branch1"].settings.instruction == "Be strict."
    assert other.modules()["solver.strong.then"].settings.format == "completion"
    assert bot.identity() == Bot().identity() != other.identity()
    seen: list[str] = []

    def answer(request: Any) -> dict[str, object]:
        seen.append(str(request))
        return {"answer": "yes"}

    with dx.using(lm=ScriptedLM(answer)):
        assert other.run(ASK) == Answer(answer="yes")
    assert len(seen) == 2
    assert next(iter(dx.race(Bot(), Bot()).variables())) == "branch1.tone"


def test_what_a_combinator_does_counts_in_its_identity() -> None:
    a, b = dx.Predict(Ask, Answer), dx.Predict(Ask, Answer)
    programs: list[dx.Program[Ask, Answer]] = [
        dx.vote(a, b),
        dx.vote(a, b, by="answer"),
        dx.race(a, b),
        dx.fallback(a, b),
        dx.when(lambda x: True, a, b),
        dx.when(lambda x: x.question == "", a, b),
    ]
    assert len({program.identity() for program in programs}) == len(programs)
    assert pickle.loads(pickle.dumps(dx.vote(a, b, by="answer"))) == dx.vote(a, b, by="answer")


def test_parallel_checks_its_schema() -> None:
    draft, facts = dx.Predict(Ask, Answer), dx.Predict(Ask, Note)
    assert dx.parallel(Both, draft=draft, facts=facts).output_schema is Both
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"draft": draft, "facts": draft}, "Both.facts is Note, the branch 'facts' gives Answer"),
        ({"draft": draft}, "no branch gives Both.facts"),
        ({"draft": draft, "facts": facts, "more": draft}, "no field for the branch 'more'"),
        ({"draft": draft, "facts": facts, "extra": draft}, "Both.extra is int"),
    ]
    for branches, why in wrong:
        with pytest.raises(dx.CompileError, match="DX1530") as caught:
            dx.parallel(Both, **branches)
        assert why in caught.value.message
        assert "test_flow.py:" in str(caught.value.where)
    with pytest.raises(dx.ProgramError, match="DX1531"):
        dx.parallel(Both)
    with pytest.raises(dx.ProgramError, match="DX1531"):
        dx.parallel(int, draft=draft)  # type: ignore[type-var]  # pyright: ignore
    with pytest.raises(dx.ProgramError, match=r"DX1531.*input_schema"):
        dx.parallel(Both, draft=draft, facts=dx.Predict(Answer, Note))  # type: ignore[arg-type]  # pyright: ignore


def test_branches_fit_together() -> None:
    a: Any = dx.Predict(Ask, Answer)
    b: Any = dx.Predict(Ask, Note)
    combiners: tuple[Any, ...] = (dx.race, dx.fallback, dx.vote)
    for combine in combiners:
        for positional, named in (((), {}), ((a, b), {}), ((a, 3), {}), ((a,), {"branch1": a}), ((a,), {})):
            with pytest.raises(dx.ProgramError, match="DX1531"):
                combine(*positional, **named)
        with pytest.raises(dx.ProgramError, match=r"DX1531.*the class Step[\s\S]*make an instance: Step\(\)"):
            combine(Step, Step)
    with pytest.raises(dx.ProgramError, match=r"DX1532[\s\S]*did you mean answer\?"):
        dx.vote(a, a, by="answr")
    with pytest.raises(dx.ProgramError, match="DX1531"):
        dx.when(bool, a, b)

    async def later(x: Ask) -> bool:
        return True

    for test in (later, a, None):
        with pytest.raises(dx.ProgramError, match="DX1533"):
            dx.when(test, a, a)  # type: ignore[arg-type]  # pyright: ignore


@asynchronous
async def test_cond_and_map_run_programs() -> None:
    a: Any = dx.Predict(Ask, Answer)
    with pytest.raises(dx.ProgramError, match="DX1534"):
        await dx.cond(True, a, 3, ASK)  # type: ignore[arg-type]  # pyright: ignore
    with pytest.raises(dx.ProgramError, match="DX1534"):
        await dx.map(3, [])  # type: ignore[arg-type]  # pyright: ignore
    with pytest.raises(dx.ProgramError, match="DX1534"):
        await dx.map(a, ASK)  # type: ignore[arg-type]  # pyright: ignore
    # Warnings are errors: nothing is left that was never awaited.
    for call in (dx.cond(True, a, dx.cond(False, a, a, ASK), ASK), dx.cond(True, a(ASK), a, ASK)):  # type: ignore[arg-type]  # pyright: ignore
        with pytest.raises(dx.ProgramError, match=r"DX1534[\s\S]*do not nest[\s\S]*dx\.when"):
            await call
    gc.collect()


def test_a_nesting_without_end_is_a_coded_error() -> None:
    program: dx.Program[Ask, Answer] = dx.Predict(Ask, Answer)
    for _ in range(60):
        program = dx.fallback(program, dx.Predict(Ask, Answer))
    assert len(program.modules()) == 61
    other: dx.Program[Ask, Answer] = dx.Predict(Ask, Answer)
    for _ in range(40):
        program = dx.fallback(program, other)
    with pytest.raises(dx.ProgramError, match="DX1535"):
        dx.fallback(dx.fallback(program, other), other)


def test_a_program_that_makes_itself_is_a_coded_error() -> None:
    class Endless(dx.Program[Ask, Answer]):
        def __init__(self) -> None:
            self.inner = Endless()

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.inner(x)

    for _ in range(2):
        with pytest.raises(dx.ProgramError, match="DX1536"):
            Endless()
