"""More ordinary bodies: plain Python as people write it in functions, methods and classes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import math
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial, reduce
from typing import Any, ClassVar, Generic, TypeVar

from typing_extensions import override

import dspex as dx
from tests.compiler.bodies import Answer, Ask, Asker, Chain, Draft, fetch, lowered, opaque, shout

LIMIT = 10
logger = logging.getLogger("tests.bodies")
T = TypeVar("T")


@lru_cache(maxsize=8)
def cached(text: str) -> str:
    return text[::-1]


def fallback_to(text: str | None, default: str = "none") -> str:
    return default if text is None else text


def best(drafts: list[Draft]) -> Draft:
    return max(drafts, key=lambda draft: (draft.score, draft.text))


@dataclasses.dataclass(frozen=True)
class Note:
    text: str
    weight: float = 1.0


def longer(one: str, two: str) -> str:
    return one if len(one) >= len(two) else two


class Prompts:
    """Constants that live on a class."""

    HEAD: ClassVar[str] = "Question: "

    @staticmethod
    def tail(text: str) -> str:
        return f"{text} (end)"

    @classmethod
    def both(cls, text: str) -> str:
        return cls.HEAD + cls.tail(text)


# --- understood -----------------------------------------------------------------------------------


@lowered
class Fstrings(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        score = 0.5 * len(x.hints)
        width = 12
        return Answer(text=f"{x.question!r:<{width}}|{score:.3f}|{len(x.hints):03d}|{{}}|{x.deep=}")


@lowered
class ChainedComparison(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        size = len(x.question)
        return Answer(text=str(0 < size <= LIMIT), source=str(size in (3, 4) or size not in range(2, 9)))


@lowered
class ConditionalExpressions(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        kind = "long" if len(x.question) > LIMIT else "short" if x.deep else "plain"
        return await self.loose(Ask(question=f"{kind}: {x.question}", deep=not x.deep))


@lowered
class TextMethods(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        text = x.question.strip().lower().replace("a", "b").title()
        head, _, tail = text.partition(" ")
        return Answer(text=",".join(text.split()), source=f"{head}/{tail}/{text.startswith('B')}")


@lowered
class SortsAndSlices(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        words = sorted(x.hints, key=lambda word: (-len(word), word))
        top, rest = words[:1], words[1:]
        return Answer(text=str(top + rest[::-1]), source=str(max(words, default="none")))


@lowered
class StarredLists(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        hints = [*x.hints, x.question, *("a", "b")]
        record = {"a": 1, "n": len(hints)}
        return await self.loose(Ask(question=json.dumps(record), hints=hints))


@lowered
class DictAndSet(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        sizes = {hint: len(hint) for hint in x.hints}
        distinct = {len(hint) for hint in x.hints}
        return Answer(text=str(sizes), source=str(sorted(distinct)))


@lowered
class NestedComprehension(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        letters = [letter for hint in x.hints for letter in hint if letter.isalpha()]
        table = [[a + b for b in letters] for a in letters]
        return Answer(text=str(table), source=str(any(row for row in table)))


@lowered
class GeneratorArguments(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        total = sum(len(hint) for hint in x.hints)
        return Answer(text=" ".join(hint.upper() for hint in x.hints), source=str(total + math.floor(1.5)))


@lowered
class MapsAndReduces(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        lengths = list(map(len, x.hints))
        longest = reduce(longer, x.hints, "")
        return Answer(text=str(lengths), source=longest + str(list(filter(None, lengths))))


@lowered
class RegularExpressions(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x)
        digits = re.findall(r"\d", draft.text)
        found = re.search(r"[a-f]", draft.text)
        return Answer(text="".join(digits), source=found.group(0) if found else None)


@lowered
class ParsesJson(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        data = json.loads(json.dumps({"q": x.question, "hints": x.hints}))
        return Answer(text=data["q"], source=str(data.get("hints", [])))


@lowered
class Counts(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        commonest = Counter(x.question).most_common(1)[0]
        return Answer(text=str(commonest[0]), source=str(dict(Counter(x.hints))))


@lowered
class SelfConsistent(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answers = await asyncio.gather(self.loose(x), self.loose(x), self.loose(Ask(question=x.question, deep=True)))
        votes = Counter(answer.text for answer in answers)
        return Answer(text=votes.most_common(1)[0][0], source=str(len(votes)))


@lowered
class PicksBest(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        one = await self.first(x)
        two = await self.first(Ask(question=one.text))
        chosen = best([one, two])
        return await self.second(chosen)


@lowered
class HandlesNone(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = await self.loose(x)
        source = answer.source or "none"
        return Answer(text=fallback_to(answer.source), source=source if answer.source is not None else None)


@lowered
class CallsCached(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=cached(x.question), source=partial(shout, times=2)(x.question))


@lowered
class UsesDataclass(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        note = Note(x.question, weight=0.5)
        return Answer(text=note.text, source=str(dataclasses.replace(note, weight=note.weight * 2)))


@lowered
class ClassConstants(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=Prompts.HEAD + Prompts.tail(x.question), source=Prompts.both(x.question))


@lowered
class Properties(Asker):
    suffix = "!"

    @property
    def ending(self) -> str:
        return self.suffix * 2

    @staticmethod
    def clean(text: str) -> str:
        return text.strip()

    @classmethod
    def named(cls, text: str) -> str:
        return f"{cls.__name__}: {text}"

    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=self.clean(x.question) + self.ending, source=self.named(x.question))


class Template(Asker):
    """A method that subclasses replace."""

    def head(self) -> str:
        return "base"

    async def prepare(self, x: Ask) -> Ask:
        return Ask(question=f"{self.head()}: {x.question}")

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.loose(await self.prepare(x))


@lowered
class Overrides(Template):
    @override
    def head(self) -> str:
        return "own"

    @override
    async def prepare(self, x: Ask) -> Ask:
        ready = await super().prepare(x)
        return ready.model_copy(update={"deep": True})


@lowered
class ExtendsParent(Chain):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = await super().__call__(x)
        return Answer(text=answer.text.upper(), source="parent")


class Mixin:
    def decorate(self, text: str) -> str:
        return f"[{text}]"


@lowered
class MixesIn(Mixin, Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=self.decorate((await self.loose(x)).text))


class Wrapping(dx.Program[Ask, Answer], Generic[T]):
    loose = dx.Predict(Ask, Answer)

    def __init__(self, make: Callable[[Ask], T]) -> None:
        super().__init__()
        self.make = make

    async def __call__(self, x: Ask, /) -> Answer:
        made = self.make(x)
        return await self.loose(Ask(question=str(made)))


@lowered
class HoldsFunction(Wrapping[int]):
    def __init__(self) -> None:
        super().__init__(lambda x: len(x.question))


@lowered
class MethodsOfMethods(Asker):
    async def ask(self, text: str, *, deep: bool = False) -> Draft:
        return await self.first(Ask(question=text, deep=deep))

    async def twice(self, text: str) -> Draft:
        draft = await self.ask(text)
        return await self.ask(draft.text, deep=True)

    async def __call__(self, x: Ask, /) -> Answer:
        one, two = await asyncio.gather(self.twice(x.question), self.ask("b"))
        return Answer(text=one.text, source=two.text)


@lowered
class HandsModulesToMethods(Asker):
    async def run_one(self, module: Any, x: Ask) -> Answer:
        draft = await module(x)
        return Answer(text=draft.text)

    async def __call__(self, x: Ask, /) -> Answer:
        one = await self.run_one(self.first, x)
        two = await self.run_one(self.loose, x)
        return Answer(text=one.text, source=two.text)


@lowered
class LogsAndPrints(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        logger.debug("asked %s", x.question)
        answer = await self.loose(x)
        print(end="")
        return answer


@lowered
class Accumulates(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        history: list[str] = []
        draft = await self.first(x)
        history.append(f"draft: {draft.text}")
        answer = await self.second(draft)
        history.append(f"answer: {answer.text}")
        return Answer(text="\n".join(history), source=str(len(history)))


@lowered
class AugmentsNumbers(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        total = 0
        total += len(x.question)
        total *= 2
        text = "a"
        text += "b" * total
        return Answer(text=text, source=str(total))


@lowered
class SleepsAndFetches(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        await asyncio.sleep(0)
        page = await fetch(x.question)
        return await self.loose(Ask(question=page))


@lowered
class ReturnsLiteral(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text="constant", source=None)


@lowered
class UnpacksKnown(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        (a, b), c = (x.question, x.deep), len(x.hints)
        [d, e] = [a, c]
        return Answer(text=f"{a}{b}{c}", source=f"{d}{e}")


@lowered
class Membership(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        known = {"a": "first", "x": "last"}
        return Answer(text=known.get(x.hints[0] if x.hints else "", "?"), source=str("a" in known and not x.deep))


@lowered
class LambdaOverCaptured(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x)
        closest = min([*x.hints, "zz"], key=lambda hint, size=8: abs(len(hint) - size + len(draft.text)))
        return Answer(text=closest)


@lowered
class DefaultsAndKeywords(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=shout(times=3, text=x.question), source=shout(*[x.question], times=2))


@lowered
class ReadsModuleField(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x)
        return Answer(text=f"{draft}", source=draft.model_dump_json())


@lowered
class AwaitsInArguments(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        text = shout((await self.first(x)).text, len((await self.loose(x)).text))
        return Answer(text=text)


@lowered
class TypeSwitch(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        value: Any = x.hints if x.deep else x.question
        return Answer(text="list" if isinstance(value, list) else type(value).__name__)


# --- refused --------------------------------------------------------------------------------------


@opaque("an `if` on a value", "dx.cond")
class GuardClause(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        if not x.question.strip():
            return Answer(text="empty")
        return await self.loose(x)


@opaque("an `if` on a value", "dx.cond")
class BranchesOnOutput(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x)
        if draft.score > 0.7:
            return Answer(text=draft.text)
        return await self.second(draft)


@opaque("an `if` on a value", "dx.cond")
class BranchesOnVariable(Asker):
    careful: dx.Var[bool] = dx.var(False)

    async def __call__(self, x: Ask, /) -> Answer:
        if self.careful:
            return await self.second(await self.first(x))
        return await self.loose(x)


@opaque("a `while` loop", "conditional expression")
class Retries(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        tries = 0
        while True:
            answer = await self.loose(x)
            tries += 1
            if answer.text or tries > 2:
                return answer


@opaque("a `try` statement", "dx.fallback")
class ParsesSafely(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x)
        try:
            number = int(draft.text)
        except ValueError:
            number = -1
        return Answer(text=str(number))


@opaque("a `with` statement", "plain function")
class Suppresses(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        with contextlib.suppress(ValueError), warnings.catch_warnings():
            return await self.loose(x)
        return Answer(text="")


@opaque("an `assert`", "schema")
class Asserts(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        assert x.question, "a question is needed"
        return await self.loose(x)


@lowered
class Raises(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = await self.loose(x)
        raise_it = answer.text == "never"
        return answer if not raise_it else self.failed()

    def failed(self) -> Answer:
        raise ValueError


@opaque("a function defined inside", "top of the file")
class Closes(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        async def one(hint: str) -> str:
            return (await self.loose(Ask(question=hint))).text

        return Answer(text=" ".join(await asyncio.gather(*(one(hint) for hint in x.hints))))


@opaque("an assignment to an attribute", "immutable")
class Remembers(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = await self.loose(x)
        self.last = answer if x.question == "never" else None
        return answer


@opaque("an assignment to an item", "model_copy")
class FillsDict(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        table: dict[str, str] = {}
        table["a"] = x.question
        return Answer(text=str(table))


@opaque("changes a value in place", "new value")
class SortsInPlace(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        hints = list(x.hints)
        hints.sort()
        return Answer(text=str(hints))


@lowered
class ExtendsList(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        hints = ["a"]
        hints += x.hints
        return Answer(text=str(hints))


@opaque("a list that grows in place", "[*a, *b]")
class MultipliesList(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        hints = [x.question]
        hints *= 2
        return Answer(text=str(hints))


@opaque("an assignment in place", "[*a, *b]")
class ExtendsSharedList(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        hints = ["a"]
        same = hints
        hints += x.hints
        return Answer(text=str(same))


@opaque("`:=`", "statement of its own")
class WalrusInComprehension(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=str([size for hint in x.hints if (size := len(hint)) > 1]))


@opaque("wait_for wraps a call", "timeout")
class LimitsTime(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = await asyncio.wait_for(self.loose(x), timeout=5)
        return Answer(text=answer.text)


@opaque("an `async with` statement", "asyncio.gather")
class LimitsConcurrency(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        gate = asyncio.Semaphore(2)
        async with gate:
            return await self.loose(x)


@opaque("as_completed wraps calls", "asyncio.gather")
class TakesAsCompleted(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        texts = [(await done).text for done in asyncio.as_completed([self.loose(x)])]
        return Answer(text=texts[0])


@opaque("unpacking with `*`", "index and slice")
class UnpacksRest(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        head, *rest = x.question, "b", "c"
        return Answer(text=head, source=str(rest))


@opaque("called with anything but one positional", "one schema")
class CallsByKeyword(dx.Program[Ask, Answer]):
    inner = Chain()

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.inner(*[x])


@opaque("a `del`", "drop it")
class Deletes(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        text = x.question
        answer = Answer(text=text)
        del text
        return answer


@opaque("a `match` statement", "dx.cond")
class MatchesTypes(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        match await self.loose(x):
            case Answer(source=None) as answer:
                return answer
            case answer:
                return Answer(text=answer.text.upper())


@opaque("next advances an iterator", "function at the top")
class TakesNext(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=next((hint for hint in x.hints if hint), "none"))


@opaque("a call is awaited twice", "result in a name")
class AwaitsTwice(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        pending = self.loose(x)
        one = await pending
        two = await pending if random.random() < 0 else one
        return Answer(text=one.text, source=two.text)


@opaque("a `global` statement", "plain function")
class CountsGlobally(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        global LIMIT
        LIMIT = 10  # pyright: ignore[reportConstantRedefinition]
        return Answer(text=str(LIMIT))
