"""Programs that are wrong, odd or very large: a coded error or a compiled program, never a crash or a hang."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import dspex as dx
from dspex.compiler import Compiled, compile, load_artifact, parse
from dspex.errors import CompileError, DspexError, ProgramError
from tests.compiler.programs import Written, imported
from tests.compiler.vocabulary import Answer, Ask, Draft, Label, Model
from tests.growth import LINEAR, steps

HEAD = """\
from __future__ import annotations
import asyncio
import dspex as dx
from tests.compiler.vocabulary import Answer, Ask, Draft, Label, clean

"""


@contextmanager
def module(text: str, folder: Path) -> Generator[Any]:
    with imported(Written(HEAD + text, "Root", races=False, opaque=False), folder) as made:
        yield made


def body(*lines: str, attributes: tuple[str, ...] = (), name: str = "Root", given: str = "Ask") -> str:
    """A class with modules `ask` (Ask to Ask), `draft` (Ask to Draft) and `answer` (Ask to Answer)."""
    head = [f"class {name}(dx.Program[{given}, Answer]):"]
    fixed = [
        "    ask = dx.Predict(Ask, Ask)",
        "    draft = dx.Predict(Ask, Draft)",
        "    answer = dx.Predict(Ask, Answer)",
    ]
    call = [f"    async def __call__(self, x: {given}, /) -> Answer:"]
    return "\n".join([*head, *fixed, *(f"    {a}" for a in attributes), *call, *(f"        {b}" for b in lines)]) + "\n"


def same_answers(program: dx.Program[Any, Any], compiled: Compiled[Any, Any]) -> None:
    x = Ask(question="Why?", hints=["a", "b"])
    with dx.using(lm=Model().lm):
        assert asyncio.run(run(program, x)) == asyncio.run(run(compiled, x))


async def run(call: Any, x: Ask) -> object:
    return await call(x)


def refused_or_compiled(make: Callable[[], Any], *codes: str) -> tuple[Any, Compiled[Any, Any]] | None:
    """What `make` gives, compiled; None when either is refused with one of `codes`."""
    try:
        program = make()
        return program, checked(program)
    except DspexError as refused:
        if not refused.code.startswith(codes):
            raise
        return None


def checked(program: dx.Program[Any, Any]) -> Compiled[Any, Any]:
    """`program` compiled; its graph comes back from its text."""
    made = compile(program)
    assert parse(str(made.graph)) == made.graph
    return made


# --- programs that lead back to themselves ------------------------------------------------------


def test_program_is_refused_when_it_holds_itself() -> None:
    class Circular(dx.Program[Ask, Answer]):
        def __init__(self) -> None:
            super().__init__()
            self.me = self

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.me(x)

    with pytest.raises(DspexError) as refused:
        compile(Circular())
    assert refused.value.code in ("DX1511", "DX2006")


def test_program_is_refused_when_it_is_put_into_its_own_list() -> None:
    class Listed(dx.Program[Ask, Answer]):
        def __init__(self) -> None:
            super().__init__()
            self.steps: list[dx.Program[Ask, Answer]] = [dx.Predict(Ask, Answer)]

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.steps[-1](x)

    program = Listed()
    program.steps.append(program)
    with pytest.raises(CompileError) as refused:
        compile(program)
    assert refused.value.code == "DX2006"


def test_two_programs_are_refused_when_each_holds_the_other(tmp_path: Path) -> None:
    text = """
class Left(dx.Program[Ask, Answer]):
    def __init__(self) -> None:
        super().__init__()
        self.others = [dx.Predict(Ask, Answer)]

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.others[-1](x)
"""
    with module(text, tmp_path) as made:
        left, right = made.Left(), made.Left()
        left.others.append(right)
        right.others.append(left)
        with pytest.raises(CompileError) as refused:
            compile(left)
        assert refused.value.code == "DX2006"


@pytest.mark.parametrize(
    "lines",
    [("return await self(x)",), ("y = await self.ask(x)", "return await self.__call__(y)")],
)
def test_body_is_refused_or_opaque_when_it_calls_itself(lines: tuple[str, ...], tmp_path: Path) -> None:
    with module(body(*lines), tmp_path) as made:
        found = refused_or_compiled(made.Root, "DX2006")
        assert found is None or found[1].graph.opaque


def test_method_is_opaque_or_refused_when_it_calls_itself(tmp_path: Path) -> None:
    text = body("return await self.again(x)") + (
        "    async def again(self, x: Ask) -> Answer:\n        return await self.again(x)\n"
    )
    with module(text, tmp_path) as made:
        found = refused_or_compiled(made.Root, "DX2006")
        assert found is None or found[1].graph.opaque


def untyped(given: Any, wanted: Any) -> Any:
    return dx.Predict(given, wanted)


# --- branches and selections --------------------------------------------------------------------


def test_program_means_the_same_when_it_branches_on_an_output(tmp_path: Path) -> None:
    text = body(
        "draft = await self.draft(x)",
        "if draft.score > 0.4:",
        "    return Answer(text=draft.text)",
        "return await self.answer(x)",
    )
    with module(text, tmp_path) as made:
        compiled = checked(made.Root())
        assert [node.kind for node in compiled.graph.nodes if node.kind in ("cond", "opaque")]
        assert all("dx.cond" in opaque.remedy for opaque in compiled.graph.opaque)
        same_answers(made.Root(), compiled)


@pytest.mark.parametrize(
    "make",
    [
        # Checkers refuse these too, so they are built without their help.
        lambda: dx.select(a=untyped(Ask, Draft), b=untyped(Ask, Answer)),
        lambda: dx.select(a=untyped(Ask, Draft), b=untyped(Draft, Draft)),
        lambda: dx.fallback(untyped(Ask, Draft), untyped(Ask, Answer)),
        lambda: dx.race(untyped(Ask, Draft), untyped(Draft, Draft)),
        lambda: dx.vote(untyped(Ask, Draft), untyped(Ask, Label)),
    ],
)
def test_branches_are_refused_when_they_differ_in_type(make: Any) -> None:
    with pytest.raises(DspexError) as refused:
        make()
    assert refused.value.code.startswith(("DX15", "DX2003"))


def test_pipe_is_refused_when_schemas_do_not_fit() -> None:
    with pytest.raises(CompileError) as refused:
        dx.Predict(Ask, Draft) >> dx.Predict(Label, Answer)  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
    assert refused.value.code == "DX2001"


# --- Variables ----------------------------------------------------------------------------------


def test_class_is_refused_when_it_shares_a_variable_with_another(tmp_path: Path) -> None:
    text = (
        'k = dx.Int("k", 1, 8)\n\n'
        "class Part(dx.Program[Ask, Ask]):\n    k = k\n    ask = dx.Predict(Ask, Ask, demos_k=k)\n"
        "    async def __call__(self, x: Ask, /) -> Ask:\n        return await self.ask(x)\n\n"
    ) + body("return await self.answer(await self.part(x))", attributes=("k = k", "part = Part()"))
    with pytest.raises(ProgramError) as refused, module(text, tmp_path):
        pass
    assert refused.value.code == "DX1217"


def test_variable_is_one_when_two_modules_share_it(tmp_path: Path) -> None:
    attributes = (
        'k = dx.Int("k", 1, 8)',
        "one = dx.Predict(Ask, Ask, demos_k=k)",
        "two = dx.Predict(Ask, Ask, demos_k=k)",
    )
    with module(
        body("return await self.answer(await self.two(await self.one(x)))", attributes=attributes), tmp_path
    ) as m:
        compiled = checked(m.Root()).bind(k=7)
        assert [name for name, v in compiled.space.variables.items() if v.kind == "int"] == ["k"]
        assert {compiled.settings[name].demos_k for name in ("one", "two")} == {7}


def test_class_is_refused_when_two_variables_have_one_name(tmp_path: Path) -> None:
    attributes = ('one = dx.Int("k", 1, 8)', 'two = dx.Int("k", 1, 4)', "shown = dx.Predict(Ask, Ask, demos_k=one)")
    with (
        pytest.raises(ProgramError) as refused,
        module(body("return await self.answer(x)", attributes=attributes), tmp_path),
    ):
        pass
    assert refused.value.code == "DX1205"


def test_space_is_refused_when_two_variables_have_one_name() -> None:
    with pytest.raises(ProgramError) as refused:
        dx.Space((dx.Int("k", 1, 8), dx.Float("k", 0.0, 1.0)))
    assert refused.value.code.startswith("DX14")


def many_variables(count: int) -> str:
    attributes = tuple(f"k{n} = dx.Int('k{n}', 1, 8)" for n in range(count))
    return body(
        f"return await self.answer(x.model_copy(update={{'question': str(self.k{count - 1})}}))", attributes=attributes
    )


def stored_and_loaded(root: type[dx.Program[Any, Any]], count: int, file: Path) -> Compiled[Any, Any]:
    """An instance of `root`, whose Variables are ``k0`` to ``k{count - 1}``, compiled, bound, saved and loaded."""
    compiled = checked(root())
    assert len(compiled.space.variables) > count
    assert len(compiled.params.names) > count
    bound = compiled.bind({"k0": 2, f"k{count - 1}": 7})
    assert (bound.config["k0"], bound.config[f"k{count - 1}"]) == (2, 7)
    bound.save(file)
    assert load_artifact(file, program=root).config == bound.config
    return compiled


def test_ten_thousand_variables_compile_bind_and_come_back(tmp_path: Path) -> None:
    count = 10_000
    with module(many_variables(count), tmp_path) as made:
        same_answers(made.Root(), stored_and_loaded(made.Root, count, tmp_path / "many.dspex"))


def test_work_grows_linearly_when_variables_are_added(tmp_path: Path) -> None:
    """Counted in steps of Python; names that are searched for in a list inside C would not show."""
    taken: list[int] = []
    for count in (10, 100, 400):
        with module(many_variables(count), tmp_path) as made:
            taken.append(
                steps(lambda made=made, count=count: stored_and_loaded(made.Root, count, tmp_path / "x.dspex"))
            )
    assert taken[2] < LINEAR * taken[1]


# --- size and depth -----------------------------------------------------------------------------


def many_nodes(count: int) -> str:
    """Two nodes for each of `count`."""
    lines = ["v0 = await self.ask(x)"]
    for n in range(1, count):
        lines.append(f't{n} = v{n - 1}.question + "{n}"')
        lines.append(f"v{n} = await self.ask(Ask(question=t{n}))")
    return body(*lines, f"return await self.answer(v{count - 1})")


def test_two_thousand_nodes_compile(tmp_path: Path) -> None:
    with module(many_nodes(1_000), tmp_path) as made:
        compiled = checked(made.Root())
        assert len(compiled.graph.nodes) >= 2_000
        same_answers(made.Root(), compiled)


def test_work_grows_linearly_when_nodes_are_added(tmp_path: Path) -> None:
    """Counted in steps of Python; parsing the source and hashing happen inside C and do not show."""
    taken: list[int] = []
    for count in (10, 50, 200):
        with module(many_nodes(count), tmp_path) as made:
            taken.append(steps(lambda made=made: checked(made.Root())))
    assert taken[2] < LINEAR * taken[1]


@pytest.mark.parametrize("depth", [50, 400, 900])
def test_deep_expressions_compile_or_are_refused(depth: int, tmp_path: Path) -> None:
    expression = " + ".join(["x.question", *("'a'" for _ in range(depth))])
    with module(body(f"return Answer(text={expression})"), tmp_path) as made:
        found = refused_or_compiled(made.Root, "DX2")
        if found is not None:
            same_answers(*found)


@pytest.mark.parametrize("depth", [40, 300])
def test_deep_nesting_of_programs_compiles_or_is_refused(depth: int) -> None:
    def make() -> Any:
        program: Any = dx.Predict(Ask, Ask)
        for _ in range(depth):
            program = dx.fallback(program, dx.Predict(Ask, Ask))
        return program

    found = refused_or_compiled(make, "DX1", "DX2")
    assert found is not None or depth > 100
    if found is not None:
        same_answers(*found)


def test_long_pipe_compiles() -> None:
    program: Any = dx.Predict(Ask, Ask)
    for _ in range(300):
        program = program >> dx.Predict(Ask, Ask)
    compiled = checked(program)
    assert len(compiled.graph.nodes) == 302
    same_answers(program, compiled)


# --- names and text -----------------------------------------------------------------------------


def test_names_may_be_any_that_python_allows(tmp_path: Path) -> None:
    text = """
class Größe(dx.Schema):
    länge: str
    名前: str = "ö"

class Ünï(dx.Program[Ask, Answer]):
    größe: dx.Var[int] = dx.var(2, lo=1, hi=3)
    frage = dx.Predict(Ask, Größe, instruction="Größe {größe} ✓", demos_k=größe)
    名前 = dx.select(前=dx.Predict(Größe, Answer), 後=dx.ChainOfThought(Größe, Answer))

    async def __call__(self, ß: Ask, /) -> Answer:
        maß = await self.frage(ß)
        return await self.名前(Größe(länge=maß.länge * self.größe, 名前="𝔘"))

Root = Ünï
"""
    answers: dict[str, object] = {"länge": "ä", "名前": "ä", "text": "ä", "draft": None, "items": [], "label": None}
    lm = dx_scripted(answers)
    with module(text, tmp_path) as made:
        compiled = checked(made.Root()).bind({"名前": "後", "größe": 3})
        assert compiled.graph.opaque == ()
        file = tmp_path / "größe 名.dspex"
        compiled.save(file)
        loaded = load_artifact(file, program=made.Root)
        assert loaded.config == compiled.config
        with dx.using(lm=lm):
            x = Ask(question="?")
            assert compiled.run(x) == loaded.run(x) == made.Root().bind({"名前": "後", "größe": 3}).run(x)


def dx_scripted(answers: dict[str, object]) -> Any:
    from dspex.testing import ScriptedLM

    return ScriptedLM(lambda request: {name: answers.get(name, "r") for name in request.output_fields})


@pytest.mark.parametrize("text", ["\\ud800", "\\x00\\x1b", "a" * 200_000, "{not}{{a}} %0 $k @x \\\\n }", "# output %1"])
def test_constants_may_be_any_text(text: str, tmp_path: Path) -> None:
    with module(body(f'y = Ask(question="{text}")', "return Answer(text=y.question + x.question)"), tmp_path) as made:
        compiled = checked(made.Root())
        same_answers(made.Root(), compiled)
        file = tmp_path / "constant.dspex"
        compiled.save(file)
        assert load_artifact(file, program=made.Root).graph == compiled.graph


THINGS: list[Any] = [None, 3, "bot:QABot", Ask, Ask(question="a"), dx.Predict, untyped]


@pytest.mark.parametrize("thing", THINGS)
def test_what_is_no_program_is_refused(thing: Any) -> None:
    with pytest.raises(CompileError) as refused:
        compile(thing)
    assert refused.value.code == "DX2008"


def test_source_may_change_under_a_running_process(tmp_path: Path) -> None:
    """The file on disk is no longer what was imported: refused or opaque, or read as imported; never misread."""
    with module(body("return await self.answer(x)"), tmp_path) as made:
        path = Path(made.__file__)
        path.write_text(HEAD + "\n\n\n" + body("return Answer(text='changed')"), encoding="utf-8")
        found = refused_or_compiled(made.Root, "DX20")
        if found is not None:
            same_answers(*found)


def test_recursion_limit_is_left_alone() -> None:
    before = sys.getrecursionlimit()
    compile(dx.Predict(Ask, Answer))
    assert sys.getrecursionlimit() == before
