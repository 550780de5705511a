"""OpenAI's embeddings, spoken by OpenAI, Azure and any compatible server.

Further settings, such as the number of dimensions, are `LM(extra={"dimensions": 256})`.

Source: OpenAI API reference, "Embeddings", "Create embeddings".
"""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dspex.errors import RequestRejected
from dspex.lm.model import LM
from dspex.lm.types import Capabilities, Embeddings, Usage
from dspex.providers.asking import as_body, with_extra
from dspex.providers.openai.errors import error_of, failure
from dspex.providers.openai.site import EMBEDDINGS, Site, openai_served
from dspex.providers.rate_headers import rate_limits
from dspex.providers.reading import MALFORMED, count
from dspex.providers.served import Served, ServedModel

if TYPE_CHECKING:
    from dspex.providers.transport import AnyTransport

MOST_TEXTS = 2048
"""Texts in one request to OpenAI."""


def open_openai_embeddings(lm: LM, transport: AnyTransport | None = None) -> OpenAIEmbeddings:
    """The embedding model behind `lm`, such as ``openai/text-embedding-3-small``.

    Args:
        lm: What to open.
        transport: An asynchronous transport of httpx or httpx2 instead of dspex's own.

    Raises:
        UsageError: DX8111 no key, DX8113 malformed key, DX8114 malformed URL.
    """
    served, site, official = openai_served(lm, EMBEDDINGS, lambda _: Capabilities(), transport)
    return OpenAIEmbeddings(served, site, packed=official)


class OpenAIEmbeddings(ServedModel):
    """One embedding model of a server of this family. Make it with `open_openai_embeddings` or a sibling of it.

    Args:
        served: The server and the model.
        site: Where the server's API is.
        packed: Whether vectors are asked for in base64, a third of their size as numbers.
    """

    most_texts = MOST_TEXTS

    def __init__(self, served: Served, site: Site, *, packed: bool) -> None:
        super().__init__(served)
        self._packed = packed
        self._url = site.call("/embeddings")

    async def embed(self, texts: tuple[str, ...], /) -> Embeddings:
        """One vector for each of `texts`, in their order.

        Raises:
            LMError: DX4216 no text, or more than the protocol takes in one request; else as a model's `complete`.
        """
        client, url = self._client, self._url
        if not 1 <= len(texts) <= MOST_TEXTS:
            raise RequestRejected(
                "DX4216",
                f"a request for embeddings has 1 to {MOST_TEXTS} texts, got {len(texts)}",
                fix="ask for them in several requests",
            )
        asked: dict[str, object] = {"model": self._served.model, "input": texts}
        if self._packed:
            asked["encoding_format"] = "base64"
        reply = await client.send(url, as_body(with_extra(asked, self._served.extra)))
        data = client.json(reply.body, url)
        error = error_of(data)
        if error is not None:
            raise failure(client, error, reply.headers, url)
        try:
            found = sorted(cast("list[dict[str, Any]]", data["data"]), key=lambda entry: int(entry["index"]))
            vectors = tuple(_vector(entry["embedding"]) for entry in found)
            if [entry["index"] for entry in found] != list(range(len(texts))):
                raise ValueError("a vector is missing")
            usage = data.get("usage")
            tokens = None if usage is None else Usage(count(usage, "prompt_tokens"))
        except MALFORMED as cause:
            raise client.misshapen(reply.body, url) from cause
        return Embeddings(vectors, tokens, str(data.get("model") or ""), rate_limits(reply.headers))


def _vector(found: object) -> tuple[float, ...]:
    if isinstance(found, str):
        return tuple(np.frombuffer(b64decode(found, validate=True), "<f4").tolist())
    return tuple(float(value) for value in cast("list[float]", found))
