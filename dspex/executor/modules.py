"""What happens when a module is called: render, one trip down the call path, parse, at most one repair."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dspex.compiler.render.prepared import PreparedModule, prepare
from dspex.errors import LMError, OutputError, ProgramError
from dspex.executor.call import Called, complete, store
from dspex.executor.models import Gate, gate_for
from dspex.lm.model import LMLike
from dspex.lm.spend import NOTHING, Spend
from dspex.lm.types import LMRequest, LMResponse
from dspex.program.context import Context, current, resolve_lm
from dspex.program.schema import Schema
from dspex.program.trace import CallRecord

if TYPE_CHECKING:
    from dspex.program.modules import Module, ModuleSettings

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741


class ReadyModule:
    """A bound module's prepared prompt, the gate it last went through, and its content-free scores."""

    __slots__ = ("_gate", "_priors", "prepared")

    def __init__(self, prepared: PreparedModule) -> None:
        self.prepared = prepared
        self._gate: tuple[LMLike, asyncio.AbstractEventLoop, Gate] | None = None
        self._priors: dict[tuple[str, int], tuple[LMRequest, Called]] = {}

    async def gate(self, lm: LMLike) -> Gate:
        """The gate of `lm` on the running loop; a client belongs to the loop that opened it."""
        known = self._gate
        loop = asyncio.get_running_loop()
        if known is not None and known[0] is lm and known[1] is loop:
            return known[2]
        gate = await gate_for(lm)
        self._gate = (lm, loop, gate)
        return gate

    async def prior(self, gate: Gate, x: Schema, context: Context) -> LMResponse:
        """Scores of the content-free request: bought once for a fixed prompt, once an input for nearest demos."""
        prepared = self.prepared
        place = (gate.fingerprint, context.rollout)
        known = self._priors.get(place) if prepared.fixed else None
        if known is not None:
            request, called = known
            if context.traces:
                # Every trace shows what its answer rests on, whichever call happened to buy it first.
                called = replace(called, cached=True, attempts=0, spent=NOTHING, seconds=0.0)
                _record(context, prepared, gate, request, called, None, None, None)
            return called.response
        request = prepared.content_free(x, context.rollout, gate.capabilities)
        called = await _call(self, gate, request, context, shared=True)
        if called.response.choice_logprobs is not None:
            store(gate, called)
        if context.traces:
            _record(context, prepared, gate, request, called, None, None, None)
        if prepared.fixed:
            self._priors[place] = (request, called)
        return called.response


def ready(module: Module[I, O]) -> ReadyModule:
    """The module made ready for calls, kept on the module itself."""
    known = module.prepared
    if isinstance(known, ReadyModule):
        return known
    made = ReadyModule(prepare(module.settings))
    object.__setattr__(module, "prepared", made)
    return made


def call_module(module: Module[I, O], x: I) -> Awaitable[O]:
    """Answer `x` by one call of `module`, under the current context.

    Raises:
        LMError: The call failed; OutputError: the answer did not fit, nor did the repaired one.
    """
    made = module.prepared
    if not isinstance(made, ReadyModule):
        made = ready(module)
    return cast("Awaitable[O]", call_ready(made, accepted(made.prepared.settings, x)))


def accepted(settings: ModuleSettings[Any, Any], x: object) -> Schema:
    """`x` as a module takes it: checked, with the values of input fields that are Variables filled in.

    Raises:
        ProgramError: DX1514.
    """
    wanted = settings.input
    if not isinstance(x, wanted):
        raise ProgramError(
            "DX1514",
            f"{settings.path} takes {wanted.__name__}, got {type(x).__name__}",
            where=settings.path,
            fix=f"pass an instance of {wanted.__name__}, made of the fields {', '.join(wanted.model_fields)}",
        )
    given = cast(Schema, x)
    if settings.input_values:
        unset = {name: value for name, value in settings.input_values.items() if name not in given.model_fields_set}
        if unset:
            return given.model_copy(update=unset)
    return given


async def call_ready(made: ReadyModule, x: Schema) -> Schema:
    """`call_module` for a module that is ready; `x` is of its input schema."""
    prepared = made.prepared
    context = current()
    lm = prepared.settings.lm
    if lm is None:
        lm = context.lm
        if lm is None:
            lm = resolve_lm(None, prepared.settings.path)
    gate = await made.gate(lm)
    request = prepared.request(x, context.rollout, gate.capabilities)
    called = await _call(made, gate, request, context)
    response = called.response
    if prepared.calibrated:
        prior = prepared.settings.prior
        if prior is None:
            prior = prepared.scores(await made.prior(gate, x, context))
        response = prepared.corrected(response, prior)
    try:
        output, reasoning = prepared.parse(x, response)
    except OutputError as error:
        if context.traces:
            _record(context, prepared, gate, request, called, None, None, error)
        return await _repaired(made, gate, x, context, request, called, error)
    if gate.writes:
        store(gate, called)
    if context.traces:
        if response is not called.response:
            called = replace(called, response=response)
        _record(context, prepared, gate, request, called, output, reasoning, None, x)
    return output


async def _repaired(
    made: ReadyModule,
    gate: Gate,
    x: Schema,
    context: Context,
    request: LMRequest,
    first: Called,
    error: OutputError,
) -> Schema:
    """One more attempt that shows the model what was wrong; it reserves, waits and pays like any call."""
    prepared = made.prepared
    if first.response.stop == "length" or request.score_choices:
        # Asked again it would be cut off again, or score the same.
        raise _billed(error, first.attempts, first.spent)
    again = prepared.repair(request, first.response, error)
    try:
        called = await _call(made, gate, again, context)
    except LMError as failure:
        raise _billed(failure, first.attempts + failure.attempts, first.spent, failure.spent) from error
    try:
        output, reasoning = prepared.parse(x, called.response)
    except OutputError as still:
        if context.traces:
            _record(context, prepared, gate, again, called, None, None, still)
        raise _billed(still, first.attempts + called.attempts, first.spent + called.spent) from error
    store(gate, called)
    if context.traces:
        _record(context, prepared, gate, again, called, output, reasoning, None, x)
    return output


async def _call(made: ReadyModule, gate: Gate, request: LMRequest, context: Context, *, shared: bool = False) -> Called:
    try:
        return await complete(gate, request, context, shared=shared)
    except LMError as error:
        if error.where is None:
            error.where = made.prepared.settings.path or None
        if context.traces:
            spent = Spend(error.attempts if error.sent != "no" else 0, 0, 0, error.spent)
            record = CallRecord(
                module=made.prepared.settings.path,
                model=gate.name,
                request=request,
                response=None,
                key=None,
                cached=False,
                attempts=error.attempts,
                spent=spent,
                seconds=0.0,
                reasoning=None,
                output=None,
                error=error,
            )
            for trace in context.traces:
                trace.calls.append(record)
        raise


def _billed(error: LMError, attempts: int, spent: Spend, more: float | None = 0.0) -> LMError:
    error.attempts = attempts
    error.spent = None if spent.usd is None or more is None else spent.usd + more
    if attempts and error.sent == "no":
        error.sent = "yes"
    return error


def _record(
    context: Context,
    prepared: PreparedModule,
    gate: Gate,
    request: LMRequest,
    called: Called,
    output: object | None,
    reasoning: str | None,
    error: LMError | None,
    x: object | None = None,
) -> None:
    record = CallRecord(
        module=prepared.settings.path,
        model=gate.name,
        request=request,
        response=called.response,
        key=called.key,
        cached=called.cached,
        attempts=called.attempts,
        spent=called.spent,
        seconds=called.seconds,
        reasoning=reasoning,
        output=output,
        error=error,
        input=x,
    )
    for trace in context.traces:
        trace.calls.append(record)
