"""What a function changes in place is sent as the body says: before the change, or after it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import field_validator

import dspex as dx
from dspex.compiler import compile
from dspex.compiler.ir.nodes import Input, Lm
from dspex.lm.types import LMRequest
from dspex.testing import ScriptedLM


class Ask(dx.Schema):
    question: str
    docs: list[str] = []


class Brief(dx.Schema):
    facts: list[str]


class Kept(dx.Schema):
    """Keeps a list as it is."""

    facts: list[str]

    @field_validator("facts", mode="wrap")
    @classmethod
    def same(cls, value: Any, handler: object) -> Any:
        return value


class Nested(dx.Schema):
    brief: Brief


class Flat(dx.Schema):
    question: str
    words: tuple[str, ...] = ()


class Answer(dx.Schema):
    text: str


HELD: list[list[str]] = []


@dx.op
def grow(docs: list[str]) -> int:
    docs.append(f"grown {len(docs)}")
    return len(docs)


def grow_brief(brief: Brief) -> int:
    brief.facts.append("grown")
    return len(brief.facts)


def made(text: str) -> list[str]:
    HELD.append([text])
    return HELD[-1]


def poke(text: str) -> int:
    for items in HELD:
        items.append(text)
    return len(HELD)


@dx.tool
def grown(docs: list[str]) -> list[str]:
    """The list itself, with one more."""
    docs.append("tool")
    return docs


@dx.op
def log(text: str) -> None:
    assert text


@dx.op(pure=True)
def first(docs: list[str]) -> str:
    return docs[0] if docs else ""


class Field(dx.Program[Ask, Answer]):
    m = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        a = await self.m(x)
        grow(x.docs)
        b = await self.m(x)
        return Answer(text=a.text + b.text)


class Before(dx.Program[Ask, Answer]):
    """The call before reads the list that is changed while it would run."""

    m = dx.Predict(Ask, Answer)
    n = dx.ChainOfThought(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        a = await self.n(Ask(question="first"))
        b = await self.m(Ask(question=a.text, docs=x.docs))
        c = await self.n(Ask(question="beside"))
        grow(x.docs)
        return Answer(text=b.text + c.text)


class Items(dx.Program[Ask, Answer]):
    m = dx.Predict(Brief, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        notes = [x.question]
        grow(notes)
        r = Brief(facts=notes)
        grow(notes)
        late = Brief(facts=notes)
        a, b = await asyncio.gather(self.m(r), self.m(late))
        return Answer(text=a.text + b.text)


class Dicts(dx.Program[Ask, Answer]):
    m = dx.Predict(Brief, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        held = {"facts": x.docs, "more": [x.question]}
        a = await self.m(Brief(facts=held["facts"]))
        grow(held["facts"])
        b = await self.m(Brief(facts=x.docs))
        return Answer(text=a.text + b.text)


class Holds(dx.Program[Ask, Answer]):
    m = dx.Predict(Brief, Answer)
    n = dx.Predict(Nested, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        brief = Brief(facts=x.docs)
        nested = Nested(brief=brief)
        a = await self.n(nested)
        grow_brief(brief)
        b = await self.n(nested)
        c = await self.m(nested.brief)
        return Answer(text=a.text + b.text + c.text)


class Keeps(dx.Program[Ask, Answer]):
    m = dx.Predict(Kept, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        kept = Kept(facts=x.docs)
        a = await self.m(kept)
        grow(x.docs)
        b = await self.m(kept)
        return Answer(text=a.text + b.text)


class Elsewhere(dx.Program[Ask, Answer]):
    m = dx.Predict(Brief, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        docs = made(x.question)
        a = await self.m(Brief(facts=docs))
        poke("one")
        b = await self.m(Brief(facts=docs))
        poke("two")
        return Answer(text=a.text + b.text + first(docs))


class Tools(dx.Program[Ask, Answer]):
    m = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        a = await self.m(x)
        docs = await grown(x.docs)
        b = await self.m(x)
        grow(docs)
        c = await self.m(x)
        return Answer(text=a.text + b.text + c.text)


class Inner(dx.Program[Ask, Answer]):
    m = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        grow(x.docs)
        return await self.m(x)


class Outer(dx.Program[Ask, Answer]):
    inner = Inner()
    m = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        a = await self.m(x)
        b = await self.inner(x)
        c = await self.m(x)
        return Answer(text=a.text + b.text + c.text)


class Opaque(dx.Program[Ask, Answer]):
    class Loop(dx.Program[Ask, Answer]):
        m = dx.Predict(Ask, Answer)

        async def __call__(self, x: Ask, /) -> Answer:
            while len(x.docs) < 4:
                grow(x.docs)
            return await self.m(x)

    loop = Loop()
    m = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        a = await self.m(x)
        b = await self.loop(x)
        c = await self.m(x)
        return Answer(text=a.text + b.text + c.text)


class Mapped(dx.Program[Ask, Answer]):
    m = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        many = [await self.m(Ask(question=str(grow(x.docs)), docs=x.docs)) for _ in x.question]
        last = await self.m(x)
        return Answer(text="".join(item.text for item in many) + last.text)


class Output(dx.Program[Ask, Answer]):
    """Two equal calls give two values, one of which is changed."""

    m = dx.Predict(Ask, Brief)
    n = dx.Predict(Brief, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        a = await self.m(x)
        b = await self.m(x)
        grow(a.facts)
        c = await self.n(a)
        d = await self.n(b)
        return Answer(text=c.text + d.text)


CHANGED = [Field, Before, Items, Dicts, Holds, Keeps, Elsewhere, Tools, Outer, Opaque, Mapped, Output]


def answer(request: LMRequest) -> Mapping[str, object]:
    text = json.dumps([message.content for message in request.messages], ensure_ascii=False)
    every: dict[str, object] = {"text": f"<{hash(text)}>", "reasoning": "r", "facts": ["f"]}
    return {name: every[name] for name in request.output_fields}


def sent(program: Any) -> tuple[object, set[str], int]:
    HELD.clear()
    lm = ScriptedLM(answer)
    with dx.using(lm=lm), dx.trace() as trace:
        value = program.run(Ask(question="why", docs=["one"]))
    return value, {repr(record.request) for record in trace.calls}, lm.calls


@pytest.mark.parametrize("cls", CHANGED, ids=lambda cls: cls.__name__)
def test_plan_sends_what_the_program_sends_when_a_value_is_changed_in_place(cls: type[dx.Program[Ask, Answer]]) -> None:
    program = cls()
    compiled = compile(program)
    if cls is not Opaque:
        assert compiled.graph.opaque == ()
    value, requests, _ = sent(program)
    assert sent(compiled)[:2] == (value, requests)


class Unchanged(dx.Program[Flat, Answer]):
    m = dx.Predict(Flat, Answer)

    async def __call__(self, x: Flat, /) -> Answer:
        a = await self.m(x)
        log(x.question)
        b = await self.m(x)
        log(x.question)
        return Answer(text=a.text + b.text)


class Pure(dx.Program[Ask, Answer]):
    m = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        a = await self.m(x)
        text = first(x.docs)
        log(text)
        b = await self.m(x)
        return Answer(text=a.text + b.text + text)


@pytest.mark.parametrize("cls", [Unchanged, Pure], ids=lambda cls: cls.__name__)
def test_calls_stay_free_when_nothing_can_change_what_they_read(cls: type[dx.Program[Any, Answer]]) -> None:
    graph = compile(cls()).graph
    calls = [node for node in graph.nodes if isinstance(node, Lm)]
    assert len(calls) == 1, "two equal calls cost one"
    (call,) = calls
    assert call.after == ()
    assert all(isinstance(node, Input) or call.id not in node.after for node in graph.nodes)


def test_record_of_a_list_is_a_list_of_its_own() -> None:
    class Search(dx.Program[Ask, Answer]):
        m = dx.Predict(Brief, Answer)

        async def __call__(self, x: Ask, /) -> Answer:
            a = await self.m(Brief(facts=made(x.question)))
            b = await self.m(Brief(facts=made(x.question + "!")))
            return Answer(text=a.text + b.text)

    nodes = compile(Search()).graph.nodes
    # The second search waits for the first, and not for the model.
    assert all(
        isinstance(node, Input | Lm) or not any(isinstance(nodes[at], Lm) for at in node.after) for node in nodes
    )
    docs = ["one"]
    assert Brief(facts=docs).facts is not docs
