"""Plans run by hand-written graphs: what runs together, what is raised, what is left behind."""

from __future__ import annotations

import asyncio
import contextvars
import re
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

import pytest
from pydantic import ValidationError

import dspex as dx
from dspex.compiler.code import Code
from dspex.compiler.compiled import Compiled
from dspex.compiler.ir.parser import parse
from dspex.compiler.ir.verify import verify
from dspex.errors import BudgetExceeded, CompileError, LMError, OutputError, ProgramError
from dspex.lm.types import LMRequest
from dspex.program.space import Space
from dspex.program.variables import Branch, Int

T = TypeVar("T")


class Ask(dx.Schema):
    q: str
    docs: list[str] = []


class Answer(dx.Schema):
    text: str


class Both(dx.Schema):
    first: Answer
    second: Answer
    third: Answer


class Strict(dx.Schema):
    text: str = dx.field(max_length=3)


class Desk:
    """Answers ``<name>:<q>`` for the module that the instruction names, after what is scripted for that name.

    Attributes:
        script: By name of a module, or ``name:q``, what happens: an error to raise, or an event to wait for.
        begun: Names in the order in which calls began.
        dropped: Names of calls that were cancelled.
    """

    name = "test/desk"
    fingerprint = "test:desk"

    def __init__(self, **script: object) -> None:
        self.script = dict(script)
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.dropped: list[str] = []
        self.lm = dx_scripted(self._answer)
        self.changed = asyncio.Event()

    async def _answer(self, request: LMRequest) -> Mapping[str, object]:
        prompt = "\n".join(message.content for message in request.messages)
        name = re.findall(r"You are (\w+)", prompt)[0]
        question = re.findall(r"<<(.*?)>>", prompt)[0]
        self.begun.append(name)
        self.changed.set()
        step = self.script.get(f"{name}:{question}", self.script.get(name))
        try:
            if isinstance(step, asyncio.Event | asyncio.Barrier):
                await step.wait()
            elif isinstance(step, BaseException):
                raise step
        except asyncio.CancelledError:
            self.dropped.append(name)
            raise
        self.ended.append(name)
        return {"text": f"{name}:{question}"}

    async def until(self, *names: str) -> None:
        """Waits until calls of all of `names` have begun."""
        while not set(names) <= set(self.begun):
            self.changed.clear()
            await self.changed.wait()


def dx_scripted(answer: Callable[[LMRequest], Any]) -> Any:
    from dspex.testing import ScriptedLM

    return ScriptedLM(answer, fingerprint="desk")


def marked(text: str) -> str:
    return f"<<{text}>>"


def asked(text: str) -> Ask:
    return Ask(q=marked(text))


def joined(items: list[str]) -> Answer:
    return Answer(text=" ".join(items))


def at(items: list[str], index: int) -> Answer:
    return Answer(text=items[index])


def other(x: Ask) -> Answer:
    return Answer(text=x.q)


SCHEMAS = {"Ask": Ask, "Answer": Answer, "Both": Both, "Strict": Strict}


def made(
    body: str,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    space: Space | None = None,
    signature: str = "Ask -> Answer",
) -> Compiled[Any, Any]:
    """A compiled program of the given nodes; ``call NAME`` in them is a call of the module NAME."""
    calls = re.sub(r"call (\w+) \((.*?)\)", r'lm Ask -> Answer (\2) @\1 instruction="You are \1" format="chat"', body)
    lines = "\n".join(f"  {line.strip()}" for line in calls.strip().splitlines())
    graph = verify(parse(f"program bot : {signature} {{\n  %0 = input : {signature.split()[0]}\n{lines}\n}}\n"))
    space = Space([]) if space is None else space
    return Compiled(graph, space, SCHEMAS, space.default(), Code(functions or {}))


Q = Ask(q="<<one>>", docs=["<<a>>", "<<b>>", "<<c>>"])


def run(desk: Desk, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The outcome of `work`, with nothing left behind."""

    async def scenario() -> T:
        try:
            with dx.using(lm=desk.lm):
                return await work()
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left

    return asyncio.run(scenario())


THREE = """
%1 = call a (%0)
%2 = call b (%0)
%3 = call c (%0)
%4 = join record (first=%1, second=%2, third=%3) : Both
output %4
"""


def three() -> Compiled[Any, Any]:
    return made(THREE, signature="Ask -> Both")


# --- together -------------------------------------------------------------------------------------


def test_three_independent_calls_are_in_flight_together() -> None:
    barrier = asyncio.Barrier(3)
    desk = Desk(a=barrier, b=barrier, c=barrier)
    got = run(desk, lambda: three()(Q))
    assert [got.first.text, got.second.text, got.third.text] == ["a:one", "b:one", "c:one"]
    assert desk.begun == ["a", "b", "c"]


def test_calls_that_need_each_other_make_no_task() -> None:
    seen: list[int] = []

    def look(text: str) -> str:
        seen.append(len(asyncio.all_tasks()))
        return text

    body = """
    %1 = call a (%0)
    %2 = python bot:look (%1.text) : str
    %3 = join record (q=%2) : Ask
    %4 = python bot:again (%3.q) : str
    %5 = join copy (%0, q=%4) : Ask
    %6 = call b (%5)
    output %6
    """
    bot = made(body, {"bot:look": look, "bot:again": marked})
    assert run(Desk(), lambda: bot(Q)).text == "b:a:one"
    assert seen == [1]


def test_a_chain_begins_while_a_slow_call_beside_it_goes_on() -> None:
    async def scenario() -> Any:
        slow = asyncio.Event()
        desk.script["a"] = slow
        body = """
        %1 = call a (%0)
        %2 = call b (%0)
        %3 = python bot:ask (%2.text) : Ask
        %4 = call c (%3)
        %5 = join record (first=%1, second=%2, third=%4) : Both
        output %5
        """
        bot = made(body, {"bot:ask": asked}, signature="Ask -> Both")
        work = asyncio.ensure_future(bot(Q))
        await desk.until("a", "b", "c")
        slow.set()
        return await work

    desk = Desk()
    got = run(desk, scenario)
    assert (got.first.text, got.third.text) == ("a:one", "c:b:one")
    assert desk.ended[-1] == "a"


def test_context_variables_reach_every_task() -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    seen: list[str] = []

    async def note(text: str) -> str:
        await asyncio.sleep(0)
        seen.append(who.get())
        return text

    body = """
    %1 = await python bot:note (%0.q) : str
    %2 = await python bot:note (%0.q) : str
    %3 = join record (text=%2) : Answer
    output %3
    """

    async def scenario() -> Any:
        who.set("me")
        return await made(body.replace("await python", "python await"), {"bot:note": note})(Q)

    run(Desk(), scenario)
    assert seen == ["me", "me"]


def test_after_keeps_the_order_of_what_acts() -> None:
    log: list[str] = []

    async def first(text: str) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        log.append(text)

    async def second() -> None:
        log.append("second")

    body = """
    %1 = call a (%0)
    %2 = python await bot:first (%0.q) : None
    %3 = after %2 python await bot:second () : None
    output %1
    """
    run(Desk(), lambda: made(body, {"bot:first": first, "bot:second": second})(Q))
    assert log == ["<<one>>", "second"]


# --- failures -------------------------------------------------------------------------------------


def failure(name: str) -> LMError:
    return LMError("DX4201", f"{name} failed")


def test_first_failure_in_source_order_is_raised_when_a_later_one_comes_first() -> None:
    async def scenario() -> None:
        slow = asyncio.Event()
        desk.script.update(a=slow, b=failure("b"), c=asyncio.Event())
        work = asyncio.ensure_future(three()(Q))
        await desk.until("a", "b", "c")
        for _ in range(20):
            await asyncio.sleep(0)
        assert not work.done(), "an earlier call still runs, and it may fail as well"
        assert desk.dropped == ["c"]
        desk.script["a"] = None
        slow.set()
        with pytest.raises(LMError, match="b failed"):
            await work

    desk = Desk()
    run(desk, scenario)
    assert desk.ended == ["a"]


def test_earlier_failure_replaces_a_later_one_when_both_fail() -> None:
    both = asyncio.Event()

    class Late(Desk):
        async def _answer(self, request: LMRequest) -> Mapping[str, object]:
            answer = await super()._answer(request)
            if str(answer["text"]).startswith("a:"):
                raise failure("a")
            return answer

    async def scenario() -> None:
        desk.script.update(a=both, b=failure("b"))
        work = asyncio.ensure_future(three()(Q))
        await desk.until("a", "b")
        both.set()
        with pytest.raises(LMError, match="a failed"):
            await work

    desk = Late()
    run(desk, scenario)


def test_steps_before_a_failure_are_begun_even_after_it() -> None:
    slow, acted = asyncio.Event(), list[str]()

    async def scenario() -> None:
        body = """
        %1 = call a (%0)
        %2 = python bot:act (%1.text) : None
        %3 = call b (%0)
        output %3
        """
        work = asyncio.ensure_future(made(body, {"bot:act": acted.append})(Q))
        await desk.until("a", "b")
        slow.set()
        with pytest.raises(LMError, match="b failed"):
            await work

    desk = Desk(a=slow, b=failure("b"))
    run(desk, scenario)
    assert acted == ["a:one"]


def test_cancelling_the_caller_ends_every_call() -> None:
    async def scenario() -> None:
        work = asyncio.ensure_future(three()(Q))
        await desk.until("a", "b", "c")
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    desk = Desk(a=asyncio.Event(), b=asyncio.Event(), c=asyncio.Event())
    run(desk, scenario)
    assert sorted(desk.dropped) == ["a", "b", "c"]


def test_deadline_ends_every_call() -> None:
    desk = Desk(a=asyncio.Event(), b=asyncio.Event(), c=asyncio.Event())
    with pytest.raises(LMError) as late, dx.using(lm=desk.lm):
        three().run(Q, timeout=0.05)
    assert late.value.code == "DX4702"


def test_budget_is_one_for_all_calls() -> None:
    desk = Desk()
    with pytest.raises(BudgetExceeded), dx.using(lm=desk.lm):
        three().run(Q, budget=dx.Budget(calls=2))
    assert len(desk.begun) == 2


# --- regions --------------------------------------------------------------------------------------

SELECT = """
%1 = select $way {
a: call a (%0)
both: {
%3 = call b (%0)
%4 = call c (%0)
%5 = join vote (%3, %4) : Answer
output %5
}
} : Answer
output %1
"""


def test_select_runs_the_chosen_branch_alone() -> None:
    bot = made(SELECT, space=Space([Branch("way", ("a", "both"))]))
    desk = Desk()
    assert run(desk, lambda: bot(Q)).text == "a:one"
    assert desk.begun == ["a"]
    desk = Desk()
    assert run(desk, lambda: bot.bind(way="both")(Q)).text == "b:one"
    assert desk.begun == ["b", "c"]


@pytest.mark.parametrize(("test", "expected"), [("%0.q", "a:one"), ("%0.docs", "b:one"), ("$k", "b:one")])
def test_cond_goes_by_truth(test: str, expected: str) -> None:
    body = f"""
    %1 = cond {test} {{
    %2 = call a (%0)
    output %2
    }} else {{
    %3 = call b (%0)
    output %3
    }} : Answer
    output %1
    """
    bot = made(body, space=Space([Int("k", 0, 3, default=0)]))
    assert run(Desk(), lambda: bot(Q.model_copy(update={"docs": []}))).text == expected


MAP = """
%1 = map MODE%0.docs {
%2 = input : str
%3 = join copy (%0, q=%2) : Ask
%4 = call a (%3)
output %4.text
} : list[str]
%5 = python bot:all (%1) : Answer
output %5
"""


def mapped(mode: str = "") -> Compiled[Any, Any]:
    return made(MAP.replace("MODE", mode), {"bot:all": joined})


def test_map_works_on_its_items_together_and_keeps_their_order() -> None:
    barrier = asyncio.Barrier(3)
    desk = Desk(a=barrier)
    assert run(desk, lambda: mapped()(Q)).text == "a:a a:b a:c"


def test_ordered_map_takes_one_item_after_another() -> None:
    desk = Desk()
    desk.script["a:b"] = failure("b")
    with pytest.raises(LMError, match="b failed"):
        run(desk, lambda: mapped("ordered ")(Q))
    assert desk.begun == ["a", "a"]


def test_map_raises_the_first_failure_in_item_order() -> None:
    async def scenario() -> None:
        slow = asyncio.Event()
        desk.script.update({"a:a": slow, "a:b": failure("b"), "a:c": asyncio.Event()})
        work = asyncio.ensure_future(mapped()(Q))
        while desk.begun != ["a", "a", "a"]:
            await desk.changed.wait()
            desk.changed.clear()
        slow.set()
        with pytest.raises(LMError, match="b failed"):
            await work

    desk = Desk()
    run(desk, scenario)
    assert (desk.ended, desk.dropped) == (["a"], ["a"])


def test_map_over_nothing_makes_no_call() -> None:
    desk = Desk()
    assert run(desk, lambda: mapped()(Ask(q="<<>>"))).text == ""
    assert desk.begun == []


def attempt(form: str) -> Compiled[Any, Any]:
    return made(f"%1 = {form} {{\na: call a (%0)\nb: call b (%0)\nc: call c (%0)\n}} : Answer\noutput %1")


def test_fallback_goes_on_until_a_branch_does_not_fail() -> None:
    desk = Desk(a=failure("a"))
    assert run(desk, lambda: attempt("fallback")(Q)).text == "b:one"
    assert desk.begun == ["a", "b"]


def test_fallback_raises_the_last_error_with_the_earlier_ones_as_notes() -> None:
    desk = Desk(a=failure("a"), b=failure("b"), c=OutputError("DX4601", "c failed"))
    with pytest.raises(OutputError, match="c failed") as last:
        run(desk, lambda: attempt("fallback")(Q))
    assert any("a failed" in note for note in last.value.__notes__)


@pytest.mark.parametrize("error", [BudgetExceeded("DX4502", "no more"), TypeError("mistake")])
def test_fallback_stops_when_another_branch_would_not_help(error: Exception) -> None:
    desk = Desk(a=error)
    with pytest.raises(type(error)):
        run(desk, lambda: attempt("fallback")(Q))
    assert desk.begun == ["a"]


def test_race_takes_the_first_success_and_cancels_the_others() -> None:
    desk = Desk(a=failure("a"), c=asyncio.Event())
    assert run(desk, lambda: attempt("race")(Q)).text == "b:one"
    assert desk.dropped == ["c"]


def test_race_raises_the_first_branch_s_error_when_all_fail() -> None:
    desk = Desk(a=failure("a"), b=failure("b"), c=failure("c"))
    with pytest.raises(LMError, match="a failed"):
        run(desk, lambda: attempt("race")(Q))


@pytest.mark.parametrize(("values", "winner"), [("a b a", "a"), ("a b b", "b"), ("c b a", "c")])
def test_vote_takes_the_commonest_and_of_equals_the_first(values: str, winner: str) -> None:
    body = """
    %1 = python bot:at (%0.docs, 0) : Answer
    %2 = python bot:at (%0.docs, 1) : Answer
    %3 = python bot:at (%0.docs, 2) : Answer
    %4 = join vote (%1, %2, %3, by="text") : Answer
    output %4
    """
    bot = made(body, {"bot:at": at})
    assert run(Desk(), lambda: bot(Ask(q="", docs=values.split()))).text == winner


def test_record_is_validated_like_a_construction() -> None:
    bot = made("%1 = join record (text=%0.q) : Strict\noutput %1", signature="Ask -> Strict")
    with pytest.raises(ValidationError, match="at most 3 characters"):
        run(Desk(), lambda: bot(Q))


def test_copy_is_not_validated_like_model_copy() -> None:
    body = "%1 = join record (text=%0.q) : Strict\n%2 = join copy (%1, text=%0.docs) : Strict\noutput %2"
    got = run(Desk(), lambda: made(body, signature="Ask -> Strict")(Ask(q="abc", docs=["x"])))
    assert got.text == ["x"]


@pytest.mark.parametrize("form", ["list", "tuple", "dict"])
def test_containers_hold_what_the_body_would(form: str) -> None:
    args = "a=%0.q, b=1" if form == "dict" else "%0.q, 1"
    seen: list[object] = []
    body = f"%1 = join {form} ({args}) : {form}\n%2 = python bot:see (%1) : Answer\noutput %2"

    def see(value: object) -> Answer:
        seen.append(value)
        return Answer(text="")

    run(Desk(), lambda: made(body, {"bot:see": see})(Ask(q="x")))
    assert seen == [{"list": ["x", 1], "tuple": ("x", 1), "dict": {"a": "x", "b": 1}}[form]]
    assert type(seen[0]).__name__ == form


def test_a_list_constant_is_new_at_each_run() -> None:
    body = "%1 = python bot:push ([]) : Answer\noutput %1"

    def push(items: list[int]) -> Answer:
        items.append(1)
        return Answer(text=str(items))

    bot = made(body, {"bot:push": push})
    assert [run(Desk(), lambda: bot(Q)).text for _ in range(2)] == ["[1]", "[1]"]


def test_tools_may_be_synchronous_or_not() -> None:
    async def ask(q: str) -> str:
        await asyncio.sleep(0)
        return f"<<{q}>>"

    body = """
    %1 = tool search bot:search (q=%0.q) : str
    %2 = tool shout bot:shout (%1) : str
    %3 = join record (text=%2) : Answer
    output %3
    """
    bot = made(body, {"bot:search": ask, "bot:shout": str.upper})
    assert run(Desk(), lambda: bot(Ask(q="x"))).text == "<<X>>"


# --- what is wrong --------------------------------------------------------------------------------


def test_wrong_input_is_refused_before_anything_runs() -> None:
    desk = Desk()
    inputs: list[Any] = [Answer(text="x"), {"q": "x"}, None]
    for wrong in inputs:
        with pytest.raises(ProgramError) as refused:
            run(desk, partial(three(), wrong))
        assert refused.value.code == "DX1514"
        assert "bot takes Ask" in refused.value.message
    assert desk.begun == []


def test_input_is_taken_by_its_fields_when_schemas_were_rebuilt() -> None:
    class Ask(dx.Schema):
        q: str

    bot = three()
    loaded: Compiled[Any, Any] = Compiled(bot.graph, bot.space, bot.schemas, {}, Code(rebuilt=True))
    inputs: list[Any] = [Ask(q="<<x>>"), {"q": "<<x>>"}, {"q": "<<x>>", "docs": []}]
    for given in inputs:
        assert run(Desk(), partial(loaded, given)).first.text == "a:x"
    with pytest.raises(ProgramError, match="docs"):
        run(Desk(), lambda: loaded({"q": "x", "docs": 3}))


def test_module_refuses_an_input_of_another_schema() -> None:
    body = "%1 = python bot:other (%0) : ?\n%2 = call a (%1)\noutput %2"
    bot = made(body, {"bot:other": other})
    with pytest.raises(ProgramError) as refused:
        run(Desk(), lambda: bot(Q))
    assert refused.value.code == "DX1514"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("%1 = python bot:missing (%0) : Answer\noutput %1", "DX2303"),
        ("%1 = python bot:there (@table) : Answer\noutput %1", "DX2301"),
        ("%1 = join record (text=%0.q) : Unknown\noutput %1", "DX2302"),
    ],
)
def test_what_is_not_here_is_named(body: str, code: str) -> None:
    with pytest.raises(CompileError) as refused:
        run(Desk(), lambda: made(body, {"bot:there": other})(Q))
    assert refused.value.code == code


def test_part_that_the_program_lacks_is_named() -> None:
    bot = made("%1 = opaque bot:Part Ask -> Answer (%0) @part\noutput %1")
    with_program: Compiled[Any, Any] = Compiled(
        bot.graph, bot.space, bot.schemas, {}, Code(program=dx.Predict(Ask, Answer))
    )
    with pytest.raises(CompileError) as refused:
        run(Desk(), lambda: with_program(Q))
    assert refused.value.code == "DX2304"


def test_trace_holds_the_calls_of_every_task() -> None:
    async def scenario() -> int:
        with dx.trace() as seen:
            await three()(Q)
        return len(seen)

    assert run(Desk(), scenario) == 3
