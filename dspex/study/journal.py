"""The study's own log: typed events into its stream, and the durable record of every attempt to call a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dspex.errors import LMError, StudyError
from dspex.lm.spend import NOTHING, Spend
from dspex.lm.types import LMResponse
from dspex.stores.codec import response_to_json
from dspex.stores.protocol import EventStore
from dspex.telemetry.events import AttemptFailed, AttemptStarted, CallCommitted, ContentMode, StudyEvent, to_dict

if TYPE_CHECKING:
    from dspex.study.resume import History


class StudyLog:
    """Appends typed events to one stream.

    Attributes:
        store: Where the stream lives.
        study: The study's id, which is the stream's name.
        content: What is kept of prompts and answers.
    """

    def __init__(self, store: EventStore, study: str, content: ContentMode) -> None:
        self.store = store
        self.study = study
        self.content: ContentMode = content

    def note(self, event: StudyEvent) -> None:
        """Append in order, without waiting; a failure to store it shows at the next durable event."""
        self.store.append(self.study, event.kind, to_dict(event, self.content), durable=False)

    async def commit(self, event: StudyEvent) -> int:
        """Append and return its id once it is durable.

        Raises:
            StudyError: The disk is full or the store cannot be written.
        """
        return await self.store.append(self.study, event.kind, to_dict(event, self.content))

    def commit_now(self, event: StudyEvent) -> int:
        """`commit` from plain code."""
        return self.store.append_now(self.study, event.kind, to_dict(event, self.content))


class StudyJournal:
    """`program.context.Journal` over a study's log.

    Every answer bought in this study is kept by its key, so that none is bought twice, whatever the
    cache mode. After a crash the answers come from the log.

    Attributes:
        settled_spend: Cost of the answered calls, of earlier processes too.
        attempts: Attempts started, of earlier processes too.
        failures: Failed attempts by error code.
        repeats: Attempts in flight at a crash that were sent again since.
        broken: The first failure to write; nothing more may be sent once it is set.
    """

    def __init__(self, log: StudyLog, history: History) -> None:
        self._log = log
        self._answers: dict[str, LMResponse] = dict(history.answers)
        self._costs: dict[str, Spend] = dict(history.costs)
        self._open: dict[int, tuple[str, str]] = {}
        self._lost = dict(history.lost)
        self.settled_spend = history.settled
        self.attempts = history.attempts
        self.failures: dict[str, int] = dict(history.failures)
        self.repeats = history.repeats
        self.broken: StudyError | None = None

    def settled(self, key: str) -> LMResponse | None:
        """The answer to this call, if it was paid for in this study already."""
        return self._answers.get(key)

    def cost(self, key: str) -> Spend | None:
        """What the answer to this call cost, if it was bought in this study."""
        return self._costs.get(key)

    async def started(self, key: str, model: str, reserved: Spend) -> int:
        """Record that a request is about to be sent; returns once that is durable."""
        event = AttemptStarted(key, model, reserved.calls, reserved.input_tokens, reserved.output_tokens, reserved.usd)
        attempt = await self._commit(event)
        self._open[attempt] = (key, model)
        self.attempts += 1
        if self._lost.get(key, 0) > 0:
            self._lost[key] -= 1
            self.repeats += 1
        return attempt

    async def committed(self, attempt: int, key: str, response: LMResponse, spent: Spend) -> None:
        """Record response, usage and settlement as one durable event."""
        _, model = self._open.pop(attempt, (key, response.model))
        await self._commit(
            CallCommitted(
                attempt,
                key,
                model,
                response_to_json(response),
                spent.calls,
                spent.input_tokens,
                spent.output_tokens,
                spent.usd,
            )
        )
        self._answers[key] = response
        self._costs[key] = spent
        self.settled_spend = self.settled_spend + spent

    async def failed(self, attempt: int, key: str, error: LMError, cost: Spend | None) -> None:
        """Record that an attempt ended without an answer, and what that cost; None: not known."""
        self._open.pop(attempt, None)
        self.failures[error.code] = self.failures.get(error.code, 0) + 1
        await self._commit(
            AttemptFailed(
                attempt,
                key,
                error.code,
                error.message,
                error.retryable,
                error.sent,
                cost is None,
                *charge_of(cost or NOTHING),
            )
        )

    async def _commit(self, event: StudyEvent) -> int:
        if self.broken is not None:
            raise self.broken
        try:
            return await self._log.commit(event)
        except StudyError as error:
            self.broken = error
            raise


def spend_of(charge: object) -> Spend:
    """The `Spend` that stands in an event as [calls, input, output, usd]."""
    if not isinstance(charge, (list, tuple)) or len(charge) != 4:  # pyright: ignore[reportUnknownArgumentType]
        return NOTHING
    calls, tokens_in, tokens_out, usd = charge  # pyright: ignore[reportUnknownVariableType]
    return Spend(int(calls), int(tokens_in), int(tokens_out), None if usd is None else float(usd))  # pyright: ignore[reportUnknownArgumentType]


def charge_of(spend: Spend) -> tuple[int, int, int, float | None]:
    """`spend` as it stands in an event."""
    return (spend.calls, spend.input_tokens, spend.output_tokens, spend.usd)
