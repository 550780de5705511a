"""The implementations that the conformance suite in `test_conformance.py` runs over.

A provider joins by adding an entry to `SUBJECTS`: a context manager that gives a `Subject`, in a `pytest.param` when it
needs a mark.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dspex.lm.model import LM, LanguageModel
from dspex.lm.types import Capabilities, LMRequest, Message
from dspex.providers import open_model
from dspex.providers.replay import replay
from dspex.providers.scripted import ScriptedLM
from dspex.testing import Fault, MockServer

CHOICES = ("billing", "shipping", "other")


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
    """

    open: Callable[[], LanguageModel]
    hang: Callable[[], LanguageModel] | None = None
    waiting: Callable[[int], bool] = lambda _: True
    released: Callable[[], bool] = lambda: True
    refuse: Callable[[], LanguageModel] | None = None
    usage: bool = True


def chat(text: str, **changes: object) -> LMRequest:
    return LMRequest(messages=(Message("system", "Answer briefly."), Message("user", text)), max_tokens=8, **changes)  # type: ignore[arg-type]


REQUESTS: tuple[LMRequest, ...] = (
    chat("Say one word."),
    chat("Say another word.", seed=3),
    chat("Where is my parcel?", choices=CHOICES, output_fields=("team",)),
    chat("Where is my bill?", choices=CHOICES, output_fields=("team",), rollout=1),
)


def _server_model(server: MockServer) -> LanguageModel:
    can = Capabilities(raw_prompt=True, json_schema=True, choices=True)
    return open_model(LM("openai/mock", base_url=server.url, api_key="k", capabilities=can, retries=0))


@contextmanager
def openai_subject() -> Generator[Subject]:
    with (
        MockServer() as server,
        MockServer(faults=[Fault("hang")]) as hanging,
        MockServer(faults=[Fault("status", status=500)]) as failing,
    ):
        yield Subject(
            open=lambda: _server_model(server),
            hang=lambda: _server_model(hanging),
            waiting=lambda count: hanging.wait_until(lambda s: len(s.requests) == count),
            released=lambda: hanging.wait_until(lambda s: s.open == 0) and server.wait_until(lambda s: s.open == 0),
            refuse=lambda: _server_model(failing),
        )


def _script(request: LMRequest) -> dict[str, object]:
    if request.choices:
        return {"team": request.choices[len(request.messages[-1].content) % len(request.choices)]}
    return {"answer": f"{request.messages[-1].content} {request.seed} {request.rollout}"}


@contextmanager
def scripted_subject() -> Generator[Subject]:
    yield Subject(open=lambda: ScriptedLM(_script))


@contextmanager
def replay_subject() -> Generator[Subject]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.jsonl"

        async def record() -> None:
            model = replay(path, ScriptedLM(_script), mode="record")
            for request in REQUESTS:
                await model.complete(request)
            await model.aclose()

        asyncio.run(record())
        empty = Path(folder) / "empty.jsonl"
        asyncio.run(replay(empty, ScriptedLM(_script), mode="record").aclose())
        yield Subject(open=lambda: replay(path), refuse=lambda: replay(empty))


SUBJECTS: dict[str, Callable[[], AbstractContextManager[Subject]]] = {
    "openai": openai_subject,
    "scripted": scripted_subject,
    "replay": replay_subject,
}
"""Name of a provider → its subject. The local model adds its own from its test module's conftest."""
