"""What happens when a module is called: render, a trip down the call path, parse; each repair is one more trip."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dspex.compiler.render.prepared import PreparedModule, prepare
from dspex.errors import LMError, OutputError, ProgramError
from dspex.executor.call import Call, Called, carried, complete, store
from dspex.executor.models import Gate, gate_for
from dspex.lm.model import LMLike
from dspex.lm.spend import NOTHING
from dspex.lm.types import Capabilities, LMRequest, LMResponse
from dspex.program.context import Context, current, resolve_lm
from dspex.program.ledger import Tab
from dspex.program.schema import Schema
from dspex.program.trace import CallRecord

if TYPE_CHECKING:
    from types import CoroutineType

    from dspex.executor.live import Showing
    from dspex.program.modules import Module, ModuleSettings
    from dspex.program.program import Program

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741

Origin = Callable[[], tuple[str, str]]
"""Gives the outermost program's name and the identity of its configuration."""


class ReadyModule:
    """A bound module's prepared prompt, the gate it last went through, and its content-free scores.

    Args:
        prepared: The prompt.
        origin: Of a module that is called without a plan; a plan knows it for each call.
    """

    __slots__ = ("_gate", "_priors", "origin", "prepared")

    def __init__(self, prepared: PreparedModule, origin: Origin | None = None) -> None:
        self.prepared = prepared
        self.origin = origin
        self._gate: tuple[LMLike, asyncio.AbstractEventLoop, Gate] | None = None
        self._priors: dict[tuple[str, int], tuple[LMRequest, Called]] = {}

    def asked(self, x: Schema, origin: Origin | None) -> _Asked | None:
        """A call of this module under the current context; None where its model is to be opened first."""
        x = accepted(self.prepared.settings, x)
        context = current()
        lm = self._lm(context)
        known = self._gate
        if known is None or known[0] is not lm or known[1] is not asyncio.get_running_loop():
            return None
        return _Asked(self, x, known[2], context, origin)

    async def asked_first(self, x: Schema, origin: Origin | None) -> _Asked:
        """`asked`, of a model that is not open; a client belongs to the loop that opened it."""
        x = accepted(self.prepared.settings, x)
        context = current()
        lm = self._lm(context)
        gate = await gate_for(lm)
        self._gate = (lm, asyncio.get_running_loop(), gate)
        return _Asked(self, x, gate, context, origin)

    def _lm(self, context: Context) -> LMLike:
        lm = self.prepared.settings.lm
        if lm is None:
            lm = context.lm
        return resolve_lm(None, self.prepared.settings.path) if lm is None else lm

    def tab(self, gate: Gate, context: Context, origin: Origin | None) -> Tab | None:
        """Where a call of this module is written down; None where no ledger is open."""
        if not context.ledgers:
            return None
        origin = origin or self.origin
        program, configuration = ("", "") if origin is None else origin()
        place = (context.tenant, program, configuration, self.prepared.settings.path)
        return Tab(context.ledgers, place, gate.name)

    async def prior(self, gate: Gate, x: Schema, context: Context, tab: Tab | None) -> LMResponse:
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
        try:
            called = await complete(gate, request, context, shared=True, tab=tab)
        except LMError as error:
            _failed(context, prepared, gate, request, error)
            raise
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
    made = ReadyModule(prepare(module.settings), _origin(module))
    object.__setattr__(module, "prepared", made)
    return made


def _origin(module: Module[Any, Any]) -> Origin:
    known: tuple[str, str] | None = None

    def origin() -> tuple[str, str]:
        nonlocal known
        if known is None:
            root: Program[Any, Any] = module
            while root.dx_node.parent is not None:
                root = root.dx_node.parent
            known = type(root).__name__, root.space.identity(root.config) if root.config else ""
        return known

    return origin


def call_module(module: Module[I, O], x: I) -> CoroutineType[Any, Any, O]:
    """Answer `x` by one call of `module`, under the current context.

    Raises:
        ProgramError: DX1514: `x` is not what the module takes.
        LMError: The call failed; OutputError: the answer did not fit, nor did the repaired one.
    """
    made = module.prepared
    call = call_ready(made, x) if isinstance(made, ReadyModule) else _made_ready(module, x)
    return cast("CoroutineType[Any, Any, O]", call)


async def _made_ready(module: Module[Any, Any], x: Schema) -> Schema:
    return await call_ready(ready(module), x)


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


async def call_ready(made: ReadyModule, x: Schema, origin: Origin | None = None) -> Schema:
    """`call_module` for a module that is ready; `origin` is that of the plan's binding."""
    # A call that waits holds this frame: all else that it needs is in `call`.
    call = made.asked(x, origin) or await made.asked_first(x, origin)
    if call.context.parts is not None:
        return await call.watched()
    place = None
    try:
        place = call.begin()
        if place is not None:
            call.rest()
            await place
            call.resume()
    except BaseException as error:
        if place is not None:
            call.leave(place)
        # It may hold the error, whose traceback holds this frame.
        del place
        call.failed(error)
        raise
    return await call.answered(call.end(place))


class _Asked(Call):
    """A module's call. While it waits it holds no request, but a draft of it, which is small."""

    __slots__ = ("_draft", "_made", "_x")

    def __init__(self, made: ReadyModule, x: Schema, gate: Gate, context: Context, origin: Origin | None) -> None:
        self._made = made
        self._x = x
        if context.deferral is not None:
            gate = context.deferral.gate(gate)
        self._draft = draft = made.prepared.draft(x)
        request = made.prepared.written(draft, context.rollout, gate.capabilities)
        Call.__init__(self, gate, request, context, None, made.tab(gate, context, origin) if context.ledgers else None)

    def adapted(self, capabilities: Capabilities) -> LMRequest:
        """Its request, for a model of these capabilities."""
        return self._made.prepared.written(self._draft, self.context.rollout, capabilities)

    def rest(self) -> None:
        """It has to wait."""
        self.request = _LATER

    def resume(self) -> None:
        """It goes on."""
        self.request = self.adapted(self.gate.capabilities)

    def failed(self, error: BaseException) -> None:
        """It came to no answer before it was sent."""
        if isinstance(error, LMError):
            self.resume()
            _failed(self.context, self._made.prepared, self.gate, self.request, error)

    async def watched(self) -> Schema:
        """All of it, shown while it is written."""
        context, gate = self.context, self.gate
        showing = None if context.parts is None else context.parts.begin(self._made.prepared)
        if showing is None:
            return await self.answered(carried(self))
        adapt = self.adapted if gate.fallback else None
        ending = showing.call(gate, self.request, context, adapt=adapt, tab=self.tab)
        return await self.answered(ending, showing)

    async def answered(self, ending: Coroutine[Any, Any, Called], showing: Showing | None = None) -> Schema:
        """What the module gives for how the call ends."""
        made, x, context, gate, tab = self._made, self._x, self.context, self.gate, self.tab
        prepared = made.prepared
        request = self.request
        try:
            called = await ending
        except LMError as error:
            _failed(context, prepared, gate, request, error)
            raise
        response = called.response
        if prepared.calibrated:
            prior = prepared.settings.prior
            if prior is None:
                answered = gate if called.fallback is None else called.fallback[0]
                prior = prepared.scores(await made.prior(answered, x, context, tab))
            response = prepared.corrected(response, prior)
        try:
            output, reasoning = prepared.parse(x, response)
        except OutputError as error:
            if context.traces:
                _record(context, prepared, gate, request, called, None, None, error)
            return await _repaired(made, gate, x, context, request, called, error, tab, showing)
        store(gate, called)
        if context.traces:
            if response is not called.response:
                called = replace(called, response=response)
            _record(context, prepared, gate, request, called, output, reasoning, None, x)
        if showing is not None:
            await showing.end(output, reasoning)
        return output


_LATER = LMRequest()
"""Stands for the request of a call that waits."""


async def _repaired(
    made: ReadyModule,
    gate: Gate,
    x: Schema,
    context: Context,
    request: LMRequest,
    called: Called,
    error: OutputError,
    tab: Tab | None,
    showing: Showing | None,
) -> Schema:
    """Further attempts that show the model what was wrong; each reserves, waits and pays like any call."""
    prepared = made.prepared
    wrong: list[tuple[Called, OutputError]] = [(called, error)]

    def asked(capabilities: Capabilities) -> LMRequest:
        request = prepared.request(x, context.rollout, capabilities)
        for given, complaint in wrong:
            request = prepared.repair(request, given.response, complaint)
        return request

    # Asked again it would be cut off again, or score the same.
    final = ("length", "content_filter")
    while len(wrong) <= prepared.settings.repairs and not (called.response.stop in final or request.score_choices):
        request = asked(gate.capabilities)
        adapt = asked if gate.fallback else None
        try:
            if showing is None:
                called = await complete(gate, request, context, adapt=adapt, tab=tab)
            else:
                called = await showing.call(gate, request, context, adapt=adapt, tab=tab)
        except LMError as failure:
            _failed(context, prepared, gate, request, failure)
            raise _billed(failure, wrong, failure.attempts, failure.spent) from error
        try:
            output, reasoning = prepared.parse(x, called.response)
        except OutputError as still:
            if context.traces:
                _record(context, prepared, gate, request, called, None, None, still)
            still.__cause__ = error
            error = still
            wrong.append((called, error))
            continue
        store(gate, called)
        if context.traces:
            _record(context, prepared, gate, request, called, output, reasoning, None, x)
        if showing is not None:
            await showing.end(output, reasoning)
        return output
    raise _billed(_summed(wrong), wrong)


def _summed(wrong: list[tuple[Called, OutputError]]) -> OutputError:
    """One error that says what was wrong with every answer."""
    *before, (_, last) = wrong
    if not before:
        return last
    told = "; ".join(f"({number}) {error.message}" for number, (_, error) in enumerate(before, 1))
    message = f"{last.message}; it is answer {len(wrong)}, and those before it: {told}"
    summed = OutputError(last.code, message, where=last.where, fix=last.fix, sent="yes")
    summed.__cause__ = last.__cause__
    return summed


def _failed(context: Context, prepared: PreparedModule, gate: Gate, request: LMRequest, error: LMError) -> None:
    """A call came to no answer: say of which module, and record it."""
    if error.where is None:
        error.where = prepared.settings.path or None
    if context.traces:
        record = CallRecord.of_failure(prepared.settings.path, gate.name, request, error)
        for trace in context.traces:
            trace.calls.append(record)


def _billed(
    error: LMError, wrong: list[tuple[Called, OutputError]], attempts: int = 0, spent: float | None = 0.0
) -> LMError:
    """`error` with what the whole call cost: the wrong answers, and what came after them."""
    total = sum((called.spent for called, _ in wrong), NOTHING).usd
    error.attempts = attempts + sum(called.attempts for called, _ in wrong)
    error.spent = None if total is None or spent is None else total + spent
    if error.attempts and error.sent == "no":
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
        model=gate.name if called.fallback is None else called.fallback[0].name,
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
        ambiguous=called.ambiguous,
    )
    for trace in context.traces:
        trace.calls.append(record)
