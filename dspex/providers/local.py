"""The local model: a real, small language model in a child process of its own, without key, price or network."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import threading
import time
import weakref
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from dspex.errors import DspexError, LocalModelError, RequestRejected
from dspex.lm.model import LM
from dspex.lm.types import FREE, Capabilities, Delta, LMRequest, LMResponse, Price
from dspex.providers.asking import check_needs, extra_identity
from dspex.providers.http import Client
from dspex.providers.local_call import Call, read_words
from dspex.providers.local_files import known, locate, require
from dspex.providers.local_process import (
    CONTEXT,
    GOMP,
    UBATCH,
    ModelProcess,
    end,
    launch,
    lease,
    library_place,
    release,
)

_ROOT = "http://127.0.0.1"

_CAN = Capabilities(
    raw_prompt=True,
    json_schema=True,
    choices=True,
    score_choices=True,
    context_tokens=CONTEXT,
    parallel=2,
    json_mode=True,
    logprobs=True,
    seed=True,
)


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
        self._lm = lm
        self._extra = dict(lm.extra)
        # What a user says that the model can does not make it so.
        self._capabilities = _CAN if lm.capabilities is None else lm.capabilities.within(_CAN)
        self._price = FREE if lm.price is None else lm.price
        self._lock = threading.Lock()
        self._leased: tuple[ModelProcess, weakref.finalize[Any, Any]] | None = None
        self._client: tuple[str, Client] | None = None
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
            f":context={CONTEXT}:ubatch={UBATCH}:flash=off:top_k=40:top_p=0.95:min_p=0.05:json=compact"
            + extra_identity(self._extra)
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
        self._check(request)
        process = await self._process()
        async with process.turns:
            return await (await self._call(process)).complete(request)

    async def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        self._check(request)
        process = await self._process()
        async with AsyncExitStack() as turn:
            await turn.enter_async_context(process.turns)
            call = await self._call(process)
            async with aclosing(call.stream(request)) as deltas:
                async for delta in deltas:
                    # The cache is settled: whoever is next may come, whatever the reader does with this part. A reader
                    # that asks the model itself before it reads on would otherwise wait for its own turn.
                    await turn.aclose()
                    yield delta

    async def aclose(self) -> None:
        """Give up the child process; the last model that does ends it."""
        with self._lock:
            leased, self._leased = self._leased, None
            client, self._client = self._client, None
        if client is not None:
            await client[1].aclose()
        if leased is not None and leased[1].detach() is not None:
            try:
                await asyncio.to_thread(release, leased[0])
            except RuntimeError:
                # An exiting interpreter takes no more work for threads.
                release(leased[0])

    def incapable(self, what: str) -> RequestRejected:
        """The error of a request that needs what the model cannot do; nothing was sent."""
        return RequestRejected(
            "DX4201", f"{self._name} does not support {what}", fix="ask without, or use a model that supports it"
        )

    def _check(self, request: LMRequest) -> None:
        check_needs(request, self._capabilities, self)
        if any(message.tool_calls or message.role == "tool" for message in request.messages):
            raise self.incapable("tools")
        if request.score_choices and request.top_logprobs is not None:
            raise self.incapable("log-probabilities of tokens together with scores of choices")

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

    async def _call(self, process: ModelProcess) -> Call:
        """For the holder of the turn."""
        url = process.url
        if url is None:
            url = await asyncio.to_thread(process.start)
        with self._lock:
            if self._client is None or self._client[0] != process.key:
                client = Client(
                    replace(self._lm, api_key=None, proxy="", verify=True, cert=None),
                    _ROOT,
                    key=lambda: process.key,
                    key_from="the child process",
                    read=read_words,
                )
                self._client = (process.key, client)
            client = self._client[1]
        return Call(process, client, url, self._name, self._extra, self._tokens)


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
