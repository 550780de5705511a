"""The study's own log: typed events into its stream, and the durable record of every attempt to call a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

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

    def commit(self, event: StudyEvent) -> asyncio.Future[int]:
        """Append in order; done, with its id, once it is durable, or with a `StudyError` where it cannot be written."""
        return self.store.append(self.study, event.kind, to_dict(event, self.content))

    def commit_now(self, event: StudyEvent) -> int:
        """`commit` from plain code."""
        return self.store.append_now(self.study, event.kind, to_dict(event, self.content))


class _Bought(NamedTuple):
    """An answer, None where the log has not kept it, the model that gave it, and what it cost."""

    answer: LMResponse | None
    model: str
    cost: Spend


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
        self._bought: dict[str, _Bought] = {
            key: _Bought(history.answers.get(key), history.models.get(key, ""), cost)
            for key, cost in history.costs.items()
        }
        self._open: dict[asyncio.Future[int], str] = {}
        self._lost = dict(history.lost)
        self.settled_spend = history.settled
        self.attempts = history.attempts
        self.failures: dict[str, int] = dict(history.failures)
        self.repeats = history.repeats
        self.broken: StudyError | None = None

    def settled(self, key: str) -> LMResponse | None:
        """The answer to this call, if it was paid for in this study already."""
        bought = self._bought.get(key)
        return None if bought is None else bought.answer

    def answered_by(self, key: str) -> str:
        """Name of the model that gave the answer to this call."""
        return self._bought[key].model

    def cost(self, key: str) -> Spend | None:
        """What the answer to this call cost, if it was bought in this study."""
        bought = self._bought.get(key)
        return None if bought is None else bought.cost

    def started(self, key: str, model: str, reserved: Spend) -> asyncio.Future[int]:
        """Record that a request is about to be sent; done once that is durable.

        Raises:
            StudyError: The log could not be written before.
        """
        if self.broken is not None:
            raise self.broken
        event = AttemptStarted(key, model, reserved.calls, reserved.input_tokens, reserved.output_tokens, reserved.usd)
        attempt = self._log.commit(event)
        self._open[attempt] = model
        self.attempts += 1
        if self._lost.get(key, 0) > 0:
            self._lost[key] -= 1
            self.repeats += 1
        return attempt

    def unsent(self, attempt: asyncio.Future[int], key: str) -> None:
        """Record that an attempt was not sent after all, which is then none."""
        del self._open[attempt]
        self.attempts -= 1
        self._after(attempt, lambda number: AttemptFailed(number, key, "", None, sent="no"))

    def committed(self, attempt: asyncio.Future[int], key: str, response: LMResponse, spent: Spend) -> None:
        """Record response, usage and settlement as one event; it is durable before any attempt that follows."""
        model = self._open.pop(attempt)
        self._bought[key] = _Bought(response, model, spent)
        self.settled_spend = self.settled_spend + spent
        answer = response_to_json(response)
        costs = spent.calls, spent.input_tokens, spent.output_tokens, spent.usd
        self._after(attempt, lambda number: CallCommitted(number, key, model, answer, *costs))

    def failed(self, attempt: asyncio.Future[int], key: str, error: LMError, cost: Spend | None) -> None:
        """Record that an attempt ended without an answer, and what that cost; None: not known."""
        del self._open[attempt]
        self.failures[error.code] = self.failures.get(error.code, 0) + 1
        known = NOTHING if cost is None else cost
        self._after(
            attempt,
            lambda number: AttemptFailed(
                number,
                key,
                error.code,
                error.message,
                error.retryable,
                error.sent,
                cost is None,
                known.calls,
                known.input_tokens,
                known.output_tokens,
                known.usd,
            ),
        )

    def _after(self, attempt: asyncio.Future[int], event: Callable[[int], StudyEvent]) -> None:
        """Record what became of an attempt once its number is known, as a rule now."""

        def record(started: asyncio.Future[int]) -> None:
            error = started.exception()
            if error is None:
                self._log.note(event(started.result()))
            elif isinstance(error, StudyError) and self.broken is None:
                self.broken = error

        if attempt.done():
            record(attempt)
        else:
            attempt.add_done_callback(record)


def spend_of(charge: object) -> Spend:
    """The `Spend` that stands in an event as [calls, input, output, usd]."""
    if not isinstance(charge, (list, tuple)) or len(charge) != 4:  # pyright: ignore[reportUnknownArgumentType]
        return NOTHING
    calls, tokens_in, tokens_out, usd = charge  # pyright: ignore[reportUnknownVariableType]
    return Spend(int(calls), int(tokens_in), int(tokens_out), None if usd is None else float(usd))  # pyright: ignore[reportUnknownArgumentType]


def charge_of(spend: Spend) -> tuple[int, int, int, float | None]:
    """`spend` as it stands in an event."""
    return (spend.calls, spend.input_tokens, spend.output_tokens, spend.usd)
