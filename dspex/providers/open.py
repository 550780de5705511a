"""From a configured name to a model that can be called."""

from __future__ import annotations

import importlib
from typing import Any

from dspex.errors import UsageError
from dspex.lm.model import LM, EmbeddingModel, LanguageModel

PROVIDERS: dict[str, str] = {
    "anthropic": "anthropic.messages:open_anthropic",
    "azure": "openai.azure:open_azure",
    "bedrock": "bedrock.converse:open_bedrock",
    "deepseek": "openai.compatible:open_compatible",
    "gemini": "gemini.generate:open_gemini",
    "groq": "openai.compatible:open_compatible",
    "llamacpp": "openai.compatible:open_compatible",
    "lmstudio": "openai.compatible:open_compatible",
    "local": "local:open_local",
    "mistral": "openai.compatible:open_compatible",
    "ollama": "ollama:open_ollama",
    "openai": "openai.chat:open_openai",
    "openai-responses": "openai.responses:open_openai_responses",
    "openrouter": "openai.compatible:open_compatible",
    "replay": "open:open_replay",
    "together": "openai.compatible:open_compatible",
    "vllm": "openai.compatible:open_compatible",
}
"""What may stand before the first slash of a model's name, and its opener. A module is imported when first opened."""

EMBEDDERS: dict[str, str] = {
    "azure": "openai.azure:open_azure_embeddings",
    "gemini": "gemini.generate:open_gemini",
    "llamacpp": "openai.compatible:open_compatible_embeddings",
    "lmstudio": "openai.compatible:open_compatible_embeddings",
    "mistral": "openai.compatible:open_compatible_embeddings",
    "ollama": "ollama:open_ollama",
    "openai": "openai.embeddings:open_openai_embeddings",
    "openrouter": "openai.compatible:open_compatible_embeddings",
    "together": "openai.compatible:open_compatible_embeddings",
    "vllm": "openai.compatible:open_compatible_embeddings",
}
"""Likewise for embedding models."""


def open_model(lm: LM) -> LanguageModel:
    """The model that `lm` names. Nothing is sent; connections are made by the first call.

    Raises:
        UsageError: DX8110, unknown provider; DX8162, settings of a server where there is none; and what the provider
            itself requires, such as a key.
    """
    return _opened(PROVIDERS, lm, "provider")


def open_embedding_model(lm: LM) -> EmbeddingModel:
    """The embedding model that `lm` names, such as ``openai/text-embedding-3-small``; otherwise as `open_model`."""
    return _opened(EMBEDDERS, lm, "provider of embeddings")


def open_replay(lm: LM) -> LanguageModel:
    """The recording at the path that stands behind ``replay/``."""
    from dspex.providers.replay import replay

    return replay(lm.model.partition("/")[2])


_SERVERLESS = ("local", "replay")
_OF_A_SERVER: dict[str, object] = {"base_url": None, "verify": True, "cert": None, "proxy": None}
"""Settings that say how a server is reached, and what they are where nothing was said."""


def _opened(openers: dict[str, str], lm: LM, what: str) -> Any:
    opener = openers.get(lm.provider)
    if opener is None:
        raise UsageError(
            "DX8110",
            f"no {what} is named {lm.provider!r} (in {lm.model!r}); known: {', '.join(sorted(openers))}",
            fix='any OpenAI-compatible server is dx.LM("openai/NAME", base_url="http://host:port/v1")',
        )
    given = [name for name, unset in _OF_A_SERVER.items() if getattr(lm, name) != unset]
    if given and lm.provider in _SERVERLESS:
        raise UsageError(
            "DX8162",
            f"{lm.model} has no server, and {', '.join(f'{name}=' for name in given)} of it would not be used",
            where="LM(...)",
            fix='leave them out, or name the protocol of the server: dx.LM("openai/NAME", base_url=...)',
        )
    module, _, function = opener.partition(":")
    return getattr(importlib.import_module(f"dspex.providers.{module}"), function)(lm)
