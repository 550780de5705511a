"""Bodies that fail in every run are errors of the compiler; those that may work are not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import dspex as dx
from dspex.errors import CompileError, DspexError
from dspex.testing import ScriptedLM
from tests.compiler.bodies import Answer, Ask, Asker, Draft, fetch, shout

FAILING: list[tuple[str, str, type[dx.Program[Ask, Answer]]]] = []


def fails(code: str, said: str) -> Any:
    def add(cls: type[dx.Program[Ask, Answer]]) -> type[dx.Program[Ask, Answer]]:
        FAILING.append((code, said, cls))
        return cls

    return add


@fails("DX2011", "return await self.loose(x)")
class ReturnsCall(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return self.loose(x)  # pyright: ignore


@fails("DX2011", "await it")
class ReturnsNamedCall(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = self.loose(x)
        return answer  # pyright: ignore  # noqa: RET504 - the body that is meant


@fails("DX2011", "return await self.inner(x)")
class ReturnsMethod(Asker):
    async def inner(self, x: Ask) -> Answer:
        return await self.loose(x)

    async def __call__(self, x: Ask, /) -> Answer:
        return self.inner(x)  # pyright: ignore


@fails("DX2012", "an instance of Answer")
class EndsAfterCall(Asker):
    async def __call__(self, x: Ask, /) -> Answer:  # pyright: ignore[reportReturnType]
        await self.loose(x)


@fails("DX2012", "an instance of Answer")
class EndsAfterTry(Asker):
    async def __call__(self, x: Ask, /) -> Answer:  # pyright: ignore[reportReturnType]
        try:
            await self.loose(x)
        finally:
            pass


@fails("DX2012", "an instance of Answer")
class ReturnsBare(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        await self.loose(x)
        return  # pyright: ignore


@fails("DX2013", "async def __call__")
class WaitsInside(Asker):
    def __call__(self, x: Ask, /) -> Answer:  # pyright: ignore
        return self.loose.run(x)


@fails("DX2013", "async def __call__")
class MakesInside(Asker):
    def __call__(self, x: Ask, /) -> Answer:  # pyright: ignore
        if x.deep:
            return Answer(text="deep")
        return Answer(text=x.question)


@fails("DX2013", "return Answer")
class Yields(Asker):
    async def __call__(self, x: Ask, /) -> AsyncIterator[Answer]:  # pyright: ignore
        yield await self.loose(x)


@fails("DX2014", "await self.loose(...)")
class AwaitsRun(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return await self.loose.run(x)  # pyright: ignore


@fails("DX2014", "drop the `await`")
class AwaitsSchema(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = await self.loose(x)
        return await answer  # pyright: ignore


@fails("DX2014", "drop the `await`")
class AwaitsPlain(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=await shout(x.question))  # pyright: ignore


@fails("DX2014", "drop the `await`")
class AwaitsConstruction(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return await Answer(text=x.question)  # pyright: ignore


@pytest.mark.parametrize(("code", "said", "cls"), FAILING, ids=lambda item: getattr(item, "__name__", None))
def test_body_is_an_error_when_every_run_of_it_fails(code: str, said: str, cls: type[dx.Program[Ask, Answer]]) -> None:
    with pytest.raises(CompileError) as caught:
        dx.compile(cls())
    assert caught.value.code == code
    assert said in (caught.value.fix or "")
    place, _, line = (caught.value.where or "").split("  ")[0].rpartition(":")
    assert place == "tests/compiler/test_certain.py"
    assert int(line) > 20
    with dx.using(lm=scripted()), pytest.raises((DspexError, TypeError)):
        cls().run(Ask(question="a"))


class GivesAwaitable(Asker):
    def __call__(self, x: Ask, /) -> Any:
        return self.loose(x)


class GivesHelped(Asker):
    def __call__(self, x: Ask, /) -> Any:
        return fetched(x) if x.deep else self.loose(x)


async def fetched(x: Ask) -> Answer:
    return Answer(text=await fetch(x.question))


class CallsPlainDefinition(dx.Program[Ask, Answer]):
    inner = GivesAwaitable()

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.inner(x)


class MayNotEnd(Asker):
    async def __call__(self, x: Ask, /) -> Answer:  # noqa: RET503  # pyright: ignore[reportReturnType]
        if x.question:
            return await self.loose(x)


class ReturnsCallOnCondition(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = Draft(text=x.question) if x.question else await self.first(x)
        return Answer(text=draft.text) if x.question else self.loose(x)  # pyright: ignore


class HandsOnInMethod(Asker):
    def later(self, x: Ask) -> Any:
        return self.loose(x)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.later(x)


@pytest.mark.parametrize(
    "cls", [GivesAwaitable, GivesHelped, CallsPlainDefinition, MayNotEnd, ReturnsCallOnCondition, HandsOnInMethod]
)
def test_body_is_opaque_when_some_run_of_it_may_work(cls: type[dx.Program[Ask, Answer]]) -> None:
    compiled = dx.compile(cls())
    assert len(compiled.graph.opaque) == 1
    x = Ask(question="a")
    with dx.using(lm=scripted()):
        assert compiled.run(x) == cls().run(x)


def scripted() -> ScriptedLM:
    return ScriptedLM(lambda request: {name: 0.5 if name == "score" else "text" for name in request.output_fields})
