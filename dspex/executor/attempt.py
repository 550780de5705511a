"""One attempt to call a model: what it reserves, waits for, sends, and how it is settled.

Whatever ends an attempt ends it in one of four ways, once: it was never sent, it was answered, it failed, or it was
abandoned and may have to be paid. Reservation, permit and breaker are told the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from dspex.errors import LMError, RateLimited, ResponseError, Sent, ServerError
from dspex.executor.admission import Outcome, Permit, outcome_of
from dspex.executor.retry import is_free
from dspex.lm.model import LanguageModel, StreamingModel
from dspex.lm.spend import NOTHING, Spend
from dspex.lm.types import Delta, LMRequest, LMResponse

if TYPE_CHECKING:
    from dspex.executor.call import Call
    from dspex.executor.models import Gate
    from dspex.executor.queueing import Turn
    from dspex.executor.routes import Route
    from dspex.program.context import Reservation

T = TypeVar("T")

_TURN_TOKENS = 16
"""Upper bound of what a chat template adds to one turn."""

_MEDIA_TOKENS = 50_000
"""Upper bound of what an image of any size costs beyond its bytes (OpenAI's gpt-4o-mini counts up to 48,169)."""

_TOKEN_CHARACTERS = 3
"""Characters of a token at least, on average, in what people write."""

_URGENT = 1 << 30
"""Priority above all that people choose."""

KEY_REFUSED = "DX4202"
"""Code of a 401."""

OF_THE_ROUTE = frozenset((KEY_REFUSED, "DX4203", "DX4204"))
"""Refusals of a key or an address: another route may know better."""


class Unsent(BaseException):
    """An attempt ended for a `reason` while its model still held it back."""

    def __init__(self, reason: BaseException) -> None:
        self.reason = reason


class Attempt:
    """One attempt: reserve, wait for admission, send, settle, commit. `enter`, `begin`, then `run` or `parts`."""

    __slots__ = (
        "_held",
        "_permit",
        "_refusal",
        "_token",
        "_turn",
        "began",
        "call",
        "ended",
        "model",
        "record",
        "response",
        "route",
    )

    response: LMResponse

    def __init__(self, call: Call, route: Route) -> None:
        self.call = call
        self.route = route
        self.model = route.model
        self.began = 0.0
        self.ended = False
        self._held: Reservation | None = None
        self._turn: Turn | None = None
        self._permit: Permit | None = None
        self._token: int | None = None
        self.record: asyncio.Future[int] | None = None
        self._refusal: LMError | None = None

    @property
    def begun(self) -> bool:
        """Whether its request was on the way to be sent."""
        return self.began > 0.0

    def enter(self, *, urgent: bool = False) -> Turn | None:
        """Reserve, and ask for admission: None where that is given at once, else the turn that comes before `begin`.

        The turn is awaited by the caller itself, because each coroutine in between is held by every waiting call; when
        that ends in an error, the caller says so to `leave`. What refuses the attempt is raised by `begin`. An `urgent`
        attempt waits before all others.
        """
        call, context = self.call, self.call.context
        self.route.load += 1
        try:
            if context.account is not None:
                self._held = context.account.reserve(call.upper)
            if context.journal is not None:
                # While it waits for its turn, the disk is at work.
                self.record = context.journal.started(call.key or "", call.gate.name, call.upper)
            if self.route.limit is not None:
                tokens = _estimate(call.request)
                self._permit = self.route.limit.try_acquire(tokens) or self._elsewhere(tokens)
                if self._permit is None:
                    priority = _URGENT if urgent else call.priority
                    self._turn = self.route.limit.queue(tokens, priority=priority, tenant=context.tenant)
        except LMError as refusal:
            self._unsent()
            self._refusal = refusal
        except BaseException:
            self._unsent()
            raise
        return self._turn

    def hurry(self, priority: int) -> None:
        """Wait from now on as a call of that priority."""
        if self._turn is not None and self.route.limit is not None:
            self.route.limit.advance(self._turn, priority)

    def leave(self) -> None:
        """Its turn is not awaited any more."""
        if self._turn is not None and self.route.limit is not None:
            self.route.limit.leave(self._turn)
        self._unsent()

    async def admitted(self, *, urgent: bool = False) -> None:
        """`enter`, and the turn."""
        turn = self.enter(urgent=urgent)
        if turn is not None:
            try:
                await turn
            except BaseException:
                self.leave()
                raise

    def begin(self) -> None:
        """Get all else that has to be had before the request is sent, once its turn has come."""
        if self._refusal is not None:
            raise self._refusal
        limit, breaker = self.route.limit, self.route.breaker
        try:
            if self._turn is not None and limit is not None:
                self._permit = limit.granted(self._turn)
            if breaker is not None:
                self._token = breaker.enter()
        except BaseException:
            self._unsent()
            raise
        self.call.attempts += 1
        self.model = self.route.model
        self.began = time.perf_counter()

    async def noted(self, record: asyncio.Future[int]) -> None:
        """Wait until it is durable that the request is about to be sent."""
        try:
            # Whoever is cancelled meanwhile leaves the record alone, which then says that nothing was sent.
            await (record if record.done() else asyncio.shield(record))
        except BaseException:
            self.call.attempts -= 1
            self.began = 0.0
            self._unsent()
            raise
        self.began = time.perf_counter()

    async def wait(self, *, urgent: bool = False) -> None:
        """`admitted`, `begin` and `noted`."""
        await self.admitted(urgent=urgent)
        self.begin()
        if self.record is not None:
            await self.noted(self.record)

    def _elsewhere(self, tokens: int) -> Permit | None:
        """A slot that is free now on another route."""
        for other in self.call.gate.routes:
            if other is self.route or other.limit is None or not other.is_sound or other in self.call.barred:
                continue
            permit = other.limit.try_acquire(tokens)
            if permit is not None:
                self.route.load -= 1
                other.load += 1
                self.route = other
                return permit
        return None

    async def run(self) -> Attempt:
        """Send the request and account for what comes of it; gives itself, with ``response`` set."""
        alarms = self.call.gate.alarms
        try:
            answer = self.model.complete(self.call.request)
            response = await (answer if alarms is None else alarms.bound(answer))
        except LMError as error:
            self.failed(error)
            raise
        except Unsent as held:
            self._unsent()
            raise held.reason from None
        except BaseException:
            self.abandoned()
            raise
        self.succeeded(response)
        return self

    async def parts(self) -> AsyncGenerator[Delta]:
        """`run`, part by part; the last part has the response, which is settled by then."""
        gate, model = self.call.gate, self.model
        if not _streams(model):
            await self.run()
            yield Delta.whole(self.response)
            return
        source = model.stream(self.call.request)
        produced = False
        try:
            async with aclosing(source):
                while True:
                    coming = anext(source, None)
                    if gate.alarms is None:
                        part = await coming
                    else:
                        left = self.began + gate.alarms.seconds - time.perf_counter()
                        part = await gate.alarms.bound(coming, left)
                    if part is None:
                        raise ResponseError(
                            "DX4710",
                            f"{gate.name} ended its stream without a last part that holds the response",
                            fix="see that stream() of the model yields Delta(response=...) at its end",
                            retryable=True,
                            sent="yes",
                        )
                    if part.response is not None:
                        break
                    produced, given = True, time.perf_counter()
                    yield part
                    # What the reader takes is no time of the server's.
                    self.began += time.perf_counter() - given
        except LMError as error:
            self.failed(error, produced)
            raise
        except BaseException:
            self.abandoned()
            raise
        self.succeeded(part.response)
        yield part

    def succeeded(self, response: LMResponse) -> None:
        """The answer is there: pay for it, and remember it."""
        usage = response.usage
        self._leave("ok", response=response, tokens=None if usage is None else usage.input_tokens + usage.output_tokens)
        gate, call = self.call.gate, self.call
        call.saw("yes")
        spent, exact = _spent(gate, response)
        call.paid(spent)
        if call.tab is not None:
            call.tab.answered(gate.name, usage, spent, None if exact else self._bound())
        if self._held is not None:
            if exact:
                self._held.settle(spent)
            else:
                self._held.uncertain(call.upper)
        self.response = response
        if call.context.journal is not None and self.record is not None:
            paid = spent if exact else call.upper
            call.context.journal.committed(self.record, call.key or "", response, paid)

    def failed(self, error: LMError, produced: bool = False) -> None:
        """The attempt ended in `error`, after it had `produced` a part or not: give back what was not used."""
        call, gate, sent = self.call, self.call.gate, error.sent
        outcome = outcome_of(error)
        if gate.route is None and error.code in OF_THE_ROUTE:
            outcome = "failed"
        self._leave(outcome, error=error)
        call.saw(sent)
        cost = NOTHING if sent == "no" else Spend(1) if is_free(error) and not produced else None
        self._close(sent, cost)
        if sent != "no":
            call.paid(_known(gate, cost))
            call.ambiguous += cost is None
        if call.tab is not None:
            if sent == "no":
                call.tab.unsent(gate.name, error.code)
            else:
                call.tab.failed(gate.name, error.code, self._bound() if cost is None else None)
        if call.context.journal is not None and self.record is not None:
            call.context.journal.failed(self.record, call.key or "", error, cost)

    def abandoned(self) -> None:
        """The caller wants no answer any more, or the model is defective: what was sent may have to be paid."""
        self._leave("unknown")
        self.call.saw("maybe")
        self._close("maybe", None)
        self.call.paid(_known(self.call.gate, None))
        self.call.ambiguous += 1
        if self.call.tab is not None:
            self.call.tab.failed(self.call.gate.name, "abandoned", self._bound())

    def _bound(self) -> Spend:
        """The most that it can cost; worked out only where it is needed."""
        call = self.call
        return upper_bound(call.gate, call.request) if call.upper is NOTHING else call.upper

    def _unsent(self) -> None:
        """`begin` came to no good end."""
        self._leave("unsent")
        self._close("no", None)
        if self.call.context.journal is not None and self.record is not None:
            self.call.context.journal.unsent(self.record, self.call.key or "")

    def _leave(
        self,
        outcome: Outcome,
        *,
        response: LMResponse | None = None,
        tokens: int | None = None,
        error: LMError | None = None,
    ) -> None:
        """Tell route, limit and breaker how it ended."""
        route, permit = self.route, self._permit
        self.ended = True
        route.load -= 1
        seconds = time.perf_counter() - self.began if self.begun else 0.0
        if permit is not None:
            if isinstance(error, RateLimited):
                permit.release(outcome, seconds=seconds, limits=error.limits, retry_after=error.retry_after)
            elif isinstance(error, ServerError):
                permit.release(outcome, seconds=seconds, retry_after=error.retry_after)
            else:
                limits = None if response is None else response.limits
                permit.release(outcome, seconds=seconds, tokens=tokens, limits=limits)
        if self._token is not None and route.breaker is not None:
            route.breaker.leave(self._token, outcome, seconds)
        if response is not None and self.call.gate.stragglers is not None:
            self.call.gate.stragglers.saw(seconds)

    def _close(self, sent: Sent, cost: Spend | None) -> None:
        held = self._held
        if held is None:
            return
        if sent == "no":
            held.release()
        elif cost is not None:
            held.settle(cost)
        else:
            held.uncertain(self.call.upper)


def _streams(model: LanguageModel) -> TypeGuard[StreamingModel]:
    # To check for every member of the protocol takes longer than all else that an attempt does.
    return hasattr(model, "stream")


def upper_bound(gate: Gate, request: LMRequest) -> Spend:
    """The most that one attempt can cost: no token is shorter than a byte, and no answer longer than max_tokens."""
    size = _TURN_TOKENS
    for message in request.messages:
        size += len(message.content.encode(errors="surrogatepass")) + _TURN_TOKENS
        for one in message.attachments:
            size += _MEDIA_TOKENS + 4 * len(one.data) + len(one.url)
        for call in message.tool_calls:
            size += len(call.arguments.encode(errors="surrogatepass")) + len(call.name) + _TURN_TOKENS
        size += len(message.state)
    if request.prompt is not None:
        size += len(request.prompt.encode(errors="surrogatepass"))
    if request.json_schema is not None:
        size += len(request.json_schema.encode())
    for tool in request.tools:
        size += len(f"{tool.name}{tool.description}{tool.parameters}".encode()) + _TURN_TOKENS
    for choice in request.choices:
        size += len(choice.encode()) + _TURN_TOKENS
    usd = None if gate.price is None else gate.price.ceiling(size, request.max_tokens)
    return Spend(1, size, request.max_tokens, usd)


def _estimate(request: LMRequest) -> int:
    """About how many tokens a call counts as where a server limits them by the minute; usage corrects it."""
    size = len(request.prompt or "")
    for message in request.messages:
        size += len(message.content)
    return size // _TOKEN_CHARACTERS + request.max_tokens


def _spent(gate: Gate, response: LMResponse) -> tuple[Spend, bool]:
    """What an answer cost, and whether that is exact."""
    usage, price = response.usage, gate.price
    if usage is None:
        free = price is not None and price.input == 0.0 and price.output == 0.0
        return Spend(1, 0, 0, 0.0 if free else None), False
    return Spend(1, usage.input_tokens, usage.output_tokens, None if price is None else price.cost(usage)), True


def _known(gate: Gate, cost: Spend | None) -> Spend:
    """The known cost of an attempt that was sent: what may have been charged without a word is not known to be."""
    if cost is not None:
        return cost
    return Spend(1, 0, 0, None if gate.price is None else 0.0)
