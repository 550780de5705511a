"""What a plan sends is what the bound program's modules would send, in every field."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dspex as dx
from dspex.compiler import compile
from dspex.compiler.compiled import Compiled
from dspex.errors import CompileError, ProgramError
from dspex.program.variables import Demos, Float, Int, Prior, Text, Var
from dspex.testing import ScriptedLM


class Tone(Enum):
    WARM = "warm and kind"
    COLD = "cold"


class Ask(dx.Schema):
    """Answer the question."""

    q: str
    hint: Literal["none", "some"] = dx.field(default="none", variable=True)


class Topic(dx.Schema):
    """Name the topic."""

    topic: Literal["art", "law"]


class Answer(dx.Schema):
    text: str


class Pair(dx.Schema):
    one: Answer
    two: Answer


class All(dx.Schema):
    topic: Topic
    scored: Topic
    write: Answer
    way: Pair
    inner: Pair
    first: Answer
    second: Answer


strong = ScriptedLM(lambda _: {"text": "x"}, name="test/strong", fingerprint="strong")
cheap = dx.LM("openai/cheap")
DEMOS = dx.DemoSet([dx.Demo({"q": "a"}, {"topic": "art"}), dx.Demo({"q": "b"}, {"topic": "law"})], name="two")


class Inner(dx.Program[Ask, Pair]):
    style: dx.Var[Literal["terse", "long"]] = dx.var("terse")
    lm = strong
    solve = dx.Predict(Ask, Answer, instruction="Be {style}, not {{style}} nor {nothing-such}.", max_tokens=7)
    think = dx.ChainOfThought(Ask, Answer, lm="openai/named")

    async def __call__(self, x: Ask, /) -> Pair:
        return Pair(one=await self.solve(x), two=await self.think(x))


class Bot(dx.Program[Ask, All]):
    style: dx.Var[Literal["plain", "rich"]] = dx.var("plain")
    tone: dx.Var[Tone] = dx.var(Tone.WARM)
    heat: dx.Var[float] = dx.var(0.5, lo=0.0, hi=1.0)
    k: dx.Var[int] = dx.var(1, lo=0, hi=3)
    words = dx.Text("words", ("Write {style} and {tone}.", "Write {k} words, {{k}}, {tenfold}."))
    tenfold = dx.computed(k * 10)
    three: dx.Var[int] = dx.var(3, lo=3, hi=3)
    only: dx.Var[str] = dx.var("one", choices=["one"])
    rules = [style.is_("rich").implies(k <= 2)]

    topic = dx.Predict(Ask, Topic, demos=DEMOS, demos_k=k)
    scored = dx.Predict(Ask, Topic, scoring="calibrated", prior=(-0.5, -1.0), format="completion")
    write = dx.Predict(Ask, Answer, instruction=words, temperature=heat, lm=[cheap, "openai/other", strong])
    way = dx.select(
        short=dx.Predict(Ask, Pair, instruction="Short, {style}, {only}, {three}.", demos_k=three, lm=[strong]),
        nested=Inner(),
    )
    inner = Inner()
    steps = [dx.Predict(Ask, Answer, instruction="One {k}"), dx.ChainOfThought(Ask, Answer)]

    async def __call__(self, x: Ask, /) -> All:
        return All(
            topic=await self.topic(x),
            scored=await self.scored(x),
            write=await self.write(x),
            way=await self.way(x),
            inner=await self.inner(x),
            first=await self.steps[0](x),
            second=await self.steps[1](x),
        )


class Hidden(dx.Program[Ask, All]):
    bot = Bot()

    async def __call__(self, x: Ask, /) -> All:
        while not x.q:
            x = Ask(q=x.q + "?")
        return await self.bot(x)


PROGRAMS: dict[str, Any] = {
    "bot": Bot(),
    "inner": Inner(),
    "root": dx.Predict(Ask, Topic, instruction="No owner: {{style}} {}."),
    "piped": Bot().with_lm("openai/around") >> dx.Predict(All, Topic),
    "hidden": Hidden(),
}
COMPILED: dict[str, Compiled[Any, Any]] = {name: compile(program) for name, program in PROGRAMS.items()}

placeholders = st.sampled_from(
    [
        "{style}",
        "{tone}",
        "{k}",
        "{{k}}",
        "{topic}",
        "{way}",
        "{heat}",
        "{nothing}",
        "{tenfold}",
        "{",
        "}",
        "{{",
        " text ",
    ]
)
new_texts = st.lists(placeholders, min_size=1, max_size=4).map("".join)
new_demos = st.sampled_from([DEMOS, dx.Nearest(DEMOS.demos, 1, name="near"), dx.DemoSet(DEMOS.demos[:1], name="one")])


def values(variable: Var[Any]) -> st.SearchStrategy[Any]:
    match variable:
        case Prior():
            return st.none() | st.just((-1.0, -0.25))
        case Text():
            return st.sampled_from(variable.options) | new_texts
        case Demos():
            return st.sampled_from(variable.options) | new_demos
        case Float() | Int():
            return st.sampled_from([variable.lo, variable.hi])
        case _:
            return st.sampled_from(variable.options)


def both_bound(
    program: dx.Program[Any, Any], compiled: Compiled[Any, Any], changes: dict[str, Any]
) -> tuple[dx.Program[Any, Any], Compiled[Any, Any]]:
    """Program and plan with `changes`; texts with unknown names come into the pools the way of proposers."""
    try:
        return program.bind(changes), compiled.bind(changes)
    except ProgramError:
        for bind in (program.bind, compiled.bind):
            with pytest.raises(ProgramError, match="DX1506"):
                bind(changes)
    texts = [path for path, variable in program.variables().items() if isinstance(variable, Text) and path in changes]
    grown = program.with_pools({path: (changes[path],) for path in texts})
    return grown.bind(changes), compile(grown).bind(changes)


@pytest.mark.parametrize("name", PROGRAMS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_settings_are_those_of_the_bound_program(name: str, data: st.DataObject) -> None:
    program, compiled = PROGRAMS[name], COMPILED[name]
    changes = {
        path: data.draw(values(variable), label=path)
        for path, variable in program.variables().items()
        if variable.kind != "computed" and data.draw(st.integers(0, 2)) == 0
    }
    broken = program.space.broken({**program.config, **changes})
    if broken:
        for bind in (program.bind, compiled.bind):
            with pytest.raises(ProgramError, match="DX1403"):
                bind(changes)
        return
    bound, plan = both_bound(program, compiled, changes)
    assert plan.config == bound.config
    assert dict(plan.settings) == {path: module.settings for path, module in bound.modules().items()}


@settings(max_examples=15, deadline=None)
@given(text=new_texts)
def test_graph_is_that_of_the_bound_program_when_a_text_names_other_variables(text: str) -> None:
    changes: dict[str, Any] = {"words": text, "way.short.instruction": text, "inner.solve.instruction": text}
    bound, plan = both_bound(PROGRAMS["bot"], COMPILED["bot"], changes)
    assert str(plan.graph) == str(compile(bound).graph)
    assert plan.program == bound


def test_program_of_a_binding_keeps_the_pools_of_the_bindings_before() -> None:
    plan = COMPILED["bot"].bind(words="New {k}.").bind(k=2, words="Write {style} and {tone}.")
    assert plan.program.variables()["words"].options[-1] == "New {k}."
    assert plan.program.config == plan.config


def test_value_that_an_argument_does_not_take_is_refused_like_by_the_module() -> None:
    class Loose(dx.Program[Ask, Answer]):
        limit: dx.Var[int] = dx.var(5, lo=0, hi=9)
        m = dx.Predict(Ask, Answer, max_tokens=limit)

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.m(x)

    program = Loose()
    with pytest.raises(ProgramError) as direct:
        _ = program.bind(limit=0).m.settings
    with pytest.raises(ProgramError) as planned:
        _ = compile(program).bind(limit=0).settings["m"]
    assert direct.value.code == planned.value.code == "DX1509"


class More(Ask):
    extra: str = "unseen"


def test_module_reads_its_own_schema_when_more_is_given() -> None:
    class Sub(dx.Program[More, Answer]):
        m = dx.Predict(Ask, Answer)

        async def __call__(self, x: More, /) -> Answer:
            return await self.m(x)

    assert compile(Sub()).settings["m"] == Sub().m.settings


def test_part_of_a_program_is_compiled_with_what_is_bound_around_it() -> None:
    bot = Bot().bind(k=3, tone=Tone.COLD, words="Write {k} words, {{k}}, {tenfold}.", style="plain")
    parts: list[dx.Program[Any, Any]] = [bot.topic, bot.write, bot.way, bot.inner, bot.inner.solve]
    for part in parts:
        compiled = compile(part)
        assert dict(compiled.settings) == {path: module.settings for path, module in part.modules().items()}


def test_part_is_refused_when_what_it_reads_cannot_be_written_down() -> None:
    class Shown(dx.Program[Ask, Topic]):
        shots = dx.Demos("shots", (DEMOS,))
        m = dx.Predict(Ask, Topic, demos=shots)

        async def __call__(self, x: Ask, /) -> Topic:
            return await self.m(x)

    assert compile(Shown()).settings["m"].demos == DEMOS
    with pytest.raises(CompileError) as refused:
        compile(Shown().m)
    assert refused.value.code == "DX2305"
