"""What answers without any server: a script and a recording."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from dspex.errors import ServerError
from dspex.lm.types import LMRequest
from dspex.providers.replay import replay
from dspex.providers.scripted import ScriptedLM

from .subject import REQUESTS, Subject


def _script(request: LMRequest) -> dict[str, object]:
    if request.choices:
        return {"team": request.choices[len(request.messages[-1].content) % len(request.choices)]}
    return {"answer": f"{request.messages[-1].content} {request.seed} {request.rollout}"}


class _Waiting:
    """A script that never answers, and how many wait for it."""

    def __init__(self) -> None:
        self.inside = 0
        self._begun = threading.Condition()

    async def __call__(self, request: LMRequest) -> str:
        with self._begun:
            self.inside += 1
            self._begun.notify_all()
        try:
            await asyncio.Event().wait()
        finally:
            self.inside -= 1
        raise AssertionError(request)

    def wait(self, count: int) -> bool:
        with self._begun:
            return self._begun.wait_for(lambda: self.inside == count, 10.0)

    def released(self) -> bool:
        return self.inside == 0


def _fail(request: LMRequest) -> str:
    raise ServerError("DX4208", f"no answer to {request.messages[-1].content}", retryable=True, sent="yes")


@contextmanager
def scripted_subject() -> Generator[Subject]:
    waiting = _Waiting()
    yield Subject(
        open=lambda: ScriptedLM(_script),
        hang=lambda: ScriptedLM(waiting),
        waiting=waiting.wait,
        released=waiting.released,
        refuse=lambda: ScriptedLM(_fail),
    )


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
        waiting = _Waiting()
        yield Subject(
            open=lambda: replay(path),
            hang=lambda: replay(Path(folder) / "hanging.jsonl", ScriptedLM(waiting), mode="record"),
            waiting=waiting.wait,
            released=waiting.released,
            refuse=lambda: replay(empty),
        )
