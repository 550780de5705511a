"""Vectors of texts in the protocols of OpenAI, Gemini and Ollama."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Sequence
from typing import cast

from pydantic_core import to_json

from dspex.lm.types import Usage
from dspex.testing.protocols.gemini import Gemini
from dspex.testing.protocols.ollama import Ollama
from dspex.testing.protocols.openai import OpenAI, entries_of, fields_of
from dspex.testing.request import Host, Made, MockRequest, Trouble, words

_SIZE = 16


def embedding(text: str, size: int = _SIZE) -> list[float]:
    """A vector of length 1 and `size` numbers; the more words two texts share, the nearer are theirs."""
    total = [0.0] * size
    for word in text.lower().split() or [""]:
        for block in range(-(-size // 16)):
            drawn = struct.unpack("<16H", hashlib.sha256(f"{block}:{word}".encode()).digest())
            for place, value in enumerate(drawn[: size - 16 * block], 16 * block):
                total[place] += value / 32768 - 1
    length = math.hypot(*total) or 1.0
    # As single precision, which is what a client can get.
    return list(struct.unpack(f"<{size}f", struct.pack(f"<{size}f", *(value / length for value in total))))


def _inputs(given: object) -> list[str]:
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        return []
    items = cast("list[object]", given)
    if items and all(isinstance(item, int) for item in items):
        return [" ".join(map(str, items))]
    return [item if isinstance(item, str) else " ".join(map(str, cast("Sequence[int]", item))) for item in items]


class OpenAIEmbeddings(OpenAI):
    """``/embeddings``."""

    def respond(self, request: MockRequest, server: Host) -> Made:
        texts = _inputs(request.body.get("input"))
        if not texts or "model" not in request.body:
            return self.trouble(Trouble("request", message="you must provide a model and an input"))
        vectors: list[object] = [embedding(text, int(request.body.get("dimensions", _SIZE))) for text in texts]
        if request.body.get("encoding_format") == "base64":
            vectors = [
                base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() for v in cast("list[list[float]]", vectors)
            ]
        count = sum(map(words, texts))
        body = {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)],
            "model": request.model,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }
        return Made(200, to_json(body), usage=Usage(count))


class GeminiEmbeddings(Gemini):
    """``/v1beta/models/MODEL:embedContent`` and ``:batchEmbedContents``."""

    def respond(self, request: MockRequest, server: Host) -> Made:
        many = request.path.endswith(":batchEmbedContents")
        asked = entries_of(request.body.get("requests")) if many else [request.body]
        texts = [
            " ".join(str(part.get("text")) for part in entries_of(fields_of(one.get("content")).get("parts")))
            for one in asked
        ]
        sizes = [int(one.get("outputDimensionality") or _SIZE) for one in asked]
        vectors = [{"values": embedding(text, size)} for text, size in zip(texts, sizes, strict=True)]
        if not vectors:
            return self.trouble(Trouble("request", message="requests is not specified"))
        body = {"embeddings": vectors} if many else {"embedding": vectors[0]}
        return Made(200, to_json(body), usage=Usage(sum(map(words, texts))))


class OllamaEmbed(Ollama):
    """``/api/embed``."""

    def respond(self, request: MockRequest, server: Host) -> Made:
        texts = _inputs(request.body.get("input"))
        count = sum(map(words, texts))
        body = {
            "model": request.model,
            "embeddings": [embedding(text, int(request.body.get("dimensions") or _SIZE)) for text in texts],
            "total_duration": 2_000_000,
            "load_duration": 1_000_000,
            "prompt_eval_count": count,
        }
        return Made(200, to_json(body), usage=Usage(count))
