"""OpenAI's family: chat completions, responses, Azure, and a compatible server."""

from __future__ import annotations

from contextlib import AbstractContextManager

from dspex.lm.model import LM, LanguageModel
from dspex.lm.types import Capabilities
from dspex.providers import open_model
from dspex.testing import MockServer

from .subject import ABLE, KEY, Subject, served


def _at(model: str, root: bool = False) -> AbstractContextManager[Subject]:
    def at(server: MockServer, capabilities: Capabilities | None = ABLE) -> LanguageModel:
        base_url = server.root if root else server.url
        return open_model(LM(model, base_url=base_url, api_key=KEY, capabilities=capabilities, retries=0))

    return served(at, tells=("cached_tokens", "reasoning_tokens", "written_tokens"))


def chat_subject() -> AbstractContextManager[Subject]:
    return _at("openai/mock")


def responses_subject() -> AbstractContextManager[Subject]:
    return _at("openai-responses/mock")


def azure_subject() -> AbstractContextManager[Subject]:
    return _at("azure/mock", root=True)


def compatible_subject() -> AbstractContextManager[Subject]:
    return _at("vllm/mock")
