"""The front end on programs that are wrong, huge, deep, or would do harm if any of them ran."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

import dspex as dx
from dspex.compiler.frontend import read_program
from dspex.compiler.ir.nodes import Attempt, Cond, Constant, Join, Lm, Map, Python, Tool
from dspex.compiler.ir.verify import violations
from dspex.errors import CompileError
from dspex.program.compose import Pipe
from tests.compiler import bodies_flow
from tests.compiler.bodies import Answer, Ask, Asker, Draft
from tests.growth import LINEAR, steps


class Harmful(Exception):
    """Something of the user's ran."""


class Trap:
    """Every use of it is an error."""

    def _sprung(self, *_: object) -> NoReturn:
        raise Harmful

    __call__ = __getattr__ = __bool__ = __len__ = __iter__ = __getitem__ = __add__ = __eq__ = _sprung
    __hash__ = None  # type: ignore[assignment]


class Descriptor:
    """Reading it is an error."""

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise Harmful


trap: Any = Trap()
opened: list[str] = []


def touched(text: str) -> str:
    raise Harmful


class Everything(Asker):
    """A body of which nothing may run."""

    described = Descriptor()

    @property
    def asked(self) -> str:
        raise Harmful

    @staticmethod
    def fixed(text: str) -> str:
        raise Harmful

    async def helped(self, x: Ask) -> Draft:
        touched("method")
        return await self.first(x)

    async def __call__(self, x: Ask, /) -> Answer:
        one = touched(x.question) + self.asked + self.fixed("a")
        two = trap.value + trap(x.question) if trap else trap[0]
        three = f"{self.described} {[trap + item for item in trap]}"
        draft = await self.helped(x)
        answers = [await self.loose(Ask(question=touched(str(hint)))) for hint in trap]
        touched(one)
        return Answer(text=f"{one}{two}{three}{draft.text}", source=str(answers))


def test_nothing_of_a_body_runs_when_it_is_read() -> None:
    program = Everything()
    reading = read_program(program)
    assert [node.reason for node in reading.graph.opaque] == []
    # Making the functions runs nothing either.
    assert all(callable(reading.functions[node.key]) for node in reading.graph.nodes if isinstance(node, Python))


def test_annotations_are_looked_up_and_not_run() -> None:
    def annotated(text: str) -> opened.append("ran") or str:  # type: ignore[valid-type]
        return text

    class Annotates(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            return Answer(text=str(annotated(x.question)))  # pyright: ignore[reportUnknownArgumentType]

    read_program(Annotates())
    assert opened == []


def test_functions_are_those_of_each_closure_when_texts_are_equal() -> None:
    def made(suffix: str) -> type[dx.Program[Ask, Answer]]:
        class Suffixed(Asker):
            async def __call__(self, x: Ask, /) -> Answer:
                return Answer(text=x.question + suffix)

        return Suffixed

    class Outer(dx.Program[Ask, Answer]):
        def __init__(self) -> None:
            super().__init__()
            self.one = made("1")()
            self.two = made("2")()

        async def __call__(self, x: Ask, /) -> Answer:
            one = await self.one(x)
            two = await self.two(x)
            return Answer(text=one.text, source=two.text)

    reading = read_program(Outer())
    nodes = [node for node in reading.graph.nodes if isinstance(node, Python)]
    assert [reading.functions[node.key](question="a") for node in nodes] == ["a1", "a2"]
    assert len(reading.functions) == 2
    assert set(reading.functions) == {node.key for node in nodes}


def test_structure_is_read_when_programs_are_combined() -> None:
    nodes = read_program(bodies_flow.FallsBack()).graph.nodes
    (attempt,) = [node for node in nodes if isinstance(node, Attempt)]
    assert attempt.form == "fallback"
    assert [branch.name for branch in attempt.branches] == ["branch1", "branch2"]
    joins = [node for node in read_program(bodies_flow.Votes()).graph.nodes if isinstance(node, Join)]
    assert [(join.form, join.args[-1].value) for join in joins] == [("vote", Constant.of("source"))]
    tools = [node for node in read_program(bodies_flow.CallsTools()).graph.nodes if isinstance(node, Tool)]
    assert [(tool.name, tool.target) for tool in tools] == [
        ("look_up", "tests.compiler.bodies_flow:look_up"),
        ("look_up", "tests.compiler.bodies_flow:look_up"),
        ("count_words", "tests.compiler.bodies_flow:word_count"),
    ]


@pytest.mark.parametrize(
    ("cls", "ordered"),
    [(bodies_flow.MapsActions, True), (bodies_flow.MapsInputs, False), (bodies_flow.GathersGenerator, False)],
)
def test_items_are_worked_on_in_order_when_the_region_acts(cls: type[dx.Program[Ask, Answer]], ordered: bool) -> None:
    maps = [node for node in read_program(cls()).graph.nodes if isinstance(node, Map)]
    assert [node.ordered for node in maps] == [ordered]


def test_expressions_are_pure_when_only_plain_values_meet_operators() -> None:
    nodes = read_program(bodies_flow.DependsOnVariables()).graph.nodes
    assert [node.pure for node in nodes if isinstance(node, Python)] == [True] * 4
    operations = read_program(bodies_flow.Operations()).graph.nodes
    called = {node.target.split(":")[1]: node.pure for node in operations if isinstance(node, Python) and not node.expr}
    assert called == {"tidy": True, "marked": False}


def test_expression_is_not_pure_when_a_function_that_acts_has_its_list() -> None:
    def shuffles(words: list[str]) -> int:
        return len(words)

    class Hands(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            words = sorted(x.hints)
            before = str(words)
            count = shuffles(words)
            return Answer(text=before + str(words), source=f"{count} {x.question}")

    nodes = [node for node in read_program(Hands()).graph.nodes if isinstance(node, Python)]
    # What reads the list keeps its place; what reads texts alone does not.
    assert [node.pure for node in nodes] == [False, False, False, False, True]


def test_steps_are_conditions_when_a_variable_counts_them() -> None:
    graph = read_program(bodies_flow.LoopsByVariable()).graph
    assert len([node for node in graph.nodes if isinstance(node, Cond)]) == 3
    assert len([node for node in graph.nodes if isinstance(node, Lm)]) == 5


def test_setting_names_the_model_when_a_module_has_one() -> None:
    class Models(dx.Program[Ask, Answer]):
        style: dx.Var[str] = dx.var("terse", choices=["terse", "wordy"])
        named = dx.Predict(Ask, Draft, lm="a/model", instruction="Be {style}.")
        several = dx.Predict(Draft, Answer, lm=["a/model", "b/model"])

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.several(await self.named(x))

    class Outer(dx.Program[Ask, Answer]):
        inner = Models()

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.inner(x)

    one, two = [node for node in read_program(Outer()).graph.nodes if isinstance(node, Lm)]
    assert {setting.name: setting.value for setting in one.settings}["lm"] == Constant.of("a/model")
    assert "lm=$inner.several.lm" in str(read_program(Outer()).graph)
    assert (one.scope, two.scope) == ("inner", "inner")


# --- wrong programs -------------------------------------------------------------------------------

shared: Any = dx.Float("heat", 0.0, 1.0)


def test_variable_is_an_error_when_two_modules_share_it_and_no_program_declares_it() -> None:
    chain = dx.Predict(Ask, Ask, temperature=shared) >> dx.Predict(Ask, Answer, temperature=shared)
    with pytest.raises(CompileError) as caught:
        read_program(chain)
    assert caught.value.code == "DX2009"
    assert "step1.heat and step2.heat" in caught.value.message


def test_variable_is_sound_when_a_program_declares_it_or_one_module_stands_twice() -> None:
    class Declares(dx.Program[Ask, Answer]):
        heat: dx.Var[float] = dx.var(0.5, lo=0.0, hi=1.0)
        one = dx.Predict(Ask, Ask, temperature=heat)
        two = dx.Predict(Ask, Answer, temperature=heat)

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.two(await self.one(x))

    solve = dx.Predict(Ask, Answer, temperature=shared)
    twice = dx.select(a=solve, b=solve.bind({"predict.instruction": "Other."}))
    for program in (Declares(), twice):
        assert violations(read_program(program).graph) == ()


class Wrapped(dx.Program[Ask, Answer]):
    def __init__(self, inner: dx.Program[Ask, Answer]) -> None:
        super().__init__()
        self.inner = inner

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.inner(x)


@pytest.mark.parametrize("depth", [20, 60])
def test_depth_is_an_error_when_no_stack_would_hold_it(depth: int) -> None:
    program: dx.Program[Ask, Answer] = dx.Predict(Ask, Answer)
    for _ in range(depth):
        program = Wrapped(program)
    if depth <= 20:
        assert len(read_program(program).graph.nodes) == 2 * depth
        return
    with pytest.raises(CompileError) as caught:
        read_program(program)
    assert caught.value.code == "DX2010"


# --- size -----------------------------------------------------------------------------------------


def written(path: Path, text: str) -> ModuleType:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def long_body(path: Path, count: int) -> dx.Program[Any, Any]:
    lines = ["import dspex as dx", "from tests.compiler.bodies import Ask", "class Long(dx.Program[Ask, Ask]):"]
    lines += [f"    m{at} = dx.Predict(Ask, Ask)" for at in range(count)]
    lines += ["    async def __call__(self, x, /):"]
    lines += [f"        x = await self.m{at}(x)" for at in range(count)]
    return written(path, "\n".join([*lines, "        return x", ""])).Long()


def test_work_of_reading_grows_linearly_when_a_body_grows(tmp_path: Path) -> None:
    """Counted in steps of Python; parsing the source happens inside C and does not show."""
    read_program(long_body(tmp_path / "long_10.py", 10))
    taken: list[int] = []
    for count in (100, 400):
        program = long_body(tmp_path / f"long_{count}.py", count)
        taken.append(steps(lambda program=program: read_program(program)))
    assert taken[1] < LINEAR * taken[0]


def test_body_of_two_thousand_calls_is_read(tmp_path: Path) -> None:
    graph = read_program(long_body(tmp_path / "long_2000.py", 2000)).graph
    assert graph.opaque == ()
    assert len(graph.nodes) == 2001


def test_reading_is_flat_when_a_pipe_is_long() -> None:
    steps = tuple(dx.Predict(Ask, Ask) for _ in range(2000))
    assert len(read_program(Pipe(steps)).graph.nodes) == 2001


def test_expression_is_opaque_when_it_is_nested_too_deeply(tmp_path: Path) -> None:
    text = "import dspex as dx\nfrom tests.compiler.bodies import Answer, Ask\nclass Deep(dx.Program[Ask, Answer]):\n"
    text += "    async def __call__(self, x, /):\n        return Answer(text=''" + "+x.question" * 2000 + ")\n"
    (node,) = read_program(written(tmp_path / "deep_text.py", text).Deep()).graph.opaque
    assert "nested too deeply" in node.reason


def test_source_stands_where_it_was_written() -> None:
    graph = read_program(bodies_flow.FixedSteps()).graph
    lines, first = inspect.getsourcelines(bodies_flow.FixedSteps)
    for node in graph.nodes:
        if node.loc is not None:
            assert node.loc.file == "tests/compiler/bodies_flow.py"
            assert first <= node.loc.line < first + len(lines)
