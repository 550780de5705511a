"""How a program names a model, and the protocol that every model implements."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from math import inf, isfinite
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, cast, runtime_checkable

from dspex.errors import LMError, UsageError
from dspex.lm.types import Capabilities, Delta, Embeddings, LMRequest, LMResponse, Price

if TYPE_CHECKING:
    from dspex.telemetry.events import Json

CacheMode = Literal["off", "on", "read", "write", "refresh"]
CACHE_MODES: tuple[CacheMode, ...] = ("off", "on", "read", "write", "refresh")

ApiKey: TypeAlias = "str | Callable[[], str]"
"""A secret: as text, as ``keyring:SERVICE/USER``, or as a function that fetches it."""

MOST_CONCURRENCY = 1024
"""Calls in flight that ``concurrency="auto"`` tries at most."""


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


@runtime_checkable
class StreamingModel(LanguageModel, Protocol):
    """A model that also gives an answer while it is generated."""

    def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        """The answer part by part; the last part holds the whole response.

        Failures are those of `complete`. Closing the generator ends the request and frees its connection.
        """
        ...


@runtime_checkable
class EmbeddingModel(Protocol):
    """A model that turns texts into vectors. A call is one attempt, as with `LanguageModel`."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def price(self) -> Price | None: ...

    @property
    def most_texts(self) -> int:
        """That one request may have."""
        ...

    async def embed(self, texts: tuple[str, ...], /) -> Embeddings: ...

    async def aclose(self) -> None: ...


BatchState = Literal["running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """How far a batch is: requests answered, failed, and in all."""

    state: BatchState
    answered: int
    failed: int
    total: int


@runtime_checkable
class BatchModel(LanguageModel, Protocol):
    """A model whose provider answers many requests at leisure, for less. A batch's id survives the process."""

    @property
    def batch_price(self) -> Price | None: ...

    @property
    def batch_limits(self) -> tuple[int, int]:
        """Requests and bytes of one batch at most."""
        ...

    def batch_bytes(self, request: LMRequest, /) -> int:
        """What `request` adds to a batch, in bytes.

        Raises:
            RequestRejected: DX4201: it needs what the model cannot do, or not in a batch.
        """
        ...

    async def submit(self, requests: Sequence[LMRequest], /) -> str:
        """Hand the requests in; the batch's id."""
        ...

    async def status(self, batch: str, /) -> BatchStatus: ...

    def results(self, batch: str, /) -> AsyncGenerator[tuple[int, LMResponse | LMError]]:
        """The outcome of each request with its position in `submit`, in any order; once the batch has ended."""
        ...

    async def cancel(self, batch: str, /) -> None: ...


def _check_open_to_print(base_url: str | None) -> None:
    """An address is printed and stored, so nothing secret may stand in it."""
    rest = (base_url or "").partition("://")[2]
    if "@" in rest.partition("/")[0] or "?" in rest:
        raise UsageError(
            "DX8114",
            "base_url has a user name, a password or a query, which would be printed and stored with it",
            where="base_url",
            fix="give a key as api_key=, and further fields of the request as extra=",
        )


def _check_json(value: object, name: str) -> None:
    """What goes into a request's body and into its identity is what JSON can hold; the value itself is not told."""
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[object, object]", value).items():
            if not isinstance(key, str):
                raise _no_json(name, f"a key of type {type(key).__name__}")
            _check_json(inner, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(cast("Sequence[object]", value)):
            _check_json(inner, f"{name}[{index}]")
    elif isinstance(value, float) and not isfinite(value):
        raise _no_json(name, "a number that is not finite")
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise _no_json(name, f"a {type(value).__name__}")


def _no_json(name: str, what: str) -> UsageError:
    return UsageError("DX8152", f"{name} holds {what}, and JSON cannot", where="extra")


_MARKED = ("anthropic/", "bedrock/", "openrouter/anthropic/")
"""Models whose prompt caches keep what is marked alone."""

_OPTIONAL = type(None)

_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "model": ((str,), "a text"),
    "base_url": ((str, _OPTIONAL), "a text"),
    "weight": ((int, float), "a number"),
    "quantile": ((int, float), "a number"),
    "ratio": ((int, float), "a number"),
    "concurrency": ((int, str), "a whole number or 'auto'"),
    "timeout": ((int, float), "a number of seconds"),
    "retries": ((int,), "a whole number"),
    "price": ((Price, _OPTIONAL), "a Price"),
    "capabilities": ((Capabilities, _OPTIONAL), "a Capabilities"),
    "rpm": ((int, float, _OPTIONAL), "a number"),
    "tpm": ((int, float, _OPTIONAL), "a number"),
    "retry_ambiguous": ((bool,), "True or False"),
    "breaker": ((bool,), "True or False"),
    "prompt_cache": ((bool,), "True or False"),
    "verify": ((bool, str), "True or a path"),
    "cert": ((str, tuple, _OPTIONAL), "a path or a tuple of two"),
    "proxy": ((str, _OPTIONAL), "a text"),
}
"""What the settings are, by name: a model is named in configurations that no type checker sees."""


def _check_kinds(setting: Endpoint | Hedge | LM) -> None:
    """The values themselves are not told: a proxy or an address may hold a password."""
    for name in setting.__dataclass_fields__:
        kinds, meant = _KINDS.get(name, ((object,), ""))
        value: object = getattr(setting, name)
        # True is a whole number for Python and for nobody else.
        if not isinstance(value, kinds) or (isinstance(value, bool) and int in kinds):
            raise UsageError(
                "DX8155",
                f"{name} is {meant}, got a value of type {type(value).__name__}",
                where=f"{type(setting).__name__}({name}=...)",
                fix=f"leave {name} out for its default" if name != "model" else 'for example dx.LM("local/smollm2")',
            )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of several ways to the same model; answers of all of them count as the same model's.

    Args:
        base_url: Root of the HTTP API; None for that of the `LM`, with its key unless `api_key` is another.
        api_key: As `LM.api_key`. An endpoint with a `base_url` of its own is sent no other key than this one.
        weight: Share of the calls beside the other endpoints, > 0.
    """

    base_url: str | None = None
    api_key: ApiKey | None = field(default=None, repr=False)
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check_kinds(self)
        _check_open_to_print(self.base_url)
        if not 0 < self.weight < inf:
            raise UsageError("DX8109", f"an endpoint's weight is a positive number, got {self.weight!r}")


@dataclass(frozen=True, slots=True)
class Hedge:
    """A second attempt for a call that takes unusually long; the first answer counts and the other is cancelled.

    Args:
        quantile: The second attempt starts once the first has taken longer than this part of the latest calls.
        ratio: Second attempts at most, as a part of all calls: what hedging may cost.
    """

    quantile: float = 0.95
    ratio: float = 0.05

    def __post_init__(self) -> None:
        _check_kinds(self)
        for name, value in (("quantile", self.quantile), ("ratio", self.ratio)):
            if not 0 < value < 1:
                raise UsageError("DX8151", f"a hedge's {name} is between 0 and 1, got {value!r}")


@dataclass(frozen=True, slots=True)
class LM:
    """A model by name, with the limits that dspex keeps for it. Cheap: nothing is opened until the first call.

    Args:
        model: ``openai/NAME`` (any OpenAI-compatible server) or ``local/smollm2``.
        base_url: Root of the HTTP API, for example ``http://127.0.0.1:9000/v1``.
        api_key: Secret; never printed. Without it and without `base_url`, the provider's environment variable; a server
            named in code is never sent a key from the environment. A function that gives it is asked for every
            request, so that a key may expire; let it keep what it fetched.
        concurrency: Calls in flight at most, or ``auto``: as many as the server is found to serve.
        cache: ``off``, ``on`` (read and write), ``read``, ``write`` or ``refresh`` (write only, replacing).
        timeout: Seconds for one attempt.
        retries: Attempts after the first, for retryable failures.
        price: Overrides the price list; `FREE` for a server of one's own.
        capabilities: Overrides what the provider assumes of the server; what it cannot know it takes as absent.
            For a vLLM or llama.cpp server: ``Capabilities(raw_prompt=True, json_schema=True, choices=True)``.
        extra: Further fields of the request's body, as the server's documentation names them, for example
            ``{"top_k": 20}``: values that JSON can hold. Part of a call's identity.
        rpm: Requests per minute that the provider allows; None for what its responses tell.
        tpm: Tokens per minute, input and output together, likewise.
        retry_ambiguous: Whether an attempt that may have been carried out, and paid, is tried again.
        hedge: Whether, and when, a second attempt is sent for a straggler.
        fallback: Models that are asked in turn when a call of this one has failed for good.
        endpoints: Several servers or keys for the same model. `concurrency`, `rpm` and `tpm` hold for each of them.
        breaker: Whether calls fail at once while the server keeps failing.
        prompt_cache: Whether the part of a prompt that stays the same from call to call is marked for the provider's
            prompt cache, where the protocol has marks (Anthropic, Bedrock, OpenRouter). Elsewhere the server finds it.
        verify: File or folder of the certificates to trust instead of the system's. Verification is never switched off.
        cert: The client's own certificate: a PEM file with certificate and key, or a file of each.
        proxy: An http or https proxy, ``""`` for none; by default what HTTPS_PROXY, HTTP_PROXY and NO_PROXY say.
            Never printed, for it may hold a password.
    """

    model: str
    base_url: str | None = None
    api_key: ApiKey | None = field(default=None, repr=False)
    concurrency: int | Literal["auto"] = 32
    cache: CacheMode = "on"
    timeout: float = 120.0
    retries: int = 4
    price: Price | None = None
    capabilities: Capabilities | None = None
    extra: Mapping[str, Json] = field(default_factory=dict[str, "Json"], hash=False)
    _: KW_ONLY
    rpm: float | None = None
    tpm: float | None = None
    retry_ambiguous: bool = True
    hedge: Hedge | bool = False
    fallback: tuple[LMLike, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    breaker: bool = True
    prompt_cache: bool = False
    verify: bool | str = True
    cert: str | tuple[str, str] | None = None
    proxy: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_kinds(self)
        provider, _, name = self.model.partition("/")
        # A name stands in addresses and headers; what a file's line ends with is no part of it.
        if not provider or not name or not self.model.isprintable() or self.model != self.model.strip():
            raise UsageError(
                "DX8101",
                f"a model is named provider/model, without control characters or spaces around it, got {self.model!r}",
                fix='for example dx.LM("openai/gpt-4.1-mini") or dx.LM("local/smollm2")',
            )
        _check_open_to_print(self.base_url)
        if self.cache not in CACHE_MODES:
            raise UsageError("DX8102", f"cache is one of {', '.join(CACHE_MODES)}, got {self.cache!r}")
        if self.concurrency != "auto" and (isinstance(self.concurrency, str) or self.concurrency < 1):
            raise UsageError("DX8103", f"concurrency is a number of at least 1 or 'auto', got {self.concurrency!r}")
        if not self.timeout > 0:
            raise UsageError("DX8104", f"timeout is a positive number of seconds, got {self.timeout}")
        if self.retries < 0:
            raise UsageError("DX8105", f"retries is at least 0, got {self.retries}")
        if not isinstance(self.extra, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(
                "DX8152", f"extra is a mapping of fields, got a {type(self.extra).__name__}", where="extra"
            )
        _check_json(self.extra, "extra")
        for name, value in (("rpm", self.rpm), ("tpm", self.tpm)):
            if value is not None and not 0 < value < inf:
                raise UsageError(
                    "DX8108", f"{name} is a positive number, got {value!r}", fix=f"leave {name} out for no limit"
                )
        # A list could not be hashed, and a text is a sequence of letters.
        if not isinstance(self.endpoints, tuple) or not all(isinstance(one, Endpoint) for one in self.endpoints):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(
                "DX8109",
                f"endpoints is a tuple of Endpoint, got a {type(self.endpoints).__name__}",
                fix="endpoints=(Endpoint(...),)",
            )
        if not isinstance(self.fallback, tuple):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(
                "DX8150", f"fallback is a tuple of models, got {self.fallback!r}", fix="fallback=(model, other)"
            )
        for one in self.fallback:
            if isinstance(one, str):
                LM(one)
        if not isinstance(self.hedge, bool | Hedge):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(
                "DX8151", f"hedge is True, False or a Hedge, got {self.hedge!r}", fix="hedge=dx.Hedge(quantile=0.95)"
            )
        if isinstance(self.cert, tuple) and [type(part) for part in self.cert] != [str, str]:
            raise UsageError(
                "DX8155",
                "cert is the path of a PEM file, or a tuple of the certificate's and the key's",
                where="LM(cert=...)",
                fix='cert=("client.crt", "client.key")',
            )

    @property
    def provider(self) -> str:
        """What stands before the first slash of `model`."""
        return self.model.partition("/")[0]

    @property
    def caches_prompts(self) -> bool:
        """Whether the provider's prompt cache may serve a part of a prompt: by itself, or because it is marked."""
        return self.prompt_cache or not self.model.startswith(_MARKED)

    @property
    def connections(self) -> int:
        """Connections at most to the server, per event loop."""
        return MOST_CONCURRENCY if self.concurrency == "auto" else self.concurrency


LMLike = LM | LanguageModel | str
"""What ``lm=`` accepts everywhere: a configured model, an object that implements the protocol, or a name."""
