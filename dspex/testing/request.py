"""A request as the mock server saw it, and what an endpoint makes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, cast

from pydantic_core import to_json

from dspex.lm.types import LMResponse, RateLimits, TokenLogprob, Usage

Body = Mapping[str, Any]

NO_USAGE = Usage()

TroubleKind = Literal[
    "request",
    "key",
    "permission",
    "route",
    "context_length",
    "content_filter",
    "quota",
    "rate_limit",
    "server",
    "overloaded",
]

_KIND_OF_STATUS: dict[int, TroubleKind] = {
    401: "key",
    403: "permission",
    404: "route",
    429: "rate_limit",
    503: "overloaded",
    529: "overloaded",
}

_PROMPT_FIELDS = ("system", "instructions", "systemInstruction", "messages", "contents", "input", "prompt")
_TEXT_FIELDS = ("text", "content", "parts", "output", "toolResult", "functionResponse", "response", "json")


@dataclass(frozen=True, slots=True)
class MockRequest:
    """One request as it arrived.

    Attributes:
        number: Position in the order of arrival, from 0.
        attempt: How many requests with the same digest came before.
        digest: SHA-256 of path and body.
        path: Without query.
        headers: Lower-case names.
        body: The JSON body; empty when it was none.
        endpoint: Whose protocol it speaks.
        key: The API key that it came with; ``""`` for none.
        query: The parameters in its address.
        raw: The body when it was not a JSON object.
        method: ``POST`` but for what only looks.
    """

    number: int
    attempt: int
    digest: str
    path: str
    headers: Mapping[str, str]
    body: Body
    endpoint: Endpoint
    key: str = ""
    query: Mapping[str, str] | None = None
    raw: bytes = b""
    method: str = "POST"

    @property
    def protocol(self) -> str:
        """``openai``, ``anthropic``, ``gemini``, ``ollama`` or ``bedrock``."""
        return self.endpoint.protocol

    @property
    def model(self) -> str:
        """The model that it asks for."""
        return self.endpoint.model(self)

    @property
    def text(self) -> str:
        """Prompt, or the contents of all messages, instructions first."""
        return "\n".join(text for name in _PROMPT_FIELDS if name in self.body for text in _texts(self.body[name]))

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """JSON Schema that the answer has to fit, where one is enforced."""
        return self.endpoint.schema(self.body)

    @property
    def tools(self) -> Mapping[str, Mapping[str, Any]]:
        """The tools that may be called: name → JSON Schema of the arguments."""
        return self.endpoint.tools(self.body)

    @property
    def forced_tool(self) -> str | None:
        """The tool that the answer has to call; the first one when any will do; None when none has to be."""
        return self.endpoint.forced_tool(self.body)


def _texts(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, list):
        for item in cast("list[object]", node):
            yield from _texts(item)
    elif isinstance(node, dict):
        fields = cast("dict[str, object]", node)
        inner = [fields[name] for name in _TEXT_FIELDS if name in fields]
        if inner:
            for item in inner:
                yield from _texts(item)
        elif not fields.keys() & {"type", "role"}:
            # What a tool returned, as JSON of its own.
            yield to_json(fields).decode()


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error that a server reports.

    Attributes:
        kind: What is wrong, by the names that all protocols share.
        status: HTTP status, or 0 for the one that the protocol gives this kind.
        message: Text of the error, or ``""`` for words as the real server has them.
        retry_after: Seconds to ask for, for protocols that say them in the body.
    """

    kind: TroubleKind
    status: int = 0
    message: str = ""
    retry_after: float | None = None

    @classmethod
    def of(cls, status: int, message: str, retry_after: float | None = None) -> Trouble:
        """The kind of error that `status` usually means."""
        return cls(_KIND_OF_STATUS.get(status, "request" if status < 500 else "server"), status, message, retry_after)


Said = str | Mapping[str, object] | LMResponse | Trouble
"""The text of an answer, a mapping that becomes a JSON object, a whole response, or an error."""

Answer = Callable[[MockRequest], Said]
"""A pure function of the request."""


@dataclass(frozen=True, slots=True)
class Made:
    """What an endpoint answers: a body, or the parts of a stream.

    Attributes:
        status: HTTP status.
        body: The whole of it; empty for a stream.
        parts: Events or lines of a stream, each complete with its end.
        media_type: Of body or stream.
        headers: Besides type and length.
        usage: What the answer costs.
    """

    status: int
    body: bytes = b""
    parts: tuple[bytes, ...] = ()
    media_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    usage: Usage = NO_USAGE


@dataclass(slots=True)
class Batch:
    """A batch that a client left to be answered later.

    Attributes:
        items: Their own ids and what is asked.
        waits: How many more times it is said to be still in progress.
        detail: What its protocol wants to know of it again.
        state: Where it is; nothing is answered after it was cancelled.
        results: Answers by their own ids, when it has ended.
        most: Items that are answered before it expires; None for all of them.
    """

    items: dict[str, MockRequest]
    waits: int
    detail: Mapping[str, Any]
    state: Literal["waiting", "ended", "expired", "cancelled"] = "waiting"
    results: dict[str, Made] = field(default_factory=dict[str, "Made"])
    most: int | None = None

    def poll(self, server: Host) -> Usage:
        """Note that somebody asked how it stands; what answering it has cost if that was the time to do so."""
        if self.state != "waiting":
            return NO_USAGE
        if self.waits > 0:
            self.waits -= 1
            return NO_USAGE
        answered = list(self.items.items())[: self.most]
        self.state = "ended" if len(answered) == len(self.items) else "expired"
        # Backwards, as nothing promises an order.
        self.results = {name: item.endpoint.respond(item, server) for name, item in reversed(answered)}
        return sum((made.usage for made in self.results.values()), NO_USAGE)


class Host(Protocol):
    """What endpoints need of their server: the function that answers, and what clients left there."""

    @property
    def answer(self) -> Answer: ...

    @property
    def batch_polls(self) -> int: ...

    @property
    def files(self) -> dict[str, tuple[str, bytes]]: ...

    @property
    def batches(self) -> dict[str, Batch]: ...


class Endpoint(ABC):
    """One path of a protocol.

    A protocol is a subclass with its errors, an endpoint a subclass of that with its bodies.
    """

    protocol = ""

    @abstractmethod
    def respond(self, request: MockRequest, server: Host) -> Made:
        """The answer to `request`."""

    @abstractmethod
    def trouble(self, trouble: Trouble) -> Made:
        """The answer that reports an error."""

    def refusal(self, request: MockRequest, trouble: Trouble) -> Made:
        """The answer that reports an error to `request`."""
        return self.trouble(trouble)

    @abstractmethod
    def trouble_part(self, trouble: Trouble) -> bytes:
        """The event that reports an error in the middle of a stream."""

    def limit_headers(self, limits: RateLimits, now: float) -> tuple[tuple[str, str], ...]:
        """Headers that tell `limits`; `now` is in seconds since the epoch."""
        return ()

    def model(self, request: MockRequest) -> str:
        return str(request.body.get("model", "mock"))

    def schema(self, body: Body) -> Mapping[str, Any] | None:
        return None

    def tools(self, body: Body) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def forced_tool(self, body: Body) -> str | None:
        return None


class Generating(Endpoint):
    """An endpoint that generates, whole or as a stream."""

    stream_type = "text/event-stream"

    def respond(self, request: MockRequest, server: Host) -> Made:
        wrong = self.wrong(request)
        if wrong:
            return self.trouble(Trouble("request", message=wrong))
        answer = server.answer(request)
        if isinstance(answer, Trouble):
            return self.refusal(request, answer)
        said = self._response(request, answer)
        usage = said.usage or count(request, said)
        if self.streams(request):
            return Made(200, parts=tuple(self.parts(request, said, usage)), media_type=self.stream_type, usage=usage)
        return Made(200, to_json(self.whole(request, said, usage)), usage=usage)

    def wrong(self, request: MockRequest) -> str:
        """What the real server would refuse `request` for; ``""`` for nothing."""
        return "" if request.body else "the body is not a JSON object"

    def streams(self, request: MockRequest) -> bool:
        """Whether the answer is wanted as a stream."""
        return request.body.get("stream") is True

    def top_logprobs(self, body: Body) -> int | None:
        """Alternatives of each token that the request asks for; None when it asks for no log-probabilities."""
        return None

    @abstractmethod
    def whole(self, request: MockRequest, said: LMResponse, usage: Usage) -> object:
        """The body of an answer in one piece."""

    @abstractmethod
    def parts(self, request: MockRequest, said: LMResponse, usage: Usage) -> Sequence[bytes]:
        """The events of a streamed answer; the last one is the protocol's end mark."""

    def _response(self, request: MockRequest, answer: str | Mapping[str, object] | LMResponse) -> LMResponse:
        if isinstance(answer, LMResponse):
            said = answer
        else:
            said = LMResponse(answer if isinstance(answer, str) else to_json(answer).decode())
        tops = self.top_logprobs(request.body)
        if tops is None or said.logprobs is not None:
            return said
        others = tuple((f"other {i}", -2.0 - i) for i in range(tops - 1))
        tokens = tuple(TokenLogprob(token, -0.5, ((token, -0.5), *others)[:tops]) for token in pieces(said.text))
        return replace(said, logprobs=tokens)


def words(text: str) -> int:
    """The mock's tokens: runs of text between white space."""
    return len(text.split())


def count(request: MockRequest, said: LMResponse) -> Usage:
    """The mock's usage of an answer that brings none of its own."""
    thought = words(said.reasoning)
    called = sum(words(call.arguments) for call in said.tool_calls)
    return Usage(words(request.text), words(said.text) + thought + called, 0, thought)


def pieces(text: str, size: int = 12) -> list[str]:
    """`text` in parts of at most `size` characters, as a stream brings it."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def event(data: object, name: str = "") -> bytes:
    """A server-sent event of one line of JSON."""
    head = f"event: {name}\n".encode() if name else b""
    return b"%bdata: %b\n\n" % (head, to_json(data))
