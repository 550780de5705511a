"""What surrounds a call: the chosen model, open traces, the budget's account, the study's journal, the deadline.

One context variable holds one frozen `Context`; it is passed on by asyncio to every task that a program starts.
There is no process-global settings object.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from dspex.errors import NoLMError, UsageError

if TYPE_CHECKING:
    from asyncio import Future

    from dspex.errors import LMError
    from dspex.executor.budget import BudgetAccount
    from dspex.executor.deferral import Deferral
    from dspex.executor.live import Channel
    from dspex.lm.model import LMLike
    from dspex.lm.spend import Budget, Spend
    from dspex.lm.types import LMResponse
    from dspex.program.ledger import Ledger
    from dspex.program.trace import Trace

__all__ = [
    "Account",
    "Context",
    "Journal",
    "Reservation",
    "bounded",
    "current",
    "ledger",
    "resolve_lm",
    "trace",
    "using",
    "within",
]


class Reservation(Protocol):
    """Part of a budget, set aside for one attempt. One of the three methods is called, once.

    After `uncertain` one of the others may follow, when what the attempt cost comes to be known later.
    """

    def settle(self, spent: Spend, /) -> None:
        """The attempt ended and its usage is known."""
        ...

    def release(self) -> None:
        """Nothing was sent."""
        ...

    def uncertain(self, upper: Spend, /) -> None:
        """The request may have been sent; its usage is unknown."""
        ...


class Account(Protocol):
    """A budget being spent."""

    def reserve(self, upper: Spend, /) -> Reservation:
        """Set aside an upper bound; never awaits.

        Raises:
            BudgetExceeded: DX4502, when a cap would be broken.
        """
        ...


class Journal(Protocol):
    """A durable record of attempts, in order: once a part of it is durable, all that was recorded before is."""

    def settled(self, key: str, /) -> LMResponse | None:
        """The answer to `key` that this record already paid for."""
        ...

    def answered_by(self, key: str, /) -> str:
        """Name of the model that gave the settled answer to `key`: the one that was asked, or a fallback of it."""
        ...

    def started(self, key: str, model: str, reserved: Spend, /) -> Future[int]:
        """Record an attempt; done, with its number, once that is durable: not before may it be sent."""
        ...

    def unsent(self, attempt: Future[int], key: str, /) -> None:
        """Record that the attempt was not sent after all."""
        ...

    def committed(self, attempt: Future[int], key: str, response: LMResponse, spent: Spend, /) -> None:
        """Record response, usage and settlement as one record."""
        ...

    def failed(self, attempt: Future[int], key: str, error: LMError, cost: Spend | None, /) -> None:
        """Record that the attempt gave no answer, and what that cost; None when nobody knows."""
        ...


class Context:
    """Everything that surrounds a call. Immutable; `within` enters a changed copy."""

    __slots__ = (
        "account",
        "deadline",
        "deferral",
        "journal",
        "ledgers",
        "lm",
        "parts",
        "priority",
        "rollout",
        "tenant",
        "traces",
    )
    lm: LMLike | None
    traces: tuple[Trace, ...]
    account: Account | None
    journal: Journal | None
    ledgers: tuple[Ledger, ...]
    parts: Channel | None
    deferral: Deferral | None
    deadline: float | None
    rollout: int
    priority: int
    tenant: str

    def __init__(
        self,
        lm: LMLike | None = None,
        traces: tuple[Trace, ...] = (),
        account: Account | None = None,
        journal: Journal | None = None,
        deadline: float | None = None,
        rollout: int = 0,
        priority: int = 0,
        tenant: str = "",
        ledgers: tuple[Ledger, ...] = (),
        parts: Channel | None = None,
        deferral: Deferral | None = None,
    ) -> None:
        """
        Args:
            lm: The model that `using` chose.
            traces: Open traces, outermost first; every call is recorded in all of them.
            account: The budget that calls are reserved from.
            journal: Where attempts are recorded.
            deadline: Time of `time.monotonic()` at which calls end.
            rollout: Number of the repeated sample.
            priority: Where a model's limits make calls wait, those of a higher priority go first.
            tenant: Among calls of one priority, tenants take turns.
            ledgers: Open ledgers, outermost first; every attempt is counted in all of them.
            parts: Where modules show what they write, to whoever reads the run meanwhile.
            deferral: Where calls wait until they are handed in as a batch.
        """
        values = (account, deadline, deferral, journal, ledgers, lm, parts, priority, rollout, tenant, traces)
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Context is immutable")

    def replace(self, **changes: object) -> Context:
        """A copy with the given fields changed."""
        fields: dict[str, object] = {name: getattr(self, name) for name in self.__slots__}
        return Context(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


_EMPTY = Context()
_CONTEXT: ContextVar[Context] = ContextVar("dspex", default=_EMPTY)


def current() -> Context:
    """The context of the running task."""
    return _CONTEXT.get()


@contextmanager
def within(context: Context) -> Generator[Context]:
    """Make `context` the current one inside the block."""
    token = _CONTEXT.set(context)
    try:
        yield context
    finally:
        _CONTEXT.reset(token)


@contextmanager
def bounded(*, account: Account | None = None, deadline: float | None = None) -> Generator[Context]:
    """Add a budget and a deadline inside the block; an earlier deadline outside still holds.

    Args:
        account: Replaces the surrounding account; None keeps it.
        deadline: Time of `time.monotonic()`; None keeps the surrounding one.
    """
    outer = current()
    ends = [end for end in (outer.deadline, deadline) if end is not None]
    inner = outer.replace(account=outer.account if account is None else account, deadline=min(ends) if ends else None)
    with within(inner):
        yield inner


@contextmanager
def using(
    *,
    lm: LMLike | None = None,
    priority: int | None = None,
    tenant: str | None = None,
    budget: Budget | BudgetAccount | None = None,
) -> Generator[None]:
    """Choose for everything that is called inside the block; what is left out stays as it is outside.

    Args:
        lm: The language model of whatever names none itself.
        priority: Calls of a higher priority go first where a model's limits make calls wait; 0 outside.
        tenant: For whom the calls are made: where calls of one priority wait, tenants take turns.
        budget: Caps on what the block may spend, besides those that hold outside; an account instead may be spent
            from by several blocks.

    Raises:
        UsageError: DX4501: `budget` is neither; DX4506: it is an account outside of the one that surrounds the block;
            DX8156: `priority` is no whole number or `tenant` no text.
    """
    # Waiting calls are sorted by them, long after this block was opened, beside those of others.
    _check_turn("priority", priority, int, "a whole number")
    _check_turn("tenant", tenant, str, "a text")
    chosen = {"lm": lm, "priority": priority, "tenant": tenant}
    context = current().replace(**{name: value for name, value in chosen.items() if value is not None})
    if budget is None:
        with within(context):
            yield
        return
    from dspex.program import ports

    account, deadline = ports.entered(budget, context.account)
    with within(context), bounded(account=account, deadline=deadline):
        yield


def _check_turn(name: str, value: object, kind: type, meant: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
        raise UsageError(
            "DX8156",
            f"{name} is {meant}, got {value!r:.80}",
            where=f"using({name}=...)",
            fix=f"leave {name} out for what holds outside",
        )


@contextmanager
def trace() -> Generator[Trace]:
    """Record every call made inside the block: calls, attempts, usage, dollars, reasoning."""
    from dspex.program.trace import Trace

    opened = Trace()
    context = current()
    with within(context.replace(traces=(*context.traces, opened))):
        yield opened


@contextmanager
def ledger() -> Generator[Ledger]:
    """Add up what every attempt inside the block costs, by tenant, program, configuration, module, model and outcome.

    For example ``with dx.ledger() as ledger: …`` and then ``ledger.total`` or ``ledger.by("module")``.
    """
    from dspex.program.ledger import Ledger

    opened = Ledger()
    context = current()
    with within(context.replace(ledgers=(*context.ledgers, opened))):
        yield opened


def resolve_lm(lm: LMLike | None, where: str | None = None) -> LMLike:
    """The model to call: `lm` (of the module, else its program), `using()`, DSPEX_LM, then [tool.dspex] in pyproject.

    Args:
        lm: The model that is named, if any.
        where: Path of the module that needs it, for the error.

    Raises:
        NoLMError: DX4001 when none of them names a model.
    """
    chosen = lm if lm is not None else current().lm
    if chosen is not None:
        return chosen
    named = os.environ.get("DSPEX_LM")
    if not named:
        from dspex.settings import setting

        named = setting("lm")
    if named:
        return named
    raise NoLMError(
        "DX4001",
        "no language model is chosen",
        where=where or None,
        fix=(
            "one of\n"
            '    pip install "dspex[local]" && export DSPEX_LM=local/smollm2     # no key, runs on this machine\n'
            "    export DSPEX_LM=openai/gpt-4.1-mini OPENAI_API_KEY=…\n"
            '    with dx.using(lm=dx.LM("openai/any-name", base_url="http://127.0.0.1:8000/v1")): …'
        ),
    )
