"""The peers' clients, each called as its documentation shows; imports nothing of dspex."""
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import asyncio
import importlib
import json
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from benchmarks.peers.clients.cells import QUESTION, Job

Call = Callable[[int], Awaitable[str]]
"""Asks a numbered question and gives the answer."""

MODEL = "gpt-4o-mini"


def body(number: int, stream: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"model": MODEL, "messages": messages(number)}
    return {**made, "stream": True, "stream_options": {"include_usage": True}} if stream else made


def messages(number: int) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "Answer the question in a few words."},
        {"role": "user", "content": QUESTION.format(number)},
    ]


@asynccontextmanager
async def open_openai(job: Job) -> AsyncGenerator[Call]:
    """The official SDK."""
    openai: Any = importlib.import_module("openai")
    async with openai.AsyncOpenAI(base_url=job.url, api_key="x", max_retries=0) as client:
        create = client.chat.completions.create

        async def whole(number: int) -> str:
            return (await create(**body(number, False))).choices[0].message.content

        async def streamed(number: int) -> str:
            chunks = await create(**body(number, True))
            return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])

        yield streamed if job.stream else whole


@asynccontextmanager
async def open_litellm(job: Job) -> AsyncGenerator[Call]:
    """litellm's `acompletion`."""
    litellm: Any = importlib.import_module("litellm")
    where = {"api_base": job.url, "api_key": "x", "num_retries": 0}

    def ask(number: int) -> Any:
        return litellm.acompletion(**{**body(number, job.stream), **where, "model": f"openai/{MODEL}"})

    async def whole(number: int) -> str:
        return (await ask(number)).choices[0].message.content

    async def streamed(number: int) -> str:
        chunks = await ask(number)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])

    yield streamed if job.stream else whole


@asynccontextmanager
async def open_pydantic_ai(job: Job) -> AsyncGenerator[Call]:
    """pydantic-ai's direct requests, without an agent around them."""
    direct: Any = importlib.import_module("pydantic_ai.direct")
    asked: Any = importlib.import_module("pydantic_ai.messages")
    openai: Any = importlib.import_module("openai")
    models: Any = importlib.import_module("pydantic_ai.models.openai")
    providers: Any = importlib.import_module("pydantic_ai.providers.openai")
    client = openai.AsyncOpenAI(base_url=job.url, api_key="x", max_retries=0)
    model = models.OpenAIChatModel(MODEL, provider=providers.OpenAIProvider(openai_client=client))

    def request(number: int) -> list[Any]:
        system, user = messages(number)
        parts = [asked.SystemPromptPart(system["content"]), asked.UserPromptPart(user["content"])]
        return [asked.ModelRequest(parts)]

    async def whole(number: int) -> str:
        return (await direct.model_request(model, request(number))).parts[0].content

    async def streamed(number: int) -> str:
        async with direct.model_request_stream(model, request(number)) as stream:
            async for _ in stream:
                pass
            return stream.get().parts[0].content

    async with client:
        yield streamed if job.stream else whole


@asynccontextmanager
async def open_dspy(job: Job) -> AsyncGenerator[Call]:
    """A `dspy.Predict`, awaited."""
    dspy: Any = importlib.import_module("dspy")
    lm = dspy.LM(f"openai/{MODEL}", api_base=job.url, api_key="x", cache=False, num_retries=0)
    predict = dspy.Predict(importlib.import_module("benchmarks.peers.dspy.theirs").Question)

    async def whole(number: int) -> str:
        return (await predict.acall(question=QUESTION.format(number))).answer

    with dspy.context(lm=lm):
        if not job.stream:
            yield whole
            return
        listener = dspy.streaming.StreamListener(signature_field_name="answer", allow_reuse=True)
        program = dspy.streamify(predict, stream_listeners=[listener], is_async_program=True)

        async def streamed(number: int) -> str:
            parts = [part async for part in program(question=QUESTION.format(number))]
            return parts[-1].answer

        yield streamed


def instant(job: Job) -> dict[str, float]:
    """Microseconds a call of DSPy with a model in the process, from synchronous and from asynchronous code."""
    dspy: Any = importlib.import_module("dspy")
    theirs: Any = importlib.import_module("benchmarks.peers.dspy.theirs")
    predict = dspy.Predict(theirs.Question)

    async def in_turn() -> float:
        begun = time.process_time()
        for number in range(job.calls):
            await predict.acall(question=QUESTION.format(number))
        return (time.process_time() - begun) / job.calls * 1e6

    lm = dspy.LM("openai/instant", cache=False, engine=theirs.Instant(), async_engine=theirs.AsyncInstant())
    with dspy.context(lm=lm):
        asyncio.run(in_turn())
        for number in range(100):
            predict(question=QUESTION.format(number))
        begun = time.process_time()
        for number in range(job.calls):
            predict(question=QUESTION.format(number))
        return {"sync": (time.process_time() - begun) / job.calls * 1e6, "async": asyncio.run(in_turn())}


def handover(job: Job) -> dict[str, float]:
    """Microseconds that a coroutine without work takes from synchronous code, in a loop's thread, and awaited."""

    async def nothing(number: int) -> int:
        return number

    async def in_turn() -> float:
        begun = time.process_time()
        for number in range(job.calls):
            await nothing(number)
        return (time.process_time() - begun) / job.calls * 1e6

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        for number in range(100):
            asyncio.run_coroutine_threadsafe(nothing(number), loop).result()
        begun = time.process_time()
        for number in range(job.calls):
            asyncio.run_coroutine_threadsafe(nothing(number), loop).result()
        return {"sync": (time.process_time() - begun) / job.calls * 1e6, "async": asyncio.run(in_turn())}
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def cached(job: Job) -> float:
    """Microseconds a call of DSPy that asks its caches first."""
    dspy: Any = importlib.import_module("dspy")
    theirs: Any = importlib.import_module("benchmarks.peers.dspy.theirs")
    predict = dspy.Predict(theirs.Question)
    with dspy.context(lm=dspy.LM(f"openai/{MODEL}", api_base=job.url, api_key="x", num_retries=0)):
        await predict.acall(question=QUESTION.format(-1))
        begun = time.process_time()
        for number in range(job.calls):
            await predict.acall(question=QUESTION.format(number))
        return (time.process_time() - begun) / job.calls * 1e6


@asynccontextmanager
async def open_aiohttp(job: Job) -> AsyncGenerator[Call]:
    """A bare loop over aiohttp: what a client over it cannot undercut."""
    aiohttp: Any = importlib.import_module("aiohttp")
    url = f"{job.url}/chat/completions"
    headers = {"Authorization": "Bearer x", "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=job.in_flight, ssl=ssl.create_default_context())
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def whole(number: int) -> str:
            async with session.post(url, data=json.dumps(body(number, False)).encode()) as response:
                return json.loads(await response.read())["choices"][0]["message"]["content"]

        async def streamed(number: int) -> str:
            pieces: list[str] = []
            async with session.post(url, data=json.dumps(body(number, True)).encode()) as response:
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        choices = json.loads(line[6:])["choices"]
                        pieces.extend(choice["delta"].get("content", "") for choice in choices)
            return "".join(pieces)

        yield streamed if job.stream else whole


class _Socket(asyncio.Protocol):
    """One connection, parsed by httptools: the least that HTTP costs in Python."""

    def __init__(self, httptools: Any) -> None:
        self._httptools = httptools
        self._pieces: list[bytes] = []
        self._transport: Any = None
        self._answer: asyncio.Future[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parser = self._httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self._parser = self._httptools.HttpResponseParser(self)
        pieces, self._pieces = self._pieces, []
        self._answer.set_result(b"".join(pieces))

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


@asynccontextmanager
async def open_raw(job: Job) -> AsyncGenerator[Call]:
    """asyncio's sockets and a parser in C, without anything of a client."""
    httptools: Any = importlib.import_module("httptools")
    loop = asyncio.get_running_loop()
    address: Any = urlsplit(job.url)
    head = f"POST {address.path}/chat/completions HTTP/1.1\r\nhost: {address.netloc}\r\nauthorization: Bearer x\r\n"
    context = ssl.create_default_context() if address.scheme == "https" else None
    idle: list[_Socket] = []
    for _ in range(job.in_flight):
        made = await loop.create_connection(lambda: _Socket(httptools), address.hostname, address.port, ssl=context)
        idle.append(made[1])

    async def ask(number: int) -> bytes:
        sent = json.dumps(body(number, job.stream)).encode()
        one = idle.pop()
        answer = await one.ask(f"{head}content-length: {len(sent)}\r\n\r\n".encode() + sent)
        idle.append(one)
        return answer

    async def whole(number: int) -> str:
        return json.loads(await ask(number))["choices"][0]["message"]["content"]

    async def streamed(number: int) -> str:
        events = [json.loads(line[6:]) for line in (await ask(number)).split(b"\n") if line.startswith(b"data: {")]
        return "".join(event["choices"][0]["delta"].get("content", "") for event in events if event["choices"])

    try:
        yield streamed if job.stream else whole
    finally:
        for one in idle:
            one.close()


OPEN = {
    "raw": open_raw,
    "aiohttp": open_aiohttp,
    "openai": open_openai,
    "litellm": open_litellm,
    "pydantic-ai": open_pydantic_ai,
    "dspy": open_dspy,
}
