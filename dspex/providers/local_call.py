"""One request to a local model: what is sent to llama.cpp, how the answer is read, and that history changes neither.

Everything goes to ``/completion``, a chat through llama.cpp's template first. A JSON Schema, the JSON mode or a closed
set of choices is enforced by a grammar; scores of choices are read off the model's next-token distribution.

**Answers are a function of the request**, whatever came before. llama.cpp keeps the last prompt's numbers and evaluates
only what follows the common prefix. With flash attention off, that changes no bit, with two exceptions, which
`Call` sees in the server's timings and undoes: a row that is evaluated alone (it takes another code path), and
numbers that stem from generated tokens (those were evaluated alone). It then makes the server forget back to a sound
position and asks again. In a stream that is settled with its first part, before anyone sees it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic_core import from_json

from dspex.errors import LMError, RequestRejected, ResponseError, ServerError
from dspex.lm.types import Delta, LMRequest, LMResponse, Stop, TokenLogprob, Usage
from dspex.providers.asking import as_body, with_extra
from dspex.providers.continuing import grammar, lead
from dspex.providers.http import Client, Words, words
from dspex.providers.local_process import INSTALL, UBATCH, ModelProcess
from dspex.providers.openai.schema import strict_schema
from dspex.providers.transport import Reply

if TYPE_CHECKING:
    from dspex.telemetry.events import Json

_T = TypeVar("_T")

# llama.cpp's own defaults, said here so that a new version of it cannot change them.
_SAMPLING: dict[str, object] = {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1.0}

_STOPS: dict[object, Stop] = {"eos": "stop", "word": "stop", "limit": "length"}

_COMPACT = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}
"""In a JSON Schema: free to put white space anywhere, a small model goes on with it until its tokens are spent."""

_BROKEN = ("DX4101", "DX4106", "DX4107")
"""Codes of a connection that was not there, or ended before the answer did: so does a child that dies look."""

_LEAST_LOGPROB = -87.0  # the logarithm of the smallest normal float32

_REWINDS = 4

# What may follow a choice that is the beginning of another one.
_ENDS = ("\n", "\n\n", "<|im_end|>", "<|endoftext|>")


class Call:
    """One request, made by the holder of the turn."""

    def __init__(
        self,
        process: ModelProcess,
        client: Client,
        url: str,
        name: str,
        extra: Mapping[str, Json],
        tokens: dict[tuple[str, bool], tuple[int, ...]],
    ) -> None:
        self._process = process
        self._client = client
        self._url = url
        self._name = name
        self._extra = extra
        self._tokens = tokens

    # ----------------------------------------------------------------- generate

    async def complete(self, request: LMRequest) -> LMResponse:
        prompt = await self._prompt(request)
        if request.score_choices:
            return await self._score(request, prompt)
        answer = await self._evaluate(self._payload(request, prompt), prompt)
        return self._response(request, _field(answer, "content", str), answer)

    async def stream(self, request: LMRequest) -> AsyncGenerator[Delta]:
        """The answer in parts; in one part where a part alone would not be true.

        A choice shows when it is whole. llama.cpp holds back tokens that end within a character, and leaves
        their log-probabilities out of a stream.
        """
        if request.score_choices or request.choices or request.top_logprobs is not None:
            response = await self.complete(request)
            yield Delta(response.text, response=response)
            return
        prompt = await self._prompt(request)
        texts: list[str] = []
        async with aclosing(self._parts(self._payload(request, prompt), prompt)) as parts:
            async for part in parts:
                text = _field(part, "content", str)
                texts.append(text)
                if part["stop"]:
                    yield Delta(text, response=self._response(request, "".join(texts), part))
                elif text:
                    yield Delta(text)

    async def _prompt(self, request: LMRequest) -> str:
        if request.prompt is not None:
            return request.prompt
        turns = [{"role": message.role, "content": message.content} for message in request.messages]
        return _field(await self._post("/apply-template", {"messages": turns}), "prompt", str)

    def _payload(self, request: LMRequest, prompt: str) -> dict[str, object]:
        payload: dict[str, object] = {
            **_SAMPLING,
            "prompt": prompt,
            "n_predict": request.max_tokens,
            "temperature": request.temperature,
            "seed": _seed(request),
            "cache_prompt": True,
        }
        if request.top_p is not None:
            payload["top_p"] = request.top_p
        if request.choices:
            # " yes" rather than "yes" after "Answer:": that is how the model's own tokens continue a line.
            payload["grammar"] = grammar(request.choices, lead(request.prompt))
        else:
            if request.stop:
                payload["stop"] = request.stop
            if request.json_schema is not None:
                payload["json_schema"] = _schema(request.json_schema)
            elif request.json_mode:
                payload["json_schema"] = {"type": "object", **_COMPACT}
        if request.top_logprobs is not None:
            # None at all are given for zero.
            payload["n_probs"] = max(1, request.top_logprobs)
        return with_extra(payload, self._extra)

    def _response(self, request: LMRequest, text: str, end: Mapping[str, Any]) -> LMResponse:
        """The whole answer, from its text and from what came with its end."""
        stop = _STOPS.get(end.get("stop_type"), "unknown")
        if request.choices:
            text = text.removeprefix(lead(request.prompt))
            if text not in request.choices:
                # Cut off by max_tokens. Where one choice alone begins like this, the grammar leaves no other end.
                ends = [choice for choice in dict.fromkeys(request.choices) if choice.startswith(text)]
                if len(ends) == 1:
                    text, stop = ends[0], "stop"
        logprobs: tuple[TokenLogprob, ...] | None = None
        if request.top_logprobs is not None:
            # Left out where the answer has no token.
            listed = cast("list[dict[str, Any]]", end.get("completion_probabilities", []))
            logprobs = tuple(_logprob(entry, request.top_logprobs) for entry in listed)
        return LMResponse(text, _usage(end), stop, self._name, logprobs=logprobs)

    # ----------------------------------------------------------------- score

    async def _score(self, request: LMRequest, prompt: str) -> LMResponse:
        """Log-probability of each choice, exact up to a constant that all share.

        Choices are token sequences; each is followed as far as it must be to tell it from the others, and at every fork
        the model's probabilities are renormalised over the tokens that some choice goes on with. Choices that differ in
        their first token, the usual case, need one evaluation of the prompt.
        """
        if not request.choices:
            raise RequestRejected("DX4205", "a request for scores names its choices", where=self._name)
        before = lead(request.prompt)
        paths = {choice: await self._tokenize(before + choice, False) for choice in dict.fromkeys(request.choices)}
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
        answer = await self._evaluate(payload, prompt, prefix)
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
        self, payload: Mapping[str, object], prompt: str, prefix: tuple[int, ...] = ()
    ) -> dict[str, Any]:
        """Send `payload`; see the module for what is watched. Leaves the state of the server's cache in the process."""
        answer: dict[str, Any] = {}
        await self._part(prompt, prefix)
        for _ in range(_REWINDS):
            clean = self._begin()
            answer = await self._post("/completion", payload)
            keep = self._settle(answer, clean, prompt, prefix)
            if keep is None:
                break
            await self._rewind(await self._whole(prompt, prefix), keep)
        return answer

    async def _parts(self, payload: Mapping[str, object], prompt: str) -> AsyncGenerator[dict[str, Any]]:
        """As `_evaluate`, in parts; the last one has a true ``stop``."""
        payload = {**payload, "stream": True, "timings_per_token": True}
        await self._part(prompt)
        for left in reversed(range(_REWINDS)):
            clean = self._begin()
            async with aclosing(self._events(payload)) as events:
                first = await anext(events)
                keep = self._settle(first, clean, prompt)
                if keep is None or not left:
                    yield first
                    async for part in events:
                        yield part
                    return
            # Leaving the stream has stopped the server.
            await self._rewind(await self._whole(prompt), keep)

    async def _part(self, prompt: str, prefix: tuple[int, ...] = ()) -> None:
        """Make the server forget the end of a prompt that it has just seen: it would evaluate the last row alone."""
        if self._process.last == (prompt, prefix):
            tokens = await self._whole(prompt, prefix)
            await self._rewind(tokens, min(self._process.clean, len(tokens) - 2))

    def _begin(self) -> int:
        """How much of the cache is clean; nothing of it should the call be cut off."""
        clean, self._process.clean, self._process.last = self._process.clean, 0, None
        return clean

    def _settle(self, answer: Mapping[str, Any], clean: int, prompt: str, prefix: tuple[int, ...] = ()) -> int | None:
        """None when `answer` is sound, and the cache is now known; else how many of its positions are."""
        hits, fresh = _timings(answer)
        total = hits + fresh
        if hits <= clean and (fresh % UBATCH != 1 or total == 1):
            self._process.clean, self._process.last = total, (prompt, prefix)
            return None
        # A last row that was evaluated alone is all that is unsound where only sound numbers were reused.
        return total - 2 if hits <= clean else min(clean, total - 2)

    async def _rewind(self, tokens: tuple[int, ...], keep: int) -> None:
        """Make the server's cache agree with `tokens` in the first `keep` positions at most."""
        if keep < 0:
            return
        other = 1 if tokens[keep] != 1 else 2
        self._process.clean, self._process.last = 0, None
        payload: dict[str, object] = {"prompt": [*tokens[:keep], other], "n_predict": 1, "temperature": 0}
        await self._post("/completion", {**payload, "cache_prompt": True})
        self._process.clean = keep

    async def _whole(self, prompt: str, prefix: tuple[int, ...] = ()) -> tuple[int, ...]:
        answer = await self._post("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
        return (*cast("list[int]", _field(answer, "tokens", list)), *prefix)

    async def _tokenize(self, text: str, special: bool) -> tuple[int, ...]:
        found = self._tokens.get((text, special))
        if found is None:
            answer = await self._post("/tokenize", {"content": text, "parse_special": special})
            if len(self._tokens) > 10_000:
                self._tokens.clear()
            found = self._tokens[text, special] = tuple(cast("list[int]", _field(answer, "tokens", list)))
        return found

    # ----------------------------------------------------------------- HTTP

    async def _post(self, path: str, payload: Mapping[str, object]) -> dict[str, Any]:
        url = self._url + path
        async with self._explained():
            reply = await self._client.send(url, as_body(payload))
        return self._client.json(reply.body, url)

    async def _events(self, payload: Mapping[str, object]) -> AsyncGenerator[dict[str, Any]]:
        """The parts of a streamed completion, up to the last one."""
        url = self._url + "/completion"
        # llama.cpp closes the connection behind a stream; to be told so keeps the next call off it.
        events = self._client.events(url, as_body(payload), {"Connection": "close"})
        async with self._explained(), aclosing(events):
            async for event in events:
                part = self._client.json(event.data, url)
                if "error" in part:
                    raise self._client.refusal(Reply(500, {}, event.data.encode()), url)
                last = _field(part, "stop", bool)
                yield part
                if last:
                    return
            raise self._client.broken(url, "the stream ended before its last part")

    @asynccontextmanager
    async def _explained(self) -> AsyncGenerator[None]:
        """Says of an error what it means of a child process."""
        try:
            yield
        except LMError as error:
            if error.code == "DX4209":
                raise RequestRejected(
                    "DX7009",
                    error.message.removeprefix("400: "),
                    where=self._name,
                    fix="fewer or shorter demonstrations (demos_k=), or a shorter input",
                    sent="yes",
                ) from error
            told = await self._death() if error.code in _BROKEN else None
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

    async def _death(self) -> str | None:
        """How the child that was asked has ended; None when it still runs."""
        if self._process.url not in (None, self._url):
            return "another one was started since"
        # The connection breaks a moment before the process can be waited for.
        return await asyncio.to_thread(self._process.ended, 2.0)


# --------------------------------------------------------------------------- requests and answers


def read_words(body: bytes) -> Words:
    said = words(body)
    if said.kind != "exceed_context_size_error":
        return said
    error = cast("dict[str, Any]", from_json(body))["error"]
    told = f"the prompt has {error['n_prompt_tokens']} tokens; the context window has {error['n_ctx']}, for prompt and"
    return Words("context_length_exceeded", f"{told} answer")


def _seed(request: LMRequest) -> int:
    # Hashed, so that (seed 1, rollout 0) and (seed 0, rollout 1) are different samples.
    text = f"{request.seed or 0}:{request.rollout}".encode()
    return int.from_bytes(blake2b(text, digest_size=4).digest(), "big") & 0x7FFFFFFF


@lru_cache(maxsize=512)
def _schema(text: str) -> dict[str, object]:
    schema = cast("dict[str, object]", from_json(text))
    return {**(strict_schema(schema) or schema), **_COMPACT}


def _logprob(entry: dict[str, Any], alternatives: int) -> TokenLogprob:
    top = cast("list[dict[str, Any]]", _field(entry, "top_logprobs", list))[:alternatives]
    return TokenLogprob(
        _field(entry, "token", str),
        float(entry["logprob"]),
        tuple((_field(other, "token", str), float(other["logprob"])) for other in top),
    )


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
