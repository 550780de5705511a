"""Vectors of texts, bought down the path of all calls: cache, budget, admission, retries, endpoints and accounting.

To that path an embedding model is a model whose requests have the texts as messages and whose answers have their
vectors as text: a line each, single-precision numbers in base64. What is kept in the cache is a single text's.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np

from dspex.errors import LMError, ResponseError, UsageError
from dspex.executor.caching import call_key
from dspex.executor.call import Called, complete, kept, store
from dspex.executor.models import Gate, here
from dspex.executor.runner import wait_for
from dspex.lm.model import LM, EmbeddingModel
from dspex.lm.spend import NOTHING
from dspex.lm.types import Capabilities, Embeddings, LMRequest, LMResponse, Message, Price, Usage
from dspex.program.concurrency import together
from dspex.program.context import Context, current
from dspex.program.ledger import Tab
from dspex.program.trace import CallRecord

MODULE = "embed"
"""What stands for the module in traces, ledgers and errors."""

MOST_BYTES = 300_000
"""UTF-8 of the texts of one request: OpenAI takes 300,000 tokens, none of which is shorter than a byte."""


def embed(texts: Sequence[str], *, lm: LM | EmbeddingModel | str) -> Embeddings:
    """`embed_async` from synchronous code, inside a running loop or outside."""
    return wait_for(lambda: embed_async(texts, lm=lm))


async def embed_async(texts: Sequence[str], *, lm: LM | EmbeddingModel | str) -> Embeddings:
    """One vector for each of `texts`, in their order, of single-precision numbers.

    A text that occurs twice is sent once, one that the cache knows is not sent. The others go in as many requests as
    the provider's limits need, together; each is a call that counts, waits and is tried again like any other.

    Args:
        texts: What to embed.
        lm: The embedding model, such as ``openai/text-embedding-3-small``. Settings that only completions know are
            without effect.

    Returns:
        The vectors, and the usage of the requests that were sent; None for it where a server did not tell.

    Raises:
        UsageError: DX8153: `texts` are no texts; DX8154: `lm` has a fallback, whose vectors would mean something else;
            DX8106, DX8110 and what the provider needs.
        LMError: The first request that failed; vectors that were bought by then are in the cache.
    """
    wanted = _checked(texts)
    gate = await _gate(lm)
    context = current()
    tab = Tab(context.ledgers, (context.tenant, "", "", MODULE), gate.name) if context.ledgers else None
    known: dict[str, str] = {}
    if gate.reads:
        for text in dict.fromkeys(wanted):
            found = kept(gate, call_key(gate.fingerprint, _request((text,))))
            if found is not None:
                known[text] = found.text
    if known:
        gate.tally.add("hits")
        if tab is not None:
            tab.hit()
        _record(context, gate, _request(known), Called(_response(known.values()), None, True, 0, NOTHING, 0.0))
    missing = [text for text in dict.fromkeys(wanted) if text not in known]
    embedder = cast("Embedder", gate.model)
    work = [partial(_bought, gate, batch, context, tab) for batch in _batches(missing, embedder.most_texts)]
    usage: Usage | None = Usage()
    model = ""
    for called, vectors in await together(work):
        known |= vectors
        model = called.response.model
        if not called.cached:
            used = called.response.usage
            usage = None if used is None or usage is None else usage + used
    vectors = {text: tuple(np.frombuffer(b64decode(packed), "<f4").tolist()) for text, packed in known.items()}
    return Embeddings(tuple(vectors[text] for text in wanted), usage, model)


class Embedder:
    """An embedding model as the call path sees it.

    Attributes:
        most_texts: That one request may have.
    """

    capabilities = Capabilities()

    def __init__(self, model: EmbeddingModel) -> None:
        self._model = model
        self.name = model.name
        self.fingerprint = f"{MODULE}:{model.fingerprint}"
        self.most_texts = model.most_texts

    def __repr__(self) -> str:
        return f"Embedder({self._model!r})"

    @property
    def price(self) -> Price | None:
        return self._model.price

    async def complete(self, request: LMRequest, /) -> LMResponse:
        found = await self._model.embed(tuple(message.content for message in request.messages))
        if len(found.vectors) != len(request.messages):
            raise ResponseError(
                "DX4715",
                f"{self.name} gave {len(found.vectors)} vectors for {len(request.messages)} texts",
                fix="see that embed() of the model gives one vector a text",
                sent="yes",
            )
        packed = (b64encode(np.asarray(vector, "<f4").tobytes()).decode() for vector in found.vectors)
        return replace(_response(packed), usage=found.usage, model=found.model, limits=found.limits)

    async def aclose(self) -> None:
        await self._model.aclose()


def _checked(texts: Any) -> list[str]:
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise UsageError(
            "DX8153",
            f"embed takes a list of texts, got a {type(texts).__name__}",
            fix="for one text write embed([text])",
        )
    for place, text in enumerate(cast("Sequence[object]", texts)):
        if not isinstance(text, str):
            raise UsageError("DX8153", f"embed takes texts, got a {type(text).__name__}", where=f"texts[{place}]")
    return list(cast("Sequence[str]", texts))


async def _gate(lm: LM | EmbeddingModel | str) -> Gate:
    if isinstance(lm, str):
        lm = LM(lm)
    if isinstance(lm, LM):
        if lm.fallback:
            raise UsageError(
                "DX8154",
                f"{lm.model} embeds, and vectors of another model cannot be compared with its own",
                where="fallback",
                fix="leave fallback= out; endpoints= names further servers of the same model",
            )
        return await here().open(lm, _embedder)
    if isinstance(lm, EmbeddingModel):  # pyright: ignore[reportUnnecessaryIsInstance]
        return Gate(Embedder(lm))
    raise UsageError(
        "DX8106",
        f"lm= is a name, dx.LM(...) or an object that implements EmbeddingModel, got {type(lm).__name__}",
        fix='for example lm="openai/text-embedding-3-small"',
    )


def _embedder(lm: LM) -> Embedder:
    from dspex.providers.open import open_embedding_model

    return Embedder(open_embedding_model(lm))


def _batches(texts: Sequence[str], most: int) -> Generator[tuple[str, ...]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        own = len(text.encode(errors="surrogatepass"))
        if batch and (len(batch) == most or size + own > MOST_BYTES):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(text)
        size += own
    if batch:
        yield tuple(batch)


async def _bought(
    gate: Gate, texts: tuple[str, ...], context: Context, tab: Tab | None
) -> tuple[Called, dict[str, str]]:
    """One request, and the packed vector of each of its texts."""
    request = _request(texts)
    try:
        called = await complete(gate, request, context, tab=tab)
    except LMError as error:
        error.where = error.where or MODULE
        _record(context, gate, request, None, error)
        raise
    _record(context, gate, request, called)
    vectors = dict(zip(texts, called.response.text.split("\n"), strict=True))
    if gate.writes:
        for text, packed in vectors.items():
            key = call_key(gate.fingerprint, _request((text,)))
            store(gate, replace(called, key=key, response=LMResponse(packed, model=called.response.model)))
    return called, vectors


def _request(texts: Iterable[str]) -> LMRequest:
    return LMRequest(tuple(Message("user", text) for text in texts), max_tokens=0)


def _response(packed: Iterable[str]) -> LMResponse:
    return LMResponse("\n".join(packed))


def _record(
    context: Context, gate: Gate, request: LMRequest, called: Called | None, error: LMError | None = None
) -> None:
    if not context.traces:
        return
    if called is not None:
        record = CallRecord(
            module=MODULE,
            model=gate.name,
            request=request,
            response=called.response,
            key=called.key,
            cached=called.cached,
            attempts=called.attempts,
            spent=called.spent,
            seconds=called.seconds,
            ambiguous=called.ambiguous,
        )
    else:
        assert error is not None
        record = CallRecord.of_failure(MODULE, gate.name, request, error)
    for trace in context.traces:
        trace.calls.append(record)
