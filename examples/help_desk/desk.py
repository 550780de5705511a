"""Answers questions to a tool library from its help pages: a program of several steps.

Pages are looked up, read one by one, and an answer is drafted from what they say. Meanwhile three readings of the
question vote on its kind; a fault takes a longer way. Nothing here says what runs at the same time: the compiler
reads that off the values that each step needs.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Literal

import dspex as dx

Kind = Literal["howto", "terms", "fault"]


class Question(dx.Schema):
    text: str = dx.field(description="what a member asks")


class Sorted(dx.Schema):
    kind: Kind = dx.field(description="howto: how to do something; terms: prices, dates, limits; fault: it broke")


class Page(dx.Schema):
    question: str
    title: str
    text: str = dx.field(description="the help page")


class Note(dx.Schema):
    fact: str = dx.field(description="what the page says about the question, in one sentence")


class Brief(dx.Schema):
    question: str
    facts: list[str] = dx.field(description="what the help pages say")


class Plan(dx.Schema):
    first: str = dx.field(description="what to do at once")
    then: str = dx.field(description="what to do after that")


class Draft(dx.Schema):
    answer: str = dx.field(description="the answer to the member")


class Reply(dx.Schema):
    answer: str
    kind: Kind
    pages: list[str]


def load(name: str) -> list[dict[str, str]]:
    """The rows of a file beside this one."""
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


ARTICLES = load("articles.jsonl")


def words(text: str) -> Counter[str]:
    """How often each longer word occurs, by its first letters, so that endings are forgiven."""
    return Counter(word[:4] for word in re.findall(r"[a-z]{4,}", text.lower()))


SEEN = Counter(word for article in ARTICLES for word in words(article["title"] + " " + article["text"]))
"""In how many pages each word stands."""


@dx.op(pure=True)
def look_up(question: str, count: int) -> list[Page]:
    """The `count` pages that share the rarest words with the question."""
    asked = words(question)

    def score(article: dict[str, str]) -> float:
        found = words(article["title"] + " " + article["text"])
        return sum(math.log(len(ARTICLES) / SEEN[word]) for word in asked if word in found) / math.sqrt(found.total())

    best = sorted(ARTICLES, key=score, reverse=True)[:count]
    return [Page(question=question, title=article["title"], text=article["text"]) for article in best]


class HelpDesk(dx.Program[Question, Reply]):
    """Answer a member's question from the help pages."""

    shown: dx.Var[int] = dx.var(3, lo=1, hi=4)
    tone: dx.Var[Literal["plain", "warm"]] = dx.var("plain")
    sort = dx.vote(
        dx.Predict(Question, Sorted, instruction="What kind of question is this?"),
        dx.Predict(
            Question, Sorted, instruction="Does the member ask how to do something, for terms, or is it a fault?"
        ),
        dx.Predict(Question, Sorted, instruction="Sort the message by what the member wants."),
        by="kind",
    )
    read = dx.Predict(Page, Note, instruction="Say what the page tells about the question.", max_tokens=80)
    draft = dx.select(
        direct=dx.Predict(Brief, Draft, instruction="Answer in a {tone} tone.", max_tokens=160),
        reasoned=dx.ChainOfThought(Brief, Draft, instruction="Answer in a {tone} tone.", max_tokens=320),
    )
    careful = dx.fallback(
        dx.Predict(Brief, Plan, instruction="What has to be done first, for safety? And then?", max_tokens=160)
        >> dx.Predict(Plan, Draft, instruction="Write the steps to the member in a {tone} tone.", max_tokens=160),
        dx.Predict(Brief, Draft, instruction="Say what to do, safety first.", max_tokens=160),
    )

    async def __call__(self, x: Question, /) -> Reply:
        pages = look_up(x.text, self.shown)
        notes = await dx.map(self.read, pages)
        sort = await self.sort(x)
        brief = Brief(question=x.text, facts=[note.fact for note in notes])
        draft = await dx.cond(sort.kind == "fault", self.careful, self.draft, brief)
        return Reply(answer=draft.answer, kind=sort.kind, pages=[page.title for page in pages])


def right_kind(got: Reply, want: Reply) -> bool:
    """Whether the question was sorted rightly."""
    return got.kind == want.kind
