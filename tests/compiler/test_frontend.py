"""The front end on a corpus of ordinary bodies: the right meaning, or a refusal with a remedy."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

import dspex as dx
from dspex.compiler import compile
from dspex.compiler.frontend import read_program
from dspex.compiler.ir.nodes import Lm, Opaque, Python, Select, walk
from dspex.compiler.ir.parser import parse
from dspex.compiler.ir.verify import violations
from dspex.compiler.passes.inline import Inline
from dspex.errors import CompileError, ProgramError
from dspex.lm.types import LMRequest
from dspex.testing import ScriptedLM
from tests.compiler import bodies, bodies_flow, bodies_plain
from tests.compiler.bodies import LOWERED, OPAQUE, Answer, Ask, Asker, Draft
from tests.compiler.naive import Naive

Refused = tuple[type[dx.Program[Ask, Answer]], str, str]
INPUTS = [
    Ask(question="a b"),
    Ask(question="Größe", hints=["x", "yy", "a"], deep=True),
    Ask(question=" spaced ", hints=["one"]),
]


numbers = itertools.count()


def scripted() -> ScriptedLM:
    """Answers every field from the whole request, so that any change of what is sent shows in the output."""

    def answer(request: LMRequest) -> dict[str, object]:
        text = json.dumps([m.content for m in request.messages] + [request.prompt], ensure_ascii=False)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        every: dict[str, object] = {
            "text": digest,
            "score": 0.5,
            "source": digest[:2],
            "reasoning": "r",
            "question": digest,
        }
        return {name: every[name] for name in request.output_fields if name in every}

    # A model of its own each time, so that no cache answers for another.
    return ScriptedLM(answer, fingerprint=str(next(numbers)))


@pytest.mark.parametrize("cls", LOWERED, ids=lambda cls: cls.__name__)
def test_graph_means_what_the_body_does_when_it_is_understood(cls: type[dx.Program[Ask, Answer]]) -> None:
    program = cls()
    reading = read_program(program)
    graph = reading.graph
    assert [node.reason for node in graph.opaque] == []
    assert violations(graph) == ()
    assert parse(str(graph)) == graph
    lm = scripted()

    async def compare() -> None:
        for x in INPUTS:
            # The plainest run of the graph that was read, against the program itself.
            assert await Naive(program, reading.schemas, reading.functions).run(graph, x) == await program(x)

    with dx.using(lm=lm):
        asyncio.run(compare())


@pytest.mark.parametrize("cls", [*LOWERED, *(item[0] for item in OPAQUE)], ids=lambda cls: cls.__name__)
def test_plan_gives_what_the_program_gives_for_as_many_calls(cls: type[dx.Program[Ask, Answer]]) -> None:
    program = cls()
    compiled = compile(program)

    async def run(called: Any, x: Ask) -> tuple[object, int]:
        lm = scripted()
        with dx.using(lm=lm):
            try:
                result: object = await called(x)
            except (ProgramError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
                result = type(error), str(error)
        return result, lm.calls

    async def compare() -> None:
        for x in INPUTS:
            direct, planned = await run(program, x), await run(compiled, x)
            assert planned[0] == direct[0]
            # Equal calls at temperature 0 and calls that nothing reads are left out.
            assert planned[1] <= direct[1]

    asyncio.run(compare())


@pytest.mark.parametrize(("cls", "reason", "remedy"), OPAQUE, ids=lambda item: getattr(item, "__name__", None))
def test_body_is_opaque_with_a_remedy_when_it_is_not_understood(
    cls: type[dx.Program[Ask, Answer]], reason: str, remedy: str
) -> None:
    program = cls()
    graph = read_program(program).graph
    (node,) = graph.opaque
    assert reason in node.reason
    assert remedy in node.remedy
    assert node.owns == tuple(program.modules())
    assert node.uses == tuple(program.variables())
    assert parse(str(graph)) == graph
    # The line is one of the body itself.
    assert node.loc is not None
    assert node.loc.file.startswith("tests/compiler/bodies")


def test_corpus_is_large() -> None:
    # Importing a module of bodies adds its own.
    assert bodies_flow.lowered is bodies_plain.lowered is bodies.lowered
    assert len(LOWERED) >= 110
    assert len(OPAQUE) >= 55


@pytest.mark.parametrize(
    ("cls", "words"),
    [(bodies.If, "if x.deep:"), (bodies.For, "for hint in x.hints:"), (bodies.Walrus, "y := x.question")],
)
def test_line_is_that_of_the_construct_when_a_body_is_opaque(cls: Any, words: str) -> None:
    (node,) = compile(cls()).graph.opaque
    lines = Path(bodies.__file__).read_text().splitlines()
    assert node.loc is not None
    assert words in lines[node.loc.line - 1]


def test_graph_reads_as_documented_when_a_program_is_ordinary() -> None:
    graph = Inline().run(read_program(bodies.Nested()).graph)
    text = "\n".join(line.split("  # ")[0].rstrip() for line in str(graph).splitlines())
    lm = "temperature=0.0 max_tokens=512"
    (python,) = [node for node in graph.nodes if isinstance(node, Python)]
    assert text == (
        "program Nested : Ask -> Answer {\n"
        "  %0 = input : Ask\n"
        "  %1 = lm Ask -> Draft (%0) @inner.draft scope @inner instruction=$inner.draft.instruction "
        f"demos=$inner.draft.demos {lm} format=$inner.draft.format\n"
        '  %2 = python pure tests.compiler.bodies:Inner.__call__ (text=%1.text, k=$inner.k) expr "text * k" '
        f'source "{python.source}" : str\n'
        "  %3 = join record (text=%2) : Draft\n"
        "  %4 = lm Draft -> Answer (%3) @finish instruction=$finish.instruction "
        f"demos=$finish.demos {lm} format=$finish.format\n"
        "  output %4\n"
        "}"
    )


def test_branches_are_regions_when_a_program_selects() -> None:
    graph = compile(bodies.Selects()).graph
    (select,) = [node for node in graph.nodes if isinstance(node, Select)]
    assert select.variable == "solver"
    assert [branch.name for branch in select.branches] == ["predict", "cot"]
    modules = [node.module for node in graph.nodes if isinstance(node, Lm)]
    assert modules == ["solver.predict", "solver.cot"]
    assert "reasoning=true" in str(graph)
    assert "instruction=$solver.cot.instruction" in str(graph)


def test_every_reading_is_sound_before_any_pass() -> None:
    for cls in [*LOWERED, *(item[0] for item in OPAQUE)]:
        assert violations(read_program(cls()).graph) == ()


def test_only_the_inner_program_is_opaque_when_its_body_is_not_understood() -> None:
    class Outer(dx.Program[Ask, Answer]):
        inner = bodies.If()
        first = dx.Predict(Ask, Draft)

        async def __call__(self, x: Ask, /) -> Answer:
            draft = await self.first(x)
            return await self.inner(Ask(question=draft.text))

    graph = compile(Outer()).graph
    assert [node.kind for node in graph.nodes] == ["input", "lm", "join", "opaque"]
    (opaque,) = graph.opaque
    assert opaque.program == "inner"
    assert opaque.owns == ("inner.first", "inner.second", "inner.loose")


def test_module_arguments_are_variables_when_they_are_given_as_such() -> None:
    class Warm(dx.Program[Ask, Answer]):
        style: dx.Var[str] = dx.var("terse", choices=["terse", "wordy"])
        heat: dx.Var[float] = dx.var(0.5, lo=0.0, hi=1.0)
        k: dx.Var[int] = dx.var(4, lo=1, hi=8)
        solve = dx.Predict(
            Ask, Answer, instruction="Answer in a {style} way.", temperature=heat, demos_k=k, format="chat"
        )

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.solve(x)

    (node,) = [node for node in compile(Warm()).graph.nodes if isinstance(node, Lm)]
    settings = {item.name: item.value for item in node.settings}
    assert str(compile(Warm()).graph).count("temperature=$heat") == 1
    assert list(settings) == [
        "instruction",
        "instruction.style",
        "demos",
        "demos_k",
        "temperature",
        "max_tokens",
        "format",
    ]


def test_program_is_a_module_when_it_is_a_function() -> None:
    @dx.program
    async def classify(x: Ask) -> Answer:
        """Say what it is."""
        dx.infer()

    graph = compile(classify).graph
    assert [node.kind for node in graph.nodes] == ["input", "lm"]
    assert "$classify.instruction" in str(graph)


def test_composition_is_a_chain_when_it_is_compiled_itself() -> None:
    chain = dx.Predict(Ask, Draft) >> dx.Predict(Draft, Draft) >> dx.Predict(Draft, Answer)
    assert [node.kind for node in compile(chain).graph.nodes] == ["input", "lm", "lm", "lm"]


def test_source_is_missing_when_a_body_comes_from_exec() -> None:
    space: dict[str, Any] = {"dx": dx, "Ask": Ask, "Answer": Answer, "__name__": "made_up"}
    exec(
        "class Made(dx.Program[Ask, Answer]):\n"
        "    loose = dx.Predict(Ask, Answer)\n"
        "    async def __call__(self, x, /):\n"
        "        return await self.loose(x)\n",
        space,
    )
    (node,) = compile(space["Made"]()).graph.opaque
    assert isinstance(node, Opaque)
    assert "source is not available" in node.reason
    assert node.owns == ("loose",)


def test_compiling_runs_nothing_of_the_body() -> None:
    ran: list[str] = []

    def touch(text: str) -> str:
        ran.append(text)
        return text

    class Touches(Asker):
        @property
        def touched(self) -> str:
            ran.append("property")
            return "p"

        async def __call__(self, x: Ask, /) -> Answer:
            return Answer(text=touch(x.question), source=self.touched)

    assert compile(Touches()).graph.opaque == ()
    assert ran == []


# --- errors -------------------------------------------------------------------------------------


def refused(program: dx.Program[Any, Any]) -> CompileError:
    with pytest.raises(CompileError) as caught:
        compile(program)
    return caught.value


def test_unknown_field_is_an_error_with_its_line() -> None:
    class Misspelt(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            return Answer(text=x.questoin)  # pyright: ignore

    error = refused(Misspelt())
    assert error.code == "DX2002"
    assert "Ask has no field 'questoin'" in error.message
    assert error.where is not None
    assert error.where.endswith("x.questoin")
    assert "test_frontend.py:" in error.where
    assert error.fix == "did you mean 'question'?"


@pytest.mark.parametrize("kind", ["argument", "return", "plain"])
def test_schemas_that_do_not_fit_are_an_error(kind: str) -> None:
    class Argument(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            return await self.second(x)  # pyright: ignore

    class Return(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            return await self.first(x)  # pyright: ignore

    class Plain(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            return await self.second(x.question)  # pyright: ignore

    error = refused({"argument": Argument, "return": Return, "plain": Plain}[kind]())
    assert error.code == "DX2001"
    words = {
        "argument": "second takes Draft, it is given Ask",
        "return": "Return returns Draft, it declares Answer",
        "plain": "second takes Draft, it is given str",
    }
    assert words[kind] in error.message


def test_composition_is_an_error_when_schemas_do_not_fit() -> None:
    with pytest.raises(CompileError) as caught:
        dx.Predict(Ask, Draft) >> dx.Predict(Ask, Answer)  # pyright: ignore
    assert caught.value.code == "DX2001"


def test_branches_that_differ_are_an_error_when_they_pass_the_authoring_layer() -> None:
    program = bodies.Selects()
    # `dx.select` refuses these itself; a graph is refused as well, because a subclass may build one otherwise.
    vars(program.solver)["branches"] = {"predict": dx.Predict(Ask, Answer), "other": dx.Predict(Ask, Draft)}
    error = refused(program)
    assert error.code == "DX2003"
    assert "the branch 'other' of solver gives Draft, the others Answer" in error.message


def test_schema_construction_is_an_error_when_its_fields_are_wrong() -> None:
    class Unknown(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            return Answer(txt=x.question)  # pyright: ignore

    class Absent(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            return Answer(source=x.question)  # pyright: ignore

    class Positional(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            return Answer(x.question)  # pyright: ignore

    class Update(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            return await self.loose(x.model_copy(update={"questions": "?"}))

    words = ["no field 'txt'", "without its required text", "by name, got 1 positional", "no field 'questions'"]
    for cls, expected in zip((Unknown, Absent, Positional, Update), words, strict=True):
        error = refused(cls())
        assert error.code == "DX2004"
        assert expected in error.message


def test_module_constructed_in_the_body_is_an_error_even_in_an_opaque_one() -> None:
    class Constructs(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            if x.deep:
                return await dx.Predict(Ask, Answer)(x)
            return await self.loose(x)

    class Selects(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            chosen = dx.select(a=self.loose)
            return await chosen(x)

    for cls in (Constructs, Selects):
        error = refused(cls())
        assert error.code == "DX2005"
        assert "inside its body" in error.message


def test_recursion_is_an_error_that_shows_the_way() -> None:
    class Selfish(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            return await self(x)

    class Around(dx.Program[Ask, Answer]):
        def __init__(self) -> None:
            super().__init__()
            self.me: Any = self

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.me(x)

    for cls in (Selfish, Around):
        error = refused(cls())
        assert error.code == "DX2006"
        assert " -> " in error.message


def test_unknown_attribute_is_an_error() -> None:
    class Misspelt(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            return await self.lose(x)  # pyright: ignore

    class Missing(bodies.Listed):
        async def __call__(self, x: Ask, /) -> Answer:
            return await self.steps[7](x)  # pyright: ignore

    error = refused(Misspelt())
    assert error.code == "DX2007"
    assert error.fix == "did you mean 'loose'?"
    assert refused(Missing()).code == "DX2007"


def test_class_is_refused_when_an_instance_is_wanted() -> None:
    error = refused(Asker)  # pyright: ignore
    assert error.code == "DX2008"
    assert error.fix is not None
    assert "Asker()" in error.fix


def test_unsatisfiable_rules_and_defaults_are_errors_of_compile() -> None:
    class Never(Asker):
        k: dx.Var[int] = dx.var(6, lo=5, hi=8)
        rules = [k <= 4]

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.loose(x)

    class Broken(Asker):
        k: dx.Var[int] = dx.var(6, lo=1, hi=8)
        rules = [k <= 4]

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.loose(x)

    assert refused(Never()).code == "DX2104"
    assert refused(Broken()).code == "DX2106"


def test_two_schemas_of_one_name_are_told_apart() -> None:
    first = Ask
    other: Any = type("Ask", (dx.Schema,), {"__annotations__": {"text": str}, "__module__": "elsewhere"})

    class Converts(dx.Program[first, Answer]):  # pyright: ignore
        solve = dx.Predict(other, Answer)

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.solve(other(text=x.question))

    compiled = compile(Converts())
    assert str(compiled.graph).count("elsewhere.Ask") == 2
    assert compiled.schemas["elsewhere.Ask"] is other
    assert sum(1 for _ in walk(compiled.graph.body)) == 3


def test_body_is_opaque_when_its_file_changed_after_the_import(tmp_path: Path) -> None:
    text = (
        "import dspex as dx\n"
        "from tests.compiler.bodies import Answer, Ask\n"
        "class Edited(dx.Program[Ask, Answer]):\n"
        "    async def __call__(self, x, /):\n"
        "        return Answer(text=x.question + '{}')\n"
    )
    path = tmp_path / "edited.py"
    path.write_text(text.format("before"))
    space: dict[str, Any] = {"__name__": "edited"}
    exec(builtins.compile(path.read_text(), str(path), "exec"), space)
    path.write_text(text.format("later"))
    (node,) = compile(space["Edited"]()).graph.opaque
    assert "changed after it was imported" in node.reason
