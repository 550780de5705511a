"""Which lists may grow as new lists, what a loop hands on, and what is known of a list's items."""

from __future__ import annotations

import ast
import asyncio
from typing import Any

import pytest

import dspex as dx
from dspex.compiler.frontend.liveness import read_after
from dspex.compiler.frontend.owned import owned
from dspex.compiler.frontend.source import read_body
from dspex.compiler.ir.nodes import Cond, Join, Python
from tests.compiler.bodies import Answer, Ask, Asker


def holds(made: list[str]) -> int:
    return len(made)


def kept(x: Ask) -> Any:
    made: list[str] = []
    made += x.hints
    made.append("a")
    first = made[0] if len(made) > 1 and "b" in made else ", ".join(made)
    return Ask(question=f"{first}{made}", hints=made)


def named_twice(x: Ask) -> Any:
    made: list[str] = []
    same = made
    made += x.hints
    return same


def given(made: list[str]) -> Any:
    made += ["a"]
    return str(made)


def handed_on(x: Ask) -> Any:
    made = list(x.hints)
    holds(made)
    made += ["a"]
    return str(made)


def in_a_closure(x: Ask) -> Any:
    made = list(x.hints)
    size = lambda: len(made)  # noqa: E731
    made += ["a"]
    return size()


def of_another(x: Ask) -> Any:
    made = x.hints
    made += ["a"]
    return str(made)


def in_a_tuple(x: Ask) -> Any:
    made = list(x.hints)
    both = (made, 1)
    made += ["a"]
    return both


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (kept, {"made"}),
        *((each, set[str]()) for each in (named_twice, given, handed_on, in_a_closure, of_another, in_a_tuple)),
    ],
)
def test_list_is_owned_when_nothing_else_holds_it(function: Any, names: set[str]) -> None:
    assert owned(read_body(function)) == names


def test_loop_hands_on_what_is_read_later_alone() -> None:
    text = """
total, seen, unread = 0, 0, 0
for at in range(3):
    half = at // 2
    total = total + half
    seen += 1
    unread = half
print(total)
"""
    tree = ast.parse(text)
    (loop,) = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
    assert read_after(tree, loop) >= {"total", "seen"}
    assert not read_after(tree, loop) & {"half", "unread"}


class Critiqued(Asker):
    rounds: dx.Var[int] = dx.var(1, lo=0, hi=2)

    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x)
        critique = await self.loose(x)
        for _ in range(self.rounds):
            critique = await self.loose(Ask(question=draft.text))
            draft = await self.first(Ask(question=critique.text))
        return await self.second(draft)


def test_condition_gives_the_value_itself_when_one_name_is_read_after_the_loop() -> None:
    nodes = dx.compile(Critiqued()).graph.nodes
    assert len([node for node in nodes if isinstance(node, Cond)]) == 2
    assert not [node for node in nodes if isinstance(node, Join) and node.form == "tuple"]


class Gathered(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        parts = await asyncio.gather(self.first(x), self.first(Ask(question="b")))
        return Answer(text=" ".join([part.text for part in parts]))


class Written(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        parts = [await self.first(Ask(question=word)) for word in ("a", "b")]
        texts = [part.text for part in parts]
        return Answer(text=" ".join(texts))


@pytest.mark.parametrize("cls", [Gathered, Written])
def test_comprehension_is_pure_when_the_items_of_its_list_are_known(cls: type[dx.Program[Ask, Answer]]) -> None:
    found = [node for node in dx.compile(cls()).graph.nodes if isinstance(node, Python)]
    assert found
    assert all(node.pure for node in found)
