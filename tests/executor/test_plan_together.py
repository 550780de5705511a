"""Branches that act and are written to run together do, each in an order of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import dspex as dx
from dspex.compiler import compile
from dspex.compiler.ir.nodes import Attempt
from dspex.testing import ScriptedLM


class Ask(dx.Schema):
    text: str


class Pair(dx.Schema):
    left: Ask
    right: Ask


class Meeting:
    """What the functions of one test share."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.barrier = asyncio.Barrier(2)
        self.log: list[str] = []


here: list[Meeting] = []


async def wait(text: str) -> str:
    await here[-1].event.wait()
    here[-1].log.append(f"waited {text}")
    return f"waited {text}"


async def release(text: str) -> str:
    here[-1].log.append(f"released {text}")
    here[-1].event.set()
    return f"released {text}"


@dx.op
async def fetch(text: str) -> str:
    await here[-1].barrier.wait()
    return f"<{text}>"


@dx.tool
async def search(text: str) -> str:
    """Finds the text."""
    await here[-1].barrier.wait()
    return f"found {text}"


def note(text: str) -> str:
    here[-1].log.append(text)
    return text


async def fail(text: str) -> str:
    note(text)
    raise ValueError(text)


class Waits(dx.Program[Ask, Ask]):
    async def __call__(self, x: Ask, /) -> Ask:
        return Ask(text=await wait(x.text))


class Releases(dx.Program[Ask, Ask]):
    async def __call__(self, x: Ask, /) -> Ask:
        first = note("first")
        got = await release(x.text)
        return Ask(text=first + got + note("last"))


class Fetches(dx.Program[Ask, Ask]):
    async def __call__(self, x: Ask, /) -> Ask:
        return Ask(text=await fetch(x.text))


class Programs(dx.Program[Ask, Ask]):
    waits = Waits()
    releases = Releases()

    async def __call__(self, x: Ask, /) -> Ask:
        one, two = await asyncio.gather(self.waits(x), self.releases(x))
        return Ask(text=one.text + two.text)


class Methods(dx.Program[Ask, Ask]):
    async def waiter(self, x: Ask) -> str:
        return await wait(x.text)

    async def setter(self, x: Ask) -> str:
        note("before")
        return await release(x.text)

    async def __call__(self, x: Ask, /) -> Ask:
        one, two = await asyncio.gather(self.waiter(x), self.setter(x))
        return Ask(text=one + two + note("after"))


class Mixed(dx.Program[Ask, Ask]):
    fetches = Fetches()
    m = dx.Predict(Ask, Ask)

    async def __call__(self, x: Ask, /) -> Ask:
        one, two, three = await asyncio.gather(self.fetches(x), search(text=x.text), self.m(x))
        return Ask(text=one.text + two + three.text)


class Steps(dx.Program[Ask, Ask]):
    def __init__(self) -> None:
        super().__init__()
        self.steps = [Fetches(), Fetches()]

    async def __call__(self, x: Ask, /) -> Ask:
        parts = await asyncio.gather(*(step(x) for step in self.steps))
        return Ask(text="".join(part.text for part in parts))


class Listed(dx.Program[Ask, Ask]):
    fetches = Fetches()

    async def __call__(self, x: Ask, /) -> Ask:
        one, two = await dx.map(self.fetches, [x, Ask(text="other")])
        return Ask(text=one.text + two.text)


class Opaque(dx.Program[Ask, Ask]):
    async def __call__(self, x: Ask, /) -> Ask:
        while True:
            return Ask(text=await fetch(x.text))


TOGETHER: dict[str, dx.Program[Any, Any]] = {
    "programs": Programs(),
    "methods": Methods(),
    "mixed": Mixed(),
    "steps": Steps(),
    "listed": Listed(),
    "parallel": dx.parallel(Pair, left=Fetches(), right=Fetches()),
    "opaque": dx.parallel(Pair, left=Opaque(), right=Opaque()),
    "vote": dx.vote(Fetches(), Fetches()),
}


def outcome(called: Any) -> tuple[object, list[str]]:
    async def scenario() -> object:
        here.append(Meeting())
        async with asyncio.timeout(20):
            return await called(Ask(text="x"))

    with dx.using(lm=ScriptedLM(lambda _: {"text": "model"})):
        return asyncio.run(scenario()), here[-1].log


@pytest.mark.parametrize("name", TOGETHER)
def test_acting_branches_are_in_flight_together(name: str) -> None:
    program = TOGETHER[name]
    compiled = compile(program)
    (node,) = [node for node in compiled.graph.nodes if isinstance(node, Attempt)]
    assert node.form == "together"
    assert str(node.type) == "list"
    assert outcome(compiled) == outcome(program)


def test_calls_stay_flat_when_only_one_branch_acts() -> None:
    class One(dx.Program[Ask, Ask]):
        a = dx.Predict(Ask, Ask)
        b = Releases()

        async def __call__(self, x: Ask, /) -> Ask:
            one, two = await asyncio.gather(self.a(x), self.b(x))
            return Ask(text=one.text + two.text)

    assert not any(isinstance(node, Attempt) for node in compile(One()).graph.nodes)
    assert outcome(compile(One())) == outcome(One())


def test_first_failure_in_source_order_is_raised() -> None:
    class Fails(dx.Program[Ask, Ask]):
        async def one(self, x: Ask) -> str:
            await wait(x.text)
            return await fail("one")

        async def two(self, x: Ask) -> str:
            await release(x.text)
            return await fail("two")

        async def __call__(self, x: Ask, /) -> Ask:
            one, two = await asyncio.gather(self.one(x), self.two(x))
            return Ask(text=one + two)

    with pytest.raises(ValueError, match="one"):
        outcome(compile(Fails()))
    assert here[-1].log == ["released x", "two", "waited x", "one"]
