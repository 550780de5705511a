"""How a program names a model, and the protocol that every model implements."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from dspex.errors import UsageError
from dspex.lm.types import Capabilities, LMRequest, LMResponse, Price

CacheMode = Literal["off", "on", "read", "write", "refresh"]
CACHE_MODES: tuple[CacheMode, ...] = ("off", "on", "read", "write", "refresh")


@runtime_checkable
class LanguageModel(Protocol):
    """One model behind one wire protocol. A call is one attempt: no retry, no cache, no budget here.

    `complete` raises the `LMError` tree with ``retryable`` and ``sent`` set truthfully. Its answer is a
    function of the request (its rollout included) as far as the model allows.
    """

    @property
    def name(self) -> str:
        """``provider/model``, as a person writes it."""
        ...

    @property
    def fingerprint(self) -> str:
        """All that determines the answer besides the request (model, endpoint, weights); never a secret."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def price(self) -> Price | None:
        """None when the price is unknown; unknown is not free."""
        ...

    async def complete(self, request: LMRequest, /) -> LMResponse: ...

    async def aclose(self) -> None:
        """Release connections and processes; idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class LM:
    """A model by name, with the limits that dspex keeps for it. Cheap: nothing is opened until the first call.

    Args:
        model: ``openai/NAME`` (any OpenAI-compatible server) or ``local/smollm2``.
        base_url: Root of the HTTP API, for example ``http://127.0.0.1:9000/v1``.
        api_key: Secret; never printed. Without it and without `base_url`, the provider's environment variable; a server
            named in code is never sent a key from the environment.
        concurrency: Calls in flight at most.
        cache: ``off``, ``on`` (read and write), ``read``, ``write`` or ``refresh`` (write only, replacing).
        timeout: Seconds for one attempt.
        retries: Attempts after the first, for retryable failures.
        price: Overrides the price list; `FREE` for a server of one's own.
        capabilities: Overrides what the provider assumes of the server; what it cannot know it takes as absent.
            For a vLLM or llama.cpp server: ``Capabilities(raw_prompt=True, json_schema=True, choices=True)``.
    """

    model: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 32
    cache: CacheMode = "on"
    timeout: float = 120.0
    retries: int = 4
    price: Price | None = None
    capabilities: Capabilities | None = None

    def __post_init__(self) -> None:
        provider, _, name = self.model.partition("/")
        if not provider or not name:
            raise UsageError(
                "DX8101",
                f"a model is named provider/model, got {self.model!r}",
                fix='for example dx.LM("openai/gpt-4.1-mini") or dx.LM("local/smollm2")',
            )
        if self.cache not in CACHE_MODES:
            raise UsageError("DX8102", f"cache is one of {', '.join(CACHE_MODES)}, got {self.cache!r}")
        if self.concurrency < 1:
            raise UsageError("DX8103", f"concurrency is at least 1, got {self.concurrency}")
        if not self.timeout > 0:
            raise UsageError("DX8104", f"timeout is a positive number of seconds, got {self.timeout}")
        if self.retries < 0:
            raise UsageError("DX8105", f"retries is at least 0, got {self.retries}")

    @property
    def provider(self) -> str:
        return self.model.partition("/")[0]


LMLike = LM | LanguageModel | str
"""What ``lm=`` accepts everywhere: a configured model, an object that implements the protocol, or a name."""
