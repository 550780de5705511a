"""Models and journals that misbehave on purpose, for the tests of the call path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dspex.errors import LMError
from dspex.lm.spend import Spend
from dspex.lm.types import FREE, Capabilities, LMRequest, LMResponse, Price, Usage

Step = LMResponse | BaseException | str
ANSWER = LMResponse("Paris", Usage(10, 2))


class StepsLM:
    """Answers each attempt with the next of `steps`, the last one for ever.

    ``hold`` blocks until `gate` is set, then answers or raises `then`.
    """

    name = "test/steps"
    fingerprint = "test:steps"

    def __init__(self, *steps: Step, price: Price | None = FREE, capabilities: Capabilities | None = None) -> None:
        self.steps: list[Step] = list(steps) or [ANSWER]
        self.price = price
        self.capabilities = capabilities or Capabilities(True, True, True, True)
        self.requests: list[LMRequest] = []
        self.running = 0
        self.most = 0
        self.closed = 0
        self.then: BaseException | None = None
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()

    async def complete(self, request: LMRequest, /) -> LMResponse:
        step = self.steps[min(len(self.requests), len(self.steps) - 1)]
        self.requests.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        self.entered.set()
        try:
            if step == "hold":
                await self.gate.wait()
                if self.then is not None:
                    raise self.then
                return ANSWER
            if isinstance(step, BaseException):
                raise step
            return LMResponse(step) if isinstance(step, str) else step
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        self.closed += 1


def _quiet(event: str) -> None:
    """Nobody listens."""


class MemoryJournal:
    """A journal in memory that also writes down the order of what happens."""

    def __init__(self, answers: dict[str, LMResponse] | None = None, log: Callable[[str], None] | None = None) -> None:
        self.answers = dict(answers or {})
        self.events: list[tuple[str, int]] = []
        self.models: dict[int | str, str] = {}
        self.open: dict[int, Spend] = {}
        self.fail: Exception | None = None
        self._log = log or _quiet

    def settled(self, key: str, /) -> LMResponse | None:
        self._log("settled?")
        return self.answers.get(key)

    def answered_by(self, key: str, /) -> str:
        return self.models[key]

    def started(self, key: str, model: str, reserved: Spend, /) -> asyncio.Future[int]:
        attempt: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._log("started")
        if self.fail is not None:
            attempt.set_exception(self.fail)
            return attempt
        number = len(self.events) + 1
        self.events.append(("started", number))
        self.open[number] = reserved
        self.models[number] = model
        attempt.set_result(number)
        return attempt

    def unsent(self, attempt: asyncio.Future[int], key: str, /) -> None:
        if attempt.exception() is None:
            self._end("unsent", attempt)

    def committed(self, attempt: asyncio.Future[int], key: str, response: LMResponse, spent: Spend, /) -> None:
        self._end("committed", attempt)
        self.answers[key] = response
        self.models[key] = self.models[attempt.result()]

    def failed(self, attempt: asyncio.Future[int], key: str, error: LMError, cost: Spend | None, /) -> None:
        self._end("failed", attempt)

    def _end(self, how: str, attempt: asyncio.Future[int]) -> None:
        self._log(how)
        self.events.append((how, attempt.result()))
        del self.open[attempt.result()]
