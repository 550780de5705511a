from typing import Any, assert_type

from schemas import Answer, Ask, Note

import dspex as dx


class Merged(dx.Schema):
    draft: Answer
    note: Note


draft = dx.Predict(Ask, Answer)
careful = dx.ChainOfThought(Ask, Answer)
note = dx.Predict(Ask, Note)

assert_type(dx.parallel(Merged, draft=draft, note=note), dx.Parallel[Ask, Merged])
assert_type(dx.fallback(draft, careful), dx.Fallback[Ask, Answer])
assert_type(dx.race(draft, second=careful), dx.Race[Ask, Answer])
assert_type(dx.vote(draft, careful, by="answer"), dx.Vote[Ask, Answer])
assert_type(dx.when(lambda x: len(x.question) > 3, draft, careful), dx.When[Ask, Answer])
assert_type(dx.vote(draft, careful).run(Ask(question="?")), Answer)
assert_type((dx.race(draft, careful) >> dx.Predict(Answer, Note)).run(Ask(question="?")), Note)


@dx.op
def words(text: str) -> int:
    return len(text.split())


@dx.op(pure=True)
async def slow_words(text: str) -> int:
    return len(text.split())


@dx.tool
def search(query: str, k: int = 3) -> list[str]:
    """Search."""
    return [query] * k


@dx.tool(name="find")
async def find(query: str) -> list[str]:
    """Find."""
    return [query]


def title(style: str, k: int) -> str:
    return f"{style} {k}"


class Bot(dx.Program[Ask, Answer]):
    style: dx.Var[str] = dx.var("terse", choices=("terse", "long"))
    k: dx.Var[int] = dx.var(2, lo=1, hi=4)
    shown: dx.Var[int] = dx.computed(k * 2)
    double = dx.computed(lambda k: k * 2, k)
    heading = dx.computed(title, style, k)
    answer = dx.fallback(
        dx.Predict(Ask, Answer, demos_k=shown, instruction="{heading}"), dx.ChainOfThought(Ask, Answer)
    )

    async def __call__(self, x: Ask, /) -> Answer:
        assert_type(self.shown, int)
        assert_type(self.double, int)
        assert_type(self.heading, str)
        assert_type(words(x.question), int)
        assert_type(await slow_words(x.question), int)
        assert_type(await search(x.question, k=self.k), list[str])
        assert_type(await find(query=x.question), list[str])
        both = await dx.map(self.answer, [x, x])
        assert_type(both, list[Answer])
        assert_type(await dx.cond(len(both) > 1, self.answer, self.answer, x), Answer)
        return both[0]


assert_type(Bot.heading, dx.Computed[str])
assert_type(Bot().space.describe(), dict[str, object])
assert_type(Bot().space.rebound({}, {}), dict[str, object])
anything: dx.Computed[Any] = dx.computed(Bot.k + 1, name="more")
