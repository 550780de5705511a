"""Ollama's protocol, which leaves it to the model whether and which tools are called, and knows no content filter."""

from __future__ import annotations

from contextlib import AbstractContextManager

from dspex.lm.model import LM, LanguageModel
from dspex.lm.types import Capabilities
from dspex.providers import open_model
from dspex.testing import MockServer

from .subject import ABLE, KEY, Subject, served


def _at(server: MockServer, capabilities: Capabilities | None = ABLE) -> LanguageModel:
    return open_model(LM("ollama/mock", base_url=server.root, api_key=KEY, capabilities=capabilities, retries=0))


def ollama_subject() -> AbstractContextManager[Subject]:
    return served(
        _at, whole_calls=True, one_call=False, tool_choices=("auto", "none"), tells=(), codes={"filter": "DX4205"}
    )
