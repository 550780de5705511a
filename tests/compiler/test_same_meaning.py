"""A plan gives what its program gives when it is called directly, and asks no more."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import pytest

import dspex as dx
from dspex.compiler import compile
from dspex.errors import ProgramError
from dspex.lm.types import LMRequest
from dspex.testing import ScriptedLM
from tests.compiler.library import Ticket


class Note(dx.Schema):
    text: str
    words: list[str] = []


class Verdict(dx.Schema):
    label: Literal["yes", "no", "maybe"]


class Pair(dx.Schema):
    left: Note
    right: Verdict


log: list[str] = []


def shout(text: str) -> str:
    log.append(text)
    return text.upper()


async def later(text: str) -> str:
    await asyncio.sleep(0)
    log.append(f"later {text}")
    return text[:4]


class Calls(dx.Program[Note, Note]):
    """Two equal calls, one that nothing reads, and one at another temperature."""

    style: dx.Var[Literal["terse", "long"]] = dx.var("terse")
    ask = dx.Predict(Note, Note, instruction="Answer in a {style} way.")
    warm = dx.Predict(Note, Note, temperature=0.7)

    async def __call__(self, x: Note, /) -> Note:
        one = await self.ask(x)
        two = await self.ask(x)
        await self.ask(Note(text=x.text + "!"))
        three = await self.warm(x)
        four = await self.warm(x)
        return Note(text=one.text + two.text + three.text + four.text)


class Work(dx.Program[Note, Pair]):
    """Nested programs, plain Python of both kinds, attributes, copies."""

    def __init__(self) -> None:
        super().__init__()
        self.suffix = {"mark": "?"}

    inner = Calls()
    judge = dx.select(plain=dx.Predict(Note, Verdict), slow=dx.ChainOfThought(Note, Verdict))

    def marked(self, text: str) -> str:
        return text + self.suffix["mark"]

    async def __call__(self, x: Note, /) -> Pair:
        loud = shout(x.text)
        short = await later(loud)
        given = x.model_copy(update={"text": self.marked(f"{loud} {short}")})
        note, verdict = await asyncio.gather(self.inner(given), self.judge(given))
        return Pair(left=note, right=verdict)


class Inside(dx.Program[Note, Pair]):
    """A program that is opaque, inside one that is not."""

    class Opaque(dx.Program[Note, Note]):
        hard: dx.Var[bool] = dx.var(False)
        ask = dx.Predict(Note, Note)

        async def __call__(self, x: Note, /) -> Note:
            while self.hard and len(x.text) < 9:
                x = Note(text=x.text + "+")
            return await self.ask(x)

    opaque = Opaque()
    judge = dx.Predict(Note, Verdict)

    async def __call__(self, x: Note, /) -> Pair:
        note = await self.opaque(x)
        return Pair(left=note, right=await self.judge(note))


class Drafted(dx.Schema):
    draft: Note
    facts: Verdict


class Notes(dx.Schema):
    notes: list[Note]


class Maps(dx.Program[Note, Notes]):
    """Lists, in each of the ways to write them."""

    ask = dx.Predict(Note, Note)

    async def __call__(self, x: Note, /) -> Notes:
        one = await dx.map(self.ask, [Note(text=word) for word in x.words])
        two = [await self.ask(Note(text=word + "!")) for word in x.words]
        three = await asyncio.gather(*(self.ask(Note(text=word + "?")) for word in x.words))
        return Notes(notes=[*one, *two, *three])


class Ways(dx.Program[Note, Note]):
    """A condition on a value, and a loop whose length is a Variable."""

    rounds: dx.Var[int] = dx.var(1, lo=0, hi=3)
    ask = dx.Predict(Note, Note)
    think = dx.ChainOfThought(Note, Note)

    async def __call__(self, x: Note, /) -> Note:
        got = await dx.cond(len(x.text) > 3, self.ask, self.think, x)
        for _ in range(self.rounds):
            got = await self.think(got)
        return got


@dx.tool
async def search(q: str) -> str:
    """Finds something."""
    log.append(f"search {q}")
    return f"{q} found"


@dx.op(pure=True)
def twice(text: str) -> str:
    return text * 2


class Tools(dx.Program[Note, Note]):
    ask = dx.Predict(Note, Note)

    async def __call__(self, x: Note, /) -> Note:
        found = await search(q=x.text)
        return await self.ask(Note(text=twice(found)))


def is_long(x: Note) -> bool:
    return len(x.text) > 3


def answers(request: LMRequest) -> Mapping[str, object]:
    """A function of the request that tells any two apart."""
    digest = hashlib.sha256(repr((request.messages, request.prompt, request.temperature)).encode()).hexdigest()
    values: dict[str, object] = {
        "label": ("yes", "no", "maybe")[int(digest[:4], 16) % 3],
        "text": digest[:6],
        "words": [digest[6:8]],
        "reasoning": digest[8:12],
    }
    return {name: values[name] for name in request.output_fields}


PROGRAMS: dict[str, dx.Program[Any, Any]] = {
    "calls": Calls(),
    "work": Work(),
    "inside": Inside(),
    "module": dx.Predict(Note, Verdict),
    "piped": Calls() >> dx.Predict(Note, Verdict),
    "opaque": Inside.Opaque(),
    "parallel": dx.parallel(Drafted, draft=dx.Predict(Note, Note), facts=dx.Predict(Note, Verdict)),
    "fallback": dx.fallback(dx.Predict(Note, Note), dx.Predict(Note, Note, temperature=0.5)),
    "vote": dx.vote(*(dx.Predict(Note, Verdict, temperature=heat) for heat in (0.1, 0.2, 0.3)), by="label"),
    "race": dx.race(one=dx.Predict(Note, Note), same=dx.Predict(Note, Note)),
    "when": dx.when(is_long, dx.Predict(Note, Note), Calls()),
    "maps": Maps(),
    "ways": Ways(),
    "tools": Tools(),
}


def outcome(call: Any) -> tuple[Any, list[str], set[str]]:
    log.clear()
    with dx.using(lm=ScriptedLM(answers)), dx.trace() as trace:
        value = call.run(Note(text="hello", words=["a", "b"]))
    return value, list(log), {repr(record.request) for record in trace.calls}


@pytest.mark.parametrize("name", PROGRAMS)
def test_plan_gives_what_the_program_gives_under_every_binding(name: str) -> None:
    program = PROGRAMS[name]
    compiled = compile(program)
    for config in [program.config, *program.space.sample(6, 3)]:
        value, actions, requests = outcome(program.bind(config))
        planned = outcome(compiled.bind(config))
        assert planned[:2] == (value, actions)
        # Calls that nothing reads are left out; nothing else is sent than before.
        assert planned[2] <= requests
        if name not in ("calls", "work", "piped", "when"):
            assert planned[2] == requests


def test_two_equal_deterministic_calls_cost_one_and_a_dead_one_none() -> None:
    lm = ScriptedLM(answers)
    with dx.using(lm=lm):
        compile(Calls()).run(Note(text="x"))
    assert lm.calls == 3, "one for both equal calls, and each warm one of its own"
    with dx.using(lm=lm):
        Calls().run(Note(text="x"))
    assert lm.calls == 3 + 5


def test_gathered_calls_are_in_flight_together() -> None:
    async def scenario() -> Pair:
        barrier = asyncio.Barrier(2)

        async def meet(request: LMRequest) -> Mapping[str, object]:
            await barrier.wait()
            return answers(request)

        class Two(dx.Program[Note, Pair]):
            left = dx.Predict(Note, Note)
            right = dx.Predict(Note, Verdict)

            async def __call__(self, x: Note, /) -> Pair:
                left = await self.left(x)
                right = await self.right(x)
                return Pair(left=left, right=right)

        with dx.using(lm=ScriptedLM(meet)):
            return await compile(Two())(Note(text="x"))

    assert asyncio.run(scenario()).right.label in ("yes", "no", "maybe")


def test_run_works_inside_a_running_loop() -> None:
    async def cell() -> Pair:
        return compile(Work()).run(Note(text="x"))

    with dx.using(lm=ScriptedLM(answers)):
        assert asyncio.run(cell()) == Work().run(Note(text="x"))


def test_batch_keeps_the_order_and_puts_errors_in_their_places() -> None:
    compiled = compile(PROGRAMS["module"])
    xs: list[Any] = [Note(text=str(number)) for number in range(5)]
    with dx.using(lm=ScriptedLM(answers)):
        assert compiled.batch(xs) == PROGRAMS["module"].batch(xs)
        got = compiled.batch([xs[0], Ticket(text="?")], on_error="return")
    assert isinstance(got[1], ProgramError)
    assert got[1].code == "DX1514"


def test_failure_is_that_of_the_program() -> None:
    with pytest.raises(dx.errors.NoLMError) as planned:
        compile(Calls()).run(Note(text="x"))
    assert planned.value.code == "DX4001"
