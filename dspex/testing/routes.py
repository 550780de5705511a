"""Which endpoint a path belongs to."""

from __future__ import annotations

import re
from functools import lru_cache

from dspex.testing.protocols.anthropic import MESSAGES, CountTokens
from dspex.testing.protocols.batches import AnthropicBatches, OpenAIBatches, OpenAIFiles
from dspex.testing.protocols.bedrock import Converse
from dspex.testing.protocols.embeddings import GeminiEmbeddings, OllamaEmbed, OpenAIEmbeddings
from dspex.testing.protocols.gemini import CountContent, GenerateContent
from dspex.testing.protocols.models import Models, OllamaModels
from dspex.testing.protocols.ollama import OllamaChat, OllamaGenerate
from dspex.testing.protocols.openai import Chat, Completions, OpenAI
from dspex.testing.protocols.responses import Responses
from dspex.testing.request import Endpoint, Host, Made, MockRequest, Trouble


@lru_cache(maxsize=1024)
def route(method: str, path: str) -> Endpoint:
    """The endpoint of `path`, whatever stands before the part that its protocol defines."""
    return next((endpoint for pattern, endpoint in _ROUTES if pattern.fullmatch(f"{method} {path}")), _UNKNOWN)


class _Unknown(OpenAI):
    """A path that no protocol has."""

    def respond(self, request: MockRequest, server: Host) -> Made:
        return self.trouble(Trouble("route", message=f"no route {request.method} {request.path}"))


_UNKNOWN = _Unknown()

_ROUTES: tuple[tuple[re.Pattern[str], Endpoint], ...] = tuple(
    (re.compile(pattern), endpoint)
    for pattern, endpoint in (
        (r"POST .*/chat/completions", Chat()),
        (r"POST .*/completions", Completions()),
        (r"POST .*/responses", Responses()),
        (r"POST .*/embeddings", OpenAIEmbeddings()),
        (r"POST .*/messages", MESSAGES),
        (r"POST .*/messages/count_tokens", CountTokens()),
        (r"(GET|POST|DELETE) .*/messages/batches(/[^/]+(/results|/cancel)?)?", AnthropicBatches()),
        (r"(GET|POST|DELETE) .*/files(/[^/]+(/content)?)?", OpenAIFiles()),
        (r"(GET|POST) .*/batches(/[^/]+(/cancel)?)?", OpenAIBatches(route)),
        (r"POST .*/models/[^/]+:(generateContent|streamGenerateContent)", GenerateContent()),
        (r"POST .*/models/[^/]+:(embedContent|batchEmbedContents)", GeminiEmbeddings()),
        (r"POST .*/models/[^/]+:countTokens", CountContent()),
        (r"GET .*/models(/[^/]+)?", Models()),
        (r"POST .*/model/[^/]+/(converse|converse-stream)", Converse()),
        (r"POST .*/api/chat", OllamaChat()),
        (r"POST .*/api/generate", OllamaGenerate()),
        (r"POST .*/api/embed", OllamaEmbed()),
        (r"GET .*/api/(tags|version)|POST .*/api/show", OllamaModels()),
    )
)
