"""What the conformance suite needs to know of an implementation."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from dspex.lm.model import LanguageModel
from dspex.lm.types import Capabilities, LMRequest, Message
from dspex.testing import Fault, MockServer

CHOICES = ("billing", "shipping", "other")
KEY = "canary-0123456789abcdefghij"
"""The key of every model over HTTP: it must turn up nowhere."""

ABLE = Capabilities(
    raw_prompt=True,
    json_schema=True,
    choices=True,
    json_mode=True,
    tools=True,
    media=("image",),
    reasoning=True,
    logprobs=True,
    seed=True,
)


class At(Protocol):
    """Opens a fresh model at a mock server, with `KEY`, without retries.

    ``capabilities`` None leaves what the provider assumes.
    """

    def __call__(self, server: MockServer, capabilities: Capabilities | None = ABLE) -> LanguageModel: ...


@dataclass
class Subject:
    """One implementation under test.

    Attributes:
        open: A fresh model; the answers of two are equal.
        hang: A fresh model whose `complete` never ends, or None where there is nothing to wait for.
        waiting: Blocks until so many calls of hanging models wait for an answer; False when they never do.
        released: Blocks until no connection is held any more; False when one still is.
        refuse: A fresh model that fails every call, or None.
        usage: Whether usage is reported.
        at: For a protocol over HTTP: opens a model at a mock server. None skips what needs one.
        codes: Error codes by the name of a trouble, where they are not those of the suite's own table.
        tells: The figures of `Usage` that the protocol tells besides input and output.
        schema: Whether the protocol enforces a schema itself.
        whole_calls: Whether a stream brings the arguments of a tool call in one piece.
        one_call: Whether the protocol can forbid several tool calls in one answer; one that cannot refuses to.
        tool_choices: Of ``auto``, ``none``, ``required`` and a tool's name (``clock``) those that the protocol has
            words for; the others are refused.
    """

    open: Callable[[], LanguageModel]
    hang: Callable[[], LanguageModel] | None = None
    waiting: Callable[[int], bool] = lambda _: True
    released: Callable[[], bool] = lambda: True
    refuse: Callable[[], LanguageModel] | None = None
    usage: bool = True
    at: At | None = None
    codes: Mapping[str, str] = field(default_factory=dict[str, str])
    tells: tuple[str, ...] = ("cached_tokens", "reasoning_tokens")
    schema: bool = True
    whole_calls: bool = False
    one_call: bool = True
    tool_choices: tuple[str, ...] = ("auto", "required", "clock", "none")


def chat(text: str, **changes: object) -> LMRequest:
    return LMRequest(messages=(Message("system", "Answer briefly."), Message("user", text)), max_tokens=8, **changes)  # type: ignore[arg-type]


REQUESTS: tuple[LMRequest, ...] = (
    chat("Say one word."),
    chat("Say another word.", seed=3),
    chat("Where is my parcel?", choices=CHOICES, output_fields=("team",)),
    chat("Where is my bill?", choices=CHOICES, output_fields=("team",), rollout=1),
)


@contextmanager
def served(at: At, **changes: object) -> Generator[Subject]:
    """The subject of a protocol over HTTP, given what opens a model at a mock server."""
    with (
        MockServer() as server,
        MockServer(faults=[Fault("hang")]) as hanging,
        MockServer(faults=[Fault("status", status=500)]) as failing,
    ):
        yield Subject(
            open=lambda: at(server),
            hang=lambda: at(hanging),
            waiting=lambda count: hanging.wait_until(lambda s: len(s.requests) == count),
            released=lambda: hanging.wait_until(lambda s: s.open == 0) and server.wait_until(lambda s: s.open == 0),
            refuse=lambda: at(failing),
            at=at,
            **changes,  # type: ignore[arg-type]
        )
