"""The local model: a real, small language model in a child process of its own, without key, price or network.

Chat goes to llama.cpp's ``/v1/chat/completions``, raw prompts to ``/completion``. A JSON Schema or a closed set of
choices is enforced by a grammar; scores of choices are read off the model's next-token distribution.

**Answers are a function of the request**, whatever came before. llama.cpp keeps the last prompt's numbers and evaluates
only what follows the common prefix. With flash attention off, that changes no bit, with two exceptions, which
`LocalModel` sees in the server's timings and undoes: a row that is evaluated alone (it takes another code path), and
numbers that stem from generated tokens (those were evaluated alone). It then makes the server forget back to a sound
position and asks again.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import math
import platform
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic_core import from_json, to_json

from dspex.errors import CallTimeout, DspexError, LMError, LocalModelError, RequestRejected, ResponseError, ServerError
from dspex.lm.model import LM
from dspex.lm.types import FREE, Capabilities, LMRequest, LMResponse, Price, Stop, Usage
from dspex.providers.local_files import known, locate, require
from dspex.providers.local_process import (
    CONTEXT,
    GOMP,
    INSTALL,
    UBATCH,
    ModelProcess,
    end,
    launch,
    lease,
    library_place,
    release,
)
from dspex.providers.openai import refusal, strict_schema
from dspex.providers.refusals import Redactor
from dspex.providers.transport import AioWire, Reply, Timeouts, Wire

_T = TypeVar("_T")

_ROOT = "http://127.0.0.1"

# llama.cpp's own defaults, said here so that a new version of it cannot change them.
_SAMPLING: dict[str, object] = {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1.0}

_STOPS: dict[object, Stop] = {"stop": "stop", "length": "length", "eos": "stop", "word": "stop", "limit": "length"}

_LEAST_LOGPROB = -87.0  # the logarithm of the smallest normal float32

_REWINDS = 4

# What may follow a choice that is the beginning of another one.
_ENDS = ("\n", "\n\n", "<|im_end|>", "<|endoftext|>")


def open_local(lm: LM) -> LocalModel:
    """The local model that `lm` names. Nothing is looked for or started before the first call.

    Raises:
        LocalModelError: DX7005, there is no such model.
    """
    return LocalModel(lm)


class LocalModel:
    """One local model. Any number may be open, in any threads and event loops: they share one child process.

    Calls run one after the other, and one whose prompt begins like the one before is several times cheaper.
    """

    def __init__(self, lm: LM) -> None:
        self._name = lm.model
        self._model = known(lm.model.partition("/")[2])
        self._capabilities = lm.capabilities or Capabilities(
            raw_prompt=True, json_schema=True, choices=True, score_choices=True, context_tokens=CONTEXT, parallel=2
        )
        self._price = FREE if lm.price is None else lm.price
        self._timeout = lm.timeout
        self._lock = threading.Lock()
        self._leased: tuple[ModelProcess, weakref.finalize[Any, Any]] | None = None
        self._wire: tuple[str, Wire] | None = None
        self._tokens: dict[tuple[str, bool], tuple[int, ...]] = {}

    def __repr__(self) -> str:
        return f"LocalModel({self._name!r})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def fingerprint(self) -> str:
        return (
            f"local:{self._model.name}:gguf={self._model.sha256}:xllamacpp={_version()}:{platform.machine()}"
            f":context={CONTEXT}:ubatch={UBATCH}:flash=off:top_k=40:top_p=0.95:min_p=0.05"
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def price(self) -> Price | None:
        return self._price

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return None if self._leased is None else self._leased[0].pid

    async def complete(self, request: LMRequest, /) -> LMResponse:
        process = await self._process()
        async with process.turns:
            url = process.url
            if url is None:
                url = await asyncio.to_thread(process.start)
            call = _Call(process, self._speaker(process), url, self._name, self._tokens)
            if request.score_choices:
                return await call.score(request)
            return await call.generate(request)

    async def aclose(self) -> None:
        """Give up the child process; the last model that does ends it."""
        with self._lock:
            leased, self._leased = self._leased, None
            wire, self._wire = self._wire, None
        if wire is not None:
            await wire[1].aclose()
        if leased is not None and leased[1].detach() is not None:
            try:
                await asyncio.to_thread(release, leased[0])
            except RuntimeError:
                # An exiting interpreter takes no more work for threads.
                release(leased[0])

    async def _process(self) -> ModelProcess:
        leased = self._leased
        if leased is None:
            path = await asyncio.to_thread(require, self._model.name)
            with self._lock:
                if self._leased is None:
                    process = lease(path)
                    self._leased = (process, weakref.finalize(self, release, process))
                leased = self._leased
        return leased[0]

    def _speaker(self, process: ModelProcess) -> Wire:
        with self._lock:
            if self._wire is None or self._wire[0] != process.key:
                headers = {"Content-Type": "application/json", "Authorization": f"Bearer {process.key}"}
                timeouts = Timeouts(connect=10.0, read=None, total=self._timeout)
                wire = AioWire(headers=headers, limit=2, timeouts=timeouts, base_url=_ROOT)
                self._wire = (process.key, wire)
            return self._wire[1]


class _Call:
    """One request, made by the holder of the turn."""

    def __init__(
        self,
        process: ModelProcess,
        wire: Wire,
        url: str,
        name: str,
        tokens: dict[tuple[str, bool], tuple[int, ...]],
    ) -> None:
        self._process = process
        self._wire = wire
        self._url = url
        self._name = name
        self._tokens = tokens

    # ----------------------------------------------------------------- generate

    async def generate(self, request: LMRequest) -> LMResponse:
        payload: dict[str, object] = {
            **_SAMPLING,
            "temperature": request.temperature,
            "seed": _seed(request),
            "cache_prompt": True,
        }
        lead = ""
        if request.choices:
            # " yes" rather than "yes" after "Answer:": that is how the model's own tokens continue a line.
            lead = _lead(request.prompt)
            payload["grammar"] = _grammar(request.choices, lead)
        elif request.stop:
            payload["stop"] = request.stop
        schema = _schema(request.json_schema) if request.json_schema is not None and not request.choices else None
        if request.prompt is not None:
            payload |= {"prompt": request.prompt, "n_predict": request.max_tokens}
            if schema is not None:
                payload["json_schema"] = schema
            answer = await self._evaluate("/completion", payload, request.prompt, ())
            text, reason = _field(answer, "content", str), answer.get("stop_type")
        else:
            messages = _messages(request)
            payload |= {"messages": messages, "max_tokens": request.max_tokens}
            if schema is not None:
                payload["response_format"] = {
                    "type": "json_schema",
                    "json_schema": {"name": "output", "schema": schema},
                }
            answer = await self._evaluate("/v1/chat/completions", payload, messages, ())
            choice = cast("dict[str, Any]", _field(answer, "choices", list)[0])
            text, reason = _field(_object(choice, "message"), "content", str), choice.get("finish_reason")
        stop = _STOPS.get(reason, "unknown")
        if request.choices:
            text = text.removeprefix(lead)
            if text not in request.choices:
                # Cut off by max_tokens. Where one choice alone begins like this, the grammar leaves no other end.
                ends = [choice for choice in dict.fromkeys(request.choices) if choice.startswith(text)]
                if len(ends) == 1:
                    text, stop = ends[0], "stop"
        return LMResponse(text, _usage(answer), stop, self._name)

    # ----------------------------------------------------------------- score

    async def score(self, request: LMRequest) -> LMResponse:
        """Log-probability of each choice, exact up to a constant that all share.

        Choices are token sequences; each is followed as far as it must be to tell it from the others, and at every fork
        the model's probabilities are renormalised over the tokens that some choice goes on with. Choices that differ in
        their first token, the usual case, need one evaluation of the prompt.
        """
        if not request.choices:
            raise RequestRejected("DX4205", "a request for scores names its choices", where=self._name)
        if request.prompt is not None:
            prompt, lead = request.prompt, _lead(request.prompt)
        else:
            prompt, lead = await self._template(_messages(request)), ""
        paths = {choice: await self._tokenize(lead + choice, False) for choice in dict.fromkeys(request.choices)}
        scores = dict.fromkeys(paths, 0.0)
        usage = Usage()
        pending: list[tuple[tuple[int, ...], list[str]]] = [((), list(paths))]
        while pending:
            prefix, members = pending.pop()
            forks: dict[int | None, list[str]] = {}
            for choice in members:
                path = paths[choice]
                forks.setdefault(path[len(prefix)] if len(path) > len(prefix) else None, []).append(choice)
            if len(forks) > 1:
                logprobs, used = await self._next(prompt, prefix, list(forks))
                usage += used
                for fork, group in forks.items():
                    for choice in group:
                        scores[choice] += logprobs[fork]
            pending += [
                ((*prefix, token), group) for token, group in forks.items() if token is not None and len(group) > 1
            ]
        best = max(scores, key=lambda choice: scores[choice])
        return LMResponse(best, usage, "stop", self._name, tuple(scores[choice] for choice in request.choices))

    async def _next(
        self, prompt: str, prefix: tuple[int, ...], forks: Sequence[int | None]
    ) -> tuple[dict[int | None, float], Usage]:
        """Log-probabilities of the next token, over `forks` alone; None stands for the end of the answer."""
        groups: dict[int | None, set[int]] = {fork: {fork} for fork in forks if fork is not None}
        if None in forks:
            groups[None] = {(await self._tokenize(text, True))[0] for text in _ENDS} - set(forks)
        tokens = [token for group in groups.values() for token in group]
        payload: dict[str, object] = {
            "prompt": [prompt, *prefix] if prefix else prompt,
            "n_predict": 1,
            "temperature": 1.0,
            "samplers": [],
            "seed": 1,
            # All of them are raised by the same amount, far above every other token, which leaves their ratios.
            "logit_bias": [[token, 100] for token in tokens],
            "n_probs": len(tokens),
            "post_sampling_probs": True,
            "cache_prompt": True,
        }
        answer = await self._evaluate("/completion", payload, prompt, prefix)
        first = cast("dict[str, Any]", _field(answer, "completion_probabilities", list)[0])
        listed = cast("list[dict[str, Any]]", _field(first, "top_probs", list))
        found = {int(entry["id"]): float(entry["prob"]) for entry in listed}
        if not set(tokens) <= set(found):
            raise _misshapen(f"probabilities of {sorted(set(tokens) - set(found))} are missing")
        logprobs: dict[int | None, float] = {}
        for fork, group in groups.items():
            mass = sum(found[token] for token in sorted(group))
            logprobs[fork] = max(math.log(mass), _LEAST_LOGPROB) if mass > 0 else _LEAST_LOGPROB
        return logprobs, _usage(answer)

    # ----------------------------------------------------------------- evaluation that history does not change

    async def _evaluate(
        self, path: str, payload: dict[str, object], prompt: str | list[dict[str, str]], prefix: tuple[int, ...]
    ) -> dict[str, Any]:
        """Send `payload`; see the module for what is watched. Leaves the state of the server's cache in the process."""
        process = self._process
        identity = (prompt if isinstance(prompt, str) else to_json(prompt), prefix)
        if process.last == identity:
            # Evaluated as it is, only the last row would be, alone.
            tokens = await self._whole(prompt, prefix)
            await self._rewind(tokens, min(process.clean, len(tokens) - 2))
        answer: dict[str, Any] = {}
        for _ in range(_REWINDS):
            # Should the call be cut off, nothing is known of the cache.
            clean, process.clean, process.last = process.clean, 0, None
            answer = await self._post(path, payload)
            hits, fresh = _timings(answer)
            total = hits + fresh
            if hits <= clean and (fresh % UBATCH != 1 or total == 1):
                process.clean, process.last = total, identity
                break
            tokens = await self._whole(prompt, prefix)
            # A last row that was evaluated alone is all that is unsound where only sound numbers were reused.
            await self._rewind(tokens, total - 2 if hits <= clean else min(clean, total - 2))
        return answer

    async def _rewind(self, tokens: tuple[int, ...], keep: int) -> None:
        """Make the server's cache agree with `tokens` in the first `keep` positions at most."""
        if keep < 0:
            return
        other = 1 if tokens[keep] != 1 else 2
        self._process.clean, self._process.last = 0, None
        payload: dict[str, object] = {"prompt": [*tokens[:keep], other], "n_predict": 1, "temperature": 0}
        await self._post("/completion", {**payload, "cache_prompt": True})
        self._process.clean = keep

    async def _whole(self, prompt: str | list[dict[str, str]], prefix: tuple[int, ...]) -> tuple[int, ...]:
        text = prompt if isinstance(prompt, str) else await self._template(prompt)
        answer = await self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})
        return (*cast("list[int]", _field(answer, "tokens", list)), *prefix)

    async def _tokenize(self, text: str, special: bool) -> tuple[int, ...]:
        found = self._tokens.get((text, special))
        if found is None:
            answer = await self._post("/tokenize", {"content": text, "parse_special": special})
            if len(self._tokens) > 10_000:
                self._tokens.clear()
            found = self._tokens[text, special] = tuple(cast("list[int]", _field(answer, "tokens", list)))
        return found

    async def _template(self, messages: list[dict[str, str]]) -> str:
        return _field(await self._post("/apply-template", {"messages": messages}), "prompt", str)

    # ----------------------------------------------------------------- HTTP

    async def _post(self, path: str, payload: Mapping[str, object]) -> dict[str, Any]:
        try:
            reply = await self._wire.post(self._url + path, to_json(payload))
        except CallTimeout:
            raise
        except LMError as error:
            # The connection breaks a moment before the process can be waited for.
            told = await asyncio.to_thread(self._process.ended, 2.0)
            if told is None:
                raise
            raise ServerError(
                "DX7007",
                f"the local model's process ended during the call: {told}",
                where=self._name,
                fix="the call may be repeated: a new process is started",
                retryable=True,
                sent=error.sent,
            ) from error
        if reply.status != 200:
            raise self._refused(reply)
        try:
            answer: object = from_json(reply.body)
        except ValueError as error:
            raise _misshapen(str(error)) from error
        if not isinstance(answer, dict):
            raise _misshapen("it is no object")
        return cast("dict[str, Any]", answer)

    def _refused(self, reply: Reply) -> LMError:
        try:
            error = cast("dict[str, Any]", from_json(reply.body))["error"]
            if error["type"] == "exceed_context_size_error":
                return RequestRejected(
                    "DX7009",
                    f"the prompt has {error['n_prompt_tokens']} tokens; the context window of {self._name} has "
                    f"{error['n_ctx']}, for prompt and answer",
                    where=self._name,
                    fix="fewer or shorter demonstrations (demos_k=), or a shorter input",
                    sent="yes",
                )
        except (ValueError, KeyError, TypeError):
            pass
        return refusal(reply, self._url, self._name, Redactor(self._process.key))


# --------------------------------------------------------------------------- requests and answers


def _messages(request: LMRequest) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in request.messages]


def _seed(request: LMRequest) -> int:
    # Hashed, so that (seed 1, rollout 0) and (seed 0, rollout 1) are different samples.
    text = f"{request.seed or 0}:{request.rollout}".encode()
    return int.from_bytes(blake2b(text, digest_size=4).digest(), "big") & 0x7FFFFFFF


def _lead(prompt: str | None) -> str:
    """What stands between the end of `prompt` and a choice."""
    return " " if prompt and not prompt[-1].isspace() else ""


@lru_cache(maxsize=512)
def _schema(text: str) -> dict[str, object]:
    schema = cast("dict[str, object]", from_json(text))
    return strict_schema(schema) or schema


@lru_cache(maxsize=512)
def _grammar(choices: tuple[str, ...], lead: str) -> str:
    """A grammar, in llama.cpp's dialect of BNF, of exactly `choices`, each after `lead`."""
    return "root ::= " + " | ".join(_literal(lead + choice) for choice in dict.fromkeys(choices))


def _literal(text: str) -> str:
    out: list[str] = []
    for character in text:
        if character in '"\\':
            out.append("\\" + character)
        elif character < " " or character == "\x7f":
            out.append(f"\\x{ord(character):02X}")
        else:
            out.append(character)
    return '"' + "".join(out) + '"'


def _timings(answer: Mapping[str, Any]) -> tuple[int, int]:
    """(tokens served from the cache, tokens evaluated) of the prompt."""
    timings = _object(answer, "timings")
    return _field(timings, "cache_n", int), _field(timings, "prompt_n", int)


def _usage(answer: Mapping[str, Any]) -> Usage:
    hits, fresh = _timings(answer)
    return Usage(hits + fresh, _field(_object(answer, "timings"), "predicted_n", int), hits)


def _field(fields: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
    value = fields.get(key)
    if not isinstance(value, kind):
        raise _misshapen(f"{key} is {type(value).__name__}, not {kind.__name__}")
    return value


def _object(fields: Mapping[str, Any], key: str) -> dict[str, Any]:
    return cast("dict[str, Any]", _field(fields, key, dict))


def _misshapen(reason: str) -> ResponseError:
    return ResponseError(
        "DX4302",
        f"llama.cpp gave an answer of another shape: {reason}",
        where="local",
        fix=f"install the version that dspex pins: {INSTALL}",
        sent="yes",
    )


@lru_cache(maxsize=1)
def _version() -> str:
    try:
        return importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        return "none"


# --------------------------------------------------------------------------- doctor


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `dspex doctor`."""

    name: str
    ok: bool
    detail: str
    fix: str | None = None


def doctor_checks(name: str = "smollm2") -> list[Check]:
    """What the local model `name` needs, looked at one by one; the last check calls it. Raises nothing."""
    checks: list[Check] = []
    try:
        library_place()
        popen, errors, _ = launch({})
        end(popen)
        errors.close()
        checks.append(Check("xllamacpp", True, _version()))
        checks.append(Check("libgomp", True, "present"))
    except LocalModelError as error:
        gomp = error.code == "DX7002"
        checks.append(Check("xllamacpp", gomp, _version() if gomp else error.message, None if gomp else error.fix))
        told = error.message if gomp else "not known: xllamacpp cannot be loaded"
        checks.append(Check("libgomp", False, told, error.fix if gomp else GOMP))
    checks.append(_file_check(name))
    if all(check.ok for check in checks):
        checks.append(_call_check(name))
    return checks


def _file_check(name: str) -> Check:
    try:
        path: Path | None = locate(name)
        require(name)
    except DspexError as error:
        return Check("model file", False, error.message, error.fix)
    return Check("model file", True, f"{path}, hash as pinned")


def _call_check(name: str) -> Check:
    async def ask() -> tuple[float, float]:
        model = open_local(LM(f"local/{name}", timeout=60.0))
        begun = time.perf_counter()
        try:
            await model.complete(LMRequest(prompt="Question: What is the capital of France?\nAnswer:", max_tokens=1))
            started = time.perf_counter()
            await model.complete(
                LMRequest(prompt="Question: What is the capital of Norway?\nAnswer:", max_tokens=8, stop=("\n",))
            )
            return started - begun, time.perf_counter() - started
        finally:
            await model.aclose()

    try:
        starting, calling = asyncio.run(ask())
    except DspexError as error:
        return Check("local model", False, error.message, error.fix)
    return Check("local model", True, f"started in {starting:.2f} s, a short call takes {calling:.2f} s")
