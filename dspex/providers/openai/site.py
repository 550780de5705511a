"""Where a server of OpenAI's family is, and what OpenAI's own models can do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dspex.lm.model import LM
from dspex.lm.types import Capabilities
from dspex.providers.asking import Vocabulary
from dspex.providers.http import Client
from dspex.providers.keys import base_url_for, key_for
from dspex.providers.openai.errors import read_words
from dspex.providers.served import Served

if TYPE_CHECKING:
    from dspex.providers.transport import AnyTransport

OPENAI = "https://api.openai.com/v1"

CHAT = Vocabulary(
    Capabilities(
        raw_prompt=True,
        json_schema=True,
        choices=True,
        json_mode=True,
        tools=True,
        media=("image", "audio", "file"),
        reasoning=True,
        logprobs=True,
        seed=True,
        tool_choice=True,
    )
)
"""What chat completions, and completions, have words for."""

EMBEDDINGS = Vocabulary(Capabilities())

_OFFICIAL = re.compile(r"https://(?:[\w-]+\.)?api\.openai\.com/v1")

_REASONING = re.compile(r"^(o\d|gpt-([5-9]|\d\d)(?!.*chat)|codex)")


@dataclass(frozen=True, slots=True)
class Site:
    """Where the parts of a server's API are.

    Attributes:
        calls: What stands before the path of a model's calls, such as ``/chat/completions``.
        files: What stands before ``/files`` and ``/batches``.
        query: What stands behind each path, with its question mark.
    """

    calls: str
    files: str
    query: str = ""

    def call(self, path: str) -> str:
        return f"{self.calls}{path}{self.query}"

    def file(self, path: str) -> str:
        return f"{self.files}{path}{self.query}"


def openai_served(
    lm: LM, says: Vocabulary, capabilities: Callable[[str], Capabilities], transport: AnyTransport | None
) -> tuple[Served, Site, bool]:
    """The model of OpenAI or of a server named in its place, where that is, and whether it is OpenAI.

    Raises:
        UsageError: DX8111 no key, DX8113 malformed key, DX8114 malformed URL.
    """
    base_url = base_url_for(lm, "OPENAI_BASE_URL", OPENAI)
    official = _OFFICIAL.fullmatch(base_url) is not None
    client = Client(
        lm,
        base_url,
        key=lambda: key_for(lm, ("OPENAI_API_KEY",), official),
        key_from="api_key= or OPENAI_API_KEY",
        read=read_words,
        transport=transport,
    )
    served = Served(lm, client, says, capabilities(lm.model.partition("/")[2]) if official else Capabilities())
    return served, Site(base_url, base_url), official


def reasons(served: Served) -> bool:
    """Whether OpenAI's model reasons before it answers; such models take no temperature and no stop texts."""
    return _REASONING.match(served.model) is not None or served.capabilities.reasoning


def openai_capabilities(model: str) -> Capabilities:
    """What OpenAI's own model of this name can do, as far as its name tells."""
    thinks = _REASONING.match(model) is not None
    return Capabilities(
        json_schema=True,
        choices=True,
        json_mode=True,
        tools=True,
        media=("audio",) if "audio" in model else ("image", "file"),
        reasoning=thinks,
        logprobs=not thinks,
        seed=True,
        tool_choice=True,
    )
