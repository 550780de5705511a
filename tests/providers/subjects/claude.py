"""Anthropic's protocol and Bedrock's."""

from __future__ import annotations

from contextlib import AbstractContextManager

from dspex.lm.model import LM, LanguageModel
from dspex.lm.types import Capabilities
from dspex.providers import open_model
from dspex.testing import MockServer

from .subject import ABLE, KEY, Subject, served


def _anthropic(server: MockServer, capabilities: Capabilities | None = ABLE) -> LanguageModel:
    return open_model(LM("anthropic/mock", base_url=server.root, api_key=KEY, capabilities=capabilities, retries=0))


def anthropic_subject() -> AbstractContextManager[Subject]:
    tells = ("cached_tokens", "reasoning_tokens", "written_tokens")
    return served(_anthropic, tells=tells, codes={"quota": "DX4205"})


def _bedrock(server: MockServer, capabilities: Capabilities | None = ABLE) -> LanguageModel:
    return open_model(LM("bedrock/mock", base_url=server.root, api_key=KEY, capabilities=capabilities, retries=0))


def bedrock_subject() -> AbstractContextManager[Subject]:
    return served(_bedrock, tells=("cached_tokens", "written_tokens"), codes={"quota": "DX4205"}, one_call=False)
