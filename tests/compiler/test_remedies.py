"""A remedy that is followed to the letter makes a graph, which means the same."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dspex as dx
import dspex.compiler.frontend
from dspex.compiler import compile
from tests.compiler.remedies import CASES, STAYS, TOP, Case
from tests.compiler.test_frontend import INPUTS, scripted

numbers = itertools.count()
FRONTEND = Path(dspex.compiler.frontend.__file__).parent


def made(folder: Path, body: str, members: str) -> dx.Program[Any, Any]:
    lines = f"{members}\nasync def __call__(self, x: Ask, /) -> Answer:\n{textwrap.indent(body, '    ')}\n"
    text = f"{TOP}\nclass Made(Asker):\n{textwrap.indent(lines, '    ')}"
    name = f"remedied_{next(numbers)}"
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Made()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reason[:40])
def test_remedy_makes_a_graph_of_the_same_meaning_when_it_is_followed(case: Case, tmp_path: Path) -> None:
    before = made(tmp_path, case.before, case.members)
    (node,) = compile(before).graph.opaque
    assert case.reason in node.reason
    assert node.remedy
    after = made(tmp_path, case.after, f"{case.members}\n{case.then}")
    compiled = compile(after)
    assert [(node.reason, node.remedy) for node in compiled.graph.opaque] == []

    async def outcome(program: Any, x: Any) -> object:
        try:
            return (await program(x)).model_dump()
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            return type(error)

    with dx.using(lm=scripted()):
        for x in INPUTS:
            found = asyncio.run(outcome(compiled, x))
            assert found == asyncio.run(outcome(after, x))
            if case.reason not in DIFFERENT:
                assert found == asyncio.run(outcome(before, x))


DIFFERENT = {
    "a program is chosen by a value": "the body fails",
    "is read before it has a value": "the body fails",
    "a call is never awaited": "Python warns",
    "an assignment to an attribute": "the body fails",
    "are called at once": "the body fails",
    "asyncio.gather of something other than calls": "the body fails",
    "a call is called without `await`": "the body fails",
    "a method is called without `await`": "the body shows a coroutine",
    "is called inside another expression": "the body shows a coroutine",
    "fetch is called without `await`": "the body shows a coroutine",
    "is called with arguments that it does not take": "the body fails",
    "is used as a value": "the body fails",
    "3 values are unpacked to 2 names": "the body fails",
}
"""What differs on purpose: offending bodies that only fail."""


def reasons() -> Iterator[str]:
    """Every reason in the sources of the front end, with `{}` where a value stands."""
    for path in sorted(FRONTEND.glob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id="Unsupported") | ast.Attribute(attr="unsupported" | "_refuse")):
                    yield from texts(node.args[0])
                case ast.AnnAssign(target=ast.Name(id="_STATEMENTS" | "_REFUSED"), value=ast.Dict() as table):
                    for key, value in zip(table.keys, table.values, strict=True):
                        assert isinstance(value, ast.Tuple)
                        (text,) = texts(value.elts[0])
                        word = f"{key.value} " if isinstance(key, ast.Constant) else ""
                        yield word + text
                case _:
                    pass


def texts(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=values):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in values)
        case _:
            pass


def test_every_reason_of_the_front_end_has_a_case_or_stays_python() -> None:
    known = [case.reason for case in CASES]
    missing: list[str] = []
    for reason in sorted({*reasons()}):
        fixed = max(re.split(r"\{\}", reason), key=len).strip()
        if reason not in STAYS and not any(each in reason or fixed in each for each in known):
            missing.append(reason)
    assert missing == []
