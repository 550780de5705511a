"""Servers that speak OpenAI's protocol, by name: where they are, which key they take, what they can do.

``vllm``, ``llamacpp`` and ``lmstudio`` are servers of one's own, on this machine unless ``base_url=`` or their
environment variable says otherwise; ``openrouter``, ``groq``, ``together``, ``mistral`` and ``deepseek`` are
services. What is known of a service holds for its usual models; `LM(capabilities=...)` overrides it.

Sources: vLLM, "OpenAI-compatible server"; llama.cpp, "tools/server"; LM Studio, "OpenAI compatibility"; the API
references of OpenRouter, Groq, Together, Mistral and DeepSeek.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dspex.lm.model import LM
from dspex.lm.types import FREE, Capabilities, Price
from dspex.providers.asking import Vocabulary
from dspex.providers.http import Client
from dspex.providers.keys import base_url_for, key_for
from dspex.providers.openai.chat import OpenAIModel
from dspex.providers.openai.chat_request import Dialect
from dspex.providers.openai.embeddings import OpenAIEmbeddings
from dspex.providers.openai.errors import read_words
from dspex.providers.openai.site import CHAT, EMBEDDINGS, Site
from dspex.providers.prices import list_price
from dspex.providers.served import Served

if TYPE_CHECKING:
    from dspex.providers.transport import AnyTransport

_PLAIN = Dialect()
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Preset:
    """One kind of server.

    Attributes:
        base_url: Where it is by default.
        address: Environment variable of another base URL; ``""`` for none.
        key: Environment variable of its key.
        capabilities: What it can do.
        dialect: How it is spoken to.
        own: Whether it is a server of one's own, which needs no key and costs nothing on this machine.
    """

    base_url: str
    address: str
    key: str
    capabilities: Capabilities
    dialect: Dialect = _PLAIN
    own: bool = False


PRESETS: dict[str, Preset] = {
    "vllm": Preset(
        "http://127.0.0.1:8000/v1",
        "VLLM_BASE_URL",
        "VLLM_API_KEY",
        Capabilities(
            raw_prompt=True,
            json_schema=True,
            choices=True,
            json_mode=True,
            tools=True,
            media=("image", "audio"),
            reasoning=True,
            logprobs=True,
            seed=True,
            tool_choice=True,
        ),
        Dialect(continues="choice"),
        own=True,
    ),
    "llamacpp": Preset(
        "http://127.0.0.1:8080/v1",
        "LLAMACPP_BASE_URL",
        "LLAMACPP_API_KEY",
        Capabilities(
            raw_prompt=True,
            json_schema=True,
            choices=True,
            json_mode=True,
            tools=True,
            media=("image", "audio"),
            logprobs=True,
            seed=True,
        ),
        Dialect(continues="grammar"),
        own=True,
    ),
    "lmstudio": Preset(
        "http://127.0.0.1:1234/v1",
        "LMSTUDIO_BASE_URL",
        "LMSTUDIO_API_KEY",
        # It refuses the JSON mode and takes schemas only.
        Capabilities(raw_prompt=True, json_schema=True, choices=True, tools=True, media=("image",), seed=True),
        own=True,
    ),
    "openrouter": Preset(
        "https://openrouter.ai/api/v1",
        "",
        "OPENROUTER_API_KEY",
        Capabilities(
            json_mode=True, tools=True, media=("image", "audio", "file"), reasoning=True, logprobs=True, seed=True
        ),
        Dialect(reasoning="object", kept=("reasoning_details",), marks=True),
    ),
    "groq": Preset(
        "https://api.groq.com/openai/v1",
        "",
        "GROQ_API_KEY",
        Capabilities(json_mode=True, tools=True, media=("image",), reasoning=True, seed=True, tool_choice=True),
        Dialect(limit="max_completion_tokens"),
    ),
    "together": Preset(
        "https://api.together.xyz/v1",
        "",
        "TOGETHER_API_KEY",
        Capabilities(json_mode=True, tools=True, media=("image",), reasoning=True, seed=True, tool_choice=True),
        Dialect(asks_usage=False),
    ),
    "mistral": Preset(
        "https://api.mistral.ai/v1",
        "",
        "MISTRAL_API_KEY",
        Capabilities(
            json_schema=True,
            choices=True,
            json_mode=True,
            tools=True,
            media=("image",),
            reasoning=True,
            seed=True,
            tool_choice=True,
        ),
        Dialect(seed="random_seed", asks_usage=False),
    ),
    "deepseek": Preset(
        "https://api.deepseek.com/v1",
        "",
        "DEEPSEEK_API_KEY",
        Capabilities(json_mode=True, tools=True, reasoning=True, logprobs=True, tool_choice=True),
        Dialect(seed="", reasoning="thinking", kept=("reasoning_content",)),
    ),
}


def open_compatible(lm: LM, transport: AnyTransport | None = None) -> OpenAIModel:
    """The model of the server that the name of `lm` begins with, one of `PRESETS`.

    Args:
        lm: What to open.
        transport: An asynchronous transport of httpx or httpx2 instead of dspex's own.

    Raises:
        UsageError: DX8111 no key, DX8113 malformed key, DX8114 malformed URL.
    """
    preset = PRESETS[lm.provider]
    return OpenAIModel(*_served(lm, preset, CHAT, preset.capabilities, transport), preset.dialect)


def open_compatible_embeddings(lm: LM, transport: AnyTransport | None = None) -> OpenAIEmbeddings:
    """The embedding model of such a server; arguments and errors are those of `open_compatible`."""
    return OpenAIEmbeddings(*_served(lm, PRESETS[lm.provider], EMBEDDINGS, Capabilities(), transport), packed=False)


def _served(
    lm: LM, preset: Preset, says: Vocabulary, capabilities: Capabilities, transport: AnyTransport | None
) -> tuple[Served, Site]:
    base_url = base_url_for(lm, preset.address, preset.base_url)
    client = Client(
        lm,
        base_url,
        key=lambda: key_for(lm, (preset.key,), not preset.own and base_url == preset.base_url),
        key_from=f"api_key= or {preset.key}",
        read=read_words,
        transport=transport,
    )
    served = Served(lm, client, says, capabilities, price=_own_price if preset.own else list_price)
    return served, Site(base_url, base_url)


def _own_price(base_url: str, model: str) -> Price | None:
    listed = list_price(base_url, model)
    return FREE if listed is None and urlsplit(base_url).hostname in _LOOPBACK else listed
