"""For each code of the compiler the smallest thing that has it: `OFFENDERS[code](folder)` raises or returns it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import dspex as dx
from dspex.cli.linter import check
from dspex.compiler import Compiled, parse
from dspex.compiler.code import Code
from dspex.compiler.ir.nodes import Constant
from dspex.compiler.ir.verify import verify
from dspex.compiler.lower.lowering import lower
from dspex.compiler.passes.fold import FoldFrozen
from dspex.compiler.passes.types import InferTypes
from dspex.lm.types import Capabilities
from dspex.program.computed import computed
from dspex.program.rules import All, Arith, Compare, Const, Not, Rule
from dspex.program.rules import Ref as RuleRef
from dspex.program.space import Space
from dspex.program.variables import Choice, Float, Int, Var

Offender = Callable[[Path], "Iterable[str] | None"]
OFFENDERS: dict[str, Offender] = {}


def offends(code: str) -> Callable[[Offender], Offender]:
    """Enters a function under its code."""

    def enter(function: Offender) -> Offender:
        assert code not in OFFENDERS
        OFFENDERS[code] = function
        return function

    return enter


class Ask(dx.Schema):
    question: str


class Answer(dx.Schema):
    answer: str


class Styled(dx.Schema):
    question: str
    style: str


class Plain(dx.Program[Ask, Answer]):
    ask = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.ask(x)


def codes(program: dx.Program[Any, Any]) -> list[str]:
    return [found.code for found in dx.compile(program).diagnostics]


# --- the front end ------------------------------------------------------------------------------


@offends("DX2001")
def wrong_argument(_: Path) -> None:
    class Wrong(Plain):
        async def __call__(self, x: Ask, /) -> Answer:
            return await self.ask(Answer(answer=x.question))  # pyright: ignore[reportArgumentType]

    dx.compile(Wrong())


@offends("DX2002")
def unknown_field(_: Path) -> None:
    class Unknown(Plain):
        async def __call__(self, x: Ask, /) -> Answer:
            return Answer(answer=x.asked)  # pyright: ignore

    dx.compile(Unknown())


@offends("DX2003")
def different_branches(_: Path) -> None:
    class Selects(dx.Program[Ask, Answer]):
        solver = dx.select(a=dx.Predict(Ask, Answer), b=dx.Predict(Ask, Answer))

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.solver(x)

    program = Selects()
    # `dx.select` refuses these itself; a subclass may build one otherwise.
    vars(program.solver)["branches"] = {"a": dx.Predict(Ask, Answer), "b": dx.Predict(Ask, Ask)}
    dx.compile(program)


@offends("DX2004")
def wrong_construction(_: Path) -> None:
    class Wrong(Plain):
        async def __call__(self, x: Ask, /) -> Answer:
            return Answer(said=x.question)  # pyright: ignore

    dx.compile(Wrong())


@offends("DX2005")
def module_inside(_: Path) -> None:
    class Inside(Plain):
        async def __call__(self, x: Ask, /) -> Answer:
            return await dx.Predict(Ask, Answer)(x)

    dx.compile(Inside())


@offends("DX2006")
def recursion(_: Path) -> None:
    class Again(Plain):
        async def __call__(self, x: Ask, /) -> Answer:
            return await self(x)

    dx.compile(Again())


@offends("DX2007")
def unknown_attribute(_: Path) -> None:
    class Absent(Plain):
        async def __call__(self, x: Ask, /) -> Answer:
            return await self.answer(x)  # pyright: ignore

    dx.compile(Absent())


@offends("DX2011")
def returned_call(_: Path) -> None:
    class Returns(Plain):
        async def __call__(self, x: Ask, /) -> Answer:
            return self.ask(x)  # pyright: ignore

    dx.compile(Returns())


@offends("DX2012")
def no_return(_: Path) -> None:
    class Ends(Plain):
        async def __call__(self, x: Ask, /) -> Answer:  # pyright: ignore[reportReturnType]
            await self.ask(x)

    dx.compile(Ends())


@offends("DX2013")
def plain_definition(_: Path) -> None:
    class Waits(Plain):
        def __call__(self, x: Ask, /) -> Answer:  # pyright: ignore
            return self.ask.run(x)

    dx.compile(Waits())


@offends("DX2014")
def awaited_value(_: Path) -> None:
    class Awaits(Plain):
        async def __call__(self, x: Ask, /) -> Answer:
            return await self.ask.run(x)  # pyright: ignore

    dx.compile(Awaits())


@offends("DX2008")
def no_program(_: Path) -> None:
    dx.compile(Plain)  # pyright: ignore


@offends("DX2009")
def shared_variable(_: Path) -> None:
    k = Int("k", 1, 4)
    dx.compile(dx.Predict(Ask, Ask, demos_k=k) >> dx.Predict(Ask, Answer, demos_k=k))


@offends("DX2010")
def nested_too_deeply(_: Path) -> None:
    class Around(dx.Program[Ask, Answer]):
        def __init__(self, program: dx.Program[Ask, Answer]) -> None:
            self.inner = program
            super().__init__()

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.inner(x)

    program: dx.Program[Ask, Answer] = dx.Predict(Ask, Answer)
    for _number in range(40):
        program = Around(program)
    dx.compile(program)


# --- graphs and passes --------------------------------------------------------------------------

GRAPH = "program p : Ask -> Answer {{\n  %0 = input : Ask\n  {}\n  output %1\n}}\n"


@offends("DX2080")
def unreadable(_: Path) -> None:
    parse("program p")


@offends("DX2081")
def unsound(_: Path) -> None:
    graph = parse(GRAPH.format("%1 = lm Ask -> Answer (%0) @ask"))
    verify(replace(graph, body=replace(graph.body, nodes=tuple(reversed(graph.body.nodes)))))


@offends("DX2082")
def frozen_to_nothing(_: Path) -> None:
    graph = parse(GRAPH.format("%1 = select $s {\n    a: lm Ask -> Answer (%0) @a\n  } : Answer"))
    FoldFrozen({"s": Constant.of("b")}).run(graph)


@offends("DX2083")
def map_over_a_number(_: Path) -> None:
    text = GRAPH.format("%1 = map 3 {\n    %2 = input : int\n    output %2\n  } : list[int]")
    InferTypes({"Ask": Ask, "Answer": Answer}).run(parse(text))


# --- Variables and rules ------------------------------------------------------------------------

K = Int("k", 1, 4)


def table(*rules: Rule, variables: Iterable[Var[Any]] = (K,)) -> list[str]:
    return [note.code for note in lower(tuple(variables), rules).notes]


@offends("DX2101")
def unknown_variable(_: Path) -> None:
    table(Int("m", 1, 4) <= 2)


@offends("DX2102")
def two_of_one_name(_: Path) -> None:
    table(variables=(K, K))


@offends("DX2103")
def conditions_in_a_cycle(_: Path) -> None:
    a, b = Choice("a", ("x", "y")), Choice("b", ("x", "y"))
    table(variables=(Choice("a", ("x", "y"), when=b.is_("x")), Choice("b", ("x", "y"), when=a.is_("x"))))


@offends("DX2104")
def impossible_rule(_: Path) -> None:
    table(K >= 9)


@offends("DX2105")
def impossible_together(_: Path) -> None:
    table(K <= 2, K >= 3)


@offends("DX2106")
def broken_default(_: Path) -> None:
    table(Int("k", 1, 4, default=1) >= 2, variables=(Int("k", 1, 4, default=1),))


@offends("DX2107")
def beyond_floats(_: Path) -> None:
    table(variables=(Int("k", -(2**53), 2**53),))


@offends("DX2108")
def nested_rule(_: Path) -> None:
    rule: Rule = K <= 2
    for _number in range(400):
        rule = Not(rule)
    table(rule)


@offends("DX2109")
def unknown_rule(_: Path) -> None:
    table(All((cast("Rule", "k <= 4"), K <= 2)))


@offends("DX2110")
def order_of_categories(_: Path) -> None:
    table(Compare("<=", RuleRef("style"), Const(2)), variables=(Choice("style", ("a", "b")),))


@offends("DX2111")
def unknown_value(_: Path) -> None:
    lower((K,), ()).encode({"m": 1})


@offends("DX2112")
def empty_domain(_: Path) -> None:
    class Empty(Choice[str]):
        @property
        def options(self) -> tuple[str, ...]:
            return ()

    # The classes themselves take no empty set; one of a user's own may.
    table(variables=(Empty("e", ("a",)),))


@offends("DX2113")
def lost_member(_: Path) -> None:
    class Loose(Choice[str]):
        def canonical(self, value: object) -> str:
            return str(value)

    lower((Loose("c", ("a", "b")),), ()).encode({"c": "z"})


@offends("DX2114")
def rule_that_always_holds(_: Path) -> Iterable[str]:
    return table(K <= 9)


@offends("DX2115")
def infinite_number(_: Path) -> None:
    table(Arith("+", Const(float("inf")), Const(1)) >= K)


@offends("DX2116")
def never_active(_: Path) -> Iterable[str]:
    return table(variables=(K, Float("x", 0.0, 1.0, when=K >= 9)))


@offends("DX2117")
def computed_in_a_cycle(_: Path) -> None:
    lower((computed(RuleRef("b") + 1, name="a"), computed(RuleRef("a") + 1, name="b")), ())


@offends("DX2118")
def rule_over_a_function(_: Path) -> None:
    label = computed(lambda k: f"{k}", K, name="label")
    table(label.is_("2"), variables=(K, label))


# --- plans --------------------------------------------------------------------------------------


def plan_of(body: str, program: dx.Program[Any, Any] | None = None) -> Compiled[Any, Any]:
    """A compiled graph without what it calls."""
    schemas = {"Ask": Ask, "Answer": Answer}
    return Compiled(parse(GRAPH.format(body)), Space(()), schemas, {}, Code(program=program))


@offends("DX2301")
def no_program_here(_: Path) -> None:
    plan_of("%1 = opaque bot:Part Ask -> Answer (%0) @part").run(Ask(question="a"))


@offends("DX2302")
def unknown_schema(_: Path) -> None:
    plan_of("%1 = join record (answer=%0.question) : Unknown").run(Ask(question="a"))


@offends("DX2303")
def no_code(_: Path) -> None:
    plan_of("%1 = python bot:missing (%0) : Answer").run(Ask(question="a"))


@offends("DX2304")
def no_part(_: Path) -> None:
    plan_of("%1 = opaque bot:Part Ask -> Answer (%0) @part", Plain()).run(Ask(question="a"))


@offends("DX2305")
def part_of_a_program(_: Path) -> None:
    class Shown(Plain):
        shots = dx.Demos("shots", (dx.DemoSet((dx.Demo({"question": "a"}, {"answer": "b"}),)),))
        ask = dx.Predict(Ask, Answer, demos=shots)

    dx.compile(Shown().ask)


# --- estimates and findings ---------------------------------------------------------------------


@offends("DX2401")
def no_examples(_: Path) -> None:
    dx.compile(Plain()).estimate([])


def small(window: int) -> dx.LM:
    capabilities = Capabilities(context_tokens=window)
    return dx.LM("openai/small", base_url="http://localhost:9/v1", price=dx.Price(1, 1), capabilities=capabilities)


@offends("DX2402")
def long_prompt(_: Path) -> Iterable[str]:
    return codes(dx.Predict(Ask, Answer, instruction="Think it over. " * 60, lm=small(60)))


@offends("DX2403")
def nearly_long_prompt(_: Path) -> Iterable[str]:
    return codes(dx.Predict(Ask, Answer, instruction="Think it over.", max_tokens=40, lm=small(60)))


@offends("DX2404")
def opaque(_: Path) -> Iterable[str]:
    class Looping(Plain):
        async def __call__(self, x: Ask, /) -> Answer:
            while not x.question:
                pass
            return await self.ask(x)

    return codes(Looping())


@offends("DX2405")
def late_static_field(_: Path) -> Iterable[str]:
    class Late(dx.Program[Ask, Answer]):
        style: dx.Var[Literal["terse", "warm"]] = dx.var("terse")
        ask = dx.Predict(Styled, Answer)

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.ask(Styled(question=x.question, style=self.style))

    return codes(Late())


@offends("DX2406")
def no_demonstrations(_: Path) -> Iterable[str]:
    class Counted(Plain):
        k: dx.Var[int] = dx.var(2, lo=1, hi=4)
        ask = dx.Predict(Ask, Answer, demos_k=k)

    return codes(Counted())


@offends("DX2407")
def unread_variable(_: Path) -> Iterable[str]:
    class Unread(Plain):
        k: dx.Var[int] = dx.var(2, lo=1, hi=4)

    return codes(Unread())


@offends("DX2408")
def uncalled_module(_: Path) -> Iterable[str]:
    class Spare(Plain):
        spare = dx.Predict(Ask, Answer)

    return codes(Spare())


def checked(folder: Path, text: str) -> list[str]:
    file = folder / "checked_by_offenders.py"
    file.write_text(text, encoding="utf-8")
    return [found.code for found in check([str(file)]).findings]


@offends("DX2409")
def calls_while_imported(folder: Path) -> Iterable[str]:
    return checked(
        folder,
        "import dspex as dx\nfrom dspex.testing import ScriptedLM\nclass A(dx.Schema):\n    a: str\n"
        "p = dx.Predict(A, A, lm=ScriptedLM({}))\nprint(p.run(A(a='x')))\n",
    )


@offends("DX2410")
def no_python(folder: Path) -> Iterable[str]:
    return checked(folder, "import dspex\nclass X(\n")


@offends("DX2411")
def needs_arguments(folder: Path) -> Iterable[str]:
    return checked(
        folder,
        "import dspex as dx\nclass A(dx.Schema):\n    a: str\n"
        "class P(dx.Program[A, A]):\n    def __init__(self, size: int) -> None: ...\n"
        "    async def __call__(self, x: A, /) -> A:\n        return x\n",
    )
