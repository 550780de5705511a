"""What compiling saves, from source to calls: independent calls run together, equal ones cost one, dead ones none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import pytest

import dspex as dx
from dspex.compiler import compile
from dspex.lm.types import LMRequest
from dspex.testing import ScriptedLM


class Ask(dx.Schema):
    question: str


class Reply(dx.Schema):
    text: str


class Three(dx.Program[Ask, Reply]):
    """Three calls that need nothing of each other, written one after another."""

    one = dx.Predict(Ask, Reply)
    two = dx.Predict(Ask, Reply)
    three = dx.Predict(Ask, Reply)

    async def __call__(self, x: Ask, /) -> Reply:
        one = await self.one(x)
        two = await self.two(x)
        three = await self.three(x)
        return Reply(text=one.text + two.text + three.text)


class Equal(dx.Program[Ask, Reply]):
    """One module asked the same twice, in different words of Python."""

    heat: dx.Var[float] = dx.var(0.0, lo=0.0, hi=1.0)
    cold = dx.Predict(Ask, Reply)
    warm = dx.Predict(Ask, Reply, temperature=0.7)
    tuned = dx.Predict(Ask, Reply, temperature=heat)

    def __init__(self, which: Literal["cold", "warm", "tuned"] = "cold") -> None:
        super().__init__()
        self.solve = {"cold": self.cold, "warm": self.warm, "tuned": self.tuned}[which]

    async def __call__(self, x: Ask, /) -> Reply:
        one = await self.solve(x)
        same = x
        two = await self.solve(same)
        return Reply(text=one.text + two.text)


class Dead(dx.Program[Ask, Reply]):
    """A call whose answer nothing reads."""

    first = dx.Predict(Ask, Reply)
    spare = dx.Predict(Reply, Reply)

    async def __call__(self, x: Ask, /) -> Reply:
        first = await self.first(x)
        await self.spare(first)
        await self.spare(Reply(text=first.text + "!"))
        return first


class Nested(dx.Program[Ask, Reply]):
    """The same inside a program and inside the items of a map."""

    inner = Dead()
    equal = Equal()

    async def __call__(self, x: Ask, /) -> Reply:
        found = await dx.map(self.inner, [x, Ask(question="b")])
        other = await self.equal(x)
        return Reply(text=found[0].text + found[1].text + other.text)


def calls(call: Callable[[Ask], Any]) -> int:
    lm = ScriptedLM(lambda request: {"text": "t"})
    with dx.using(lm=lm):
        asyncio.run(call(Ask(question="a")))
    return lm.calls


def most_in_flight(call: Callable[[Ask], Any], wanted: int) -> int:
    """How many calls are in flight at once, each waiting for `wanted` of them as long as others may still begin."""
    flying = most = 0

    async def run() -> None:
        async def slow(request: LMRequest) -> dict[str, object]:
            nonlocal flying, most
            flying += 1
            most = max(most, flying)
            for _ in range(100):
                if most >= wanted:
                    break
                await asyncio.sleep(0)
            flying -= 1
            return {"text": "t"}

        with dx.using(lm=ScriptedLM(slow)):
            await call(Ask(question="a"))

    asyncio.run(run())
    return most


def test_three_independent_calls_run_in_the_time_of_one() -> None:
    program = Three()
    assert most_in_flight(program, 3) == 1
    assert most_in_flight(compile(program), 3) == 3


def test_two_equal_deterministic_calls_cost_one() -> None:
    assert calls(Equal()) == 2
    assert calls(compile(Equal())) == 1


@pytest.mark.parametrize("which", ["warm", "tuned"])
def test_equal_calls_cost_two_when_they_are_not_deterministic(which: Literal["warm", "tuned"]) -> None:
    """A temperature that a binding may raise is not the constant 0, even while it is 0."""
    compiled = compile(Equal(which))
    assert calls(compiled) == 2
    if which == "tuned":
        assert calls(compiled.bind(heat=0.5)) == 2


def test_a_dead_call_costs_none() -> None:
    assert calls(Dead()) == 3
    assert calls(compile(Dead())) == 1


def test_savings_reach_into_programs_and_maps() -> None:
    assert calls(Nested()) == 8
    assert calls(compile(Nested())) == 3
