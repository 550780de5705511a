"""A small task that a study can really improve on, with models that are pure functions of the request."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Literal

from dspex.evaluation.dataset import Dataset, load
from dspex.lm.types import LMRequest
from dspex.program.modules import Predict
from dspex.program.program import Program
from dspex.program.schema import Schema
from dspex.testing import MockRequest, ScriptedLM

WORDS: dict[str, tuple[str, ...]] = {
    "billing": ("invoice", "charge", "refund", "price"),
    "delivery": ("parcel", "late", "courier", "box"),
    "tech": ("crash", "login", "bug", "screen"),
}


class Message(Schema):
    """A customer writes."""

    text: str


class Team(Schema):
    """The team that handles the message."""

    team: Literal["billing", "delivery", "tech"]


class Router(Program[Message, Team]):
    """Routes a message to a team."""

    route = Predict(Message, Team)

    async def __call__(self, x: Message) -> Team:
        return await self.route(x)


def accuracy(got: Team, want: Team) -> float:
    return float(got.team == want.team)


def messages(count: int, seed: int = 0) -> Dataset[Message, Team]:
    """Messages whose words tell the team."""
    rng = random.Random(seed)
    rows: list[dict[str, object]] = []
    for number in range(count):
        team = rng.choice(sorted(WORDS))
        first, second = rng.choice(WORDS[team]), rng.choice(WORDS[team])
        rows.append({"text": f"my {first} and {second} number {number}", "team": team})
    return load(rows, Message, Team)


def _team(text: str) -> str:
    """Right the more often the more examples the prompt shows; a function of the prompt alone."""
    draw = int(hashlib.sha256(text.encode()).hexdigest(), 16)
    last = text.rsplit("number", 1)[0][-40:]
    if draw % 100 < min(95, 25 + 8 * text.count("number")):
        for team, words in WORDS.items():
            if any(word in last for word in words):
                return team
    return sorted(WORDS)[draw % 3]


def text_of(request: LMRequest) -> str:
    return request.prompt if request.prompt is not None else "\n".join(m.content for m in request.messages)


def scripted(request: LMRequest) -> Mapping[str, object]:
    """For `ScriptedLM`."""
    text = text_of(request)
    if "instruction" in request.output_fields:
        return {"instruction": f"Name the team that should answer. ({len(text)})"}
    return {"team": _team(text)}


def served(request: MockRequest) -> Mapping[str, object]:
    """For `MockServer`."""
    if "current_instruction" in request.text or "current instruction" in request.text:
        return {"instruction": f"Name the team that should answer. ({len(request.text)})"}
    return {"team": _team(request.text)}


def model() -> ScriptedLM:
    return ScriptedLM(scripted, fingerprint="tests.study.tasks")
