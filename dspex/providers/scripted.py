"""A model whose answers are a Python function: for tests, examples and benchmarks."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from enum import Enum
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import cast
from uuid import uuid4

from pydantic_core import to_json

from dspex.errors import OutputError, UsageError
from dspex.lm.types import (
    FREE,
    CallDelta,
    Capabilities,
    Delta,
    LMRequest,
    LMResponse,
    Price,
    TokenLogprob,
    ToolCall,
    Usage,
)
from dspex.program.identity import constant_text

Scripted = Mapping[str, object] | str | LMResponse
Script = Callable[[LMRequest], Scripted | Awaitable[Scripted]]

_CAPABILITIES = Capabilities(
    raw_prompt=True,
    json_schema=True,
    choices=True,
    score_choices=True,
    json_mode=True,
    tools=True,
    tool_choice=True,
    media=("image", "audio", "file"),
    reasoning=True,
    logprobs=True,
    seed=True,
)

_ANSWERS = (dict, str, LMResponse, Mapping)

CHOSEN_LOGPROB = 0.0
OTHER_LOGPROB = -20.0

_WORD = re.compile(r"\s*\S+|\s+")


async def parts_of(response: LMResponse) -> AsyncGenerator[Delta]:
    """`response` as a stream, always in the same parts: reasoning, text and calls a word at a time, then the whole.

    Other tasks get their turn after each part, as they do while a real model goes on.
    """
    for word in _WORD.findall(response.reasoning):
        yield Delta(reasoning=word)
        await asyncio.sleep(0)
    for word in _WORD.findall(response.text):
        yield Delta(word)
        await asyncio.sleep(0)
    for index, call in enumerate(response.tool_calls):
        yield Delta(calls=(CallDelta(index, call.id, call.name),))
        for word in _WORD.findall(call.arguments):
            yield Delta(calls=(CallDelta(index, arguments=word),))
            await asyncio.sleep(0)
    yield Delta(response=response)


class ScriptedLM:
    """A `StreamingModel` that answers with ``fn(request)``.

    What `fn` may return, synchronously or not:

    - a mapping of output fields: becomes a JSON object; for a request with ``choices`` its one value becomes the text;
    - a text: is the answer as it stands;
    - an `LMResponse`: is passed through, with its tool calls, reasoning, usage and reason to stop.

    What it raises reaches the caller; an `LMError` is retried, or not, as a real model's.

    A request that names the tool to call gets a call of it with the mapping or text as its arguments.

    A request for scores of choices gives 0.0 to the choice that `fn` names and -20.0 to each other. For a request with
    choices, a text outside them is passed on as it stands: so does a bad model behave.

    Usage counts words, runs of text between white space, in messages or prompt and in the answer. The price is zero.
    Where log-probabilities of tokens are asked for, each word is a token of log-probability 0.0. A stream comes
    a word at a time.

    Attributes:
        calls: How often it was asked.
    """

    def __init__(self, fn: Script, *, name: str = "scripted/lm", fingerprint: str | None = None) -> None:
        """See the class.

        Args:
            fn: Pure: the same request, the same answer.
            name: What reports call the model.
            fingerprint: Identity for caches and resume. By default a hash of the function's code and of the plain
                values it refers to, and unique to this object where that cannot be told.
        """
        self._fn = fn
        self._name = name
        self._fingerprint = fingerprint
        self.calls = 0

    def __repr__(self) -> str:
        return f"ScriptedLM({self._name!r}, calls={self.calls})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = f"scripted:{self._name}:{_code_hash(self._fn) or uuid4().hex}"
        return self._fingerprint

    @property
    def capabilities(self) -> Capabilities:
        return _CAPABILITIES

    @property
    def price(self) -> Price | None:
        return FREE

    async def complete(self, request: LMRequest, /) -> LMResponse:
        self.calls += 1
        answer = self._fn(request)
        if not isinstance(answer, _ANSWERS):
            # A script without annotations may return anything.
            given = cast(object, await answer if inspect.isawaitable(answer) else answer)
            if not isinstance(given, _ANSWERS):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise UsageError(
                    "DX4405",
                    f"a script gives a mapping, a text or an LMResponse, got {type(given).__name__}",
                    where=self._name,
                    fix="return the output's fields as a dict, or the raw text",
                )
            answer = cast(Scripted, given)
        if isinstance(answer, LMResponse):
            return answer
        if isinstance(answer, str):
            text = answer
        else:
            fields = self._asked_for(answer, request)
            text = _only_value(fields) if request.choices else to_json(fields).decode()
        scores: tuple[float, ...] | None = None
        if request.score_choices:
            if text not in request.choices:
                raise OutputError(
                    "DX4403",
                    f"the scripted answer {text!r} is none of the choices to be scored, {list(request.choices)}",
                    where=self._name,
                    sent="yes",
                )
            scores = tuple(CHOSEN_LOGPROB if c == text else OTHER_LOGPROB for c in request.choices)
        asked = 0 if request.prompt is None else len(request.prompt.split())
        for message in request.messages:
            asked += len(message.content.split())
        usage = Usage(asked, len(text.split()))
        if any(tool.name == request.tool_choice for tool in request.tools):
            call = ToolCall("call_0", request.tool_choice, text)
            return LMResponse("", usage, "tool_calls", self._name, tool_calls=(call,))
        tokens: tuple[TokenLogprob, ...] | None = None
        if request.top_logprobs is not None:
            words: list[str] = _WORD.findall(text)
            tokens = tuple(TokenLogprob(word, 0.0, ((word, 0.0),)[: request.top_logprobs]) for word in words)
        return LMResponse(text, usage, "stop", self._name, scores, logprobs=tokens)

    async def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        async with aclosing(parts_of(await self.complete(request))) as parts:
            async for part in parts:
                yield part

    def _asked_for(self, answer: Mapping[str, object], request: LMRequest) -> Mapping[str, object]:
        """`answer` without reasoning that the request has no place for.

        Raises:
            OutputError: DX4404: the request has one output field, and the answer does not hold it.
        """
        wanted = request.output_fields
        if "reasoning" in answer and "reasoning" not in wanted and len(answer) > 1:
            answer = {name: value for name, value in answer.items() if name != "reasoning"}
        if len(wanted) == 1 and wanted[0] not in answer:
            raise OutputError(
                "DX4404",
                f"the request's output field is {wanted[0]}, the scripted mapping has {', '.join(answer) or 'none'}",
                where=self._name,
                fix=f"return {{{wanted[0]!r}: …}}, or a text",
                sent="yes",
            )
        return answer

    async def aclose(self) -> None:
        """Nothing to release."""


def _only_value(answer: Mapping[str, object]) -> str:
    if len(answer) != 1:
        raise OutputError(
            "DX4404",
            f"the request has choices, so a scripted mapping has one value; got the fields {list(answer)}",
            fix="return the one output field, or a text",
            sent="yes",
        )
    (value,) = answer.values()
    if isinstance(value, Enum):
        value = cast(object, value.value)
    return value if isinstance(value, str) else to_json(value).decode()


# ----------------------------------------------------------------- identity of a function

_PLAIN = (str, bytes, int, float, complex, bool, type(None))


def _code_hash(fn: object) -> str | None:
    """Hash of a function's code, defaults, closure and plain globals; None when it holds more than these."""
    parts: list[str] = []
    if not _describe(fn, parts, set()):
        return None
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:32]


def _describe(value: object, parts: list[str], seen: set[int]) -> bool:
    if isinstance(value, _PLAIN):
        parts.append(repr(value))
        return True
    if isinstance(value, tuple | frozenset):
        items = cast("tuple[object, ...]", value)
        ordered = sorted(items, key=repr) if isinstance(value, frozenset) else items
        return all(_describe(item, parts, seen) for item in ordered)
    if isinstance(value, ModuleType):
        parts.append(f"module {value.__name__}")
        return True
    if isinstance(value, type | BuiltinFunctionType):
        parts.append(f"{value.__module__}.{value.__qualname__}")
        return True
    if not isinstance(value, FunctionType):
        return False
    if id(value) in seen:
        return True
    seen.add(id(value))
    names = _describe_code(value.__code__, parts)
    globals_ = value.__globals__
    for name in sorted(names & globals_.keys()):
        parts.append(name)
        if not _describe(globals_[name], parts, seen):
            return False
    cells: list[object] = []
    for cell in value.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:
            return False
    keywords = tuple(sorted((value.__kwdefaults__ or {}).items()))
    return all(_describe(item, parts, seen) for item in (*cells, value.__defaults__ or (), keywords))


def _describe_code(code: CodeType, parts: list[str]) -> set[str]:
    parts.append(code.co_code.hex())
    parts.append(repr(code.co_names))
    names = set(code.co_names)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            names |= _describe_code(constant, parts)
        else:
            parts.append(constant_text(constant))
    return names
