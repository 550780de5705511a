"""Schemas, operations and a tool that generated programs are made of, and a model whose answers follow the request."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Literal

import dspex as dx
from dspex.errors import RequestRejected
from dspex.lm.types import LMRequest
from dspex.testing import ScriptedLM

Color = Literal["red", "green", "blue"]
COLORS: tuple[Color, ...] = ("red", "green", "blue")
NEVER = "Refuse."
"""An instruction that the scripted model always refuses."""


class Ask(dx.Schema):
    """A question."""

    question: str
    hints: list[str] = []
    deep: bool = False


class Draft(dx.Schema):
    """A first answer."""

    text: str
    score: float = 0.0
    tags: list[str] = []


class Label(dx.Schema):
    """A colour."""

    label: Color


class Both(dx.Schema):
    """Two drafts."""

    left: Draft
    right: Draft


class Answer(dx.Schema):
    """The final answer."""

    text: str
    draft: Draft | None = None
    items: list[str] = []
    label: Color | None = None


LOG: list[str] = []
"""What impure functions did, in order."""


KEPT: list[list[str]] = []
"""Lists that a function was given and kept."""


@dx.op(pure=True)
def clean(text: str) -> str:
    return " ".join(text.lower().split())


@dx.op
def note(text: str) -> str:
    LOG.append(text)
    return f"{len(LOG)}:{text}"


@dx.op
async def fetch(text: str) -> str:
    LOG.append(f"fetch {text}")
    return f"<{text}>"


def shout(text: str, times: int = 1) -> str:
    LOG.append(f"shout {text}")
    return text.upper() + "!" * times


@dx.tool
def search(query: str, limit: int = 2) -> list[str]:
    """Words that begin as the query does."""
    LOG.append(f"search {query}")
    return [f"{query[:3]}{number}" for number in range(limit)]


@dx.op
def grow(items: list[str], text: str) -> str:
    """Changes a list in place."""
    items.append(text)
    return f"{len(items)} items"


def kept(draft: Draft) -> int:
    """Keeps a list that is inside a schema."""
    KEPT.append(draft.tags)
    return len(KEPT)


@dx.op
async def poke() -> int:
    """Changes the lists that were kept."""
    for items in KEPT:
        items.insert(0, f"poked {len(items)}")
    return len(KEPT)


def is_long(x: Ask) -> bool:
    return len(x.question) > 4


class Model:
    """A scripted model whose answer, or failure, is a function of the request alone.

    Args:
        failing: One request in `failing` is refused, another one answered with text of no shape; 0 for none.
    """

    def __init__(self, failing: int = 0) -> None:
        self.failing = failing
        self.requests: Counter[LMRequest] = Counter()
        self.failures = 0
        self.lm = ScriptedLM(self._answer, name="scripted/model", fingerprint=f"model {failing}")

    def _answer(self, request: LMRequest) -> dict[str, object] | str:
        self.requests[request] += 1
        digest = hashlib.sha256(repr(request).encode("utf-8", "surrogatepass")).digest()
        number = int.from_bytes(digest[:4], "big")
        text = (request.prompt or "") + "".join(message.content for message in request.messages)
        if NEVER in text or (self.failing and number % self.failing == 0):
            self.failures += 1
            raise RequestRejected("DX4303", f"refused {digest.hex()[:8]}", sent="yes")
        if self.failing and number % self.failing == 1:
            self.failures += 1
            return "?"
        word = digest.hex()[:6]
        if request.choices:
            return request.choices[number % len(request.choices)]
        draft = {"text": f"d{word}", "score": 0.25, "tags": [word[:2]]}
        every: dict[str, object] = {
            "question": f"q{word}",
            "hints": [word[:3], word[3:]][: number % 3],
            "deep": number % 2 == 0,
            "text": word,
            "score": number % 5 / 4,
            "tags": [word[:2]] * (number % 3),
            "label": COLORS[number % 3],
            "draft": draft if number % 2 else None,
            "items": [word[2:4]],
            "reasoning": f"because {word}",
        }
        return {name: every[name] for name in request.output_fields}
