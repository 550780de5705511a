"""A program that has a little of everything that an artifact can hold without code."""

from __future__ import annotations

from enum import Enum
from typing import Literal

import dspex as dx


class Mood(str, Enum):  # noqa: UP042 - what most schemas have
    """How it sounds."""

    CALM = "calm"
    ANGRY = "angry"


class Part(dx.Schema):
    """A part of the message."""

    text: str
    weight: dx.Probability = 0.5
    inside: list[Part] = []


class Message(dx.Schema):
    """What came in."""

    text: str
    parts: list[Part] | None = dx.field(None, max_length=5)
    key: dx.ApiKey | None = None
    tone: Literal["short", "long"] = dx.field("short", variable=True)


class Verdict(dx.Schema):
    """What it is about."""

    queue: Literal["billing", "delivery"]
    mood: Mood = Mood.CALM
    score: float = dx.field(0.5, ge=0, le=1)
    notes: dict[str, list[int]] = {}


class Rich(dx.Program[Message, Verdict]):
    k: dx.Var[int] = dx.var(3, lo=1, hi=8)
    heat: dx.Var[float] = dx.var(0.5, lo=0.25, hi=1.0)
    style: dx.Var[Literal["terse", "detailed"]] = dx.var("terse")
    deep: dx.Var[bool] = dx.var(False)
    rules = [style.is_("terse").implies(k <= 4), dx.not_both(deep.is_(True), heat > 0.9)]
    first = dx.ChainOfThought(Message, Message, instruction="Rewrite it, {style}.", demos_k=k, temperature=heat)
    solver = dx.select(
        one=dx.Predict(Message, Verdict, lm=["local/smollm2", "openai/gpt-4.1-mini"]),
        two=dx.ChainOfThought(Message, Verdict),
    )

    async def __call__(self, x: Message, /) -> Verdict:
        y = await self.first(x)
        return await self.solver(y)
