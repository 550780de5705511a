"""A process with planted keys, which does all that may write or show one: ``test_secrets.py`` sees what is left.

``python -m tests.executor.secret_runs FOLDER ROOT``: a mock server that fails in many ways serves at ROOT; keys come
from the environment and from the arguments below; everything is written under FOLDER, or printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import logging
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspex as dx
from dspex.executor.models import Gate, gate_for, here
from dspex.executor.streaming import stream
from dspex.lm.model import Endpoint
from dspex.lm.types import LMRequest, Message
from dspex.program.context import Context, current
from dspex.stores.sqlite import SqliteEventStore
from dspex.testing import replay
from tests.study.tasks import Router, accuracy, messages

CANARY = "canary"
"""Stands in every planted secret, so that even a part of one is found."""


def secret(name: str) -> str:
    return f"sk-{CANARY}-{name}-9f8e7d6c5b4a3210"


ENVIRONMENT = (
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "AZURE_OPENAI_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "VLLM_API_KEY",
)
AT_ROOT = ("azure", "anthropic", "bedrock", "gemini", "ollama")
PROVIDERS = ("openai", "openai-responses", "vllm", *AT_ROOT)


class Ask(dx.Schema):
    question: str


class Answer(dx.Schema):
    answer: str


class Desk(dx.Program[Ask, Answer]):
    answer = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.answer(x)


def show(*values: object) -> None:
    """Everything that may print a value."""
    for value in values:
        print(repr(value), str(value), f"{value}")


def failed(error: BaseException) -> None:
    """Everything that may print an error, or carry it elsewhere."""
    logging.getLogger("application").error("a call failed", exc_info=error)
    print("".join(traceback.format_exception(error)))
    show(error, error.args, vars(error), copy.copy(error))
    print(pickle.dumps(error))


def at(root: str, provider: str, **options: Any) -> dx.LM:
    base_url = root if provider in AT_ROOT else f"{root}/v1"
    options = {"api_key": secret(provider), "retries": 1, "timeout": 2.0, "price": dx.FREE, **options}
    return dx.LM(f"{provider}/mock", base_url, **options)


async def called(lm: dx.LM, count: int) -> None:
    """Some calls of one model, and all that is left of them in memory."""
    with dx.using(lm=lm, tenant="acme", budget=dx.Budget(calls=1000)), dx.trace() as trace, dx.ledger() as ledger:
        for outcome in await asyncio.gather(
            *(Desk()(Ask(question=f"{lm.model} {n}")) for n in range(count)), return_exceptions=True
        ):
            failed(outcome) if isinstance(outcome, BaseException) else show(outcome)
        show(lm, trace, trace.calls, ledger, ledger.total, ledger.by("model"), current(), Context(lm=lm))
        with contextlib.suppress(dx.DspexError, RuntimeError):
            gate = await gate_for(lm)
            await asyncio.gather(*(streamed(gate, f"{lm.model} streamed {n}") for n in range(count // 2)))
            show(gate, gate.name, gate.fingerprint, gate.model, gate.routes, *[route.model for route in gate.routes])
    show(here().gates)


async def streamed(gate: Gate, text: str) -> None:
    try:
        async for part in stream(gate, LMRequest(messages=(Message("user", text),)), current()):
            show(part)
    except dx.DspexError as error:
        failed(error)


async def everything(folder: Path, root: str) -> None:
    nowhere = "http://127.0.0.1:9"
    await asyncio.gather(*(called(at(root, provider), 12) for provider in PROVIDERS))
    await asyncio.gather(*(called(at(nowhere, provider, retries=0), 1) for provider in PROVIDERS))
    # Keys of the environment, at the servers that the environment names.
    for model in ("openai/mock", "anthropic/mock", "gemini/mock", "bedrock/mock"):
        await called(dx.LM(model, retries=0, timeout=2.0, price=dx.FREE, cache="refresh"), 4)
    proxied = f"http://user:{secret('proxy')}@127.0.0.1:9"
    await called(at("http://models.example", "openai", proxy=proxied, retries=0), 1)
    await called(at("http://models.example", "openai", retries=0), 1)  # by HTTP_PROXY
    with_user = root.replace("http://", f"http://user:{secret('user')}@")
    for wrong in (
        lambda: at(with_user, "openai"),
        lambda: Endpoint(with_user),
        lambda: at(f"{root}?k={CANARY}", "azure"),
    ):
        attempted(wrong)
    os.environ["OPENAI_BASE_URL"] = f"{with_user}/v1"
    await called(dx.LM("openai/mock", retries=0), 1)
    several = (Endpoint(api_key=secret("endpoint")), Endpoint(f"{root}/v1", lambda: secret("resolved")))
    await called(at(root, "openai", endpoints=several, fallback=(at(root, "vllm"),), hedge=True, cache="refresh"), 12)
    show(several)

    def broken() -> str:
        raise RuntimeError("the vault is closed")

    await called(at(root, "openai", api_key=broken), 1)
    for wrong in (f"{secret('newline')}\nX: y", f"{secret('umlaut')}ü"):
        await called(at(root, "openai", api_key=wrong), 1)

    recording = replay(folder / "recording.jsonl", at(root, "openai"), mode="record")
    with dx.using(lm=recording):
        await asyncio.gather(*(Desk()(Ask(question=f"recorded {n}")) for n in range(8)), return_exceptions=True)
    show(recording)
    await recording.aclose()

    with SqliteEventStore(folder / "studies.db") as store:
        try:
            found = await dx.optimize_async(
                Router(),
                messages(60),
                accuracy,
                budget=dx.Budget(calls=120),
                lm=at(root, "openai"),
                store=store,
                strategy="random",
            )
            show(found, found.study, found.study.report)
        except dx.DspexError as error:
            failed(error)
    desk = Desk()
    compiled = dx.compile(type("Bound", (Desk,), {"lm": at(root, "openai")})())
    attempted(lambda: compiled.save(folder / "bound.dspex"))
    attempted(lambda: dx.compile(desk).save(folder / "desk.dspex", import_path="tests.executor.secret_runs:Desk"))
    show(compiled, compiled.graph, compiled.config)


def attempted(work: Callable[[], object]) -> None:
    try:
        work()
    except dx.DspexError as error:
        failed(error)


def main(folder: Path, root: str) -> None:
    logging.basicConfig(filename=folder / "debug.log", level=1, format="%(name)s %(levelname)s %(message)s")
    logging.captureWarnings(True)
    # asyncio's debug mode logs coroutines and tasks with their arguments.
    asyncio.run(everything(folder, root), debug=True)
    gc.collect()


if __name__ == "__main__":
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        os.environ[name] = f"http://user:{secret('environment-proxy')}@127.0.0.1:9"
    os.environ["NO_PROXY"] = "127.0.0.1"
    main(Path(sys.argv[1]), sys.argv[2])
