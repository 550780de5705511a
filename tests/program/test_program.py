from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import subprocess
import sys
from collections.abc import Awaitable, Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import pytest

import dspex as dx
from dspex.testing import ScriptedLM
from tests.program.schemas import Answer, Ask, Note, Team

if TYPE_CHECKING:
    from enum import Enum as Elsewhere


class QABot(dx.Program[Ask, Answer]):
    style: dx.Var[Literal["terse", "detailed"]] = dx.var("terse")
    k: dx.Var[int] = dx.var(4, lo=1, hi=8)
    temperature: dx.Var[float] = dx.var(0.25, lo=0.0, hi=1.0, when=style.is_("detailed"))
    solver = dx.select(
        predict=dx.Predict(Ask, Answer, instruction="Be {style}. Use {{k}}.", temperature=temperature, demos_k=k),
        cot=dx.ChainOfThought(Ask, Answer),
    )
    rules = [style.is_("terse").implies(k <= 4), solver.is_("cot").implies(k >= 2)]

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.solver(x)


def echo(request: Any) -> dict[str, object]:
    return {"answer": "Paris"}


def test_the_class_has_variables_and_the_instance_values() -> None:
    assert isinstance(QABot.k, dx.Int)
    assert isinstance(QABot.style, dx.Choice)
    bot = QABot()
    assert (bot.k, bot.style, bot.temperature) == (4, "terse", 0.25)
    assert list(bot.variables())[:4] == ["style", "k", "temperature", "solver"]
    assert list(bot.modules()) == ["solver.predict", "solver.cot"]


def test_bind_gives_a_changed_copy_and_leaves_the_original() -> None:
    bot = QABot()
    other = bot.bind({"solver": "cot", "solver.cot.format": "completion"}, k=3, style="detailed")
    assert type(other) is QABot
    assert (other.k, other.style, other.solver.choice) == (3, "detailed", "cot")
    assert (bot.k, bot.style, bot.solver.choice) == (4, "terse", "predict")
    assert other.modules()["solver.cot"].settings.format == "completion"
    assert bot.modules()["solver.cot"].settings.format == "chat"
    assert other.bind(bot.config) == bot
    assert other != bot


def test_variables_reach_the_module_that_names_them() -> None:
    settings = QABot().bind(style="detailed", k=2, temperature=0.5).modules()["solver.predict"].settings
    assert settings.instruction == "Be detailed. Use {k}."
    assert (settings.temperature, settings.demos_k, settings.path) == (0.5, 2, "solver.predict")


def test_rules_and_modules_follow_a_variable_that_a_subclass_overrides() -> None:
    class Wide(QABot):
        k: dx.Var[int] = dx.var(12, lo=1, hi=16)
        style: dx.Var[Literal["terse", "detailed", "long"]] = dx.var("long")  # type: ignore[assignment]

    wide = Wide()
    settings = wide.modules()["solver.predict"].settings
    assert settings.demos_k == 12
    assert settings.instruction.startswith("Be long.")
    with pytest.raises(dx.ProgramError, match="DX1403"):
        wide.bind(style="terse")
    assert wide.bind(style="terse", k=3).k == 3


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"kk": 3}, "DX1401"),
        ({"k": 9}, "DX1402"),
        ({"k": "3"}, "DX1402"),
        ({"solver": "x"}, "DX1402"),
        ({"k": 8}, "DX1403"),
    ],
)
def test_what_is_bound_is_validated(values: dict[str, object], code: str) -> None:
    with pytest.raises(dx.ProgramError, match=code):
        QABot().bind(values)


def test_branch_variables_are_active_only_in_their_branch() -> None:
    bot = QABot()
    active = bot.space.active(bot.config)
    assert "solver.predict.instruction" in active
    assert "solver.cot.instruction" not in active
    assert "temperature" not in active


def test_programs_are_immutable_after_init() -> None:
    bot = QABot()
    for name, value in (("k", 3), ("solver", None), ("new", 1)):
        with pytest.raises(dx.ProgramError, match="DX1501"):
            setattr(bot, name, value)
    with pytest.raises(dx.ProgramError, match="DX1501"):
        del bot.solver
    with pytest.raises(dx.ProgramError, match="DX1501"):
        bot.modules()["solver.cot"].arguments = {}

    class Assigns(QABot):
        def __init__(self) -> None:
            self.k = 3  # type: ignore[assignment]  # pyright: ignore

    with pytest.raises(dx.ProgramError, match="DX1501"):
        Assigns()


def test_a_variable_assigned_in_init_is_refused() -> None:
    class Late(QABot):
        def __init__(self) -> None:
            self.late = dx.Float("late", 0, 1)

    with pytest.raises(dx.ProgramError, match="DX1214"):
        Late()


def test_templates_are_not_shared_between_instances() -> None:
    one, two = QABot(), QABot()
    assert one.solver is not two.solver
    assert one.solver is not QABot.solver
    assert one.modules()["solver.cot"] is not two.modules()["solver.cot"]


class Crew(dx.Program[Ask, Answer]):
    size: dx.Var[int] = dx.var(1, lo=1, hi=3)

    def __init__(self, label: str = "x") -> None:
        self.label = label
        self.bots = [QABot(), QABot().bind(k=2)]
        self.named = {"last": dx.Predict(Ask, Answer, instruction="Size {size}")}
        self.pipe = self.named["last"] >> dx.Predict(Answer, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.pipe(x)


def test_programs_in_lists_dicts_and_pipes_are_found_with_dotted_paths() -> None:
    crew = Crew()
    assert list(crew.modules()) == [
        "bots.0.solver.predict",
        "bots.0.solver.cot",
        "bots.1.solver.predict",
        "bots.1.solver.cot",
        "named.last",
        "pipe.step2",
    ]
    # One module reachable in two ways is one module.
    assert crew.pipe.steps[0] is crew.named["last"]
    other = crew.bind({"bots.1.k": 3, "size": 2})
    assert [bot.k for bot in other.bots] == [4, 3]
    assert other.modules()["named.last"].settings.instruction == "Size 2"
    assert other.modules()["bots.0.solver.predict"].settings.instruction.startswith("Be terse")
    with pytest.raises(dx.ProgramError, match="DX1403"):
        crew.bind({"bots.0.k": 8})


def test_copies_and_pickles_are_equal_programs() -> None:
    for program in (QABot().bind(k=2), Crew().bind(size=3), dx.Predict(Ask, Answer), dx.Predict(Ask, Note) >> shout):
        for other in (copy.deepcopy(program), pickle.loads(pickle.dumps(program))):
            assert other == program
            assert other.identity() == program.identity()
            assert other.config == program.config
    assert pickle.loads(pickle.dumps(Crew())).bind(size=2).size == 2


def test_pools_grow_by_binding_and_by_proposals() -> None:
    bot = QABot()
    name = "solver.cot.instruction"
    bound = bot.with_pools({name: ("Think of {style} and {anything}.",)})
    # A member binds as it is: a proposer may write any braces.
    bound = bound.bind({name: "Think of {style} and {anything}."})
    assert bound.modules()["solver.cot"].settings.instruction == "Think of terse and {anything}."
    assert bound.variables()[name].options[1:] == ("Think of {style} and {anything}.",)
    grown = bound.with_pools({name: ("A", "A", "B"), "solver.cot.demos": (dx.DemoSet((dx.Demo({"a": 1}, {"b": 2}),)),)})
    assert grown.variables()[name].options[2:] == ("A", "B")
    assert grown.config[name] == bound.config[name]
    assert len(grown.variables()["solver.cot.demos"].options) == 2
    assert grown.bind({name: "B"}).variables()[name].options == grown.variables()[name].options
    with pytest.raises(dx.ProgramError, match="DX1404"):
        bot.with_pools({"k": (3,)})


def test_a_text_that_a_person_binds_may_name_known_variables_only() -> None:
    bot = QABot()
    name = "solver.cot.instruction"
    for target in (bot, dx.compile(bot)):
        with pytest.raises(dx.ProgramError, match=r"DX1506.*\{styl\}[\s\S]*write \{style\}, or write \{\{styl\}\}"):
            target.bind({name: "Think of {styl}."})
        for text in ('{"a": 1} {}', "{{anything}} {style}", "{ x }"):
            target.bind({name: text})

    class Shared(dx.Program[Ask, Answer]):
        task = dx.Text("task", ("Answer.",))
        tone: dx.Var[str] = dx.var("a", choices=("a", "b"))
        one = dx.Predict(Ask, Answer, instruction=task)

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.one(x)

    for target in (Shared(), dx.compile(Shared())):
        with pytest.raises(dx.ProgramError, match=r"DX1506.*'one' names \{other\}.*tone"):
            target.bind(task="In {other}")
        target.bind(task="In {tone} {{other}}")


def test_arguments_that_modules_do_not_have_are_coded_errors() -> None:
    for module in (dx.Predict, dx.ChainOfThought):
        wrong: Any = module
        with pytest.raises(
            dx.ProgramError, match=r"DX1502.*'question -> answer'[\s\S]*test_program.py[\s\S]*dx.Schema"
        ):
            wrong("question -> answer")
        with pytest.raises(dx.ProgramError, match=r"DX1502.*output schema is missing"):
            wrong(Ask)
        with pytest.raises(dx.ProgramError, match=r"DX1509.*'demo_k'[\s\S]*did you mean demos_k\?"):
            wrong(Ask, Answer, demo_k=3)
        with pytest.raises(TypeError):
            wrong()


def test_a_class_without_a_call_is_a_coded_error() -> None:
    class Bare(dx.Program[Ask, Answer]):
        answer = dx.Predict(Ask, Answer)

    with pytest.raises(dx.ProgramError, match=r"DX1544 Bare has no __call__[\s\S]*x: Ask, /\) -> Answer") as caught:
        Bare()  # type: ignore[abstract]  # pyright: ignore
    assert "test_program.py:" in str(caught.value.where)
    with pytest.raises(dx.ProgramError, match="DX1544"):
        dx.Program()  # type: ignore[abstract]  # pyright: ignore


class Forgets(dx.Program[Ask, Answer]):
    """Gives what `gives` says, which is no output."""

    answer = dx.Predict(Ask, Answer)

    def __init__(self, gives: Callable[[Any], Any]) -> None:
        self.gives = gives

    async def __call__(self, x: Ask, /) -> Answer:
        return self.gives(self)  # type: ignore[no-any-return]


class Plain(dx.Program[Ask, Answer]):
    def __call__(self, x: Ask, /) -> Answer:  # type: ignore[override]  # pyright: ignore
        return Answer(answer="a")


class Yields(dx.Program[Ask, Answer]):
    async def __call__(self, x: Ask, /) -> Any:  # type: ignore[override]  # pyright: ignore
        yield Answer(answer="a")


class Passes(dx.Program[Ask, Answer]):
    answer = dx.Predict(Ask, Answer)

    def __call__(self, x: Ask, /) -> Awaitable[Answer]:  # type: ignore[override]  # pyright: ignore
        return self.answer(x)


ASKED = Ask(question="?")
NO_OUTPUTS: list[tuple[dx.Program[Ask, Answer], str]] = [
    (Forgets(lambda self: self.answer(ASKED)), "nobody awaited.*declares Answer[\\s\\S]*return await self.answer"),
    (Forgets(lambda _: None), "gave None[\\s\\S]*return"),
    (Forgets(lambda _: Answer), "the class Answer[\\s\\S]*make an instance"),
    (Forgets(lambda _: "text"), "str: 'text'"),
    (Forgets(lambda _: type("Answer", (dx.Schema,), {})()), "defined again"),
    (Yields(), "a generator[\\s\\S]*return rather than yield, in an async def __call__"),
    (Plain(), "Answer at once, and is called with await[\\s\\S]*async def"),
]


@pytest.mark.parametrize(("program", "why"), NO_OUTPUTS)
def test_what_a_program_gives_is_an_instance_of_its_output_schema(program: dx.Program[Ask, Answer], why: str) -> None:
    for call in (
        lambda: program.run(ASKED),
        lambda: program.run(ASKED, timeout=60),
        lambda: program.batch([ASKED]),
        lambda: program.batch([ASKED], timeout=60),
    ):
        with pytest.raises(dx.ProgramError, match=f"DX1543 {type(program).__name__}.__call__.*{why}") as caught:
            call()
        assert "test_program.py:" in str(caught.value.where)
    # Warnings are errors: no coroutine is left that was never awaited.
    gc.collect()
    with dx.using(lm=ScriptedLM(lambda request: {"answer": "b"})):
        assert Passes().run(ASKED).answer == "b"


@dx.program
async def shout(x: Note) -> Answer:
    """Shout it."""
    dx.infer()


def test_a_function_is_a_program_named_after_it() -> None:
    assert list(shout.variables()) == ["shout.instruction", "shout.demos", "shout.format"]
    assert shout.settings.instruction == "Shout it."
    assert shout.settings.output is Answer

    class Uses(dx.Program[Note, Answer]):
        loud = shout

        async def __call__(self, x: Note, /) -> Answer:
            return await self.loud(x)

    assert list(Uses().modules()) == ["loud"]


def test_functions_that_cannot_be_programs_are_refused() -> None:
    def two(a: Ask, b: Ask) -> Answer:
        dx.infer()

    def untyped(a):  # type: ignore[no-untyped-def]  # pyright: ignore
        dx.infer()

    def plain(a: str) -> Answer:
        dx.infer()

    def real(a: Ask) -> Answer:
        return Answer(answer=a.question)

    def missing(a: Elsewhere) -> Answer:
        dx.infer()

    refused: dict[str, list[Any]] = {"DX1504": [two, untyped, plain, missing], "DX1505": [real]}  # pyright: ignore
    for code, functions in refused.items():
        for function in functions:
            with pytest.raises(dx.ProgramError, match=code):
                dx.program(function)
    with pytest.raises(dx.ProgramError, match="DX1503"):
        dx.infer()


def test_unknown_placeholders_are_errors_that_name_the_known_variables() -> None:
    class Bad(dx.Program[Ask, Answer]):
        tone: dx.Var[str] = dx.var("a", choices=("a", "b"))
        answer = dx.Predict(Ask, Answer, instruction='Write {tome} like {"json": {}} and {{literal}}')

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.answer(x)

    with pytest.raises(dx.ProgramError, match=r"DX1506.*\{tome\}.*tone"):
        Bad()
    with pytest.raises(dx.ProgramError, match="DX1506"):
        _ = dx.Predict(Ask, Answer, instruction="{style}").settings
    assert (
        dx.Predict(Ask, Answer, instruction='like {"json": {}} {{x}}').settings.instruction == 'like {"json": {}} {x}'
    )


def test_a_standalone_module_owns_the_variables_given_to_it() -> None:
    module = dx.Predict(Ask, Answer, temperature=dx.Float("warmth", 0, 1, default=0.5), instruction="At {warmth}")
    assert module.settings.temperature == 0.5
    other = module.bind({"predict.warmth": 1.0})
    assert (other.settings.temperature, other.settings.instruction) == (1.0, "At 1.0")


def test_automatic_variables_of_modules() -> None:
    plain = dx.Predict(Ask, Answer)
    closed = dx.Predict(Ask, Team, lm=("openai/a", dx.LM("openai/b")))
    assert list(plain.variables()) == ["predict.instruction", "predict.demos", "predict.format"]
    assert list(closed.variables())[3:] == ["predict.scoring", "predict.lm", "predict.prior"]
    assert closed.variables()["predict.lm"].options == ("openai/a", "openai/b")
    assert closed.bind({"predict.lm": "openai/b"}).settings.lm == dx.LM("openai/b")
    assert "chain_of_thought.scoring" not in dx.ChainOfThought(Ask, Team).variables()
    fixed = dx.Predict(Ask, Team, format="completion", scoring="calibrated", demos_k=3, temperature=0.5)
    assert list(fixed.variables()) == ["predict.instruction", "predict.demos", "predict.prior"]
    measured = closed.bind({"predict.scoring": "calibrated", "predict.prior": [-0.5, -1.0, -2.0]})
    assert measured.settings.prior == (-0.5, -1.0, -2.0)
    assert closed.space.identity(closed.config) == closed.space.identity(
        {**closed.config, "predict.prior": (-0.5, -1.0, -2.0)}
    )
    with pytest.raises(dx.ProgramError, match="DX1402"):
        closed.bind({"predict.prior": [1.0]})
    assert plain.settings.instruction == "Answer the question."
    assert dx.Predict(Answer, Note).settings.instruction == "Answer the question."
    assert "`question`" in dx.Predict(Ask, Note).settings.instruction


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": -1.0},
        {"temperature": "hot"},
        {"max_tokens": 0},
        {"format": "xml"},
        {"scoring": "logprob"},
        {"demos_k": -1},
        {"instruction": 3},
        {"lm": ("openai/a", "openai/a")},
        {"lm": ()},
    ],
)
def test_arguments_of_modules_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(dx.ProgramError, match=r"DX1509|DX1510"):
        dx.Predict(Ask, Answer, **arguments)


def test_the_model_is_the_modules_else_the_nearest_programs() -> None:
    class Inner(dx.Program[Ask, Answer]):
        own = dx.Predict(Ask, Answer, lm="openai/own")
        free = dx.Predict(Ask, Answer)

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.free(x)

    class Outer(dx.Program[Ask, Answer]):
        lm = "openai/outer"
        inner = Inner()

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.inner(x)

    modules = Outer().modules()
    assert modules["inner.own"].settings.lm == "openai/own"
    assert modules["inner.free"].settings.lm == "openai/outer"
    assert Outer().with_lm("openai/new").modules()["inner.free"].settings.lm == "openai/new"
    assert Inner().modules()["free"].settings.lm is None


def test_schema_fields_can_be_variables_and_the_callers_value_wins() -> None:
    class Styled(dx.Schema):
        question: str
        style: Literal["terse", "detailed"] = dx.field("terse", variable=True)

    seen: list[str] = []

    def answer(request: Any) -> dict[str, object]:
        seen.append(request.messages[-1].content)
        return {"answer": "x"}

    module = dx.Predict(Styled, Answer).bind({"predict.input.style": "detailed"})
    with dx.using(lm=ScriptedLM(answer)):
        module.run(Styled(question="q"))
        module.run(Styled(question="q", style="terse"))
    assert ["detailed" in text for text in seen] == [True, False]

    class Open(dx.Schema):
        question: float = dx.field(0.5, variable=True)

    with pytest.raises(dx.ProgramError, match="DX1101"):
        dx.Predict(Open, Answer)


def test_calls_run_in_scripts_and_inside_a_running_loop_and_are_traced() -> None:
    lm = ScriptedLM(echo)
    bot = QABot()
    with dx.using(lm=lm), dx.trace() as trace:
        assert bot.run(Ask(question="?")) == Answer(answer="Paris")

        async def inside() -> list[Answer]:
            return [bot.run(Ask(question="1")), *await asyncio.gather(bot(Ask(question="2")), bot(Ask(question="3")))]

        assert asyncio.run(inside()) == [Answer(answer="Paris")] * 3
        assert bot.batch([Ask(question=str(n)) for n in range(5)]) == [Answer(answer="Paris")] * 5
    assert {call.module for call in trace.calls} == {"solver.predict"}
    assert trace.usd == 0.0


def test_reasoning_is_in_the_trace_alone() -> None:
    lm = ScriptedLM(lambda request: {"reasoning": "because", "answer": "Paris"})
    with dx.using(lm=lm), dx.trace() as trace:
        assert dx.ChainOfThought(Ask, Answer).run(Ask(question="?")) == Answer(answer="Paris")
    assert [call.reasoning for call in trace.calls] == ["because"]


def test_no_model_anywhere_shows_the_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DSPEX_LM", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(dx.NoLMError, match="DX4001") as caught:
        QABot().run(Ask(question="?"))
    for way in ("local/smollm2", "DSPEX_LM", "dx.using"):
        assert way in str(caught.value)


def test_a_module_refuses_another_schema() -> None:
    with pytest.raises(dx.ProgramError, match="DX1514"):
        dx.Predict(Ask, Answer).run(Note(text="x"))  # type: ignore[arg-type]  # pyright: ignore
    with pytest.raises(dx.ProgramError, match="pass an instance of Ask, made of the fields question"):
        dx.Predict(Ask, Answer).run({"question": "x"})  # type: ignore[arg-type]  # pyright: ignore


def test_composition_and_selection_refuse_schemas_that_do_not_fit() -> None:
    with pytest.raises(dx.CompileError):
        dx.Predict(Ask, Answer) >> dx.Predict(Ask, Note)  # type: ignore[operator]  # pyright: ignore
    with pytest.raises(dx.ProgramError, match="DX1507"):
        dx.select(dx.Predict(Ask, Answer), dx.Predict(Ask, Answer))
    with pytest.raises(dx.ProgramError, match="DX1507"):
        dx.select(a=dx.Predict(Ask, Answer), b=dx.Predict(Ask, Note))  # type: ignore[arg-type]  # pyright: ignore
    assert list(dx.select(dx.Predict(Ask, Answer), dx.ChainOfThought(Ask, Answer)).branches) == [
        "predict",
        "chain_of_thought",
    ]


def test_class_bodies_that_cannot_work_are_refused_at_once() -> None:
    def body(**attributes: object) -> None:
        type("Bad", (QABot,), {"__module__": __name__, **attributes})

    for attributes, code in (
        ({"run": dx.var(1, lo=0, hi=2)}, "DX1206"),
        ({"bind": dx.Predict(Ask, Answer)}, "DX1206"),
        ({"size": dx.Int("other", 1, 2)}, "DX1205"),
        ({"k": 3}, "DX1211"),
        ({"rules": [True]}, "DX1302"),
        ({"j": dx.var(1), "__annotations__": {"j": "int"}}, "DX1212"),
    ):
        with pytest.raises(dx.ProgramError) as caught:
            body(**attributes)
        assert caught.value.code == code, attributes


def test_a_default_outside_its_bounds_is_refused_at_the_line_that_says_it() -> None:
    with pytest.raises(dx.ProgramError, match="DX1204") as caught:

        class Outside(QABot):  # pyright: ignore[reportUnusedClass]
            size: dx.Var[int] = dx.var(40, lo=1, hi=8)

    assert "takes an int in [1, 8], got 40" in caught.value.message
    assert str(caught.value.where).endswith("  size")
    assert "test_program.py:" in str(caught.value.where)


def test_rules_that_nothing_obeys_are_told_from_a_default_that_breaks_one() -> None:
    lm = ScriptedLM(lambda _: "x")

    class Never(QABot):
        rules = [QABot.k <= 3, QABot.k >= 6]

    class Unlucky(QABot):
        rules = [QABot.k <= 3]

    def equal(got: Answer, want: Answer) -> bool:
        return got == want

    def run(program: QABot) -> object:
        return program.with_lm(lm).run(Ask(question="?"))

    def optimize(program: QABot) -> object:
        return program.optimize([], maximize=equal, budget=dx.Budget(calls=9), lm=lm)

    for use in (run, optimize, dx.compile):
        with pytest.raises(dx.CompileError, match=r"DX2105.*k <= 3; k >= 6"):
            use(Never())
        with pytest.raises(dx.CompileError, match="DX2106"):
            use(Unlucky())
    with pytest.raises(dx.ProgramError, match="DX1403"):
        Never().bind(k=2)
    assert Unlucky().bind(k=2).with_lm(lm).run(Ask(question="?")).answer == "x"
    assert lm.calls == 1


def test_rules_over_unknown_variables_and_missing_schemas_are_refused() -> None:
    class Stray(QABot):
        rules = [dx.Int("elsewhere", 1, 2) <= 1]

    with pytest.raises(dx.ProgramError, match="DX1303"):
        Stray().all_rules()

    class Bare(dx.Program):  # type: ignore[type-arg]  # pyright: ignore
        async def __call__(self, x: Ask, /) -> Answer:
            raise NotImplementedError

    with pytest.raises(dx.ProgramError, match="DX1502"):
        Bare()


def test_annotations_are_resolved_inside_functions_and_lazily() -> None:
    class Local(Enum):
        X = "x"
        Y = "y"

    class Inside(dx.Program[Ask, Answer]):
        choice: dx.Var[Local] = dx.var(Local.Y)

        async def __call__(self, x: Ask, /) -> Answer:
            raise NotImplementedError

    assert Inside.choice.options == (Local.X, Local.Y)

    class Unresolved(dx.Program[Ask, Answer]):
        choice: dx.Var[Elsewhere] = dx.var("y")  # type: ignore[arg-type]  # pyright: ignore

        async def __call__(self, x: Ask, /) -> Answer:
            raise NotImplementedError

    with pytest.raises(dx.ProgramError, match=r"DX1203[\s\S]*Elsewhere[\s\S]*dx\.Choice"):
        Unresolved()


I = TypeVar("I", bound=dx.Schema)  # noqa: E741
O = TypeVar("O", bound=dx.Schema)  # noqa: E741


def test_schemas_are_found_through_generic_bases() -> None:
    class Middle(dx.Program[I, O], Generic[O, I]):
        async def __call__(self, x: I, /) -> O:
            raise NotImplementedError

    class Leaf(Middle[Answer, Ask]):
        pass

    assert (Leaf().input_schema, Leaf().output_schema) == (Ask, Answer)


def test_a_shared_template_is_one_module_in_one_instance_and_two_in_two() -> None:
    class Pair(dx.Program[Ask, Answer]):
        first = dx.Predict(Ask, Answer)
        joined = first >> dx.Predict(Answer, Answer)

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.joined(x)

    class Both(dx.Program[Ask, Answer]):
        def __init__(self) -> None:
            self.a, self.b = Pair(), Pair()

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.a(x)

    assert list(Pair().modules()) == ["first", "joined.step2"]
    assert list(Both().modules()) == ["a.first", "a.joined.step2", "b.first", "b.joined.step2"]


def test_identity_is_the_same_in_another_process_and_follows_changes() -> None:
    script = "from tests.program.test_program import QABot, shout; print(QABot().identity(), shout.identity())"
    root = Path(__file__).parents[2]
    out = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=root,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert out[0] == out[1] == [QABot().identity(), shout.identity()]
    bot = QABot()
    different = [bot, bot.bind(k=2), bot.with_lm("openai/x"), bot.with_pools({"solver.cot.instruction": ("new",)})]
    assert len({program.identity() for program in different}) == 4
    assert Crew("x").identity() != Crew("y").identity()
