"""Ordinary program bodies, each with what the front end makes of it: the corpus.

`LOWERED` bodies become nodes (checked against direct calls); `OPAQUE` ones are refused with a reason and a
remedy, and run as plain Python.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import json
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from time import perf_counter
from typing import Any, Generic, Literal, TypeVar

from typing_extensions import override

import dspex as dx


class Ask(dx.Schema):
    """A question."""

    question: str
    hints: list[str] = []
    deep: bool = False


class Draft(dx.Schema):
    """A first answer."""

    text: str
    score: float = 0.0


class Answer(dx.Schema):
    """The final answer."""

    text: str
    source: str | None = None


SUFFIX = "!"
TABLE = {"a": 1}


def shout(text: str, times: int = 1) -> str:
    return text.upper() + "!" * times


def join_all(*texts: str) -> str:
    return " ".join(texts)


async def fetch(text: str) -> str:
    await asyncio.sleep(0)
    return f"<{text}>"


def counted(function: Callable[..., Awaitable[Any]]) -> Any:
    @functools.wraps(function)
    async def wrapper(self: Any, x: Any) -> Any:
        return await function(self, x)

    return wrapper


def registered(function: Any) -> Any:
    return function


class Asker(dx.Program[Ask, Answer]):
    """Two modules that every body below may use."""

    first = dx.Predict(Ask, Draft)
    second = dx.Predict(Draft, Answer)
    loose = dx.Predict(Ask, Answer)


LOWERED: list[type[dx.Program[Ask, Answer]]] = []
OPAQUE: list[tuple[type[dx.Program[Ask, Answer]], str, str]] = []
C = TypeVar("C", bound=type[dx.Program[Any, Any]])


def lowered(cls: C) -> C:
    LOWERED.append(cls)
    return cls


def opaque(reason: str, remedy: str) -> Callable[[C], C]:
    def add(cls: C) -> C:
        OPAQUE.append((cls, reason, remedy))
        return cls

    return add


# --- understood ---------------------------------------------------------------------------------


@lowered
class Chain(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        """A docstring."""
        draft = await self.first(x)
        return await self.second(draft)


@lowered
class NestedCalls(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return await self.second(await self.first(x))


@lowered
class Annotated(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft: Draft
        draft = await self.first(x)
        result: Answer = await self.second(draft)
        return result


@lowered
class Constructs(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(Ask(question=x.question, hints=x.hints))
        return Answer(text=draft.text, source="draft")


@lowered
class Copies(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = await self.loose(x.model_copy(update={"deep": True}))
        return answer.model_copy(update={"source": x.question})


@lowered
class PlainCopy(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return (await self.loose(x)).model_copy()


@lowered
class Formats(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x)
        return Answer(text=f"{x.question}: {draft.text!r:>10}", source=f"{len(x.hints)} hints")


@lowered
class IsNone(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = await self.loose(x)
        return Answer(text=answer.text, source="none" if answer.source is None else answer.source)


@lowered
class IsInstance(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = await self.loose(x)
        return Answer(text=str(isinstance(answer.source, str)), source=str(isinstance(x.question, int)))


@lowered
class PlainFunction(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        loud = shout(x.question, times=2)
        return await self.loose(Ask(question=loud))


@lowered
class FunctionOfExpressions(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return await self.loose(Ask(question=shout(x.question.strip(), len(x.hints))))


@lowered
class StarredArguments(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=join_all(*x.hints, x.question))


@lowered
class AsyncFunction(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        page = await fetch(x.question)
        longer = await fetch(x.question + page)
        return Answer(text=page, source=longer)


@lowered
class Gathers(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft, answer = await asyncio.gather(self.first(x), self.loose(x))
        return Answer(text=draft.text, source=answer.text)


@lowered
class GathersMixed(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        results = await asyncio.gather(self.first(x), fetch(x.question))
        return Answer(text=results[0].text, source=results[1])


@lowered
class Unpacks(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        question, (hints, deep) = x.question, (x.hints, x.deep)
        question, other = question + str(deep), question
        return Answer(text=question + other, source=str(hints))


@lowered
class Rebinds(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        y = x
        x = Ask(question=y.question + "?")
        a = b = x.question
        return Answer(text=a, source=b + y.question)


@lowered
class SyncComprehension(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x)
        words = [draft.text + hint for hint in x.hints if hint is not x.question]
        table = {text: draft.text + text for text in words}
        return Answer(text=json.dumps(sorted(table, key=lambda text: (len(text), draft.text))))


@lowered
class ShadowedName(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        question = x.question
        longest = [question.upper() for question in x.hints]
        return Answer(text=question, source=str(longest))


@lowered
class Globals(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=x.question + SUFFIX, source=str(TABLE["a"]))


@lowered
class Logic(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = await self.loose(x)
        text = answer.source or answer.text
        deep = x.deep and len(x.hints) > 0 and 0 < len(text) < 100
        return Answer(text=text, source=str(not deep))


@lowered
class Indexing(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        words = x.question.split()
        return Answer(text=words[0], source=x.question[1:3])


@lowered
class Numbers(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = Draft(text="a", score=-1.5)
        return Answer(text=str(draft.score * 2 + len(x.hints)))


@lowered
class Containers(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        parts = [x.question, "b"]
        record = {"q": x.question, "n": 1}
        return Answer(text="".join(parts), source=json.dumps(record))


@lowered
class UnusedCall(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        await self.first(x)
        return await self.loose(x)


class Helped(Asker):
    async def drafted(self, x: Ask, suffix: str = "") -> Draft:
        draft = await self.first(x)
        return Draft(text=draft.text + suffix)

    def tidy(self, text: str) -> str:
        return text.strip()


@lowered
class AsyncMethod(Helped):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.drafted(x, suffix="?")
        other = await self.drafted(x)
        return Answer(text=draft.text, source=other.text)


@lowered
class PlainMethod(Helped):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=self.tidy(x.question), source=self.tidy(x.question + " "))


@lowered
class Inherits(Chain):
    """Inherits its body."""


@lowered
class WithVariables(Asker):
    style: dx.Var[Literal["terse", "detailed"]] = dx.var("terse")
    k: dx.Var[int] = dx.var(4, lo=1, hi=8)

    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=self.style, source=shout(x.question, self.k) + f"{self.k + 1}")


@lowered
class HiddenVariable(Asker):
    k: dx.Var[int] = dx.var(4, lo=1, hi=8)

    def counted(self, text: str) -> str:
        return text * self.k

    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=self.counted(x.question))


@lowered
class PlainAttributes(Asker):
    def __init__(self) -> None:
        super().__init__()
        self.prefix = "p:"
        self.table = {"a": "b"}

    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=self.prefix + x.question, source=self.table.get(x.question))


class Tone(StrEnum):
    calm = "calm"


@lowered
class EnumAttribute(Asker):
    tone = Tone.calm

    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=type(self.tone).__name__, source=self.tone)


@lowered
class PrivateNames(Asker):
    __prefix = "p:"

    def __tidy(self, text: str) -> str:
        return self.__prefix + text

    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=self.__prefix, source=self.__tidy(x.question))


class Louder(dx.Predict[Ask, Answer]):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = await super().__call__(x)
        return Answer(text=answer.text.upper())


@lowered
class Listed(dx.Program[Ask, Answer]):
    def __init__(self) -> None:
        super().__init__()
        self.steps = (dx.Predict(Ask, Draft), dx.Predict(Draft, Answer))
        self.named = {"spare": dx.Predict(Draft, Answer)}

    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.steps[0](x)
        one, two = await asyncio.gather(self.steps[1](draft), self.named["spare"](draft))
        return Answer(text=one.text, source=two.text)


@lowered
class Selects(dx.Program[Ask, Answer]):
    solver = dx.select(predict=dx.Predict(Ask, Answer), cot=dx.ChainOfThought(Ask, Answer))

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.solver(x)


class Inner(dx.Program[Ask, Draft]):
    draft = dx.Predict(Ask, Draft)
    k: dx.Var[int] = dx.var(2, lo=1, hi=3)

    async def __call__(self, x: Ask, /) -> Draft:
        draft = await self.draft(x)
        return Draft(text=draft.text * self.k)


@lowered
class Nested(dx.Program[Ask, Answer]):
    inner = Inner()
    finish = dx.Predict(Draft, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.finish(await self.inner(x))


@lowered
class Composed(dx.Program[Ask, Answer]):
    chain = dx.Predict(Ask, Draft) >> dx.Predict(Draft, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.chain(x)


def closed_over(suffix: str) -> type[dx.Program[Ask, Answer]]:
    class Closure(Asker):
        async def __call__(self, x: Ask, /) -> Answer:
            return Answer(text=x.question + suffix)

    return Closure


LOWERED.append(closed_over("."))


@lowered
class Registered(Asker):
    @override
    @registered
    async def __call__(self, x: Ask, /) -> Answer:
        return await self.loose(x)


T = TypeVar("T", bound=dx.Schema)


class Generically(dx.Program[Ask, Answer], Generic[T]):
    loose = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.loose(x)


@lowered
class Specialised(Generically[Draft]):
    """A generic program with its parameter given."""


@lowered
class Aliased(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        solve = self.loose
        return await solve(x)


@lowered
class MultilineText(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(
            text=f"""{x.question}
  indented
end""",
            source="""a
    b""",
        )


@lowered
class Método(Asker):
    größe: dx.Var[int] = dx.var(2, lo=1, hi=3)

    async def __call__(self, frage: Ask, /) -> Answer:
        wörter = frage.question + "ß"
        return Answer(text=wörter * self.größe)


# --- refused ------------------------------------------------------------------------------------


@opaque("an `if` on a value", "dx.cond")
class If(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        if x.deep:
            return await self.second(await self.first(x))
        return await self.loose(x)


@opaque("an `if` on a value", "dx.cond")
class IfOnOutput(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = await self.loose(x)
        if answer.source is None:
            answer = Answer(text=answer.text, source="?")
        return answer


@opaque("a `for` loop", "dx.map")
class For(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x)
        for hint in x.hints:
            draft = Draft(text=draft.text + hint)
        return await self.second(draft)


@opaque("a `while` loop", "conditional expression")
class While(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = await self.loose(x)
        while answer.text == "":
            answer = await self.loose(x)
        return answer


@opaque("a `try` statement", "let the error leave")
class Try(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        try:
            return await self.loose(x)
        except ValueError:
            return Answer(text="")


@opaque("a `match` statement", "nested for several ways")
class Match(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        match x.question:
            case "a":
                return Answer(text="a")
            case _:
                return await self.loose(x)


@opaque("a `with` statement", "plain function")
class With(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        with dx.trace():
            return await self.loose(x)


@opaque("an `async with` statement", "asyncio.gather")
class TaskGroup(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.loose(x))
        return task.result()


@opaque("wait_for wraps a call", "timeout")
class WaitFor(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return await asyncio.wait_for(self.loose(x), 5)


@opaque("return_exceptions", "asyncio.gather")
class GatherExceptions(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        (result,) = await asyncio.gather(self.loose(x), return_exceptions=True)
        return result if isinstance(result, Answer) else Answer(text="")


@lowered
class GatherList(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        results = await asyncio.gather(*[self.loose(Ask(question=hint)) for hint in x.hints])
        return Answer(text=str(len(results)))


@lowered
class AwaitingComprehension(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answers = [await self.loose(Ask(question=hint)) for hint in x.hints]
        return Answer(text=str(len(answers)))


@lowered
class ConditionalAwait(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return (await self.loose(x)) if x.deep else Answer(text="")


@lowered
class Task(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        pending = self.loose(x)
        return await pending


@opaque("create_task starts a task", "await")
class CreateTask(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        task = asyncio.create_task(self.loose(x))  # pyright: ignore[reportArgumentType]
        return await task


@opaque("reads the clock", "before the program")
class Clock(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        start = time.time()
        answer = await self.loose(x)
        return Answer(text=answer.text, source=str(time.time() - start >= 0))


@opaque("reads the clock", "before the program")
class ImportedClock(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=str(perf_counter() > 0))


@opaque("reads the clock", "before the program")
class Today(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=f"{x.question} {datetime.datetime.now().year > 2000}")


@opaque("`:=`", "statement of its own")
class Walrus(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=(y := x.question) + y)


@opaque("changes a value in place", "new value")
class Mutates(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        hints = list(x.hints)
        last = hints.pop() if hints else None
        return Answer(text=str(hints), source=last)


@opaque(".append() changes a value in place", "new value")
class Effect(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        hints = list(x.hints)
        same = hints
        hints.append(x.question)
        return Answer(text=str(same))


@lowered
class GrowsItsOwn(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        hints = list(x.hints)
        hints.append(x.question)
        draft = await self.first(Ask(question=str(len(hints)), hints=hints))
        hints.extend(draft.text.split())
        hints += [draft.text, *x.hints]
        return Answer(text=str(hints), source=" ".join(hints))


@lowered
class GrowsInALoop(Asker):
    rounds: dx.Var[int] = dx.var(2, lo=1, hi=3)

    async def __call__(self, x: Ask, /) -> Answer:
        found: list[str] = []
        for _ in range(self.rounds):
            draft = await self.first(Ask(question=x.question, hints=found))
            found += draft.text.split()
            found.append(draft.text)
        return Answer(text=" ".join(found))


@lowered
class Augments(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        text = x.question
        text += "!"
        return Answer(text=text)


@opaque("a function defined inside", "top of the file")
class LocalFunction(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        def double(text: str) -> str:
            return text * 2

        return Answer(text=double(x.question))


@opaque("an `import` inside", "top of the file")
class LocalImport(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        import math

        return Answer(text=str(math.pi))


@opaque("handed to Python", "values that are needed")
class HandsItselfOn(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=str(getattr(self, "missing", x.question)))


@opaque("super calls the parent", "write its steps out")
class OwnModule(dx.Program[Ask, Answer]):
    loud = Louder(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.loud(x)


async def call_it(module: Any, x: Ask) -> Answer:
    return await module(x)


@opaque("used inside an expression", "await its call")
class HandsModuleOn(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return await call_it(self.loose, x)


@opaque("used", "call the module")
class RunsModule(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return self.loose.run(x)


elsewhere = dx.Predict(Ask, Answer)


@opaque("does not own", "attribute of the class")
class Unowned(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return await elsewhere(x)


@opaque("chosen by a value", "conditional expression")
class ChosenByValue(Listed):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.steps[0](x)
        return await self.steps[len(x.hints)](draft)  # pyright: ignore


@opaque("unknown length", "index")
class UnpacksUnknown(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        first, second = x.question.split(" ", 1)
        return Answer(text=first, source=second)


@opaque("unpacking with `*`", "index and slice")
class UnpacksStar(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        first, *_ = x.hints
        return Answer(text=first)


@opaque("handed to Python", "values")
class Wrapped(Asker):
    @counted
    async def __call__(self, x: Ask, /) -> Answer:
        return await self.loose(x)


@opaque("calls itself", "write the steps out")
class RecursiveMethod(Asker):
    async def again(self, x: Ask) -> Answer:
        return await self.again(x)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.again(x)
