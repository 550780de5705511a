"""More ordinary bodies: combinators, conditions, maps, loops, tools and values that depend on Variables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

import dspex as dx
from tests.compiler.bodies import Answer, Ask, Asker, Draft, Listed, fetch, lowered, opaque, shout


class Both(dx.Schema):
    """Two answers to one question."""

    draft: Draft
    answer: Answer


class Pages(dx.Schema):
    """What was found."""

    pages: list[str]
    drafts: list[Draft] = []


@dx.op(pure=True)
def tidy(text: str) -> str:
    return " ".join(text.split()).lower()


@dx.op
def marked(text: str, mark: str = "*") -> str:
    return f"{mark}{text}{mark}"


@dx.tool
def look_up(query: str, limit: int = 2) -> list[str]:
    """Pages about the query."""
    return [f"{query}-{number}" for number in range(limit)]


@dx.tool(name="count_words")
async def word_count(text: str) -> int:
    """How many words there are."""
    await asyncio.sleep(0)
    return len(text.split())


def is_long(x: Ask) -> bool:
    return len(x.question) > 4


# --- combinators ----------------------------------------------------------------------------------


@lowered
class InParallel(dx.Program[Ask, Answer]):
    both = dx.parallel(Both, draft=dx.Predict(Ask, Draft), answer=dx.Predict(Ask, Answer))

    async def __call__(self, x: Ask, /) -> Answer:
        both = await self.both(x)
        return Answer(text=both.draft.text, source=both.answer.text)


@lowered
class FallsBack(dx.Program[Ask, Answer]):
    solve = dx.fallback(dx.Predict(Ask, Answer), dx.ChainOfThought(Ask, Answer))

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.solve(x)


@lowered
class Races(dx.Program[Ask, Answer]):
    solve = dx.race(one=dx.Predict(Ask, Answer), same=dx.Predict(Ask, Answer))

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.solve(x)


@lowered
class Votes(dx.Program[Ask, Answer]):
    solve = dx.vote(
        dx.Predict(Ask, Answer), dx.ChainOfThought(Ask, Answer), dx.Predict(Ask, Answer, instruction="?"), by="source"
    )

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.solve(x)


@lowered
class VotesWhole(dx.Program[Ask, Answer]):
    solve = dx.vote(dx.Predict(Ask, Answer), dx.ChainOfThought(Ask, Answer))

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.solve(x)


@lowered
class WhenLong(dx.Program[Ask, Answer]):
    solve = dx.when(is_long, dx.Predict(Ask, Answer), dx.ChainOfThought(Ask, Answer))

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.solve(x)


@lowered
class WhenLambda(dx.Program[Ask, Answer]):
    solve = dx.when(lambda x: x.deep, dx.Predict(Ask, Answer), dx.ChainOfThought(Ask, Answer))

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.solve(x)


@lowered
class NestedCombinators(dx.Program[Ask, Answer]):
    solve = dx.fallback(
        dx.Predict(Ask, Draft) >> dx.Predict(Draft, Answer),
        dx.vote(dx.Predict(Ask, Answer), dx.select(a=dx.Predict(Ask, Answer), b=dx.ChainOfThought(Ask, Answer))),
    )

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.solve(x)


# --- conditions -----------------------------------------------------------------------------------


@lowered
class CondOnField(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return await dx.cond(x.deep, self.loose, self.loose, x)


@lowered
class CondOnOutput(Asker):
    careful = dx.ChainOfThought(Draft, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x)
        return await dx.cond("a" in draft.text, self.second, self.careful, draft)


@lowered
class CondOnVariable(Asker):
    brief: dx.Var[bool] = dx.var(True)
    careful = dx.ChainOfThought(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        return await dx.cond(self.brief, self.loose, self.careful, x)


@lowered
class CondInGather(Asker):
    careful = dx.ChainOfThought(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        one, two = await asyncio.gather(dx.cond(x.deep, self.loose, self.careful, x), self.first(x))
        return Answer(text=one.text, source=two.text)


@lowered
class TernaryOfCalls(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x) if len(x.hints) > 1 else Draft(text=x.question)
        text = (await self.second(draft)).text if draft.score > 1 else draft.text
        return Answer(text=text)


@lowered
class TernaryInside(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text="> " + ((await self.loose(x)).text if x.deep else x.question))


@lowered
class DecidedBranches(Asker):
    verbose = False
    reviewer = None
    limit = 2

    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x)
        if self.verbose:
            draft = await self.first(Ask(question=draft.text))
        if self.reviewer is not None:
            return Answer(text="never")
        elif self.limit > 1 and not self.verbose:
            draft = Draft(text=draft.text + "!")
        if self.second:
            return await self.second(draft)
        return Answer(text="never")


class Optional(dx.Program[Ask, Answer]):
    def __init__(self, reviews: bool) -> None:
        super().__init__()
        self.solve = dx.Predict(Ask, Answer)
        self.review = dx.Predict(Answer, Answer) if reviews else None

    async def __call__(self, x: Ask, /) -> Answer:
        answer = await self.solve(x)
        if self.review is not None:
            answer = await self.review(answer)
        return answer


@lowered
class Reviewed(Optional):
    def __init__(self) -> None:
        super().__init__(True)


@lowered
class Unreviewed(Optional):
    def __init__(self) -> None:
        super().__init__(False)


# --- maps -----------------------------------------------------------------------------------------


@lowered
class MapsInputs(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answers = await dx.map(self.loose, [Ask(question=hint) for hint in x.hints])
        return Answer(text=" ".join(answer.text for answer in answers))


@lowered
class MapsValues(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        asks = [Ask(question=hint + x.question) for hint in x.hints if hint]
        answers = await dx.map(self.loose, asks)
        return Answer(text=str([answer.source for answer in answers]))


@lowered
class MapsLiteral(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        one, two = await dx.map(self.loose, [x, Ask(question="other")])
        return Answer(text=one.text, source=two.text)


@lowered
class GathersGenerator(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        drafts = await asyncio.gather(*(self.first(Ask(question=hint)) for hint in x.hints))
        return Answer(text="|".join(draft.text for draft in drafts))


@lowered
class GathersNamedList(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        tasks = [self.first(Ask(question=f"{x.question} {hint}")) for hint in x.hints]
        drafts = await asyncio.gather(*tasks)
        return Answer(text="|".join([draft.text for draft in drafts]))


@lowered
class GathersNamedCalls(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        one = self.first(x)
        two = self.loose(x)
        draft, answer = await asyncio.gather(one, two)
        return Answer(text=draft.text, source=answer.text)


@lowered
class GathersMap(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        asks = [x, x.model_copy(update={"deep": True})]
        answers = await asyncio.gather(*map(self.loose, asks))
        return Answer(text=answers[0].text, source=answers[-1].text)


@lowered
class Enumerates(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        texts = [f"{at}. {(await self.loose(Ask(question=hint))).text}" for at, hint in enumerate(x.hints, 1)]
        return Answer(text="\n".join(texts))


@lowered
class Zips(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        pairs = zip(x.hints, x.question.split(), strict=False)
        asks = [Ask(question=f"{hint} {word}") for hint, word in pairs]
        return Answer(text=str([(await self.loose(ask)).text for ask in asks]))


@lowered
class ZipsDirectly(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        drafts = [await self.first(Ask(question=h + w)) for h, w in zip(x.hints, x.question, strict=False)]
        return Answer(text=str(len(drafts)), source=drafts[0].text if drafts else None)


@lowered
class Filters(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        drafts = [await self.first(Ask(question=hint)) for hint in x.hints if len(hint) > 1]
        return Answer(text=",".join(draft.text for draft in drafts))


@lowered
class SeveralFors(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        texts = [(await self.first(Ask(question=a + b))).text for a in x.hints for b in x.question.split() if a != b]
        return Answer(text=" ".join(texts))


@lowered
class NestedMaps(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        rows = [[await self.first(Ask(question=a + b)) for b in x.question.split()] for a in x.hints]
        return Answer(text=str([[draft.text for draft in row] for row in rows]))


@lowered
class SetAndDict(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        by_hint = {hint: (await self.loose(Ask(question=hint))).text for hint in x.hints}
        distinct = {(await self.loose(Ask(question=hint))).source for hint in x.hints}
        return Answer(text=str(by_hint), source=str(sorted(text or "" for text in distinct)))


@lowered
class MapsMethods(Asker):
    async def one(self, hint: str, *, suffix: str = ".") -> str:
        draft = await self.first(Ask(question=hint + suffix))
        answer = await self.second(draft)
        return answer.text

    async def __call__(self, x: Ask, /) -> Answer:
        texts = await asyncio.gather(*[self.one(hint, suffix="?") for hint in x.hints])
        return Answer(text=" ".join(texts))


@lowered
class MapsTernary(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        texts = [(await self.loose(Ask(question=h))).text if len(h) > 1 else h for h in x.hints]
        return Answer(text=" ".join(texts))


@lowered
class MapsActions(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        texts = [marked((await self.loose(Ask(question=await fetch(hint)))).text) for hint in x.hints]
        return Answer(text=" ".join(texts))


@lowered
class CalledList(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        drafts = [await self.first(item) for item in [x, Ask(question="b")]]
        return Answer(text=drafts[0].text, source=drafts[1].text)


@lowered
class Samples(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answers = await asyncio.gather(*(self.loose(x) for _ in range(3)))
        best = max(answers, key=lambda answer: (len(answer.text), answer.text))
        return Answer(text=best.text, source=str(len(answers)))


@lowered
class VariableSamples(Asker):
    k: dx.Var[int] = dx.var(2, lo=1, hi=4)

    async def __call__(self, x: Ask, /) -> Answer:
        answers = [await self.loose(Ask(question=f"{x.question} {at}")) for at in range(self.k)]
        return Answer(text=" ".join(answer.text for answer in answers))


@lowered
class OverPrograms(Listed):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.steps[0](x)
        answers = await asyncio.gather(*(step(draft) for step in self.steps[1:]))
        others = [await step(draft) for step in self.named.values()]
        return Answer(text=answers[0].text, source=others[0].text)


@opaque("an await inside a comprehension", "asyncio.gather")
class AwaitedFilter(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        kept = [hint for hint in x.hints if (await self.loose(Ask(question=hint))).source != "00"]
        return Answer(text=str(kept))


async def ticks(text: str) -> AsyncIterator[str]:
    for letter in text:
        yield letter


@opaque("an `async for`", "before the program")
class AsyncComprehension(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        return Answer(text=str([tick async for tick in ticks(x.question)]))


@opaque("act on the world, and so do their arguments", "of their own first")
class ActsTwice(dx.Program[Ask, Answer]):
    inner = Listed()

    async def __call__(self, x: Ask, /) -> Answer:
        answers = await asyncio.gather(*(self.acting(marked(hint)) for hint in x.hints))
        return Answer(text=str(answers))

    async def acting(self, text: str) -> str:
        return marked(await fetch(text))


@opaque("read through once", "list")
class ReadsOnce(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        pairs = zip(x.hints, x.hints, strict=True)
        texts = [(await self.loose(Ask(question=a + b))).text for a, b in pairs]
        return Answer(text=str(texts))


@opaque("beside others", "alone")
class GathersBoth(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        first, *others = await asyncio.gather(self.loose(x), *(self.loose(Ask(question=h)) for h in x.hints))
        return Answer(text=first.text, source=str(len(others)))


# --- loops ----------------------------------------------------------------------------------------


@lowered
class FixedSteps(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x)
        for step in range(2):
            draft = await self.first(Ask(question=f"{step} {draft.text}"))
        return await self.second(draft)


@lowered
class LoopsOverPrograms(dx.Program[Ask, Ask]):
    def __init__(self) -> None:
        super().__init__()
        self.steps = [dx.Predict(Ask, Ask, instruction=text) for text in ("Shorten.", "Correct.")]

    async def __call__(self, x: Ask, /) -> Ask:
        for step in self.steps:
            x = await step(x)
        return x


@lowered
class LoopsOverNames(Listed):
    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.steps[0](x)
        texts: list[str] = []
        for at, (name, step) in enumerate(self.named.items()):
            answer = await step(draft)
            texts.append(f"{at} {name} {answer.text}")
        return Answer(text=" ".join(texts), source=str(len(texts)))


@lowered
class LoopsOverTexts(Asker):
    styles = ("short", "long")

    async def __call__(self, x: Ask, /) -> Answer:
        text = ""
        for style in self.styles:
            text += (await self.loose(Ask(question=f"{style}: {x.question}"))).text + " "
        return Answer(text=text)


@lowered
class LoopsWithDecisions(Asker):
    rounds = 3

    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x)
        for at in range(self.rounds):
            if at == 0:
                continue
            draft = await self.first(Ask(question=draft.text))
            if at == self.rounds - 1:
                break
        else:
            return Answer(text="never")
        return Answer(text=draft.text)


@lowered
class LoopsOverLiterals(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        parts: list[str] = []
        for word, times in (("a", 1), (x.question, 2)):
            parts.append(shout(word, times))
        parts += [x.question]
        return Answer(text=" ".join(parts))


@lowered
class LoopsByVariable(Asker):
    rounds: dx.Var[int] = dx.var(2, lo=1, hi=4)

    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.first(x)
        count = 0
        for at in range(self.rounds):
            critique = await self.loose(Ask(question=draft.text))
            draft = Draft(text=f"{at} {critique.text} {draft.text}")
            count += 1
        return Answer(text=draft.text, source=str(count))


@lowered
class MayNotLoop(Asker):
    rounds: dx.Var[int] = dx.var(0, lo=0, hi=2)

    async def __call__(self, x: Ask, /) -> Answer:
        answer = await self.loose(x)
        for _ in range(self.rounds):
            answer = await self.loose(Ask(question=answer.text))
        return answer


@opaque("a loop that ends by a value", "fixed number of steps")
class LoopsUntil(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        answer = await self.loose(x)
        for _ in range(3):
            if answer.source is not None:
                break
            answer = await self.loose(x)
        return answer


@opaque("a `for` loop over values", "dx.map")
class LoopsLong(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        text = x.question
        for at in range(100):
            text += str(at)
        return Answer(text=text)


@opaque("a `for` loop over values", "dx.map")
class LoopsOverRange(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        text = ""
        for at in range(len(x.hints)):
            text += x.hints[at]
        return Answer(text=text)


@opaque("up to 100 steps", "plain Python")
class LoopsFar(Asker):
    rounds: dx.Var[int] = dx.var(2, lo=1, hi=100)

    async def __call__(self, x: Ask, /) -> Answer:
        answer = await self.loose(x)
        for _ in range(self.rounds):
            answer = await self.loose(Ask(question=answer.text))
        return answer


# --- what acts together, what changes in place ----------------------------------------------------


def grow(items: list[str], text: str) -> int:
    items.append(text)
    return len(items)


@lowered
class GathersActing(Asker):
    async def noted(self, x: Ask, mark: str) -> Draft:
        draft = await self.first(Ask(question=shout(x.question) + mark))
        return Draft(text=marked(draft.text))

    async def __call__(self, x: Ask, /) -> Answer:
        one, pages, two = await asyncio.gather(self.noted(x, "1"), look_up(query=x.question), self.noted(x, "2"))
        return await self.second(Draft(text=one.text + pages[0] + two.text))


@lowered
class ActsInParallel(dx.Program[Ask, Answer]):
    class Noted(dx.Program[Ask, Answer]):
        solve = dx.Predict(Ask, Answer)

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.solve(Ask(question=marked(x.question)))

    class Drafted(dx.Program[Ask, Draft]):
        async def __call__(self, x: Ask, /) -> Draft:
            return Draft(text=marked(x.question))

    both = dx.parallel(Both, draft=Drafted(), answer=Noted())
    voted = dx.vote(Noted(), Noted())

    async def __call__(self, x: Ask, /) -> Answer:
        both = await self.both(x)
        return await self.voted(Ask(question=both.draft.text + both.answer.text))


@lowered
class ChangesInPlace(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        notes = list(x.hints)
        early = Ask(question=x.question, hints=notes)
        one = await self.loose(early)
        count = grow(notes, one.text)
        grow(early.hints, "early")
        two = await self.loose(Ask(question=x.question, hints=notes))
        three = await self.loose(early)
        return Answer(text=one.text + two.text + three.text, source=str(count))


# --- tools, operations, Variables -----------------------------------------------------------------


@lowered
class CallsTools(Asker):
    def __init__(self) -> None:
        super().__init__()
        self.search = look_up

    async def __call__(self, x: Ask, /) -> Answer:
        pages = await self.search(query=x.question)
        more = await look_up(x.question.upper(), limit=3)
        count = await word_count(text=" ".join(pages))
        return await self.loose(Ask(question=x.question + str(count), hints=[*pages, *more]))


@lowered
class GathersTools(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        pages, answer = await asyncio.gather(look_up(query=x.question), self.loose(x))
        return Answer(text=answer.text, source=pages[0])


@lowered
class Operations(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        question = tidy(x.question.replace("a", " "))
        return Answer(text=marked(question, mark="#"), source=tidy(text=f"{question} X"))


@lowered
class GathersFunctions(Asker):
    async def __call__(self, x: Ask, /) -> Answer:
        one, two = await asyncio.gather(fetch(x.question), fetch("other"))
        pages = await asyncio.gather(*(fetch(hint) for hint in x.hints), return_exceptions=True)
        return Answer(text=one + two, source=str(pages))


@lowered
class DependsOnVariables(Asker):
    style: dx.Var[Literal["terse", "detailed"]] = dx.var("terse")
    k: dx.Var[int] = dx.var(3, lo=1, hi=8)
    heat: dx.Var[float] = dx.var(0.5, lo=0.0, hi=1.0)

    async def __call__(self, x: Ask, /) -> Answer:
        words = x.question.split()[: self.k]
        tone = "Be brief." if self.style == "terse" else f"Use {self.k * 10} words."
        return await self.loose(Ask(question=" ".join(words) + tone, hints=[f"{self.heat:.2f}"]))


@opaque("used inside an expression", "await its call first")
class ChosenProgram(Asker):
    careful = dx.ChainOfThought(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        chosen = {"a": x.deep}
        return await dx.cond(x.deep, self.loose if chosen else self.careful, self.careful, x)
